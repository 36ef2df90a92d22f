"""A reward beside the guidance: whoever gives pictures numbers, asked about the renders and followed uphill."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from threedistill.schedule import ScheduledPositive, value_at
from threedistill.scoring import Scorer
from threedistill.values import checked

__all__ = ["Reward"]


class Reward:
    """``-lambda mean r(render, prompt)``, added to the loss: the scene climbs what a scorer says of its renders.

    The gradient goes through the scorer and the renderer, past the teacher. It counts relative to the guidance or
    absolutely, as the regularisers' weights do
    (:attr:`~threedistill.guidance.regularizers.Regularizers.factor`).
    Source: Ye et al. 2024 (DreamReward), arXiv 2403.14613, whose released code adds ``max(4 - r, 0)`` of the renders
    (or of the teacher's prediction in their place) late in the run; Xu et al. 2023 (ImageReward), arXiv 2304.05977.

    Arguments:
        scorer: who is asked; it must be differentiable.
        weight: ``lambda``, a number or a schedule of progress.
    """

    @checked
    def __init__(self, scorer: Scorer, weight: ScheduledPositive = 0.1) -> None:
        if not scorer.differentiable:
            raise ValueError(
                f"{type(scorer).__name__} gives no gradients, which a reward needs; use another scorer, or ask it "
                "about the finished asset (threedistill eval --metrics)"
            )
        self.scorer, self.weight = scorer, weight

    def values(self, pictures: Float[Tensor, "B H W 3"], prompt: str) -> Float[Tensor, "B"]:
        """``r`` of every picture, with gradients."""
        return self.scorer(pictures, (prompt,))[:, 0]

    def loss(
        self, values: Float[Tensor, "B"], factor: Float[Tensor, ""], progress: float
    ) -> Float[Tensor, ""]:
        """``-lambda factor mean r``."""
        return -value_at(self.weight, progress) * factor.to(values) * values.mean()
