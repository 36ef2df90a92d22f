"""Progress on stderr: a bar on a terminal, one output that changes in a notebook, elsewhere a line every tenth of the
way, nothing when quiet.
"""

from __future__ import annotations

import html
import sys
import time
from dataclasses import dataclass
from typing import Any

__all__ = ["Bar"]

#: Seconds between changes of a notebook's output; each is a message to the browser.
_NOTEBOOK_EVERY = 0.25


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
        self._shown = 0.0  # when the notebook's output changed last
        self._drawn: Any = None
        self._task: Any = None
        self._output = None if quiet else _notebook_output()
        if quiet or self._output or sys.stderr is None or not sys.stderr.isatty():
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
        return self._drawn is not None or self._output is not None

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
        elif self._output is not None:
            now = time.monotonic()
            if now - self._shown > _NOTEBOOK_EVERY or done == self.total:
                self._shown = now
                self._output.update(_Cell(self.name, done, self.total, rate, self.left(done), numbers))
        elif done % max(self.total // 10, 1) == 0 or done == self.total:
            self.say(repr(_Cell(self.name, done, self.total, rate, self.left(done), numbers)))

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


@dataclass(frozen=True)
class _Cell:
    """The bar as a notebook shows it, and as its text where it is exported without HTML."""

    name: str
    done: int
    total: int
    rate: float
    left: float
    numbers: str

    def __repr__(self) -> str:
        return (
            f"{self.name} {self.done}/{self.total}  {self.rate:.1f} it/s  {self.left:.0f} s left  {self.numbers}"
        ).rstrip()

    def _repr_html_(self) -> str:
        bar = f'<progress value="{self.done}" max="{self.total}" style="width:16em"></progress>'
        return f"<div>{bar} <code>{html.escape(repr(self))}</code></div>"


def _notebook_output() -> Any:
    """A new output of the running cell that can be changed; None outside of notebooks."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is None:  # a terminal's has none
        return None
    from IPython.display import display

    return display("", display_id=True)
