"""The terminal a command talks to: it may be closed, know ASCII only, or send signals; none of it ends the work."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from typing import Any, TextIO

from threedistill.errors import ThreedistillWarning

__all__ = ["Unbroken", "steady"]


class Unbroken:
    """A text stream whose reader may go away: what cannot be said is left unsaid."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or give up."""
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            self._give_up()
            return len(text)

    def flush(self) -> None:
        """Flush, or give up."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Point the file descriptor at nothing, or Python's own last flush would fail and change the exit status."""
        with contextlib.suppress(OSError, ValueError):
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, self._stream.fileno())
            os.close(nothing)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def steady(quiet: bool) -> Iterator[None]:
    """Within the block: a closed stderr swallows what it is given, stdout takes any text, SIGTERM is like Ctrl-C.

    Warnings of libraries are their authors' talk among themselves: they are not shown. Ours are one line.

    Arguments:
        quiet: no line for our own warnings either.
    """
    _fill_missing_descriptors()
    streams, showing = (sys.stdout, sys.stderr), warnings.showwarning
    nothing = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.stdout = sys.stdout or nothing
    stderr: Any = Unbroken(sys.stderr or nothing)
    sys.stderr = stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, category, *_: _one_line(message, category, quiet)
    terminating: Any = None
    with contextlib.suppress(ValueError):  # outside the main thread signals are the caller's
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            terminating = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        if terminating is not None:
            signal.signal(signal.SIGTERM, terminating)
        warnings.showwarning = showing
        stderr.flush()
        sys.stdout, sys.stderr = streams
        nothing.close()


def _one_line(message: Warning | str, category: type[Warning], quiet: bool) -> None:
    if not quiet and issubclass(category, ThreedistillWarning):
        text = " ".join(str(message).split()).removeprefix("threedistill: ")
        print(f"threedistill: warning: {text}", file=sys.stderr)


def _fill_missing_descriptors() -> None:
    """A closed 0, 1 or 2 would become the next file that is opened, and libraries write their messages there."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                nothing = os.open(os.devnull, os.O_RDWR)
                if nothing != number:
                    os.dup2(nothing, number)
                    os.close(nothing)
