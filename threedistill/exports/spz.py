"""``.spz`` (Niantic): quantised splats, gzip-compressed, about ten times smaller than a PLY.

Written as version 3; versions 2 and 3 are read, and 4 where a Zstandard decoder is installed. The frame is the
format's own: right, up, back, which is ours. Source: github.com/nianticlabs/spz, README ("File Format").
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.types import Splats

__all__ = ["read_spz", "spz_bytes"]

_MAGIC = 0x5053474E  # "NGSP"
_COLOR = 0.15  # the share of a byte's range that a degree-0 coefficient of 1 takes
_REST = (0, 9, 24, 45)
_LARGEST_COUNT = 1 << 28
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


def read_spz(path: Path, data: bytes) -> Splats:
    """The cloud, in our frame.

    Raises:
        ThreedistillError: another version, harmonics above degree 3, damaged or short files.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ThreedistillError(f"cannot read {path}: not a sound spz file ({error})") from error
    if len(data) < 16 or struct.unpack_from("<I", data)[0] != _MAGIC:
        raise ThreedistillError(f"cannot read {path}: not a sound spz file (it does not begin with NGSP)")
    _, version, count, degree, bits, _, streams = struct.unpack_from("<IIIBBBB", data)
    if version not in (2, 3, 4):
        raise ThreedistillError(f"cannot read {path}: spz version {version} is not known (2, 3 and 4 are)")
    if degree > 3 or bits > 24:
        raise ThreedistillError(
            f"cannot read {path}: harmonics of degree {degree} are not supported (0 to 3 are)"
        )
    if count == 0 or count > _LARGEST_COUNT:
        raise ThreedistillError(f"cannot read {path}: it claims {count} splats")
    sizes = [9, 1, 3, 3, 3 if version == 2 else 4, _REST[degree]]
    if version == 4:
        body = _zstd_streams(path, data, streams, [count * size for size in sizes])
    else:
        body = data[16:]
    if len(body) < count * sum(sizes):
        raise ThreedistillError(f"cannot read {path}: it is cut off, its header promises {count} splats")
    parts, start = [], 0
    for size in sizes:
        part = np.frombuffer(body, np.uint8, count * size, start).reshape(count, size)
        parts.append(torch.from_numpy(part.astype(np.int64)))
        start += count * size
    position, alpha, color, scale, rotation, rest = parts
    low, middle, high = position.view(count, 3, 3).unbind(-1)
    fixed = low | (middle << 8) | (high << 16)
    fixed = torch.where(fixed >= 1 << 23, fixed - (1 << 24), fixed)
    dc = (color.double() / 255 - 0.5) / _COLOR
    higher = (rest.double() - 128) / 128
    opacity = (alpha[:, 0].double() / 255).clamp(1e-4, 1 - 1e-4)
    return Splats(
        means=(fixed.double() / (1 << bits)).float(), log_scales=(scale.double() / 16 - 10).float(),
        quaternions=_first_three(rotation) if version == 2 else _smallest_three(rotation),
        opacity_logits=torch.logit(opacity).float(),
        sh=torch.cat([dc[:, None], higher.view(count, -1, 3)], 1).float(),
    )  # fmt: skip


def _first_three(rotation: Tensor) -> Tensor:
    """Version 2: x, y and z as bytes; w is not negative."""
    xyz = rotation.double() / 127.5 - 1
    w = (1 - xyz.square().sum(1, keepdim=True)).clamp(min=0).sqrt()
    return torch.cat([w, xyz], 1).float()


def _smallest_three(rotation: Tensor) -> Tensor:
    word = (rotation << torch.tensor([0, 8, 16, 24])).sum(1)
    largest = word >> 30
    q = torch.zeros(len(word), 4, dtype=torch.float64)
    for k in (3, 2, 1, 0):
        value = (word & 511).double() / 511 * _HALF_ROOT
        value = torch.where((word >> 9) & 1 == 1, -value, value)
        stored = largest != k
        q[:, k] = torch.where(stored, value, 0.0)
        word = torch.where(stored, word >> 10, word)
    missing = (1 - q.square().sum(1)).clamp(min=0).sqrt()
    q = q.scatter(1, largest[:, None], missing[:, None])
    return q[:, [3, 0, 1, 2]].float()


def _zstd_streams(path: Path, data: bytes, streams: int, sizes: list[int]) -> bytes:
    """Version 4: a table of sizes behind the 32-byte header, then one Zstandard frame per attribute."""
    decompress = _zstd()
    if decompress is None:
        raise ThreedistillError(
            f"cannot read {path}: spz version 4 needs Zstandard; pip install zstandard, or write version 3"
        )
    sizes = [size for size in sizes if size]
    try:
        table = struct.unpack_from("<I", data, 16)[0]
        entries = [struct.unpack_from("<QQ", data, table + 16 * k) for k in range(streams)]
        if [size for _, size in entries] != sizes:
            raise ValueError("its streams have other sizes than its header says")
        start, parts = table + 16 * streams, []
        for packed, size in entries:
            parts.append(decompress(data[start : start + packed], size))
            start += packed
    except Exception as error:
        raise ThreedistillError(f"cannot read {path}: not a sound spz file ({error})") from error
    return b"".join(parts)


def _zstd() -> Any:
    """A function (bytes, size) -> bytes, or None."""
    try:
        from compression import zstd  # pyright: ignore[reportMissingImports]  # Python 3.14

        return lambda packed, size: zstd.decompress(packed)[:size]
    except ImportError:
        pass
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    return lambda packed, size: zstandard.ZstdDecompressor().decompress(packed, max_output_size=size)
