"""Perp-Neg: guidance away from the wrong views, in directions that do not touch what the prompt asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.guidance.cfg import BeyondClassifierFree, ClassifierFree, TextOfCond, at_point
from threedistill.prediction import PredictionKind
from threedistill.schedule import ScheduledNonNegative, value_at
from threedistill.types import Cameras, Evidence, Prediction, Query
from threedistill.values import Within, settings

__all__ = ["AzimuthWeights", "Decay", "PerpNeg", "perp_neg", "perpendicular"]


def perpendicular(
    delta: Float[Tensor, "B C h w"], along: Float[Tensor, "B C h w"]
) -> Float[Tensor, "B C h w"]:
    """``delta`` without its component along ``along``, per sample over C, h, w."""
    dims = tuple(range(1, delta.ndim))
    share = (delta * along).sum(dims, keepdim=True) / along.square().sum(dims, keepdim=True).clamp(min=1e-12)
    return delta - share * along


def perp_neg(
    uncond: Float[Tensor, "B C h w"],
    cond: Float[Tensor, "B C h w"],
    negatives: Sequence[Float[Tensor, "B C h w"]],
    weights: Sequence[Float[Tensor, "B"]],
    scale: float,
) -> Float[Tensor, "B C h w"]:
    """``u + s (d + sum_i w_i [d_i - proj_d d_i])`` with ``d = c - u``, ``d_i = n_i - u``, ``w_i <= 0``.

    Source: Armandpour et al. 2023, arXiv 2304.04968, eq. 8-9.
    """
    dtype = torch.promote_types(cond.dtype, torch.float32)
    uncond, positive = uncond.to(dtype), (cond - uncond).to(dtype)
    total = positive
    for negative, weight in zip(negatives, weights, strict=True):
        side = perpendicular(negative.to(dtype) - uncond, positive)
        total = total + weight.to(dtype).view(-1, *(1,) * (side.ndim - 1)) * side
    return uncond + scale * total


@settings
class Decay:
    """``f(r) = max(a exp(-b r) + c, 0)``."""

    a: float
    b: float
    c: float

    def __call__(self, r: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
        return (self.a * torch.exp(-self.b * r) + self.c).clamp(min=0)


@settings
class AzimuthWeights:
    """How strongly "front view" and "side view" are pushed away at each azimuth (0 = front, pi = back).

    With ``q = |azimuth| / 90 degrees``: from the front to the side (``q <= 1``, ``r = 1 - q``) the weights are
    ``-front_near(r)`` and ``-side_near(1 - r)``, from the side to the back (``r = 2 - q``) ``-front_far(r)`` and
    ``-side_far(r)``. Views from above have none. The default curves are those in common use with Stable Diffusion.

    Arguments:
        front_near, side_near: curves between front and side.
        front_far, side_far: curves between side and back.
        overhead: elevation in degrees above which a view is one from above: the prior's ``views.overhead``.
    """

    front_near: Decay = field(default_factory=lambda: Decay(4.0, 0.5, -2.426))
    side_near: Decay = field(default_factory=lambda: Decay(4.0, 0.5, -2.426))
    front_far: Decay = field(default_factory=lambda: Decay(1.0, 0.5, 0.967))
    side_far: Decay = field(default_factory=lambda: Decay(1.0, 0.5, -0.606))
    overhead: Annotated[float, Within(-90, 90)] = 45.0

    def __call__(self, cameras: Cameras) -> tuple[Float[Tensor, "B"], Float[Tensor, "B"]]:
        """(B,) weights, not positive, of the wordings "front view" and "side view"."""
        around = (cameras.azimuth + math.pi) % (2 * math.pi) - math.pi
        q = around.abs() / (math.pi / 2)
        near = q <= 1
        front = torch.where(near, self.front_near(1 - q), self.front_far(2 - q))
        side = torch.where(near, self.side_near(q), self.side_far(2 - q))
        seen = (cameras.elevation <= math.radians(self.overhead)).to(q)
        return -front * seen, -side * seen


@settings
class PerpNeg(BeyondClassifierFree):
    """Classifier-free guidance plus Perp-Neg against the wordings of the other views.

    ``eps^s = eps_u + s (d + sum_i w_i(azimuth) [d_i - proj_d d_i])`` over ``i`` = front, side. Our form differs from
    the authors' in one point: the positive text is the view's own wording, not an interpolation of two embeddings.
    Asks four questions per view.
    Source: Armandpour et al. 2023, arXiv 2304.04968.

    Arguments:
        base: scale, unconditional branch, rescaling and clipping.
        weights: of the negatives as a function of the azimuth.
        strength: multiplies the weights, a number or a schedule of progress; 0 is plain guidance.
    """

    base: ClassifierFree
    weights: AzimuthWeights = field(default_factory=AzimuthWeights)
    strength: ScheduledNonNegative = 1.0

    def queries(self, progress: float, point: str = "t", text: TextOfCond = "view") -> tuple[Query, ...]:
        """The prompt, nothing, and the two wrong views; without strength what the base asks."""
        if value_at(self.strength, progress) == 0:
            return self.base.queries(progress, point, text)
        wrong = (
            Query(at_point("front", point), text="front", point=point),
            Query(at_point("side", point), text="side", point=point),
        )
        return (*self.base.both(point, text), *wrong)

    def guided(self, evidence: Evidence, progress: float, point: str = "t") -> Prediction:
        """The guided prediction.

        Raises:
            ValueError: the evidence says nothing about cameras.
        """
        strength = value_at(self.strength, progress)
        if strength == 0:
            return self.base.guided(evidence, progress, point)
        if evidence.cameras is None:
            raise ValueError("Perp-Neg weighs views by their azimuth, but the evidence has no cameras")
        names = ("uncond", "cond", "front", "side")
        uncond, cond, front, side = (evidence[at_point(name, point)] for name in names)
        weights = [strength * w for w in self.weights(evidence.cameras)]
        scale = value_at(self.scale, progress)

        def combination(kind: PredictionKind) -> Tensor:
            # At one x_t, differences in one kind are those in another times a number, which projections do not see.
            wrong = [front.read(kind), side.read(kind)]
            return perp_neg(uncond.read(kind), cond.read(kind), wrong, weights, scale)

        return self.base.combined((uncond, cond, front, side), combination, cond)
