"""What keeps a shape sensible beside the prior: small pure functions of a rendering, and their weighted sum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.schedule import Schedule, value_at
from threedistill.types import Cameras, Rendering


def opacity_entropy(rendering: Rendering) -> Float[Tensor, ""]:
    """``mean -(o ln o + (1 - o) ln(1 - o)) / ln 2``, in [0, 1]: every ray should hit or miss (DreamFusion's "opaque")."""
    o = rendering.opacity.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean() / math.log(2)


def sparsity(rendering: Rendering) -> Float[Tensor, ""]:
    """``mean sqrt(o^2 + 0.01)``: the object should not fill the picture (DreamFusion, arXiv 2209.14988, section 3.1)."""
    return (rendering.opacity**2 + 0.01).sqrt().mean()


def orientation(rendering: Rendering, cameras: Cameras) -> Float[Tensor, ""]:
    """``mean stop_grad(o) max(0, n . d)^2``: visible normals should face the camera.

    ``d`` points along the ray. A representation that computed the per-sample form puts it into
    ``stats["orientation"]``, which then counts instead. Source: Verbin et al. 2022 (Ref-NeRF), eq. 11.

    Raises:
        ValueError: the rendering has no normals.
    """
    if "orientation" in rendering.stats:
        return rendering.stats["orientation"].mean()
    if rendering.normal is None:
        raise ValueError(
            "regularizers.orientation needs normals, and this rendering has none: choose a shading that computes "
            "them, or set regularizers.orientation=0"
        )
    _, directions = cameras.rays()
    facing = (rendering.normal * directions).sum(-1, keepdim=True).clamp(min=0)
    return (rendering.opacity.detach() * facing**2).mean()


def distortion(rendering: Rendering) -> Float[Tensor, ""]:
    """The representation's own ``stats["distortion"]`` (Barron et al. 2022, mip-NeRF 360, eq. 15).

    Raises:
        ValueError: the representation does not compute it.
    """
    if "distortion" not in rendering.stats:
        raise ValueError(
            "regularizers.distortion needs a representation that computes it (stats['distortion']); "
            "set regularizers.distortion=0"
        )
    return rendering.stats["distortion"].mean()


@dataclass(frozen=True)
class RegularizerWeights:
    """Weights of the terms, numbers or schedules of progress; 0 leaves a term out.

    Arguments:
        opacity_entropy, sparsity, orientation, distortion: see the functions of these names.
    """

    opacity_entropy: float | Schedule = 0.0
    sparsity: float | Schedule = 0.0
    orientation: float | Schedule = 0.0
    distortion: float | Schedule = 0.0


class Regularizers(nn.Module):
    """``sum_k lambda_k r_k``, absolute or relative to the strength of the guidance.

    Adam hides the scale of the direction ``g``, so weights tuned for one rule break the next. ``relative`` therefore
    multiplies by ``rms(g) C h w``: with ``lambda = 1`` the derivative of a term with respect to a pixel, before its
    mean is taken, counts as much as a typical element of ``g``.

    Arguments:
        weights: per term.
        scale: ``relative`` or ``absolute``.
        memory: decay of the running RMS per step, in [0, 1).
    """

    rms_squared: Tensor

    def __init__(
        self,
        weights: RegularizerWeights,
        scale: Literal["relative", "absolute"] = "relative",
        memory: float = 0.95,
    ) -> None:
        super().__init__()
        if scale not in ("relative", "absolute"):
            raise ValueError(f"regularizers.scale={scale!r} must be relative or absolute")
        if not 0 <= memory < 1:
            raise ValueError(f"regularizers.memory={memory} must lie in [0, 1)")
        self.weights, self.scale, self.memory = weights, scale, memory
        self.register_buffer("rms_squared", torch.zeros(()))
        self.elements = 1

    @torch.no_grad()
    def observe(self, direction: Float[Tensor, "B C h w"]) -> None:
        """Tells the running RMS this step's weighted direction; call it before :meth:`forward`."""
        now = direction.float().square().mean()
        self.elements = direction[0].numel()
        if torch.isfinite(now):
            first = bool(self.rms_squared == 0)
            self.rms_squared.copy_(now if first else self.memory * self.rms_squared + (1 - self.memory) * now)

    @property
    def factor(self) -> Float[Tensor, ""]:
        """What every weight is multiplied by: ``rms(g) C h w``, or 1."""
        return (
            self.rms_squared.sqrt() * self.elements
            if self.scale == "relative"
            else torch.ones_like(self.rms_squared)
        )

    def forward(
        self, rendering: Rendering, cameras: Cameras, progress: float
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss, and every active term's unweighted value by name (for the log)."""
        terms: dict[str, Tensor] = {}
        total = rendering.rgb.new_zeros(())
        for name, term in (
            ("opacity_entropy", lambda: opacity_entropy(rendering)),
            ("sparsity", lambda: sparsity(rendering)),
            ("orientation", lambda: orientation(rendering, cameras)),
            ("distortion", lambda: distortion(rendering)),
        ):
            weight = value_at(getattr(self.weights, name), progress)
            if weight:
                value = term()
                terms[name] = value.detach()
                total = total + weight * self.factor * value
        return total, terms
