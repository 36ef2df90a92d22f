"""Marching tetrahedra against closed forms, topology that is known, its twin, and differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from threedistill.ops.marching_tets import (
    TetTopology,
    _tet_topology,
    marching_tets,
    tet_topology,
    tet_topology_reference,
    tet_vertices,
)
from threedistill.representations.tetgrid import tetrahedral_grid

GRID = tetrahedral_grid(16, 1.0)
POINTS = GRID.points.double()


def ball(radius: float = 0.7) -> Tensor:
    return POINTS.norm(dim=1) - radius


def torus(large: float = 0.55, small: float = 0.25) -> Tensor:
    ring = torch.hypot(POINTS[:, 0], POINTS[:, 2]) - large
    return torch.hypot(ring, POINTS[:, 1]) - small


def noise(seed: int = 0) -> Tensor:
    """Random values, outside at the border: every sign pattern occurs."""
    values = torch.randn(len(POINTS), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(GRID.border, values.abs() + 0.1, values)


def euler(vertices: Tensor, topology: TetTopology) -> int:
    return len(vertices) - 3 * len(topology.faces) // 2 + len(topology.faces)


def watertight(faces: Tensor) -> bool:
    """Every directed edge occurs once, and so does its reverse."""
    long = faces.long()
    directed = torch.cat([long[:, [0, 1]], long[:, [1, 2]], long[:, [2, 0]]]).tolist()
    edges = {tuple(edge) for edge in directed}
    return len(edges) == len(directed) and all((b, a) in edges for a, b in edges)


def volume_and_area(vertices: Tensor, faces: Tensor) -> tuple[float, float]:
    a, b, c = vertices[faces.long()].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    return float((a * cross).sum() / 6), float(cross.norm(dim=1).sum() / 2)


def test_a_ball_has_its_volume_area_and_genus():
    vertices, topology = marching_tets(POINTS, ball(), GRID.tets)
    volume, area = volume_and_area(vertices, topology.faces)
    assert volume == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=1e-2)  # positive: wound outward
    assert area == pytest.approx(4 * math.pi * 0.7**2, rel=1e-2)
    assert watertight(topology.faces)
    assert euler(vertices, topology) == 2
    assert float((vertices.norm(dim=1) - 0.7).abs().max()) < 0.01


def test_a_torus_has_a_hole():
    vertices, topology = marching_tets(POINTS, torus(), GRID.tets)
    assert watertight(topology.faces)
    assert euler(vertices, topology) == 0
    volume, _ = volume_and_area(vertices, topology.faces)
    assert volume == pytest.approx(2 * math.pi**2 * 0.55 * 0.25**2, rel=4e-2)


def test_a_plane_is_reproduced_exactly():
    normal = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64) / math.sqrt(5.25)
    vertices, topology = marching_tets(POINTS, POINTS @ normal - 0.1234, GRID.tets)
    inner = ~GRID.border[topology.edges.long()].all(1)
    torch.testing.assert_close(vertices[inner] @ normal, torch.full_like(vertices[inner, 0], 0.1234))
    a, b, c = vertices[topology.faces.long()].unbind(1)
    cross = torch.linalg.cross(b - a, c - a)
    seen = cross.norm(dim=1) > 1e-9
    assert bool((cross[seen] @ normal > 0).all())


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_watertight_and_separates_inside_from_outside(seed):
    values = noise(seed)
    vertices, topology = marching_tets(POINTS, values, GRID.tets)
    assert watertight(topology.faces)
    # Each face's normal points from the inner to the outer ends of its edges.
    a, b, c = vertices[topology.faces.long()].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    ends = topology.edges[topology.faces.long()].long()
    rise = values[ends[..., 1]] - values[ends[..., 0]]
    across = (POINTS[ends[..., 1]] - POINTS[ends[..., 0]]) * rise.sign()[..., None]
    assert bool(((across * normal[:, None]).sum(-1) > -1e-12).all())


def test_one_tetrahedron_by_hand():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    sdf = torch.tensor([-1.0, 3.0, 1.0, 0.25], dtype=torch.float64)
    vertices, topology = marching_tets(points, sdf, torch.tensor([[0, 1, 2, 3]]))
    assert topology.edges.tolist() == [[0, 1], [0, 2], [0, 3]]
    expected = torch.tensor([[0.25, 0, 0], [0, 0.5, 0], [0, 0, 0.8]], dtype=torch.float64)
    torch.testing.assert_close(vertices, expected)
    a, b, c = vertices[topology.faces[0].long()]
    assert bool((torch.linalg.cross(b - a, c - a) > 0).all())


@pytest.mark.parametrize("make", [ball, torus, noise])
def test_equals_its_twin(make, dtype):
    values = make().to(dtype)
    for got, twin in zip(tet_topology(values, GRID.tets), tet_topology_reference(values, GRID.tets)):
        assert torch.equal(got, twin)
        assert got.dtype == twin.dtype


def test_gradients_by_differences():
    grid = tetrahedral_grid(3, 1.0)
    points = grid.points.double().requires_grad_()
    sdf = (grid.points.double().norm(dim=1) - 0.61).requires_grad_()
    topology = tet_topology(sdf, grid.tets)
    assert torch.autograd.gradcheck(lambda p, s: tet_vertices(p, s, topology), (points, sdf))


def test_the_volume_follows_the_distance():
    """Lowering the distance everywhere by d moves the surface outward by d: dV/dd is the area."""
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    vertices, topology = marching_tets(POINTS, ball() - shift, GRID.tets)
    a, b, c = vertices[topology.faces.long()].unbind(1)
    ((a * torch.linalg.cross(b, c)).sum() / 6).backward()
    assert float(shift.grad) == pytest.approx(4 * math.pi * 0.7**2, rel=1e-2)


def test_zeros_and_equal_values_stay_finite():
    values = ball(0.5)
    values[values.abs() < 0.03] = 0.0
    vertices, topology = marching_tets(POINTS, values.requires_grad_(), GRID.tets)
    vertices.sum().backward()
    assert watertight(topology.faces) and bool(values.grad.isfinite().all())
    _, area = volume_and_area(vertices.detach(), topology.faces)
    assert area > 0
    stale = tet_vertices(POINTS, torch.ones_like(values), topology)  # no signs at all: the edges' middles
    ends = POINTS[topology.edges.long()]
    torch.testing.assert_close(stale, ends.mean(1))


@pytest.mark.parametrize("value", [1.0, -1.0])
def test_nothing_to_draw(value):
    vertices, topology = marching_tets(POINTS, torch.full_like(POINTS[:, 0], value), GRID.tets)
    assert vertices.shape == (0, 3) and topology.faces.shape == (0, 3) and topology.tets.shape == (0,)
    empty, _ = marching_tets(torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 4, dtype=torch.int32))
    assert empty.shape == (0, 3)


def test_thread_count_does_not_matter(on_threads):
    on_threads(lambda: tuple(tet_topology(noise(), GRID.tets)))


def test_opcheck():
    grid = tetrahedral_grid(2, 1.0)
    torch.library.opcheck(_tet_topology, (grid.points.norm(dim=1) - 0.6, grid.tets))


@pytest.mark.misuse
def test_errors():
    points, sdf, tets = torch.zeros(4, 3), torch.zeros(4), torch.tensor([[0, 1, 2, 3]])
    with pytest.raises(
        ValueError, match=r"marching_tets: points must be \(N, 3\) floating point, got \(4, 2\)"
    ):
        marching_tets(points[:, :2], sdf, tets)
    with pytest.raises(ValueError, match=r"marching_tets: sdf must be \(N,\) floating point, got \(4, 1\)"):
        marching_tets(points, sdf[:, None], tets)
    with pytest.raises(ValueError, match=r"marching_tets: sdf must be \(4,\) torch.float32, got \(3,\)"):
        tet_vertices(points, sdf[:3], tet_topology(sdf, tets))
    with pytest.raises(ValueError, match=r"marching_tets: tets must be \(T, 4\) integers, got \(1, 3\)"):
        marching_tets(points, sdf, tets[:, :3])
    for bad in (4, -1):
        with pytest.raises(IndexError, match="marching_tets: an index points outside its array"):
            marching_tets(points, sdf, torch.tensor([[0, 1, 2, bad]]))
