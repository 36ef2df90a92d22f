"""The Lightning system: scenes, a frozen prior, other networks and a guidance rule meet in a training step.

They meet in data. The system renders, encodes, asks the networks, applies the rule and steps the scene optimizer; it
knows nothing about any particular representation, prior or rule.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from threedistill.cameras import CameraSampler
from threedistill.conditions import Conditions, ReferenceImage
from threedistill.guidance.regularizers import Regularizers
from threedistill.guidance.reward import Reward
from threedistill.guidance.rules import is_edit, wished_x0
from threedistill.guidance.surface_noise import draw_noise
from threedistill.guidance.trajectory import Situation, collect, parts_of
from threedistill.guidance.weighting import apply
from threedistill.lights import Lighting
from threedistill.prompts import PromptSet
from threedistill.protocols import (
    Prior,
    RenderContext,
    Representation,
)
from threedistill.representations.background import BackgroundSampler, Surroundings
from threedistill.rng import Streams
from threedistill.training.optim import SceneOptimizer, apply_refinement
from threedistill.training.scenes import Scenes
from threedistill.training.stage import Guidance, Stage
from threedistill.training.start import render_unedited
from threedistill.training.student_step import Learner, Shown
from threedistill.training.thrift import thriftily
from threedistill.training.watchdog import Vital, Watchdog
from threedistill.types import (
    Appraisal,
    Cameras,
    Condition,
    Evidence,
    Lesson,
    Mesh,
    NoiseLevel,
    Rendering,
    Splats,
)

__all__ = ["Iterations", "ScoreDistillation", "Wishes"]


class ScoreDistillation(pl.LightningModule):
    """Optimise scenes under a frozen prior with a guidance rule.

    One step ascends ``E[log p]`` along ``d = w(t) g``: ``loss = <stop_grad(d), E(g(theta))> / B + regularisers``.

    Arguments:
        scenes: what is optimised (registered; in the checkpoint): one representation, or particles that take turns.
        prior: the teacher (never registered, never in the checkpoint).
        guidance: rule, noise levels, weights.
        prompts: the wordings of the prompt.
        stage: how long, how large, how shaded.
        streams: the random streams of this stage.
        max_rows: largest batch a network is given at once; None = all rows.
        networks: further frozen networks by the names under which rules ask them.
        learners: networks that learn from the renders, likewise (registered; they hold what they learn only).
        images: the reference pictures that networks are shown, where they want them.
        reward: whom the renders should please besides; None = nobody.
    """

    def __init__(
        self,
        *,
        scenes: Sequence[Representation],
        prior: Prior,
        guidance: Guidance,
        prompts: PromptSet,
        stage: Stage,
        sampler: CameraSampler,
        background: BackgroundSampler,
        light: Lighting,
        regularizers: Regularizers,
        optim: SceneOptimizer,
        watchdog: Watchdog,
        streams: Streams,
        max_rows: int | None = None,
        networks: Mapping[str, Prior] | None = None,
        learners: Mapping[str, Learner] | None = None,
        images: tuple[ReferenceImage, ...] = (),
        reward: Reward | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.scenes = Scenes(scenes)
        self.regularizers = regularizers
        self.learners: dict[str, Learner] = dict(learners or {})
        for name, learner in self.learners.items():
            self.add_module(f"learner/{name}", learner)
        self.surroundings = Surroundings(background.degree) if background.learns else None
        if self.surroundings is not None:
            optim = replace(optim, lr={**optim.lr, "surroundings": background.lr})
        # A plain dictionary keeps the frozen networks out of module registration.
        students = {name: learner.model for name, learner in self.learners.items()}
        self.networks: dict[str, Prior] = {"teacher": prior, **(networks or {}), **students}
        self.images, self.reward = images, reward
        self.poses = copy.deepcopy(guidance.poses)  # a module, which counts for this stage alone
        #: What an edit starts from, where the run was given one.
        self.unedited: Mesh | Splats | None = None
        self.guidance, self.prompts, self.stage = guidance, prompts, stage
        self.sampler, self.background, self.light, self.optim = sampler, background, light, optim
        self.watchdog, self.streams, self.max_rows = watchdog, streams, max_rows
        self.iteration: Tensor
        self.mean_color: Tensor
        # Lightning's global_step counts every optimizer's steps; the iteration is ours.
        self.register_buffer("iteration", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean_color", torch.full((3,), 0.5))
        self.metrics: dict[str, float] = {}
        #: Where asked for: what the last step saw, and what it was told.
        self.keep_wishes = False
        self.wishes: Wishes | None = None
        self._untried = True  # no step of this process has gone through yet
        #: Warnings of the watchdog, and of memory that ran out: those of the last step, and all of this process.
        self.warnings: list[str] = []
        self.warned: list[str] = []

    @property
    def prior(self) -> Prior:
        return self.networks["teacher"]

    @cached_property
    def wants(self) -> frozenset[Condition]:
        """All that any of the networks can be told."""
        return frozenset[Condition]().union(*(network.wants for network in self.networks.values()))

    def train_dataloader(self):
        """The iterations that are still to do."""
        return Iterations(int(self.iteration), self.stage.iterations).loader()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """One optimizer over the scenes' named groups, and the learners' own."""
        scene = self.optim.build(self.parameter_groups())
        return [scene, *(learner.optimizer() for learner in self.learners.values())]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What the scene's optimizer moves: the scenes' groups, and the surroundings where there are some."""
        groups = self.scenes.parameter_groups()
        own = self.surroundings
        return groups if own is None else {**groups, "surroundings": [own.coefficients]}

    def training_step(self, index: int, _batch_index: int = 0) -> None:
        """One iteration: render, ask, step; then the learners learn from the same renders."""
        progress = index / self.stage.iterations
        rng = self.streams.at(index)
        optimizer, *others = self._optimizers()
        self.optim.anneal(optimizer, progress)
        warned = len(self.warned)
        if self._untried:
            pull = thriftily(self, lambda: self._pull(optimizer, progress, rng))
        else:
            pull = self._pull(optimizer, progress, rng)
        self._untried = False
        started = time.perf_counter()
        optimizer.step()
        refinement = self.scenes.after_step(pull.turn, progress, rng)
        if refinement is not None:
            apply_refinement(optimizer, self.scenes[pull.turn], refinement)
        pull.seconds["seconds_update"] += time.perf_counter() - started
        if self.poses is not None and pull.appraisal is not None:
            self.poses.count(pull.appraisal)
        learned = self._teach(Shown(pull.x0, pull.facts, pull.lesson), others, progress, rng)
        self.iteration.fill_(index + 1)
        vital, color = _look(pull.out, progress, pull.nonfinite)
        if color is not None:  # the background law keeps away from it
            self.mean_color.lerp_(color.to(self.mean_color), 0.05)
        self.metrics = {
            "direction_rms": pull.direction_rms,
            "regularizers": pull.regularizers,
            "opacity": vital.opacity,
            "t": pull.level,
            "nonfinite": pull.nonfinite,
            **pull.rewards,
            **pull.seconds,
            **learned,
        }
        self.warned += self.watchdog.check(vital)
        self.warnings = self.warned[warned:]

    def _pull(self, optimizer: torch.optim.Optimizer, progress: float, rng: Streams) -> _Pull:
        """Render, ask, and leave the gradients with the scene's parameters; nothing else is changed."""
        started = time.perf_counter()
        facts, out, turn = self.look(progress, rng)
        x0 = self.encoded(out)
        rendered = time.perf_counter()
        evidence = self._asked(x0, facts, self.stage.along(progress), rng, out)
        direction, level, nonfinite = self._weighed(evidence, x0, self.stage.along(progress))
        asked = time.perf_counter()
        loss = self.guidance.surrogate.loss(x0, direction)
        loss_regular = self.regularizers(out, progress, direction)
        loss, rewards = loss + loss_regular, {}
        if self.reward is not None:
            values = self.reward.values(out.rgb, self.prompts.prompt)
            loss = loss + self.reward.loss(values, self.regularizers.factor, progress)
            rewards = {"reward": float(values.detach().mean())}
        optimizer.zero_grad(set_to_none=True)
        self.manual_backward(loss)
        seconds = {
            "seconds_render": rendered - started, "seconds_teacher": asked - rendered,
            "seconds_update": time.perf_counter() - asked,
        }  # fmt: skip
        return _Pull(
            facts, out, turn, x0.detach(), float(direction.square().mean().sqrt()), float(loss_regular.detach()),
            level, nonfinite, seconds, rewards, evidence.appraisal, evidence.lesson,
        )  # fmt: skip

    def _optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = self.optimizers(use_pl_optimizer=False)
        return optimizers if isinstance(optimizers, list) else [optimizers]  # pyright: ignore[reportReturnType]

    def _teach(
        self, shown: Shown, optimizers: list[torch.optim.Optimizer], progress: float, rng: Streams
    ) -> dict[str, float]:
        """The learners' steps; their numbers."""
        numbers: dict[str, float] = {}
        for (name, learner), optimizer in zip(self.learners.items(), optimizers, strict=True):
            started = time.perf_counter()
            numbers |= learner(optimizer, shown, rng, self.stage.along(progress), self.manual_backward)
            numbers[f"seconds_{name}"] = time.perf_counter() - started
        return numbers

    def look(self, progress: float, rng: Streams) -> tuple[Conditions, Rendering, int]:
        """What the views of an iteration show: the facts for the networks, the rendering, and whose scene it is."""
        cameras, background = self._views(progress, rng)
        turn = self.scenes.turn(rng)
        context = RenderContext(
            progress, background, rng, self.light.shading(rng, progress, self.stage.shading),
            self.light.direction(rng, cameras, self.prior.view_group), "normal" in self.wants,
            frozenset(self.regularizers.active(progress)),
        )  # fmt: skip
        out = self._surrounded(self.scenes[turn].render(cameras, context), cameras, progress, rng)
        background = out.background
        facts = Conditions(cameras=cameras, background=background, images=self.images)
        return facts.showing(out, self.wants), out, turn

    def _surrounded(self, out: Rendering, cameras: Cameras, progress: float, rng: Streams) -> Rendering:
        """The rendering with the surroundings in place of the plain colour, where this step has them."""
        if not self.background.surrounds:
            return out
        chosen = self.background.surrounded(rng, len(cameras), self.prior.view_group, progress)
        plain = out.background[:, None, None].expand_as(out.rgb)
        around = self.background.pictured if self.surroundings is None else self.surroundings
        behind = torch.where(chosen.to(out.rgb.device)[:, None, None, None], around(cameras).to(plain), plain)
        return replace(
            out, rgb=out.rgb + (1 - out.opacity) * (behind - plain), behind=behind,
            background=behind.detach().mean((1, 2)),
        )  # fmt: skip

    def encoded(self, out: Rendering) -> Tensor:
        """A rendering in the prior's space, differentiable."""
        space = self.prior.space
        if self.stage.latents == "encoded":
            return space.encode(out.rgb)
        picture = torch.cat([2 * out.rgb - 1, out.opacity], -1).permute(0, 3, 1, 2)
        return F.interpolate(picture, space.shape[1:], mode="bilinear", antialias=True)

    def _views(self, progress: float, rng: Streams) -> tuple[Cameras, Tensor]:
        group = self.prior.view_group
        cameras = self.sampler.sample(rng, self.stage.size(progress), group, progress=progress)
        background = self.background.sample(rng, len(cameras), group, avoid=self.mean_color)
        return cameras.to(self.device), background.to(self.device)

    def _direction(
        self, x0: Tensor, facts: Conditions, progress: float, rng: Streams, out: Rendering | None = None
    ) -> tuple[Tensor, float, int]:
        """The weighted direction for ``x0``, its mean time, and how many of its numbers were not finite."""
        return self._weighed(self._asked(x0, facts, progress, rng, out), x0, progress)

    def lesson(self, x0: Tensor, facts: Conditions, rng: Streams, out: Rendering) -> Lesson | None:
        """What learners learn from views of the finished stage in place of noised renders; None = those."""
        trajectory = parts_of(self.guidance.rule)[1]
        if trajectory is None or not trajectory.teaches:
            return None
        return self._asked(x0, facts, self.stage.along(1.0), rng, out).lesson

    @torch.no_grad()
    def _asked(
        self, x0: Tensor, facts: Conditions, progress: float, rng: Streams, out: Rendering | None = None
    ) -> Evidence:
        """What the rule looks at; the only place where networks are queried."""
        prior, guidance, views = self.prior, self.guidance, len(facts)
        level = guidance.timesteps.sample(prior.path, progress, rng, views, prior.view_group).to(x0.device)
        shown = (out, facts.cameras) if out is not None and facts.cameras is not None else None
        noise = draw_noise(guidance.rule, rng, views, prior.space.shape, shown, progress).to(x0)
        situation = Situation(
            self.networks, self.prompts.drawn(rng, views), facts, x0.detach(), level, noise, self.max_rows,
            self._unedited(facts, rng), rng, self._appraise if self.poses is not None else None,
        )  # fmt: skip
        return collect(guidance.rule, situation, progress)

    def _appraise(self, x0: Tensor, level: NoiseLevel) -> Appraisal:
        """How clean samples are posed."""
        assert self.poses is not None
        return self.poses.appraise(x0, level, self.prompts.prompt, self.prior.space, self.prior.path)

    @torch.no_grad()
    def _weighed(self, evidence: Evidence, x0: Tensor, progress: float) -> tuple[Tensor, float, int]:
        """As :meth:`_direction`, of what was found."""
        guidance = self.guidance
        g = guidance.rule(evidence, progress).to(x0)
        if self.keep_wishes:
            told = next(
                (p.x0 for name in ("cond", "own") if (p := evidence.predictions.get(name)) is not None), None
            )
            wished = wished_x0(x0.detach(), g, evidence.level)
            self.wishes = Wishes(evidence.cameras, x0.detach(), wished, told)
        weighted = apply(guidance.weighting(evidence.level), g)
        direction, nonfinite = guidance.surrogate.guard(weighted, progress)
        return direction, float(evidence.level.index.mean()), nonfinite

    def _unedited(self, facts: Conditions, rng: Streams) -> Tensor | None:
        """The encoded renders of the scene before its edit, for rules that ask for them."""
        if not is_edit(self.guidance.rule):
            return None
        cameras, background = facts.cameras, facts.background
        assert cameras is not None and background is not None
        if self.unedited is not None:
            rgb = render_unedited(self.unedited, cameras, background)
        else:
            rgb = self.scenes[self.scenes.turn(rng)].unedited(cameras)
            assert rgb is not None  # the check saw to it
        return self.prior.space.encode(rgb)


