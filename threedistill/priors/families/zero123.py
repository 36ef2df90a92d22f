"""Zero123 and Stable Zero123: a new view of the object in a picture, told how the camera moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from threedistill.conditions import Conditions
from threedistill.errors import UsageError
from threedistill.prediction import NoiseLevel
from threedistill.priors.elsewhere import Elsewhere
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Family, Picture, Said
from threedistill.priors.fetching import need_safetensors
from threedistill.priors.space import LatentSpace, to_signed
from threedistill.protocols import ImageSpace
from threedistill.types import Cameras, Condition, Conditioning

__all__ = ["Zero123", "pose_rows"]

#: Of CLIP's pictures, per colour.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
Told = Literal["radius", "elevation"]


def pose_rows(cameras: Cameras, taken: Cameras, told: Told) -> Float[Tensor, "B 4"]:
    """How each view's camera stands to the picture's, on spheres around the origin.

    ``(theta - theta', sin(phi - phi'), cos(phi - phi'), r - r')`` with the angle ``theta`` from the top, the azimuth
    ``phi``, the distance ``r`` in metres, and those of the picture primed; Stable Zero123 is told ``theta'`` last.
    Source: Liu et al. 2023, arXiv 2303.11328, section 3.2.

    Arguments:
        cameras: of the views.
        taken: the one of the picture.
        told: what stands last.
    """

    def polar(seen: Cameras) -> tuple[Tensor, Tensor, Tensor]:
        place = seen.c2w[:, :3, 3].float().cpu()
        radius = place.norm(dim=1).clamp(min=1e-8)
        return (place[:, 1] / radius).clamp(-1, 1).acos(), torch.atan2(place[:, 0], place[:, 2]), radius

    (theta, phi, radius), (theta0, phi0, radius0) = polar(cameras), polar(taken)
    last = radius - radius0 if told == "radius" else theta0.expand_as(theta)
    return torch.stack([theta - theta0, (phi - phi0).sin(), (phi - phi0).cos(), last], 1)


@dataclass(frozen=True)
class _Published(Elsewhere):
    """A checkpoint with the published names, as the network that it is of."""

    def load(self, variant: str | None = None, empty: bool = False) -> Any:
        """The UNet and the projection of poses as one network."""
        from threedistill.priors.pose_unet import from_published

        need_safetensors(self.inside, self.inside)
        try:
            return from_published(super().load(variant, empty))
        except UsageError as error:
            raise UsageError(f"{self.place}/{self.inside}: {error}") from None


class Zero123(Family):
    """Stable Diffusion's UNet, which is told no words, but a picture of the object and the way from its camera.

    The picture's latents, not scaled, stand beside ``x_t``; CLIP's embedding of it and the pose (:func:`pose_rows`)
    are one token of text. Where the picture is withheld both are zeros. Source: Liu et al. 2023, arXiv 2303.11328.

    Arguments:
        told: the pose's last number: the ``radius`` (Zero123, XL) or the picture's ``elevation`` (Stable Zero123).
        checkpoint: a .safetensors file with the published names, in place of the pipeline's network; None = it is in
            the pipeline's folder.
    """

    option = "zero123"
    pipelines = (
        "Zero123Pipeline",
        "Zero1to3StableDiffusionPipeline",
        "StableDiffusionImageVariationPipeline",
    )
    network = "unet"
    encoders = ()
    wants: frozenset[Condition] = frozenset({"camera", "image"})
    beside = 4
    half = torch.float16

    def __init__(self, told: Told = "radius", checkpoint: str | None = None) -> None:
        self.told: Told = told
        self.checkpoint = checkpoint

    def native_size(self, facts: Facts) -> int:
        """256."""
        return 256

    def check(self, facts: Facts) -> None:
        """A pipeline without a checkpoint beside it has a projection of poses."""
        if self.checkpoint is not None:
            return
        if facts.index.get("clip_camera_projection", [None])[0] is None:
            raise UsageError(
                "it has no projection of poses, clip_camera_projection; set prior.model.family.checkpoint to a "
                ".safetensors file of Zero123's weights"
            )
        super().check(facts)

    def components(self) -> tuple[str, ...]:
        """The UNet and the projection."""
        return (self.network,) if self.checkpoint else (self.network, "clip_camera_projection")

    def classes(self) -> Mapping[str, type]:
        """That of the projection, which no library has."""
        from threedistill.priors.pose_unet import PoseProjection

        return {"clip_camera_projection": PoseProjection}

    def elsewhere(self) -> Mapping[str, Elsewhere]:
        """The network, where it has a file of its own."""
        if self.checkpoint is None:
            return {}
        path = Path(self.checkpoint).expanduser()
        return {self.network: _Published(str(path.parent), None, path.name)}

    def assemble(self, parts: Mapping[str, Any]) -> nn.Module:
        """Both as one network."""
        from threedistill.priors.pose_unet import PosedUNet

        found = parts[self.network]
        return found if self.checkpoint else PosedUNet(found, parts["clip_camera_projection"])

    @property
    def remarks(self) -> tuple[str, ...]:
        """What becomes of the prompt."""
        return ("it is shown the picture and told no words: the prompt does not reach it",)

    def encode(self, pipe: Any, said: Said, facts: Facts) -> Embedding:
        """Nothing: it is told no words."""
        return {}

    @torch.no_grad()
    def look(self, encoder: Any, picture: Picture, space: ImageSpace, facts: Facts) -> Embedding:
        """``clip`` (D), CLIP's embedding of the picture, and ``seen`` (C, h, w), its latents."""
        assert isinstance(space, LatentSpace)
        if picture.image is None:
            return {"clip": torch.zeros(encoder.config.projection_dim), "seen": torch.zeros(space.shape)}
        rgb = picture.image.over()[None].to(encoder.device)
        side = (encoder.config.image_size,) * 2
        small = F.interpolate(to_signed(rgb, facts.size), side, mode="bicubic", align_corners=True)
        mean, std = (small.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
        pixels = (((small + 1) / 2 - mean) / std).to(encoder.dtype)
        return {"clip": encoder(pixels).image_embeds[0], "seen": space.encode(rgb)[0] / space.scale}

    def show(self, conditions: Conditions, space: ImageSpace, facts: Facts) -> dict[str, Tensor]:
        """``pose`` (B, 4) and ``shown`` (B, 1), both 0 where the picture is withheld."""
        rows = len(conditions)
        if not conditions.images or conditions.cameras is None:
            return {"pose": torch.zeros(rows, 4), "shown": torch.zeros(rows, 1)}
        taken = conditions.images[0].camera
        if taken is None:
            raise UsageError(
                "where the picture was taken from is not known; say it with --image-camera AZ,EL"
            )
        return {"pose": pose_rows(conditions.cameras, taken, self.told), "shown": torch.ones(rows, 1)}

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The noise."""
        clip, seen = (told[name][:, 0].to(x_t.dtype) for name in ("clip", "seen"))
        pose, shown = (told[name].to(x_t.dtype) for name in ("pose", "shown"))
        return network(x_t, level.index, clip, pose, seen, shown)
