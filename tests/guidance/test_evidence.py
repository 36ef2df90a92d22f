"""Gathering: what is asked once, what is asked together, and that batching changes nothing."""

from __future__ import annotations

import pytest
import torch

from tests.guidance.conftest import double_level, scalar_prior
from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.guidance.evidence import gather
from threedistill.guidance.trajectory import Situation
from threedistill.prediction import Prediction
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.prompts import PromptSet
from threedistill.protocols import Prior
from threedistill.types import Query


class Recorder(Prior):
    """A small random network that mixes everything it is told and counts its calls."""

    name, view_group, licence = "recorder", 1, "none"
    wants = frozenset({"text", "camera", "background"})

    def __init__(self, extra_camera: bool = True):
        torch.manual_seed(0)
        self.weight = torch.randn(5, 5)
        self.path = DiscretePath.from_betas()
        self.rows: list[int] = []
        self.told: list[int] = []
        self.extra_camera = extra_camera

    def conditioning(self, conditions):
        texts, cameras, background = conditions.texts, conditions.cameras, conditions.background
        self.told.append(len(texts))
        out = {"text": torch.tensor([[float(len(t)), float(sum(map(ord, t)) % 97)] for t in texts])}
        if self.extra_camera:
            out["camera"] = torch.zeros(len(texts), 1) if cameras is None else cameras.azimuth[:, None].sin()
        if background is not None:
            out["text"] = out["text"] + background[:, :2]
        return out

    def predict(self, x_t, level, conditioning):
        self.rows.append(len(x_t))
        told = [conditioning["text"], conditioning.get("camera", torch.zeros(len(x_t), 1))]
        features = torch.cat([*told, level.index[:, None].float() / 1000, x_t.flatten(1)[:, :1]], 1)
        shift = torch.tanh(features @ self.weight).sum(1).view(-1, 1, 1, 1)
        return Prediction(torch.tanh(x_t + shift), "v", x_t, level)


QUERIES = (
    Query("cond"),
    Query("uncond", text="null"),
    Query("blind", text="null", withheld={"camera"}),
    Query("again", text="null"),
    Query("base", text="base"),
)


def situation(views=4):
    torch.manual_seed(1)
    level = DiscretePath.from_betas().at(torch.tensor([50.0, 300.0, 600.0, 900.0])[:views])
    return orbit(views, size=8), torch.randn(views, 3, 4, 4), level, torch.randn(views, 3, 4, 4)


def collect(network, queries, max_rows=None, prompts=None):
    cameras, x0, level, noise = situation()
    prompts, behind = prompts or PromptSet("a duck"), torch.linspace(0, 1, 12).view(4, 3)
    return gather(
        queries,
        {"teacher": network},
        prompts,
        Conditions((), cameras, behind),
        x0,
        level,
        noise,
        max_rows=max_rows,
    )


def test_batched_equals_one_by_one():
    together = collect(Recorder(), QUERIES)
    for query in QUERIES:
        alone = collect(Recorder(), (query,), max_rows=1)
        torch.testing.assert_close(together[query.name].value, alone[query.name].value, rtol=0, atol=1e-5)
        assert together[query.name].kind == "v"


def test_one_forward_pass_and_no_question_twice():
    network = Recorder()
    evidence = collect(network, QUERIES)
    assert network.rows == [16]  # five queries, of which "again" repeats "uncond"
    assert network.told == [12, 4]  # three wordings with their cameras, one without
    assert evidence["again"].value is evidence["uncond"].value
    network = Recorder()
    collect(network, QUERIES, max_rows=6)
    assert network.rows == [6, 6, 4]


