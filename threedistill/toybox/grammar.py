"""The language of the Toybox world: which things exist, how captions name them, and how prompts are read.

One lexicon (:mod:`threedistill.toybox.lexicon`) serves the caption generator, the prompt parser and the tokenizer.
:func:`caption` writes a scene down in one of many wordings, :func:`parse` reads any of them back. Weights know the
words they were trained on, which the world may have more of: whoever asks a prior gives :func:`parse` the words it
knows (:func:`prior_words`).
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

from threedistill.cameras import ViewName
from threedistill.errors import UnknownWords, UsageError, nearest
from threedistill.messages import shown
from threedistill.resources import assets_dir
from threedistill.toybox.lexicon import (
    ACCESSORIES,
    BASES,
    COLORS,
    DEGRADED_WORDS,
    FILLER,
    FINISHES,
    GRAMMAR_WORDS,
    KIND_PARTS,
    KINDS,
    MEANINGS,
    PATTERNS,
    PLURALS,
    RELATIONS,
    SIZES,
    STYLE_WORDINGS,
    SYNONYMS,
    VIEW_WORDINGS,
    WEARERS,
)

__all__ = [
    "PART_WORDS", "ObjectSpec", "ParsedPrompt", "Scene", "article", "caption", "describe", "describe_scene",
    "parse", "prior_words", "words",
]  # fmt: skip

Style = Literal["plain", "clay", "normal", "degraded"]

#: Every part that a prompt can colour.
PART_WORDS: tuple[str, ...] = tuple(dict.fromkeys(p for parts in KIND_PARTS.values() for p in parts))


@dataclass(frozen=True)
class ObjectSpec:
    """One object.

    Attributes:
        kind: a key of :data:`KINDS`.
        color: a key of :data:`COLORS`, or None when the words leave it open.
        pattern, pattern_color: ``striped`` or ``spotted``, and the colour of the stripes or spots.
        accessory: (``hat`` or ``scarf``, its colour).
        size: one of :data:`SIZES`, or None.
        finish: one of :data:`FINISHES`, or None, which looks like ``matt``.
        parts: (part, colour) of parts with a colour of their own.
    """

    kind: str
    color: str | None = None
    pattern: str | None = None
    pattern_color: str | None = None
    accessory: tuple[str, str] | None = None
    size: str | None = None
    finish: str | None = None
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether kind and colour say everything."""
        return self == ObjectSpec(self.kind, self.color)


