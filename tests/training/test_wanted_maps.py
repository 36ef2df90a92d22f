"""Normals are rendered when a network wants them, regularisers where they have weights, and neither otherwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.training.test_student import TINY
from threedistill.config import compose
from threedistill.priors.analytic import DiscPrior
from threedistill.render import splat as splats
from threedistill.render import surface
from threedistill.representations import hashgrid, meshstats
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.planning import build_plan

#: Representation -> where its normals are computed, what it is made with.
MADE = {
    "hashgrid": (hashgrid, "field_normals", [word for word in TINY if not word.startswith("student=")]),
    # Holes open where the surface yields, which takes normals too.
    "dmtet": (surface, "vertex_normals", ["representation.model.resolution=8", "representation.model.yielding=0"]),
    "gaussians": (splats, "depth_normals", ["representation.model.count=40", "representation.model.normals=depth"]),
}  # fmt: skip
SMALL = ["budget.iterations=4", "budget.views=2", "budget.resolution=16", "prior.model.size=16"]


@pytest.mark.parametrize("name", MADE)
def test_normals_are_rendered_only_when_a_network_wants_them(name, monkeypatch: pytest.MonkeyPatch) -> None:
    place, function, settings = MADE[name]
    calls, told = [], []
    real, answer = getattr(place, function), DiscPrior.conditioning

    def counted(*args, **more):
        calls.append(function)
        return real(*args, **more)

    def recorded(self, conditions):
        told.append(conditions.given)
        return answer(self, conditions)

    monkeypatch.setattr(place, function, counted)
    monkeypatch.setattr(DiscPrior, "conditioning", recorded)

    def steps(*wants: str) -> list[torch.Tensor]:
        monkeypatch.setattr(DiscPrior, "wants", frozenset({"text", "background", *wants}))
        config = compose(
            prompt="a red ball", prior="gaussian", representation=name, guidance="sds",
            overrides=[*SMALL, *[s for s in settings if s not in SMALL]],
        )  # fmt: skip
        plan = build_plan(config)
        system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
        optimizers = system.configure_optimizers()
        system._optimizers = lambda: optimizers
        system.manual_backward = lambda loss: loss.backward()
        calls.clear()
        told.clear()
        for index in range(2):
            system.training_step(index)
        return [parameter.detach().clone() for parameter in system.scenes.parameters()]

    plain = steps()
    assert not calls and set(told) == {frozenset({"text", "background"})}
    wanting = steps("normal", "depth", "opacity")
    assert len(calls) == 2, "once per step"
    assert all({"normal", "depth", "opacity"} <= given and "rgb" not in given for given in told)
    assert all(torch.equal(a, b) for a, b in zip(plain, wanting, strict=True)), "what is told has no gradient"


def test_a_mesh_regulariser_is_computed_only_where_it_has_a_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str, real: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def call(*args) -> torch.Tensor:
            calls.append(name)
            return real(*args)

        return call

    for name in meshstats.NAMES:
        monkeypatch.setattr(meshstats, name, counted(name, getattr(meshstats, name)))
    none = [f"regularizers.weights.{name}=0" for name in sorted(meshstats.NAMES)]
    ramp = "{_target_: threedistill.schedule.Ramp, start: 0, end: 1, at: 0.5, over: 0.0}"
    later = f"regularizers.weights.laplacian={ramp}"
    config = compose(
        prompt="a red ball", prior="gaussian", representation="dmtet", guidance="sds",
        overrides=[*SMALL, *none, later, "regularizers.weights.eikonal=0.1", "representation.model.resolution=8"],
    )  # fmt: skip
    plan = build_plan(config)
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    for progress, wanted in ((0.0, ["eikonal"]), (0.75, ["eikonal", "laplacian"])):
        calls.clear()
        _, out, _ = system.look(progress, system.streams.at(0))
        assert calls == wanted
        assert meshstats.NAMES & out.stats.keys() == set(wanted)
