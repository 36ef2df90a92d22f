"""Meshes in PLY: any order of elements and properties, lists of any type, polygons of any size, text or binary.

Colours stand at the vertices or the faces, texture coordinates at the vertices or the corners, with the picture in a
comment (``comment TextureFile name.png``), as MeshLab and Open3D write them. Source: Greg Turk, "The PLY Polygon File
Format", 1994.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from threedistill.errors import ThreedistillError
from threedistill.exports.appearance.joined import Part, joined
from threedistill.exports.appearance.materials import Lookup, Material
from threedistill.exports.foreign.beside import Pictures
from threedistill.exports.foreign.limits import check
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.meshes.polygons import triangulated
from threedistill.exports.meshes.surface import vertex_normals
from threedistill.exports.ply.header import Header, read_header
from threedistill.exports.ply.tables import Table, elements
from threedistill.render.shading import srgb_to_linear

__all__ = ["read_ply_mesh"]

_COLORS = (("red", "green", "blue"), ("diffuse_red", "diffuse_green", "diffuse_blue"), ("r", "g", "b"))
_COORDINATES = (("s", "t"), ("u", "v"), ("texture_u", "texture_v"), ("texture_s", "texture_t"))
_LISTS = ("vertex_indices", "vertex_index")
#: Properties that a mesh keeps, or that say nothing of it.
_UNDERSTOOD = {"x", "y", "z", "nx", "ny", "nz", "alpha", "flags", "quality", "texnumber", "texcoord", *_LISTS}


def read_ply_mesh(path: Path) -> Opened:
    """The faces of a PLY.

    Raises:
        ThreedistillError: no faces, a damaged head, fewer bytes than it promises, a picture that is missing.
    """
    data = path.read_bytes()
    header = read_header(path, data)
    tables = elements(path, data, header)
    if "vertex" not in tables or not {"x", "y", "z"} <= set(tables["vertex"].columns):
        raise ThreedistillError(f"cannot read {path}: it has no vertices with x, y and z")
    vertex = tables["vertex"]
    face = tables.get("face", Table({}, {}))
    points = np.stack([vertex.columns[axis] for axis in "xyz"], 1).astype(np.float64)
    corners, counts = next((face.lists[name] for name in _LISTS if name in face.lists), (None, None))
    if (corners is None or not len(corners)) and "tristrips" in tables:
        corners, counts = _strips(tables["tristrips"])
        face = Table({}, {})
    if corners is None or counts is None or not (counts >= 3).any():
        kind = f" (it holds {len(points)} points)" if len(points) else ""
        raise ThreedistillError(f"cannot read {path}: it holds no triangles{kind}")
    corners = corners.astype(np.int64)
    if corners.min() < 0 or corners.max() >= len(points):
        worst = int(corners.min() if corners.min() < 0 else corners.max())
        raise ThreedistillError(f"cannot read {path}: a face names vertex {worst}, there are {len(points)}")
    triangles, owner = triangulated(points, corners, counts)
    check(path, "triangles", len(triangles))
    part = _part(path, header, vertex, face, points, corners, counts, triangles, owner)
    result = joined([part])
    mesh = result.mesh
    if mesh.normals is None:  # PLY's programs round what has none
        mesh.normals = vertex_normals(mesh.vertices, mesh.faces)
    return Opened(mesh, unlit=False, lost=[*dict.fromkeys([*_lost(header), *result.lost])])


def _part(
    path: Path, header: Header, vertex: Table, face: Table, points: np.ndarray, corners: np.ndarray,
    counts: np.ndarray, triangles: np.ndarray, owner: np.ndarray,
) -> Part:  # fmt: skip
    """The triangles with what their vertices, corners and faces carry; corners are split where they differ."""
    colors, normals = _colors(vertex), None
    if {"nx", "ny", "nz"} <= set(vertex.columns):
        normals = np.stack([vertex.columns[f"n{axis}"] for axis in "xyz"], 1).astype(np.float32)
    uv = next(
        (
            np.stack([vertex.columns[n] for n in pair], 1)
            for pair in _COORDINATES
            if set(pair) <= set(vertex.columns)
        ),
        None,
    )
    by_corner: list[np.ndarray] = []
    flat = triangles.reshape(-1)
    corner_uv = "texcoord" in face.lists and bool((face.lists["texcoord"][1] == 2 * counts).all())
    if corner_uv:
        uv = face.lists["texcoord"][0].reshape(-1, 2)[flat]
        by_corner.append(uv)
    face_colors = _colors(face) if colors is None else None
    if face_colors is not None:
        colors = face_colors[np.repeat(owner, 3)]
        by_corner.append(colors)
    index = corners[flat]
    if by_corner:  # the vertices become those corners that differ
        keys = np.concatenate([index[:, None].astype(np.float64), *by_corner], 1)
        _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
        rows, faces = index[first], inverse.reshape(-1, 3)
        uv = None if uv is None else uv[first] if corner_uv else uv[rows]
        colors = None if colors is None else colors[first] if face_colors is not None else colors[rows]
    else:
        rows, faces = np.arange(len(points)), index.reshape(-1, 3)
    picture = _picture(path, header) if uv is not None else None
    linear = None
    if colors is not None:
        alpha = np.ones((len(colors), 1))
        rgb = srgb_to_linear(torch.from_numpy(colors.astype(np.float32)))
        linear = torch.cat([rgb, torch.from_numpy(alpha.astype(np.float32))], 1)
    return Part(
        torch.from_numpy(points[rows].astype(np.float32)), torch.from_numpy(faces.astype(np.int64)),
        None if normals is None else torch.nn.functional.normalize(torch.from_numpy(normals[rows]), dim=1),
        {} if uv is None else {0: torch.from_numpy(uv.astype(np.float32))}, linear,
        Material(metallic=0.0, base=picture),
    )  # fmt: skip


def _colors(table: Table) -> np.ndarray | None:
    """(N, 3) in [0, 1] of whole numbers or reals."""
    for names in _COLORS:
        if set(names) <= set(table.columns):
            rgb = np.stack([table.columns[name] for name in names], 1)
            if rgb.dtype.kind in "ui":
                return rgb / float(np.iinfo(rgb.dtype).max)
            return np.clip(rgb / (255 if rgb.max(initial=0) > 1 else 1), 0, 1)
    return None


def _picture(path: Path, header: Header) -> Lookup | None:
    files = [c.split(None, 1)[1].strip() for c in header.comments if c.lower().startswith("texturefile ")]
    if not files:
        return None
    return Lookup(Pictures(path).named(files[0], "its TextureFile"))


def _lost(header: Header) -> list[str]:
    """What a mesh has no place for."""
    lost = []
    known = _UNDERSTOOD.union(*_COLORS, *_COORDINATES)
    for element in header.elements:
        name, count = element.name, element.count
        if name not in ("vertex", "face", "tristrips") and count:
            lost.append(f"{count} {name}{'s' if count > 1 else ''}")
        elif unknown := [p for p in element.names if p not in known]:
            lost.append(f"{', '.join(unknown[:6])}{' ...' if len(unknown) > 6 else ''} of its {name} element")
    if sum(c.lower().startswith("texturefile ") for c in header.comments) > 1:
        lost.append("all but the first of its pictures")
    return lost


def _strips(table: Table) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Triangle strips, ended by -1, as triangles; every second one is turned back."""
    found = next((table.lists[name] for name in _LISTS if name in table.lists), None)
    if found is None:
        return None, None
    triangles: list[list[int]] = []
    start = 0
    for length in found[1].tolist():
        strip: list[int] = []
        for value in found[0][start : start + length].tolist():
            strip = [] if value < 0 else [*strip, value]
            if len(strip) >= 3:
                a, b, c = strip[-3:]
                triangles.append([a, b, c] if len(strip) % 2 else [b, a, c])
        start += length
    corners = np.array(triangles, dtype=np.int64).reshape(-1)
    return corners, np.full(len(triangles), 3)
