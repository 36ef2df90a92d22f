"""Guidance variants, invariants between rules, the weights of divergences, and what is refused."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import yaml

from tests.guidance.conftest import direction, scalar_prior, scalars, situation, vp_level
from threedistill.cameras import CameraSampler, place
from threedistill.config import build
from threedistill.errors import ThreedistillWarning
from threedistill.guidance.cfg import ClassifierFree, combine, rescale_std
from threedistill.guidance.perp_neg import AzimuthWeights, PerpNeg, perp_neg, perpendicular
from threedistill.guidance.rules import MVSDS, SDS
from threedistill.guidance.rules_classifier import CSD, CSM, NFSD
from threedistill.guidance.rules_inversion import CDS, ISM
from threedistill.guidance.rules_student import ESD, VSD, Divergence, divergence_weight, estimated_log_ratio
from threedistill.guidance.timesteps import DreamTime
from threedistill.guidance.trajectory import collect
from threedistill.prediction import Prediction
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.resources import configs_dir
from threedistill.rng import Streams
from threedistill.schedule import Ramp
from threedistill.types import Evidence

TEACHER, STUDENT = {"c": (1.3, 0.7), "": (0.2, 1.4), "n": (-1.0, 1.0)}, {"c": (0.5, 0.9)}


def both(teacher=TEACHER, student=STUDENT):
    return {"teacher": scalar_prior(teacher), "student": scalar_prior(student)}


# Between rules


def test_no_entropy_is_vsd_and_asks_no_more():
    vsd, esd = VSD(ClassifierFree(7.5)), ESD(ClassifierFree(7.5), lam=0.0)
    assert esd.queries(0.0) == vsd.queries(0.0)
    assert [q.name for q in ESD(ClassifierFree(1.0), lam=1.0).queries(0.0)] == ["cond", "student blind"]
    values = [direction(rule, both(), [-0.4, 1.0], [0.3, -2.0]) for rule in (vsd, esd)]
    assert torch.equal(*values)
    falling = ESD(ClassifierFree(1.0), lam=Ramp(start=1.0, end=0.0))
    assert [len(falling.queries(p)) for p in (0.0, 0.5, 1.0)] == [2, 3, 2]


def test_swapping_teacher_and_student_turns_vsd_around():
    rule = VSD(ClassifierFree(1.0))
    there = direction(rule, both(), [-0.4, 1.0], [0.3, -2.0])
    back = direction(rule, both(STUDENT, TEACHER), [-0.4, 1.0], [0.3, -2.0])
    torch.testing.assert_close(there, -back)


def test_students_are_told_the_base_prompt_and_their_own_camera():
    seeing, blind = ESD(ClassifierFree(1.0), lam=0.5).queries(0.0)[1:]
    assert (seeing.network, seeing.text, seeing.withheld) == ("student", "base", set())
    assert (blind.network, blind.text, blind.withheld) == ("student", "base", {"camera"})


def test_lambda_outside_its_range_is_refused():
    with pytest.raises(ValueError, match=r"lam=1.5 must lie in \[0, 1\]"):
        ESD(ClassifierFree(1.0), lam=1.5)
    with pytest.raises(ValueError, match=r"lam=.* must lie in \[0, 1\]; it takes values from -0.5"):
        ESD(ClassifierFree(1.0), lam=Ramp(start=0.5, end=-0.5))


@pytest.mark.parametrize("rule", [VSD, ESD])
def test_an_anchored_student_goes_from_its_rule_to_sds(rule):
    networks, x0, noise = both(), [-0.4, 1.0], [0.3, -2.0]
    own = direction(rule(ClassifierFree(7.5)), networks, x0, noise)
    sds = direction(SDS(ClassifierFree(7.5)), networks, x0, noise)
    assert (own - sds).abs().min() > 0.1
    for anchor in (0.0, 0.3, 1.0):
        found = direction(rule(ClassifierFree(7.5), anchor=anchor), networks, x0, noise)
        torch.testing.assert_close(found, torch.lerp(own, sds, anchor))


@pytest.mark.parametrize("rule", [CSM, NFSD, ISM, CDS])
def test_an_anchor_pulls_back_what_runs_away(rule):
    """A teacher whose answer is a Gaussian's of the width of the empty prompt's: CSM says the same everywhere."""
    teacher = {"teacher": scalar_prior({"c": (1.3, 0.7), "": (0.2, 0.7), "n": (-1.0, 0.7)})}
    places = [-30.0, 30.0]
    free = direction(rule(ClassifierFree(2.0)), teacher, places, [0.0] * 2)
    if rule is CSM:
        torch.testing.assert_close(free[0], free[1])
    held = direction(rule(ClassifierFree(2.0), anchor=0.5), teacher, places, [0.0] * 2) - free
    assert held[0] < -1 and held[1] > 1


@pytest.mark.parametrize("rule", [ISM, CDS])
def test_an_anchor_asks_about_the_prompt_where_guidance_does_not(rule):
    plain, anchored = rule(ClassifierFree(0.0)), rule(ClassifierFree(0.0), anchor=Ramp(start=0.5, end=0.0))
    assert "cond" not in {q.name for q in plain.queries(0.0)}
    assert "cond" in {q.name for q in anchored.queries(0.0)}
    assert anchored.queries(1.0) == plain.queries(1.0)
    held = [direction(r, both(), [-30.0, 30.0], [0.0, 0.0]) for r in (anchored, plain)]
    assert held[0][0] < held[1][0] - 1 and held[0][1] > held[1][1] + 1


def test_classifier_coefficients_must_balance():
    with pytest.warns(
        ThreedistillWarning, match=r"sum to 0.5 at progress 0, not to 0: that share of the noise"
    ):
        CSD(ClassifierFree(1.0), empty=-0.5)
    annealed = CSD(ClassifierFree(1.0), empty=Ramp(start=-1.0, end=0.0), negative=Ramp(start=0.0, end=-1.0))
    names = [[q.name for q in annealed.queries(p)] for p in (0.0, 0.5, 1.0)]
    assert names == [["cond", "empty"], ["cond", "empty", "negative"], ["cond", "negative"]]


def test_classifier_matching_without_a_scale_is_refused():
    with pytest.raises(ValueError, match=r"csm multiplies its direction by cfg\.scale, and 0 leaves nothing"):
        CSM(ClassifierFree(0))


# Rescaled guidance


def test_rescaling_gives_the_conditional_contrast_back():
    torch.manual_seed(0)
    cond, guided = torch.randn(4, 3, 8, 8), 5 * torch.randn(4, 3, 8, 8) + 1
    whole = rescale_std(guided, cond, 1.0)
    torch.testing.assert_close(whole.flatten(1).std(1), cond.flatten(1).std(1))
    torch.testing.assert_close(rescale_std(guided, cond, 0.0), guided)
    torch.testing.assert_close(rescale_std(guided, cond, 0.7), 0.7 * whole + 0.3 * guided)
    joint = rescale_std(guided, cond, 1.0, group=2)
    ratio = (joint / guided).flatten(1)[:, 0]
    torch.testing.assert_close(ratio[[0, 2]], ratio[[1, 3]])
    assert abs(float(ratio[0] - ratio[2])) > 1e-3
    torch.testing.assert_close(joint[:2].std(), cond[:2].std(), rtol=1e-3, atol=0)
    flat = torch.ones(1, 3, 8, 8)
    assert torch.equal(rescale_std(flat, torch.randn(1, 3, 8, 8), 1.0), flat)


def test_rescaled_guidance_and_multi_view_sds_share_their_target():
    """One view per group: the multi-view target is the rescaled guidance's own."""
    torch.manual_seed(1)
    level = vp_level(0.6, 2)
    x0, noise = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    x_t = level.add_noise(x0, noise)
    answers = {n: Prediction(torch.randn_like(x_t), "eps", x_t, level) for n in ("cond", "uncond")}
    evidence = Evidence({**answers, "own": answers["cond"]}, x0, noise, level)
    rescaled = SDS(ClassifierFree(7.5, rescale=0.5))(evidence, 0.0)
    multi = MVSDS(ClassifierFree(7.5), rescale=0.5, group=1)(evidence, 0.0)
    torch.testing.assert_close(rescaled, multi)
    assert not torch.allclose(rescaled, SDS(ClassifierFree(7.5))(evidence, 0.0))


