"""Every rule against closed forms for Gaussian priors: mean and noise of the direction, in every parametrisation.

Everything is affine in the noise, so (g(1) + g(-1)) / 2 is the mean exactly and |g(1) - g(-1)| / 2 the standard
deviation. The numbers were worked out by hand from the Gaussians' formulas, at alpha = 0.6, sigma = 0.8, x0 = -0.4,
with c ~ N(1.3, 0.7^2), nothing ~ N(0.2, 1.4^2), negative ~ N(-1, 1), student ~ N(0.5, 0.9^2).
"""

from __future__ import annotations

import math

import pytest
import torch

from tests.guidance.conftest import direction, scalar_prior, scalars, situation
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.rules import MVSDS, SDS, SJC
from threedistill.guidance.rules_classifier import CSD, CSM, NFSD
from threedistill.guidance.rules_inversion import CDS, ISM, SDI
from threedistill.guidance.rules_reference import CSDS, DDS
from threedistill.guidance.rules_student import ESD, VSD
from threedistill.guidance.trajectory import OdeStep, Reparametrized, collect
from threedistill.prediction import Prediction
from threedistill.types import Query

KINDS = ["eps", "x0", "v", "flow"]
TEACHER = {"c": (1.3, 0.7), "": (0.2, 1.4), "n": (-1.0, 1.0), "s": (0.2, 1.4)}
STUDENT = {"c": (0.5, 0.9)}
#: From alpha 0.6 to alpha 0.8, sigma / alpha 4/3 to 3/4.
GAP = 2 * math.log((4 / 3) / (3 / 4))

plain, strong = ClassifierFree(1.0), ClassifierFree(7.5)
kappa = {
    "solver": "fixed_point",
    "scale": 1.0,
    "max_steps": 400,
    "gap": GAP,
    "gap_draw": "none",
    "unit": "logsnr",
    "eta": 0.0,
}

GOLDEN = {
    "sds": (SDS(plain), -0.9995100441, 0.2160705537),
    "sds, guided": (SDS(strong), -6.1051243795, 1.7879131782),
    "sjc": (SJC(plain), -0.9995100441, 0.2160705537),
    "sjc, all the noise": (SJC(plain, variance_reduction=False), -0.9995100441, 0.7839294463),
    "mvsds without rescaling": (MVSDS(strong, rescale=0.0), -6.1051243795, 1.7879131782),
    "csd": (CSD(plain), -0.7854791285, 0.3083051895),
    "csd, half negative": (CSD(plain, empty=-0.5, negative=-0.5), -1.0364945863, 0.2261173179),
    "vsd": (VSD(plain), -0.5357917100, 0.0969393218),
    "vsd, guided": (VSD(strong), -5.6414060454, 2.1009230537),
    "nfsd, little noise": (NFSD(strong, threshold=2.0), -6.1051243795, 2.7879131782),
    "nfsd": (NFSD(strong), -6.3931243795, 2.1479131782),
    "dds": (DDS(plain), -1.0351818634, 0.3083051895),
    "cds": (CDS(plain, OdeStep(gap=GAP, unit="logsnr")), -0.2035819152, 0.1596720903),
}


def mean_and_noise(rule, networks, **options):
    plus, minus = direction(rule, networks, [-0.4, -0.4], [1.0, -1.0], reference=[0.3, 0.3], **options)
    return float(plus + minus) / 2, abs(float(plus - minus)) / 2


