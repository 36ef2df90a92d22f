"""From a composed configuration to the objects of a run, and the checks that need no weights."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from threedistill.config import (
    STAGE_PARTS,
    Config,
    build,
    check_arguments,
    stage_node,
    stage_part,
    stage_path,
)
from threedistill.errors import UsageError, nearest
from threedistill.memory import PER_PARAMETER, need
from threedistill.protocols import Prior, Representation, Student
from threedistill.representations.particles import ParticleBank
from threedistill.rng import Streams
from threedistill.training.rule_setup import build_baseline, check_rule, prompt_set
from threedistill.training.stages import TrainerSettings
from threedistill.training.student_setup import build_student, check_student
from threedistill.training.system import Guidance, ScoreDistillation, Stage
from threedistill.training.words import check_words


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


def check(config: Config) -> None:
    """Refuse what cannot work before anything is written, loaded or downloaded.

    Everything but the prior is built (it is cheap), so wrong types and values show here.

    Raises:
        UsageError: with the setting to change.
    """
    plugins = config["plugins"]
    _check_particles(config)
    for key in ("cameras", "background", "regularizers", "optim", "watchdog", "trainer", "export", "convert"):
        build(config[key], key, plugins)
    if "mp4" in config["export"]["formats"]:
        from threedistill.exports.video import need_encoder

        need_encoder("turntable.mp4")
    check_arguments(config["prior"]["model"], "prior.model", plugins)
    for index in range(len(config["stages"])):
        _check_stage(config, index)
    _check_material(config)
    check_words(config["prompt"], config["prior"])


def _check_particles(config: Config) -> None:
    count = config["particles"]
    if count > 1 and len(config["stages"]) > 1:
        raise UsageError(
            f"particles={count} and {len(config['stages'])} stages: several particles go through one stage only; use "
            "particles=1, or a preset with one stage"
        )


def _check_material(config: Config) -> None:
    """Metalness and roughness that no stage shows would be written as they began."""
    stages = range(len(config["stages"]))
    own = [i for i in stages if stage_part(config, i, "representation")["model"].get("material") == "pbr"]
    if own and all(config["stages"][i].get("shading", "none") != "lambertian" for i in own):
        raise UsageError(
            "representation.model.material=pbr: no stage shows lit pictures, from which alone it could learn; set "
            f"stages.{own[-1]}.shading=lambertian and export.unlit=false"
        )


def _check_stage(config: Config, index: int) -> None:
    node, where = config["stages"][index], f"stages.{index}"
    known = {*STAGE_PARTS, *(field.name for field in fields(Stage)), "_target_"}
    for key in node:
        if key not in known:
            close = nearest(key, known, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"a stage has {', '.join(sorted(known))}"
            raise UsageError(f"{where}: unknown key {key!r}; {hint}")
    build(stage_node(config, index), where, config["plugins"])
    for part in ("cameras", "background", "regularizers", "optim", "watchdog", "convert"):
        if part in node:
            build(node[part], f"{where}.{part}", config["plugins"])
    model = stage_part(config, index, "representation")["model"]
    check_arguments(model, f"{stage_path(config, index, 'representation')}.model", config["plugins"])
    rule = _guidance(config, index).rule
    check_rule(config, index, rule)
    check_student(config, index, rule)


def _guidance(config: Config, index: int) -> Guidance:
    node = stage_part(config, index, "guidance")
    where = stage_path(config, index, "guidance")
    plugins = config["plugins"]
    return Guidance(
        rule=build(node["rule"], f"{where}.rule", plugins),
        timesteps=build(node["timesteps"], f"{where}.timesteps", plugins),
        weighting=build(node["weighting"], f"{where}.weighting", plugins),
        surrogate=build(node["surrogate"], f"{where}.surrogate", plugins),
    )


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


def assemble(config: Config) -> Assembled:
    """Build a run: whatever its set-up can fail for shows here, before anything on disk is touched.

    Raises:
        UsageError: a device or weights that are not there, or parts that do not fit together.
    """
    device = pick_device(config["device"])
    prior = build_prior(config, device)
    stages = build_stages(config, prior, device)
    return Assembled(device, prior, stages, build(config["trainer"], "trainer", config["plugins"]))


def build_prior(config: Config, device: torch.device) -> Prior:
    """Load the frozen teacher."""
    prior = build(config["prior"]["model"], "prior.model", config["plugins"])
    return prior.to(device) if hasattr(prior, "to") else prior


def build_stages(config: Config, prior: Prior, device: torch.device) -> list[ScoreDistillation]:
    """Every stage's system with fresh parameters: what a run's set-up can still refuse shows here.

    Raises:
        UsageError: views that do not fit the prior, or parameters without a learning rate.
    """
    systems: list[ScoreDistillation] = []
    for index in range(len(config["stages"])):
        before = systems[-1].student if systems else None
        systems.append(build_stage(config, index, prior, before))
    for index, system in enumerate(systems):
        try:
            system.optim.build(system.representation.parameter_groups())
        except ValueError as error:
            raise UsageError(f"stages.{index}: {error}") from None
    return systems


def build_representation(config: Config, index: int) -> Representation:
    """A stage's representation with fresh parameters, drawn from the run's seed; several particles make a bank."""
    node, streams = stage_part(config, index, "representation"), Streams(config["seed"], stage=index)
    particles: list[Representation] = []
    for particle in range(config["particles"]):
        with torch.random.fork_rng(devices=[]):
            # Initial parameters are random too: seeded like everything else, and only here.
            purpose = f"init/{particle}" if particle else "init"
            torch.manual_seed(streams.generator(purpose).initial_seed())
            particles.append(build(node["model"], "representation.model", config["plugins"]))
        if not particle:
            numbers = sum(p.numel() for group in particles[0].parameter_groups().values() for p in group)
            need(PER_PARAMETER * numbers * config["particles"], f"particles={config['particles']}")
    return particles[0] if len(particles) == 1 else ParticleBank(particles)


def build_stage(config: Config, index: int, prior: Prior, before: Student | None = None) -> ScoreDistillation:
    """The system of one stage with fresh parameters, on the CPU (the trainer moves it).

    Arguments:
        config, index: the run, and which of its stages.
        prior: the teacher.
        before: the student of the stage before, for ``student.keep``.
    """

    def part(name: str) -> Any:
        return build(stage_part(config, index, name), stage_path(config, index, name), config["plugins"])

    sampler = part("cameras")
    if sampler.views % prior.view_group:
        raise UsageError(
            f"cameras.views={sampler.views} is not a multiple of the prior's view group of {prior.view_group}"
        )
    student, student_training = build_student(config, index, prior, before)
    return ScoreDistillation(
        representation=build_representation(config, index),
        prior=prior,
        guidance=_guidance(config, index),
        prompts=prompt_set(config),
        stage=build(stage_node(config, index), f"stages.{index}", config["plugins"]),
        sampler=sampler,
        background=part("background"),
        regularizers=part("regularizers"),
        optim=part("optim"),
        watchdog=part("watchdog"),
        streams=Streams(config["seed"], stage=index),
        max_rows=config["trainer"]["max_rows"],
        student=student,
        student_training=student_training,
        baseline=build_baseline(config, index, prior),
    )  # fmt: skip
