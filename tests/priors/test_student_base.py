"""The published form of student: adapters on a v-network beside an eps-teacher, at all levels, cameras by batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from threedistill.cameras import orbit
from threedistill.conditions import Conditions
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.pipeline import generate
from threedistill.priors.lora import LoRAStudent
from threedistill.priors.student import drop_cameras
from threedistill.protocols import STUDENT_CAMERA, NetworkPrior
from threedistill.rng import Streams
from threedistill.training.assemble import assemble
from threedistill.training.planning import build_plan

PROMPT = "a red duck"
SMALL = [
    "budget.views=2", "budget.resolution=16", "budget.iterations=2", "representation.model.count=40", "budget.grid=24",
    "budget.faces=100", "budget.texture=32", "trainer.preview_every=0", "export.turntable_frames=0",
    "trainer.log_every=1",
]  # fmt: skip


def words(pipelines: dict[str, tuple[Path, Any]], *more: str) -> list[str]:
    return [
        "student=lora_v", f"prior.model.model={pipelines['eps'][0]}", "prior.model.size=32", *SMALL,
        f"student.base.model={pipelines['v'][0]}", *more,
    ]  # fmt: skip


def plan_of(pipelines: dict[str, tuple[Path, Any]], *more: str):
    overrides = words(pipelines, *more)
    return build_plan(
        compose(prompt=PROMPT, prior="sd21", guidance="vsd", representation="gaussians", overrides=overrides)
    )


def test_it_is_another_network_than_the_teachers_and_begins_as_that(pipelines):
    system = assemble(plan_of(pipelines)).stages[0]
    teacher, learner = system.networks["teacher"], system.learners["student"]
    student = learner.model
    assert isinstance(student, LoRAStudent)
    generator = torch.Generator().manual_seed(0)
    x0, noise = (torch.randn(2, *teacher.space.shape, generator=generator) for _ in range(2))
    level = teacher.path.at_fraction(torch.tensor([0.3, 0.8]))
    x_t = level.add_noise(x0, noise)
    told = student.conditioning(Conditions([PROMPT] * 2, orbit(2)))
    answer, bare = student.predict(x_t, level, told), student.frozen.predict(x_t, level, told)
    assert (
        teacher.predict(x_t, level, teacher.conditioning(Conditions([PROMPT] * 2))).kind,
        answer.kind,
    ) == ("eps", "v")
    assert torch.equal(answer.value, bare.value)
    assert isinstance(teacher, NetworkPrior)
    theirs = {p.data_ptr() for p in teacher.network.parameters()}
    assert not theirs & {p.data_ptr() for p in student.twin.parameters()}

    settings = learner.settings
    assert (settings.camera_dropout, settings.camera_dropout_of) == (0.1, "batch")
    assert (settings.betas, settings.weight_decay) == ((0.9, 0.999), 0.01)
    indices = torch.cat(
        [learner.learned_at.sample(student.path, 0.0, Streams(k), 64).index for k in range(40)]
    )
    assert indices.min() <= 1 and indices.max() >= 998


def test_the_camera_is_withheld_from_all_views_of_a_step_or_from_none(pipelines):
    learner = assemble(plan_of(pipelines)).stages[0].learners["student"]
    told = {STUDENT_CAMERA: torch.ones(8, 14)}
    kept = torch.stack(
        [
            drop_cameras(told, learner._dropped(Streams(0, iteration=k), 8))[STUDENT_CAMERA][:, 0]
            for k in range(400)
        ]
    )
    assert torch.equal(kept, kept[:, :1].expand(-1, 8))
    assert 0.05 < 1 - float(kept.mean()) < 0.16


def test_a_whole_run(pipelines, tmp_path):
    run = generate(
        PROMPT, out=tmp_path / "run", preset="draft", prior="sd21", guidance="vsd", representation="gaussians",
        quiet=True, overrides=words(pipelines, "student.training.measure_every=1"),
    ).run_dir  # fmt: skip
    assert "student_gain" in (run / "metrics.csv").read_text().splitlines()[0]


def test_a_base_in_another_space_is_refused(pipelines):
    with pytest.raises(
        UsageError, match=r"^student\.base works on LatentSpace 4x4x4, the teacher sd21 on LatentSpace 4x8x8"
    ):
        assemble(plan_of(pipelines, "student.base.size=16"))
    config = compose(
        prompt=PROMPT, prior="sd21", guidance="vsd", representation="gaussians", overrides=words(pipelines)
    )
    config["student"]["base"] = {"_target_": "threedistill.priors.analytic.DiscPrior", "size": 32}
    with pytest.raises(UsageError, match="DiscPrior has none; use student=gaussian"):
        build_plan(config)
