"""Which words a run's prior knows, and what of a prompt it has no use for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any


def known_words(prior: Mapping[str, Any]) -> Collection[str] | None:
    """The words of a configured prior with a closed vocabulary, or None for an open one.

    ``vocabulary: toybox`` stands for the words that its weights were trained on, ``world`` for all that the Toybox
    world has.
    """
    from threedistill.toybox.grammar import prior_words, words

    if prior.get("vocabulary") == "world":
        return words()
    if prior.get("vocabulary") != "toybox":
        return None
    folder = prior.get("model", {}).get("folder")
    return prior_words(Path(folder).expanduser() if folder else None)


def check_words(prompt: str, prior: Mapping[str, Any]) -> tuple[str, ...]:
    """Refuse a prompt that the prior has no words for; returns the words that change nothing.

    Raises:
        UsageError: naming every unknown word.
    """
    from threedistill.toybox.grammar import parse

    known = known_words(prior)
    return () if known is None else parse(prompt, known).ignored
