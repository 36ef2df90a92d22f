"""Runs of several stages: each starts from what the one before it made, and killing one anywhere changes nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import threedistill.training.handover as handover
import threedistill.training.stages as stages
from threedistill.commands.stage_file import stages_override
from threedistill.config import compose
from threedistill.errors import UsageError
from threedistill.pipeline import Result, generate, resume
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.checkpoint import StageState
from threedistill.training.planning import build_plan
from threedistill.training.run_folder import RunFolder

FIELD = [
    "representation.model.log2_entries=10", "representation.model.levels=4", "representation.model.start_levels=2",
    "representation.model.finest_resolution=32", "representation.model.steps=48",
    "representation.model.occupancy_resolution=24", "representation.model.occupancy_every=5",
]  # fmt: skip
TINY = [
    *FIELD, "budget.iterations=12", "budget.views=2", "budget.resolution=24", "budget.grid=40", "budget.faces=400",
    "budget.texture=64", "trainer.checkpoint_every=4", "trainer.preview_every=8", "trainer.log_every=4",
    "prior.model.size=24", "export.turntable_frames=0",
    "convert.steps=6", "convert.polish=3", "convert.views=2", "convert.size=24", "convert.bank=4",
    "convert.resolution=32",
]  # fmt: skip
#: A field, the same field once more, and a field of another size.
THREE = (
    "stages=[{name: coarse, iterations: 8, resolution: 24, shading: none}, "
    "{name: again, iterations: 6, resolution: 24, optim: {lr: {table: 0.002}}}, "
    "{name: larger, iterations: 6, resolution: 24, representation: {model: {levels: 5, hidden: 16}}}]"
)


def make(out: Path, *overrides: str, stages: str = THREE, **kwargs):
    return generate(
        "a red disc", out=out, preset="draft", prior="gaussian", quiet=True, overrides=[*TINY, stages, *overrides],
        **kwargs,
    )  # fmt: skip


def state(run: Path, index: int, name: str) -> dict[str, torch.Tensor]:
    return StageState(RunFolder(run).checkpoint(index, name))._tensors


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run."""
    return make(tmp_path_factory.mktemp("stages") / "run").run_dir


# ---- the configuration ---------------------------------------------------------------------------------------------


def composed(*overrides: str, **kwargs):
    return compose(prompt="a red ball", prior="oracle", overrides=[*FIELD, *overrides], **kwargs)


def test_a_stage_without_parts_has_the_runs() -> None:
    config = composed()
    assert set(config["stages"][0]) == {
        "_target_",
        "name",
        "iterations",
        "resolution",
        "shading",
        "latents",
        "span",
    }


def test_a_part_by_name_is_that_option_and_a_mapping_changes_the_runs() -> None:
    config = composed(
        "stages=[{name: a, iterations: 1, optim: {lr: {table: 0.5}}, cameras: {elevation: [0.0, 9.0]}, guidance: sds}]",
        "representation.lr.mlp=0.25",
    )
    build_plan(config)
    node = config["stages"][0]
    assert node["optim"]["lr"] == {"table": 0.5, "mlp": 0.25}
    assert node["optim"]["decay"] == config["optim"]["decay"]
    assert node["cameras"] == {**config["cameras"], "elevation": [0.0, 9.0]}
    assert node["guidance"] == config["guidance"]
    assert "regularizers" not in node


