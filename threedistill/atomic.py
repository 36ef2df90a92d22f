"""Files are written whole or not at all, and a failed write is one line that names the place and the cure."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from threedistill.errors import ThreedistillError, UsageError


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


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that becomes ``path`` when the block ends, and vanishes when it fails.

    Raises:
        ThreedistillError: the folder or the disk does not take the file.
    """
    temporary: Path | None = None
    with os_errors_in_words(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
            temporary = Path(name)
            os.close(handle)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp's files are private
            os.replace(temporary, path)
        finally:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, text.encode("utf-8"))
