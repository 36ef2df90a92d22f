"""At which noise levels the prior is asked: windows, and policies that draw levels from them.

A window is given in ``t`` (fractions of the prior's own path; the field's ``[0.02, 0.98]``) or in
``logsnr``, which means the same noise for every prior.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.protocols import NoisePath
from threedistill.rng import Streams
from threedistill.schedule import Ramp, ScheduledNumber, bounds, first_above, value_at
from threedistill.values import Fraction, Within, settings

__all__ = ["GOLDEN", "Annealed", "DreamTime", "TimestepPolicy", "Uniform", "Unit", "Window"]

Unit = Literal["t", "logsnr"]

#: Additive recurrence with the golden ratio: any number of consecutive points covers the interval evenly.
GOLDEN = 0.6180339887498949


def _levels(path: NoisePath, value: Float[Tensor, "B"], unit: Unit) -> NoiseLevel:
    level = path.at_fraction(value) if unit == "t" else path.at_log_snr(value)
    return level if path.steps is None else path.at(level.index.round())


@settings
class Window:
    """An interval of noise levels, both ends included, each a number or a schedule of progress.

    Arguments:
        min, max: the ends, in ``unit``.
        unit: ``t`` = fraction of the prior's path (0 clean, 1 noise), ``logsnr`` = log(alpha^2 / sigma^2).
    """

    min: ScheduledNumber = 0.02
    max: ScheduledNumber = 0.98
    unit: Unit = "t"

    def __post_init__(self) -> None:
        for name, end in (("min", self.min), ("max", self.max)):
            low, high = bounds(end)
            if self.unit == "t" and not 0 <= low <= high <= 1:
                raise ValueError(f"window.{name} takes values in [{low:g}, {high:g}], and t lies in [0, 1]")
        if at := first_above(self.min, self.max):
            raise ValueError(f"window [{at[1]:g}, {at[2]:g}] runs backwards at progress {at[0]:g}")

    def at(self, progress: float) -> tuple[float, float]:
        """Both ends at this point of the stage."""
        return value_at(self.min, progress), value_at(self.max, progress)


@settings
class Uniform:
    """Levels uniform over a window: ``u ~ U[min, max]``, in the window's unit.

    On a discrete path the draw is over the trained indices, both ends included.

    Arguments:
        window: from where, possibly annealed.
        draw: ``independent`` per view; ``spread`` evenly over the window with a random shift per step (lower
            variance at few views); ``shared`` = one level for all views.
    """

    window: Window = field(default_factory=Window)
    draw: Literal["independent", "spread", "shared"] = "independent"

    def sample(
        self, path: NoisePath, progress: float, rng: Streams, views: int, group: int = 1
    ) -> NoiseLevel:
        """(views,) levels of one step.

        Arguments:
            path: the prior's noise path.
            progress: fraction of the stage that is done.
            rng: the iteration's streams.
            views: number of views in this process.
            group: views per group of a multi-view teacher; a group shares its level.
        """
        index = torch.arange(views) + rng.view_offset
        if self.draw == "shared":
            u = rng.uniform("level", 1).expand(views)
        elif self.draw == "spread":
            u = (rng.uniform("level", 1) + torch.div(index, group, rounding_mode="floor") * GOLDEN) % 1.0
        elif group > 1:
            first = rng.view_offset
            u = torch.stack([rng.generator_uniform("level", v // group) for v in range(first, first + views)])
        else:
            u = rng.uniform_per_view("level", views)
        low, high = self.window.at(progress)
        if path.steps is None or self.window.unit == "logsnr":
            return _levels(path, low + (high - low) * u, self.window.unit)
        first, last = _levels(path, torch.tensor([low, high]), "t").index
        return path.at(first + torch.floor(u * (last - first + 1)).clamp(max=float(last - first)))


@settings
class Annealed:
    """One deterministic level for all views, a function of progress alone.

    ``value = start + (end - start) u``, ``u = p`` (linear) or ``sqrt(p)``.
    Source: sqrt: Zhu et al. 2023 (HiFA), arXiv 2305.18766; linear: DreamGaussian, SDI.

    Arguments:
        start, end: levels at the beginning and at the end of the stage, in ``unit``.
        shape: ``linear`` or ``sqrt``.
        unit: ``t`` or ``logsnr``, as in :class:`Window`.
    """

    start: float = 0.98
    end: float = 0.3
    shape: Literal["linear", "sqrt"] = "sqrt"
    unit: Unit = "t"

    def __post_init__(self) -> None:
        if self.unit == "t" and not (0 <= self.start <= 1 and 0 <= self.end <= 1):
            raise ValueError(f"timesteps start={self.start} and end={self.end} in t must lie in [0, 1]")

    def sample(
        self, path: NoisePath, progress: float, rng: Streams, views: int, group: int = 1
    ) -> NoiseLevel:
        """(views,) equal levels; ``rng`` and ``group`` are not used."""
        value = Ramp(self.start, self.end, shape=self.shape)(progress)
        return _levels(path, torch.full((views,), value), self.unit)


@settings
class DreamTime:
    """One falling level for all views that spends the run where content is made.

    ``t(p)`` solves ``sum_{t' >= t} W(t') = p`` over the levels of the window, with ``W`` of sum 1 proportional to
    ``(sigma / alpha) W_p``: ``W_p = 1`` between ``low`` and ``high``, ``exp(-(t - high)^2 / (2 high_width^2))`` above
    and ``exp(-(t - low)^2 / (2 low_width^2))`` below. The factor ``sigma / alpha`` is DERIVED (recalled, not read).
    Source: Huang et al. 2023 (DreamTime), arXiv 2306.12422, algorithm 1.

    Arguments:
        high, low: the plateau, fractions of the path.
        high_width, low_width: of the slopes beside it.
        min, max: the window.
    """

    high: Fraction = 0.8
    low: Fraction = 0.5
    high_width: Annotated[float, Within(0.001, 10)] = 0.3
    low_width: Annotated[float, Within(0.001, 10)] = 0.1
    min: Fraction = 0.02
    max: Fraction = 0.98

    def __post_init__(self) -> None:
        if self.min >= self.max or self.low > self.high:
            raise ValueError(
                f"timesteps: min={self.min} < max={self.max} and low={self.low} <= high={self.high} must hold"
            )

    def value(self, path: NoisePath, progress: float) -> float:
        """The fraction of the path at this point of the stage."""
        t = torch.linspace(self.min, self.max, 981, dtype=torch.float64)
        above, below = (t - self.high).clamp(min=0), (self.low - t).clamp(min=0)
        bell = torch.exp(-(above**2) / (2 * self.high_width**2) - below**2 / (2 * self.low_width**2))
        weight = bell * path.at_fraction(t).sigma_bar
        left = weight.flip(0).cumsum(0) / weight.sum()  # from the noisy end down
        return float(t.flip(0)[int((left - progress).abs().argmin())])

    def sample(
        self, path: NoisePath, progress: float, rng: Streams, views: int, group: int = 1
    ) -> NoiseLevel:
        """(views,) equal levels; ``rng`` and ``group`` are not used."""
        return _levels(path, torch.full((views,), self.value(path, progress)), "t")


#: What draws the noise levels of a step.
TimestepPolicy = Uniform | Annealed | DreamTime
