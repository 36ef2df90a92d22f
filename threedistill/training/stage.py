"""What a stage of a run is: its length, size and shading, and the guidance between the render and its direction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from threedistill.guidance.poses import Poses
from threedistill.guidance.surrogate import Surrogate
from threedistill.guidance.weighting import Weighting
from threedistill.protocols import GuidanceRule, TimestepPolicy
from threedistill.schedule import Schedule, value_at
from threedistill.types import Shading
from threedistill.values import Rising, Within, settings

__all__ = ["Guidance", "Stage"]


@settings
class Stage:
    """One stage of a run.

    Arguments:
        name: part of the checkpoint folder's name.
        iterations: scene steps.
        resolution: rendered pixels per side; a schedule is rounded to multiples of 8.
        shading: how the render turns albedo into colour, where the law of light does not draw it.
        latents: ``encoded`` by the prior's space, or ``direct``: the picture in [-1, 1] and its opacity, resized, are
            taken for the four latents of a latent prior. A shape shown as ``shading=normal`` is learned much faster
            so, without the encoder's cost (Fantasia3D's coarse geometry, arXiv 2303.13873, section 3.1).
        span: which part of the guidance's schedules this stage covers, in fractions; with several stages, noise
            windows that come down over a run come down once, not in every stage.
    """

    name: str = "coarse"
    iterations: Annotated[int, Within(1, 100_000_000)] = 1200
    resolution: Annotated[int | Schedule, Within(8, 4096)] = 64
    shading: Shading = "none"
    latents: Literal["encoded", "direct"] = "encoded"
    span: Annotated[tuple[float, float], Rising(0, 1)] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", self.name):
            raise ValueError(f"name={self.name!r} must be a word of letters, digits, - and _")

    def along(self, progress: float) -> float:
        """Where the guidance's schedules are at this point of the stage."""
        return self.span[0] + (self.span[1] - self.span[0]) * progress

    def size(self, progress: float) -> int:
        """Rendered pixels per side at this point of the stage."""
        return max(8, round(value_at(self.resolution, progress) / 8) * 8)


@dataclass(frozen=True)
class Guidance:
    """Everything between the encoded render and its direction.

    Arguments:
        rule: the score-distillation rule.
        timesteps: at which noise levels the networks are asked.
        weighting: ``w(t)``.
        surrogate: the non-finite guard, clipping, and the loss with that gradient.
        poses: who appraises what a rule wants appraised; None = nobody.
    """

    rule: GuidanceRule
    timesteps: TimestepPolicy
    weighting: Weighting
    surrogate: Surrogate
    poses: Poses | None = None
