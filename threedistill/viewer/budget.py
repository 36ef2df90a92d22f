"""How much of a run's time its viewer may take."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Budget"]


class Budget:
    """A share of the time that passes, which jobs are paid from; a job that cannot be paid is put off.

    What a job costs is what it took the last time (per unit of its size). Time that the run spends waiting is free.

    Arguments:
        share: of the time, above 0.
        most: seconds that are saved up at most, and that a job which comes in sizes may take.
        clock: seconds.
    """

    def __init__(
        self, share: float = 0.02, most: float = 0.6, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self.share, self.most, self.clock = share, most, clock
        self.saved = 0.0
        self.spent = 0.0
        self._last = clock()
        self._costs: dict[str, float] = {}

    def accrue(self) -> None:
        """Time has passed in which the run worked."""
        now = self.clock()
        self.saved = min(self.saved + self.share * (now - self._last), self.most)
        self._last = now

    def wait(self) -> None:
        """Time has passed in which the run waited."""
        self._last = self.clock()

    def affords(self, name: str, size: float = 1.0) -> bool:
        """Whether a job can be begun: what it costs is saved up, or as much as ever is. One that was never done can,
        once there is anything."""
        return self.saved > 0 and min(self._cost(name, size), self.most) <= self.saved

    def fits(self, name: str, size: float = 1.0) -> bool:
        """Whether a job takes no longer than one may."""
        return self._cost(name, size) <= self.most

    def pay(self, name: str, job: Callable[[], object], size: float = 1.0, free: bool = False) -> None:
        """Do a job and take what it costs, also where that is more than there is: then the next ones wait for longer.

        Arguments:
            name: by which its cost is remembered.
            job: what to do.
            size: how much of it.
            free: the run waits meanwhile, so it costs nothing.
        """
        start = self.clock()
        try:
            job()
        finally:
            taken = self.clock() - start
            self._costs[name] = taken / size
            self._last += taken  # the viewer's own time earns nothing
            if not free:
                self.saved -= taken
                self.spent += taken

    def _cost(self, name: str, size: float) -> float:
        """Seconds that a job will take; 0 = never done."""
        return self._costs.get(name, 0.0) * size
