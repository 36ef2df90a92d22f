"""The config groups and their options: those that ship, those of plug-ins and those of the user's own folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from threedistill.errors import UsageError, nearest
from threedistill.messages import shown
from threedistill.plugins import config_dirs
from threedistill.resources import configs_dir

__all__ = ["FLAG_GROUPS", "Option", "check_option", "clashes", "groups", "options"]

#: Flags of the command line that are choices of a config group.
FLAG_GROUPS = ("preset", "representation", "prior", "guidance")

#: Groups that are called otherwise where they are chosen.
_CALLED = {"experiment": "recipe"}

#: Folders of configurations that are no groups: nothing of them is chosen, all of it is there.
TABLES = ("critic", "format", "scorer", "metric")


@dataclass(frozen=True)
class Option:
    """One YAML file of a group.

    Attributes:
        file: where it is.
        source: who brings it; "" = it ships.
    """

    file: Path
    source: str = ""


def options(group: str, plugins: Sequence[str] = ()) -> dict[str, Option]:
    """The options of a group by name; of two with one name the one that ships, or the user's own."""
    found: dict[str, Option] = {}
    for source, root in (("", configs_dir()), *config_dirs(plugins)):
        for file in sorted((root / group).glob("*.yaml")):
            found.setdefault(file.stem, Option(file, source))
    return dict(sorted(found.items()))


def groups(plugins: Sequence[str] = ()) -> dict[str, list[str]]:
    """Every config group and its options.

    Arguments:
        plugins: packages that this request names, besides those that are trusted anyway.
    """
    roots = (configs_dir(), *(root for _, root in config_dirs(plugins)))
    names = {folder.name for root in roots for folder in root.iterdir() if any(folder.glob("*.yaml"))}
    names -= set(TABLES)
    return {name: list(options(name, plugins)) for name in sorted(names)}


def check_option(group: str, option: object, plugins: Sequence[str] = ()) -> None:
    """Refuse what is no option of a group, or is one twice.

    Raises:
        UsageError: with the nearest option, or with both places.
    """
    known = options(group, plugins)
    if not isinstance(option, str) or option not in known:
        close = nearest(str(option)[:80], known, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(
            f"unknown {_CALLED.get(group, group)} {shown(option)}; {hint}choose from {', '.join(known)}"
        )
    places = _places(group, option, plugins)
    if len(places) > 1:
        raise UsageError(f"{group} {option!r} is in {' and in '.join(places)}; rename one of them")


def clashes() -> list[str]:
    """What several places call by one name, one line each."""
    found = []
    for group, names in groups().items():
        for name in names:
            places = _places(group, name, ())
            if len(places) > 1:
                found.append(f"{group}={name} is in {' and in '.join(places)}")
    return found


def _places(group: str, option: str, plugins: Sequence[str]) -> list[str]:
    """Who brings an option."""
    roots = (("", configs_dir()), *config_dirs(plugins))
    return [
        source or "threedistill itself"
        for source, root in roots
        if (root / group / f"{option}.yaml").is_file()
    ]
