"""The same sweep on every launcher: killed half-way and continued, nothing finished runs twice, nothing outlives it."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import threedistill
from threedistill.commands.sweep import read_words
from threedistill.errors import ThreedistillError
from threedistill.sweeps import launch as launch_module
from threedistill.sweeps import workers
from threedistill.sweeps.job import finished
from threedistill.sweeps.plan import Plan

SMALL = ["prior=oracle", "budget.iterations=2", "budget.grid=24", "budget.resolution=16", "export.faces=200",
         "export.texture_size=0", "--no-eval"]  # fmt: skip
#: Just enough to be looked at.
SEEN = ["prior=oracle", "budget.iterations=40", "budget.views=2", "budget.resolution=32", "budget.grid=32",
        "export.faces=800", "export.texture_size=64"]  # fmt: skip
#: Launcher -> the words that give it two workers.
LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra.sweeper.max_batch_size=2"],
    # The plug-in gives every cluster an object store's size, which one that is there already refuses.
    "ray": ["hydra.launcher.ray.init.address=auto", "+hydra.launcher.ray.init.object_store_memory=null"],
}
MODULES = {"joblib": "joblib", "submitit_local": "submitit", "ray": "ray"}


@contextlib.contextmanager
def cluster(launcher: str) -> Iterator[dict[str, str]]:
    """For Ray, a local cluster of two workers; what its members have in their environment."""
    if launcher != "ray":
        yield {}
        return
    # A socket's path has 107 bytes at most, of which Ray needs 64: pytest's folders are too deep for it.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield from _cluster(Path(folder))


def _cluster(folder: Path) -> Iterator[dict[str, str]]:
    # It is for those who have its token, which is nobody else's.
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    # Its workers run at low priority else, and wait for those of everybody.
    environment = {"RAY_worker_niceness": "0", "RAY_raylet_start_wait_time_s": "300", **secret}
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    start = [*ray, "start", "--head", "--num-cpus=2", "--port=0", "--object-store-memory=80000000",
             "--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]  # fmt: skip
    source, mark = str(Path(threedistill.__file__).parent.parent), secrets.token_hex(16)
    settings = {**os.environ, **environment, "PYTHONPATH": source, "THREEDISTILL_TEST_CLUSTER": mark}
    begun = subprocess.run(start, env=settings, capture_output=True, text=True)
    try:
        assert begun.returncode == 0, begun.stdout + begun.stderr
        found = next(
            line.split("'")[1]
            for line in begun.stdout.splitlines()
            if "--address='" in line or "address='" in line
        )
        yield {"RAY_ADDRESS": found, **secret}
    finally:
        # Not `ray stop`, which ends every cluster of the machine.
        while members := offspring(f"THREEDISTILL_TEST_CLUSTER={mark}"):
            for number in members:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            time.sleep(0.2)


def command(launcher: str, settings: list[str]) -> list[str]:
    return [
        sys.executable, "-m", "threedistill", "sweep", "--prompts", "prompts.txt", "--out", "out", "--preset", "bench",
        *settings, f"hydra/launcher={launcher}", *LAUNCHERS[launcher],
    ]  # fmt: skip


def offspring(mark: str) -> dict[int, str]:
    """Living processes that carry a mark in their environment, as every descendant does."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            alive = (place / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
            if alive and mark.encode() in (place / "environ").read_bytes():
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
        except OSError:
            continue
    return found


def kill_and_go_on(
    launcher: str, prompts: int, seeds: int, after: int, limit: float, settings: list[str] = SMALL
) -> SimpleNamespace:
    """Start the sweep, SIGKILL it once ``after`` runs are done, wait for its offspring to end, start it again."""
    with cluster(launcher) as joined:
        return _kill_and_go_on(launcher, prompts, seeds, after, limit, settings, joined)


