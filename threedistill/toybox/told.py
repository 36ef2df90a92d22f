"""What the embedded prior's transformer is told as one vector: words, camera and background.

Words and camera meet in a product, for every kind looks its own way from every side.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.cameras import CAMERA_SIZE
from threedistill.toybox.conditioning import BACKGROUND_SIZE
from threedistill.toybox.networks import camera_network, harmonics, met

__all__ = ["ToldEmbedding"]

#: b; usual values reach a third of it.
_BOUND = 8.0


class ToldEmbedding(nn.Module):
    """Words, camera and background vectors, one after the other, as one embedding.

        embedding = b tanh(e / b),      e = perceptron(norm(met(words, network(harmonics(camera)))), camera, background)

    A product of words and a camera that seldom meet can be far from all others; ``b`` keeps what it scales in bounds.

    Arguments:
        size: of the three vectors together.
        out: of the embedding.
    """

    def __init__(self, size: int, out: int):
        super().__init__()
        self.width = width = size - CAMERA_SIZE - BACKGROUND_SIZE
        self.camera = camera_network(width)
        self.product = nn.Linear(width, width)
        self.hidden = nn.Linear(width, width)
        self.embed = TimestepEmbedding(size, out)

    def forward(self, told: Float[Tensor, "B S"]) -> Float[Tensor, "B D"]:
        dtype = self.product.weight.dtype
        # Harmonics before any rounding: of a rounded angle the fourth is four times as far off.
        seen = self.camera(harmonics(told[:, self.width :][:, :CAMERA_SIZE]).to(dtype))
        words, rest = told.to(dtype).split((self.width, told.shape[1] - self.width), 1)
        x = met(words, seen, self.product, self.hidden)
        embedding = self.embed(torch.cat([F.layer_norm(x, x.shape[-1:]), rest], 1))
        return _BOUND * torch.tanh(embedding / _BOUND)
