"""Interpolation: what is linear in space is reproduced in perspective, and gradients are differences."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_rasterize import TAN, clip_from, soup, sphere
from threedistill.ops.interpolate import (
    _interpolate,
    _interpolate_backward,
    covered,
    interpolate,
    interpolate_reference,
)
from threedistill.ops.rasterize import rasterize


def test_what_is_linear_in_space_is_reproduced():
    vertices, faces = sphere(12, 16)
    clip = clip_from(vertices)
    fragments = rasterize(clip, faces, 20, 30)
    slope = torch.tensor([[0.3, -2.0], [1.0, 0.1], [0.4, 0.7]], dtype=torch.float64)
    at = interpolate(vertices, clip, faces, fragments)
    torch.testing.assert_close(interpolate(vertices @ slope, clip, faces, fragments), at @ slope)
    # The points lie on the rays through the pixel centres.
    pixel = covered(fragments)
    x = ((pixel % 30 + 0.5) / 15 - 1) * TAN * (3 - at[:, 2])
    y = (1 - (pixel // 30 + 0.5) / 10) * TAN * (3 - at[:, 2])
    torch.testing.assert_close(at[:, :2], torch.stack([x, y], 1))


def test_the_differentiable_weights_are_the_rasterisers():
    vertices, faces = soup(20, seed=6)
    clip = torch.cat([clip_from(vertices), clip_from(vertices.flip(1))])
    fragments = rasterize(clip, faces, 15, 17)
    plain = interpolate(vertices, clip, faces, fragments)
    torch.testing.assert_close(interpolate(vertices, clip.requires_grad_(), faces, fragments), plain)
    assert len(plain) == int((fragments.triangle >= 0).sum()) > 100


@pytest.mark.parametrize("eye", [(0.0, 0.0, 3.0), (0.1, -0.2, 1.0)], ids=["outside", "inside the soup"])
def test_equals_its_twin(eye, dtype, agree):
    vertices, faces = soup(40, seed=2)
    clip = torch.cat(
        [clip_from(vertices, eye, dtype), clip_from(vertices.flip(1), eye, dtype)]
    ).requires_grad_()
    values = torch.randn(
        len(vertices), 5, dtype=dtype, generator=torch.Generator().manual_seed(3)
    ).requires_grad_()
    fragments = rasterize(clip, faces, 21, 34)
    pixels = covered(fragments)
    got = interpolate(values, clip, faces, fragments, pixels)
    twin = interpolate_reference(values, clip, faces, fragments, pixels)
    agree(got, twin)
    towards = torch.randn(got.shape, dtype=dtype, generator=torch.Generator().manual_seed(4))
    for a, b in zip(*(torch.autograd.grad(out, (values, clip), towards) for out in (got, twin))):
        agree(a / b.abs().max(), b / b.abs().max())


def test_opcheck():
    vertices, faces = soup(4)
    clip = clip_from(vertices).requires_grad_()
    fragments = rasterize(clip, faces, 7, 9)
    pixels, values = (
        covered(fragments),
        torch.randn(len(vertices), 2, dtype=torch.float64, requires_grad=True),
    )
    given = (values, clip, faces, fragments.triangle, pixels)
    torch.library.opcheck(_interpolate, given)
    still = [part.detach() for part in given]
    torch.library.opcheck(_interpolate_backward, (*still, torch.ones(len(pixels), 2, dtype=torch.float64)))


def test_gradcheck():
    vertices, faces = sphere(4, 5)
    clip = clip_from(vertices)
    fragments = rasterize(clip, faces, 5, 6)
    assert len(covered(fragments)) > 5
    leaves = torch.randn(len(vertices), 2, dtype=torch.float64).requires_grad_(), clip.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, c: interpolate(a, c, faces, fragments), leaves)


def test_sliding_a_plane_within_itself_slides_its_pattern():
    """At a fixed pixel the interpolated x falls by as much as the plane moves along x."""
    corners = torch.tensor([[-9.0, -9, 0], [9, -9, 0], [0, 9, 0]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2]])
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    moved = corners + shift * torch.tensor([1.0, 0, 0], dtype=torch.float64)
    z = moved[:, 2] - 3
    clip = torch.stack([moved[:, 0] / TAN, moved[:, 1] / TAN, -z, -z], 1)[None]
    fragments = rasterize(clip.detach(), faces, 4, 4)
    out = interpolate(corners[:, :1], clip, faces, fragments)
    out.sum().backward()
    assert float(shift.grad) == pytest.approx(-16)


def test_nothing_seen():
    clip, faces = torch.full((1, 3, 4), -1.0, requires_grad=True), torch.tensor([[0, 1, 2]])
    out = interpolate(torch.ones(3, 2), clip, faces, rasterize(clip, faces, 4, 4))
    assert out.shape == (0, 2)
    out.sum().backward()


def test_thread_count_does_not_matter(on_threads):
    vertices, faces = sphere(30, 40)
    clip = clip_from(vertices, dtype=torch.float32).expand(4, -1, -1).contiguous().requires_grad_()
    values = vertices.float().requires_grad_()

    def run():
        out = interpolate(values, clip, faces, rasterize(clip, faces, 96, 96))
        return (out.detach(), *torch.autograd.grad(out.square().sum(), (values, clip)))

    on_threads(run)


@pytest.mark.misuse
def test_errors():
    clip, faces = torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]])
    fragments = rasterize(clip, faces, 4, 4)
    covering = fragments._replace(triangle=torch.zeros_like(fragments.triangle))
    for at in (-1, 16):
        with pytest.raises(IndexError):
            interpolate(torch.zeros(3, 1), clip, faces, covering, torch.tensor([at]))
    with pytest.raises(
        ValueError, match=r"interpolate: attributes must be \(V, C\) floating point, got \(3,\)"
    ):
        interpolate(torch.zeros(3), clip, faces, fragments)
    with pytest.raises(
        ValueError, match=r"interpolate: clip must be \(1, 2, 4\) torch.float32, got \(1, 3, 4\)"
    ):
        interpolate(torch.zeros(2, 1), clip, faces, fragments)
    with pytest.raises(ValueError, match=r"interpolate: faces must be \(F, 3\) integers, got \(1, 3\)"):
        interpolate(torch.zeros(3, 1), clip, faces.float(), fragments)
