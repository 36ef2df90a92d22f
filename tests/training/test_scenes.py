"""Several scenes side by side: one at a time, each as if it were alone; the judge's favourite becomes the asset."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from threedistill.cameras import orbit
from threedistill.config import Recipe, read_config
from threedistill.pipeline import generate
from threedistill.protocols import RenderContext, Representation
from threedistill.rng import Streams
from threedistill.training.checkpoint import StageState
from threedistill.training.optim import Adam, apply_refinement
from threedistill.training.planning import asset_plan
from threedistill.training.reexport import reopen
from threedistill.training.run_folder import RunFolder
from threedistill.training.scenes import Scenes
from threedistill.types import Refinement, Rendering


class Dot(Representation):
    """One number that is rendered as a grey picture; every third of its own steps it doubles its rows."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.shade = nn.Parameter(torch.tensor([value]))
        self.seen: list[int] = []

    def render(self, cameras, context):
        grey = self.shade.mean().expand(len(cameras), 2, 2, 3)
        return Rendering(grey, grey[..., :1], grey[..., :1], context.background)

    def parameter_groups(self):
        return {"shade": [self.shade]}

    def after_step(self, iteration, progress, rng):
        self.seen.append(iteration)
        if iteration != 2:
            return None
        source = torch.tensor([0, 0])
        return Refinement(source, torch.tensor([False, True]), {"shade": self.shade.detach()[source]})

    def extract(self, resolution):
        raise NotImplementedError

    def surface_color(self, points, normals):
        raise NotImplementedError


def run(scenes: Scenes, iterations: int) -> tuple[list[int], torch.optim.Optimizer]:
    optimizer = Adam(lr={"shade": 0.1}).build(scenes.parameter_groups())
    turns = []
    for index in range(iterations):
        rng = Streams(3, iteration=index)
        turns.append(scenes.turn(rng))
        scene = scenes[turns[-1]]
        out = scene.render(
            orbit(2, size=2), RenderContext(progress=0.0, background=torch.ones(2, 3), rng=rng)
        )
        optimizer.zero_grad(set_to_none=True)
        out.rgb.sum().backward()
        assert [p.grad is not None for p in scenes.parameters()] == [
            i == turns[-1] for i in range(len(scenes))
        ]
        optimizer.step()
        refinement = scenes.after_step(turns[-1], 0.0, rng)
        if refinement is not None:
            apply_refinement(optimizer, scene, refinement)
    return turns, optimizer


def test_each_particle_moves_as_if_it_were_alone():
    scenes = Scenes([Dot(0.1), Dot(0.5), Dot(0.9)])
    turns, optimizer = run(scenes, 20)
    assert set(turns) == {0, 1, 2}
    for index, dot in enumerate(scenes):
        steps = turns.count(index)
        assert dot.seen == list(range(steps)), "it counts its own steps"
        alone = Dot((0.1, 0.5, 0.9)[index])
        assert set(run(Scenes([alone]), steps)[0]) == {0}
        assert torch.equal(alone.shade, dot.shade)
        assert len(dot.shade) == (2 if steps > 2 else 1)
        assert int(optimizer.state[dot.shade]["step"]) == steps
    assert scenes.steps.tolist() == [turns.count(i) for i in range(3)]


def test_scenes_answer_for_nobody_and_their_groups_share_rates():
    scenes = Scenes([Dot(0.1), Dot(0.5)])
    assert not isinstance(scenes, Representation)
    groups = scenes.parameter_groups()
    assert list(groups) == ["particle-0/shade", "particle-1/shade"]
    assert list(Scenes([Dot(0.1)]).parameter_groups()) == ["shade"]
    assert [row["lr"] for row in Adam(lr={"shade": 0.2}).build(groups).param_groups] == [0.2, 0.2]
    with pytest.raises(ValueError, match="no rate for the parameter group 'shade'"):
        Adam(lr={"table": 0.2}).build(groups)
    with pytest.raises(ValueError, match="at least one scene"):
        Scenes([])


def test_a_run_writes_every_particle_and_keeps_the_judges_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    done = generate(
        "a red ball", out=tmp_path / "run", preset="draft", prior="gaussian", guidance="sds", quiet=True,
        overrides=[
            "particles=2", "budget.iterations=16", "budget.views=2", "budget.resolution=16", "budget.grid=32",
            "budget.faces=300", "budget.texture=64", "prior.model.size=16", "trainer.preview_every=0",
            "representation.model.log2_entries=10", "representation.model.levels=4", "export.turntable_frames=0",
            "representation.model.start_levels=2", "representation.model.finest_resolution=32",
            "representation.model.steps=32",
        ],
    )  # fmt: skip
    asset = done.run_dir / "asset"
    record = json.loads((done.run_dir / "run.json").read_text())["particles"]
    best = record["best"]
    assert len(record["caption_logp"]) == 2
    assert record["caption_logp"][best] == max(record["caption_logp"])
    files = [(asset / f"particle-{i}" / "model.glb").read_bytes() for i in range(2)]
    assert files[0] != files[1], "particles start from different values"
    assert done.asset == asset / "model.glb" and done.asset.read_bytes() == files[best]

    # Made again, it is the best one alone.
    made = []
    make = Recipe.make
    monkeypatch.setattr(Recipe, "make", lambda self: made.append(make(self)) or made[-1])
    run = RunFolder(done.run_dir)
    plan = asset_plan(read_config(run.config))
    scene = reopen(run, plan)
    assert made == [scene]
    saved = StageState(run.checkpoint(plan.index, plan.stage))
    for name, value in scene.state_dict().items():
        assert torch.equal(value, saved._tensors[f"module/scenes.{best}.{name}"])
