"""Real spherical harmonics as 3D Gaussian splatting uses them: values, rotation, change of degree.

Basis, order and signs are INRIA's (and ``KHR_gaussian_splatting``'s): degree by degree, order ``m = -l .. l``, with the
Condon-Shortley sign ``(-1)^m``. A colour along the unit direction d is ``0.5 + sum_k Y_k(d) sh_k``.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["DEGREES", "SH_C0", "change_degree", "rotate_harmonics", "sh_basis"]

DEGREES = (0, 1, 2, 3)
#: ``Y_0``, the constant by which a degree-0 coefficient becomes a colour: ``1 / (2 sqrt(pi))``.
SH_C0 = 0.28209479177387814


def sh_basis(directions: Float[Tensor, "*batch 3"], degree: int) -> Float[Tensor, "*batch K"]:
    """The values ``Y_k(d)`` of the first ``(degree + 1)^2`` real spherical harmonics.

    Arguments:
        directions: unit vectors.
        degree: 0 to 3.

    Raises:
        ValueError: another degree.

    Source: Sloan, "Stupid spherical harmonics tricks", appendix A2, with the sign ``(-1)^m``.
    """
    if degree not in DEGREES:
        raise ValueError(f"spherical harmonics have degree 0 to 3 here, not {degree}")
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [torch.full_like(x, SH_C0)]
    if degree >= 1:
        values += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        values += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        values += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(values, -1)


def rotate_harmonics(sh: Float[Tensor, "N K 3"], rotation: Float[Tensor, "3 3"]) -> Float[Tensor, "N K 3"]:
    """The coefficients of the turned function ``f'(d) = f(R^-1 d)``.

    Every degree is a space of its own under rotation, so ``Y_l(R^-1 d) = M_l Y_l(d)`` with an orthogonal
    ``(2l + 1) x (2l + 1)`` matrix, and ``c' = M_l^T c``. ``M_l`` follows exactly (to rounding, in double) from the
    values at more directions than the degree has functions: no table of formulas, hence none to get wrong.

    Arguments:
        sh: coefficients, K = (degree + 1)^2 with degree at most 3.
        rotation: a proper rotation.
    """
    degree = round(sh.shape[1] ** 0.5) - 1
    if degree == 0:
        return sh
    turn = rotation.detach().double().cpu()
    points = _directions()
    here, there = sh_basis(points, degree), sh_basis(points @ turn, degree)  # rows of R^-1 d = R^T d
    bands = [sh[:, :1]]
    for l in range(1, degree + 1):
        band = slice(l * l, (l + 1) ** 2)
        transposed = torch.linalg.lstsq(here[:, band], there[:, band]).solution  # here @ M^T = there
        transposed = torch.where(transposed.abs() < 1e-14, 0.0, transposed)
        bands.append(torch.einsum("ij,njc->nic", transposed.to(sh), sh[:, band]))
    return torch.cat(bands, 1)


def _directions() -> Float[Tensor, "32 3"]:
    """Evenly spread unit vectors (a Fibonacci lattice), in double."""
    k = torch.arange(32, dtype=torch.float64) + 0.5
    z, angle = 1 - k / 16, k * 2.399963229728653
    radius = (1 - z * z).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), z], -1)


def change_degree(sh: Float[Tensor, "N K 3"], degree: int) -> Float[Tensor, "N M 3"]:
    """The coefficients at another degree: higher bands are dropped, missing ones are zero.

    Raises:
        ValueError: a degree outside 0 to 3.
    """
    if degree not in DEGREES:
        raise ValueError(f"spherical harmonics have degree 0 to 3 here, not {degree}")
    wanted = (degree + 1) ** 2
    if sh.shape[1] >= wanted:
        return sh[:, :wanted]
    return torch.cat([sh, sh.new_zeros(len(sh), wanted - sh.shape[1], 3)], 1)
