"""A run's folder: what is in it, who holds it, and how one run takes another's place without anything ever being lost.

    config.yaml  run.json  metrics.csv  changes.jsonl  eval.json  preview/000100.png  logs
    checkpoints/00-coarse/last.safetensors  asset/{model.glb, turntable.webp, sheet.png}

A new run works in ``.new`` until its first checkpoint; what is in the folder stays untouched until then, and a start
that fails is removed with ``.new``. The checkpoint is where it takes the place of what was there:

    .new -> .taking          one rename: from here on, the new run is the folder's
    earlier files -> .replaced
    .taking -> .arriving     one rename: nothing earlier is left
    files of .arriving -> their places, then .replaced is removed

Whoever holds the lock next finishes what a killed process began (:meth:`RunFolder.settle`), so a folder is always one
that holds a run, one that holds a request which has no checkpoint yet, or one that belongs to nobody.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from threedistill.atomic import is_temporary, make_folder, move, os_errors_in_words, remove, write_text
from threedistill.errors import ThreedistillError, UsageError
from threedistill.locks import is_locked, lock

__all__ = ["OWN", "RunBusy", "RunFolder", "RunHere"]

RUN_SCHEMA = 1

#: What a run writes into its folder; nothing else is ever removed from it.
OWN = (
    "config.yaml",
    "run.json",
    "metrics.csv",
    "changes.jsonl",
    "eval.json",
    "traceback.txt",
    "preview",
    "logs",
    "checkpoints",
    "asset",
    "ceiling",
)

_NEW, _TAKING, _ARRIVING, _REPLACED, _LOCK = ".new", ".taking", ".arriving", ".replaced", ".lock"
_HIDDEN = (_NEW, _TAKING, _ARRIVING, _REPLACED, _LOCK)

Status = Literal["queued", "running", "interrupted", "failed", "done"]


class RunBusy(UsageError):
    """Another process works on this run."""


class RunFolder:
    """One run on disk.

    Attributes:
        path: the folder.
        base: where the run's files are: the folder, or ``.new`` in it before the first checkpoint.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = self.base = Path(path)

    # ---- what is in it ---------------------------------------------------------------------------------------------

    @property
    def config(self) -> Path:
        return self.base / "config.yaml"

    @property
    def record_path(self) -> Path:
        """The run's record, also in the middle of a change of runs."""
        changing = [self.path / name / "run.json" for name in (_TAKING, _ARRIVING)] if not self.is_new else []
        return next((file for file in changing if file.exists()), self.base / "run.json")

    @property
    def metrics(self) -> Path:
        return self.base / "metrics.csv"

    @property
    def changes(self) -> Path:
        """What was changed while the run ran, one line each (:mod:`threedistill.training.steering`)."""
        return self.base / "changes.jsonl"

    @property
    def asset_dir(self) -> Path:
        return self.base / "asset"

    @property
    def start(self) -> Path:
        """The object that the run started from, where a file was given."""
        return self.base / "checkpoints" / "init.safetensors"

    @property
    def images(self) -> Path:
        """The reference pictures that the networks are shown, where some were given."""
        return self.base / "checkpoints" / "images.safetensors"

    def checkpoint(self, index: int, stage: str) -> Path:
        """Where a stage's latest state is kept."""
        return self.base / "checkpoints" / f"{index:02d}-{stage}" / "last.safetensors"

    def preview(self, iteration: int) -> Path:
        """Where the preview sheet of an iteration goes."""
        return self.base / "preview" / f"{iteration:06d}.png"

    @property
    def previews(self) -> list[Path]:
        """The preview sheets that are there, in the order of their iterations."""
        found = [file for file in self.base.glob("preview/*.png") if file.stem.isdigit()]
        return sorted(found, key=lambda file: int(file.stem))

    @property
    def holds_run(self) -> bool:
        """Whether a run is here that has got somewhere: its first checkpoint, or an asset."""
        if (self.path / _TAKING).is_dir() or (self.path / _ARRIVING).is_dir():
            return True
        states = ("checkpoints/*/last.safetensors", "checkpoints/*/previous.safetensors", "asset/*")
        return _written_by_us(self.path / "config.yaml") and any(
            any(self.path.glob(state)) for state in states
        )

    @property
    def holds_request(self) -> bool:
        """Whether a request is here that was accepted and has no checkpoint yet."""
        return (self.path / _NEW / "config.yaml").is_file() or (
            (self.path / "config.yaml").is_file() and not self.holds_run
        )

    # ---- who holds it ----------------------------------------------------------------------------------------------

    def check_free(self, *, overwrite: bool) -> None:
        """Refuse a folder that a new run must not use; nothing is changed.

        Raises:
            RunHere: a run is there already.
            UsageError: it holds something else, or cannot be a folder.
        """
        with os_errors_in_words(self.path):
            above = next(p for p in (self.path, *self.path.absolute().parents) if p.exists())
            if not above.is_dir():
                number = errno.EEXIST if above == self.path else errno.ENOTDIR
                raise OSError(number, os.strerror(number), str(above))
            if self.holds_run:
                if not overwrite:
                    raise RunHere(
                        f"{self.path} already holds a run; continue it with --resume or replace it with --overwrite"
                    )
                return
            if not self.path.is_dir():
                return
            found = {item.name for item in self.path.iterdir() if not is_temporary(item)} - {*_HIDDEN}
            if found - _traces_of_us(self.path):
                raise UsageError(f"{self.path} is not empty and holds no run; choose another --out")

    @property
    def in_use(self) -> bool:
        """Whether a process works on it."""
        return is_locked(self.path / _LOCK)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run so that no second process works on it; a folder that stays empty is gone afterwards.

        Raises:
            RunBusy: another process holds it.
        """
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        handle = self._lock()
        try:
            yield
        finally:
            self._tidy(missing)
            os.close(handle)

    def _lock(self) -> int:
        file = self.path / _LOCK
        while True:
            make_folder(self.path)
            try:
                with os_errors_in_words(self.path):
                    handle = lock(file)
            except ThreedistillError:
                if not self.path.is_dir():  # whoever made it for nothing has removed it: once more
                    continue
                raise
            if handle is None:
                raise RunBusy(
                    f"{self.path} is in use by another process; wait for it or choose another --out"
                )
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(file), os.fstat(handle)):
                    return handle
            os.close(handle)  # whoever held it before has removed it: once more

    def _tidy(self, missing: list[Path]) -> None:
        """Leave no lock where there is no run, and no folder that was made for nothing."""
        with contextlib.suppress(OSError):
            if self.holds_run or (self.path / _NEW).is_dir() or _traces_of_us(self.path):
                return
            (self.path / _LOCK).unlink(missing_ok=True)
            for folder in missing:
                folder.rmdir()

    # ---- how a run begins and takes its place ----------------------------------------------------------------------

    def begin(self) -> None:
        """Start with nothing, beside what is here (under the lock)."""
        remove(self.path / _NEW)
        self.base = self.path / _NEW
        make_folder(self.base)

    def reopen(self) -> None:
        """Go on with the newest request (under the lock): one without a checkpoint, or else the run that is here."""
        self._take()
        self.base = self.path / _NEW if (self.path / _NEW / "config.yaml").is_file() else self.path

    @property
    def is_new(self) -> bool:
        """Whether the run has no place of its own yet."""
        return self.base != self.path

    def take_place(self) -> None:
        """The first checkpoint is written: the run takes the place of what was here."""
        if self.is_new:
            move(self.base, self.path / _TAKING)
            self.base = self.path
            self._take()

    def forget_evaluation(self) -> None:
        """The asset will be another one."""
        remove(self.base / "eval.json")

    def abandon(self) -> None:
        """Remove a run that never had a checkpoint; what was here before is as it was."""
        if self.is_new:
            self.base = self.path
            remove(self.path / _NEW)

    def _take(self) -> None:
        taking, arriving, replaced = (self.path / name for name in (_TAKING, _ARRIVING, _REPLACED))
        if taking.is_dir():
            for item in [self.path / name for name in OWN]:
                if item.exists():
                    make_folder(replaced)
                    move(item, replaced / item.name)
            move(taking, arriving)
        if arriving.is_dir():
            for item in sorted(arriving.iterdir()):
                target = self.path / item.name
                if target.is_dir():
                    remove(target)
                move(item, target)
            remove(arriving)
        remove(replaced)

    def finish_taking(self) -> None:
        """For those who only read: if a killed process left a change of runs half done, do the rest."""
        if any((self.path / name).exists() for name in (_TAKING, _ARRIVING)):
            with contextlib.suppress(RunBusy), self.locked():  # busy: whoever holds it is at it
                self._take()

    def settle(self) -> None:
        """Finish what a killed process left (under the lock): a change of runs, files that were never finished.

        Only where a run is, or is to be: in anybody else's folder nothing is to be cleaned.
        """
        self._take()
        new = self.path / _NEW
        if new.is_dir() and not (new / "config.yaml").is_file():
            remove(new)
        for folder in (self.path, new):
            places = [folder, *[folder / name for name in OWN if (folder / name).is_dir()]]
            for place in places:
                inner = place.iterdir() if place in (self.path, new) else place.rglob("*")
                for file in sorted(inner) if place.is_dir() else []:
                    if is_temporary(file) and file.is_file():
                        remove(file)
        with contextlib.suppress(UsageError):
            self.read_record()
            return
        move(self.record_path, self.record_path.with_suffix(".damaged"))

    # ---- run.json --------------------------------------------------------------------------------------------------

    def read_record(self) -> dict[str, Any]:
        """The content of ``run.json``, or an empty dictionary before the first write.

        Raises:
            UsageError: it is damaged.
        """
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except (ValueError, OSError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise UsageError(f"{self.record_path} is damaged; threedistill resume {self.path} writes it anew")
        return record

    def update_record(self, **changes: Any) -> dict[str, Any]:
        """Merge changes into ``run.json`` and write it."""
        record = {"schema": RUN_SCHEMA, **self.read_record(), **changes}
        write_text(self.record_path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return record


class RunHere(UsageError):
    """A run is in the folder already, and nobody said what is to become of it."""


def _traces_of_us(folder: Path) -> set[str]:
    """Names in a folder without a run that are a failed run's of ours, and may go when another begins there."""
    if _written_by_us(folder / "config.yaml"):
        return {*OWN}
    with contextlib.suppress(OSError, ValueError):
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if isinstance(record, dict) and {"schema", "status"} <= record.keys():
            return {"run.json", "traceback.txt"}
    return set()


def _written_by_us(config: Path) -> bool:
    """Whether a config.yaml begins as every run's does; anybody else's is nothing to replace."""
    with contextlib.suppress(OSError), config.open("rb") as file:
        return file.read(7) == b"schema:"
    return False
