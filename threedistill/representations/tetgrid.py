"""A box filled with tetrahedra: the body-centred cubic lattice, generated, at any resolution.

Every cubic cell has its eight corners and its centre as points. Between the centres of two cells that share a face
lie four tetrahedra, one per edge of that face; at the border of the box, where there is no second centre, the face's
pyramid is cut in two. All tetrahedra inside are congruent, and all have the volume ``h^3 / 12``. The lattice is close
to isotropic: its marching tetrahedra make better triangles than those of a cube cut into five or six.

Source of the lattice: Labelle and Shewchuk, "Isosurface stuffing", 2007, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

__all__ = ["TetGrid", "tetrahedral_grid"]


@dataclass(frozen=True)
class TetGrid:
    """A box of tetrahedra.

    Attributes:
        points: (N, 3) float32, metres; ``(R + 1)^3`` corners, then ``R^3`` centres.
        tets: (T, 4) int32 point indices of positive volume, ``T = 12 R^3``.
        border: (N,) whether a point lies on the surface of the box.
        cell: side ``h`` of a cubic cell, metres. The shortest edges have ``sqrt(3)/2 h``, the heights of a
            tetrahedron are ``h / sqrt(2)``.
    """

    points: Float[Tensor, "N 3"]
    tets: Int[Tensor, "T 4"]
    border: Bool[Tensor, "N"]
    cell: float


def tetrahedral_grid(resolution: int, bound: float = 1.0) -> TetGrid:
    """Fill the box ``[-bound, bound]^3`` with ``resolution^3`` cells of twelve tetrahedra each.

    Arguments:
        resolution: cells per axis, 1 to 256.
        bound: half the side of the box, metres, positive.

    Raises:
        ValueError: a value outside its range.
    """
    if not 1 <= resolution <= 256:
        raise ValueError(f"tetrahedral_grid: resolution={resolution} must lie in [1, 256]")
    if not 0 < bound < float("inf"):
        raise ValueError(f"tetrahedral_grid: bound={bound} must be positive")
    corners, cells = resolution + 1, resolution
    cell = 2 * bound / resolution
    axis = torch.arange(corners, dtype=torch.float64) * cell - bound
    axis[-1] = bound
    middle = (axis[1:] + axis[:-1]) / 2
    points = torch.cat([_lattice(axis), _lattice(middle)]).float()
    border = torch.zeros(corners, corners, corners, dtype=torch.bool)
    for a in range(3):
        border.select(a, 0).fill_(True)
        border.select(a, -1).fill_(True)
    border = torch.cat([border.flatten(), torch.zeros(cells**3, dtype=torch.bool)])

    corner = torch.arange(corners**3).view(corners, corners, corners)
    centre = torch.arange(cells**3).view(cells, cells, cells) + corners**3
    tets = []
    for a in range(3):
        ring = _rings(corner, a)  # the faces across axis a: (corners along a, cells, cells, 4)
        low, high = centre.movedim(a, 0)[:-1], centre.movedim(a, 0)[1:]
        inner = ring[1:-1]
        for k in range(4):
            tets.append(torch.stack([low, high, inner[..., k], inner[..., (k + 1) % 4]], -1).view(-1, 4))
        for layer, face in ((-1, ring[-1]), (0, ring[0].flip(-1))):
            tip = centre.select(a, layer)
            for second in (1, 2):
                cut = [tip, face[..., 0], face[..., second], face[..., second + 1]]
                tets.append(torch.stack(cut, -1).view(-1, 4))
    return TetGrid(points, torch.cat(tets).int(), border, cell)


def _lattice(axis: Tensor) -> Tensor:
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)


def _rings(corner: Tensor, axis: int) -> Tensor:
    """The four corners of every lattice face across ``axis``, counter-clockwise seen from its positive side."""
    order = (axis, (axis + 1) % 3, (axis + 2) % 3)  # right-handed
    layers = corner.permute(order)
    ring = torch.stack([layers[:, :-1, :-1], layers[:, 1:, :-1], layers[:, 1:, 1:], layers[:, :-1, 1:]], -1)
    # Back to the order in which movedim leaves the two other axes.
    return ring if axis != 1 else ring.transpose(1, 2)
