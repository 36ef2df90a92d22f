"""How many of the parts that it should show an asset, or a sample of a prior, does show."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedistill.cameras import orbit
from threedistill.evaluation.alignment import centred
from threedistill.evaluation.janus import ELEVATION
from threedistill.toybox.grammar import Scene
from threedistill.toybox.visible import SHOWN, visible
from threedistill.types import Cameras

__all__ = ["SEEN", "PartsShown", "parts_shown", "ring_parts", "true_parts", "turned_to"]

#: From this probability on the judge says that it sees a part.
SEEN = 0.5


@dataclass(frozen=True)
class PartsShown:
    """What the judge sees of what the true object shows at the same cameras.

    Attributes:
        share: of the (picture, part) pairs that the truth shows, those that the judge sees; None where it shows none.
        invented: of the pairs of which the truth shows nothing, those that it sees.
        by_part: the first figure by part.
    """

    share: float | None
    invented: float
    by_part: dict[str, float] = field(default_factory=dict[str, float])

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)


def true_parts(scene: Scene, cameras: Cameras) -> Int[Tensor, "B S"]:
    """What shows of the canonical object of a scene, centred and sized as assets are: 1, 0, -1 (too little to tell)."""
    from threedistill.toybox.world import build_parts

    built = build_parts(scene)
    return visible(replace(built, mesh=centred(built.mesh)), cameras)


@lru_cache(maxsize=4)
def ring_parts(scene: Scene, views: int, size: int = 64) -> Int[Tensor, "V S"]:
    """:func:`true_parts` at the views that assets are judged from, once for the assets of a scene."""
    return true_parts(scene, orbit(views, elevation=ELEVATION, size=size))


def parts_shown(
    seen: Float[Tensor, "B P"], truth: Int[Tensor, "B S"], names: tuple[str, ...]
) -> PartsShown | None:
    """Compare the judge's reading with the truth; None for a judge that was not taught parts.

    Arguments:
        seen: probabilities, one column per name.
        truth: of :func:`true_parts`, one column per key of :data:`SHOWN`.
        names: the judge's parts.
    """
    if not names:
        return None
    truth = truth[:, [list(SHOWN).index(name) for name in names]]
    says, there = seen > SEEN, truth == 1
    absent = truth == 0
    by_part = {
        name: round(float(says[there[:, k], k].float().mean()), 4)
        for k, name in enumerate(names)
        if there[:, k].any()
    }
    return PartsShown(
        float(says[there].float().mean()) if there.any() else None,
        float(says[absent].float().mean()) if absent.any() else 0.0,
        by_part,
    )


def turned_to(readings: Tensor, yaw: float) -> Tensor:
    """Rows of an even ring of views, the first at the azimuth (degrees) where the asset's front faces."""
    step = 360 / len(readings)
    return torch.roll(readings, -round(yaw / step), 0)
