"""What the prior is told in words: the prompt, its view-dependent wordings, the negative and the category."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from threedistill.cameras import ViewLimits, ViewName, orbit, view_name
from threedistill.conditions import Role, Wording
from threedistill.errors import UsageError
from threedistill.rng import Streams
from threedistill.texts import check_prompt
from threedistill.types import Cameras, TextKind

__all__ = ["VIEW_WORDINGS", "PromptSet", "guess_category", "role_of", "with_view", "without_view"]

#: Ways to name a view; the first of each is the plain one.
VIEW_WORDINGS: dict[ViewName, tuple[str, ...]] = {
    "front": ("front view", "seen from the front"),
    "side": ("side view", "seen from the side"),
    "back": ("back view", "rear view", "seen from behind"),
    "overhead": ("overhead view", "top view", "seen from above"),
}
#: The wordings that guidance leads away from, or that stand for no prompt at all.
_NEGATIVE_KINDS: tuple[TextKind, ...] = ("null", "uncond", "negative", "inverse")

_VIEW_SUFFIX = re.compile(rf",\s*(?:{'|'.join(w for words in VIEW_WORDINGS.values() for w in words)})$")
#: Where the description of the thing ends and that of its surroundings or parts begins.
_TAIL = re.compile(
    r"[,.;:]|\b(?:with|wearing|holding|on|in|at|of|made|sitting|standing|riding|next|under|beside)\b"
)


def role_of(kind: TextKind) -> Role:
    """What a text of this kind is for."""
    return "negative" if kind in _NEGATIVE_KINDS else "prompt"


def with_view(
    prompt: str, azimuth: float, elevation: float, wording: int = 0, limits: ViewLimits | None = None
) -> str:
    """``"a red mushroom"`` -> ``"a red mushroom, front view"`` (radians; :func:`cameras.view_name`
    decides); ``wording`` counts through :data:`VIEW_WORDINGS`, round and round.
    """
    options = VIEW_WORDINGS[view_name(azimuth, elevation, limits)]
    return f"{prompt}, {options[wording % len(options)]}"


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
        inverse: what the prior is told while noise is found by inversion.
        flaws: what a distilled picture suffers from, put behind the prompt where a rule asks for a ``flawed`` one.
        prior_negative: what the prior's makers recommend as negative; for rules that need one where the user gave
            none. It never enters the unconditional branch of guidance by itself.
        view_wordings: ``one`` names every view in one way, ``several`` draws among :data:`VIEW_WORDINGS`.
        front_bias: share of views, drawn every step, that the teacher is told are front views, whatever the camera: the
            habit of web pictures to show things from the front, which makes several faces. In words alone; with
            ``prior.camera=own`` it is still told the true camera, with ``words`` one that fits the words. For comparing
            remedies where a teacher's own bias is too weak to show the disease.
        limits: where the words for views end, as the prior knows them; None = as Toybox's captions.
        wordings, told_front: which wording each view has in this step, and which are told to be fronts; see
            :meth:`drawn`.
    """

    prompt: str
    negative: str = ""
    view_words: bool = True
    category: str | None = None
    source: str | None = None
    inverse: str = ""
    flaws: str = ""
    prior_negative: str = ""
    view_wordings: Literal["one", "several"] = "one"
    front_bias: float = 0.0
    limits: ViewLimits | None = None
    wordings: tuple[int, ...] = ()
    told_front: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if self.view_wordings not in ("one", "several"):
            raise UsageError(f"prompts.view_wordings={self.view_wordings!r} must be one or several")
        if not 0 <= self.front_bias <= 1:
            raise UsageError(f"prompts.front_bias={self.front_bias} must lie in [0, 1]")

    def drawn(self, rng: Streams, views: int) -> PromptSet:
        """The same prompts with this step's draws: each view's wording, and which are told to be fronts."""
        drawn = self
        if self.front_bias:
            draws = rng.uniform_per_view("front bias", views)
            drawn = replace(drawn, told_front=tuple(bool(d < self.front_bias) for d in draws))
        if self.view_wordings == "several" and self.view_words:
            count = math.lcm(*(len(words) for words in VIEW_WORDINGS.values()))
            draws = rng.uniform_per_view("wording", views) * count
            drawn = replace(drawn, wordings=tuple(int(d) for d in draws))
        return drawn

    def texts(self, kind: TextKind, cameras: Cameras) -> list[str]:
        """The wording of this kind for each of the ``B`` views."""
        views = len(cameras)
        if kind == "view":
            return self._seen(self.prompt, cameras)
        if kind == "base":
            return [self.prompt] * views
        if kind in ("front", "side", "back"):
            return [f"{self.prompt}, {VIEW_WORDINGS[kind][0]}"] * views
        if kind == "null":
            return [""] * views
        if kind == "inverse":
            return [self.inverse] * views
        if kind == "uncond":
            return [self.negative] * views
        if kind == "negative":
            return [self.negative or self.prior_negative] * views
        if kind == "category":
            return [f"a {self.category or guess_category(self.prompt)}"] * views
        if kind == "source":
            if self.source is None:
                raise UsageError("this guidance rule compares with a source prompt, and none was given")
            return self._seen(self.source, cameras)
        if kind == "flawed":
            if not self.flaws:
                raise UsageError(
                    "this guidance rule asks about a bad picture of the prompt; say what is bad with prompts.flaws"
                )
            return self._seen(f"{self.prompt}, {self.flaws}", cameras)
        raise ValueError(f"text kind {kind!r} is unknown")

    def _seen(self, prompt: str, cameras: Cameras) -> list[str]:
        """A description with each view's own words; an edit's two descriptions get the same ones."""
        if not self.view_words:
            honest = [prompt] * len(cameras)
        else:
            wordings = self.wordings or (0,) * len(cameras)
            angles = zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), wordings)
            honest = [with_view(prompt, *angle, self.limits) for angle in angles]
        told = self.told_front or (False,) * len(cameras)
        return [f"{prompt}, {VIEW_WORDINGS['front'][0]}" if lie else true for lie, true in zip(told, honest)]

    def all_wordings(self, kinds: Collection[TextKind]) -> tuple[Wording, ...]:
        """Everything that texts of these kinds may say, whatever the views and the draws; each once."""
        said: list[Wording] = []
        for kind in kinds:
            texts = self.texts(kind, orbit(1))
            if kind in ("view", "source", "flawed") and self.view_words:
                count = None if self.view_wordings == "several" else 1
                texts = [
                    f"{without_view(texts[0])}, {word}"
                    for words in VIEW_WORDINGS.values()
                    for word in words[:count]
                ]
            said += [Wording(text, role_of(kind)) for text in texts]
        return tuple(dict.fromkeys(said))
