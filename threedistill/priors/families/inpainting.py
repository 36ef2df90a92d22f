"""Stable Diffusion for inpainting: the network is told the picture around what it is to draw."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from threedistill.conditions import Conditions
from threedistill.prediction import NoiseLevel
from threedistill.priors.families.family import Facts
from threedistill.priors.families.stable_diffusion import StableDiffusion
from threedistill.priors.space import LatentSpace, resize
from threedistill.protocols import ImageSpace
from threedistill.types import Condition, Conditioning
from threedistill.values import Within

__all__ = ["StableDiffusionInpainting"]


class StableDiffusionInpainting(StableDiffusion):
    """A UNet of nine channels: ``x_t``, the mask of what is to be drawn, and the latents of the rest.

    Where the picture is withheld, all of it is masked.

    Arguments:
        redraw: what is masked: the ``object`` (its background stays) or ``around`` it (the object stays).
        guidance: as for :class:`StableDiffusion`.
    """

    option = "sd15_inpainting"
    pipelines = ("StableDiffusionInpaintPipeline",)
    wants: frozenset[Condition] = frozenset({"text", "rgb", "opacity"})
    beside = 5

    def __init__(
        self,
        redraw: Literal["object", "around"] = "object",
        guidance: Annotated[float, Within(0, 1000)] = 8.5,
    ) -> None:
        super().__init__(guidance)
        self.redraw = redraw

    @torch.no_grad()
    def show(self, conditions: Conditions, space: ImageSpace, facts: Facts) -> dict[str, Tensor]:
        """``mask`` (B, 1, h, w), 1 = to be drawn, and ``masked`` (B, C, h, w), the latents of the rest on grey."""
        assert isinstance(space, LatentSpace)
        rows, device = len(conditions), space.vae.device
        mask = torch.ones(rows, 1, facts.size, facts.size, device=device)
        rgb = torch.full((rows, facts.size, facts.size, 3), 0.5, device=device)
        if conditions.rgb is not None and conditions.opacity is not None:
            cover = resize(conditions.opacity.permute(0, 3, 1, 2).to(device), facts.size) > 0.5
            mask = (cover if self.redraw == "object" else ~cover).float()
            shown = resize(conditions.rgb.permute(0, 3, 1, 2).to(device), facts.size)
            rgb = torch.where(mask > 0.5, torch.full_like(shown, 0.5), shown).permute(0, 2, 3, 1)
        small = torch.nn.functional.interpolate(mask, space.shape[1:])
        return {"mask": small, "masked": space.encode(rgb)}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The UNet's output."""
        seen = torch.cat([x_t, told["mask"].to(x_t), told["masked"].to(x_t)], 1)
        return super().denoise(network, seen, level, told, facts)
