"""What no view sees: the inside of hollow shells is made solid, and holes in them are sealed.

A view says where light is absorbed on its way in, not that everything behind the surface is solid. A radiance field
is therefore often a thin shell, open where no camera looks (under a cap) and with holes where what one sees through
them has the same colour as the surface. As a mesh, all that is a second, inner surface. Two remedies, both of which
leave alone whatever some view sees the background through:

* carving: a point that lies behind the visible surface in *every* view is solid;
* closing: a dent that a small cube cannot enter from outside is filled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import max_pool2d, max_pool3d, pad

from threedistill.cameras import ELEVATION_RANGE, place
from threedistill.types import Cameras, Rendering

__all__ = ["PIT", "Views", "behind", "closed", "rings", "seal", "seen_through"]

#: Pits up to twice this wide are sealed in assets, metres: two pixels of a 64-pixel view.
PIT = 0.04

#: A far spot this many pixels wide and this much deeper than its surroundings (metres) is a hole in a shell.
_SPIKE_PIXELS, _SPIKE_DEPTH = 5, 0.1

#: The carved surface lies this many samples behind the visible one, so that the field itself decides where it can.
_RETREAT = 1.0

#: Potential per sample of depth behind the carved surface, and how many samples of it are kept.
_SLOPE, _REACH = 4.0, 2.0


def rings(size: int, around: int = 8) -> Cameras:
    """Four rings of ``around`` square views from the elevations that training uses: nothing is known of the rest."""
    elevations = torch.linspace(*ELEVATION_RANGE, 4).repeat_interleave(around)
    turn = torch.arange(4 * around) / around + torch.arange(4).repeat_interleave(around) / (2 * around)
    ones = torch.ones(4 * around)
    return place(
        turn * 2 * math.pi, torch.deg2rad(elevations), 2.9 * ones, math.radians(44.0) * ones, size, size
    )


@dataclass(frozen=True)
class Views:
    """Renders of a field, for asking what they show of a point.

    Attributes:
        cameras: the views.
        opacity: (B, H, W).
        depth: (B, H, W) distance at which half of the light is absorbed, metres; infinite where opacity < 1/2.
    """

    cameras: Cameras
    opacity: Float[Tensor, "B H W"]
    depth: Float[Tensor, "B H W"]

    @classmethod
    def of(cls, cameras: Cameras, seen: Rendering) -> Views:
        """What a rendering from these cameras shows."""
        opacity = seen.opacity[..., 0]
        return cls(cameras, opacity, torch.where(opacity > 0.5, seen.depth[..., 0], torch.inf))

    def pixels(self, view: int, points: Float[Tensor, "N 3"]) -> tuple[Int[Tensor, "N"], Bool[Tensor, "N"]]:
        """Flat index of the pixel that shows each point, and whether it is within the picture."""
        height, width = self.opacity.shape[1:]
        matrix = self.cameras[[view]].world_to_clip()[0].to(points)
        clip = points @ matrix[:, :3].T + matrix[:, 3]
        device = clip[:, :2] / clip[:, 3:].clamp_min(1e-6)
        column = ((device[:, 0] + 1) * (width / 2)).int()
        row = ((1 - device[:, 1]) * (height / 2)).int()
        inside = (device.abs() < 1).all(-1) & (clip[:, 3] > 0)
        return row.clamp(0, height - 1) * width + column.clamp(0, width - 1), inside


def seen_through(points: Float[Tensor, "N 3"], views: Views) -> Bool[Tensor, "N"]:
    """Whether some view sees the background through a point: its pixel is less than half opaque."""
    clear = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for view in range(len(views.cameras)):
        pixel, inside = views.pixels(view, points)
        clear |= inside & (views.opacity[view].flatten()[pixel] < 0.5)
    return clear


def behind(points: Float[Tensor, "N 3"], views: Views, enough: float) -> Float[Tensor, "N"]:
    """How far every view agrees that a point is behind the surface: ``min_views (distance - depth)``, metres.

    Negative where some view sees the point before its surface. Depth maps lose their small deep spots first:
    those look through a hole. A point outside of all pictures is not behind anything.

    Arguments:
        points: (N, 3) in the world, metres.
        views: the depth maps.
        enough: points this far in front of a surface are not asked about any further.
    """
    result = torch.full((len(points),), torch.inf, device=points.device, dtype=points.dtype)
    left = torch.arange(len(points), device=points.device)
    depth = _without_spikes(views.depth)
    for view in range(len(views.cameras)):
        remaining = points.index_select(0, left)
        pixel, inside = views.pixels(view, remaining)
        eye = views.cameras.c2w[view, :3, 3].to(points)
        margin = (remaining - eye).norm(dim=-1) - depth[view].flatten()[pixel]
        margin = torch.where(inside, margin, torch.inf)
        result[left] = torch.minimum(result.index_select(0, left), margin)
        left = left[result.index_select(0, left) > -enough]
    return torch.where(result.isposinf(), -torch.inf, result)


def _without_spikes(depth: Float[Tensor, "B H W"]) -> Float[Tensor, "B H W"]:
    """Depth maps in which small spots that are much deeper than their surroundings are levelled."""
    half = _SPIKE_PIXELS // 2
    nearest = -max_pool2d(-depth[:, None], _SPIKE_PIXELS, stride=1, padding=half)
    opened = max_pool2d(nearest, _SPIKE_PIXELS, stride=1, padding=half)[:, 0]
    spike = (depth - opened > _SPIKE_DEPTH) & depth.isfinite()
    return torch.where(spike, opened, depth)


def closed(volume: Float[Tensor, "X Y Z"], cells: int) -> Float[Tensor, "X Y Z"]:
    """Grey-scale closing: maximum, then minimum, over a cube of ``2 cells + 1`` samples per side.

    Fills what such a cube cannot enter from outside. Outside of the volume counts as empty.
    """
    padded = pad(volume[None, None], [2 * cells] * 6, value=float(volume.min()))
    for sign in (1, -1):
        for axis in range(3):
            size = [1, 1, 1]
            size[axis] = 2 * cells + 1
            padded = sign * max_pool3d(sign * padded, size, stride=1)
    return padded[0, 0]


def seal(
    volume: Float[Tensor, "X Y Z"], threshold: float, axes: Sequence[Float[Tensor, "_"]], spacing: float,
    pit: float, views: Views,
) -> Float[Tensor, "X Y Z"]:  # fmt: skip
    """The volume with its unseen inside solid and its pits closed; never smaller than it was.

    Arguments:
        volume: potential on a lattice, larger inside.
        threshold: the level of the surface.
        axes: the lattice's coordinates per axis, metres.
        spacing: of the lattice, metres.
        pit: half the width of the widest dent that is closed, metres.
        views: renders of the same field.
    """
    solid = (volume > threshold).nonzero()
    if not len(solid):
        return volume
    volume = volume.clone()
    # The inside lies within the solid's bounding box.
    low, high = solid.amin(0), solid.amax(0) + 1
    box = volume[low[0] : high[0], low[1] : high[1], low[2] : high[2]]

    def located(index: Tensor) -> Tensor:
        return torch.stack([axis[low[a] :][index[:, a]] for a, axis in enumerate(axes)], 1).to(views.depth)

    index = (box <= threshold).nonzero()
    hidden = behind(located(index), views, enough=3 * spacing) / spacing - _RETREAT
    value = threshold + _SLOPE * hidden.clamp(-_REACH, _REACH).to(volume)
    at = index[:, 0], index[:, 1], index[:, 2]
    box[at] = torch.maximum(box[at], value)

    filled = closed(box, max(1, round(pit / spacing)))
    index = ((box <= threshold) & (filled > threshold)).nonzero()
    index = index[~seen_through(located(index), views)]
    at = index[:, 0], index[:, 1], index[:, 2]
    box[at] = filled[at]
    return volume
