"""Real spherical harmonics up to degree 3, in the basis, order and signs that 3D Gaussian splatting files use."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["C0", "MAX_DEGREE", "basis", "color_of"]

MAX_DEGREE = 3

#: ``Y_0 = sqrt(1 / (4 pi))``.
C0 = 0.28209479177387814
_C1 = 0.4886025119029199  # sqrt(3 / (4 pi))
_C2 = (
    1.0925484305920792,
    0.31539156525252005,
    0.5462742152960396,
)  # sqrt(15/4pi), sqrt(5/16pi), sqrt(15/16pi)
_C3 = (0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277)


def basis(directions: Float[Tensor, "*S 3"], degree: int) -> Float[Tensor, "*S K"]:
    """``Y_0 .. Y_(K-1)`` at unit directions, ``K = (degree + 1)^2``; odd orders carry the Condon-Shortley sign.

    Arguments:
        directions: unit, in the world.
        degree: 0 to 3.

    Raises:
        ValueError: another degree.

    Source: Sloan, "Stupid spherical harmonics tricks", 2008, appendix A2.
    """
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"spherical harmonics of degree {degree}: 0 to {MAX_DEGREE} are known")
    x, y, z = directions.unbind(-1)
    terms = [torch.full_like(x, C0)]
    if degree >= 1:
        terms += [-_C1 * y, _C1 * z, -_C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        terms += [
            _C2[0] * x * y, -_C2[0] * y * z, _C2[1] * (2 * zz - xx - yy), -_C2[0] * x * z, _C2[2] * (xx - yy),
        ]  # fmt: skip
        if degree == 3:
            terms += [
                -_C3[0] * y * (3 * xx - yy), _C3[1] * x * y * z, -_C3[2] * y * (4 * zz - xx - yy),
                _C3[3] * z * (2 * zz - 3 * xx - 3 * yy), -_C3[2] * x * (4 * zz - xx - yy),
                _C3[4] * z * (xx - yy), -_C3[0] * x * (xx - 3 * yy),
            ]  # fmt: skip
    return torch.stack(terms, -1)


def color_of(
    sh: Float[Tensor, "N K 3"], directions: Float[Tensor, "*B N 3"] | None
) -> Float[Tensor, "... N 3"]:
    """``0.5 + sum_k Y_k(d) sh_k``, clamped to [0, 1]: what each Gaussian shows along its viewing direction, sRGB.

    Arguments:
        sh: (N, K, 3), K = 1, 4, 9 or 16.
        directions: unit, from the camera to the Gaussian; may be None for degree 0.
    """
    degree = round(sh.shape[1] ** 0.5) - 1
    if (degree + 1) ** 2 != sh.shape[1]:
        raise ValueError(f"sh must be (N, K, 3) with K = 1, 4, 9 or 16, got {tuple(sh.shape)}")
    if degree == 0 or directions is None:
        return (0.5 + C0 * sh[:, 0]).clamp(0, 1)
    return (0.5 + torch.einsum("...nk,nkc->...nc", basis(directions, degree), sh)).clamp(0, 1)
