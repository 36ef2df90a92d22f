"""glTF 2.0 binary: one mesh, one material, its picture inside. Equal input gives equal bytes."""

from __future__ import annotations

from pathlib import Path

import torch

from threedistill.atomic import write_bytes
from threedistill.exports.files import png_bytes
from threedistill.exports.gltf import Buffer, glb_file
from threedistill.types import Mesh

__all__ = ["glb_bytes", "write_glb"]

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP = 9729, 9987, 33071


def glb_bytes(mesh: Mesh, unlit: bool = True, name: str = "asset") -> bytes:
    """The mesh as a GLB: +Y up, front +Z, metres.

    A texture becomes the sRGB base colour; without one, vertex colours become ``COLOR_0``, which glTF defines as
    linear. ``unlit`` adds ``KHR_materials_unlit``: colours that already contain their light are shown as they are.
    Facts in ``mesh.extras`` go to ``asset.extras``.
    """
    from threedistill.render.shading import srgb_to_linear

    buffer = Buffer()
    attributes = {"POSITION": buffer.attribute(mesh.vertices, "positions", bounds=True)}
    if mesh.normals is not None:
        attributes["NORMAL"] = buffer.attribute(mesh.normals, "normals")
    material: dict[str, object] = {
        "name": f"{name}-material",
        "pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0},
    }
    pbr = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    document: dict[str, object] = {}
    if mesh.texture is not None and mesh.uv is not None:
        # glTF's texture origin is the top left, ours the bottom left.
        flipped = torch.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], 1)
        attributes["TEXCOORD_0"] = buffer.attribute(flipped, "texture coordinates")
    elif mesh.colors is not None:
        attributes["COLOR_0"] = buffer.attribute(srgb_to_linear(mesh.colors).clamp(0, 1), "linear colours")
    indices = buffer.indices(mesh.faces, len(mesh.vertices))
    if mesh.texture is not None and mesh.uv is not None:
        image = buffer.view(png_bytes(mesh.texture), "base colour")
        document["images"] = [{"bufferView": image, "mimeType": "image/png", "name": f"{name}-base-colour"}]
        document["samplers"] = [
            {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}
        ]
        document["textures"] = [{"sampler": 0, "source": 0, "name": f"{name}-base-colour"}]
        material["pbrMetallicRoughness"] = {"baseColorTexture": {"index": 0}, **pbr}
    if unlit:
        document["extensionsUsed"] = ["KHR_materials_unlit"]
        material["extensions"] = {"KHR_materials_unlit": {}}

    primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4}
    document |= {
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "materials": [material],
    }
    return glb_file(document, buffer, mesh.extras)


def write_glb(mesh: Mesh, path: Path, unlit: bool = True) -> None:
    """Write :func:`glb_bytes` atomically."""
    write_bytes(path, glb_bytes(mesh, unlit, path.stem))
