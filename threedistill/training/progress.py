"""Progress on stderr: a bar on a terminal, every tenth step as a plain line elsewhere, nothing when quiet."""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = ["Bar"]


class Bar:
    """How far one piece of work has come, how fast, and how long it will take.

    Arguments:
        name: of the work.
        total: its steps.
        quiet: say nothing.
        first: steps that were done before.
    """

    def __init__(self, name: str, total: int, quiet: bool = False, first: int = 0) -> None:
        self.name, self.total, self.quiet, self.first = name, total, quiet, first
        self._start = time.monotonic()
        self._drawn: Any = None
        self._task: Any = None
        if quiet or sys.stderr is None or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        self._drawn = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
            TextColumn("{task.fields[numbers]}"), console=Console(stderr=True), expand=True,
        )  # fmt: skip
        self._task = self._drawn.add_task(name, total=total, completed=first, rate="", numbers="")
        self._drawn.start()

    @property
    def on_terminal(self) -> bool:
        """Whether a bar is drawn."""
        return self._drawn is not None

    def rate(self, done: int) -> float:
        """Steps per second so far."""
        return (done - self.first) / max(time.monotonic() - self._start, 1e-9)

    def left(self, done: int) -> float:
        """Seconds that are left at this rate."""
        return (self.total - done) / max(self.rate(done), 1e-9)

    def step(self, done: int, numbers: str = "") -> None:
        """Show that ``done`` steps are done, with a few figures of the last one."""
        rate = self.rate(done)
        if self._drawn is not None:
            self._drawn.update(self._task, completed=done, rate=f"{rate:.1f} it/s", numbers=numbers)
        elif done % max(self.total // 10, 1) == 0 or done == self.total:
            self.say(
                f"{self.name} {done}/{self.total}  {rate:.1f} it/s  {self.left(done):.0f} s left  {numbers}".rstrip()
            )

    def say(self, text: str) -> None:
        """Print a line without breaking the bar."""
        if self._drawn is not None:
            self._drawn.console.print(text, highlight=False, markup=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Stop drawing."""
        if self._drawn is not None:
            self._drawn.stop()
            self._drawn = None
