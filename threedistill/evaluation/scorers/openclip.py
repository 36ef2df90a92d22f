"""Folders of open_clip as the CLIP network of transformers: the same layers under other names.

open_clip joins the projections of queries, keys and values in one matrix and multiplies by its output projections
from the right; everything else is renamed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from threedistill.errors import ThreedistillError, UsageError
from threedistill.evaluation.scorers.folders import ModelFolder

__all__ = ["clip_config", "clip_network", "renamed"]

#: Layer of open_clip's blocks -> transformers'.
_LAYERS = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}  # fmt: skip
#: Everything else by name; what is multiplied from the right is turned.
_NAMES = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "visual.proj": "visual_projection.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
}  # fmt: skip
_TURNED = ("visual.proj", "text_projection")
#: What open_clip's vision and text towers may say and this network has, too.
_VISION = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def clip_config(folder: ModelFolder) -> Any:
    """transformers' configuration of an open_clip folder.

    Raises:
        UsageError: a tower that is no plain CLIP transformer.
    """
    from transformers import CLIPConfig

    said = folder.facts["model_cfg"]
    vision, text = dict(said.get("vision_cfg") or {}), dict(said.get("text_cfg") or {})
    strange = sorted((vision.keys() - _VISION) | (text.keys() - _TEXT)) or [
        name for name in ("layers", "image_size", "patch_size") if not isinstance(vision.get(name), int)
    ]
    if strange:
        raise UsageError(f"{folder.path}: {', '.join(strange)}: only plain ViT models of open_clip are read")
    act = "quick_gelu" if said.get("quick_gelu") else "gelu"
    width, words = int(vision.get("width", 768)), int(text.get("width", 512))
    return CLIPConfig(
        projection_dim=int(said["embed_dim"]),
        vision_config={
            "hidden_size": width, "intermediate_size": int(width * vision.get("mlp_ratio", 4)),
            "num_hidden_layers": vision["layers"], "num_attention_heads": width // int(vision.get("head_width", 64)),
            "image_size": vision["image_size"], "patch_size": vision["patch_size"], "hidden_act": act,
        },
        text_config={
            "hidden_size": words, "intermediate_size": int(words * text.get("mlp_ratio", 4)),
            "num_hidden_layers": int(text.get("layers", 12)), "num_attention_heads": int(text.get("heads", 8)),
            "max_position_embeddings": int(text.get("context_length", 77)),
            "vocab_size": int(text.get("vocab_size", 49408)), "hidden_act": act,
            # The end of the text is the largest number of all, and where the network reads its answer.
            "eos_token_id": int(text.get("vocab_size", 49408)) - 1,
        },
    )  # fmt: skip


def clip_network(folder: ModelFolder) -> Any:
    """The network of an open_clip folder, for evaluation.

    Raises:
        ThreedistillError: no safetensors, or weights that do not fit what the folder says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import CLIPModel

    files = sorted(folder.path.glob("*.safetensors"))
    if not files:
        raise ThreedistillError(f"{folder.path} cannot be loaded: no .safetensors in it")
    network = CLIPModel(clip_config(folder))
    try:
        network.load_state_dict(renamed(load_file(files[0])))
    except (RuntimeError, SafetensorError, KeyError) as error:
        raise ThreedistillError(
            f"{files[0]} cannot be loaded: {' '.join(str(error).split())[:300]}"
        ) from None
    return network.float().eval().requires_grad_(False)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dictionary of open_clip under transformers' names; KeyError for a tensor that it has no name for."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name in ("attn_mask", "logit_bias"):
            continue
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        inner = name.removeprefix("visual.")
        if not inner.startswith("transformer.resblocks."):
            found[_NAMES[name]] = value.T.contiguous() if name in _TURNED else value
            continue
        number, layer = inner.removeprefix("transformer.resblocks.").split(".", 1)
        block = f"{tower}.encoder.layers.{number}"
        if layer in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = layer.rpartition("_")[2]
            for part, rows in zip("qkv", value.chunk(3)):
                found[f"{block}.self_attn.{part}_proj.{kind}"] = rows.clone()
            continue
        name, _, kind = layer.rpartition(".")
        found[f"{block}.{_LAYERS[name]}.{kind}"] = value
    return {name: torch.as_tensor(value) for name, value in found.items()}
