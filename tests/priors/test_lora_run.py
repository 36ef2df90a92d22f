"""VSD and ESD with a LoRA student, command to file: stopped and resumed, and nothing of the prior is written."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import torch

import threedistill.training.stages as stages
from threedistill.pipeline import generate, resume
from threedistill.training.checkpoint import StageState
from threedistill.training.run_folder import RunFolder

TINY = [
    "budget.iterations=6", "budget.views=2", "budget.resolution=16", "budget.grid=40", "budget.faces=300",
    "budget.texture=64", "trainer.preview_every=0", "representation.model.log2_entries=9",
    "representation.model.levels=4", "representation.model.start_levels=2", "export.turntable_frames=0",
    "representation.model.finest_resolution=32", "representation.model.steps=32", "trainer.checkpoint_every=2",
    "student.training.steps=2", "student.training.measure_every=2", "trainer.log_every=1",
]  # fmt: skip


def make(folder: Path, out: Path, guidance: str, prior: str) -> Path:
    return generate(
        "a red duck", out=out, preset="draft", prior=prior, guidance=guidance, quiet=True,
        overrides=[f"prior.model.model={folder}", *TINY],
    ).run_dir  # fmt: skip


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return StageState(RunFolder(run).checkpoint(0, "coarse"))._tensors


@pytest.mark.parametrize(("guidance", "prior", "kind"), [
    ("vsd", "sd15", "eps"), pytest.param("esd", "sd21", "v", marks=pytest.mark.slow),
])  # fmt: skip
def test_stopped_and_resumed_is_uninterrupted_and_the_prior_stays_out(
    pipelines, tmp_path, monkeypatch, guidance, prior, kind
):
    folder, pipeline = pipelines[kind]
    whole = make(folder, tmp_path / "whole", guidance, prior)
    step = stages.ScoreDistillation.training_step

    def interrupted(self, index, batch_index=0):
        if index == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, index, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(stages.ScoreDistillation, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make(folder, tmp_path / "parts", guidance, prior)
    assert int(tensors(tmp_path / "parts")["module/iteration"]) == 3
    resume(tmp_path / "parts", quiet=True)
    ours, theirs = tensors(tmp_path / "parts"), tensors(whole)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert (tmp_path / "parts/asset/model.glb").read_bytes() == (whole / "asset/model.glb").read_bytes()

    learned = {n: t for n, t in ours.items() if n.startswith("module/learner/student.model.")}
    assert {n.split(".")[2] for n in learned} == {"adapter", "camera"}
    assert any(n.startswith("optimizer/1/") for n in ours)
    adapter = sum(t.numel() for n, t in learned.items() if ".adapter." in n)
    assert 0 < adapter < sum(p.numel() for p in pipeline.unet.parameters()) / 2
    weights = {
        t.contiguous().numpy().tobytes() for t in pipeline.unet.state_dict().values() if t.numel() > 64
    }
    assert not weights & {t.contiguous().numpy().tobytes() for t in ours.values()}

    record = json.loads((whole / "run.json").read_text())["student"]
    assert record == json.loads((tmp_path / "parts/run.json").read_text())["student"]
    assert record["stage"] == "coarse" and {"student_gain", "camera_gain"} <= set(record)

    def logged(run: Path) -> list[str]:
        rows = (run / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("student_gain")
        return [row.split(",")[column] for row in rows[1:]]

    assert logged(whole) == logged(tmp_path / "parts")