@dataclass(frozen=True)
class Scene:
    """One object, or two in a relation (``objects[0]`` is on, or next to, ``objects[1]``)."""

    objects: tuple[ObjectSpec, ...]
    relation: str | None = None

    @property
    def tier(self) -> int:
        """1 for a single plain object, 2 for patterns, accessories, parts, sizes, finishes and pairs."""
        return 1 if len(self.objects) == 1 and self.objects[0].plain else 2

    @property
    def twins(self) -> bool:
        """Whether this is the same thing twice ("two red ducks")."""
        return len(self.objects) == 2 and self.objects[0] == self.objects[1] and self.relation == "next to"


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt as the Toybox understands it.

    Attributes:
        scene: what to build.
        normalised: the wording that the prior is given.
        ignored: words of the prompt that change nothing: filler, and what its reader has no use for.
        view, style: view and style words found in the prompt.
    """

    scene: Scene
    normalised: str
    ignored: tuple[str, ...]
    view: ViewName | None = None
    style: Style = "plain"


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """Every word of the world's captions, in a fixed order: what a new prior's tokenizer knows."""
    phrases = [*COLORS, *KINDS, *PATTERNS, "stripes", "spots", *ACCESSORIES, *RELATIONS, *GRAMMAR_WORDS]
    phrases += [w for options in VIEW_WORDINGS.values() for w in options]
    phrases += [w for options in STYLE_WORDINGS.values() for w in options] + list(DEGRADED_WORDS)
    phrases += ["photo", "image", "picture", "render", "toy", "3d", "model", "object", "thing"]
    phrases += [*PART_WORDS, *SIZES, *FINISHES, "two", *PLURALS.values()]
    return tuple(dict.fromkeys(word for phrase in phrases for word in phrase.split()))


@lru_cache(maxsize=8)
def prior_words(folder: Path | None = None) -> frozenset[str]:
    """The words that trained weights know: those of the tokenizer saved with them (None = the shipped ones).

    All of :func:`words` where no tokenizer is found, so that what is wrong with the folder is said by who loads it.
    """
    root = folder if folder is not None else assets_dir() / "toybox" / "prior"
    try:
        saved = json.loads((root / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
        return frozenset(saved["model"]["vocab"])
    except (OSError, ValueError, KeyError):
        return frozenset(words())


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _many(part: str) -> bool:
    return part.endswith("s") or part == "feet"


def describe(spec: ObjectSpec, rng: random.Random | None = None, count: int = 1) -> str:
    """A noun phrase with its article; ``rng`` varies the word order, None gives the canonical wording.

    Arguments:
        spec: the object.
        rng: drives the choice of wording.
        count: 2 says "two ..." of it.
    """
    pick = rng.random() if rng else 0.0
    name = PLURALS[spec.kind] if count == 2 else spec.kind
    noun = f"{spec.color} {name}" if spec.color else name
    having = []
    if spec.pattern:
        marks = "stripes" if spec.pattern == "striped" else "spots"
        if pick < 0.5:
            having.append(f"{spec.pattern_color} {marks}")
        else:
            noun = f"{spec.color} and {spec.pattern_color} {spec.pattern} {name}"
    having += [f"{color} {part}" if _many(part) else article(f"{color} {part}") for part, color in spec.parts]
    said = " ".join(word for word in (spec.size, spec.finish, noun) if word)
    tail = f" with {' and '.join(having)}" if having else ""
    if spec.accessory:
        item, color = spec.accessory
        join = "wearing" if pick < 0.7 else "and" if having else "with"
        tail += f" {join} {article(f'{color} {item}')}"
    return (f"two {said}" if count == 2 else article(said)) + tail


def describe_scene(scene: Scene, rng: random.Random | None = None) -> str:
    """The scene without view words, in the canonical wording when ``rng`` is None."""
    if len(scene.objects) == 1:
        return describe(scene.objects[0], rng)
    if scene.twins:
        return describe(scene.objects[0], rng, count=2)
    first, second = (describe(o, rng) for o in scene.objects)
    relation = scene.relation or "next to"
    if relation == "next to" and rng and rng.random() < 0.3:
        return f"{first} and {second}"
    if relation == "on" and rng and rng.random() < 0.3:
        return f"{first} on top of {second}"
    return f"{first} {relation} {second}"


def caption(
    scene: Scene, view: ViewName | None, rng: random.Random, style: Style = "plain", flaw: str | None = None
) -> str:
    """A caption of the scene: the order of words, articles and the wording of the view vary.

    Arguments:
        scene: what is in the picture.
        view: the view to name, or None to say nothing about it.
        rng: drives the choice of wording.
        style: ``clay`` and ``normal`` name the render style, ``degraded`` names the ``flaw``.
        flaw: ``blurry``, ``noisy`` or ``broken``.
    """
    text = describe_scene(scene, rng)
    lead = rng.random()
    if style in STYLE_WORDINGS:
        text = f"{article(rng.choice(STYLE_WORDINGS[style]))} of {text}"
    elif style == "degraded" and flaw:
        text = f"{article(flaw)} {'image of ' + text if lead < 0.5 or scene.twins else text.split(' ', 1)[1]}"
    elif lead < 0.06:
        text = f"{rng.choice(['a photo of', 'an image of', 'a render of', 'a 3d model of'])} {text}"
    elif lead < 0.18:
        text = text if scene.twins else text.split(" ", 1)[1]
    elif lead < 0.22:
        text = f"the {text if scene.twins else text.split(' ', 1)[1]}"
    if view is None:
        return text
    wording = rng.choice(VIEW_WORDINGS[view])
    if wording.endswith("view") and rng.random() < 0.25:
        return f"{wording} of {text}"
    return f"{text}, {wording}"


def _fold(word: str, known: frozenset[str]) -> str:
    """A word without its plural ending when only the singular is known."""
    for candidate in (
        word,
        word[:-1] if word.endswith("s") else word,
        word[:-2] if word.endswith("es") else word,
    ):
        if candidate in known:
            return candidate
    return word


_KIND_TOKENS = {kind.replace(" ", "_"): kind for kind in KINDS}
_SINGULAR = {plural.replace(" ", "_"): kind.replace(" ", "_") for kind, plural in PLURALS.items()}
_LONG_NAMES = [(kind, PLURALS[kind]) for kind in KINDS if " " in kind]


def _tokens(prompt: str) -> list[str]:
    """Lower-case words with synonyms, plurals and multi-word names folded."""
    text = " ".join(re.sub(r"[^a-z0-9 ]+", " ", prompt.lower()).split())
    for kind, plural in _LONG_NAMES:
        text = re.sub(rf"\b({plural}|{kind})\b", kind.replace(" ", "_"), text)
    text = re.sub(r"\bon top of\b", "on", text)
    text = re.sub(r"\b(top|overhead|birds eye) view\b", "overhead view", text)
    known = frozenset(words()) | set(SYNONYMS) | FILLER | set(_KIND_TOKENS)
    out: list[str] = []
    for raw in text.split():
        word = _SINGULAR.get(raw, raw)
        if word not in ("stripes", "spots"):
            word = _fold(word, known)
        word = SYNONYMS.get(word, word)
        out += [word.replace(" ", "_")] if word in KINDS else word.split()
    return out


def _knows(token: str, known: Collection[str]) -> bool:
    return all(word in known for word in token.split("_"))


def _unknown(found: list[str], prompt: str, known: Collection[str]) -> UnknownWords:
    names = [k for k in KINDS if _knows(k.replace(" ", "_"), known)]
    pool = [*names, *COLORS, *PATTERNS, *ACCESSORIES, *(w for w in (*PART_WORDS, *SIZES) if w in known)]
    close: dict[str, list[str]] = {}
    for token in dict.fromkeys(found):  # by meaning, and where nothing is meant, by letters: it may be a slip
        word = token.replace("_", " ")
        meant = [w for w in MEANINGS.get(word, ()) if w in pool]
        close[_as_written(token, prompt)] = meant or ([] if word in words() else nearest(word, pool))
    advice = "use its vocabulary, or an open-vocabulary prior such as prior=sd15 or prior=sd21"
    return UnknownWords(f"prompt {shown(prompt)}", "the toybox prior", close, advice)


def _as_written(token: str, prompt: str) -> str:
    """The word of the prompt that was read as this one: "puppy" for a dog."""
    written = re.sub(r"[^a-z0-9 ]+", " ", prompt.lower()).split()
    meant = [word for word in written if word != token and _tokens(word) == [token]]
    return meant[0] if meant and token not in written else token.replace("_", " ")


def parse(prompt: str, known: Collection[str] | None = None) -> ParsedPrompt:
    """Read a prompt of the Toybox vocabulary.

    Case, punctuation, plurals and :data:`SYNONYMS` are normalised; :data:`FILLER` words, and those that say nothing of
    what is asked for ("a big ball": how big is it alone?), are dropped and reported.

    Arguments:
        prompt: what the user wrote.
        known: the words that its reader knows (:func:`prior_words`); None is the world, which knows all.

    Raises:
        UsageError: for words outside the vocabulary (naming all of them, the nearest known ones and other priors), for
            a prompt without a known thing, and for combinations that the world cannot build.
    """
    known = frozenset(words()) if known is None else known
    view, style, tokens = _view_and_style(_tokens(prompt))
    modifiers = {*SIZES, *FINISHES}
    ignored = [t for t in tokens if t in FILLER or (t in modifiers and t not in known)]
    tokens = [t for t in tokens if t not in ignored]
    vocabulary = {*COLORS, *_KIND_TOKENS, *PATTERNS, "stripes", "spots", *ACCESSORIES, *GRAMMAR_WORDS}
    vocabulary |= {*DEGRADED_WORDS, "thing", "two", *PART_WORDS, *modifiers}
    unknown = [t for t in tokens if t not in vocabulary or not _knows(t, known)]
    if unknown:
        raise _unknown(unknown, prompt, known)
    reader = _Reader(prompt, known)
    for token in tokens:
        reader.take(token)
    scene = reader.scene()
    normalised = describe_scene(scene)
    if style != "plain":
        normalised = f"{article(STYLE_WORDINGS[style][0])} of {normalised}"
    return ParsedPrompt(scene, normalised, tuple(dict.fromkeys(ignored + reader.ignored)), view, style)


def _view_and_style(tokens: list[str]) -> tuple[ViewName | None, Style, list[str]]:
    """View and style words, and what is left without them."""
    view: ViewName | None = None
    style: Style = "plain"
    text = " ".join(tokens)
    for name, pattern in (
        ("front", r"(front view|(seen )?from the front|facing the camera)( of)?"),
        ("side", r"(side view|(seen )?from the side)( of)?"),
        ("back", r"(back view|(seen )?from (behind|the back))( of)?"),
        ("overhead", r"(overhead view|(seen )?from (above|the overhead))( of)?"),
    ):
        if re.search(pattern, text):
            view = name  # type: ignore[assignment]
            text = re.sub(pattern, " ", text)
    for name, pattern in (("clay", r"clay (model|render)?( of)?"), ("normal", r"normal map( render)?( of)?")):
        if re.search(pattern, text):
            style = name  # type: ignore[assignment]
            text = re.sub(pattern, " ", text)
    return view, style, text.split()


class _Reader:
    """Takes the words of a prompt one after the other; what describes a thing waits for its noun."""

    def __init__(self, prompt: str, known: Collection[str]) -> None:
        self.prompt, self.known = prompt, known
        self.objects: list[ObjectSpec] = []
        self.relation: str | None = None
        self.ignored: list[str] = []
        self.twins = False
        self.colors: list[str] = []
        self.waiting: dict[str, str] = {}  # size, finish, pattern

    def take(self, token: str) -> None:
        if token in COLORS:
            self.colors.append(token)
        elif token in PATTERNS:
            self.waiting["pattern"] = token
        elif token in SIZES:
            self.waiting["size"] = token
        elif token in FINISHES:
            self.waiting["finish"] = token
        elif token == "two":
            self.twins = True
        elif token in _KIND_TOKENS:
            self._thing(_KIND_TOKENS[token])
        elif token in ("stripes", "spots"):
            pattern = "striped" if token == "stripes" else "spotted"
            self._add(token, "thing that has them", pattern=pattern, pattern_color=self._color())
        elif token in ACCESSORIES:
            self._add(token, "one who wears it", accessory=(token, self._color() or "red"))
        elif token in PART_WORDS:
            self._part(token)
        elif token in ("on", "next") and self.objects:
            self.relation = "on" if token == "on" else "next to"

    def _color(self) -> str | None:
        color = self.colors[0] if self.colors else None
        self.colors = []
        return color

    def _thing(self, kind: str) -> None:
        colors, self.colors = self.colors, []
        if len(colors) > 1 and "pattern" not in self.waiting:
            raise UsageError(
                f"prompt {shown(self.prompt)}: {' and '.join(colors)} before {kind!r}: give one colour, or two with "
                f"'striped' or 'spotted'"
            )
        marks = colors[1] if len(colors) > 1 else None
        self.objects.append(
            replace(ObjectSpec(kind, colors[0] if colors else None, pattern_color=marks), **self.waiting)
        )  # type: ignore[arg-type]
        self.waiting = {}

    def _add(self, token: str, whose: str, **said: object) -> None:
        if not self.objects:
            raise UsageError(f"prompt {shown(self.prompt)}: {token!r} comes before the {whose}")
        self.objects[-1] = replace(self.objects[-1], **said)  # type: ignore[arg-type]

    def _part(self, part: str) -> None:
        color = self._color()
        if not self.objects:
            raise UsageError(f"prompt {shown(self.prompt)}: {part!r} comes before the thing that has it")
        kind = self.objects[-1].kind
        having = KIND_PARTS.get(kind, ())
        if part not in having:
            has = f"it has: {', '.join(having)}" if having else "it has no parts to colour"
            raise UsageError(
                f"prompt {shown(self.prompt)}: {article(kind)} has no {part} that could be coloured; {has}"
            )
        if color is None:
            self.ignored.append(part)  # it has that anyway
        else:
            self._add(part, "thing that has it", parts=(*self.objects[-1].parts, (part, color)))

    def scene(self) -> Scene:
        """What was read.

        Raises:
            UsageError: nothing that could be built.
        """
        if not self.objects:
            kinds = [kind for token, kind in _KIND_TOKENS.items() if _knows(token, self.known)]
            raise UsageError(
                f"prompt {shown(self.prompt)} names no thing that the toybox prior knows; it knows: {', '.join(kinds)} "
                "(or use an open-vocabulary prior such as prior=sd15)"
            )
        if self.waiting:
            self.objects[-1] = replace(self.objects[-1], **self.waiting)  # type: ignore[arg-type]
        specs = [self._completed(spec) for spec in self.objects]
        if self.twins and len(specs) == 1:
            specs, self.relation = specs * 2, "next to"
        if len(specs) > 2 or (self.twins and specs[0] != specs[-1]):
            count = len(specs) + (self.twins and len(specs) == 2)
            raise UsageError(
                f"prompt {shown(self.prompt)} names {count} things; the toybox prior knows scenes of one or two"
            )
        if len(specs) == 1:
            self.relation = None
        else:
            self.relation = self.relation or "next to"
        if self.relation == "on" and specs[1].kind not in BASES:
            raise UsageError(
                f"prompt {shown(self.prompt)}: things can stand on {' or '.join('a ' + b for b in BASES)}, not on "
                f"{article(specs[1].kind)}"
            )
        if len(specs) == 1 or specs[0] == specs[1]:  # alone, or as big as the other
            self.ignored += [s.size for s in specs[:1] if s.size in ("big", "small")]
            specs = [replace(s, size=None) if s.size in ("big", "small") else s for s in specs]
        return Scene(tuple(specs), self.relation)

    def _completed(self, spec: ObjectSpec) -> ObjectSpec:
        """What the words left open filled in: patterns need two colours, accessories a wearer."""
        if spec.pattern:
            color = spec.color or KINDS[spec.kind][0]
            marks = spec.pattern_color or ("white" if color != "white" else "black")
            spec = replace(spec, color=color, pattern_color=marks)
        if spec.accessory and spec.kind not in WEARERS:
            raise UsageError(
                f"prompt {shown(self.prompt)}: {article(spec.kind)} cannot wear a {spec.accessory[0]}; "
                f"{', '.join(w for w in WEARERS if _knows(w.replace(' ', '_'), self.known))} can"
            )
        return spec
