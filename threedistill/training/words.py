"""What of a prompt the prior has no words for, or no use for."""

from __future__ import annotations

from collections.abc import Mapping

from threedistill.errors import UnknownWords, UsageError
from threedistill.training.plan import PriorPlan

#: Prompts that a refusal quotes for reasons of their own.
_MOST = 5


def check_words(prompt: str, prior: PriorPlan) -> tuple[str, ...]:
    """Refuse a prompt that the prior has no words for; returns the words that change nothing.

    Raises:
        WrongPrompt: naming every unknown word.
    """
    try:
        return prior.check_text(prompt)
    except UsageError as error:
        raise WrongPrompt(error) from None


class WrongPrompt(UsageError):
    """A prompt that the prior has no words for, or cannot make sense of.

    Attributes:
        unknown: which words, where that is the reason.
    """

    def __init__(self, reason: UsageError) -> None:
        super().__init__(str(reason))
        self.unknown = reason if isinstance(reason, UnknownWords) else None


def refusal(wrong: Mapping[str, WrongPrompt]) -> UsageError:
    """One line for all prompts that a prior has no words for: every unknown word, then whatever else is wrong."""
    if len(wrong) == 1:
        return next(iter(wrong.values()))
    strange = [error.unknown for error in wrong.values() if error.unknown]
    rest = [str(error) for error in wrong.values() if not error.unknown]
    lines = rest[:_MOST] + ([f"{len(rest) - _MOST} more prompts"] if len(rest) > _MOST else [])
    if len(strange) == 1:
        lines.insert(0, str(strange[0]))
    elif strange:
        merged = {word: close for error in strange for word, close in error.words.items()}
        lines.insert(0, str(strange[0].of(f"{len(strange)} prompts", merged)))
    return UsageError("; ".join(lines))
