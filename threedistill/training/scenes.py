"""The scenes of a stage: one, or several side by side (particles) of which one is optimised per step.

VSD is about a law of renders, and a law of one scene is a point; a few scenes sharing one student come closer to it.
Source: Wang et al. 2023 (ProlificDreamer), arXiv 2305.16213, section 3.2: one particle is drawn per step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from threedistill.protocols import Representation
from threedistill.rng import Streams
from threedistill.types import Refinement

__all__ = ["Scenes"]


class Scenes(nn.Module):
    """Representations that take turns, each as if it were alone.

    Whose turn it is is drawn from the iteration's own streams, so a resumed run draws the same. Only that scene is
    rendered and gets gradients, only its moments move, and it counts its own steps: whatever happens every so many
    steps happens every so many of *its* steps.

    Arguments:
        scenes: of one kind, each with initial values of its own; at least one.
    """

    steps: Tensor

    def __init__(self, scenes: Sequence[Representation]) -> None:
        super().__init__()
        if not scenes:
            raise ValueError("a stage needs at least one scene")
        for index, scene in enumerate(scenes):
            self.add_module(str(index), scene)
        self.register_buffer("steps", torch.zeros(len(scenes), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> Representation:
        found: Any = self._modules[str(index)]
        return found

    def __iter__(self) -> Iterator[Representation]:
        return (self[index] for index in range(len(self)))

    def turn(self, rng: Streams) -> int:
        """Whose turn it is."""
        return int(rng.uniform("particle", 1) * len(self)) if len(self) > 1 else 0

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The only scene's groups, or those of all as ``particle-0/<name>``; their rates are those of ``<name>``."""
        if len(self) == 1:
            return self[0].parameter_groups()
        return {
            f"particle-{index}/{name}": parameters
            for index, scene in enumerate(self)
            for name, parameters in scene.parameter_groups().items()
        }

    def after_step(self, turn: int, progress: float, rng: Streams) -> Refinement | None:
        """Bookkeeping of the scene whose turn it was, by its own count of steps; to be carried out on that scene."""
        refinement = self[turn].after_step(int(self.steps[turn]), progress, rng)
        self.steps[turn] += 1
        return refinement
