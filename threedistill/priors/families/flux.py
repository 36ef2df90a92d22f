"""FLUX.1: dev and schnell."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedistill.prediction import NoiseLevel
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.types import Conditioning
from threedistill.values import Within

__all__ = ["FLUX", "grid_ids", "pack", "unpack"]


def pack(x: Float[Tensor, "B C h w"], fold: int = 2) -> Float[Tensor, "B N D"]:
    """A token per ``fold x fold`` latents, row by row."""
    return F.pixel_unshuffle(x, fold).flatten(2).transpose(1, 2)


def unpack(
    tokens: Float[Tensor, "B N D"], height: int, width: int, fold: int = 2
) -> Float[Tensor, "B C h w"]:
    """The inverse of :func:`pack`, for latents of this height and width."""
    grid = tokens.transpose(1, 2).unflatten(2, (height // fold, width // fold))
    return F.pixel_shuffle(grid, fold)


def grid_ids(height: int, width: int, axes: int, like: Tensor) -> Float[Tensor, "N A"]:
    """Where each token stands: its row in axis 1, its column in axis 2, zeros elsewhere."""
    ids = torch.zeros(height, width, axes)
    ids[..., 1] = torch.arange(height)[:, None]
    ids[..., 2] = torch.arange(width)[None]
    return ids.flatten(0, 1).to(like)


class FLUX(Family):
    """T5 and the pooled text of CLIP, a transformer over 2 x 2 latents, rectified flow.

    ``dev`` was distilled with a guidance scale and is told one; it is no scale of classifier-free guidance, which is
    another question on top of it. ``schnell`` is told none.

    Arguments:
        guidance: the scale that ``dev`` is told.
        text_length: tokens that T5 hears.
    """

    option = "flux"
    pipelines = ("FluxPipeline",)
    encoders = (("tokenizer", "text_encoder"), ("tokenizer_2", "text_encoder_2"))
    patch = 2
    packed = 4

    def __init__(
        self,
        guidance: Annotated[float, Within(0, 1000)] = 3.5,
        text_length: Annotated[int, Within(2, 4096)] = 512,
    ) -> None:
        self.guidance, self.text_length = guidance, text_length

    def native_size(self, facts: Facts) -> int:
        """128 latents; its configuration does not say so."""
        return 128 * facts.factor

    def length(self, tokenizer: str, pipe: Any) -> int:
        """77 of CLIP, or T5's."""
        return self.text_length if tokenizer == "tokenizer_2" else super().length(tokenizer, pipe)

    def text_rows(self, facts: Facts) -> int:
        """T5's."""
        return self.text_length

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (text_length, width) and ``pooled_projections``."""
        rows, pooled, _ = pipe.encode_prompt(
            said["tokenizer"], said["tokenizer_2"], device=pipe.text_encoder.device,
            max_sequence_length=self.text_length,
        )  # fmt: skip
        return {"encoder_hidden_states": rows[0], "pooled_projections": pooled[0]}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """``eps - x0``, unpacked; the time is told from 0 to 1."""
        height, width = x_t.shape[-2:]
        text = told["encoder_hidden_states"].to(x_t.dtype)
        scale = x_t.new_full((len(x_t),), self.guidance, dtype=torch.float32)
        tokens = network(
            hidden_states=pack(x_t), timestep=level.index / 1000,
            guidance=scale if network.config.guidance_embeds else None,
            pooled_projections=told["pooled_projections"].to(x_t.dtype), encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3), img_ids=grid_ids(height // 2, width // 2, 3, x_t),
            return_dict=False,
        )[0]  # fmt: skip
        return unpack(tokens, height, width)
