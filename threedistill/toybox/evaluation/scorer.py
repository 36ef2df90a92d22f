"""The judge as one who scores pictures: how probable a caption of the toy world is, and from where it is seen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.scoring import Scorer
from threedistill.toybox.evaluation.critic import ToyboxCritic
from threedistill.toybox.evaluation.judging import caption_logp
from threedistill.toybox.grammar import parse
from threedistill.toybox.judge import SIZE, VIEWS, Judge, JudgeReading
from threedistill.toybox.scenes import held_out

__all__ = ["ToyboxScorer"]


class ToyboxScorer(Scorer):
    """``sum over the caption's attributes of log p``, plus ``log p(view)`` where the caption names a view.

    Unlike the judge's own figure nothing is cut off below, so that it has gradients everywhere.

    Arguments:
        folder: of a saved judge; None = the one that ships.
    """

    differentiable = True
    size = SIZE

    def __init__(self, folder: str | None = None) -> None:
        self._critic = ToyboxCritic(folder)
        self._folder: Path = self._critic.folder

    @cached_property
    def _judge(self) -> Judge:
        return Judge.load(self._folder)

    @property
    def version(self) -> str:
        return self._critic.version

    def check_text(self, text: str) -> None:
        self._critic.check_text(text)

    def rivals(self) -> tuple[str, ...]:
        """The prompts that training never sees."""
        return tuple(held_out())

    def __call__(self, pictures: Float[Tensor, "B H W 3"], texts: Sequence[str]) -> Float[Tensor, "B T"]:
        reading = self._judge.read(pictures)
        return torch.stack([self._score(reading, text) for text in texts], 1)

    def _score(self, reading: JudgeReading, text: str) -> Float[Tensor, "B"]:
        said = parse(text)
        found = caption_logp(reading, said.scene, self._judge.vocabulary, floor=-math.inf)
        return found if said.view is None else found + reading.view_logp[:, VIEWS.index(said.view)]

    def features(self, pictures: Float[Tensor, "B H W 3"]) -> Float[Tensor, "B D"]:
        """The probabilities of kind, colour, pattern, accessory and view."""
        reading = self._judge.read(pictures)
        heads = (reading.kind_logp, reading.color_logp, reading.pattern_logp, reading.accessory_logp)
        return torch.cat([*heads, reading.view_logp], 1).exp()
