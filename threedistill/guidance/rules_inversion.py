"""Rules that replace fresh noise by noise found along the teacher's own trajectory: ISM, SDI, CDS, SCTD."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.anchor import asked, pull
from threedistill.guidance.cfg import CFG
from threedistill.guidance.trajectory import Interval, OdeStep, Reparametrized, Segments
from threedistill.protocols import GuidanceRule, NoiseLaw
from threedistill.schedule import ScheduledFraction, value_at
from threedistill.types import Evidence, Query
from threedistill.values import settings

__all__ = ["CDS", "ISM", "SCTD", "SDI"]


@settings
class ISM(GuidanceRule):
    """Interval score matching: ``g = eps^s(x_t) - eps_null(x_s)``, both points on one inversion, ``s < t``.

    It is CSM's classifier term plus the interval term ``eps_null(x_t) - eps_null(x_s)``, which contracts.
    Source: Liang et al. 2023 (LucidDreamer), arXiv 2311.11284, eq. 17. The released code starts the inversion with a
    little random noise; ours is deterministic.

    Arguments:
        cfg: guidance at ``x_t``.
        trajectory: how ``x_s`` and ``x_t`` are found; it gives ``eps_null(x_s)`` for nothing.
        anchor: ``a`` in [0, 1], a number or a schedule of progress: adds ``a (eps_c - eps)`` at ``x_t``, the pull
            towards the teacher's picture, with the noise ``eps`` that inversion found; 0 is the paper's rule.
    """

    cfg: CFG
    trajectory: Interval = field(default_factory=Interval)
    anchor: ScheduledFraction = 0.0

    def queries(self, progress: float) -> tuple[Query, ...]:
        """What classifier-free guidance asks for, at the inverted ``x_t``."""
        return asked(self.cfg.queries(progress), value_at(self.anchor, progress))

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        anchor = value_at(self.anchor, progress)
        return (self.cfg(evidence, progress) - evidence["interval"].eps + pull(evidence, anchor)).detach()


@settings
class SDI(GuidanceRule):
    """Score distillation via reparametrised DDIM: ``g = eps^s(alpha x0 + sigma kappa) - kappa``.

    ``kappa`` is the noise that the teacher itself would find in the render, by inversion with the prompt; with random
    ``kappa`` it is SDS. It imitates a sampler, not a search for modes: at a fixed level the step may point away from
    the mean, and only the fall of the level over the run brings it home. The paper's weight is ``sigma / alpha``.
    Source: Lukoianov et al. 2024, arXiv 2405.15891, eq. 11 and algorithm 1 (the paper, not its released code, which
    evaluates at another level than it inverts to).

    Arguments:
        cfg: guidance at ``x_t``.
        trajectory: how ``kappa`` is found.
    """

    cfg: CFG
    trajectory: Reparametrized = field(default_factory=Reparametrized)

    def queries(self, progress: float) -> tuple[Query, ...]:
        """What classifier-free guidance asks for."""
        return self.cfg.queries(progress)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """``eps^s - kappa``, detached: the evidence's noise is the one that the trajectory put into ``x_t``."""
        return (self.cfg(evidence, progress) - evidence.noise).detach()


@settings
class CDS(GuidanceRule):
    """Consistency distillation sampling: ``g = eps^s(x_t, t) - eps^s(x_t', t')``, one step of the ODE apart.

    The noise is one tensor for all views and the whole run; ``x_t'`` is the guided Euler step from ``x_t`` down to
    ``t' < t``. The sign is that of the released code, which contracts (a naive consistency loss has the opposite one).
    Source: Wu et al. 2024 (Consistent3D), arXiv 2401.09050, eq. 11 and its code.

    Arguments:
        cfg: guidance at both points.
        trajectory: the step down.
        noise: ``fixed`` or ``fresh``.
        anchor: as for :class:`ISM`.
    """

    cfg: CFG
    trajectory: OdeStep = field(default_factory=OdeStep)
    noise: Literal["fixed", "fresh"] = "fixed"
    anchor: ScheduledFraction = 0.0

    @property
    def noise_law(self) -> NoiseLaw:
        """As ``noise`` says."""
        return self.noise

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions at both points."""
        both = (*self.cfg.queries(progress), *self.cfg.queries(progress, point="lower"))
        return asked(both, value_at(self.anchor, progress))

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        step = self.cfg(evidence, progress) - self.cfg(evidence, progress, "lower")
        return (step + pull(evidence, value_at(self.anchor, progress))).detach()


@settings
class SCTD(GuidanceRule):
    """Segmented consistency trajectory distillation: ``g = (x_e^s - x_e) + (s + 1)(x_e - x_e^t)`` within one segment.

    ``x_e`` is the render at the segment's lower edge; ``x_e^t`` the guided step from ``x_t`` down to it; ``x_e^s`` the
    same over ``s < t``, from there on without the prompt. The first term keeps the segment's trajectories consistent
    with themselves, the second leads from the unconditional one to the prompt's, no further than one segment; both are
    differences of samples. The noise is one tensor for all views and the whole run, the weight ``sigma_t / alpha_t``.
    Source: Zhu et al. 2025 (SegmentDreamer), arXiv 2507.05256, and its code (which draws one ``t`` per step and can add
    a term on pixels, off in its configurations; ours has none).

    Arguments:
        cfg: guidance at ``x_t``; its scale is the ``s`` of the second term as well.
        trajectory: the segments.
        noise: ``fixed`` or ``fresh``.
    """

    cfg: CFG
    trajectory: Segments = field(default_factory=Segments)
    noise: Literal["fixed", "fresh"] = "fixed"

    @property
    def noise_law(self) -> NoiseLaw:
        """As ``noise`` says."""
        return self.noise

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions at ``x_t``, which the trajectory has answered on its way."""
        return self.cfg.queries(progress)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        start, back = evidence["start"], evidence["back"]
        guided, edge = self.cfg.guided(evidence, progress), start.level
        here, over = start.x_t, edge.add_noise(back.x0, back.eps)
        straight = edge.add_noise(guided.x0, guided.eps)
        scale = value_at(self.cfg.scale, progress)
        return ((over - here) + (scale + 1) * (here - straight)).detach()
