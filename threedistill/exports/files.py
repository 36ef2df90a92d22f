"""What several formats share: PNG, and the facts that they carry."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["facts_in", "generator", "jsonable", "png_bytes", "roughness_and_metal", "to_bytes"]


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


def generator() -> str:
    """What wrote a file, as the formats that can say so do."""
    from threedistill import __version__

    return f"threedistill {__version__}"


def jsonable(value: object) -> object:
    """Facts as JSON can hold them: numbers that are not finite become null, unknown types their text."""
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return [jsonable(v) for v in items]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def facts_in(text: str | None) -> dict[str, object]:
    """The facts that a file carries as JSON; none where the text is something else."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
