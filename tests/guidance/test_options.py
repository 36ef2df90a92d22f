"""No option without effect: each of a rule, its guidance and its trajectory changes the direction or is refused."""

from __future__ import annotations

import itertools
import re
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.conditions import Conditions, ReferenceImage
from threedistill.errors import ThreedistillWarning
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.perp_neg import AzimuthWeights, PerpNeg
from threedistill.guidance.rules import CFD, MVSDS, SDS, SJC
from threedistill.guidance.rules_bridge import Bridge, TraCe
from threedistill.guidance.rules_classifier import CSD, CSM, NFSD
from threedistill.guidance.rules_inversion import CDS, ISM, SCTD, SDI
from threedistill.guidance.rules_reference import CSDS, DDS
from threedistill.guidance.rules_student import ESD, SIM, USD, VSD
from threedistill.guidance.surface_noise import draw_noise
from threedistill.guidance.timesteps import Annealed, DreamTime, Uniform, Window
from threedistill.guidance.trajectory import (
    Interval,
    Inverted,
    Reference,
    Reparametrized,
    Situation,
    collect,
)
from threedistill.guidance.two_conditions import TwoConditions
from threedistill.guidance.weighting import Weighting, WeightingKind
from threedistill.prediction import NoiseLevel
from threedistill.priors.analytic import GaussianPrior
from threedistill.priors.noise_path import DiscretePath
from threedistill.prompts import PromptSet
from threedistill.protocols import GuidanceRule
from threedistill.resources import configs_dir
from threedistill.rng import Streams
from threedistill.types import Appraisal

SHAPE, VIEWS = (3, 4, 4), 4
PLAIN = ClassifierFree(3.0)
RULES: list[GuidanceRule] = [
    SDS(PLAIN), SJC(PLAIN), MVSDS(PLAIN), CSD(ClassifierFree(1.0)), CSM(PLAIN, Inverted(start=0.05)), NFSD(PLAIN),
    ISM(PLAIN, Interval(start=0.05)), SDI(PLAIN, Reparametrized(start=0.05, gap=0.05)), CDS(PLAIN), CSDS(PLAIN),
    CSDS(PLAIN, "sum"), DDS(PLAIN), VSD(PLAIN), ESD(PLAIN, lam=0.3), Bridge(PLAIN, blend=0.5),
    SCTD(PLAIN), CFD(PLAIN), SIM(PLAIN), TraCe(PLAIN), USD(PLAIN),
]  # fmt: skip
GUIDANCES = [PLAIN, PerpNeg(PLAIN), TwoConditions(PLAIN)]
#: Another valid value of every option, by name; where one name means two things, by class and name.
OTHERS: dict[str, Any] = {
    "scale": 1.5, "uncond_camera": "null", "uncond_image": "keep", "uncond_text": "null", "x0_clip": "static",
    "rescale": 0.7, "strength": 0.5, "weights": AzimuthWeights(overhead=-80.0), "image_scale": 4.0,
    "variance_reduction": False, "group": 2, "MVSDS.rescale": 0.2, "cond": 1.1, "empty": -1.1, "negative": 0.3,
    "CSD.noise": 0.2, "threshold": 100.0, "form": "sum", "eta": 0.5, "normalize": "dmd", "divergence": "forward_kl",
    "lam": 0.8, "anchor": 0.4, "delta": 0.1, "stride": 0.07, "max_steps": 1, "start": 0.2, "gap": 0.1,
    "solver": "fixed_point",
    "unit": "logsnr", "gap_draw": "none", "Inverted.scale": 1.0, "Reparametrized.scale": 1.0, "CDS.noise": "fresh",
    "SCTD.noise": "fresh", "blend": 0.2, "count": 3, "min": 0.1, "max": 0.9, "margin": 0.03, "direct": 0.9,
    "softness": 5.0, "turns": 0.7, "at": 0.3, "ends": 0.4, "middle": 0.9, "most": 0.3,
}  # fmt: skip


class Told(GaussianPrior):
    """A random picture for every text, camera and picture that it is told of, or told nothing of."""

    wants = frozenset({"text", "camera", "image"})

    def conditioning(self, conditions: Conditions) -> dict[str, torch.Tensor]:
        cameras, means, spreads = conditions.cameras, [], []
        for row, text in enumerate(conditions.texts):
            azimuth = "none" if cameras is None else f"{float(cameras.azimuth[row]):.3f}"
            seed = zlib.crc32(f"{self.name} {text} {azimuth} {len(conditions.images)}".encode())
            generator = torch.Generator().manual_seed(seed)
            means.append(0.8 * torch.randn(SHAPE, generator=generator, dtype=torch.float64))
            spreads.append(0.3 + torch.rand((), generator=generator, dtype=torch.float64).expand(SHAPE))
        return {"mean": torch.stack(means), "variance": torch.stack(spreads) ** 2}


