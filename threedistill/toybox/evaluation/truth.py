"""What the world itself has for a scene: its objects from all round, and the topology that they should have."""

from __future__ import annotations

import random

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.evaluation.similarity import SIZE, VARIATIONS, VIEWS, turntable
from threedistill.evaluation.topology import Wanted
from threedistill.toybox.grammar import Scene
from threedistill.toybox.lexicon import TUNNELS
from threedistill.toybox.world import build

__all__ = ["true_turntables", "wanted_of"]


def true_turntables(
    scene: Scene, variations: int = VARIATIONS, views: int = VIEWS, size: int = SIZE, seed: int = 0
) -> Float[Tensor, "K V H W 3"]:
    """Turntables of the canonical object of a scene and of ``variations - 1`` that the world draws for it."""
    draws = [None, *(random.Random(f"similarity/{seed}/{k}") for k in range(1, variations))]
    return torch.stack([turntable(build(scene, rng), lit=True, views=views, size=size) for rng in draws])


def wanted_of(scene: Scene) -> Wanted:
    """The topology of a scene of the world: things side by side may stand apart."""
    ranges = [TUNNELS.get(spec.kind, (0, 0)) for spec in scene.objects]
    tunnels = (sum(low for low, _ in ranges), sum(high for _, high in ranges))
    return Wanted(tunnels, len(scene.objects) if scene.relation == "next to" else 1)
