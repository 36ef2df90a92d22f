"""The small parts of a step: weights, level policies, the surrogate loss and the regularisers."""

from __future__ import annotations

import math

import pytest
import torch

from threedistill.guidance.regularizers import Regularizers, opacity_entropy, sparsity, tv_color, tv_depth
from threedistill.guidance.surrogate import Surrogate, clip, sanitise, surrogate
from threedistill.guidance.timesteps import Annealed, Uniform, Window
from threedistill.guidance.weighting import Weighting, apply
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.rng import Streams
from threedistill.schedule import Ramp
from threedistill.types import Rendering

SD = DiscretePath.from_betas()


def draws(policy, path, steps=400, views=4, progress=0.0, **options):
    rng = Streams(3)
    return torch.cat([policy.sample(path, progress, rng.at(i), views, **options).index for i in range(steps)])


# Weights


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("uniform", 1.0),
        ("sigma2", 0.64),
        ("alpha_sigma2", 0.384),
        ("sigma_over_alpha", 4 / 3),
        ("alpha_over_sigma", 0.75),
    ],
)
def test_weights_at_a_level_known_by_hand(kind, expected):
    from tests.guidance.conftest import double_level

    level = double_level(0.6, 0.8, 3)
    torch.testing.assert_close(Weighting(kind)(level), torch.full((3,), expected, dtype=torch.float64))
    torch.testing.assert_close(
        Weighting(kind, factor=2.0, cap=0.3)(level),
        torch.full((3,), 2 * min(expected, 0.3), dtype=torch.float64),
    )


def test_weight_is_applied_per_sample():
    g = torch.ones(2, 3, 4, 4)
    out = apply(torch.tensor([2.0, 3.0], dtype=torch.float64), g)
    assert out.dtype == torch.float32 and out[0].unique() == 2 and out[1].unique() == 3


def test_unknown_weight_is_refused():
    with pytest.raises(ValueError, match=r"kind='sds' must be 'uniform', 'sigma2'"):
        Weighting("sds")  # type: ignore[arg-type]


# Level policies


def test_discrete_window_includes_both_ends_and_nothing_else():
    index = draws(Uniform(Window(0.100, 0.104)), SD)
    assert sorted(index.unique().tolist()) == [100, 101, 102, 103, 104]
    counts = torch.bincount(index.long())[100:]
    assert counts.min() > 0.6 * 1600 / 5  # ends are as likely as the middle


def test_whole_path_reaches_its_last_index_only():
    assert draws(Uniform(Window(1.0, 1.0)), SD, steps=2).unique().tolist() == [999.0]


def test_continuous_window_is_covered_and_kept():
    index = draws(Uniform(Window(0.2, 0.7)), RectifiedFlowPath()) / 1000
    assert 0.2 <= float(index.min()) < 0.205 and 0.695 < float(index.max()) <= 0.7
    assert float(index.mean()) == pytest.approx(0.45, abs=0.02)


def test_log_snr_window_means_the_same_noise_on_every_path():
    window = Uniform(Window(-2.0, 2.0, unit="logsnr"))
    for path, slack in ((SD, 0.01), (RectifiedFlowPath(), 1e-3)):
        found = window.sample(path, 0.0, Streams(0), 64).log_snr
        assert float(found.min()) >= -2 - slack and float(found.max()) <= 2 + slack
        assert float(found.max() - found.min()) > 3.5


def test_window_follows_its_schedules():
    policy = Uniform(Window(0.02, Ramp(start=0.98, end=0.5)))
    assert float(draws(policy, SD, progress=0.0).max()) > 950
    assert float(draws(policy, SD, progress=1.0).max()) == 500


def test_draws_repeat_and_depend_on_the_global_view_only():
    policy = Uniform()
    whole = policy.sample(SD, 0.0, Streams(5, iteration=9), 4).index
    half = policy.sample(SD, 0.0, Streams(5, iteration=9, view_offset=2), 2).index
    assert torch.equal(whole[2:], half)
    assert not torch.equal(whole, policy.sample(SD, 0.0, Streams(5, iteration=10), 4).index)


def test_groups_and_shared_levels():
    grouped = Uniform().sample(SD, 0.0, Streams(1), 8, group=4).index
    assert (
        grouped[:4].unique().numel() == 1 and grouped[4:].unique().numel() == 1 and grouped[0] != grouped[4]
    )
    assert Uniform(draw="shared").sample(SD, 0.0, Streams(1), 8).index.unique().numel() == 1


def test_spread_levels_cover_the_window_in_every_step():
    for i in range(20):
        index = (
            Uniform(Window(0, 1), draw="spread")
            .sample(SD, 0.0, Streams(2, iteration=i), 5)
            .index.sort()
            .values
        )
        gaps = torch.diff(torch.cat([index, index[:1] + 1000]))
        assert float(gaps.max()) < 400  # the three-gap theorem: no hole larger than golden^2 of the circle


@pytest.mark.parametrize("shape, middle", [("linear", 0.64), ("sqrt", 0.98 - 0.68 * math.sqrt(0.5))])
def test_annealed_levels(shape, middle):
    policy = Annealed(start=0.98, end=0.3, shape=shape)
    values = [float(policy.sample(SD, p, Streams(0), 2).index[0]) for p in (0.0, 0.5, 1.0)]
    assert values == [980, round(1000 * middle), 300]


