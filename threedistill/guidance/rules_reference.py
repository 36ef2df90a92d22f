"""Rules that compare with another picture of the world: a category's prior (C-SDS), an unedited scene (DDS)."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.cfg import CFG
from threedistill.guidance.trajectory import Reference
from threedistill.protocols import GuidanceRule
from threedistill.types import Evidence, Query
from threedistill.values import settings

__all__ = ["CSDS", "DDS"]


@settings
class CSDS(GuidanceRule):
    """Category-score distillation sampling: ``g = eps^s(x_t; prompt, camera) - eps_baseline(x_t; category)``. DERIVED.

    The shape of VSD with a frozen model of the category ("a mushroom", no camera) in the student's place: the noise
    cancels as t goes to 0, and the point at rest lies beyond the conditioned mean, away from the category's. Stable
    where the conditioned prior is narrower than the category's. The paper's equations were not at hand; the
    abstract names the ingredients. ``sum`` is the other reading, ``(eps^s - eps) + eta (eps_category - eps_null)``.
    Source: Zou et al. 2024 (Sparse3D), arXiv 2308.14078.

    Arguments:
        cfg: guidance of the conditioned teacher.
        form: ``difference`` or ``sum``.
        eta: strength of the category's term in ``sum``; only there, else it is refused.
    """

    cfg: CFG
    form: Literal["difference", "sum"] = "difference"
    eta: float = 1.0

    def __post_init__(self) -> None:
        if self.form == "difference" and self.eta != 1:
            raise ValueError(f"eta={self.eta:g} has an effect with form=sum only; leave it out")

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions, and the baseline's about the category alone: no camera, no image."""
        category = Query("category", network="baseline", text="category", withheld={"camera", "image"})
        null = Query("category null", network="baseline", text="null", withheld={"camera", "image"})
        return (*self.cfg.queries(progress), category, *((null,) if self.form == "sum" else ()))

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        guided, category = self.cfg(evidence, progress), evidence["category"].eps
        if self.form == "difference":
            return (guided - category).detach()
        return (guided - evidence.noise + self.eta * (category - evidence["category null"].eps)).detach()


@settings
class DDS(GuidanceRule):
    """Delta denoising score: ``g = eps^s(x_t; prompt) - eps^s(x_t'; source prompt)``, an edit.

    ``x_t'`` is the unedited scene from the same camera with the same noise at the same level, told the same words for
    its view, so what the teacher would do to either cancels and only the difference of the prompts is left; with equal
    covariances the noise cancels exactly, and an edit to the same words moves nothing.
    Source: Hertz et al. 2023, arXiv 2304.07090, eq. 3; in 3D: Park et al. 2023 (ED-NeRF), arXiv 2310.02712.

    Arguments:
        cfg: guidance, the same for both branches.
        trajectory: gives the unedited scene its noise.
    """

    cfg: CFG
    trajectory: Reference = field(default_factory=Reference)

    def queries(self, progress: float) -> tuple[Query, ...]:
        """Guidance's questions about both scenes."""
        edited = self.cfg.queries(progress)
        return (*edited, *self.cfg.queries(progress, point="reference", text="source"))

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """The direction, detached."""
        edited, source = self.cfg(evidence, progress), self.cfg(evidence, progress, "reference")
        return (edited - source).detach()
