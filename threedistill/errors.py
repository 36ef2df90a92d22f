"""The two ways a command can fail, each with one line a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from threedistill.messages import shown

__all__ = ["ThreedistillError", "ThreedistillWarning", "UnknownWords", "UsageError", "nearest"]


class ThreedistillError(Exception):
    """A failure of the work itself (exit status 1): one line that says what, where and how to fix it."""

    exit_code = 1


class UsageError(ThreedistillError):
    """A request that cannot be carried out as written (exit status 2): nothing was started or changed."""

    exit_code = 2


class UnknownWords(UsageError):
    """Words that a closed vocabulary has not.

    Attributes:
        words: each as it was written, and the known ones nearest to it.
    """

    def __init__(self, where: str, who: str, words: Mapping[str, list[str]], advice: str) -> None:
        self.words = dict(words)
        self._who, self._advice = who, advice
        close = dict.fromkeys(alike for found in words.values() for alike in found)
        hint = f"nearest known: {', '.join(close)}; " if close else ""
        super().__init__(
            f"{where}: {who} does not know {_listed(list(words))} ({hint}all words: `threedistill list words`); "
            f"{advice}"
        )

    def of(self, where: str, words: Mapping[str, list[str]]) -> UnknownWords:
        """The same vocabulary's refusal of other words."""
        return UnknownWords(where, self._who, words, self._advice)


def _listed(said: list[str], most: int = 12) -> str:
    """The words themselves, and how many more there are."""
    more = f" and {len(said) - most} more" if len(said) > most else ""
    return ", ".join(map(shown, said[:most])) + more


class ThreedistillWarning(UserWarning):
    """Something a user should know that does not stop the work."""


def nearest(word: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The candidates closest in spelling to ``word``, best first, for "did you mean" lines."""
    return difflib.get_close_matches(word, list(candidates), n=count, cutoff=0.6)
