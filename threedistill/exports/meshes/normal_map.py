"""Tangents, and the relief of a fine surface as a tangent-space normal map of a coarse one.

The texture frame at a point is (T, B, N): T along +u, ``B = w cross(N, T)`` along +v (v up, ours and OpenGL's), N the
interpolated vertex normal; a texel holds the fine normal's coordinates in it as ``(n + 1) / 2``. Renderers
interpolate N and T over the triangle and rebuild B: the map is baked with exactly these vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.exports.meshes.bake import Texels, fill_gutter, painted
from threedistill.exports.meshes.surface import vertex_normals
from threedistill.types import Mesh

__all__ = ["bake_normals", "normals_of", "shading_normals", "vertex_tangents"]


def normals_of(mesh: Mesh) -> Float[Tensor, "N 3"]:
    """The mesh's vertex normals, computed where it has none."""
    return mesh.normals if mesh.normals is not None else vertex_normals(mesh.vertices, mesh.faces)


def vertex_tangents(mesh: Mesh) -> Float[Tensor, "N 4"]:
    """Unit tangents and the sign w of the bitangent, per vertex.

    Each face contributes ``dP/du`` weighted by its corner's angle; the sum is made orthogonal to the vertex normal.
    w is -1 where the texture is mirrored. Vertices without any texture area get some tangent and w = 1.

    Raises:
        ValueError: a mesh without texture coordinates.
    """
    if mesh.uv is None:
        raise ValueError("tangents need texture coordinates: unwrap the mesh first")
    points, uv = mesh.vertices.double()[mesh.faces], mesh.uv.double()[mesh.faces]
    e1, e2 = points[:, 1] - points[:, 0], points[:, 2] - points[:, 0]
    (du1, dv1), (du2, dv2) = (uv[:, 1] - uv[:, 0]).T, (uv[:, 2] - uv[:, 0]).T
    area = du1 * dv2 - du2 * dv1
    sign = torch.sign(area)[:, None]
    along_u = torch.nn.functional.normalize((dv2[:, None] * e1 - dv1[:, None] * e2) * sign, dim=1)
    along_v = torch.nn.functional.normalize((du1[:, None] * e2 - du2[:, None] * e1) * sign, dim=1)
    ahead = torch.nn.functional.normalize(points.roll(-1, 1) - points, dim=-1, eps=1e-30)
    angle = torch.acos((-ahead * ahead.roll(1, 1)).sum(-1).clamp(-1, 1))
    index, count = mesh.faces.reshape(-1), len(mesh.vertices)

    def summed(vectors: Tensor) -> Tensor:
        weighted = (angle[..., None] * vectors[:, None]).reshape(-1, 3)
        return torch.stack([torch.bincount(index, weights=w, minlength=count) for w in weighted.T], 1)

    normal = normals_of(mesh).double()
    tangent, bitangent = summed(along_u), summed(along_v)
    tangent = tangent - normal * (tangent * normal).sum(1, keepdim=True)
    # Any direction within the surface where the layout gives none.
    axis = torch.nn.functional.one_hot(normal.abs().argmin(1), 3).double()
    other = torch.linalg.cross(normal, axis)
    lost = tangent.norm(dim=1, keepdim=True) < 1e-9
    tangent = torch.nn.functional.normalize(torch.where(lost, other, tangent), dim=1)
    w = torch.where((torch.linalg.cross(normal, tangent) * bitangent).sum(1) < 0, -1.0, 1.0)
    return torch.cat([tangent, w[:, None]], 1).to(mesh.vertices.dtype)


def _frames(mesh: Mesh, tangents: Tensor, corner: Tensor, weights: Tensor) -> Float[Tensor, "P 3 3"]:
    """The columns T, B, N at points of the mesh, as a renderer interpolates them."""
    normal = torch.nn.functional.normalize((normals_of(mesh)[corner].double() * weights).sum(1), dim=1)
    carried = (tangents[corner].double() * weights).sum(1)
    tangent = torch.nn.functional.normalize(carried[:, :3], dim=1)
    bitangent = torch.linalg.cross(normal, tangent) * torch.where(carried[:, 3:] < 0, -1.0, 1.0)
    return torch.stack([tangent, bitangent, normal], 2)


def bake_normals(
    mesh: Mesh, fine: Callable[[Tensor, Tensor], Tensor], size: int, gutter: int = 4, texels: Texels | None = None
) -> Mesh:  # fmt: skip
    """The mesh with the fine surface's normals as its ``normal_map`` of ``size`` texels a side.

    Arguments:
        mesh: unwrapped, with normals.
        fine: maps (N, 3) points and normals of ``mesh`` to the unit normals of the surface it was reduced from.
        size, gutter: as for :func:`threedistill.exports.meshes.bake.bake`.
        texels: those of ``mesh``, where they are known (:func:`threedistill.exports.meshes.bake.painted`).
    """
    texels = texels or painted(mesh, size)
    tangents = vertex_tangents(mesh)
    frame = _frames(mesh, tangents, texels.corner, texels.weights.double())
    normal = fine(texels.points, frame[:, :, 2]).to(frame)
    # The frame is not orthonormal between vertices, so its inverse and not its transpose.
    local = torch.linalg.solve(frame, normal[..., None])[..., 0]
    local = torch.nn.functional.normalize(local, dim=1)
    local[:, 2] = local[:, 2].clamp(min=0.05)  # a map cannot look into the surface
    local = torch.nn.functional.normalize(local, dim=1)
    image = torch.full((size, size, 3), 0.5)
    image[..., 2] = 1
    image[texels.covered] = (local.float() + 1) / 2
    return replace(mesh, normal_map=fill_gutter(image, texels.covered, gutter))


def shading_normals(mesh: Mesh, face: Tensor, weights: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
    """Unit normals at points of a mesh with its normal map applied: what a renderer lights.

    Arguments:
        mesh: with ``uv`` and ``normal_map``.
        face: (P,) faces.
        weights: barycentrics.
    """
    from threedistill.render.mesh import sample_texture

    assert mesh.uv is not None and mesh.normal_map is not None
    corner, weights = mesh.faces[face], weights.double()[..., None]
    frame = _frames(mesh, vertex_tangents(mesh), corner, weights)
    uv = (mesh.uv[corner].double() * weights).sum(1)
    local = sample_texture(mesh.normal_map, uv.float(), mesh.wrap).double() * 2 - 1
    return torch.nn.functional.normalize((frame @ local[..., None])[..., 0], dim=1).to(mesh.vertices.dtype)
