"""Analytic objects with known shape and colour: what an export is compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from threedistill.ops.marching_cubes import marching_cubes
from threedistill.protocols import Surface
from threedistill.types import Mesh

#: sRGB by side of a box: +x -x +y -y +z -z.
SIDES = torch.tensor(
    [[0.9, 0.1, 0.1], [0.1, 0.8, 0.8], [0.1, 0.7, 0.1], [0.7, 0.1, 0.7], [0.15, 0.2, 0.9], [0.95, 0.85, 0.1]]
)


class Solid(Surface):
    """A signed distance (negative inside) and a colour, answering as a representation does at export."""

    def __init__(
        self, distance: Callable[[Tensor], Tensor], color: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.distance, self.color, self.half = distance, color, 1.0
        self.extractions: list[int] = []

    def extract(self, resolution: int) -> Mesh:
        self.extractions.append(resolution)
        axis = torch.linspace(-self.half, self.half, resolution)
        grid = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1)
        spacing = 2 * self.half / (resolution - 1)
        return Mesh(*marching_cubes(-self.distance(grid), 0.0, (-self.half,) * 3, spacing))

    def surface_color(self, points: Tensor, normals: Tensor) -> Tensor:
        return self.color(points, normals)


def box(points: Tensor, centre: tuple[float, float, float], half: tuple[float, float, float]) -> Tensor:
    q = (points - torch.tensor(centre)).abs() - torch.tensor(half)
    return q.clamp(min=0).norm(dim=-1) + q.amax(-1).clamp(max=0)


def side_colors(points: Tensor, normals: Tensor) -> Tensor:
    """The colour of the side that a normal faces."""
    axis = normals.abs().argmax(-1)
    negative = normals.gather(-1, axis[..., None])[..., 0] < 0
    return SIDES[axis * 2 + negative.long()]


def cube(half: float = 0.5) -> Solid:
    """A cube with another colour on every side."""
    return Solid(lambda p: box(p, (0, 0, 0), (half, half, half)), side_colors)


def letter_f() -> Solid:
    """An F that reads rightly from +Z: stem on the left, both bars to the right, thicker towards +Z at the foot.

    Mirrored, turned or upside down it is no longer itself.
    """

    def distance(p: Tensor) -> Tensor:
        parts = [
            box(p, (-0.3, 0.0, 0.0), (0.12, 0.7, 0.12)),
            box(p, (0.05, 0.58, 0.0), (0.4, 0.12, 0.12)),
            box(p, (-0.05, 0.05, 0.0), (0.3, 0.12, 0.12)),
            box(p, (-0.3, -0.55, 0.2), (0.12, 0.15, 0.2)),  # the foot points to the front
        ]
        return torch.stack(parts).amin(0)

    return Solid(distance, side_colors)


def inside_f(points: Tensor) -> Tensor:
    return letter_f().distance(points) < 0


def ball_with_bands(radius: float = 0.7) -> Solid:
    """A sphere whose colour varies smoothly over it."""

    def color(points: Tensor, normals: Tensor) -> Tensor:
        return (0.5 + 0.45 * torch.sin(3 * points + torch.tensor([0.0, 1.0, 2.0]))).clamp(0, 1)

    return Solid(lambda p: p.norm(dim=-1) - radius, color)