@dataclass(frozen=True)
class Wishes:
    """What a step saw and what its networks would rather see, for people who look.

    Attributes:
        cameras: of its views.
        x0: (B, C, h, w) the clean samples.
        wished: what the rule would rather see (:func:`threedistill.guidance.rules.wished_x0`).
        predicted: the teacher's clean prediction from the prompt alone; None where the rule does not ask for it.
    """

    cameras: Cameras | None
    x0: Tensor
    wished: Tensor
    predicted: Tensor | None


@dataclass(frozen=True)
class _Pull:
    """What a step saw and was told before anything was updated.

    Attributes:
        facts, out, turn: of :meth:`ScoreDistillation.look`.
        x0: the clean samples, detached.
        direction_rms, regularizers, level, nonfinite, seconds, rewards: for the log.
        appraisal, lesson: what the rule found besides, where it did.
    """

    facts: Conditions
    out: Rendering
    turn: int
    x0: Tensor
    direction_rms: float
    regularizers: float
    level: float
    nonfinite: int
    seconds: dict[str, float]
    rewards: dict[str, float]
    appraisal: Appraisal | None
    lesson: Lesson | None


@torch.no_grad()
def _look(out: Rendering, progress: float, nonfinite: int) -> tuple[Vital, Tensor | None]:
    """The vital signs of a step, and the mean colour of the object where there is one."""
    rgb, opacity = out.rgb.detach(), out.opacity.detach()
    pixels = rgb[opacity[..., 0] > 0.5]
    extreme = (pixels.amax(-1) > 0.99) & (pixels.amin(-1) < 0.01) if len(pixels) else torch.zeros(1)
    vital = Vital(
        progress=progress,
        nonfinite=nonfinite + int((~torch.isfinite(rgb)).sum()),
        opacity=float(opacity.mean()),
        fog=float((4 * opacity * (1 - opacity)).mean()),
        saturated=float(extreme.float().mean()),
    )
    total = opacity.sum()
    if not total > 1:
        return vital, None
    behind = out.background[:, None, None] if out.behind is None else out.behind.detach()
    own = (rgb - (1 - opacity) * behind).sum((0, 1, 2))
    return vital, (own / total).clamp(0, 1)


class Iterations(Dataset):
    """The indices ``start .. total - 1`` of a stage."""

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total

    def __len__(self) -> int:
        return max(self.total - self.start, 0)

    def __getitem__(self, position: int) -> int:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self.start + position

    def loader(self) -> DataLoader:
        """One index at a time, in order, in this process."""
        return DataLoader(self, batch_size=None, shuffle=False, num_workers=0)
