"""Silhouettes, distances and volumes with known answers."""

import math

import numpy as np
import pytest
import torch
import trimesh

from threedistill.errors import ThreedistillError
from threedistill.evaluation import silhouette
from threedistill.evaluation.alignment import centred, rotate_y, smallest_circle, turned
from threedistill.evaluation.health import mesh_health
from threedistill.evaluation.silhouette import (
    chamfer_distance,
    mask_iou,
    occupancy,
    sample_surface,
    silhouette_agreement,
    volume_agreement,
    volume_iou,
)
from threedistill.types import Mesh


def as_mesh(solid) -> Mesh:
    return Mesh(torch.tensor(solid.vertices).float(), torch.tensor(solid.faces))


def lopsided() -> Mesh:
    """A box with a ball on one corner: no symmetry about Y."""
    ball = trimesh.creation.icosphere(2, 0.25)
    ball.apply_translation((0.1, 0.4, 0.4))
    return as_mesh(trimesh.util.concatenate([trimesh.creation.box((0.6, 0.4, 1.0)), ball]))


def test_positive_yaw_takes_the_front_towards_plus_x():
    assert torch.allclose(
        rotate_y(torch.tensor([0.0, 0.0, 1.0]), math.pi / 2), torch.tensor([1.0, 0, 0]), atol=1e-6
    )


def test_smallest_circle_of_a_right_triangle_and_of_a_line():
    centre, radius = smallest_circle(np.array([[0.0, 0], [4, 0], [0, 3], [1, 1]]))
    assert np.allclose(centre, [2, 1.5], atol=5e-3) and radius == pytest.approx(2.5, rel=2e-3)
    centre, radius = smallest_circle(np.array([[0.0, 0], [1, 0], [2, 0], [4, 0]]))
    assert np.allclose(centre, [2, 0], atol=5e-3) and radius == pytest.approx(2, rel=2e-3)


@pytest.mark.parametrize("yaw", [-130.0, -47.0, 0.0, 33.3, 90.0])
def test_a_turned_scaled_and_moved_mesh_is_found_again(yaw):
    truth = lopsided()
    asset = turned(truth, math.radians(-yaw), 1.7)
    asset.vertices = asset.vertices + torch.tensor([0.4, 2.0, -1.0])
    found = silhouette_agreement(asset, truth, size=64)
    assert found.silhouette_iou > 0.98
    assert abs((found.yaw - yaw + 180) % 360 - 180) < 2
    assert found.scale == pytest.approx(1, rel=0.02)
    assert found.volume_iou is not None and found.volume_iou > 0.93
    assert found.upright_iou <= found.silhouette_iou + 1e-6


def test_scale_is_fitted_about_the_centre():
    # A mast makes the bounding radius wrong by far; only the fitted scale can put the box right.
    box = trimesh.creation.box((1.0, 1.0, 1.0))
    mast = trimesh.creation.box((0.02, 0.02, 1.6))
    found = silhouette_agreement(as_mesh(trimesh.util.concatenate([box, mast])), as_mesh(box), size=64)
    assert found.scale == pytest.approx(math.sqrt(0.8**2) / math.sqrt(0.75), rel=0.12)
    assert found.silhouette_iou > 0.9


def test_cube_against_sphere_is_far_from_perfect():
    found = silhouette_agreement(
        as_mesh(trimesh.creation.icosphere(3, 0.5)), as_mesh(trimesh.creation.box((0.1, 1.0, 0.1))), size=64
    )
    assert found.silhouette_iou < 0.5


def test_mask_iou_by_hand():
    a, b = torch.zeros(3, 4, 4, dtype=torch.bool), torch.zeros(3, 4, 4, dtype=torch.bool)
    a[0, :2], b[0, 1:3] = True, True
    a[1, 0] = True
    assert mask_iou(a, b).tolist() == pytest.approx([1 / 3, 0, 1])


def test_volume_of_a_box_and_of_overlapping_boxes():
    one = trimesh.creation.box((1.0, 0.8, 0.6))
    cell = (2.2 / 96) ** 3
    assert float(occupancy(as_mesh(one), 96).sum()) * cell == pytest.approx(0.48, rel=0.06)
    other = one.copy()
    other.apply_translation((0.5, 0, 0))
    both = as_mesh(trimesh.util.concatenate([one, other]))
    assert float(occupancy(both, 96).sum()) * cell == pytest.approx(0.72, rel=0.06)
    assert volume_iou(as_mesh(one), as_mesh(other)) == pytest.approx(1 / 3, abs=0.04)


def test_volume_at_the_best_turn_looks_at_the_truth_once(monkeypatch: pytest.MonkeyPatch):
    truth = lopsided()
    asset = turned(truth, math.radians(100))
    sizes = (centred(asset), centred(truth))
    expected = max(volume_iou(turned(sizes[0], 2 * math.pi * k / 8), sizes[1]) for k in range(8))
    seen = []
    monkeypatch.setattr(silhouette, "occupancy", lambda mesh: seen.append(mesh) or occupancy(mesh))
    assert volume_agreement(asset, truth) == expected > 0.5
    assert len(seen) == 1 + 8


