"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.types import Conditioning
from threedistill.values import Within

__all__ = ["SD3"]


class SD3(Family):
    """Two CLIP encoders and T5 side by side, a transformer of joint attention, rectified flow.

    Where a model leaves T5 out (9 GiB in 16 bit), its rows are zeros, as its makers do it.
    Source: Esser et al. 2024, arXiv 2403.03206.

    Arguments:
        text_length: tokens that T5 hears.
    """

    option = "sd3"
    pipelines = ("StableDiffusion3Pipeline",)
    encoders = (
        ("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"), ("tokenizer_3", "text_encoder_3"),
    )  # fmt: skip
    optional = frozenset({"text_encoder_3"})
    patch = 2

    def __init__(self, text_length: Annotated[int, Within(2, 4096)] = 256) -> None:
        self.text_length = text_length

    def length(self, tokenizer: str, pipe: Any) -> int:
        """77 of the CLIPs, or T5's."""
        return self.text_length if tokenizer == "tokenizer_3" else super().length(tokenizer, pipe)

    def text_rows(self, facts: Facts) -> int:
        """CLIP's and T5's, one after the other."""
        return super().text_rows(facts) + self.text_length

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (77 + text_length, joint width) and ``pooled_projections``."""
        clip = said["tokenizer"]
        rows, _, pooled, _ = pipe.encode_prompt(
            clip, said["tokenizer_2"], said.texts.get("tokenizer_3", clip), device=pipe.text_encoder.device,
            do_classifier_free_guidance=False, max_sequence_length=self.text_length,
        )  # fmt: skip
        return {"encoder_hidden_states": rows[0], "pooled_projections": pooled[0]}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """``eps - x0``."""
        return network(
            hidden_states=x_t, timestep=level.index, return_dict=False,
            **{name: told[name].to(x_t.dtype) for name in ("encoder_hidden_states", "pooled_projections")},
        )[0]  # fmt: skip
