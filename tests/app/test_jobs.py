"""The queue with a stand-in for ``threedistill``: order, progress, stops, killed children, and pages that come back."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from threedistill.app.asked import Asked, Limits
from threedistill.app.files import Files
from threedistill.app.jobs import Jobs, View
from threedistill.errors import ThreedistillError, UsageError

CHILD = (sys.executable, str(Path(__file__).with_name("child.py")))
CHOICES = {"preset": "draft", "guidance": "csd"}


@contextlib.contextmanager
def opened(folder: Path, limits: Limits = Limits(), settings: tuple[str, ...] = ()):  # noqa: B008
    jobs = Jobs(folder, limits, settings, CHILD)
    try:
        yield jobs
    finally:
        jobs.close()


def until(jobs: Jobs, key: str, wanted, seconds: float = 60.0) -> View:
    """The view once it is as wanted."""
    end = time.monotonic() + seconds
    while True:
        view = jobs.look(key)
        assert view is not None
        if wanted(view):
            return view
        assert time.monotonic() < end, view
        time.sleep(0.05)


def state(name: str):
    return lambda view: view.job.state == name


def asked(prompt: str, seed: int = 0, picture: bytes | None = None) -> Asked:
    return Asked(prompt, seed, CHOICES, picture)


def test_a_job_is_made_and_its_files_are_there(tmp_path):
    with opened(tmp_path, settings=("export.faces=9",)) as jobs:
        key = jobs.add(asked("a red duck", 7, b"picture")).key
        view = until(jobs, key, state("done"))
        assert view.job.verdict == "it is a red duck" and view.asset and not view.resumable
        words = json.loads((view.run / "run.json").read_text())["words"]
        assert words[-1] == "export.faces=9" and "a red duck" not in words
        assert Path(words[words.index("--image") + 1]).read_bytes() == b"picture"
        files = Files(jobs)
        assert files.asset(key, "glb")[0].read_bytes() == b"glTFa red duck"
        path, name = files.asset(key, "stl")
        assert name.endswith("-stl.stl") and path.read_text().endswith(" as stl")
        path.write_text("kept")
        assert files.asset(key, "stl")[0].read_text() == "kept", "what was written once is not written again"
        with zipfile.ZipFile(files.asset(key, "obj")[0]) as bundle:
            assert bundle.namelist() == ["model.mtl", "model.obj"]
        with pytest.raises(ThreedistillError, match=r"cannot be written as mp4: mp4 needs imageio-ffmpeg"):
            files.asset(key, "mp4")
        for name in ("fbx", "../../run.json", "", "ksplat"):
            with pytest.raises(UsageError, match="no such format"):
                files.asset(key, name)
        with zipfile.ZipFile(files.run(key)) as bundle:
            assert f"{view.job.name}/metrics.csv" in bundle.namelist()
        assert files.preview(key, 20).read_bytes().startswith(b"\x89PNG")
        with pytest.raises(UsageError, match="no such picture"):
            files.preview(key, 21)


def test_jobs_wait_for_their_turn_and_can_be_stopped(tmp_path):
    with opened(tmp_path, Limits(waiting=2)) as jobs:
        first = jobs.add(asked("a slow duck")).key
        view = until(jobs, first, lambda view: view.done == 25)
        assert (view.total, view.preview, view.job.state) == (40, 20, "running") and view.left is not None
        second, third = jobs.add(asked("a red duck")).key, jobs.add(asked("a blue duck")).key
        assert [jobs.look(key).position for key in (second, third)] == [0, 1]  # pyright: ignore
        with pytest.raises(UsageError, match="2 jobs are waiting, and no more may"):
            jobs.add(asked("a duck too many"))
        jobs.stop(second)
        assert until(jobs, second, state("stopped")).job.line == "taken out of the queue"
        jobs.stop(first)
        view = until(jobs, first, state("stopped"))
        assert view.job.line == "stopped here; what is done is kept" and view.resumable
        until(jobs, third, state("done"))
        jobs.resume(second)
        until(jobs, second, state("done"))
        for key in ("", "x" * 32, "../jobs", None, 3, ["x"]):
            assert jobs.look(key) is None
            jobs.stop(key)
            jobs.resume(key)


def test_a_killed_child_is_said_and_goes_on(tmp_path):
    with opened(tmp_path) as jobs:
        key = jobs.add(asked("a dead duck")).key
        view = until(jobs, key, state("failed"))
        assert view.job.line == "its process was ended by signal 9; what is done is kept" and view.resumable
        jobs.resume(key)
        assert until(jobs, key, state("done")).job.line == ""


def test_a_refusal_is_its_own_line(tmp_path):
    with opened(tmp_path) as jobs:
        key = jobs.add(asked("a bad duck")).key
        assert until(jobs, key, state("failed")).job.line == "nobody knows a bad duck"


def test_no_job_takes_longer_than_allowed(tmp_path):
    with opened(tmp_path, Limits(minutes=0.02)) as jobs:
        key = jobs.add(asked("a slow duck")).key
        assert "0.02 minutes are over" in until(jobs, key, state("stopped")).job.line


def test_a_full_folder_takes_no_more(tmp_path):
    with opened(tmp_path, Limits(gigabytes=1e-6)) as jobs:
        (tmp_path / "runs" / "large").write_bytes(b"x" * 2000)
        with pytest.raises(UsageError, match=r"holds 0.0 GB \(1e-06 are allowed\)"):
            jobs.add(asked("a duck"))


def test_a_page_that_is_opened_again_goes_on(tmp_path):
    with opened(tmp_path) as jobs:
        at_work, waiting = jobs.add(asked("a slow duck once")).key, jobs.add(asked("a red duck")).key
        until(jobs, at_work, lambda view: view.done == 25)
        with pytest.raises(UsageError, match="in use by another page"):
            Jobs(tmp_path, Limits(), (), CHILD)
    (tmp_path / "jobs" / f"{'0' * 32}.json").write_text("{}")
    (tmp_path / "jobs" / f"{'1' * 32}.json").write_text(json.dumps({
        "key": "1" * 32, "name": "../../elsewhere", "prompt": "x", "seed": 0, "choices": {},
    }))  # fmt: skip
    with opened(tmp_path) as jobs:
        assert jobs.look("0" * 32) is None and jobs.look("1" * 32) is None
        for key in (at_work, waiting):
            until(jobs, key, state("done"))


def test_a_page_that_was_killed_finds_its_jobs(tmp_path):
    """kill -9 of the page itself: its child may be at work for a while, and the job waits for it, then goes on."""
    code = (
        "import sys, time; from pathlib import Path; from threedistill.app.jobs import *; "
        "from threedistill.app.asked import *; "
        f"jobs = Jobs(Path({str(tmp_path)!r}), Limits(), (), {CHILD!r}); "
        "print(jobs.add(Asked('a slow duck once', 0, {})).key, flush=True); time.sleep(600)"
    )
    page = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    key = page.stdout.readline().strip()
    end = time.monotonic() + 60
    while not list((tmp_path / "runs").glob("*/metrics.csv")) and time.monotonic() < end:
        time.sleep(0.05)
    page.send_signal(signal.SIGKILL)
    page.wait()
    page.stdout.close()
    with opened(tmp_path) as jobs:
        assert jobs.look(key).job.state == "waiting"  # pyright: ignore
        until(jobs, key, lambda view: view.job.state != "waiting")
        assert until(jobs, key, state("done")).job.line == ""


def test_a_full_disk_stops_no_queue(tmp_path, monkeypatch, capsys):
    """What cannot be begun now is begun later, said once; a request that could not be kept is not in the queue."""
    start, refused = Jobs._start, []

    def full(self, job) -> None:
        if len(refused) < 3:
            refused.append(job.key)
            raise OSError(28, "No space left on device")
        start(self, job)

    monkeypatch.setattr(Jobs, "_start", full)
    with opened(tmp_path) as jobs:
        key = jobs.add(asked("a red duck")).key
        until(jobs, key, state("done"))
        assert refused == [key] * 3
        assert capsys.readouterr().err.count("No space left on device") == 1
        monkeypatch.setattr(Jobs, "_keep", lambda self, job: (_ for _ in ()).throw(OSError(28, "full")))
        with pytest.raises(OSError):
            jobs.add(asked("a blue duck"))
        assert list(jobs._jobs) == [key]
