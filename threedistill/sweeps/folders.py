"""Runs that no sweep planned: found in a folder, compared by what their configurations differ in."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threedistill.atomic import os_errors_in_words
from threedistill.config import read_config
from threedistill.config.differences import different_settings, value_at
from threedistill.errors import ThreedistillError, UsageError
from threedistill.sweeps.job import read_record
from threedistill.sweeps.plan import Plan
from threedistill.sweeps.table import axes, measured, rows, summary, with_diversity

__all__ = ["find_runs", "report_on", "rows_of_folders"]

#: Folders below the one named are looked through this deep.
_DEPTH = 4
#: Settings that are told apart; runs that differ in more have little to do with each other.
_MOST_AXES = 8
#: Differences that are columns of their own, or none of a setting.
_OWN = ("prompt", "seed", "images", "init", "export", "trainer", "budget", "prior.recommended")


def report_on(root: Path, one_file: bool = False) -> tuple[Path, int]:
    """Write the page of a sweep's folder, or of one with runs in it; the page and how many runs are on it.

    Raises:
        UsageError: no runs there, or somebody else's ``index.html``.
    """
    from threedistill.reports import write_report
    from threedistill.reports.write import refuse_foreign

    title = root.resolve().name or "runs"
    if (root / "sweep" / "plan.json").is_file():
        plan = Plan(root)
        with plan.locked():
            found = rows(plan)
            page = write_report(root, found, summary(found), title, axes(plan), one_file)
    else:
        found, names = rows_of_folders(root)
        refuse_foreign(root / "index.html")
        page = write_report(root, found, summary(found), title, names, one_file)
    return page, len(found)


def find_runs(root: Path) -> list[Path]:
    """The run folders at and below a folder, in order; runs in runs are not looked for.

    Raises:
        UsageError: the folder is not there, or has none.
    """
    with os_errors_in_words(root):
        if not root.is_dir():
            raise UsageError(f"{root}: there is no such folder")
        found: list[Path] = []
        for place, folders, names in os.walk(root):
            here = Path(place)
            if "run.json" in names:
                found.append(here)
                folders.clear()
            deep = len(here.relative_to(root).parts) >= _DEPTH
            folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
    if not found:
        raise UsageError(f"{root}: no run in it (folders with a run.json, which generate and sweep make)")
    return sorted(found)


def rows_of_folders(root: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """One row per run below a folder, as :func:`threedistill.sweeps.table.rows` makes them, and which are settings."""
    folders = find_runs(root)
    configs = [_config(folder) for folder in folders]
    names = _axes(configs)
    found = []
    for number, (folder, config) in enumerate(zip(folders, configs)):
        record = read_record(folder)
        values = {name: None if config is None else _word(value_at(config, name)) for name in names}
        label = " ".join(f"{name}={value}" for name, value in values.items() if value is not None)
        found.append(
            {
                "run": str(folder.relative_to(root)), "number": number, "prompt": str(record.get("prompt") or ""),
                "seed": record.get("seed"), "setting": label or "default", **values, **measured(folder),
            }
        )  # fmt: skip
    return with_diversity(found, root), names


def _config(folder: Path) -> dict[str, Any] | None:
    try:
        return read_config(folder / "config.yaml")
    except (ThreedistillError, OSError):  # its row says what became of it
        return None


def _axes(configs: Sequence[dict[str, Any] | None]) -> list[str]:
    """The settings in which the runs differ: choices first, then what differs between runs of equal choices."""
    known = [config for config in configs if config is not None]
    found: dict[str, None] = {}
    representatives: list[dict[str, Any]] = []
    for config in known:
        differences = [_names(different_settings(config, one)) for one in representatives]
        nearest = min(differences, key=len, default=[])
        if not representatives or nearest:
            representatives = [*representatives, config][:32]
        found |= dict.fromkeys(
            name for name in nearest if not f"{name}.".startswith(tuple(f"{own}." for own in _OWN))
        )
    return list(found)[:_MOST_AXES]


def _names(differences: Sequence[tuple[str, Any, Any]]) -> list[str]:
    """What differs, by the settings of a choice that has no name of its own."""
    found: list[str] = []
    for name, one, other in differences:
        if isinstance(one, dict) and isinstance(other, dict):
            inner = [(f"{name}.{key}", one.get(key), other.get(key)) for key in {**one, **other}]
            found += _names([item for item in inner if item[1] != item[2]])
        else:
            found.append(name)
    return found


def _word(value: Any) -> Any:
    return value if isinstance(value, str | int | float | None) else json.dumps(value, default=str)
