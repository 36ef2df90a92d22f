"""Vocabularies of weights that know less than the world."""

from __future__ import annotations

from threedistill.toybox.grammar import PART_WORDS, prior_words
from threedistill.toybox.lexicon import FINISHES, KINDS, NEWER, PLURALS, SIZES


def first_words() -> frozenset[str]:
    """What the first version's weights knew: 27 kinds, and no parts, sizes, finishes or numbers."""
    first = {word for kind in KINDS if kind not in NEWER for word in kind.split()}
    later = (*NEWER, *PART_WORDS, *SIZES, *FINISHES, "two", *PLURALS.values())
    return prior_words() - ({word for phrase in later for word in phrase.split()} - first)
