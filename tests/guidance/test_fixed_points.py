"""Where the rules take a scene: points at rest, collapse, and what entropy keeps, against closed forms.

The scene is one number per camera, ``x = m + tau c`` with ``c ~ N(0, 1)``; means over c are exact (Gauss-Hermite), and
since directions are affine in the noise, noise 0 gives their mean.
"""

from __future__ import annotations

import itertools
import math

import numpy
import pytest
import torch

from tests.guidance.conftest import direction, scalar_prior, scalars, vp_level
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.rules import SDS
from threedistill.guidance.rules_classifier import CSD, NFSD
from threedistill.guidance.rules_inversion import CDS, ISM, SDI
from threedistill.guidance.rules_reference import CSDS, DDS
from threedistill.guidance.rules_student import ESD, VSD
from threedistill.guidance.trajectory import Interval, OdeStep
from threedistill.prediction import Prediction
from threedistill.protocols import Prior
from threedistill.types import Evidence

NODES, WEIGHTS = (torch.as_tensor(a) for a in numpy.polynomial.hermite_e.hermegauss(12))
WEIGHTS = WEIGHTS / WEIGHTS.sum()
ALPHA, SIGMA = 0.6, 0.8
plain = ClassifierFree(1.0)


class PerfectStudent(Prior):
    """Knows the law of the renders: N(m, tau^2) without a camera, the very render with it."""

    name, view_group, licence = "student", 1, "none"
    wants = frozenset({"text", "camera"})

    def __init__(self, path):
        self.path, self.mean, self.std, self.x0 = path, 0.0, 1.0, None

    def conditioning(self, conditions):
        assert self.x0 is not None
        seen = conditions.cameras is not None
        mean = self.x0 if seen else torch.full_like(self.x0, self.mean)
        return {"mean": mean, "variance": torch.full_like(mean, 0.0 if seen else self.std**2)}

    def predict(self, x_t, level, conditioning):
        alpha, sigma = level.scales(x_t)
        residual = x_t - alpha * conditioning["mean"]
        return Prediction(
            sigma * residual / (alpha**2 * conditioning["variance"] + sigma**2), "eps", x_t, level
        )


def settle(rule, teacher, m=-0.5, tau=0.4, steps=3000, rate=0.05):
    """Gradient descent of (m, tau) along E[g] and E[g c]."""
    student = PerfectStudent(teacher.path)
    for _ in range(steps):
        student.mean, student.std, student.x0 = m, tau, scalars(m + tau * NODES)
        g = direction(rule, {"teacher": teacher, "student": student}, student.x0, NODES * 0)
        m, tau = m - rate * float((WEIGHTS * g).sum()), tau - rate * float((WEIGHTS * g * NODES).sum())
    return m, abs(tau)


def rest(rule, teacher, start=0.0, steps=400, rate=0.5, **options):
    """Where a single number comes to rest."""
    networks = teacher if isinstance(teacher, dict) else {"teacher": teacher}
    x = start
    for _ in range(steps):
        x -= rate * float(direction(rule, networks, [x], [0.0], **options))
    return x


TEACHER = scalar_prior({"c": (1.3, 0.7), "": (0.2, 0.7)})


def test_sds_collapses_to_the_mode():
    m, tau = settle(SDS(plain), TEACHER, steps=800)
    assert (m, tau) == pytest.approx((1.3, 0.0), abs=1e-4)


def test_vsd_with_a_student_of_one_scene_per_camera_is_sds():
    m, tau = settle(VSD(plain), TEACHER, steps=800)
    assert (m, tau) == pytest.approx((1.3, 0.0), abs=1e-4)


@pytest.mark.parametrize("lam, spread", [
    pytest.param(1.0, 0.7, marks=pytest.mark.slow),
    (0.8, math.sqrt(0.8 * 0.49 - 0.2 * (0.64 / 0.36))),
    pytest.param(0.5, 0.0, marks=pytest.mark.slow),
])  # fmt: skip
def test_entropy_keeps_variance_above_a_threshold(lam, spread):
    """tau^2 = max(0, lambda S^2 - (1 - lambda) sigma^2 / alpha^2)."""
    m, tau = settle(ESD(plain, lam=lam), TEACHER, steps=1500, rate=0.3)
    assert m == pytest.approx(1.3, abs=1e-3) and tau == pytest.approx(spread, abs=2e-3)
    if lam == 0.8:
        assert spread == pytest.approx(0.1909, abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, 3.0, 7.5])
def test_saturation_is_linear_in_the_scale(scale):
    found = rest(SDS(ClassifierFree(scale)), TEACHER, steps=200)
    assert found == pytest.approx(0.2 + scale * (1.3 - 0.2), abs=1e-6)


def test_classifier_score_rests_beyond_the_narrower_mean():
    teacher = scalar_prior({"c": (1.3, 0.7), "": (0.2, 1.4)})
    v_c, v_0 = 0.36 * 0.49 + 0.64, 0.36 * 1.96 + 0.64
    expected = (1.3 / v_c - 0.2 / v_0) / (1 / v_c - 1 / v_0)
    assert rest(CSD(plain), teacher, steps=400, rate=1.0) == pytest.approx(expected, abs=1e-6)
    assert expected > 1.3


