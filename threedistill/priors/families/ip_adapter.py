"""IP-Adapters on Stable Diffusion and SDXL: the network is shown reference pictures beside the words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.conditions import ReferenceImage
from threedistill.errors import UsageError
from threedistill.priors.elsewhere import Elsewhere
from threedistill.priors.embedding_cache import Embedding
from threedistill.priors.families.family import Facts, Picture
from threedistill.priors.families.sdxl import SDXL
from threedistill.priors.families.stable_diffusion import StableDiffusion
from threedistill.protocols import ImageSpace
from threedistill.types import Condition, Conditioning
from threedistill.values import Within

__all__ = ["SDXLIPAdapter", "StableDiffusionIPAdapter", "clip_pixels"]

#: What an adapter projects CLIP's answer with: whether that answer is of its patches, or its summary.
READ = {"proj.weight": False, "proj.0.weight": True, "proj_in.weight": True}


def clip_pixels(image: ReferenceImage, size: int) -> Float[Tensor, "1 3 size size"]:
    """A picture over white as CLIP's own processor makes it."""
    from PIL import Image
    from transformers import CLIPImageProcessor

    rgb = (image.over() * 255).round().to(torch.uint8).cpu().numpy()
    processor: Any = CLIPImageProcessor(size=size, crop_size=size)
    return processor(Image.fromarray(rgb), return_tensors="pt").pixel_values


class _Shown:
    """What both have in common, in front of the family of the UNet.

    A picture is embedded by CLIP, made into a few tokens, and every cross-attention adds ``strength`` times what it
    attends to among these: ``attention(q, text) + strength attention(q, picture)``. Of several pictures all tokens
    are attended to at once. What is transparent is seen over white; where pictures are withheld, the embedding is
    zeros (of adapters that see CLIP's patches: that of a picture of zeros).

    Arguments:
        adapter: a folder or hub id (``owner/name@revision`` too) with the adapter and its encoder.
        weights: the adapter's safetensors file in it.
        encoder: the folder of CLIP's image encoder in it.
        strength: factor on what the adapter adds.
        guidance: as for :class:`StableDiffusion`.
    """

    wants: frozenset[Condition] = frozenset({"text", "image"})

    def __init__(
        self, adapter: str, weights: str, encoder: str, strength: Annotated[float, Within(0, 10)] = 1.0,
        guidance: Annotated[float, Within(0, 1000)] = 8.5,
    ) -> None:  # fmt: skip
        super().__init__(guidance)  # type: ignore[call-arg]  # of the family behind it
        self.adapter, self.weights, self.encoder, self.strength = adapter, weights, encoder, strength

    def components(self) -> tuple[str, ...]:
        """The UNet and the adapter."""
        return ("unet", "adapter")

    def elsewhere(self) -> Mapping[str, Elsewhere]:
        """The adapter and its encoder."""
        return {
            "adapter": Elsewhere(self.adapter, None, self.weights),
            "image_encoder": Elsewhere(self.adapter, "CLIPVisionModelWithProjection", self.encoder),
        }

    def outline(self, part: str, facts: Facts) -> dict[str, Tensor]:
        """The plain adapter: four tokens of CLIP's summary, and two layers per cross-attention."""
        from diffusers import UNet2DConditionModel

        with torch.device("meta"):
            unet: Any = UNet2DConditionModel.from_config(dict(facts.configs["unet"]))
            told, seen = unet.config.cross_attention_dim, facts.configs["image_encoder"]["projection_dim"]
            shapes: dict[str, tuple[int, ...]] = {
                "image_proj.proj.weight": (4 * told, seen), "image_proj.proj.bias": (4 * told,),
                "image_proj.norm.weight": (told,), "image_proj.norm.bias": (told,),
            }  # fmt: skip
            crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
            for i, name in enumerate(crossing):
                inner = unet.get_submodule(name.removesuffix(".processor")).inner_dim
                for layer in ("to_k_ip", "to_v_ip"):
                    shapes[f"ip_adapter.{2 * i + 1}.{layer}.weight"] = (inner, told)
            return {name: torch.empty(shape) for name, shape in shapes.items()}

    def assemble(self, parts: Mapping[str, Any]) -> Any:
        """The UNet with the adapter's layers.

        Raises:
            UsageError: an adapter of another network, or one that is shown no pictures.
        """
        device = next(parts["unet"].parameters()).device
        unet = parts["unet"]
        split: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in parts["adapter"].items():
            part, _, rest = name.partition(".")
            split.get(part, {})[rest] = tensor
        self._check(split["image_proj"])
        try:
            with torch.device(device):
                unet._load_ip_adapter_weights([split], low_cpu_mem_usage=False)
        except (KeyError, RuntimeError) as error:
            said = " ".join(str(error).split())[:120]
            raise UsageError(f"{self.weights} is an IP-Adapter of another network: {said}") from None
        from diffusers.models.attention_processor import IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0

        kinds = (IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0)
        shown: list[Any] = [one for one in unet.attn_processors.values() if isinstance(one, kinds)]
        for processor in shown:
            processor.scale = [self.strength]
        return unet.requires_grad_(False)

    def _check(self, projection: Mapping[str, Tensor]) -> None:
        """Sees which of CLIP's answers the adapter reads, and refuses one that reads none."""
        read = next((name for name in READ if name in projection), None)
        if read is None or "perceiver_resampler.proj_in.weight" in projection:
            raise UsageError(
                f"{self.weights} is no IP-Adapter that is shown pictures (those that are told faces are not read)"
            )
        self._patches, self._reads = READ[read], projection[read].shape[1]

    def observe(self, load: Callable[[str], Any], parts: Mapping[str, Any], facts: Facts) -> None:
        """Refuses an adapter that reads other embeddings than its encoder gives."""
        clip = facts.configs["image_encoder"]
        told = int(clip["hidden_size"] if self._patches else clip["projection_dim"])
        if told != self._reads:
            raise UsageError(
                f"{self.weights} reads embeddings of {self._reads} numbers, and the encoder in {self.encoder} gives "
                f"{told}; set prior.model.family.encoder to the folder of its own"
            )

    @torch.no_grad()
    def look(self, encoder: Any, picture: Picture, space: ImageSpace, facts: Facts) -> Embedding:
        """``image_embeds``: (D) of CLIP's summary, or (N, D) of its patches before the last layer."""
        pixels = torch.zeros(1, 3, *(encoder.config.image_size,) * 2)
        if picture.image is not None:
            pixels = clip_pixels(picture.image, encoder.config.image_size)
        seen = encoder(pixels.to(encoder.device, encoder.dtype), output_hidden_states=self._patches)
        if self._patches:
            return {"image_embeds": seen.hidden_states[-2][0]}
        return {"image_embeds": seen.image_embeds[0] * (picture.image is not None)}

    def added(self, told: Conditioning, x_t: Tensor) -> dict[str, Any]:
        """``image_embeds`` (B, M, ...) of ``M`` pictures."""
        return {"image_embeds": [told["image_embeds"].to(x_t.dtype)]}


class StableDiffusionIPAdapter(_Shown, StableDiffusion):
    """Stable Diffusion with an IP-Adapter. Source: Ye et al. 2023, arXiv 2308.06721.

    Arguments: those of :class:`_Shown`.
    """

    option = "sd15_image"
    pipelines = ("StableDiffusionPipeline",)


class SDXLIPAdapter(_Shown, SDXL):
    """SDXL with an IP-Adapter. Source: Ye et al. 2023, arXiv 2308.06721.

    Arguments: those of :class:`_Shown`.
    """

    option = "sdxl_image"
    pipelines = ("StableDiffusionXLPipeline",)
