"""Wavefront OBJ with its MTL and PNG beside it, named relatively and without spaces."""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from threedistill.atomic import write_bytes
from threedistill.exports.appearance.pictures import is_constant, within_one
from threedistill.exports.files import generator, png_bytes
from threedistill.exports.frames import Frame
from threedistill.exports.settings import FileSettings
from threedistill.types import Mesh

__all__ = ["write_obj"]


def write_obj(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """Write ``name.obj`` and, for a textured mesh, ``name.mtl`` and ``name.png`` (and one per further map).

    Texture coordinates have their origin at the bottom left, as ours. Without a texture, vertex colours follow
    the positions (``v x y z r g b``, sRGB), an extension that Blender and MeshLab read. ``illum 0`` says that the
    colours are to be shown without lighting, which few programs heed: ``obj_glow`` has them emitted instead (``map_Ke``
    alone, which some programs do not read at all). Metalness, roughness, normals and emission use the usual extension
    keys (``Pm`` ``Pr`` ``map_Pm`` ``map_Pr`` ``norm`` ``map_Ke``).
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

    if textured:
        write_bytes(material, ("\n".join(_material(mesh, path, stem, settings)) + "\n").encode())
    write_bytes(path, ("\n".join(lines) + "\n").encode())  # last: an OBJ that exists has all it names


def _material(mesh: Mesh, path: Path, stem: str, settings: FileSettings) -> list[str]:
    """The lines of the material; its pictures are written beside the OBJ."""

    def picture(key: str, image: Tensor, name: str = "") -> str:
        file = f"{stem}_{name}.png" if name else f"{stem}.png"
        write_bytes(path.with_name(file), png_bytes(image))
        return f"{key} {file}"

    assert mesh.texture is not None
    lines = [f"# {generator()}", f"newmtl {stem}"]
    glows = settings.unlit and settings.obj_glow
    if settings.unlit:
        lines.append(
            "# The colours contain their light. Programs that ignore illum 0 (Blender, three.js) light them again: "
            + ("here the colour is emitted." if glows else "export.obj_glow=true writes them as emission.")
        )
    lines += [f"Kd {'0 0 0' if glows else '1 1 1'}", "Ka 0 0 0", "Ks 0 0 0"]
    lines += [
        f"d {float(mesh.alpha[0, 0, 0]):.5g}" if is_constant(mesh.alpha) and mesh.alpha is not None else "d 1"
    ]
    lines.append(f"illum {0 if settings.unlit and not glows else 1}")
    if glows:
        lines += ["Ke 1 1 1", picture("map_Ke", mesh.texture)]
    else:
        lines.append(picture("map_Kd", mesh.texture))
    if mesh.emission is not None and not glows:
        if is_constant(mesh.emission):
            lines.append("Ke " + " ".join(f"{v:.5g}" for v in mesh.emission[0, 0].tolist()))
        else:
            colour, strength = within_one(mesh.emission)
            lines += [
                f"Ke {strength:.5g} {strength:.5g} {strength:.5g}",
                picture("map_Ke", colour, "emission"),
            ]
    if mesh.alpha is not None and not is_constant(mesh.alpha):
        lines.append(picture("map_d", mesh.alpha.expand(*mesh.alpha.shape[:2], 3), "alpha"))
    if mesh.metallic_roughness is None:
        lines += ["Pm 0", "Pr 1"]
    elif is_constant(mesh.metallic_roughness):
        lines += [f"{key} {v:.5g}" for key, v in zip(("Pm", "Pr"), mesh.metallic_roughness[0, 0].tolist())]
    else:
        for key, name, grey in zip(
            ("Pm", "Pr"), ("metallic", "roughness"), mesh.metallic_roughness.unbind(-1)
        ):
            lines += [f"{key} 1", picture(f"map_{key}", grey[..., None].expand(*grey.shape, 3), name)]
    if mesh.normal_map is not None:
        lines.append(picture("norm", mesh.normal_map, "normal"))
    return lines


def _one_line(value: object) -> str:
    return " ".join(str(value).split())
