"""The metrics and scorers of the groups of these names: found by name, with the models that the user names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from threedistill.config.building import build
from threedistill.config.choices import Option, options
from threedistill.config.files import parse_yaml
from threedistill.errors import UsageError, nearest
from threedistill.plugins import trusted

if TYPE_CHECKING:
    from threedistill.evaluation.metrics.metric import Metric
    from threedistill.scoring import Scorer

__all__ = ["Asked", "metrics_for", "scorer_for"]

#: What a file leaves to the user.
_MISSING = "???"


@dataclass(frozen=True)
class Asked:
    """Which metrics the user wants, and with what.

    Attributes:
        names: ``metric``, ``scorer`` (its mean score) or ``metric:scorer``.
        models: by a scorer's name, the folder of its model.
        reference: the folder of pictures for distances.
        distractors: a file of other prompts for R-precision.
    """

    names: tuple[str, ...]
    models: Mapping[str, str] = field(default_factory=dict)
    reference: str | None = None
    distractors: str | None = None


def scorer_for(name: str, models: Mapping[str, str] | None = None) -> Scorer:
    """A scorer by its name; its network is loaded when it is first asked.

    Raises:
        UsageError: there is none, or its model is not named.
    """
    return build(_scorer_node(name, models or {}), "scorer", _packages())


def metrics_for(asked: Asked) -> dict[str, Metric]:
    """The metrics by the names that the user gave them.

    Raises:
        UsageError: a name that is none, a model for nobody, or something that the user has to name and has not.
    """
    known = options("scorer")
    if strange := [name for name in asked.models if name not in known]:
        raise UsageError(_unknown("--model", strange[0], known))
    used = {given for name in asked.names for given in (name.partition(":")[2] or name,)}
    found = {name: build(_metric_node(name, asked, used), "metric", _packages()) for name in asked.names}
    if idle := [name for name in asked.models if name not in used]:
        raise UsageError(
            f"--model {idle[0]}={asked.models[idle[0]]}: no metric asks it; add {idle[0]} to --metrics"
        )
    return found


def _metric_node(name: str, asked: Asked, used: set[str]) -> dict[str, Any]:
    metrics, scorers = options("metric"), options("scorer")
    first, _, second = name.partition(":")
    if first not in metrics:
        if second or first not in scorers:
            raise UsageError(_unknown("metrics", first, [*metrics, *scorers]))
        first, second = "score", first
    node = _read(metrics[first])
    if second and "scorer" not in node:
        raise UsageError(f"metrics: {first} asks no scorer, so {name} says too much")
    if "scorer" in node:
        chosen = second or str(node["scorer"])
        used.add(chosen)
        node["scorer"] = _scorer_node(chosen, asked.models)
    for key in ("reference", "distractors"):
        if key in node and getattr(asked, key) is not None:
            node[key] = getattr(asked, key)
    if left := [key for key, value in node.items() if value == _MISSING]:
        raise UsageError(f"metrics: {name} needs --{left[0]} DIR")
    return node


def _scorer_node(name: str, models: Mapping[str, str]) -> dict[str, Any]:
    known = options("scorer")
    if name not in known:
        raise UsageError(_unknown("scorer", name, known))
    node = _read(known[name])
    if name in models:
        if "folder" not in node:
            raise UsageError(f"--model {name}: this scorer has no folder to be named")
        node["folder"] = models[name]
    if node.get("folder") == _MISSING:
        raise UsageError(f"{name} needs its model's folder: --model {name}=DIR")
    return node


def _read(option: Option) -> dict[str, Any]:
    node = parse_yaml(option.file.read_text(encoding="utf-8"), f"{option.file} cannot be read")
    if not isinstance(node, dict):
        raise UsageError(f"{option.file} is no mapping with a _target_")
    return dict(node)


def _packages() -> list[str]:
    return [one.package for one in trusted()]


def _unknown(what: str, name: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = nearest(name, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{what}: there is no {name[:80]!r}; {hint}there are {', '.join(known)}"
