"""FLUX.2 klein and dev."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from threedistill.prediction import NoiseLevel, PredictionKind
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Said
from threedistill.priors.families.flux import grid_ids, pack, unpack
from threedistill.priors.noise_path import RectifiedFlowPath
from threedistill.priors.schedulers import scheduler_path
from threedistill.priors.space import LatentSpace
from threedistill.protocols import NoisePath
from threedistill.types import Conditioning
from threedistill.values import Within

__all__ = ["FLUX2", "mu_of"]


def mu_of(tokens: int, steps: int) -> float:
    """The logarithm of the shift of FLUX.2's noise levels: fitted at 10 and at 200 steps, linear between.

    Arguments:
        tokens: of a picture.
        steps: that a sampler takes.
    """
    many = 0.00016927 * tokens + 0.45666666
    few = 8.73809524e-05 * tokens + 1.89833333
    return many if tokens > 4300 else many + (few - many) * (200 - steps) / 190


class FLUX2(Family):
    """Three hidden layers of Qwen3 (dev: Mistral), a transformer over folded latents of the VAE's batch norm, rectified
    flow.

    ``x0`` is ``(fold(z) - mean) / sqrt(variance + eps)`` by the statistics that the VAE keeps. The prompt stands in a
    chat's frame, the empty one too. ``dev`` was distilled with a guidance scale and is told one; klein is told none.

    Arguments:
        text_length: tokens of the framed prompt that the text encoder hears.
        steps: of the sampler whose noise levels count as the path's (:func:`mu_of`).
        guidance: the scale that ``dev`` is told; it is no scale of classifier-free guidance.
    """

    option = "flux2"
    pipelines = ("Flux2KleinPipeline", "Flux2Pipeline")
    #: Whether a system's message stands in front of the prompt.
    instructed = False
    patch = 2
    packed = 4

    def __init__(
        self,
        text_length: Annotated[int, Within(16, 4096)] = 512,
        steps: Annotated[int, Within(1, 200)] = 50,
        guidance: Annotated[float, Within(0, 1000)] = 4.0,
    ) -> None:
        self.text_length, self.steps, self.guidance = text_length, steps, guidance

    def adapted(self, index: Mapping[str, Any]) -> Family:
        """With the frame that this pipeline's prompts stand in."""
        own = copy.copy(self)
        own.instructed = index["_class_name"] == "Flux2Pipeline"
        return own

    def native_size(self, facts: Facts) -> int:
        """128 latents; its configuration does not say so."""
        return 128 * facts.factor

    def path(self, facts: Facts) -> tuple[NoisePath, PredictionKind]:
        """Rectified flow, shifted as its pipeline does it and not as its scheduler says."""
        path, kind = scheduler_path(facts.configs["scheduler"])
        if not isinstance(path, RectifiedFlowPath):
            return path, kind
        tokens = (facts.size // (facts.factor * self.patch)) ** 2
        return RectifiedFlowPath(shift=math.exp(mu_of(tokens, self.steps))), kind

    def space(self, vae: Any, facts: Facts) -> LatentSpace:
        """Latents, 2 x 2 of which are one."""
        return LatentSpace(vae, facts.size, fold=2)

    def length(self, tokenizer: str, pipe: Any) -> int:
        """What is left of ``text_length`` by the chat's frame."""
        if self.instructed:
            said = {"system": pipe.system_message, "user": ""}
            frame = [
                {"role": role, "content": [{"type": "text", "text": text}]} for role, text in said.items()
            ]
            tokens = pipe.tokenizer.apply_chat_template([frame], tokenize=True, return_dict=True)
            return self.text_length - len(tokens["input_ids"][0])
        chat = pipe.tokenizer.apply_chat_template(
            [{"role": "user", "content": ""}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        return self.text_length - len(pipe.tokenizer(chat).input_ids)

    def text_rows(self, facts: Facts) -> int:
        """The framed prompt's."""
        return self.text_length

    @torch.no_grad()
    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """``encoder_hidden_states`` (text_length, three widths)."""
        rows, _ = pipe.encode_prompt(
            said["tokenizer"], device=pipe.text_encoder.device, max_sequence_length=self.text_length
        )
        return {"encoder_hidden_states": rows[0]}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """``eps - x0``; a token per folded latent, each text token at its own place of the fourth axis."""
        rows, _, height, width = x_t.shape
        text = told["encoder_hidden_states"].to(x_t.dtype)
        places = torch.zeros(text.shape[1], 4, device=x_t.device)
        places[:, 3] = torch.arange(text.shape[1])
        grid = grid_ids(height, width, 4, places)
        scale = x_t.new_full((rows,), self.guidance, dtype=torch.float32)
        tokens = network(
            hidden_states=pack(x_t, 1), timestep=level.index / 1000,
            guidance=scale if network.config.guidance_embeds else None, encoder_hidden_states=text,
            txt_ids=places.expand(rows, -1, -1), img_ids=grid.expand(rows, -1, -1), return_dict=False,
        )[0]  # fmt: skip
        return unpack(tokens, height, width, 1)
