"""Silhouette antialiasing: pixels that a silhouette passes between are blended by where it passes.

Rasterisation asks pixel centres only, so its pictures do not change with a small movement of a vertex and have no
gradient at outlines. Here neighbouring pixels that see different surfaces are blended in proportion to the position
of the outline between their centres; the picture becomes continuous in the vertices, and its gradient reaches them.

Where the outline passes is found by walking from the nearer pixel's triangle towards the other pixel across shared
edges until an edge is a silhouette, so triangles smaller than a pixel do not lose it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.ops._native import Kernel, shape_error, use_native
from threedistill.ops.rasterize import Fragments

__all__ = ["antialias", "face_neighbours", "face_neighbours_reference", "silhouette_crossings_reference"]

_neighbours_kernel = Kernel("face_neighbours", "piip")
_crossings_kernel = Kernel("silhouette_crossings", "pppppiiiiip")
_MOST_STEPS = 64  # triangles a walk from one pixel centre to the next may pass
_END = 1 + 1e-6  # a silhouette on the far centre itself belongs to the pair, whatever rounding says


class _Crossings(NamedTuple):
    """Silhouettes between neighbouring pixel centres, in the order of image, pixel, and right before down.

    Attributes:
        near, far: (P,) int64 flat (image, row, column) indices of the pixel with the surface and the other one.
        start, end: (P,) int64 flat (image, vertex) indices of the silhouette edge's ends.
    """

    near: Int[Tensor, "P"]
    far: Int[Tensor, "P"]
    start: Int[Tensor, "P"]
    end: Int[Tensor, "P"]


def antialias(
    image: Float[Tensor, "B H W C"],
    clip: Float[Tensor, "B V 4"],
    faces: Int[Tensor, "F 3"],
    fragments: Fragments,
    neighbours: Int[Tensor, "F 3"] | None = None,
) -> Float[Tensor, "B H W C"]:
    """Blend pixels across the silhouettes that pass between their centres.

    For two neighbouring pixels, a silhouette edge of the nearer one's surface that crosses the line between their
    centres at the fraction ``t`` from the nearer one: the other one receives ``(t - 1/2)`` of the nearer one's
    colour if ``t > 1/2``, else the nearer one receives ``(1/2 - t)`` of the other's. Edges that are steeper than
    45 degrees on the screen count between horizontal neighbours, the others between vertical ones: for a straight
    edge the blend is the covered share of the pixel to first order, and the picture's sum changes by exactly the
    area an edge sweeps.

    Args:
        image: shaded and composited over the background, at the fragments' size; differentiable.
        clip: the clip coordinates that were rasterised; differentiable.
        faces: vertex indices.
        fragments: of :func:`threedistill.ops.rasterize.rasterize`.
        neighbours: :func:`face_neighbours` of the faces where it is known already.

    Returns:
        the blended picture; values may leave their range slightly where silhouettes pass on several sides.

    Raises:
        ValueError: a shape or type is wrong.
        IndexError: an index points outside its array.

    Source: Laine et al., "Modular primitives for high-performance differentiable rendering", 2020, section 3.5
    (the blend); the walk across triangles is ours.
    """
    views, height, width = fragments.triangle.shape
    if image.ndim != 4 or image.shape[:3] != (views, height, width) or not image.is_floating_point():
        raise shape_error("antialias", "image", f"({views}, {height}, {width}, C) floating point", image)
    if clip.ndim != 3 or clip.shape[0] != views or clip.shape[2] != 4 or clip.dtype != image.dtype:
        raise shape_error("antialias", "clip", f"({views}, V, 4) {image.dtype}", clip)
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point():
        raise shape_error("antialias", "faces", "(F, 3) integers", faces)
    faces = faces.to(torch.int32)
    if neighbours is None:
        neighbours = face_neighbours(faces)
    if neighbours.shape != faces.shape or neighbours.dtype != torch.int32:
        raise shape_error("antialias", "neighbours", f"{tuple(faces.shape)} torch.int32", neighbours)
    run = _silhouette_crossings if torch.compiler.is_compiling() else _run
    found = run(clip.detach(), faces, neighbours, fragments.triangle, fragments.depth.detach())
    return _blend(image, clip, _Crossings(*found))


def _blend(image: Tensor, clip: Tensor, crossings: _Crossings) -> Tensor:
    height, width, channels = image.shape[1:]
    pixels = height * width
    near, far = crossings.near, crossings.far
    across = (near - far).abs() == 1  # horizontal neighbours
    sign = torch.where(far > near, 1.0, -1.0).to(clip.dtype)
    at = near % pixels
    column, row = (at % width).to(clip.dtype), (at // width).to(clip.dtype)

    def placed(vertex: Tensor) -> tuple[Tensor, Tensor]:
        """Pixel coordinates along and across the line between the two centres; centres are at whole numbers."""
        x, y, _, w = clip.reshape(-1, 4).index_select(0, vertex).unbind(1)
        x, y = (x / w + 1) * (width / 2) - 0.5, (1 - y / w) * (height / 2) - 0.5
        return torch.where(across, x, y), torch.where(across, y, x)

    (ua, va), (ub, vb) = placed(crossings.start), placed(crossings.end)
    line, origin = torch.where(across, row, column), torch.where(across, column, row)
    along = ua + (ub - ua) * ((line - va) / (vb - va))
    t = ((along - origin) * sign).clamp(0, 1)
    outward = t.detach() > 0.5
    into, source = torch.where(outward, far, near), torch.where(outward, near, far)
    share = (t - 0.5).abs()
    flat = image.reshape(-1, channels)
    change = share[:, None] * (flat.index_select(0, source) - flat.index_select(0, into))
    return flat.index_add(0, into, change).view(image.shape)


def _run(
    clip: Tensor, faces: Tensor, neighbours: Tensor, triangle: Tensor, depth: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if not use_native(clip, faces, triangle):
        near, far, start, end = silhouette_crossings_reference(clip, faces, neighbours, triangle, depth)
        return near, far, start, end
    views, height, width = triangle.shape
    sizes = (views, clip.shape[1], faces.shape[0], height, width)
    given = [t.contiguous() for t in (clip, faces, neighbours, triangle, depth)]
    # Every pixel may have a crossing to its right and one below it; -1 where it has none.
    found = torch.empty(views * height * width * 2, 4, dtype=torch.int64)
    _crossings_kernel(clip.dtype, *given, *sizes, found)
    near, far, start, end = found[found[:, 0] >= 0].unbind(1)
    return near.contiguous(), far.contiguous(), start.contiguous(), end.contiguous()


_silhouette_crossings = torch.library.custom_op(
    "threedistill::silhouette_crossings", _run, mutates_args=(),
    schema="(Tensor clip, Tensor faces, Tensor neighbours, Tensor triangle, Tensor depth) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip


@_silhouette_crossings.register_fake
def _(clip, faces, neighbours, triangle, depth):
    found = torch.library.get_ctx().new_dynamic_size()
    return tuple(triangle.new_empty(found, dtype=torch.int64) for _ in range(4))


def silhouette_crossings_reference(
    clip: Tensor, faces: Tensor, neighbours: Tensor, triangle: Tensor, depth: Tensor
) -> _Crossings:
    """The torch twin of the search: all pairs of neighbouring pixels walk at once."""
    views, height, width = triangle.shape
    vertices, device = clip.shape[1], clip.device
    _check_indices(faces, vertices, neighbours, triangle)
    x, y, _, w = clip.double().unbind(2)
    screen = torch.stack([(x / w + 1) * (width / 2) - 0.5, (1 - y / w) * (height / 2) - 0.5], -1).view(-1, 2)
    in_front = (w > 0).flatten()

    seen, far_away = triangle.flatten(), depth.flatten().double()
    index = torch.arange(seen.numel(), device=device).view(views, height, width)
    pairs = []
    for vertical, (first, second) in enumerate(
        [(index[:, :, :-1], index[:, :, 1:]), (index[:, :-1], index[:, 1:])]
    ):
        p, q = first.flatten(), second.flatten()
        kept = seen[p] != seen[q]
        p, q = p[kept], q[kept]
        swap = (seen[p] < 0) | ((seen[q] >= 0) & (far_away[q] < far_away[p]))
        pairs.append(torch.stack([torch.where(swap, q, p), torch.where(swap, p, q), 2 * p + vertical], 1))
    near, far, rank = torch.cat(pairs).unbind(1)
    horizontal = rank % 2 == 0
    pixel = near % (height * width)
    column, row = (pixel % width).double(), (pixel // width).double()
    origin, line = torch.where(horizontal, column, row), torch.where(horizontal, row, column)
    sign = torch.where(far > near, 1.0, -1.0).double()
    image = near // (height * width)

    face = seen[near].long()
    entered = torch.full_like(face, -1)
    start, end = torch.full_like(face, -1), torch.full_like(face, -1)
    walking = torch.arange(len(face), device=device)
    corner = torch.tensor([[1, 2], [2, 0], [0, 1]], device=device)
    for _ in range(_MOST_STEPS):
        if not len(walking):
            break
        corners = faces[face[walking]].long() + (image[walking] * vertices)[:, None]  # (P, 3)
        uv = screen[corners]
        uv = torch.where(horizontal[walking, None, None], uv, uv.flip(-1))  # along, across
        above = uv[..., 1] > line[walking, None]
        a, b = uv[:, corner[:, 0]], uv[:, corner[:, 1]]
        cut = above[:, corner[:, 0]] != above[:, corner[:, 1]]
        cut &= torch.arange(3, device=device) != entered[walking, None]
        ratio = (line[walking, None] - a[..., 1]) / (b[..., 1] - a[..., 1])
        reached = (a[..., 0] + (b[..., 0] - a[..., 0]) * ratio - origin[walking, None]) * sign[walking, None]
        reached = torch.where(cut, reached, torch.full_like(reached, -torch.inf))
        leave = reached.argmax(1)
        rows = torch.arange(len(walking), device=device)
        going = in_front[corners].all(1) & cut.any(1) & (reached[rows, leave] < _END)
        beyond = neighbours[face[walking], leave].long()
        alone = beyond < 0
        opposite = faces.flatten()[beyond.clamp_min(0)].long() + image[walking] * vertices
        outer = screen[opposite]
        outer = torch.where(horizontal[walking, None], outer, outer.flip(-1))
        a, b = a[rows, leave], b[rows, leave]
        folded = _side(a, b, uv[rows, leave]) * _side(a, b, outer) > 0
        stop = alone | (in_front[opposite] & folded)
        across, along = (b[:, 1] - a[:, 1]).abs(), (b[:, 0] - a[:, 0]).abs()
        steep = torch.where(horizontal[walking], across >= along, across > along)
        hit = going & stop & steep
        start[walking[hit]] = corners[rows, corner[leave, 0]][hit]
        end[walking[hit]] = corners[rows, corner[leave, 1]][hit]
        on = going & ~stop
        face[walking[on]] = beyond[on] // 3
        entered[walking[on]] = beyond[on] % 3
        walking = walking[on]
    found = (start >= 0).nonzero()[:, 0]
    found = found[rank[found].argsort()]
    return _Crossings(near[found], far[found], start[found], end[found])


def _side(a: Tensor, b: Tensor, p: Tensor) -> Tensor:
    """Twice the signed area of the triangles a, b, p."""
    return (b[:, 0] - a[:, 0]) * (p[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (p[:, 0] - a[:, 0])


def _check_indices(faces: Tensor, vertices: int, neighbours: Tensor, triangle: Tensor) -> None:
    for values, low, high in (
        (faces, 0, vertices),
        (neighbours, -1, 3 * len(faces)),
        (triangle, -1, len(faces)),
    ):
        if values.numel() and (int(values.min()) < low or int(values.max()) >= high):
            raise IndexError("antialias: an index points outside its array")


def face_neighbours(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F 3"]:
    """The triangle beyond each edge: ``3 g + k`` for edge k of face g, -1 where not exactly two faces meet.

    Edge k of a face lies opposite its corner k, so ``faces.flatten()[neighbours]`` are the corners across the edges.

    Args:
        faces: vertex indices, not negative; int32 is taken as is.

    Returns:
        int32.

    Raises:
        IndexError: a negative index.
    """
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.is_floating_point():
        raise shape_error("face_neighbours", "faces", "(F, 3) integers", faces)
    faces = faces.to(torch.int32)
    if not use_native(faces):
        return face_neighbours_reference(faces)
    vertices = int(faces.max()) + 1 if len(faces) else 0
    neighbours = torch.empty_like(faces, memory_format=torch.contiguous_format)
    _neighbours_kernel(torch.float32, faces.contiguous(), len(faces), vertices, neighbours)
    return neighbours


def face_neighbours_reference(faces: Int[Tensor, "F 3"]) -> Int[Tensor, "F 3"]:
    """The torch twin of :func:`face_neighbours`: half-edges sorted by their edge."""
    if len(faces) and int(faces.min()) < 0:
        raise IndexError("face_neighbours: an index points outside its array")
    long = faces.long()
    ends = torch.stack([long[:, [1, 2]], long[:, [2, 0]], long[:, [0, 1]]], 1).view(-1, 2)
    base = int(long.max()) + 1 if len(faces) else 1
    keys = ends.amin(1) * base + ends.amax(1)
    _, inverse, uses = torch.unique(keys, return_inverse=True, return_counts=True)
    order = torch.argsort(inverse, stable=True)
    first = uses.cumsum(0) - uses
    pairs = first[uses == 2]
    neighbours = torch.full_like(keys, -1)
    neighbours[order[pairs]] = order[pairs + 1]
    neighbours[order[pairs + 1]] = order[pairs]
    return neighbours.int().view(-1, 3)
