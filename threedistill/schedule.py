"""Values that change over a stage: pure functions of progress, the fraction of the stage that is done.

A schedule is called with ``progress`` in [0, 1]; ``at_step`` variants are turned into fractions by the caller,
who knows how long the stage is (:func:`value_at`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


@dataclass(frozen=True)
class Constant:
    """``f(p) = value``."""

    value: float

    def __call__(self, progress: float) -> float:
        return self.value


@dataclass(frozen=True)
class Ramp:
    """From ``start`` to ``end``, beginning at fraction ``at`` of the stage and lasting ``over`` of it.

    ``u = clip((p - at) / over, 0, 1)``; linear: ``start + (end - start) u``; sqrt: ``u -> sqrt(u)``;
    log: geometric interpolation (both ends positive); cosine: ``u -> (1 - cos(pi u)) / 2``.
    ``over = 0`` is a step at ``at``.
    """

    start: float
    end: float
    at: float = 0.0
    over: float = 1.0
    shape: Literal["linear", "sqrt", "log", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if not 0 <= self.at <= 1 or self.over < 0:
            raise ValueError(
                f"Ramp: at={self.at} must lie in [0, 1] and over={self.over} must not be negative"
            )
        if self.shape == "log" and (self.start <= 0 or self.end <= 0):
            raise ValueError(f"Ramp(shape='log') needs positive ends, got {self.start} and {self.end}")

    def __call__(self, progress: float) -> float:
        if self.over == 0:
            return self.end if progress >= self.at else self.start
        u = min(max((progress - self.at) / self.over, 0.0), 1.0)
        if self.shape == "sqrt":
            u = math.sqrt(u)
        elif self.shape == "cosine":
            u = 0.5 - 0.5 * math.cos(math.pi * u)
        elif self.shape == "log":
            return float(self.start * (self.end / self.start) ** u)
        return self.start + (self.end - self.start) * u


@dataclass(frozen=True)
class Piecewise:
    """Straight lines between ``(progress, value)`` points, constant before the first and after the last."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points or any(a[0] > b[0] for a, b in pairwise(self.points)):
            raise ValueError(f"Piecewise needs points in rising order of progress, got {self.points}")

    def __call__(self, progress: float) -> float:
        if progress <= self.points[0][0]:
            return self.points[0][1]
        for (x0, y0), (x1, y1) in pairwise(self.points):
            if progress <= x1:
                return y1 if x1 == x0 else y0 + (y1 - y0) * (progress - x0) / (x1 - x0)
        return self.points[-1][1]


Schedule = Constant | Ramp | Piecewise


def value_at(value: float | Schedule, progress: float) -> float:
    """A plain number, or the value of a schedule at ``progress``."""
    return float(value) if isinstance(value, (int, float)) else value(progress)
