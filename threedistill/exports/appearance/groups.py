"""Groups of faces with one material each, and what they mean within a whole of several: its light, its coverage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.exports.appearance.materials import Alpha, Material, Texels

__all__ = ["Coverage", "Group", "coverage", "encoded", "shown", "stacked"]


@dataclass
class Group:
    """All parts of one material, one after the other; all groups have ``normals`` or none."""

    vertices: Tensor
    faces: Tensor
    normals: Tensor | None
    uvs: dict[int, Tensor]
    colors: Tensor | None
    material: Material


def stacked(groups: Sequence[Group]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Vertices, faces and normals of all groups, one after the other."""
    start, faces = 0, []
    for group in groups:
        faces.append(group.faces + start)
        start += len(group.vertices)
    normals = [group.normals for group in groups if group.normals is not None]
    return (
        torch.cat([group.vertices for group in groups]), torch.cat(faces),
        torch.cat(normals) if len(normals) == len(groups) else None,
    )  # fmt: skip


def shown(look: Texels, material: Material, unlit: bool) -> Texels:
    """The look within a whole that is lit: what is unlit gives off its colour, and reflects nothing."""
    if unlit or not material.unlit:
        return look
    rough = torch.tensor([0.0, 1.0]).expand(len(look.color), 2)
    return replace(look, color=torch.zeros_like(look.color), glow=look.color, metal=rough)


@dataclass(frozen=True)
class Coverage:
    """What coverage means in a whole of several materials: it blends where any part of it does.

    Attributes:
        mode: of the whole.
        cutoff: of a mask.
        kept: whether masks keep their values; else they become 0 or 1, for a whole that blends or has two cutoffs.
    """

    mode: Alpha
    cutoff: float | None
    kept: bool

    def of(self, material: Material, values: Float[Tensor, "P 1"]) -> Float[Tensor, "P 1"]:
        """A material's coverage within the whole."""
        if material.alpha == "opaque":
            return torch.ones_like(values)
        return values if material.alpha == "blend" or self.kept else (values >= material.cutoff).float()


def coverage(groups: Sequence[Group]) -> Coverage:
    """What coverage means in all of these together."""
    modes = {group.material.alpha for group in groups}
    mode: Alpha = "blend" if "blend" in modes else "mask" if "mask" in modes else "opaque"
    cutoffs = {group.material.cutoff for group in groups if group.material.alpha == "mask"}
    kept = mode == "mask" and len(cutoffs) == 1 and 0 < min(cutoffs) <= 1
    return Coverage(mode, None if mode != "mask" else cutoffs.pop() if kept else 0.5, kept)


def encoded(normal: Float[Tensor, "P 3"]) -> Float[Tensor, "P 3"]:
    """Tangent-space normals as pictures hold them."""
    unit = torch.nn.functional.normalize(normal, dim=-1)
    return (unit + 1) / 2
