"""Several scenes optimised side by side: one per step, each as if it were alone.

VSD is about a law of renders, and a law of one scene is a point; a few scenes sharing one student come closer to it.
Source: Wang et al. 2023 (ProlificDreamer), arXiv 2305.16213, section 3.2: one particle is drawn per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedistill.protocols import RenderContext, Representation
from threedistill.rng import Streams
from threedistill.types import Cameras, Mesh, Refinement, Rendering


class ParticleBank(nn.Module):
    """A representation that is one of several at each step.

    Which one is drawn from the iteration's own streams, so a resumed run draws the same. Only that one gets
    gradients, only its moments move, and it counts its own steps: whatever happens every so many steps happens every
    so many of *its* steps. Without streams (previews) the first is shown.

    Arguments:
        particles: the scenes, of one kind, each with initial values of its own.
    """

    steps: Tensor

    def __init__(self, particles: Sequence[Representation]) -> None:
        super().__init__()
        if not particles:
            raise ValueError("a particle bank needs at least one particle")
        modules: list[Any] = list(particles)
        self.particles = nn.ModuleList(modules)
        self.register_buffer("steps", torch.zeros(len(modules), dtype=torch.int64))

    def pick(self, rng: Streams | None) -> int:
        """Whose turn it is."""
        return 0 if rng is None else int(rng.uniform("particle", 1) * len(self.particles))

    def member(self, index: int) -> Representation:
        """One particle."""
        found: Any = self.particles[index]
        return found

    def render(self, cameras: Cameras, context: RenderContext) -> Rendering:
        """The particle whose turn it is."""
        return self.member(self.pick(context.rng)).render(cameras, context)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All particles' groups as ``particle-0/<name>``; their rates are those of ``<name>``."""
        return {
            f"particle-{index}/{name}": parameters
            for index in range(len(self.particles))
            for name, parameters in self.member(index).parameter_groups().items()
        }

    def after_step(self, iteration: int, progress: float, rng: Streams) -> Refinement | None:
        """Bookkeeping of the particle whose turn it was, by its own count of steps."""
        index = self.pick(rng)
        refinement = self.member(index).after_step(int(self.steps[index]), progress, rng)
        self.steps[index] += 1
        if refinement is None:
            return None
        return replace(
            refinement,
            values={f"particle-{index}/{name}": rows for name, rows in refinement.values.items()},
            restart=tuple(f"particle-{index}/{name}" for name in refinement.restart),
        )

    def extract(self, resolution: int) -> Mesh:
        """The first particle's surface."""
        return self.member(0).extract(resolution)

    def surface_color(
        self, points: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
    ) -> Float[Tensor, "N 3"]:
        """The first particle's colours."""
        return self.member(0).surface_color(points, normals)


def members(representation: Representation) -> list[Representation]:
    """The particles of a bank, or the representation itself."""
    if isinstance(representation, ParticleBank):
        return [representation.member(index) for index in range(len(representation.particles))]
    return [representation]
