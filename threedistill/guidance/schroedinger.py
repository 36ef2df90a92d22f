"""A Schroedinger bridge between a render and what the teacher would rather see: where TraCe asks and teaches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.cfg import CFG
from threedistill.guidance.trajectory import Situation, Traced, Trajectory, drawn, fraction
from threedistill.prediction import NoiseLevel, Prediction
from threedistill.protocols import NoisePath
from threedistill.schedule import Ramp, Schedule, value_at
from threedistill.values import Positive, Within, settings

__all__ = ["BridgeLesson", "Walk"]

#: Nearer to the target there is no noise to be named.
_NEAREST = 1e-3


@settings
class Walk(Trajectory):
    """A sample on the bridge from the render ``x0`` to the teacher's guided prediction ``x0^s`` at the step's ``x_t``.

    At a place ``u`` of it, 0 = the target and 1 = the render,

        x_b = (r^2 x0^s + f^2 x0) / (f^2 + r^2) + f r / sqrt(f^2 + r^2) eps,    eps_b = (x_b - x0^s) / f,

    where ``f^2(u)`` is the variance that the bridge gathers before ``u`` and ``r^2(u)`` that after it. The root of its
    rate rises in a straight line from the ends to the middle. A network is told that it is at ``u`` of its own path.
    Source: Li et al. 2025 (TraCe), arXiv 2511.05609, and its code, whose numbers the defaults are.

    Arguments:
        at: ``u``, a number or a schedule of progress.
        ends, middle: the rate at which variance is gathered there, per unit of ``u``.
    """

    teaches: ClassVar[bool] = True

    at: Annotated[float | Schedule, Within(_NEAREST, 1)] = field(
        default_factory=lambda: Ramp(start=0.5, end=0.02)
    )
    ends: Positive = 0.1
    middle: Positive = 0.187

    def variances(self, place: Float[Tensor, "B"]) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """``f^2`` and ``r^2`` at places in [0, 1]."""
        end, rise = self.ends**0.5, 2 * (self.middle**0.5 - self.ends**0.5)

        def gathered(v: Tensor) -> Tensor:
            """``int_0^v (end + rise s)^2 ds`` for ``v <= 1 / 2``."""
            return v * (end**2 + v * (end * rise + v * rise**2 / 3))

        whole = 2 * gathered(torch.full_like(place, 0.5))
        before = torch.where(place <= 0.5, gathered(place), whole - gathered(1 - place))
        return before, whole - before

    def trace(self, situation: Situation, cfg: CFG, progress: float) -> Traced:
        """Point ``bridge``, the noise ``bridge`` there, guidance's answers at ``t``, and what is to be learned.

        Raises:
            ValueError: a student with another noise path than the teacher's.
        """
        path, x0 = situation.path, situation.x0
        if situation.networks.get("student", situation.networks["teacher"]).path != path:
            raise ValueError(
                "trace asks the student at places of a bridge, which another noise path than the teacher's has not; "
                "use student=bridge"
            )
        seen = situation.ask(cfg.queries(progress))
        level = path.at_fraction(torch.full_like(situation.level.alpha, value_at(self.at, progress)))
        lesson = BridgeLesson(cfg.guided(seen, progress).x0.detach(), level, path, self)
        x_b, noise = lesson.noised(x0, level, drawn(situation, "bridge"))
        known = {**seen.predictions, "bridge": Prediction(noise, "eps", x_b, level)}
        return Traced({"bridge": (x_b, level)}, known, lesson)


@dataclass(frozen=True)
class BridgeLesson:
    """What TraCe's student learns: the noise of the bridge that leads from these renders to these targets.

    Attributes:
        target: (B, C, h, w) the guided predictions.
        level: where it is asked in this step.
        path: whose levels count as places.
        walk: the bridge's law.
    """

    target: Float[Tensor, "B C h w"]
    level: NoiseLevel
    path: NoisePath
    walk: Walk

    def noised(
        self, x0: Float[Tensor, "B C h w"], level: NoiseLevel, noise: Float[Tensor, "B C h w"]
    ) -> tuple[Float[Tensor, "B C h w"], Float[Tensor, "B C h w"]]:
        """``x_b`` and ``eps_b`` of renders at the places of some levels, from standard normal numbers."""
        column = (-1,) + (1,) * (x0.ndim - 1)
        place = fraction(self.path, level).clamp(_NEAREST, 1)
        before, after = (v.to(x0).view(column) for v in self.walk.variances(place))
        target, whole = self.target.to(x0), before + after
        x_b = (after * target + before * x0 + (before * after * whole).sqrt() * noise) / whole
        return x_b, (x_b - target) / before.sqrt()