def test_overrides_reach_into_a_stage() -> None:
    config = composed("stages.0.representation.model.levels=3", "stages.0.guidance.rule.cfg.scale=7.5")
    build_plan(config)
    assert config["stages"][0]["representation"]["model"]["levels"] == 3
    assert config["representation"]["model"]["levels"] == 4
    assert config["stages"][0]["guidance"]["rule"]["cfg"]["scale"] == 7.5
    assert composed("stages.0.representation.lr.mlp=0.5")["stages"][0]["optim"]["lr"] == {
        "table": 0.01,
        "mlp": 0.5,
    }
    assert composed("stages.0.iterations=5")["stages"][0]["iterations"] == 5


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("stages=[{name: a, itertions: 3}]", "stages.0: unknown key 'itertions'; did you mean 'iterations'?"),
        ("stages=[{name: a, representaton: hashgrid}]",
         "stages.0: unknown key 'representaton'; did you mean 'representation'?"),
        ("stages=[{name: a, representation: hashgird}]", "unknown representation 'hashgird'; did you mean 'hashgrid'?"),
        ("stages=[{name: a, optim: {lrs: {table: 1}}}]", "stages.0.optim: unknown key 'lrs'; did you mean 'lr'?"),
        ("stages=[{name: a, cameras: {views: many}}]", "stages.0.cameras.views='many' must be a whole number"),
        ("stages=[{name: a, optim: 3}]", "stages.0.optim=3 is neither an option's name nor a mapping"),
        ("stages=[a]", "stages.0='a' must be a mapping"),
        ("stages=[]", "stages=[] must be a list of at least one stage"),
        ("stages=[{name: a, span: [0.5, 0.2]}]", "stages.0.span=[0.5, 0.2] must not run backwards"),
        ("stages=[{name: a/b}]", "stages.0: name='a/b'"),
        ("stages.0.representation.model.levls=3", "did you mean 'levels'?"),
        ("stages.7.representation=hashgrid", "there are only the stages 0 to 0"),
        ("stages.0.itertions=3", "did you mean 'stages.0.iterations'?"),
    ],
)  # fmt: skip
def test_mistakes_in_a_stage_are_named(override: str, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_plan(composed(override))
    assert line in str(caught.value)


def test_the_list_in_the_docs_is_read_from_a_file(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "stages.md"
    text = re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    file = tmp_path / "mine.yaml"
    file.write_text(text.replace("iterations: 800", "iterations: ${budget.iterations}"))
    config = composed(stages_override(str(file)), "budget.iterations=7")
    build_plan(config)
    coarse, splats, finish = config["stages"]
    assert coarse["iterations"] == 7 and "representation" not in coarse
    assert splats["representation"]["name"] == "gaussians"
    assert splats["optim"]["lr"] == splats["representation"]["lr"]
    assert finish["optim"]["lr"] == {**splats["optim"]["lr"], "means": 0.0}
    for content, line in (
        ("3", "must hold a list"),
        ("[", "not readable"),
        ("- {a b: 1}", "cannot be a key"),
    ):
        file.write_text(content)
        with pytest.raises(UsageError, match=line):
            stages_override(str(file))
    with pytest.raises(UsageError, match="no such file"):
        stages_override(str(tmp_path / "none.yaml"))


# ---- the run -------------------------------------------------------------------------------------------------------


def test_every_stage_starts_from_the_one_before(whole: Path) -> None:
    files = sorted(str(p.relative_to(whole)) for p in whole.rglob("last.safetensors"))
    assert files == [f"checkpoints/{n}/last.safetensors" for n in ("00-coarse", "01-again", "02-larger")]
    rows = [r.split(",")[:2] for r in (whole / "metrics.csv").read_text().splitlines()[1:]]
    assert rows == [["0", "4"], ["0", "8"], ["1", "4"], ["1", "6"], ["2", "4"], ["2", "6"]]
    # Pictures are numbered through: 8, then 8 + 6, then 8 + 6 + 6.
    assert sorted(p.stem for p in (whole / "preview").iterdir()) == ["000008", "000014", "000020"]
    # The second stage moved the first one's field a little, it did not begin anew.
    first, second = (state(whole, i, n)["module/scenes.0.table"] for i, n in ((0, "coarse"), (1, "again")))
    moved = (second - first).norm() / first.norm()
    assert 0 < moved < 0.5
    assert float(state(whole, 1, "again")["module/scenes.0.progress"]) > 0.5


def killed_at(monkeypatch: pytest.MonkeyPatch, run: Callable[[], object], stage: str, iteration: int) -> None:
    """Carry out ``run`` and send the process a signal when this iteration of this stage has begun."""
    step = stages.ScoreDistillation.training_step

    def training_step(self, index: int, batch_index: int = 0) -> None:
        if self.stage.name == stage and index == iteration:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, index, batch_index)

    with monkeypatch.context() as patch:
        patch.setattr(stages.ScoreDistillation, "training_step", training_step)
        with pytest.raises(KeyboardInterrupt):
            run()


def assert_same(run: Path, whole: Path) -> None:
    """Every stage's state and the asset are equal to the last bit."""
    for path in sorted(whole.rglob("last.safetensors")):
        ours = StageState(run / path.relative_to(whole))._tensors
        theirs = StageState(path)._tensors
        assert ours.keys() == theirs.keys()
        assert not [name for name in ours if not torch.equal(ours[name], theirs[name])], path.parent.name
    assert (run / "asset/model.glb").read_bytes() == (whole / "asset/model.glb").read_bytes()


def test_killed_in_every_stage_and_resumed_gives_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    killed_at(monkeypatch, lambda: make(run), "coarse", 5)
    assert RunFolder(run).read_record()["status"] == "interrupted"
    killed_at(monkeypatch, lambda: resume(run, quiet=True), "again", 2)
    killed_at(monkeypatch, lambda: resume(run, quiet=True), "larger", 0)
    killed_at(monkeypatch, lambda: resume(run, quiet=True), "larger", 4)
    resume(run, quiet=True)
    assert_same(run, whole)


def test_killed_between_stages_repeats_the_conversion_exactly(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The conversion dies in its middle: no checkpoint of the stage exists yet."""
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run/checkpoints/02-larger")
    (tmp_path / "run/asset/model.glb").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(handover, "save_stage", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            resume(tmp_path / "run", quiet=True)
    resume(tmp_path / "run", quiet=True)
    assert_same(tmp_path / "run", whole)


def test_a_finished_stage_is_neither_repeated_nor_converted_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/asset/model.glb").unlink()
    shutil.rmtree(tmp_path / "run/checkpoints/00-coarse")  # nobody asks for it any more
    monkeypatch.setattr(stages.ScoreDistillation, "training_step", None)
    monkeypatch.setattr(handover, "convert", None)
    again = resume(tmp_path / "run", quiet=True)
    assert again.asset.read_bytes() == (whole / "asset/model.glb").read_bytes()


def test_rates_and_views_of_later_stages_are_checked_before_the_first_begins() -> None:
    config = composed("stages=[{name: a}, {name: b, cameras: {views: 3}, optim: {lr: {table: 0.1}}}]")
    plan = build_plan(config)
    prior = build_prior(plan, torch.device("cpu"))
    prior.view_group = 2
    with pytest.raises(UsageError, match=r"cameras\.views=3 is not a multiple"):
        build_stages(plan, prior)
    prior.view_group = 1
    del config["stages"][1]["optim"]["lr"]["mlp"]
    with pytest.raises(UsageError, match=r"stages\.1: .*no rate for the parameter group 'mlp'"):
        build_stages(build_plan(config), prior)


def test_high_is_a_field_then_its_geometry_then_its_colours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in every stage, resumed, the same bytes; and the last stage leaves the shape alone."""

    def high(out: Path) -> Result:
        small = [
            "stages.1.representation.model.resolution=12", "stages.2.representation.model.resolution=12",
            "budget.geometry_iterations=6", "budget.texture_iterations=6", "budget.iterations=8",
        ]  # fmt: skip
        return generate(
            "a red disc", out=out, preset="high", prior="gaussian", quiet=True, overrides=[*TINY, *small]
        )

    whole, run = high(tmp_path / "whole").run_dir, tmp_path / "run"
    killed_at(monkeypatch, lambda: high(run), "coarse", 3)
    killed_at(monkeypatch, lambda: resume(run, quiet=True), "geometry", 2)
    killed_at(monkeypatch, lambda: resume(run, quiet=True), "texture", 4)
    resume(run, quiet=True)
    assert_same(run, whole)
    shape, later = (state(whole, i, n) for i, n in ((1, "geometry"), (2, "texture")))
    assert torch.equal(shape["module/scenes.0.shape.table"], later["module/scenes.0.shape.table"])
    assert not torch.equal(shape["module/scenes.0.color.table"], later["module/scenes.0.color.table"])
    assert RunFolder(whole).read_record()["representation"] == "dmtet"