def _kill_and_go_on(
    launcher: str,
    prompts: int,
    seeds: int,
    after: int,
    limit: float,
    settings: list[str],
    joined: dict[str, str],
) -> SimpleNamespace:
    total, mark = prompts * seeds, f"THREEDISTILL_TEST_MARK={os.getpid()}-{launcher}-{time.time_ns()}"
    key, _, value = mark.partition("=")
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(threedistill.__file__).parent.parent),
        key: value,
        **joined,
    }
    environment.pop("PYTEST_XDIST_WORKER", None)
    names = ["a red mushroom", "a blue car", "a yellow duck", "a green tree"][:prompts]
    Path("prompts.txt").write_text("\n".join(names) + "\n")
    line = [*command(launcher, settings), f"seed={','.join(map(str, range(seeds)))}"]

    def done() -> list[Path]:
        return [folder for folder in sorted(Path("out/runs").glob("*")) if finished(folder)]

    with open("first.log", "w") as log:
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=log, start_new_session=True)
    start = time.monotonic()
    while len(done()) < after:
        assert process.poll() is None, Path("first.log").read_text()
        assert time.monotonic() - start < limit, f"{len(done())} runs; {Path('first.log').read_text()}"
        time.sleep(0.5)  # a look is not free, and the runs need the cores
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = time.monotonic()
    while offspring(mark) and time.monotonic() - killed < 90:
        time.sleep(0.5)
    left = offspring(mark)
    for number in left:
        os.kill(number, signal.SIGKILL)
    before = {folder.name: (folder / "asset" / "model.glb").stat().st_mtime_ns for folder in done()}
    evaluate = "--no-eval" not in settings
    settled = sum(launch_module._settled(folder, evaluate) for folder in done())
    again = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=limit)
    assert again.returncode == 0, again.stderr
    plan = Plan("out")
    assert len(plan.entries) == total and all(finished(plan.folder(n)) for n in range(total))
    after_it = {f.name: (f / "asset" / "model.glb").stat().st_mtime_ns for f in done()}
    late = offspring(mark)
    return SimpleNamespace(
        before=before, settled=settled, after=after_it, left=left, late=late, said=again.stderr, total=total,
        seconds=time.monotonic() - start, orphans=time.monotonic() - killed,
    )  # fmt: skip


def check(found: SimpleNamespace) -> None:
    assert not found.left, f"outlived the sweep by 90 s: {found.left}"
    assert 0 < len(found.before) < found.total
    # One that was made, and not judged yet, is judged.
    assert f"{found.total} runs, {found.settled} of them finished before" in found.said
    assert {name: found.after[name] for name in found.before} == found.before, "a finished run was made again"
    assert not found.late, found.late


@pytest.mark.slow
@pytest.mark.parametrize("launcher", sorted(LAUNCHERS))
def test_a_killed_sweep_goes_on_and_leaves_nobody_behind(workspace: Path, launcher: str):
    pytest.importorskip(MODULES[launcher])
    pytest.importorskip(launch_module.LAUNCHERS[launcher][0])  # type: ignore[index]
    check(kill_and_go_on(launcher, prompts=2, seeds=3, after=2, limit=500))


@pytest.mark.long
def test_twenty_four_runs_on_ray_killed_half_way(workspace: Path):
    """With --basetemp=DIR its page stays at DIR/*/out/index.html."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    found = kill_and_go_on("ray", prompts=4, seeds=6, after=12, limit=3000, settings=SEEN)
    print(f"{len(found.before)} of {found.total} done when killed; {found.seconds:.0f} s in all")
    check(found)
    assert Path("out/index.html").read_text().count("a yellow duck") >= 6


def orphaned(child: str, place: Path) -> None:
    """Start a program that is told its parent, wait until it is ``ready``, and kill the parent."""
    parent = (
        "import subprocess, sys, time\nfrom threedistill.sweeps.workers import me\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}, me()])\ntime.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(threedistill.__file__).parent.parent)}
    process = subprocess.Popen([sys.executable, "-c", parent], cwd=place, env=environment)
    wait_for(place / "ready")
    process.kill()
    process.wait()


def test_a_worker_ends_with_its_parent(tmp_path: Path):
    """A parent that is killed; its child, busy, is told to stop as by SIGTERM, and does."""
    orphaned(
        "import sys, time\nfrom threedistill.sweeps.workers import with_parent\n"
        "from threedistill.training.interruption import stoppable\n"
        "with with_parent(sys.argv[1], every=0.1), stoppable():\n"
        "    open('ready', 'w').close()\n"
        "    try:\n        time.sleep(60)\n"
        "    except KeyboardInterrupt:\n        open('stopped', 'w').close()\n",
        tmp_path,
    )
    wait_for(tmp_path / "stopped")


def test_a_worker_that_waits_for_work_ends_with_its_parent(tmp_path: Path):
    """As joblib's do, for minutes, holding their memory."""
    orphaned(
        "import os, sys, time\nfrom threedistill.sweeps.workers import me, with_parent\n"
        "with with_parent(sys.argv[1], every=0.1):\n    pass\n"
        "open('mine', 'w').write(me())\nos.rename('mine', 'ready')\ntime.sleep(60)\n",
        tmp_path,
    )
    _, number, started = (tmp_path / "ready").read_text().split()
    assert started, "it was alive when it was ready"
    end = time.monotonic() + 30
    while workers._started(int(number)) == started:
        assert time.monotonic() < end, "it waits on"
        time.sleep(0.05)


