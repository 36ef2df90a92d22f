"""The exact teacher: its answer is the posterior mean of its own pictures, whatever it is told."""

from __future__ import annotations

import math

import pytest
import torch

from threedistill.cameras import orbit, view_name
from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.protocols import Prior
from threedistill.render.mesh import render_mesh
from threedistill.toybox.grammar import parse
from threedistill.toybox.lexicon import KINDS
from threedistill.toybox.priors.world import (
    WEB_VIEWS,
    WorldPrior,
    posterior_mean,
    things_of_the_world,
    unseen_cameras,
)
from threedistill.toybox.world import build

SMALL = {"size": 16, "variations": 5, "blind": 12, "things": 9}


def brute_force(x_t, alpha, sigma, pictures, std):
    """sum_k p_k(x_t) E_k[x0 | x_t] / sum_k p_k(x_t), each Gaussian by itself, in double precision."""
    x_t, pictures = x_t.double().flatten(), pictures.double().flatten(1)
    variance = alpha**2 * std**2 + sigma**2
    logs, means = [], []
    for mu in pictures:
        logs.append(torch.distributions.Normal(alpha * mu, math.sqrt(variance)).log_prob(x_t).sum())
        gain = alpha * std**2 / variance
        means.append(mu + gain * (x_t - alpha * mu))
    share = torch.stack(logs).softmax(0)
    return (share[:, None] * torch.stack(means)).sum(0)


@pytest.mark.parametrize("fraction", [0.05, 0.4, 0.9, 0.99])
@pytest.mark.parametrize("std", [0.0, 0.02, 0.5])
def test_the_answer_is_the_posterior_mean(fraction, std):
    prior = WorldPrior(**SMALL, std=std)
    told = prior.conditioning(Conditions(["a red duck"] * 2, orbit(2, size=16), torch.rand(2, 3)))
    level = prior.path.at_fraction(torch.full((2,), fraction))
    alpha, sigma = (float(s[0]) for s in level.scales(told["pictures"][:, 0]))
    x_t = alpha * told["pictures"][:, 3] + sigma * torch.randn(
        2, 3, 16, 16, generator=torch.Generator().manual_seed(2)
    )
    found = prior.predict(x_t, level, told).read("x0")
    for row in range(2):
        right = brute_force(x_t[row], alpha, sigma, told["pictures"][row], std)
        torch.testing.assert_close(found[row].flatten().double(), right, atol=2e-4, rtol=1e-3)


def test_little_noise_finds_the_picture_and_much_noise_the_mean():
    prior = WorldPrior(**SMALL, std=0.0)
    pictures = prior.conditioning(Conditions(["a red duck"], orbit(1, size=16)))["pictures"][0]
    even = torch.full((5,), -math.log(5))
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0))
    near = posterior_mean(0.999 * pictures[2] + 0.05 * noise, 0.999, 0.05, pictures, even, 0.0)
    torch.testing.assert_close(near, pictures[2], atol=1e-4, rtol=0)
    far = posterior_mean(1e-4 * pictures[2] + noise, 1e-4, 1.0, pictures, even, 0.0)
    torch.testing.assert_close(far, pictures.mean(0), atol=2e-3, rtol=0)


def test_pictures_are_the_worlds_own_at_that_camera_and_background():
    prior = WorldPrior(**SMALL)
    assert isinstance(prior, Prior)
    cameras, background = orbit(3, size=40), torch.tensor([[1.0, 1, 1], [0.2, 0.3, 0.4], [0.0, 0, 0]])
    told = prior.conditioning(Conditions(["a pink pig, side view"] * 3, cameras, background))
    canonical = render_mesh(
        build(parse("a pink pig").scene), orbit(3, size=16), shading="lambertian", background=background
    )
    torch.testing.assert_close(told["pictures"][:, 0], prior.space.encode(canonical.rgb), atol=2e-6, rtol=0)
    spread = (told["pictures"] - told["pictures"][:, :1]).abs().amax((2, 3, 4))
    assert bool((spread[:, 1:] > 0.05).all())  # and the other variations differ


