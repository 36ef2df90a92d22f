"""Clouds as they come out of files: decoded block by block, and freed of splats that are none.

Quantised files are five to ten times smaller than what they hold, so the intermediate numbers of a decoder (wide
integers, doubles) never exist for the whole cloud at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from threedistill.errors import ThreedistillError
from threedistill.exports.foreign.limits import check, check_unpacked
from threedistill.types import Splats

__all__ = ["FIELDS", "SURE", "THIN", "Block", "check_count", "from_blocks", "logit", "sound", "with_largest"]

FIELDS = ("means", "log_scales", "quaternions", "opacity_logits", "sh")
#: The logit that stands for an opacity of 1 (to the last bit of a float) or, negated, of 0.
SURE = 20.0
#: The logarithm of a flat splat's thickness in units of its smaller side.
THIN = float(np.log(0.01))
#: Above this logarithm a scale's square, which every renderer needs, is no float any more.
_LARGEST_LOG_SCALE = 44.0
_BLOCK = 1 << 16


class Block(NamedTuple):
    """Some splats, as :class:`threedistill.types.Splats` has them, as arrays of any float type."""

    means: np.ndarray
    log_scales: np.ndarray
    quaternions: np.ndarray
    opacity_logits: np.ndarray
    sh: np.ndarray


def check_count(path: Path, count: int, degree: int, packed: int) -> None:
    """Raise unless a file of ``packed`` bytes may hold that many splats with harmonics of that degree."""
    if count <= 0:
        raise ThreedistillError(f"cannot read {path}: it holds no splats")
    check(path, "splats", count)
    check_unpacked(path, count * 4 * (11 + 3 * (degree + 1) ** 2), packed, f"{count} splats")


def from_blocks(count: int, degree: int, decode: Callable[[slice], Block]) -> Splats:
    """The cloud of which ``decode`` makes every part.

    Arguments:
        count: splats in all.
        degree: of their harmonics.
        decode: the splats of a range of rows.
    """
    widths = {
        "means": (3,),
        "log_scales": (3,),
        "quaternions": (4,),
        "opacity_logits": (),
        "sh": ((degree + 1) ** 2, 3),
    }
    arrays = {name: np.empty((count, *width), np.float32) for name, width in widths.items()}
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # what is no float becomes infinite, and is dropped below
        for start in range(0, count, _BLOCK):
            rows = slice(start, min(start + _BLOCK, count))
            for name, values in zip(FIELDS, decode(rows)):
                arrays[name][rows] = values
    return _splats({name: torch.from_numpy(array) for name, array in arrays.items()})


def _splats(parts: dict[str, torch.Tensor]) -> Splats:
    return Splats(
        parts["means"], parts["log_scales"], parts["quaternions"], parts["opacity_logits"], parts["sh"]
    )


def logit(opacity: np.ndarray, margin: float = 1e-4) -> np.ndarray:
    """The logit of opacities in [0, 1], kept ``margin`` away from both ends (a byte cannot say more)."""
    clipped = np.clip(opacity, margin, 1 - margin)
    return np.log(clipped / (1 - clipped))


def with_largest(largest: np.ndarray, three: np.ndarray) -> np.ndarray:
    """(N, 4) unit quaternions from the index of the largest component, positive, and the other three in order."""
    q = np.empty((len(three), 4))
    kept = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    np.put_along_axis(q, kept, three, 1)
    rest = np.sqrt(np.clip(1 - (three**2).sum(1), 0, None))
    np.put_along_axis(q, largest[:, None], rest[:, None], 1)
    return q


def sound(path: Path, splats: Splats) -> tuple[Splats, list[str]]:
    """The cloud without splats that cannot be shown, and a phrase about those; tensors are changed in place.

    Infinite opacity logits are opacities of 1 and 0, a scale of zero (-inf) a flat splat. Dropped are numbers that
    are not finite, scales that are infinite, rotations of length zero, and points without any extent.

    Raises:
        ThreedistillError: nothing is left.
    """
    reasons = {
        1: "with numbers that are not finite", 2: "with a rotation of length zero", 3: "with an infinite scale",
        4: "without any extent",
    }  # fmt: skip
    count = len(splats)
    fault = torch.zeros(count, dtype=torch.int8)
    for start in range(0, count, _BLOCK):
        rows = slice(start, start + _BLOCK)
        scales, logits, turns = (
            getattr(splats, name)[rows] for name in ("log_scales", "opacity_logits", "quaternions")
        )
        logits.nan_to_num_(float("nan"), SURE, -SURE)
        found = fault[rows]
        zero = scales == -torch.inf
        if bool(zero.any()):
            found[zero.all(1)] = 4
            side = torch.where(zero, torch.inf, scales).amin(1, keepdim=True) + THIN
            scales[zero] = side.expand_as(scales)[zero]
        found[(scales > _LARGEST_LOG_SCALE).any(1) & (found == 0)] = 3
        length = turns.double().norm(dim=1)
        found[length < 1e-12] = 2
        odd = ((length < 1e-3) | (length > 1e3)) & (length > 1e-12) & torch.isfinite(length)
        if bool(odd.any()):  # their squares would leave a float's range
            turns[odd] = (turns[odd].double() / length[odd, None]).float()
        finite = torch.isfinite(splats.means[rows]).all(1) & torch.isfinite(splats.sh[rows]).flatten(1).all(1)
        finite &= torch.isfinite(turns).all(1) & ~torch.isnan(scales).any(1) & torch.isfinite(logits)
        found[~finite] = 1
    if not bool(fault.any()):
        return splats, []
    kept = fault == 0
    parts = [
        f"{int((fault == k).sum())} {reason}" for k, reason in reasons.items() if bool((fault == k).any())
    ]
    if not bool(kept.any()):
        raise ThreedistillError(
            f"cannot read {path}: none of its {count} splats can be shown ({', '.join(parts)})"
        )
    splats = replace(splats, **{name: getattr(splats, name)[kept] for name in FIELDS})
    return splats, [f"{count - len(splats)} of {count} splats ({', '.join(parts)})"]
