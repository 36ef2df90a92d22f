"""What may be downloaded of a job: its asset in every format of the table, its pictures, and its run's folder.

A format is looked up in the table, a job by its key; no name that comes from a browser becomes part of a path.
"""

from __future__ import annotations

import subprocess
import threading
import zipfile
from collections import defaultdict
from pathlib import Path

from threedistill.app.jobs import Jobs, View
from threedistill.atomic import make_folder, read_json, replacing
from threedistill.errors import ThreedistillError, UsageError
from threedistill.exports.formats import file_of, of_kind
from threedistill.training.run_folder import RunFolder

__all__ = ["Files", "downloads"]

#: Seconds that a conversion may take.
_LONGEST = 600
#: One of a kind at a time: a second request waits for the first one's file.
_LOCKS: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)


def downloads() -> tuple[str, ...]:
    """The formats that an asset is offered in."""
    return of_kind("mesh", "splats", "film")


class Files:
    """The files of jobs.

    Arguments:
        jobs: the queue.
    """

    def __init__(self, jobs: Jobs) -> None:
        self.jobs = jobs

    def known(self, key: str) -> str:
        """The key, where a finished job has it.

        Raises:
            UsageError: none has.
        """
        return self._finished(key).job.key

    def asset(self, key: str, name: str) -> tuple[Path, str]:
        """The asset in a format, and what to call it; several files as one zip. What is not there yet is written.

        Raises:
            UsageError: no such job or format, or the asset is not finished.
            ThreedistillError: it could not be written.
        """
        view = self._finished(key)
        if name not in downloads():
            raise UsageError(f"there is no such format; there are {', '.join(downloads())}")
        own = view.run / "asset" / file_of(name)
        if own.is_file() and not own.with_suffix(".mtl").exists():  # an OBJ is several files
            return own, f"{view.job.name}{own.suffix}"
        folder = self.jobs.folder / "files" / view.job.key / name
        with _LOCKS[view.job.key, name]:
            found = next((file for file in folder.glob(f"*-{name}.*") if file.is_file()), None)
            found = found or self._export(view, name, folder)
        return found, found.name

    def run(self, key: str) -> Path:
        """The run's folder as a zip, for ``threedistill resume`` elsewhere."""
        view = self.jobs.look(key)
        if view is None or view.job.state == "running" or not view.run.is_dir():
            raise UsageError("there is no folder to take along (yet)")
        target = self.jobs.folder / "files" / view.job.key / f"{view.job.name}.zip"
        with _LOCKS[view.job.key, "run"]:
            found = sorted(file for file in view.run.rglob("*") if file.is_file() and file.name != ".lock")
            _zip(target, {f"{view.job.name}/{file.relative_to(view.run)}": file for file in found})
        return target

    def preview(self, key: str, number: int) -> Path:
        """A strip of views that was drawn on the way."""
        view = self.jobs.look(key)
        path = None if view is None else RunFolder(view.run).preview(number)
        if path is None or not path.is_file():
            raise UsageError("there is no such picture")
        return path

    def _finished(self, key: str) -> View:
        view = self.jobs.look(key)
        if view is None or view.job.state != "done":
            raise UsageError("there is no finished asset under this address")
        return view

    def _export(self, view: View, name: str, folder: Path) -> Path:
        """Write a format with ``threedistill export``, in a process of its own."""
        make_folder(folder)
        words = ["export", str(view.run), "--format", name, "--out", str(folder), "--overwrite", "--json"]
        answer = folder.with_name(f"{name}.json")
        with answer.open("wb") as out:
            try:
                done = subprocess.run(
                    [*self.jobs.command, *words],
                    stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL, timeout=_LONGEST,
                )  # fmt: skip
            except subprocess.TimeoutExpired:
                raise ThreedistillError(f"writing it as {name} took more than {_LONGEST} s") from None
        if done.returncode:
            said = read_json(answer).get("error") or f"status {done.returncode}"
            raise ThreedistillError(f"it cannot be written as {name}: {said}")
        files = sorted(file for file in folder.iterdir() if file.is_file())
        whole = folder / f"{view.job.name}-{name}{files[0].suffix if len(files) == 1 else '.zip'}"
        if len(files) == 1:
            files[0].rename(whole)
        else:
            _zip(whole, {file.name: file for file in files})
        return whole


def _zip(target: Path, files: dict[str, Path]) -> None:
    with replacing(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, file in files.items():
            bundle.write(file, name)
