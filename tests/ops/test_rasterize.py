"""Rasterisation against ray casting, its twin, and what a picture of triangles must satisfy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.oracles.rasterize import cast
from threedistill.ops.rasterize import _rasterize, rasterize, rasterize_reference

NEAR, FAR, TAN = 0.05, 20.0, math.tan(0.4)


def clip_from(vertices, eye=(0.0, 0.0, 3.0), dtype=torch.float64):
    """A camera on +Z that looks along -Z, square image."""
    p = torch.as_tensor(vertices, dtype=torch.float64) - torch.tensor(eye, dtype=torch.float64)
    z = -(FAR + NEAR) / (FAR - NEAR) * p[:, 2] - 2 * FAR * NEAR / (FAR - NEAR)
    return torch.stack([p[:, 0] / TAN, p[:, 1] / TAN, z, -p[:, 2]], 1)[None].to(dtype)


def soup(count, seed=0, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(count, 1, 3, generator=generator, dtype=torch.float64) * 2 - 1
    corners = centres * spread + 0.4 * torch.randn(count, 3, 3, generator=generator, dtype=torch.float64)
    return corners.reshape(-1, 3), torch.arange(3 * count, dtype=torch.int32).view(-1, 3)


def sphere(rows=24, columns=32, radius=0.8):
    theta = torch.linspace(0, math.pi, rows + 1, dtype=torch.float64)
    phi = torch.arange(columns, dtype=torch.float64) * (2 * math.pi / columns)
    t, p = torch.meshgrid(theta, phi, indexing="ij")
    vertices = radius * torch.stack([t.sin() * p.cos(), t.cos(), t.sin() * p.sin()], -1).reshape(-1, 3)
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    faces = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([b, d, c], -1).view(-1, 3)])
    return vertices, faces


@pytest.mark.parametrize("eye", [(0.0, 0.0, 3.0), (0.1, -0.2, 1.0)], ids=["outside", "inside the soup"])
def test_equals_ray_casting(eye):
    vertices, faces = soup(40, seed=3)
    got = rasterize(clip_from(vertices, eye), faces, 20, 20)
    axes = np.eye(3)
    triangle, barycentric, depth = cast(
        vertices.numpy(), faces.numpy(), np.array(eye), -axes[2], axes[0], axes[1], TAN, 20, 20, NEAR, FAR
    )
    assert (got.triangle[0].numpy() == triangle).all()
    assert (triangle >= 0).mean() > 0.3
    np.testing.assert_allclose(got.barycentric[0].numpy(), barycentric, atol=1e-9)
    np.testing.assert_allclose(got.depth[0].numpy(), depth, atol=1e-9)


@pytest.mark.parametrize("eye", [(0.0, 0.0, 3.0), (0.0, 0.0, 0.2)], ids=["outside", "inside"])
def test_equals_its_twin(eye, dtype, agree):
    vertices, faces = soup(60, seed=1)
    clip = torch.cat([clip_from(vertices, eye, dtype), clip_from(vertices.flip(1), eye, dtype)])
    got, twin = rasterize(clip, faces, 33, 47), rasterize_reference(clip, faces, 33, 47)
    assert torch.equal(got.triangle, twin.triangle)
    agree(got.barycentric, twin.barycentric)
    agree(got.depth, twin.depth)


def test_float_agrees_with_double():
    vertices, faces = sphere()
    one = rasterize(clip_from(vertices, dtype=torch.float32), faces, 64, 64)
    two = rasterize(clip_from(vertices), faces, 64, 64)
    same = one.triangle == two.triangle
    assert same.float().mean() > 0.999  # float vertices move an edge across a pixel centre here and there
    torch.testing.assert_close(one.depth[same].double(), two.depth[same], rtol=1e-5, atol=1e-6)


def test_a_closed_surface_has_no_cracks():
    vertices, faces = sphere(40, 60)
    hit = rasterize(clip_from(vertices, dtype=torch.float32), faces, 256, 256).triangle[0] >= 0
    apparent = 0.8 / math.sqrt(9 - 0.8**2) / TAN
    axis = (torch.arange(256) + 0.5) / 128 - 1
    radius = torch.hypot(axis[:, None], axis[None])
    assert hit[radius < 0.97 * apparent].all()
    assert not hit[radius > apparent].any()


def test_barycentrics_interpolate_positions_in_perspective():
    vertices, faces = sphere()
    got = rasterize(clip_from(vertices), faces, 48, 48)
    hit = got.triangle[0] >= 0
    corners = vertices[faces[got.triangle[0][hit].long()]]
    position = (got.barycentric[0][hit][:, :, None] * corners).sum(1)
    torch.testing.assert_close(3 - position[:, 2], got.depth[0][hit], rtol=0, atol=1e-9)
    torch.testing.assert_close(
        got.barycentric[0][hit].sum(1), torch.ones(int(hit.sum()), dtype=torch.float64)
    )
    _, column = torch.nonzero(hit, as_tuple=True)
    x = ((column.double() + 0.5) / 24 - 1) * TAN * got.depth[0][hit]
    torch.testing.assert_close(position[:, 0], x, rtol=0, atol=1e-9)


def test_both_sides_are_seen_and_order_does_not_matter():
    vertices, faces = soup(20, seed=5)
    clip = clip_from(vertices)
    front = rasterize(clip, faces, 32, 32)
    back = rasterize(clip, faces.flip(1), 32, 32)
    assert torch.equal(front.triangle, back.triangle)
    reversed_ = rasterize(clip, faces.flip(0), 32, 32)
    expected = torch.where(front.triangle >= 0, 19 - front.triangle, -1)
    assert torch.equal(reversed_.triangle, expected)


def test_ties_go_to_the_lowest_index():
    vertices, faces = soup(5, seed=2)
    doubled = torch.cat([faces, faces])
    assert int(rasterize(clip_from(vertices), doubled, 24, 24).triangle.max()) < 5


def test_orthographic_clip_coordinates():
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0]])
    clip = torch.cat([corners, torch.zeros(3, 1), torch.ones(3, 1)], 1)[None]
    nearer = clip.clone()
    nearer[..., 2] = -0.5
    faces = torch.tensor([[0, 1, 2], [3, 4, 5]])
    got = rasterize(torch.cat([clip, nearer], 1), faces, 4, 4)
    lower_left = torch.ones(4, 4).tril().bool()  # the diagonal's centres lie on the edge, which belongs to it
    assert torch.equal(got.triangle[0] == 1, lower_left)
    assert torch.equal(got.depth[0], lower_left.float())


@pytest.mark.parametrize("case", ["no faces", "no vertices", "no images"])
def test_nothing_to_draw(case):
    images = 0 if case == "no images" else 2
    clip = torch.zeros(images, 0 if case == "no vertices" else 3, 4)
    faces = torch.zeros(0, 3, dtype=torch.int32)
    got = rasterize(clip, faces, 5, 6)
    assert got.triangle.shape == (images, 5, 6)
    assert (got.triangle == -1).all() and (got.barycentric == 0).all() and (got.depth == 0).all()


def test_triangles_that_show_nothing():
    vertices, faces = soup(3)
    clip = clip_from(vertices)
    clip[0, 0:3] = clip[0, 0]  # no area
    clip[0, 3:6, 3] = -1  # behind the camera
    clip[0, 6] = math.nan
    assert (rasterize(clip, faces, 16, 16).triangle == -1).all()
    assert (rasterize_reference(clip, faces, 16, 16).triangle == -1).all()


def test_outside_the_depth_range_is_dropped():
    vertices = torch.tensor([[-9.0, -9.0, 0.0], [9.0, -9.0, 0.0], [0.0, 9.0, 0.0]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2]])
    for distance, seen in [(0.04, False), (0.06, True), (19.0, True), (21.0, False)]:
        got = rasterize(clip_from(vertices, (0.0, 0.0, distance)), faces, 1, 1)
        assert bool(got.triangle[0, 0, 0] == 0) is seen, distance


def test_thread_count_does_not_matter(on_threads):
    vertices, faces = sphere()
    clip = clip_from(vertices, dtype=torch.float32)
    on_threads(lambda: rasterize(clip, faces, 65, 63))


def test_opcheck():
    vertices, faces = soup(4)
    torch.library.opcheck(_rasterize, (clip_from(vertices), faces, 7, 9))


@pytest.mark.misuse
def test_errors():
    clip, faces = torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]])
    with pytest.raises(ValueError, match=r"rasterize: clip must be \(B, V, 4\) floating point, got \(3, 4\)"):
        rasterize(clip[0], faces, 4, 4)
    with pytest.raises(
        ValueError, match=r"rasterize: faces must be \(F, 3\) integers, got \(1, 3\) torch.float32"
    ):
        rasterize(clip, faces.float(), 4, 4)
    with pytest.raises(ValueError, match="height and width must be at least 1, got 0 x 4"):
        rasterize(clip, faces, 0, 4)
    for bad in (3, -1):
        with pytest.raises(IndexError, match="rasterize: an index points outside its array"):
            rasterize(clip, torch.tensor([[0, 1, bad]]), 4, 4)
