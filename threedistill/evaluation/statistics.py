"""Intervals for the figures in results tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Estimate", "bootstrap", "wilson"]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: the point estimate.
        low, high: the interval.
        count: how many things it was computed from.
    """

    value: float
    low: float
    high: float
    count: int

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers for JSON."""
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}

    def __str__(self) -> str:
        """Without the interval where one group, or equal ones, make none."""
        width = "" if self.low == self.high else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.value:.2f}{width}"


def bootstrap(
    values: Sequence[float],
    groups: Sequence[object] | None = None,
    statistic: Callable[[np.ndarray], np.ndarray] | None = None,
    level: float = 0.95,
    samples: int = 4000,
    seed: int = 0,
) -> Estimate:
    """Percentile bootstrap interval of the mean (or another statistic), resampling whole groups.

    Seeds of one prompt are not independent draws of what the table claims about prompts, so ``groups`` (the prompts)
    are what is drawn with replacement; the default draws single values.

    Arguments:
        values: one figure per run, finite.
        groups: what each value belongs to.
        statistic: (samples, n) array to (samples,); default the mean over the last axis. Not with groups.
        level: coverage of the interval.
    """
    x = np.asarray(values, dtype=float)
    if len(x) == 0:
        raise ValueError("no values to bootstrap")
    rng = np.random.default_rng(seed)
    if groups is not None and statistic is not None:
        raise ValueError("a grouped bootstrap is of the mean only")
    if groups is None:
        take = statistic or (lambda a: a.mean(-1))
        drawn = take(x[rng.integers(len(x), size=(samples, len(x)))])
        value = float(take(x[None])[0])
    else:
        names = {g: i for i, g in enumerate(dict.fromkeys(groups))}
        member = np.array([names[g] for g in groups])
        total = np.bincount(member, weights=x, minlength=len(names))
        size = np.bincount(member, minlength=len(names))
        picks = rng.integers(len(names), size=(samples, len(names)))
        drawn = total[picks].sum(1) / size[picks].sum(1)
        value = float(x.mean())
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(value, float(low), float(high), len(x))


def wilson(rate: float, trials: float, z: float = 1.96) -> Estimate:
    """Wilson score interval of a rate: honest at 0 and 1, where the bootstrap's width is zero.

    Centre ``(p + z^2/2n) / (1 + z^2/n)``, half-width ``z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n)``.

    Arguments:
        rate: the observed share, in [0, 1].
        trials: independent observations behind it; fractional where neighbours agree.
    """
    if trials <= 0 or not 0 <= rate <= 1:
        raise ValueError(f"a share of {rate} of {trials} trials is no rate")
    n = trials
    middle = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(rate, max(0.0, middle - half), min(1.0, middle + half), max(1, round(n)))