def test_occupancy_agrees_with_ray_tests_by_trimesh():
    ball = trimesh.creation.icosphere(2, 0.7)
    grid = occupancy(as_mesh(ball), 20)
    centre = (np.arange(20) + 0.5) * 0.11 - 1.1
    points = np.stack(np.meshgrid(centre, centre, centre, indexing="ij"), -1)
    radius = np.linalg.norm(points, axis=-1)
    sure = (radius < 0.66) | (radius > 0.7)
    assert np.array_equal(grid.numpy()[sure], (radius < 0.66)[sure])


def test_chamfer_of_concentric_spheres_is_their_distance():
    inner, outer = (as_mesh(trimesh.creation.icosphere(4, r)) for r in (0.5, 0.7))
    assert chamfer_distance(inner, outer) == pytest.approx(0.2, abs=0.01)
    assert chamfer_distance(inner, inner) < 0.02


def test_surface_samples_follow_area():
    square = Mesh(
        torch.tensor([[0.0, 0, 0], [3, 0, 0], [3, 1, 0], [0, 1, 0], [5, 0, 0], [6, 0, 0], [5, 2, 0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6]]),
    )
    x = sample_surface(square, 8000)[:, 0]
    assert float((x > 4).float().mean()) == pytest.approx(1 / 4, abs=0.002)
    assert float((x < 1.5).float().mean()) == pytest.approx(3 / 8, abs=0.02)


def test_an_empty_asset_is_refused_in_one_line():
    with pytest.raises(ThreedistillError, match="no faces"):
        centred(Mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long)))


def test_health_of_a_cube_and_of_a_broken_one():
    cube = as_mesh(trimesh.creation.box((1.0, 1.0, 2.0)))
    health = mesh_health(cube)
    assert health.watertight and health.components == 1 and health.degenerate_faces == 0
    assert health.longest_side == pytest.approx(2) and health.uv_coverage is None

    # Vertices doubled per face, as texture seams do it, change nothing.
    split = Mesh(cube.vertices[cube.faces].reshape(-1, 3), torch.arange(36).reshape(-1, 3))
    assert mesh_health(split).watertight

    hole = Mesh(cube.vertices, cube.faces[1:])
    assert not mesh_health(hole).watertight
    flipped = Mesh(cube.vertices, torch.cat([cube.faces[:1].flip(1), cube.faces[1:]]))
    assert not mesh_health(flipped).watertight

    two = Mesh(torch.cat([cube.vertices, cube.vertices / 10 + 5]), torch.cat([cube.faces, cube.faces + 8]))
    assert mesh_health(two).components == 2
    assert mesh_health(two).largest_share == pytest.approx(100 / 101, rel=1e-4)
    sliver = Mesh(cube.vertices, torch.cat([cube.faces, torch.tensor([[0, 0, 1]])]))
    assert mesh_health(sliver).degenerate_faces == 1


def test_uv_coverage_is_the_charts_area():
    quad = Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]),
        torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=torch.tensor([[0.0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]]),
    )
    health = mesh_health(quad)
    assert health.uv_coverage == pytest.approx(0.25, abs=0.01) and health.uv_outside == 0
    outside = Mesh(quad.vertices, quad.faces, uv=quad.uv * 3)
    assert mesh_health(outside).uv_outside == 1


def test_uv_overlap_and_texel_density_are_what_was_laid_out():
    """A square metre and a square of 2 m on one texture, beside each other and then half over each other."""
    one = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    two = 2 * one + torch.tensor([5.0, 0, 0])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    chart = torch.tensor([[0.0, 0], [0.5, 0], [0.5, 1], [0, 1]])
    mesh = Mesh(
        torch.cat([one, two]), faces, uv=torch.cat([chart, chart + torch.tensor([0.5, 0])]),
        texture=torch.zeros(64, 256, 3),
    )  # fmt: skip
    health = mesh_health(mesh)
    assert health.uv_overlap == 0 and health.uv_coverage == pytest.approx(1, abs=0.01)
    # 128 x 64 texels on one square metre, and on four.
    dense, sparse = (128 * 64) ** 0.5, (128 * 64 / 4) ** 0.5
    assert health.texel_density == pytest.approx(sparse) and health.texel_spread == pytest.approx(
        dense / sparse
    )
    half = Mesh(
        mesh.vertices, faces, uv=torch.cat([chart, chart + torch.tensor([0.25, 0])]), texture=mesh.texture
    )
    assert mesh_health(half).uv_overlap == pytest.approx(1 / 3, abs=0.02)
    bare = mesh_health(Mesh(mesh.vertices, faces))
    assert bare.uv_overlap is None and bare.texel_density is None
