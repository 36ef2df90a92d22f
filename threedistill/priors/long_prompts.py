"""Prompts that are longer than an encoder hears: the end of the description is cut, never the view words behind it."""

from __future__ import annotations

from collections.abc import Callable

from threedistill.prompts import without_view

__all__ = ["fitted"]


def fitted(text: str, count: Callable[[str], int], limit: int) -> tuple[str, str]:
    """The text as an encoder can hear it whole, and the words that were cut; "" = none.

    Arguments:
        text: the wording, view words last.
        count: tokens of a text, special ones included.
        limit: tokens that the encoder hears.
    """
    if count(text) <= limit:
        return text, ""
    base = without_view(text)
    view, words = text[len(base) :], base.split()
    low, high = 0, len(words)  # as many words as fit
    while low < high:
        middle = (low + high + 1) // 2
        if count(_joined(words[:middle], view)) <= limit:
            low = middle
        else:
            high = middle - 1
    return _joined(words[:low], view), " ".join(words[low:])


def _joined(words: list[str], view: str) -> str:
    return " ".join(words).rstrip(",;:") + view
