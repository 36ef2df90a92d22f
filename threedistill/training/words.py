"""Which words a run's prior knows, and what of a prompt it has no use for."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from threedistill.errors import UsageError


def known_words(vocabulary: str | None, folder: str | None = None) -> Collection[str] | None:
    """The words of a prior with a closed vocabulary, or None for an open one.

    Arguments:
        vocabulary: ``toybox`` = the words that its weights were trained on, ``world`` = all that the Toybox world has.
        folder: where its weights are; None = those that ship.
    """
    from threedistill.toybox.grammar import prior_words, words

    if vocabulary == "world":
        return words()
    if vocabulary != "toybox":
        return None
    return prior_words(Path(folder).expanduser() if folder else None)


def check_words(prompt: str, known: Collection[str] | None) -> tuple[str, ...]:
    """Refuse a prompt that the prior has no words for; returns the words that change nothing.

    Arguments:
        prompt: the prompt.
        known: the prior's words; None = any.

    Raises:
        UnknownWords: naming every unknown word.
    """
    from threedistill.toybox.grammar import parse

    if known is None:
        return ()
    try:
        return parse(prompt, known).ignored
    except UsageError as error:
        raise UnknownWords(str(error)) from None


class UnknownWords(UsageError):
    """A prompt that the prior has no words for, or cannot make sense of."""
