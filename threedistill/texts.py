"""What a text may be, whichever door it comes through: a prompt, or a number."""

from __future__ import annotations

import re

from threedistill.errors import UsageError

__all__ = ["check_prompt", "check_text", "is_number"]

#: Bytes that were no UTF-8 (Python keeps them as lone surrogates), and what no YAML and no file name can hold.
_NO_TEXT = re.compile("[\ud800-\udfff\0]")


def check_prompt(prompt: object) -> None:
    """Refuse what cannot be a prompt: nothing but blanks, or text that no file can hold.

    Raises:
        UsageError: with what to do instead.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError('the prompt is empty; describe one object, for example "a red mushroom"')
    check_text(prompt, "the prompt")


def check_text(text: str, what: str) -> None:
    """Refuse bytes that were not UTF-8, and the characters that YAML and file systems cannot hold.

    Arguments:
        text: the text.
        what: its name, for the message.
    """
    if _NO_TEXT.search(text):
        raise UsageError(
            f"{what} is not valid text (bytes that are not UTF-8, or a NUL); pass it as UTF-8, or in a file"
        )


def is_number(word: str) -> bool:
    """Whether a word is a number, in Python's spelling."""
    try:
        float(word)
    except ValueError:
        return False
    return True
