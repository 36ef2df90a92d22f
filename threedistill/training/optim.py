"""Scene optimizers: named parameter groups with their own rates, decayed over the stage."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

import torch
from torch import nn

from threedistill.representations.refinement import apply_refinement
from threedistill.schedule import Schedule, value_at
from threedistill.values import Below, Within, settings

__all__ = ["Adam", "Betas", "apply_refinement"]


#: Adam's decay rates of the two moments.
Betas = Annotated[tuple[float, float], Below(1)]


@settings
class Adam:
    """Adam with one learning rate for each named group of a representation.

    Adam makes constant factors of the guidance direction invisible, so rates carry over between rules.

    Arguments:
        lr: rate by the group names of ``Representation.parameter_groups``.
        decay: factor on every rate over the stage's progress.
        betas, eps: as in torch; the small eps keeps untouched hash entries still.
    """

    lr: dict[str, Annotated[float, Within(0, 100)]] = field(default_factory=dict)
    decay: Annotated[float | Schedule, Within(0, 1000)] = 1.0
    betas: Betas = (0.9, 0.99)
    eps: Annotated[float, Within(0, 1, "(]")] = 1e-15

    def build(self, groups: dict[str, list[nn.Parameter]]) -> torch.optim.Optimizer:
        """An optimizer over the groups, in the representation's order.

        A group ``particle-0/name`` has the rate of ``name``.

        Raises:
            ValueError: a group has no rate.
        """
        rows = []
        for name, parameters in groups.items():
            kind = name.rsplit("/", 1)[-1]
            if kind not in self.lr:
                raise ValueError(
                    f"optim.lr has no rate for the parameter group {kind!r} (it has {', '.join(self.lr)})"
                )
            rows.append({"params": parameters, "lr": self.lr[kind], "name": name, "base_lr": self.lr[kind]})
        return torch.optim.Adam(rows, betas=self.betas, eps=self.eps, foreach=True)

    def anneal(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the rates for this point of the stage."""
        factor = value_at(self.decay, progress)
        for row in optimizer.param_groups:
            row["lr"] = row["base_lr"] * factor
