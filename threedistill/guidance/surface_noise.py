"""White noise that lies on the surface of the object, so that views agree about it: what CFD adds to its renders.

The surface is unfolded onto a square of finely divided white noise. A pixel of the prior covers a patch of the surface,
hence a set of cells of that square, and its noise is their sum over the square root of their number: standard normal,
independent from pixel to pixel since a cell belongs to one pixel, and the same for all views that see the same patch.
Source: Yan et al. 2025 (Consistent Flow Distillation), arXiv 2501.05445; integration: Chang et al. 2024 (How I Warped
Your Noise), ICLR. The released code unfolds six times and peels four layers of depth; here the outermost layer has
noise of its own, what lies under it takes the background's (DERIVED).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from threedistill.ops.rasterize import rasterize
from threedistill.protocols import GuidanceRule
from threedistill.rng import Streams
from threedistill.types import Cameras, Rendering

__all__ = ["SIDE", "SOLID", "Corners", "corners_of", "draw_noise", "octahedral", "surface_noise"]

#: Cells per side of the square; a pixel of a 64-pixel prior covers about a hundred of them.
SIDE = 512

#: Pixels less opaque than this show no surface (the released code's threshold).
SOLID = 0.1

#: A patch that reaches this far across the unfolded square lies over one of its folds.
_FOLD = 0.5

Corners = tuple[Float[Tensor, "B h1 w1 3"], Bool[Tensor, "B h1 w1"]]


def octahedral(points: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 2"]:
    """Directions from the origin, unfolded onto ``[-1, 1]^2``: the upper half (+Y) in the middle, the lower outside.

    ``(x, z) / (|x| + |y| + |z|)``, and below the equator ``(1 - |z|) sign x, (1 - |x|) sign z`` of that.
    Source: Praun and Hoppe 2003, "Spherical parametrization and remeshing".
    """
    flat = points / points.abs().sum(-1, keepdim=True).clamp_min(1e-9)
    x, y, z = flat.unbind(-1)
    sign_x, sign_z = torch.where(x >= 0, 1.0, -1.0), torch.where(z >= 0, 1.0, -1.0)
    lower = torch.stack([(1 - z.abs()) * sign_x, (1 - x.abs()) * sign_z], -1)
    return torch.where((y < 0)[..., None], lower, torch.stack([x, z], -1))


def corners_of(rendering: Rendering, cameras: Cameras, height: int, width: int) -> Corners:
    """Where the corners of the prior's pixels lie on the surface, and which of them lie on it at all.

    Each is the mean of the solid rendered pixels around it.

    Arguments:
        rendering: of the ``B`` views, of any size.
        cameras: the views.
        height, width: of the prior's samples, pixels.
    """
    with torch.no_grad():
        origins, directions = (r.to(rendering.depth) for r in cameras.rays())
        solid = (rendering.opacity > SOLID).to(rendering.depth)
        seen = torch.cat([(origins + rendering.depth * directions) * solid, solid], -1).permute(0, 3, 1, 2)
        across, down = max(1, round(seen.shape[3] / width)), max(1, round(seen.shape[2] / height))
        seen = F.interpolate(seen, (height * down, width * across), mode="nearest")
        reach = ((down + 1) // 2, (across + 1) // 2)
        mean = F.avg_pool2d(seen, (2 * reach[0], 2 * reach[1]), (down, across), reach)
        mean = mean[:, :, : height + 1, : width + 1]
        share = mean[:, 3:]
        return (mean[:, :3] / share.clamp_min(1e-9)).permute(0, 2, 3, 1), share[:, 0] > 0


def surface_noise(
    corners: Corners, square: Float[Tensor, "S S C"], behind: Float[Tensor, "C h w"]
) -> Float[Tensor, "B C h w"]:
    """(B, C, h, w) standard normal: what the square's cells in each pixel's patch add up to, ``behind`` where none are.

    Arguments:
        corners: of :func:`corners_of`.
        square: white noise.
        behind: of pixels that show no surface, or a hidden layer of it; the same for all views.
    """
    points, solid = corners
    views, rows, columns = solid.shape[0], solid.shape[1] - 1, solid.shape[2] - 1
    side, channels = square.shape[0], square.shape[2]
    flat = octahedral(points).reshape(views, -1, 2)
    radius = points.square().sum(-1).sqrt().reshape(views, -1)
    quads = _quads(rows, columns).to(flat.device)
    out: list[Tensor] = []
    for view in range(views):
        spots = flat[view][quads]  # (h w, 4, 2)
        whole = solid[view].reshape(-1)[quads].all(1)
        whole &= (spots.amax(1) - spots.amin(1)).amax(1) < _FOLD
        pixel = whole.nonzero()[:, 0]
        faces = torch.cat([quads[pixel][:, [0, 1, 2]], quads[pixel][:, [2, 1, 3]]])
        # The farther from the centre the nearer to who looks at the square from outside.
        height = -radius[view] / radius[view].amax().clamp_min(1e-9)
        clip = torch.cat([flat[view], height[:, None], torch.ones_like(height[:, None])], -1)
        owner = rasterize(clip[None].float(), faces, side, side).triangle[0].reshape(-1).long()
        cells = (owner >= 0).nonzero()[:, 0]
        which = torch.cat([pixel, pixel])[owner[cells]]
        total = square.new_zeros(rows * columns, channels).index_add(
            0, which, square.reshape(-1, channels)[cells]
        )
        count = torch.bincount(which, minlength=rows * columns).to(total)[:, None]
        noise = torch.where(
            count > 0, total / count.clamp_min(1).sqrt(), behind.permute(1, 2, 0).reshape(-1, channels)
        )
        out.append(noise.view(rows, columns, channels).permute(2, 0, 1))
    return torch.stack(out)


def _quads(rows: int, columns: int) -> Int[Tensor, "N 4"]:
    """The corners of every pixel: top left, top right, bottom left, bottom right."""
    corner = torch.arange((rows + 1) * (columns + 1)).view(rows + 1, columns + 1)
    parts = (corner[:-1, :-1], corner[:-1, 1:], corner[1:, :-1], corner[1:, 1:])
    return torch.stack([part.reshape(-1) for part in parts], 1)


def draw_noise(
    rule: GuidanceRule, rng: Streams, views: int, shape: Sequence[int],
    shown: tuple[Rendering, Cameras] | None = None, progress: float = 0.0,
) -> Float[Tensor, "B C h w"]:  # fmt: skip
    """(views, *shape) standard normal: fresh for every view and step, one for all, or lying on the surface.

    Which of them ``rule.noise_law`` says.

    Arguments:
        rule: whose noise it is.
        rng: the iteration's streams.
        views, shape: of the samples.
        shown: what the views show, for noise on the surface; None = nothing, and all of it is background.
        progress: where the stage is.
    """
    law = rule.noise_law
    if law == "fresh":
        return rng.normal_per_view("noise", views, *shape)
    whole = Streams(rng.seed, rng.stage)
    still = torch.randn(*shape, generator=whole.generator("noise/fixed"))
    if law == "fixed" or shown is None or len(shape) != 3:
        return still.expand(views, *shape).clone()
    channels, height, width = shape
    turns = progress * rule.noise_turns
    square = _turned(whole, "noise/square", turns, (SIDE, SIDE, channels))
    behind = _turned(whole, "noise/behind", turns, (channels, height, width))
    rendering, cameras = shown
    device = rendering.depth.device
    return surface_noise(corners_of(rendering, cameras, height, width), square.to(device), behind.to(device))


def _turned(rng: Streams, name: str, turns: float, shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers that have been replaced ``turns`` times: ``cos(a) z_k + sin(a) z_{k+1}`` in between."""
    index, angle = int(turns), (turns - int(turns)) * math.pi / 2
    now = torch.randn(*shape, generator=rng.generator(f"{name}/{index}"))
    if angle == 0:
        return now
    return math.cos(angle) * now + math.sin(angle) * torch.randn(
        *shape, generator=rng.generator(f"{name}/{index + 1}")
    )
