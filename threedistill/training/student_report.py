"""What a student knows when its stage ends: the two numbers without which no claim about VSD or ESD is worth much."""

from __future__ import annotations

import torch

from threedistill.protocols import RenderContext
from threedistill.training.student_step import Gains, Shown
from threedistill.training.system import ScoreDistillation

#: Batches of fresh views, and noisy versions of each.
BATCHES, DRAWS = 4, 4


@torch.no_grad()
def student_report(system: ScoreDistillation) -> dict[str, float]:
    """``student_gain`` and ``camera_gain`` on fresh views of the finished scene, and the losses behind them.

    Nothing of it was learned from: cameras and noise have streams of their own. Empty without a student.
    """
    if system.student is None or system.student_step is None:
        return {}
    losses = []
    for batch in range(BATCHES):
        rng = system.streams.at(system.stage.iterations).branched(f"report/{batch}")
        cameras, background = system._views(1.0, rng)
        context = RenderContext(progress=1.0, background=background, rng=rng, shading=system.stage.shading)
        shown = Shown(
            system.prior.space.encode(system.representation.render(cameras, context).rgb), cameras, background
        )
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
