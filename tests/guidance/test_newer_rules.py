"""The newer rules against closed forms: SDS-Bridge, segmented consistency, score implicit matching."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.guidance.conftest import direction, scalar_prior, situation, vp_level
from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.rules import CFD, SDS
from threedistill.guidance.rules_bridge import Bridge
from threedistill.guidance.rules_inversion import SCTD
from threedistill.guidance.rules_student import SIM
from threedistill.guidance.trajectory import Segments, Situation, collect
from threedistill.priors.analytic import GaussianPrior, Normal
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.prompts import PromptSet
from threedistill.protocols import Prior
from threedistill.rng import Streams

KINDS = ["eps", "x0", "v", "flow"]


def eps(x_t, alpha, sigma, mean, std):
    """A Gaussian's noise prediction, by hand."""
    return sigma * (x_t - alpha * mean) / (alpha**2 * std**2 + sigma**2)


# SDS-Bridge


@pytest.mark.parametrize("kind", KINDS)
def test_the_bridge_leads_from_the_flawed_picture_to_the_good_one(kind):
    gaussians = {"c": (1.3, 0.7), "": (0.2, 1.4), "c, f": (0.6, 0.9)}
    networks = {"teacher": scalar_prior(gaussians, kind)}
    x_t = 0.6 * -0.4 + 0.8 * 0.7
    second = eps(x_t, 0.6, 0.8, 1.3, 0.7) - eps(x_t, 0.6, 0.8, 0.6, 0.9)
    rule, cfg = Bridge(ClassifierFree(7.5), strength=3.0), ClassifierFree(7.5)
    early, late = (float(direction(rule, networks, [-0.4], [0.7], progress=p, flaws="f")) for p in (0.5, 0.9))
    assert late == pytest.approx(3 * second, abs=1e-12)
    assert early == float(direction(SDS(cfg), networks, [-0.4], [0.7]))
    half = float(direction(replace(rule, blend=0.25), networks, [-0.4], [0.7], flaws="f"))
    assert half == pytest.approx(0.75 * early + 0.25 * late, abs=1e-12)


def test_the_bridge_asks_two_pictures_in_each_stage():
    rule = Bridge(ClassifierFree(7.5))
    assert [[q.name for q in rule.queries(p)] for p in (0.0, 0.79, 0.81)] == [
        ["cond", "uncond"], ["cond", "uncond"], ["target", "flawed"]
    ]  # fmt: skip
    words = PromptSet("a red cup", flaws="blurry").texts("flawed", orbit(2))
    assert words == ["a red cup, blurry, front view", "a red cup, blurry, back view"]


def test_the_bridge_of_equally_wide_pictures_never_rests():
    """Like the classifier score: -alpha sigma (mu_target - mu_source) / v everywhere."""
    teacher = scalar_prior({"c": (1.3, 0.7), "": (0.2, 0.7), "c, f": (0.6, 0.7)})
    values = direction(
        Bridge(ClassifierFree(7.5)), {"teacher": teacher}, [-3.0, 5.0], [1.0, -0.3], 1.0, flaws="f"
    )
    exact = -0.6 * 0.8 * (1.3 - 0.6) / (0.36 * 0.49 + 0.64)
    torch.testing.assert_close(values, torch.full((2,), exact, dtype=torch.float64))


# Segmented consistency


@pytest.mark.parametrize("path", [DiscretePath.from_betas(), RectifiedFlowPath()], ids=["discrete", "flow"])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_segments_between_points(path, t):
    """Two pictures alone: D [s_e (a_s/s_s - a_t/s_t) - (s + 1) (a_e - s_e a_t/s_t)], D = s (mu - mu_0)."""
    normals = {"c": Normal(1.3, 0.0), "": Normal(0.2, 0.0)}
    prior = GaussianPrior(SimpleNamespace(shape=(1, 1, 1)), path, normals)
    step = situation(prior, [-0.4, 0.9], [0.7, -1.0])
    step = replace(step, level=path.at_fraction(torch.full((2,), t, dtype=torch.float64)), rng=Streams(5))
    scale, rule = 3.0, SCTD(ClassifierFree(3.0))
    seen = collect(rule, step, 0.0)
    e, s, top = seen["start"].level, seen["back"].level, seen.level
    width = 0.96 / 5
    edge = 0.02 + width * int((t - 0.02) / width)
    assert float(e.log_snr[0]) == pytest.approx(
        float(path.at_fraction(torch.tensor([edge])).log_snr), rel=1e-4
    )
    snr = [float(level.log_snr[0]) for level in (e, s, top)]
    assert snr[0] > snr[1] > snr[2]
    d = scale * (1.3 - 0.2)
    ratio = [level.alpha / level.sigma for level in (s, top)]
    exact = d * (e.sigma * (ratio[0] - ratio[1]) - (scale + 1) * (e.alpha - e.sigma * ratio[1]))
    torch.testing.assert_close(rule(seen, 0.0).flatten(), exact.double(), rtol=1e-9, atol=1e-9)


def test_nothing_pulls_where_the_prompt_says_nothing():
    """Prompt = nothing, one picture: all walks end where they began."""
    teacher = scalar_prior({"c": (0.2, 0.0), "": (0.2, 0.0)})
    assert float(direction(SCTD(ClassifierFree(3.0)), {"teacher": teacher}, [-0.4], [0.7]).abs()) < 1e-12


