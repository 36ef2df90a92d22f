"""Silhouette antialiasing: exact coverage of straight edges, areas in closed form, gradients by differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests.ops.test_rasterize import clip_from, soup, sphere
from threedistill.ops.antialias import (
    _run,
    _silhouette_crossings,
    antialias,
    face_neighbours,
    face_neighbours_reference,
    silhouette_crossings_reference,
)
from threedistill.ops.rasterize import rasterize

TAN = math.tan(0.4)


def flat(corners: Tensor, size: int) -> Tensor:
    """Orthographic clip coordinates of points given in pixels (x right, y down, pixel centres at halves)."""
    x, y = corners[:, 0] * (2 / size) - 1, 1 - corners[:, 1] * (2 / size)
    return torch.stack([x, y, torch.zeros_like(x), torch.ones_like(x)], 1)[None]


def mask(clip: Tensor, faces: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sharp and blended picture of white faces on black."""
    fragments = rasterize(clip.detach(), faces, size, size)
    sharp = (fragments.triangle >= 0).to(clip.dtype)[..., None]
    return sharp, antialias(sharp, clip, faces, fragments)


QUAD = torch.tensor([[0, 1, 2], [0, 2, 3]])


@pytest.mark.parametrize("edge", [2.5, 3.0, 3.2, 3.7, 4.1])
def test_an_upright_edge_covers_exactly_its_share(edge):
    corners = torch.tensor([[-9.0, -9], [edge, -9], [edge, 99], [-9, 99]], dtype=torch.float64)
    for turned in (corners, corners.flip(1)):
        _, picture = mask(flat(turned, 8), QUAD, 8)
        row = picture[0, 3, :, 0] if turned is corners else picture[0, :, 3, 0]
        expected = (edge - torch.arange(8, dtype=torch.float64)).clamp(0, 1)
        torch.testing.assert_close(row, expected)


def test_a_slanted_edge_covers_its_share_to_first_order():
    """Against the exact box coverage of the half-plane x < 8 + slope (y - 8), averaged along the edge."""
    for slope in (0.1, 0.35, 0.8):
        corners = torch.tensor([[-99.0, -92], [8 - 100 * slope, -92], [8 + 100 * slope, 108], [-99, 108]])
        _, picture = mask(flat(corners.double(), 16), QUAD, 16)
        fine = (torch.arange(160, dtype=torch.float64) + 0.5) / 10
        exact = (fine[None] < 8 + slope * (fine[:, None] - 8)).double().view(16, 10, 16, 10).mean((1, 3))
        assert float((picture[0, ..., 0] - exact).abs().max()) < 0.15
        torch.testing.assert_close(picture[0, ..., 0].sum(1), exact.sum(1), rtol=0, atol=0.06)


def test_a_sphere_shows_its_disc_and_its_gradient():
    vertices, faces = sphere(48, 64)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    sharp, picture = mask(clip_from_differentiable(vertices * scale), faces, 64)

    def disc(radius: float) -> float:
        return math.pi * (radius / math.sqrt(9 - radius**2) / TAN * 32) ** 2

    area = float(picture.detach().sum())
    assert area == pytest.approx(disc(0.8), rel=3e-3)
    assert abs(area - disc(0.8)) <= abs(float(sharp.sum()) - disc(0.8)) + 2
    picture.sum().backward()
    slope = (disc(0.8 * 1.001) - disc(0.8 * 0.999)) / 0.002
    assert float(scale.grad) == pytest.approx(slope, rel=3e-2)


def clip_from_differentiable(vertices: Tensor) -> Tensor:
    near, far = 0.05, 20.0
    z = vertices[:, 2] - 3.0
    depth = -(far + near) / (far - near) * z - 2 * far * near / (far - near)
    return torch.stack([vertices[:, 0] / TAN, vertices[:, 1] / TAN, depth, -z], 1)[None]


