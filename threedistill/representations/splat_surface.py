"""From splats to a surface: which level set of their density is the object, and its mesh."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.ops.marching_cubes import marching_cubes
from threedistill.render.projection import rotations
from threedistill.render.splat import render_splats
from threedistill.representations.carving import PIT, Views, rings, seal
from threedistill.representations.surface import silhouette_level
from threedistill.types import Cameras, Mesh, Splats

__all__ = ["extract", "volume_of"]

#: Splats that absorb less are no part of the surface.
_LEAST = 0.02

#: A splat reaches this many standard deviations far.
_REACH = 3.0

#: (splat, cell) pairs that are worked on at once.
_PAIRS = 1 << 21


def volume_of(
    splats: Splats, origin: Float[Tensor, "3"], spacing: float, shape: tuple[int, int, int]
) -> Float[Tensor, "X Y Z"]:
    """``sum_i o_i exp(-d_i^T Sigma_i^-1 d_i / 2)`` on a lattice, in double precision.

    Half a cell's variance is added to every Gaussian, so that a disc thinner than a cell is not lost between samples.

    Arguments:
        splats: the cloud.
        origin: of sample (0, 0, 0), metres.
        spacing: between samples, metres.
        shape: samples per axis.
    """
    axes, scales = rotations(splats.quaternions), splats.log_scales.exp()
    variance = scales**2 + (0.5 * spacing) ** 2
    # Half extents of the box around the ellipsoid at _REACH standard deviations.
    reach = _REACH * ((axes**2) * variance[:, None, :]).sum(-1).sqrt()
    size = torch.tensor(shape)
    low = ((splats.means - reach - origin) / spacing).ceil().clamp_min(0).long()
    high = torch.minimum(((splats.means + reach - origin) / spacing).floor().long(), size - 1)
    extent = (high - low + 1).clamp_min(0)
    opacity = splats.opacity_logits.sigmoid()
    counts = extent.prod(1) * (opacity > _LEAST)
    total = torch.zeros(math.prod(shape), dtype=torch.float64)
    ends = counts.cumsum(0)
    first = 0
    while first < len(counts):
        done = int(ends[first - 1]) if first else 0
        last = max(first + 1, int(torch.searchsorted(ends, done + _PAIRS, right=True)))
        which = torch.repeat_interleave(torch.arange(first, last), counts[first:last])
        within = torch.arange(len(which)) + done - (ends - counts)[which]
        box = extent[which]
        k = within % box[:, 2]
        j = within // box[:, 2] % box[:, 1]
        i = within // (box[:, 2] * box[:, 1])
        cell = low[which] + torch.stack([i, j, k], 1)
        offset = origin + spacing * cell - splats.means[which]
        local = torch.einsum("pi,pij->pj", offset, axes[which])
        value = opacity[which] * torch.exp(-0.5 * (local**2 / variance[which]).sum(-1))
        flat = (cell[:, 0] * shape[1] + cell[:, 1]) * shape[2] + cell[:, 2]
        # bincount adds in the order of the list: the same sums on every machine with any number of threads.
        total += torch.bincount(flat, weights=value.double(), minlength=len(total))
        first = last
    return total.view(shape)


def _views(splats: Splats, size: int = 96) -> Views:
    """What views all around show."""
    cameras = rings(size)
    return Views.of(cameras, render_splats(splats, cameras))


def _peaks(
    volume: Float[Tensor, "X Y Z"], origin: Tensor, spacing: float, cameras: Cameras, samples: int = 96
) -> Float[Tensor, "R"]:
    """Largest value along each ray of the views."""
    extent = torch.tensor(volume.shape) - 1
    peaks = []
    for view in range(len(cameras)):
        origins, directions = (r.reshape(-1, 3) for r in cameras[[view]].rays())
        distance = torch.linspace(-1.2, 1.2, samples) + float(cameras.distance[view])
        points = origins[:, None] + directions[:, None] * distance[:, None]
        unit = (points - origin) / spacing / extent * 2 - 1
        grid = unit.flip(-1)[None, :, :, None]  # grid_sample takes the last axis first
        values = torch.nn.functional.grid_sample(
            volume[None, None], grid, align_corners=True, padding_mode="zeros"
        )
        peaks.append(values.view(len(origins), samples).amax(1))
    return torch.cat(peaks)


def extract(splats: Splats, resolution: int) -> Mesh:
    """The object's surface as a mesh.

    The level is the one whose silhouettes agree with the pictures (:func:`~threedistill.representations.surface.
    silhouette_level`). Splats lie on the surface that views see and leave the inside empty; as for radiance fields,
    what no view sees is made solid (``representations/carving.py``).

    Arguments:
        splats: on the CPU.
        resolution: cells along 2 m.

    Returns:
        vertices (metres) and outward faces, all components.

    Raises:
        ThreedistillError: nothing is opaque.
    """
    solid = splats.opacity_logits.sigmoid() > _LEAST
    if not bool(solid.any()):
        raise ThreedistillError("the splats are all transparent: there is no surface; train longer")
    spacing = 2 / resolution
    reach = _REACH * splats.log_scales.exp().amax(-1, keepdim=True) + 2 * spacing
    low = (splats.means - reach)[solid].amin(0).clamp(-1.5, 1.5)
    high = (splats.means + reach)[solid].amax(0).clamp(-1.5, 1.5)
    shape = [int(n) + 2 for n in ((high - low) / spacing).ceil()]
    volume = volume_of(splats, low, spacing, (shape[0], shape[1], shape[2])).float()
    views = _views(splats)
    peaks = _peaks(volume, low, spacing, views.cameras)
    # A Gaussian of opacity o ends where it absorbs half of what it can: half its peak is the neutral choice.
    hit = views.opacity.flatten() > 0.5
    level, _ = silhouette_level(
        peaks, views.opacity.flatten(), 0.5 * float(peaks[hit].median()) if hit.any() else 0.5
    )
    # The logarithm of a sum of Gaussians is nearly quadratic: crossings are placed better than in the sum itself.
    potential = torch.log(volume.clamp_min(1e-6))
    threshold = math.log(level)
    axes = [low[a] + spacing * torch.arange(shape[a]) for a in range(3)]
    potential = seal(potential.clamp(threshold - 8, threshold + 8), threshold, axes, spacing, PIT, views)
    vertices, faces = marching_cubes(potential, threshold, low, spacing)
    if not len(faces):
        raise ThreedistillError(
            f"the splats have no surface at resolution {resolution}; raise export.resolution or train longer"
        )
    return Mesh(vertices.float(), faces)
