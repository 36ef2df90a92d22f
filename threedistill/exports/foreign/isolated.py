"""Foreign libraries that read foreign files run in a process of their own.

A C++ library may crash on a damaged file, take whatever memory the file claims, or never return; none of these can be
caught in one's own process. The child has a bound on its memory and its time, returns arrays and facts through a
temporary folder, and everything that goes wrong with it is one line.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.limits import FREE_BYTES, current

__all__ = ["isolated"]

#: Copies that a library makes on the way: of what it decodes, and of what it hands over.
_COPIES = 4
_SECONDS = 50


def isolated(place: str, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Call ``module:function`` with a file's path in a child process.

    Arguments:
        place: a function of this package, ``(path: Path) -> (arrays by name, facts that JSON can hold)``; importing its
            module loads what it needs.
        path: the file.

    Raises:
        ThreedistillError: what the function raised, or that it crashed, took too long or more memory than the limit
            ``expansion`` allows.
    """
    expansion = current().expansion
    packed = path.stat().st_size
    memory = 0 if expansion is None else _COPIES * (FREE_BYTES + expansion * packed)
    root = str(Path(__file__).resolve().parents[3])
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)]), "PXR_WORK_THREAD_LIMIT": "1",
        "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8",
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="threedistill-") as folder:
        command = [sys.executable, "-m", __name__, place, str(path), folder, str(memory)]
        try:
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                timeout=_SECONDS + packed // 1_000_000,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ThreedistillError(
                f"cannot read {path}: its library does not come to an end with it"
            ) from None
        answer = Path(folder) / "answer.json"
        if done.returncode or not answer.exists():
            way = "" if expansion is None else f", or larger than --limit expansion={expansion} allows"
            raise ThreedistillError(f"cannot read {path}: its library gave up on it; it is damaged{way}")
        said = json.loads(answer.read_text("utf-8"))
        if "error" in said:
            raise ThreedistillError(said["error"])
        with np.load(Path(folder) / "arrays.npz", allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}, said["facts"]


def _bound_memory(more: int) -> None:
    """At most ``more`` bytes beyond what this process has now, where the system can do that."""
    with contextlib.suppress(ImportError, OSError, ValueError, IndexError):
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * resource.getpagesize() + more
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (most if hard < 0 else min(most, hard), hard))


def _child(place: str, path: Path, folder: Path, memory: int) -> None:
    module, _, name = place.partition(":")
    answer: Mapping[str, Any]
    try:
        function: Callable[[Path], tuple[dict[str, np.ndarray], dict[str, Any]]]
        function = getattr(importlib.import_module(module), name)
        if memory:
            _bound_memory(memory)
        arrays, facts = function(path)
        np.savez(folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
        answer = {"facts": facts}
    except ThreedistillError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": f"cannot read {path}: it claims more memory than --limit expansion allows"}
    (folder / "answer.json").write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    _child(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
