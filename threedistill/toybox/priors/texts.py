"""Texts for the toy world's priors: checked before weights are loaded, and said in the words that they know."""

from __future__ import annotations

from collections.abc import Collection

from threedistill.conditions import Role
from threedistill.toybox import lexicon
from threedistill.toybox.grammar import PART_WORDS, parse, prior_words

__all__ = ["check_text", "vocabulary", "wording"]


def check_text(text: str, role: Role, known: Collection[str]) -> tuple[str, ...]:
    """Refuse what a prior has no words for; the words that change nothing.

    Arguments:
        text: what it would be told.
        role: a prompt must describe an object; a negative may be words such as "blurry", or nothing.
        known: its words.

    Raises:
        UsageError: naming every unknown word.
    """
    if role == "negative":
        wording(text, known)
        return ()
    return parse(text, known).ignored


def wording(text: str, known: Collection[str] | None = None) -> str:
    """A prompt in the words that the prior was trained on, its view and style words kept; "" stays "".

    Arguments:
        text: the prompt.
        known: the words that its weights know; None = those of the shipped ones.

    Raises:
        UsageError: words outside the Toybox vocabulary.
    """
    if not text.strip():
        return ""
    tokens = text.lower().replace(",", " ").replace(".", " ").split()
    known = prior_words() if known is None else known
    if any(t in lexicon.DEGRADED_WORDS for t in tokens) and all(t in known for t in tokens):
        return " ".join(tokens)  # a negative such as "blurry, broken", which describes no thing to build
    parsed = parse(text, known)
    return parsed.normalised + (f", {parsed.view} view" if parsed.view else "")


def vocabulary() -> dict[str, str]:
    """The words of the shipped weights by topic, and what the world has beside them."""
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
