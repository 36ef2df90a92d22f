"""From a plan to the objects of its run: weights are loaded and parameters drawn here, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from threedistill.errors import UsageError
from threedistill.memory import PER_PARAMETER, need
from threedistill.protocols import Prior, Representation, Student
from threedistill.representations.particles import ParticleBank
from threedistill.training.plan import RunPlan, ScenePlan, StagePlan
from threedistill.training.rule_setup import questions
from threedistill.training.stages import TrainerSettings
from threedistill.training.system import ScoreDistillation
from threedistill.types import TextKind


def pick_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UsageError: cuda was asked for and is not there.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "--device cuda: torch sees no CUDA device; see threedistill doctor, or use --device cpu"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


@dataclass(frozen=True)
class Assembled:
    """Everything of a run that can be built without its folder.

    Attributes:
        device: where it is computed.
        prior: the frozen teacher.
        stages: a system each, with fresh parameters.
        settings: how the run is watched and saved.
    """

    device: torch.device
    prior: Prior
    stages: list[ScoreDistillation]
    settings: TrainerSettings


def assemble(plan: RunPlan) -> Assembled:
    """Build a run: whatever its set-up can fail for shows here, before anything on disk is touched.

    Raises:
        UsageError: a device or weights that are not there, or parts that do not fit together.
    """
    device = pick_device(plan.device)
    prior = build_prior(plan, device)
    stages = build_stages(plan, prior)
    prepare(plan, stages)
    return Assembled(device, prior, stages, plan.trainer)


def prepare(plan: RunPlan, stages: Sequence[ScoreDistillation]) -> None:
    """Tell the frozen networks at once all that the run may say: their text encoders are large, and needed once."""
    for stage, system in zip(plan.stages, stages):
        kinds: list[TextKind] = ["null", "base", "inverse", *(q.text for q in questions(stage.guidance.rule))]
        for network in system.networks.values():
            if (encode := getattr(network, "prepare", None)) is not None:
                encode(plan.prompts.all_wordings(kinds))


def build_prior(plan: RunPlan, device: torch.device) -> Prior:
    """Load the frozen teacher."""
    prior = plan.prior.model.make()
    return prior.to(device) if hasattr(prior, "to") else prior


def build_stages(plan: RunPlan, prior: Prior) -> list[ScoreDistillation]:
    """Every stage's system with fresh parameters: what a run's set-up can still refuse shows here.

    Raises:
        UsageError: views that do not fit the prior, or parameters without a learning rate.
    """
    systems: list[ScoreDistillation] = []
    for stage in plan.stages:
        systems.append(build_stage(plan, stage, prior, systems))
    for index, system in enumerate(systems):
        try:
            system.optim.build(system.representation.parameter_groups())
        except ValueError as error:
            raise UsageError(f"stages.{index}: {error}") from None
    return systems


def build_stage(
    plan: RunPlan, stage: StagePlan, prior: Prior, before: Sequence[ScoreDistillation] = ()
) -> ScoreDistillation:
    """The system of one stage with fresh parameters, on the CPU (the trainer moves it).

    Arguments:
        plan, stage: the run, and which of its stages.
        prior: the teacher.
        before: the stages before it, for a student that is kept.
    """
    if stage.cameras.views % prior.view_group:
        raise UsageError(
            f"cameras.views={stage.cameras.views} is not a multiple of the prior's view group of {prior.view_group}"
        )
    return ScoreDistillation(
        representation=build_representation(stage.scene),
        prior=prior,
        guidance=stage.guidance,
        prompts=plan.prompts,
        stage=stage.stage,
        sampler=stage.cameras,
        background=stage.background,
        regularizers=copy.deepcopy(stage.regularizers),  # a module, which moves with the system
        optim=stage.optim,
        watchdog=copy.deepcopy(stage.watchdog),  # it remembers what it saw
        streams=stage.scene.streams,
        max_rows=plan.trainer.max_rows,
        student=build_student(stage, prior, before[-1].student if before else None),
        student_training=stage.student.training if stage.student else None,
        baseline=build_baseline(plan, stage, prior),
    )


def build_representation(scene: ScenePlan) -> Representation:
    """A stage's representation with fresh parameters, drawn from the run's seed; several particles make a bank."""
    particles: list[Representation] = []
    for particle in range(scene.particles):
        with torch.random.fork_rng(devices=[]):
            # Initial parameters are random too: seeded like everything else, and only here.
            purpose = f"init/{particle}" if particle else "init"
            torch.manual_seed(scene.streams.generator(purpose).initial_seed())
            particles.append(scene.model.make())
        if not particle:
            numbers = sum(p.numel() for group in particles[0].parameter_groups().values() for p in group)
            need(PER_PARAMETER * numbers * scene.particles, f"particles={scene.particles}")
    return particles[0] if len(particles) == 1 else ParticleBank(particles)


def build_student(stage: StagePlan, prior: Prior, before: Student | None) -> Student | None:
    """A stage's student: fresh, or that of the stage before."""
    if stage.student is None:
        return None
    if stage.student.kept and before is not None:
        return before
    seed = stage.scene.streams.generator("student").initial_seed()
    return stage.student.maker.attach(prior, seed)


def build_baseline(plan: RunPlan, stage: StagePlan, prior: Prior) -> Prior | None:
    """The second frozen model: none, the teacher itself, or another prior in the same space.

    Raises:
        UsageError: another prior whose pictures have another shape.
    """
    if stage.baseline is None or stage.baseline.model is None:
        return prior if stage.baseline else None
    baseline = stage.baseline.model.make()
    if tuple(baseline.space.shape) != tuple(prior.space.shape) or type(baseline.space) is not type(
        prior.space
    ):
        raise UsageError(
            f"baseline={stage.baseline.name} works on {_space(baseline)}, the teacher {plan.prior.name} on "
            f"{_space(prior)}; they must share one space"
        )
    return baseline


def _space(prior: Prior) -> str:
    return f"{type(prior.space).__name__} {'x'.join(map(str, prior.space.shape))}"
