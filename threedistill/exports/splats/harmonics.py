"""Spherical harmonics of splats on their way to a file: rotation and change of degree.

The basis is :func:`threedistill.render.harmonics.basis`, INRIA's.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.render.harmonics import MAX_DEGREE, basis

__all__ = ["change_degree", "rotate_harmonics"]


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
    here, there = basis(points, degree), basis(points @ turn, degree)  # rows of R^-1 d = R^T d
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
    if not 0 <= degree <= MAX_DEGREE:
        raise ValueError(f"spherical harmonics have degree 0 to {MAX_DEGREE} here, not {degree}")
    wanted = (degree + 1) ** 2
    if sh.shape[1] >= wanted:
        return sh[:, :wanted]
    return torch.cat([sh, sh.new_zeros(len(sh), wanted - sh.shape[1], 3)], 1)
