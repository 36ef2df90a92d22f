"""The data of a run is its iterations: an index goes in, and everything random about the step derives from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from threedistill.rng import Streams


class Iterations(Dataset):
    """The indices ``start .. total - 1`` of a stage."""

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total

    def __len__(self) -> int:
        return max(self.total - self.start, 0)

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self.start + position

    def loader(self) -> DataLoader:
        """One index at a time, in order, in this process."""
        return DataLoader(self, batch_size=None, shuffle=False, num_workers=0)


@dataclass(frozen=True)
class BackgroundLaw:
    """The colour behind the object: white with some probability, otherwise a random plain one.

    One colour for each group of views and step (a multi-view teacher sees one room), drawn again while it lies too
    near the object's mean colour, where the silhouette would give no signal.

    Arguments:
        white: probability of white, in [0, 1].
        avoid: smallest allowed distance to the object's mean colour, in sRGB units (0 disables).
    """

    white: float = 0.5
    avoid: float = 0.25

    def __post_init__(self) -> None:
        if not 0 <= self.white <= 1:
            raise ValueError(f"background.white={self.white} must lie in [0, 1]")
        if not 0 <= self.avoid <= 0.8:
            raise ValueError(f"background.avoid={self.avoid} must lie in [0, 0.8]; a larger ball leaves no colour")

    def sample(
        self, rng: Streams, views: int, group: int, mean_color: Float[Tensor, "3"]
    ) -> Float[Tensor, "B 3"]:
        """Colours for ``views`` views in groups of ``group`` (``group = 0``: one colour for the whole step)."""
        per_group = group or views
        first = rng.view_offset // per_group
        count = -(-views // per_group)
        colors = torch.ones(count, 3)
        for k in range(count):
            draws = rng.indexed_uniform("background", first + k, 1 + 8 * 3)
            if draws[0] < self.white:
                continue
            candidates = draws[1:].view(8, 3)
            far = (candidates - mean_color.cpu()).norm(dim=1)
            ok = (far >= self.avoid).nonzero()
            colors[k] = candidates[int(ok[0]) if len(ok) else int(far.argmax())]
        return colors.repeat_interleave(per_group, 0)[:views]
