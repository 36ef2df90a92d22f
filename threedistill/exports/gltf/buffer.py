"""The container of glTF 2.0: a binary buffer with views and accessors, and the GLB file around both."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

import numpy as np
from torch import Tensor

from threedistill.exports.files import generator, jsonable

__all__ = ["Buffer", "glb_file"]

FLOAT, UBYTE, USHORT, UINT = 5126, 5121, 5123, 5125
_VERTICES, _INDICES = 34962, 34963  # bufferView targets


class Buffer:
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
        """Append a float vertex attribute, (N,) or (N, 2..4), and return the accessor's index."""
        array = np.ascontiguousarray(values.detach().cpu().numpy(), dtype="<f4")
        accessor: dict[str, object] = {
            "bufferView": self.view(array.tobytes(), name, _VERTICES),
            "componentType": FLOAT,
            "count": len(array),
            "type": "SCALAR" if array.ndim == 1 else f"VEC{array.shape[1]}",
            "name": name,
        }
        if bounds:
            accessor["min"] = [float(v) for v in array.min(0)]
            accessor["max"] = [float(v) for v in array.max(0)]
        self.accessors.append(accessor)
        return len(self.accessors) - 1

    def bytes_attribute(self, values: Tensor, name: str) -> int:
        """Append (N, 4) values in [0, 1] as normalised bytes and return the accessor's index."""
        array = (values.detach().clamp(0, 1) * 255).round().byte().cpu().numpy()
        self.accessors.append(
            {
                "bufferView": self.view(array.tobytes(), name, _VERTICES),
                "componentType": UBYTE,
                "normalized": True,
                "count": len(array),
                "type": "VEC4",
                "name": name,
            }
        )
        return len(self.accessors) - 1

    def indices(self, faces: Tensor, vertices: int) -> int:
        """Append triangle indices, 16 bits wide where they fit, and return the accessor's index."""
        wide = vertices > 65535  # 65535 itself is the primitive restart value
        array = faces.detach().cpu().numpy().astype("<u4" if wide else "<u2").reshape(-1)
        self.accessors.append(
            {
                "bufferView": self.view(array.tobytes(), "indices", _INDICES),
                "componentType": UINT if wide else USHORT,
                "count": len(array),
                "type": "SCALAR",
                "name": "indices",
            }
        )
        return len(self.accessors) - 1


def glb_file(document: Mapping[str, object], buffer: Buffer, extras: Mapping[str, object]) -> bytes:
    """A GLB of a document that names everything but ``asset``, accessors and buffers."""
    asset: dict[str, object] = {"version": "2.0", "generator": generator()}
    if extras:
        asset["extras"] = jsonable(extras)
    complete = {
        **document,
        "asset": asset,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    text = json.dumps(complete, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    body += struct.pack("<I4s", len(buffer.data), b"BIN\0") + bytes(buffer.data)
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body
