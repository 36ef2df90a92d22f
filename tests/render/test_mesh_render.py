"""The mesh renderer against closed forms: a sphere's silhouette, depth, normals; textures; winding; backgrounds."""

import math

import pytest
import torch

from threedistill.cameras import orbit, place
from threedistill.render.mesh import face_normals, render_mesh
from threedistill.toybox.paint import Coat
from threedistill.toybox.shapes import Builder, Vary, gather
from threedistill.types import Mesh


def sphere(radius=0.6, color=(0.9, 0.2, 0.1)):
    """A finely cut sphere: rings of a lathe."""
    builder = Builder(Vary(None))
    angles = [math.pi * k / 64 - math.pi / 2 for k in range(65)]
    builder.lathe([(radius * math.cos(a), radius * math.sin(a)) for a in angles], sides=96)
    return gather(builder).mesh([Coat(color)])


def test_sphere_silhouette_depth_and_normals_match_the_closed_form():
    radius, distance = 0.6, 2.9
    cameras = orbit(5, elevation=25.0, distance=distance, size=96)
    seen = render_mesh(sphere(radius), cameras, supersample=1)
    origins, directions = cameras.rays()
    along = (origins * directions).sum(-1)
    inside = along**2 - (origins.square().sum(-1) - radius**2)
    hit = inside > 0
    covered = seen.opacity[..., 0] > 0.5
    assert (hit != covered).float().mean() < 0.004  # tessellation moves the edge by less than a pixel
    both = hit & covered & (inside > 0.02)
    exact = -along - inside.clamp(min=0).sqrt()
    assert (seen.depth[..., 0] - exact)[both].abs().max() < 4e-3
    normal = (origins + exact[..., None] * directions) / radius
    cosine = (seen.normal * normal).sum(-1)[both]
    assert cosine.min() > 0.999


def test_handedness():
    """+X is right from the front and left from behind; +Y is up; +Z hides from behind."""
    builder = Builder(Vary(None))
    builder.ellipsoid((0, 0, 0), (0.3, 0.3, 0.3), (0.5, 0.5, 0.5))
    builder.ellipsoid((0.6, 0, 0), (0.1, 0.1, 0.1), (1, 0, 0))
    builder.ellipsoid((0, 0.6, 0), (0.1, 0.1, 0.1), (0, 1, 0))
    builder.ellipsoid((0, 0, 0.6), (0.1, 0.1, 0.1), (0, 0, 1))
    images = render_mesh(
        gather(builder).mesh([Coat((1.0, 1.0, 1.0))]), orbit(4, elevation=0.0, size=64), supersample=1
    ).rgb

    def where(image, channel):
        mask = (image[..., channel] > 0.9) & (image.sum(-1) < 1.2)
        return mask.nonzero().float().mean(0) if mask.any() else None

    front, right, back, _ = images
    assert where(front, 0)[1] > 40 and where(back, 0)[1] < 24
    assert where(front, 1)[0] < 24
    assert where(front, 2) is not None and where(back, 2) is None
    assert where(right, 2)[1] < 24  # seen from +X the front points to the left


def test_background_supersampling_and_premultiplied_edges():
    cameras = orbit(2, size=32)
    ball = sphere(0.5)
    fine = render_mesh(ball, cameras, supersample=4, background=torch.tensor([0.0, 0.0, 1.0]))
    black = render_mesh(ball, cameras, supersample=4, background=torch.zeros(3))
    torch.testing.assert_close(
        fine.rgb, black.rgb + (1 - black.opacity) * torch.tensor([0.0, 0.0, 1.0]), atol=1e-6, rtol=0
    )
    edge = (fine.opacity > 0.01) & (fine.opacity < 0.99)
    assert edge.any()
    area = float(fine.opacity[0].sum()) / 32**2
    tangent = 0.5 / math.sqrt(2.9**2 - 0.5**2)  # the silhouette of a sphere on the image plane at distance 1
    expected = math.pi * (tangent / (2 * math.tan(math.radians(22)))) ** 2
    assert area == pytest.approx(expected, rel=0.01)


def test_textures_are_read_with_the_origin_at_the_bottom_left():
    quad = Mesh(
        vertices=torch.tensor([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]]),
        faces=torch.tensor([[0, 1, 2], [0, 2, 3]]),
        uv=torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]]),
        texture=torch.tensor([[[1.0, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 1, 0]]]),
    )
    assert torch.equal(face_normals(quad), torch.tensor([[0.0, 0, 1], [0, 0, 1]]))
    zero, one = torch.zeros(1), torch.ones(1)
    camera = place(zero, zero, one * 2, one * 2 * math.atan(0.25), 64, 64)  # the quad fills the picture
    image = render_mesh(quad, camera, supersample=1).rgb[0]
    for row, column, color in (
        (8, 8, [1, 0, 0]),
        (8, 56, [0, 1, 0]),
        (56, 8, [0, 0, 1]),
        (56, 56, [1, 1, 0]),
    ):
        torch.testing.assert_close(
            image[row, column], torch.tensor(color, dtype=torch.float32), atol=1e-4, rtol=0
        )


def test_flat_shading_of_inverted_faces_turns_to_the_camera():
    ball = sphere(0.5)
    inside_out = Mesh(ball.vertices, ball.faces.flip(1), colors=ball.colors)
    outside = Mesh(ball.vertices, ball.faces, colors=ball.colors)
    cameras = orbit(1, size=32)
    one, two = (render_mesh(m, cameras, shading="lambertian").rgb for m in (inside_out, outside))
    torch.testing.assert_close(one, two, atol=1e-5, rtol=0)
