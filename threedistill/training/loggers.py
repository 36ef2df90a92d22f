"""Other programs' logs of a run: ``trainer.loggers=[csv,tensorboard,wandb,mlflow]``, through Lightning's own loggers.

They write below ``logs/`` in the run's folder and ask nothing of the network, unless the user's own environment says so
(``WANDB_MODE=online``, ``MLFLOW_TRACKING_URI``): a configuration cannot. What they are given is what ``metrics.csv``
has, the previews, the configuration, and in the end the figures and the asset's sheet.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import os
import secrets
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from threedistill.config import read_config
from threedistill.errors import ThreedistillWarning, UsageError
from threedistill.training.run_folder import RunFolder

__all__ = ["KINDS", "Book", "Kind", "LoggerName", "check_loggers"]

LoggerName = Literal["csv", "tensorboard", "wandb", "mlflow"]


@dataclass(frozen=True)
class Kind:
    """One of Lightning's loggers.

    Arguments:
        package: what it needs besides Lightning; None = nothing.
        open: ``(folder, name of the run, its mark or None, first step) -> logger``; of a mark the same log goes on.
        mark: what a resumed run must know to go on in it.
        picture: ``(logger, name, file, step)``; None where it holds none.
        close: what ends it besides ``finalize``.
    """

    package: str | None
    open: Callable[[Path, str, str | None, int], Any]
    mark: Callable[[Any], str | None] = lambda logger: None
    picture: Callable[[Any, str, Path, int], None] | None = None
    close: Callable[[Any], None] = lambda logger: None


def _csv(folder: Path, name: str, mark: str | None, step: int) -> Any:
    """Lightning's own begins its file anew, so a resumed run hands it the rows it had."""
    from pytorch_lightning.loggers import CSVLogger

    rows: list[dict[str, str]] = []
    with contextlib.suppress(OSError, csv.Error), (folder / "csv" / "metrics.csv").open(newline="") as file:
        rows = [
            row for row in csv.DictReader(file) if row.get("step", "").isdigit() and int(row["step"]) <= step
        ]
    logger = CSVLogger(folder, name="", version="csv", flush_logs_every_n_steps=1)
    for row in rows:
        at = int(row.pop("step"))
        logger.log_metrics({key: float(value) for key, value in row.items() if value}, at)
    return logger


def _tensorboard(folder: Path, name: str, mark: str | None, step: int) -> Any:
    from pytorch_lightning.loggers import TensorBoardLogger

    again: dict[str, Any] = {"purge_step": step + 1} if step else {}
    return TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False, **again)


def _show_tensorboard(logger: Any, name: str, file: Path, step: int) -> None:
    import numpy
    from PIL import Image

    with Image.open(file) as picture:
        logger.experiment.add_image(name, numpy.asarray(picture.convert("RGB")), step, dataformats="HWC")


def _wandb(folder: Path, name: str, mark: str | None, step: int) -> Any:
    from pytorch_lightning.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE", "offline") != "online"
    return WandbLogger(
        name=name, save_dir=folder, id=mark or secrets.token_hex(4), project="threedistill", offline=offline,
        resume="allow", settings={"silent": True},
    )  # fmt: skip


def _mlflow(folder: Path, name: str, mark: str | None, step: int) -> Any:
    """A database in the folder, and the pictures beside it: MLflow 3 refuses to write folders of its own any more."""
    from pytorch_lightning.loggers import MLFlowLogger

    place = (folder / "mlflow").absolute()
    server = os.environ.get("MLFLOW_TRACKING_URI")
    if not server:
        place.mkdir(parents=True, exist_ok=True)
    return MLFlowLogger(
        experiment_name="threedistill", run_name=name, tracking_uri=server or f"sqlite:///{place / 'mlflow.db'}",
        artifact_location=None if server else (place / "files").as_uri(), run_id=mark,
    )  # fmt: skip


KINDS: dict[str, Kind] = {
    "csv": Kind(None, _csv),
    "tensorboard": Kind("tensorboard", _tensorboard, picture=_show_tensorboard),
    "wandb": Kind(
        "wandb", _wandb, mark=lambda logger: logger.version,
        picture=lambda logger, name, file, step: logger.log_image(name, [str(file)], step),
        close=lambda logger: logger.experiment.finish(),
    ),
    "mlflow": Kind(
        "mlflow", _mlflow, mark=lambda logger: logger.run_id,
        picture=lambda logger, name, file, step: logger.experiment.log_artifact(logger.run_id, str(file), name),
    ),
}  # fmt: skip


def check_loggers(names: Sequence[str]) -> None:
    """Refuse loggers whose packages are not there.

    Raises:
        UsageError: with what brings them.
    """
    for name in names:
        package = KINDS[name].package
        if package is not None and importlib.util.find_spec(package) is None:
            raise UsageError(
                f"trainer.loggers={name} needs the package {package}: pip install 'threedistill[log]'"
            )


class Book:
    """The loggers of a run, opened when there is something to write.

    One that fails is left out with a warning: a log is not what the run is for.

    Arguments:
        names: which.
        run: whose.
    """

    def __init__(self, names: Sequence[str], run: RunFolder) -> None:
        self.run = run
        self._waiting = list(dict.fromkeys(names))
        self._open: dict[str, Any] = {}
        self.last = 0  # the step that was written last

    def __bool__(self) -> bool:
        return bool(self._waiting or self._open)

    def begin(self, step: int) -> None:
        """Open them, at the first step that is written or after those of an earlier process; the configuration goes in.

        The run must have taken its place, because they keep their files open.
        """
        if not self._waiting:
            return
        record = self.run.read_record().get("loggers")
        marks = record if isinstance(record, dict) else {}
        waiting, self._waiting = self._waiting, []
        for name in waiting:
            with self._failing(name):
                logger = KINDS[name].open(self.run.path / "logs", self.run.path.name, marks.get(name), step)
                self._open[name] = logger
                logger.log_hyperparams(read_config(self.run.config))
                marks[name] = KINDS[name].mark(logger)
        self.run.update_record(loggers=marks)

    def numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """A row of figures."""
        self.last = step
        for name, logger in list(self._open.items()):
            with self._failing(name):
                logger.log_metrics(dict(numbers), step)
                logger.save()

    def picture(self, called: str, file: Path, step: int) -> None:
        """A picture, to those that hold pictures."""
        for name, logger in list(self._open.items()):
            show = KINDS[name].picture
            if show is not None and file.is_file():
                with self._failing(name):
                    show(logger, called, file, step)

    def end(self, status: str) -> None:
        """Close them: ``success`` or ``failed``."""
        for name, logger in list(self._open.items()):
            with self._failing(name):
                logger.finalize(status)
                KINDS[name].close(logger)
        self._open.clear()

    @contextlib.contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        """Within the block a logger's failure closes that logger and nothing else."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        except Exception as error:
            self._open.pop(name, None)
            line = " ".join(str(error).split())[:300] or type(error).__name__
            warnings.warn(
                f"the logger {name} failed ({line}); the run goes on without it", ThreedistillWarning, 2
            )
