"""Classifier-free guidance, in one convention and in this file only.

``eps^s = eps_u + s (eps_c - eps_u)``: s = 1 is the conditional prediction, s = 0 the unconditional one
(diffusers' convention; the other one in the literature, ``eps_c + s' (eps_c - eps_u)``, is ``s = s' + 1``).
Source: Ho & Salimans 2021, arXiv 2207.12598, eq. 6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.schedule import Schedule, value_at
from threedistill.types import Evidence, Prediction, Query

#: Imagen's percentile for dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3).
DYNAMIC_QUANTILE = 0.995


def combine(uncond: Tensor, cond: Tensor, scale: float) -> Tensor:
    """``uncond + scale (cond - uncond)``, in float32 at least: half precision cancels at large scales."""
    dtype = torch.promote_types(cond.dtype, torch.float32)
    uncond, cond = uncond.to(dtype), cond.to(dtype)
    return uncond + scale * (cond - uncond)


def clip_x0(
    x0: Float[Tensor, "B C h w"], how: Literal["none", "static", "dynamic"]
) -> Float[Tensor, "B C h w"]:
    """A clean sample kept inside [-1, 1], the range of pixel priors.

    ``static`` clamps; ``dynamic`` divides each sample by its 99.5 % quantile of ``|x0|`` where that exceeds
    1, which keeps contrast instead of saturating (Imagen).
    """
    if how == "none":
        return x0
    if how == "static":
        return x0.clamp(-1, 1)
    limit = torch.quantile(x0.abs().flatten(1), DYNAMIC_QUANTILE, dim=1).clamp(min=1)
    limit = limit.view(-1, *(1,) * (x0.ndim - 1))
    return x0.clamp(-limit, limit) / limit


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance ``eps^s = eps_u + s (eps_c - eps_u)``.

    Arguments:
        scale: ``s``, a number or a schedule of progress.
        uncond_camera: whether the unconditional query is told the camera (``keep``) or not (``null``).
        uncond_text: ``negative`` asks it about the negative prompt where one is given (else the empty one),
            ``null`` always about the empty prompt.
        x0_clip: limits the combined clean sample to [-1, 1] before it is turned back into eps; only for pixel
            priors. ``none`` is exact CFG; ``static`` clamps; ``dynamic`` is Imagen's thresholding.
    """

    scale: float | Schedule = 7.5
    uncond_camera: Literal["keep", "null"] | None = "keep"
    uncond_text: Literal["null", "negative"] | None = "negative"
    x0_clip: Literal["none", "static", "dynamic"] | None = "none"

    def __post_init__(self) -> None:
        # An unquoted `null` in YAML or on the command line arrives as None and means the word.
        for name, word in (("uncond_camera", "null"), ("uncond_text", "null"), ("x0_clip", "none")):
            if getattr(self, name) is None:
                object.__setattr__(self, name, word)
        for name, allowed in (
            ("uncond_camera", ("keep", "null")),
            ("uncond_text", ("null", "negative")),
            ("x0_clip", ("none", "static", "dynamic")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"cfg.{name}={getattr(self, name)!r} must be one of {', '.join(allowed)}")

    def queries(self, progress: float) -> tuple[Query, ...]:
        """``cond`` and ``uncond``, less the one that the scale makes superfluous (s = 1 or s = 0)."""
        scale = value_at(self.scale, progress)
        cond = Query("cond", text="view")
        uncond = Query(
            "uncond",
            text="negative" if self.uncond_text == "negative" else "null",
            camera="own" if self.uncond_camera == "keep" else "null",
        )
        if scale == 1:
            return (cond,)
        return (uncond,) if scale == 0 else (cond, uncond)

    def guided(self, evidence: Evidence, progress: float) -> Prediction:
        """The guided prediction; its ``x0`` is the picture the prior would rather see."""
        scale = value_at(self.scale, progress)
        cond = evidence["uncond" if scale == 0 else "cond"]
        uncond = cond if scale in (0, 1) else evidence["uncond"]
        if self.x0_clip in (None, "none"):
            return Prediction(combine(uncond.eps, cond.eps, scale), "eps", cond.x_t, cond.level)
        # Combining x0 instead of eps is the same affine map, and better conditioned where alpha is small.
        x0 = clip_x0(combine(uncond.x0, cond.x0, scale), self.x0_clip)
        return Prediction(x0, "x0", cond.x_t, cond.level)

    def __call__(self, evidence: Evidence, progress: float) -> Float[Tensor, "B C h w"]:
        """``eps^s`` at the step's ``x_t``."""
        return self.guided(evidence, progress).eps
