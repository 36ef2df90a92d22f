"""The few file operations of the product: files are written whole or not at all, and a failed one is one line in words.

Everything that changes the disk goes through :func:`_act`, one operation at a time, so that tests can fail, or end the
process, at each of them in turn (``tests/training/test_file_operations.py``).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from threedistill.errors import ThreedistillError, UsageError

__all__ = [
    "append_text", "copy_file", "fill", "is_temporary", "make_folder", "move", "os_errors_in_words", "read_json",
    "remove", "replacing", "write_bytes", "write_text",
]  # fmt: skip

T = TypeVar("T")

#: Names of temporary files, and of those that versions before 0.2 left behind when they were killed.
_ATTEMPTS = 20  # at a folder whose parent others remove
_TEMPORARY = re.compile(
    r"\..+-[a-z0-9_]{8}\.part(\.[^.]+)?|\.(last|init|model|run|config|eval)-[a-z0-9_]{8}\.[a-z]+"
)


@contextlib.contextmanager
def os_errors_in_words(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` about ``path`` into one line.

    Raises:
        UsageError: the path itself cannot be what it is asked to be.
        ThreedistillError: the disk is full, or writing is not allowed there.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ThreedistillError(
                f"cannot write {path}: the disk is full; free some space, then continue with --resume"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG):
            raise UsageError(f"cannot write {path}: {reason.lower()}; choose another --out") from error
        raise ThreedistillError(f"cannot write {path}: {reason.lower()}; choose another --out") from error


def _act(operation: str, path: Path, action: Callable[[], T]) -> T:
    """Carry out one change on disk; the only place from which one is made.

    Arguments:
        operation: make, create, fill, append, move, delete.
        path: what is changed.
        action: the change itself.
    """
    return action()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there; also while others remove the empty ones among them."""
    for attempt in range(_ATTEMPTS):
        if path.is_dir():
            return
        with os_errors_in_words(path):
            try:
                _act("make", path, lambda: path.mkdir(parents=True, exist_ok=True))
            except FileNotFoundError:
                if attempt + 1 == _ATTEMPTS:
                    raise


def move(source: Path, target: Path) -> None:
    """Rename a file or a folder within one disk, in one step; a file that is there is replaced."""
    with os_errors_in_words(target):
        _act("move", target, lambda: os.replace(source, target))
        _sync_folder(target.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing there is fine."""
    if path.is_symlink() or not path.is_dir():
        if path.is_symlink() or path.exists():
            with os_errors_in_words(path):
                _act("delete", path, lambda: path.unlink(missing_ok=True))
        return
    with os_errors_in_words(path):
        for inner in sorted(path.iterdir()):
            remove(inner)
        _act("delete", path, path.rmdir)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends, and vanishes when it fails.

    Raises:
        ThreedistillError: the folder or the disk does not take the file.
    """
    temporary: Path | None = None
    with os_errors_in_words(path):
        try:
            make_folder(path.parent)
            temporary = _act("create", path, lambda: _temporary(path))
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp's files are private
            move(temporary, path)
        except (Exception, KeyboardInterrupt):
            if temporary is not None:
                with contextlib.suppress(OSError, ThreedistillError):
                    remove(temporary)
            raise


def _temporary(path: Path) -> Path:
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".part{path.suffix}", dir=path.parent)
    os.close(handle)
    return Path(name)


def _sync_folder(folder: Path) -> None:
    """Let a rename survive a power cut; where folders cannot be synchronised it must do without."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        fill(temporary, data)


def fill(path: Path, data: bytes) -> None:
    """Give the temporary file of :func:`replacing` its content."""
    _act("fill", path, lambda: path.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))


def append_text(path: Path, text: str) -> None:
    """Add UTF-8 text to the end of a file; what a power cut leaves of it may be torn."""

    def add() -> None:
        with path.open("a", newline="", encoding="utf-8") as file:
            file.write(text)

    with os_errors_in_words(path):
        _act("append", path, add)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one where there is none (or half of one)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with replacing(target) as temporary:
        _act("fill", target, lambda: shutil.copyfile(source, temporary))


def is_temporary(path: Path) -> bool:
    """Whether a name is one of a file that was never finished: left behind by a process that was killed."""
    return _TEMPORARY.fullmatch(path.name) is not None
