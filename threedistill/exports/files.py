"""The PNG that several formats share, and the atomic writes (re-exported) they all use."""

from __future__ import annotations

import io

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.atomic import replacing, write_bytes

__all__ = ["png_bytes", "replacing", "roughness_and_metal", "to_bytes", "write_bytes"]


def to_bytes(image: Float[Tensor, "*S C"]) -> Tensor:
    """[0, 1] to uint8, rounded to the nearest."""
    rows = max((1 << 22) // max(image[:1].numel(), 1), 1)  # bounded memory at any size
    parts = [(part.clamp(0, 1) * 255).round().to(torch.uint8).cpu() for part in image.detach().split(rows)]
    return torch.cat(parts) if len(parts) != 1 else parts[0]


def png_bytes(image: Float[Tensor, "H W C"]) -> bytes:
    """A PNG of an sRGB image (3 channels, or 4 with alpha), without dates or other metadata."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(to_bytes(image).numpy()).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def roughness_and_metal(metallic_roughness: Float[Tensor, "H W 2"]) -> Float[Tensor, "H W 3"]:
    """glTF's packing, which USD's channels can read too: nothing in red, roughness in green, metalness in blue."""
    metallic, roughness = metallic_roughness.unbind(-1)
    return torch.stack([torch.ones_like(metallic), roughness, metallic], -1)
