"""Cleaning: what stays, what goes, and what must not change."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import trimesh

from tests.exports.objects import Solid, ball_with_bands, box, letter_f
from threedistill.errors import ThreedistillError
from threedistill.exports.meshes import surface
from threedistill.types import Mesh


def as_trimesh(mesh: Mesh) -> trimesh.Trimesh:
    return trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)


def solid(distance) -> Mesh:
    return Solid(distance, lambda p, n: p).extract(64)


def union(*parts: torch.Tensor) -> torch.Tensor:
    return torch.stack(parts).amin(0)


def ball(p: torch.Tensor, centre: tuple[float, float, float], radius: float) -> torch.Tensor:
    return (p - torch.tensor(centre)).norm(dim=-1) - radius


def test_floaters_go_and_second_objects_stay() -> None:
    mesh = solid(
        lambda p: union(ball(p, (-0.4, 0, 0), 0.4), ball(p, (0.5, 0, 0), 0.3), ball(p, (0, 0.8, 0), 0.06))
    )
    kept = surface.keep_components(mesh, 0.05)
    parts = as_trimesh(kept).split()
    assert sorted(round(p.volume, 2) for p in parts) == [
        pytest.approx(4 / 3 * math.pi * r**3, abs=0.01) for r in (0.3, 0.4)
    ]
    assert len(as_trimesh(surface.keep_components(mesh, 0.7)).split()) == 1


def test_inner_shells_go_with_what_they_hold() -> None:
    """A shell with a cavity that holds a ball: only the outer wall is left."""
    mesh = solid(lambda p: union(ball(p, (0, 0, 0), 0.3), (ball(p, (0, 0, 0), 0.65)).abs() - 0.15))
    assert len(as_trimesh(mesh).split(only_watertight=False)) == 3
    kept = as_trimesh(surface.keep_components(mesh, 0.01))
    assert kept.is_watertight and kept.volume == pytest.approx(4 / 3 * math.pi * 0.8**3, rel=0.01)


def test_smoothing_removes_the_staircase_and_keeps_the_volume() -> None:
    # A binary volume has the worst staircase there is.
    mesh = solid(lambda p: torch.where(p.norm(dim=-1) < 0.7, -1.0, 1.0))
    smoothed = surface.smooth(mesh, 10)

    def roughness(m: Mesh) -> float:
        normals = as_trimesh(m).face_adjacency_angles
        return float(normals.mean())

    assert as_trimesh(smoothed).volume == pytest.approx(as_trimesh(mesh).volume, rel=0.01)
    assert roughness(smoothed) < 0.35 * roughness(mesh)  # measured 0.29
    assert torch.equal(surface.smooth(mesh, 0).vertices, mesh.vertices)


@pytest.mark.parametrize("budget", [200, 1500])
def test_decimation_keeps_the_budget_the_hull_and_the_shape(budget: int) -> None:
    mesh = ball_with_bands().extract(64)
    reduced = surface.decimate(mesh, budget)
    assert 0.9 * budget <= len(reduced.faces) <= budget
    assert as_trimesh(reduced).is_watertight and as_trimesh(reduced).is_winding_consistent
    assert as_trimesh(reduced).volume == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=0.05)
    assert surface.decimate(reduced, budget) is reduced


def test_watertightness_is_judged_as_by_trimesh() -> None:
    mesh = letter_f().extract(40)
    assert surface.is_watertight(mesh.faces) and as_trimesh(mesh).is_watertight
    assert not surface.is_watertight(mesh.faces[1:])
    turned = mesh.faces.clone()
    turned[0] = turned[0].flip(0)
    assert not surface.is_watertight(turned)  # closed, but one face is inside out


def test_normals_of_a_cube_corner_and_a_sphere() -> None:
    """Angle weighting makes a box corner's normal its diagonal, however its sides are cut into triangles."""
    cube = trimesh.creation.box()
    normals = surface.vertex_normals(torch.tensor(cube.vertices), torch.tensor(cube.faces))
    # Each side is one or two triangles at a corner; area x angle weights them by at most 2 : 1.
    diagonal = torch.nn.functional.normalize(torch.tensor(cube.vertices), dim=1)
    assert (normals * diagonal).sum(1).min() > 0.9
    mesh = ball_with_bands().extract(64)
    normals = surface.vertex_normals(mesh.vertices, mesh.faces)
    outward = torch.nn.functional.normalize(mesh.vertices, dim=1)
    assert (normals * outward).sum(1).min() > 0.999


@pytest.mark.parametrize("origin", ["center", "base"])
def test_size_and_origin(origin: surface.Origin) -> None:
    mesh = replace(letter_f().extract(40))
    placed = surface.normalise(mesh, 2.5, origin)
    low, high = placed.vertices.amin(0), placed.vertices.amax(0)
    assert (high - low).max() == pytest.approx(2.5, rel=1e-6)
    middle = (low + high) / 2
    assert middle[0] == pytest.approx(0, abs=1e-6) and middle[2] == pytest.approx(0, abs=1e-6)
    assert (low if origin == "base" else middle)[1] == pytest.approx(0, abs=1e-6)


def test_z_up_is_a_rotation_that_sends_up_to_z_and_front_to_minus_y() -> None:
    axes = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), normals=torch.eye(3))
    turned = surface.placed(axes, "z", 10.0)
    assert torch.equal(turned.vertices, 10 * torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]))
    assert torch.linalg.det(turned.vertices) > 0
    assert turned.normals is not None and torch.equal(turned.normals * 10, turned.vertices)


def test_seam_vertices_are_welded() -> None:
    mesh = Solid(lambda p: box(p, (0, 0, 0), (0.5, 0.5, 0.5)), lambda p, n: p).extract(16)
    soup = Mesh(mesh.vertices[mesh.faces].reshape(-1, 3), torch.arange(mesh.faces.numel()).view(-1, 3))
    assert not surface.is_watertight(soup.faces)
    welded = surface.welded(soup)
    assert surface.is_watertight(welded.faces) and len(welded.vertices) == len(mesh.vertices)


@pytest.mark.parametrize(
    ("mesh", "text"),
    [
        (Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)), "the mesh is empty"),
        (Mesh(torch.eye(3) * float("nan"), torch.tensor([[0, 1, 2]])), "3 of 3 vertices are not finite"),
        (Mesh(torch.eye(3), torch.tensor([[0, 1, 3]])), "names vertex 3, there are 3"),
        (Mesh(torch.ones(3, 3), torch.tensor([[0, 1, 2]])), "lie on one point"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(mesh: Mesh, text: str) -> None:
    with pytest.raises(ThreedistillError, match=text) as caught:
        surface.check(mesh, "extraction")
    assert "\n" not in str(caught.value)
