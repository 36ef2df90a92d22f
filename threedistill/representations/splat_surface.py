"""From splats to a surface: which level set of their density is the object, its mesh, and the colour seen on it."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import ELEVATION_RANGE, place
from threedistill.errors import ThreedistillError
from threedistill.ops.marching_cubes import marching_cubes
from threedistill.render.harmonics import color_of
from threedistill.render.projection import rotations
from threedistill.render.splat import render_splats
from threedistill.representations.carving import Views, seal
from threedistill.representations.surface import silhouette_level
from threedistill.types import Cameras, Mesh, Splats

__all__ = ["color", "extract", "volume_of"]

#: Splats that absorb less are no part of the surface.
_LEAST = 0.02

#: A splat reaches this many standard deviations far.
_REACH = 3.0

#: Pits up to twice this wide are sealed, metres: two pixels of a 64-pixel view.
_PIT = 0.04

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


def _views(splats: Splats, around: int = 8, size: int = 96) -> Views:
    """Rings of views from the elevations that training uses: nothing is known of the rest."""
    elevations = torch.linspace(*ELEVATION_RANGE, 4).repeat_interleave(around)
    turn = torch.arange(4 * around) / around + torch.arange(4).repeat_interleave(around) / (2 * around)
    ones = torch.ones(4 * around)
    cameras = place(
        turn * 2 * math.pi, torch.deg2rad(elevations), 2.9 * ones, math.radians(44.0) * ones, size, size
    )
    out = render_splats(splats, cameras)
    opacity = out.opacity[..., 0]
    return Views(cameras, opacity, torch.where(opacity > 0.5, out.depth[..., 0], torch.inf))


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
    potential = seal(potential.clamp(threshold - 8, threshold + 8), threshold, axes, spacing, _PIT, views)
    vertices, faces = marching_cubes(potential, threshold, low, spacing)
    if not len(faces):
        raise ThreedistillError(
            f"the splats have no surface at resolution {resolution}; raise export.resolution or train longer"
        )
    return Mesh(vertices.float(), faces)


def color(
    splats: Splats, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"], neighbours: int = 24,
    outside: float = 0.05, inside: float = 0.1, chunk: int = 1 << 14,
) -> Float[Tensor, "N 3"]:  # fmt: skip
    """What a viewer in front of the surface sees: the nearest splats composited along a ray coming in.

    Along the ray, splat i is largest at ``t_i``, where it absorbs ``alpha_i = o_i exp(-m_i / 2)`` with its squared
    Mahalanobis distance ``m_i``; the colours are composited in the order of ``t_i``. Where the ray meets (almost)
    nothing, the splats' average, weighted by ``alpha_i`` at the point, stands in.

    Arguments:
        splats: on the CPU.
        points: (N, 3) on the surface, metres.
        normals: (N, 3) unit, outward.
        neighbours: splats that are asked, the nearest.
        outside, inside: where the ray starts before and ends behind the point, metres.
        chunk: points per batch.
    """
    from scipy.spatial import KDTree

    solid = (splats.opacity_logits.sigmoid() > _LEAST).nonzero()[:, 0]
    if not len(solid) or not len(points):
        return torch.full((len(points), 3), 0.5)
    means, opacity = splats.means[solid], splats.opacity_logits[solid].sigmoid()
    axes, inverse, sh = (
        rotations(splats.quaternions[solid]),
        (-splats.log_scales[solid]).exp(),
        splats.sh[solid],
    )
    tree = KDTree(means.double().numpy())
    count = min(neighbours, len(solid))
    result = []
    for p, n in zip(points.float().split(chunk), normals.float().split(chunk)):
        _, near = tree.query(p.double().numpy(), k=count)
        index = torch.from_numpy(near).reshape(len(p), count)
        # Ray p - t n in each splat's own axes, in standard deviations: a - t b.
        frame, shrink = axes[index], inverse[index]
        a = torch.einsum("pki,pkij->pkj", p[:, None] - means[index], frame) * shrink
        b = torch.einsum("pi,pkij->pkj", n, frame) * shrink
        t = ((a * b).sum(-1) / (b * b).sum(-1)).clamp(-outside, inside)
        alpha = opacity[index] * torch.exp(-0.5 * (a - t[..., None] * b).square().sum(-1))
        towards = -n[:, None].expand(-1, count, 3).flatten(0, 1)
        colors = color_of(sh[index].flatten(0, 1), towards).view(len(p), count, 3)
        own = (opacity[index] * torch.exp(-0.5 * a.square().sum(-1).clamp_max(60)))[..., None] + 1e-20
        plain = (own * colors).sum(1) / own.sum(1)
        order = t.argsort(1)
        alpha, colors = alpha.gather(1, order), colors.gather(1, order[..., None].expand_as(colors))
        before = torch.cumprod(1 - alpha, 1) / (1 - alpha).clamp_min(1e-6)
        weight = (before * alpha)[..., None]
        met = weight.sum(1)
        result.append(torch.where(met > 0.02, (weight * colors).sum(1) / met.clamp_min(0.02), plain))
    return torch.cat(result)
