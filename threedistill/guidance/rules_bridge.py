"""Rules that lead along a bridge: from flawed pictures to good ones (SDS-Bridge), from a render to its target."""

from __future__ import annotations

from dataclasses import field

from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.cfg import CFG
from threedistill.guidance.schroedinger import Walk
from threedistill.protocols import GuidanceRule
from threedistill.schedule import Ramp, ScheduledFraction, value_at
from threedistill.types import Evidence, Query
from threedistill.values import Positive, settings

__all__ = ["Bridge", "TraCe"]


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


@settings
class TraCe(GuidanceRule):
    """Trajectory-centric distillation: ``g = eps_b - eps_student(x_b; camera)`` on the bridge from render to target.

    The target is the teacher's guided prediction ``x0^s`` for this step's noised render, ``x_b`` a sample between the
    two and ``eps_b = (x_b - x0^s) / f`` the noise that separates it from the target
    (:class:`~threedistill.guidance.schroedinger.Walk`). The student learns ``eps_b`` in place of the noise in renders:
    what it does not know yet moves the scene, and it knows the mean of many targets.
    Source: Li et al. 2025, arXiv 2511.05609, and its code, whose v-student learns ``alpha eps_b - sigma x_b``; here it
    learns ``alpha eps_b - sigma (x_b - sigma eps_b) / alpha``, which is what is read as ``eps_b``.

    Arguments:
        cfg: guidance of the target.
        trajectory: the bridge.
    """

    cfg: CFG
    trajectory: Walk = field(default_factory=Walk)

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions, and the student's at the bridge."""
        return (*self.cfg.queries(progress), Query("student", network="student", text="base", point="bridge"))

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        return (evidence["bridge"].eps - evidence["student"].eps).detach()
