"""What a run will take, before it: bytes by what holds them, products by who computes them.

Networks are counted in their true shape on ``meta`` (:mod:`threedistill.priors.footprint`): one row through the
denoiser, one picture through the encoder and back, one row of a student's step; the rest is multiplied. How many rows a
step asks is counted by asking: the rule's own questions and its trajectory's, of networks that only count. The scene is
rendered for real at two small sizes, and what it takes is drawn on along a line in the number of pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from threedistill.conditions import Conditions
from threedistill.guidance.surface_noise import draw_noise
from threedistill.guidance.trajectory import Situation, collect
from threedistill.memory import PER_PARAMETER
from threedistill.prediction import Prediction
from threedistill.priors.footprint import Footprint, footprint, size_of
from threedistill.priors.lora import LoRAStudent
from threedistill.priors.outline import OutlinedPrior
from threedistill.priors.space import LatentSpace, PixelSpace
from threedistill.priors.student import denoising_loss
from threedistill.protocols import ImageSpace, NetworkPrior, Prior, RenderContext
from threedistill.rng import Streams
from threedistill.training.plan import RunPlan, StagePlan
from threedistill.training.scene_building import build_scene
from threedistill.types import Conditioning, NoiseLevel

__all__ = ["Need", "Rows", "SceneCost", "asked", "need_of", "rate", "scene_cost"]

_PROBES = (32, 64)


@dataclass(frozen=True)
class Rows:
    """What one step asks of networks.

    Attributes:
        total: rows of all questions of all networks.
        most: rows of the largest batch.
    """

    total: int
    most: int


@dataclass(frozen=True)
class SceneCost:
    """What a stage's scene takes, whoever the teacher is.

    Attributes:
        size: rendered pixels per side, at most.
        parameters: bytes of parameters with gradients and moments, of all particles.
        render: footprint of all views rendered.
        seconds: of that and of the way back, on this machine.
    """

    size: int
    parameters: int
    render: Footprint
    seconds: float


@dataclass(frozen=True)
class Need:
    """What one stage needs.

    Attributes:
        denoiser, encoder, scene, student, others: bytes that are there throughout: the teacher's network, what turns
            pictures into its space, parameters with gradients and moments, further frozen networks.
        texts, sight: bytes of the text encoders and of the image encoder, both gone before the first step.
        views, rows, size: of a step: pictures, its questions, rendered pixels per side.
        row, view, back, learn, render: footprints of one row asked, one view encoded, the same with its backward pass,
            one row of a student's step, all views rendered.
        seconds: of rendering all views and back, on this machine.
        one_by_one: whether views are encoded one by one.
        lessons: student steps per step.
    """

    denoiser: int
    encoder: int
    scene: int
    student: int
    others: int
    texts: int
    sight: int
    views: int
    rows: Rows
    size: int
    row: Footprint
    view: Footprint
    back: Footprint
    learn: Footprint
    render: Footprint
    seconds: float
    one_by_one: bool
    lessons: int

    @property
    def resident(self) -> int:
        """Bytes throughout."""
        return self.denoiser + self.encoder + self.scene + self.student + self.others

    @property
    def phases(self) -> dict[str, float]:
        """Bytes at the fullest moment of each part of a run."""
        at_once = 1 if self.one_by_one else self.views
        waiting = 0 if self.one_by_one else self.views * self.view.kept
        backward = self.back.peak * at_once
        resident, render = self.resident, self.render.kept
        before = self.denoiser + self.encoder + self.others + self.scene
        return {
            "reading the texts": before + self.texts,
            "looking at the pictures": before + self.sight if self.sight else 0.0,
            "rendering": resident + self.render.peak,
            "asking": resident + render + waiting + self.row.peak * self.rows.most,
            "going back through the encoder": resident + render + backward,
            "teaching the student": resident + self.learn.peak * self.views if self.student else 0.0,
        }

    @property
    def peak(self) -> float:
        """Bytes at the fullest moment of the run."""
        return max(self.phases.values())

    @property
    def flops(self) -> float:
        """Products of one step, 2 per multiply-add."""
        again = self.view.flops if self.one_by_one else 0.0
        pictures = self.views * (self.back.flops + again)
        return self.rows.total * self.row.flops + pictures + self.lessons * self.views * self.learn.flops

    def with_less(
        self, *, views: int | None = None, most: int | None = None, one_by_one: bool | None = None
    ) -> Need:
        """The same with fewer views, smaller batches, or views one by one.

        Arguments:
            views: a step's pictures; rows and renders shrink with them.
            most: rows of the largest batch.
            one_by_one: whether views are encoded one by one.
        """
        part = 1.0 if views is None else views / self.views
        rows = Rows(round(self.rows.total * part), max(1, round(self.rows.most * part)))
        render = replace(self.render, peak=int(self.render.peak * part), kept=int(self.render.kept * part))
        return replace(
            self, views=views or self.views, rows=replace(rows, most=min(rows.most, most or rows.most)), render=render,
            seconds=self.seconds * part, one_by_one=self.one_by_one if one_by_one is None else one_by_one,
        )  # fmt: skip


class _Counter(Prior):
    """Answers nothing and counts the rows of its batches."""

    licence = "none"

    def __init__(self, like: Prior, batches: list[int]) -> None:
        self.name, self.path, self.wants, self.batches = like.name, like.path, like.wants, batches
        self.space: ImageSpace = PixelSpace(1)
        self.view_group = like.view_group

    def conditioning(self, conditions: Conditions) -> Conditioning:
        return {"row": torch.zeros(len(conditions), 1)}

    def predict(self, x_t: Tensor, level: NoiseLevel, conditioning: Conditioning) -> Prediction:
        self.batches.append(len(x_t))
        return Prediction(torch.zeros_like(x_t), "eps", x_t, level)

    def pull_back(
        self, x_t: Tensor, level: NoiseLevel, conditioning: Conditioning, cotangent: Tensor
    ) -> Tensor:
        self.batches += [len(x_t)] * 3  # forward again, and backward, which costs as much as two
        return torch.zeros_like(x_t)


def asked(plan: RunPlan, stage: StagePlan, prior: Prior) -> Rows:
    """How many rows a step asks: its rule's questions, asked of nobody.

    Arguments:
        plan, stage: the run, and which of its stages.
        prior: the teacher, for its path and for what it wants.
    """
    batches: list[int] = []
    names = ["teacher", *stage.networks, *stage.learners]
    networks: dict[str, Prior] = {name: _Counter(prior, batches) for name in names}
    rng, rule = stage.scene.streams, stage.guidance.rule
    cameras = stage.cameras.sample(rng, 8, prior.view_group, progress=stage.cameras.fullest)
    views = len(cameras)
    level = stage.guidance.timesteps.sample(prior.path, 0.5, rng, views, prior.view_group)
    x0 = torch.zeros(views, 3, 1, 1)
    noise = draw_noise(rule, rng, views, (3, 1, 1))
    facts = Conditions(cameras=cameras, background=torch.ones(views, 3))
    situation = Situation(
        networks, stage.prompts.drawn(rng, views), facts, x0, level, noise, plan.trainer.max_rows, x0
    )  # fmt: skip
    with torch.no_grad():
        collect(rule, situation, stage.stage.along(0.5))
    return Rows(sum(batches), max(batches, default=0))


def scene_cost(stage: StagePlan) -> SceneCost:
    """What a stage's scene takes: it is built and rendered."""
    size = max(stage.stage.size(p / 16) for p in range(17))
    scene = build_scene(stage.scene, 0)
    numbers = sum(p.numel() for rows in scene.parameter_groups().values() for p in rows)
    render, seconds = _rendered(stage, scene, size)
    return SceneCost(size, PER_PARAMETER * numbers * stage.scene.particles, render, seconds)


