"""When an atlas of xatlas may end: some time after its work is done.

xatlas ends an atlas by telling its worker threads to stop and waiting for them. It tells them without their lock, so
a thread that was just about to sleep misses it, and the program waits for ever: seen with xatlas 0.0.11 on a busy
machine, where an atlas ended right after it was made. A thread that has been asleep for seconds misses nothing.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["kept"]

T = TypeVar("T")

#: Seconds after which its threads are asleep.
REST = 10.0
#: (when it was done, in which process, the atlas), oldest first.
_resting: list[tuple[float, int, object]] = []


@contextmanager
def kept(atlas: T) -> Iterator[T]:
    """An atlas that is not let go before it has rested, nor when the interpreter ends.

    Arguments:
        atlas: to work with inside.
    """
    _let_go()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(atlas))
    try:
        yield atlas
    finally:
        _resting.append((time.monotonic(), os.getpid(), atlas))


def _let_go() -> None:
    """End those that have rested; a forked process has none of its parent's threads, and ends none of those atlases."""
    while _resting and time.monotonic() - _resting[0][0] > REST:
        _, process, atlas = _resting.pop(0)
        if process == os.getpid():
            ctypes.pythonapi.Py_DecRef(ctypes.py_object(atlas))
