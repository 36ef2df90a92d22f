"""Scene optimizers: named parameter groups with their own rates, decayed over the stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import field
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from threedistill.representations.refinement import apply_refinement
from threedistill.schedule import Schedule, value_at
from threedistill.values import Below, NonNegative, Within, settings

__all__ = ["Adam", "AdamW", "Adan", "AdanSteps", "Betas", "SceneOptimizer", "apply_refinement"]


#: Adam's decay rates of the two moments.
Betas = Annotated[tuple[float, float], Below(1)]

#: Factors on rates.
_Factor = Annotated[float | Schedule, Within(0, 1000)]
_Epsilon = Annotated[float, Within(0, 1, "(]")]


@settings
class SceneOptimizer(ABC):
    """One learning rate for each named group of a representation, scaled over the stage.

    Arguments:
        lr: rate by the group names of ``Representation.parameter_groups``.
        decay: factor on every rate over the stage's progress.
        decays: by group name, in place of ``decay``.
    """

    lr: dict[str, Annotated[float, Within(0, 100)]] = field(default_factory=dict)
    decay: _Factor = 1.0
    decays: dict[str, _Factor] = field(default_factory=dict)

    @abstractmethod
    def over(self, rows: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The torch optimizer over these groups."""

    def build(self, groups: dict[str, list[nn.Parameter]]) -> torch.optim.Optimizer:
        """An optimizer over the groups, in the representation's order.

        A group ``particle-0/name`` has the rate of ``name``.

        Raises:
            ValueError: a group has no rate, or a factor is for none of them.
        """
        rows = []
        for name, parameters in groups.items():
            kind = name.rsplit("/", 1)[-1]
            if kind not in self.lr:
                raise ValueError(
                    f"optim.lr has no rate for the parameter group {kind!r} (it has {', '.join(self.lr)})"
                )
            rows.append({"params": parameters, "lr": self.lr[kind], "name": name, "base_lr": self.lr[kind]})
        known = dict.fromkeys(name.rsplit("/", 1)[-1] for name in groups)
        for kind in self.decays:
            if kind not in known:
                raise ValueError(
                    f"optim.decays.{kind}: there is no such parameter group (there are {', '.join(known)})"
                )
        return self.over(rows)

    def anneal(self, optimizer: torch.optim.Optimizer, progress: float) -> None:
        """Set the rates for this point of the stage."""
        for row in optimizer.param_groups:
            factor = self.decays.get(row["name"].rsplit("/", 1)[-1], self.decay)
            row["lr"] = row["base_lr"] * value_at(factor, progress)


@settings
class Adam(SceneOptimizer):
    """Adam, which makes constant factors of the guidance direction invisible: rates carry over between rules.

    Arguments:
        lr, decay, decays: of :class:`SceneOptimizer`.
        betas, eps: as in torch; the small eps keeps untouched hash entries still.
    """

    betas: Betas = (0.9, 0.99)
    eps: _Epsilon = 1e-15

    def over(self, rows: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's own."""
        return torch.optim.Adam(rows, betas=self.betas, eps=self.eps, foreach=True)


@settings
class AdamW(SceneOptimizer):
    """Adam, and every step ``theta <- (1 - lr weight_decay) theta``.

    Source: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", arXiv 1711.05101.

    Arguments:
        lr, decay, decays: of :class:`SceneOptimizer`.
        betas, eps: as in :class:`Adam`.
        weight_decay: of all groups; torch's own default is 0.01.
    """

    betas: Betas = (0.9, 0.99)
    eps: _Epsilon = 1e-15
    weight_decay: NonNegative = 0.01

    def over(self, rows: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """torch's own."""
        return torch.optim.AdamW(
            rows, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, foreach=True
        )


@settings
class Adan(SceneOptimizer):
    """Adaptive Nesterov momentum: see :class:`AdanSteps`.

    Arguments:
        lr, decay, decays: of :class:`SceneOptimizer`; published runs take rates several times Adam's.
        betas: how much of the three averages is kept per step (1 minus the paper's beta).
        eps, weight_decay: as in :class:`AdamW`, the decay implicit.
    """

    betas: Annotated[tuple[float, float, float], Below(1)] = (0.98, 0.92, 0.99)
    eps: _Epsilon = 1e-8
    weight_decay: NonNegative = 0.0

    def over(self, rows: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Ours: torch has none."""
        return AdanSteps(rows, self.betas, self.eps, self.weight_decay)


class AdanSteps(torch.optim.Optimizer):
    """Adan: moments of the gradient, of its change, and of their sum's square.

        m <- b1 m + (1 - b1) g,    v <- b2 v + (1 - b2) (g - g'),    n <- b3 n + (1 - b3) (g + b2 (g - g'))^2
        theta <- (theta - lr (m^ + b2 v^) / (sqrt(n^) + eps)) / (1 + lr weight_decay)

    ``g'`` is the gradient of the step before (``g`` itself in the first), ``^`` divides by ``1 - b^k`` after ``k``
    steps. All state has the parameter's shape, so rows of splats come and go with it.

    Source: Xie et al. 2022, "Adan: adaptive Nesterov momentum algorithm for faster optimizing deep models",
    arXiv 2208.06677, algorithm 1, with the bias corrections of its authors' code.

    Arguments:
        rows: parameter groups.
        betas, eps, weight_decay: of :class:`Adan`.
    """

    def __init__(
        self, rows: list[dict[str, Any]], betas: tuple[float, float, float], eps: float, weight_decay: float
    ) -> None:
        super().__init__(rows, {"lr": 1e-3, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One step of all parameters with gradients."""
        for row in self.param_groups:
            for parameter in row["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, row)

    def _move(self, parameter: Tensor, gradient: Tensor, row: dict[str, Any]) -> None:
        state, (b1, b2, b3) = self.state[parameter], row["betas"]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("mean", "change", "square"):
                state[name] = torch.zeros_like(parameter)
            state["before"] = gradient.clone()
        state["step"] += 1
        steps, difference = float(state["step"]), gradient - state["before"]
        state["mean"].lerp_(gradient, 1 - b1)
        state["change"].lerp_(difference, 1 - b2)
        state["square"].lerp_((gradient + b2 * difference).square(), 1 - b3)
        state["before"].copy_(gradient)
        ahead = state["mean"] / (1 - b1**steps) + b2 * state["change"] / (1 - b2**steps)
        size = (state["square"] / (1 - b3**steps)).sqrt() + row["eps"]
        parameter.sub_(row["lr"] * ahead / size).div_(1 + row["lr"] * row["weight_decay"])