def test_gradients_by_differences_at_silhouettes():
    """The whole path, rasteriser included: a small movement changes the picture as the gradient says."""
    generator = torch.Generator().manual_seed(2)
    vertices, faces = sphere(10, 14)
    vertices = vertices + 0.03 * torch.randn(vertices.shape, generator=generator, dtype=torch.float64)
    weight = torch.rand(1, 24, 24, 1, generator=generator, dtype=torch.float64)

    def loss(moved: Tensor) -> Tensor:
        return (mask(clip_from_differentiable(moved), faces, 24)[1] * weight).sum()

    leaf = vertices.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(leaf), leaf)
    assert int((grad.abs().sum(1) > 0).sum()) > 20
    for _ in range(12):
        direction = torch.randn(vertices.shape, generator=generator, dtype=torch.float64)
        step = 1e-6
        difference = (loss(vertices + step * direction) - loss(vertices - step * direction)) / (2 * step)
        assert float(difference) == pytest.approx(float((grad * direction).sum()), rel=1e-4, abs=1e-6)


def test_the_picture_is_continuous_when_an_edge_passes_pixel_centres():
    corners = torch.tensor([[-99.0, -99], [40.0, -99], [-34.0, 99], [-99, 99]], dtype=torch.float64)
    previous = None
    for shift in torch.linspace(0, 2, 401, dtype=torch.float64):
        _, picture = mask(flat(corners + shift, 10), QUAD, 10)
        picture = picture[:, 1:-1, 1:-1]  # beyond the picture's border there is no pixel to blend with
        if previous is not None:  # 0.005 pixels along x and y, times the slope
            assert float((picture - previous).abs().max()) < 0.01
            assert float((picture - previous).min()) > -1e-12
        previous = picture


def test_gradcheck_with_fixed_fragments():
    vertices, faces = sphere(6, 8)
    generator = torch.Generator().manual_seed(0)
    # Off the symmetric places, where edges run through pixel centres.
    clip = clip_from(vertices + 0.05 * torch.rand(vertices.shape, generator=generator, dtype=torch.float64))
    fragments = rasterize(clip, faces, 9, 11)
    image = torch.rand(1, 9, 11, 2, generator=generator, dtype=torch.float64)
    leaves = image.requires_grad_(), clip.requires_grad_()
    assert torch.autograd.gradcheck(lambda i, c: antialias(i, c, faces, fragments), leaves)


def test_triangles_smaller_than_a_pixel_keep_the_outline():
    """Outline pixels of a fine sphere are blended although their own triangles are not on the outline."""
    for rows in (16, 64, 160):
        vertices, faces = sphere(rows, 2 * rows)
        sharp, picture = mask(clip_from(vertices), faces, 32)
        steps = int((sharp[0, 1:] != sharp[0, :-1]).sum() + (sharp[0, :, 1:] != sharp[0, :, :-1]).sum())
        blended = int(((picture > 1e-6) & (picture < 1 - 1e-6)).sum())
        # A disc's outline is steeper than 45 degrees in half of its length: 1 / sqrt(2) of the steps count.
        assert blended > 0.6 * steps


def test_inner_edges_of_a_surface_are_not_blended():
    vertices, faces = sphere(20, 30)
    clip = clip_from(vertices)
    fragments = rasterize(clip, faces, 48, 48)
    image = fragments.triangle.double()[..., None]  # another value on every face
    picture = antialias(image, clip, faces, fragments)
    hit = fragments.triangle[0] >= 0
    inner = hit.clone()
    for shift in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        inner &= hit.roll(shift, (0, 1))
    assert torch.equal(picture[0][inner], image[0][inner])


