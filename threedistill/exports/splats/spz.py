"""``.spz`` (Niantic): quantised splats, gzip-compressed, about ten times smaller than a PLY.

Written as version 3; versions 1 to 4 are read. The frame is the format's own: right, up, back, which is ours. Source:
github.com/nianticlabs/spz, README ("File Format") and ``load-spz.cc``.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.bounded import gunzip, unzstd
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.splats.blocks import Block, check_count, from_blocks, logit
from threedistill.render.harmonics import MAX_DEGREE
from threedistill.types import Splats

__all__ = ["read_spz", "spz_bytes"]

_MAGIC = 0x5053474E  # "NGSP"
_COLOR = 0.15  # the share of a byte's range that a degree-0 coefficient of 1 takes
_VERSIONS = (1, 2, 3, 4)
_HIGHEST_DEGREE = 4
_EXTENDED = 2  # a flag: a vendor's extensions follow
_HALF_ROOT = math.sqrt(0.5)


def spz_bytes(splats: Splats) -> bytes:
    """The file (version 3): positions 24-bit fixed point, everything else bytes, rotations 10 bits a component.

    As many bits as the extent leaves are spent on the fraction, so an object of a metre keeps micrometres.
    Coefficients of the harmonics above degree 0 are rounded to 5 (degree 1) and 4 bits within [-1, 1], as Niantic's
    library does; that is what makes the files small.
    """
    means = splats.means.double()
    bits = max(0, min(20, 22 - math.frexp(float(means.abs().max()))[1]))
    fixed = (means * (1 << bits)).round().clamp(-(1 << 23), (1 << 23) - 1).to(torch.int64)
    position = torch.stack([fixed & 255, (fixed >> 8) & 255, (fixed >> 16) & 255], -1)
    alpha = torch.sigmoid(splats.opacity_logits.double()) * 255
    color = splats.sh[:, 0].double() * (_COLOR * 255) + 127.5
    scale = (splats.log_scales.double() + 10) * 16
    parts = [_bytes(position), _bytes(alpha), _bytes(color), _bytes(scale), _packed(splats.quaternions)]
    parts += [_bytes(_harmonics(splats.sh.double()))]
    header = struct.pack("<IIIBBBB", _MAGIC, 3, len(splats), splats.sh_degree, bits, 0, 0)
    return gzip.compress(header + b"".join(parts), compresslevel=9, mtime=0)


def _bytes(values: Tensor) -> bytes:
    return values.round().clamp(0, 255).to(torch.uint8).cpu().numpy().tobytes()


def _harmonics(sh: Tensor) -> Tensor:
    """Bytes (value * 128 + 128) at the centres of 5- and 4-bit buckets, coefficient by coefficient, channels inside."""
    bucket = torch.full((sh.shape[1] - 1, 1), 16.0, dtype=sh.dtype)
    bucket[:3] = 8.0
    return ((sh[:, 1:] * 128 + 128) / bucket).round() * bucket


def _packed(quaternions: Tensor) -> bytes:
    """The index of the largest of (x, y, z, w) in two bits, the other three as sign and nine bits."""
    q = torch.nn.functional.normalize(quaternions.double(), dim=1)[:, [1, 2, 3, 0]]
    largest = q.abs().argmax(1)
    q = q * torch.where(q.gather(1, largest[:, None]) < 0, -1.0, 1.0)
    magnitude = (q.abs() / _HALF_ROOT * 511).round().clamp(max=511).to(torch.int64)
    word = largest.clone()
    for k in range(4):
        shifted = (word << 10) | ((q[:, k] < 0).long() << 9) | magnitude[:, k]
        word = torch.where(largest == k, word, shifted)
    return word.numpy().astype("<u4").tobytes()


def read_spz(path: Path, data: bytes) -> Opened:
    """The cloud in the file's axes, which are ours.

    Raises:
        ThreedistillError: another version, more harmonics than the format has, damaged or short files.
    """
    zipped = data[:2] == b"\x1f\x8b"
    head = gunzip(path, data, 16) if zipped else data[:16]
    if len(head) < 16 or struct.unpack_from("<I", head)[0] != _MAGIC:
        raise ThreedistillError(f"cannot read {path}: not a sound spz file (it does not begin with NGSP)")
    _, version, count, degree, bits, flags, streams = struct.unpack_from("<IIIBBBB", head)
    if version not in _VERSIONS:
        raise ThreedistillError(f"cannot read {path}: spz version {version} is not known (1 to 4 are)")
    if degree > _HIGHEST_DEGREE:
        raise ThreedistillError(
            f"cannot read {path}: it claims harmonics of degree {degree} (spz has 0 to 4)"
        )
    if bits > 23 and version > 1:
        raise ThreedistillError(f"cannot read {path}: it claims {bits} bits of fraction in 24-bit positions")
    check_count(path, count, min(degree, MAX_DEGREE), len(data))
    higher = (degree + 1) ** 2 - 1
    sizes = [6 if version == 1 else 9, 1, 3, 3, 3 if version < 3 else 4, 3 * higher]
    parts = (_streams if version == 4 else _blocks)(path, data, count, sizes, streams)
    position, alpha, color, scale, rotation, rest = parts
    kept = min(degree, MAX_DEGREE)

    def decode(rows: slice) -> Block:
        sh = np.empty((rows.stop - rows.start, (kept + 1) ** 2, 3), np.float32)
        sh[:, 0] = (color[rows] / 255 - 0.5) / _COLOR
        sh[:, 1:] = (rest[rows].reshape(len(sh), -1, 3)[:, : sh.shape[1] - 1] - 128.0) / 128
        return Block(
            _half_positions(position[rows]) if version == 1 else _fixed_positions(position[rows], bits),
            scale[rows] / 16 - 10.0,
            (_first_three if version < 3 else _smallest_three)(rotation[rows]),
            logit(alpha[rows, 0] / 255),
            sh,
        )

    lost = [f"harmonics of degree {degree}"] if degree > MAX_DEGREE else []
    if flags & _EXTENDED:
        lost.append("a vendor's extensions")
    return Opened(from_blocks(count, kept, decode), lost=lost)


def _blocks(path: Path, data: bytes, count: int, sizes: list[int], streams: int) -> list[np.ndarray]:
    """Versions 1 to 3: one stream, the attributes one behind the other."""
    body = gunzip(path, data, 16 + count * sum(sizes)) if data[:2] == b"\x1f\x8b" else data
    if len(body) < 16 + count * sum(sizes):
        raise ThreedistillError(f"cannot read {path}: it is cut off, its header promises {count} splats")
    starts = np.cumsum([16, *(count * size for size in sizes)])
    return [
        np.frombuffer(body, np.uint8, count * size, start).reshape(count, size)
        for start, size in zip(starts.tolist(), sizes)
    ]


def _streams(path: Path, data: bytes, count: int, sizes: list[int], streams: int) -> list[np.ndarray]:
    """Version 4: a table of sizes somewhere behind the 32-byte header, then one Zstandard frame per attribute."""
    expected = [count * size for size in sizes if size]
    table = struct.unpack_from("<I", data, 16)[0] if len(data) >= 32 else 0
    start = table + 16 * streams
    if table < 32 or streams != len(expected) or start > len(data):
        raise ThreedistillError(f"cannot read {path}: not a sound spz file (its table of streams is damaged)")
    parts = []
    for k, size in enumerate(expected):
        packed, unpacked = struct.unpack_from("<QQ", data, table + 16 * k)
        if unpacked != size or start + packed > len(data):
            raise ThreedistillError(f"cannot read {path}: not a sound spz file (stream {k} has another size)")
        stream = unzstd(path, data[start : start + packed], size)
        parts.append(np.frombuffer(stream, np.uint8).reshape(count, -1))
        start += packed
    return parts if sizes[-1] else [*parts, np.empty((count, 0), np.uint8)]


def _fixed_positions(part: np.ndarray, bits: int) -> np.ndarray:
    """24-bit fixed point, little-endian, of which ``bits`` are the fraction."""
    low, middle, high = np.moveaxis(part.reshape(len(part), 3, 3).astype(np.int32), 2, 0)
    return (low | (middle << 8) | ((high ^ 128) - 128 << 16)) / float(1 << bits)


def _half_positions(part: np.ndarray) -> np.ndarray:
    """Version 1: half floats."""
    return np.ascontiguousarray(part).view("<f2").astype(np.float32)


def _first_three(part: np.ndarray) -> np.ndarray:
    """Versions 1 and 2: x, y and z as bytes; w is not negative."""
    xyz = part / 127.5 - 1
    w = np.sqrt(np.clip(1 - (xyz**2).sum(1, keepdims=True), 0, None))
    return np.concatenate([w, xyz], 1)


def _smallest_three(part: np.ndarray) -> np.ndarray:
    """Versions 3 and 4: the index of the largest of (x, y, z, w) in two bits, the others as sign and nine bits."""
    word = np.ascontiguousarray(part).view("<u4")[:, 0]
    largest = (word >> 30).astype(np.int64)
    q = np.zeros((len(word), 4))
    for k in (3, 2, 1, 0):
        value = (word & 511) / 511 * _HALF_ROOT
        value = np.where((word >> 9) & 1 == 1, -value, value)
        stored = largest != k
        q[:, k] = np.where(stored, value, 0)
        word = np.where(stored, word >> 10, word)
    missing = np.sqrt(np.clip(1 - (q**2).sum(1), 0, None))
    np.put_along_axis(q, largest[:, None], missing[:, None], 1)
    return q[:, [3, 0, 1, 2]]
