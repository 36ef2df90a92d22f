"""ImageDream: MVDream's network, shown a picture of the object beside the words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from torch import Tensor

from threedistill.prediction import NoiseLevel
from threedistill.priors.arrangement import rows_are
from threedistill.priors.elsewhere import Elsewhere
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Picture
from threedistill.priors.families.ip_adapter import clip_pixels
from threedistill.priors.families.mvdream import MVDream
from threedistill.protocols import ImageSpace
from threedistill.types import Condition, Conditioning
from threedistill.values import Within

__all__ = ["ImageDream"]


class ImageDream(MVDream):
    """Groups of four views and a fifth, which is the picture itself, without noise and without a camera.

    CLIP's patches of the picture are resampled into 16 tokens that every cross-attention looks at beside the words; the
    picture's latents stand as one view more in each group, whose answer is not used. Where the picture is withheld
    both are zeros. Cameras are those of the object's own frame, whatever the picture was taken from.
    Source: Wang and Shi 2023, arXiv 2312.02201 (its pixel controller).

    Arguments:
        checkpoint, file, head_width: as for :class:`MVDream`.
        encoder: a folder or hub id (``owner/name@revision`` too) with CLIP's image encoder.
        folder: where it stands in it.
    """

    option = "imagedream"
    wants: frozenset[Condition] = frozenset({"text", "camera", "image"})
    extra_views = 1

    def __init__(
        self, checkpoint: str = "ashawkey/imagedream-ipmv-diffusers",
        file: str = "unet/diffusion_pytorch_model.safetensors",
        head_width: Annotated[int, Within(1, 1024)] | None = 64,
        encoder: str = "ashawkey/imagedream-ipmv-diffusers", folder: str = "image_encoder",
    ) -> None:  # fmt: skip
        super().__init__(checkpoint, file, head_width)
        self.encoder, self.folder = encoder, folder

    def elsewhere(self) -> Mapping[str, Elsewhere]:
        """The network, in place of the pipeline's, and CLIP."""
        return {
            **super().elsewhere(),
            "image_encoder": Elsewhere(self.encoder, "CLIPVisionModel", self.folder),
        }

    @torch.no_grad()
    def look(self, encoder: Any, picture: Picture, space: ImageSpace, facts: Facts) -> Embedding:
        """``image_embeds`` (N, D) of CLIP's patches before the last layer, and ``image_latents`` (C, h, w)."""
        size, patch = encoder.config.image_size, encoder.config.patch_size
        if picture.image is None:
            tokens = 1 + (size // patch) ** 2
            return {
                "image_embeds": torch.zeros(tokens, encoder.config.hidden_size),
                "image_latents": torch.zeros(space.shape),
            }
        pixels = clip_pixels(picture.image, size).to(encoder.device, encoder.dtype)
        return {
            "image_embeds": encoder(pixels, output_hidden_states=True).hidden_states[-2][0],
            "image_latents": space.encode(picture.image.over()[None].to(encoder.device))[0],
        }

    def denoise(
        self, network: Any, x_t: Tensor, level: NoiseLevel, told: Conditioning, facts: Facts
    ) -> Tensor:
        """The noise of the four views."""
        first = slice(None, None, self.view_group)
        lone = torch.zeros_like(told["cameras"][first])
        lone[:, -1] = told["cameras"][first, -1]

        def with_fifth(views: Tensor, fifth: Tensor) -> Tensor:
            groups = views.unflatten(0, (-1, self.view_group))
            return torch.cat([groups, fifth.to(views)[:, None]], 1).flatten(0, 1)

        text, seen = told["encoder_hidden_states"].to(x_t.dtype), told["image_embeds"][:, :1].to(x_t.dtype)
        samples = with_fifth(torch.arange(len(x_t)), torch.full((len(x_t) // self.view_group,), -1))
        with rows_are(samples):
            answer = network(
                with_fifth(x_t, told["image_latents"][first, 0]), with_fifth(level.index, level.index[first]),
                encoder_hidden_states=with_fifth(text, text[first]),
                class_labels=with_fifth(told["cameras"].to(x_t.dtype), lone),
                added_cond_kwargs={"image_embeds": [with_fifth(seen, seen[first])]}, return_dict=False,
            )[0]  # fmt: skip
        return answer.unflatten(0, (-1, self.view_group + 1))[:, :-1].flatten(0, 1)
