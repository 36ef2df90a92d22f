"""Who looks on while a run is made: the caller's own function, and loggers. They are told; they change nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl

from threedistill.training.loggers import Book
from threedistill.training.run_folder import RunFolder
from threedistill.training.step import Step
from threedistill.training.system import ScoreDistillation

__all__ = ["Watchers", "watching"]

if TYPE_CHECKING:
    from threedistill.training.trainer_settings import TrainerSettings


class Watchers(pl.Callback):
    """Tells them after every step, once the step is done and its checkpoint, where one was due, is written.

    An exception of the caller's function ends the stage like a request to stop: what is done is saved, and
    :func:`~threedistill.training.stages.run_stage` raises it then.

    Arguments:
        run: the folder.
        book: the loggers.
        on_step: the caller's function.
        every: iterations between rows of the loggers.
        total: iterations of all stages.

    Attributes:
        before: iterations of the stages before this one.
        raised: what the caller's function raised.
    """

    def __init__(
        self, run: RunFolder, book: Book, on_step: Callable[[Step], object] | None, every: int, total: int
    ) -> None:
        self.run, self.book, self.on_step, self.every, self.total = run, book, on_step, every, total
        self.before = 0
        self.raised: BaseException | None = None
        self._first = 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        self._first = self.before + int(pl_module.iteration)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ScoreDistillation)
        stage, iteration = pl_module.stage, int(pl_module.iteration)
        done, last = self.before + iteration, iteration == stage.iterations
        if self.book:
            self.book.begin(self._first)
            if iteration % self.every == 0 or last:
                self.book.numbers(pl_module.metrics, done)
            self.book.picture("preview", self.run.preview(done), done)
        if self.on_step is not None:
            try:
                figures = dict(pl_module.metrics)
                self.on_step(
                    Step(stage.name, iteration, stage.iterations, done, self.total, figures, self.run.path)
                )
            except BaseException as error:
                self.raised = error
                trainer.should_stop = True

    def result(self, evaluation: Mapping[str, Any] | None, seconds: Mapping[str, float]) -> None:
        """The run's last figures and the asset's sheet, to the loggers."""
        if not self.book:
            return
        self.book.begin(self.total)
        figures = dict(_numbers(evaluation or {}, "final"))
        figures |= {f"seconds/{phase}": spent for phase, spent in seconds.items()}
        self.book.numbers(figures, self.total)
        self.book.picture("asset", self.run.asset_dir / "sheet.png", self.total)


@contextlib.contextmanager
def watching(
    run: RunFolder, settings: TrainerSettings, total: int, on_step: Callable[[Step], object] | None
) -> Iterator[Watchers]:
    """Within the block, those who look on; afterwards the loggers are closed, whatever ended it.

    Arguments:
        run: the folder.
        settings: which loggers there are, and how often they get a row.
        total: iterations of all stages.
        on_step: the caller's function.
    """
    book = Book(settings.loggers, run)
    try:
        yield Watchers(run, book, on_step, settings.log_every, total)
    except BaseException:
        book.end("failed")
        raise
    book.end("success")


def _numbers(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The finite numbers in an evaluation, by their paths."""
    for key, value in node.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield name, float(value)
