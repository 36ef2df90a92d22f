"""The multi-view UNets of MVDream and ImageDream: Stable Diffusion's, whose self-attention joins the views of a group.

Two things differ from the UNet of diffusers that it is built on: the tokens of all views of a group attend to each
other, and the camera of each view, a 4 x 4 matrix, is embedded by two layers and added to the time's embedding.
ImageDream's attends to a picture too, as an IP-Adapter over CLIP's patches does, and has one view more in each group.
Source: Shi et al. 2023 (MVDream), arXiv 2308.16512, section 3.1; Wang and Shi 2023 (ImageDream), arXiv 2312.02201.

Published checkpoints name their weights as latent diffusion did (``input_blocks.1.0.in_layers.0``);
:func:`own_name` maps the names, :func:`from_published` reads widths and depths off the shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

from threedistill.errors import UsageError

__all__ = [
    "CAMERA", "MultiViewUNet", "from_published", "layout", "outline", "own_name", "read_published", "without_prefix",
]  # fmt: skip

#: Numbers of a camera: a 4 x 4 matrix, row by row.
CAMERA = 16
#: Residual blocks per level of every published checkpoint.
BLOCKS = 2
#: What the names of what reads a picture begin with, and those of its layers in a cross-attention.
PICTURE, TOLD = "image_embed.", ("to_k_ip", "to_v_ip")
#: What checkpoints of a whole latent diffusion model put in front of the network's names.
PREFIX = "model.diffusion_model."

_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj", "out_layers.0": "norm2",
    "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_ENDS = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "camera_embed.0": "class_embedding.linear_1", "camera_embed.2": "class_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_BLOCK = re.compile(r"(input_blocks|output_blocks|middle_block)\.(?:(\d+)\.)?(\d+)\.(.+)")


def without_prefix(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The network's weights among those of a whole model."""
    there = {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
    return there or dict(weights)


def _inner(rest: str) -> str:
    """The name inside a block, of a residual block or a transformer."""
    found = next((name for name in _RESNET if rest.startswith(f"{name}.")), None)
    return rest if found is None else _RESNET[found] + rest[len(found) :]


def own_name(published: str) -> str | None:
    """The name here of a weight by its published one; None = it is none of this network's."""
    stem, _, kind = published.rpartition(".")
    if stem in _ENDS:
        return f"{_ENDS[stem]}.{kind}"
    found = _BLOCK.fullmatch(published)
    if found is None:
        return None
    part, index, position, rest = found.groups()
    place, transformer = (
        int(position),
        not any(rest.startswith(f"{name}.") for name in (*_RESNET, "op", "conv")),
    )
    if part == "middle_block":
        return (
            f"mid_block.attentions.0.{rest}"
            if transformer
            else f"mid_block.resnets.{place // 2}.{_inner(rest)}"
        )
    if index is None:
        return None
    side = "down_blocks" if part == "input_blocks" else "up_blocks"
    level, block = divmod(int(index) - (part == "input_blocks"), BLOCKS + 1)
    if rest.startswith("op."):
        return f"{side}.{level}.downsamplers.0.conv.{kind}"
    if rest.startswith("conv."):
        return f"{side}.{level}.upsamplers.0.conv.{kind}"
    return f"{side}.{level}.{'attentions' if transformer else 'resnets'}.{block}.{_inner(rest)}"


class _Joined(AttnProcessor2_0):
    """Self-attention over the tokens of all views of a group."""

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
        """Rows of one group, one after the other, become one row of all their tokens, and rows again."""
        rows, tokens, width = hidden_states.shape
        if rows % self.group:
            raise ValueError(f"{rows} views are no multiple of groups of {self.group}")
        joined = hidden_states.reshape(rows // self.group, self.group * tokens, width)
        return super().__call__(attn, joined, *args, **options).reshape(rows, tokens, width)


class MultiViewUNet(UNet2DConditionModel):
    """A UNet that is told cameras as ``class_labels`` (B, 17): the matrix, and 1 where there is one, else 0."""

    def get_class_embed(self, sample: Tensor, class_labels: Tensor | None) -> Tensor | None:
        """The embedding of the cameras; nothing is added where there is none."""
        if class_labels is None:
            return None
        embedded = super().get_class_embed(sample, class_labels[:, :CAMERA])
        return None if embedded is None else embedded * class_labels[:, CAMERA:]

    def join(self, group: int) -> None:
        """From here on groups of so many views attend to each other."""
        self.set_attn_processor({
            name: _Joined(group) if name.endswith("attn1.processor") else processor
            for name, processor in self.attn_processors.items()
        })  # fmt: skip

    def show(self, weights: Mapping[str, Tensor]) -> None:
        """From here on it is shown a picture, by weights with the names of an ImageDream's checkpoint.

        Raises:
            UsageError: weights that are missing, or of another shape.
        """
        seen = {name.removeprefix(PICTURE): v for name, v in weights.items() if name.startswith(PICTURE)}
        own = {own_name(name): v for name, v in weights.items() if any(f".{part}." in name for part in TOLD)}
        self._read_pictures(seen, own)

    def _read_pictures(self, seen: Mapping[str, Tensor], own: Mapping[Any, Tensor]) -> None:
        """What makes tokens of pictures, by its names, and the layers that look at these, by names here."""
        crossing = [name for name in self.attn_processors if name.endswith("attn2.processor")]
        try:
            layers = {
                f"{2 * i + 1}.{part}.weight": own[f"{name.removesuffix('.processor')}.{part}.weight"].float()
                for i, name in enumerate(crossing) for part in TOLD
            }  # fmt: skip
            adapter = {
                "image_proj": {name: value.float() for name, value in seen.items()},
                "ip_adapter": layers,
            }
            with torch.device(next(self.parameters()).device):
                self._load_ip_adapter_weights([adapter], low_cpu_mem_usage=False)
        except (KeyError, RuntimeError) as error:
            said = " ".join(str(error).split())[:120]
            raise UsageError(f"what it reads pictures with is not ImageDream's: {said}") from None


def layout(
    shapes: Mapping[str, tuple[int, ...]], head_width: int | None, heads: int = 8, cameras: bool = True
) -> dict[str, Any]:
    """The configuration of a network whose published weights have these shapes.

    Arguments:
        shapes: by published name.
        head_width: channels per attention head (64 of Stable Diffusion 2); None = ``heads`` of them at every level.
        heads: of Stable Diffusion 1.
        cameras: whether it embeds cameras, as a multi-view UNet does.

    Raises:
        UsageError: shapes that are not such a UNet's.
    """
    try:
        blocks = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("input_blocks."))
        levels = blocks // (BLOCKS + 1)
        first = [f"input_blocks.{1 + (BLOCKS + 1) * level}" for level in range(levels)]
        widths = tuple(shapes[f"{name}.0.out_layers.3.weight"][0] for name in first)
        attends = [f"{name}.1.proj_in.weight" in shapes for name in first]
        middle = "middle_block.1.transformer_blocks.0.attn2.to_k.weight"
        context, linear = shapes[middle][1], len(shapes["middle_block.1.proj_in.weight"]) == 2
        size = {
            "in_channels": shapes["input_blocks.0.0.weight"][1],
            "out_channels": shapes["out.2.weight"][0],
        }
        if cameras and shapes["camera_embed.0.weight"][1] != CAMERA:
            raise KeyError("camera_embed.0.weight")
    except (KeyError, ValueError) as error:
        kind = "a multi-view UNet" if cameras else "Stable Diffusion's UNet"
        raise UsageError(f"its weights are not those of {kind} (it has no {error})") from None
    told = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": CAMERA}
    return {
        **size, "block_out_channels": widths, "layers_per_block": BLOCKS, "cross_attention_dim": context,
        "attention_head_dim": heads if head_width is None else tuple(width // head_width for width in widths),
        "use_linear_projection": linear, **(told if cameras else {}),
        "down_block_types": tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attends),
        "up_block_types": tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)),
    }  # fmt: skip


