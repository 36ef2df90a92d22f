"""The queue: each job is a ``threedistill generate`` process of its own, and what is kept of it is on disk.

    FOLDER/jobs/KEY.json     what was asked for, and how it stands      FOLDER/runs/NAME-s0-abcdef01    the runs
    FOLDER/logs/KEY.log      what the child said                       FOLDER/pictures, FOLDER/files   up, and down

A key is 128 random bits: whoever knows it may see the job, and it is only ever looked up, never part of a path that a
browser names. A child that is killed takes nothing with it but itself; a page that is started again on the same folder
finds its jobs, and those that wait go on.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from threedistill.app.asked import Asked, Limits
from threedistill.atomic import make_folder, read_json, write_bytes, write_text
from threedistill.errors import UsageError
from threedistill.locks import lock
from threedistill.sweeps.job import read_record
from threedistill.training.naming import prompt_name
from threedistill.training.run_folder import RunFolder

__all__ = ["Job", "Jobs", "State", "View", "folder_bytes"]

State = Literal["waiting", "running", "done", "stopped", "failed"]

#: Seconds after which a child that was asked to stop is killed.
_PATIENCE = 60.0
#: Bytes of the disk that stay free whatever is allowed.
_SPARE = 500_000_000


@dataclass
class Job:
    """One request and how it stands; the content of its file.

    Attributes:
        key: by which its browser knows it.
        name: its run's folder.
        prompt, seed, choices, pictured: what was asked for.
        state: how it stands.
        line: why, in one line, where there is something to say.
        verdict: what the critic said.
        asked: when, in seconds since the epoch; the queue's order.
        seconds: worked on so far.
    """

    key: str
    name: str
    prompt: str
    seed: int
    choices: dict[str, str]
    pictured: bool = False
    state: State = "waiting"
    line: str = ""
    verdict: str = ""
    asked: float = field(default_factory=time.time)
    seconds: float = 0.0


@dataclass(frozen=True)
class View:
    """A job as the page shows it.

    Attributes:
        job: a copy of it.
        position: how many are before it in the queue; 0 where it does not wait.
        done, total: iterations; 0 of 0 where nothing is known yet.
        preview: the number of its newest preview.
        seconds: worked on so far; ``left``: seconds that are left at this rate, None = unknown.
        resumable: it can go on.
        asset: its GLB is there.
        run: its run's folder.
    """

    job: Job
    position: int
    done: int
    total: int
    preview: int | None
    seconds: float
    left: float | None
    resumable: bool
    asset: bool
    run: Path


@dataclass
class _Child:
    """A running process."""

    process: subprocess.Popen[bytes]
    started: float
    told: float | None = None  # when it was told to stop
    why: str = ""


class Jobs:
    """The jobs of one folder.

    Arguments:
        folder: where everything is kept.
        limits: what is allowed.
        settings: ``key=value`` words for every run.
        command: how the command line is started.

    Raises:
        UsageError: another page uses the folder.
    """

    def __init__(
        self, folder: Path, limits: Limits, settings: Sequence[str] = (),
        command: Sequence[str] = (sys.executable, "-m", "threedistill"),
    ) -> None:  # fmt: skip
        self.folder, self.limits, self.settings, self.command = (
            folder,
            limits,
            tuple(settings),
            tuple(command),
        )
        for name in ("jobs", "logs", "runs", "pictures", "files", "cache"):
            make_folder(folder / name)
        self._hold = self._locked()
        self._lock = threading.RLock()
        self._children: dict[str, _Child] = {}
        self._jobs = {job.key: job for job in self._kept()}
        self._over = threading.Event()
        self._worker = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._worker.start()

    # ---- what the page asks ----------------------------------------------------------------------------------------

    def add(self, asked: Asked) -> Job:
        """Put a request at the end of the queue.

        Raises:
            UsageError: the queue or the disk is full.
        """
        self._check_disk()
        key = secrets.token_hex(16)
        job = Job(
            key, f"{prompt_name(asked.prompt)}-s{asked.seed}-{secrets.token_hex(4)}", asked.prompt, asked.seed,
            dict(asked.choices), asked.picture is not None,
        )  # fmt: skip
        with self._lock:
            self._check_queue()
            if asked.picture is not None:
                write_bytes(self._picture(job), asked.picture)
            self._keep(job)
            self._jobs[key] = job
        return job

    def look(self, key: object) -> View | None:
        """How a job stands; None where nobody has that key."""
        with self._lock:
            job = self._jobs.get(key) if isinstance(key, str) else None
            if job is None:
                return None
            child = self._children.get(job.key)
            ahead = [other for other in self._queue() if other.asked < job.asked]
            job = Job(**asdict(job))
        run = self.run(job)
        record, previews = read_record(run), RunFolder(run).previews
        stages = record.get("stages")
        counts = [n for n in stages if isinstance(n, int)] if isinstance(stages, list) else []
        stage, iteration = _last_step(run / "metrics.csv")
        done, total = sum(counts[:stage]) + iteration, sum(counts)
        spent = time.monotonic() - child.started if child else 0.0
        left = spent * (total - done) / done if child and 0 < done < total else None
        return View(
            job, len(ahead) if job.state == "waiting" else 0, min(done, total), total,
            int(previews[-1].stem) if previews else None, job.seconds + spent, left,
            job.state in ("stopped", "failed"), (run / "asset" / "model.glb").is_file(), run,
        )  # fmt: skip

    def stop(self, key: object) -> None:
        """Take a job out of the queue, or end its work with what is done kept."""
        with self._lock:
            job = self._jobs.get(key) if isinstance(key, str) else None
            if job is None:
                return
            if job.state == "waiting":
                self._settle(job, "stopped", "taken out of the queue")
            elif child := self._children.get(job.key):
                self._tell(child, "stopped here")

    def resume(self, key: object) -> None:
        """Put a job that was stopped, killed or failed at the end of the queue; it goes on where it was.

        Raises:
            UsageError: the queue or the disk is full.
        """
        with self._lock:
            job = self._jobs.get(key) if isinstance(key, str) else None
            if job is None or job.state not in ("stopped", "failed"):
                return
            self._check_disk()
            self._check_queue()
            job.asked = time.time()
            self._settle(job, "waiting", "")

    def run(self, job: Job) -> Path:
        """The folder of a job's run."""
        return self.folder / "runs" / job.name

    def close(self) -> None:
        """Stop the children, with what they have done kept, and leave the queue as it stands."""
        self._over.set()
        self._worker.join()
        with self._lock:
            for child in self._children.values():
                self._tell(child, "")
        deadline = time.monotonic() + _PATIENCE
        while self._children and time.monotonic() < deadline:
            time.sleep(0.05)
            self._reap()
        for child in self._children.values():
            child.process.kill()
            child.process.wait()
        self._reap()
        os.close(self._hold)

    # ---- the queue -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        said = ""
        while not self._over.wait(0.2):
            try:
                self._reap()
                with self._lock:
                    # Not those on which a process works that outlived the page which started it.
                    ready = [job for job in self._queue() if not RunFolder(self.run(job)).in_use]
                    for job in ready[: max(self.limits.running - len(self._children), 0)]:
                        self._start(job)
            except OSError as error:
                # A full disk, no memory for a process: it may pass, and the queue goes on.
                if str(error) != said:
                    said = str(error)
                    print(f"threedistill app: {said}; tried again", file=sys.stderr, flush=True)

    def _queue(self) -> list[Job]:
        return sorted((job for job in self._jobs.values() if job.state == "waiting"), key=lambda j: j.asked)

    def _check_queue(self) -> None:
        if len(self._queue()) >= self.limits.waiting:
            raise UsageError(f"{self.limits.waiting} jobs are waiting, and no more may; try again later")

    def _check_disk(self) -> None:
        used, free = folder_bytes(self.folder), shutil.disk_usage(self.folder).free
        if used > self.limits.gigabytes * 1e9 or free < _SPARE:
            raise UsageError(
                f"the page's folder holds {used / 1e9:.1f} GB ({self.limits.gigabytes:g} are allowed) and the disk has "
                f"{free / 1e9:.1f} GB left; whoever runs the page can make room"
            )

    def _start(self, job: Job) -> None:
        asked = Asked(job.prompt, job.seed, job.choices)
        words = asked.words(self.run(job), self._picture(job) if job.pictured else None, self.settings)
        said = self.folder / "logs" / f"{job.key}.log"
        with said.open("ab") as log, self._answer(job).open("wb") as answer:
            process = subprocess.Popen(
                [*self.command, *words],
                stdin=subprocess.PIPE, stdout=answer, stderr=log, start_new_session=True,
            )  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(OSError), process.stdin as prompt:  # it may be gone already
            prompt.write(job.prompt.encode())
        self._children[job.key] = _Child(process, time.monotonic())
        self._settle(job, "running", "")

    def _tell(self, child: _Child, why: str) -> None:
        """Ask a child to stop; a second request would make it hurry."""
        if child.told is None:
            child.told, child.why = time.monotonic(), why
            _send(child, signal.SIGTERM)

    def _reap(self) -> None:
        """Look after the children: those that are over, take too long, or do not stop."""
        with self._lock:
            for key, child in list(self._children.items()):
                now, status = time.monotonic(), child.process.poll()
                if status is not None:
                    job = self._jobs[key]
                    job.seconds += now - child.started
                    del self._children[key]
                    self._ended(job, status, child)
                elif child.told is not None and now - child.told > _PATIENCE:
                    _send(child, signal.SIGKILL)
                elif now - child.started > self.limits.minutes * 60:
                    self._tell(child, f"{self.limits.minutes:g} minutes are over, and no job may take longer")

    def _ended(self, job: Job, status: int, child: _Child) -> None:
        """What became of a job, from its child's exit status and answer."""
        answer = read_json(self._answer(job))
        if self._over.is_set() and status != 0:
            self._settle(job, "waiting", "")  # it goes on when the page is opened again
        elif status == 0:
            job.verdict = str(answer.get("verdict") or "")
            self._settle(job, "done", "")
        elif child.told is not None:
            self._settle(job, "stopped", f"{child.why}; what is done is kept")
        elif status < 0:
            self._settle(job, "failed", f"its process was ended by signal {-status}; what is done is kept")
        else:
            said = answer.get("error") or f"it ended with status {status}; the log says more"
            self._settle(job, "failed", str(said))

    # ---- what is on disk -------------------------------------------------------------------------------------------

    def _settle(self, job: Job, state: State, line: str) -> None:
        job.state, job.line = state, line
        self._keep(job)

    def _keep(self, job: Job) -> None:
        write_text(self.folder / "jobs" / f"{job.key}.json", json.dumps(asdict(job), ensure_ascii=False))

    def _kept(self) -> list[Job]:
        """The jobs of earlier pages; those that were at work when theirs ended wait to go on."""
        found = []
        for file in sorted((self.folder / "jobs").glob("*.json")):
            with contextlib.suppress(TypeError):
                job = Job(**read_json(file))
                if job.key != file.stem or not re.fullmatch(r"[a-z0-9-]+", job.name):
                    continue
                if job.state == "running":
                    finished = read_record(self.run(job))["status"] == "done"
                    job.state = "done" if finished else "waiting"
                found.append(job)
        return found

    def _picture(self, job: Job) -> Path:
        return self.folder / "pictures" / f"{job.key}.png"

    def _answer(self, job: Job) -> Path:
        return self.folder / "logs" / f"{job.key}.json"

    def _locked(self) -> int:
        handle = lock(self.folder / ".lock")
        if handle is None:
            raise UsageError(f"{self.folder} is in use by another page; choose another --share-dir")
        return handle


def _send(child: _Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        child.process.send_signal(number)


def _last_step(metrics: Path) -> tuple[int, int]:
    """Stage and iteration of the last whole row of a metrics.csv; (0, 0) where there is none."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, metrics.stat().st_size - 4096))
            rows = re.findall(rb"(?m)^(\d{1,4}),(\d{1,9}),.*\n", file.read())
    except OSError:
        return 0, 0
    return (int(rows[-1][0]), int(rows[-1][1])) if rows else (0, 0)


def folder_bytes(folder: Path) -> int:
    """What a folder takes on disk."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total
