"""Spherical harmonics: orthonormal, turning with the object, cut and padded."""

from __future__ import annotations

import math

import pytest
import torch

from threedistill.exports.splats.harmonics import change_degree, rotate_harmonics
from threedistill.render.harmonics import basis


def sphere_quadrature(n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Directions and weights that integrate polynomials of degree < 2 n over the sphere exactly."""
    import numpy as np

    z, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
    phi = torch.arange(2 * n, dtype=torch.float64) * (math.pi / n)
    radius = (1 - z * z).sqrt()
    directions = torch.stack(
        [radius[:, None] * phi.cos(), radius[:, None] * phi.sin(), z[:, None].expand(-1, 2 * n)], -1
    )
    return directions.reshape(-1, 3), (w[:, None].expand(-1, 2 * n) * (math.pi / n)).reshape(-1)


def rotation(seed: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(
        torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    )
    return q * torch.sign(torch.linalg.det(q))


def test_the_basis_is_orthonormal() -> None:
    """Gram matrix by exact quadrature: wrong constants, factors or repeated functions would all show."""
    directions, weights = sphere_quadrature()
    values = basis(directions, 3)
    gram = values.T @ (values * weights[:, None])
    assert (gram - torch.eye(16, dtype=torch.float64)).abs().max() < 1e-12


def test_signs_and_order_are_inrias() -> None:
    """Degree 1 is (-y, z, -x); further orders checked at a point by hand."""
    d = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), dim=0)
    x, y, z = d.tolist()
    values = basis(d, 3)
    assert values[0] == pytest.approx(0.5 / math.sqrt(math.pi))
    assert values[1:4].tolist() == pytest.approx([c * math.sqrt(3 / (4 * math.pi)) for c in (-y, z, -x)])
    assert values[4] == pytest.approx(0.5 * math.sqrt(15 / math.pi) * x * y)
    assert values[5] == pytest.approx(-0.5 * math.sqrt(15 / math.pi) * y * z)
    assert values[8] == pytest.approx(0.25 * math.sqrt(15 / math.pi) * (x * x - y * y))
    assert values[15] == pytest.approx(-0.25 * math.sqrt(35 / (2 * math.pi)) * x * (x * x - 3 * y * y))


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_turned_coefficients_are_the_turned_function(degree: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    sh = torch.randn(5, (degree + 1) ** 2, 3, dtype=torch.float64, generator=generator)
    directions = torch.nn.functional.normalize(
        torch.randn(50, 3, dtype=torch.float64, generator=generator), dim=1
    )
    turn = rotation(seed)
    before = torch.einsum("dk,nkc->ndc", basis(directions @ turn, degree), sh)  # f(R^-1 d)
    after = torch.einsum("dk,nkc->ndc", basis(directions, degree), rotate_harmonics(sh, turn))
    assert (before - after).abs().max() < 1e-12


def test_turns_compose() -> None:
    sh = torch.randn(4, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    a, b = rotation(4), rotation(5)
    twice = rotate_harmonics(rotate_harmonics(sh, a), b)
    assert (twice - rotate_harmonics(sh, b @ a)).abs().max() < 1e-12
    assert (rotate_harmonics(twice, (b @ a).T) - sh).abs().max() < 1e-12


def test_half_turns_are_changes_of_sign() -> None:
    """About an axis, every function of this basis is even or odd: single precision loses nothing."""
    sh = torch.randn(3, 16, 3, generator=torch.Generator().manual_seed(6))
    turned = rotate_harmonics(sh, torch.diag(torch.tensor([-1.0, -1.0, 1.0])))
    assert (turned.abs() - sh.abs()).abs().max() < 1e-6
    assert torch.equal(
        rotate_harmonics(turned, torch.diag(torch.tensor([-1.0, -1.0, 1.0]))).sign(), sh.sign()
    )


def test_degrees_are_cut_and_padded() -> None:
    sh = torch.randn(3, 9, 3)
    assert torch.equal(change_degree(sh, 1), sh[:, :4])
    padded = change_degree(sh, 3)
    assert torch.equal(padded[:, :9], sh) and padded.shape == (3, 16, 3) and not padded[:, 9:].any()
    with pytest.raises(ValueError, match="degree 0 to 3 here, not 4"):
        change_degree(sh, 4)
