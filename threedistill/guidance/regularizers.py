"""What keeps a shape sensible beside the prior: small functions of a rendering, and their weighted sum."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.schedule import ScheduledNonNegative, value_at
from threedistill.types import Rendering
from threedistill.values import Below, checked, settings


def opacity_entropy(rendering: Rendering) -> Float[Tensor, ""]:
    """``mean -(o ln o + (1 - o) ln(1 - o)) / ln 2``, in [0, 1]: every ray should hit or miss
    (DreamFusion's "opaque").
    """
    o = rendering.opacity.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean() / math.log(2)


def sparsity(rendering: Rendering) -> Float[Tensor, ""]:
    """``mean sqrt(o^2 + 0.01)``: the object should not fill the picture (DreamFusion, arXiv 2209.14988,
    section 3.1).
    """
    return (rendering.opacity**2 + 0.01).sqrt().mean()


def recorded(name: str, rendering: Rendering) -> Float[Tensor, ""]:
    """The mean of ``rendering.stats[name]``, which the representation computes where its normals or primitives are.

    Raises:
        ValueError: the rendering has none.
    """
    if name not in rendering.stats:
        raise ValueError(
            f"regularizers.weights.{name} needs a rendering with stats[{name!r}], which this representation and "
            f"shading do not compute; set regularizers.weights.{name}=0"
        )
    return rendering.stats[name].mean()


#: ``mean stop_grad(w) max(0, n . d)^2`` with rays ``d``: visible normals should face the camera (Verbin et al. 2022,
#: Ref-NeRF, eq. 11).
orientation = partial(recorded, "orientation")

#: How far a ray's weights are spread along it (Barron et al. 2022, mip-NeRF 360, eq. 15).
distortion = partial(recorded, "distortion")

#: ``mean (1 - n_f . n_g)`` over neighbouring faces of a mesh.
normal_consistency = partial(recorded, "normal_consistency")

#: ``mean |v - mean of its neighbours|^2`` in cells of the representation.
laplacian = partial(recorded, "laplacian")

#: ``mean (|grad s| - 1)^2`` of a signed distance near its surface (Gropp et al. 2020, eq. 2).
eikonal = partial(recorded, "eikonal")

#: Cross-entropy of a signed distance with the sign at the other end of each crossed edge: fewer floaters and inner
#: surfaces (Munkberg et al. 2022, nvdiffrec, eq. 2).
sign_change = partial(recorded, "sign_change")

#: Mean standard deviation of splats, metres: small ones, that the screen-space error cannot hide behind (Kheradmand et
#: al. 2024, section 4.4).
splat_scale = partial(recorded, "splat_scale")

#: ``mean max(s_max / s_min, 3) - 3`` of splats: no needles (Xie et al. 2024, PhysGaussian, eq. 23).
anisotropy = partial(recorded, "anisotropy")

#: Mean binary entropy of the splats' own opacities, in [0, 1]: every splat should be there or not.
splat_entropy = partial(recorded, "splat_entropy")


TERMS: dict[str, Callable[[Rendering], Tensor]] = {
    "opacity_entropy": opacity_entropy,
    "sparsity": sparsity,
    "orientation": orientation,
    "distortion": distortion,
    "normal_consistency": normal_consistency,
    "laplacian": laplacian,
    "eikonal": eikonal,
    "sign_change": sign_change,
    "splat_scale": splat_scale,
    "anisotropy": anisotropy,
    "splat_entropy": splat_entropy,
}


@settings
class RegularizerWeights:
    """Weights of the terms, numbers or schedules of progress; 0 leaves a term out.

    Arguments:
        opacity_entropy, sparsity, orientation, distortion: see the terms of these names.
        normal_consistency, laplacian, eikonal, sign_change: of meshes on a grid; likewise.
        splat_scale, anisotropy, splat_entropy: of splats; likewise.
    """

    opacity_entropy: ScheduledNonNegative = 0.0
    sparsity: ScheduledNonNegative = 0.0
    orientation: ScheduledNonNegative = 0.0
    distortion: ScheduledNonNegative = 0.0
    normal_consistency: ScheduledNonNegative = 0.0
    laplacian: ScheduledNonNegative = 0.0
    eikonal: ScheduledNonNegative = 0.0
    sign_change: ScheduledNonNegative = 0.0
    splat_scale: ScheduledNonNegative = 0.0
    anisotropy: ScheduledNonNegative = 0.0
    splat_entropy: ScheduledNonNegative = 0.0


class Regularizers(nn.Module):
    """``sum_k lambda_k r_k``, absolute or relative to the strength of the guidance.

    Adam hides the scale of the direction ``g``, so weights tuned for one rule break the next. ``relative``
    therefore multiplies by ``rms(g) C h w``: with ``lambda = 1`` the derivative of a term with respect to a
    pixel, before its mean is taken, counts as much as a typical element of ``g``.

    Arguments:
        weights: per term.
        scale: ``relative`` or ``absolute``.
        memory: decay of the running RMS per step, in [0, 1).
    """

    rms_squared: Tensor

    @checked
    def __init__(
        self,
        weights: RegularizerWeights,
        scale: Literal["relative", "absolute"] = "relative",
        memory: Annotated[float, Below(1)] = 0.95,
    ) -> None:
        super().__init__()
        self.weights, self.scale, self.memory = weights, scale, memory
        self.register_buffer("rms_squared", torch.zeros(()))
        self.elements = 1

    @torch.no_grad()
    def observe(self, direction: Float[Tensor, "B C h w"]) -> None:
        """Tells the running RMS this step's weighted direction (done by :meth:`forward`)."""
        now = direction.float().square().mean()
        self.elements = direction[0].numel()
        if torch.isfinite(now):
            first = bool(self.rms_squared == 0)
            self.rms_squared.copy_(now if first else self.memory * self.rms_squared + (1 - self.memory) * now)

    @property
    def factor(self) -> Float[Tensor, ""]:
        """What every weight is multiplied by: ``rms(g) C h w``, or 1."""
        relative = self.scale == "relative"
        return self.rms_squared.sqrt() * self.elements if relative else torch.ones_like(self.rms_squared)

    def terms(self, rendering: Rendering, progress: float) -> dict[str, tuple[float, Tensor]]:
        """The active terms: weight and value, by name."""
        active: dict[str, tuple[float, Tensor]] = {}
        for name, term in TERMS.items():
            weight = value_at(getattr(self.weights, name), progress)
            if weight:
                active[name] = (weight, term(rendering))
        return active

    def forward(
        self, rendering: Rendering, progress: float, direction: Float[Tensor, "B C h w"]
    ) -> Float[Tensor, ""]:
        """The weighted sum for one step, whose weighted guidance direction is ``direction``."""
        self.observe(direction)
        total = rendering.rgb.new_zeros(())
        for weight, value in self.terms(rendering, progress).values():
            total = total + weight * self.factor * value
        return total
