"""glTF 2.0 binary: one mesh, one material, its picture inside. Equal input gives equal bytes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threedistill.atomic import write_bytes
from threedistill.exports.files import png_bytes
from threedistill.types import Mesh

__all__ = ["glb_bytes", "write_glb"]

_FLOAT, _USHORT, _UINT = 5126, 5123, 5125
_VERTICES, _INDICES = 34962, 34963  # bufferView targets
_LINEAR, _LINEAR_MIPMAP_LINEAR, _CLAMP = 9729, 9987, 33071


def generator() -> str:
    """What wrote a file, as the formats that can say so do."""
    from threedistill import __version__

    return f"threedistill {__version__}"


def jsonable(value: object) -> object:
    """Facts as JSON can hold them: numbers that are not finite become null, unknown types their text."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return [jsonable(v) for v in items]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


class _Buffer:
    """The binary chunk as it grows, with the views and accessors into it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, object]] = []
        self.accessors: list[dict[str, object]] = []

    def view(self, data: bytes, name: str, target: int | None = None) -> int:
        """Append bytes (padded to four) and return the view's index."""
        view: dict[str, object] = {
            "buffer": 0,
            "byteOffset": len(self.data),
            "byteLength": len(data),
            "name": name,
        }
        if target is not None:
            view["target"] = target
        self.data += data + b"\0" * (-len(data) % 4)
        self.views.append(view)
        return len(self.views) - 1

    def attribute(self, values: Tensor, name: str, bounds: bool = False) -> int:
        """Append a float vertex attribute and return the accessor's index."""
        array = np.ascontiguousarray(values.detach().cpu().numpy(), dtype="<f4")
        accessor: dict[str, object] = {
            "bufferView": self.view(array.tobytes(), name, _VERTICES),
            "componentType": _FLOAT,
            "count": len(array),
            "type": f"VEC{array.shape[1]}",
            "name": name,
        }
        if bounds:
            accessor["min"] = [float(v) for v in array.min(0)]
            accessor["max"] = [float(v) for v in array.max(0)]
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def indices(self, faces: Tensor, vertices: int) -> int:
        """Append triangle indices, 16 bits wide where they fit, and return the accessor's index."""
        wide = vertices > 65535  # 65535 itself is the primitive restart value
        array = faces.detach().cpu().numpy().astype("<u4" if wide else "<u2").reshape(-1)
        self.accessors.append(
            {
                "bufferView": self.view(array.tobytes(), "indices", _INDICES),
                "componentType": _UINT if wide else _USHORT,
                "count": len(array),
                "type": "SCALAR",
                "name": "indices",
            }
        )
        return len(self.accessors) - 1


def glb_bytes(mesh: Mesh, unlit: bool = True, name: str = "asset") -> bytes:
    """The mesh as a GLB: +Y up, front +Z, metres.

    A texture becomes the sRGB base colour; without one, vertex colours become ``COLOR_0``, which glTF defines as
    linear. ``unlit`` adds ``KHR_materials_unlit``: colours that already contain their light are shown as they are.
    Facts in ``mesh.extras`` go to ``asset.extras``.
    """
    from threedistill.render.shading import srgb_to_linear

    buffer = _Buffer()
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

    asset: dict[str, object] = {"version": "2.0", "generator": generator()}
    if mesh.extras:
        asset["extras"] = jsonable(mesh.extras)
    primitive = {"attributes": attributes, "indices": indices, "material": 0, "mode": 4}
    document |= {
        "asset": asset,
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [primitive]}],
        "materials": [material],
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    body += struct.pack("<I4s", len(buffer.data), b"BIN\0") + bytes(buffer.data)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def write_glb(mesh: Mesh, path: Path, unlit: bool = True) -> None:
    """Write :func:`glb_bytes` atomically."""
    write_bytes(path, glb_bytes(mesh, unlit, path.stem))
