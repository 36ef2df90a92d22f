"""Which implementation carries out a field's steps; one rule, decided per tensor's device.

    CPU                                the kernels of ``threedistill.ops`` (native, or their torch twins)
    CUDA, libraries importable         tinycudann encodes, nerfacc marches and composites, gsplat draws splats
    CUDA without them, other devices   the torch twins, which run anywhere

The table has tiny-cuda-nn's layout, so a checkpoint written by one path loads in every other. ``THREEDISTILL_OPS``
set to ``reference`` or ``native`` keeps the libraries out. The CUDA path has not been measured on a GPU yet: its
adapters are checked against stand-ins that speak the libraries' interfaces. All of them compute in float32;
float64 fields take the twins.
"""

from __future__ import annotations

import importlib
import os
from functools import cache
from types import ModuleType

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from threedistill.ops.composite import Composited
from threedistill.ops.composite import composite as native_composite
from threedistill.ops.hash_encode import HashLayout, hash_encode
from threedistill.ops.march import Samples
from threedistill.ops.march import march as native_march
from threedistill.ops.splat import LEAST, Layers
from threedistill.ops.splat import splat as native_splat

__all__ = ["composite", "describe", "encode", "march", "splat"]


@cache
def _importable(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # tinycudann raises OSError where no binding fits the GPU
        return None


def _library(name: str, tensor: Tensor) -> ModuleType | None:
    """The CUDA library if this tensor can go through it."""
    if (
        os.environ.get("THREEDISTILL_OPS") in ("reference", "native")
        or tensor.device.type != "cuda"
        or tensor.dtype != torch.float32
    ):
        return None
    return _importable(name) if torch.cuda.is_available() else None


def describe(tensor: Tensor) -> str:
    """Who would carry out a step on this tensor, for ``run.json`` and ``doctor``."""
    if tensor.device.type != "cuda":
        return "threedistill.ops"
    found = [name for name in ("tinycudann", "nerfacc", "gsplat") if _library(name, tensor)]
    return " + ".join(found) or "threedistill.ops (torch)"


@cache
def _tcnn_encoding(layout: HashLayout, device: torch.device) -> nn.Module:
    library = importlib.import_module("tinycudann")
    config = {
        "otype": "HashGrid", "n_levels": layout.levels, "n_features_per_level": layout.features,
        "log2_hashmap_size": layout.log2_entries, "base_resolution": layout.base_resolution,
        "per_level_scale": _per_level_scale(layout), "interpolation": "Linear",
    }  # fmt: skip
    with torch.cuda.device(device):
        return library.Encoding(3, config, dtype=torch.float32)


def _per_level_scale(layout: HashLayout) -> float:
    """tiny-cuda-nn's growth ``b`` with ``finest = base * b^(levels - 1)``."""
    if layout.levels == 1:
        return 1.0
    return float((layout.finest_resolution / layout.base_resolution) ** (1 / (layout.levels - 1)))


def encode(
    x: Float[Tensor, "N 3"], table: Float[Tensor, "T F"], layout: HashLayout, active_levels: int | None = None
) -> Float[Tensor, "N E"]:
    """Multiresolution hash encoding: :func:`threedistill.ops.hash_encode.hash_encode`, or tinycudann's.

    Arguments:
        x: (N, 3) in [0, 1].
        table: (T, F) entries of all levels, tiny-cuda-nn's order.
        layout: level sizes.
        active_levels: levels from the coarsest that are switched on; the others give zeros.
    """
    if _library("tinycudann", table) is None:
        return hash_encode(x, table, layout, active_levels)
    # The library's module owns a parameter vector; ours stands in for it, so gradients land in the field's table.
    module = _tcnn_encoding(layout, table.device)
    features = torch.func.functional_call(module, {"params": table.reshape(-1)}, (x,))
    if active_levels is None or active_levels >= layout.levels:
        return features
    live = torch.arange(layout.levels, device=x.device).repeat_interleave(layout.features) < active_levels
    return features * live


def march(
    origins: Float[Tensor, "R 3"], directions: Float[Tensor, "R 3"], occupied: Bool[Tensor, "G G G"],
    bound: float, step: float, jitter: Float[Tensor, "R"] | None, near: float = 0.0,
) -> Samples:  # fmt: skip
    """Segments of equal length through the occupied cells: :func:`threedistill.ops.march.march`, or nerfacc's."""
    library = _library("nerfacc", origins)
    if library is None:
        return native_march(origins, directions, occupied, bound, step, jitter, near)
    start = torch.full_like(origins[:, 0], near)
    if jitter is not None:
        start = start + jitter.to(start) * step
    box = origins.new_tensor([[-bound] * 3 + [bound] * 3])
    intervals, samples, _ = library.grid.traverse_grids(
        origins.contiguous(), directions.contiguous(), occupied[None], box, near_planes=start,
        far_planes=torch.full_like(start, 1e10), step_size=step, cone_angle=0.0,
    )  # fmt: skip
    counts = samples.packed_info[:, 1].long()
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Samples(
        samples.ray_indices.long(),
        intervals.vals[intervals.is_left],
        intervals.vals[intervals.is_right],
        offsets,
    )


def composite(density: Float[Tensor, "S"], rgb: Float[Tensor, "S 3"], samples: Samples) -> Composited:
    """Emission-absorption along rays: :func:`threedistill.ops.composite.composite`, or nerfacc's."""
    library = _library("nerfacc", density)
    if library is None:
        return native_composite(density, rgb, samples)
    rays = len(samples.offsets) - 1
    weights, _, _ = library.render_weight_from_density(
        samples.start, samples.end, density, ray_indices=samples.ray, n_rays=rays
    )

    def along(values: Tensor | None) -> Tensor:
        return library.accumulate_along_rays(weights, values, ray_indices=samples.ray, n_rays=rays)

    middle = ((samples.start + samples.end) * 0.5)[:, None]
    return Composited(along(rgb), along(None)[:, 0], along(middle)[:, 0], weights)


#: Pixels per side of gsplat's tiles.
_TILE = 16


def splat(
    means: Float[Tensor, "B N 2"], conics: Float[Tensor, "B N 3"], opacities: Float[Tensor, "B N"],
    features: Float[Tensor, "B N C"], depths: Float[Tensor, "B N"], height: int, width: int,
) -> Layers:  # fmt: skip
    """Projected Gaussians near to far: :func:`threedistill.ops.splat.splat`, or gsplat's rasteriser.

    gsplat takes the same conics, so projection and its low-pass filter stay ours on every device.
    """
    library = _library("gsplat", means)
    if library is None:
        return native_splat(means, conics, opacities, features, depths, height, width)
    with torch.no_grad():
        a, b, c = conics.unbind(-1)
        determinant = a * c - b * b
        limit = 2 * torch.log(opacities / LEAST).clamp_min(0)
        seen = (depths > 0) & depths.isfinite() & (opacities >= LEAST) & (determinant > 0)
        reach = torch.stack([limit * c / determinant, limit * a / determinant], -1).sqrt().ceil()
        radii = torch.where(seen[..., None] & reach.isfinite(), reach, 0.0).int()
        across, down = -(-width // _TILE), -(-height // _TILE)
        _, crossings, order = library.isect_tiles(means, radii, depths, _TILE, across, down)
        offsets = library.isect_offset_encode(crossings, len(means), across, down)
    image, opacity = library.rasterize_to_pixels(
        means.contiguous(), conics.contiguous(), features.contiguous(), opacities.contiguous(), width, height,
        _TILE, offsets, order,
    )  # fmt: skip
    return Layers(image, opacity[..., 0])
