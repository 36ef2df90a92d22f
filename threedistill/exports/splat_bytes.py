"""``.splat`` (antimatter15): 32 bytes a splat without header, constant colours, the most visible first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from threedistill.errors import ThreedistillError
from threedistill.render.harmonics import C0
from threedistill.types import Splats

__all__ = ["read_splat", "splat_bytes"]

_RECORD = np.dtype([("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("rotation", "u1", 4)])


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


def read_splat(path: Path, data: bytes) -> Splats:
    """The cloud, harmonics of degree 0, in the file's own frame.

    Raises:
        ThreedistillError: a length that is no multiple of 32 bytes, or contents that cannot be splats.
    """
    if not data or len(data) % _RECORD.itemsize:
        raise ThreedistillError(
            f"cannot read {path}: not a sound splat file ({len(data)} bytes are no whole number of 32-byte splats)"
        )
    records = np.frombuffer(data, dtype=_RECORD)
    mean, scale = (torch.from_numpy(records[k].astype(np.float32)) for k in ("mean", "scale"))
    rgba = torch.from_numpy(records["rgba"].astype(np.float32)) / 255
    rotation = torch.from_numpy(records["rotation"].astype(np.float32)) / 128 - 1
    if (
        not bool((scale >= 0).all())
        or float(mean.abs().max()) > 1e9
        or not bool(rotation.norm(dim=1).min() > 0.5)
    ):
        raise ThreedistillError(f"cannot read {path}: not a sound splat file (its numbers cannot be splats)")
    opacity = rgba[:, 3].clamp(1e-4, 1 - 1e-4)
    return Splats(
        means=mean, log_scales=scale.clamp(min=1e-12).log(), quaternions=rotation,
        opacity_logits=torch.logit(opacity), sh=((rgba[:, :3] - 0.5) / C0)[:, None],
    )  # fmt: skip
