"""Tiny IP-Adapters with random weights, by the names of published ones, and the image encoder that they read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SEEN, WIDTH = 24, 12  # CLIP's hidden size and projection

LAYER: dict[str, tuple[int, ...]] = {  # of a resampler; there are four
    **{f"0.norm{n}.{part}": (8,) for n in (1, 2) for part in ("weight", "bias")},
    "0.to_q.weight": (64, 8), "0.to_kv.weight": (128, 8), "0.to_out.weight": (8, 64), "1.0.weight": (8,),
    "1.0.bias": (8,), "1.1.weight": (32, 8), "1.3.weight": (8, 32),
}  # fmt: skip


def adapter(unet: Any, kind: str) -> dict[str, Tensor]:
    """Random weights by the names of published IP-Adapters: ``plain``, ``plus`` or ``full``."""
    told = unet.config.cross_attention_dim
    shapes: dict[str, tuple[int, ...]] = {}
    crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for i, name in enumerate(crossing):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for part in ("to_k_ip", "to_v_ip"):
            shapes[f"ip_adapter.{2 * i + 1}.{part}.weight"] = (layer.inner_dim, told)
    projections: dict[str, dict[str, tuple[int, ...]]] = {
        "plain": {
            "proj.weight": (4 * told, WIDTH), "proj.bias": (4 * told,), "norm.weight": (told,), "norm.bias": (told,),
        },
        "full": {
            "proj.0.weight": (SEEN, SEEN), "proj.0.bias": (SEEN,), "proj.2.weight": (told, SEEN),
            "proj.2.bias": (told,), "proj.3.weight": (told,), "proj.3.bias": (told,),
        },
        "plus": {
            "latents": (1, 3, 8), "proj_in.weight": (8, SEEN), "proj_in.bias": (8,), "proj_out.weight": (told, 8),
            "proj_out.bias": (told,), "norm_out.weight": (told,), "norm_out.bias": (told,),
            **{f"layers.{k}.{rest}": shape for k in range(4) for rest, shape in LAYER.items()},
        },
    }  # fmt: skip
    shapes |= {f"image_proj.{name}": shape for name, shape in projections[kind].items()}
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def vision() -> Any:
    """The configuration of the image encoder."""
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=SEEN, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=16,
        patch_size=8, projection_dim=WIDTH,
    )  # fmt: skip


def add_adapters(unet: Any, folder: Path) -> None:
    """Saves an adapter of every kind for this UNet, and their encoder, under ``folder/models``."""
    from transformers import CLIPVisionModelWithProjection

    CLIPVisionModelWithProjection(vision()).save_pretrained(folder / "models" / "image_encoder")
    for kind in ("plain", "plus", "full"):
        save_file(adapter(unet, kind), folder / "models" / f"{kind}.safetensors")