def test_classifier_score_never_rests_where_all_are_equally_wide():
    values = direction(CSD(plain), {"teacher": TEACHER}, [-3.0, 0.0, 5.0], [1.0, -1.0, 0.3])
    expected = ALPHA * SIGMA * (0.2 - 1.3) / (0.36 * 0.49 + 0.64)
    torch.testing.assert_close(values, torch.full((3,), expected, dtype=torch.float64))


def test_category_score_rests_beyond_the_conditioned_mean():
    networks = {"teacher": scalar_prior({"c": (1.0, 0.3)}), "baseline": scalar_prior({"a k": (0.2, 1.2)})}
    assert rest(CSDS(plain), networks, steps=600, rate=1.0) == pytest.approx(2.1068, abs=1e-4)


def test_category_score_drops_the_noise_where_there_is_little():
    """k = sigma^2 (1 / v_e - 1 / v_cat) -> 0 with sigma, while that of SDS, alpha^2 S^2 / v, -> 1."""
    networks = {"teacher": scalar_prior({"c": (1.0, 0.3)}), "baseline": scalar_prior({"a k": (0.2, 1.2)})}

    def noise(rule, alpha):
        plus, minus = direction(rule, networks, [0.0, 0.0], [1.0, -1.0], alpha=alpha)
        return abs(float(plus - minus)) / 2

    assert noise(CSDS(plain), 0.998) < 0.05 < 0.9 < noise(SDS(plain), 0.998)
    variance = 1 - 0.998**2
    exact = variance * (1 / (0.998**2 * 0.09 + variance) - 1 / (0.998**2 * 1.44 + variance))
    assert noise(CSDS(plain), 0.998) == pytest.approx(exact, abs=1e-10)


def test_an_edit_moves_by_the_difference_of_the_prompts():
    teacher = scalar_prior({"c": (1.3, 0.7), "s": (0.2, 0.7), "": (0.0, 0.7)})
    found = rest(DDS(plain), teacher, start=0.3, steps=200, reference=[0.3])
    assert found == pytest.approx(0.3 + 1.3 - 0.2, abs=1e-6)
    values = direction(DDS(plain), {"teacher": teacher}, [0.3, 0.3], [2.0, -1.0], reference=[0.3, 0.3])
    assert float(values[0] - values[1]) == pytest.approx(0.0, abs=1e-12)


def test_noise_free_score_rests_where_its_formula_says():
    teacher = scalar_prior({"c": (1.3, 0.7), "": (0.2, 1.4), "n": (-1.0, 2.0)})
    v_c, v_0, v_n = (0.36 * s**2 + 0.64 for s in (0.7, 1.4, 2.0))
    coefficients = {1.3: 3 / v_c, 0.2: (1 - 3) / v_0, -1.0: -1 / v_n}
    expected = sum(mean * k for mean, k in coefficients.items()) / sum(coefficients.values())
    assert rest(NFSD(ClassifierFree(3.0)), teacher, steps=400, rate=0.3) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "rule, target",
    [
        # Unguided, both only compare the prior with itself one step apart: they come to rest at its mean.
        (ISM(ClassifierFree(0.0), Interval(delta=0.2, stride=0.05, max_steps=20)), 0.2),
        (CDS(plain, OdeStep(gap=0.2)), 1.3),
    ],
)
def test_interval_rules_contract(rule, target):
    start = 3.0
    found = rest(rule, TEACHER, start=start, steps=300, rate=2.0)
    assert abs(found - target) < 0.05 * abs(start - target)


def test_reparametrised_ddim_follows_the_sampler_home():
    """x0 - mu ~ (S^2 + sigma_bar^2)^(-1/2) while the level falls, though each step at a fixed level points outward."""
    mu, std, rule = 1.3, 0.7, SDI(plain)

    def eps(x0, kappa, sigma_bar):
        """The direction at one level, from evidence made by hand."""
        alpha = 1 / math.sqrt(1 + sigma_bar**2)
        level = vp_level(alpha, 1)
        x_t = scalars([alpha * (x0 + sigma_bar * kappa)])
        sigma = math.sqrt(1 - alpha**2)
        answer = sigma * (x_t - alpha * mu) / (alpha**2 * std**2 + sigma**2)
        return float(
            rule(Evidence({"cond": Prediction(answer, "eps", x_t, level)}, x_t, scalars([kappa]), level), 0)
        )

    high, low, steps = 13.0, 0.14, 4000
    levels = numpy.geomspace(high, low, steps + 1)
    x0 = start = 0.9
    for now, then in itertools.pairwise(levels):
        kappa = now * (x0 - mu) / std**2  # solves kappa = eps(x0 + now kappa)
        x0 -= then * eps(x0, kappa, then)
    expected = math.sqrt((std**2 + high**2) / (std**2 + low**2))
    assert (x0 - mu) / (start - mu) == pytest.approx(expected, rel=5e-3)
