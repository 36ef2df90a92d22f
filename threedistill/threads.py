"""Thread settings, which have to be in the environment before torch is imported.

Idle OpenMP threads that spin were measured to cost 3 to 13 times under contention, so they sleep
(``OMP_WAIT_POLICY=PASSIVE``), but not at once: waking them after each of a network's hundreds of small operations made
two threads as slow as one (the embedded prior, 8 pictures: 84 ms; with some ten microseconds of patience,
``GOMP_SPINCOUNT=10000``, 57 ms; spinning for good, 47 ms). The default number of threads is one per physical core that
this process may use.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

from threedistill.errors import ThreedistillWarning

__all__ = ["settle_threads", "usable_cores"]


def usable_cores() -> int:
    """Physical cores that this process may use: its affinity, siblings counted once, cgroup quota kept."""
    try:
        cpus = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not Linux: the mask cannot be asked for
        return max(os.cpu_count() or 1, 1)
    cores = {_core_of(cpu) for cpu in cpus}
    return max(min(len(cores), _quota() or len(cores)), 1)


def settle_threads() -> None:
    """Set the OpenMP variables the user left unset; only warn where torch has already read them."""
    if "torch" not in sys.modules:
        if "OMP_WAIT_POLICY" not in os.environ:
            os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
            os.environ.setdefault("GOMP_SPINCOUNT", "10000")
        if "OMP_NUM_THREADS" not in os.environ:
            os.environ["OMP_NUM_THREADS"] = str(usable_cores())
        return
    torch = sys.modules["torch"]
    cores = usable_cores()
    if torch.get_num_threads() > cores:
        warnings.warn(
            f"torch was imported first and runs {torch.get_num_threads()} threads on {cores} cores; "
            f"import threedistill before torch, or call torch.set_num_threads({cores})",
            ThreedistillWarning,
            stacklevel=3,
        )


def _core_of(cpu: int) -> str:
    """A name for the physical core of a logical CPU: the list of its sibling threads."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int | None:
    """Whole CPUs granted by a cgroup v2 limit (what containers set), rounded up; None = no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if quota == "max" else max(-(-int(quota) // int(period)), 1)
    except (OSError, ValueError):
        return None
