"""From a direction in prior space to a loss whose gradient is that direction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.schedule import Schedule, ScheduledPositive, value_at
from threedistill.values import settings

__all__ = ["Surrogate", "clip", "sanitise", "surrogate"]


def surrogate(x0: Float[Tensor, "B C h w"], direction: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
    """``(stop_grad(d) * x0).sum() / B``: its gradient in ``x0`` is ``d / B``; its value means nothing.

    Computed in float32 at least, whatever the prior's precision, so that small directions are not rounded
    away.
    """
    dtype = torch.promote_types(x0.dtype, torch.float32)
    return (direction.detach().to(dtype) * x0.to(dtype)).sum() / x0.shape[0]


def sanitise(direction: Float[Tensor, "B C h w"]) -> tuple[Float[Tensor, "B C h w"], int]:
    """The direction with every NaN and infinity replaced by 0, and how many there were.

    (``nan_to_num`` alone would turn infinities into the largest float.)
    """
    bad = ~torch.isfinite(direction)
    count = int(bad.sum())
    return (direction.masked_fill(bad, 0.0) if count else direction), count


def clip(
    direction: Float[Tensor, "B C h w"], limit: float | Schedule | None, progress: float = 0.0
) -> Float[Tensor, "B C h w"]:
    """The weighted direction clamped elementwise to ``[-limit, limit]``; None leaves it alone.

    To be applied after the weight, so that the limit means the same at every noise level.
    """
    if limit is None:
        return direction
    bound = value_at(limit, progress)
    return direction.clamp(-bound, bound)


@settings
class Surrogate:
    """The guard and the loss of one step: non-finite values to 0, an optional clip, then :func:`surrogate`.

    Arguments:
        clip: elementwise bound on the weighted direction, a number or a schedule of progress; None = none.
    """

    clip: ScheduledPositive | None = None

    def guard(
        self, direction: Float[Tensor, "B C h w"], progress: float = 0.0
    ) -> tuple[Float[Tensor, "B C h w"], int]:
        """The weighted direction made finite and clipped, and how many elements were not finite."""
        finite, count = sanitise(direction)
        return clip(finite, self.clip, progress), count

    def loss(self, x0: Float[Tensor, "B C h w"], direction: Float[Tensor, "B C h w"]) -> Float[Tensor, ""]:
        """:func:`surrogate`."""
        return surrogate(x0, direction)