def wait_for(file: Path, limit: float = 60) -> None:
    end = time.monotonic() + limit
    while not file.exists():
        assert time.monotonic() < end, f"{file.name} did not come"
        time.sleep(0.05)


def test_a_parent_elsewhere_is_not_watched():
    before = threading.active_count()
    with workers.with_parent(f"not-{socket.gethostname()} 1 5"):
        assert threading.active_count() == before
    with workers.with_parent(workers.me()):
        assert threading.active_count() == before


def test_each_of_several_workers_has_a_gpu_to_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Recording fakes of a machine with three GPUs: two workers at once take two, a freed one is taken again."""
    import torch

    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda k: SimpleNamespace(uuid=f"GPU-{k}"))
    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(tmp_path))
    with workers.one_gpu() as first, workers.one_gpu() as second:
        assert (first, second) == (0, 1)
        with workers.one_gpu() as third:
            assert third == 2
            waiting = threading.Thread(target=lambda: workers.one_gpu(wait=0.01).__enter__())
            waiting.daemon = True
            waiting.start()
            time.sleep(0.1)
            assert taken == [0, 1, 2], "no GPU is free: the fourth waits"
        waiting.join(10)
        assert taken == [0, 1, 2, 2]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with workers.one_gpu() as only:
        assert only is None and taken == [0, 1, 2, 2]


def test_ray_gives_every_run_a_gpu_where_there_are_some(monkeypatch: pytest.MonkeyPatch):
    import torch

    launch = launch_module.Launch("ray")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert launch_module._gpus(launch) == ["+hydra.launcher.ray.remote.num_gpus=1"]
    own = launch_module.Launch("ray", ("+hydra.launcher.ray.remote.num_gpus=0.5",))
    assert launch_module._gpus(own) == [] and launch_module._gpus(launch_module.Launch("joblib")) == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch_module._gpus(launch) == []


def test_slurm_is_refused_where_there_is_none(
    command, workspace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", str(tmp_path))
    Path("prompts.txt").write_text("a red mushroom\n")
    done = command("sweep", "--prompts", "prompts.txt", "hydra/launcher=submitit_slurm", "--out", "out")
    assert (done.status, done.err.count("\n")) == (2, 1) and "there is no sbatch here" in done.err
    assert not Path("out").exists()
    for name in ("sbatch", "srun"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    launch_module.check_launcher("submitit_slurm")


def test_words_that_add_to_hydras_own_settings_are_no_axes():
    words = read_words(["hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"])
    assert words.hydra == ("+hydra.launcher.ray.init.num_cpus=2",) and not words.axes


def test_a_cluster_that_does_not_let_us_in_is_one_line():
    with (
        pytest.raises(
            ThreedistillError, match="Failed to connect; is it running, and where it wants a token"
        ),
        launch_module._joining(launch_module.Launch("ray")),
    ):
        raise ConnectionError("Failed\nto connect")
    with pytest.raises(ConnectionError), launch_module._joining(launch_module.Launch("basic")):
        raise ConnectionError
