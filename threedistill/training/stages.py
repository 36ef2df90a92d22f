"""Runs one stage: a fresh Trainer around the system, from its checkpoint if there is one."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException

from threedistill.atomic import move
from threedistill.rng import Streams
from threedistill.training.callbacks import Checkpoints, MetricsFile, Previews, ProgressLine, StopOnRequest
from threedistill.training.checkpoint import StageState, load_stage
from threedistill.training.interruption import Stop
from threedistill.training.run_folder import RunFolder
from threedistill.training.student_step import MAIN, Gains, Learner, Shown
from threedistill.training.system import ScoreDistillation
from threedistill.training.trainer_settings import TrainerSettings
from threedistill.training.watchers import Watchers
from threedistill.types import Rendering

__all__ = ["Interrupted", "fresh_views", "run_stage", "student_report"]


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop; its state is on disk in ``run_dir``."""

    def __init__(self, run_dir: str) -> None:
        super().__init__(f"interrupted; continue with: threedistill resume {run_dir}")
        self.run_dir = run_dir


def run_stage(
    system: ScoreDistillation,
    run: RunFolder,
    index: int,
    settings: TrainerSettings,
    device: torch.device,
    quiet: bool,
    before: int = 0,
    stop: Stop | None = None,
    advice: str = "",
    watchers: Watchers | None = None,
    others: Sequence[pl.Callback] = (),
) -> None:
    """Optimise a stage to its end, continuing from its checkpoint; a finished stage returns at once.

    Arguments:
        system: the stage.
        run, index: where its state goes.
        settings: how it is watched and saved.
        device: where it is computed.
        quiet: no progress on stderr.
        before: iterations of the stages before it; pictures of the run are numbered through.
        stop: where requests to stop arrive.
        advice: what would make it faster, said where it will take long.
        watchers: who looks on; what they raise is raised once everything is saved.
        others: who else is there at every step.

    Raises:
        Interrupted: stopped on request, with everything saved.
        ThreedistillError: a damaged checkpoint, or the watchdog's verdict.
    """
    stop = stop or Stop()
    path = run.checkpoint(index, system.stage.name)
    state = load_stage(path)
    if state is not None:
        state.load_module(system)
        if state.path != path:
            move(state.path, path)  # in place of the damaged one, which must not become the previous
    if int(system.iteration) >= system.stage.iterations:
        system.to(device)
        _record_learners(system, run)
        return

    if watchers is not None:
        watchers.before = before
    checkpoints = Checkpoints(run, index, settings.checkpoint_every, settings.checkpoint_seconds)
    callbacks: list[pl.Callback] = [
        _Restore(state), StopOnRequest(stop), ProgressLine(quiet, advice),
        MetricsFile(run, index, settings.log_every),
        Previews(run, settings.preview_every, before=before, x0=settings.preview_x0), checkpoints,
        *([] if watchers is None else [watchers]), *others,
    ]  # fmt: skip
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with warnings.catch_warnings(), stop.waiting():
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer = pl.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, max_epochs=1, max_steps=-1,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            callbacks=callbacks, default_root_dir=str(run.path),
        )  # fmt: skip
        try:
            # A SIGTERM ends the step it came in like any other; what is left is to save.
            with contextlib.suppress(SIGTERMException):
                trainer.fit(system)
        except SystemExit:  # how Lightning hands on the second Ctrl-C
            raise KeyboardInterrupt from None
        if int(system.iteration):
            checkpoints.save(trainer, system)
    if system.warned:
        run.update_record(warnings=[*run.read_record().get("warnings", []), *system.warned])
    if watchers is not None and watchers.raised is not None:
        raise watchers.raised
    if int(system.iteration) < system.stage.iterations:
        raise Interrupted(str(run.path))
    system.to(device)
    _record_learners(system, run)


def _record_learners(system: ScoreDistillation, run: RunFolder) -> None:
    """What the stage's learners know, once; also for a stage that ended before it could be written down."""
    record, stage = run.read_record(), system.stage.name
    known = {MAIN: record.get(MAIN) or {}, **(record.get("learners") or {})}
    fresh = {
        name: {"stage": stage, **student_report(system, learner)}
        for name, learner in system.learners.items()
        if known.get(name, {}).get("stage") != stage
    }
    if MAIN in fresh:
        run.update_record(**{MAIN: fresh.pop(MAIN)})
    if fresh:
        run.update_record(learners={**(record.get("learners") or {}), **fresh})


class _Restore(pl.Callback):
    """Puts optimizer moments back once Lightning has made the optimizers."""

    def __init__(self, state: StageState | None) -> None:
        self.state = state

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.state is not None:
            self.state.load_optimizers(list(trainer.optimizers))


#: Batches of fresh views, and noisy versions of each.
BATCHES, DRAWS = 4, 4


@torch.no_grad()
def fresh_views(system: ScoreDistillation) -> Iterator[tuple[Streams, Shown, Rendering]]:
    """Batches of views of the finished scene that nothing was learned from, each with streams of its own."""
    for batch in range(BATCHES):
        rng = system.streams.at(system.stage.iterations).branched(f"report/{batch}")
        facts, out, _ = system.look(1.0, rng)
        x0 = system.encoded(out)
        yield rng, Shown(x0, facts, system.lesson(x0, facts, rng, out)), out


@torch.no_grad()
def student_report(system: ScoreDistillation, learner: Learner) -> dict[str, float]:
    """``student_gain`` and ``camera_gain`` on fresh views of the finished scene, and the losses behind them."""
    losses = []
    for rng, shown, _ in fresh_views(system):
        own = rng if learner.name == MAIN else rng.branched(learner.name)
        gains = learner.measure(shown, own, system.stage.along(1.0), DRAWS)
        losses.append([gains.camera, gains.null, gains.frozen])
    mean = Gains(*torch.tensor(losses).mean(0).tolist())
    return {
        "student_gain": round(mean.student_gain, 4),
        "camera_gain": round(mean.camera_gain, 5),
        "loss_camera": round(mean.camera, 5),
        "loss_null": round(mean.null, 5),
        "loss_frozen": round(mean.frozen, 5),
    }
