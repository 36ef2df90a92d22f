"""Training the sketch, the first phase of the embedded prior: ``E[rgba | words, camera]`` by plain regression.

One loss: ``|sketch(words, camera) - rgba|^2`` over the folded premultiplied pictures, whose minimum is the conditional
mean. Deterministic and resumable like the second phase (:mod:`threedistill.toybox.train_prior`).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from threedistill.toybox.conditioning import fold
from threedistill.toybox.dataset import DrawSettings, RenderedWorld
from threedistill.toybox.model import ToyboxPipeline
from threedistill.toybox.networks import Sketch
from threedistill.toybox.train_state import load_state, save_state

__all__ = ["SketchSettings", "sketch_loss", "train_sketch"]


@dataclass(frozen=True)
class SketchSettings:
    """The first phase.

    Attributes:
        images: how many pictures are shown; 0 leaves the sketch as it is.
        batch: pictures per step.
        lr: peak rate of AdamW, a half cosine down to 0 after 100 warm-up steps.
        weight_decay: of AdamW.
        ema: decay of the weights' moving average, ramped.
        save_every, log_every: steps.
    """

    images: int = 800_000
    batch: int = 128
    lr: float = 2e-3
    weight_decay: float = 0.01
    ema: float = 0.998
    save_every: int = 500
    log_every: int = 100

    @property
    def steps(self) -> int:
        return math.ceil(self.images / self.batch)

    def learning_rate(self, step: int) -> float:
        """A warm-up of 100 steps, then a half cosine."""
        return self.lr * min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / self.steps))


def train_sketch(
    pipeline: ToyboxPipeline,
    world: RenderedWorld,
    settings: SketchSettings,
    draw: DrawSettings,
    seed: int,
    out: Path,
) -> None:
    """Train ``pipeline.sketch`` in place; continues what is in ``out/sketch.safetensors``.

    Arguments:
        pipeline: its frozen text encoder is read, its sketch trained.
        world: the pictures.
        settings: of this phase.
        draw: what is told how often.
        seed: of everything random.
        out: folder of the checkpoint.
    """
    net: Sketch = pipeline.sketch
    named = dict(net.named_parameters())
    average = {k: p.detach().clone() for k, p in named.items()}
    optimizer = torch.optim.AdamW(
        named.values(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )
    path = out / "sketch.safetensors"
    first = load_state(path, named, average, optimizer) if path.exists() else 0
    mark, total = time.time(), 0.0
    for step in range(first, settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(step)
        loss = sketch_loss(pipeline, world, draw, settings.batch, seed, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.values()), [p.detach() for p in named.values()], 1 - decay)
        total += float(loss.detach())
        if (step + 1) % settings.log_every == 0:
            rate = settings.log_every * settings.batch / (time.time() - mark)
            print(
                f"sketch {step + 1}/{settings.steps} loss {total / settings.log_every:.5f} {rate:.0f}/s",
                flush=True,
            )
            mark, total = time.time(), 0.0
        if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
            save_state(path, named, average, optimizer, step + 1)
    with torch.no_grad():
        for k, p in named.items():
            p.copy_(average[k])


def sketch_loss(
    pipeline: ToyboxPipeline, world: RenderedWorld, draw: DrawSettings, size: int, seed: int, step: int
) -> torch.Tensor:
    """``|sketch(words, camera) - rgba|^2`` of one step's pictures; a pure function of its arguments."""
    batch = world.batch(size, draw, seed, step)
    device = pipeline.sketch.device
    with torch.no_grad():
        text = pipeline.encode_text(batch.captions)
    return F.mse_loss(pipeline.sketch(text, batch.told_cameras.to(device)), fold(batch.rgba).to(device))
