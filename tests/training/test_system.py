"""The step and the run: what they compute, that a resumed run is the uninterrupted one, and how a run ends."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

import threedistill.training.stages as stages
from threedistill.atomic import write_text
from threedistill.conditions import Conditions
from threedistill.config import compose, read_config
from threedistill.errors import ThreedistillError, UsageError
from threedistill.pipeline import generate, resume
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.callbacks import read_metrics
from threedistill.training.checkpoint import StageState
from threedistill.training.planning import build_plan
from threedistill.training.run_folder import RunFolder

#: Small enough for a test, large enough that every part of a run happens.
TINY = [
    "budget.iterations=24", "budget.views=2", "budget.resolution=24", "budget.grid=40", "budget.faces=400",
    "budget.texture=64", "trainer.checkpoint_every=6", "trainer.preview_every=12", "trainer.log_every=5",
    "representation.model.log2_entries=10", "representation.model.levels=4", "representation.model.start_levels=2",
    "representation.model.finest_resolution=32", "representation.model.steps=48", "prior.model.size=24",
    "representation.model.occupancy_resolution=24", "representation.model.occupancy_every=5",
    "export.turntable_frames=3", "export.preview_size=48",
]  # fmt: skip


def make(out: Path, *overrides: str, **kwargs):
    return generate(
        "a red ball",
        out=out,
        preset="draft",
        prior="oracle",
        quiet=True,
        overrides=[*TINY, *overrides],
        **kwargs,
    )


def parameters(run: Path) -> dict[str, torch.Tensor]:
    return StageState(RunFolder(run).checkpoint(0, "coarse"))._tensors


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One uninterrupted run."""
    return make(tmp_path_factory.mktemp("whole") / "run").run_dir


def test_what_the_rule_would_rather_see_is_shown_below_the_renders(whole: Path, tmp_path: Path) -> None:
    """With a narrow Gaussian it is the true picture, whatever the render looks like."""
    import numpy as np
    from PIL import Image

    run = make(tmp_path / "run", "trainer.preview_x0=true", "budget.iterations=12").run_dir
    both = np.asarray(Image.open(run / "preview" / "000012-x0.png")).astype(float) / 255
    assert both.shape == (2 * 24, 2 * 24, 3)
    wished = both[24:].reshape(24, 2, 24, 3)
    red = (wished[..., 0] - wished[..., 1]).max((0, 2))
    assert (red > 0.4).all(), "every view's target shows the red ball"
    assert np.abs(both[:24] - both[24:]).mean() > 0.02
    assert not list(whole.glob("preview/*-x0.png"))


def stop_after(monkeypatch: pytest.MonkeyPatch, iteration: int, number: int = signal.SIGINT) -> None:
    """Send this process a signal when the given iteration has begun."""
    step = stages.ScoreDistillation.training_step

    def training_step(self, index: int, batch_index: int = 0) -> None:
        if index == iteration:
            os.kill(os.getpid(), number)
        return step(self, index, batch_index)

    monkeypatch.setattr(stages.ScoreDistillation, "training_step", training_step)


