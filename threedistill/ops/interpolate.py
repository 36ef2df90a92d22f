"""Differentiable interpolation of vertex attributes over rasterised triangles, correct in perspective."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.ops._native import Kernel, shape_error, use_native
from threedistill.ops.rasterize import Fragments

__all__ = ["covered", "interpolate", "interpolate_reference"]

_forward_kernel = Kernel("interpolate", "pppppiiiiiiip")
_backward_kernel = Kernel("interpolate_backward", "pppppiiiiiiippp")


def covered(fragments: Fragments) -> Int[Tensor, "P"]:
    """The flat (image, row, column) indices of the pixels that see a triangle, in rising order."""
    return (fragments.triangle.reshape(-1) >= 0).nonzero()[:, 0]


def interpolate(
    attributes: Float[Tensor, "V C"],
    clip: Float[Tensor, "B V 4"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
    pixels: Int[Tensor, "P"] | None = None,
) -> Float[Tensor, "P C"]:
    """The attributes that pixel centres see.

    With ``v_i = (x_i, y_i, w_i)`` from the triangle's clip coordinates and ``e_i(p) = p . (v_j x v_k)`` at the
    pixel centre p = (px, py, 1): ``out = sum_i b_i a_i``, ``b_i = e_i / (e_0 + e_1 + e_2)``. The gradient reaches
    the attributes and, through the weights b, the vertices: at a fixed pixel, another point of the triangle comes
    into view when the triangle moves.

    Args:
        attributes: per vertex, shared by all images; differentiable.
        clip: the clip coordinates that were rasterised; differentiable (detach them to leave the weights fixed).
        faces: vertex indices.
        fragments: of :func:`threedistill.ops.rasterize.rasterize`.
        pixels: :func:`covered` of the fragments where it is known already.

    Returns:
        one row per covered pixel, differentiable once.

    Raises:
        ValueError: a shape or type is wrong.
        IndexError: an index points outside its array.

    Source: Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997, section 3.
    """
    views = fragments.triangle.shape[0]
    if attributes.ndim != 2 or not attributes.is_floating_point():
        raise shape_error("interpolate", "attributes", "(V, C) floating point", attributes)
    vertices = attributes.shape[0]
    if clip.shape != (views, vertices, 4) or clip.dtype != attributes.dtype:
        raise shape_error("interpolate", "clip", f"({views}, {vertices}, 4) {attributes.dtype}", clip)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point():
        raise shape_error("interpolate", "faces", "(F, 3) integers", faces)
    pixels = covered(fragments) if pixels is None else pixels
    if use_native(attributes, clip, faces, fragments.triangle):
        return _interpolate(attributes, clip, faces.to(torch.int32), fragments.triangle, pixels)
    return interpolate_reference(attributes, clip, faces, fragments, pixels)


def interpolate_reference(
    attributes: Float[Tensor, "V C"],
    clip: Float[Tensor, "B V 4"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
    pixels: Int[Tensor, "P"],
) -> Float[Tensor, "P C"]:
    """The torch twin of :func:`interpolate`."""
    height, width = fragments.triangle.shape[1:]
    triangle = fragments.triangle.reshape(-1)[pixels].long()
    corners = faces.long()[triangle]  # (P, 3)
    if clip.requires_grad and torch.is_grad_enabled():
        weights = _weights(clip, corners, pixels, height, width)
    else:
        weights = fragments.barycentric.reshape(-1, 3)[pixels].to(attributes.dtype)
    # index_select: its gradient adds rows in a fixed order, on any number of threads.
    values = attributes.index_select(0, corners.flatten()).view(-1, 3, attributes.shape[1])
    return (values * weights[..., None]).sum(1)


def _weights(clip: Tensor, corners: Tensor, pixels: Tensor, height: int, width: int) -> Tensor:
    """(P, 3) perspective-correct weights, differentiable in ``clip``; in double, as the rasteriser has them."""
    rows = corners + (pixels // (height * width) * clip.shape[1])[:, None]
    v = clip.reshape(-1, 4).index_select(0, rows.flatten()).double().view(-1, 3, 4)[..., [0, 1, 3]]
    at = pixels % (height * width)
    px = (2 * (at % width) + 1).double() / width - 1
    py = 1 - (2 * (at // width) + 1).double() / height
    p = torch.stack([px, py, torch.ones_like(px)], -1)
    edges = torch.linalg.cross(v.roll(-1, 1), v.roll(-2, 1))
    e = (edges * p[:, None]).sum(-1)
    return (e / e.sum(1, keepdim=True)).to(clip.dtype)


def _arguments(attributes: Tensor, clip: Tensor, faces: Tensor, triangle: Tensor, pixels: Tensor) -> list:
    views, height, width = triangle.shape
    given = [t.contiguous() for t in (attributes, clip, faces, triangle, pixels)]
    count, channels = len(pixels), attributes.shape[1]
    return [*given, count, channels, views, clip.shape[1], len(faces), height, width]


@torch.library.custom_op(
    "threedistill::interpolate", mutates_args=(),
    schema="(Tensor attributes, Tensor clip, Tensor faces, Tensor triangle, Tensor pixels) -> Tensor",
)  # fmt: skip
def _interpolate(attributes, clip, faces, triangle, pixels):
    # Only reached with the library: the twin's gradients are autograd's own, which an operator's body cannot record.
    out = attributes.new_empty(len(pixels), attributes.shape[1])
    _forward_kernel(attributes.dtype, *_arguments(attributes, clip, faces, triangle, pixels), out)
    return out


@_interpolate.register_fake
def _(attributes, clip, faces, triangle, pixels):
    return attributes.new_empty(len(pixels), attributes.shape[1])


@torch.library.custom_op(
    "threedistill::interpolate_backward", mutates_args=(),
    schema="(Tensor attributes, Tensor clip, Tensor faces, Tensor triangle, Tensor pixels, Tensor grad) "
    "-> (Tensor, Tensor)",
)  # fmt: skip
def _interpolate_backward(attributes, clip, faces, triangle, pixels, grad):
    grads = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (attributes, clip)]
    given = _arguments(attributes, clip, faces, triangle, pixels)
    _backward_kernel(attributes.dtype, *given, grad.contiguous(), *grads)
    return grads[0], grads[1]


@_interpolate_backward.register_fake
def _(attributes, clip, faces, triangle, pixels, grad):
    return attributes.new_empty(attributes.shape), clip.new_empty(clip.shape)


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad):
    return *_interpolate_backward(*ctx.saved_tensors, grad), None, None, None


_interpolate.register_autograd(_backward, setup_context=_save)