def test_rows_with_fewer_pictures_weigh_nothing_more():
    prior = WorldPrior(**SMALL)
    both = prior.conditioning(Conditions(["a red duck", ""], orbit(2, size=16), torch.ones(2, 3)))
    assert both["pictures"].shape[1] == 9 and both["log_weights"][0, 5:].eq(-math.inf).all()
    torch.testing.assert_close(both["log_weights"].exp().sum(1), torch.ones(2))
    alone = prior.conditioning(Conditions(["a red duck"], orbit(2, size=16)[[0]], torch.ones(1, 3)))
    level = prior.path.at_fraction(torch.tensor([0.5, 0.5]))
    x_t = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    one = prior.path.at_fraction(torch.tensor([0.5]))
    torch.testing.assert_close(
        prior.predict(x_t, level, both).read("x0")[:1], prior.predict(x_t[:1], one, alone).read("x0")
    )


def test_told_no_camera_it_mixes_over_cameras_as_the_web_has_them():
    cameras = unseen_cameras(400, None, 0, 16)
    named = [view_name(float(a), float(e)) for a, e in zip(cameras.azimuth, cameras.elevation)]
    for view, share in WEB_VIEWS.items():
        assert abs(named.count(view) / 400 - share) < 0.07
    sides = unseen_cameras(40, "side", 0, 16)
    assert {view_name(float(a), float(e)) for a, e in zip(sides.azimuth, sides.elevation)} == {"side"}

    blind = WorldPrior(**SMALL, camera="none")
    told = blind.conditioning(Conditions(["a red duck"] * 2, orbit(2, size=16), torch.ones(2, 3)))
    assert told["pictures"].shape[1] == 12 and torch.equal(told["pictures"][0], told["pictures"][1])
    withheld = WorldPrior(**SMALL).conditioning(Conditions(["a red duck"], None, torch.ones(1, 3)))
    assert torch.equal(withheld["pictures"][0], told["pictures"][0])
    back = blind.conditioning(Conditions(["a red duck, back view"], orbit(1, size=16), torch.ones(1, 3)))
    assert not torch.equal(back["pictures"][0], told["pictures"][0])


def test_words_that_name_a_view_are_a_camera_for_a_prior_that_hears_only_words():
    words, own = WorldPrior(**SMALL, camera="words"), WorldPrior(**SMALL)
    cameras = orbit(4, size=16)
    texts = ["a red duck, front view", "a red duck, back view", "a red duck, side view", "a red duck"]
    told = words.conditioning(Conditions(texts, cameras, torch.ones(4, 3)))
    exact = own.conditioning(Conditions(["a red duck"] * 2, cameras[[0, 2]], torch.ones(2, 3)))["pictures"]
    torch.testing.assert_close(told["pictures"][:2, :5], exact, atol=0.02, rtol=0)
    assert told["log_weights"][2:].isfinite().all() and told["log_weights"][:2, 5:].isinf().all()


def test_told_no_words_it_mixes_over_things():
    prior = WorldPrior(**SMALL)
    assert [s.objects[0].kind for s, _ in things_of_the_world(9, 0)] == list(KINDS)[:9]
    told = prior.conditioning(Conditions(["", ""], orbit(2, size=16), torch.ones(2, 3)))
    assert told["pictures"].shape[1] == 9 and not torch.equal(told["pictures"][0], told["pictures"][1])
    untold = WorldPrior(**SMALL).conditioning(Conditions(["", ""]))
    assert untold["pictures"].shape[1] == 12  # neither words nor camera nor background


def test_it_repeats_and_depends_on_its_seed():
    asked = Conditions(["a red duck"], orbit(1, size=16))
    first, again = (WorldPrior(**SMALL).conditioning(asked)["pictures"] for _ in range(2))
    other = WorldPrior(**SMALL, seed=1).conditioning(asked)["pictures"]
    assert torch.equal(first, again) and not torch.equal(first[:, 1:], other[:, 1:])


def test_what_it_does_not_know_is_refused():
    with pytest.raises(UsageError, match="does not know 'dragon'"):
        WorldPrior(**SMALL).conditioning(Conditions(["a dragon"], orbit(1)))
    with pytest.raises(ValueError, match="variations=0 must lie in"):
        WorldPrior(variations=0)
    with pytest.raises(ValueError, match="seed=-1 must"):
        WorldPrior(seed=-1)
    with pytest.raises(ValueError, match="camera='some' must be"):
        WorldPrior(camera="some")  # type: ignore[arg-type]
