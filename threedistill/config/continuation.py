"""More steps for a run that is finished: one more stage, which goes on where the last one ended."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import Any

from threedistill.config.building import build_as
from threedistill.config.composition import parse_override
from threedistill.config.places import STAGE_PARTS
from threedistill.config.schema import Config
from threedistill.config.stages import stage_part
from threedistill.errors import UsageError

__all__ = ["with_more_steps"]

_KEY = "budget.iterations"


def with_more_steps(config: Config, lines: Sequence[str], folder: object) -> Config:
    """The configuration with one more stage, so that all stages together have the iterations asked for.

    The stage is the last one once more with everything that changes over a stage (noise window, rates, weights) held
    where it ended; its learners are kept. Its optimizer's moments begin anew.

    Arguments:
        config: the run's.
        lines: ``budget.iterations=N``.
        folder: the run's, for messages.

    Raises:
        UsageError: another setting, or no more iterations than the run has.
    """
    done = sum(int(stage["iterations"]) for stage in config["stages"])
    wanted = [_iterations(line, done, folder) for line in lines]
    if len(wanted) > 1:
        raise UsageError(f"{lines[0]} and {lines[1]}: give {_KEY} once")
    if not wanted:
        return config
    last = config["stages"][-1]
    parts = {part: copy.deepcopy(stage_part(config, -1, part)) for part in STAGE_PARTS if part in last}
    for part in ("optim", "regularizers", "cameras"):
        parts[part] = _settled(stage_part(config, -1, part), part, config["plugins"])
    parts["student"] = {**copy.deepcopy(stage_part(config, -1, "student")), "keep": True}
    learners = copy.deepcopy(stage_part(config, -1, "learners"))
    parts["learners"] = {name: {**node, "keep": True} for name, node in learners.items()}
    end = float(last.get("span", (0.0, 1.0))[1])
    stage = {
        **_settled({key: value for key, value in last.items() if key not in STAGE_PARTS}, "stages", config["plugins"]),
        **parts, "name": _next_name(str(last["name"])), "iterations": wanted[0] - done, "span": [end, end],
    }  # fmt: skip
    return {**config, "stages": [*config["stages"], stage]}


def _iterations(line: str, done: int, folder: object) -> int:
    key, value = parse_override(line)
    if key != _KEY:
        raise UsageError(
            f"resume: {line}: a run keeps its settings; only {_KEY}=N can be given, for more steps (others: "
            "threedistill generate with another --out)"
        )
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**12:
        raise UsageError(f"resume: {line}: give a whole number of iterations")
    if value <= done:
        raise UsageError(f"resume: {line}: {folder} has {done} iterations already; give more than that")
    return value


def _next_name(name: str) -> str:
    """coarse -> coarse-more -> coarse-more2 -> ..."""
    found = re.fullmatch(r"(.*)-more(\d*)", name)
    return f"{found.group(1)}-more{int(found.group(2) or 1) + 1}" if found else f"{name}-more"


def _settled(node: Any, where: str, plugins: Sequence[str]) -> Any:
    """A copy of a node with every schedule in it replaced by its value at the end."""
    if isinstance(node, dict):
        if str(node.get("_target_", "")).startswith("threedistill.schedule."):
            from threedistill.schedule import Schedule, value_at  # loads pydantic, which lists do without

            value = value_at(build_as(Schedule, node, where, plugins), 1.0)
            return int(value) if value == int(value) else value
        return {key: _settled(child, f"{where}.{key}", plugins) for key, child in node.items()}
    return [_settled(child, where, plugins) for child in node] if isinstance(node, list) else node
