"""From a radiance field to a surface: which level set is the object, its mesh, and the colour a viewer sees on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.ops.composite import composite
from threedistill.ops.march import Samples
from threedistill.ops.marching_cubes import marching_cubes
from threedistill.render.volume import half_depth, ray_max
from threedistill.representations.bridging import bridge
from threedistill.representations.carving import PIT, Views, rings, seal
from threedistill.types import Mesh

if TYPE_CHECKING:
    from threedistill.representations.hashgrid import HashGrid

__all__ = ["color", "extract", "silhouette_level"]

_CHUNK = 1 << 18

#: The volume is clipped this far around the level (in potential): farther values only matter by their sign.
_CLIP = 8.0

#: A neck has at least this share of the surface's density, and is at most this long, metres along the axes.
_FAINT, _NECK = 1 / 8, 0.2


def silhouette_level(
    peak: Float[Tensor, "R"], opacity: Float[Tensor, "R"], typical: float, slack: float = 0.01
) -> tuple[float, float]:
    """The density whose level set casts the silhouette that the renders show.

    A ray meets the set ``{sigma > level}`` exactly if its largest density exceeds the level, so every level's
    silhouette is known from one number per ray. Among the levels whose silhouettes agree best with
    ``opacity > 1/2`` (intersection over union within ``slack`` of the best), the one nearest to ``typical`` is
    taken. A hard field leaves a wide range, and ``typical`` decides; in fog the range is narrow, and it is the
    fog's own density that decides.

    Arguments:
        peak: (R,) largest density along each ray, 1/metres, 0 where there is none.
        opacity: (R,) rendered opacity of the same rays.
        typical: density where rays usually end, 1/metres.
        slack: agreement that may be given up to come closer to ``typical``.

    Returns:
        the level, 1/metres, and its silhouette's intersection over union.

    Raises:
        ThreedistillError: no ray is more than half opaque.
    """
    solid = opacity > 0.5
    if not bool(solid.any()):
        raise ThreedistillError(
            f"the field is empty: no view is more than half opaque anywhere (the most is {float(opacity.max()):.2f}); "
            "train longer, lower the sparsity weight, or raise representation.model.blob_strength"
        )
    order = peak.argsort(descending=True)
    ranked, hits = peak[order], solid[order].double().cumsum(0)
    taken = torch.arange(1, len(peak) + 1, device=peak.device, dtype=torch.float64)
    agreement = hits / (taken + solid.sum() - hits)
    # Between two neighbours of the ranking every level gives the same silhouette.
    lower = torch.cat([ranked[1:], ranked.new_zeros(1)])
    usable = (ranked > lower) & (ranked > 0)
    agreement = torch.where(usable, agreement, torch.zeros_like(agreement))
    good = agreement >= agreement.max() - slack
    low, high = float(lower[good].min()), float(ranked[good].max())
    level = min(max(typical, low * 1.001, 1e-3 * high), high * 0.999)
    return level, float(agreement[min(int((ranked > level).sum()), len(ranked)) - 1])


class _Probe(NamedTuple):
    """What a field shows to views all around it."""

    views: Views
    peak: Tensor  # (B H W,) largest density along each ray, 1/metres
    end: float  # density where rays typically end, 1/metres


def _probe(field: HashGrid, size: int = 96) -> _Probe:
    """Render views all around."""
    cameras = rings(size)
    peaks, opacities, depths, ends = [], [], [], []
    for view in range(len(cameras)):
        origins, directions = (r.reshape(-1, 3).to(field.table) for r in cameras[[view]].rays())
        samples, points = field.march(origins, directions)
        density = field.density(points)
        out = composite(density, density[:, None].expand(-1, 3).contiguous(), samples)
        solid = out.opacity > 0.5
        peaks.append(ray_max(density, samples))
        opacities.append(out.opacity.view(size, size))
        depths.append(half_depth(out.weights, samples).view(size, size))
        ends.append(out.rgb[solid, 0] / out.opacity[solid])  # the density, weighted like a colour
    end = torch.cat(ends)
    views = Views(cameras, torch.stack(opacities), torch.stack(depths))
    return _Probe(views, torch.cat(peaks), float(end.median()) if len(end) else 0.0)


def extract(field: HashGrid, resolution: int) -> Mesh:
    """The object's surface as a mesh.

    The level comes from :func:`silhouette_level` with half of the density at which rays typically end. Marching
    cubes runs on the potential rather than on the density: it is close to linear within a cell, where the density
    bends by orders of magnitude, so the crossings are placed better. Space outside the occupancy grid is empty;
    the inside that no view sees is solid (``representations/carving.py``), and parts on a faint stem stay joined
    (``representations/bridging.py``).

    Arguments:
        resolution: cells per axis over the field's box.

    Returns:
        vertices (metres) and outward faces, all components.

    Raises:
        ThreedistillError: the field is empty, or fills its box.
    """
    probe = _probe(field)
    level, _ = silhouette_level(probe.peak, probe.views.opacity.flatten(), 0.5 * probe.end)
    threshold = field.potential_of(level)

    occupied = field.occupancy.occupied.nonzero()
    cells = field.occupancy.resolution
    # The lattice covers the occupied part of the box and one sample beyond it.
    ratio = resolution / cells
    first = [math.floor(int(occupied[:, a].min()) * ratio) - 1 for a in range(3)]
    last = [math.ceil((int(occupied[:, a].max()) + 1) * ratio) + 1 for a in range(3)]
    spacing = 2 * field.bound / resolution
    axes = [
        torch.arange(a, b + 1, device=field.table.device) * spacing - field.bound for a, b in zip(first, last)
    ]
    volume = torch.full(
        [len(a) for a in axes], threshold - _CLIP, device=field.table.device, dtype=field.table.dtype
    )
    flat = volume.view(-1)
    plane = len(axes[1]) * len(axes[2])
    rows = max(1, _CHUNK // plane)
    for start in range(0, len(axes[0]), rows):
        grid = torch.meshgrid(axes[0][start : start + rows], axes[1], axes[2], indexing="ij")
        points = torch.stack(grid, -1).reshape(-1, 3).to(field.table.dtype)
        inside = field.occupancy.contains(points).nonzero()[:, 0]
        if len(inside):
            flat[start * plane + inside] = field.raw(points[inside])[0]
    volume.clamp_(threshold - _CLIP, threshold + _CLIP)

    filled = float((volume > threshold).float().mean()) * math.prod(len(a) for a in axes) / resolution**3
    if filled > 0.9:
        raise ThreedistillError(
            f"the field is full: {filled:.0%} of its box lies inside the surface; raise the sparsity weight, lower "
            "representation.model.blob_strength, or draw random backgrounds (background.white below 1)"
        )
    volume = seal(volume, threshold, axes, spacing, PIT, probe.views)
    # Empty space lies at the clip; a neck is more than that.
    faint = max(field.potential_of(_FAINT * level), threshold - 0.99 * _CLIP)
    volume = bridge(volume, threshold, faint, round(_NECK / spacing))
    vertices, faces = marching_cubes(volume, threshold, [float(a[0]) for a in axes], spacing)
    if not len(faces):
        raise ThreedistillError(
            f"the field is empty at resolution {resolution}: its parts are thinner than a cell of {spacing:.3f} m; "
            "raise export.resolution or train longer"
        )
    return Mesh(vertices.float(), faces)


def color(
    field: HashGrid, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], outside: float = 0.035,
    inside: float = 0.12, chunk: int = 1 << 15,
) -> Float[Tensor, "N 3"]:  # fmt: skip
    """The albedo that a viewer in front of the surface sees: ``sum w_i c_i / sum w_i`` along a ray coming in.

    A field puts its colour where its light is absorbed, a little behind any level set; asking for the colour at
    the mesh itself returns what no render shows. Where the ray meets (almost) nothing, the point's own albedo
    stands in.

    Arguments:
        points: (N, 3) on the surface, metres.
        normals: (N, 3) unit, outward.
        outside, inside: where the ray starts before and ends behind the point, metres.
        chunk: points per batch.
    """
    count = max(2, math.ceil((outside + inside) / field.step))
    edges = torch.linspace(-outside, inside, count + 1, device=field.table.device, dtype=field.table.dtype)
    result = []
    for p, n in zip(points.to(field.table).split(chunk), normals.to(field.table).split(chunk)):
        middle = (edges[1:] + edges[:-1]) * 0.5
        where = (p[:, None, :] - n[:, None, :] * middle[:, None]).reshape(-1, 3)
        potential, logits = field.raw(where)
        rays = torch.arange(len(p), device=p.device)
        samples = Samples(
            rays.repeat_interleave(count), edges[:-1].repeat(len(p)), edges[1:].repeat(len(p)),
            torch.arange(len(p) + 1, device=p.device) * count,
        )  # fmt: skip
        out = composite(field.activate(potential), logits.sigmoid(), samples)
        own = field.raw(p)[1].sigmoid()
        met = out.opacity[:, None] > 0.02
        result.append(torch.where(met, out.rgb / out.opacity[:, None].clamp_min(0.02), own))
    return torch.cat(result).float() if result else points.new_zeros(0, 3)
