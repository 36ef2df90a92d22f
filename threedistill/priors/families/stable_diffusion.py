"""Stable Diffusion 1.x and 2.x, and what was distilled from them."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.priors.textual_inversion import heard
from threedistill.types import Conditioning
from threedistill.values import Within

__all__ = ["StableDiffusion", "told_scale"]


def told_scale(network: Any, guidance: float, rows: int) -> Float[Tensor, "B D"] | None:
    """The embedding of the guidance scale that a distilled UNet is told beside the time; None = it is not.

    ``sin`` and ``cos`` of ``1000 (s - 1)`` at D / 2 frequencies that fall from 1 to 1e-4.
    Source: Meng et al. 2023, arXiv 2210.03142; Luo et al. 2023 (LCM), arXiv 2310.04378.

    Arguments:
        network: a UNet.
        guidance: ``s``.
        rows: samples.
    """
    size = network.config.time_cond_proj_dim
    if size is None:
        return None
    half = size // 2
    frequency = torch.exp(torch.arange(half) * (-torch.log(torch.tensor(10000.0)) / (half - 1)))
    angle = 1000 * torch.tensor(guidance - 1, dtype=torch.float32) * frequency
    row = torch.nn.functional.pad(torch.cat([angle.sin(), angle.cos()]), (0, size % 2))
    parameter = next(network.parameters())
    return row.to(parameter).expand(rows, -1)


class StableDiffusion(Family):
    """One CLIP encoder, a UNet over VAE latents, eps- or v-prediction.

    Arguments:
        guidance: the scale that a network distilled with one is told (LCM); it is not that of classifier-free
            guidance, and others are not told it.
    """

    option = "sd15"
    pipelines = ("StableDiffusionPipeline", "LatentConsistencyModelPipeline")
    network = "unet"
    half = torch.float16

    def __init__(self, guidance: Annotated[float, Within(0, 1000)] = 8.5) -> None:
        self.guidance = guidance

    def length(self, tokenizer: str, pipe: Any) -> int:
        """What both the tokenizer and the encoder hold."""
        return min(pipe.tokenizer.model_max_length, pipe.text_encoder.config.max_position_embeddings)

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (77, width): the last hidden state of every token."""
        encoder = pipe.text_encoder
        tokens = pipe.tokenizer(
            [heard(pipe, said["tokenizer"], "tokenizer")], padding="max_length",
            max_length=self.length("tokenizer", pipe), truncation=True, return_tensors="pt",
        ).to(encoder.device)  # fmt: skip
        mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
        return {"encoder_hidden_states": encoder(tokens.input_ids, attention_mask=mask)[0][0]}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The UNet's output."""
        text = told["encoder_hidden_states"].to(x_t.dtype)
        scale = told_scale(network, self.guidance, len(x_t))
        return network(
            x_t, level.index, encoder_hidden_states=text, timestep_cond=scale, return_dict=False,
            added_cond_kwargs=self.added(told, x_t), **self.further(told, x_t),
        )[0]  # fmt: skip

    def added(self, told: Conditioning, x_t: Tensor) -> dict[str, Any]:
        """What the UNet is told beside time and text."""
        return {}

    def further(self, told: Conditioning, x_t: Tensor) -> dict[str, Tensor]:
        """Further arguments of the network."""
        return {}
