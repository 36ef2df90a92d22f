"""Triangle rasterisation: the triangle each pixel centre sees, where on it, and how far (forward only)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.ops._native import Kernel, shape_error, use_native

__all__ = ["Fragments", "rasterize", "rasterize_reference"]

_kernel = Kernel("rasterize", "ppiiiiippp")
_PAIRS_PER_CHUNK = 1 << 21  # (triangle, pixel) candidates the twin holds at once


class Fragments(NamedTuple):
    """What each pixel centre sees.

    Attributes:
        triangle: (B, H, W) int32 face index, -1 where nothing is.
        barycentric: (B, H, W, 3) perspective-correct weights of the face's corners, 0 where nothing is.
        depth: (B, H, W) clip w (the distance along the viewing axis, metres), 0 where nothing is.
    """

    triangle: Int[Tensor, "B H W"]
    barycentric: Float[Tensor, "B H W 3"]
    depth: Float[Tensor, "B H W"]


def rasterize(clip: Float[Tensor, "B V 4"], faces: Int[Tensor, "F 3"], height: int, width: int) -> Fragments:
    """Find the nearest triangle at every pixel centre.

    With ``v_i = (x_i, y_i, w_i)`` from a triangle's clip coordinates, ``e_i(p) = p . (v_j x v_k)`` at
    ``p = (px, py, 1)`` gives the perspective-correct weights ``e_i / sum(e)`` and ``1 / w = sum(e) / det``; a
    pixel is covered where no ``e_i / det`` is negative. Triangles that pass behind the camera need no
    clipping. Both sides are seen.

    Args:
        clip: OpenGL clip coordinates, y up; fragments outside ``-w <= z <= w`` are dropped.
        faces: vertex indices, shared by all images; int32 is taken as is, others are converted.
        height: pixels; row 0 is the top.
        width: pixels.

    Returns:
        The fragments; among equally near triangles the lowest index wins. Not differentiable.

    Raises:
        ValueError: a shape or type is wrong.
        IndexError: a face names a vertex that does not exist.

    Source: Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997, section 3.
    """
    if clip.ndim != 3 or clip.shape[-1] != 4 or not clip.is_floating_point():
        raise shape_error("rasterize", "clip", "(B, V, 4) floating point", clip)
    if faces.ndim != 2 or faces.shape[-1] != 3 or faces.is_floating_point():
        raise shape_error("rasterize", "faces", "(F, 3) integers", faces)
    if height < 1 or width < 1:
        raise ValueError(f"rasterize: height and width must be at least 1, got {height} x {width}")
    # Outside of compilation the operator adds nothing here but the import of torch._dynamo (about a second).
    run = _rasterize if torch.compiler.is_compiling() else _run
    return Fragments(*run(clip.detach(), faces.to(torch.int32), height, width))


def _run(clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    if not use_native(clip, faces):
        seen = rasterize_reference(clip, faces, height, width)
        return seen.triangle, seen.barycentric, seen.depth
    triangle, barycentric, depth = _empty(clip, height, width)
    _kernel(
        clip.dtype, clip.contiguous(), faces.contiguous(), clip.shape[0], clip.shape[1], faces.shape[0],
        height, width, triangle, barycentric, depth,
    )  # fmt: skip
    return triangle, barycentric, depth


_rasterize = torch.library.custom_op(
    "threedistill::rasterize", _run, mutates_args=(),
    schema="(Tensor clip, Tensor faces, int height, int width) -> (Tensor, Tensor, Tensor)",
)  # fmt: skip


@_rasterize.register_fake
def _(clip, faces, height, width):
    return _empty(clip, height, width)


def _empty(clip: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (clip.shape[0], height, width)
    return clip.new_empty(shape, dtype=torch.int32), clip.new_empty(*shape, 3), clip.new_empty(shape)


def rasterize_reference(
    clip: Float[Tensor, "B V 4"], faces: Int[Tensor, "F 3"], height: int, width: int
) -> Fragments:
    """The torch twin of :func:`rasterize`: every (triangle, pixel of its bounding box) pair, in chunks."""
    images, count = clip.shape[0], faces.shape[0]
    if count and (int(faces.min()) < 0 or int(faces.max()) >= clip.shape[1]):
        raise IndexError("rasterize: an index points outside its array")
    triangle = torch.full((images, height * width), -1, dtype=torch.int32, device=clip.device)
    barycentric = clip.new_zeros(images, height * width, 3)
    depth = clip.new_zeros(images, height * width)
    for image in range(images):
        corners = clip[image].double()[faces.long()]  # (F, 3, 4)
        edges, area, seen = _edge_functions(corners)
        zplane = (edges * corners[:, :, 2:3]).sum(1) / area[:, None]  # (F, 3): NDC z = zplane . (px, py, 1)
        box = _boxes(corners, height, width)  # x0, y0, columns, rows
        box[~seen] = 0
        _nearest(edges, zplane, box, height, width, triangle[image])
        hit = torch.nonzero(triangle[image] >= 0)[:, 0]
        e, face = _evaluate(edges, triangle[image][hit].long(), hit, height, width)
        total = (e[:, 0] + e[:, 1]) + e[:, 2]
        barycentric[image, hit] = (e / total[:, None]).to(clip.dtype)
        depth[image, hit] = (area[face] / total).to(clip.dtype)
    shape = (images, height, width)
    return Fragments(triangle.view(shape), barycentric.view(*shape, 3), depth.view(shape))


def _edge_functions(corners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(F, 3, 3) edge functions turned positive inside, (F,) |det|, (F,) whether the triangle can be seen."""
    xyw = corners[:, :, [0, 1, 3]]
    after, behind = xyw.roll(-1, 1), xyw.roll(-2, 1)
    edges = torch.linalg.cross(after, behind)
    terms = xyw[:, 0] * edges[:, 0]
    det = (terms[:, 0] + terms[:, 1]) + terms[:, 2]
    seen = det.isfinite() & (det != 0) & (corners[:, :, 3] > 0).any(1) & corners.isfinite().all(2).all(1)
    return edges * det.sign()[:, None, None], det.abs(), seen