def need_of(
    plan: RunPlan, stage: StagePlan, scene: SceneCost, prior: Prior, others: tuple[Prior, ...] = ()
) -> Need:
    """What a stage needs with this teacher.

    Arguments:
        plan, stage: the run, and which of its stages.
        scene: :func:`scene_cost` of the stage.
        prior: the teacher in its true shape: on ``meta``, or itself.
        others: further frozen networks, likewise.
    """
    group = prior.view_group
    vae = prior.space.vae if isinstance(prior.space, LatentSpace) else None
    student, learn, lessons = 0, Footprint(0.0, 0, 0), 0
    for learner in stage.learners.values():
        base = others[0] if learner.base is not None and others else prior
        model = learner.maker.attach(base, 0)
        learned = sum(p.numel() for p in model.parameters())
        student += PER_PARAMETER * learned
        lessons = learner.training.steps
        learn = _part(_lesson(model, base, group), group)
    return Need(
        denoiser=_bytes_of(prior), encoder=0 if vae is None else size_of(vae),
        scene=scene.parameters, student=student,
        others=sum(_bytes_of(one) for one in others),
        texts=prior.encoder_bytes if isinstance(prior, OutlinedPrior) else 0,
        sight=prior.sight_bytes if isinstance(prior, OutlinedPrior) else 0,
        views=stage.cameras.most, rows=asked(plan, stage, prior), size=scene.size,
        row=_part(_row(prior, group), group), view=_view(prior, False), back=_view(prior, True), learn=learn,
        render=scene.render, seconds=scene.seconds,
        one_by_one=isinstance(prior.space, LatentSpace) and prior.space.one_by_one, lessons=lessons,
    )  # fmt: skip


def _bytes_of(prior: Prior) -> int:
    return size_of(prior.network) if isinstance(prior, NetworkPrior) else 0


