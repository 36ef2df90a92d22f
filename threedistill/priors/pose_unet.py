"""The network of Zero123: Stable Diffusion's UNet, told a picture and how the camera moved from it.

Source: Liu et al. 2023, arXiv 2303.11328, section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DConditionModel
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from threedistill.errors import UsageError
from threedistill.priors.multiview_unet import layout, read_published, without_prefix

__all__ = ["POSE", "PoseProjection", "PosedUNet", "from_published"]

#: Numbers of a pose.
POSE = 4


class PoseProjection(ModelMixin, ConfigMixin):
    """CLIP's embedding of the picture and the pose, made into the one token that cross-attention looks at."""

    @register_to_config
    def __init__(self, embedding_dim: int = 768, additional_embeddings: int = POSE) -> None:
        super().__init__()
        self.proj = nn.Linear(embedding_dim + additional_embeddings, embedding_dim)

    def forward(self, embedding: Tensor) -> Tensor:
        """(B, D + 4) -> (B, D)."""
        return self.proj(embedding)


class PosedUNet(nn.Module):
    """The UNet and the projection as one network; the UNet stands first, where a student's camera enters."""

    def __init__(self, unet: Any, projection: nn.Module) -> None:
        super().__init__()
        self.unet, self.projection = unet, projection

    @property
    def config(self) -> Any:
        """The UNet's."""
        return self.unet.config

    def forward(
        self, x_t: Tensor, time: Tensor, clip: Tensor, pose: Tensor, seen: Tensor, shown: Tensor
    ) -> Tensor:
        """The noise in ``x_t``; ``shown`` (B, 1) = 0 where the picture is withheld."""
        token = shown * self.projection(torch.cat([clip, pose], 1))
        picture = shown[..., None, None] * seen
        return self.unet(
            torch.cat([x_t, picture], 1), time, encoder_hidden_states=token[:, None], return_dict=False
        )[0]


def from_published(given: Mapping[str, Tensor]) -> PosedUNet:
    """The network of a published checkpoint, in float32.

    Arguments:
        given: by published name: those of latent diffusion, and ``cc_projection`` for the poses.

    Raises:
        UsageError: weights that are missing, or of another shape.
    """
    weights, linear = without_prefix(given), given.get("cc_projection.weight")
    if linear is None or linear.shape[1] != linear.shape[0] + POSE or "cc_projection.bias" not in given:
        raise UsageError("its weights are not Zero123's (it has no projection of poses, cc_projection)")
    config = layout({name: tuple(v.shape) for name, v in weights.items()}, None, cameras=False)
    with torch.device("meta"):
        unet, projection = UNet2DConditionModel(**config), PoseProjection(len(linear))
    read_published(unet, weights, "Stable Diffusion's UNet")
    parts = {f"proj.{kind}": given[f"cc_projection.{kind}"].float() for kind in ("weight", "bias")}
    projection.load_state_dict(parts, assign=True)
    return PosedUNet(unet, projection)
