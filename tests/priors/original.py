"""Stable Diffusion 1.x and XL in the names of their first releases, as single files of trainers have them."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
OUTER = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_norm_out": "out.0",
    "conv_in": "input_blocks.0.0", "conv_out": "out.2", "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}  # fmt: skip
VAE = {
    "conv_norm_out": "norm_out", "conv_shortcut": "nin_shortcut", "downsamplers.0.conv": "downsample.conv",
    "upsamplers.0.conv": "upsample.conv", "mid_block.attentions.0": "mid.attn_1", "group_norm": "norm", "to_q": "q",
    "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip


def _renamed(name: str, table: dict[str, str]) -> str:
    for ours, theirs in table.items():
        name = re.sub(rf"(^|\.){re.escape(ours)}(?=\.)", rf"\g<1>{theirs}", name)
    return name


def unet_name(name: str, layers: int, attends: set[str]) -> str:
    """A name of diffusers' UNet with ``layers`` per block, some of whose blocks attend."""
    found = re.match(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name
    )
    if found:
        side, block, part, index, rest = found.groups()
        sampler = part.endswith("samplers")
        at = int(block) * (layers + 1) + (layers if sampler else int(index)) + (side == "down")
        slot = {
            "resnets": 0,
            "attentions": 1,
            "downsamplers": 0,
            "upsamplers": 1 + (f"up_blocks.{block}" in attends),
        }
        if part == "downsamplers":
            rest = rest.replace("conv.", "op.")
        elif part == "resnets":
            rest = _renamed(rest, RESNET)
        return f"{'input' if side == 'down' else 'output'}_blocks.{at}.{slot[part]}.{rest}"
    if found := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        part, index, rest = found.groups()
        at = 1 if part == "attentions" else 2 * int(index)
        return f"middle_block.{at}.{_renamed(rest, RESNET) if part == 'resnets' else rest}"
    return _renamed(name, OUTER)


def vae_name(name: str, blocks: int) -> str:
    """A name of diffusers' VAE with this many blocks."""
    name = re.sub(r"down_blocks\.(\d+)\.resnets\.", r"down.\1.block.", name)
    name = re.sub(r"down_blocks\.(\d+)\.", r"down.\1.", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets\.", lambda m: f"up.{blocks - 1 - int(m[1])}.block.", name)
    name = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{blocks - 1 - int(m[1])}.", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    return _renamed(name, VAE)


OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding", "final_layer_norm": "ln_final", "layer_norm1": "ln_1",
    "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj", "self_attn.out_proj": "attn.out_proj",
    "encoder.layers": "transformer.resblocks",
}  # fmt: skip


def open_clip(text: dict[str, Tensor]) -> dict[str, Tensor]:
    """A text encoder with a projection by OpenCLIP's names, where queries, keys and values are one matrix."""
    found: dict[str, Tensor] = {}
    for name, tensor in text.items():
        name = name.removeprefix("text_model.")
        if name == "text_projection.weight":
            found["text_projection"] = tensor.T.contiguous()
        elif name == "embeddings.position_embedding.weight":
            found["positional_embedding"] = tensor
        elif joined := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [
                text[f"text_model.{name.replace('q_proj', part)}"] for part in ("q_proj", "k_proj", "v_proj")
            ]
            found[f"transformer.resblocks.{joined[1]}.attn.in_proj_{joined[2]}"] = torch.cat(parts)
        elif ".k_proj." not in name and ".v_proj." not in name and "position_ids" not in name:
            found[_renamed(name, OPEN_CLIP)] = tensor
    return found


def single_file(pipeline: Any) -> dict[str, Tensor]:
    """All weights of a pipeline by their first names."""
    unet, vae, text = (getattr(pipeline, part).state_dict() for part in ("unet", "vae", "text_encoder"))
    second = getattr(pipeline, "text_encoder_2", None)
    clip = "cond_stage_model.transformer" if second is None else "conditioner.embedders.0.transformer"
    layers, blocks = pipeline.unet.config.layers_per_block, len(pipeline.vae.config.block_out_channels)
    attends = {".".join(name.split(".")[:2]) for name in unet if ".attentions." in name}
    linear = {"q", "k", "v", "proj_out"}  # of the VAE's attention: convolutions of one pixel there
    found = {f"model.diffusion_model.{unet_name(n, layers, attends)}": tensor for n, tensor in unet.items()}
    for name, tensor in vae.items():
        first = vae_name(name, blocks)
        is_linear = first.split(".")[-2] in linear and first.endswith("weight")
        found[f"first_stage_model.{first}"] = tensor[..., None, None] if is_linear else tensor
    names = {name: name if name.startswith("text_model.") else f"text_model.{name}" for name in text}
    found |= {f"{clip}.{names[name]}": tensor for name, tensor in text.items()}
    if second is not None:
        found |= {f"conditioner.embedders.1.model.{n}": t for n, t in open_clip(second.state_dict()).items()}
    return {name: tensor.clone().contiguous() for name, tensor in found.items()}
