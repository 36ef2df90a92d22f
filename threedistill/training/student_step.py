"""A learner's part of a step: its student learns to denoise the renders that the scene has just shown.

Its loss never meets the scene's: it sees detached renders, has its own optimizer, and comes after the scene's step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from threedistill.conditions import Conditions
from threedistill.priors.student import denoising_loss, drop_cameras
from threedistill.prompts import PromptSet, role_of
from threedistill.protocols import Student, TimestepPolicy
from threedistill.rng import Streams
from threedistill.training.optim import Betas
from threedistill.types import Cameras, Conditioning, Lesson, NoiseLevel
from threedistill.values import Count, Fraction, Within, settings

__all__ = ["MAIN", "Gains", "Learner", "Shown", "StudentTraining"]

#: The learner that ``student=`` chooses; its numbers have no name before them.
MAIN = "student"


@settings
class StudentTraining:
    """How the student learns.

    Arguments:
        steps: optimizer steps per scene step, each with fresh noise on all views.
        lr: AdamW's rate, reached after ``warmup`` of its steps.
        warmup: optimizer steps of linear warm-up.
        camera_dropout: how often a camera is withheld; what only its null camera has (ESD) is learned from what is
            seen without one.
        camera_dropout_of: whether it is withheld from each ``sample`` by itself or from a whole ``batch``.
        timesteps: at which noise levels it learns; None = those at which the rule asks.
        measured_at: at which noise levels its gains are taken; None = those at which it learns. Levels that
            do not move with progress make gains comparable along a run and between settings.
        betas, weight_decay: of AdamW.
        measure_every: scene steps between measurements of what it has learned.
    """

    steps: Annotated[int, Within(1, 1000)] = 2
    lr: Annotated[float, Within(0, 100, "(]")] = 1e-3
    warmup: Annotated[int, Within(0)] = 20
    camera_dropout: Fraction = 0.1
    camera_dropout_of: Literal["sample", "batch"] = "sample"
    timesteps: TimestepPolicy | None = None
    measured_at: TimestepPolicy | None = None
    betas: Betas = (0.9, 0.99)
    weight_decay: Annotated[float, Within(0, 100)] = 0.0
    measure_every: Count = 25

    def rate(self, step: int) -> float:
        """The learning rate of the student's own step number ``step``."""
        return self.lr * min(1.0, (step + 1) / (self.warmup + 1))


@dataclass(frozen=True)
class Shown:
    """What the student sees of one step: detached renders in prior space, and the facts about these views.

    Attributes:
        x0, conditions: these.
        lesson: what it learns in place of noised renders; None = those.
    """

    x0: Float[Tensor, "B C h w"]
    conditions: Conditions
    lesson: Lesson | None = None

    def __post_init__(self) -> None:
        if self.x0.requires_grad:
            raise ValueError("the student must be shown detached renders")

    @property
    def cameras(self) -> Cameras:
        """The ``B`` views."""
        assert self.conditions.cameras is not None
        return self.conditions.cameras

    def told(self, student: Student, prompts: PromptSet) -> Conditions:
        """What the student is told: the base prompt, without view words, and those of the facts that it wants."""
        said = self.conditions.saying(prompts.texts("base", self.cameras), role_of("base"))
        return said.only(student.wants)


@dataclass(frozen=True)
class Gains:
    """What the student has learned.

    Attributes:
        camera, null, frozen: the denoising loss of the student with its cameras, without them, and before its
            first step, on the same noisy renders.
    """

    camera: float
    null: float
    frozen: float

    @property
    def student_gain(self) -> float:
        """``1 - L_student / L_frozen``: 0 = has learned nothing, 1 = knows the renders exactly."""
        return 1 - self.camera / self.frozen if self.frozen > 0 else 0.0

    @property
    def camera_gain(self) -> float:
        """``L_null - L_camera``: what its cameras tell it."""
        return self.null - self.camera


