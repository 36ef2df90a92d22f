"""Which parts of a Toybox object a picture shows, counted on the object itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.ops.rasterize import rasterize
from threedistill.toybox.lexicon import PARTS
from threedistill.toybox.world import Built
from threedistill.types import Cameras

__all__ = ["LEAST", "SHOWN", "part_shares", "visible"]

#: What the judge looks for -> the parts of the world that show it.
SHOWN: dict[str, tuple[str, ...]] = {
    "eyes": ("eyes", "pupils"), "beak": ("beak",), "windows": ("windows",), "door": ("door",), "buttons": ("buttons",),
    "wheels": ("wheels", "hubs"), "sprinkles": ("sprinkles",), "hole": ("hole",), "handle": ("handle",),
    "stripes": ("stripes",), "spots": ("spots",), "hat": ("hat",), "scarf": ("scarf",), "antenna": ("antenna",),
    "smile": ("smile",),
}  # fmt: skip
#: A part shows from this share of the picture on: 6 of 64 x 64 pixels. With less, nobody can be asked to see it.
LEAST = 6 / 64**2


def part_shares(built: Built, cameras: Cameras) -> Float[Tensor, "B P"]:
    """The share of each picture's pixels that each of :data:`PARTS` covers, at the cameras' own size."""
    vertices = built.mesh.vertices
    clip = torch.einsum(
        "bij,vj->bvi", cameras.world_to_clip().to(vertices), F.pad(vertices, (0, 1), value=1.0)
    )
    seen = rasterize(clip.contiguous(), built.mesh.faces, cameras.height, cameras.width).triangle.flatten(1)
    part = torch.cat([built.part.long(), torch.tensor([len(PARTS)])])[
        seen.long()
    ]  # -1 is the background: the last
    counts = torch.stack([torch.bincount(row, minlength=len(PARTS) + 1) for row in part])
    return counts[:, : len(PARTS)].float() / seen.shape[1]


def visible(built: Built, cameras: Cameras) -> Int[Tensor, "B S"]:
    """For each picture and each of :data:`SHOWN`: 1 = it shows, 0 = nothing of it does, -1 = too little to tell."""
    shares = part_shares(built, cameras)
    columns = [[PARTS.index(part) for part in parts] for parts in SHOWN.values()]
    found = torch.stack([shares[:, column].sum(1) for column in columns], 1)
    return torch.where(found >= LEAST, 1, torch.where(found > 0, -1, 0))
