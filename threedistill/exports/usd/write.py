"""USDZ without USD's library: one text layer and its pictures, stored uncompressed at multiples of 64 bytes.

One ``Xform`` of kind component with a ``Mesh`` and a ``UsdPreviewSurface``. Sources: openusd.org, "USDZ File Format
Specification" and "UsdPreviewSurface Specification".
"""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threedistill.atomic import write_bytes
from threedistill.exports.appearance.pictures import is_constant, pictures_of, within_one
from threedistill.exports.files import generator, jsonable, png_bytes
from threedistill.exports.frames import Frame
from threedistill.exports.settings import FileSettings
from threedistill.types import Mesh

__all__ = ["package", "usdz_bytes", "write_usdz"]

_ALIGNMENT = 64
#: The zip extra field that holds the padding; readers skip what they do not know.
_PADDING = 0x1986
_FILES = {
    "base-colour": "color.png", "normal": "normal.png", "metallic-roughness": "roughness_metallic.png",
    "emission": "emission.png",
}  # fmt: skip


def write_usdz(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """Write :func:`usdz_bytes` atomically."""
    write_bytes(path, usdz_bytes(mesh, settings.unlit, frame.up, path.stem))


def usdz_bytes(mesh: Mesh, unlit: bool = True, up: str = "y", name: str = "asset") -> bytes:
    """The mesh as a USDZ package, metres.

    Arguments:
        mesh: already turned so that ``up`` points up; a texture becomes the colour, without one the vertex colours
            (linear, as ``displayColor`` is defined).
        unlit: the colours contain their light: they are emitted instead of lit.
        up: the stage's ``upAxis``.
        name: of the root prim, made an identifier.
    """
    root = re.sub(r"\W", "_", name, flags=re.ASCII)
    root = root if re.match(r"[A-Za-z_]", root) else f"_{root}"
    files = {f"{root}.usda": b""}
    for kind, picture in pictures_of(mesh).items():
        files[f"textures/{_FILES[kind]}"] = png_bytes(picture)
    files[f"{root}.usda"] = _layer(mesh, root, unlit, up, {n.rpartition("/")[2] for n in files}).encode()
    return package(files)


def package(files: dict[str, bytes]) -> bytes:
    """A zip whose files are stored and begin at multiples of 64 bytes; the layer comes first."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as package:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            begin = buffer.tell() + 30 + len(name.encode()) + 4  # local header, name, head of the extra field
            padding = -begin % _ALIGNMENT
            entry.extra = struct.pack("<HH", _PADDING, padding) + b"\0" * padding
            package.writestr(entry, data)
    return buffer.getvalue()


def _layer(mesh: Mesh, root: str, unlit: bool, up: str, pictures: set[str]) -> str:
    facts = json.dumps(jsonable(mesh.extras), ensure_ascii=False, sort_keys=True)
    box = torch.stack([mesh.vertices.amin(0), mesh.vertices.amax(0)])
    lines = [
        "#usda 1.0", "(", f"    customLayerData = {{ string creator = {_quoted(generator())}",
        f"        string facts = {_quoted(facts)} }}", f'    defaultPrim = "{root}"', "    metersPerUnit = 1",
        f'    upAxis = "{up.upper()}"', ")", "", f'def Xform "{root}" (', '    kind = "component"', ")", "{",
        '    def Mesh "surface" (', '        prepend apiSchemas = ["MaterialBindingAPI"]', "    )", "    {",
        f"        float3[] extent = {_tuples(box)}",
        f"        int[] faceVertexCounts = [{', '.join(['3'] * len(mesh.faces))}]",
        f"        int[] faceVertexIndices = [{', '.join(map(str, mesh.faces.reshape(-1).tolist()))}]",
        f"        rel material:binding = </{root}/material>",
        f"        point3f[] points = {_tuples(mesh.vertices)}",
        '        uniform token subdivisionScheme = "none"',
        f"        uniform bool doubleSided = {int(mesh.double_sided)}",
    ]  # fmt: skip
    if mesh.normals is not None:
        lines += [
            f"        normal3f[] normals = {_tuples(mesh.normals)} (",
            '            interpolation = "vertex"',
        ]
        lines += ["        )"]
    if pictures - {f"{root}.usda"} and mesh.uv is not None:
        lines += [
            f"        texCoord2f[] primvars:st = {_tuples(mesh.uv)} (",
            '            interpolation = "vertex"',
        ]
        lines += ["        )"]
    colored = mesh.colors is not None and (mesh.texture is None or mesh.uv is None)
    if colored and mesh.colors is not None:
        from threedistill.render.shading import srgb_to_linear

        linear = srgb_to_linear(mesh.colors).clamp(0, 1)
        lines += [
            f"        color3f[] primvars:displayColor = {_tuples(linear)} (",
            '            interpolation = "vertex"',
        ]
        lines += ["        )"]
    lines += ["    }", "", *_material(mesh, root, unlit, pictures, colored), "}", ""]
    return "\n".join(lines)


def _material(mesh: Mesh, root: str, unlit: bool, pictures: set[str], colored: bool) -> Iterable[str]:
    """The shading network: a surface, a reader of coordinates, a texture per picture."""
    here = f"/{root}/material"
    base = f"<{here}/vertex_color.outputs:result>" if colored else f"<{here}/color.outputs:rgb>"
    has_color = colored or "color.png" in pictures
    yield '    def Material "material"'
    yield "    {"
    yield f"        token outputs:surface.connect = <{here}/surface.outputs:surface>"
    yield ""
    yield '        def Shader "surface"'
    yield "        {"
    yield '            uniform token info:id = "UsdPreviewSurface"'
    color = f".connect = {base}" if has_color else " = (0.8, 0.8, 0.8)"
    if unlit:
        yield "            color3f inputs:diffuseColor = (0, 0, 0)"
        yield f"            color3f inputs:emissiveColor{color}"
    else:
        yield f"            color3f inputs:emissiveColor{_emission(mesh, here)}"
        yield f"            color3f inputs:diffuseColor{color}"
    if mesh.alpha is not None:
        told = (
            f".connect = <{here}/color.outputs:a>" if "color.png" in pictures else f" = {_text(mesh.alpha)}"
        )
        yield f"            float inputs:opacity{told}"
        if mesh.alpha_cutoff is not None:
            yield f"            float inputs:opacityThreshold = {mesh.alpha_cutoff:.7g}"
    if "roughness_metallic.png" in pictures:
        yield f"            float inputs:roughness.connect = <{here}/roughness_metallic.outputs:g>"
        yield f"            float inputs:metallic.connect = <{here}/roughness_metallic.outputs:b>"
    else:
        known = mesh.metallic_roughness
        metallic, roughness = (0.0, 1.0) if known is None or not is_constant(known) else known[0, 0].tolist()
        yield f"            float inputs:roughness = {roughness:.7g}"
        yield f"            float inputs:metallic = {metallic:.7g}"
    if "normal.png" in pictures:
        yield f"            normal3f inputs:normal.connect = <{here}/normal.outputs:rgb>"
    yield "            token outputs:surface"
    yield "        }"
    if colored:
        yield from _shader(
            "vertex_color",
            "UsdPrimvarReader_float3",
            ['string inputs:varname = "displayColor"'],
            ["float3 outputs:result"],
        )
    if pictures & set(_FILES.values()):
        yield from _shader(
            "coordinates",
            "UsdPrimvarReader_float2",
            ['string inputs:varname = "st"'],
            ["float2 outputs:result"],
        )
    kinds = {
        "color": ("sRGB", [], ["float3 outputs:rgb", *(["float outputs:a"] if mesh.alpha is not None else [])]),
        "emission": ("sRGB", _strength(mesh), ["float3 outputs:rgb"]),
        "normal": (
            "raw", ["float4 inputs:bias = (-1, -1, -1, 0)", "float4 inputs:scale = (2, 2, 2, 1)"],
            ["float3 outputs:rgb"],
        ),
        "roughness_metallic": ("raw", [], ["float outputs:g", "float outputs:b"]),
    }  # fmt: skip
    for name, (space, more, outputs) in kinds.items():
        if f"{name}.png" not in pictures:
            continue
        inputs = [
            f"asset inputs:file = @textures/{name}.png@", f'token inputs:sourceColorSpace = "{space}"',
            f"float2 inputs:st.connect = <{here}/coordinates.outputs:result>",
            *(f'token inputs:wrap{axis} = "{kind}"' for axis, kind in zip("ST", mesh.wrap)), *more,
        ]  # fmt: skip
        yield from _shader(name, "UsdUVTexture", inputs, outputs)
    yield "    }"


def _emission(mesh: Mesh, here: str) -> str:
    """What the surface gives off: a picture, a number, or nothing."""
    if mesh.emission is None:
        return " = (0, 0, 0)"
    if not is_constant(mesh.emission):
        return f".connect = <{here}/emission.outputs:rgb>"
    from threedistill.render.shading import srgb_to_linear

    return f" = {_tuples(srgb_to_linear(mesh.emission[0]))[1:-1]}"


def _strength(mesh: Mesh) -> list[str]:
    if mesh.emission is None or (strength := within_one(mesh.emission)[1]) == 1:
        return []
    return [f"float4 inputs:scale = ({strength:.7g}, {strength:.7g}, {strength:.7g}, 1)"]


def _shader(name: str, kind: str, inputs: list[str], outputs: list[str]) -> Iterable[str]:
    yield ""
    yield f'        def Shader "{name}"'
    yield "        {"
    yield f'            uniform token info:id = "{kind}"'
    for line in (*inputs, *outputs):
        yield f"            {line}"
    yield "        }"


def _tuples(values: Tensor) -> str:
    rows = values.detach().cpu().float().numpy()
    form = "(" + ", ".join(["%.7g"] * rows.shape[1]) + ")"
    return "[" + ", ".join(form % tuple(row) for row in np.where(rows == 0, 0.0, rows).tolist()) + "]"


def _text(constant: Tensor) -> str:
    return f"{float(constant.reshape(-1)[0]):.7g}"


def _quoted(text: str) -> str:
    """A string of a USD layer."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'
