"""Parts of several materials in one set of pictures.

Each material becomes a rectangle of the atlas. Where one set of coordinates serves all of its pictures, that is the
stretch of the coordinate plane that its faces use, on the pictures' own grid: texels are copied, not filtered, and what
surrounds the stretch is what the sampler would show there. Otherwise (vertex colours times a picture, pictures with
different coordinates) the part is unwrapped and painted anew. A material without pictures is a small plain field.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.appearance.groups import Coverage, Group, coverage, encoded, shown, stacked
from threedistill.exports.appearance.materials import Material, Texels, texels, values_at
from threedistill.exports.meshes.bake import fill_gutter, painted
from threedistill.exports.meshes.unwrap import unwrap
from threedistill.render.shading import linear_to_srgb
from threedistill.types import Mesh

__all__ = ["atlas"]

#: Texels around each rectangle that continue it, so that filtering and a few mip levels see no neighbour.
GUTTER = 4
#: Texels a side of a plain field.
_FIELD = 4
#: The longest side of an atlas that graphics hardware takes without question.
_LONGEST = 8192
_SMALLEST_PAINTED = 64
#: Numbers in all of an atlas' pictures: 560 MB.
_MOST_VALUES = 140_000_000
_CHUNK = 1 << 18


@dataclass
class _Cell:
    """A rectangle of the atlas.

    Attributes:
        group: whose.
        width, height: texels, gutter included.
        low: the corner of its stretch of the coordinate plane (bottom left, gutter included).
        density: texels per unit of that plane, along u and v.
        uv: per vertex, in the coordinate plane.
        paint: the layout is the cell's own, to be painted through its faces.
        fine: texels of the cell for each of the finest picture's, along a side.
    """

    group: Group
    width: int
    height: int
    low: tuple[float, float]
    density: tuple[float, float]
    uv: Tensor
    paint: bool = False
    fine: float = 1.0


def atlas(groups: list[Group], unlit: bool, most_pixels: int, lost: list[str]) -> Mesh:
    """All groups as one mesh with one set of pictures.

    Arguments:
        groups: one per material.
        unlit: whether the whole is unlit.
        most_pixels: of each picture; rectangles are reduced by one factor until they fit.
        lost: gets what could not be kept.
    """
    cover = coverage(groups)
    wanted = _wanted(groups, unlit, cover)
    most = min(most_pixels, _MOST_VALUES // sum(channels for channels, _, _ in wanted.values()))
    scale = 1.0
    while True:
        cells = [_cell(group, scale) for group in groups]
        width, height, corners = _packed(cells)
        if width * height <= most and max(width, height) <= _LONGEST:
            break
        scale *= min(0.95 * math.sqrt(most / (width * height)), 0.95 * _LONGEST / max(width, height), 0.95)
        if scale < 1e-4:
            break
    if scale < 1:
        lost.append(f"its pictures' full resolution ({scale:.0%} of it in an atlas of {width} x {height})")
    images = {name: torch.full((height, width, c), empty) for name, (c, empty, _) in wanted.items()}
    uv = []
    for cell, (x, y) in zip(cells, corners):
        for top, bottom, look, covered in _looks(cell, lost):
            seen = shown(look, cell.group.material, unlit)
            for name, (channels, _, rows) in wanted.items():
                part = rows(seen, cell.group.material).reshape(bottom - top, cell.width, channels)
                if covered is not None:
                    part = fill_gutter(part, covered, 2 * GUTTER)
                images[name][y + top : y + bottom, x : x + cell.width] = part
        texel = (cell.uv.double() - torch.tensor(cell.low)) * torch.tensor(cell.density)
        column, row = x + texel[:, 0], y + cell.height - texel[:, 1]
        uv.append(torch.stack([column / width, 1 - row / height], 1))
    vertices, faces, normals = stacked([cell.group for cell in cells])
    mesh = Mesh(vertices, faces, normals=normals, uv=torch.cat(uv).float(), alpha_cutoff=cover.cutoff)
    return replace(mesh, **images)


def _wanted(
    groups: list[Group], unlit: bool, cover: Coverage
) -> dict[str, tuple[int, float, Callable[[Texels, Material], Tensor]]]:
    """The pictures that the whole needs: channels, what stands where no cell is, and their values at texels."""
    materials = [group.material for group in groups]
    wanted: dict[str, tuple[int, float, Callable[[Texels, Material], Tensor]]] = {
        "texture": (3, 0.5, lambda look, _: linear_to_srgb(look.color))
    }
    plain = [
        m.unlit or (m.metallic, m.roughness, m.packed, m.reflectance) == (0.0, 1.0, None, None)
        for m in materials
    ]
    if not unlit and not all(plain):
        wanted["metallic_roughness"] = (2, 1.0, lambda look, _: look.metal)
    if any(m.normal is not None for m in materials):
        wanted["normal_map"] = (3, 0.5, lambda look, _: encoded(look.normal))
    if any(max(m.glow) > 0 or (m.unlit and not unlit) for m in materials):
        wanted["emission"] = (3, 0.0, lambda look, _: linear_to_srgb(look.glow))
    if cover.mode != "opaque":
        wanted["alpha"] = (1, 1.0, lambda look, material: cover.of(material, look.coverage))
    return wanted


def _cell(group: Group, scale: float) -> _Cell:
    """The rectangle that a group needs, its own vertices split where that makes it smaller."""
    lookups = list(group.material.lookups.values())
    if float((group.vertices.amax(0) - group.vertices.amin(0)).max()) <= 0:  # a point: nobody sees it
        group = replace(group, material=Material(color=group.material.color), colors=None)
        lookups = []
    if not lookups and group.colors is None:
        side = _FIELD + 2 * GUTTER
        middle = torch.full((len(group.vertices), 2), side / 2)
        return _Cell(group, side, side, (0.0, 0.0), (1.0, 1.0), middle)
    sets = {lookup.uv_set for lookup in lookups}
    if group.colors is not None or len(sets) > 1:
        return _unwrapped(group, scale)
    (number,) = sets
    uv = group.uvs[number]
    same = len({(lookup.transform, lookup.wrap) for lookup in lookups}) == 1
    if same and lookups[0].transform == ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)):
        group, uv = _nearer(group, number, lookups[0].wrap)
    density = [0.0, 0.0]
    for lookup in lookups:
        height, width = lookup.picture.shape[:2]
        for axis in (0, 1):
            along = math.hypot(lookup.transform[0][axis] * width, lookup.transform[1][axis] * height)
            density[axis] = max(density[axis], along)
    density = [max(d * scale, 1e-6) for d in density]
    used = uv[group.faces.reshape(-1)].double()
    low, high = used.amin(0).tolist(), used.amax(0).tolist()
    # On the pictures' grid: a texel of the cell is a texel of the picture.
    first = [math.floor(a * d + 1e-4) - GUTTER for a, d in zip(low, density)]
    last = [math.ceil(b * d - 1e-4) + GUTTER for b, d in zip(high, density)]
    size = [max(b - a, 2 * GUTTER + 1) for a, b in zip(first, last)]
    corner = first[0] / density[0], first[1] / density[1]
    return _Cell(group, size[0], size[1], corner, (density[0], density[1]), uv, fine=scale)


def _nearer(group: Group, number: int, wrap: tuple[str, str]) -> tuple[Group, Tensor]:
    """Faces moved by whole periods of the picture to small coordinates; vertices are split where their faces part."""
    uv = group.uvs[number]
    period = torch.tensor(
        [{"repeat": 1.0, "mirror": 2.0, "clamp": math.inf}[w] for w in wrap], dtype=uv.dtype
    )
    lowest = uv[group.faces].amin(1)
    steps = torch.where(torch.isinf(period), 0.0, ((lowest + 1e-4) / period).floor()).nan_to_num().long()
    if not bool(steps.any()):
        return group, uv
    # One copy of a vertex for each pair of steps that its faces take.
    keys = torch.cat([group.faces.reshape(-1, 1), steps.repeat_interleave(3, 0)], 1)
    unique, corner = torch.unique(keys, dim=0, return_inverse=True)
    source = unique[:, 0]
    finite = torch.where(torch.isinf(period), 0.0, period)
    moved = (uv[source].double() - unique[:, 1:] * finite.double()).to(uv.dtype)
    split = _copied(group, source, corner.reshape(-1, 3))
    return replace(split, uvs={**split.uvs, number: moved}), moved


def _copied(group: Group, source: Tensor, faces: Tensor) -> Group:
    """The group whose vertex i is a copy of vertex ``source[i]``."""
    return replace(
        group, vertices=group.vertices[source], faces=faces,
        normals=None if group.normals is None else group.normals[source],
        uvs={k: values[source] for k, values in group.uvs.items()},
        colors=None if group.colors is None else group.colors[source],
    )  # fmt: skip


def _unwrapped(group: Group, scale: float) -> _Cell:
    """A rectangle with a layout of its own."""
    texel_count = 16.0 * len(group.faces)
    for lookup in group.material.lookups.values():
        height, width = lookup.picture.shape[:2]
        a, b, c = lookup.place(group.uvs[lookup.uv_set]).double()[group.faces].unbind(1)
        area = ((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]).abs().sum() / 2
        texel_count = max(texel_count, float(area) * width * height)
    # Charts fill about two thirds of their square.
    size = int(min(max(math.sqrt(1.5 * texel_count), _SMALLEST_PAINTED), 4096) * scale)
    size = max(size // 4 * 4, 16)
    laid = unwrap(Mesh(group.vertices, group.faces, normals=group.normals), size, GUTTER)
    split = _copied(group, laid.source, laid.mesh.faces)
    assert laid.mesh.uv is not None
    whole = size + 2 * GUTTER
    uv = (laid.mesh.uv * size + GUTTER) / whole
    return _Cell(split, whole, whole, (0.0, 0.0), (float(whole), float(whole)), uv, paint=True)


def _looks(cell: _Cell, lost: list[str]) -> Iterator[tuple[int, int, Texels, Tensor | None]]:
    """The material at a cell's texels, some rows at a time; of painted ones all, and which lie on the surface."""
    if cell.paint:
        if cell.group.material.normal is not None:
            lost.append("the normal map of a part whose pictures have different coordinates")
        yield 0, cell.height, *_painted(cell)
        return
    step = max(_CHUNK // cell.width, 1)
    for top in range(0, cell.height, step):
        bottom = min(top + step, cell.height)
        index = torch.arange(top * cell.width, bottom * cell.width)
        yield top, bottom, texels(cell.group.material, _values(cell, index), None, len(index)), None


def _painted(cell: _Cell) -> tuple[Texels, Tensor]:
    """The material painted through a cell's own layout, and which texels lie on the surface."""
    group = cell.group
    layout = Mesh(group.vertices, group.faces, uv=cell.uv, normals=group.normals)
    try:
        where = painted(layout, cell.width)
        corner, weights, covered = where.corner, where.weights, where.covered
    except ThreedistillError:  # thinner than a texel everywhere: one face's colour is all there is to see
        corner, weights = group.faces[:1], torch.full((1, 3, 1), 1 / 3)
        covered = torch.zeros(cell.height, cell.width, dtype=torch.bool)
        covered[cell.height // 2, cell.width // 2] = True

    def interpolated(values: Tensor) -> Tensor:
        return (values[corner] * weights.to(values)).sum(1)

    values = values_at(replace(group.material, normal=None), lambda k: interpolated(group.uvs[k]))
    colors = None if group.colors is None else interpolated(group.colors)
    found = texels(group.material, values, colors, len(corner))
    return _spread(found, covered.reshape(-1)), covered


def _values(cell: _Cell, index: Tensor) -> dict[str, Tensor]:
    """What the pictures hold at texels of a cell; where it is coarser than they are, the mean over each texel."""
    if not cell.group.material.lookups:
        return {}
    across = min(math.ceil(1 / cell.fine - 1e-6), 8)
    row, column = (index // cell.width).double(), (index % cell.width).double()
    total: dict[str, Tensor] = {}
    for i in range(across * across):
        dx, dy = (i % across + 0.5) / across, (i // across + 0.5) / across
        u = cell.low[0] + (column + dx) / cell.density[0]
        v = cell.low[1] + (cell.height - row - dy) / cell.density[1]
        uv = torch.stack([u, v], 1)
        for slot, value in values_at(cell.group.material, lambda _, uv=uv: uv).items():
            total[slot] = total.get(slot, 0) + value.float() / across**2
    return total


def _spread(look: Texels, covered: Tensor) -> Texels:
    """Rows of the covered texels put in their places among all of them."""

    def put(values: Tensor) -> Tensor:
        full = values.new_zeros(len(covered), values.shape[1])
        full[covered] = values
        return full

    return Texels(put(look.color), put(look.coverage), put(look.metal), put(look.normal), put(look.glow))


def _packed(cells: list[_Cell]) -> tuple[int, int, list[tuple[int, int]]]:
    """Width and height of an atlas, and every cell's corner in it: shelves in order of falling height."""
    order = sorted(range(len(cells)), key=lambda k: (-cells[k].height, -cells[k].width, k))
    widest = max(cell.width for cell in cells)
    area = sum(cell.width * cell.height for cell in cells)
    best: tuple[int, int, list[tuple[int, int]]] | None = None
    for factor in np.linspace(1.0, 2.0, 9):
        width = -(-max(widest, math.ceil(math.sqrt(area) * float(factor))) // 4) * 4
        x = y = shelf = 0
        corners = [(0, 0)] * len(cells)
        for k in order:
            if x and x + cells[k].width > width:
                x, y, shelf = 0, y + shelf, 0
            corners[k] = x, y
            x, shelf = x + cells[k].width, max(shelf, cells[k].height)
        height = -(-(y + shelf) // 4) * 4
        if best is None or max(width, height) * width * height < max(best[0], best[1]) * best[0] * best[1]:
            best = width, height, corners
    assert best is not None
    return best
