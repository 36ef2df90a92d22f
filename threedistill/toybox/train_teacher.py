"""Training the 128-pixel embedded prior: one run for sketch and transformer, deterministic and resumable.

    threedistill toybox train --out runs/toybox

Every step trains the sketch by ``|sketch(words, camera) - rgba|^2`` (after a head start, alone), and the transformer by

    w(t) |x0_net(x_t, t, everything told) - x0|^2,   w = min(1 / sigma^2, 5)

the error in v, bounded near t = 0 (min-SNR weighting; Hang et al. 2023, arXiv 2303.09556), around the *averaged*
sketch, which is what it will be shown. In a share of the steps reference views or the control picture come with all
examples. The rate is constant after a warm-up and falls linearly to zero over the last part, so a run may be made
longer as long as the fall has not begun. Every step's randomness is a function of (seed, step). Matrices are
multiplied in bfloat16; weights, their average and the optimizer's moments are float32.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import multiprocessing
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from threedistill.errors import UsageError
from threedistill.toybox.coloured_world import ColouredWorld
from threedistill.toybox.gbuffers import BufferSettings
from threedistill.toybox.teacher import MODULES, TeacherSettings, TransformerToyboxPipeline
from threedistill.toybox.teacher_trainer import TIMES, TeacherTraining, Trainer
from threedistill.toybox.train_shared import CHECKPOINT, in_processes, take_weights
from threedistill.toybox.train_state import read_facts

__all__ = ["export_checkpoint", "train"]

#: Bounds of the bands of times that the log tells apart.
BANDS = (0.0, 0.1, 0.35, 0.65, 0.9, 1.0)


def train(settings: TeacherTraining, start_from: str | Path | None = None) -> Path:
    """Run (or resume) a training run to its end.

    Arguments:
        settings: of the run.
        start_from: folder of another run, or of a saved pipeline, whose weights a fresh run begins with.

    Returns:
        the folder of the exported pipeline, ``out/prior``.
    """
    Path(settings.out).mkdir(parents=True, exist_ok=True)
    world = ColouredWorld(
        settings.cache, settings.world
    )  # refuses another cache's folder before work is spent
    drawing = None
    if not world.whole:
        context = multiprocessing.get_context("spawn")
        drawing = context.Process(target=_draw, args=(settings.cache, settings.world), daemon=True)
        drawing.start()
    try:
        in_processes(settings.processes, _train, settings, start_from)
    finally:
        if drawing is not None:
            drawing.terminate()
    return Path(settings.out) / "prior"


def _draw(cache: str, world: BufferSettings) -> None:
    """The process that draws the cache ahead of the training."""
    torch.set_num_threads(1)
    os.nice(1)
    ColouredWorld(cache, world).draw()


def _train(rank: int, settings: TeacherTraining, start_from: str | Path | None) -> None:
    out = Path(settings.out)
    world = ColouredWorld(settings.cache, settings.world, patience=600.0)
    trainer = Trainer(settings, world, rank)
    if not trainer.restore(out) and start_from is not None:
        trainer.start_from(Path(start_from))
    if rank:
        while trainer.step < settings.steps:
            trainer.advance()
        return
    unseen = replace(settings.world, seed=settings.world.seed + 1000, shards=1, scenes=64)
    test_world = ColouredWorld(f"{settings.cache}/unseen", unseen)
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    count = sum(p.numel() for p in trainer.weights.now.values())
    print(f"{count / 1e6:.2f} M parameters, {settings.steps} steps, from step {trainer.step}", flush=True)
    bands = [f"x0_{a:g}-{b:g}" for a, b in itertools.pairwise(BANDS)]
    log = _Log(
        out / "log.csv",
        ["step", "images", "loss", *bands, "sketch", "norm", "sketch_norm", "lr", "images_per_s", "seconds"],
        trainer.step,
    )
    tests = _Log(
        out / "test.csv", ["step", "images", *[f"x0_at_{t:g}" for t in TIMES], "sketch"], trainer.step
    )
    start, mark, marked = time.time(), time.time(), trainer.step
    held: list[dict[str, Any]] = []
    while trainer.step < settings.steps:
        held.append(trainer.advance())
        if not all(math.isfinite(held[-1].get(k, 0.0)) for k in ("loss", "sketch")):
            raise FloatingPointError(f"the loss became {held[-1]} at step {trainer.step}")
        step = trainer.step
        images = max(0, step - settings.head_start) * settings.batch
        last = step == settings.steps
        if step % settings.log_every == 0 or last:
            shown = [h for h in held if "loss" in h]
            errors: list[float] = [math.nan] * len(bands)
            if shown:
                each, t = (torch.cat([h[k] for h in shown]) for k in ("each", "t"))
                errors = [float(each[(t >= a) & (t < b)].mean()) for a, b in itertools.pairwise(BANDS)]
            mean = {k: sum(h[k] for h in held) / len(held) for k in ("sketch", "norm", "sketch_norm")}
            rate = (step - marked) / (time.time() - mark)
            rate *= settings.batch if shown else settings.sketch_batch
            loss = sum(h["loss"] for h in shown) / len(shown) if shown else math.nan
            log.write(
                [
                    step, images, f"{loss:.5f}", *[f"{x:.5f}" for x in errors], f"{mean['sketch']:.5f}",
                    f"{mean['norm']:.3f}", f"{mean['sketch_norm']:.3f}", f"{settings.rates(step)[0]:.2e}",
                    f"{rate:.1f}", f"{time.time() - start:.0f}",
                ]
            )  # fmt: skip
            held, mark, marked = [], time.time(), step
        if step % settings.save_every == 0 or last:
            trainer.save(out)
        if step > settings.head_start and (step % settings.test_every == 0 or last):
            tests.write([step, images, *[f"{x:.5f}" for x in trainer.test(test_world)]])
        if settings.sheet_every and step > settings.head_start and (step % settings.sheet_every == 0 or last):
            trainer.sheet(out / f"sheet-{step:06d}.png")
    trainer.export(out / "prior")


class _Log:
    """Rows of a CSV file, also printed; rows after the step from which a run goes on are dropped."""

    def __init__(self, path: Path, names: list[str], step: int):
        before: list[list[str]] = []
        if step and path.exists():
            with path.open(newline="") as file:
                before = [row for row in list(csv.reader(file))[1:] if row and int(row[0]) <= step]
        self._path = path
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([names, *before])
        print(*names, flush=True)

    def write(self, row: list[Any]) -> None:
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerow(row)
        print(*row, flush=True)


def export_checkpoint(run: str | Path, out: str | Path) -> int:
    """Write the averaged weights of a (running or stopped) training run as a pipeline; returns its step.

    Raises:
        UsageError: there is no checkpoint of such a run.
    """
    path = Path(run) / CHECKPOINT
    if not path.exists():
        raise UsageError(f"{run} holds no training run ({CHECKPOINT})")
    facts = read_facts(path)
    pipeline = TransformerToyboxPipeline.create(TeacherSettings(**json.loads(facts["settings"])["model"]))
    take_weights(pipeline, MODULES, Path(run))
    pipeline.save(out)
    return int(facts["step"])
