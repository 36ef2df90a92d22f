"""Texture coordinates: xatlas where its work is bounded, a box projection of our own where it is not.

xatlas gives the better atlas, but on a ragged surface of thousands of charts its time has no useful bound. Which
of the two is used depends on the mesh alone (faces, and how many pieces face one way), never on the clock, so the
same mesh always gets the same atlas.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedistill.exports.meshes.atlases import kept
from threedistill.exports.meshes.surface import bare, check, connected
from threedistill.types import Mesh

__all__ = ["Unwrapped", "unwrap"]


#: Charts are kept near this many faces: the time to grow one rises faster than its size.
_CHART_FACES = 2000
#: Longest side over the second: xatlas packs charts as bitmaps, and those of a wire are nearly all empty (8 s at 1000).
_LONGEST_CHART = 100


class Unwrapped(NamedTuple):
    """A mesh with texture coordinates.

    Attributes:
        mesh: vertices split along the seams, with ``uv``.
        method: who laid it out.
        charts: number of connected pieces in the atlas.
        source: (N,) the vertex of the mesh given that each of the new ones is a copy of.
    """

    mesh: Mesh
    method: str
    charts: int
    source: Int[Tensor, "N"]


def unwrap(
    mesh: Mesh, size: int, gutter: int = 4, max_faces: int = 30_000, max_charts: int = 2_000
) -> Unwrapped:
    """Lay the surface out in the unit square without overlaps, ``gutter`` texels between charts.

    A mesh that comes with texture coordinates keeps them, whatever they are (``charts`` is then 0), unless they are
    outside the unit square or leave a part of the surface without texels (as palettes do).

    Arguments:
        mesh: any triangles; normals and colours are carried to the split vertices.
        size: texels along a side of the texture the layout is meant for.
        gutter: empty texels between any two charts.
        max_faces, max_charts: beyond either, and for what is long and thin as a wire, the box projection is used; the
            charts counted are the connected pieces whose faces share their dominant axis, which bounds what xatlas
            would find on ragged surfaces.

    Raises:
        ThreedistillError: empty mesh, or vertices that are not finite.
    """
    check(mesh, "unwrap")
    if mesh.uv is not None and _usable(mesh):
        return Unwrapped(bare(mesh), "own", 0, torch.arange(len(mesh.vertices)))
    piece = _pieces(mesh.faces, _face_directions(mesh))
    extent = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).double().sort().values
    wire = float(extent[2]) > _LONGEST_CHART * float(extent[1])
    if len(mesh.faces) <= max_faces and int(piece.max()) + 1 <= max_charts and not wire:
        found = _xatlas(mesh, size, gutter)
        if found is not None:
            return found
    return _box_projection(mesh, piece, size, gutter)


def _usable(mesh: Mesh) -> bool:
    """Whether a layout lies in the unit square (to rounding) and gives all but a thousandth of the surface an area."""
    uv, faces = mesh.uv, mesh.faces
    assert uv is not None
    if not bool(torch.isfinite(uv).all()) or float(uv.min()) < -1e-4 or float(uv.max()) > 1 + 1e-4:
        return False
    a, b, c = uv.double()[faces].unbind(1)
    area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs() / 2
    corners = mesh.vertices.double()[faces]
    real = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1)
    flat = area <= 1e-9 * float(area.sum()) / max(len(faces), 1)
    return float(area.sum()) > 1e-4 and float(real[flat].sum()) <= 1e-3 * float(real.sum())


def _split(mesh: Mesh, source: Tensor, faces: Tensor, uv: Tensor) -> Mesh:
    """The mesh whose vertex i is a copy of vertex ``source[i]``, with texture coordinates."""
    return replace(
        bare(mesh), vertices=mesh.vertices[source], faces=faces, uv=uv.to(mesh.vertices.dtype),
        normals=None if mesh.normals is None else mesh.normals[source],
        colors=None if mesh.colors is None else mesh.colors[source],
    )  # fmt: skip


def _xatlas(mesh: Mesh, size: int, gutter: int) -> Unwrapped | None:
    """xatlas's layout, or None where it leaves faces out."""
    import xatlas

    # xatlas judges degeneracy by absolute areas: give it the mesh at a size where they are not tiny.
    points = mesh.vertices.double() / float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()) * 100
    corners = points[mesh.faces]
    area = (
        torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=1).sum() / 2
    )
    charting = xatlas.ChartOptions()
    if len(mesh.faces) > _CHART_FACES:
        charting.max_chart_area = float(area) * _CHART_FACES / len(mesh.faces)
    # The packer treats the resolution as a wish and overshoots by about a third, which is taken off again by
    # scaling: gutters are asked for with that much to spare, once more where what remains is too narrow.
    padding = -(-gutter * 3 // 2)
    for _ in range(2):
        pack = xatlas.PackOptions()
        pack.resolution, pack.padding, pack.bilinear, pack.rotate_charts = size, padding, True, True
        with kept(xatlas.Atlas()) as atlas:
            atlas.add_mesh(points.float().numpy(), mesh.faces.numpy().astype(np.uint32))
            atlas.generate(charting, pack)
            if atlas.atlas_count != 1:
                return None
            width, height, charts = atlas.width, atlas.height, atlas.chart_count
            source, faces, uv = atlas.get_mesh(0)
        longest = max(width, height)
        if padding * size >= gutter * longest:
            break
        padding = -(-gutter * longest // size) + 1
    if len(faces) != len(mesh.faces):
        return None
    uv = torch.from_numpy(uv.astype(np.float64)) * torch.tensor([width, height]) / longest
    copied = torch.from_numpy(source.astype(np.int64))
    split = _split(mesh, copied, torch.from_numpy(faces.astype(np.int64)), uv)
    return Unwrapped(split, "xatlas", charts, copied)


def _face_directions(mesh: Mesh) -> Int[Tensor, "F"]:
    """The dominant axis of each face's normal, 0..5 for +x -x +y -y +z -z."""
    corners = mesh.vertices.double()[mesh.faces]
    normal = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    axis = normal.abs().argmax(1)
    return axis * 2 + (normal.gather(1, axis[:, None])[:, 0] < 0)


def _pieces(faces: Tensor, label: Int[Tensor, "F"]) -> Int[Tensor, "F"]:
    """The number of each face's piece: connected through edges, one label."""
    base = int(faces.max()) + 1
    directed = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    key = directed.amin(1) * base + directed.amax(1)
    owner = torch.arange(len(faces)).repeat(3)
    order = torch.argsort(key, stable=True)
    key, owner = key[order], owner[order]
    joined = (key[1:] == key[:-1]) & (label[owner[1:]] == label[owner[:-1]])
    a, b = owner[:-1][joined], owner[1:][joined]
    return torch.unique(connected(len(faces), a, b), return_inverse=True)[1]


def _box_projection(mesh: Mesh, piece: Tensor, size: int, gutter: int) -> Unwrapped:
    """Every piece projected along its axis; pieces that fold over themselves are cut into ever thinner layers."""
    corners, depth = _projected(mesh)
    for layers in (4, 16, 64):
        folded = _folded(piece, corners)[piece]
        if not bool(folded.any()):
            break
        layer = torch.where(folded, (depth * layers).floor().long(), 0)
        piece = _pieces(mesh.faces, piece * layers + layer)
    # What still folds is cut into single faces.
    single = int(piece.max()) + 1 + torch.arange(len(piece))
    piece = torch.unique(torch.where(_folded(piece, corners)[piece], single, piece), return_inverse=True)[1]
    count = int(piece.max()) + 1
    low = torch.full((count, 2), torch.inf, dtype=corners.dtype)
    high = torch.full((count, 2), -torch.inf, dtype=corners.dtype)
    index = piece[:, None, None].expand_as(corners).reshape(-1, 2)
    low = low.scatter_reduce(0, index, corners.reshape(-1, 2), "amin")
    high = high.scatter_reduce(0, index, corners.reshape(-1, 2), "amax")
    corner, scale = _pack((high - low).numpy(), size, gutter)
    uv = (corners - low[piece][:, None]) * scale + torch.from_numpy(corner)[piece][:, None]
    # A vertex is split once per piece that uses it.
    key = piece[:, None] * len(mesh.vertices) + mesh.faces
    unique, inverse = torch.unique(key, return_inverse=True)
    coordinates = torch.zeros(len(unique), 2, dtype=uv.dtype)
    coordinates[inverse.reshape(-1)] = uv.reshape(-1, 2)
    source = unique % len(mesh.vertices)
    split = _split(mesh, source, inverse, coordinates / size)
    return Unwrapped(split, "box projection", count, source)


def _projected(mesh: Mesh) -> tuple[Float[Tensor, "F 3 2"], Float[Tensor, "F"]]:
    """The corners of every face seen along its dominant axis, and its depth along it in [0, 1) of the mesh."""
    direction = _face_directions(mesh)
    axis, negative = direction // 2, direction % 2 == 1
    corners = mesh.vertices.double()[mesh.faces]
    u = corners.gather(2, ((axis + 1) % 3)[:, None, None].expand(-1, 3, 1))
    v = corners.gather(2, ((axis + 2) % 3)[:, None, None].expand(-1, 3, 1))
    depth = corners.mean(1).gather(1, axis[:, None])[:, 0]
    depth = (depth - depth.min()) / (depth.max() - depth.min() + 1e-12) * (1 - 1e-9)
    return torch.cat([torch.where(negative[:, None, None], -u, u), v], 2), depth


def _folded(piece: Tensor, corners: Float[Tensor, "F 3 2"]) -> Bool[Tensor, "P"]:
    """Which pieces cover a point of their projection twice.

    Their faces' areas then sum to more than the area they cover, which is measured by rasterising all pieces
    side by side.
    """
    from threedistill.ops.rasterize import rasterize

    count, grid = int(piece.max()) + 1, 1024
    low = torch.stack([_per_piece(piece, corners[..., k].amin(1), count, "amin") for k in range(2)], 1)
    high = torch.stack([_per_piece(piece, corners[..., k].amax(1), count, "amax") for k in range(2)], 1)
    corner, scale = _pack((high - low).numpy(), grid, 1)
    layout = (corners - low[piece][:, None]) * scale + torch.from_numpy(corner)[piece][:, None]  # texels
    clip = torch.zeros(1, layout.shape[0] * 3, 4)
    clip[0, :, :2] = (layout.reshape(-1, 2) / grid * 2 - 1).float()
    clip[..., 3] = 1
    seen = rasterize(clip, torch.arange(clip.shape[1]).view(-1, 3), grid, grid).triangle.reshape(-1).long()
    covered = torch.bincount(piece[seen[seen >= 0]], minlength=count).double()
    e1, e2 = layout[:, 1] - layout[:, 0], layout[:, 2] - layout[:, 0]
    area = torch.bincount(
        piece, weights=(e1[:, 0] * e2[:, 1] - e1[:, 1] * e2[:, 0]).abs() / 2, minlength=count
    )
    border = (high - low).sum(1) * 2 * scale
    return area > covered * 1.05 + 0.5 * border  # half a texel of doubt along the outline


def _per_piece(piece: Tensor, values: Tensor, count: int, how: str) -> Tensor:
    start = torch.full((count,), torch.inf if how == "amin" else -torch.inf, dtype=values.dtype)
    return start.scatter_reduce(0, piece, values, how)


def _pack(extent: np.ndarray, size: int, gutter: int) -> tuple[np.ndarray, float]:
    """Lower left corners (texels) of boxes on shelves in a square, and the largest common scale that fits.

    Boxes are placed in order of falling height, left to right, a new shelf when the row is full.
    """
    order = np.lexsort((np.arange(len(extent)), -extent[:, 0], -extent[:, 1]))
    widths, heights = extent[order, 0], extent[order, 1]

    def shelves(scale: float) -> np.ndarray | None:
        corners = np.zeros((len(extent), 2))
        x = y = row = 0.0
        for k, (w, h) in enumerate(zip((widths * scale).tolist(), (heights * scale).tolist())):
            w, h = w + gutter, h + gutter
            if x and x + w > size:
                x, y, row = 0.0, y + row, 0.0
            if x + w > size or y + h > size:
                return None
            corners[order[k]] = x + gutter / 2, y + gutter / 2
            x, row = x + w, max(row, h)
        return corners

    low, high = 0.0, (size - gutter) / max(float(extent.max()), 1e-30)
    best = shelves(low)
    if (
        best is None
    ):  # more boxes than gutters fit: charts will share texels, which is all such a texture can do
        return _pack(extent, size, gutter // 2) if gutter else (np.zeros_like(extent), 0.0)
    for _ in range(24):
        scale = (low + high) / 2
        trial = shelves(scale)
        if trial is None:
            high = scale
        else:
            low, best = scale, trial
    return best, low
