"""The parts that a stage has of its own: how they are written, and how they are read."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from threedistill.config.choices import check_option
from threedistill.config.places import STAGE_PARTS
from threedistill.config.schema import Config
from threedistill.errors import UsageError, nearest
from threedistill.messages import shown

__all__ = [
    "OWN_PART",
    "Request",
    "expand_stages",
    "flat_keys",
    "hint",
    "stage_node",
    "stage_part",
    "stage_path",
]

#: ``stages.N.part`` and what follows it.
OWN_PART = re.compile(rf"stages\.(\d+)\.({'|'.join(STAGE_PARTS)})((?:\.[^.]+)*)")


def stage_part(config: Config, index: int, part: str) -> Any:
    """A stage's own part of the configuration, or the run's."""
    return config["stages"][index].get(part, config.get(part))


def stage_path(config: Config, index: int, part: str) -> str:
    """Where :func:`stage_part` stands in the configuration, for messages."""
    return f"stages.{index}.{part}" if part in config["stages"][index] else part


def stage_node(config: Config, index: int) -> Config:
    """The arguments of a stage itself, without the parts it has of its own."""
    return {key: value for key, value in config["stages"][index].items() if key not in STAGE_PARTS}


@dataclass(frozen=True)
class Request:
    """What was asked of Hydra, and how to ask again with other groups for one stage.

    Attributes:
        group_lines: ``group=option``.
        value_lines: (key, line) of the other overrides.
        composed: (group lines, value lines, strict) -> a resolved configuration.
        plugins: packages that the request names.
    """

    group_lines: Sequence[str]
    value_lines: Sequence[tuple[str, str]]
    composed: Callable[..., Config]
    plugins: Sequence[str]


def expand_stages(config: Config, request: Request, own: Sequence[tuple[re.Match[str], str, Any]]) -> None:
    """Write out, in place, the parts that stages have of their own.

    Arguments:
        config: the run's.
        request: what it was composed from.
        own: of the overrides that name a stage's own part: key (matched by :data:`OWN_PART`), line and value.
    """
    stages = config["stages"]
    if not isinstance(stages, list) or not stages:
        raise UsageError(f"stages={shown(stages)} must be a list of at least one stage")
    for index, node in enumerate(stages):
        if not isinstance(node, dict):
            raise UsageError(f"stages.{index}={shown(node)} must be a mapping")
    for match, line, value in own:
        index, part, tail = int(match.group(1)[:9]), match.group(2), match.group(3)
        if index >= len(stages):
            raise UsageError(f"override {shown(line)}: there are only the stages 0 to {len(stages) - 1}")
        if not tail:
            stages[index][part] = value
    for index, node in enumerate(stages):
        _expand_stage(node, f"stages.{index}", config, request)
    for match, line, value in own:
        index, part, tail = int(match.group(1)[:9]), match.group(2), match.group(3)
        if tail:
            node = stages[index]
            node.setdefault(part, copy.deepcopy(config[part]))
            _put(node[part], tail[1:].split("."), value, f"stages.{index}.{part}", line)
            if part == "representation" and tail.startswith(".lr."):
                _bring_rates(node, config)


def _expand_stage(node: Config, where: str, config: Config, request: Request) -> None:
    """Write out the parts that a stage has of its own, in place.

    A part given by name is the option of that group; what else changes with that choice (the representation's rates,
    the rule's student) comes along. A part given as a mapping holds changes to the run's part, ``option`` in it names
    the option that is changed.
    """
    node.setdefault("_target_", "threedistill.training.stage.Stage")
    changes: Config = {}
    names: dict[str, str] = {}
    for part in [p for p in STAGE_PARTS if p in node]:
        given = node[part]
        if given is None:
            del node[part]
        elif isinstance(given, str):
            names[part] = given
        elif isinstance(given, dict):
            changes[part] = {k: v for k, v in given.items() if k != "option"}
            if "option" in given:
                names[part] = given["option"]
        else:
            raise UsageError(f"{where}.{part}={shown(given)} is neither an option's name nor a mapping")
    run = config
    if names:
        for part, name in names.items():
            check_option(part, name, request.plugins)
        lines = [g for g in request.group_lines if g.split("=")[0] not in names]
        lines += [f"{part}={name}" for part, name in names.items()]
        values = [v for v in request.value_lines if v[0].split(".")[0] not in names]
        run = request.composed(lines, values, strict=False)
    for part in STAGE_PARTS:
        if part in changes:
            node[part] = _merged(run[part], changes[part], f"{where}.{part}")
        elif part in names or run.get(part) != config.get(part):
            node[part] = copy.deepcopy(run[part])
    if "lr" in changes.get("representation", {}) and "optim" not in changes:
        _bring_rates(node, run)


def _bring_rates(node: Config, run: Config) -> None:
    """The rates of a stage's own representation are those of its optimizer."""
    node.setdefault("optim", copy.deepcopy(run["optim"]))["lr"] = dict(node["representation"]["lr"])


def _merged(base: Any, changes: Config, where: str) -> Any:
    """A copy of a node with some of its leaves replaced; another ``_target_`` replaces the node as a whole."""
    if not isinstance(base, dict) or changes.get("_target_", base.get("_target_")) != base.get("_target_"):
        return copy.deepcopy(changes)
    result = copy.deepcopy(base)
    for key, value in changes.items():
        if key not in base and "_target_" in base:
            raise UsageError(f"{where}: unknown key {shown(key)}{hint(key, set(base))}")
        result[key] = (
            _merged(base.get(key), value, f"{where}.{key}")
            if isinstance(value, dict)
            else copy.deepcopy(value)
        )
    return result


def _put(node: Any, path: list[str], value: Any, where: str, line: str) -> None:
    """Replace one leaf of a plain node."""
    for step in path[:-1]:
        node = node.get(step) if isinstance(node, dict) else None
    if not isinstance(node, dict) or path[-1] not in node:
        known = set(flat_keys(node)) if isinstance(node, dict) else set()
        raise UsageError(
            f"unknown key {shown(where + '.' + '.'.join(path))} in {shown(line)}{hint(path[-1], known)}"
        )
    node[path[-1]] = value


def hint(key: str, keys: set[str]) -> str:
    """Which valid key was probably meant."""
    close = nearest(key, keys, 1) or nearest(key.rsplit(".", 1)[-1], keys, 1)
    close = close or [k for k in sorted(keys) if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]][:1]
    return f"; did you mean {close[0]!r}?" if close else "; see threedistill generate --print-config"


def flat_keys(node: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, child in node.items():
            yield f"{prefix}{key}"
            yield from flat_keys(child, f"{prefix}{key}.")
    elif isinstance(node, list):
        for index, child in enumerate(node):
            yield from flat_keys(child, f"{prefix}{index}.")