def test_a_step_tells_the_networks_every_wording_once():
    network, (cameras, x0, level, noise) = Recorder(), situation()
    behind = torch.linspace(0, 1, 12).view(4, 3)
    step = Situation(
        {"teacher": network}, PromptSet("a duck"), Conditions((), cameras, behind), x0, level, noise
    )
    first = step.ask((Query("uncond", text="null"),))
    both = step.ask((Query("cond"), Query("uncond", text="null")))
    assert network.told == [4, 4]
    torch.testing.assert_close(both["uncond"].value, first["uncond"].value, rtol=0, atol=1e-5)
    alone = collect(Recorder(), (Query("cond"),))
    torch.testing.assert_close(both["cond"].value, alone["cond"].value, rtol=0, atol=1e-5)


def test_equal_wordings_are_one_question():
    network = Recorder()
    collect(
        network, (Query("cond"), Query("base", text="base")), prompts=PromptSet("a duck", view_words=False)
    )
    assert network.rows == [4]


def test_max_rows_keeps_view_groups_together():
    network = Recorder()
    network.view_group = 4
    collect(network, QUERIES, max_rows=6)
    assert network.rows == [4, 4, 4, 4]


def test_view_words_reach_the_network_per_view():
    seen = []
    network = Recorder()
    inner = network.conditioning
    network.conditioning = lambda conditions: (seen.extend(conditions.texts), inner(conditions))[1]
    collect(network, (Query("cond"),))
    assert seen == ["a duck, front view", "a duck, side view", "a duck, back view", "a duck, side view"]


def test_nothing_keeps_a_gradient():
    cameras, x0, level, noise = situation()
    x0.requires_grad_(True)
    evidence = gather(
        (Query("cond"),),
        {"teacher": Recorder()},
        PromptSet("a"),
        Conditions(cameras=cameras),
        x0,
        level,
        noise,
    )
    assert not evidence["cond"].value.requires_grad and not evidence.x0.requires_grad


def test_impossible_queries_say_what_is_missing():
    with pytest.raises(
        ValueError, match=r"'lora' asks the student, but there is none \(there are: teacher\)"
    ):
        collect(Recorder(), (Query("lora", network="student"),))
    with pytest.raises(ValueError, match="looks at point 's', which no trajectory supplies"):
        collect(Recorder(), (Query("x", point="s"),))
    with pytest.raises(ValueError, match="two different queries are both named 'a'"):
        collect(Recorder(), (Query("a"), Query("a", text="null")))
    with pytest.raises(KeyError, match=r"no prediction named 'uncond' was gathered \(there are: cond\)"):
        collect(Recorder(), (Query("cond"),))["uncond"]


@pytest.mark.misuse
def test_mismatched_shapes_are_named():
    cameras, x0, level, noise = situation()
    with pytest.raises(ValueError, match="do not belong together"):
        gather(
            (Query("c"),),
            {"teacher": Recorder()},
            PromptSet("a"),
            Conditions(cameras=cameras),
            x0,
            level,
            noise[:2],
        )


def test_a_baseline_on_another_path_is_asked_at_the_same_noise():
    """The same Gaussian answers the same eps whichever path its network was trained on."""
    teacher = scalar_prior({"c": (0.4, 0.6)})
    baseline = scalar_prior({"c": (0.4, 0.6)}, kind="flow")
    baseline.path = RectifiedFlowPath()
    x0 = torch.tensor([0.1, -0.7], dtype=torch.float64).view(2, 1, 1, 1)
    noise = torch.tensor([0.5, -1.1], dtype=torch.float64).view(2, 1, 1, 1)
    queries = (Query("a", text="base"), Query("b", network="baseline", text="base"))
    evidence = gather(
        queries, {"teacher": teacher, "baseline": baseline}, PromptSet("c"), Conditions(cameras=orbit(2, size=8)), x0,
        double_level(0.6, 0.8, 2), noise,
    )  # fmt: skip
    torch.testing.assert_close(evidence["a"].eps, evidence["b"].eps, rtol=0, atol=1e-12)
    torch.testing.assert_close(evidence["a"].x0, evidence["b"].x0, rtol=0, atol=1e-12)
