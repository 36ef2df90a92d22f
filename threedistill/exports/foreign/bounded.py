"""Unpacking within the limits: JSON, gzip and Zstandard, zip members, pictures; each is sized before it is opened."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.limits import check, check_pixels, check_unpacked, current

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["gunzip", "open_picture", "parse_json", "unzip", "unzstd"]

_TOKENS = re.compile(rb'\\.|["\[\]{},]', re.DOTALL)
_PICTURES = ("PNG", "JPEG", "WEBP")
_STEP = 1 << 22  # bytes that are unpacked at a time


def parse_json(path: Path | str, text: bytes, what: str = "its JSON") -> Any:
    """A JSON text, after its values have been counted.

    Arguments:
        path: the file, for messages.
        text: UTF-8.
        what: the text in words.

    Raises:
        ThreedistillError: no JSON, more values or deeper than the limits allow.
    """
    depth = deepest = values = 0
    inside = False
    most_values, most_depth = current().json_values, current().json_depth
    for token in _TOKENS.finditer(text):
        mark = text[token.start()]
        if mark == 0x22:  # "
            inside = not inside
        elif inside or mark == 0x5C:  # \
            continue
        elif mark in b"[{":
            depth, values = depth + 1, values + 1
            deepest = max(deepest, depth)
            if most_depth is not None and depth > most_depth:
                break
        elif mark == 0x2C:
            values += 1
            if most_values is not None and values > most_values:
                break
        else:
            depth -= 1
    check(path, "json_depth", deepest, what)
    check(path, "json_values", values, what)
    try:
        return json.loads(text)
    except RecursionError as error:  # the limit was lifted, Python's own was not
        raise ThreedistillError(f"cannot read {path}: {what} is nested {deepest} levels deep") from error
    except ValueError as error:  # UnicodeDecodeError is one
        raise ThreedistillError(f"cannot read {path}: {what} is not sound ({str(error)[:80]})") from error


def gunzip(path: Path | str, data: bytes, size: int | None = None) -> bytes | bytearray:
    """The first ``size`` bytes of a gzip stream, of all of its members.

    Arguments:
        path: the file, for messages.
        data: the stream.
        size: how many are wanted; None = all of them.

    Raises:
        ThreedistillError: a damaged stream, or one that grows beyond the limits. A short one is returned as it is.
    """
    found = bytearray()
    rest = data
    try:
        while rest and (size is None or len(found) < size):
            stream = zlib.decompressobj(wbits=31)
            while not stream.eof and (size is None or len(found) < size):
                part = stream.decompress(rest, _STEP if size is None else min(_STEP, size - len(found)))
                rest = stream.unconsumed_tail
                if not part and not rest and not stream.eof:
                    return found  # cut off: the caller knows how much there should be
                found += part
                check_unpacked(path, len(found), len(data))
            rest = stream.unused_data
    except zlib.error as error:
        raise ThreedistillError(f"cannot read {path}: its gzip stream is damaged ({error})") from error
    return found


def unzstd(path: Path | str, data: bytes, size: int) -> bytes:
    """A Zstandard frame that must hold ``size`` bytes.

    Raises:
        ThreedistillError: a damaged frame, or one of another size.
    """
    import zstandard

    try:
        # A stream takes what is asked for; a single call would take what the frame's own header claims.
        decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27)
        found = decoder.stream_reader(data, read_size=max(len(data), 1)).read(size)
    except zstandard.ZstdError as error:
        raise ThreedistillError(f"cannot read {path}: its Zstandard stream is damaged ({error})") from error
    if len(found) != size:
        raise ThreedistillError(
            f"cannot read {path}: it is cut off, a stream ends after {len(found)} of {size} bytes"
        )
    return found


def unzip(path: Path | str, bundle: zipfile.ZipFile, names: Iterable[str], packed: int) -> dict[str, bytes]:
    """Members of a zip archive, after their sizes have been added up.

    Arguments:
        path: the file, for messages.
        bundle: the archive.
        names: the members wanted.
        packed: bytes of the archive.

    Raises:
        ThreedistillError: a member is missing or damaged, encrypted or of an unknown method; too many or too large.
    """
    check(path, "members", len(bundle.infolist()))
    wanted = list(dict.fromkeys(names))
    missing = [name for name in wanted if name not in bundle.NameToInfo]
    if missing:
        raise ThreedistillError(f"cannot read {path}: it lacks its part {missing[0][:80]!r}")
    check_unpacked(path, sum(bundle.getinfo(name).file_size for name in wanted), packed)
    found = {}
    for name in wanted:
        try:
            found[name] = bundle.read(name)  # stops at the size that its header says
        except (
            zipfile.BadZipFile,
            zlib.error,
            NotImplementedError,
            RuntimeError,
            EOFError,
            OSError,
        ) as error:
            raise ThreedistillError(
                f"cannot read {path}: its part {name[:80]!r} is damaged ({str(error)[:80]})"
            ) from error
    return found


def open_picture(
    path: Path | str, data: bytes, what: str, most: int | None = None, kinds: Iterable[str] = _PICTURES
) -> Image.Image:
    """A picture whose size has been checked; Pillow decodes it when its pixels are asked for.

    Arguments:
        path: the file that holds it, for messages.
        data: the picture's own bytes.
        what: the picture in words.
        most: pixels that it can have by what the file says elsewhere; None = the limit ``pixels`` alone.
        kinds: Pillow's names of the formats that may stand here; no other decoder is tried.

    Raises:
        ThreedistillError: no picture of these kinds, or too large.
    """
    from PIL import Image

    def bounded(width: int, height: int) -> None:
        if most is not None and width * height > most:
            raise ThreedistillError(
                f"cannot read {path}: {what} has {width} x {height} pixels where at most {most} belong"
            )
        check_pixels(path, width * height, len(data), what)

    webp = _webp_size(data)
    if webp is not None:  # Pillow's decoder takes the memory of the whole picture when it opens it
        bounded(*webp)
    bound = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # ours is the limit that a user can raise
    try:
        picture = Image.open(io.BytesIO(data), formats=tuple(kinds))
    except Exception as error:  # decoders fail in many ways
        raise ThreedistillError(f"cannot read {path}: {what} is no sound picture") from error
    finally:
        Image.MAX_IMAGE_PIXELS = bound
    bounded(*picture.size)
    return picture


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP file from its header (RFC 9649, sections 2.5 to 2.7); None for other files."""
    if len(data) < 30 or data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