def situation() -> Situation:
    """One step: four views, of a picture and of another that it edits."""
    generator = torch.Generator().manual_seed(0)
    x0, reference, noise = torch.randn(3, VIEWS, *SHAPE, generator=generator, dtype=torch.float64)
    path = DiscretePath.from_betas()
    networks = {
        name: Told(SimpleNamespace(shape=SHAPE), path, {}, name=name)
        for name in ("teacher", "student", "baseline")
    }
    prompts = PromptSet("a cup", negative="blur", category="cup", source="a jug", flaws="dim")
    conditions = Conditions(
        cameras=orbit(VIEWS, elevation=20.0, size=8), images=(ReferenceImage(torch.ones(2, 2, 4)),)
    )
    level = path.at_fraction(torch.full((VIEWS,), 0.45, dtype=torch.float64))

    def appraise(sample: torch.Tensor, _: NoiseLevel) -> Appraisal:
        """Somebody likes bright pictures, and very bright ones more."""
        return Appraisal(sample.exp(), torch.ones(VIEWS, 1), torch.zeros(VIEWS, dtype=torch.long))

    return Situation(
        networks, prompts, conditions, 0.5 * x0, level, noise, None, 0.5 * reference, appraise=appraise
    )


def direction(rule: GuidanceRule) -> torch.Tensor:
    return rule(collect(rule, situation(), 0.5), 0.5)


def other(owner: object, name: str) -> Any:
    """Another value; a new option must get one here."""
    return OTHERS.get(f"{type(owner).__name__}.{name}", OTHERS.get(name, KeyError))


def changed(rule: GuidanceRule) -> Iterator[tuple[str, Any]]:
    """The rule with each of its own and its trajectory's options changed, and with each of its guidance's."""
    for part in (rule, rule.trajectory, rule.cfg):
        if part is None:
            continue
        where = {id(rule): "", id(rule.trajectory): "trajectory.", id(rule.cfg): "cfg."}[id(part)]
        for field in fields(part):  # type: ignore[arg-type]
            if field.name in ("cfg", "trajectory", "base"):
                continue
            value = other(part, field.name)
            assert value is not KeyError, (
                f"{type(part).__name__}.{field.name} is new here: give it another value in OTHERS"
            )
            if where == "" and value == getattr(part, field.name):
                continue
            yield where + field.name, (where, field.name, value)


def made(rule: GuidanceRule, where: str, name: str, value: Any) -> GuidanceRule:
    if where == "":
        return replace(rule, **{name: value})
    part = "cfg" if where == "cfg." else "trajectory"
    return replace(rule, **{part: replace(getattr(rule, part), **{name: value})})


def label(rule: GuidanceRule) -> str:
    return type(rule).__name__ + (f"-{rule.form}" if isinstance(rule, CSDS) else "")


@pytest.mark.parametrize("rule", RULES, ids=label)
def test_every_option_of_a_rule_has_an_effect_or_is_refused(rule: GuidanceRule) -> None:
    before = direction(rule)
    refused = []
    for name, change in changed(rule):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ThreedistillWarning)
                other_rule = made(rule, *change)
        except ValueError as error:
            assert name.split(".")[-1] in str(error), error
            refused.append(name)
            continue
        if name == "turns":  # it says which noise lies on the surface (test_surface_noise.py)
            assert other_rule.noise_turns == 0.7
            continue
        if name == "noise" and isinstance(rule, (CDS, SCTD)):  # it says which noise is drawn
            draws = [
                torch.equal(*draw_noise(r, Streams(0).at(1), 2, SHAPE).unbind()) for r in (rule, other_rule)
            ]
            assert draws == [True, False]
            continue
        moved = float((direction(other_rule) - before).abs().max())
        assert moved > 1e-6, f"{label(rule)}: {name} changes nothing"
    assert refused == {
        "CSD": ["cfg.scale", "cfg.uncond_text", "cfg.x0_clip", "cfg.rescale"],
        "CSM": ["cfg.uncond_text", "cfg.x0_clip", "cfg.rescale"],
        "NFSD": ["cfg.uncond_text", "cfg.x0_clip", "cfg.rescale"],
        "CSDS-difference": ["eta"],
        "SIM": ["cfg.x0_clip", "cfg.rescale"],
        "USD": ["cfg.x0_clip", "cfg.rescale"],
    }.get(label(rule), [])


