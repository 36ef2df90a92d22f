"""Changing a run while it runs: one setting of one stage, as data, checked by whoever makes a plan of the result."""

from __future__ import annotations

import copy
from typing import Any

from threedistill.config.places import STAGE_PARTS
from threedistill.config.schema import Config
from threedistill.config.stages import flat_keys, hint, stage_part
from threedistill.errors import UsageError
from threedistill.messages import shown

__all__ = ["CHANGEABLE", "with_change"]

#: Settings of a stage that hold no state, so that another value needs nothing but to be used from then on.
CHANGEABLE = (
    "guidance.rule", "guidance.timesteps", "guidance.weighting", "guidance.surrogate", "background", "light", "shading",
)  # fmt: skip

#: But these: learned surroundings, their degree and their optimizer are made once, when a stage begins.
_BUILT = ("background.learned", "background.degree", "background.lr")

#: Texts, which hold for the whole run.
_TEXTS = ("prompt", "negative")


def with_change(config: Config, index: int, key: str, value: Any) -> Config:
    """A copy of the configuration in which one setting of a stage has another value.

    Arguments:
        config: the run's.
        index: the stage.
        key: ``prompt``, ``negative``, ``shading``, or the place of a setting in the stage's guidance, background or
            light, such as ``guidance.rule.cfg.scale``.
        value: of the kind that the configuration has there; texts are taken as they are.

    Raises:
        UsageError: a setting that cannot be changed while a run runs, or that is not there. Whether the value fits
            shows when a plan is made of the result.
    """
    if key in _TEXTS:
        if not isinstance(value, str):
            raise UsageError(f"{key}={shown(value)} must be a text")
        return {**config, key: value}
    changed = {**config, "stages": copy.deepcopy(config["stages"])}
    stage = changed["stages"][index]
    if key == "shading":
        stage["shading"] = value
        return changed
    part, *path = key.split(".")
    changeable = any(f"{key}.".startswith(f"{place}.") for place in CHANGEABLE) and key not in _BUILT
    if part not in STAGE_PARTS or not changeable:
        raise UsageError(
            f"{shown(key)} cannot be changed while a run runs; what can: {', '.join((*_TEXTS, *CHANGEABLE))}"
        )
    stage[part] = copy.deepcopy(stage_part(config, index, part))
    node = stage[part]
    for step in path[:-1]:
        node = node.get(step) if isinstance(node, dict) else None
    known = {f"{part}.{name}" for name in flat_keys(stage[part]) if not name.endswith("_target_")}
    if not path or not isinstance(node, dict) or path[-1] not in node or path[-1] == "_target_":
        raise UsageError(f"there is no {shown(key)} to change here{hint(key, known)}")
    node[path[-1]] = value
    return changed
