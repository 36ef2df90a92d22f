"""DeepFloyd IF."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.priors.space import PixelSpace
from threedistill.types import Conditioning

__all__ = ["DeepFloyd"]


class DeepFloyd(Family):
    """T5 and a UNet over 64 x 64 pixels: the first stage; eps on a cosine schedule, beside a learned variance.

    Its sampler thresholds the clean picture, which is a setting of the rule here: ``cfg.x0_clip=dynamic``.
    Source: the cascade of Saharia et al. 2022 (Imagen), arXiv 2205.11487.
    """

    option = "deepfloyd"
    pipelines = ("IFPipeline",)
    network = "unet"
    half = torch.float16

    def length(self, tokenizer: str, pipe: Any) -> int:
        """77, whatever T5 holds: so it was trained."""
        return 77

    def space(self, vae: Any, facts: Facts) -> PixelSpace:
        """Pixels."""
        return PixelSpace(facts.size)

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (77, width); the mask is the encoder's alone."""
        rows, _ = pipe.encode_prompt(said["tokenizer"], False, device=pipe.text_encoder.device)
        return {"encoder_hidden_states": rows[0]}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The noise, without the variance."""
        text = told["encoder_hidden_states"].to(x_t.dtype)
        return network(x_t, level.index, encoder_hidden_states=text, return_dict=False)[0][:, : x_t.shape[1]]
