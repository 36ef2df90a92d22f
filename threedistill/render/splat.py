"""Pictures of Gaussian splats: project, composite near to far, put a colour behind."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.ops.splat import splat
from threedistill.render.harmonics import color_of
from threedistill.render.projection import Projected, project, rotations
from threedistill.types import Cameras, Rendering, Splats

__all__ = ["FAINT", "Drawn", "Normals", "depth_normals", "draw", "render_splats"]

Normals = Literal["none", "axis", "depth"]

#: Where less than this is opaque there is no surface to speak of: no depth, no normal.
FAINT = 0.05


class Drawn(NamedTuple):
    """The layers of a picture before any background.

    Attributes:
        rgb: (B, H, W, 3) premultiplied by opacity.
        opacity: (B, H, W, 1).
        depth: (B, H, W, 1) expected distance along the unit ray, metres; 0 where (almost) nothing was hit.
        normal: (B, H, W, 3) unit normals towards the camera, or None.
        projected: the ellipses; ``projected.means`` is where screen-space gradients arrive.
    """

    rgb: Float[Tensor, "B H W 3"]
    opacity: Float[Tensor, "B H W 1"]
    depth: Float[Tensor, "B H W 1"]
    normal: Float[Tensor, "B H W 3"] | None
    projected: Projected


def draw(
    means: Float[Tensor, "N 3"], scales: Float[Tensor, "N 3"], quaternions: Float[Tensor, "N 4"],
    opacities: Float[Tensor, "N"], sh: Float[Tensor, "N K 3"], cameras: Cameras, *, normals: Normals = "none",
    antialiased: bool = False, pulls: Float[Tensor, "B N 2"] | None = None,
) -> Drawn:  # fmt: skip
    """Draw activated Gaussians, differentiable in all of them.

    Arguments:
        means, scales: metres.
        quaternions: (w, x, y, z), any length but 0.
        opacities: in [0, 1].
        sh: see :class:`threedistill.types.Splats`.
        cameras: ``B`` cameras.
        normals: none; ``axis``: each Gaussian's shortest axis; ``depth``: of the surface that the expected depth makes
            (better where the Gaussians are round or fuzzy).
        antialiased: whether the low-pass filter of the screen keeps each Gaussian's light instead of adding to it
            (``Projected.compensation``).
        pulls: as for :func:`~threedistill.ops.splat.splat`.
    """
    rotation = rotations(quaternions)
    projected = project(means, scales, rotation, cameras)
    views, count = projected.depths.shape
    eyes = cameras.c2w[:, :3, 3].to(means)
    towards = None
    if sh.shape[1] > 1 or normals == "axis":
        towards = torch.nn.functional.normalize(means - eyes[:, None], dim=-1)
    features = [color_of(sh, towards).expand(views, count, 3), projected.depths[..., None]]
    if normals == "axis":
        assert towards is not None
        shortest = scales.detach().argmin(-1)
        axis = rotation.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0].expand(views, count, 3)
        features.append(torch.where((axis * towards).sum(-1, keepdim=True) > 0, -axis, axis))
    shown = opacities * projected.compensation if antialiased else opacities.expand(views, count)
    image, opacity = splat(
        projected.means, projected.conics, shown, torch.cat(features, -1), projected.depths.detach(),
        cameras.height, cameras.width, pulls,
    )  # fmt: skip
    opacity = opacity[..., None]
    origins, directions = (r.to(means) for r in cameras.rays())
    ahead = -cameras.c2w[:, None, None, :3, 2].to(means)
    seen = opacity > FAINT
    # Depth along the axis becomes distance along the ray.
    distance = image[..., 3:4] / opacity.clamp_min(FAINT) / (directions * ahead).sum(-1, keepdim=True)
    distance = torch.where(seen, distance, torch.zeros_like(distance))
    normal = None
    if normals == "axis":
        normal = torch.nn.functional.normalize(image[..., 4:7], dim=-1, eps=1e-8) * seen
    elif normals == "depth":
        normal = depth_normals(origins + directions * distance, directions) * seen
    return Drawn(image[..., :3], opacity, distance, normal, projected)


def depth_normals(
    points: Float[Tensor, "B H W 3"], directions: Float[Tensor, "B H W 3"]
) -> Float[Tensor, "B H W 3"]:
    """Unit normals of a picture's surface points by central differences, towards the camera.

    Arguments:
        points: where each pixel's ray ends, in the world.
        directions: of the rays.
    """
    padded = torch.nn.functional.pad(points.permute(0, 3, 1, 2), (1, 1, 1, 1), mode="replicate").permute(
        0, 2, 3, 1
    )
    right = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    down = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    normal = torch.nn.functional.normalize(torch.linalg.cross(down, right), dim=-1, eps=1e-12)
    return torch.where((normal * directions).sum(-1, keepdim=True) > 0, -normal, normal)


def render_splats(
    splats: Splats,
    cameras: Cameras,
    background: Float[Tensor, "#B 3"] | Float[Tensor, "3"] | None = None,
    *,
    normals: Normals = "none",
) -> Rendering:
    """Render a cloud of splats over one colour per view.

    Activations are 3DGS': ``exp`` of the log-scales, sigmoid of the opacity logits; colours are clamped to [0, 1].

    Arguments:
        splats: what to draw; gradients flow to its tensors.
        cameras: ``B`` cameras.
        background: (B, 3) or (3,) sRGB; None is white.
        normals: see :func:`draw`.
    """
    views = len(cameras)
    behind = splats.means.new_ones(3) if background is None else background.to(splats.means)
    behind = behind.expand(views, 3)
    drawn = draw(
        splats.means, splats.log_scales.exp(), splats.quaternions, splats.opacity_logits.sigmoid(), splats.sh,
        cameras, normals=normals, antialiased=splats.antialiased,
    )  # fmt: skip
    rgb = drawn.rgb + (1 - drawn.opacity) * behind[:, None, None]
    return Rendering(rgb, drawn.opacity, drawn.depth, behind, drawn.normal)
