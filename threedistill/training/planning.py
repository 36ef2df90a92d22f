"""The door: from a composed configuration to the plan of its run. Behind it nobody reads the dictionary.

Making the plan is checking it: what cannot work is refused before anything is written, loaded or downloaded.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from threedistill.cameras import ViewLimits
from threedistill.config import (
    STAGE_PARTS,
    Config,
    build,
    build_as,
    recipe,
    stage_node,
    stage_part,
    stage_path,
)
from threedistill.errors import UsageError, nearest
from threedistill.guidance.regularizers import Regularizers
from threedistill.lights import Lighting
from threedistill.messages import shown
from threedistill.prompts import PromptSet
from threedistill.rng import Streams
from threedistill.training.plan import (
    AssetPlan,
    LearnerPlan,
    Names,
    NetworkPlan,
    PicturePlan,
    PriorPlan,
    RunPlan,
    ScenePlan,
    StagePlan,
)
from threedistill.training.refusals import check_plan, check_words
from threedistill.training.stage import Guidance, Stage
from threedistill.training.student_step import MAIN

__all__ = ["asset_plan", "build_plan"]


def build_plan(config: Config) -> RunPlan:
    """Everything that a run is to do.

    Raises:
        UsageError: wrong types and values, parts that do not fit together, words that the prior does not know; each
            with the setting to change.
    """
    plugins = config["plugins"]
    for part in STAGE_PARTS:  # the run's own count too, where every stage has another
        if isinstance(config[part], dict) and "_target_" in config[part]:
            build(config[part], part, plugins)
    export, trainer = build(config["export"], "export", plugins), build(config["trainer"], "trainer", plugins)
    prior = _prior(config, config["prior"], "prior")
    stages = tuple(_stage(config, index) for index in range(len(config["stages"])))
    plan = RunPlan(
        _names(config), _prompts(config, config["prior"]), (), prior, stages, export, trainer, config["device"],
        bool(config["init"]), tuple(_picture(node) for node in config["images"]), tuple(plugins),
    )  # fmt: skip
    check_plan(plan)
    ignored = [word for one in plan.priors for word in check_words(config["prompt"], one)]
    return replace(plan, ignored=tuple(dict.fromkeys(ignored)))


def asset_plan(config: Config, settings: Sequence[tuple[str, Any]] = ()) -> AssetPlan:
    """What the asset of a run is made of: so much of the plan that an export needs.

    Arguments:
        config: the run's.
        settings: (setting, value) of ``export`` in place of the run's.

    Raises:
        UsageError: a setting that does not exist, or a value out of its range.
    """
    last = len(config["stages"]) - 1
    export = {**config["export"], **dict(settings)}
    return AssetPlan(
        _names(config), last, config["stages"][last]["name"], _scene(config, last),
        build(export, "export", config["plugins"]),
    )  # fmt: skip


def _prior(config: Config, node: Config, where: str) -> PriorPlan:
    return PriorPlan(
        node["name"], recipe(node["model"], f"{where}.model", config["plugins"]),
        bool(node.get("needs_camera")), bool(node.get("needs_image")), bool(node.get("needs_image_camera")),
        node.get("most_images"),
    )  # fmt: skip


def _names(config: Config) -> Names:
    stages = range(len(config["stages"]))
    priors = dict.fromkeys(stage_part(config, index, "prior")["name"] for index in stages)
    return Names(
        config["prompt"], config["seed"], config["budget"].get("preset"), " + ".join(priors),
        stage_part(config, -1, "representation")["name"], stage_part(config, -1, "guidance")["name"],
    )  # fmt: skip


def _prompts(config: Config, prior: Config, where: str = "prior") -> PromptSet:
    known = {field.name for field in fields(PromptSet)}
    for key in config["prompts"]:
        if key not in known:
            raise UsageError(f"prompts: unknown key {key!r}; {_hint(key, known, 'prompts have')}")
    views = prior.get("views")
    limits = build_as(ViewLimits, views, f"{where}.views") if views else None
    return PromptSet(
        config["prompt"], negative=config["negative"], prior_negative=prior.get("negative", ""),
        limits=limits, **config["prompts"],
    )  # fmt: skip


def _stage(config: Config, index: int) -> StagePlan:
    """One stage's part of the plan."""
    known = {*STAGE_PARTS, *(field.name for field in fields(Stage)), "_target_"}
    for key in config["stages"][index]:
        if key not in known:
            raise UsageError(f"stages.{index}: unknown key {key!r}; {_hint(key, known, 'a stage has')}")

    def part(name: str) -> Any:
        return build(stage_part(config, index, name), stage_path(config, index, name), config["plugins"])

    prior, prior_place = stage_part(config, index, "prior"), stage_path(config, index, "prior")
    return StagePlan(
        prior=_prior(config, prior, prior_place),
        prompts=_prompts(config, prior, prior_place),
        stage=build(stage_node(config, index), f"stages.{index}", config["plugins"]),
        scene=_scene(config, index),
        guidance_name=stage_part(config, index, "guidance")["name"],
        guidance=_guidance(config, index),
        learners=_learners(config, index),
        networks=_networks(config, index),
        cameras=part("cameras"),
        background=part("background"),
        light=part("light") if stage_part(config, index, "light") else Lighting(),
        regularizers=_regularizers(config, index),
        reward=part("reward") if stage_part(config, index, "reward") else None,
        optim=part("optim"),
        watchdog=part("watchdog"),
        convert=part("convert"),
    )


