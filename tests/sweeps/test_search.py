"""Searches: the study on disk, stopped and continued; the figure is a closed form, or a column of stubbed runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from threedistill.errors import UsageError
from threedistill.sweeps.plan import Setting
from threedistill.sweeps.search import Axis, Search, axis

pytest.importorskip("optuna")

AXES = [axis("cfg.scale=interval(0,10)"), axis("guidance=sds,csd"), axis("export.faces=500")]


def searching(root: Path, asked: list[str], stop_at: int | None = None) -> Search:
    """``-(scale - 7)^2``, and 5 less with csd; interrupted in the middle of trial ``stop_at``."""

    def value(setting: Setting) -> float | None:
        asked.append(setting.name)
        if stop_at is not None and len(asked) == stop_at:
            raise KeyboardInterrupt
        assert "export.faces=500" in setting.overrides and set(setting.choices) == {"cfg.scale", "guidance"}
        if len(asked) == 3:
            raise UsageError("these do not work together")
        return -((float(setting.choices["cfg.scale"]) - 7) ** 2) - 5 * (setting.choices["guidance"] == "csd")

    facts = {"prompts": ["a"], "seeds": [0], "setting": {"preset": "bench"}}
    return Search(root, AXES, "iou", True, value, facts)


def test_a_search_that_was_stopped_asks_what_one_that_was_not_asks(tmp_path: Path):
    whole: list[str] = []
    found = searching(tmp_path / "a", whole).run(14)
    assert len(found.trials) == len(whole) == 14 and found.trials[2]["state"] == "fail"
    assert found.best is not None and abs(float(found.best["settings"]["cfg.scale"]) - 7) < 1.5
    assert found.best["settings"]["guidance"] == "sds"
    parts: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        searching(tmp_path / "b", parts, stop_at=6).run(14)
    assert len(parts) == 6
    # The trial that was under way is asked again, with the same settings; none that was finished is.
    rest = searching(tmp_path / "b", parts).run(14)
    assert parts[5] == parts[6] and [*parts[:6], *parts[7:]] == whole
    assert [t["value"] for t in rest.trials] == [t["value"] for t in found.trials]
    assert json.loads((tmp_path / "b" / "search.json").read_text())["best"] == rest.best
    assert searching(tmp_path / "b", parts).run(14).best == rest.best and len(parts) == 15


def test_two_searches_do_not_share_a_folder(tmp_path: Path):
    one, other = searching(tmp_path, []), searching(tmp_path, [])
    with one._alone(), pytest.raises(UsageError, match="another process searches here"):
        other.run(1)


def test_axes_in_hydras_grammar():
    assert axis("a=interval(2,20.5)") == Axis("a", (), 2.0, 20.5)
    assert axis("a=int(interval(1,8))") == Axis("a", (), 1.0, 8.0, whole=True)
    assert axis("a=tag(log,interval(1e-4,0.1))") == Axis("a", (), 1e-4, 0.1, log=True)
    assert axis("a=x,y") == Axis("a", ("x", "y")) and axis("a=range(0,3)") == Axis("a", ("0", "1", "2"))
    assert axis("a=7") == Axis("a", ("7",))
    for wrong in ("a=interval(3,2)", "a=tag(log,interval(0,1))"):
        with pytest.raises(UsageError, match="from a lower to a higher number"):
            axis(wrong)
    with pytest.raises(UsageError, match="nothing to search"):
        Search(Path("nowhere"), [axis("a=7")], "iou", True, lambda s: 0.0, {"setting": {}}).run(3)


def test_the_command_searches_over_prompts_and_seeds(command: Callable, monkeypatch: pytest.MonkeyPatch):
    """Runs are stubbed: the figure of a run is its CFG scale over 100, so the largest is the best."""
    import threedistill.commands.search as verb
    from threedistill.config import read_config, write_config
    from threedistill.evaluation.report import write_json
    from threedistill.sweeps import launch as launch_module
    from threedistill.training.run_folder import RunFolder

    made: list[str] = []

    def carry_out(plan, numbers, launch):
        for n in numbers:
            folder, config = plan.folder(n), plan.config(plan.entries[n]["config"])
            if (folder / "run.json").exists():
                continue
            made.append(folder.name)
            run = RunFolder(folder)
            run.asset_dir.mkdir(parents=True)
            (run.asset_dir / "model.glb").write_text("glTF")
            run.update_record(status="done", prompt=plan.prompt(n), seconds={"stage": 1.0})
            write_json(folder / "eval.json", {"shape": {"silhouette_iou": config["cfg"]["scale"] / 100}})

    monkeypatch.setattr(launch_module, "carry_out", carry_out)
    assert verb.search and read_config and write_config
    Path("prompts.txt").write_text("a red mushroom\na blue car\n")
    line = ["sweep", "--prompts", "prompts.txt", "--preset", "bench", "--maximize", "iou", "--trials", "4",
            "cfg.scale=interval(2,20)", "seed=0,1"]  # fmt: skip
    outcome = command(*line)
    assert outcome.status == 0, outcome.err
    assert outcome.out.strip() == "sweeps/prompts/search.json" and len(made) == 16
    found = json.loads(Path("sweeps/prompts/search.json").read_text())
    assert found["best"]["value"] == pytest.approx(max(t["value"] for t in found["trials"]))
    assert found["best"]["value"] == pytest.approx(float(found["best"]["settings"]["cfg.scale"]) / 100)
    assert "best of 4 trials: cfg.scale=" in outcome.err
    assert len(Path("sweeps/prompts/results.csv").read_text().splitlines()) == 17
    assert command(*line).status == 0 and len(made) == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--trials", "3"], "--trials belongs to a search; add --maximize METRIC"),
        (["--maximize", "iou", "--minimize", "iou"], "exclude each other"),
        (["--maximize", "iou", "--dry-run"], "--dry-run belongs to a grid"),
        (["--maximize", "iuo", "a=1,2"], "there is no 'iuo'"),
        (["--maximize", "fid:toybox", "a=1,2"], "needs --reference"),
        (["--maximize", "iou", "cfg.scale=3"], "nothing to search"),
    ],
)
def test_searches_that_make_no_sense(command: Callable, words: list[str], said: str):
    Path("prompts.txt").write_text("a red mushroom\n")
    outcome = command("sweep", "--prompts", "prompts.txt", *words)
    assert outcome.status == 2 and said in outcome.err, outcome.err
