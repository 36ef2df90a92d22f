"""Where cameras stand: placing, naming and sampling them, and how networks are told.

One distribution of fields of view, distances and elevations serves the Toybox world, the sampler and evaluation;
:func:`view_name` is the only definition of what "front", "side", "back" and "overhead" mean.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.rng import Streams
from threedistill.schedule import Schedule, first_above, stations, value_at
from threedistill.types import Cameras
from threedistill.values import NonNegative, Rising, Within, settings

__all__ = [
    "BACK_LIMIT",
    "CAMERA_SIZE",
    "DISTANCE_RANGE",
    "ELEVATION_RANGE",
    "FOV_RANGE",
    "FRONT_LIMIT",
    "OVERHEAD_LIMIT",
    "CameraSampler",
    "ViewLimits",
    "ViewName",
    "camera_vector",
    "camera_vectors",
    "look_at",
    "orbit",
    "place",
    "standing",
    "view_name",
]

ViewName = Literal["front", "side", "back", "overhead"]

FRONT_LIMIT = math.radians(45)
BACK_LIMIT = math.radians(135)
OVERHEAD_LIMIT = math.radians(45)

#: Shared by the Toybox world, the sampler's defaults and evaluation (degrees, metres).
FOV_RANGE = (40.0, 48.0)
DISTANCE_RANGE = (2.7, 3.1)
ELEVATION_RANGE = (-10.0, 60.0)

#: Numbers of a camera vector.
CAMERA_SIZE = 14


@settings
class ViewLimits:
    """Where the words for views end, in degrees; the defaults are those of Toybox's captions.

    Arguments:
        front: azimuths this far to either side of the front are "front".
        back: likewise of the back.
        overhead: elevations above this are "overhead".
    """

    front: Annotated[float, Within(0, 180)] = 45.0
    back: Annotated[float, Within(0, 180)] = 45.0
    overhead: Annotated[float, Within(-90, 90)] = 45.0

    def __post_init__(self) -> None:
        if self.front + self.back > 180:
            raise ValueError(
                f"front={self.front} and back={self.back} overlap: together they are above 180 degrees"
            )


def view_name(azimuth: float, elevation: float, limits: ViewLimits | None = None) -> ViewName:
    """The word for a view (radians): by default overhead above 45 degrees, front within 45 of the front, back beyond
    135.
    """
    front, back, overhead = FRONT_LIMIT, BACK_LIMIT, OVERHEAD_LIMIT
    if limits is not None:
        front, overhead = math.radians(limits.front), math.radians(limits.overhead)
        back = math.radians(180 - limits.back)
    if elevation > overhead:
        return "overhead"
    around = abs((azimuth + math.pi) % (2 * math.pi) - math.pi)
    if around <= front:
        return "front"
    return "back" if around >= back else "side"


def place(
    azimuth: Float[Tensor, "B"], elevation: Float[Tensor, "B"], distance: Float[Tensor, "B"],
    fov_y: Float[Tensor, "B"], height: int, width: int,
) -> Cameras:  # fmt: skip
    """Cameras on spheres around the origin, looking at it, with +Y up (all angles in radians)."""
    direction = torch.stack(
        [azimuth.sin() * elevation.cos(), elevation.sin(), azimuth.cos() * elevation.cos()], -1
    )
    # The horizontal axis comes from the azimuth itself, so the frame stays defined straight above the object.
    right = torch.stack([azimuth.cos(), torch.zeros_like(azimuth), -azimuth.sin()], -1)
    up = torch.linalg.cross(direction, right)
    c2w = torch.eye(4, dtype=azimuth.dtype, device=azimuth.device).repeat(len(azimuth), 1, 1)
    c2w[:, :3, 0], c2w[:, :3, 1], c2w[:, :3, 2] = right, up, direction
    c2w[:, :3, 3] = direction * distance[:, None]
    return Cameras(c2w, fov_y, azimuth, elevation, distance, height, width)


def look_at(
    cameras: Cameras, position: Float[Tensor, "B 3"], target: Float[Tensor, "B 3"], up: Float[Tensor, "B 3"]
) -> Cameras:
    """The cameras at other places, looking at ``target`` with ``up`` upwards in the picture; azimuth, elevation and
    distance are those of the place, seen from the origin.
    """
    back = F.normalize(position - target, dim=1)
    right = F.normalize(torch.linalg.cross(up, back), dim=1)
    c2w = cameras.c2w.clone()
    c2w[:, :3] = torch.stack([right, torch.linalg.cross(back, right), back, position], 2)
    azimuth, elevation, distance = standing(position)
    return replace(cameras, c2w=c2w, azimuth=azimuth, elevation=elevation, distance=distance)


def standing(
    position: Float[Tensor, "B 3"],
) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"], Float[Tensor, "B"]]:
    """Azimuth and elevation (radians) and distance (metres, at least 1e-6) of places, seen from the origin."""
    distance = position.norm(dim=1).clamp_min(1e-6)
    elevation = torch.asin((position[:, 1] / distance).clamp(-1, 1))
    return torch.atan2(position[:, 0], position[:, 2]), elevation, distance


def orbit(
    views: int, elevation: float = 15.0, distance: float = 2.9, fov_y: float = 44.0, size: int = 64,
    start: float = 0.0,
) -> Cameras:  # fmt: skip
    """``views`` cameras at equal azimuths from ``start`` (degrees), for previews, sheets and evaluation."""
    azimuth = torch.deg2rad(start + torch.arange(views) * (360.0 / views))
    ones = torch.ones(views)
    return place(
        azimuth, ones * math.radians(elevation), ones * distance, ones * math.radians(fov_y), size, size
    )


def camera_vector(
    azimuth: Tensor, elevation: Tensor, distance: Tensor, fov_y: Tensor
) -> Float[Tensor, "B 14"]:
    """What a network is told about a camera, of apparent width ``z = distance tan(fov_y / 2)``:

        sin a, cos a, ..., sin 4a, cos 4a, sin e, cos e, sin 2e, cos 2e, (z - 1.17) / 0.2, 1

    Arguments:
        azimuth, elevation: (B,) ``a`` and ``e``, radians.
        distance: (B,) metres.
        fov_y: (B,) radians.
    """
    parts = [f(k * azimuth) for k in (1, 2, 3, 4) for f in (torch.sin, torch.cos)]
    parts += [f(k * elevation) for k in (1, 2) for f in (torch.sin, torch.cos)]
    parts += [(distance * torch.tan(fov_y / 2) - 1.17) / 0.2, torch.ones_like(azimuth)]
    return torch.stack(parts, -1)


def camera_vectors(cameras: Cameras | None, count: int) -> Float[Tensor, "B 14"]:
    """Camera vectors of ``cameras``, or ``count`` null cameras: zeros, whose flag, the last number, is 0 too."""
    if cameras is None:
        return torch.zeros(count, CAMERA_SIZE)
    return camera_vector(cameras.azimuth, cameras.elevation, cameras.distance, cameras.fov_y)


#: The ends of a range, numbers or schedules of progress.
_Ends = tuple[float | Schedule, float | Schedule]


@settings
class CameraSampler:
    """Random training cameras, stratified in azimuth over the batch.

    View ``k`` of ``B`` has azimuth ``(u + (k + v_k)/B) 2 pi``: ``u`` shared, ``v_k`` its own, so the batch always
    covers the circle. In groups (multi-view teachers), views of one group are contiguous and orthogonal. Antithetic
    views ``2 k`` and ``2 k + 1`` look from opposite azimuths at one elevation, and the pairs cover the circle.

    Arguments:
        views: cameras per step, ``B``; a schedule is rounded to whole numbers.
        elevation: degrees, uniform over this range, whose ends may be schedules.
        distance: metres, uniform; the object lies in the unit ball, which cameras may enter. Ends may be schedules.
        fov_y: degrees, uniform; ends may be schedules.
        azimuth: degrees, the range that is covered.
        antithetic: pairs of opposite views (after MV-SDI, arXiv 2606.29964); needs an even number of views and a
            teacher that sees one view at a time.
        framed: ``distance`` is half the height of what the picture shows around the origin, metres, and the camera
            stands at ``distance / tan(fov_y / 2)``: the object is equally large at every field of view (MVDream).
        position_jitter: places are moved by up to this along each axis, metres, uniform.
        target_jitter: cameras look at a point this far from the origin, standard deviation per axis, metres.
        up_jitter: standard deviation per axis of what is added to the unit vector that is up in the picture.
    """

    views: Annotated[int | Schedule, Within(1, 4096)] = 4
    elevation: Annotated[_Ends, Rising(-90, 90)] = ELEVATION_RANGE
    distance: Annotated[_Ends, Rising(0.05, 100)] = DISTANCE_RANGE
    fov_y: Annotated[_Ends, Rising(1, 170)] = FOV_RANGE
    azimuth: Annotated[tuple[float, float], Rising(-360, 360)] = (-180.0, 180.0)
    antithetic: bool = False
    framed: bool = False
    position_jitter: NonNegative = 0.0
    target_jitter: NonNegative = 0.0
    up_jitter: NonNegative = 0.0

    def __post_init__(self) -> None:
        for name in ("elevation", "distance", "fov_y"):
            if at := first_above(*getattr(self, name)):
                raise ValueError(
                    f"{name} [{at[1]:g}, {at[2]:g}] must not run backwards, as it does at progress {at[0]:g}"
                )
        if self.antithetic and any(count % 2 for count in self.counts):
            raise ValueError(
                f"cameras.views={', '.join(map(str, sorted(self.counts)))} must be even: antithetic views come in pairs"
            )

    def count(self, progress: float) -> int:
        """Cameras of a step at this point of the stage."""
        return round(value_at(self.views, progress))

    @property
    def counts(self) -> set[int]:
        """All the numbers of cameras that a step of the stage may have."""
        return {self.count(progress) for progress in stations(self.views)}

    @property
    def fullest(self) -> float:
        """A point of the stage at which steps are largest."""
        return max(stations(self.views), key=self.count)

    @property
    def most(self) -> int:
        """Cameras of the largest step."""
        return self.count(self.fullest)

    def sample(
        self, rng: Streams, size: int, group: int = 1, total_views: int | None = None, progress: float = 0.0
    ) -> Cameras:
        """The cameras of one iteration, ``size`` pixels square.

        Arguments:
            rng: the iteration's streams.
            size: image height and width in pixels.
            group: views per group of a multi-view teacher; must divide ``views``.
            total_views: global number of views when this process draws only some of them.
            progress: fraction of the stage that is done.
        """
        views = self.count(progress)
        total = total_views or views
        if total % group:
            raise ValueError(f"cameras.views={total} is not a multiple of the prior's view group of {group}")
        index = torch.arange(views) + rng.view_offset
        shared = rng.uniform("camera/azimuth", 1)
        own = rng.uniform_per_view("camera", views, 4)
        if self.antithetic and group == 1:
            pair = index // 2
            own = torch.stack([rng.generator_uniform("camera/pair", int(p), 4) for p in pair])
            turn = (shared + (pair + own[:, 0]) / total + (index % 2) / 2) % 1.0
        elif group == 1:
            turn = (shared + (index + own[:, 0]) / total) % 1.0
        else:
            strata = total // group
            block = index // group
            jitter = torch.stack([rng.generator_uniform("camera/group", int(b)) for b in block])
            turn = ((block + jitter) / strata / group + (index % group) / group + shared) % 1.0
            own = torch.stack([rng.generator_uniform("camera/group", int(b), 4) for b in block])

        def between(ends: _Ends, u: Tensor) -> Tensor:
            low, high = (value_at(end, progress) for end in ends)
            return low + (high - low) * u

        distance, fov_y = between(self.distance, own[:, 2]), torch.deg2rad(between(self.fov_y, own[:, 3]))
        cameras = place(
            torch.deg2rad(between(self.azimuth, turn)), torch.deg2rad(between(self.elevation, own[:, 1])),
            distance / torch.tan(fov_y / 2) if self.framed else distance, fov_y, size, size,
        )  # fmt: skip
        return self._shaken(cameras, rng)

    def _shaken(self, cameras: Cameras, rng: Streams) -> Cameras:
        """The cameras with this step's jitter."""
        if not (self.position_jitter or self.target_jitter or self.up_jitter):
            return cameras
        moved = 2 * rng.uniform_per_view("camera/position", len(cameras), 3) - 1
        target, up = rng.normal_per_view("camera/target", len(cameras), 2, 3).unbind(1)
        position = cameras.c2w[:, :3, 3] + self.position_jitter * moved
        return look_at(
            cameras, position, self.target_jitter * target, cameras.c2w[:, :3, 1] + self.up_jitter * up
        )
