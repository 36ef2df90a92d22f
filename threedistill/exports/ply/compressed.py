"""PlayCanvas' compressed PLY: chunks of 256 splats, four 32-bit words each, within the chunk's bounds.

A position and a scale are 11, 10 and 11 bits between the chunk's extremes, a rotation the index of its largest
component and the other three in 10 bits each, a colour and an opacity 8 bits each; harmonics above degree 0 are bytes
in an element of their own. Source: developer.playcanvas.com, "PLY format", section on compressed PLY.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from threedistill.errors import ThreedistillError
from threedistill.exports.ply.header import Header, numbers
from threedistill.exports.splats.blocks import THIN, Block, check_count, from_blocks, logit, with_largest
from threedistill.render.harmonics import C0
from threedistill.types import Splats

__all__ = ["is_compressed", "read_compressed_ply"]

_CHUNK = 256
_WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")
#: f_rest fields -> degree.
_DEGREES = {0: 0, 9: 1, 24: 2, 45: 3}


def is_compressed(header: Header) -> bool:
    """Whether a PLY is of this kind."""
    vertex = header.element("vertex")
    return vertex is not None and "packed_position" in vertex.names


def read_compressed_ply(path: Path, data: bytes, header: Header, flat: bool) -> tuple[Splats, list[str]]:
    """The cloud in the file's own axes, and what of the file is not in it.

    Arguments:
        path, data, header: the file.
        flat: it says that it holds 2D Gaussians: the third scale has no meaning.

    Raises:
        ThreedistillError: fields or chunks are missing, or the file is cut off.
    """
    vertex, chunk, sh = (header.element(name) for name in ("vertex", "chunk", "sh"))
    if vertex is None or chunk is None:
        raise ThreedistillError(f"cannot read {path}: a compressed ply has a chunk and a vertex element")
    colored = any(name in chunk.names for name in _bounds("r", "g", "b"))
    bounds = _bounds("x", "y", "z", "scale_x", "scale_y", "scale_z", *(("r", "g", "b") if colored else ()))
    for element, wanted in ((vertex, _WORDS), (chunk, bounds)):
        missing = [name for name in wanted if name not in element.names]
        if missing:
            raise ThreedistillError(f"cannot read {path}: its {element.name} element lacks {missing[0]}")
    if any(p.kind != "u4" or p.length for p in vertex.properties if p.name in _WORDS):
        raise ThreedistillError(f"cannot read {path}: the packed fields of a compressed ply are of type uint")
    count = vertex.count
    if chunk.count * _CHUNK < count:
        raise ThreedistillError(
            f"cannot read {path}: {chunk.count} chunks of 256 are too few for {count} splats"
        )
    rest = [name for name in sh.names if name.startswith("f_rest_")] if sh else []
    degree = _DEGREES.get(len(rest))
    if degree is None or rest != [f"f_rest_{k}" for k in range(len(rest))]:
        raise ThreedistillError(
            f"cannot read {path}: {len(rest)} f_rest fields are no whole degree of harmonics (0, 9, 24 or 45 are)"
        )
    if sh and degree and sh.count != count:
        raise ThreedistillError(f"cannot read {path}: it has harmonics for {sh.count} of {count} splats")
    check_count(path, count, degree, len(data))
    words, chunks = numbers(path, data, header, "vertex"), numbers(path, data, header, "chunk")
    higher = numbers(path, data, header, "sh") if degree else None

    def decode(rows: slice) -> Block:
        part = words[rows]
        where = chunks[np.arange(rows.start, rows.stop) // _CHUNK]

        def between(names: tuple[str, ...], fractions: np.ndarray) -> np.ndarray:
            low, high = (
                np.stack([where[f"{end}_{n}"] for n in names], 1).astype(np.float64) for end in ("min", "max")
            )
            return low + (high - low) * fractions

        scales = between(("scale_x", "scale_y", "scale_z"), _11_10_11(part["packed_scale"]))
        if flat:
            scales[:, 2] = scales[:, :2].min(1) + THIN
        bytes_ = np.stack([(part["packed_color"] >> shift) & 255 for shift in (24, 16, 8, 0)], 1) / 255
        color = between(("r", "g", "b"), bytes_[:, :3]) if colored else bytes_[:, :3]
        harmonics = np.empty((len(part), (degree + 1) ** 2, 3), np.float32)
        harmonics[:, 0] = (color - 0.5) / C0
        if higher is not None:
            harmonics[:, 1:] = _harmonics(higher[rows], len(rest) // 3)
        return Block(
            between(("x", "y", "z"), _11_10_11(part["packed_position"])), scales,
            _rotation(part["packed_rotation"]), logit(bytes_[:, 3]), harmonics,
        )  # fmt: skip

    known = {"chunk", "vertex", "sh"}
    others = [element.name[:40] for element in header.elements if element.name not in known and element.count]
    return from_blocks(count, degree, decode), [f"the element {name}" for name in others]


def _bounds(*names: str) -> list[str]:
    """The fields of a chunk that hold the extremes of these."""
    return [f"{end}_{name}" for name in names for end in ("min", "max")]


def _11_10_11(words: np.ndarray) -> np.ndarray:
    """(N, 3) fractions of three components in 11, 10 and 11 bits, the first in the highest."""
    return np.stack([(words >> 21) / 2047, ((words >> 11) & 1023) / 1023, (words & 2047) / 2047], 1)


def _rotation(words: np.ndarray) -> np.ndarray:
    """(N, 4) quaternions (w, x, y, z): the index of the largest in 2 bits, the others times sqrt 1/2 in 10 each."""
    largest = (words >> 30).astype(np.int64)
    three = (np.stack([(words >> shift) & 1023 for shift in (20, 10, 0)], 1) / 1023 - 0.5) * np.sqrt(2.0)
    return with_largest(largest, three)


def _harmonics(part: np.ndarray, coefficients: int) -> np.ndarray:
    """(N, coefficients, 3) from bytes that stand for the middles of 256 steps in [-4, 4], the ends for themselves."""
    bytes_ = np.stack([part[f"f_rest_{k}"] for k in range(3 * coefficients)], 1).astype(np.float32)
    fraction = np.where(bytes_ == 0, 0, np.where(bytes_ == 255, 1, (bytes_ + 0.5) / 256))
    return ((fraction - 0.5) * 8).reshape(len(part), 3, coefficients).transpose(0, 2, 1)
