"""Guidance by words and pictures: its closed form for Gaussians, what it asks, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tests.guidance.conftest import SCALAR, scalars, vp_level
from threedistill.cameras import orbit
from threedistill.conditions import Conditions, ReferenceImage
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.guidance.cfg import ClassifierFree
from threedistill.guidance.evidence import gather
from threedistill.guidance.perp_neg import PerpNeg
from threedistill.guidance.rules import SDS
from threedistill.guidance.two_conditions import TwoConditions
from threedistill.prediction import Prediction
from threedistill.priors.analytic import GaussianPrior, Normal
from threedistill.priors.noise_path import DiscretePath
from threedistill.prompts import PromptSet
from threedistill.training.planning import build_plan
from threedistill.training.refusals import refuse_untold
from threedistill.types import Evidence, Query

#: What words and pictures add to the mean of a unit Gaussian; they do not simply add up.
MEANS = {("", False): 0.2, ("", True): -0.5, ("c", False): 0.9, ("c", True): 1.7}
IMAGE = ReferenceImage(torch.ones(2, 2, 4))


class Shown(GaussianPrior):
    """A unit Gaussian per text, with and without pictures."""

    wants = frozenset({"text", "image"})

    def __init__(self) -> None:
        super().__init__(SCALAR, DiscretePath.from_betas(), {"": Normal(0.0), "c": Normal(0.0)})

    def conditioning(self, conditions):
        told = super().conditioning(conditions)
        means = [MEANS[text, bool(conditions.images)] for text in conditions.texts]
        return {**told, "mean": scalars(means)}


def answers(cfg, images=(IMAGE,), progress=0.0) -> Evidence:
    x0, noise = scalars([0.3, -0.7]), scalars([0.5, 1.1])
    prompts = PromptSet("c", view_words=False)
    facts = Conditions(cameras=orbit(2, size=8), images=images)
    return gather(cfg.queries(progress), {"teacher": Shown()}, prompts, facts, x0, vp_level(0.6, 2), noise)


def mean_of(cfg, **more) -> float:
    """The mean of the unit Gaussian whose eps the guided one is, read off ``eps = sigma (x - alpha mu)``."""
    evidence = answers(cfg, **more)
    guided, alpha, sigma = cfg.guided(evidence, 0.0), 0.6, 0.8
    means = (guided.x_t - guided.eps / sigma) / alpha
    assert float(means.std()) < 1e-6
    return float(means.mean())


def test_words_and_pictures_have_a_scale_each():
    for text, image in ((7.5, 1.5), (3.0, 3.0), (2.0, 1.0), (0.0, 2.0), (1.0, 1.0)):
        expected = (
            MEANS["", False]
            + image * (MEANS["", True] - MEANS["", False])
            + text * (MEANS["c", True] - MEANS["", True])
        )
        found = mean_of(TwoConditions(ClassifierFree(text), image_scale=image))
        assert found == pytest.approx(expected, abs=1e-6), (text, image)
        if text == image:  # what is withheld together is one condition
            assert found == pytest.approx(mean_of(ClassifierFree(text)), abs=1e-6)
    # Through x0, with a rescaling that changes nothing.
    wide = TwoConditions(ClassifierFree(7.5, rescale=1e-300), image_scale=1.5)
    torch.testing.assert_close(
        wide(answers(wide), 0.0), TwoConditions(ClassifierFree(7.5), 1.5)(answers(wide), 0.0)
    )


def test_plain_guidance_withholds_the_pictures_or_keeps_them():
    kept = ClassifierFree(4.0, uncond_image="keep")
    assert mean_of(kept) == pytest.approx(
        MEANS["", True] + 4.0 * (MEANS["c", True] - MEANS["", True]), abs=1e-6
    )
    without = mean_of(kept, images=())
    assert without == pytest.approx(MEANS["", False] + 4.0 * (MEANS["c", False] - MEANS["", False]), abs=1e-6)


def test_it_asks_three_questions_and_fewer_where_scales_agree():
    asked = TwoConditions(ClassifierFree(7.5), 1.5).queries(0.0, "lower")
    assert [(q.name, q.text, set(q.withheld), set(q.given)) for q in asked] == [
        ("cond@lower", "view", set(), {"image"}), ("image@lower", "uncond", set(), {"image"}),
        ("uncond@lower", "uncond", {"image"}, set()),
    ]  # fmt: skip
    blind = TwoConditions(ClassifierFree(7.5, uncond_camera="null"), 1.5).queries(0.0)
    assert [set(q.withheld) for q in blind] == [set(), {"camera"}, {"camera", "image"}]
    names = {
        (7.5, 7.5): ["cond", "uncond"],
        (7.5, 1.0): ["cond", "image"],
        (1.0, 1.0): ["cond"],
    }
    for (text, image), expected in names.items():
        assert [q.name for q in TwoConditions(ClassifierFree(text), image).queries(0.0)] == expected


def test_a_question_says_what_must_be_given():
    with pytest.raises(ValueError, match="image cannot be both given and withheld"):
        Query("odd", given={"image"}, withheld={"image"})
    with pytest.raises(ValueError, match="given names 'picture', which is not one of camera, background"):
        Query("odd", given={"picture"})
    cfg = TwoConditions(ClassifierFree(7.5))
    with pytest.raises(ValueError, match="asks the teacher about the image, which it is not told"):
        answers(cfg, images=())
    stage = SimpleNamespace(guidance=SimpleNamespace(rule=SDS(cfg)), guidance_name="sds")
    blind = SimpleNamespace(wants=frozenset({"text"}), name="words")
    with pytest.raises(UsageError, match="asks the teacher about the image, and words is told text only"):
        refuse_untold(stage, {"teacher": blind})
    with pytest.raises(UsageError, match="pictures of the object, and there are none; give one with --image"):
        build_plan(compose(prompt="a red ball", overrides=["cfg=two_conditions"]))


@pytest.mark.parametrize("kind", ["v", "flow"])
@pytest.mark.parametrize("variant", ["plain", "perp_neg", "two_conditions"])
def test_pure_noise_is_combined_in_what_the_network_predicts(variant, kind):
    """At ``alpha = 0`` eps says nothing of the picture; v and flow are minus the picture, and that is combined."""
    base = ClassifierFree(scale=3.0)
    cfg = {"plain": base, "perp_neg": PerpNeg(base), "two_conditions": TwoConditions(base, image_scale=2.0)}[
        variant
    ]
    noise, level = scalars([0.4, -1.3]), vp_level(0.1, 2)
    level = replace(level, alpha=torch.zeros_like(level.alpha), sigma=torch.ones_like(level.sigma))
    pictures = {"cond": 0.8, "uncond": -0.1, "image": 0.3, "front": 0.5, "side": -0.6}
    value = {name: scalars([-x, -x]) + (noise if kind == "flow" else 0) for name, x in pictures.items()}
    asked = [query.name for query in cfg.queries(0.0)]
    answers = {name: Prediction(value[name], kind, noise, level) for name in asked}
    evidence = Evidence(answers, noise, noise, level, cameras=orbit(2, size=8))
    expected = {"plain": -0.1 + 3 * 0.9, "two_conditions": -0.1 + 2 * 0.4 + 3 * 0.5}
    # Along one axis nothing is perpendicular: what Perp-Neg adds to plain guidance is zero.
    picture = scalars([expected.get(variant, expected["plain"])] * 2)
    torch.testing.assert_close(cfg.guided(evidence, 0.0).x0, picture, rtol=0, atol=1e-6)
