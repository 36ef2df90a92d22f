"""Inversion: exact where the steps are, of first order where they are not, bounded in cost, asked in few passes."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch

from tests.guidance.conftest import direction, scalar_prior, scalars, situation, vp_level
from threedistill.conditions import Conditions
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.rules import SDS
from threedistill.guidance.rules_classifier import CSM
from threedistill.guidance.rules_inversion import CDS, ISM, SDI
from threedistill.guidance.rules_reference import DDS
from threedistill.guidance.surface_noise import draw_noise
from threedistill.guidance.trajectory import (
    Interval,
    Inverted,
    OdeStep,
    Reparametrized,
    collect,
    ddim_std,
    fraction,
    invert,
    shifted,
)
from threedistill.prediction import Prediction
from threedistill.priors.analytic import GaussianPrior, Normal
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.protocols import Prior
from threedistill.rng import Streams

MEAN, STD = 0.2, 1.4
TEACHER = {"c": (1.3, 0.7), "": (MEAN, STD), "s": (0.2, 1.4), "n": (0.0, 1.0)}
PATHS = {"discrete": DiscretePath.from_betas(), "flow": RectifiedFlowPath()}
GUIDANCE = ClassifierFree(7.5)


class Counting:
    """A prior that counts the rows it is asked."""

    def __init__(self, prior):
        self.prior, self.calls = prior, []

    def __getattr__(self, name):
        return getattr(self.prior, name)

    def predict(self, x_t, level, conditioning):
        self.calls.append(len(x_t))
        return self.prior.predict(x_t, level, conditioning)


def on(path, kind="eps"):
    from tests.guidance.conftest import SCALAR

    return GaussianPrior(SCALAR, path, {text: Normal(*pair) for text, pair in TEACHER.items()}, kind=kind)


def at_fraction(path, *values):
    return path.at_fraction(torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize("name", PATHS)
def test_fraction_inverts_the_path(name):
    path = PATHS[name]
    wanted = torch.tensor([0.01, 0.123, 0.5, 0.97], dtype=torch.float64)
    torch.testing.assert_close(fraction(path, path.at_fraction(wanted)), wanted)
    up = shifted(path, path.at_fraction(wanted), 0.02, "t")
    torch.testing.assert_close(fraction(path, up), wanted + 0.02)
    logsnr = path.at_fraction(wanted[1:3]).log_snr
    torch.testing.assert_close(
        shifted(path, path.at_fraction(wanted[1:3]), 0.5, "logsnr").log_snr, logsnr - 0.5
    )


@pytest.mark.parametrize("name", PATHS)
def test_every_step_of_an_inversion_is_the_exact_product(name):
    """x_bar - mu grows by 1 + (s' - s) s / (S^2 + s^2) per step, s = sigma / alpha."""
    path, steps, end = PATHS[name], 7, 0.63
    step = situation(on(path), [-0.4], [0.0])
    target = at_fraction(path, end)
    found = invert(step, GUIDANCE, target, stride=end / steps, max_steps=99)
    grid = [float(at_fraction(path, end * k / steps).sigma_bar) for k in range(steps + 1)]
    growth = math.prod(1 + (b - a) * a / (STD**2 + a**2) for a, b in itertools.pairwise(grid))
    expected = float(target.alpha) * (MEAN + (-0.4 - MEAN) * growth)
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
def test_inversion_is_of_first_order(kind):
    """Towards the ODE's own solution, (x_bar - mu) ~ sqrt(S^2 + s^2): twice the steps, half the error."""
    path = PATHS["discrete"]
    target = at_fraction(path, 0.7)
    step = situation(on(path, kind), [-0.4], [0.0])
    first, last = float(at_fraction(path, 0.0).sigma_bar), float(target.sigma_bar)
    exact = float(target.alpha) * (MEAN + (-0.4 - MEAN) * math.sqrt((STD**2 + last**2) / (STD**2 + first**2)))
    errors = [abs(float(invert(step, GUIDANCE, target, 0.7 / n, n)) - exact) for n in (20, 40, 80, 160)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(0.9 < order < 1.15 for order in orders), orders


def test_inversion_then_sampling_comes_back_at_first_order():
    """Up by inversion, down by DDIM over the same grid: the round trip errs by O(1 / n)."""
    path = PATHS["discrete"]
    prior = on(path)
    errors = []
    for n in (10, 20, 40, 80):
        target = at_fraction(path, 0.7)
        step = situation(prior, [-0.4], [0.0])
        x = invert(step, GUIDANCE, target, 0.7 / n, n)
        levels = [at_fraction(path, 0.7 * k / n) for k in range(n + 1)]
        told = prior.conditioning(Conditions([""]))
        for now, then in zip(levels[:0:-1], levels[-2::-1], strict=True):
            seen = prior.predict(x, now, told)
            x = then.add_noise(seen.x0, seen.eps)
        errors.append(abs(float(x / levels[0].alpha) + 0.4))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert all(0.85 < order < 1.2 for order in orders) and errors[-1] < 0.02, (errors, orders)


class Erring:
    """A prior that predicts x0, always too large by ``error``."""

    def __init__(self, prior, error):
        self.prior, self.error = prior, error

    def __getattr__(self, name):
        return getattr(self.prior, name)

    def predict(self, x_t, level, conditioning):
        answer = self.prior.predict(x_t, level, conditioning)
        return Prediction(answer.x0 + self.error, "x0", x_t, level)


@pytest.mark.parametrize("start", [0.0, 0.02, 0.1])
def test_an_error_in_x0_enters_by_the_first_level(start):
    """One step from level 0 to 1 turns an error d of x0 into d (alpha_1 - sigma_1 alpha_0 / sigma_0)."""
    path, error = PATHS["discrete"], 0.01
    target, first = at_fraction(path, 0.6), at_fraction(path, start)
    exact, wrong = (
        invert(situation(prior, [-0.4], [0.0]), GUIDANCE, target, 1.0, 1, start=start)
        for prior in (on(path, "x0"), Erring(on(path, "x0"), error))
    )
    expected = error * float(target.alpha - target.sigma * first.alpha / first.sigma)
    assert float(wrong - exact) == pytest.approx(expected, abs=1e-12)
    # A hundredth of x0 becomes a third of a standard deviation of noise from the clean end, and a fortieth from 0.1.
    assert abs(expected) / float(target.sigma) == pytest.approx(
        {0.0: 0.34, 0.02: 0.07, 0.1: 0.025}[start], abs=0.01
    )


def test_a_target_cleaner_than_the_start_is_the_render_itself():
    path = PATHS["discrete"]
    levels = at_fraction(path, 0.05, 0.6)
    found = invert(situation(on(path), [-0.4, 0.9], [0.0, 0.0]), GUIDANCE, levels, 0.2, 9, start=0.1)
    assert float(found[0]) == pytest.approx(float(levels.alpha[0]) * -0.4, abs=1e-12)
    alone = invert(situation(on(path), [0.9], [0.0]), GUIDANCE, levels[[1]], 0.2, 9, start=0.1)
    torch.testing.assert_close(found[1:], alone)


def test_views_walk_grids_of_their_own():
    """A batch of different levels is what each view alone is, with as many steps."""
    path = PATHS["discrete"]
    prior = on(path)
    levels = at_fraction(path, 0.2, 0.8)
    both = invert(situation(prior, [-0.4, 0.9], [0.0, 0.0]), GUIDANCE, levels, 0.2, 9)
    for row, x0 in enumerate([-0.4, 0.9]):
        end = float(fraction(path, levels)[row])
        alone = invert(situation(prior, [x0], [0.0]), GUIDANCE, levels[[row]], end / 4, 9)
        torch.testing.assert_close(both[row : row + 1], alone)


@pytest.mark.parametrize(
    "rule, passes",
    [
        (SDS(GUIDANCE), 1),
        (CSM(GUIDANCE, Inverted(stride=0.2, max_steps=3)), 3 + 1),
        (ISM(GUIDANCE, Interval(delta=0.1, stride=0.2, max_steps=3)), 3 + 1 + 1),
        (SDI(GUIDANCE, Reparametrized(stride=0.1, max_steps=4)), 4 + 1),
        (CDS(GUIDANCE, OdeStep(gap=0.1)), 2),
        (DDS(GUIDANCE), 1),
    ],
)
def test_cost_is_bounded(rule, passes):
    teacher = Counting(scalar_prior(TEACHER))
    direction(rule, {"teacher": teacher}, [-0.4, 0.1], [0.3, -0.8], alpha=0.1, reference=[0.0, 0.0])
    assert len(teacher.calls) == passes


def test_csm_has_no_variance_and_ignores_the_noise():
    values = direction(CSM(GUIDANCE), {"teacher": scalar_prior(TEACHER)}, [-0.4] * 3, [3.0, 0.0, -1.0])
    assert float(values.max() - values.min()) == 0


def test_csm_tends_to_its_golden_value_with_finer_inversion():
    """From the path's first level, not from zero noise: the exact inverse of that start is the limit."""
    found = []
    for n in (50, 100, 200):
        rule = CSM(ClassifierFree(2.0), Inverted(stride=1 / n, max_steps=n))
        found.append(float(direction(rule, {"teacher": scalar_prior(TEACHER)}, [-0.4], [0.0])) / 2)
    gaps = [abs(value + 0.8383314467) for value in found]
    assert gaps[2] < gaps[1] < gaps[0] and gaps[2] < 2e-3


def test_sdi_with_random_noise_is_sds():
    """No inversion (no steps from clean), all of the step's noise: SDS exactly."""
    networks = {"teacher": scalar_prior(TEACHER)}
    random = SDI(GUIDANCE, Reparametrized(solver="fixed_point", max_steps=1, eta=0.0))

    class Fresh(Reparametrized):
        def trace(self, situation, cfg, progress):
            from threedistill.guidance.trajectory import Traced

            return Traced({"t": (situation.level.add_noise(situation.x0, situation.noise), situation.level)})

    rule = SDI(GUIDANCE, Fresh())
    ours = direction(rule, networks, [-0.4, 0.2], [0.7, -1.0])
    torch.testing.assert_close(ours, direction(SDS(GUIDANCE), networks, [-0.4, 0.2], [0.7, -1.0]))
    assert not torch.allclose(ours, direction(random, networks, [-0.4, 0.2], [0.7, -1.0]))


class Handing(Prior):
    """Whose answer is that all of the sample is a picture: an inversion then hands on what noise it is given."""

    name, licence, path, space = "handing", "none", PATHS["discrete"], scalar_prior(TEACHER).space

    def conditioning(self, conditions):
        return {"none": torch.zeros(len(conditions), 1)}

    def predict(self, x_t, level, conditioning):
        return Prediction(torch.zeros_like(x_t), "eps", x_t, level)


def test_an_inversion_adds_ddims_own_noise_in_every_step():
    """What reaches kappa: s_k / alpha_k of every step, at the last level's alpha / sigma."""
    path, found, picture = PATHS["discrete"], [], torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    step = replace(situation(Handing(), [0.0], [0.0]), x0=picture, noise=picture)
    for t in (0.1, 0.25, 0.5, 0.9):
        target = at_fraction(path, t)
        steps = math.ceil(t / 0.1 - 1e-6)
        x = invert(step, GUIDANCE, target, 0.1, 10, eta=0.3)
        levels = [at_fraction(path, t * k / steps) for k in range(steps + 1)]
        parts = [0.3 * ddim_std(a, b, picture) / b.alpha for a, b in itertools.pairwise(levels)]
        exact = float(torch.stack(parts).square().sum().sqrt() * target.alpha / target.sigma)
        assert float(x.std() / target.sigma) == pytest.approx(exact, rel=0.05)
        found.append(exact)
    assert found == pytest.approx([0.03, 0.20, 0.25, 0.29], abs=0.005)


def test_where_kappa_is_found_is_drawn_anew_in_every_step():
    step = situation(scalar_prior(TEACHER), [-0.4], [0.7])
    rule = SDI(GUIDANCE, Reparametrized(eta=0.0))
    found = [collect(rule, replace(step, rng=Streams(0).at(i)), 0.0).noise for i in (0, 0, 1)]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_noise_of_the_evidence_is_what_is_in_the_sample():
    step = situation(scalar_prior(TEACHER), [-0.4, 0.9], [0.7, -1.0], alpha=0.8)
    seen = collect(SDI(GUIDANCE), step, 0.0)
    x_t = seen["cond"].x_t
    torch.testing.assert_close(x_t, seen.level.add_noise(step.x0, seen.noise))
    assert not torch.allclose(seen.noise, step.noise)


def test_fixed_noise_is_one_tensor_for_all_views_and_steps():
    rule, rng = CDS(GUIDANCE), Streams(3)
    first, later = (draw_noise(rule, rng.at(i), 4, (3, 2, 2)) for i in (0, 7))
    assert torch.equal(first, later) and torch.equal(first[0], first[3])
    other = draw_noise(rule, Streams(4), 4, (3, 2, 2))
    assert not torch.equal(first, other)
    fresh = [draw_noise(SDS(GUIDANCE), rng.at(i), 4, (3, 2, 2)) for i in (0, 7)]
    assert not torch.equal(*fresh) and not torch.equal(fresh[0][0], fresh[0][1])
    assert torch.equal(fresh[0], rng.at(0).normal_per_view("noise", 4, 3, 2, 2))


def test_an_edit_without_a_scene_says_so():
    step = situation(scalar_prior(TEACHER), [-0.4], [0.0])
    with pytest.raises(ValueError, match="compares with an unedited scene, and there is none"):
        collect(DDS(GUIDANCE), step, 0.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Inverted(stride=0.0),
        lambda: Inverted(max_steps=0),
        lambda: Interval(stride=2),
        lambda: Inverted(start=1.0),
        lambda: Reparametrized(start=-0.1),
    ],
)
def test_impossible_grids_are_refused(make):
    with pytest.raises(ValueError, match=r"stride=|max_steps=|start="):
        make()


def test_levels_stay_what_they_were():
    level = vp_level(0.6, 2)
    step = situation(scalar_prior(TEACHER), [-0.4, 0.9], [0.7, -1.0])
    for rule in (CSM(GUIDANCE), ISM(GUIDANCE), SDI(GUIDANCE)):
        seen = collect(rule, step, 0.0)
        torch.testing.assert_close(seen.level.sigma_bar, level.sigma_bar)
        assert torch.equal(seen.x0, scalars([-0.4, 0.9]))
