"""The door: from a composed configuration to the plan of its run. Behind it nobody reads the dictionary.

Making the plan is checking it: what cannot work is refused before anything is written, loaded or downloaded.
"""

from __future__ import annotations

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
from threedistill.prompts import PromptSet
from threedistill.rng import Streams
from threedistill.training.plan import (
    AssetPlan,
    BaselinePlan,
    Names,
    PriorPlan,
    RunPlan,
    ScenePlan,
    StagePlan,
    StudentPlan,
)
from threedistill.training.refusals import check_plan
from threedistill.training.system import Guidance, Stage
from threedistill.training.words import check_words, known_words

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
    prior = PriorPlan(
        config["prior"]["name"], recipe(config["prior"]["model"], "prior.model", plugins),
        bool(config["prior"].get("needs_camera")),
        known_words(config["prior"].get("vocabulary"), config["prior"]["model"].get("folder")),
    )  # fmt: skip
    stages = tuple(_stage(config, index) for index in range(len(config["stages"])))
    plan = RunPlan(
        _names(config), _prompts(config), (), prior, stages, export, trainer, config["device"],
        bool(config["init"]), tuple(plugins),
    )  # fmt: skip
    check_plan(plan)
    return replace(plan, ignored=check_words(config["prompt"], prior.words))


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


def _names(config: Config) -> Names:
    return Names(
        config["prompt"], config["seed"], config["budget"].get("preset"), config["prior"]["name"],
        stage_part(config, -1, "representation")["name"], stage_part(config, -1, "guidance")["name"],
    )  # fmt: skip


def _prompts(config: Config) -> PromptSet:
    known = {field.name for field in fields(PromptSet)}
    for key in config["prompts"]:
        if key not in known:
            raise UsageError(f"prompts: unknown key {key!r}; {_hint(key, known, 'prompts have')}")
    views = config["prior"].get("views")
    limits = build_as(ViewLimits, views, "prior.views") if views else None
    return PromptSet(
        config["prompt"], negative=config["negative"], prior_negative=config["prior"].get("negative", ""),
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

    return StagePlan(
        stage=build(stage_node(config, index), f"stages.{index}", config["plugins"]),
        scene=_scene(config, index),
        guidance_name=stage_part(config, index, "guidance")["name"],
        guidance=_guidance(config, index),
        student=_student(config, index),
        baseline=_baseline(config, index),
        cameras=part("cameras"),
        background=part("background"),
        regularizers=part("regularizers"),
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
    parts = ("rule", "timesteps", "weighting", "surrogate")
    return Guidance(**{name: build(node[name], f"{where}.{name}", config["plugins"]) for name in parts})


def _student(config: Config, index: int) -> StudentPlan | None:
    node, where = stage_part(config, index, "student"), stage_path(config, index, "student")
    if node["model"] is None or node["training"] is None:
        return None
    before = stage_part(config, index - 1, "student") if index else {"model": None}
    return StudentPlan(
        build(node["model"], f"{where}.model", config["plugins"]),
        build(node["training"], f"{where}.training", config["plugins"]),
        kept=node["keep"] and before["model"] == node["model"],
    )


def _baseline(config: Config, index: int) -> BaselinePlan | None:
    node, where = stage_part(config, index, "baseline"), stage_path(config, index, "baseline")
    if not node or node["name"] == "none":
        return None
    model = None if node["name"] == "self" else recipe(node["model"], f"{where}.model", config["plugins"])
    return BaselinePlan(node["name"], model)


def _hint(key: object, known: set[str], have: str) -> str:
    close = nearest(str(key)[:80], known, 1)
    return f"did you mean {close[0]!r}?" if close else f"{have} {', '.join(sorted(known))}"