def test_a_run_leaves_everything_it_promises(whole: Path) -> None:
    names = {str(p.relative_to(whole)) for p in whole.rglob("*") if p.is_file()}
    assert {
        "config.yaml", "run.json", "metrics.csv", "preview/000012.png", "preview/000024.png",
        "checkpoints/00-coarse/last.safetensors", "asset/model.glb", "asset/turntable.webp", "asset/sheet.png",
    } <= names  # fmt: skip
    assert not [n for n in names if "/." in n and not n.endswith(".lock")], "temporary files were left behind"
    record = json.loads((whole / "run.json").read_text())
    assert record["status"] == "done" and record["threads"] >= 1
    assert {"setup", "stage coarse", "export"} <= set(record["seconds"])
    rows = (whole / "metrics.csv").read_text().splitlines()
    assert [int(r.split(",")[1]) for r in rows[1:]] == [5, 10, 15, 20, 24]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need the main thread"
)
def test_interrupted_and_resumed_equals_uninterrupted(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        stop_after(patch, 9, number)
        with pytest.raises(KeyboardInterrupt) as stopped:
            make(tmp_path / "run")
    assert stopped.value.run_dir in (str(tmp_path / "run"), tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_record()["status"] == "interrupted"
    assert int(parameters(tmp_path / "run")["module/iteration"]) == 10

    resume(tmp_path / "run", quiet=True)
    ours, theirs = parameters(tmp_path / "run"), parameters(whole)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    assert (tmp_path / "run/asset/model.glb").read_bytes() == (whole / "asset/model.glb").read_bytes()
    untimed = [r.split(",seconds")[0] for r in (whole / "metrics.csv").read_text().splitlines()]
    resumed = (tmp_path / "run/metrics.csv").read_text().splitlines()
    assert len(resumed) == len(untimed)


def test_a_finished_stage_is_not_repeated(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run/asset/model.glb").unlink()
    monkeypatch.setattr(stages.ScoreDistillation, "training_step", None)
    again = resume(tmp_path / "run", quiet=True)
    assert again.asset.read_bytes() == (whole / "asset/model.glb").read_bytes()


def test_resume_takes_everything_from_the_folder_and_refuses_another_prompt(whole: Path) -> None:
    with pytest.raises(UsageError, match="was started with the prompt 'a red ball'"):
        generate("a blue ball", out=whole, resume=True, quiet=True)
    with pytest.raises(UsageError, match=r"other settings: preset=standard .* --overwrite"):
        generate("a red ball", out=whole, prior="oracle", quiet=True)
    with pytest.raises(UsageError, match="not a run folder"):
        resume(whole / "asset")


def test_a_damaged_checkpoint_costs_a_few_steps_and_two_are_one_clear_line(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(whole, tmp_path / "run")
    file = RunFolder(tmp_path / "run").checkpoint(0, "coarse")
    whole_bytes = file.read_bytes()
    flipped = bytearray(whole_bytes)
    flipped[len(flipped) // 2] ^= 1
    file.write_bytes(flipped)
    again = resume(tmp_path / "run", quiet=True)
    assert "is damaged; going on from the one before it" in capsys.readouterr().err
    assert again.asset.read_bytes() == (whole / "asset/model.glb").read_bytes()
    made_again, theirs = parameters(tmp_path / "run"), parameters(whole)
    assert all(torch.equal(made_again[name], value) for name, value in theirs.items())
    for name in ("last", "previous"):
        file.with_name(f"{name}.safetensors").write_bytes(whole_bytes[:1000])
    with pytest.raises(ThreedistillError, match="damaged"):
        resume(tmp_path / "run", quiet=True)
    record = RunFolder(tmp_path / "run").read_record()
    assert record["status"] == "failed" and "damaged" in record["error"]


def test_a_torn_metrics_file_is_mended(whole: Path, tmp_path: Path) -> None:
    import shutil

    for number, tail in enumerate((b"0,2", b"0,25,0.1\n", b"\0\0\0\0", b"\xff\xfe,\n", b'0,"')):
        run = tmp_path / str(number)
        shutil.copytree(whole, run)
        rows = (whole / "metrics.csv").read_bytes().splitlines(keepends=True)
        (run / "metrics.csv").write_bytes(b"".join(rows[:3]) + tail)
        assert read_metrics(run / "metrics.csv")[1][-1]["iteration"] == "10"
    shutil.rmtree(run / "checkpoints")  # the steps are made again, onto what is left of the file
    resume(run, quiet=True)
    found = [row["iteration"] for row in read_metrics(run / "metrics.csv")[1]]
    assert found == [row["iteration"] for row in read_metrics(whole / "metrics.csv")[1]]


def test_more_steps_are_a_stage_that_goes_on_where_the_run_ended(whole: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(whole, run)
    before = parameters(run)
    write_text(run / "eval.json", "{}")
    again = resume(run, quiet=True, overrides=["budget.iterations=30"])
    config = read_config(run / "config.yaml")
    assert [stage["name"] for stage in config["stages"]] == ["coarse", "coarse-more"]
    more = config["stages"][1]
    assert more["iterations"] == 6 and more["span"] == [1.0, 1.0]
    assert more["optim"]["decay"] == pytest.approx(0.1), "rates stay where they were at the end"
    assert all(torch.equal(before[name], value) for name, value in parameters(run).items())
    later = StageState(RunFolder(run).checkpoint(1, "coarse-more"))
    assert later.facts["iteration"] == 6
    table = "module/scenes.0.table"
    moved = (later._tensors[table] - before[table]).norm() / before[table].norm()
    assert 0 < moved < 0.2, "it goes on, it does not begin anew"
    assert again.asset.read_bytes() != (whole / "asset/model.glb").read_bytes()
    assert not (run / "eval.json").exists(), "that was another asset"
    with pytest.raises(UsageError, match="has 30 iterations already"):
        resume(run, overrides=["budget.iterations=30"])
    twice = resume(run, quiet=True, overrides=["budget.iterations=31"])
    assert read_config(twice.run_dir / "config.yaml")["stages"][2]["name"] == "coarse-more2"


def test_another_seed_is_another_run(whole: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "run", seed=1).run_dir
    assert not torch.equal(
        parameters(other)["module/scenes.0.table"], parameters(whole)["module/scenes.0.table"]
    )


def test_the_prior_is_never_in_the_checkpoint_nor_a_submodule(whole: Path) -> None:
    config = compose(prompt="a red ball", prior="oracle", preset="draft", overrides=TINY)
    plan = build_plan(config)
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    roots = {name.split(".")[0] for name, _ in system.named_modules() if name}
    assert roots == {"scenes", "regularizers"}
    assert not any("teacher" in name or "prior" in name for name in parameters(whole))


def test_the_scene_gradient_is_the_direction_through_the_render() -> None:
    """The surrogate's gradient at the render, pulled back by hand, is what the optimizer sees."""
    config = compose(
        prompt="a red ball", prior="oracle", preset="draft",
        overrides=[*TINY, "regularizers.weights.sparsity=0", "regularizers.weights.opacity_entropy=0"],
    )  # fmt: skip
    plan = build_plan(config)
    system = build_stages(plan, build_prior(plan, torch.device("cpu")))[0]
    from threedistill.protocols import RenderContext

    rng = system.streams.at(0)
    cameras, background = system._views(0.0, rng)
    out = system.scenes[0].render(cameras, RenderContext(progress=0.0, background=background, rng=rng))
    x0 = system.prior.space.encode(out.rgb)
    direction, _, nonfinite = system._direction(x0, Conditions((), cameras, background), 0.0, rng)
    assert nonfinite == 0 and not direction.requires_grad
    loss = system.guidance.surrogate.loss(x0, direction)
    table = system.scenes[0].table
    (ours,) = torch.autograd.grad(loss, table, retain_graph=True)
    (by_hand,) = torch.autograd.grad(x0, table, grad_outputs=direction / len(cameras))
    torch.testing.assert_close(ours, by_hand, rtol=1e-5, atol=1e-9)
    assert ours.abs().max() > 0


def test_impossible_requests_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        generate("a red zzyzx", out=tmp_path / "run", quiet=True)
    with pytest.raises(UsageError):
        make(tmp_path / "run", "optim.lr.table=-1")
    assert not (tmp_path / "run").exists()
