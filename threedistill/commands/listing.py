"""``threedistill list``: what can be chosen, read from the configuration files without loading any weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from threedistill.commands.arguments import Parser, unknown
from threedistill.config.choices import options
from threedistill.errors import UsageError
from threedistill.exports.formats import formats

if TYPE_CHECKING:
    from threedistill.protocols import Prior

__all__ = ["choices", "parser", "run"]

#: What the user calls it -> the configuration group.
_GROUPS = {
    "representations": "representation",
    "priors": "prior",
    "guidance": "guidance",
    "presets": "preset",
    "recipes": "experiment",
    "metrics": "metric",
    "scorers": "scorer",
}
#: What of a recipe is said, and under which name.
_OF_RECIPES = {"source": "source", "memory": "GPU memory", "time": "time", "differs": "differs"}
TOPICS = (*_GROUPS, "words", "formats")


def parser() -> Parser:
    """The options of ``list``."""
    p = Parser("list", f"[{'|'.join(TOPICS)}] [--json]", "Show what can be chosen.")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def run(argv: Sequence[str]) -> int:
    """Print the choices of one topic, or of all."""
    options, data = parser().parse(argv)
    if len(data) > 1:
        raise UsageError(f"list takes one topic, not {len(data)}")
    topics = data or list(TOPICS)
    if topics[0] not in TOPICS:
        raise UsageError(unknown("list", topics[0], TOPICS))
    tables = {topic: choices(topic) for topic in topics}
    if options.json:
        print(json.dumps(tables, ensure_ascii=False, indent=1))
        return 0
    for number, (topic, table) in enumerate(tables.items()):
        if len(tables) > 1:
            print(f"{chr(10) if number else ''}{topic}:")
        width = max(map(len, table), default=0)
        for name, about in table.items():
            print(f"  {name:{width}}  {about}".rstrip())
    return 0


def choices(topic: str) -> dict[str, str]:
    """The names under a topic, each with one line about it."""
    if topic == "formats":
        return {name: f"{info.file:14} {info.about}" for name, info in formats().items()}
    if topic == "words":
        return _words()
    more = _facts if topic == "recipes" else lambda _: ""
    return {
        name: _headline(option.file) + (f" ({option.source})" if option.source else "") + more(option.file)
        for name, option in options(_GROUPS[topic]).items()
    }


def _headline(file: Path) -> str:
    """The first comment of a configuration file says what it is."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if line.startswith("#"):
            return line.lstrip("# ").strip()
        if line.strip():
            break
    return ""


def _facts(file: Path) -> str:
    """Where a recipe comes from, what it takes and what differs, a line each; what it leaves unsaid is its base's."""
    from threedistill.config import options, parse_yaml

    content = parse_yaml(file.read_text(encoding="utf-8"), f"{file} cannot be read as YAML")
    facts, known = dict(content["recipe"]), options("experiment")
    for base in content.get("defaults", ()):
        if isinstance(base, str) and base in known:
            own = parse_yaml(
                known[base].file.read_text(encoding="utf-8"), f"{known[base].file} cannot be read as YAML"
            )
            facts = {**own["recipe"], **facts}
    return "".join(f"\n      {name}: {facts[key]}" for key, name in _OF_RECIPES.items() if key in facts)


def _words() -> dict[str, str]:
    """The vocabulary of the prior that is taken where none is chosen."""
    from threedistill.config import checked_class, options, parse_yaml
    from threedistill.training.naming import DEFAULTS

    file = options("prior")[DEFAULTS["prior"]].file
    node = parse_yaml(file.read_text(encoding="utf-8"), f"{file} cannot be read as YAML")["model"]
    prior: type[Prior] = checked_class(node, "prior.model")
    return prior.vocabulary()
