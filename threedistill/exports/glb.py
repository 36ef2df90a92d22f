"""glTF 2.0 binary: one mesh, one material, its picture inside. Equal input gives equal bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from threedistill.atomic import write_bytes
from threedistill.exports.files import png_bytes, roughness_and_metal
from threedistill.exports.gltf import Buffer, glb_file
from threedistill.types import Mesh

__all__ = ["glb_bytes", "write_glb"]

_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP = 9729, 9987, 33071


def glb_bytes(mesh: Mesh, unlit: bool = True, name: str = "asset") -> bytes:
    """The mesh as a GLB: +Y up, front +Z, metres.

    A texture becomes the sRGB base colour; without one, vertex colours become ``COLOR_0``, which glTF defines as
    linear. A normal map brings the tangents it was baked with; metalness and roughness share a picture. ``unlit``
    adds ``KHR_materials_unlit``: colours that already contain their light are shown as they are. Facts in
    ``mesh.extras`` go to ``asset.extras``.
    """
    from threedistill.exports.normal_map import vertex_tangents
    from threedistill.render.shading import srgb_to_linear

    buffer = Buffer()
    pictures = _pictures(mesh) if mesh.uv is not None else {}
    attributes = {"POSITION": buffer.attribute(mesh.vertices, "positions", bounds=True)}
    if mesh.normals is not None:
        attributes["NORMAL"] = buffer.attribute(mesh.normals, "normals")
    if "normal" in pictures:
        attributes["TANGENT"] = buffer.attribute(vertex_tangents(mesh), "tangents")
    if pictures and mesh.uv is not None:
        # glTF's texture origin is the top left, ours the bottom left.
        flipped = torch.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], 1)
        attributes["TEXCOORD_0"] = buffer.attribute(flipped, "texture coordinates")
    if "base-colour" not in pictures and mesh.colors is not None:
        attributes["COLOR_0"] = buffer.attribute(srgb_to_linear(mesh.colors).clamp(0, 1), "linear colours")
    indices = buffer.indices(mesh.faces, len(mesh.vertices))

    surface: dict[str, object] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    material: dict[str, object] = {"name": f"{name}-material", "pbrMetallicRoughness": surface}
    document: dict[str, object] = {}
    if pictures:
        slot = {kind: {"index": k} for k, kind in enumerate(pictures)}
        if "base-colour" in slot:
            surface["baseColorTexture"] = slot["base-colour"]
        if "metallic-roughness" in slot:
            surface |= {"metallicFactor": 1.0, "metallicRoughnessTexture": slot["metallic-roughness"]}
        if "normal" in slot:
            material["normalTexture"] = slot["normal"]
        document["images"] = [
            {
                "bufferView": buffer.view(png_bytes(image), kind),
                "mimeType": "image/png",
                "name": f"{name}-{kind}",
            }
            for kind, image in pictures.items()
        ]
        document["samplers"] = [
            {"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _CLAMP, "wrapT": _CLAMP}
        ]
        document["textures"] = [
            {"sampler": 0, "source": k, "name": f"{name}-{kind}"} for k, kind in enumerate(pictures)
        ]
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


def _pictures(mesh: Mesh) -> dict[str, Tensor]:
    """The mesh's pictures as glTF wants them, by what they are."""
    found = {"base-colour": mesh.texture, "normal": mesh.normal_map}
    if mesh.metallic_roughness is not None:
        found["metallic-roughness"] = roughness_and_metal(mesh.metallic_roughness)
    return {kind: image for kind, image in found.items() if image is not None}


def write_glb(mesh: Mesh, path: Path, unlit: bool = True) -> None:
    """Write :func:`glb_bytes` atomically."""
    write_bytes(path, glb_bytes(mesh, unlit, path.stem))
