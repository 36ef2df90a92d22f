"""glTF 2.0 binary: one mesh, one material, its picture inside. Equal input gives equal bytes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from threedistill.atomic import write_bytes
from threedistill.exports.appearance.pictures import is_constant, pictures_of, within_one
from threedistill.exports.files import png_bytes
from threedistill.exports.frames import Frame
from threedistill.exports.gltf.buffer import Buffer, glb_file
from threedistill.exports.settings import FileSettings
from threedistill.types import Mesh, Wrap

__all__ = ["WRAPS", "glb_bytes", "write_glb"]

_LINEAR, _LINEAR_MIPMAP_LINEAR = 9729, 9987
WRAPS: dict[Wrap, int] = {"clamp": 33071, "mirror": 33648, "repeat": 10497}


def glb_bytes(mesh: Mesh, unlit: bool = True, name: str = "asset") -> bytes:
    """The mesh as a GLB: +Y up, front +Z, metres.

    A texture becomes the sRGB base colour; without one, vertex colours become ``COLOR_0``, which glTF defines as
    linear. A normal map brings the tangents it was baked with; metalness and roughness share a picture; a picture of
    one texel is written as a factor. ``unlit`` adds ``KHR_materials_unlit``: colours that already contain their light
    are shown as they are. Facts in ``mesh.extras`` go to ``asset.extras``.
    """
    from threedistill.exports.meshes.normal_map import vertex_tangents
    from threedistill.render.shading import srgb_to_linear

    buffer = Buffer()
    pictures = pictures_of(mesh)
    attributes = {"POSITION": buffer.attribute(mesh.vertices, "positions", bounds=True)}
    if mesh.normals is not None:
        attributes["NORMAL"] = buffer.attribute(mesh.normals, "normals")
    if "normal" in pictures:
        attributes["TANGENT"] = buffer.attribute(vertex_tangents(mesh), "tangents")
    if pictures:
        assert mesh.uv is not None
        # glTF's texture origin is the top left, ours the bottom left.
        flipped = torch.stack([mesh.uv[:, 0], 1 - mesh.uv[:, 1]], 1)
        attributes["TEXCOORD_0"] = buffer.attribute(flipped, "texture coordinates")
    if mesh.texture is None and mesh.colors is not None:
        attributes["COLOR_0"] = buffer.attribute(srgb_to_linear(mesh.colors).clamp(0, 1), "linear colours")
    indices = buffer.indices(mesh.faces, len(mesh.vertices))

    material, extensions = _material(mesh, pictures, unlit)
    material["name"] = f"{name}-material"
    document: dict[str, object] = {}
    if pictures:
        document["images"] = [
            {
                "bufferView": buffer.view(png_bytes(image), kind),
                "mimeType": "image/png",
                "name": f"{name}-{kind}",
            }
            for kind, image in pictures.items()
        ]
        document["samplers"] = [
            {
                "magFilter": _LINEAR,
                "minFilter": _LINEAR_MIPMAP_LINEAR,
                "wrapS": WRAPS[mesh.wrap[0]],
                "wrapT": WRAPS[mesh.wrap[1]],
            }
        ]
        document["textures"] = [
            {"sampler": 0, "source": k, "name": f"{name}-{kind}"} for k, kind in enumerate(pictures)
        ]
    if extensions:
        document["extensionsUsed"] = extensions

    primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4}
    document |= {
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "materials": [material],
    }
    return glb_file(document, buffer, mesh.extras)


def _material(mesh: Mesh, pictures: dict[str, Tensor], unlit: bool) -> tuple[dict[str, object], list[str]]:
    """The one material and the extensions that it uses."""
    from threedistill.render.shading import srgb_to_linear

    slot = {kind: {"index": k} for k, kind in enumerate(pictures)}
    surface: dict[str, object] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
    material: dict[str, object] = {"pbrMetallicRoughness": surface}
    extensions: dict[str, object] = {}
    if "base-colour" in slot:
        surface["baseColorTexture"] = slot["base-colour"]
    elif mesh.alpha is not None:
        surface["baseColorFactor"] = [1.0, 1.0, 1.0, float(mesh.alpha[0, 0, 0])]
    if "metallic-roughness" in slot:
        surface |= {"metallicFactor": 1.0, "metallicRoughnessTexture": slot["metallic-roughness"]}
    elif mesh.metallic_roughness is not None and is_constant(mesh.metallic_roughness):
        metallic, roughness = mesh.metallic_roughness[0, 0].tolist()
        surface |= {"metallicFactor": metallic, "roughnessFactor": roughness}
    if "normal" in slot:
        material["normalTexture"] = slot["normal"]
    if mesh.emission is not None:
        colour, strength = within_one(mesh.emission)
        if "emission" in slot:
            material |= {"emissiveFactor": [1.0, 1.0, 1.0], "emissiveTexture": slot["emission"]}
        elif is_constant(colour):
            material["emissiveFactor"] = srgb_to_linear(colour[0, 0]).clamp(0, 1).tolist()
        if strength > 1:
            extensions["KHR_materials_emissive_strength"] = {"emissiveStrength": strength}
    if mesh.alpha is not None:
        material["alphaMode"] = "BLEND" if mesh.alpha_cutoff is None else "MASK"
        if mesh.alpha_cutoff is not None:
            material["alphaCutoff"] = mesh.alpha_cutoff
    if mesh.double_sided:
        material["doubleSided"] = True
    if unlit:
        extensions["KHR_materials_unlit"] = {}
    if extensions:
        material["extensions"] = extensions
    return material, sorted(extensions)


def write_glb(mesh: Mesh, path: Path, settings: FileSettings, frame: Frame) -> None:
    """Write :func:`glb_bytes` atomically."""
    write_bytes(path, glb_bytes(mesh, settings.unlit, path.stem))
