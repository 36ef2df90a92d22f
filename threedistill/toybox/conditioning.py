"""What the embedded prior is told about cameras and backgrounds, and how its images are folded.

Light (torch only), so that priors and samplers share it without importing diffusers.

Camera vector, 14 numbers for azimuth a, elevation e, and apparent width z = distance tan(fov / 2):

    sin a, cos a, ..., sin 4a, cos 4a, sin e, cos e, sin 2e, cos 2e, (z - 1.17) / 0.2, 1

The null camera is all zeros (its flag, the last number, is 0). Background vector: r, g, b, 1, or zeros. The prior's
class embedding takes both, 18 numbers, and a summary of the text; its camera tokens take the camera's 14.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from threedistill.types import Cameras

CAMERA_SIZE = 14
BACKGROUND_SIZE = 4
#: Pixels a cell of a folded picture has per side, whatever the picture's size.
FOLD = 4


def camera_vector(
    azimuth: Tensor, elevation: Tensor, distance: Tensor, fov_y: Tensor
) -> Float[Tensor, "B 14"]:
    """Camera vectors from (B,) azimuth, elevation (radians), distance (metres) and field of view (radians)."""
    parts = [f(k * azimuth) for k in (1, 2, 3, 4) for f in (torch.sin, torch.cos)]
    parts += [f(k * elevation) for k in (1, 2) for f in (torch.sin, torch.cos)]
    parts += [(distance * torch.tan(fov_y / 2) - 1.17) / 0.2, torch.ones_like(azimuth)]
    return torch.stack(parts, -1)


def camera_vectors(cameras: Cameras | None, count: int) -> Float[Tensor, "B 14"]:
    """Camera vectors of ``cameras``, or ``count`` null cameras (zeros)."""
    if cameras is None:
        return torch.zeros(count, CAMERA_SIZE)
    return camera_vector(cameras.azimuth, cameras.elevation, cameras.distance, cameras.fov_y)


def background_vectors(background: Float[Tensor, "B 3"] | None, count: int) -> Float[Tensor, "B 4"]:
    """Background vectors of sRGB colours, or ``count`` untold backgrounds (zeros)."""
    if background is None:
        return torch.zeros(count, BACKGROUND_SIZE)
    return F.pad(background.expand(count, 3), (0, 1), value=1.0)


def fold(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 16*C h w"]:
    """4 x 4 pixels into channels (space to depth); exactly invertible."""
    return F.pixel_unshuffle(images, FOLD)


def unfold(folded: Float[Tensor, "B 16*C h w"]) -> Float[Tensor, "B C H W"]:
    """The inverse of :func:`fold`."""
    return F.pixel_shuffle(folded, FOLD)
