"""Values that change over a stage: pure functions of progress, the fraction of the stage that is done.

A schedule is called with ``progress`` in [0, 1]; ``at_step`` variants are turned into fractions by the caller,
who knows how long the stage is (:func:`value_at`). What values it takes is known in closed form (``bounds``), which is
what the ranges of settings are checked against.
"""

from __future__ import annotations

import math
from itertools import groupby, pairwise
from typing import Annotated, Literal

from threedistill.values import Fraction, NonNegative, Within, settings

__all__ = [
    "Constant", "Piecewise", "Ramp", "Schedule", "ScheduledFraction", "ScheduledNonNegative", "ScheduledNumber",
    "ScheduledPositive", "bounds", "first_above", "knots", "stations", "value_at",
]  # fmt: skip


@settings
class Constant:
    """``f(p) = value``."""

    value: float

    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value."""
        return self.value, self.value

    def __call__(self, progress: float) -> float:
        return self.value


@settings
class Ramp:
    """From ``start`` to ``end``, beginning at fraction ``at`` of the stage and lasting ``over`` of it.

    ``u = clip((p - at) / over, 0, 1)``; linear: ``start + (end - start) u``; sqrt: ``u -> sqrt(u)``;
    log: geometric interpolation (both ends positive); cosine: ``u -> (1 - cos(pi u)) / 2``.
    ``over = 0`` is a step at ``at``.
    """

    start: float
    end: float
    at: Fraction = 0.0
    over: NonNegative = 1.0
    shape: Literal["linear", "sqrt", "log", "cosine"] = "linear"

    def __post_init__(self) -> None:
        if self.shape == "log" and (self.start <= 0 or self.end <= 0):
            raise ValueError(f"Ramp(shape='log') needs positive ends, got {self.start} and {self.end}")

    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value that is reached: every shape is monotone, so those at the stage's ends."""
        first, last = self(0.0), self(1.0)
        return min(first, last), max(first, last)

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


@settings
class Piecewise:
    """Straight lines between ``(progress, value)`` points, constant before the first and after the last."""

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.points or any(a[0] > b[0] for a, b in pairwise(self.points)):
            raise ValueError(f"Piecewise needs points in rising order of progress, got {self.points}")

    def bounds(self) -> tuple[float, float]:
        """The smallest and the largest value: those at the stage's ends, or of a point between them.

        Of several points at one place, the first is reached and the last is approached from behind; those between
        them never show.
        """
        values = [self(0.0), self(1.0)]
        for at, group in groupby(self.points, key=lambda point: point[0]):
            here = [value for _, value in group]
            values += [here[0]] if 0 < at <= 1 else []
            values += [here[-1]] if 0 <= at < 1 else []
        return min(values), max(values)

    def __call__(self, progress: float) -> float:
        if progress <= self.points[0][0]:
            return self.points[0][1]
        for (x0, y0), (x1, y1) in pairwise(self.points):
            if progress <= x1:
                return y1 if x1 == x0 else y0 + (y1 - y0) * (progress - x0) / (x1 - x0)
        return self.points[-1][1]


Schedule = Constant | Ramp | Piecewise

#: A number, or numbers over a stage, all of them in a range.
ScheduledNumber = Annotated[float | Schedule, Within()]
ScheduledNonNegative = Annotated[float | Schedule, Within(0)]
ScheduledPositive = Annotated[float | Schedule, Within(0, ends="()")]
ScheduledFraction = Annotated[float | Schedule, Within(0, 1)]


def value_at(value: float | Schedule, progress: float) -> float:
    """A plain number, or the value of a schedule at ``progress``."""
    return float(value) if isinstance(value, (int, float)) else value(progress)


def bounds(value: float | Schedule) -> tuple[float, float]:
    """The smallest and the largest value that a setting takes over a stage."""
    return (float(value), float(value)) if isinstance(value, (int, float)) else value.bounds()


def knots(value: float | Schedule) -> list[float]:
    """Where the formula of a setting changes."""
    if isinstance(value, Ramp):
        return [value.at, value.at + value.over]
    return [at for at, _ in value.points] if isinstance(value, Piecewise) else []


def stations(*values: float | Schedule) -> list[float]:
    """The points of a stage at which what several settings do together must be looked at.

    The ends, the knots, and just before them (a step has two values at its place). Between two knots straight lines do
    nothing that their ends do not show; curved ramps are looked at in between.
    """
    inner = sorted({0.0, 1.0, *(at for value in values for at in knots(value) if 0 < at < 1)})
    points = set(inner) | {math.nextafter(at, 0.0) for at in inner if at}
    for first, last in pairwise(inner):
        points |= {first + (last - first) * k / 8 for k in range(1, 8)}
    return sorted(points)


def first_above(low: float | Schedule, high: float | Schedule) -> tuple[float, float, float] | None:
    """(progress, low, high) where ``low`` first exceeds ``high``; None where it never does."""
    for progress in stations(low, high):
        if (below := value_at(low, progress)) > (above := value_at(high, progress)):
            return progress, below, above
    return None
