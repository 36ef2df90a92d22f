"""What a metric is, and what it is shown: a finished asset, its prompt, and pictures of it from one fixed rig.

The rig: 24 cameras at equal azimuths from the front, 15 degrees up, 2.9 m away, field of view 44 degrees; the object
centred, touching a sphere of 0.85 m, unlit (an asset carries its light in its colours), on white, as many pixels a side
as the network that looks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.contracts import Contract
from threedistill.evaluation.appearance import pictures
from threedistill.evaluation.janus import AZIMUTHS, ELEVATION
from threedistill.exports.read import read_mesh
from threedistill.scoring import Scorer
from threedistill.types import Mesh

__all__ = ["RIG", "Metric", "ScorerMetric", "Sight"]

#: The rig in words and numbers, as it stands in every eval.json.
RIG = {
    "views": AZIMUTHS, "elevation": ELEVATION, "distance": 2.9, "fov": 44.0, "radius": 0.85, "light": "none",
    "background": "white",
}  # fmt: skip


@dataclass
class Sight:
    """A finished asset as metrics see it; what has been drawn once is kept.

    Attributes:
        prompt: what was asked for.
        asset: its file.
    """

    prompt: str
    asset: Path
    _drawn: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @cached_property
    def mesh(self) -> Mesh:
        """The asset, read back."""
        return read_mesh(self.asset)

    def pictures(self, size: int) -> Float[Tensor, "V H W 3"]:
        """The rig's pictures with ``size`` pixels a side, sRGB in [0, 1]."""
        if size not in self._drawn:
            with torch.no_grad():
                self._drawn[size] = pictures(self.mesh, lit=False, views=AZIMUTHS, size=size).rgb.clamp(0, 1)
        return self._drawn[size]


class Metric(Contract, interface=True):
    """A figure of finished assets (group ``metric``).

    Attributes:
        higher: whether a larger ``value`` is better.
    """

    higher: bool = True

    @property
    @abstractmethod
    def version(self) -> str:
        """By which model, exactly; "" where there is none."""

    def measure(self, sight: Sight) -> dict[str, float]:
        """The figures of one asset, ``value`` the one it is ranked by; empty where only many have some."""
        return {}

    def together(self, sights: Sequence[Sight]) -> dict[str, float]:
        """The figures of many assets as one, ``value`` first; empty where each has its own."""
        return {}

    def check_text(self, text: str) -> None:
        """Refuse a prompt that it has no words for; raises UsageError. Loads nothing heavy."""
        return


class ScorerMetric(Metric):
    """A metric by what a scorer makes of pictures, and of that scorer's version."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    @property
    def version(self) -> str:
        return self.scorer.version
