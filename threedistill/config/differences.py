"""What differs between what is asked for and what a run in a folder was made with, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from threedistill.config.schema import Config

__all__ = ["asked_otherwise", "choice", "different_settings", "in_words", "value_at"]

#: Keys that are no part of what a run makes.
_ASIDE = ("schema", "device", "plugins", "trainer")

#: Choices that bring other settings along: where one differs, what follows from it is not listed too.
_CHOICES = ("preset", "prior", "representation", "guidance", "student", "baseline", "cfg", "timesteps")


def different_settings(asked: Config, made: Config) -> list[tuple[str, Any, Any]]:
    """(setting, asked for, made with) of everything that differs, choices instead of what they bring.

    Arguments:
        asked, made: two composed configurations.
    """
    found = [
        (key, asked.get(key), made.get(key))
        for key in ("prompt", "negative", "seed", "init", "images")
        if asked.get(key) != made.get(key)
    ]
    chosen = [(name, choice(asked, name), choice(made, name)) for name in _CHOICES]
    differing = [item for item in chosen if item[1] != item[2] and None not in item]
    if differing:
        return [*found, *differing]
    ours, theirs = (dict(_leaves(config)) for config in (asked, made))
    names = [
        name for name in {**ours, **theirs} if name.split(".")[0] not in (*_ASIDE, *(f[0] for f in found))
    ]
    return found + [(n, ours.get(n), theirs.get(n)) for n in names if ours.get(n) != theirs.get(n)]


def asked_otherwise(
    given: Mapping[str, Any], lines: Sequence[str], asked: Config, made: Config
) -> list[tuple[str, Any, Any]]:
    """(setting, asked for, made with) of what was asked for by name and is not what the run has.

    Arguments:
        given: flags that were given (prompt, negative, seed, preset, representation, prior, guidance, formats, init,
            images).
        lines: the overrides that were given.
        asked: what they compose to.
        made: the run's configuration.
    """
    found = []
    for name, value in given.items():
        has = list(made["export"]["formats"]) if name == "formats" else choice(made, name)
        wanted = list(value) if name == "formats" else value
        if has != wanted:
            found.append((name, wanted, has))
    for line in lines:
        key = line.split("=", 1)[0]
        if key in given:
            continue
        _, _, place = key.partition("@")
        if place:  # student@learners.slow=lora
            wanted, has = (_at(c, f"{place}.name") for c in (asked, made))
        else:
            wanted, has = (value_at(c, key) for c in (asked, made))
        if wanted != has:
            found.append((key, wanted, has))
    return found


def in_words(differences: Sequence[tuple[str, Any, Any]], most: int = 3) -> str:
    """``guidance=csd (the run has sds), ... and 2 more``."""
    parts = [f"{key}={_short(asked)} (the run has {_short(made)})" for key, asked, made in differences[:most]]
    more = f" and {len(differences) - most} more" if len(differences) > most else ""
    return ", ".join(parts) + more


def choice(config: Config, group: str) -> Any:
    """Which option of a group a configuration has; the node itself where options have no names."""
    if group == "preset":
        return config["budget"].get("preset")
    node = config.get(group)
    return node["name"] if isinstance(node, dict) and "name" in node else node


def value_at(config: Config, name: str) -> Any:
    """What a configuration has for a name that :func:`different_settings` gives: a choice, or a setting."""
    return choice(config, name) if "." not in name else _at(config, name)


def _at(config: Any, path: str) -> Any:
    for step in path.split("."):
        if isinstance(config, list) and step.isdigit() and int(step) < len(config):
            config = config[int(step)]
        elif isinstance(config, dict):
            config = config.get(step)
        else:
            return None
    return config


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and node:
        for key, child in node.items():
            yield from _leaves(child, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list) and any(isinstance(child, dict) for child in node):
        for index, child in enumerate(node):
            yield from _leaves(child, f"{prefix}.{index}")
    else:
        yield prefix, node


def _short(value: Any) -> str:
    text = "none" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