def read_published(
    network: UNet2DConditionModel, weights: Mapping[str, Tensor], kind: str = "a multi-view UNet"
) -> None:
    """Give a network that is empty the weights of a published checkpoint, in float32.

    Arguments:
        network: on the meta device.
        weights: by published name; those that are no UNet's are left out.
        kind: what it is, for messages.

    Raises:
        UsageError: weights that are missing, or of another shape.
    """
    own = {name: value.float() for key, value in weights.items() if (name := own_name(key)) is not None}
    wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in own.items()}
    if given != wanted:
        odd = sorted(name for name in wanted.keys() | given.keys() if wanted.get(name) != given.get(name))
        raise UsageError(
            f"its weights are not those of {kind}: {len(odd)} differ, such as {odd[0]} "
            f"({given.get(odd[0], 'missing')} in place of {wanted.get(odd[0], 'none')})"
        )
    network.load_state_dict(own, assign=True)


def from_published(
    weights: Mapping[str, Tensor], group: int, head_width: int | None, pictures: bool = False
) -> MultiViewUNet:
    """The network of a published checkpoint, in float32.

    Arguments:
        weights: by published name, with or without the prefix of a whole model.
        group: views that attend to each other.
        head_width: as for :func:`layout`.
        pictures: whether it is one that is shown pictures, as ImageDream's is.

    Raises:
        UsageError: weights that are missing, or of another shape.
    """
    weights = without_prefix(weights)
    if pictures != any(name.startswith(PICTURE) for name in weights):
        ways = ("is shown pictures, use --prior imagedream", "is shown no pictures, use --prior mvdream")
        raise UsageError(f"the multi-view UNet of this checkpoint {ways[pictures]}")
    plain = {name: value for name, value in weights.items() if not any(f".{part}." in name for part in TOLD)}
    config = layout({name: tuple(value.shape) for name, value in plain.items()}, head_width)
    with torch.device("meta"):
        network = MultiViewUNet(**config)
    read_published(network, plain)
    if pictures:
        network.show(weights)
    network.join(group)
    return network


