"""Where a field is worth asking: a grid of cells that are occupied, and a lower bound of the density in them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from threedistill.ops.march import Samples
from threedistill.render.volume import select, visible
from threedistill.rng import Streams

__all__ = ["OccupancyGrid"]

Density = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]]

_CHUNK = 1 << 18


class OccupancyGrid(nn.Module):
    """``G^3`` cells over ``[-bound, bound]^3``, kept in step with a density by sampling it.

    Every refresh asks the density once per cell at a jittered point. The running maximum ``m <- max(decay m, sigma)``
    decides occupancy, ``m > threshold`` in the cell or in one of its six neighbours: a surface can grow into the
    neighbouring cells before the next refresh, and a cell that is merely hit at an unlucky point is not lost. A
    running minimum ``n <- min(sigma, 4 n + threshold)``, about the smallest of the last four samples, is the lower
    bound that lets a ray stop behind what is opaque. Both live in the state dict, so a resumed run marches the same
    samples.

    Arguments:
        resolution: cells per axis, ``G``.
        bound: half the side of the box, metres.
        threshold: density above which a cell is occupied, 1/metres.
        decay: of the running maximum per refresh, in [0, 1).
    """

    def __init__(
        self, resolution: int = 64, bound: float = 1.0, threshold: float = 0.5, decay: float = 0.8
    ) -> None:
        super().__init__()
        self.resolution, self.bound = resolution, bound
        self.threshold, self.decay = threshold, decay
        shape = (resolution,) * 3
        self.peak: Tensor
        self.floor: Tensor
        self.occupied: Tensor
        self.register_buffer("peak", torch.zeros(shape))
        self.register_buffer("floor", torch.zeros(shape))
        self.register_buffer("occupied", torch.ones(shape, dtype=torch.bool))

    @torch.no_grad()
    def refresh(self, density: Density, rng: Streams | None = None) -> None:
        """Ask the density once in every cell and update both bounds.

        Arguments:
            density: (N, 3) world points to (N,) densities, 1/metres.
            rng: streams for the jitter (purpose "occupancy"); None asks at the cell centres.
        """
        size = self.resolution
        axis = torch.arange(size, device=self.peak.device, dtype=self.peak.dtype)
        cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
        jitter: Tensor | float = 0.5
        if rng is not None:
            jitter = rng.uniform("occupancy", size**3, 3).to(cells)
        points = (cells + jitter) * (2 * self.bound / size) - self.bound
        latest = torch.cat([density(chunk) for chunk in points.split(_CHUNK)]).view(size, size, size)
        self.peak = torch.maximum(self.peak * self.decay, latest)
        self.floor = torch.minimum(latest, 4 * self.floor + self.threshold)
        self.occupied = _neighbourhood_max(self.peak) > self.threshold

    def fraction(self) -> Tensor:
        """Share of the box that is occupied, a scalar."""
        return self.occupied.float().mean()

    def cells_at(self, points: Float[Tensor, "N 3"]) -> Tensor:
        """(N,) flat indices of the cells that hold the points (clamped to the box)."""
        size = self.resolution
        ijk = ((points + self.bound) * (size / (2 * self.bound))).int().clamp_(0, size - 1)
        return (ijk[:, 0] * size + ijk[:, 1]) * size + ijk[:, 2]

    def contains(self, points: Float[Tensor, "N 3"]) -> Bool[Tensor, "N"]:
        """Whether each point lies in an occupied cell; points outside the box do not."""
        inside = (points.abs() <= self.bound).all(-1)
        return self.occupied.view(-1)[self.cells_at(points)] & inside

    @torch.no_grad()
    def drop_hidden(
        self, samples: Samples, points: Float[Tensor, "S 3"], transmittance: float = 5e-3
    ) -> tuple[Samples, Float[Tensor, "_ 3"]]:
        """Leave out the samples that no light reaches even at the lower bound of the density.

        Arguments:
            samples: packed segments of the march.
            points: (S, 3) their midpoints.
            transmittance: what may be lost per ray.

        Returns:
            the remaining samples and their midpoints.
        """
        if not len(points):
            return samples, points
        floor = self.floor.view(-1).index_select(0, self.cells_at(points))
        index = visible(samples, floor, transmittance).nonzero()[:, 0]
        if len(index) == len(points):
            return samples, points
        return select(samples, index), points.index_select(0, index)


def _neighbourhood_max(volume: Float[Tensor, "G G G"]) -> Float[Tensor, "G G G"]:
    """Maximum over each cell and its six neighbours, clipped at the borders."""
    result = volume.clone()
    for axis in range(3):
        count = volume.shape[axis] - 1
        lower, upper = result.narrow(axis, 0, count), result.narrow(axis, 1, count)
        torch.maximum(lower, volume.narrow(axis, 1, count), out=lower)
        torch.maximum(upper, volume.narrow(axis, 0, count), out=upper)
    return result
