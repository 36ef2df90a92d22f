"""What recipes need of a step: learned surroundings, pictures taken for latents, a teacher per stage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.priors import folders
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.pipeline import generate
from threedistill.priors.analytic import DiscPrior
from threedistill.protocols import RenderContext
from threedistill.training.assemble import assemble, build_prior, build_stages
from threedistill.training.plan import RunPlan
from threedistill.training.planning import build_plan
from threedistill.training.run_folder import RunFolder

FEW = [
    "representation.model.log2_entries=8", "representation.model.levels=4", "representation.model.start_levels=2",
    "representation.model.finest_resolution=32", "representation.model.steps=24", "prior.model.size=16",
    "representation.model.occupancy_resolution=16", "budget.views=2", "budget.resolution=16", "budget.grid=24",
    "budget.faces=200", "budget.texture=32", "trainer.preview_every=0", "trainer.log_every=1",
    "export.turntable_frames=0",
]  # fmt: skip


def planned(*overrides: str) -> RunPlan:
    return build_plan(compose(prompt="a red disc", prior="gaussian", overrides=[*FEW, *overrides]))


def test_surroundings_stand_where_the_plain_colour_stood_and_learn() -> None:
    plan = planned("background=learned", "background.learned=1", "background.degree=1", "background.lr=0.5")
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    assert system.surroundings is not None
    with torch.no_grad():
        system.surroundings.coefficients.uniform_(-2, 2, generator=torch.Generator().manual_seed(0))
    rng = system.streams.at(3)
    facts, out, _ = system.look(0.0, rng)
    cameras, background = system._views(0.0, rng)
    plain = system.scenes[0].render(cameras, RenderContext(0.0, background, rng))
    behind = system.surroundings(cameras)
    bare = plain.rgb - (1 - plain.opacity) * background[:, None, None]
    torch.testing.assert_close(out.rgb, bare + (1 - plain.opacity) * behind)
    assert facts.background is not None
    torch.testing.assert_close(facts.background, behind.mean((1, 2)))
    optimizer = system.optim.build(system.parameter_groups())
    assert optimizer.param_groups[-1]["name"] == "surroundings" and optimizer.param_groups[-1]["lr"] == 0.5
    out.rgb.sum().backward()
    assert float(system.surroundings.coefficients.grad.abs().min()) > 0  # type: ignore[union-attr]
    assert build_stages(planned(), build_prior(plan, torch.device("cpu")))[0].surroundings is None


def test_the_picture_and_its_opacity_are_taken_for_latents_of_latent_priors_only(tmp_path: Path) -> None:
    plan = build_plan(
        compose(
            prompt="a red disc", prior="sd15", representation="dmtet",
            overrides=[
                *folders.settings("sd15", tmp_path), "budget.views=2",
                "budget.resolution=32", "background=black", "stages.0.latents=direct", "stages.0.shading=normal",
                "representation.model.resolution=8",
            ],
        )
    )  # fmt: skip
    system = assemble(plan).stages[0]
    _, out, _ = system.look(0.0, system.streams.at(0))
    x0 = system.encoded(out)
    side = system.prior.space.shape[1]
    assert x0.shape == (2, 4, side, side) and x0.requires_grad
    # The middle of a ball shows the normal towards the camera; its corners nothing: black, and no opacity.
    assert out.normal is not None
    assert torch.allclose(x0[:, :3, 0, 0], torch.tensor(-1.0)) and not x0[:, 3, 0, 0].any()
    shown = 2 * out.rgb[:, 15:17, 15:17].mean((1, 2)) - 1
    assert torch.allclose(shown, out.normal[:, 15:17, 15:17].mean((1, 2)), atol=0.02)
    plan = planned("stages.0.latents=direct")
    with pytest.raises(
        UsageError, match=r"^stages\.0\.latents=direct takes .* prior=gaussian works on PixelSpace"
    ):
        build_stages(plan, build_prior(plan, torch.device("cpu")))


STAGES = (
    "stages=[{name: first, iterations: 3, resolution: 16, shading: none, latents: encoded, span: [0.0, 0.5]},"
    "{name: second, iterations: 3, resolution: 16, shading: none, latents: encoded, span: [0.5, 1.0], "
    "prior: {option: gaussian, model: {radius: 0.8, size: 24}}}]"
)


def test_a_stage_may_have_a_teacher_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(STAGES)
    assert [stage.prior.model.where for stage in plan.stages] == ["prior.model", "stages.1.prior.model"]
    asked: list[tuple[int, tuple[int, ...]]] = []
    real = DiscPrior.predict

    def predict(self: DiscPrior, x_t: torch.Tensor, *rest: object) -> object:
        asked.append((id(self), tuple(x_t.shape[1:])))
        return real(self, x_t, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(DiscPrior, "predict", predict)
    generate("a red disc", out=tmp_path / "run", prior="gaussian", quiet=True, overrides=[*FEW, STAGES])
    shapes = [shape for _, shape in asked]
    assert (
        shapes == sorted(shapes)
        and set(shapes) == {(3, 16, 16), (3, 24, 24)}
        and len({i for i, _ in asked}) == 2
    )
    record = RunFolder(tmp_path / "run").read_record()
    assert record["status"] == "done" and record["prior"] == "gaussian"


def test_equal_teachers_of_stages_are_loaded_once_and_a_kept_student_stays_with_its_own() -> None:
    same = STAGES.replace(
        "{option: gaussian, model: {radius: 0.8, size: 24}}", "{option: gaussian, model: {size: 16}}"
    )
    first, second = assemble(planned(same)).stages
    assert first.prior is second.prior and len(assemble(planned(STAGES)).priors) == 2
    with pytest.raises(
        UsageError, match=r"keep=true: it grew on gaussian, and this stage's teacher is gaussian"
    ):
        planned(STAGES, "guidance=vsd", "student=gaussian", "student.keep=true")
