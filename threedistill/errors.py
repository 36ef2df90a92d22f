"""The two ways a command can fail, each with one line a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ThreedistillError(Exception):
    """A failure of the work itself (exit status 1): one line that says what, where and how to fix it."""

    exit_code = 1


class UsageError(ThreedistillError):
    """A request that cannot be carried out as written (exit status 2): nothing was started or changed."""

    exit_code = 2


class ThreedistillWarning(UserWarning):
    """Something a user should know that does not stop the work."""


def nearest(word: str, candidates: Iterable[str], count: int = 3) -> list[str]:
    """The candidates closest in spelling to ``word``, best first, for "did you mean" lines."""
    return difflib.get_close_matches(word, list(candidates), n=count, cutoff=0.6)