def test_nearer_surface_occludes(dtype):
    """A small square in front of a large one: blended at its outline only, with the large one's colour."""
    small = torch.tensor([[3.3, 3.3], [6.7, 3.3], [6.7, 6.7], [3.3, 6.7]])
    large = torch.tensor([[-9.0, -9], [99, -9], [99, 99], [-9, 99]])
    clip = flat(torch.cat([large, small]).to(dtype), 10)
    clip[:, 4:] *= torch.tensor([0.5, 0.5, 1.0, 0.5], dtype=dtype)
    clip[:, 4:, 2] = -0.2  # nearer
    faces = torch.cat([QUAD, QUAD + 4])
    fragments = rasterize(clip, faces, 10, 10)
    assert int(fragments.triangle.min()) >= 0
    image = (fragments.triangle >= 2).to(dtype)[..., None]
    picture = antialias(image, clip, faces, fragments)
    expected = (6.7 - torch.arange(10.0)).clamp(0, 1).to(dtype) * (torch.arange(10.0) - 2.3).clamp(0, 1)
    torch.testing.assert_close(picture[0, 5, :, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["soup", "sphere"])
@pytest.mark.parametrize("eye", [(0.0, 0.0, 3.0), (0.1, -0.2, 0.5)], ids=["outside", "inside"])
def test_equals_its_twin(kind, eye, dtype):
    vertices, faces = soup(30, seed=4) if kind == "soup" else sphere(16, 20)
    faces = faces.int()
    clip = torch.cat([clip_from(vertices, eye, dtype), clip_from(vertices.flip(1), eye, dtype)])
    fragments = rasterize(clip, faces, 31, 27)
    given = (clip, faces, face_neighbours(faces), fragments.triangle, fragments.depth)
    got, twin = _run(*given), silhouette_crossings_reference(*given)
    if eye[2] == 3.0:
        assert len(got[0]) > 20
    for a, b in zip(got, twin):
        assert torch.equal(a, b)


def test_neighbours():
    faces = torch.tensor([[0, 1, 2], [2, 1, 3], [3, 1, 4], [3, 1, 5]])  # the edge 1-3 is used three times
    neighbours = face_neighbours(faces)
    assert neighbours.tolist() == [[3 * 1 + 2, -1, -1], [-1, -1, 0], [-1, -1, -1], [-1, -1, -1]]
    assert faces.flatten()[int(neighbours[0, 0])] == 3
    for cloud in (sphere(9, 12)[1], soup(5)[1], torch.randint(0, 9, (40, 3)), torch.zeros(0, 3).long()):
        assert torch.equal(face_neighbours(cloud), face_neighbours_reference(cloud))
    with pytest.raises(IndexError):
        face_neighbours(torch.tensor([[0, 1, -2]]))


@pytest.mark.parametrize("case", ["no faces", "no images", "nothing seen"])
def test_nothing_to_blend(case):
    images, count = (0 if case == "no images" else 2), (0 if case == "no faces" else 1)
    clip = torch.full((images, 3, 4), -1.0)
    faces = torch.tensor([[0, 1, 2]])[:count]
    image = torch.rand(images, 5, 6, 3)
    fragments = rasterize(clip, faces, 5, 6)
    assert torch.equal(antialias(image, clip, faces, fragments), image)


def test_thread_count_does_not_matter(on_threads):
    vertices, faces = sphere()
    clip = torch.cat([clip_from(vertices, dtype=torch.float32)] * 3).requires_grad_()
    image = torch.rand(3, 64, 64, 4).requires_grad_()

    def run() -> tuple[Tensor, ...]:
        picture = antialias(image, clip, faces, rasterize(clip, faces, 64, 64))
        return (picture.detach(), *torch.autograd.grad(picture.square().sum(), (image, clip)))

    on_threads(run)


def test_opcheck():
    vertices, faces = sphere(5, 6)
    clip, faces = clip_from(vertices), faces.int()
    fragments = rasterize(clip, faces, 9, 7)
    given = (clip, faces, face_neighbours(faces), fragments.triangle, fragments.depth)
    torch.library.opcheck(_silhouette_crossings, given)


@pytest.mark.misuse
def test_errors():
    clip, faces = torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]])
    fragments, image = rasterize(clip, faces, 4, 5), torch.zeros(1, 4, 5, 3)
    with pytest.raises(ValueError, match=r"antialias: image must be \(1, 4, 5, C\) floating point, got"):
        antialias(image[:, :3], clip, faces, fragments)
    with pytest.raises(ValueError, match=r"antialias: clip must be \(1, V, 4\) torch.float32, got"):
        antialias(image, clip.double(), faces, fragments)
    with pytest.raises(ValueError, match=r"antialias: faces must be \(F, 3\) integers, got"):
        antialias(image, clip, faces.float(), fragments)
    with pytest.raises(ValueError, match=r"antialias: neighbours must be \(1, 3\) torch.int32, got"):
        antialias(image, clip, faces, fragments, torch.zeros(2, 3))
    with pytest.raises(IndexError, match="an index points outside its array"):
        antialias(
            image, clip, torch.tensor([[0, 1, 3]]), fragments, torch.full((1, 3), -1, dtype=torch.int32)
        )