class Learner(nn.Module):
    """A network that learns beside the scene, and the account of what it has learned.

    Registered are the student and the last measurements, so that a resumed run logs what the uninterrupted one logs.

    Arguments:
        name: by which queries ask it; its numbers and its randomness are its own.
        model: who learns.
        training: how.
        prompts: it hears the base prompt, without view words.
        asked: the rule's noise levels, used where the training has none of its own.
    """

    measured: Tensor

    def __init__(
        self, name: str, model: Student, training: StudentTraining, prompts: PromptSet, asked: TimestepPolicy
    ) -> None:  # fmt: skip
        super().__init__()
        self.name, self.model, self.settings = name, model, training
        self.tell(prompts, asked)
        self.register_buffer("measured", torch.zeros(3))

    def tell(self, prompts: PromptSet, asked: TimestepPolicy) -> None:
        """What it hears from now on, and the rule's noise levels; as for the constructor."""
        self.prompts, self.asked = prompts, asked
        self.learned_at = asked if self.settings.timesteps is None else self.settings.timesteps
        self.measured_at = self.learned_at if self.settings.measured_at is None else self.settings.measured_at

    @staticmethod
    def stream(name: str) -> str:
        """What a learner's random numbers are drawn under."""
        return name if name == MAIN else f"{MAIN}/{name}"

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over everything the student learns."""
        s = self.settings
        return torch.optim.AdamW(
            list(self.model.parameters()), lr=s.lr, betas=s.betas, weight_decay=s.weight_decay, foreach=True
        )

    def forward(
        self,
        optimizer: torch.optim.Optimizer,
        shown: Shown,
        rng: Streams,
        progress: float,
        backward: Callable[[Tensor], None],
    ) -> dict[str, float]:
        """Measure every now and then, then learn from what is shown; numbers for the log.

        Arguments:
            optimizer: of :meth:`optimizer`.
            shown: this step's renders; measured on before they are learned from.
            rng: the iteration's streams.
            progress: fraction of the stage that is done.
            backward: the trainer's backward pass.
        """
        s, student = self.settings, self.model
        rng = rng.branched(self.stream(self.name))
        if rng.iteration % s.measure_every == 0:
            gains = self.measure(shown, rng.branched("measure"), progress)
            self.measured.copy_(torch.tensor([gains.camera, gains.null, gains.frozen]))
        conditioning = student.conditioning(shown.told(student, self.prompts))
        loss_sum = 0.0
        for step in range(s.steps):
            own = rng.branched(str(step))
            loss = self._loss(
                shown, drop_cameras(conditioning, self._dropped(own, len(shown.x0))), own, progress
            )
            for group in optimizer.param_groups:
                group["lr"] = s.rate(rng.iteration * s.steps + step)
            optimizer.zero_grad(set_to_none=True)
            # Summed over elements: Adam does not mind, and half-precision gradients do not vanish.
            backward(loss.mean() * shown.x0[0].numel())
            gradients = [p.grad for p in student.parameters() if p.grad is not None]
            # Half precision may overflow: such a step is left out rather than let into the moments.
            if bool(torch.isfinite(nn.utils.get_total_norm(gradients))):
                optimizer.step()
            loss_sum += float(loss.detach().mean())
        optimizer.zero_grad(set_to_none=True)
        last = Gains(*self.measured.tolist())
        own_name = "" if self.name == MAIN else f"{self.name}_"
        return {
            f"{own_name}student_loss": loss_sum / s.steps,
            f"{own_name}student_gain": last.student_gain,
            f"{own_name}camera_gain": last.camera_gain,
        }

    def _dropped(self, rng: Streams, views: int) -> Bool[Tensor, "B"]:
        """From which views the camera is withheld."""
        if self.settings.camera_dropout_of == "batch":
            draws = rng.uniform("camera dropout", 1).expand(views)
        else:
            draws = rng.uniform_per_view("camera dropout", views)
        return draws < self.settings.camera_dropout

    def _loss(
        self, shown: Shown, conditioning: Conditioning, rng: Streams, progress: float
    ) -> Float[Tensor, "B"]:
        level, x0, noise, x_t = self._noised(self.learned_at, shown, rng, progress)
        return denoising_loss(self.model.answer(x_t, level, conditioning), x0, noise)

    def _noised(
        self, levels: TimestepPolicy, shown: Shown, rng: Streams, progress: float
    ) -> tuple[NoiseLevel, Tensor, Tensor, Tensor]:
        """Levels, and the clean sample, the noise and the noisy sample of which ``x_t = alpha x0 + sigma eps``."""
        x0, student, lesson = shown.x0, self.model, shown.lesson
        if lesson is not None and levels is self.asked:
            level = lesson.level
        else:
            level = levels.sample(student.path, progress, rng, len(x0), student.view_group).to(x0.device)
        noise = rng.normal_per_view("noise", len(x0), *x0.shape[1:]).to(x0)
        if lesson is None:
            return level, x0, noise, level.add_noise(x0, noise)
        x_t, noise = lesson.noised(x0, level, noise)
        alpha, sigma = level.scales(x_t)
        return level, (x_t - sigma * noise) / alpha, noise, x_t

    @torch.no_grad()
    def measure(self, shown: Shown, rng: Streams, progress: float, draws: int = 4) -> Gains:
        """Losses of student, camera-less student and untrained student on the same noisy renders.

        Arguments:
            draws: noisy versions of every render; averaged.
        """
        student = self.model
        facts = shown.told(student, self.prompts)
        told, untold = student.conditioning(facts), student.conditioning(facts.without("camera"))
        frozen = student.frozen
        sums = torch.zeros(3)
        for draw in range(draws):
            level, x0, noise, x_t = self._noised(self.measured_at, shown, rng.branched(str(draw)), progress)
            answers = (
                student.predict(x_t, level, told),
                student.predict(x_t, level, untold),
                frozen.predict(x_t, level, untold),
            )
            sums += torch.stack([denoising_loss(a, x0, noise).mean() for a in answers]).cpu()
        return Gains(*(sums / draws).tolist())
