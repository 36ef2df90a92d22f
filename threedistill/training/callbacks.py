"""What happens around the steps: the progress line, metrics.csv, previews, checkpoints, and stopping on request."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from threedistill.atomic import append_text, write_bytes, write_text
from threedistill.cameras import orbit
from threedistill.protocols import RenderContext
from threedistill.training.checkpoint import save_stage
from threedistill.training.interruption import Stop
from threedistill.training.progress import Bar
from threedistill.training.run_folder import RunFolder
from threedistill.training.system import ScoreDistillation

__all__ = ["Checkpoints", "MetricsFile", "Previews", "ProgressLine", "StopOnRequest", "read_metrics"]


class Checkpoints(pl.Callback):
    """Saves the stage by our own iteration: every ``every`` iterations or ``seconds``, and when it ends or stops.

    The first step of a run is saved at once: with it the run takes its place in the folder.
    """

    def __init__(self, run: RunFolder, index: int, every: int = 50, seconds: float = 15.0) -> None:
        self.run, self.index, self.every, self.seconds = run, index, every, seconds
        self._last = time.monotonic()
        self._saved = -1

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        due = int(pl_module.iteration) % self.every == 0 or time.monotonic() - self._last > self.seconds
        if due or self.run.is_new:
            self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, system: ScoreDistillation) -> None:
        """Write the state now, unless that is done: the one before it must stay the one before it."""
        if int(system.iteration) == self._saved:
            return
        facts = {"iteration": int(system.iteration), "iterations": system.stage.iterations}
        path = self.run.checkpoint(self.index, system.stage.name)
        save_stage(path, system, list(trainer.optimizers), facts)
        if int(system.iteration):
            self.run.take_place()
        self._last, self._saved = time.monotonic(), int(system.iteration)


class StopOnRequest(pl.Callback):
    """Ends the stage after the step in which the request came."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.stop.requested:
            trainer.should_stop = True


class MetricsFile(pl.Callback):
    """Appends one row of numbers every ``every`` iterations to metrics.csv; a resumed run drops rows it will repeat.

    Nothing needs the file to go on, so whatever a power cut left of it is kept as far as it can be read.
    """

    def __init__(self, run: RunFolder, stage: int, every: int = 10) -> None:
        self.run, self.stage, self.every = run, stage, every
        self._columns: list[str] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        if not self.run.metrics.exists():
            return
        self._columns, rows = read_metrics(self.run.metrics)
        begin = (self.stage, int(pl_module.iteration))
        kept = [r for r in rows if (int(r["stage"]), int(r["iteration"])) <= begin]
        write_text(self.run.metrics, _as_csv(self._columns, kept, header=True) if self._columns else "")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        iteration = int(pl_module.iteration)
        if iteration % self.every and iteration != pl_module.stage.iterations:
            return
        row = {
            "stage": self.stage,
            "iteration": iteration,
            **{k: f"{v:.6g}" for k, v in pl_module.metrics.items()},
        }
        first = not self._columns
        self._columns = self._columns or list(row)
        append_text(self.run.metrics, _as_csv(self._columns, [row], header=first))


def read_metrics(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and the whole rows of a metrics.csv; a row that is torn, or no row at all, is left out."""
    text = path.read_bytes().decode("utf-8", "replace").replace("\0", "")
    lines = [line for line in text.split("\n")[:-1] if line.strip()]  # what ends in no line break is torn
    found = list(csv.reader(lines))
    if not found or found[0][:2] != ["stage", "iteration"]:
        return [], []
    columns = found[0]
    whole = [row for row in found[1:] if len(row) == len(columns) and row[0].isdigit() and row[1].isdigit()]
    return columns, [dict(zip(columns, row)) for row in whole]


def _as_csv(columns: list[str], rows: list[dict[str, Any]], header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class Previews(pl.Callback):
    """Writes a strip of views every ``every`` iterations and at the end (white background, no jitter).

    With ``x0`` also the last step's renders over what the rule would rather see, each as the prior sees it.
    Of several scenes the first is shown.
    """

    def __init__(
        self,
        run: RunFolder,
        every: int = 100,
        views: int = 4,
        size: int = 128,
        before: int = 0,
        x0: bool = False,
    ) -> None:
        self.run, self.every, self.views, self.size, self.before = run, every, views, size, before
        self.x0 = x0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        pl_module.keep_wishes |= self.x0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        iteration = int(pl_module.iteration)
        if self.every and (iteration % self.every == 0 or iteration == pl_module.stage.iterations):
            self.write(pl_module, iteration)

    @torch.no_grad()
    def write(self, system: ScoreDistillation, iteration: int) -> None:
        """Render and write one strip."""
        from threedistill.exports.files import png_bytes

        cameras = orbit(self.views, size=self.size).to(system.device)
        context = RenderContext(
            progress=iteration / system.stage.iterations,
            background=torch.ones(self.views, 3, device=system.device),
            shading=system.stage.shading,
        )
        rgb = system.scenes[0].render(cameras, context).rgb
        path = self.run.preview(self.before + iteration)
        write_bytes(path, png_bytes(torch.cat(list(rgb), 1)))
        if self.x0 and system.wishes is not None:
            seen = (system.wishes.x0, system.wishes.wished)
            rows = [torch.cat(list(system.prior.space.decode(x0).clamp(0, 1)), 1) for x0 in seen]
            write_bytes(path.with_name(f"{path.stem}-x0.png"), png_bytes(torch.cat(rows)))


class ProgressLine(pl.Callback):
    """The stage's progress on stderr, and how long it will take once five steps are done.

    Arguments:
        quiet: nothing on stderr.
        advice: what would make the stage faster, for those that take long.
    """

    def __init__(self, quiet: bool = False, advice: str = "") -> None:
        self.quiet, self.advice = quiet, advice
        self._bar: Bar | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        stage = pl_module.stage
        self._bar = Bar(stage.name, stage.iterations, self.quiet, int(pl_module.iteration))

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ScoreDistillation) and self._bar is not None
        done = int(pl_module.iteration)
        for warning in pl_module.warnings:
            self._bar.say(f"warning: {warning}")
        if done - self._bar.first == 5:
            self._estimate(self._bar, done)
        numbers = "  ".join(
            f"{name} {pl_module.metrics[key]:.3g}"
            for name, key in (("|g|", "direction_rms"), ("reg", "regularizers"), ("opacity", "opacity"))
        )
        self._bar.step(done, numbers)

    def _estimate(self, bar: Bar, done: int) -> None:
        left = bar.left(done)
        if left > 20 * 60:
            faster = f"; faster: {self.advice}" if self.advice else ""
            bar.say(
                f"this stage will take about {left / 60:.0f} minutes here{faster}. Ctrl-C keeps what is done."
            )
        elif not bar.on_terminal:
            bar.say(f"estimated time for this stage: {left:.0f} s")

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._close()
