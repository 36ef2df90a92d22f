"""From a plan to the objects of its run: weights are loaded and parameters drawn here, and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from threedistill.conditions import ReferenceImage
from threedistill.config import Recipe
from threedistill.contracts import check_parts
from threedistill.errors import UsageError
from threedistill.guidance.rules import questions
from threedistill.priors.space import LatentSpace
from threedistill.protocols import Prior
from threedistill.training.advice import remedies
from threedistill.training.plan import RunPlan, StagePlan
from threedistill.training.refusals import refuse_images, refuse_untold
from threedistill.training.scene_building import build_scenes
from threedistill.training.student_step import Learner
from threedistill.training.system import ScoreDistillation
from threedistill.training.trainer_settings import TrainerSettings
from threedistill.types import Condition, TextKind

__all__ = [
    "Assembled", "assemble", "build_learners", "build_networks", "build_prior",
    "build_stage", "build_stages", "pick_device", "prepare",
]  # fmt: skip

#: Where systems are built; the trainer moves them.
_CPU = torch.device("cpu")


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
        priors: the frozen teachers of its stages, each once.
        stages: a system each, with fresh parameters.
        settings: how the run is watched and saved.
    """

    device: torch.device
    priors: tuple[Prior, ...]
    stages: list[ScoreDistillation]
    settings: TrainerSettings


def assemble(plan: RunPlan, images: tuple[ReferenceImage, ...] = ()) -> Assembled:
    """Build a run: whatever its set-up can fail for shows here, before anything on disk is touched.

    Arguments:
        plan: the run.
        images: the reference pictures that its networks are shown.

    Raises:
        UsageError: a device or weights that are not there, or parts that do not fit together.
    """
    device = pick_device(plan.device)
    prior = build_prior(plan, device)
    stages = build_stages(plan, prior, images, device)
    refuse_images(plan, frozenset[Condition]().union(*(system.prior.wants for system in stages)))
    prepare(plan, stages)
    priors = tuple(dict.fromkeys(system.prior for system in stages))
    return Assembled(device, priors, stages, plan.trainer)


def prepare(plan: RunPlan, stages: Sequence[ScoreDistillation]) -> None:
    """Tell the frozen networks at once all that the run may say: their text encoders are large, and needed once."""
    for stage, system in zip(plan.stages, stages):
        kinds: list[TextKind] = ["null", "base", "inverse", *(q.text for q in questions(stage.guidance.rule))]
        for network in system.networks.values():
            network.prepare(stage.prompts.all_wordings(kinds))


def build_prior(plan: RunPlan, device: torch.device) -> Prior:
    """Load the frozen teacher of the first stage.

    Raises:
        UsageError: weights that are not there, or a prior that wants what its class does not name.
    """
    return _loaded(plan.stages[0].prior.model, device)


def _loaded(model: Recipe[Prior], device: torch.device) -> Prior:
    """A frozen network on its device."""
    network = model.make()
    if unnamed := sorted(network.wants - type(network).wants):
        raise UsageError(
            f"{model.where}: {type(network).__name__} wants {unnamed[0]}, which its class does not name; wants of a "
            "class are all that any of its objects can be told"
        )
    return network.to(device)


def build_stages(
    plan: RunPlan, prior: Prior, images: tuple[ReferenceImage, ...] = (), device: torch.device = _CPU
) -> list[ScoreDistillation]:
    """Every stage's system with fresh parameters: what a run's set-up can still refuse shows here.

    Arguments:
        plan: the run.
        prior: the first stage's teacher; stages that have another load it.
        images: what networks are shown that want reference pictures.
        device: where further networks go; the teacher is where it is.

    Raises:
        UsageError: views that do not fit the prior, or parameters without a learning rate.
    """
    systems: list[ScoreDistillation] = []
    first = plan.stages[0].prior.key
    loaded: dict[str, Prior] = {}
    for stage in plan.stages:
        own = prior if stage.prior.key == first else _shared(stage.prior.model, device, loaded)
        systems.append(build_stage(plan, stage, own, systems, images, device, loaded))
    for index, system in enumerate(systems):
        try:
            system.optim.build(system.parameter_groups())
        except ValueError as error:
            raise UsageError(f"stages.{index}: {error}") from None
    return systems


