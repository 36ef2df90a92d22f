"""From a composed configuration to the objects of a run, and the checks that need no weights."""

from __future__ import annotations

import torch

from threedistill.config import Config, build
from threedistill.errors import UsageError
from threedistill.prompts import PromptSet
from threedistill.protocols import Prior
from threedistill.rng import Streams
from threedistill.training.system import Guidance, ScoreDistillation


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
    for key in ("cameras", "background", "regularizers", "optim", "watchdog", "trainer", "export"):
        build(config[key], key, plugins)
    _guidance(config)
    stages = [build(node, f"stages.{i}", plugins) for i, node in enumerate(config["stages"])]
    if not stages:
        raise UsageError("stages: a run needs at least one stage")
    if config["prior"].get("vocabulary") == "toybox":
        from threedistill.toybox.grammar import parse

        parse(config["prompt"])


def _guidance(config: Config) -> Guidance:
    node = config["guidance"]
    plugins = config["plugins"]
    return Guidance(
        rule=build(node["rule"], "guidance.rule", plugins),
        timesteps=build(node["timesteps"], "guidance.timesteps", plugins),
        weighting=build(node["weighting"], "guidance.weighting", plugins),
        surrogate=build(node["surrogate"], "guidance.surrogate", plugins),
    )


def build_prior(config: Config, device: torch.device) -> Prior:
    """Load the frozen teacher."""
    prior = build(config["prior"]["model"], "prior.model", config["plugins"])
    return prior.to(device) if hasattr(prior, "to") else prior


def build_stages(config: Config, prior: Prior, device: torch.device) -> list[ScoreDistillation]:
    """One system per stage, on the CPU (the trainer moves it)."""
    systems = []
    for index, node in enumerate(config["stages"]):
        plugins = config["plugins"]
        streams = Streams(config["seed"], stage=index)
        with torch.random.fork_rng(devices=[]):
            # Initial parameters are random too: seeded like everything else, and only here.
            torch.manual_seed(streams.generator("init").initial_seed())
            representation = build(config["representation"]["model"], "representation.model", plugins)
        sampler = build(config["cameras"], "cameras", plugins)
        if sampler.views % prior.view_group:
            raise UsageError(
                f"cameras.views={sampler.views} is not a multiple of the prior's view group of {prior.view_group}"
            )
        systems.append(
            ScoreDistillation(
                representation=representation,
                prior=prior,
                guidance=_guidance(config),
                prompts=PromptSet(
                    config["prompt"], negative=config["negative"],
                    view_words=config["prompts"]["view_words"], category=config["prompts"]["category"],
                ),
                stage=build(node, f"stages.{index}", plugins),
                sampler=sampler,
                background=build(config["background"], "background", plugins),
                regularizers=build(config["regularizers"], "regularizers", plugins),
                optim=build(config["optim"], "optim", plugins),
                watchdog=build(config["watchdog"], "watchdog", plugins),
                streams=streams,
                max_rows=config["trainer"]["max_rows"],
            )
        )  # fmt: skip
    return systems
