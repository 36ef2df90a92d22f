"""Advisory locks on files (flock): which process of this machine works on something."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

__all__ = ["is_locked", "lock"]


def lock(file: Path, wait: bool = False) -> int | None:
    """Hold a file's lock until the handle that is given back is closed, or the process ends.

    Arguments:
        file: made where it is not there; its folder is.
        wait: until whoever holds it lets go.

    Returns:
        An open file descriptor; None where another process holds the lock and is not waited for.

    Raises:
        OSError: the file cannot be opened.
    """
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(handle)
        if wait:
            raise
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle


def is_locked(file: Path) -> bool:
    """Whether a process holds a file's lock; the file is not made."""
    try:
        with file.open("rb") as seen:
            fcntl.flock(seen, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
