"""Marching cubes against closed forms, scikit-image and the topology of closed surfaces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from threedistill.ops.marching_cubes import marching_cubes


def grid(n: int, half: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axis = torch.linspace(-half, half, n)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x, y, z


def smooth_field(seed: int, n: int = 48) -> torch.Tensor:
    """A random sum of waves, everywhere negative near the border."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.stack(grid(n), -1)
    waves = torch.randn(12, 3, generator=generator) * 4
    phases = torch.rand(12, generator=generator) * 2 * math.pi
    value = torch.sin(points @ waves.T + phases).sum(-1)
    return torch.minimum(value, 20 * (0.85 - points.abs().amax(-1)))


def as_trimesh(vertices: torch.Tensor, faces: torch.Tensor) -> trimesh.Trimesh:
    return trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)


def edge_uses(faces: torch.Tensor) -> torch.Tensor:
    """How often each undirected edge occurs, and each directed one (which must be once)."""
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    assert len(torch.unique(directed, dim=0)) == len(directed), "two faces run along an edge the same way"
    return torch.unique(directed.sort(1).values, dim=0, return_counts=True)[1]


def test_sphere_has_its_volume_area_and_outward_winding() -> None:
    x, y, z = grid(64)
    vertices, faces = marching_cubes(0.8 - (x * x + y * y + z * z).sqrt(), 0.0, (-1, -1, -1), 2 / 63)
    mesh = as_trimesh(vertices, faces)
    assert mesh.is_watertight and mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * math.pi * 0.8**3, rel=2e-3)  # positive: outward winding
    assert mesh.area == pytest.approx(4 * math.pi * 0.8**2, rel=2e-3)
    assert (vertices.norm(dim=1) - 0.8).abs().max() < 1e-3  # the chord's error h^2 / 8r is 1.6e-4


def test_torus_has_one_handle_and_its_volume() -> None:
    x, y, z = grid(72)
    value = 0.25 - ((torch.hypot(x, z) - 0.6) ** 2 + y * y).sqrt()
    mesh = as_trimesh(*marching_cubes(value, 0.0, (-1, -1, -1), 2 / 71))
    assert mesh.is_watertight and mesh.euler_number == 0
    assert mesh.volume == pytest.approx(2 * math.pi**2 * 0.6 * 0.25**2, rel=4e-3)


@pytest.mark.parametrize("seed", range(4))
def test_smooth_fields_agree_with_scikit_image(seed: int) -> None:
    measure = pytest.importorskip("skimage.measure")
    value = smooth_field(seed)
    ours = as_trimesh(*marching_cubes(value, 0.1, (0.5, 0, 0), 0.1))
    theirs_vertices, theirs_faces, _, _ = measure.marching_cubes(value.numpy(), 0.1, spacing=(0.1,) * 3)
    theirs = trimesh.Trimesh(theirs_vertices, theirs_faces, process=False)
    assert ours.is_watertight and ours.is_winding_consistent
    # Lewiner's variant joins where ours separates on ambiguous faces, hence not equal to the last digit.
    assert ours.volume == pytest.approx(abs(theirs.volume), rel=1e-3)
    assert ours.area == pytest.approx(theirs.area, rel=3e-3)
    assert abs(ours.euler_number - theirs.euler_number) <= 4
    assert np.allclose(ours.bounds - [[0.5, 0, 0]], theirs.bounds, atol=2e-4)


@pytest.mark.parametrize("seed", range(3))
def test_noise_gives_a_closed_manifold_without_flat_triangles(seed: int) -> None:
    """White noise meets all 256 sign patterns and every pair of neighbours."""
    value = torch.randn(24, 25, 26, generator=torch.Generator().manual_seed(seed))
    vertices, faces = marching_cubes(value, 0.0)
    assert (edge_uses(faces) == 2).all()
    mesh = as_trimesh(vertices, faces)
    assert mesh.area_faces.min() > 0 and mesh.volume > 0


def test_values_equal_to_the_level_make_no_degenerate_triangles() -> None:
    value = torch.randint(-1, 2, (20, 20, 20), generator=torch.Generator().manual_seed(0)).float()
    vertices, faces = marching_cubes(value, 0.0)
    assert (edge_uses(faces) == 2).all()
    assert as_trimesh(vertices, faces).area_faces.min() > 1e-7


def test_a_solid_that_touches_the_border_is_capped_or_left_open() -> None:
    vertices, faces = marching_cubes(torch.ones(4, 5, 6), 0.0, (1, 2, 3), (0.5, 1.0, 2.0))
    mesh = as_trimesh(vertices, faces)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(1.5 * 4 * 10, rel=1e-2)
    assert np.allclose(mesh.bounds, [[1, 2, 3], [2.5, 6, 13]], atol=3e-3)
    x, _, _ = grid(8)
    open_mesh = as_trimesh(*marching_cubes(x, 0.0, closed=False))
    assert not open_mesh.is_watertight and len(open_mesh.faces) == 2 * 49
    assert (open_mesh.face_normals[:, 0] < -0.99).all()  # inside is towards +x, so outward is -x


def test_float64_and_per_axis_spacing_place_vertices_exactly() -> None:
    value = torch.zeros(3, 3, 3, dtype=torch.float64)
    value[1, 1, 1] = 4.0
    vertices, faces = marching_cubes(value, 1.0, (10, 20, 30), (1, 2, 3))
    assert vertices.dtype == torch.float64 and len(vertices) == 6 and len(faces) == 8
    centre, reach = (
        torch.tensor([11.0, 22, 33]),
        torch.tensor([0.75, 1.5, 2.25]),
    )  # (1 - 0) / (4 - 0) from outside
    expected = torch.cat([centre + torch.diag(reach), centre - torch.diag(reach)]).double()
    assert torch.cdist(vertices, expected).min(1).values.max() < 1e-12


def test_nothing_above_the_level_is_an_empty_mesh() -> None:
    vertices, faces = marching_cubes(torch.zeros(5, 5, 5), 1.0)
    assert vertices.shape == (0, 3) and faces.shape == (0, 3)


@pytest.mark.misuse
def test_bad_volumes_are_named() -> None:
    with pytest.raises(ValueError, match=r"shape \(4, 4\) has no cells"):
        marching_cubes(torch.zeros(4, 4), 0.0)
    value = torch.zeros(4, 4, 4)
    value[0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(ValueError, match="2 of the 64 samples are not finite"):
        marching_cubes(value, 0.0)
