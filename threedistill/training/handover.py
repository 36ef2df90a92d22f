"""What a stage starts from: the representation of the stage before it, or the file that the user gave."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from threedistill.protocols import Representation
from threedistill.representations.convert import convert
from threedistill.training.checkpoint import has_state, save_stage
from threedistill.training.plan import RunPlan
from threedistill.training.progress import Bar
from threedistill.training.run_folder import RunFolder
from threedistill.training.system import ScoreDistillation
from threedistill.types import Mesh, Splats

__all__ = ["Fitting", "first_unfinished", "hand_over"]


def first_unfinished(run: RunFolder, stages: Sequence[ScoreDistillation]) -> int:
    """The last stage that has begun: all before it are done, and what they made is in it already."""
    begun = [i for i, system in enumerate(stages) if has_state(run.checkpoint(i, system.stage.name))]
    return max(begun, default=0)


def hand_over(
    source: Representation | Mesh | Splats | None, system: ScoreDistillation, plan: RunPlan, run: RunFolder,
    index: int, device: torch.device, quiet: bool,
) -> None:  # fmt: skip
    """Let a stage start from ``source``, and write that start down as the stage's first checkpoint.

    Nothing is converted where the stage has a checkpoint: then the source is in it. The conversion depends on the
    source, the settings and the run's seed only, so one that was killed is repeated exactly.

    Arguments:
        source: what came before; None for a first stage that starts from nothing, or where nobody asks.
        system: the stage; its scenes are changed in place.
        plan, run, index: the run, and which of its stages this is.
        device: where the conversion is computed.
        quiet: no line on stderr.

    Raises:
        ThreedistillError: the source holds no surface, or the conversion failed.
    """
    targets, path = list(system.scenes), run.checkpoint(index, system.stage.name)
    for target in targets:
        if index or plan.given:
            target.settle()
    if source is None or has_state(path):
        return
    names = f"{type(source).__name__} -> {type(targets[0]).__name__}"
    began = time.perf_counter()
    stage = plan.stages[index]
    streams = replace(system.streams, branch="convert")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(streams.generator("seed").initial_seed())
        system.to(device)
        for target in targets:
            with Fitting(f"{system.stage.name}: {names}", quiet) as fitting:
                convert(source, target, stage.convert, streams, stage.scene.rates, fitting.step)
    save_stage(path, system, [], {"iteration": 0, "iterations": system.stage.iterations})
    if not quiet:
        print(
            f"{system.stage.name}: {names}, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True
        )


class Fitting:
    """The progress of a conversion's fit; a conversion without one shows none."""

    def __init__(self, name: str, quiet: bool) -> None:
        self.name, self.quiet = name, quiet
        self._bar: Bar | None = None

    def __enter__(self) -> Fitting:
        return self

    def step(self, done: int, total: int) -> None:
        """So many of the fit's steps are done."""
        self._bar = self._bar or Bar(self.name, total, self.quiet)
        self._bar.step(done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
