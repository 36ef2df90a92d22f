"""Stable Diffusion XL, and what was distilled from it (Turbo, Lightning)."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.priors.families.stable_diffusion import told_scale
from threedistill.priors.space import LatentSpace
from threedistill.types import Conditioning
from threedistill.values import Within

__all__ = ["SDXL"]


class SDXL(Family):
    """Two CLIP encoders (penultimate layers, and the second's pooled text), a UNet that is told the picture's size.

    An empty negative prompt is zeros where the model says so (``force_zeros_for_empty_prompt``), not the encoding of
    "". The VAE overflows in half precision and stays in float32 where its own configuration says so.
    Source: Podell et al. 2023, arXiv 2307.01952.

    Arguments:
        guidance: as for :class:`StableDiffusion`.
    """

    option = "sdxl"
    pipelines = ("StableDiffusionXLPipeline",)
    network = "unet"
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    half = torch.float16

    def __init__(self, guidance: Annotated[float, Within(0, 1000)] = 8.5) -> None:
        self.guidance = guidance

    def space(self, vae: Any, facts: Facts) -> LatentSpace:
        """VAE latents; the VAE in float32 unless it was mended for half precision."""
        careful = facts.configs["vae"].get("force_upcast", True)
        return LatentSpace(vae, facts.size, dtype=torch.float32 if careful else None)

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (77, both widths) and ``text_embeds`` (width of the second's projection)."""
        rows, _, pooled, _ = pipe.encode_prompt(
            said["tokenizer"], said["tokenizer_2"], device=pipe.text_encoder_2.device,
            do_classifier_free_guidance=False,
        )  # fmt: skip
        told = {"encoder_hidden_states": rows[0], "text_embeds": pooled[0]}
        if not said["tokenizer"] and said.role == "negative" and pipe.config.force_zeros_for_empty_prompt:
            return {name: torch.zeros_like(value) for name, value in told.items()}
        return told

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The UNet's output; it is told an uncropped picture of the size at hand."""
        size = x_t.new_tensor([facts.size, facts.size, 0, 0, facts.size, facts.size]).expand(len(x_t), -1)
        pooled = told["text_embeds"].to(x_t.dtype)
        return network(
            x_t, level.index, encoder_hidden_states=told["encoder_hidden_states"].to(x_t.dtype),
            timestep_cond=told_scale(network, self.guidance, len(x_t)),
            added_cond_kwargs={"text_embeds": pooled, "time_ids": size, **self.added(told, x_t)},
            return_dict=False, **self.further(told, x_t),
        )[0]  # fmt: skip

    def added(self, told: Conditioning, x_t: Tensor) -> dict[str, Any]:
        """What the UNet is told beside time, text and size."""
        return {}

    def further(self, told: Conditioning, x_t: Tensor) -> dict[str, Tensor]:
        """Further arguments of the network."""
        return {}