def networks(kind="eps", student=STUDENT):
    return {"teacher": scalar_prior(TEACHER, kind), "student": scalar_prior(student, kind)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name, kind):
    rule, expected, noise = GOLDEN[name]
    found = mean_and_noise(rule, networks(kind))
    assert found[0] == pytest.approx(expected, abs=2e-10)
    assert found[1] == pytest.approx(noise, abs=2e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "scale, mean, noise",
    [(1.0, -0.7676508771, 0.0595656159), (7.5, -5.8732652124, 1.9444181159)],
)
def test_entropic_with_a_student_that_knows_its_one_scene(kind, scale, mean, noise):
    """The camera-conditional student of one scene answers with the very noise; the blind one knows the marginal."""

    class OneScene(type(scalar_prior(STUDENT))):
        wants = frozenset({"text", "camera"})

        def conditioning(self, conditions):
            told = super().conditioning(conditions)
            if conditions.cameras is not None:  # all that this camera ever shows is x0 = -0.4
                told["mean"], told["variance"] = told["mean"] * 0 - 0.4, told["variance"] * 0
            return told

    student = scalar_prior(STUDENT, kind)
    student.__class__ = OneScene
    asked = {"teacher": scalar_prior(TEACHER, kind), "student": student}
    found = mean_and_noise(ESD(ClassifierFree(scale), lam=0.5), asked)
    assert found == pytest.approx((mean, noise), abs=2e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_student_makes_vsd_the_classifier_score(kind):
    found = mean_and_noise(VSD(strong), networks(kind, {"c": TEACHER["c"]}))
    assert found == pytest.approx((-5.1056143354, 2.0039837318), abs=2e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_category_score(kind):
    teacher = scalar_prior({"c": (1.0, 0.3), "": (0.0, 1.0)}, kind)
    baseline = scalar_prior({"a k": (0.2, 1.2)}, kind)
    found = mean_and_noise(CSDS(plain), {"teacher": teacher, "baseline": baseline})
    assert found == pytest.approx((-0.7507863315, 0.3993282083), abs=2e-10)


def test_category_score_as_a_sum():
    """(eps_c - eps) + eta (eps_category - eps_nothing), every term in closed form."""
    teacher = scalar_prior({"c": (1.0, 0.3)})
    baseline = scalar_prior({"a k": (0.2, 1.2), "": (0.0, 1.5)})
    rule = CSDS(plain, form="sum", eta=0.5)
    x_t = 0.6 * -0.4 + 0.8 * 0.7

    def eps(mean, std):
        return 0.8 * (x_t - 0.6 * mean) / (0.36 * std**2 + 0.64)

    expected = eps(1.0, 0.3) - 0.7 + 0.5 * (eps(0.2, 1.2) - eps(0.0, 1.5))
    found = direction(rule, {"teacher": teacher, "baseline": baseline}, [-0.4], [0.7])
    assert float(found) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_dmd_without_its_normalisation_is_vsd_between_clean_pictures(kind):
    """x0_student - x0_teacher = (sigma / alpha) (eps_teacher - eps_student), over mean |x0 - x0_teacher|."""
    rule, asked = VSD(plain, normalize="dmd"), networks(kind)
    step = situation(asked, [-0.4, -0.4], [1.0, -1.0])
    seen = collect(rule, step, 0.0)
    distance = (step.x0 - seen["cond"].x0).abs().flatten()
    unnormalised = (rule(seen, 0.0).flatten() * distance).tolist()
    mean, noise = sum(unnormalised) / 2, abs(unnormalised[0] - unnormalised[1]) / 2
    assert (mean, noise) == pytest.approx((-0.7143889467, 0.1292524291), abs=2e-10)


def exactly_inverted(alpha, x0, mean=0.2, std=1.4):
    """x_t on the unconditional Gaussian's own trajectory from x0."""
    sigma_bar = math.sqrt(1 - alpha**2) / alpha
    return alpha * (mean + (x0 - mean) * math.sqrt(std**2 + sigma_bar**2) / std)


def at(alpha, step):
    from tests.guidance.conftest import vp_level

    return scalars([exactly_inverted(alpha, -0.4)]), vp_level(alpha, 1, step.path)


@pytest.mark.parametrize("kind", KINDS)
def test_rules_at_exactly_inverted_points(kind):
    assert exactly_inverted(0.6, -0.4) == pytest.approx(-0.3771428571, abs=1e-10)
    assert exactly_inverted(0.8, -0.4) == pytest.approx(-0.3845387488, abs=1e-10)
    step = situation(scalar_prior(TEACHER, kind), [-0.4], [123.0])
    upper, lower = at(0.6, step), at(0.8, step)

    csm = CSM(ClassifierFree(2.0))
    found = csm(step.ask(csm.queries(0.0), {"t": upper}), 0.0)
    assert float(found) == pytest.approx(2 * -0.8383314467, abs=2e-10)

    ism = ISM(strong)
    below = step.ask((Query("interval", text="null", point="s"),), {"s": lower})["interval"]
    found = ism(step.ask(ism.queries(0.0), {"t": upper, "s": lower}, {"interval": below}), 0.0)
    assert float(found) == pytest.approx(-6.3806717475, abs=2e-10)
    only = ISM(ClassifierFree(0.0))
    found = only(step.ask(only.queries(0.0), {"t": upper, "s": lower}, {"interval": below}), 0.0)
    assert float(found) == pytest.approx(-0.0931858971, abs=2e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_that_the_prior_itself_finds(kind):
    """kappa solves kappa = eps(alpha x0 + sigma kappa) at alpha 0.6 and is used at alpha 0.8."""
    rule = SDI(plain, Reparametrized(**kappa))
    step = situation(scalar_prior(TEACHER, kind), [-0.4, -0.4], [1.0, -2.0], alpha=0.8)
    seen = collect(rule, step, 0.0)
    torch.testing.assert_close(
        seen.noise.flatten(), torch.full((2,), -4.6258503401, dtype=torch.float64), rtol=0, atol=1e-9
    )
    torch.testing.assert_close(
        rule(seen, 0.0).flatten(), torch.full((2,), 0.9422011085, dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_directions_are_detached_whatever_asks():
    x0 = torch.zeros(2, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    for rule, *_ in GOLDEN.values():
        step = situation(networks(), x0, [0.1, 0.2], reference=[0.3, 0.3])
        g = rule(collect(rule, step, 0.5), 0.5)
        assert not g.requires_grad and g.grad_fn is None and g.shape == x0.shape, rule


def test_rules_are_pure():
    """Asked again with the same evidence they answer the same, and they leave the evidence alone."""
    for name, (rule, *_) in GOLDEN.items():
        step = situation(networks("v"), [-0.4, 0.3], [1.0, 0.2], reference=[0.3, 0.3])
        seen = collect(rule, step, 0.25)
        before = {k: p.value.clone() for k, p in seen.predictions.items()}
        first = rule(seen, 0.25)
        assert torch.equal(first, rule(seen, 0.25)), name
        assert all(torch.equal(seen.predictions[k].value, v) for k, v in before.items()), name


def test_predictions_are_kept_in_float32_differences():
    """Half-precision answers at a large scale: the difference is formed in float32, as the answers allow."""
    x_t = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    from tests.guidance.conftest import vp_level
    from threedistill.types import Evidence

    level = vp_level(0.6, 1)
    cond = Prediction((x_t + 0.01).half(), "eps", x_t, level)
    uncond = Prediction(x_t, "eps", x_t, level)
    evidence = Evidence({"cond": cond, "uncond": uncond}, x_t.float(), torch.zeros_like(x_t).float(), level)
    g = SDS(ClassifierFree(100.0))(evidence, 0.0)
    exact = uncond.value.double() + 100 * (cond.value.double() - uncond.value.double())
    assert g.dtype == torch.float32
    torch.testing.assert_close(g.double(), exact, rtol=1e-6, atol=1e-6)