def build_stage(
    plan: RunPlan, stage: StagePlan, prior: Prior, before: Sequence[ScoreDistillation] = (),
    images: tuple[ReferenceImage, ...] = (), device: torch.device = _CPU,
    loaded: dict[str, Prior] | None = None,
) -> ScoreDistillation:  # fmt: skip
    """The system of one stage with fresh parameters, on the CPU (the trainer moves it).

    Arguments:
        plan, stage: the run, and which of its stages.
        prior: its teacher.
        before: the stages before it, for learners that are kept.
        images, device: as for :func:`build_stages`.
        loaded: as for :func:`build_networks`.
    """
    for views in sorted(stage.cameras.counts):
        if views % prior.view_group:
            raise UsageError(
                f"cameras.views={views} is not a multiple of the prior's view group of {prior.view_group}"
            )
    if stage.stage.latents == "direct" and (
        type(prior.space) is not LatentSpace or prior.space.shape[0] != 4
    ):
        raise UsageError(
            f"stages.{plan.stages.index(stage)}.latents=direct takes the picture and its opacity for four latents, and "
            f"prior={stage.prior.name} works on {_space(prior)}; use latents=encoded"
        )
    system = ScoreDistillation(
        scenes=build_scenes(stage.scene),
        prior=prior,
        guidance=stage.guidance,
        prompts=stage.prompts,
        stage=stage.stage,
        sampler=stage.cameras,
        background=stage.background,
        light=stage.light,
        regularizers=copy.deepcopy(stage.regularizers),  # a module, which moves with the system
        optim=stage.optim,
        watchdog=stage.watchdog.advising(remedies(plan, stage, prior, device)),
        streams=stage.scene.streams,
        max_rows=plan.trainer.max_rows,
        networks=build_networks(plan, stage, prior, device, loaded),
        learners=build_learners(plan, stage, prior, before[-1].learners if before else {}, device, loaded),
        images=images,
        reward=stage.reward,
    )
    for scorer in stage.scorers.values():
        scorer.to(device)
    refuse_untold(stage, system.networks)
    return system


def build_learners(
    plan: RunPlan, stage: StagePlan, prior: Prior, before: Mapping[str, Learner], device: torch.device = _CPU,
    loaded: dict[str, Prior] | None = None,
) -> dict[str, Learner]:  # fmt: skip
    """A stage's learners by name: fresh, or with what those of the stage before know.

    Arguments:
        plan, stage: the run, and which of its stages.
        prior: the teacher, on whose network they grow where they name no other.
        before: the learners of the stage before.
        device, loaded: as for :func:`build_networks`.

    Raises:
        UsageError: as :func:`build_networks`.
    """
    found: dict[str, Learner] = {}
    loaded = {} if loaded is None else loaded
    for name, learner in stage.learners.items():
        if learner.kept and name in before:
            model = before[name].model
        else:
            seed = stage.scene.streams.generator(Learner.stream(name)).initial_seed()
            base = prior
            if learner.base is not None:
                base = _shared(learner.base, device, loaded)
                _need_one_space(stage, learner.base.where, base, prior)
            model = learner.maker.attach(base, seed)
            check_parts(model)
        found[name] = Learner(name, model, learner.training, stage.prompts, stage.guidance.timesteps)
    return found


def build_networks(
    plan: RunPlan, stage: StagePlan, prior: Prior, device: torch.device = _CPU,
    loaded: dict[str, Prior] | None = None,
) -> dict[str, Prior]:  # fmt: skip
    """The further frozen networks by name: the teacher itself, or other priors in the same space.

    Arguments:
        plan, stage: the run, and which of its stages.
        prior: the teacher.
        device: where the others go.
        loaded: those that are there already, by their recipes; what is loaded is added.

    Raises:
        UsageError: another prior whose pictures have another shape, or that wants what its class does not name.
    """
    found: dict[str, Prior] = {}
    loaded = {} if loaded is None else loaded
    for name, network in stage.networks.items():
        own = prior
        if network.model is not None:
            own = _shared(network.model, device, loaded)
        _need_one_space(stage, f"{network.where}={network.name}", own, prior)
        found[name] = own
    return found


def _shared(model: Recipe[Prior], device: torch.device, loaded: dict[str, Prior]) -> Prior:
    """A further frozen network: each recipe is loaded once."""
    recipe = repr((model.cls, model.node))
    if recipe not in loaded:
        loaded[recipe] = _loaded(model, device)
    return loaded[recipe]


def _need_one_space(stage: StagePlan, what: str, own: Prior, prior: Prior) -> None:
    if tuple(own.space.shape) != tuple(prior.space.shape) or type(own.space) is not type(prior.space):
        raise UsageError(
            f"{what} works on {_space(own)}, the teacher {stage.prior.name} on {_space(prior)}; they must share "
            "one space"
        )


def _space(prior: Prior) -> str:
    return f"{type(prior.space).__name__} {'x'.join(map(str, prior.space.shape))}"
