"""What tells good splats from bad ones: regularisers of clouds of Gaussians."""

from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

__all__ = ["NAMES", "anisotropy", "splat_entropy", "splat_opacity", "splat_scale"]

#: The names of the regularisers in ``Rendering.stats``.
NAMES = frozenset({"splat_scale", "splat_opacity", "anisotropy", "splat_entropy"})


def splat_scale(scales: Float[Tensor, "N 3"]) -> Float[Tensor, ""]:
    """Mean standard deviation, metres: small ones, that the screen-space error cannot hide behind.

    Source: Kheradmand et al. 2024, arXiv 2404.09591, section 4.4.
    """
    return scales.mean()


def splat_opacity(opacities: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean opacity: what nothing needs fades, and relocation finds work for it.

    Source: Kheradmand et al. 2024, arXiv 2404.09591, section 4.4.
    """
    return opacities.mean()


def anisotropy(scales: Float[Tensor, "N 3"]) -> Float[Tensor, ""]:
    """``mean max(s_max / s_min, 3) - 3``: no needles (Xie et al. 2024, PhysGaussian, arXiv 2311.12198, eq. 23)."""
    return (scales.amax(-1) / scales.amin(-1)).clamp_min(3).mean() - 3


def splat_entropy(opacities: Float[Tensor, "N"]) -> Float[Tensor, ""]:
    """Mean binary entropy of the splats' own opacities, in [0, 1]: every splat should be there or not."""
    o = opacities.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean() / math.log(2)
