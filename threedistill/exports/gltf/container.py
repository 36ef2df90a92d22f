"""Opening glTF 2.0: the GLB's chunks, the checked JSON, and the bytes that it names."""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

from pydantic import ValidationError

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.bounded import parse_json
from threedistill.exports.foreign.limits import check
from threedistill.exports.gltf.extensions import check_required
from threedistill.exports.gltf.schema import Buffer, Document

__all__ = ["Gltf", "open_gltf", "pick", "unsound"]

_T = TypeVar("_T")
_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


class Gltf:
    """An open file.

    Attributes:
        path: where it came from, for messages and for the files beside it.
        document: its JSON.
        size: bytes of the file and of what it names so far; bounds are proportions of it.
    """

    def __init__(self, path: Path, document: Document, inside: bytes | None, size: int) -> None:
        self.path, self.document, self.size = path, document, size
        self._inside = inside
        self._buffers: dict[int, bytes | None] = {}

    def buffer(self, index: int, where: str) -> bytes:
        """The bytes of a buffer, at least as many as it says.

        Raises:
            ThreedistillError: it is missing, damaged or too short.
        """
        if index not in self._buffers:
            entry = pick(self, self.document.buffers, index, f"{where} names buffer")
            self._buffers[index] = self._load(entry, index)
        data = self._buffers[index]
        if data is None:
            raise unsound(self.path, f"{where} needs buffer {index}, which has no bytes")
        return data

    def _load(self, entry: Buffer, index: int) -> bytes | None:
        if entry.uri is not None:
            data = self.resource(entry.uri, f"buffer {index}")
        elif index == 0 and self._inside is not None:
            data = self._inside
        else:
            return None
        if len(data) < entry.byte_length:
            raise unsound(
                self.path, f"buffer {index} holds {len(data)} of its {entry.byte_length} bytes: it is cut off"
            )
        return data

    def resource(self, uri: str, what: str) -> bytes:
        """The bytes that a URI names: in the JSON itself, or in a file within the folder of this one.

        Raises:
            ThreedistillError: it lies elsewhere, or there is no such file.
        """
        shown = f"{what} ({uri[:60]!r})"
        if uri.startswith("data:"):
            head, _, body = uri.partition(",")
            if not head.endswith(";base64"):
                return unquote(body).encode("latin-1", "replace")
            try:
                return base64.b64decode(body, validate=True)
            except (binascii.Error, ValueError) as error:
                raise unsound(self.path, f"{what} is damaged base64") from error
        relative = Path(unquote(uri))
        folder = self.path.parent.resolve()
        try:
            file = (folder / relative).resolve()
            outside = not file.is_relative_to(folder)
        except (OSError, ValueError, RuntimeError):
            outside = True
        if outside or _SCHEME.match(uri) or relative.is_absolute():
            raise ThreedistillError(
                f"cannot read {self.path}: its {shown} lies outside its folder; put it beside the file, or pack all "
                "into one .glb"
            )
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise ThreedistillError(
                f"cannot read {self.path}: its {shown} is missing; it belongs at {file}"
            ) from None
        except OSError as error:
            raise ThreedistillError(
                f"cannot read {self.path}: its {shown} cannot be opened ({error.strerror})"
            ) from error
        self.size += len(data)
        return data


def unsound(path: Path | str, reason: str) -> ThreedistillError:
    """The refusal of a file that breaks the specification."""
    return ThreedistillError(f"cannot read {path}: not a sound glTF file ({reason})")


def pick(gltf: Gltf, items: Sequence[_T], index: int, where: str) -> _T:
    """``items[index]``; the reference is named where it leads nowhere.

    Raises:
        ThreedistillError: there are not that many.
    """
    if index >= len(items):
        raise unsound(gltf.path, f"{where} {str(index)[:20]}, there are {len(items)}")
    return items[index]


def open_gltf(path: Path) -> Gltf:
    """Read a ``.glb`` or ``.gltf`` file up to its JSON; buffers are read when they are asked for.

    Raises:
        ThreedistillError: missing or damaged files, other versions, and what the file requires that we do not honour.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ThreedistillError(f"cannot read {path}: {error.strerror or error}") from error
    text, inside = _chunks(path, data) if data[:4] == b"glTF" else (data.removeprefix(b"\xef\xbb\xbf"), None)
    if inside is None and not text.lstrip()[:1] == b"{":
        raise unsound(path, "it begins with neither 'glTF' nor a JSON object")
    content = parse_json(path, text)
    if not isinstance(content, dict):
        raise unsound(path, "its JSON is no object")
    _check_version(path, content.get("asset"))
    required = content.get("extensionsRequired", [])
    if isinstance(required, list):
        check_required(path, [name for name in required if isinstance(name, str)])
    try:
        document = Document.model_validate(content)
    except ValidationError as error:
        raise unsound(path, _first(error)) from None
    check(path, "nodes", len(document.nodes), "its scene")
    return Gltf(path, document, inside, len(data))


def _chunks(path: Path, data: bytes) -> tuple[bytes, bytes | None]:
    """The JSON of a GLB, and its binary chunk where it has one."""
    if len(data) < 20:
        raise unsound(path, "it is cut off in its header")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise ThreedistillError(
            f"cannot read {path}: its container is version {version}; only glTF 2 is read"
        )
    if length > len(data):
        raise unsound(path, f"it is cut off: {len(data)} of {length} bytes")
    chunks: list[tuple[bytes, bytes]] = []
    place = 12
    while place + 8 <= length and len(chunks) < 2:
        size, kind = struct.unpack_from("<I4s", data, place)
        if place + 8 + size > length:
            raise unsound(path, "a chunk is longer than the file")
        chunks.append((kind, data[place + 8 : place + 8 + size]))
        place += 8 + size
    if not chunks or chunks[0][0] != b"JSON":
        raise unsound(path, "its first chunk is not JSON")
    inside = chunks[1][1] if len(chunks) > 1 and chunks[1][0] == b"BIN\0" else b""
    return chunks[0][1], inside


def _check_version(path: Path, asset: Any) -> None:
    version = asset.get("version") if isinstance(asset, dict) else None
    least = asset.get("minVersion", "2.0") if isinstance(asset, dict) else None
    if not isinstance(version, str) or not re.fullmatch(r"\d{1,4}\.\d{1,4}", version):
        raise unsound(path, "asset.version is missing")
    if version.split(".")[0] != "2" or least != "2.0":
        raise ThreedistillError(
            f"cannot read {path}: it is glTF {version}{'' if least == '2.0' else f' (at least {str(least)[:20]})'}; "
            "only 2.0 is read (gltf-pipeline converts 1.0)"
        )


def _first(error: ValidationError) -> str:
    """The first fault, by its place in the JSON."""
    fault = error.errors(include_url=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
    value = fault["input"]
    shown = (
        "" if isinstance(value, (dict, list)) or fault["type"] == "missing" else f", not {str(value)[:40]!r}"
    )
    return f"{place[:120]}: {fault['msg'].replace('Input', 'it')[:100]}{shown}"
