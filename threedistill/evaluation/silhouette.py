"""How much of an asset's shape is the right shape: silhouettes, surface distance and volume against ground truth.

Convention: both meshes are centred (:func:`threedistill.evaluation.alignment.centred`), then the asset is turned
about +Y and scaled about the origin to where its silhouettes overlap best with those of the ground truth, at
12 azimuths and 15 degrees elevation. Nothing else is fitted.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from threedistill.cameras import orbit
from threedistill.evaluation.alignment import centred, rotate_y, turned
from threedistill.ops.rasterize import rasterize
from threedistill.types import Cameras, Mesh

__all__ = [
    "COARSE_SCALES", "COARSE_YAWS", "ShapeAgreement", "chamfer_distance", "mask_iou", "occupancy", "sample_surface",
    "silhouette_agreement", "silhouettes", "volume_agreement", "volume_iou",
]  # fmt: skip

COARSE_YAWS = 72
COARSE_SCALES = (0.72, 0.8, 0.88, 0.96, 1.0, 1.06, 1.15, 1.25, 1.38)


@dataclass(frozen=True)
class ShapeAgreement:
    """An asset against its ground truth after the best yaw and scale.

    Attributes:
        silhouette_iou: mean over azimuths of intersection over union, in [0, 1].
        worst_view_iou: the smallest of them.
        yaw: degrees about +Y that turn the asset onto the ground truth, in [-180, 180).
        scale: factor on the asset after both were given the same bounding radius.
        upright_iou: the same mean with yaw 0 (the asset stands as it was written), best scale.
        chamfer: mean nearest distance between the surfaces, both ways averaged, in radii of the ground truth.
        volume_iou: of the solids on a 48^3 grid, None where a mesh has no inside.
    """

    silhouette_iou: float
    worst_view_iou: float
    yaw: float
    scale: float
    upright_iou: float
    chamfer: float
    volume_iou: float | None

    def as_dict(self) -> dict[str, float | None]:
        """Plain numbers for JSON."""
        return asdict(self)


def silhouettes(vertices: Tensor, faces: Tensor, cameras: Cameras) -> Tensor:
    """(B, H, W) booleans: where any face covers the pixel's centre."""
    ones = torch.ones_like(vertices[:, :1])
    clip = torch.cat([vertices, ones], -1)[None] @ cameras.world_to_clip().transpose(1, 2)
    return rasterize(clip.contiguous(), faces, cameras.height, cameras.width).triangle >= 0


