"""Pits: holes of an opaque shell that no photograph shows, and how extraction seals them.

A view only says where light is absorbed on its way, not that everything behind the surface is solid. Where colour
does not vary, a hole through which one sees the equally coloured far side of the shell looks like the surface
itself, so a field keeps such holes. They are sealed by a morphological closing of the volume, which also would web
real gaps; those give themselves away because some view sees the background through them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from threedistill.types import Cameras

__all__ = ["closed", "seal_pits", "seen_through"]


def closed(volume: Float[Tensor, "X Y Z"], cells: int) -> Float[Tensor, "X Y Z"]:
    """Grey-scale closing: maximum, then minimum, over a cube of ``2 cells + 1`` samples per side.

    Fills what such a cube cannot enter from outside. Outside of the volume counts as empty.
    """
    low = volume.min()
    padded = torch.nn.functional.pad(volume[None, None], [2 * cells] * 6, value=float(low))
    for axis in range(3):
        size = [1, 1, 1]
        size[axis] = 2 * cells + 1
        padded = torch.nn.functional.max_pool3d(padded, size, stride=1)
    for axis in range(3):
        size = [1, 1, 1]
        size[axis] = 2 * cells + 1
        padded = -torch.nn.functional.max_pool3d(-padded, size, stride=1)
    return padded[0, 0]


def seen_through(
    points: Float[Tensor, "N 3"], cameras: Cameras, opacity: Float[Tensor, "B H W"], at: float = 0.5
) -> Bool[Tensor, "N"]:
    """Whether some view sees the background through a point: its pixel is less than ``at`` opaque.

    Arguments:
        points: (N, 3) in the world, metres.
        cameras: the views.
        opacity: (B, H, W) their renders; H and W need not be the cameras'.
        at: opacity in (0, 1).
    """
    views, height, width = opacity.shape
    clear = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    for view, matrix in enumerate(cameras.world_to_clip().to(points)):
        clip = homogeneous @ matrix.T
        device = clip[:, :2] / clip[:, 3:].clamp_min(1e-6)
        column = ((device[:, 0] + 1) * (width / 2)).long()
        row = ((1 - device[:, 1]) * (height / 2)).long()
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (clip[:, 3] > 0)
        pixel = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        clear |= inside & (opacity[view].reshape(-1)[pixel] < at)
    assert views == len(cameras)
    return clear


def seal_pits(
    volume: Float[Tensor, "X Y Z"], threshold: float, axes: Sequence[Float[Tensor, "A"]], cells: int,
    cameras: Cameras, opacity: Float[Tensor, "B H W"],
) -> Float[Tensor, "X Y Z"]:  # fmt: skip
    """The volume with the closing's value where that is inside, the volume is not, and no view sees through.

    Arguments:
        volume: larger inside.
        threshold: the level of the surface.
        axes: the lattice's coordinates per axis, metres.
        cells: half the width of the widest pit that is sealed, in samples.
        cameras, opacity: renders of the same field.
    """
    filled = closed(volume, cells)
    index = ((volume <= threshold) & (filled > threshold)).nonzero()
    if not len(index):
        return volume
    points = torch.stack([axis[index[:, a]] for a, axis in enumerate(axes)], 1)
    index = index[~seen_through(points.to(opacity), cameras, opacity)]
    sealed = volume.clone()
    sealed[index[:, 0], index[:, 1], index[:, 2]] = filled[index[:, 0], index[:, 1], index[:, 2]]
    return sealed