@pytest.mark.parametrize(
    ("rule", "guidance"),
    list(itertools.product(RULES, GUIDANCES[1:])),
    ids=lambda one: label(one) if isinstance(one, GuidanceRule) else type(one).__name__,
)
def test_every_variant_of_guidance_has_an_effect_or_is_refused(rule: GuidanceRule, guidance: Any) -> None:
    if isinstance(rule, (CSD, CSM, NFSD)):
        with pytest.raises(ValueError, match=rf"cfg={type(guidance).__name__} would have no effect"):
            replace(rule, cfg=guidance)
        return
    if isinstance(rule, (SIM, USD)):
        with pytest.raises(
            ValueError, match=f"differentiates plain guidance, not cfg={type(guidance).__name__}"
        ):
            replace(rule, cfg=guidance)
        return
    plain, varied = direction(rule), replace(rule, cfg=guidance)
    before = direction(varied)
    assert float((before - plain).abs().max()) > 1e-6
    for field in fields(guidance):
        if field.name == "base":
            for inner in fields(PLAIN):
                if isinstance(guidance, TwoConditions) and inner.name == "uncond_image":
                    continue  # image_scale says it
                new = replace(guidance, base=replace(PLAIN, **{inner.name: OTHERS[inner.name]}))
                assert float((direction(replace(rule, cfg=new)) - before).abs().max()) > 1e-6, inner.name
        else:
            new = replace(guidance, **{field.name: OTHERS[field.name]})
            assert float((direction(replace(rule, cfg=new)) - before).abs().max()) > 1e-6, field.name


def test_no_rule_of_the_menu_is_left_out_of_the_walk() -> None:
    targets = {
        re.search(r"^rule:\n  _target_: (\S+)$", one.read_text(), re.MULTILINE)[1]  # type: ignore[index]
        for one in (configs_dir() / "guidance").glob("*.yaml")
    }
    assert targets == {f"{type(rule).__module__}.{type(rule).__name__}" for rule in RULES}


def test_every_option_of_the_weights_has_an_effect_or_is_refused() -> None:
    level = DiscretePath.from_betas().at_fraction(torch.tensor([0.05, 0.3, 0.6, 0.95], dtype=torch.float64))
    weights = {kind: Weighting(kind)(level) for kind in get_args(WeightingKind)}
    for one, other in itertools.combinations(weights, 2):
        assert float((weights[one] - weights[other]).abs().max()) > 1e-3, (one, other)
    for kind, plain in weights.items():
        torch.testing.assert_close(Weighting(kind, factor=3.0)(level), 3 * plain)
        for cap in (0.01, 1.0):
            try:
                capped = Weighting(kind, cap=cap)(level)
            except ValueError as error:
                assert "cap=1 would have no effect" in str(error) and float(plain.max()) <= 1
            else:
                assert float((capped - plain).abs().max()) > 1e-3, (kind, cap)


POLICIES = [
    (Uniform(), {"window": Window(0.1, 0.9), "draw": "spread"}),
    (Uniform(Window(0.3, 0.7)), {"draw": "shared"}),
    (Annealed(), {"start": 0.9, "end": 0.2, "shape": "linear", "unit": "logsnr"}),
    (DreamTime(), {"high": 0.7, "low": 0.4, "high_width": 0.1, "low_width": 0.3, "min": 0.4, "max": 0.9}),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "options"), POLICIES)
def test_every_option_of_the_noise_levels_has_an_effect(policy: Any, options: dict[str, Any]) -> None:
    def drawn(one: Any) -> torch.Tensor:
        path = DiscretePath.from_betas()
        return torch.cat([one.sample(path, progress, Streams(0).at(3), 6).index for progress in (0.4, 0.99)])

    before = drawn(policy)
    for name, value in options.items():
        assert not torch.equal(drawn(replace(policy, **{name: value})), before), name
    assert all(set(options) <= {field.name for field in fields(policy)} for policy, options in POLICIES)
    for kind in {type(policy) for policy, _ in POLICIES}:
        varied = {name for policy, options in POLICIES if type(policy) is kind for name in options}
        assert varied == {field.name for field in fields(kind)}


def test_what_is_said_about_no_gap_is_refused() -> None:
    for option in ({"unit": "logsnr"}, {"gap_draw": "none"}):
        with pytest.raises(ValueError, match=rf"{next(iter(option))}=\w+ is about gap, and gap=0"):
            Reparametrized(gap=0.0, **option)


def test_an_edit_to_the_same_words_moves_nothing() -> None:
    step = situation()
    same = replace(step, prompts=replace(step.prompts, prompt="a jug"), reference=step.x0)
    for cfg in GUIDANCES:
        rule = DDS(cfg, Reference())
        assert float(rule(collect(rule, same, 0.5), 0.5).abs().max()) == 0.0
    for draws in ({"told_front": (True, False, True, False)}, {"wordings": (0, 1, 2, 3)}):
        rule, drawn = DDS(PLAIN), replace(same, prompts=replace(same.prompts, **draws))
        assert float(rule(collect(rule, drawn, 0.5), 0.5).abs().max()) == 0.0
