"""Numbers at points of space: a multiresolution hash encoding and a small MLP, without any meaning of their own."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.memory import PER_PARAMETER, need
from threedistill.ops.hash_encode import HashLayout, hash_encode
from threedistill.ops.mlp import fused_mlp
from threedistill.schedule import Ramp
from threedistill.values import Count, Fraction, Within, settings

__all__ = ["Cells", "Features", "HashField", "HashSettings", "Levels", "Log2Entries"]


#: Sizes of a hash encoding; what they take together is counted before it is taken (``threedistill/memory.py``).
Levels = Annotated[int, Within(1, 32)]
Features = Literal[1, 2, 4, 8]
Log2Entries = Annotated[int, Within(3, 28)]
Cells = Annotated[int, Within(2, 1 << 19)]


@settings
class HashSettings:
    """The size of a hash field.

    Arguments:
        levels, features: encoding levels and features per level.
        log2_entries: table entries per level, as a power of two.
        base_resolution, finest_resolution: cells per axis of the coarsest and the finest level.
        hidden, hidden_layers: width (at most 64) and number of the MLP's hidden layers.
        start_levels: levels active at the beginning of a stage.
        coarse_until: fraction of the stage after which all levels are active, in [0, 1].
    """

    levels: Levels = 8
    features: Features = 2
    log2_entries: Log2Entries = 15
    base_resolution: Cells = 8
    finest_resolution: Cells = 128
    hidden: Annotated[int, Within(1, 64)] = 32
    hidden_layers: Annotated[int, Within(1, 16)] = 2
    start_levels: Count = 4
    coarse_until: Fraction = 0.5

    def __post_init__(self) -> None:
        checks = {
            f"start_levels={self.start_levels} must lie in [1, levels={self.levels}]": 1
            <= self.start_levels
            <= self.levels,
            f"base_resolution={self.base_resolution} exceeds finest_resolution={self.finest_resolution}": (
                self.base_resolution <= self.finest_resolution
            ),
        }
        for message, holds in checks.items():
            if not holds:
                raise ValueError(f"hash field: {message}")


class HashField(nn.Module):
    """``f(x) = MLP(encode((x / bound + 1) / 2))``, close to 0 everywhere before training.

    Arguments:
        outputs: numbers per point.
        settings: see :class:`HashSettings`.
        bound: half the side of the box, metres; points beyond it take the border's values.

    Source: Mueller et al., "Instant neural graphics primitives", 2022.
    """

    def __init__(self, outputs: int, settings: HashSettings, bound: float) -> None:
        super().__init__()
        s = settings
        self.settings, self.bound = settings, float(bound)
        self.layout = HashLayout(s.levels, s.features, s.log2_entries, s.base_resolution, s.finest_resolution)
        need(
            PER_PARAMETER * self.layout.entries * s.features, f"a hash table of {self.layout.entries} entries"
        )
        self.table = nn.Parameter(torch.empty(self.layout.entries, s.features))
        widths = [self.layout.width, *[s.hidden] * s.hidden_layers, outputs]
        self.weights = nn.ParameterList(torch.empty(o, i) for i, o in pairwise(widths))
        self.reached: Tensor
        #: The highest progress trained at: levels once switched on stay on, in later stages too.
        self.register_buffer("reached", torch.zeros((), dtype=torch.float64))
        self.reset(None)

    @torch.no_grad()
    def reset(self, generator: torch.Generator | None) -> None:
        """Draw all parameters anew, from ``generator`` or (None) from the default one."""

        def uniform(like: Tensor) -> Tensor:
            return torch.rand(like.shape, generator=generator) * 2 - 1

        self.table.copy_(uniform(self.table) * 1e-4)
        for weight in self.weights:
            weight.copy_(uniform(weight) * math.sqrt(6 / sum(weight.shape)))
        self.reached.zero_()

    @torch.no_grad()
    def reach(self, progress: float) -> None:
        """Note that the field was trained at ``progress``."""
        self.reached.clamp_(min=progress)

    def active_levels(self, progress: float) -> int:
        """Levels in use at a fraction of the stage: linear from ``start_levels`` to all of them, never falling."""
        s, progress = self.settings, max(progress, float(self.reached))
        if progress >= s.coarse_until:
            return s.levels
        return int(Ramp(s.start_levels, s.levels, over=s.coarse_until)(progress))

    def forward(self, points: Float[Tensor, "N 3"], progress: float = 0.0) -> Float[Tensor, "N E"]:
        """The numbers at points (N, 3) in metres, with the levels that are active at ``progress`` (or were before)."""
        unit = (points * (0.5 / self.bound) + 0.5).clamp(0, 1)
        features = hash_encode(unit, self.table, self.layout, self.active_levels(progress))
        return fused_mlp(features, list(self.weights))

    def fit(
        self, points: Float[Tensor, "N 3"], values: Float[Tensor, "N E"], jitter: float,
        generator: torch.Generator, steps: int = 300, batch: int = 4096,
    ) -> None:  # fmt: skip
        """Regression: ``mean (sigmoid f(x) - sigmoid y)^2`` by Adam, all levels active from here on.

        Arguments:
            points: (N, 3) metres.
            values: (N, outputs) what f should be there, before the sigmoid.
            jitter: points are moved up to this far along each axis, metres, so that f also holds nearby.
            generator: draws the batches.
            steps, batch: optimizer steps and points per step.
        """
        if not len(points):
            return
        self.reach(1.0)
        target = values.detach().sigmoid()
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-15, foreach=True)
        decay = Ramp(0.01, 0.001, shape="log")
        with torch.enable_grad():
            for step in range(steps):
                rows = torch.randint(len(points), (batch,), generator=generator)
                shift = (torch.rand(batch, 3, generator=generator) * 2 - 1) * jitter
                loss = (self(points[rows] + shift.to(points)).sigmoid() - target[rows]).square().mean()
                for group in optimizer.param_groups:
                    group["lr"] = decay(step / steps)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
        optimizer.zero_grad(set_to_none=True)
