"""One run of a sweep, by its number: the function that Hydra's launchers carry to wherever it runs.

Only numbers and paths travel; prompts and settings are read from the sweep's folder. Nothing but an interruption
escapes from here, so one failed run never stops the rest.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from threedistill.atomic import read_json, write_text
from threedistill.errors import ThreedistillError, UsageError
from threedistill.sweeps.plan import Plan
from threedistill.sweeps.workers import one_gpu, with_parent
from threedistill.training.run_folder import RunBusy, RunFolder

if TYPE_CHECKING:
    from threedistill.protocols import Critic

__all__ = ["Outcome", "evaluate_run", "finished", "looked_at", "read_record", "run_job", "work"]

Outcome = Literal["done", "skipped", "failed", "busy", "waiting"]


def run_job(cfg: Any) -> str:
    """Hydra's task function.

    Arguments:
        cfg: ``root`` (the sweep's folder), ``job`` (a run's number), ``threads`` (0 = as the environment says),
            ``deadline`` (seconds since the epoch after which nothing is started; 0 = none), ``evaluate``, ``parent``
            (who started the sweep: a worker ends with it), ``gpu`` (whether it takes one GPU of several).
    """
    from threedistill.threads import settle_threads

    settle_threads()
    if cfg.threads:
        import torch

        torch.set_num_threads(int(cfg.threads))
    with with_parent(str(cfg.parent)), one_gpu() if cfg.gpu else contextlib.nullcontext():
        return work(Plan(cfg.root), int(cfg.job), deadline=float(cfg.deadline), evaluate=bool(cfg.evaluate))


def work(plan: Plan, index: int, *, deadline: float = 0.0, evaluate: bool = True) -> Outcome:
    """Make one run, continue it, or find it finished.

    Returns:
        ``done``; ``skipped``: it was finished already; ``failed``: see its run.json; ``busy``: another process works
        on it; ``waiting``: the deadline has passed.

    Raises:
        KeyboardInterrupt: stopped on request, with the run's state on disk.
    """
    run = RunFolder(plan.folder(index))
    outcome: Outcome = "skipped"
    try:
        if not finished(run.path):
            if deadline and time.time() > deadline:
                return "waiting"
            _make(plan, index, run)
            outcome = "done"
        if evaluate:
            evaluate_run(run.path)
    except RunBusy:
        return "busy"
    except Exception as error:
        _note_failure(RunFolder(run.path), error, known=isinstance(error, ThreedistillError))
        return "failed"
    return outcome


def _note_failure(run: RunFolder, error: Exception, known: bool) -> None:
    """Write down why a run failed, where its folder takes it; the table says what it sees otherwise."""
    line = " ".join(str(error).split()) or type(error).__name__
    note = line if known else f"{type(error).__name__}: {line}; see traceback.txt"
    with contextlib.suppress(ThreedistillError):
        if not known:
            write_text(run.path / "traceback.txt", traceback.format_exc())
        if finished(run.path):  # the asset is there; only looking at it failed
            run.update_record(evaluation_error=note)
        else:
            run.update_record(status="failed", error=note)


def _make(plan: Plan, index: int, run: RunFolder) -> None:
    """Continue the run in its folder, or begin it with the configuration that the plan holds for it."""
    from threedistill import pipeline
    from threedistill.config import accept, with_pictures

    entry = plan.entries[index]
    request = entry["config"]
    with run.locked():
        run.settle()
        run.reopen()
        begun = (run.holds_run or run.holds_request) and run.read_record().get("request") == request
    if begun:
        pipeline.resume(run.path, quiet=True)
        return
    config = {
        **with_pictures(plan.config(request), lambda _, file: str(plan.root / file)),
        "prompt": plan.prompt(index), "negative": entry["negative"], "seed": entry["seed"], "device": entry["device"],
    }  # fmt: skip
    accept(config, f"{plan.root / 'sweep'}")
    pipeline.start_run(config, run.path, quiet=True, facts={"request": request})


def finished(folder: Path) -> bool:
    """Whether a run is done and its asset is there."""
    record = read_json(folder / "run.json")
    return record.get("status") == "done" and any((folder / "asset").glob("model.*"))


def read_record(folder: Path) -> dict[str, Any]:
    """A run's record with its ``status``, ``seconds`` and ``error`` of the right types, whatever is on the disk."""
    record = read_json(folder / "run.json")
    seconds = record.get("seconds")
    seconds = seconds if isinstance(seconds, dict) else {}
    record["seconds"] = {k: v for k, v in seconds.items() if isinstance(v, int | float)}
    record["error"] = None if record.get("error") is None else str(record["error"])
    if not isinstance(record.get("status"), str):
        record["status"] = "waiting"
        if (folder / "run.json").exists():
            record.update(status="failed", error="run.json is damaged; the same command goes on with the run")
    if folder.exists() and not folder.is_dir():
        record.update(status="failed", error=f"{folder} is a file, not a folder: move it away")
    return record


def evaluate_run(folder: Path) -> dict[str, Any] | None:
    """Judge a finished run and write ``eval.json``, ``asset/views.png`` and a turntable, unless that is done already.

    Returns:
        the evaluation, or None where no critic knows the prompt's words.
    """
    from threedistill.evaluation.report import read_run, write_json

    run = read_run(folder)
    found, critic = None, _critic(run["prompt"])
    if critic is not None:
        found = read_json(folder / "eval.json")
        if not _of_today(found, critic):
            kept = {k: found[k] for k in ("rig", "metrics") if k in found}  # of the same asset
            found = {**run, **critic.judge(run["asset"], run["prompt"]), **kept}
            write_json(folder / "eval.json", found)
    # Last, because it is by the picture that a later call sees that nothing is left to do here.
    views = folder / "asset" / "views.png"
    if not views.exists():
        _write_views(run["asset"], views)
    return found


def looked_at(folder: Path) -> bool:
    """Whether a finished run was evaluated by its critic and in the figures of today, where there are any for it."""
    if not (folder / "asset" / "views.png").exists():
        return False
    found = read_json(folder / "eval.json")
    if found.get("judge_version") is None:
        return True
    critic = _critic(str(found.get("prompt")))
    return critic is not None and _of_today(found, critic)


def _of_today(found: dict[str, Any], critic: Critic) -> bool:
    """Whether an evaluation has the figures of today, and its critic is the one who judged."""
    from threedistill.evaluation.report import SCHEMA

    return (found.get("judge_version"), found.get("schema")) == (critic.version, SCHEMA)


@lru_cache(maxsize=256)
def _critic(prompt: str) -> Critic | None:
    """Who judges what a prompt asks for; None where nobody knows its words."""
    from threedistill.config.critics import critic_for

    try:
        return critic_for(prompt)
    except UsageError:
        return None


def _write_views(asset: Path, target: Path) -> None:
    """The ring of views that variety is measured on, side by side in one picture; and where the run's budget has no
    turntable, a small one for the report.
    """
    import torch

    from threedistill.atomic import write_bytes
    from threedistill.evaluation.appearance import pictures
    from threedistill.exports.files import png_bytes
    from threedistill.exports.read import read_mesh
    from threedistill.exports.video import write_turntable

    mesh, turntable = read_mesh(asset), target.with_name("turntable.webp")
    if not turntable.exists():
        write_turntable(mesh, turntable, frames=12, size=192)
    write_bytes(target, png_bytes(torch.cat(list(pictures(mesh, lit=False).rgb), 1)))
