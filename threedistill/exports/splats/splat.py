"""``.splat`` (antimatter15): 32 bytes a splat without header, constant colours, the most visible first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.opened import Opened
from threedistill.exports.splats.blocks import Block, check_count, from_blocks, logit
from threedistill.render.harmonics import C0
from threedistill.types import Splats

__all__ = ["read_splat", "splat_bytes"]

_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])
#: Positions further than this, or a share of splats larger than that, are no splats but other bytes.
_FAR, _NONSENSE = 1e9, 0.1


def splat_bytes(splats: Splats) -> bytes:
    """The file: positions and linear scales as floats, sRGB colour and opacity as bytes, ``q * 128 + 128``.

    Harmonics above degree 0 have no place in it. Splats are in order of falling volume times opacity, so that a
    viewer that streams the file shows the shape early.
    """
    opacity = torch.sigmoid(splats.opacity_logits.double())
    order = torch.argsort(
        torch.exp(splats.log_scales.double().sum(1)) * opacity, descending=True, stable=True
    )
    color = torch.cat([0.5 + C0 * splats.sh[:, 0].double(), opacity[:, None]], 1).clamp(0, 1)
    quaternion = torch.nn.functional.normalize(splats.quaternions.double(), dim=1)
    records = np.empty(len(splats), dtype=_RECORD)
    records["mean"] = splats.means[order].numpy()
    records["scale"] = torch.exp(splats.log_scales.double())[order].numpy()
    records["rgba"] = (color * 255).round()[order].numpy()
    records["rotation"] = (quaternion * 128 + 128).round().clamp(0, 255)[order].numpy()
    return records.tobytes()


def read_splat(path: Path, data: bytes) -> Opened:
    """The cloud, harmonics of degree 0, in the file's own axes.

    In a variant the scales are logarithms, as INRIA's parameters are: most are negative, which no length can be. (A
    PLY that is called .splat is known by its first bytes.)

    Raises:
        ThreedistillError: a length that is no multiple of 32 bytes, or contents that cannot be splats.
    """
    if not data or len(data) % _RECORD.itemsize:
        raise ThreedistillError(
            f"cannot read {path}: not a sound splat file ({len(data)} bytes are no whole number of 32-byte splats)"
        )
    records = np.frombuffer(data, dtype=_RECORD)
    check_count(path, len(records), 0, len(data))
    logarithms = float((records["scale"] < 0).any(1).mean()) > 0.5
    with np.errstate(invalid="ignore"):
        odd = ~(np.abs(records["mean"]) <= _FAR).all(1)
        if logarithms:
            odd |= ~(np.abs(records["scale"]) < 50).all(1)
        else:
            odd |= ~((records["scale"] >= 0) & (records["scale"] <= _FAR)).all(1)
    if odd.mean() > _NONSENSE:
        raise ThreedistillError(f"cannot read {path}: not a sound splat file (its numbers cannot be splats)")

    def decode(rows: slice) -> Block:
        part = records[rows]
        scale = part["scale"] if logarithms else _log(part["scale"])
        return Block(
            part["mean"], scale, part["rotation"] / np.float32(128) - 1, logit(part["rgba"][:, 3] / 255),
            ((part["rgba"][:, :3] / 255 - 0.5) / C0)[:, None],
        )  # fmt: skip

    notes = ["its scales are logarithms, as INRIA's parameters are"] if logarithms else []
    return Opened(from_blocks(len(records), 0, decode), notes=notes)


def _log(scale: np.ndarray) -> np.ndarray:
    """Logarithms of lengths; zero is -inf, a negative one no number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(scale)
