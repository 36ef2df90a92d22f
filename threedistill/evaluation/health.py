"""Whether a mesh is one that people can use: closed, in one piece, without slivers, textured where it is seen."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from threedistill.types import Mesh

__all__ = [
    "MeshHealth",
    "components",
    "is_watertight",
    "mesh_health",
    "texel_density",
    "uv_coverage",
    "welded_faces",
]


@dataclass(frozen=True)
class MeshHealth:
    """Plain facts about a mesh.

    Attributes:
        vertices, faces: how many.
        watertight: every edge is shared by exactly two faces that agree on the outside (vertices at one place are
            taken as one, because texture seams double them).
        components: pieces that share no vertex.
        largest_share: share of the surface area that the largest piece has.
        degenerate_faces: faces with (nearly) no area or a repeated corner.
        uv_coverage: share of the unit square that the texture charts fill, None without texture coordinates.
        uv_outside: share of faces whose texture coordinates leave the unit square, None likewise.
        uv_overlap: share of the charts' texels that more than one face covers, None likewise.
        texel_density: texels per metre along the surface, median by area; None without a texture.
        texel_spread: its 90th percentile over its 10th; 1 = as fine everywhere. None likewise.
        longest_side: metres.
    """

    vertices: int
    faces: int
    watertight: bool
    components: int
    largest_share: float
    degenerate_faces: int
    uv_coverage: float | None
    uv_outside: float | None
    longest_side: float
    uv_overlap: float | None = None
    texel_density: float | None = None
    texel_spread: float | None = None

    def as_dict(self) -> dict[str, float | int | bool | None]:
        """Plain values for JSON."""
        return asdict(self)


def welded_faces(mesh: Mesh) -> np.ndarray:
    """(F, 3) faces over vertices merged by position (to 1e-6 of the object's size)."""
    points = mesh.vertices.detach().cpu().double().numpy()
    extent = max(float(np.ptp(points, axis=0).max()), 1e-12) if len(points) else 1.0
    _, merged = np.unique(np.round(points / (extent * 1e-6)).astype(np.int64), axis=0, return_inverse=True)
    return merged.reshape(-1)[mesh.faces.cpu().numpy()]


def components(faces: np.ndarray) -> np.ndarray:
    """(F,) component number of each face; faces are joined by a common vertex."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = int(faces.max()) + 1 if len(faces) else 0
    a, b = np.concatenate([faces[:, 0], faces[:, 1]]), np.concatenate([faces[:, 1], faces[:, 2]])
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    return np.unique(label[faces[:, 0]], return_inverse=True)[1] if len(faces) else np.zeros(0, dtype=int)


def is_watertight(faces: np.ndarray) -> bool:
    """Whether every edge is run through exactly once in each direction."""
    if len(faces) == 0:
        return False
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).astype(np.int64)
    edges = edges[edges[:, 0] != edges[:, 1]]
    base = int(faces.max()) + 1
    forward, backward = np.sort(edges @ [base, 1]), np.sort(edges @ [1, base])
    return bool(len(np.unique(forward)) == len(forward) and np.array_equal(forward, backward))


def uv_coverage(uv: Tensor, faces: Tensor, size: int = 256) -> tuple[float, float]:
    """Share of the unit square that the charts cover, and share of that which more than one face covers.

    On a ``size`` squared raster, drawn twice: the first and the last face over a texel are the same where there is one.
    """
    from threedistill.ops.rasterize import rasterize

    corner = torch.arange(3 * len(faces)).view(-1, 3)
    flat = uv[faces.reshape(-1).long()].float() * 2 - 1
    depth = ((torch.arange(len(faces)) + 0.5) / len(faces) * 2 - 1).repeat_interleave(3)[:, None]
    first, last = (
        rasterize(
            torch.cat([flat, sign * depth, torch.ones_like(depth)], -1)[None], corner, size, size
        ).triangle
        for sign in (1.0, -1.0)
    )
    covered = first >= 0
    count = int(covered.sum())
    return float(covered.float().mean()), int((covered & (first != last)).sum()) / max(count, 1)


def texel_density(
    corner_uv: Tensor, area: Tensor, width: int, height: int
) -> tuple[float, float] | tuple[None, None]:
    """Texels per metre, ``sqrt(area in texels / area)``: the median by area, and the 90th percentile over the 10th.

    Arguments:
        corner_uv: (F, 3, 2) texture coordinates of the faces' corners.
        area: (F,) square metres.
        width, height: of the texture.
    """
    one, two = corner_uv[:, 1] - corner_uv[:, 0], corner_uv[:, 2] - corner_uv[:, 0]
    texels = (one[:, 0] * two[:, 1] - one[:, 1] * two[:, 0]).abs() / 2 * width * height
    seen = area > 0
    if not seen.any():
        return None, None
    density, order = (texels[seen] / area[seen]).sqrt().sort()
    share = area[seen][order].cumsum(0) / area[seen].sum()
    low, middle, high = (
        float(density[int(torch.searchsorted(share, share.new_tensor(q)).clamp_max(len(share) - 1))])
        for q in (0.1, 0.5, 0.9)
    )
    return middle, high / max(low, 1e-12)


def mesh_health(mesh: Mesh) -> MeshHealth:
    """Measure a mesh, usually one read back from its file."""
    corners = mesh.vertices.detach().double()[mesh.faces.long()]
    area = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1) / 2
    extent = float((mesh.vertices.amax(0) - mesh.vertices.amin(0)).max()) if len(mesh.vertices) else 0.0
    faces = welded_faces(mesh)
    repeated = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    thin = area.cpu().numpy() <= 1e-12 * extent * extent
    label = components(faces)
    shares = np.bincount(label, weights=area.cpu().numpy()) if len(label) else np.zeros(1)
    textured = mesh.uv is not None and len(mesh.faces) > 0
    outside = coverage = overlap = density = spread = None
    if textured:
        assert mesh.uv is not None
        corner_uv = mesh.uv[mesh.faces.long()]
        outside = float(((corner_uv < -1e-4) | (corner_uv > 1 + 1e-4)).any(-1).any(-1).float().mean())
        coverage, overlap = uv_coverage(mesh.uv, mesh.faces)
        if mesh.texture is not None:
            height, width = mesh.texture.shape[:2]
            density, spread = texel_density(corner_uv.double(), area, width, height)
    return MeshHealth(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        watertight=is_watertight(faces[~repeated]),
        components=int(label.max()) + 1 if len(label) else 0,
        largest_share=float(shares.max() / max(shares.sum(), 1e-30)),
        degenerate_faces=int((repeated | thin).sum()),
        uv_coverage=coverage,
        uv_outside=outside,
        longest_side=extent,
        uv_overlap=overlap,
        texel_density=density,
        texel_spread=spread,
    )
