"""What tells a good surface from a bad one: regularisers of meshes on a grid, summed in a fixed order."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.render.surface import face_crosses, vertex_normals

__all__ = [
    "NAMES", "eikonal", "laplacian", "laplacian_length", "normal_consistency", "sign_change", "vertex_consistency",
]  # fmt: skip

#: The names of the regularisers in ``Rendering.stats``.
NAMES = frozenset(
    {"normal_consistency", "laplacian", "eikonal", "sign_change", "vertex_consistency", "laplacian_length"}
)


def normal_consistency(
    vertices: Float[Tensor, "M 3"], faces: Int[Tensor, "F 3"], neighbours: Int[Tensor, "F 3"]
) -> Float[Tensor, ""]:
    """``mean over shared edges of (1 - n_f . n_g)``, in [0, 2]: neighbouring faces should look the same way.

    Arguments:
        neighbours: see :func:`threedistill.ops.antialias.face_neighbours`.
    """
    normal = F.normalize(face_crosses(vertices, faces), dim=1)
    face = torch.arange(len(faces), device=faces.device).repeat_interleave(3)
    beyond = neighbours.flatten().long()
    once = (beyond >= 0) & (beyond // 3 > face)  # each edge from its lower face
    a, b = face[once], beyond[once] // 3
    return (1 - (normal.index_select(0, a) * normal.index_select(0, b)).sum(1)).mean()


def laplacian(vertices: Float[Tensor, "M 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, ""]:
    """``mean |v - mean of its neighbours|^2`` (uniform weights), square metres."""
    total, count = _neighbours(vertices, faces)
    return (vertices - total / count.clamp_min(1)).square().sum(1).mean()


def laplacian_length(vertices: Float[Tensor, "M 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, ""]:
    """``mean |n v - sum of its n neighbours|``, metres: as stable-dreamfusion and threestudio have it, whose weights
    are for it.
    """
    total, count = _neighbours(vertices, faces)
    return ((count * vertices - total).square().sum(1) + 1e-20).sqrt().mean()


def _neighbours(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """(M, 3) the sums of the vertices' neighbours, and (M, 1) how many they are."""
    long = faces.long()
    # On a closed surface every edge is walked once in each direction.
    start, end = long.flatten(), long.roll(-1, 1).flatten()
    total = torch.zeros_like(vertices).index_add(0, start, vertices.index_select(0, end))
    return total, torch.bincount(start, minlength=len(vertices))[:, None]


def vertex_consistency(vertices: Float[Tensor, "M 3"], faces: Int[Tensor, "F 3"]) -> Float[Tensor, ""]:
    """``mean over edges of (1 - n_a . n_b)`` of the normals at their ends: the normal consistency of threestudio."""
    normal, long = vertex_normals(vertices, faces), faces.long()
    start, end = long.flatten(), long.roll(-1, 1).flatten()
    return (1 - (normal.index_select(0, start) * normal.index_select(0, end)).sum(1)).mean()


def eikonal(
    points: Float[Tensor, "N 3"], sdf: Float[Tensor, "N"], tets: Int[Tensor, "K 4"]
) -> Float[Tensor, ""]:
    """``mean over tetrahedra of (|grad s| - 1)^2``: the values should be distances.

    Within a tetrahedron the linear interpolant has ``grad s = sum_i (s_i - s_0) (e_j x e_k) / det(e_1, e_2, e_3)``,
    ``e_i = p_i - p_0``. The points are taken as given (no gradient).

    Source: Gropp et al., "Implicit geometric regularization for learning shapes", 2020, equation 2.
    """
    index = tets.flatten().long()
    p = points.detach().index_select(0, index).view(-1, 4, 3)
    s = sdf.index_select(0, index).view(-1, 4)
    e1, e2, e3 = (p[:, k] - p[:, 0] for k in (1, 2, 3))
    faces = torch.stack(
        [torch.linalg.cross(e2, e3), torch.linalg.cross(e3, e1), torch.linalg.cross(e1, e2)], 1
    )
    volume = (e1 * faces[:, 0]).sum(1)
    gradient = ((s[:, 1:] - s[:, :1])[..., None] * faces).sum(1) / volume[:, None]
    return ((gradient.square().sum(1) + 1e-12).sqrt() - 1).square().mean()


def sign_change(sdf: Float[Tensor, "N"], edges: Int[Tensor, "M 2"]) -> Float[Tensor, ""]:
    """``mean over crossed edges of H(s(s_a), s_b > 0) + H(s(s_b), s_a > 0)``: fewer changes of sign, fewer floaters.

    Arguments:
        sdf: positive outside, in cells; ``s`` is the sigmoid, H the binary cross-entropy.

    Source: Munkberg et al., "Extracting triangular 3D models, materials, and lighting from images", 2022, equation 2.
    """
    a, b = (sdf.index_select(0, edges[:, k].long()) for k in (0, 1))
    outside = [(x.detach() > 0).to(sdf.dtype) for x in (b, a)]
    return F.binary_cross_entropy_with_logits(a, outside[0]) + F.binary_cross_entropy_with_logits(
        b, outside[1]
    )
