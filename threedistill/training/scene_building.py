"""From a stage's plan to its scenes with fresh parameters."""

from __future__ import annotations

import torch

from threedistill.memory import PER_PARAMETER, need
from threedistill.protocols import Representation
from threedistill.training.plan import ScenePlan

__all__ = ["build_scene", "build_scenes"]


def build_scenes(scene: ScenePlan) -> list[Representation]:
    """A stage's scenes with fresh parameters: one, or as many as there are particles."""
    scenes = [build_scene(scene, 0)]
    numbers = sum(p.numel() for group in scenes[0].parameter_groups().values() for p in group)
    need(PER_PARAMETER * numbers * scene.particles, f"particles={scene.particles}")
    return [*scenes, *(build_scene(scene, particle) for particle in range(1, scene.particles))]


def build_scene(scene: ScenePlan, particle: int) -> Representation:
    """One of a stage's scenes with fresh parameters, drawn from the run's seed."""
    with torch.random.fork_rng(devices=[]):
        # Initial parameters are random too: seeded like everything else, and only here.
        purpose = f"init/{particle}" if particle else "init"
        torch.manual_seed(scene.streams.generator(purpose).initial_seed())
        return scene.model.make()
