"""glTF files put together and taken apart byte by byte as the specification says: no library has a part in them."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CODES = {"i1": 5120, "u1": 5121, "i2": 5122, "u2": 5123, "u4": 5125, "f4": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}

#: Two metres square in the plane z = 0, facing +Z; uv of glTF, so (0, 0) is the picture's top left.
CORNERS = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], "<f4")
QUAD = np.array([0, 1, 2, 0, 2, 3], "<u2")
QUAD_UV = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], "<f4")
#: Top left, top right, bottom left, bottom right: no two channels agree everywhere.
FOUR = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 0]]], np.uint8)


def png(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """A picture file."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


def four(size: int = 64) -> np.ndarray:
    """The picture of four colours, ``size`` texels a side."""
    return FOUR.repeat(size // 2, 0).repeat(size // 2, 1)


class File:
    """A document and its binary chunk as they grow."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.document: dict[str, Any] = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": []}]}

    def add(self, kind: str, entry: dict[str, Any]) -> int:
        """Append to one of the document's lists and return the index."""
        rows = self.document.setdefault(kind, [])
        rows.append(entry)
        return len(rows) - 1

    def view(self, data: bytes, **more: Any) -> int:
        """A buffer view of these bytes."""
        start = len(self.data)
        self.data += data + b"\0" * (-len(data) % 4)
        return self.add("bufferViews", {"buffer": 0, "byteOffset": start, "byteLength": len(data), **more})

    def array(
        self, values: Any, kind: str = "f4", normalized: bool = False, stride: int | None = None
    ) -> int:
        """An accessor of (N,) or (N, width) values, ``stride`` bytes from one to the next where given."""
        values = np.asarray(values)
        rows = np.ascontiguousarray(values.reshape(len(values), -1), f"<{kind}")
        entry: dict[str, Any] = {
            "componentType": CODES[kind],
            "count": len(rows),
            "type": TYPES[rows.shape[1]],
        }
        if normalized:
            entry["normalized"] = True
        if stride is None:
            entry["bufferView"] = self.view(rows.tobytes())
        else:
            size = rows.shape[1] * rows.itemsize
            padded = b"".join(row.tobytes() + b"\xaa" * (stride - size) for row in rows)
            entry["bufferView"] = self.view(padded, byteStride=stride)
        if rows.shape[1] == 3 and kind == "f4":
            entry["min"], entry["max"] = rows.min(0).tolist(), rows.max(0).tolist()
        return self.add("accessors", entry)

    def texture(self, data: bytes, sampler: dict[str, Any] | None = None, mime: str = "image/png") -> int:
        """A texture of a picture file within the binary chunk."""
        image = self.add("images", {"bufferView": self.view(data), "mimeType": mime})
        entry: dict[str, Any] = {"source": image}
        if sampler is not None:
            entry["sampler"] = self.add("samplers", sampler)
        return self.add("textures", entry)

    def quad(
        self,
        material: dict[str, Any] | None = None,
        uv: np.ndarray | None = QUAD_UV,
        corners: np.ndarray = CORNERS,
        **attributes: int,
    ) -> dict[str, Any]:
        """The primitive of a quad."""
        primitive: dict[str, Any] = {"attributes": {"POSITION": self.array(corners), **attributes}}
        primitive["indices"] = self.array(QUAD, "u2")
        if uv is not None:
            primitive["attributes"]["TEXCOORD_0"] = self.array(uv)
        if material is not None:
            primitive["material"] = self.add("materials", material)
        return primitive

    def show(self, *primitives: dict[str, Any], **node: Any) -> int:
        """A mesh of these primitives at a root node of the scene; returns the node."""
        mesh = self.add("meshes", {"primitives": list(primitives)})
        index = self.add("nodes", {"mesh": mesh, **node})
        self.document["scenes"][0]["nodes"].append(index)
        return index

    def use(self, *extensions: str, required: bool = False) -> None:
        """Name extensions."""
        self.document.setdefault("extensionsUsed", []).extend(extensions)
        if required:
            self.document.setdefault("extensionsRequired", []).extend(extensions)

    def glb(self) -> bytes:
        """The file."""
        document = dict(self.document)
        if self.data:
            document.setdefault("buffers", [{"byteLength": len(self.data)}])
        return container(json.dumps(document).encode(), bytes(self.data))

    def write(self, path: Path) -> Path:
        """The file on disk."""
        path.write_bytes(self.glb())
        return path


def container(text: bytes, binary: bytes = b"") -> bytes:
    """A GLB of any JSON text."""
    text += b" " * (-len(text) % 4)
    body = struct.pack("<I4s", len(text), b"JSON") + text
    if binary:
        binary += b"\0" * (-len(binary) % 4)
        body += struct.pack("<I4s", len(binary), b"BIN\0") + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(body)) + body


def taken_apart(path: Path) -> tuple[dict[str, Any], bytes]:
    """A GLB's document and its binary chunk."""
    data = path.read_bytes()
    assert data[:4] == b"glTF" and struct.unpack_from("<II", data, 4) == (2, len(data))
    length, kind = struct.unpack_from("<I4s", data, 12)
    assert kind == b"JSON"
    return json.loads(data[20 : 20 + length]), data[28 + length :]


def pictures_in(document: dict[str, Any], binary: bytes) -> list[Image.Image]:
    """The pictures of a GLB, in the order of its images."""
    views = [document["bufferViews"][image["bufferView"]] for image in document.get("images", ())]
    return [Image.open(io.BytesIO(binary[v["byteOffset"] :][: v["byteLength"]])) for v in views]


def floats_in(document: dict[str, Any], binary: bytes, name: str) -> np.ndarray:
    """An attribute of the first primitive that is stored as packed floats: (N, width)."""
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"][name]]
    assert accessor["componentType"] == CODES["f4"]
    width = {kind: number for number, kind in TYPES.items()}[accessor["type"]]
    start = document["bufferViews"][accessor["bufferView"]]["byteOffset"] + accessor.get("byteOffset", 0)
    return np.frombuffer(binary, "<f4", accessor["count"] * width, start).reshape(-1, width).astype(float)
