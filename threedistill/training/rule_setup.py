"""What a rule needs beside the teacher and its student: the second frozen model, the unedited scene; and refusals."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from threedistill.config import Config, build, stage_part
from threedistill.errors import UsageError
from threedistill.guidance.trajectory import Reference
from threedistill.prompts import PromptSet, TextKind
from threedistill.protocols import GuidanceRule, Prior
from threedistill.schedule import Schedule, stations
from threedistill.training.words import known_words
from threedistill.types import Cameras, Mesh, Query, Splats


def questions(rule: GuidanceRule) -> list[Query]:
    """What a rule asks over a stage: at every point where one of its schedules changes what it asks."""
    return [query for progress in stations(*_schedules(rule)) for query in rule.queries(progress)]


def _schedules(settings: object) -> list[Schedule]:
    """The schedules among the fields of a rule and of what it is made of."""
    if isinstance(settings, Schedule):
        return [settings]
    if not is_dataclass(settings) or isinstance(settings, type):
        return []
    return [found for field in fields(settings) for found in _schedules(getattr(settings, field.name))]


def is_edit(rule: GuidanceRule) -> bool:
    """Whether a rule compares with the unedited scene."""
    return isinstance(getattr(rule, "trajectory", None), Reference)


def prompt_set(config: Config) -> PromptSet:
    """The wordings of a run's prompt."""
    return PromptSet(
        config["prompt"],
        negative=config["negative"],
        prior_negative=config["prior"].get("negative", ""),
        **{str(key): value for key, value in config["prompts"].items()},
    )


def check_rule(config: Config, index: int, rule: GuidanceRule) -> None:
    """Refuse a rule without its baseline or without the scene it edits, and cameras that no prior can be spared.

    Raises:
        UsageError: with the setting to change.
    """
    name, prior = stage_part(config, index, "guidance")["name"], config["prior"]["name"]
    baseline = stage_part(config, index, "baseline") or {"name": "none"}
    asked = questions(rule)
    if any(q.network == "baseline" for q in asked) and baseline["name"] == "none":
        raise UsageError(
            f"guidance={name} compares with a second frozen model, and baseline=none; use baseline=self (the teacher "
            "itself, told the category) or baseline=<prior>"
        )
    own = ("teacher", "baseline") if baseline["name"] == "self" else ("teacher",)
    if config["prior"].get("needs_camera") and any(
        q.network in own and "camera" in q.withheld for q in asked
    ):
        way = "use another prior, baseline=gaussian or cfg.uncond_camera=keep"
        raise UsageError(f"guidance={name} asks without a camera, which prior={prior} cannot answer; {way}")
    group = getattr(rule, "group", 1)
    views = stage_part(config, index, "cameras")["views"]
    if views % group:
        raise UsageError(
            f"guidance={name} rescales groups of {group} views, and cameras.views={views} is no multiple"
        )
    if is_edit(rule):
        picture = stage_part(config, index, "representation")["model"].get("picture")
        if not config.get("init") and not picture:
            raise UsageError(
                f"guidance={name} edits an existing object, and there is none; give it with --init FILE"
            )
        if not config["prompts"]["source"]:
            raise UsageError(
                f"guidance={name} compares the prompt with a description of the unedited object; say what it is with "
                "prompts.source='a ...'"
            )
    _check_words(config, {q.text for q in asked})


def _check_words(config: Config, kinds: set[str]) -> None:
    """Refuse words beside the prompt that a prior with a closed vocabulary does not know."""
    known = known_words(config["prior"])
    if known is None:
        return
    from threedistill.cameras import orbit
    from threedistill.priors.toybox import wording

    prompts = prompt_set(config)
    settings: dict[TextKind, str] = {
        "source": "prompts.source", "category": "prompts.category", "inverse": "prompts.inverse",
        "negative": "--negative",
    }  # fmt: skip
    for kind, setting in settings.items():
        if (
            kind in kinds
            or (kind == "inverse" and prompts.inverse)
            or (kind == "negative" and prompts.negative)
        ):
            try:
                wording(prompts.texts(kind, orbit(1))[0], known)
            except UsageError as error:
                raise UsageError(f"{setting}: {error}") from None


def build_baseline(config: Config, index: int, prior: Prior) -> Prior | None:
    """The second frozen model: none, the teacher itself, or another prior in the same space.

    Raises:
        UsageError: another prior whose pictures have another shape.
    """
    node = stage_part(config, index, "baseline")
    if not node or node["name"] == "none":
        return None
    if node["name"] == "self":
        return prior
    baseline: Prior = build(node["model"], "baseline.model", config["plugins"])
    if tuple(baseline.space.shape) != tuple(prior.space.shape) or type(baseline.space) is not type(
        prior.space
    ):
        raise UsageError(
            f"baseline={node['name']} works on {_space(baseline)}, the teacher {config['prior']['name']} on "
            f"{_space(prior)}; they must share one space"
        )
    return baseline


def _space(prior: Prior) -> str:
    return f"{type(prior.space).__name__} {'x'.join(map(str, prior.space.shape))}"


@torch.no_grad()
def render_unedited(
    asset: Mesh | Splats, cameras: Cameras, background: Float[Tensor, "B 3"]
) -> Float[Tensor, "B H W 3"]:
    """The unedited object from the step's cameras over the step's backgrounds."""
    if isinstance(asset, Mesh):
        from threedistill.render.mesh import render_mesh

        return render_mesh(asset, cameras.to("cpu"), background=background.cpu()).rgb.to(background)
    from threedistill.render.splat import render_splats

    return render_splats(asset, cameras, background).rgb
