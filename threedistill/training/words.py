"""Which words a run's prior knows, and what of a prompt it has no use for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from threedistill.errors import UsageError

#: Prompts that a refusal quotes for reasons of their own.
_MOST = 5


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
        WrongPrompt: naming every unknown word.
    """
    from threedistill.toybox.grammar import UnknownWords, parse

    if known is None:
        return ()
    try:
        return parse(prompt, known).ignored
    except UnknownWords as error:
        raise WrongPrompt(str(error), error.words) from None
    except UsageError as error:
        raise WrongPrompt(str(error)) from None


class WrongPrompt(UsageError):
    """A prompt that the prior has no words for, or cannot make sense of.

    Attributes:
        words: the unknown words, each with the known ones nearest to it; none where something else is wrong.
    """

    def __init__(self, line: str, words: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(line)
        self.words = dict(words or {})


def refusal(wrong: Mapping[str, WrongPrompt]) -> UsageError:
    """One line for all prompts that a prior has no words for: every unknown word, then whatever else is wrong."""
    from threedistill.toybox.grammar import UnknownWords

    if len(wrong) == 1:
        return next(iter(wrong.values()))
    strange = [error for error in wrong.values() if error.words]
    rest = [str(error) for error in wrong.values() if not error.words]
    lines = rest[:_MOST] + ([f"{len(rest) - _MOST} more prompts"] if len(rest) > _MOST else [])
    if len(strange) == 1:
        lines.insert(0, str(strange[0]))
    elif strange:
        merged = {word: close for error in strange for word, close in error.words.items()}
        lines.insert(0, str(UnknownWords(f"{len(strange)} prompts", merged)))
    return UsageError("; ".join(lines))