def outline(unet: Mapping[str, Any], group: int, pictures: bool) -> MultiViewUNet:
    """A multi-view UNet in its shape alone, on ``meta``, as it is published beside a UNet of Stable Diffusion.

    Arguments:
        unet: the configuration of that one.
        group, pictures: as for :func:`from_published`.
    """
    told = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": CAMERA}
    with torch.device("meta"):
        network: Any = MultiViewUNet.from_config({**unet, **told})
        if pictures:
            context = int(network.config.cross_attention_dim)
            layers = {
                f"{name.removesuffix('.processor')}.{part}.weight": torch.empty(
                    network.get_submodule(name.removesuffix(".processor")).inner_dim, context
                )
                for name in network.attn_processors if name.endswith("attn2.processor") for part in TOLD
            }  # fmt: skip
            network._read_pictures({k: torch.empty(v) for k, v in _resampler(context).items()}, layers)
    network.join(group)
    return network.requires_grad_(False).eval()


def _resampler(
    width: int, patch: int = 1280, queries: int = 16, depth: int = 4
) -> dict[str, tuple[int, ...]]:
    """The shapes of what makes tokens of CLIP's patches in ImageDream: attention of 12 heads of 64, by its names."""
    inner = 12 * 64
    layer: dict[str, tuple[int, ...]] = {
        **{f"0.norm{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")},
        "0.to_q.weight": (inner, width), "0.to_kv.weight": (2 * inner, width), "0.to_out.weight": (width, inner),
        "1.0.weight": (width,), "1.0.bias": (width,),
        "1.1.weight": (4 * width, width), "1.3.weight": (width, 4 * width),
    }  # fmt: skip
    ends: dict[str, tuple[int, ...]] = {
        "latents": (1, queries, width), "proj_in.weight": (width, patch), "proj_in.bias": (width,),
        "proj_out.weight": (width, width), "proj_out.bias": (width,), "norm_out.weight": (width,),
        "norm_out.bias": (width,),
    }  # fmt: skip
    return ends | {f"layers.{k}.{name}": shape for k in range(depth) for name, shape in layer.items()}