def _scene(config: Config, index: int) -> ScenePlan:
    node, where = stage_part(config, index, "representation"), stage_path(config, index, "representation")
    return ScenePlan(
        node["name"], recipe(node["model"], f"{where}.model", config["plugins"]), node["lr"], config["particles"],
        Streams(config["seed"], stage=index),
    )  # fmt: skip


def _guidance(config: Config, index: int) -> Guidance:
    node, where = stage_part(config, index, "guidance"), stage_path(config, index, "guidance")
    parts = ["rule", "timesteps", "weighting", "surrogate", *(["poses"] if node.get("poses") else [])]
    return Guidance(**{name: build(node[name], f"{where}.{name}", config["plugins"]) for name in parts})


def _regularizers(config: Config, index: int) -> Regularizers:
    """A stage's regularisers, with the weights that its representation's own options name besides."""
    node = copy.deepcopy(stage_part(config, index, "regularizers"))
    for name, weight in (stage_part(config, index, "representation").get("regularizers") or {}).items():
        node["weights"].setdefault(name, weight)
    return build(node, stage_path(config, index, "regularizers"), config["plugins"])


def _learners(config: Config, index: int) -> dict[str, LearnerPlan]:
    """``student`` where one is chosen, and what stands under ``learners``."""
    before = _named(config, index - 1, MAIN, "learners") if index else {}
    found: dict[str, LearnerPlan] = {}
    for name, (node, where) in _named(config, index, MAIN, "learners").items():
        if node["model"] is None or node["training"] is None:
            continue
        same = name in before and all(
            before[name][0].get(part) == node.get(part) for part in ("model", "base")
        )
        base = node.get("base")
        found[name] = LearnerPlan(
            where,
            build(node["model"], f"{where}.model", config["plugins"]),
            None if base is None else recipe(base, f"{where}.base", config["plugins"]),
            build(node["training"], f"{where}.training", config["plugins"]),
            kept=node["keep"] and same,
        )
    return found


def _networks(config: Config, index: int) -> dict[str, NetworkPlan]:
    """``baseline`` where one is chosen, and what stands under ``networks``."""
    found: dict[str, NetworkPlan] = {}
    for name, (node, where) in _named(config, index, "baseline", "networks").items():
        if not node or node["name"] == "none":
            continue
        itself = node["name"] == "self"
        model = None if itself else recipe(node["model"], f"{where}.model", config["plugins"])
        found[name] = NetworkPlan(where, node["name"], model)
    return found


def _named(config: Config, index: int, main: str, others: str) -> dict[str, tuple[Any, str]]:
    """The nodes of a stage's networks by name, each with its place: the group's own, and those of a mapping."""
    where = stage_path(config, index, others)
    found = {main: (stage_part(config, index, main), stage_path(config, index, main))}
    for name, node in stage_part(config, index, others).items():
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", name) or name in ("teacher", "baseline", MAIN):
            raise UsageError(
                f"{where}: a network cannot be called {shown(name)}: a word of small letters, digits and _ that is not "
                f"teacher, baseline or {MAIN}"
            )
        found[name] = (node, f"{where}.{name}")
    return found


def _picture(node: Config) -> PicturePlan:
    camera = node["camera"]
    return PicturePlan(node["file"], None if camera is None else (camera[0], camera[1]))


def _hint(key: object, known: set[str], have: str) -> str:
    close = nearest(str(key)[:80], known, 1)
    return f"did you mean {close[0]!r}?" if close else f"{have} {', '.join(sorted(known))}"
