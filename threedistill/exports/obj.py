"""Wavefront OBJ with its MTL and PNG beside it, named relatively and without spaces."""

from __future__ import annotations

import re
from pathlib import Path

from threedistill.atomic import write_bytes
from threedistill.exports.files import png_bytes
from threedistill.exports.frames import Frame
from threedistill.exports.gltf import generator
from threedistill.exports.settings import FileSettings
from threedistill.types import Mesh

__all__ = ["write_obj"]


def write_obj(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """Write ``name.obj`` and, for a textured mesh, ``name.mtl`` and ``name.png`` (and one per further map).

    Texture coordinates have their origin at the bottom left, as ours. Without a texture, vertex colours follow
    the positions (``v x y z r g b``, sRGB), an extension that Blender and MeshLab read. ``illum 0`` says that the
    colours are to be shown without lighting. Metalness, roughness and normals use the usual extension keys (``Pm``
    ``Pr`` ``map_Pm`` ``map_Pr`` ``norm``).
    """
    stem = re.sub(r"[^\w.-]+", "_", path.stem) or "asset"
    material = path.with_name(f"{stem}.mtl")
    textured = mesh.texture is not None and mesh.uv is not None

    lines = [f"# {generator()}", f"# metres, +{frame.up.upper()} up, sRGB colours"]
    lines += [f"# {key}: {_one_line(value)}" for key, value in mesh.extras.items()]
    # Readers that find a material look for colours there only, so vertex colours go without one.
    lines += [f"mtllib {material.name}", f"o {stem}", f"usemtl {stem}"] if textured else [f"o {stem}"]
    points = mesh.vertices.tolist()
    if mesh.colors is not None and not textured:
        rows = zip(points, mesh.colors.clamp(0, 1).tolist())
        lines += [f"v {x:.7g} {y:.7g} {z:.7g} {r:.5g} {g:.5g} {b:.5g}" for (x, y, z), (r, g, b) in rows]
    else:
        lines += [f"v {x:.7g} {y:.7g} {z:.7g}" for x, y, z in points]
    if textured and mesh.uv is not None:
        lines += [f"vt {u:.7g} {v:.7g}" for u, v in mesh.uv.tolist()]
    if mesh.normals is not None:
        lines += [f"vn {x:.5g} {y:.5g} {z:.5g}" for x, y, z in mesh.normals.tolist()]
    lines.append("s 1")
    # Every attribute has one entry per vertex, so one index serves all of them.
    corner = {(0, 0): "{0}", (1, 0): "{0}/{0}", (0, 1): "{0}//{0}", (1, 1): "{0}/{0}/{0}"}
    form = corner[int(textured), int(mesh.normals is not None)]
    names = [form.format(i + 1) for i in range(len(mesh.vertices))]
    lines += [f"f {names[a]} {names[b]} {names[c]}" for a, b, c in mesh.faces.tolist()]

    if textured and mesh.texture is not None:
        describe = [f"# {generator()}", f"newmtl {stem}", "Kd 1 1 1", "Ka 0 0 0", "Ks 0 0 0", "d 1"]
        describe += [f"illum {0 if settings.unlit else 1}", f"map_Kd {stem}.png"]
        write_bytes(path.with_name(f"{stem}.png"), png_bytes(mesh.texture))
        describe += _more_maps(mesh, path, stem)
        write_bytes(material, ("\n".join(describe) + "\n").encode())
    write_bytes(path, ("\n".join(lines) + "\n").encode())  # last: an OBJ that exists has all it names


def _more_maps(mesh: Mesh, path: Path, stem: str) -> list[str]:
    """The lines of the maps besides the colour, whose pictures are written beside the OBJ."""
    lines = ["Pm 0", "Pr 1"]
    if mesh.metallic_roughness is not None:
        lines = []
        for key, name, values in zip(
            ("Pm", "Pr"), ("metallic", "roughness"), mesh.metallic_roughness.unbind(-1)
        ):
            lines += [f"{key} 1", f"map_{key} {stem}_{name}.png"]
            grey = values[..., None].expand(*values.shape, 3)
            write_bytes(path.with_name(f"{stem}_{name}.png"), png_bytes(grey))
    if mesh.normal_map is not None:
        lines.append(f"norm {stem}_normal.png")
        write_bytes(path.with_name(f"{stem}_normal.png"), png_bytes(mesh.normal_map))
    return lines


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
