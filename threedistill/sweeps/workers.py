"""What a sweep's worker owes to others: it ends with the process that started it, and takes one GPU of several."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from threedistill.locks import lock

__all__ = ["me", "one_gpu", "with_parent"]


def me() -> str:
    """This process, so that it can be told from a later one of the same number: ``host pid start``."""
    return f"{socket.gethostname()} {os.getpid()} {_started(os.getpid())}"


@contextlib.contextmanager
def with_parent(parent: str, every: float = 2.0, patience: float = 30.0) -> Iterator[None]:
    """Within the block, this process stops when its parent is gone: first as on SIGTERM, with its state on disk.

    A worker that waits for its next block when that happens (joblib's do, for minutes) ends as well.

    Arguments:
        parent: of :func:`me`; one on another machine cannot be watched, and is not.
        every: seconds between two looks.
        patience: seconds after which it ends whatever it is doing.
    """
    host, pid, started = parent.split(" ")
    if host != socket.gethostname() or int(pid) == os.getpid():
        yield
        return
    idle = _IDLE.get(parent)
    if idle is None:
        idle = _IDLE[parent] = threading.Event()
        arguments = (int(pid), started, idle, every, patience)
        threading.Thread(target=_watch, args=arguments, daemon=True).start()
    idle.clear()
    try:
        yield
    finally:
        idle.set()


#: Of the parents that this process watches: whether it works for them.
_IDLE: dict[str, threading.Event] = {}


def _watch(pid: int, started: str, idle: threading.Event, every: float, patience: float) -> None:
    """End this process after that one, as gently as it can be done."""
    while _started(pid) == started:
        time.sleep(every)
    if not idle.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        idle.wait(patience)
        time.sleep(every)  # what has ended by itself says so first
    os._exit(143)


def _started(pid: int) -> str:
    """When a process of this machine was started, in its kernel's words; "" where there is none (any more)."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:  # no /proc: macOS
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    return "alive"


@contextlib.contextmanager
def one_gpu(wait: float = 1.0) -> Iterator[int | None]:
    """Within the block this process has a GPU to itself, where its machine shows several; which one.

    A GPU is taken by holding a lock under its own number (UUID), so that sweeps side by side share them, too. With more
    workers than GPUs, the rest wait.

    Arguments:
        wait: seconds between two looks.
    """
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        yield None
        return
    folder = Path(tempfile.gettempdir(), f"threedistill-gpus-{os.getuid()}")
    folder.mkdir(exist_ok=True, mode=0o700)
    handle, index = _free(folder, [str(torch.cuda.get_device_properties(k).uuid) for k in range(count)], wait)
    try:
        torch.cuda.set_device(index)
        yield index
    finally:
        os.close(handle)


def _free(folder: Path, names: list[str], wait: float) -> tuple[int, int]:
    """The lock and the index of the first GPU that nobody holds."""
    while True:
        for index, name in enumerate(names):
            handle = lock(folder / name)
            if handle is not None:
                return handle, index
        time.sleep(wait)
