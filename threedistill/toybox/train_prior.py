"""Training the embedded prior: deterministic, resumable, on CPU or GPU from the same settings.

    threedistill toybox train --out runs/toybox --images 300000

First the sketch (:mod:`threedistill.toybox.train_sketch`), then, with the sketch frozen, the UNet by one loss:
``w(t) |x0_net(x_t, t, text, camera, background) - x0|^2`` with ``w = min(1 / sigma^2, 5)``, the error in v
(``1 / sigma^2``) kept bounded near t = 0; nearly half of the times are from the noisy end, where words, camera and
background are the only signal: below t = 0.9 T kind, colour and pose can be read off x_t, and the network would hardly
learn to listen. Every step's
randomness is a function of (seed, step), so a resumed run repeats an uninterrupted one. Checkpoints are safetensors
and JSON; nothing is unpickled.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threedistill.toybox.conditioning import background_vectors, fold
from threedistill.toybox.dataset import DrawSettings, RenderedWorld, WorldSettings
from threedistill.toybox.model import ModelSettings, ToyboxPipeline
from threedistill.toybox.networks import Sketch
from threedistill.toybox.train_shared import (
    CHECKPOINT,
    AveragedWeights,
    in_processes,
    refuse_other_settings,
    take_weights,
    write_sheet,
)
from threedistill.toybox.train_sketch import SketchSettings, train_sketch
from threedistill.toybox.train_state import load_state, read_facts, save_state

__all__ = ["TrainSettings", "Trainer", "export_checkpoint", "fresh_pipeline", "spread", "train"]

MAX_WEIGHT = 5.0
PARTS = ("unet", "text_encoder", "camera_tokens", "sketch")


@dataclass(frozen=True)
class TrainSettings:
    """A training run.

    Attributes:
        out: folder for checkpoints, the log and sample sheets.
        cache: folder of the rendered world.
        images: how many pictures are shown in all; the learning rate falls to 0 over them.
        batch: pictures per step.
        lr: peak learning rate of AdamW, reached after ``warmup`` steps, then a half cosine.
        weight_decay: of AdamW.
        ema: decay of the weights' moving average, ramped as ``min(ema, (1 + step) / (10 + step))``.
        time_bands: (share, from, to): how the times of a batch are spread, as fractions of the schedule.
        seed: of everything.
        log_every, sheet_every, save_every: steps (``sheet_every=0``: no sample sheets).
        device: "cpu", "cuda" ...
        sketch: the first phase.
        processes: share the rows of every batch (data parallel over gloo, one thread each): on a CPU two processes
            of one thread show 1.5 times the pictures of one process of two. The mathematics stays the same.
    """

    out: str
    cache: str
    images: int = 300_000
    batch: int = 32
    lr: float = 1.2e-3
    warmup: int = 200
    weight_decay: float = 0.01
    ema: float = 0.999
    time_bands: tuple[tuple[float, float, float], ...] = (
        (0.15, 0.99, 1.0),
        (0.30, 0.93, 0.99),
        (0.55, 0.0, 0.93),
    )
    seed: int = 0
    log_every: int = 50
    sheet_every: int = 1500
    save_every: int = 500
    device: str = "cpu"
    processes: int = 1
    sketch: SketchSettings = field(default_factory=SketchSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    world: WorldSettings = field(default_factory=WorldSettings)
    draw: DrawSettings = field(default_factory=DrawSettings)

    def __post_init__(self) -> None:
        if self.processes < 1 or self.batch % self.processes:
            raise ValueError(f"batch={self.batch} cannot be shared equally by processes={self.processes}")

    @property
    def steps(self) -> int:
        return math.ceil(self.images / self.batch)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, then ``lr (1 + cos(pi u)) / 2`` over the rest."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        u = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, u)))


def spread(u: Tensor, bands: Sequence[tuple[float, float, float]]) -> Tensor:
    """Uniform numbers in [0, 1) turned into times: a share of them uniform in each band (share, from, to)."""
    out, begin = torch.zeros_like(u), 0.0
    for share, low, high in bands:
        inside = (u >= begin) & (u < begin + share)
        out = torch.where(inside, low + (high - low) * (u - begin) / share, out)
        begin += share
    return out


def fresh_pipeline(settings: TrainSettings) -> ToyboxPipeline:
    """An untrained pipeline, the same for the same seed."""
    torch.manual_seed(settings.seed)
    return ToyboxPipeline.create(settings.model)


class Trainer:
    """The state of a run and its step; :func:`train` loops over it.

    Arguments:
        settings: of the run.
        world: the pictures.
        rank: which of ``settings.processes`` equal shares of every batch is this process's.
    """

    def __init__(self, settings: TrainSettings, world: RenderedWorld, rank: int = 0):
        self.settings, self.world, self.rank = settings, world, rank
        self.pipeline = fresh_pipeline(settings)
        self.modules = nn.ModuleDict({part: getattr(self.pipeline, part) for part in PARTS}).to(
            settings.device
        )
        self.pipeline.unet.to(memory_format=torch.channels_last)
        self.modules.train()
        # Trained along, the text encoder forgets the words before the UNet has learnt to use them ("a red duck" and
        # "a red car" became equal to 1 %). Frozen, its random features keep every word apart, which is all it is for.
        self.pipeline.text_encoder.requires_grad_(False)
        self.pipeline.sketch.requires_grad_(False)  # trained before, on its own
        self.weights = AveragedWeights(self.modules)
        self.optimizer = torch.optim.AdamW(
            [p for p in self.weights.now.values() if p.requires_grad],
            lr=settings.lr,
            betas=(0.9, 0.99),
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.alphas = self.pipeline.scheduler.alphas_cumprod.to(settings.device)
        self.step = 0

    def loss(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The mean loss of this process's rows of a step, the per-picture losses and the per-picture times."""
        s = self.settings
        rows = slice(self.rank, None, s.processes)
        batch = self.world.batch(s.batch, s.draw, s.seed, step)
        generator = torch.Generator().manual_seed((s.seed << 32) + step)
        device = s.device
        # Everything random is drawn for the whole batch, so sharing it does not change the run.
        u = (torch.arange(s.batch) + torch.rand(s.batch, generator=generator)) / s.batch  # stratified
        t = (spread(u, s.time_bands) * len(self.alphas)).long().clamp(max=len(self.alphas) - 1)[rows]
        x0 = fold(batch.images)
        noise = torch.randn(x0.shape, generator=generator)[rows].to(device)
        x0 = x0[rows].to(device)
        alpha_bar = self.alphas[t.to(device)].view(-1, 1, 1, 1)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        x_t = (alpha * x0 + sigma * noise).contiguous(memory_format=torch.channels_last)
        backgrounds = background_vectors(batch.background, s.batch) * batch.background_told[:, None].float()
        inputs = self.pipeline.condition(
            self.pipeline.encode_text(batch.captions[rows]),
            batch.told_cameras[rows].to(device),
            backgrounds[rows].to(device),
        )
        prediction = self.pipeline.unet(x_t, t.to(device), **inputs).sample
        weight = (1 / sigma.square()).clamp(max=MAX_WEIGHT).view(-1)
        each = F.mse_loss(prediction, x0, reduction="none").mean((1, 2, 3)) * weight
        return each.mean(), each.detach().cpu(), t

    def advance(self) -> tuple[float, Tensor, Tensor, float]:
        """One optimizer step; returns the loss, per-picture losses and times, and the gradient norm."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate(self.step)
        loss, each, t = self.loss(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.weights.share_gradients(s.processes)
        norm = float(nn.utils.clip_grad_norm_(self.weights.now.values(), 1.0))
        self.optimizer.step()
        self.weights.follow(self.step, s.ema)
        self.step += 1
        return float(loss.detach()), each, t, norm

    def start_from(self, folder: Path) -> None:
        """Begin with the weights of another run or of a saved pipeline."""
        take_weights(self.pipeline, PARTS, folder)
        self.weights.begin()

    def take_sketch(self, folder: Path) -> None:
        """Take the sketch that the first phase left."""
        trained = Sketch.from_pretrained(folder, local_files_only=True)
        self.pipeline.sketch.load_state_dict(trained.state_dict())
        self.weights.begin()

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
        free = {"out", "cache", "device", "processes", "log_every", "sheet_every", "save_every"}
        refuse_other_settings(json.loads(read_facts(path)["settings"]), self.settings, free, path)
        self.step = load_state(path, self.weights.now, self.weights.average, self.optimizer)
        return True

    def export(self, folder: Path) -> None:
        """Write the averaged weights as a fp16 pipeline."""
        with self.weights.shown():
            self.pipeline.save(folder)

    def sheet(self, path: Path) -> None:
        """A picture of samples of the averaged weights."""
        self.modules.eval()
        with self.weights.shown():
            write_sheet(self.pipeline, path)
        self.modules.train()


def train(settings: TrainSettings, start_from: str | Path | None = None) -> Path:
    """Run (or resume) a training run to its end.

    Arguments:
        settings: of the run.
        start_from: folder of another run, or of a saved pipeline, whose weights a fresh run begins with.

    Returns:
        the folder of the exported pipeline, ``out/prior``.
    """
    world = RenderedWorld(settings.cache, settings.world)  # rendered once, before the processes share it
    if settings.sketch.images and not (Path(settings.out) / CHECKPOINT).exists():
        _draw_sketch(settings, world, start_from)
    in_processes(settings.processes, _train, settings, start_from)
    return Path(settings.out) / "prior"


def _draw_sketch(settings: TrainSettings, world: RenderedWorld, start_from: str | Path | None) -> None:
    """The first phase: leaves ``out/sketch``, which reads the text encoder of the second phase."""
    out = Path(settings.out)
    if (out / "sketch" / "config.json").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    pipeline = fresh_pipeline(settings)
    if start_from is not None:
        take_weights(pipeline, PARTS, Path(start_from))
    for part in PARTS:
        getattr(pipeline, part).to(settings.device).requires_grad_(part == "sketch")
    train_sketch(pipeline, world, settings.sketch, settings.draw, settings.seed, out)
    pipeline.sketch.save_pretrained(out / "sketch")


def _train(rank: int, settings: TrainSettings, start_from: str | Path | None) -> None:
    out = Path(settings.out)
    out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(settings, RenderedWorld(settings.cache, settings.world), rank)
    resumed = trainer.restore(out)
    if not resumed and start_from is not None:
        trainer.start_from(Path(start_from))
    if not resumed and (out / "sketch").exists():
        trainer.take_sketch(out / "sketch")
    if rank:
        while trainer.step < settings.steps:
            trainer.advance()
        return
    (out / "settings.json").write_text(json.dumps(asdict(settings), indent=1))
    count = sum(p.numel() for p in trainer.weights.now.values())
    print(f"{count / 1e6:.2f} M parameters, {settings.steps} steps, from step {trainer.step}", flush=True)
    log_path = out / "log.csv"
    fresh = not (resumed and log_path.exists())
    with log_path.open("w" if fresh else "a", newline="") as file:
        log = csv.writer(file)
        if fresh:
            log.writerow(
                ["step", "images", "loss", "low", "middle", "high", "lr", "grad", "images_per_s", "seconds"]
            )
        start, mark, marked = time.time(), time.time(), trainer.step
        held: list[tuple[float, Tensor, Tensor, float]] = []
        while trainer.step < settings.steps:
            held.append(trainer.advance())
            if not math.isfinite(held[-1][0]):
                raise FloatingPointError(f"the loss became {held[-1][0]} at step {trainer.step}")
            step = trainer.step
            if step % settings.log_every == 0 or step == settings.steps:
                each, t = torch.cat([h[1] for h in held]), torch.cat([h[2] for h in held])
                thirds = [
                    float(each[(t >= lo) & (t < hi)].mean()) for lo, hi in ((0, 333), (333, 667), (667, 1000))
                ]
                rate = (step - marked) * settings.batch / (time.time() - mark)
                row = [
                    step, step * settings.batch, round(sum(h[0] for h in held) / len(held), 5),
                    *[round(x, 5) for x in thirds], f"{settings.learning_rate(step):.2e}",
                    round(sum(h[3] for h in held) / len(held), 3), round(rate, 1), round(time.time() - start, 1),
                ]  # fmt: skip
                log.writerow(row)
                file.flush()
                print(*row, flush=True)
                held, mark, marked = [], time.time(), step
            if step % settings.save_every == 0 or step == settings.steps:
                trainer.save(out)
            if settings.sheet_every and (step % settings.sheet_every == 0 or step == settings.steps):
                trainer.sheet(out / f"sheet-{step:06d}.png")
    trainer.export(out / "prior")


def export_checkpoint(run: str | Path, out: str | Path) -> int:
    """Write the averaged weights of a (running or stopped) training run as a pipeline; returns its step."""
    facts = read_facts(Path(run) / CHECKPOINT)
    stored = json.loads(facts["settings"])["model"]
    pipeline = ToyboxPipeline.create(ModelSettings(**{**stored, "channels": tuple(stored["channels"])}))
    take_weights(pipeline, PARTS, Path(run))
    pipeline.save(out)
    return int(facts["step"])
