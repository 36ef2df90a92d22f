"""A training run of the 128-pixel prior: its settings, its state, and one step of it.

See :mod:`threedistill.toybox.train_teacher` for what is minimised.
"""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from threedistill.toybox.coloured_world import ColouredWorld, Examples
from threedistill.toybox.conditioning import FOLD, fold
from threedistill.toybox.dataset import DrawSettings
from threedistill.toybox.gbuffers import BufferSettings
from threedistill.toybox.networks import harmonics
from threedistill.toybox.teacher import (
    MODULES,
    TeacherSettings,
    TransformerToyboxPipeline,
    conditioning,
)
from threedistill.toybox.train_prior import spread
from threedistill.toybox.train_shared import (
    CHECKPOINT,
    AveragedWeights,
    refuse_other_settings,
    take_weights,
    write_sheet,
)
from threedistill.toybox.train_state import load_state, read_facts, save_state

__all__ = ["TIMES", "TeacherTraining", "Trainer"]

MAX_WEIGHT = 5.0
#: Where unseen scenes are tested.
TIMES = (0.05, 0.2, 0.5, 0.7, 0.9, 0.97, 0.999)


@dataclass(frozen=True)
class TeacherTraining:
    """A training run.

    Attributes:
        out, cache: folders.
        images: how many pictures the transformer is shown in all.
        batch: pictures per step.
        lr, warmup: of the transformer's AdamW, and the steps over which it rises.
        fall: share of the steps, at the end, over which the rate falls to zero.
        head_start: steps of the sketch alone before.
        sketch_batch, sketch_lr: of the sketch.
        weight_decay, ema: of both; the average's decay is ramped.
        time_bands: (share, from, to): how the times of a batch are spread.
        references, control: shares of the steps with reference views (1 to 4) and with the control picture.
        first_shards, shard_every: shards of the cache at the start, and steps after which there is one more.
        precision: of matrix products.
        seed: of everything.
        log_every, save_every, test_every, sheet_every: steps.
        processes: share the rows of every batch (one thread each).
        compiled: the transformer's usual step (no reference views, no control picture) runs through ``torch.compile``,
            which needs a C++ compiler.
    """

    out: str
    cache: str
    images: int = 2_000_000
    batch: int = 32
    lr: float = 1e-3
    warmup: int = 200
    fall: float = 0.2
    head_start: int = 300
    sketch_batch: int = 96
    sketch_lr: float = 1e-3
    weight_decay: float = 0.01
    ema: float = 0.9995
    time_bands: tuple[tuple[float, float, float], ...] = (
        (0.10, 0.99, 1.0),
        (0.25, 0.93, 0.99),
        (0.65, 0.0, 0.93),
    )
    references: float = 0.2
    control: float = 0.1
    first_shards: int = 2
    shard_every: int = 100
    precision: str = "bfloat16"
    seed: int = 0
    log_every: int = 25
    save_every: int = 100
    test_every: int = 500
    sheet_every: int = 1000
    processes: int = 1
    compiled: bool = False
    device: str = "cpu"
    model: TeacherSettings = field(default_factory=TeacherSettings)
    world: BufferSettings = field(default_factory=BufferSettings)
    draw: DrawSettings = field(default_factory=DrawSettings)

    def __post_init__(self) -> None:
        if self.processes < 1 or self.batch % self.processes or self.sketch_batch % self.processes:
            raise ValueError(
                f"batch={self.batch} and sketch_batch={self.sketch_batch} cannot be shared equally by "
                f"processes={self.processes}"
            )

    @property
    def steps(self) -> int:
        return self.head_start + math.ceil(self.images / self.batch)

    def falling(self, step: int) -> float:
        """1, then linearly down to 0 over the last ``fall`` of the steps."""
        return min(1.0, (self.steps - step) / max(1.0, self.fall * self.steps))

    def rates(self, step: int) -> tuple[float, float]:
        """The learning rates of transformer and sketch."""
        own = step - self.head_start
        down = self.falling(step)
        return (
            self.lr * min(1.0, (own + 1) / self.warmup) * down if own >= 0 else 0.0,
            self.sketch_lr * min(1.0, (step + 1) / 100) * down,
        )

    def shards(self, step: int) -> int:
        return min(self.world.shards, self.first_shards + step // self.shard_every)

    def shown(self, step: int) -> tuple[int, bool]:
        """How many reference views a step's examples come with, and whether with control pictures."""
        rng = np.random.default_rng([self.seed, step, 2])
        u, count = rng.random(), int(rng.integers(1, self.world.views))
        return (count if u < self.references else 0), u >= 1 - self.control


class Trainer:
    """The state of a run and its step; :func:`train` loops over it.

    Arguments:
        settings: of the run.
        world: the pictures.
        rank: which of ``settings.processes`` equal shares of every batch is this process's.
    """

    def __init__(self, settings: TeacherTraining, world: ColouredWorld, rank: int = 0):
        self.settings, self.world, self.rank = settings, world, rank
        self.dtype = getattr(torch, settings.precision)
        torch.manual_seed(settings.seed)
        self.pipeline = TransformerToyboxPipeline.create(settings.model)
        self.modules = nn.ModuleDict({name: getattr(self.pipeline, name) for name in MODULES}).to(
            settings.device
        )
        for name in ("transformer", "sketch", "view_encoder"):
            self.modules[name].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.pipeline.text_encoder.requires_grad_(False)
        self.weights = AveragedWeights(self.modules)
        # The sketch as the transformer is shown it: its parameters *are* the average.
        self.shown_sketch = copy.deepcopy(self.pipeline.sketch).requires_grad_(False)
        for k, p in self.shown_sketch.named_parameters():
            p.data = self.weights.average[f"sketch.{k}"]
        of_sketch = [p for k, p in self.weights.now.items() if k.startswith("sketch.")]
        rest = [
            p
            for k, p in self.weights.now.items()
            if k.startswith(("transformer.", "view_encoder.")) and p.requires_grad
        ]
        self.optimizer = torch.optim.AdamW(
            [{"params": rest}, {"params": of_sketch}], betas=(0.9, 0.99), weight_decay=settings.weight_decay,
            fused=True,
        )  # fmt: skip
        self.step = 0
        self._compiled = torch.compile(self._cast, dynamic=False) if settings.compiled else self._cast

    def ask(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """A component's answer, computed in the run's precision; gradients reach the float32 weights."""
        usual = (
            name == "transformer"
            and torch.is_grad_enabled()
            and kwargs.keys().isdisjoint({"views", "control"})
        )
        return (self._compiled if usual else self._cast)(name, *args, **kwargs)

    def _cast(self, name: str, *args: Any, **kwargs: Any) -> Any:
        module = self.modules[name]
        return functional_call(
            module, {k: p.to(self.dtype) for k, p in module.named_parameters()}, args, kwargs
        )

    def sketch_loss(self, step: int) -> Tensor:
        """``|sketch - rgba|^2`` of this process's rows."""
        s = self.settings
        batch = self.world.batch(
            s.sketch_batch, s.draw, s.seed + 1, step, s.shards(step), pixels=s.model.size // 2,
            rows=slice(self.rank, None, s.processes),
        )  # fmt: skip
        with torch.no_grad():
            text = self.pipeline.encode_text(batch.captions)
        # The two parts of the sketch in one functional call each would cast the weights twice.
        module = self.pipeline.sketch
        weights = {k: p.to(self.dtype) for k, p in module.named_parameters()}
        picture = functional_call(
            _Whole(module), {f"sketch.{k}": w for k, w in weights.items()},
            (text.to(self.dtype), batch.cameras.to(s.device)),
        )  # fmt: skip
        return F.mse_loss(picture.float(), batch.rgba.to(s.device))

    def told(self, batch: Examples) -> dict[str, Tensor]:
        """What the transformer is told of a batch."""
        with torch.no_grad():
            tokens = self.shown_sketch.tokens(self.pipeline.encode_text(batch.captions))
            told = self.shown_sketch.told(tokens)
            picture = self.shown_sketch(told, batch.cameras.to(tokens.device))
            inputs = conditioning(tokens, told, picture, batch.cameras, batch.background)
        if batch.references is not None and batch.reference_cameras is not None:
            cameras = harmonics(batch.reference_cameras.flatten(0, 1)).unflatten(
                0, batch.reference_cameras.shape[:2]
            )
            inputs["views"] = self.ask("view_encoder", batch.references.to(tokens), cameras.to(tokens))
        if batch.control is not None:
            inputs["control"] = fold(batch.control)
        return {k: v.to(self.settings.device) for k, v in inputs.items()}

    def loss(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean loss of this process's rows of a step, their errors in x0, and their times."""
        s = self.settings
        rows = slice(self.rank, None, s.processes)
        references, control = s.shown(step)
        batch = self.world.batch(
            s.batch, s.draw, s.seed, step, s.shards(step), references=references, control=control, rows=rows
        )
        generator = torch.Generator().manual_seed((s.seed << 32) + step)
        u = (torch.arange(s.batch) + torch.rand(s.batch, generator=generator)) / s.batch  # stratified
        u = u[torch.randperm(s.batch, generator=generator)]
        t = (spread(u, s.time_bands) * 1000).clamp(0, 999)[rows]
        cells = s.model.size // FOLD
        noise = torch.randn((s.batch, 3 * FOLD**2, cells, cells), generator=generator)[rows]
        return (*self.denoise(batch, t, noise), t)

    def denoise(self, batch: Examples, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The weighted mean loss and the errors in x0 at times ``t`` (steps of the path)."""
        x0 = fold(batch.images)
        table: Tensor = self.pipeline.transformer.log_snr
        low = t.floor().long().clamp(max=len(table) - 2)
        log_snr = torch.lerp(table[low].cpu(), table[low + 1].cpu(), t - low).view(-1, 1, 1, 1)
        x_t = torch.sigmoid(log_snr).sqrt() * x0 + torch.sigmoid(-log_snr).sqrt() * noise
        device = self.settings.device
        found = self.ask("transformer", x_t.to(device), t.to(device), **self.told(batch)).sample
        each = (found.float() - x0.to(device)).square().mean((1, 2, 3))
        weight = (1 / torch.sigmoid(-log_snr)).clamp(max=MAX_WEIGHT).view(-1).to(device)
        return (each * weight).mean(), each.detach().cpu()

    def advance(self) -> dict[str, Any]:
        """One optimizer step; returns what the log needs."""
        s = self.settings
        for group, rate in zip(self.optimizer.param_groups, s.rates(self.step)):
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sketch = self.sketch_loss(self.step)
        sketch.backward()
        facts: dict[str, Any] = {"sketch": float(sketch.detach())}
        if self.step >= s.head_start:
            loss, each, t = self.loss(self.step)
            loss.backward()
            facts |= {"loss": float(loss.detach()), "each": each, "t": t / 1000}
        self.weights.share_gradients(s.processes)
        for group, name in zip(self.optimizer.param_groups, ("norm", "sketch_norm")):
            facts[name] = float(nn.utils.clip_grad_norm_(group["params"], 1.0))
        self.optimizer.step()
        self.weights.follow(self.step, s.ema)
        self.step += 1
        return facts

    def start_from(self, folder: Path) -> None:
        """Begin with the weights of another run or of a saved pipeline."""
        take_weights(self.pipeline, MODULES, folder)
        self.weights.begin()

    @torch.no_grad()
    def test(self, world: ColouredWorld, count: int = 64) -> list[float]:
        """Errors in x0 of the averaged weights on unseen scenes at :data:`TIMES`, and the sketch's; all is told."""
        with self.weights.shown():
            draw = DrawSettings(
                camera_told=1, background_told=1, text_null=0, view_words=0, degraded=0, white=0.5
            )
            batch = world.batch(count, draw, 99, 0, 1)
            noise = torch.randn(
                (count, 3 * FOLD**2, *(x // FOLD for x in batch.images.shape[-2:])),
                generator=torch.Generator().manual_seed(5),
            )
            # Swapped: what is shown is the average, which is now in the weights.
            shown, self.shown_sketch = self.shown_sketch, self.pipeline.sketch
            try:
                found = []
                for time_ in TIMES:
                    each = self.denoise(batch, torch.full((count,), time_ * 1000), noise)[1]
                    found.append(float(each.mean()))
                tokens = self.shown_sketch.tokens(self.pipeline.encode_text(batch.captions))
                picture = self.shown_sketch(self.shown_sketch.told(tokens), batch.cameras)
                half = F.avg_pool2d(batch.rgba, 2)
                found.append(float(F.mse_loss(picture, half)))
            finally:
                self.shown_sketch = shown
        return found

    def save(self, folder: Path) -> None:
        """Write weights, average, optimizer moments and the step; the last good checkpoint stays until then."""
        facts = {"settings": json.dumps(asdict(self.settings))}
        save_state(
            folder / CHECKPOINT, self.weights.now, self.weights.average, self.optimizer, self.step, facts
        )

    def restore(self, folder: Path) -> bool:
        """Continue from :meth:`save`'s file if it is there."""
        path = folder / CHECKPOINT
        if not path.exists():
            return False
        facts = read_facts(path)
        stored, step = json.loads(facts["settings"]), int(facts["step"])
        free = {"out", "cache", "device", "processes", "compiled"}  # what changes nothing of what is computed
        free |= {"log_every", "save_every", "test_every", "sheet_every"}
        s = self.settings
        before = s.head_start + math.ceil(stored["images"] / s.batch)
        open_ended = min(s.steps, before) * (1 - s.fall) > step  # until the rate begins to fall
        if open_ended:
            free.add("images")
        refuse_other_settings(stored, s, free, path)
        self.step = load_state(path, self.weights.now, self.weights.average, self.optimizer)
        return True

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a fp16 pipeline."""
        with self.weights.shown():
            self.pipeline.save(folder)

    def sheet(self, path: Path) -> None:
        """A picture of samples of the averaged weights."""
        with self.weights.shown():
            write_sheet(self.pipeline, path)


class _Whole(nn.Module):
    """The sketch from hidden states to picture as one module."""

    def __init__(self, sketch: nn.Module):
        super().__init__()
        self.sketch: Any = sketch

    def forward(self, text: Tensor, cameras: Tensor) -> Tensor:
        return self.sketch(self.sketch.told(self.sketch.tokens(text)), cameras)
