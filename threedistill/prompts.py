"""What the prior is told in words: the prompt, its view-dependent wordings, the negative and the category."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from threedistill.cameras import view_name
from threedistill.errors import UsageError
from threedistill.types import Cameras

TextKind = Literal["view", "base", "null", "negative", "inverse", "category", "source"]

_VIEW_SUFFIX = re.compile(r",\s*(front|side|back|overhead) view$")
#: Where the description of the thing ends and that of its surroundings or parts begins.
_TAIL = re.compile(
    r"[,.;:]|\b(?:with|wearing|holding|on|in|at|of|made|sitting|standing|riding|next|under|beside)\b"
)


def with_view(prompt: str, azimuth: float, elevation: float) -> str:
    """``"a red mushroom"`` -> ``"a red mushroom, front view"`` (radians; :func:`cameras.view_name`
    decides).
    """
    return f"{prompt}, {view_name(azimuth, elevation)} view"


def without_view(text: str) -> str:
    """The prompt without the view words that :func:`with_view` put there."""
    return _VIEW_SUFFIX.sub("", text)


def guess_category(prompt: str) -> str:
    """The head noun of a simple English noun phrase: the last word before the first tail ("with", "on",
    ...).
    """
    subject = re.sub(
        r"^\s*(?:an?|the)?\s*(?:[\w-]+\s+)*?(?:photo|picture|render|rendering|image) of\s+",
        "",
        prompt.lower(),
    )
    words = re.findall(r"[\w-]+", _TAIL.split(subject, maxsplit=1)[0])
    return words[-1] if words else prompt.strip()


@dataclass(frozen=True)
class PromptSet:
    """All wordings of one prompt.

    Arguments:
        prompt: what the asset shall be.
        negative: what it shall not look like; "" = nothing.
        view_words: whether ``view`` texts name the view ("..., front view").
        category: the noun alone, for category-score baselines; None = found in the prompt.
        source: the text of the unedited object, for edits; None = none.
    """

    prompt: str
    negative: str = ""
    view_words: bool = True
    category: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UsageError('the prompt is empty; give one, for example "a red mushroom"')

    def texts(self, kind: TextKind, cameras: Cameras) -> list[str]:
        """The wording of this kind for each of the ``B`` views."""
        views = len(cameras)
        if kind == "view" and self.view_words:
            angles = zip(cameras.azimuth.tolist(), cameras.elevation.tolist())
            return [with_view(self.prompt, azimuth, elevation) for azimuth, elevation in angles]
        if kind in ("view", "base"):
            return [self.prompt] * views
        if kind in ("null", "inverse"):
            return [""] * views
        if kind == "negative":
            return [self.negative] * views
        if kind == "category":
            return [f"a {self.category or guess_category(self.prompt)}"] * views
        if kind == "source":
            if self.source is None:
                raise UsageError("this guidance rule compares with a source prompt, and none was given")
            return [self.source] * views
        raise ValueError(f"text kind {kind!r} is unknown")