# Perp-Neg


def test_perpendicular_parts_are_orthogonal_per_sample():
    torch.manual_seed(2)
    delta, along = torch.randn(3, 4, 8, 8).double(), torch.randn(3, 4, 8, 8).double()
    side = perpendicular(delta, along)
    assert float((side * along).sum((1, 2, 3)).abs().max()) < 1e-10
    alone = torch.cat([perpendicular(delta[i : i + 1], along[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(side, alone)


def test_perp_neg_never_touches_the_prompts_own_direction():
    torch.manual_seed(3)
    uncond, cond, *wrong = (torch.randn(2, 4, 8, 8).double() for _ in range(4))
    weights = [torch.tensor([-1.0, -0.5]), torch.tensor([0.0, -2.0])]
    guided = perp_neg(uncond, cond, wrong, weights, 7.5)
    plain, positive = combine(uncond, cond, 7.5), cond - uncond
    change = guided - plain
    assert float((change * positive).sum((1, 2, 3)).abs().max()) < 1e-9
    assert float((change[0] * perpendicular(wrong[0] - uncond, positive)[0]).sum()) < 0
    none = perp_neg(uncond, cond, wrong, [0 * w for w in weights], 7.5)
    torch.testing.assert_close(none, plain)


def cameras_at(*azimuths, elevation=0.0):
    angle = torch.deg2rad(torch.tensor(azimuths))
    ones = torch.ones(len(azimuths))
    return place(angle, ones * math.radians(elevation), 3 * ones, 0.7 * ones, 8, 8)


def test_azimuth_weights_follow_the_views():
    front, side = AzimuthWeights()(cameras_at(0.0, 45.0, 90.0, 135.0, 180.0, -90.0))
    assert bool((front <= 0).all()) and bool((side <= 0).all())
    assert float(front[0]) == pytest.approx(0.0, abs=1e-3)  # a front view does not avoid the front
    assert float(side[2]) == pytest.approx(0.0, abs=1e-3) == pytest.approx(float(side[5]), abs=1e-3)
    assert front[0] > front[1] > front[2] > front[3] > front[4]  # the farther round, the more it is avoided
    assert float(front[4]) == pytest.approx(-1.967, abs=1e-3) and float(side[0]) == pytest.approx(
        -1.574, abs=1e-3
    )
    left, right = AzimuthWeights()(cameras_at(89.999, 90.001))
    assert float((left[0] - left[1]).abs()) < 2e-3 and float((right[0] - right[1]).abs()) < 2e-3
    above = AzimuthWeights()(cameras_at(0.0, 180.0, elevation=60.0))
    assert not above[0].any() and not above[1].any()


def test_perp_neg_in_both_spaces_and_its_questions():
    variant = PerpNeg(ClassifierFree(7.5))
    assert [(q.name, q.text) for q in variant.queries(0.0, "lower")] == [
        ("cond@lower", "view"), ("uncond@lower", "uncond"), ("front@lower", "front"), ("side@lower", "side"),
    ]  # fmt: skip
    assert PerpNeg(ClassifierFree(7.5), strength=0.0).queries(0.0) == ClassifierFree(7.5).queries(0.0)
    torch.manual_seed(4)
    level = vp_level(0.6, 2)
    x_t = torch.randn(2, 3, 4, 4).double()
    names = ("cond", "uncond", "front", "side")
    answers = {n: Prediction(torch.randn_like(x_t), "v", x_t, level) for n in names}
    evidence = Evidence(answers, x_t, x_t, level, cameras_at(30.0, 120.0))
    eps = variant(evidence, 0.0)
    # A clip that cuts nothing sends the same combination through x0.
    wide = PerpNeg(ClassifierFree(7.5, rescale=1e-300))
    torch.testing.assert_close(eps, wide(evidence, 0.0))
    with pytest.raises(ValueError, match="the evidence has no cameras"):
        variant(Evidence(answers, x_t, x_t, level), 0.0)


def test_negatives_and_nothing_are_two_things():
    """The user's negative prompt enters guidance; the prior's own negative only rules that ask for one."""
    guided = SDS(ClassifierFree(3.0))
    plain = direction(guided, both(), [0.0], [0.5])
    assert not torch.equal(plain, direction(guided, both(), [0.0], [0.5], negative="n"))
    unmoved = SDS(ClassifierFree(3.0, uncond_text="null"))
    assert torch.equal(plain, direction(unmoved, both(), [0.0], [0.5], negative="n"))
    classifier = CSD(ClassifierFree(1.0), empty=-0.5, negative=-0.5)
    seen = collect(classifier, situation(both(), [0.0], [0.5]), 0.0)
    assert float(seen["negative"].eps) != float(seen["empty"].eps)


# Divergences

DIVERGENCES = {
    "reverse_kl": lambda r: -r.log(),
    "forward_kl": lambda r: r * r.log(),
    "jensen_shannon": lambda r: r * r.log() - (r + 1) * ((r + 1) / 2).log(),
    "hellinger": lambda r: 1 - r.sqrt(),
    "jeffreys": lambda r: (r - 1) * r.log(),
    "softened_reverse_kl": lambda r: (r + 1) * (0.5 + 0.5 / r).log(),
}


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_weights_of_divergences_against_differences_of_the_divergence(kind: Divergence):
    """d/dm of the integral of q f(p / q), q = N(m, 0.9^2), against -E_q[h(r) (grad log p - grad log q)]."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    dx = float(x[1] - x[0])

    def log_normal(mean, std):
        return -0.5 * ((x - mean) / std) ** 2 - math.log(std * math.sqrt(2 * math.pi))

    log_p = log_normal(0.3, 0.8)

    def divergence(mean):
        log_q = log_normal(mean, 0.9)
        return float((log_q.exp() * DIVERGENCES[kind]((log_p - log_q).exp())).sum() * dx)

    step, mean = 1e-4, 0.9
    numeric = (divergence(mean + step) - divergence(mean - step)) / (2 * step)
    log_q = log_normal(mean, 0.9)
    scores = -(x - 0.3) / 0.64 + (x - mean) / 0.81
    weight = divergence_weight(log_p - log_q, kind)
    ours = -float((log_q.exp() * weight * scores).sum() * dx)
    assert ours == pytest.approx(numeric, rel=1e-5)


def test_the_guess_at_the_ratio_is_exact_for_narrow_laws():
    """p and q of no width: log p - log q is half the difference of squared noises."""
    level = vp_level(0.6, 1)
    x_t = scalars([0.5])
    p, q = (Prediction((x_t - 0.6 * m) / 0.8, "eps", x_t, level) for m in (0.2, 1.1))
    exact = (-((0.5 - 0.6 * 0.2) ** 2) + (0.5 - 0.6 * 1.1) ** 2) / (2 * 0.64)
    assert float(estimated_log_ratio(p, q)) == pytest.approx(exact, abs=1e-12)


def test_divergences_reweigh_samples_and_keep_the_batch_mean_weight():
    rule = VSD(ClassifierFree(1.0), divergence="forward_kl")
    plain = direction(VSD(ClassifierFree(1.0)), both(), [-0.4, 1.0, 2.0], [0.3, -1.0, 0.0])
    ratio = direction(rule, both(), [-0.4, 1.0, 2.0], [0.3, -1.0, 0.0]) / plain
    assert float(ratio.mean()) == pytest.approx(1.0) and float(ratio.max() - ratio.min()) > 0.1


def test_dmd_normalisation_is_a_positive_number_per_sample():
    plain = direction(VSD(ClassifierFree(7.5)), both(), [-0.4, 1.0], [0.3, -1.0])
    normalised = direction(VSD(ClassifierFree(7.5), normalize="dmd"), both(), [-0.4, 1.0], [0.3, -1.0])
    assert bool((normalised / plain > 0).all())


# Levels and cameras


@pytest.mark.parametrize("path", [DiscretePath.from_betas(), RectifiedFlowPath()])
def test_dreamtime_falls_and_lingers_where_its_weight_is(path):
    policy = DreamTime()
    values = [policy.value(path, p / 50) for p in range(51)]
    assert values[0] == pytest.approx(0.98, abs=0.01) and values[-1] == pytest.approx(0.02, abs=0.01)
    assert all(a >= b for a, b in itertools.pairwise(values))
    # The share of the run above t is the weight above t, summed here independently.
    t = torch.linspace(0.02, 0.98, 4001, dtype=torch.float64)
    bell = torch.where(t > 0.8, torch.exp(-((t - 0.8) ** 2) / 0.18), torch.ones_like(t))
    bell = torch.where(t < 0.5, torch.exp(-((t - 0.5) ** 2) / 0.02), bell)
    weight = bell * path.at_fraction(t).sigma_bar
    for progress in (0.2, 0.5, 0.8):
        above = float(weight[t >= policy.value(path, progress)].sum() / weight.sum())
        assert above == pytest.approx(progress, abs=0.01)
    levels = policy.sample(path, 0.5, Streams(0), 3)
    assert len(levels) == 3 and levels.index.unique().numel() == 1


def test_timestep_options_are_what_their_names_say():
    """The shipped options that do not depend on a prior, read from their files."""

    def window(name, progress):
        node = yaml.safe_load((configs_dir() / "timesteps" / f"{name}.yaml").read_text(encoding="utf-8"))
        return build(node, "guidance.timesteps").window.at(progress)

    assert window("uniform", 0.3) == (0.02, 0.98)
    assert [window("two_phase", p) for p in (0.0, 0.19, 0.21, 1.0)] == [(0.02, 0.98)] * 2 + [(0.02, 0.5)] * 2
    assert window("linear_window", 0.0) == (0.98, 0.98)
    assert window("linear_window", 0.4) == pytest.approx((0.5, 0.74))
    assert window("linear_window", 0.9) == pytest.approx((0.02, 0.5))
    assert [window("warm_up", p)[1] for p in (0.0, 0.15, 0.3, 1.0)] == pytest.approx([0.98, 0.74, 0.5, 0.5])
    assert window("refine", 0.5) == (0.02, 0.5)


def test_antithetic_views_look_through_the_object_at_each_other():
    sampler = CameraSampler(views=6, antithetic=True)
    cameras = sampler.sample(Streams(1, iteration=4), 16)
    for pair in range(3):
        a, b = 2 * pair, 2 * pair + 1
        turn = float(cameras.azimuth[b] - cameras.azimuth[a]) % (2 * math.pi)
        assert turn == pytest.approx(math.pi, abs=1e-5)
        assert cameras.elevation[a] == cameras.elevation[b] and cameras.distance[a] == cameras.distance[b]
    around = (cameras.azimuth % (2 * math.pi)).sort().values
    gaps = torch.diff(torch.cat([around, around[:1] + 2 * math.pi]))
    assert float(gaps.max()) < 2 * (2 * math.pi / 6)
    half = CameraSampler(views=2, antithetic=True)
    part = half.sample(Streams(1, iteration=4, view_offset=2), 16, total_views=6)
    torch.testing.assert_close(part.azimuth, cameras.azimuth[2:4])
    with pytest.raises(ValueError, match=r"cameras\.views=3 must be even"):
        CameraSampler(views=3, antithetic=True)
