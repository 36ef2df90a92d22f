"""How pictures are posed, and how often they were posed so: what uniform score distillation evens out."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.guidance.trajectory import fraction
from threedistill.messages import shown
from threedistill.prediction import NoiseLevel
from threedistill.protocols import ImageSpace, NoisePath
from threedistill.scoring import Scorer
from threedistill.types import Appraisal
from threedistill.values import Below, Count, Positive, checked

__all__ = ["Poses"]


class Poses(nn.Module):
    """The poses of pictures, and the running mean of each per range of noise levels.

    ``p(k | picture) = softmax_k(c score(picture, "prompt, k view"))``, ``c`` the scorer's own scale, and

        L = -log sum_k q_k p(k | picture) / mean(k),    mean(k) <- m mean(k) + (1 - m) p(k | picture),

    which is 0 while the mean is ``q`` and pulls to what was seen less than its share. A module, so that the means are
    in the checkpoint; the scorer is not.
    Source: Zheng et al. 2025 (RecDreamer), arXiv 2502.12640; there ``p`` compares features with those of pictures that
    were sorted by hand, and ``q`` is even.

    Arguments:
        scorer: who tells the poses apart, by words; it must be differentiable.
        views: the words, and their shares ``q`` among the cameras; divided by their sum.
        intervals: ranges of noise levels.
        memory: ``m``; a tenth of what was known is left after a hundred pictures.
    """

    mean: Tensor

    @checked
    def __init__(
        self, scorer: Scorer, views: dict[str, Positive], intervals: Count = 10,
        memory: Annotated[float, Below(1)] = 0.977,
    ) -> None:  # fmt: skip
        super().__init__()
        if not (scorer.differentiable and scorer.reads):
            lack = "reads no words" if scorer.differentiable else "gives no gradients"
            raise ValueError(
                f"{type(scorer).__name__} {lack}, by which poses could be told apart; use another"
            )
        if len(views) < 2:
            raise ValueError(f"views={shown(dict(views))}: one pose cannot be evened out; name two at least")
        self._scorer = (scorer,)  # in a tuple: not a submodule, if it is a module
        self.views, self.memory = tuple(views), memory
        whole = sum(views.values())
        self.shares = tuple(share / whole for share in views.values())
        self.register_buffer("mean", torch.tensor(self.shares).repeat(intervals, 1))

    @property
    def scorer(self) -> Scorer:
        """Who tells the poses apart."""
        return self._scorer[0]

    def texts(self, prompt: str) -> tuple[str, ...]:
        """What the scorer is asked."""
        return tuple(f"{prompt}, {view} view" for view in self.views)

    def appraise(
        self, x0: Float[Tensor, "B C h w"], level: NoiseLevel, prompt: str, space: ImageSpace, path: NoisePath
    ) -> Appraisal:
        """The gradient of ``L`` by clean samples, each at its noise level; nothing is counted yet.

        Arguments:
            x0: the samples, in the space that decodes them.
            level: says which of the means counts.
            prompt: what they show.
            space, path: the teacher's.
        """
        rows = (fraction(path, level) * len(self.mean)).long().clamp(0, len(self.mean) - 1)
        with torch.enable_grad():
            sample = x0.detach().float().requires_grad_()
            scores = self.scorer(space.decode(sample), self.texts(prompt)) * self.scorer.logit_scale
            logp = scores.double().log_softmax(1)  # the gradient is a difference, often of equals
            shares = self.mean.new_tensor(self.shares).to(logp)
            rarity = shares.log() - self.mean[rows.to(self.mean.device)].to(logp).log()
            loss = -torch.logsumexp(logp + rarity, 1)
            gradient = torch.autograd.grad(loss.sum(), sample)[0]
        return Appraisal(gradient.to(x0), logp.detach().exp(), rows)

    @torch.no_grad()
    def count(self, appraisal: Appraisal) -> None:
        """Let the means know what was seen."""
        least = math.exp(-20)  # what is never seen at all would weigh infinitely
        for index, seen in enumerate(appraisal.shares.to(self.mean)):
            row = int(appraisal.rows[index])
            self.mean[row] = (self.memory * self.mean[row] + (1 - self.memory) * seen).clamp(min=least)
