"""Rules built on the implicit classifier ``eps_c - eps_u = -sigma grad log p(y | x_t)``: CSD, CSM, NFSD."""

from __future__ import annotations

import warnings
from dataclasses import field

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import ThreedistillWarning
from threedistill.guidance.anchor import pull
from threedistill.guidance.cfg import CFG, need_plain
from threedistill.guidance.trajectory import Inverted
from threedistill.protocols import GuidanceRule
from threedistill.schedule import ScheduledFraction, ScheduledNumber, stations, value_at
from threedistill.types import Evidence, Query
from threedistill.values import NonNegative, settings

__all__ = ["CSD", "CSM", "NFSD"]


@settings
class CSD(GuidanceRule):
    """Classifier score distillation: ``g = k_c eps_c + k_0 eps_empty + k_n eps_negative + k_e eps``.

    By default ``eps_c - eps_empty``, the classifier's score alone. Coefficients that do not sum to zero leave a share
    of the noise over, which is warned of (DreamMat's published ones sum to 0.05); annealing ``empty`` from -1 to 0
    while ``negative`` goes from 0 to -1 trades nothing for the negative prompt. Where all distributions are equally
    wide there is no point at rest: the direction is the same everywhere, and regularisers, annealing or few steps have
    to end it.
    Source: Yu et al. 2023, arXiv 2310.19415, eq. 8-9; the four coefficients are those of the released code.

    Arguments:
        cfg: says whether the queries without the prompt are told the camera; nothing else of it is used, and what
            would have no effect is refused.
        cond, empty, negative, noise: ``k_c``, ``k_0``, ``k_n``, ``k_e``, numbers or schedules of progress. Predictions
            whose coefficient is 0 are not asked for.
    """

    cfg: CFG
    cond: ScheduledNumber = 1.0
    empty: ScheduledNumber = -1.0
    negative: ScheduledNumber = 0.0
    noise: ScheduledNumber = 0.0

    def __post_init__(self) -> None:
        need_plain(self.cfg, "csd", scale=False)
        coefficients = (self.cond, self.empty, self.negative, self.noise)
        for progress in stations(*coefficients):
            total = sum(value_at(k, progress) for k in coefficients)
            if abs(total) > 1e-6:
                warnings.warn(
                    f"csd's coefficients cond, empty, negative and noise sum to {total:g} at progress {progress:g}, "
                    "not to 0: that share of the noise is left over",
                    ThreedistillWarning, stacklevel=3,
                )  # fmt: skip
                return

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Every prediction whose coefficient is not 0."""
        asked = {
            "cond": (self.cond, Query("cond", text="view")),
            "empty": (self.empty, self.cfg.unconditional("empty", "null")),
            "negative": (self.negative, self.cfg.unconditional("negative", "negative")),
        }
        return tuple(query for coefficient, query in asked.values() if value_at(coefficient, progress))

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        direction = value_at(self.noise, progress) * evidence.noise
        for name in ("cond", "empty", "negative"):
            coefficient = value_at(getattr(self, name), progress)
            if coefficient:
                direction = direction + coefficient * evidence[name].eps
        return direction.detach()


@settings
class CSM(GuidanceRule):
    """Classifier score matching: ``g = s (eps_c - eps_null)`` at an ``x_t`` found by deterministic inversion. DERIVED.

    Without random noise the gradient has no variance given the render and the level. TV-3DG's equations were not at
    hand: its abstract says that the difference term of SDS and the random noise are dropped, which is this formula.
    (Should its difference term be ``eps_c - eps`` instead of ``eps_null - eps``, only ``s`` becomes ``s - 1``.) Like
    CSD it has no restoring force where all distributions are equally wide; ``anchor = a``, which is ours, adds
    ``a (eps_c - eps)``, the pull towards the teacher's picture, with the noise ``eps`` that inversion found.
    Source: Yang et al. 2024 (TV-3DG), arXiv 2410.21299; inversion as in ISM (arXiv 2311.11284).

    Arguments:
        cfg: gives ``s`` and whether the query without the prompt is told the camera; what else would have no effect is
            refused.
        trajectory: how ``x_t`` is found.
        anchor: ``a`` in [0, 1], a number or a schedule of progress; 0 is the paper's rule.
    """

    cfg: CFG
    trajectory: Inverted = field(default_factory=Inverted)
    anchor: ScheduledFraction = 0.0

    def __post_init__(self) -> None:
        need_plain(self.cfg, "csm", scale=True)
        if self.cfg.scale == 0:
            raise ValueError("csm multiplies its direction by cfg.scale, and 0 leaves nothing; 7.5 is usual")

    def queries(self, progress: float) -> tuple[Query, ...]:
        """The prompt and nothing, whatever the scale."""
        return Query("cond", text="view"), self.cfg.unconditional("null", "null")

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """``s (eps_c - eps_null) + a (eps_c - eps)`` at the inverted ``x_t``, detached."""
        scale, anchor = value_at(self.cfg.scale, progress), value_at(self.anchor, progress)
        cond, null = evidence["cond"].eps, evidence["null"].eps
        return (scale * (cond - null) + pull(evidence, anchor)).detach()


@settings
class NFSD(GuidanceRule):
    """Noise-free score distillation: ``g = delta_D + s (eps_c - eps_null)``.

    ``eps_null`` is read as a correction towards the domain of pictures plus the noise. Where there is little noise
    (``sigma / alpha`` below ``threshold``) ``delta_D = eps_null``; elsewhere ``delta_D = eps_null - eps_negative``,
    since being off the domain is what the negative prompt describes. Below the threshold the mean is that of SDS, with
    the whole noise left in.
    Source: Katzir et al. 2023, arXiv 2310.17590, eq. 6-8 (the paper's t < 200 of 1000 on Stable Diffusion's path is
    ``sigma / alpha`` < 0.572).

    Arguments:
        cfg: gives ``s`` and whether the queries without the prompt are told the camera; what else would have no effect
            is refused.
        threshold: of ``sigma / alpha``.
        anchor: ``a`` in [0, 1], a number or a schedule of progress: adds ``a (eps_c - eps)``, as in :class:`CSM`; 0 is
            the paper's rule.
    """

    cfg: CFG
    threshold: NonNegative = 0.572
    anchor: ScheduledFraction = 0.0

    def __post_init__(self) -> None:
        need_plain(self.cfg, "nfsd", scale=True)

    def queries(self, progress: float) -> tuple[Query, ...]:
        """The prompt, nothing, and the negative prompt."""
        blank = (self.cfg.unconditional("null", "null"), self.cfg.unconditional("negative", "negative"))
        return (Query("cond", text="view"), *blank)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        null = evidence["null"].eps
        quiet = (evidence.level.sigma_bar < self.threshold).to(null.device)
        quiet = quiet.view(-1, *(1,) * (null.ndim - 1))
        domain = torch.where(quiet, null, null - evidence["negative"].eps)
        scale, anchor = value_at(self.cfg.scale, progress), value_at(self.anchor, progress)
        return (domain + scale * (evidence["cond"].eps - null) + pull(evidence, anchor)).detach()
