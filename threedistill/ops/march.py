"""Ray marching with a fixed step through an occupancy grid; the samples come out packed along the rays."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedistill.ops._cuda import cuda, cuda_library
from threedistill.ops._native import Kernel, shape_error, use_native

__all__ = ["Samples", "march", "march_reference"]

_kernel = Kernel("march", "ppppiidddippppp")
_CANDIDATES_PER_CHUNK = 1 << 21  # (ray, step) pairs the twin holds at once


class Samples(NamedTuple):
    """Sample intervals packed along rays: those of ray ``r`` are ``offsets[r] : offsets[r + 1]``, near to far.

    Attributes:
        ray: (S,) int64 ray index, ascending.
        start: (S,) distance along the ray where the interval begins, metres for unit directions.
        end: (S,) where it ends.
        offsets: (R + 1,) int64.
    """

    ray: Int[Tensor, "S"]
    start: Float[Tensor, "S"]
    end: Float[Tensor, "S"]
    offsets: Int[Tensor, "R1"]


def march(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    occupied: Bool[Tensor, "G G G"],
    bound: float,
    step: float,
    jitter: Float[Tensor, "R"] | None = None,
    near: float = 0.0,
    max_samples: int | None = None,
) -> Samples:
    """Sample rays at a fixed step inside ``[-bound, bound]^3``, only where the grid is occupied.

    With ``t_0 = max(near, entry)``, interval ``i`` is ``[t_0 + (i + u) step, t_0 + (i + 1 + u) step]``; it is kept
    where its middle lies before the exit and in an occupied cell ``floor((x + bound) G / (2 bound))``.

    Args:
        origins: ray origins.
        directions: ray directions, unit length where distances are to be metres.
        occupied: ``occupied[ix, iy, iz]``, up to 1024 cells per axis.
        bound: half the side of the box, > 0.
        step: length of an interval, > 0.
        jitter: ``u`` in [0, 1) of each ray, or None for 0.
        near: nothing nearer than this is sampled, >= 0.
        max_samples: at most this many per ray, the nearest ones; None = no limit.

    Returns:
        The samples, of the type of ``origins``; not differentiable.

    Raises:
        ValueError: a shape, type or number is out of range.
    """
    if origins.ndim != 2 or origins.shape[1] != 3 or not origins.is_floating_point():
        raise shape_error("march", "origins", "(R, 3) floating point", origins)
    if directions.shape != origins.shape or directions.dtype != origins.dtype:
        raise shape_error("march", "directions", f"{tuple(origins.shape)} {origins.dtype}", directions)
    if occupied.ndim != 3 or len(set(occupied.shape)) != 1 or occupied.dtype != torch.bool:
        raise shape_error("march", "occupied", "(G, G, G) torch.bool", occupied)
    if not 1 <= occupied.shape[0] <= 1024:
        raise ValueError(f"march: occupied must have 1 to 1024 cells per axis, got {occupied.shape[0]}")
    if jitter is not None and (jitter.shape != origins.shape[:1] or jitter.dtype != origins.dtype):
        raise shape_error("march", "jitter", f"({origins.shape[0]},) {origins.dtype}", jitter)
    if not (0 < bound < math.inf and 0 < step < math.inf and 0 <= near < math.inf):
        raise ValueError(
            f"march: bound and step must be positive and near not negative, got {bound}, {step} and {near}"
        )
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"march: max_samples must be at least 1, got {max_samples}")
    detached = None if jitter is None else jitter.detach()
    return Samples(
        *_march(
            origins.detach(), directions.detach(), occupied, detached,
            float(bound), float(step), float(near), max_samples,
        )
    )  # fmt: skip


def march_reference(
    origins: Float[Tensor, "R 3"],
    directions: Float[Tensor, "R 3"],
    occupied: Bool[Tensor, "G G G"],
    bound: float,
    step: float,
    jitter: Float[Tensor, "R"] | None = None,
    near: float = 0.0,
    max_samples: int | None = None,
) -> Samples:
    """The torch twin of :func:`march`: every step of every ray as a matrix, in chunks of rays."""
    if jitter is None:
        jitter = origins.new_zeros(origins.shape[0])
    resolution = occupied.shape[0]
    enter, leave = _box(origins, directions, bound, near)
    longest = float((leave - enter).max()) if len(enter) else 0.0
    steps = max(0, math.ceil(longest / step) + 1)
    index = torch.arange(steps, device=origins.device, dtype=origins.dtype)
    chunk = max(1, _CANDIDATES_PER_CHUNK // max(steps, 1))
    rays, starts, ends = [], [], []
    for begin in range(0, origins.shape[0], chunk):
        rows = slice(begin, begin + chunk)
        t0, u = enter[rows, None], jitter[rows, None]
        middle = t0 + ((index + 0.5) + u) * step
        at = origins[rows, None] + middle[..., None] * directions[rows, None]
        cell = ((at + bound) * (resolution / (2 * bound))).nan_to_num().long().clamp(0, resolution - 1)
        keep = (middle < leave[rows, None]) & occupied[cell[..., 0], cell[..., 1], cell[..., 2]]
        if max_samples is not None:
            keep &= keep.cumsum(1) <= max_samples
        ray, i = torch.nonzero(keep, as_tuple=True)
        t0, u, i = enter[rows][ray], jitter[rows][ray], index[i]
        rays.append(ray + begin)
        starts.append(t0 + (i + u) * step)
        ends.append(t0 + ((i + 1) + u) * step)
    if not rays:
        rays, starts, ends = [enter.long()], [enter], [enter]
    ray = torch.cat(rays)
    return Samples(
        ray, torch.cat(starts), torch.cat(ends), _offsets(torch.bincount(ray, minlength=len(enter)))
    )


def _box(origins: Tensor, directions: Tensor, bound: float, near: float) -> tuple[Tensor, Tensor]:
    """(R,) distances where each ray enters and leaves the box; equal (no step fits) where it misses."""
    a, b = (-bound - origins) / directions, (bound - origins) / directions
    parallel, inside = directions == 0, origins.abs() <= bound
    low = torch.where(parallel, -torch.inf, torch.minimum(a, b)).amax(1).clamp_min(near)
    high = torch.where(parallel, torch.inf, torch.maximum(a, b)).amin(1)
    hit = (low < high) & low.isfinite() & high.isfinite() & (inside | ~parallel).all(1)
    return low.masked_fill(~hit, 0), high.masked_fill(~hit, 0)


def _offsets(counts: Tensor) -> Tensor:
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0))


@torch.library.custom_op(
    "threedistill::march", mutates_args=(),
    schema="(Tensor origins, Tensor directions, Tensor occupied, Tensor? jitter, float bound, float step, "
    "float near, int? max_samples) -> (Tensor, Tensor, Tensor, Tensor)",
)  # fmt: skip
def _march(origins, directions, occupied, jitter, bound, step, near, max_samples):
    if not use_native(origins, directions, occupied):
        return tuple(march_reference(origins, directions, occupied, bound, step, jitter, near, max_samples))
    rays = origins.shape[0]
    given = (
        origins.contiguous(), directions.contiguous(), None if jitter is None else jitter.contiguous(),
        occupied.contiguous(), rays, occupied.shape[0], bound, step, near,
        torch.iinfo(torch.int64).max if max_samples is None else max_samples,
    )  # fmt: skip
    counts = torch.empty(rays, dtype=torch.int64)
    _kernel(origins.dtype, *given, counts, None, None, None, None)
    offsets = _offsets(counts)
    total = int(offsets[-1])
    ray, start, end = (
        torch.empty(total, dtype=torch.int64),
        origins.new_empty(total),
        origins.new_empty(total),
    )
    _kernel(origins.dtype, *given, None, offsets, ray, start, end)
    return ray, start, end, offsets


@_march.register_fake
def _(origins, directions, occupied, jitter, bound, step, near, max_samples):
    total = torch.library.get_ctx().new_dynamic_size()
    ray = origins.new_empty(total, dtype=torch.int64)
    offsets = origins.new_empty(origins.shape[0] + 1, dtype=torch.int64)
    return ray, origins.new_empty(total), origins.new_empty(total), offsets


@cuda("march")
def _on_cuda(origins, directions, occupied, jitter, bound, step, near, max_samples):
    """nerfacc's grid traversal, which has no bound on the samples of a ray."""
    library = cuda_library("nerfacc", origins)
    if library is None or max_samples is not None:
        return tuple(march_reference(origins, directions, occupied, bound, step, jitter, near, max_samples))
    start = torch.full_like(origins[:, 0], near)
    if jitter is not None:
        start = start + jitter * step
    intervals, samples, _ = library.grid.traverse_grids(
        origins.contiguous(), directions.contiguous(), occupied[None],
        origins.new_tensor([[-bound] * 3 + [bound] * 3]), near_planes=start,
        far_planes=torch.full_like(start, 1e10), step_size=step, cone_angle=0.0,
    )  # fmt: skip
    ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    return samples.ray_indices.long(), *ends, _offsets(samples.packed_info[:, 1].long())
