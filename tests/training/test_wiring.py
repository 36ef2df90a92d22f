"""What a real run hands to each of its parts, recorded by parts that still do their work: each is right by itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from threedistill.guidance.regularizers import Regularizers
from threedistill.guidance.rules_student import VSD
from threedistill.guidance.surrogate import Surrogate
from threedistill.guidance.timesteps import Annealed, Uniform
from threedistill.pipeline import generate
from threedistill.protocols import RenderContext
from threedistill.representations.background import BackgroundSampler
from threedistill.representations.hashgrid import HashGrid
from threedistill.training.optim import Adam
from threedistill.types import Cameras, Rendering

TINY = [
    "representation.model.log2_entries=10", "representation.model.levels=4", "representation.model.start_levels=2",
    "representation.model.finest_resolution=32", "representation.model.steps=48",
    "representation.model.occupancy_resolution=24", "representation.model.occupancy_every=5",
    "budget.views=2", "budget.resolution=24", "budget.grid=40", "budget.faces=400", "budget.texture=64",
    "trainer.preview_every=0", "prior.model.size=24", "export.turntable_frames=0",
]  # fmt: skip


def recorded(
    patch: pytest.MonkeyPatch, owner: type, name: str, take: Callable[[Mapping[str, Any], Any], Any]
) -> list[Any]:
    """What ``take(arguments, answer)`` finds in every call of a method; None is left out."""
    method: Any = getattr(owner, name)
    signature, found = inspect.signature(method), []

    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        answer = method(*args, **kwargs)
        seen = take(bound.arguments, answer)
        if seen is not None:
            found.append(seen)
        return answer

    patch.setattr(owner, name, call)
    return found


def run(out: Path, *overrides: str) -> None:
    generate(
        "a red disc", out=out, preset="draft", prior="gaussian", quiet=True, overrides=[*TINY, *overrides]
    )


def test_the_guidance_and_the_student_follow_the_span_and_the_scene_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def progress(arguments: Mapping[str, Any], _answer: Any) -> float:
        return arguments["progress"]

    def in_training(arguments: Mapping[str, Any], _answer: Any) -> float | None:
        context = arguments["context"]
        return None if context.rng is None else context.progress

    of_guidance = {
        "noise levels": recorded(monkeypatch, Annealed, "sample", progress),
        "questions": recorded(monkeypatch, VSD, "queries", progress),
        "rule": recorded(monkeypatch, VSD, "__call__", progress),
        "guard": recorded(monkeypatch, Surrogate, "guard", progress),
        "student": recorded(monkeypatch, Uniform, "sample", progress),
    }
    of_scene = {
        "render": recorded(monkeypatch, HashGrid, "render", in_training),
        "regularizers": recorded(monkeypatch, Regularizers, "forward", progress),
        "rates": recorded(monkeypatch, Adam, "anneal", progress),
        "refinement": recorded(monkeypatch, HashGrid, "after_step", progress),
    }
    run(
        tmp_path / "run", "guidance=vsd", "student=gaussian", "timesteps=annealed",
        "stages=[{name: a, iterations: 4, span: [0.1, 0.5]}, {name: b, iterations: 2, span: [0.5, 0.7]}]",
    )  # fmt: skip
    for name, told in of_guidance.items():
        steps = {round(p, 9) for p in told}
        if name == "questions":  # asked for beforehand too, to check the rule
            steps &= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6}
        last = [0.7] if name == "student" else []  # what it has learned is measured when its stage is done
        assert sorted(steps) == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, *last], name
    for name, told in of_scene.items():
        assert [p for p in told if p < 1] == [0, 0.25, 0.5, 0.75, 0, 0.5], name  # 1: what a done stage shows


def test_the_background_keeps_away_from_the_running_mean_colour_of_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``m <- m + 0.05 (c - m)`` from grey: an object of colour c is avoided at ``c + (1/2 - c) 0.95^n``."""
    colour, render = torch.tensor([0.9, 0.2, 0.1]), HashGrid.render

    def painted(self: HashGrid, cameras: Cameras, context: RenderContext) -> Rendering:
        out = render(self, cameras, context)
        behind = context.background[:, None, None]
        return replace(
            out, rgb=colour * out.opacity + behind * (1 - out.opacity), background=context.background
        )

    monkeypatch.setattr(HashGrid, "render", painted)
    avoided = recorded(monkeypatch, BackgroundSampler, "sample", lambda told, _: told["avoid"].clone())
    run(tmp_path / "run", "budget.iterations=8")
    left = 0.95 ** torch.arange(8.0)[:, None]
    torch.testing.assert_close(torch.stack(avoided), colour + (0.5 - colour) * left, rtol=0, atol=1e-4)


def test_a_run_is_seen_under_the_law_of_light(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def seen(
        arguments: Mapping[str, Any], _answer: Any
    ) -> tuple[str, torch.Tensor | None, torch.Tensor] | None:
        context, cameras = arguments["context"], arguments["cameras"]
        return None if context.rng is None else (context.shading, context.light, cameras.c2w[:, :3, 3])

    steps = recorded(monkeypatch, HashGrid, "render", seen)
    run(tmp_path / "run", "budget.iterations=12", "light=dreamfusion", "light.spread=0.5")
    assert [shading for shading, *_ in steps[:3]] == ["none"] * 3
    assert {shading for shading, *_ in steps[3:]} == {"lambertian", "textureless"}
    lights = torch.stack([light for _, light, _ in steps if light is not None])
    assert lights.shape == (12, 2, 3) and float((lights[0] - lights[1]).abs().max()) > 1e-3
    places = torch.stack([place for *_, place in steps])
    towards = (lights * torch.nn.functional.normalize(places, dim=-1)).sum(-1)
    assert 0.8 < float(towards.mean()) < 0.9999


def test_every_step_has_a_headlight_unless_a_light_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lights = recorded(monkeypatch, HashGrid, "render", lambda told, _: (told["context"].light,))
    run(tmp_path / "run", "budget.iterations=3", "background=black")
    assert set(lights) == {(None,)}
