"""Memory is counted before it is taken, for what a setting can make large."""

from __future__ import annotations

import os
from pathlib import Path

from threedistill.errors import UsageError

__all__ = ["PER_PARAMETER", "available", "need"]

#: Bytes of one optimised number: itself, its gradient and Adam's two moments, in float32.
PER_PARAMETER = 16

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available() -> int | None:
    """Bytes that this process may still take, as far as the system says; None where it does not."""
    found = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found += [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        try:
            found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
        except (OSError, ValueError):
            return None
    for limit, used in _CGROUPS:
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # "max": no limit
            continue
    return max(min(found), 0) if found else None


def need(size: float, what: str) -> None:
    """Refuse what does not fit.

    Arguments:
        size: bytes that will be taken at once.
        what: what takes them, for the message.

    Raises:
        UsageError: more than there is.
    """
    free = available()
    if free is not None and size > free:
        raise UsageError(
            f"{what} would take {size / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free; make it smaller"
        )
