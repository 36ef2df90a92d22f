"""``threedistill list``: what can be chosen, read from the configuration files without loading anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from threedistill.commands.arguments import Parser, unknown
from threedistill.config.choices import options
from threedistill.errors import UsageError
from threedistill.exports.formats import formats

#: What the user calls it -> the configuration group.
_GROUPS = {
    "representations": "representation",
    "priors": "prior",
    "guidance": "guidance",
    "presets": "preset",
}
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
    return {
        name: _headline(option.file) + (f" ({option.source})" if option.source else "")
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


def _words() -> dict[str, str]:
    """The vocabulary of the shipped weights, and what the world has beside it."""
    from threedistill.toybox import lexicon
    from threedistill.toybox.grammar import PART_WORDS, prior_words

    known = prior_words()
    topics = {
        "kinds": sorted(lexicon.KINDS), "colours": lexicon.COLORS, "patterns": lexicon.PATTERNS,
        "accessories": lexicon.ACCESSORIES, "relations": lexicon.RELATIONS, "sizes": lexicon.SIZES,
        "finishes": lexicon.FINISHES, "parts": PART_WORDS, "numbers": ("two",),
    }  # fmt: skip
    table, newer = {}, []
    for topic, names in topics.items():
        here = [n for n in names if all(word in known for word in n.split())]
        newer += [n for n in names if n not in here]
        if here:
            table[topic] = ", ".join(here)
    table["read as another word"] = ", ".join(
        f"{word} = {meant}" for word, meant in lexicon.SYNONYMS.items()
        if word != meant and all(part in known for part in meant.split())
    )  # fmt: skip
    if newer:
        table["only the world"] = ", ".join(newer) + " (`toybox render`, prior=oracle)"
    return table
