"""``.ksplat`` (mkkellogg's viewer): sections of splats whose positions are 16-bit offsets in buckets. Read only.

A header of 4096 bytes, one of 1024 bytes for each section, then the sections: the sizes of buckets that are not full,
the buckets' centres, the splats. Compression level 0 stores floats; 1 stores half floats and quantised positions; 2 the
same with harmonics in bytes. Scales are linear, rotations (w, x, y, z), colours bytes; the harmonics of a degree stand
together, channel by channel. Source: github.com/mkkellogg/GaussianSplats3D, ``SplatBuffer.js``.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.splats.blocks import Block, check_count, from_blocks, logit
from threedistill.exports.splats.place import joined
from threedistill.render.harmonics import C0

__all__ = ["read_ksplat"]

_HEADER, _SECTION = 4096, 1024
#: Compression level -> (NumPy kind of positions, of scales and rotations, of harmonics), positions' default range.
_LEVELS = {0: ("<f4", "<f4", "<f4", 1), 1: ("<u2", "<f2", "<f2", 32767), 2: ("<u2", "<f2", "u1", 32767)}
_DEGREES = (0, 1, 2, 3)


@dataclass
class _Part:
    """One section: where its splats lie, and how positions follow from its buckets."""

    count: int
    degree: int
    splats: np.ndarray
    bucket: np.ndarray
    centers: np.ndarray
    step: float
    middle: int


def read_ksplat(path: Path, data: bytes) -> Opened:
    """The cloud in the file's own axes.

    Raises:
        ThreedistillError: another version, or sections that reach beyond the file or contradict each other.
    """
    if len(data) < _HEADER:
        raise ThreedistillError(f"cannot read {path}: not a sound ksplat file (its header is cut off)")
    major, minor = data[0], data[1]
    sections, _, _, promised = struct.unpack_from("<4I", data, 4)
    level = struct.unpack_from("<H", data, 20)[0]
    low, high = struct.unpack_from("<2f", data, 36)
    if (major, minor) < (0, 1) or major > 0 or level not in _LEVELS:
        raise ThreedistillError(
            f"cannot read {path}: ksplat version {major}.{minor} of compression level {level} is not known "
            "(0.1, levels 0 to 2, is)"
        )
    if _HEADER + sections * _SECTION > len(data):
        raise ThreedistillError(f"cannot read {path}: it is cut off, its header promises {sections} sections")
    if not low < high:  # older writers leave the range at zero
        low, high = -1.5, 1.5
    parts, start = [], _HEADER + sections * _SECTION
    for k in range(sections):
        part, start = _section(path, data, k, start, level)
        if part.count:
            parts.append(part)
    count = sum(part.count for part in parts)
    degree = max((part.degree for part in parts), default=0)
    if count != promised and promised:
        raise ThreedistillError(
            f"cannot read {path}: its sections hold {count} of the {promised} splats promised"
        )
    check_count(path, count, degree, len(data))
    clouds = [
        from_blocks(p.count, degree, lambda rows, p=p: _decoded(p, rows, degree, low, high)) for p in parts
    ]
    return Opened(joined(clouds))


def _section(path: Path, data: bytes, k: int, start: int, level: int) -> tuple[_Part, int]:
    """The k-th section, whose data begin at ``start``; and where the next one's do."""
    header = _HEADER + k * _SECTION
    count, room, capacity, buckets = struct.unpack_from("<4I", data, header)
    block, stride, spread = struct.unpack_from("<fHxxI", data, header + 16)
    full, partial, degree = struct.unpack_from("<IIH", data, header + 32)
    positions, floats, bytes_, default = _LEVELS[level]
    if degree not in _DEGREES or count > room:
        raise ThreedistillError(
            f"cannot read {path}: not a sound ksplat file (section {k} contradicts itself)"
        )
    record = np.dtype(
        [
            ("mean", positions, 3), ("scale", floats, 3), ("rotation", floats, 4), ("rgba", "u1", 4),
            ("rest", bytes_, (3 * ((degree + 1) ** 2 - 1),)),
        ]
    )  # fmt: skip
    storage = partial * 4 + stride * buckets
    end = start + storage + record.itemsize * room
    if end > len(data) or (buckets < full + partial and level):
        raise ThreedistillError(f"cannot read {path}: it is cut off, section {k} reaches beyond its end")
    splats = np.frombuffer(data, record, count, start + storage)
    centers, bucket = np.zeros((1, 3), np.float32), np.zeros(0, np.int64)
    if level and count:
        if stride < 12:
            raise ThreedistillError(
                f"cannot read {path}: not a sound ksplat file (section {k} has no buckets)"
            )
        sizes = np.frombuffer(data, "<u4", partial, start)
        lengths = np.concatenate([np.full(full, capacity, np.int64), sizes.astype(np.int64)])
        ends = np.cumsum(lengths.clip(max=count))
        if not len(ends) or ends[-1] < count:
            raise ThreedistillError(
                f"cannot read {path}: not a sound ksplat file (section {k} has too few buckets)"
            )
        bucket = ends
        centers = np.ndarray((buckets, 3), "<f4", data, start + partial * 4, (stride, 4)).astype(np.float32)
    middle = spread or default
    return _Part(count, degree, splats, bucket, centers, block / 2 / middle, middle), end


def _decoded(part: _Part, rows: slice, degree: int, low: float, high: float) -> Block:
    splats = part.splats[rows]
    means = splats["mean"].astype(np.float64)
    if len(part.bucket):
        which = np.searchsorted(part.bucket, np.arange(rows.start, rows.stop), side="right")
        means = (means - part.middle) * part.step + part.centers[which]
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.log(splats["scale"].astype(np.float32))
    sh = np.zeros((len(splats), (degree + 1) ** 2, 3), np.float32)
    sh[:, 0] = (splats["rgba"][:, :3] / 255 - 0.5) / C0
    rest = splats["rest"].astype(np.float32)
    if splats["rest"].dtype == np.uint8:
        rest = low + rest / 255 * (high - low)
    for l in range(1, part.degree + 1):
        first, width = l * l, 2 * l + 1
        band = rest[:, 3 * (first - 1) : 3 * (first - 1 + width)].reshape(len(splats), 3, width)
        sh[:, first : first + width] = band.transpose(0, 2, 1)
    return Block(means, scales, splats["rotation"], logit(splats["rgba"][:, 3] / 255), sh)
