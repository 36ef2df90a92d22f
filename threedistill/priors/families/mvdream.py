"""MVDream: four views of one object at once, each told its camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.prediction import NoiseLevel
from threedistill.priors.elsewhere import Elsewhere
from threedistill.priors.families.family import Facts
from threedistill.priors.families.stable_diffusion import StableDiffusion
from threedistill.priors.fetching import need_safetensors
from threedistill.protocols import ImageSpace
from threedistill.types import Cameras, Condition, Conditioning
from threedistill.values import Within

__all__ = ["MVDream", "camera_rows"]

#: Our world (+Y up, the front on +Z) in theirs (+Z up, the front on +X).
AXES = ((0.0, 0.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def camera_rows(cameras: Cameras | None, rows: int) -> Float[Tensor, "B 17"]:
    """What the network is told of cameras: the camera-to-world matrix row by row, its place on the unit sphere, and 1.

    All zeros where they are withheld.
    """
    if cameras is None:
        return torch.zeros(rows, 17)
    c2w = torch.tensor(AXES) @ cameras.c2w.float().cpu()
    place = c2w[:, :3, 3:] / c2w[:, :3, 3:].norm(dim=1, keepdim=True).clamp(min=1e-8)
    c2w = torch.cat([torch.cat([c2w[:, :3, :3], place], 2), c2w[:, 3:]], 1)
    return torch.cat([c2w.flatten(1), torch.ones(rows, 1)], 1)


@dataclass(frozen=True)
class _Published(Elsewhere):
    """A checkpoint with the published names, as the network that it is of."""

    group: int = 4
    head_width: int | None = 64
    pictures: bool = False

    def load(self, variant: str | None = None, empty: bool = False) -> Any:
        """The network, its views joined."""
        from threedistill.priors.multiview_unet import from_published

        need_safetensors(self.inside, self.inside)
        try:
            return from_published(super().load(variant, empty), self.group, self.head_width, self.pictures)
        except UsageError as error:
            raise UsageError(f"{self.place}/{self.inside}: {error}") from None


class MVDream(StableDiffusion):
    """The text encoder and the VAE of Stable Diffusion beside a UNet that sees groups of four views, at 256 pixels.

    Views of a group share their noise level; the words for views add nothing, since the cameras are told.
    Source: Shi et al. 2023, arXiv 2308.16512.

    Arguments:
        checkpoint: the multi-view UNet: a .safetensors file with the published names, or a folder or hub id with one.
        file: where it stands in the folder or on the hub.
        head_width: channels per attention head: 64 beside Stable Diffusion 2; None = 8 heads (Stable Diffusion 1).
    """

    option = "mvdream"
    pipelines = ("StableDiffusionPipeline",)
    wants: frozenset[Condition] = frozenset({"text", "camera"})
    view_group = 4
    #: Views of a group beside those that are asked about.
    extra_views = 0

    def __init__(
        self, checkpoint: str = "ashawkey/mvdream-sd2.1-diffusers",
        file: str = "unet/diffusion_pytorch_model.safetensors",
        head_width: Annotated[int, Within(1, 1024)] | None = 64,
    ) -> None:  # fmt: skip
        super().__init__()
        self.checkpoint, self.file, self.head_width = checkpoint, file, head_width

    def native_size(self, facts: Facts) -> int:
        """256, whatever the UNet beside it was trained on."""
        return 256

    def elsewhere(self) -> Mapping[str, Elsewhere]:
        """The multi-view UNet, in place of the pipeline's."""
        path = Path(self.checkpoint).expanduser()
        place, inside = (str(path.parent), path.name) if path.is_file() else (self.checkpoint, self.file)
        group = self.view_group + self.extra_views
        return {self.network: _Published(place, None, inside, group, self.head_width, "image" in self.wants)}

    def outline(self, part: str, facts: Facts) -> Any:
        """The UNet of the pipeline, told cameras, its views joined."""
        from threedistill.priors.multiview_unet import outline

        return outline(facts.configs["unet"], self.view_group + self.extra_views, "image" in self.wants)

    def show(self, conditions: Conditions, space: ImageSpace, facts: Facts) -> dict[str, Tensor]:
        """``cameras`` (B, 17)."""
        return {"cameras": camera_rows(conditions.cameras, len(conditions))}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The noise; rows of a group stand together."""
        return network(
            x_t, level.index, encoder_hidden_states=told["encoder_hidden_states"].to(x_t.dtype),
            class_labels=told["cameras"].to(x_t.dtype), return_dict=False,
        )[0]  # fmt: skip
