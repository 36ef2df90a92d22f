"""A run's folder: what is in it, who holds it, and how its files are written without ever being half-written.

config.yaml  run.json  metrics.csv  eval.json  preview/000100.png  checkpoints/00-coarse/last.safetensors
asset/{model.glb, turntable.webp, sheet.png}
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from threedistill.atomic import os_errors_in_words, write_text
from threedistill.errors import UsageError

RUN_SCHEMA = 1


class RunBusy(UsageError):
    """Another process works on this run."""


Status = Literal["queued", "running", "interrupted", "failed", "done"]


def slug(text: str, limit: int = 48) -> str:
    """A short file name for a prompt: lower-case ASCII words joined by hyphens."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    name = re.sub(r"[^a-z0-9]+", "-", ascii_text.lower()).strip("-")[:limit].strip("-")
    return name or "prompt"


class RunFolder:
    """One run on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def record_path(self) -> Path:
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def asset_dir(self) -> Path:
        return self.path / "asset"

    @property
    def exists(self) -> bool:
        return self.config.exists()

    def checkpoint(self, index: int, stage: str) -> Path:
        """Where a stage's latest state is kept."""
        return self.path / "checkpoints" / f"{index:02d}-{stage}" / "last.safetensors"

    @property
    def start(self) -> Path:
        """The object that the run started from, where a file was given."""
        return self.path / "checkpoints" / "init.safetensors"

    def preview(self, iteration: int) -> Path:
        """Where the preview sheet of an iteration goes."""
        return self.path / "preview" / f"{iteration:06d}.png"

    def prepare(self, *, overwrite: bool) -> None:
        """Claim the folder for a new run; only files of an earlier run are ever removed, and only on request.

        Raises:
            UsageError: a run is there already, or the folder holds something else.
        """
        with os_errors_in_words(self.path):
            if self.exists and not overwrite:
                raise UsageError(
                    f"{self.path} already holds a run; continue it with --resume or replace it with --overwrite"
                )
            if self.path.is_dir() and not self.exists and any(p.name != ".lock" for p in self.path.iterdir()):
                raise UsageError(f"{self.path} is not empty and holds no run; choose another --out")
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".lock"
            probe.touch()

    def clear(self) -> None:
        """Remove an earlier run's files (after the lock is held)."""
        import shutil

        for name in ("config.yaml", "run.json", "metrics.csv", "eval.json", "traceback.txt"):
            with contextlib.suppress(FileNotFoundError):
                (self.path / name).unlink()
        for name in ("preview", "checkpoints", "asset"):
            shutil.rmtree(self.path / name, ignore_errors=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run so that no second process works on it.

        Raises:
            RunBusy: another process holds it.
        """
        with os_errors_in_words(self.path):
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunBusy(
                    f"{self.path} is in use by another process; wait for it or choose another --out"
                ) from None
            yield
        finally:
            os.close(handle)

    def read_record(self) -> dict[str, Any]:
        """The content of ``run.json``, or an empty dictionary before the first write."""
        try:
            record = json.loads(self.record_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise UsageError(f"{self.record_path} is damaged; start the run anew with --overwrite") from None
        return record if isinstance(record, dict) else {}

    def update_record(self, **changes: Any) -> dict[str, Any]:
        """Merge changes into ``run.json`` and write it."""
        record = {"schema": RUN_SCHEMA, **self.read_record(), **changes}
        write_text(self.record_path, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
        return record
