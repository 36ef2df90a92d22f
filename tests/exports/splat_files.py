"""Splat files written byte by byte from their formats' specifications, with known right answers."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

__all__ = ["ksplat_file", "packed_ply", "ply_file", "sog_file", "spz_body", "webp"]

PLAIN = {
    "x": 0.0, "y": 0.0, "z": 0.0, "f_dc_0": 0.5, "f_dc_1": 0.0, "f_dc_2": -0.5, "opacity": 1.0, "scale_0": -3.0,
    "scale_1": -4.0, "scale_2": -5.0, "rot_0": 1.0, "rot_1": 0.0, "rot_2": 0.0, "rot_3": 0.0,
}  # fmt: skip


def ply_file(
    rows: Sequence[Mapping[str, float]] = ({}, {}), without: Sequence[str] = (), comments: Sequence[str] = (),
    kinds: Mapping[str, tuple[str, str]] | None = None, behind: bytes = b"", elements: str = "",
) -> bytes:  # fmt: skip
    """A 3DGS PLY of float fields: each row is a plain splat with changes, further names become further fields.

    Arguments:
        rows: what differs from a plain splat.
        without: fields to leave out.
        comments: lines of the header.
        kinds: PLY and NumPy type of fields that are no floats.
        behind, elements: bytes and header lines of further elements.
    """
    kinds = kinds or {}
    names = [n for n in dict.fromkeys([*PLAIN, *(n for row in rows for n in row)]) if n not in without]
    record = np.dtype([(n, kinds.get(n, ("float", "<f4"))[1]) for n in names])
    table = np.array([tuple({**PLAIN, **row}[n] for n in names) for row in rows], record)
    head = ["ply", "format binary_little_endian 1.0", *(f"comment {c}" for c in comments)]
    head += [
        f"element vertex {len(rows)}",
        *(f"property {kinds.get(n, ('float', ''))[0]} {n}" for n in names),
    ]
    return ("\n".join(head) + f"\n{elements}end_header\n").encode() + table.tobytes() + behind


def packed_ply(count: int, degree: int = 0, comments: Sequence[str] = (), colored: bool = True) -> bytes:
    """PlayCanvas' form: every chunk spans [-1, 3] in positions, [-8, -2] in log scales, [0, 2] in colours.

    Splat k has the position words (k, 2 k, 3 k) of 11, 10 and 11 bits, the scale words (2047, 0, 1024), the colour
    bytes (255, 0, 51), the opacity byte 204, a rotation whose largest component is k % 4 beside (1023, 512, 0).
    """
    chunks = -(-count // 256)
    names = [f"{end}_{n}" for end in ("min", "max") for n in ("x", "y", "z")]
    names += [f"{end}_scale_{n}" for end in ("min", "max") for n in ("x", "y", "z")]
    bounds = [-1] * 3 + [3] * 3 + [-8] * 3 + [-2] * 3
    if colored:
        names += [f"{end}_{n}" for end in ("min", "max") for n in ("r", "g", "b")]
        bounds += [0] * 3 + [2] * 3
    k = np.arange(count, dtype=np.uint64)
    words = np.zeros((count, 4), "<u4")
    words[:, 0] = (k % 2048 << 21) | (2 * k % 1024 << 11) | (3 * k % 2048)
    words[:, 1] = (k % 4 << 30) | (1023 << 20) | (512 << 10) | 0
    words[:, 2] = (2047 << 21) | (0 << 11) | 1024
    words[:, 3] = (255 << 24) | (0 << 16) | (51 << 8) | 204
    rest = 3 * ((degree + 1) ** 2 - 1)
    head = [
        "ply",
        "format binary_little_endian 1.0",
        *(f"comment {c}" for c in comments),
        f"element chunk {chunks}",
    ]
    head += [f"property float {name}" for name in names]
    head += [f"element vertex {count}"]
    head += [f"property uint packed_{name}" for name in ("position", "rotation", "scale", "color")]
    body = np.tile(np.array(bounds, "<f4"), chunks).tobytes() + words.tobytes()
    if degree:
        head += [f"element sh {count}", *(f"property uchar f_rest_{n}" for n in range(rest))]
        body += np.tile(np.arange(rest, dtype=np.uint8) * 5, count).tobytes()
    return ("\n".join([*head, "end_header"]) + "\n").encode() + body


def spz_body(version: int, degree: int = 0, bits: int = 12, flags: int = 0) -> bytes:
    """Two splats of versions 1 to 3 before compression: (1.5, -2, 0.25) and (0, 0, -1)."""
    positions = np.array([[1.5, -2, 0.25], [0, 0, -1]])
    if version == 1:
        place = positions.astype("<f2").tobytes()
    else:
        fixed = (positions * (1 << bits)).astype("<i4").reshape(-1)
        place = b"".join(int(v).to_bytes(4, "little", signed=True)[:3] for v in fixed)
    turn = bytes([128, 191, 128] * 2) if version < 3 else struct.pack("<2I", *[3 << 30 | 361 << 10] * 2)
    rest = bytes([128 + 64] * 3 + [128] * (3 * ((degree + 1) ** 2 - 1) - 3)) * 2 if degree else b""
    head = struct.pack("<IIIBBBB", 0x5053474E, version, 2, degree, bits, flags, 0)
    return (
        head + place + bytes([255, 51]) + bytes([255, 0, 127] * 2) + bytes([112, 96, 160] * 2) + turn + rest
    )


def webp(pixels: np.ndarray) -> bytes:
    """(H, W, 4) bytes as a lossless picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def sog_file(meta: Mapping[str, object], pictures: Mapping[str, np.ndarray | bytes]) -> bytes:
    """A bundle of pictures and their description."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        bundle.writestr("meta.json", meta if isinstance(meta, bytes) else json.dumps(meta))
        for name, picture in pictures.items():
            bundle.writestr(name, picture if isinstance(picture, bytes) else webp(picture))
    return buffer.getvalue()


def ksplat_file(level: int, degree: int = 0, counts: Sequence[int] = (3, 2), full: int = 0) -> bytes:
    """Sections of splats at (k + 1) / 4 along x from their buckets' centres (10 s, 20, 30), as SplatBuffer.js lays out.

    A block is 5 wide and its range 32767 (65535 in the second section); linear scales are (0.5, 0.25, 0.125), rotations
    (0.5, 0.5, 0.5, 0.5), colours (255, 0, 51, 204); harmonic c of a splat is c / 64 (level 2: the byte c in [-2, 2]).
    """
    rest = 3 * ((degree + 1) ** 2 - 1)
    header = bytearray(4096)
    header[:2] = 0, 1
    struct.pack_into("<5I", header, 4, len(counts), len(counts), sum(counts), sum(counts), level)
    struct.pack_into("<2f", header, 36, -2, 2)
    heads, bodies = b"", b""
    for s, count in enumerate(counts):
        spread = (32767, 65535 // 2)[s % 2] if level else 1
        head = bytearray(1024)
        struct.pack_into("<4I", head, 0, count, count + 1, 2, 2 if level else 0)
        struct.pack_into("<fHxxI", head, 16, 5.0, 12 if level else 0, spread)
        struct.pack_into("<IIH", head, 32, 1 if level else 0, 1 if level else 0, degree)
        heads += bytes(head)
        splats = b""
        for k in range(count):
            offset = ((k + 1) / 4, 0, 0)
            if level:
                quantised = [round(v / (2.5 / spread)) + spread for v in offset]
                splats += struct.pack("<3H3e4e", *quantised, 0.5, 0.25, 0.125, 0.5, 0.5, 0.5, 0.5)
            else:
                splats += struct.pack(
                    "<3f3f4f", 10 * s + offset[0], 20, 30, 0.5, 0.25, 0.125, 0.5, 0.5, 0.5, 0.5
                )
            splats += bytes([255, 0, 51, 204])
            if level == 2:
                splats += bytes(range(rest))
            else:
                splats += struct.pack(f"<{rest}{'e' if level else 'f'}", *(c / 64 for c in range(rest)))
        room = len(splats) // count
        buckets = struct.pack("<I", count - 2) + struct.pack("<6f", *[10 * s, 20, 30] * 2) if level else b""
        bodies += buckets + splats + bytes(room)
    return bytes(header) + heads + bodies
