"""What a student knows when its stage ends: the two numbers without which no claim about VSD or ESD is worth much."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from threedistill.conditions import Conditions
from threedistill.protocols import RenderContext
from threedistill.rng import Streams
from threedistill.training.student_step import Gains, Shown
from threedistill.training.system import ScoreDistillation
from threedistill.types import Rendering

#: Batches of fresh views, and noisy versions of each.
BATCHES, DRAWS = 4, 4


@torch.no_grad()
def fresh_views(system: ScoreDistillation) -> Iterator[tuple[Streams, Shown, Rendering]]:
    """Batches of views of the finished scene that nothing was learned from, each with streams of its own."""
    for batch in range(BATCHES):
        rng = system.streams.at(system.stage.iterations).branched(f"report/{batch}")
        cameras, background = system._views(1.0, rng)
        context = RenderContext(1.0, background, rng, system.stage.shading, normals="normal" in system.wants)
        out = system.representation.render(cameras, context)
        facts = Conditions(cameras=cameras, background=background).showing(out, system.wants)
        yield rng, Shown(system.prior.space.encode(out.rgb), facts), out


@torch.no_grad()
def student_report(system: ScoreDistillation) -> dict[str, float]:
    """``student_gain`` and ``camera_gain`` on fresh views of the finished scene, and the losses behind them.

    Empty without a student.
    """
    if system.student is None or system.student_step is None:
        return {}
    losses = []
    for rng, shown, _ in fresh_views(system):
        gains = system.student_step.measure(system.student, shown, rng, system.stage.along(1.0), DRAWS)
        losses.append([gains.camera, gains.null, gains.frozen])
    mean = Gains(*torch.tensor(losses).mean(0).tolist())
    return {
        "student_gain": round(mean.student_gain, 4),
        "camera_gain": round(mean.camera_gain, 5),
        "loss_camera": round(mean.camera, 5),
        "loss_null": round(mean.null, 5),
        "loss_frozen": round(mean.frozen, 5),
    }