def mask_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of (B, H, W) masks, per view; two empty masks agree (1)."""
    both = (a & b).flatten(1).sum(1).float()
    either = (a | b).flatten(1).sum(1).float()
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both))


def silhouette_agreement(asset: Mesh, truth: Mesh, views: int = 12, size: int = 96) -> ShapeAgreement:
    """Compare ``asset`` with ``truth`` after the best rotation about +Y and uniform scale.

    Coarse to fine: every 5 degrees and nine scales at once (turning an object by the step between cameras only
    renumbers its views), then both are refined by halving steps down to 0.3 degrees and 0.4 %.

    Arguments:
        asset, truth: meshes in any position; the ground truth faces +Z.
        views: azimuths compared; must divide 72.
        size: pixels per side of a silhouette.
    """
    if COARSE_YAWS % views:
        raise ValueError(f"views={views} must divide {COARSE_YAWS}")
    asset, truth = centred(asset), centred(truth)
    cameras = orbit(views, size=size)
    target = silhouettes(truth.vertices, truth.faces, cameras)

    yaws = torch.arange(COARSE_YAWS) * (2 * math.pi / COARSE_YAWS)
    ring = orbit(COARSE_YAWS, size=size // 2)
    small = silhouettes(truth.vertices, truth.faces, orbit(views, size=size // 2)).flatten(1).float()
    # The asset turned by yaw, seen from azimuth a, looks like the asset unturned seen from a - yaw.
    step = COARSE_YAWS // views
    index = (torch.arange(views)[None] * step - torch.arange(COARSE_YAWS)[:, None]) % COARSE_YAWS
    table = torch.zeros(len(COARSE_SCALES), COARSE_YAWS)
    for s, scale in enumerate(COARSE_SCALES):
        seen = silhouettes(asset.vertices * scale, asset.faces, ring).flatten(1).float()
        cross = seen @ small.T  # (72, views) pixels in common
        either = seen.sum(1)[:, None] + small.sum(1)[None] - cross
        iou = cross / either.clamp_min(1)
        table[s] = iou[index, torch.arange(views)[None]].mean(1)

    def per_view(yaw: float, scale: float) -> Tensor:
        return mask_iou(silhouettes(rotate_y(asset.vertices, yaw) * scale, asset.faces, cameras), target)

    def refined(yaw: float, scale: float, turn: bool) -> tuple[float, float, Tensor]:
        best = per_view(yaw, scale)
        angle, factor = (math.radians(2.5) if turn else 0.0), 0.04
        while factor > 0.003:
            moves = [(yaw, scale * (1 + factor)), (yaw, scale / (1 + factor))]
            moves += [(yaw + angle, scale), (yaw - angle, scale)] if turn else []
            tried = [(per_view(*move), move) for move in moves]
            top = max(tried, key=lambda item: float(item[0].mean()))
            if float(top[0].mean()) > float(best.mean()):
                best, (yaw, scale) = top
            else:
                angle, factor = angle / 2, factor / 2
        return yaw, scale, best

    flat = int(table.argmax())
    start_yaw, start_scale = float(yaws[flat % COARSE_YAWS]), COARSE_SCALES[flat // COARSE_YAWS]
    yaw, scale, iou = refined(start_yaw, start_scale, turn=True)
    *_, upright = refined(0.0, COARSE_SCALES[int(table[:, 0].argmax())], turn=False)
    placed = turned(asset, yaw, scale)
    return ShapeAgreement(
        silhouette_iou=float(iou.mean()),
        worst_view_iou=float(iou.min()),
        yaw=(math.degrees(yaw) + 180) % 360 - 180,
        scale=scale,
        upright_iou=float(upright.mean()),
        chamfer=chamfer_distance(placed, truth) / float(truth.vertices.norm(dim=-1).max()),
        volume_iou=volume_iou(placed, truth),
    )


def sample_surface(mesh: Mesh, count: int, seed: int = 0) -> Tensor:
    """(count, 3) points spread uniformly by area over the faces."""
    a, b, c = (mesh.vertices[mesh.faces[:, k].long()] for k in range(3))
    area = torch.linalg.cross(b - a, c - a).norm(dim=-1).double()
    rng = torch.Generator().manual_seed(seed)
    # Systematic sampling: one jitter for all, so that areas are met as exactly as the count allows.
    ticks = (torch.arange(count, dtype=torch.float64) + torch.rand(1, generator=rng).double()) / count
    total = area.cumsum(0)
    face = torch.searchsorted(total, ticks * total[-1]).clamp_max(len(area) - 1)
    u, v = torch.rand(2, count, 1, generator=rng).unbind(0)
    root = u.sqrt()
    return a[face] * (1 - root) + b[face] * (root * (1 - v)) + c[face] * (root * v)


def chamfer_distance(a: Mesh, b: Mesh, count: int = 4096) -> float:
    """Half the sum of the two mean nearest-neighbour distances between surface samples, metres.

    Two samplings of one surface are about ``0.5 sqrt(area / count)`` apart, so that is the floor of the figure.
    """
    from scipy.spatial import KDTree

    p, q = sample_surface(a, count).cpu().numpy(), sample_surface(b, count, seed=1).cpu().numpy()
    return float((KDTree(q).query(p)[0].mean() + KDTree(p).query(q)[0].mean()) / 2)


def occupancy(mesh: Mesh, resolution: int = 48, bound: float = 1.1) -> Tensor:
    """(X, Y, Z) booleans: cell centres of ``[-bound, bound]^3`` inside the mesh (winding number along +Z not zero).

    For every column of cells, the faces above it add +1 or -1 by the way they face; unlike parity this counts
    overlapping closed parts as solid.
    """
    corners = mesh.vertices.double()[mesh.faces.long()]  # (F, 3, 3)
    cell = 2 * bound / resolution
    # A hair off the lattice, and off its diagonals: columns through shared edges would count both faces, or neither.
    xy = (corners[..., :2] + bound) / cell - 0.5 + 1e-6 * corners.new_tensor([math.pi, math.e])
    low = xy.amin(1).ceil().clamp(0, resolution).long()
    high = (xy.amax(1).floor() + 1).clamp(0, resolution).long()
    extent = (high - low).clamp_min(0)
    per_face = extent[:, 0] * extent[:, 1]
    face = torch.repeat_interleave(torch.arange(len(per_face)), per_face)
    rank = torch.arange(len(face)) - torch.repeat_interleave(per_face.cumsum(0) - per_face, per_face)
    x = low[face, 0] + rank % extent[face, 0]
    y = low[face, 1] + rank // extent[face, 0]
    p = torch.stack([x, y], -1).double()
    a, b, c = xy[face].unbind(1)

    def edge(s: Tensor, t: Tensor) -> Tensor:
        return (t[:, 0] - s[:, 0]) * (p[:, 1] - s[:, 1]) - (t[:, 1] - s[:, 1]) * (p[:, 0] - s[:, 0])

    wa, wb, wc = edge(b, c), edge(c, a), edge(a, b)
    area = wa + wb + wc
    hit = (((wa > 0) & (wb > 0) & (wc > 0)) | ((wa < 0) & (wb < 0) & (wc < 0))) & (area != 0)
    z = (wa * corners[face, 0, 2] + wb * corners[face, 1, 2] + wc * corners[face, 2, 2]) / torch.where(
        hit, area, torch.ones_like(area)
    )
    z, sign, column = z[hit], area[hit].sign(), (x * resolution + y)[hit]
    first = ((z + bound) / cell - 0.5).ceil().clamp(0, resolution).long()
    change = torch.zeros(resolution * resolution, resolution + 1, dtype=torch.float64)
    change.index_put_((column, first), sign, accumulate=True)
    return change.cumsum(1)[:, :resolution].round().ne(0).reshape(resolution, resolution, resolution)


def volume_agreement(asset: Mesh, truth: Mesh, turns: int = 8) -> float | None:
    """:func:`volume_iou` of two meshes given one size, at the best of ``turns`` turns of the asset about +Y.

    Quick, and no search for scale: a lower bound of what :func:`silhouette_agreement` finds.
    """
    asset, truth = centred(asset), centred(truth)
    solid = occupancy(truth)
    found = [_solid_iou(occupancy(turned(asset, 2 * math.pi * k / turns)), solid) for k in range(turns)]
    return max((x for x in found if x is not None), default=None)


def volume_iou(a: Mesh, b: Mesh, resolution: int = 48) -> float | None:
    """Intersection over union of the two solids on a grid; None if either encloses nothing."""
    return _solid_iou(occupancy(a, resolution), occupancy(b, resolution))


def _solid_iou(first: Tensor, second: Tensor) -> float | None:
    """:func:`volume_iou` of two grids of :func:`occupancy`."""
    if not first.any() or not second.any():
        return None
    return float((first & second).sum()) / float((first | second).sum())
