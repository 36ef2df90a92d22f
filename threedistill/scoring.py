"""The contract of those who give pictures numbers: text scores, rewards, aesthetics (group ``scorer``)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.contracts import Contract

__all__ = ["Scorer"]


class Scorer(Contract, interface=True):
    """Who gives pictures numbers, the larger the better: how well they show a text, or how well they are liked.

    Group ``scorer``. Metrics ask one about finished assets; where it is differentiable, it can be a reward.

    Attributes:
        differentiable: gradients flow from the numbers to the pictures.
        reads: whether the text counts; where it does not, a picture has one number whatever the text.
        size: pixels a side at which it looks; it takes pictures of any size.
        logit_scale: the numbers times this are compared as log probabilities (CLIP's ``exp(logit_scale)``).
    """

    differentiable: bool = False
    reads: bool = True
    size: int = 224
    logit_scale: float = 1.0

    @property
    @abstractmethod
    def version(self) -> str:
        """Which model exactly; stands beside every number."""

    @abstractmethod
    def __call__(self, pictures: Float[Tensor, "B H W 3"], texts: Sequence[str]) -> Float[Tensor, "B T"]:
        """Every picture (square, sRGB in [0, 1]) with every text."""

    def features(self, pictures: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"] | None:
        """What it makes of pictures before it compares them with anything, not normalised; None = it does not say."""
        return None

    def check_text(self, text: str) -> None:
        """Refuse a text that it has no words for; raises UsageError. Loads nothing heavy."""
        return

    def rivals(self) -> tuple[str, ...]:
        """The texts that a prompt is told apart from; none = those that ship for everybody."""
        return ()

    def to(self, device: torch.device | str) -> Self:
        """Moves its networks to ``device``, in place, and returns the scorer."""
        return self
