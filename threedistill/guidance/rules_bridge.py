"""A rule that leads from the distribution of distilled pictures to that of good ones: SDS-Bridge."""

from __future__ import annotations

from dataclasses import field

from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.cfg import CFG
from threedistill.protocols import GuidanceRule
from threedistill.schedule import Ramp, ScheduledFraction, value_at
from threedistill.types import Evidence, Query
from threedistill.values import Positive, settings

__all__ = ["Bridge"]


@settings
class Bridge(GuidanceRule):
    """SDS-Bridge: ``g = eps^s - eps`` first, then ``g = k (eps(target) - eps(source))`` at the same ``x_t``.

    Rules transport what the scene looks like now (the source) to natural pictures (the target); each is as good as its
    guess at the source's score. Here the source is named in words: the prompt with what distilled pictures suffer from
    behind it ("..., oversaturated, smooth, ..."), which costs nothing to learn. The first stage makes the shape.
    Source: McAllister et al. 2024, arXiv 2406.09417, and its code (the second stage from 0.8 of the run on).

    Arguments:
        cfg: guidance of the first stage.
        blend: share of the second stage, a number or a schedule of progress; between 0 and 1 both are asked.
        strength: ``k``.
    """

    cfg: CFG
    blend: ScheduledFraction = field(default_factory=lambda: Ramp(start=0.0, end=1.0, at=0.8, over=0.0))
    strength: Positive = 1.0

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions in the first stage, the two pictures in words in the second."""
        blend = value_at(self.blend, progress)
        first = self.cfg.queries(progress) if blend < 1 else ()
        second = (Query("target", text="view"), Query("flawed", text="flawed")) if blend > 0 else ()
        return (*first, *second)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        blend, direction = value_at(self.blend, progress), evidence.noise * 0
        if blend < 1:
            direction = direction + (1 - blend) * (self.cfg(evidence, progress) - evidence.noise)
        if blend > 0:
            bridge = evidence["target"].eps - evidence["flawed"].eps
            direction = direction + blend * self.strength * bridge
        return direction.detach()
