"""Binary PLY: positions, normals and 8-bit sRGB vertex colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from threedistill.atomic import write_bytes
from threedistill.exports.appearance.pictures import glowing, with_vertex_colors
from threedistill.exports.files import generator, to_bytes
from threedistill.exports.frames import Frame
from threedistill.exports.meshes.surface import welded
from threedistill.exports.settings import FileSettings
from threedistill.types import Mesh

__all__ = ["write_ply"]


#: Colours at the two sides of a seam of our own that are taken for one.
_SEAM = 0.5


def write_ply(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """Write a little-endian PLY with ``red green blue`` as uchar where the mesh has colours.

    A texture's colours and an emission go to the vertices, and vertices at one position are shared again.
    """
    # The seams of our own layout cut one painted surface, whose copies differ by a texel's filtering; those of other
    # programs' may be where one colour ends and the next begins.
    mesh = welded(with_vertex_colors(glowing(mesh)), _SEAM if "texture layout" in mesh.extras else 0.01)
    fields: list[tuple[str, str]] = [("x", "<f4"), ("y", "<f4"), ("z", "<f4")]
    columns = [mesh.vertices.float().numpy()]
    if mesh.normals is not None:
        fields += [("nx", "<f4"), ("ny", "<f4"), ("nz", "<f4")]
        columns.append(mesh.normals.float().numpy())
    if mesh.colors is not None:
        fields += [("red", "u1"), ("green", "u1"), ("blue", "u1")]
        columns.append(to_bytes(mesh.colors).numpy())
    vertices = np.empty(len(mesh.vertices), dtype=fields)
    for (name, _), column in zip(fields, (c for block in columns for c in block.T)):
        vertices[name] = column
    faces = np.empty(len(mesh.faces), dtype=[("count", "u1"), ("index", "<i4", 3)])
    faces["count"] = 3
    faces["index"] = mesh.faces.numpy()

    kinds = {"<f4": "float", "u1": "uchar"}
    header = ["ply", "format binary_little_endian 1.0", f"comment {generator()}"]
    header += [f"comment metres, +{frame.up.upper()} up, sRGB colours"]
    header += [f"element vertex {len(vertices)}"]
    header += [f"property {kinds[kind]} {name}" for name, kind in fields]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
    write_bytes(path, ("\n".join(header) + "\n").encode("ascii") + vertices.tobytes() + faces.tobytes())
