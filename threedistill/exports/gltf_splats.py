"""glTF splats, ``KHR_gaussian_splatting``: a primitive of points whose attributes are the splats, in a GLB.

The frame is glTF's, which is ours. Viewers without the extension show coloured points. Source: the extension's
specification (release candidate of 2026), kernel ``ellipse``, colour space ``srgb_rec709_display``.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.gltf import Buffer, glb_file
from threedistill.exports.splat_cloud import rotated
from threedistill.render.harmonics import C0
from threedistill.render.shading import srgb_to_linear
from threedistill.types import Splats

__all__ = ["EXTENSION", "gltf_splat_bytes", "is_gltf_splats", "read_gltf_splats"]

EXTENSION = "KHR_gaussian_splatting"
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
_SPLATS_IN_GLTF = 1 << 28


def gltf_splat_bytes(splats: Splats, name: str = "asset") -> bytes:
    """The cloud as a GLB: linear scales, opacities in [0, 1], unit quaternions (x, y, z, w), float coefficients."""
    buffer = Buffer()
    opacity = torch.sigmoid(splats.opacity_logits.double())
    quaternion = torch.nn.functional.normalize(splats.quaternions.double(), dim=1)
    attributes = {"POSITION": buffer.attribute(splats.means, "positions", bounds=True)}
    color = srgb_to_linear((0.5 + C0 * splats.sh[:, 0]).clamp(0, 1))
    attributes["COLOR_0"] = buffer.bytes_attribute(
        torch.cat([color, opacity[:, None].to(color)], 1), "points"
    )
    rows = {
        "ROTATION": quaternion[:, [1, 2, 3, 0]], "SCALE": torch.exp(splats.log_scales.double()), "OPACITY": opacity,
    }  # fmt: skip
    for degree in range(splats.sh_degree + 1):
        for k in range(2 * degree + 1):
            rows[f"SH_DEGREE_{degree}_COEF_{k}"] = splats.sh[:, degree * degree + k]
    for key, values in rows.items():
        attributes[f"{EXTENSION}:{key}"] = buffer.attribute(values, key.lower())
    primitive = {
        "attributes": attributes,
        "mode": 0,
        "extensions": {
            EXTENSION: {
                "kernel": "ellipse",
                "colorSpace": "srgb_rec709_display",
                "projection": "perspective",
                "sortingMethod": "cameraDistance",
            }
        },
    }
    document: dict[str, object] = {
        "extensionsUsed": [EXTENSION],
        "scene": 0,
        "scenes": [{"name": name, "nodes": [0]}],
        "nodes": [{"name": name, "mesh": 0}],
        "meshes": [{"name": name, "primitives": [primitive]}],
    }
    return glb_file(document, buffer, splats.extras)


def is_gltf_splats(path: Path) -> bool:
    """Whether a GLB or glTF file holds splats rather than a mesh."""
    try:
        document, _ = _opened(path, path.read_bytes())
    except (ThreedistillError, OSError):
        return False
    return any(True for _ in _primitives(document))


def read_gltf_splats(path: Path, data: bytes) -> Splats:
    """The cloud of every splat primitive of the scene, placed by its nodes, in our frame.

    Raises:
        ThreedistillError: no splats, missing attributes, another colour space or kernel, damaged files.
    """
    try:
        document, binary = _opened(path, data)
        placed = list(_placed(document))
        if not placed:
            raise ThreedistillError(f"cannot read {path}: it holds no splats ({EXTENSION})")
        clouds = [_cloud(path, document, binary, primitive, matrix) for primitive, matrix in placed]
    except ThreedistillError:
        raise
    except Exception as error:  # JSON can be wrong in any place
        text = " ".join(str(error).split())[:120] or type(error).__name__
        raise ThreedistillError(f"cannot read {path}: not a sound glTF file ({text})") from error
    extras = document.get("asset", {}).get("extras", {})
    width = max(cloud.sh.shape[1] for cloud in clouds)
    padded = [torch.nn.functional.pad(c.sh, (0, 0, 0, width - c.sh.shape[1])) for c in clouds]

    def all_of(name: str) -> Tensor:
        return torch.cat([getattr(cloud, name) for cloud in clouds])

    return Splats(
        all_of("means"), all_of("log_scales"), all_of("quaternions"), all_of("opacity_logits"), torch.cat(padded),
        extras if isinstance(extras, dict) else {},
    )  # fmt: skip


def _opened(path: Path, data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """The document and its buffers."""
    if data[:4] == b"glTF":
        if len(data) < 20 or struct.unpack_from("<I", data, 8)[0] > len(data):
            raise ThreedistillError(f"cannot read {path}: not a sound glTF file (it is cut off)")
        length = struct.unpack_from("<I", data, 12)[0]
        document, inside = _parsed(path, data[20 : 20 + length]), data[28 + length :]
    else:
        document, inside = _parsed(path, data), b""
    buffers = []
    for entry in document.get("buffers", ()):
        uri = entry.get("uri")
        if uri is None:
            buffers.append(inside)
        elif uri.startswith("data:"):
            try:
                buffers.append(base64.b64decode(uri.partition(",")[2], validate=True))
            except binascii.Error as error:
                raise ThreedistillError(f"cannot read {path}: a buffer inside it is damaged") from error
        elif "/" in uri or "\\" in uri:
            raise ThreedistillError(f"cannot read {path}: its buffer {uri!r} lies in another folder")
        else:
            try:
                buffers.append((path.parent / uri).read_bytes())
            except OSError as error:
                raise ThreedistillError(f"cannot read {path}: its buffer {uri!r} is not beside it") from error
    return document, buffers


def _parsed(path: Path, text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, UnicodeDecodeError) as error:
        raise ThreedistillError(f"cannot read {path}: not a sound glTF file (no JSON inside)") from error
    if not isinstance(document, dict):
        raise ThreedistillError(f"cannot read {path}: not a sound glTF file (no JSON object inside)")
    return document


def _primitives(document: dict[str, Any]) -> Any:
    for mesh in document.get("meshes", ()):
        for primitive in mesh.get("primitives", ()):
            if EXTENSION in primitive.get("extensions", {}):
                yield primitive


def _placed(document: dict[str, Any]) -> Any:
    """Every splat primitive with the matrix of the node that shows it."""
    nodes = document.get("nodes", [])
    scenes = document.get("scenes")
    roots = scenes[document.get("scene", 0)].get("nodes", []) if scenes else range(len(nodes))
    waiting = [(root, np.eye(4), 0) for root in roots]
    while waiting:
        index, above, depth = waiting.pop(0)
        if depth > 64:
            raise ValueError("its nodes run in a circle")
        node = nodes[index]
        matrix = above @ _local(node)
        waiting += [(child, matrix, depth + 1) for child in node.get("children", ())]
        if "mesh" in node:
            for primitive in document["meshes"][node["mesh"]].get("primitives", ()):
                if EXTENSION in primitive.get("extensions", {}):
                    yield primitive, matrix


def _local(node: dict[str, Any]) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1, 1, 1)), float)
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _cloud(
    path: Path, document: dict[str, Any], binary: list[bytes], primitive: dict[str, Any], matrix: Any
) -> Splats:
    said = primitive["extensions"][EXTENSION]
    if said.get("kernel", "ellipse") != "ellipse":
        raise ThreedistillError(
            f"cannot read {path}: splats of the kernel {said['kernel']!r} are not supported"
        )
    if said.get("colorSpace", "srgb_rec709_display") != "srgb_rec709_display":
        raise ThreedistillError(
            f"cannot read {path}: splats in the colour space {said['colorSpace']!r} are not supported"
        )
    if primitive.get("mode") != 0:
        raise ThreedistillError(f"cannot read {path}: its splats are not points (mode 0)")

    def attribute(key: str) -> Tensor:
        semantic = key if key == "POSITION" else f"{EXTENSION}:{key}"
        if semantic not in primitive["attributes"]:
            raise ThreedistillError(f"cannot read {path}: its splats lack {semantic}")
        return _accessor(document, binary, primitive["attributes"][semantic])

    degree = 0
    while degree < 3 and f"{EXTENSION}:SH_DEGREE_{degree + 1}_COEF_0" in primitive["attributes"]:
        degree += 1
    coefficients = [attribute(f"SH_DEGREE_{l}_COEF_{k}") for l in range(degree + 1) for k in range(2 * l + 1)]
    opacity = attribute("OPACITY")[:, 0].clamp(1e-6, 1 - 1e-6)
    cloud = Splats(
        attribute("POSITION"), attribute("SCALE").clamp(min=1e-12).log(), attribute("ROTATION")[:, [3, 0, 1, 2]],
        torch.logit(opacity.double()).float(), torch.stack(coefficients, 1),
    )  # fmt: skip
    scale = np.cbrt(np.linalg.det(matrix[:3, :3]))
    turn = matrix[:3, :3] / scale if scale > 0 else matrix[:3, :3]
    if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or scale <= 0:
        raise ThreedistillError(
            f"cannot read {path}: its splats are placed by more than a turn and one scale"
        )
    if not np.allclose(turn, np.eye(3), atol=1e-9):
        cloud = rotated(cloud, torch.from_numpy(turn))
    if scale != 1:
        cloud.means, cloud.log_scales = cloud.means * float(scale), cloud.log_scales + math.log(scale)
    cloud.means = cloud.means + torch.from_numpy(matrix[:3, 3]).float()
    return cloud


def _accessor(document: dict[str, Any], binary: list[bytes], index: int) -> Tensor:
    """(count, width) floats; normalised integers become fractions."""
    accessor = document["accessors"][index]
    kind, width, count = (
        np.dtype(_COMPONENTS[accessor["componentType"]]),
        _WIDTHS[accessor["type"]],
        accessor["count"],
    )
    if not 0 < count <= _SPLATS_IN_GLTF:
        raise ValueError(f"an accessor of {count} elements")
    view = document["bufferViews"][accessor["bufferView"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    stride = view.get("byteStride", kind.itemsize * width)
    data = binary[view["buffer"]]
    if start + stride * (count - 1) + kind.itemsize * width > len(data):
        raise ValueError("an accessor reaches beyond its buffer")
    array = np.ndarray((count, width), kind, data, start, (stride, kind.itemsize)).astype(np.float64)
    if accessor.get("normalized") and kind.kind in "iu":
        array = np.maximum(array / np.iinfo(kind).max, -1.0)
    return torch.from_numpy(array.astype(np.float32))
