"""Where splats start: a ball, points, or the surface of a mesh."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.errors import ThreedistillError
from threedistill.render.harmonics import C0
from threedistill.render.mesh import face_normals, picture_at
from threedistill.rng import Streams
from threedistill.types import Mesh, Splats

__all__ = ["ball", "on_mesh", "on_points"]

#: Standard deviation of a splat on a surface in units of the distance between splats; its thickness and its depth below
#: the surface in units of that. (A ball of 4,000 splats then has the ball's outline to an intersection over union of
#: 0.997 at 192 pixels and of 0.92 at 64, where the low-pass filter thickens every outline by half a pixel.)
_SPREAD, _THIN, _SUNK = 0.6, 0.35, 0.9


def ball(count: int, radius: float, opacity: float, generator: torch.Generator | None = None) -> Splats:
    """Grey round splats, uniform in a ball, as large as their distance from each other.

    Arguments:
        count: number of splats.
        radius: of the ball, metres.
        opacity: of each, in (0, 1).
        generator: of the places and orientations; None = torch's own.
    """
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    distance = radius * torch.rand(count, 1, generator=generator) ** (1 / 3)
    size = radius * (4 / 3 * math.pi / count) ** (1 / 3) * 0.5
    return Splats(
        means=direction * distance,
        log_scales=torch.full((count, 3), math.log(size)),
        quaternions=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=-1),
        opacity_logits=torch.full((count,), math.log(opacity / (1 - opacity))),
        sh=0.02 * torch.randn(count, 1, 3, generator=generator),
    )


def on_points(
    points: Float[Tensor, "N 3"], colors: Float[Tensor, "N 3"] | None = None, opacity: float = 0.5
) -> Splats:
    """One round splat per point, as large as the mean distance to its three nearest neighbours (3DGS's start).

    Arguments:
        points: metres.
        colors: sRGB; None is grey.
        opacity: of each, in (0, 1).

    Raises:
        ThreedistillError: no points, or points that are not finite.
    """
    from scipy.spatial import KDTree

    if not len(points) or not bool(torch.isfinite(points).all()):
        raise ThreedistillError(f"splats cannot start from {len(points)} points: some finite ones are needed")
    points = points.detach().cpu().float()
    if len(points) > 1:
        distances, _ = KDTree(points.numpy()).query(points.numpy(), k=min(4, len(points)))
        size = torch.from_numpy(distances[:, 1:].mean(1)).float().clamp_min(1e-4)
    else:
        size = torch.full((1,), 0.05)
    color = torch.full_like(points, 0.5) if colors is None else colors.detach().cpu().float()
    return Splats(
        means=points.clone(),
        log_scales=size.log()[:, None].repeat(1, 3),
        quaternions=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(points), 1),
        opacity_logits=torch.full((len(points),), math.log(opacity / (1 - opacity))),
        sh=((color - 0.5) / C0)[:, None],
    )


def on_mesh(mesh: Mesh, count: int, rng: Streams, opacity: float = 0.9) -> Splats:
    """Flat splats on a surface, their shortest axis along its normal, in its colours.

    Places are drawn uniformly over the area, one in each of ``count`` equal shares of it.

    Arguments:
        mesh: with vertex colours, a texture, or neither (grey).
        count: number of splats.
        rng: the stream ``init/mesh`` is used.
        opacity: of each, in (0, 1).

    Raises:
        ThreedistillError: the mesh has no area, or is not finite.
    """
    mesh_vertices = mesh.vertices.detach().cpu().float()
    faces = mesh.faces.cpu().long()
    corners = mesh_vertices[faces]
    area = (
        torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1).double()
        / 2
    )
    total = float(area.sum())
    if not len(faces) or not math.isfinite(total) or total <= 0:
        raise ThreedistillError("splats cannot start from this mesh: it has no area, or it is not finite")
    generator = rng.generator("init/mesh")
    u = torch.rand(count, 3, generator=generator)
    at = (torch.arange(count) + u[:, 0].double()) * (total / count)
    face = torch.searchsorted(area.cumsum(0), at).clamp_max(len(faces) - 1)
    root = u[:, 1].sqrt()
    weights = torch.stack([1 - root, root * (1 - u[:, 2]), root * u[:, 2]], -1)

    def blend(values: Tensor) -> Tensor:
        return (values.detach().cpu().float()[faces[face]] * weights[..., None]).sum(1)

    if mesh.texture is not None and mesh.uv is not None:
        color = picture_at(mesh, mesh.texture.detach().cpu().float(), blend)
    elif mesh.colors is not None:
        color = blend(mesh.colors)
    else:
        color = torch.full((count, 3), 0.5)
    normal = face_normals(Mesh(mesh_vertices, faces))[face]
    size = _SPREAD * math.sqrt(total / count)
    flat = torch.tensor([size, size, _THIN * size])
    return Splats(
        means=blend(mesh_vertices) - normal * (_SUNK * size),
        log_scales=flat.log().repeat(count, 1),
        quaternions=_turning_z_to(normal),
        opacity_logits=torch.full((count,), math.log(opacity / (1 - opacity))),
        sh=((color.clamp(0, 1) - 0.5) / C0)[:, None],
    )


def _turning_z_to(direction: Float[Tensor, "N 3"]) -> Float[Tensor, "N 4"]:
    """Quaternions (w, x, y, z) of the shortest rotation from +Z to unit directions: ``(1 + d_z, z x d)``."""
    x, y, z = direction.unbind(-1)
    turn = torch.stack([1 + z, -y, x, torch.zeros_like(z)], -1)
    half_turn = torch.tensor([0.0, 1.0, 0.0, 0.0]).expand_as(turn)
    return torch.nn.functional.normalize(torch.where((1 + z < 1e-6)[:, None], half_turn, turn), dim=-1)
