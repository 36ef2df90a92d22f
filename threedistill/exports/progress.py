"""What a long conversion is doing, on stderr: nothing for the first second, then a line that says what and how long.

The work names its steps (:func:`step`); who shows them is decided outside (:func:`shown`), so that the library is
silent where nobody asked.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TextIO

__all__ = ["shown", "step"]

#: Seconds before anything is said, between changes of a terminal's line, and between lines of a log.
_SILENT, _TERMINAL, _LOG = 1.0, 0.5, 10.0


class _Line:
    """One line that is kept up to date by a thread of its own; the thread only prints."""

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.terminal = stream, stream.isatty()
        self.names: list[str] = []
        self.since = time.monotonic()
        self._done = threading.Event()
        self._width = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._done.set()
        self._thread.join()
        if self._width:
            self._write(f"\r{' ' * self._width}\r")

    def _run(self) -> None:
        last = ""
        wait = _SILENT
        while not self._done.wait(wait):
            name = self.names[-1] if self.names else ""
            passed = time.monotonic() - self.since
            wait = _TERMINAL if self.terminal else _SILENT
            if not name or passed < _SILENT:
                continue
            if self.terminal:
                text = f"{name} ... {passed:.0f} s"
                self._write(f"\r{text.ljust(self._width)}")
                self._width = max(self._width, len(text))
            elif name != last or passed > _LOG:
                self._write(f"{name} ...\n" if name != last else f"{name} ... {passed:.0f} s\n")
                last = name
                wait = _LOG if passed > _LOG else _SILENT

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # a closed stderr ends nothing
            self.stream.write(text)
            self.stream.flush()


_LINE: ContextVar[_Line | None] = ContextVar("threedistill_progress", default=None)


@contextlib.contextmanager
def shown(stream: TextIO | None = None) -> Iterator[None]:
    """Within the block, steps are shown on ``stream`` (stderr)."""
    line = _Line(stream or sys.stderr)
    token = _LINE.set(line)
    line.begin()
    try:
        yield
    finally:
        _LINE.reset(token)
        line.end()


@contextlib.contextmanager
def step(name: str) -> Iterator[None]:
    """The block is this step of the work, e.g. ``reading a.obj``; steps nest."""
    line = _LINE.get()
    if line is None:
        yield
        return
    line.names.append(name)
    line.since = time.monotonic()
    try:
        yield
    finally:
        line.names.pop()
        line.since = time.monotonic()