def test_segments_that_leave_nothing_are_refused():
    with pytest.raises(ValueError, match=r"min=0\.9 must be below max=0\.9"):
        Segments(min=0.9, max=0.9)
    with pytest.raises(ValueError, match=r"margin=0\.04 on both sides leaves nothing of gap=0\.08"):
        Segments(margin=0.04)


# Score implicit matching

SHAPE = (1, 2, 2)


def sim_step(x0, noise, kind="eps"):
    """A step of four-pixel pictures: teacher, nothing and student with full covariances of their own."""
    generator = torch.Generator().manual_seed(0)

    def normal(mean):
        root = 0.5 * torch.randn(4, 4, generator=generator, dtype=torch.float64)
        spot = mean + 0.3 * torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        return Normal(spot, covariance=root @ root.T + 0.1 * torch.eye(4, dtype=torch.float64))

    space, path = SimpleNamespace(shape=SHAPE), DiscretePath.from_betas()
    texts = {"c": normal(0.9), "": normal(0.1)}
    networks = {
        "teacher": GaussianPrior(space, path, texts, kind=kind),
        "student": GaussianPrior(space, path, {"c": normal(0.4)}, kind=kind),
    }
    prompts = PromptSet("c", view_words=False)
    conditions = Conditions(cameras=orbit(len(x0), size=8))
    return Situation(networks, prompts, conditions, x0, vp_level(0.6, len(x0)), noise)


def sim_loss(step, scale, softness):
    """``<d / sqrt(d^2 + c^2), eps_student - eps>`` per picture, from what the networks answer."""
    rule = SIM(ClassifierFree(scale))
    seen = step.ask(rule.queries(0.0))
    teacher = seen["uncond"].eps + scale * (seen["cond"].eps - seen["uncond"].eps)
    d = teacher - seen["student"].eps
    norm = (d.square().sum((1, 2, 3)) + softness**2).sqrt()
    return (d * (seen["student"].eps - step.noise)).sum((1, 2, 3)) / norm


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("softness", [0.0, 0.7])
def test_score_implicit_matching_is_the_gradient_of_its_loss(kind, softness):
    """By central differences of the loss in x0, nothing left out."""
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 2, *SHAPE, generator=generator, dtype=torch.float64)
    step, h = sim_step(x0, noise, kind), 1e-5
    rule = SIM(ClassifierFree(3.0), softness=softness)
    found = rule(collect(rule, step, 0.0), 0.0)
    for place in itertools.product(*(range(n) for n in SHAPE)):
        moved = torch.zeros_like(x0)
        moved[(slice(None), *place)] = h
        ends = [sim_loss(replace(step, x0=x0 + sign * moved), 3.0, softness) for sign in (1, -1)]
        torch.testing.assert_close(
            found[(slice(None), *place)], (ends[0] - ends[1]) / (2 * h), rtol=1e-6, atol=1e-7
        )


def test_a_number_knows_the_sign_of_the_scores_difference_alone():
    """In one dimension u = +-1 has no derivative: g = alpha J_student sign(eps^s - eps_student)."""
    networks = {
        "teacher": scalar_prior({"c": (1.3, 0.7), "": (0.2, 1.4)}),
        "student": scalar_prior({"c": (0.5, 0.9)}),
    }
    for x0 in (-4.0, 6.0):
        x_t = 0.6 * x0 + 0.8 * 0.3
        sign = 1.0 if eps(x_t, 0.6, 0.8, 1.3, 0.7) > eps(x_t, 0.6, 0.8, 0.5, 0.9) else -1.0
        found = float(direction(SIM(ClassifierFree(1.0)), networks, [x0], [0.3]))
        assert found == pytest.approx(0.6 * sign * 0.8 / (0.36 * 0.81 + 0.64), abs=1e-9)


def test_jacobians_are_asked_in_pieces_too():
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(2, 3, *SHAPE, generator=generator, dtype=torch.float64)
    rule, step = SIM(ClassifierFree(3.0)), sim_step(x0, noise)
    whole, pieces = (rule(collect(rule, one, 0.0), 0.0) for one in (step, replace(step, max_rows=2)))
    torch.testing.assert_close(whole, pieces)


def test_a_network_without_derivatives_says_so():
    class Plain(GaussianPrior):
        differentiable = False
        pull_back = Prior.pull_back

    teacher = scalar_prior({"c": (1.3, 0.7)})
    plain = Plain(teacher.space, teacher.path, teacher.conditions)
    with pytest.raises(ValueError, match="Plain gives no derivatives of its answers"):
        direction(SIM(ClassifierFree(1.0)), {"teacher": plain, "student": plain}, [0.1], [0.3])


# Consistent flow


def test_the_flows_direction_is_that_of_sds_or_a_normalised_difference_of_pictures():
    networks = {"teacher": scalar_prior({"c": (1.3, 0.7), "": (0.2, 1.4)})}
    plain, sds = (
        direction(rule(ClassifierFree(7.5)), networks, [-0.4, 0.9], [0.7, -1.0]) for rule in (CFD, SDS)
    )
    assert torch.equal(plain, sds)
    found = direction(CFD(ClassifierFree(7.5), normalize="dmd"), networks, [-0.4, 0.9], [0.7, -1.0])
    torch.testing.assert_close(found, sds.sign())  # of one pixel
