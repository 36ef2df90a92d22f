"""Sana."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import torch
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.priors.families.pixart import masked
from threedistill.types import Conditioning
from threedistill.values import Within

__all__ = ["Sana"]


class Sana(Family):
    """Gemma with a mask, a transformer of linear attention over latents of 32 pixels, rectified flow.

    An instruction stands in front of prompts and of nothing else: a negative text is encoded without it.
    Source: Xie et al. 2024, arXiv 2410.10629.

    Arguments:
        text_length: tokens of the prompt that are heard.
        instruct: whether the instruction is given.
    """

    option = "sana"
    pipelines = ("SanaPipeline",)

    def __init__(self, text_length: Annotated[int, Within(2, 4096)] = 300, instruct: bool = True) -> None:
        self.text_length, self.instruct = text_length, instruct

    def length(self, tokenizer: str, pipe: Any) -> int:
        """The prompt's own, the instruction apart."""
        return self.text_length

    def text_rows(self, facts: Facts) -> int:
        """The prompt's own."""
        return self.text_length

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (length, width) and ``encoder_attention_mask`` (length)."""
        published = inspect.signature(type(pipe).__call__).parameters["complex_human_instruction"].default
        rows, mask, *_ = pipe.encode_prompt(
            said["tokenizer"], False, device=pipe.text_encoder.device, max_sequence_length=self.text_length,
            complex_human_instruction=published if self.instruct and said.role == "prompt" else None,
        )  # fmt: skip
        return {"encoder_hidden_states": rows[0], "encoder_attention_mask": mask[0]}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """``eps - x0``, without a variance where there is one."""
        time = level.index * float(network.config.timestep_scale)
        return network(x_t, timestep=time, return_dict=False, **masked(told, x_t))[0][:, : x_t.shape[1]]