def _device_of(prior: Prior) -> torch.device:
    if isinstance(prior, NetworkPrior):
        return next(prior.network.parameters()).device
    return torch.device("cpu")


def _part(whole: Footprint, of: int) -> Footprint:
    return Footprint(whole.flops / of, whole.peak // of, whole.kept // of)


def _row(prior: Prior, rows: int) -> Footprint:
    """Some rows asked at once."""
    device = _device_of(prior)
    told = prior.conditioning(Conditions(["a"] * rows))
    level = prior.path.at_fraction(torch.full((rows,), 0.5)).to(device)
    x_t = torch.zeros(rows, *prior.space.shape, device=device)
    return footprint(lambda: prior.predict(x_t, level, told), _given(prior, x_t, *told.values()))


def _given(prior: Prior, *more: Tensor) -> list[Tensor | nn.Module]:
    found: list[Tensor | nn.Module] = list(more)
    if isinstance(prior, NetworkPrior):
        found.append(prior.network)
    if isinstance(prior.space, LatentSpace):
        found.append(prior.space.vae)
    return found


def _view(prior: Prior, back: bool) -> Footprint:
    """One picture of the prior's own size encoded, and its gradient where asked for."""
    device, space = _device_of(prior), prior.space
    size = space.size if isinstance(space, LatentSpace | PixelSpace) else 8
    picture = torch.zeros(1, size, size, 3, device=device, requires_grad=True)
    before = isinstance(space, LatentSpace) and space.one_by_one
    if isinstance(space, LatentSpace):
        space.one_by_one = False

    def work() -> object:
        x0 = space.encode(picture)
        return x0.sum().backward() if back else x0

    found = footprint(work, _given(prior, picture))
    if isinstance(space, LatentSpace):
        space.one_by_one = before
    return found


def _lesson(student: Any, base: Prior, rows: int) -> Footprint:
    """Some rows of a student's step."""
    device = _device_of(base)
    told = student.conditioning(Conditions(["a"] * rows))
    if device.type == "meta":
        told = {name: value.to(device) for name, value in told.items()}
    level = student.path.at_fraction(torch.full((rows,), 0.5)).to(device)
    x_t = torch.zeros(rows, *student.space.shape, device=device)

    def work() -> None:
        denoising_loss(student.answer(x_t, level, told), x_t, x_t).mean().backward()

    modules: list[Tensor | nn.Module] = [
        student,
        *([student.twin] if isinstance(student, LoRAStudent) else []),
    ]
    return footprint(work, [*_given(base, x_t, *told.values()), *modules])


def _rendered(stage: StagePlan, scene: Any, size: int) -> tuple[Footprint, float]:
    """All views rendered, and the seconds of that and of the way back, drawn on from two small sizes."""
    found: list[tuple[Footprint, float]] = []
    sizes = [min(probe, size) for probe in _PROBES]
    rng: Streams = stage.scene.streams
    for side in sizes:
        cameras = stage.cameras.sample(rng, side, progress=stage.cameras.fullest)
        behind = torch.ones(len(cameras), 3)
        terms = frozenset(stage.regularizers.active(0.5))
        context = RenderContext(0.5, behind, rng, stage.stage.shading, terms=terms)

        def work(cameras: Any = cameras, context: RenderContext = context) -> object:
            return scene.render(cameras, context)

        counted = footprint(work, [scene])
        work()
        start = time.perf_counter()
        out: Any = work()
        out.rgb.sum().backward()
        found.append((counted, time.perf_counter() - start))

    def drawn_on(low: float, high: float) -> float:
        if sizes[0] == sizes[1]:
            return high
        slope = max(high - low, 0.0) / (sizes[1] ** 2 - sizes[0] ** 2)
        return high + slope * (size**2 - sizes[1] ** 2)

    (low, fast), (high, slow) = found
    whole = Footprint(
        drawn_on(low.flops, high.flops),
        int(drawn_on(low.peak, high.peak)),
        int(drawn_on(low.kept, high.kept)),
    )
    return whole, drawn_on(fast, slow)


def rate(device: torch.device, seconds: float = 0.3) -> float:
    """Products per second of this machine, measured on convolutions like those of a UNet.

    Arguments:
        device: where.
        seconds: about as long as it may take.
    """
    half = torch.float16 if device.type == "cuda" else torch.float32
    x = torch.randn(1, 128, 64, 64, device=device, dtype=half).to(memory_format=torch.channels_last)
    weight = torch.randn(128, 128, 3, 3, device=device, dtype=half)
    products = 2.0 * x.numel() * 128 * 9

    def once() -> float:
        start = time.perf_counter()
        nn.functional.conv2d(x, weight, padding=1)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return products / _least(once, seconds)


def _least(once: Callable[[], float], seconds: float) -> float:
    once()
    spans = [once()]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        spans.append(once())
    return min(spans)
