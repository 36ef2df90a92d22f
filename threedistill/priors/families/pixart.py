"""PixArt-alpha and PixArt-Sigma."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.types import Conditioning
from threedistill.values import Within

__all__ = ["PixArt", "masked"]


def masked(told: Conditioning, like: Tensor) -> dict[str, Tensor]:
    """Texts with their masks, as networks with a masked cross attention are told them."""
    return {
        "encoder_hidden_states": told["encoder_hidden_states"].to(like.dtype),
        "encoder_attention_mask": told["encoder_attention_mask"],
    }


class PixArt(Family):
    """T5 with a mask, a transformer whose second half of channels is a variance, eps on a linear schedule.

    Texts are read in lower case. ``alpha`` at 1024 pixels is told the picture's size and shape.
    Source: Chen et al. 2023, arXiv 2310.00426; Chen et al. 2024, arXiv 2403.04692.

    Arguments:
        text_length: tokens that T5 hears; None = as trained: 120 of ``alpha``, 300 of ``Sigma``.
    """

    option = "pixart"
    pipelines = ("PixArtAlphaPipeline", "PixArtSigmaPipeline")
    patch = 2

    def __init__(self, text_length: Annotated[int, Within(2, 4096)] | None = None) -> None:
        self.text_length = text_length

    def length(self, tokenizer: str, pipe: Any) -> int:
        """T5's."""
        return self._heard(type(pipe).__name__)

    def text_rows(self, facts: Facts) -> int:
        """T5's."""
        return self._heard(str(facts.index["_class_name"]))

    def _heard(self, pipeline: str) -> int:
        return self.text_length or (120 if "Alpha" in pipeline else 300)

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (length, width) and ``encoder_attention_mask`` (length)."""
        rows, mask, *_ = pipe.encode_prompt(
            said["tokenizer"], False, device=pipe.text_encoder.device,
            max_sequence_length=self.length("tokenizer", pipe),
        )  # fmt: skip
        return {"encoder_hidden_states": rows[0], "encoder_attention_mask": mask[0]}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The noise, without the variance."""
        size: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if network.config.sample_size == 128 and "Alpha" in str(facts.index["_class_name"]):
            size = {
                "resolution": x_t.new_tensor([facts.size, facts.size]).expand(len(x_t), -1),
                "aspect_ratio": x_t.new_ones(len(x_t), 1),
            }
        answer = network(
            x_t, timestep=level.index, added_cond_kwargs=size, return_dict=False, **masked(told, x_t)
        )[0]
        return answer[:, : x_t.shape[1]]
