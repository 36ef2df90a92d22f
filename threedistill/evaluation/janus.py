"""How many faces an asset has: the Janus estimate.

The asset is looked at from all round; if the judge sees a front where the object's back or far side should be, it has
more than one face.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.cameras import view_name
from threedistill.evaluation.statistics import wilson

__all__ = ["AZIMUTHS", "ELEVATION", "JanusEstimate", "arcs", "fit_yaw", "janus_estimate", "plateau_middle"]

AZIMUTHS = 24
_VIEWS = ("front", "side", "back", "overhead")
#: Elevation of the ring of cameras, degrees; below the limit of "overhead".
ELEVATION = 15.0


@dataclass(frozen=True)
class JanusEstimate:
    """Whether an asset shows its front where it should not.

    Attributes:
        share: of the azimuths more than 90 degrees from the fitted front, those with P(front) > 0.5.
        low, high: 95 % Wilson interval of that share, counting three neighbouring views as one observation. It is
            wide for one asset; tables resample prompts instead.
        yaw: degrees, where the fitted front faces (0 = +Z).
        yaw_margin: log-likelihood per view by which the fitted yaw beats the opposite one; near 0 the asset has no
            front that can be told from its back, and ``share`` says little about where it is.
        fronts: number of separate arcs around the object in which P(front) > 0.5 (a normal object has 1).
    """

    share: float
    low: float
    high: float
    yaw: float
    yaw_margin: float
    fronts: int

    def as_dict(self) -> dict[str, float | int]:
        """Plain numbers for JSON."""
        return asdict(self)


def fit_yaw(view_logp: Float[Tensor, "V 4"], azimuth: Float[Tensor, "V"], candidates: int = 72) -> Tensor:
    """Mean log-likelihood per view of each candidate yaw, (candidates,); candidate ``k`` is ``2 pi k / candidates``.

    ``L(yaw) = mean_i log p_i(view_name(azimuth_i - yaw))``.
    """
    logp = view_logp.double().clamp_min(math.log(1e-3))
    elevation = math.radians(ELEVATION)
    total = torch.zeros(candidates, dtype=torch.float64)
    for k in range(candidates):
        yaw = 2 * math.pi * k / candidates
        column = [_VIEWS.index(view_name(float(a) - yaw, elevation)) for a in azimuth]
        total[k] = logp[torch.arange(len(azimuth)), torch.tensor(column)].mean()
    return total


def plateau_middle(score: np.ndarray) -> int:
    """Index in the middle of the (circular) run of largest values; the fit is flat between neighbouring cameras."""
    n = len(score)
    top = score >= score.max() - 1e-9
    if top.all():
        return 0
    runs, start = [], int(np.argmin(top))  # begin outside of any run
    length = 0
    for offset in range(1, n + 1):
        if top[(start + offset) % n]:
            length += 1
        elif length:
            runs.append((length, (start + offset - length + (length - 1) // 2) % n))
            length = 0
    return max(runs)[1]


def arcs(flags: np.ndarray) -> int:
    """Number of separate runs of True around a circle."""
    if flags.all():
        return 1
    return int((flags & ~np.roll(flags, 1)).sum())


def janus_estimate(
    view_logp: Float[Tensor, "V 4"], azimuth: Float[Tensor, "V"] | None = None
) -> JanusEstimate:
    """The estimate from the judge's view probabilities at azimuths all round.

    Arguments:
        view_logp: (V, 4) log probabilities of front, side, back, overhead.
        azimuth: (V,) radians, evenly spaced; default ``V`` from 0.
    """
    count = len(view_logp)
    if azimuth is None:
        azimuth = torch.arange(count) * (2 * math.pi / count)
    score = fit_yaw(view_logp, azimuth).numpy()
    best = plateau_middle(score)
    yaw = 2 * math.pi * best / len(score)
    opposite = score[(best + len(score) // 2) % len(score)]
    front = (view_logp[:, 0].exp() > 0.5).numpy()
    away = np.abs((azimuth.double().numpy() - yaw + math.pi) % (2 * math.pi) - math.pi)
    behind = away > math.pi / 2 + 1e-6
    far = front[behind]
    # Neighbouring views agree, so `n` of them count for n / 3 independent ones (a face spans about 45 degrees).
    interval = wilson(float(far.mean()), len(far) / 3)
    return JanusEstimate(
        share=interval.value,
        low=interval.low,
        high=interval.high,
        yaw=(math.degrees(yaw) + 180) % 360 - 180,
        yaw_margin=float(score[best] - opposite),
        fronts=arcs(front),
    )
