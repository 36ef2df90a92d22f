"""The tetrahedral grid: it fills its box exactly once, its pieces are congruent, and they fit together."""

import math

import pytest
import torch
from torch import Tensor

from threedistill.representations.tetgrid import tetrahedral_grid


def volumes(points: Tensor, tets: Tensor) -> Tensor:
    corners = points.double()[tets.long()]
    return torch.linalg.det(corners[:, 1:] - corners[:, :1]) / 6


@pytest.mark.parametrize(("resolution", "bound"), [(1, 1.0), (2, 0.5), (3, 0.95), (6, 2.0)])
def test_it_fills_the_box_with_equal_positive_volumes(resolution, bound):
    grid = tetrahedral_grid(resolution, bound)
    assert len(grid.points) == (resolution + 1) ** 3 + resolution**3
    assert len(grid.tets) == 12 * resolution**3
    volume = volumes(grid.points, grid.tets)
    torch.testing.assert_close(volume, torch.full_like(volume, grid.cell**3 / 12), rtol=1e-5, atol=0)
    assert math.isclose(float(volume.sum()), (2 * bound) ** 3, rel_tol=1e-6)
    assert float(grid.points.abs().max()) == pytest.approx(bound, rel=1e-7)


def test_faces_meet_exactly_two_tetrahedra_or_lie_on_the_border():
    grid = tetrahedral_grid(4, 1.0)
    tets = grid.tets.long()
    faces = torch.cat([tets[:, [1, 2, 3]], tets[:, [0, 3, 2]], tets[:, [0, 1, 3]], tets[:, [0, 2, 1]]])
    _, inverse, uses = torch.unique(faces.sort(1).values, dim=0, return_inverse=True, return_counts=True)
    assert int(uses.max()) == 2
    outer = faces[uses[inverse] == 1]
    assert bool(grid.border[outer].all())
    # The border has the box's area, once.
    a, b, c = grid.points.double()[outer].unbind(1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2
    assert float(area) == pytest.approx(24.0, rel=1e-6)
    # Two tetrahedra lie on opposite sides of the face they share: it is walked in opposite directions.
    parity = torch.linalg.det(torch.nn.functional.one_hot(faces.argsort(1), 3).double()).sign()
    sums = torch.zeros(len(uses), dtype=torch.float64).index_add(0, inverse, parity)
    assert bool((sums[uses == 2] == 0).all())


def test_every_point_of_the_box_lies_in_one_tetrahedron():
    grid = tetrahedral_grid(3, 1.0)
    corners = grid.points.double()[grid.tets.long()]
    inverse = torch.linalg.inv((corners[:, 1:] - corners[:, :1]).transpose(1, 2))
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    weights = torch.einsum("tij,ptj->pti", inverse, points[:, None] - corners[None, :, 0])
    within = (weights > 0).all(-1) & (weights.sum(-1) < 1)
    assert bool((within.sum(1) == 1).all())


def test_the_largest_displacement_turns_no_tetrahedron_over():
    grid = tetrahedral_grid(5, 1.0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):  # the corners of the cube of displacements are the worst
        moved = torch.randint(0, 2, grid.points.shape, generator=generator) * 2 - 1
        moved[grid.border] = 0
        assert float(volumes(grid.points + 0.2 * grid.cell * moved, grid.tets).min()) > 0


@pytest.mark.parametrize(
    ("resolution", "bound"), [(0, 1.0), (300, 1.0), (4, 0.0), (4, math.inf), (4, math.nan)]
)
def test_values_out_of_range_are_refused(resolution, bound):
    with pytest.raises(ValueError, match="tetrahedral_grid"):
        tetrahedral_grid(resolution, bound)
