"""A run's ``config.yaml``: written for people and for us, read like anything that a stranger may have sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from threedistill.atomic import write_text
from threedistill.config.schema import SCHEMA_VERSION, Config, check_shape
from threedistill.errors import UsageError
from threedistill.messages import shown
from threedistill.plugins import trusted

__all__ = ["accept", "parse_yaml", "read_config", "trust", "write_config"]

#: A configuration has some 20 kB; a prompt may be long.
_LARGEST = 4_000_000

#: More than any configuration has.
_DEEPEST = 64

#: Where classes are now that configurations of older versions name.
_MOVED = {
    f"threedistill.priors.{old}": f"threedistill.toybox.priors.{new}"
    for old, new in (
        ("toybox.ToyboxPrior", "embedded.ToyboxPrior"), ("oracle.OraclePrior", "oracle.OraclePrior"),
    )
}  # fmt: skip


def write_config(config: Config, path: Path) -> None:
    """Write ``config.yaml``, readable by people and by :func:`read_config`."""
    import yaml

    class Plain(yaml.SafeDumper):
        """Writes what stands in two places twice."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    write_text(path, yaml.dump(config, Dumper=Plain, allow_unicode=True, sort_keys=False, width=110))


def read_config(path: Path, plugins: Sequence[str] = ()) -> Config:
    """Read a ``config.yaml`` that :func:`write_config` wrote, and hold it to the schema.

    What it names under ``plugins`` counts where the user trusts it anyway (``threedistill/plugins.py``), or says so.

    Arguments:
        path: the file.
        plugins: packages that the user names besides.

    Raises:
        UsageError: the file is missing, not ours, of another schema version, incomplete, or names packages that are
            not trusted.
    """
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise UsageError(f"{path} was not written by threedistill: it has {size} bytes")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(f"{path.parent} is not a run folder: it has no config.yaml") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} cannot be read as YAML: not UTF-8 text (byte {error.start})") from None
    config = parse_yaml(text, f"{path} cannot be read as YAML")
    if not isinstance(config, dict) or "schema" not in config or "prompt" not in config:
        raise UsageError(f"{path} was not written by threedistill")
    if config["schema"] != SCHEMA_VERSION:
        raise UsageError(
            f"{path} has schema {shown(config['schema'])}, this version reads {SCHEMA_VERSION}; start a new run"
        )
    accept(config, str(path), plugins)
    return config


def accept(config: Config, source: str, plugins: Sequence[str] = ()) -> None:
    """Hold a configuration that comes from a file to the schema, and to the plug-ins that the user trusts.

    Arguments:
        config: changed in place, as by :func:`trust`.
        source: the file, for messages.
        plugins: packages that the user names besides.

    Raises:
        UsageError: with the place.
    """
    check_shape(config, source)
    _modernise(config)
    trust(config, source, plugins)


def _modernise(config: Config) -> None:
    """What older versions wrote in another form that means the same, or not at all, in place."""
    for part in ("networks", "learners"):
        config.setdefault(part, {})
    config.setdefault("images", [])
    for node in (config["prior"], *(n.get("baseline") for n in (config, *config["stages"]))):
        model = node.get("model") if isinstance(node, dict) else None
        if isinstance(model, dict) and (place := _MOVED.get(str(model.get("_target_")))):
            model["_target_"] = place
    for node in (config, *config["stages"]):
        # The weights were an object of a class that named every term; they are a mapping.
        weights = node.get("regularizers", {}).get("weights")
        if isinstance(weights, dict) and str(weights.get("_target_")).endswith(".RegularizerWeights"):
            del weights["_target_"]


def trust(config: Config, source: str, plugins: Sequence[str] = ()) -> None:
    """Keep of a file's ``plugins`` those that the user trusts, and refuse the others.

    Arguments:
        config: changed in place: its ``plugins`` are then the trusted packages.
        source: the file, for messages.
        plugins: packages that the user names besides.
    """
    known = dict.fromkeys([*(one.package for one in trusted()), *plugins])
    for name in config["plugins"]:
        if name not in known:
            raise UsageError(
                f"{source} wants code from the package {shown(name)}, and what a file names is not trusted by itself; "
                f"if you know it, say so with plugins=[{name[:60]}]"
            )
    config["plugins"] = list(known)


def parse_yaml(text: str, trouble: str) -> Any:
    """The content of a YAML text: plain data, without references from one place to another.

    Arguments:
        text: the YAML.
        trouble: how the line about an error begins.

    Raises:
        UsageError: no YAML, too deep, or with references (a few of which can stand for billions of values).
    """
    import yaml

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same grammar, ten times as fast
    try:
        depth = 0
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise yaml.YAMLError(f"a reference (*{event.anchor}), which is not supported")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _DEEPEST:
                raise yaml.YAMLError(f"nested more than {_DEEPEST} levels deep")
        return yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        raise UsageError(f"{trouble}: {' '.join(str(error).split())[:300]}") from None
    except (
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # a date that is none, a number of 5000 digits
        raise UsageError(f"{trouble}: {' '.join(str(error).split())[:300]}") from None
