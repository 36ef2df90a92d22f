"""Marching cubes: the level set of a sampled volume as an indexed triangle mesh.

Lorensen and Cline (1987) with a table that is derived here rather than typed in. In each of the 256 sign
patterns of a cell, every face of the cube is walked counter-clockwise as seen from outside; each run of
inside corners contributes the segment from where it is entered to where it is left; the segments chain
into closed loops. On an ambiguous face (inside corners on one diagonal only) the two runs stay apart. That
depends on the face's four signs alone, so both cells that share it agree, and the surface is watertight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["marching_cubes"]

# Corner c of a cell sits at (c & 1, c >> 1 & 1, c >> 2); edge (axis, low) goes to low + (1 << axis).
_EDGES = [(axis, c) for axis in range(3) for c in range(8) if not c >> axis & 1]
_EDGE_OF = {frozenset((c, c | 1 << axis)): e for e, (axis, c) in enumerate(_EDGES)}

#: Crossings keep this fraction of a cell away from the samples: a value equal to the level would otherwise
#: put several vertices on one point and make triangles without area.
_MARGIN = 1e-3


class _Table(NamedTuple):
    counts: Tensor  # (256,) triangles per sign pattern
    triangles: Tensor  # (256, T, 3) edges of each triangle, padded with 0


def _cube_faces() -> list[tuple[int, int, int, int]]:
    """The six faces as corners in counter-clockwise order seen from outside the cube."""
    faces = []
    for axis in range(3):
        u, v = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        ring = (0, u, u | v, v)  # counter-clockwise seen from the positive side
        faces.append(tuple(c | 1 << axis for c in ring))
        faces.append(tuple(reversed(ring)))
    return faces


def _loops(case: int) -> list[list[int]]:
    """The closed edge loops of one sign pattern, counter-clockwise seen from the outside of the solid."""
    follow: dict[int, int] = {}
    for ring in _cube_faces():
        inside = [case >> c & 1 for c in ring]
        edges = [_EDGE_OF[frozenset((ring[k], ring[(k + 1) % 4]))] for k in range(4)]
        for k in range(4):
            if not inside[k] and inside[(k + 1) % 4]:  # edge k enters a run of inside corners
                end = (k + 1) % 4
                while inside[(end + 1) % 4]:
                    end = (end + 1) % 4
                follow[edges[k]] = edges[end]
    loops = []
    while follow:
        loop = [min(follow)]
        while follow[loop[-1]] != loop[0]:
            loop.append(follow[loop[-1]])
        for edge in loop:
            del follow[edge]
        loops.append(loop)
    return loops


def _midpoint(edge: int) -> tuple[float, float, float]:
    axis, low = _EDGES[edge]
    point = [float(low & 1), float(low >> 1 & 1), float(low >> 2)]
    point[axis] = 0.5
    return point[0], point[1], point[2]


def _share_face(a: int, b: int) -> bool:
    """Whether two edges lie on one face of the cube."""
    corners = [_EDGES[e][1] | s << _EDGES[e][0] for e in (a, b) for s in (0, 1)]
    return any(len({c >> axis & 1 for c in corners}) == 1 for axis in range(3))


def _triangulate(loop: list[int]) -> list[tuple[int, int, int]]:
    """The triangulation of a loop whose diagonals stay off the cube's faces and are shortest in sum.

    A diagonal within a face could be the neighbouring cell's choice as well: four triangles would meet there.
    """

    def diagonal_cost(i: int, j: int) -> float:
        if j - i == 1 or (i == 0 and j == len(loop) - 1):
            return 0.0
        return math.dist(_midpoint(loop[i]), _midpoint(loop[j])) + 100.0 * _share_face(loop[i], loop[j])

    @cache
    def best(i: int, j: int) -> tuple[float, tuple[tuple[int, int, int], ...]]:
        if j - i < 2:
            return 0.0, ()
        options = []
        for k in range(i + 1, j):
            left, right = best(i, k), best(k, j)
            cost = left[0] + right[0] + diagonal_cost(i, k) + diagonal_cost(k, j)
            options.append((cost, (*left[1], *right[1], (loop[i], loop[k], loop[j]))))
        return min(options)

    cost, triangles = best(0, len(loop) - 1)
    assert cost < 100.0, "every loop has a triangulation off the faces"
    return list(triangles)


@cache
def _table() -> _Table:
    cases = [[t for loop in _loops(case) for t in _triangulate(loop)] for case in range(256)]
    counts = torch.tensor([len(c) for c in cases])
    triangles = torch.zeros(256, int(counts.max()), 3, dtype=torch.long)
    for case, found in enumerate(cases):
        if found:
            triangles[case, : len(found)] = torch.tensor(found)
    return _Table(counts, triangles)


def marching_cubes(
    volume: Float[Tensor, "X Y Z"], level: float, origin: Sequence[float] | Tensor = (0.0, 0.0, 0.0),
    spacing: float | Sequence[float] | Tensor = 1.0, *, closed: bool = True,
) -> tuple[Float[Tensor, "N 3"], Int[Tensor, "F 3"]]:  # fmt: skip
    """The surface ``volume = level`` as shared vertices and triangles, counter-clockwise outward.

    Inside is ``volume > level``; along a grid edge with values ``a, b`` at its ends the surface crosses at
    the fraction ``(level - a) / (b - a)``.

    Arguments:
        volume: samples at ``origin + spacing * (i, j, k)``; any device, at least two per axis.
        level: the iso value, in the units of the volume.
        origin: position of sample (0, 0, 0), metres.
        spacing: distance between samples, metres; one number or one per axis.
        closed: cap the solid where it touches the border of the grid, so that the mesh is always watertight;
            False leaves it open there.

    Returns:
        vertices (N, 3) in the volume's dtype and faces (F, 3) int64, in an order that depends on the
        volume only; both are empty where nothing crosses the level.

    Raises:
        ValueError: not three-dimensional, fewer than two samples along an axis, or non-finite samples.
    """
    if volume.ndim != 3 or min(volume.shape) < 2:
        raise ValueError(f"a volume of shape {tuple(volume.shape)} has no cells (2 x 2 x 2 samples at least)")
    if not bool(torch.isfinite(volume).all()):
        bad = int((~torch.isfinite(volume)).sum())
        raise ValueError(f"{bad} of the {volume.numel()} samples are not finite")
    device, dtype = volume.device, volume.dtype
    corner = torch.as_tensor(origin, dtype=dtype, device=device)
    step = torch.as_tensor(spacing, dtype=dtype, device=device).expand(3)
    if closed:
        # So far below the level that the cap lies on the border itself (a margin of 1e-3 cells outside it).
        floor = level - 1e6 * (float((volume - level).abs().max()) + 1e-6)
        volume = torch.nn.functional.pad(volume, (1, 1, 1, 1, 1, 1), value=floor)
        corner = corner - step

    inside = volume > level
    sizes = volume.shape
    strides = (sizes[1] * sizes[2], sizes[2], 1)
    values = volume.reshape(-1)

    # One vertex per grid edge whose ends differ; `ids[axis]` maps the edge's low sample to it.
    ids = torch.empty(3, volume.numel(), dtype=torch.int32, device=device)
    points, total = [], 0
    for axis in range(3):
        crossing = torch.zeros_like(inside)
        length = sizes[axis] - 1
        here, ahead = inside.narrow(axis, 0, length), inside.narrow(axis, 1, length)
        torch.ne(here, ahead, out=crossing.narrow(axis, 0, length))
        low = crossing.view(-1).nonzero()[:, 0]
        a, b = values[low], values[low + strides[axis]]
        fraction = ((level - a) / (b - a)).clamp(_MARGIN, 1 - _MARGIN)
        grid = torch.stack([low // strides[0], low // strides[1] % sizes[1], low % sizes[2]], -1).to(dtype)
        grid[:, axis] += fraction
        points.append(grid)
        ids[axis, low] = torch.arange(total, total + len(low), dtype=torch.int32, device=device)
        total += len(low)
    vertices = corner + step * torch.cat(points)

    # Sign pattern of every cell, indexed by the cell's low corner.
    bits = inside.to(torch.uint8)
    for axis in range(3):
        length = sizes[axis] - 1
        bits = bits.narrow(axis, 0, length) | bits.narrow(axis, 1, length) << (1 << axis)
    mixed = ((bits != 0) & (bits != 255)).nonzero()
    case = bits[mixed[:, 0], mixed[:, 1], mixed[:, 2]].long()
    cell = mixed[:, 0] * strides[0] + mixed[:, 1] * strides[1] + mixed[:, 2]

    table = _table()
    counts = table.counts.to(device)[case]
    used = torch.arange(table.triangles.shape[1], device=device)[None, :] < counts[:, None]
    edges = table.triangles.to(device)[case][used]  # (F, 3)
    cell = cell[:, None].expand_as(used)[used]
    offset = torch.tensor(
        [axis * volume.numel() + sum((low >> k & 1) * strides[k] for k in range(3)) for axis, low in _EDGES],
        device=device,
    )
    faces = ids.reshape(-1)[cell[:, None] + offset[edges]].long()
    return vertices, faces
