"""SDS and classifier-free guidance against the closed form for Gaussian priors."""

from __future__ import annotations

import pytest
import torch

from tests.guidance.conftest import scalar_prior
from threedistill.guidance.cfg import ClassifierFree, clip_x0
from threedistill.guidance.rules import SDS, direction_from_x0, wished_x0
from threedistill.schedule import Ramp

CONDITIONS = {"c": (1.3, 0.7), "": (0.2, 1.4), "n": (-1.0, 1.0)}

# Worked out by hand for alpha = .6, sigma = .8, x0 = -.4, w = 1: every objective is affine in eps here, so
# (g(eps) + g(-eps)) / 2 is the exact mean and (g(eps) - g(-eps)) / 2 = k eps gives the exact deviation |k|.
GOLDEN = {1.0: (-0.9995100441, 0.2160705537), 7.5: (-6.1051243795, 1.7879131782)}


def mean_and_std(rule, prior, ask, **options):
    eps = 0.83
    plus = rule(ask(rule, prior, [-0.4], [eps], **options), 0.0)
    minus = rule(ask(rule, prior, [-0.4], [-eps], **options), 0.0)
    return float((plus + minus) / 2), abs(float((plus - minus) / 2)) / eps


@pytest.mark.parametrize("kind", ["eps", "x0", "v", "flow"])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_golden_values_in_every_parametrisation(ask, scale, kind):
    mean, std = mean_and_std(SDS(ClassifierFree(scale)), scalar_prior(CONDITIONS, kind), ask)
    assert mean == pytest.approx(GOLDEN[scale][0], abs=1e-9)
    assert std == pytest.approx(GOLDEN[scale][1], abs=1e-9)


def test_scale_zero_is_the_unconditional_direction(ask):
    mean, _ = mean_and_std(SDS(ClassifierFree(0.0)), scalar_prior(CONDITIONS), ask)
    v = 0.36 * 1.4**2 + 0.64
    assert mean == pytest.approx(0.48 * (-0.4 - 0.2) / v, abs=1e-12)


def test_negative_prompt_takes_the_unconditional_place(ask):
    rule = SDS(ClassifierFree(7.5))
    mean, _ = mean_and_std(rule, scalar_prior(CONDITIONS), ask, negative="n")
    v_c, v_n = 0.36 * 0.49 + 0.64, 1.0
    assert mean == pytest.approx(0.48 * (-6.5 * (-0.4 + 1.0) / v_n + 7.5 * (-0.4 - 1.3) / v_c), abs=1e-12)
    null_only = SDS(ClassifierFree(7.5, uncond_text="null"))
    assert mean_and_std(null_only, scalar_prior(CONDITIONS), ask, negative="n")[0] == pytest.approx(
        GOLDEN[7.5][0]
    )


def test_fixed_point_saturates_linearly_with_the_scale(ask):
    # With equal covariances E[g] vanishes at mu_null + s (mu_c - mu_null): colours saturate linearly in s.
    prior = scalar_prior({"c": (0.3, 0.5), "": (-0.1, 0.5)})
    for scale in (1.0, 4.0, 20.0):
        rule = SDS(ClassifierFree(scale))
        at = -0.1 + scale * 0.4
        evidence = ask(rule, prior, [at, at, at + 0.1, at + 0.1], [0.7, -0.7, 0.7, -0.7])
        g = rule(evidence, 0.0).flatten()
        assert float(g[0] + g[1]) == pytest.approx(0.0, abs=1e-12)
        assert float(g[2] + g[3]) > 0  # beyond it the direction points back


def test_l2_form_is_the_same_direction(ask):
    rule = SDS(ClassifierFree(7.5))
    evidence = ask(rule, scalar_prior(CONDITIONS), [-0.4, 0.9], [0.3, -1.2])
    target = wished_x0(evidence.x0, rule(evidence, 0.0), evidence.level)
    torch.testing.assert_close(target, rule.cfg.guided(evidence, 0.0).x0, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        direction_from_x0(evidence.x0, target, evidence), rule(evidence, 0.0), rtol=0, atol=1e-12
    )


def test_direction_is_detached(ask):
    rule = SDS(ClassifierFree(7.5))
    x0 = torch.zeros(2, 1, 1, 1, dtype=torch.float64, requires_grad=True)
    g = rule(ask(rule, scalar_prior(CONDITIONS), x0, [0.1, 0.2]), 0.0)
    assert not g.requires_grad and g.grad_fn is None


def test_superfluous_queries_are_not_asked():
    assert [q.name for q in ClassifierFree(1.0).queries(0.0)] == ["cond"]
    assert [q.name for q in ClassifierFree(0.0).queries(0.0)] == ["uncond"]
    assert [q.name for q in ClassifierFree(7.5).queries(0.0)] == ["cond", "uncond"]
    falling = ClassifierFree(Ramp(start=7.5, end=1.0))
    assert len(falling.queries(0.0)) == 2 and len(falling.queries(1.0)) == 1


def test_null_may_be_written_unquoted_in_yaml():
    cfg = ClassifierFree(uncond_camera=None, uncond_text=None, x0_clip=None)
    assert (cfg.uncond_camera, cfg.uncond_text, cfg.x0_clip) == ("null", "null", "none")
    assert cfg.queries(0.0)[1].withheld == {"camera", "image"}
    assert ClassifierFree().queries(0.0)[1].withheld == {"image"}


def test_wrong_word_is_named():
    with pytest.raises(ValueError, match=r"x0_clip='hard' must be 'none', 'static' or 'dynamic'"):
        ClassifierFree(x0_clip="hard")  # type: ignore[arg-type]


@pytest.mark.parametrize("how", ["static", "dynamic"])
def test_clipping_keeps_the_target_in_range_and_is_exact_inside(ask, how):
    prior = scalar_prior({"c": (0.1, 0.2), "": (0.0, 0.2)})
    inside = [SDS(ClassifierFree(2.0, x0_clip=c)) for c in ("none", how)]
    a, b = (r(ask(r, prior, [0.1], [0.2]), 0.0) for r in inside)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    wild = SDS(ClassifierFree(50.0, x0_clip=how))
    evidence = ask(wild, prior, [0.1], [0.2])
    target = wished_x0(evidence.x0, wild(evidence, 0.0), evidence.level)
    assert float(target) == pytest.approx(1.0)


def test_dynamic_clipping_keeps_contrast():
    picture = torch.linspace(-4, 4, 1000).view(1, 1, 10, 100)
    assert clip_x0(picture, "static").unique().numel() < 300
    dynamic = clip_x0(picture, "dynamic")
    assert dynamic.abs().max() <= 1 and dynamic.unique().numel() > 980
