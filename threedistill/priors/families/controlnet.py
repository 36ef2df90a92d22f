"""ControlNets on Stable Diffusion and SDXL: the network is told the depth or the normals of what is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.conditions import Conditions
from threedistill.priors.elsewhere import Elsewhere
from threedistill.priors.families.family import Facts
from threedistill.priors.families.sdxl import SDXL
from threedistill.priors.families.stable_diffusion import StableDiffusion
from threedistill.priors.space import resize
from threedistill.protocols import ImageSpace
from threedistill.types import Cameras, Condition, Conditioning
from threedistill.values import Within

__all__ = ["Controlled", "SDXLControlNet", "StableDiffusionControlNet", "depth_picture", "normal_picture"]

Control = Literal["depth", "normal"]


def depth_picture(depth: Float[Tensor, "B H W 1"]) -> Float[Tensor, "B H W 3"]:
    """Nearness as depth estimators draw it: 1 / depth, the nearest point of a view white, nothing black."""
    near = torch.where(depth > 0, 1 / depth.clamp(min=1e-6), torch.zeros_like(depth))
    most = near.amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return (near / most).expand(-1, -1, -1, 3)


def normal_picture(normal: Float[Tensor, "B H W 3"], cameras: Cameras) -> Float[Tensor, "B H W 3"]:
    """Normals as their estimators draw them: red to the left, green up, blue towards the viewer; nothing is black."""
    own = torch.einsum("bhwi,bij->bhwj", normal, cameras.c2w[:, :3, :3].to(normal))
    there = (normal.square().sum(-1, keepdim=True) > 0).to(normal)
    return there * (own * own.new_tensor([-1.0, 1.0, 1.0]) + 1) / 2


class Controlled(nn.Module):
    """A UNet and its ControlNet as one network: what the second says of ``x_t`` is added inside the first.

    The UNet stands first: where it embeds the time a student's camera enters.
    """

    def __init__(self, unet: Any, controlnet: Any) -> None:
        super().__init__()
        self.unet, self.controlnet = unet, controlnet

    @property
    def config(self) -> Any:
        """The UNet's."""
        return self.unet.config

    def forward(
        self, x_t: Tensor, time: Tensor, *, control: Tensor, strength: Tensor, timestep_cond: Tensor | None = None,
        return_dict: bool = False, **told: Any,
    ) -> tuple[Tensor]:  # fmt: skip
        """The UNet's answer; ``strength`` (B, 1) scales what the ControlNet adds, 0 = it is not told."""
        down, middle = self.controlnet(x_t, time, controlnet_cond=control, return_dict=False, **told)
        strength = strength.view(-1, 1, 1, 1)
        return self.unet(
            x_t, time, timestep_cond=timestep_cond, return_dict=return_dict,
            down_block_additional_residuals=[strength * d for d in down],
            mid_block_additional_residual=strength * middle, **told,
        )  # fmt: skip


class _Controls:
    """What both have in common, in front of the family of the UNet.

    Arguments:
        control: what is told: ``depth`` or ``normal``.
        controlnet: its folder or hub id (``owner/name@revision`` too); None = it is part of the pipeline's own folder.
        strength: factor on what it adds.
        guidance: as for :class:`StableDiffusion`.
    """

    network = "unet"

    def __init__(
        self, control: Control = "depth", controlnet: str | None = None,
        strength: Annotated[float, Within(0, 10)] = 1.0, guidance: Annotated[float, Within(0, 1000)] = 8.5,
    ) -> None:  # fmt: skip
        super().__init__(guidance)  # type: ignore[call-arg]  # of the family behind it
        self.control, self.controlnet, self.strength = control, controlnet, strength
        self.wants: frozenset[Condition] = frozenset({"text", "camera", control})

    def components(self) -> tuple[str, ...]:
        """The UNet and the ControlNet."""
        return ("unet", "controlnet")

    def elsewhere(self) -> Mapping[str, Elsewhere]:
        """The ControlNet, where it has a place of its own."""
        return {"controlnet": Elsewhere(self.controlnet, "ControlNetModel")} if self.controlnet else {}

    def outline(self, part: str, facts: Facts) -> Any:
        """As wide and as deep as the UNet's way down."""
        from diffusers import ControlNetModel, UNet2DConditionModel

        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.from_config(dict(facts.configs["unet"]))
            return ControlNetModel.from_unet(unet, load_weights_from_unet=False).requires_grad_(False)

    def assemble(self, parts: Mapping[str, Any]) -> nn.Module:
        """Both as one network."""
        return Controlled(parts["unet"], parts["controlnet"])

    def show(self, conditions: Conditions, space: ImageSpace, facts: Facts) -> dict[str, Tensor]:
        """``control`` (B, 3, H, W) in [0, 1] and ``strength`` (B, 1); both 0 where it is withheld.

        Normals are withheld with the camera, in whose frame they are drawn.
        """
        picture = None
        if self.control == "depth" and conditions.depth is not None:
            picture = depth_picture(conditions.depth)
        elif self.control == "normal" and conditions.normal is not None and conditions.cameras is not None:
            picture = normal_picture(conditions.normal, conditions.cameras)
        rows = len(conditions)
        if picture is None:
            return {"control": torch.zeros(rows, 3, facts.size, facts.size), "strength": torch.zeros(rows, 1)}
        return {
            "control": resize(picture.permute(0, 3, 1, 2), facts.size),
            "strength": torch.full((rows, 1), self.strength),
        }

    def further(self, told: Conditioning, x_t: Tensor) -> dict[str, Tensor]:
        """The control picture and its strength."""
        return {name: told[name].to(x_t) for name in ("control", "strength")}


class StableDiffusionControlNet(_Controls, StableDiffusion):
    """Stable Diffusion with a ControlNet. Source: Zhang et al. 2023, arXiv 2302.05543.

    Arguments: those of :class:`_Controls`.
    """

    option = "sd15_control"
    pipelines = ("StableDiffusionPipeline", "StableDiffusionControlNetPipeline")


class SDXLControlNet(_Controls, SDXL):
    """SDXL with a ControlNet. Source: Zhang et al. 2023, arXiv 2302.05543.

    Arguments: those of :class:`_Controls`.
    """

    option = "sdxl_control"
    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLControlNetPipeline")
