"""What happens around the steps: the progress line, metrics.csv, previews, checkpoints, and stopping on request."""

from __future__ import annotations

import contextlib
import csv
import io
import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch

from threedistill.atomic import os_errors_in_words, write_bytes, write_text
from threedistill.cameras import orbit
from threedistill.protocols import RenderContext
from threedistill.training.checkpoint import save_stage
from threedistill.training.run_folder import RunFolder
from threedistill.training.system import ScoreDistillation


class Checkpoints(pl.Callback):
    """Saves the stage by our own iteration: every ``every`` iterations or ``seconds``, and when it ends or stops."""

    def __init__(self, path: Path, every: int = 50, seconds: float = 15.0) -> None:
        self.path, self.every, self.seconds = path, every, seconds
        self._last = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        if int(pl_module.iteration) % self.every == 0 or time.monotonic() - self._last > self.seconds:
            self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, system: ScoreDistillation) -> None:
        """Write the state now."""
        facts = {"iteration": int(system.iteration), "iterations": system.stage.iterations}
        save_stage(self.path, system, list(trainer.optimizers), facts)
        self._last = time.monotonic()


class StopOnInterrupt(pl.Callback):
    """Turns the first Ctrl-C into a stop after the current step; the second acts at once.

    (SIGTERM needs no help: Lightning itself finishes the step and raises ``SIGTERMException``.)
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Outside the main thread Python delivers no signals: there the caller owns them.
        with contextlib.suppress(ValueError):
            self._previous = signal.signal(signal.SIGINT, self._handle)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            self._restore()
            raise KeyboardInterrupt
        self.requested = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if self.requested:
            trainer.should_stop = True


class MetricsFile(pl.Callback):
    """Appends one row of numbers every ``every`` iterations to metrics.csv; a resumed run drops rows it will repeat."""

    def __init__(self, path: Path, stage: int, every: int = 10) -> None:
        self.path, self.stage, self.every = path, stage, every
        self._columns: list[str] = []

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        if not self.path.exists():
            return
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        begin = (self.stage, int(pl_module.iteration))
        kept = [r for r in rows if (int(r["stage"]), int(r["iteration"])) <= begin]
        self._columns = list(rows[0]) if rows else []
        text = io.StringIO()
        if self._columns:
            writer = csv.DictWriter(text, self._columns)
            writer.writeheader()
            writer.writerows(kept)
        write_text(self.path, text.getvalue())

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
        with os_errors_in_words(self.path), self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns or list(row), extrasaction="ignore")
            if not self._columns:
                self._columns = list(row)
                writer.writeheader()
            writer.writerow(row)


class Previews(pl.Callback):
    """Writes a strip of views every ``every`` iterations and at the end (white background, no jitter).

    With ``x0`` also the last step's renders over what the rule would rather see, each as the prior sees it.
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
        pl_module.keep_wishes = self.x0

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
        rgb = system.representation.render(cameras, context).rgb
        path = self.run.preview(self.before + iteration)
        write_bytes(path, png_bytes(torch.cat(list(rgb), 1)))
        if system.wishes is not None:
            rows = [torch.cat(list(system.prior.space.decode(x0).clamp(0, 1)), 1) for x0 in system.wishes]
            write_bytes(path.with_name(f"{path.stem}-x0.png"), png_bytes(torch.cat(rows)))


class ProgressLine(pl.Callback):
    """One line on stderr: rate, time left and the step's numbers; plain lines every tenth when it is no terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bar: Any = None
        self._task: Any = None
        self._start = 0.0
        self._first = 0
        self._announced = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        self._start, self._first = time.monotonic(), int(pl_module.iteration)
        if self.quiet or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"), console=Console(stderr=True), expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task(
            pl_module.stage.name, total=pl_module.stage.iterations, completed=self._first, rate="", numbers=""
        )
        self._bar.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        done, total = int(pl_module.iteration), pl_module.stage.iterations
        rate = (done - self._first) / max(time.monotonic() - self._start, 1e-9)
        left = (total - done) / max(rate, 1e-9)
        for warning in pl_module.warnings:
            self.say(f"warning: {warning}")
        if done - self._first == 5:
            self._estimate(left)
        numbers = "  ".join(
            f"{name} {pl_module.metrics[key]:.3g}"
            for name, key in (("|g|", "direction_rms"), ("reg", "regularizers"), ("opacity", "opacity"))
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=done, rate=f"{rate:.1f} it/s", numbers=numbers)
        elif not self.quiet and (done % max(total // 10, 1) == 0 or done == total):
            self.say(f"{pl_module.stage.name} {done}/{total}  {rate:.1f} it/s  {left:.0f} s left  {numbers}")

    def _estimate(self, left: float) -> None:
        if left > 20 * 60:
            self.say(
                f"this stage will take about {left / 60:.0f} minutes here; faster: --preset draft, --prior toybox, "
                "or a machine with a GPU. Ctrl-C keeps what is done."
            )
        elif self._bar is None:
            self.say(f"estimated time for this stage: {left:.0f} s")

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Stop drawing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self.close()