def test_backward_window_is_refused():
    with pytest.raises(ValueError, match=r"runs backwards at progress 0.75"):
        Window(Ramp(start=0.02, end=0.5), Ramp(start=0.98, end=0.02))
    with pytest.raises(ValueError, match=r"window.min takes values in \[20, 20\], and t lies in \[0, 1\]"):
        Window(20, 980)


# Surrogate


def test_gradient_is_the_direction_over_the_batch():
    torch.manual_seed(0)
    x0 = torch.randn(3, 2, 4, 4, requires_grad=True)
    d = torch.randn(3, 2, 4, 4, requires_grad=True)
    surrogate(x0, d).backward()
    torch.testing.assert_close(x0.grad, d.detach() / 3)
    assert d.grad is None


def test_small_directions_survive_half_precision():
    x0 = torch.full((1, 1, 1, 1), 1000.0, dtype=torch.float16, requires_grad=True)
    surrogate(x0, torch.full((1, 1, 1, 1), 1e-4, dtype=torch.float16)).backward()
    assert float(x0.grad) == pytest.approx(1e-4, rel=1e-2)


def test_non_finite_values_become_zero_and_are_counted():
    d = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]).view(1, 1, 2, 2)
    clean, count = sanitise(d)
    assert count == 3 and clean.flatten().tolist() == [1.0, 0.0, 0.0, 0.0]
    guarded, count = Surrogate(clip=0.5).guard(d)
    assert count == 3 and guarded.flatten().tolist() == [0.5, 0.0, 0.0, 0.0]
    assert torch.equal(clip(clean, None), clean)


# Regularisers


def rendering(opacity):
    opacity = torch.as_tensor(opacity, dtype=torch.float32).view(1, 1, -1, 1)
    shape = opacity.shape[:-1]
    return Rendering(torch.zeros(*shape, 3), opacity, torch.zeros(*shape, 1), torch.ones(1, 3))


def test_entropy_is_one_at_half_and_nothing_at_the_ends():
    assert float(opacity_entropy(rendering([0.5]))) == pytest.approx(1.0)
    assert float(opacity_entropy(rendering([0.0, 1.0]))) < 0.012
    assert float(sparsity(rendering([0.0, 1.0]))) == pytest.approx((0.1 + math.sqrt(1.01)) / 2)


def test_relative_weights_do_not_care_about_the_scale_of_the_rule():
    """The balance between guidance and regulariser stays, whatever constant multiplies the direction."""
    ratios = []
    for strength in (1.0, 1000.0):
        term = Regularizers({"sparsity": 0.1})
        out = rendering([0.3, 0.6])
        out.opacity.requires_grad_(True)
        term(out, 0.0, strength * torch.ones(1, 3, 8, 8)).backward()
        ratios.append(out.opacity.grad / strength)
    torch.testing.assert_close(*ratios)


def test_relative_weight_one_means_one_typical_element_per_pixel():
    term = Regularizers({"sparsity": 1.0})
    out = rendering([0.3, 0.6])
    out.opacity.requires_grad_(True)
    term(out, 0.0, 2.0 * torch.ones(1, 3, 8, 8)).backward()
    pixels, derivative = 2, 0.3 / math.sqrt(0.09 + 0.01)
    assert float(out.opacity.grad[0, 0, 0, 0]) == pytest.approx(2.0 * 3 * 64 * derivative / pixels, rel=1e-5)


def test_absolute_weights_and_the_saved_buffer():
    term = Regularizers({"sparsity": 0.5}, scale="absolute")
    assert float(term(rendering([1.0]), 0.0, torch.ones(1, 1, 1, 1))) == pytest.approx(0.5 * math.sqrt(1.01))
    relative = Regularizers({})
    relative.observe(torch.full((1, 1, 2, 2), 3.0))
    assert float(relative.state_dict()["rms_squared"]) == 9.0


def test_schedules_switch_terms_off_and_missing_statistics_are_named():
    term = Regularizers({"distortion": Ramp(start=0.0, end=1.0, at=0.5, over=0.0)})
    assert term.terms(rendering([0.5]), 0.2) == {}
    with pytest.raises(ValueError, match=r"regularizers\.weights\.distortion needs a rendering with stats"):
        term.terms(rendering([0.5]), 0.8)
    out = rendering([0.5])
    out.stats["distortion"] = torch.tensor(0.25)
    assert float(term.terms(out, 0.8)["distortion"][1]) == 0.25


def test_total_variation_of_a_ramp_and_of_a_checkerboard():
    ramp = torch.linspace(0, 0.7, 8).view(1, 1, 8, 1).expand(2, 8, 8, 1)
    board = ((torch.arange(8)[:, None] + torch.arange(8)) % 2).float().view(1, 8, 8, 1)
    seen = Rendering(board.expand(2, 8, 8, 3), board.expand(2, 8, 8, 1), ramp, torch.ones(2, 3))
    assert float(tv_color(seen)) == pytest.approx(2.0)
    assert float(tv_depth(seen)) == pytest.approx(0.1**2, rel=1e-4)
