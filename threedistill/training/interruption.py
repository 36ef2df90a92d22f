"""Ctrl-C and SIGTERM: a request to stop, which a run answers with a line, a status and a state to go on from.

Between two steps a stage can stop at once, within one it must not: there the request waits (:meth:`Stop.waiting`). A
second request is for those who cannot wait. As a library, outside the main thread, signals are the caller's.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

__all__ = ["Stop", "stoppable"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """What was asked for, and whether it must wait.

    Attributes:
        requested: a signal has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._waits = False

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Within the block the first request only sets :attr:`requested`."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def check(self) -> None:
        """Stop here if it was asked for: also where a library swallowed the exception that said so.

        Raises:
            KeyboardInterrupt: it was.
        """
        if self.requested:
            raise KeyboardInterrupt

    def handle(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        again, self.requested = self.requested, True
        if again or not self._waits:
            raise KeyboardInterrupt


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Turn both signals into a :class:`Stop`, and give them back afterwards."""
    stop = Stop()
    before = {}
    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a shell's background job
                before[number] = signal.signal(number, stop.handle)
    except ValueError:  # not the main thread
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
