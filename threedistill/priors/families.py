"""What differs between families of diffusers models: text encoding, network inputs and outputs, space and
path.

A family is a small adapter; everything else is :class:`threedistill.priors.diffusers.DiffusersPrior`. To add
one (SDXL: two encoders and ``added_cond_kwargs``; SD3 and FLUX: a transformer, three encoders, flow
prediction), write its four methods here and name it in ``configs/prior/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import Wording
from threedistill.errors import UsageError
from threedistill.prediction import PredictionKind
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.noise_path import DiscretePath, RectifiedFlowPath
from threedistill.priors.space import LatentSpace
from threedistill.protocols import ImageSpace, NoisePath
from threedistill.types import Conditioning

__all__ = ["PREDICTION_TYPES", "Family", "StableDiffusion", "scheduler_path"]

#: diffusers' names of what a network predicts.
PREDICTION_TYPES: dict[str, PredictionKind] = {
    "epsilon": "eps", "v_prediction": "v", "sample": "x0", "flow_prediction": "flow",
}  # fmt: skip


@runtime_checkable
class Family(Protocol):
    """One family's adapter.

    ``network`` is the component that is asked, ``encoders`` are the (tokenizer, text encoder) components.
    """

    network: str
    encoders: tuple[tuple[str, str], ...]

    def path(self, scheduler: Mapping[str, Any]) -> tuple[NoisePath, PredictionKind]:
        """The noise path and the parametrisation, from the scheduler's configuration."""
        ...

    def space(self, vae: Any, network: Any, size: int | None) -> ImageSpace:
        """The space the network works in, for pictures of ``size`` pixels (None = as trained)."""
        ...

    def encode(self, encoders: Sequence[tuple[Any, Any]], wordings: Sequence[Wording]) -> list[Embedding]:
        """One embedding per wording from the loaded (tokenizer, text encoder) pairs."""
        ...

    def denoise(self, network: Any, x_t: Tensor, index: Tensor, conditioning: Conditioning) -> Tensor:
        """The network's raw output."""
        ...


def scheduler_path(scheduler: Mapping[str, Any]) -> tuple[NoisePath, PredictionKind]:
    """The path and parametrisation of any DDPM-family or flow-matching scheduler configuration."""
    if "FlowMatch" in str(scheduler.get("_class_name", "")):
        return RectifiedFlowPath(float(scheduler.get("num_train_timesteps", 1000))), "flow"
    kind = str(scheduler.get("prediction_type", "epsilon"))
    if kind not in PREDICTION_TYPES:
        raise UsageError(
            f"the scheduler's prediction_type {kind!r} is not one of {', '.join(PREDICTION_TYPES)}"
        )
    return DiscretePath.from_scheduler_config(scheduler), PREDICTION_TYPES[kind]


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x: one CLIP encoder, a UNet over VAE latents, eps- or v-prediction."""

    network = "unet"
    encoders = (("tokenizer", "text_encoder"),)

    def path(self, scheduler: Mapping[str, Any]) -> tuple[NoisePath, PredictionKind]:
        """From the scheduler's betas and prediction type."""
        return scheduler_path(scheduler)

    def space(self, vae: Any, network: Any, size: int | None) -> ImageSpace:
        """VAE latents; by default as large as the UNet was trained on."""
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        return LatentSpace(vae, size or int(network.config.sample_size) * factor)

    @torch.no_grad()
    def encode(self, encoders: Sequence[tuple[Any, Any]], wordings: Sequence[Wording]) -> list[Embedding]:
        """``encoder_hidden_states`` (77, width): the last hidden state of every token."""
        tokenizer, encoder = encoders[0]
        length = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        tokens = tokenizer(
            [w.text for w in wordings],
            padding="max_length",
            max_length=length,
            truncation=True,
            return_tensors="pt",
        ).to(encoder.device)
        mask = tokens.attention_mask if getattr(encoder.config, "use_attention_mask", False) else None
        return [{"encoder_hidden_states": row} for row in encoder(tokens.input_ids, attention_mask=mask)[0]]

    def denoise(
        self,
        network: Any,
        x_t: Float[Tensor, "B C h w"],
        index: Float[Tensor, "B"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "B C h w"]:
        """The UNet's output."""
        text = conditioning["encoder_hidden_states"].to(x_t.dtype)
        return network(x_t, index, encoder_hidden_states=text, return_dict=False)[0]
