"""Further frozen networks are loaded as the teacher is: checked, moved to its device."""

from __future__ import annotations

import pytest
import torch

import threedistill.training.assemble as assembling
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.priors.analytic import DiscPrior
from threedistill.training.assemble import assemble, build_networks, build_prior
from threedistill.training.plan import RunPlan
from threedistill.training.planning import build_plan


@pytest.fixture
def moved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DiscPrior, str]]:
    """Every network that was moved, and to where."""
    record = []

    def to(self: DiscPrior, device: torch.device | str) -> DiscPrior:
        record.append((self, torch.device(device).type))
        return self

    monkeypatch.setattr(DiscPrior, "to", to)
    return record


def plan_of(*overrides: str) -> RunPlan:
    few = ["budget.views=2", "budget.resolution=24", "baseline=gaussian", *overrides]
    config = compose(prompt="a red ball", guidance="csds", prior="gaussian", overrides=few)
    return build_plan({**config, "networks": {"twin": config["baseline"]}})


def test_a_baseline_is_moved_like_the_teacher(
    moved: list[tuple[DiscPrior, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assembling, "pick_device", lambda name: torch.device("meta"))
    parts = assemble(plan_of())
    teacher, baseline = (parts.stages[0].networks[name] for name in ("teacher", "baseline"))
    assert moved == [(teacher, "meta"), (baseline, "meta")] and teacher is not baseline


def test_a_baseline_may_want_what_its_class_names_only(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_of()
    prior = build_prior(plan, torch.device("cpu"))
    real = DiscPrior.__init__

    def greedy(self: DiscPrior, *args, **kwargs) -> None:
        real(self, *args, **kwargs)
        self.wants = self.wants | {"depth"}

    monkeypatch.setattr(DiscPrior, "__init__", greedy)
    with pytest.raises(
        UsageError, match=r"^baseline\.model: DiscPrior wants depth, which its class does not name"
    ):
        build_networks(plan, plan.stages[0], prior)
    with pytest.raises(
        UsageError, match=r"^prior\.model: DiscPrior wants depth, which its class does not name"
    ):
        build_prior(plan, torch.device("cpu"))


def test_stages_share_the_networks_of_one_recipe(moved: list[tuple[DiscPrior, str]]) -> None:
    """Moved once is loaded once."""
    stages = "stages=[{name: a}, {name: b}, {name: c, baseline: {model: {std: 0.4}}}]"
    plan = plan_of(stages)
    systems = assembling.build_stages(plan, build_prior(plan, torch.device("cpu")))
    first, second, third = (system.networks["baseline"] for system in systems)
    assert first is second and first is not third and (first._std, third._std) == (0.3, 0.4)
    assert all(system.networks["twin"] is first for system in systems)
    assert [network for network, _ in moved[1:]] == [first, third]
