"""Which packages besides this one a user trusts: installed as plug-ins, or named by the user for this process.

A plug-in is a package whose classes a configuration may name. It becomes one in two ways only, and a file is neither:

    installed    its distribution has an entry point in the group ``threedistill.plugins``
    named        ``plugins=[name]`` (or ``--plugins name``) on the command line, or in ``$THREEDISTILL_PLUGINS``

Its folder ``configs/`` is on the search path of configurations, as is every folder of ``--config-dir``
(``$THREEDISTILL_CONFIG_DIRS``). The environment carries the user's word to the workers of a sweep.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from threedistill.errors import UsageError

__all__ = ["GROUP", "Plugin", "config_dirs", "installed", "named", "naming", "plugin", "trusted"]

#: The group of entry points; each names a package: ``my_package = "my_package"``.
GROUP = "threedistill.plugins"

_NAMES, _FOLDERS = "THREEDISTILL_PLUGINS", "THREEDISTILL_CONFIG_DIRS"


@dataclass(frozen=True)
class Plugin:
    """One plug-in.

    Attributes:
        package: its importable name.
        source: the distribution it was installed with, or "named" where the user named it.
        configs: its folder of configurations; None where it has none, or Python does not find it.
        found: whether Python finds it.
    """

    package: str
    source: str
    configs: Path | None
    found: bool = True


def installed() -> list[Plugin]:
    """The plug-ins that came with installed distributions, by name."""
    return list(_installed(tuple(sys.path)))


@functools.cache
def _installed(paths: tuple[str, ...]) -> tuple[Plugin, ...]:
    """Kept by search path: every distribution's metadata is read, and configurations ask for each of their nodes."""
    from importlib.metadata import entry_points

    points = {point.value.partition(":")[0]: point for point in entry_points(group=GROUP)}
    return tuple(
        plugin(name, point.dist.name if point.dist is not None else "installed")
        for name, point in sorted(points.items())
    )


def named() -> tuple[str, ...]:
    """The packages that the user has named for this process and those it starts."""
    return tuple(name for name in os.environ.get(_NAMES, "").split(",") if name)


def trusted() -> list[Plugin]:
    """All plug-ins: the installed ones, and those the user has named."""
    found = {one.package: one for one in installed()}
    for name in named():
        found.setdefault(name, plugin(name, "named"))
    return list(found.values())


def plugin(package: str, source: str) -> Plugin:
    """What Python knows about a package, without running it.

    Raises:
        UsageError: no name of a package.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", package):
        raise UsageError(f"plugins: {package[:80]!r} is no name of a Python package")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError, AttributeError):
        spec = None
    if spec is None:
        return Plugin(package, source, None, found=False)
    # A single module has no folder of its own; its configurations are given with --config-dir.
    folders = [Path(place, "configs") for place in spec.submodule_search_locations or ()]
    return Plugin(package, source, next((folder for folder in folders if folder.is_dir()), None))


def config_dirs(extra: Sequence[str] = ()) -> list[tuple[str, Path]]:
    """(who, folder): every folder of configurations besides the one that ships, the user's own first.

    Arguments:
        extra: packages that this request names besides.
    """
    own = [
        (f"--config-dir {name}", Path(name))
        for name in os.environ.get(_FOLDERS, "").split(os.pathsep)
        if name
    ]
    plugins = {one.package: one for one in trusted()}
    for name in extra:
        plugins.setdefault(name, plugin(name, "named"))
    return own + [(f"the plug-in {one.package}", one.configs) for one in plugins.values() if one.configs]


@contextlib.contextmanager
def naming(packages: Iterable[str] = (), folders: Iterable[str] = ()) -> Iterator[None]:
    """Within the block, this process and those it starts trust these packages and search these folders too.

    Raises:
        UsageError: a folder that is not there, or no name of a package.
    """
    packages, folders = list(packages), [str(Path(folder).absolute()) for folder in folders]
    for name in packages:
        plugin(name, "named")
    for folder in folders:
        if not Path(folder).is_dir():
            raise UsageError(f"--config-dir {folder}: there is no such folder")
        if os.pathsep in folder:
            raise UsageError(f"--config-dir {folder}: its path must not hold {os.pathsep!r}")
    before = {key: os.environ.get(key) for key in (_NAMES, _FOLDERS)}
    known = [name for name in os.environ.get(_FOLDERS, "").split(os.pathsep) if name]
    try:
        if packages:
            os.environ[_NAMES] = ",".join(dict.fromkeys([*named(), *packages]))
        if folders:
            os.environ[_FOLDERS] = os.pathsep.join(dict.fromkeys([*known, *folders]))
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value
