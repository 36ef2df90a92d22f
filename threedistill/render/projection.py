"""From Gaussians in the world to ellipses on the screen: EWA splatting's local affine approximation, in torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.types import Cameras

__all__ = ["LEAST_COMPENSATION", "LOW_PASS", "NEAR", "Projected", "project", "rotations"]

#: Variance that is added to every ellipse, pixels^2, so that none slips between pixel centres (3DGS, gsplat's eps2d).
LOW_PASS = 0.3

#: The factor on the opacity of a splat that is nothing but blur (gsplat's; its slope grows without bound towards 0).
LEAST_COMPENSATION = 0.005

#: Gaussians nearer to the camera's plane than this are hidden, metres.
NEAR = 0.05

#: The Jacobian is taken no further outside than this many times the half picture, where it grows without bound.
_FRUSTUM = 1.3


class Projected(NamedTuple):
    """What each camera makes of each Gaussian.

    Attributes:
        means: (B, N, 2) pixels, x to the right, y down; the centre of the first pixel is (0.5, 0.5).
        conics: (B, N, 3) xx, xy, yy of the inverse covariances, 1 / pixels^2.
        depths: (B, N) metres along the viewing axis; -1 where the Gaussian is hidden.
        compensation: (B, N) what opacities are multiplied by where the blur shall add no light,
            ``sqrt(det Sigma / det Sigma')`` in [0.005, 1].
    """

    means: Float[Tensor, "B N 2"]
    conics: Float[Tensor, "B N 3"]
    depths: Float[Tensor, "B N"]
    compensation: Float[Tensor, "B N"]


def rotations(quaternions: Float[Tensor, "*N 4"]) -> Float[Tensor, "*N 3 3"]:
    """Rotation matrices of quaternions (w, x, y, z) of any length but 0; columns are the local axes."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1).unbind(-1)
    return torch.stack([
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ], -1).unflatten(-1, (3, 3))  # fmt: skip


def project(
    means: Float[Tensor, "*#B N 3"],
    scales: Float[Tensor, "*#B N 3"],
    rotation: Float[Tensor, "*#B N 3 3"],
    cameras: Cameras,
) -> Projected:
    """Project Gaussians with covariance ``R S S^T R^T`` into every camera.

    With ``W`` the world-to-camera rotation, ``t`` a mean in camera axes (x right, y down, z ahead) and ``f`` the
    focal length in pixels,

        J = f / t_z [[1, 0, -t_x / t_z], [0, 1, -t_y / t_z]],    Sigma' = (J W R S) (J W R S)^T + 0.3 I.

    Gaussians nearer than 0.05 m, or with a projection that is not finite, are hidden.

    Arguments:
        means: metres; (N, 3) for all cameras, or (B, N, 3), a cloud for each.
        scales: standard deviations along the local axes, metres.
        rotation: local axes as columns.
        cameras: ``B`` cameras.

    Returns:
        All of :class:`Projected`, differentiable.

    Sources: Zwicker et al., "EWA volume splatting", 2001, equations 22 to 31; Kerbl et al. 2023, equation 5;
    compensation: Yu et al. 2024 (Mip-Splatting), arXiv 2311.16493.
    """
    c2w = cameras.c2w.to(means)
    # OpenGL's camera axes to those of the screen: y down, z ahead.
    flip = means.new_tensor([1.0, -1.0, -1.0])
    world_to_camera = c2w[:, :3, :3].mT * flip[:, None]
    position = torch.einsum("bij,bj->bi", world_to_camera, c2w[:, :3, 3])
    x, y, z = (world_to_camera @ means.mT - position[..., None]).unbind(1)
    tangent = torch.tan(cameras.fov_y.to(means) / 2)[:, None]
    focal = cameras.height / 2 / tangent

    hidden = ~(z > NEAR)
    inverse = 1 / torch.where(hidden, 1.0, z)
    u, v = x * inverse, y * inverse
    screen = torch.stack([focal * u + cameras.width / 2, focal * v + cameras.height / 2], -1)

    # One product for all Gaussians and cameras: W (R S) as (B, 3, N, 3).
    frame = (rotation * scales[..., None, :]).transpose(-3, -2).flatten(-2)
    axes = (world_to_camera @ frame).unflatten(-1, (-1, 3))
    limit_x, limit_y = _FRUSTUM * tangent * (cameras.width / cameras.height), _FRUSTUM * tangent
    slope = (focal * inverse)[..., None]
    across = slope * (axes[:, 0] - torch.clamp(u, -limit_x, limit_x)[..., None] * axes[:, 2])
    down = slope * (axes[:, 1] - torch.clamp(v, -limit_y, limit_y)[..., None] * axes[:, 2])
    xx, yy, xy = (across * across).sum(-1), (down * down).sum(-1), (across * down).sum(-1)
    sharp = xx * yy - xy * xy
    xx, yy = xx + LOW_PASS, yy + LOW_PASS
    determinant = xx * yy - xy * xy
    conics = torch.stack([yy, -xy, xx], -1) / determinant[..., None]
    compensation = (sharp / determinant).clamp_min(LEAST_COMPENSATION**2).sqrt()
    return Projected(screen, conics, torch.where(hidden, -1.0, z), compensation)
