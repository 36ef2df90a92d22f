"""What the embedded prior is told about cameras and backgrounds, and how its images are folded.

Light (torch only), so that priors and samplers share it without importing diffusers.

The camera is told as :func:`threedistill.cameras.camera_vector`, the background as r, g, b, 1, or zeros. The prior's
class embedding takes both, 18 numbers, and a summary of the text; its camera tokens take the camera's 14.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

__all__ = ["BACKGROUND_SIZE", "FOLD", "background_vectors", "fold", "unfold"]

BACKGROUND_SIZE = 4
#: Pixels a cell of a folded picture has per side, whatever the picture's size.
FOLD = 4


def background_vectors(background: Float[Tensor, "B 3"] | None, count: int) -> Float[Tensor, "B 4"]:
    """Background vectors of sRGB colours, or ``count`` untold backgrounds (zeros)."""
    if background is None:
        return torch.zeros(count, BACKGROUND_SIZE)
    return F.pad(background.expand(count, 3), (0, 1), value=1.0)


def fold(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 16*C H//4 W//4"]:
    """4 x 4 pixels into channels (space to depth); exactly invertible."""
    return F.pixel_unshuffle(images, FOLD)


def unfold(folded: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C//16 4*h 4*w"]:
    """The inverse of :func:`fold`."""
    return F.pixel_shuffle(folded, FOLD)