def _boxes(corners: Tensor, height: int, width: int) -> Tensor:
    """(F, 4) first column, first row, columns and rows of the pixels a triangle can touch."""
    w = corners[:, :, 3:]
    low, high = (corners[:, :, :2] / w).aminmax(dim=1)
    whole = ~(w > 0).all(1)  # behind the camera in part: the projected corners bound nothing
    low, high = low.masked_fill(whole, -1).nan_to_num(), high.masked_fill(whole, 1).nan_to_num()
    x0 = ((low[:, 0] + 1) * 0.5 * width - 1.5).clamp(0, width).long()
    x1 = ((high[:, 0] + 1) * 0.5 * width + 1.5).clamp(0, width).long()
    y0 = ((1 - high[:, 1]) * 0.5 * height - 1.5).clamp(0, height).long()
    y1 = ((1 - low[:, 1]) * 0.5 * height + 1.5).clamp(0, height).long()
    return torch.stack([x0, y0, (x1 - x0).clamp_min(0), (y1 - y0).clamp_min(0)], 1)


def _evaluate(edges: Tensor, face: Tensor, pixel: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(P, 3) edge functions of ``face`` at the centre of ``pixel`` (both (P,)), and ``face``."""
    px, py = _centres(pixel, height, width)
    rows = edges[face]
    return rows[..., 0] * px[:, None] + (rows[..., 1] * py[:, None] + rows[..., 2]), face


def _centres(pixel: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    px = (2 * (pixel % width) + 1).double() / width - 1
    py = 1 - (2 * (pixel // width) + 1).double() / height
    return px, py


def _nearest(edges: Tensor, zplane: Tensor, box: Tensor, height: int, width: int, triangle: Tensor) -> None:
    """Write the index of the nearest face into ``triangle`` (H W,); ties go to the lowest index."""
    zbuffer = edges.new_full((height * width,), torch.inf)
    pairs = (box[:, 2] * box[:, 3]).cpu()
    ends = pairs.cumsum(0)
    first = 0
    while first < len(pairs):  # faces in order, so that a later chunk only wins where it is strictly nearer
        budget = (int(ends[first - 1]) if first else 0) + max(_PAIRS_PER_CHUNK, int(pairs[first]))
        last = int(torch.searchsorted(ends, budget, right=True))
        face = torch.repeat_interleave(torch.arange(first, last), pairs[first:last]).to(edges.device)
        begin = (ends[first:last] - pairs[first:last]).to(edges.device)
        base = int(ends[first - 1]) if first else 0
        within = torch.arange(len(face), device=edges.device) + base - begin[face - first]
        columns = box[face, 2]
        pixel = (box[face, 1] + within // columns) * width + box[face, 0] + within % columns
        e, _ = _evaluate(edges, face, pixel, height, width)
        px, py = _centres(pixel, height, width)
        z = zplane[face, 0] * px + (zplane[face, 1] * py + zplane[face, 2])
        inside = (e >= 0).all(1) & (e.sum(1) > 0) & (z >= -1) & (z <= 1) & (z < zbuffer[pixel])
        face, pixel, z = face[inside], pixel[inside], z[inside]
        zbuffer.scatter_reduce_(0, pixel, z, "amin")
        best = z == zbuffer[pixel]
        winner = torch.full_like(triangle, torch.iinfo(torch.int32).max)
        winner.scatter_reduce_(0, pixel[best], face[best].int(), "amin")
        triangle.copy_(torch.where(winner < torch.iinfo(torch.int32).max, winner, triangle))
        first = last
