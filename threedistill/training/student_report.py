"""What a student knows when its stage ends: the two numbers without which no claim about VSD or ESD is worth much."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from threedistill.rng import Streams
from threedistill.training.student_step import MAIN, Gains, Learner, Shown
from threedistill.training.system import ScoreDistillation
from threedistill.types import Rendering

#: Batches of fresh views, and noisy versions of each.
BATCHES, DRAWS = 4, 4


@torch.no_grad()
def fresh_views(system: ScoreDistillation) -> Iterator[tuple[Streams, Shown, Rendering]]:
    """Batches of views of the finished scene that nothing was learned from, each with streams of its own."""
    for batch in range(BATCHES):
        rng = system.streams.at(system.stage.iterations).branched(f"report/{batch}")
        facts, out, _ = system.look(1.0, rng)
        yield rng, Shown(system.prior.space.encode(out.rgb), facts), out


@torch.no_grad()
def student_report(system: ScoreDistillation, learner: Learner) -> dict[str, float]:
    """``student_gain`` and ``camera_gain`` on fresh views of the finished scene, and the losses behind them."""
    losses = []
    for rng, shown, _ in fresh_views(system):
        own = rng if learner.name == MAIN else rng.branched(learner.name)
        gains = learner.measure(shown, own, system.stage.along(1.0), DRAWS)
        losses.append([gains.camera, gains.null, gains.frozen])
    mean = Gains(*torch.tensor(losses).mean(0).tolist())
    return {
        "student_gain": round(mean.student_gain, 4),
        "camera_gain": round(mean.camera_gain, 5),
        "loss_camera": round(mean.camera, 5),
        "loss_null": round(mean.null, 5),
        "loss_frozen": round(mean.frozen, 5),
    }
