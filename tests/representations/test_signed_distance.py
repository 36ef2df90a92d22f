"""The signed distance of meshes: closed forms, orientation, holes, parts within parts, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.representations.balls import ball_mesh
from threedistill.errors import ThreedistillError
from threedistill.representations.signed_distance import (
    check_mesh,
    sample_surface,
    signed_distance,
    winding_number,
)
from threedistill.representations.tetgrid import tetrahedral_grid
from threedistill.types import Mesh

GRID = tetrahedral_grid(14, 0.95)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def box(low: float, high: float) -> Mesh:
    corners = torch.tensor([[x, y, z] for x in (low, high) for y in (low, high) for z in (low, high)])
    quads = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    faces = [tri for a, b, c, d in quads for tri in ((a, b, c), (a, c, d))]
    return Mesh(corners, torch.tensor(faces))


def joined(*parts: Mesh) -> Mesh:
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + len(part.vertices))
    return Mesh(
        torch.cat([p.vertices for p in parts]),
        torch.cat([p.faces + n for p, n in zip(parts, ends, strict=False)]),
    )


def box_distance(points: Tensor, half: float) -> Tensor:
    q = points.abs() - half
    return q.clamp_min(0).norm(dim=1) + q.amax(1).clamp_max(0)


def test_a_ball():
    got = signed_distance(GRID, ball_mesh(0.6, rings=64), generator())
    assert float((got - (GRID.points.norm(dim=1) - 0.6)).abs().max()) < 2e-3  # the chords of 64 rings


def test_a_box_with_large_triangles():
    got = signed_distance(GRID, box(-0.5, 0.5), generator())
    true = box_distance(GRID.points, 0.5)
    near = true.abs() < 2.5 * GRID.cell
    torch.testing.assert_close(got[near], true[near], rtol=0, atol=1e-5)
    assert torch.equal(got < 0, true < 0)
    assert float((got - true).abs().max()) < 0.02


def test_winding_numbers():
    ball = ball_mesh(0.6)
    inside = GRID.points.norm(dim=1) < 0.59
    assert torch.equal(winding_number(GRID, ball)[inside], torch.ones(int(inside.sum())))
    assert bool((winding_number(GRID, ball)[GRID.points.norm(dim=1) > 0.6] == 0).all())
    turned = Mesh(ball.vertices, ball.faces.flip(1))
    assert torch.equal(winding_number(GRID, turned), -winding_number(GRID, ball))
    # Shifting one axis onto the next changes nothing but the order of the points.
    rolled = Mesh(ball.vertices.roll(1, 1) * torch.tensor([1.0, 0.7, 1.0]), ball.faces)
    radius = (GRID.points / torch.tensor([1.0, 0.7, 1.0])).norm(dim=1)
    assert torch.equal(
        winding_number(GRID, rolled)[radius < 0.59] == 1, torch.ones(int((radius < 0.59).sum())) == 1
    )


def test_overlapping_parts_and_turned_parts_are_solid():
    parts = joined(box(-0.5, 0.2), box(-0.2, 0.5))
    inside = ((GRID.points > -0.5) & (GRID.points < 0.2)).all(1) | (
        (GRID.points > -0.2) & (GRID.points < 0.5)
    ).all(1)
    assert torch.equal(signed_distance(GRID, parts, generator()) < 0, inside)
    turned = box(-0.5, 0.5)
    turned = Mesh(turned.vertices, turned.faces.flip(1))
    assert torch.equal(signed_distance(GRID, turned, generator()) < 0, box_distance(GRID.points, 0.5) < 0)


def test_a_ball_with_a_hole_is_still_a_ball():
    ball = ball_mesh(0.6, rings=32)
    kept = ball.vertices[ball.faces][..., 1].mean(1) < 0.5
    assert 0.7 < float(kept.float().mean()) < 0.99
    got = signed_distance(GRID, Mesh(ball.vertices, ball.faces[kept]), generator()) < 0
    true = GRID.points.norm(dim=1) < 0.6
    assert float((got & true).sum() / (got | true).sum()) > 0.95


def test_samples_are_spread_by_area():
    mesh = box(-0.5, 0.5)
    face, weights = sample_surface(mesh, 12_000, generator())
    assert bool((torch.bincount(face, minlength=12) - 1000).abs().max() <= 1)
    torch.testing.assert_close(weights.sum(1), torch.ones(12_000))
    at = (mesh.vertices[mesh.faces[face]] * weights[..., None]).sum(1)
    assert float(at.mean(0).abs().max()) < 0.01
    assert float(at.square().mean()) == pytest.approx((0.25 + 2 / 12) / 3, rel=0.01)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (Mesh(torch.zeros(0, 3), torch.zeros(0, 3).long()), "is empty"),
        (Mesh(torch.zeros(3, 3), torch.tensor([[0, 1, 2]])), "without area"),
        (
            Mesh(torch.tensor([[0.0, 0, 0], [math.nan, 0, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2]])),
            "1 vertices",
        ),
        (box(-2.0, 0.5), "reaches 2.00 m"),
    ],
)
def test_what_cannot_be_a_start_is_refused(mesh, message):
    with pytest.raises(ThreedistillError, match=message):
        check_mesh(mesh, 0.95)


def test_a_mesh_that_encloses_nothing_is_refused():
    sheet = Mesh(
        torch.tensor([[-0.5, -0.5, 0.01], [0.5, -0.5, 0.01], [0.0, 0.5, 0.01]]), torch.tensor([[0, 1, 2]])
    )
    with pytest.raises(ThreedistillError, match="encloses no point"):
        signed_distance(GRID, sheet, generator(), samples=500)
