"""What the student of a finished run knows at each noise level, and what VSD does there to the finest detail.

    python benchmarks/student_of_run.py RUN [RUN ...]

``gain`` is ``student_gain`` at that level. ``vsd`` is how strongly VSD's direction ``d = x0_student - x0_teacher``
(without guidance, without weights) pulls on the render's finest detail ``h = x0 - blur(x0)`` inside the object, as a
share of what SDS's ``x0 - x0_teacher`` does, ``<d, h> / <d_sds, h>``: a step takes detail away where it is positive
and adds to it where it is negative. All three are pictures, clipped to [0, 1].
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F

from threedistill.config import read_config
from threedistill.guidance.timesteps import Uniform, Window
from threedistill.guidance.trajectory import Situation
from threedistill.training.assemble import build_prior, build_stages
from threedistill.training.checkpoint import StageState
from threedistill.training.planning import build_plan
from threedistill.training.run_folder import RunFolder
from threedistill.training.stages import DRAWS, fresh_views
from threedistill.types import Query

LEVELS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 0.95)
#: 5 x 5 binomial weights.
BLUR = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]).outer(torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])) / 256


def finest(pictures: torch.Tensor, opacity: torch.Tensor) -> torch.Tensor:
    """(B, h, w, 3) what a blur takes away, 0 within two pixels of the outline and outside; ``opacity`` of any size."""
    planes = pictures.permute(0, 3, 1, 2)
    padded = F.pad(planes, (2, 2, 2, 2), mode="replicate").flatten(0, 1)[:, None]
    covered = F.interpolate(opacity.permute(0, 3, 1, 2), planes.shape[-2:], mode="area")
    inside = -F.max_pool2d(-covered, 5, 1, 2)
    blurred = F.conv2d(padded, BLUR[None, None]).view_as(planes)
    return ((planes - blurred) * inside).permute(0, 2, 3, 1)


@torch.no_grad()
def report(run: Path) -> None:
    plan = build_plan(read_config(run / "config.yaml"))
    stages = build_stages(plan, build_prior(plan, torch.device("cpu")))
    system = stages[-1]
    learner = system.learners.get("student")
    if learner is None:
        raise SystemExit(f"{run}: guidance={plan.names.guidance} has no student")
    last = RunFolder(run).checkpoint(len(stages) - 1, system.stage.name)
    if not last.is_file():
        raise SystemExit(f"{run}: no state of its last stage ({last.parent.name})")
    StageState(last).load_module(system)
    space = system.prior.space
    print(f"{run}\n     t    gain     vsd")
    for fraction in LEVELS:
        learner.measured_at = Uniform(Window(fraction, fraction))
        losses, own, plain = torch.zeros(2), 0.0, 0.0
        for rng, shown, out in fresh_views(system):
            x0, cameras = shown.x0, shown.cameras
            picture = space.decode(x0)
            gains = learner.measure(shown, rng, 1.0, DRAWS)
            losses += torch.tensor([gains.camera, gains.frozen])
            detail = finest(picture, out.opacity)
            level = system.prior.path.at_fraction(torch.full((len(cameras),), fraction))
            for draw in range(DRAWS):
                noise = rng.branched(str(draw)).normal_per_view("noise", len(cameras), *space.shape)
                prompts = system.prompts.drawn(rng, len(cameras))
                situation = Situation(system.networks, prompts, shown.conditions, x0, level, noise)
                asked = situation.ask((Query("teacher"), Query("student", network="student", text="base")))
                teacher = space.decode(asked["teacher"].x0)
                own += float(((space.decode(asked["student"].x0) - teacher) * detail).sum())
                plain += float(((picture - teacher) * detail).sum())
        print(f"{fraction:6.2f} {float(1 - losses[0] / losses[1]):7.3f} {own / plain:+7.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    for run in parser.parse_args().runs:
        report(run)


if __name__ == "__main__":
    main()
