"""The language of the Toybox world: which things exist, how captions name them, and how prompts are read.

One table of kinds, colours, patterns, accessories and relations serves the caption generator, the prompt parser and
the tokenizer, so a prompt that parses is a prompt the embedded prior has words for. :func:`caption` writes a scene
down in one of many wordings, :func:`parse` reads any of them back, and :func:`held_out` lists the combinations that
the training set never contains. Longer than most files (over 500 lines) on purpose: the words, the captions and the
parser are one language, and whoever changes one has to see the others.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from threedistill.cameras import ViewName
from threedistill.errors import UsageError, nearest
from threedistill.resources import assets_dir

Style = Literal["plain", "clay", "normal", "degraded"]

#: sRGB of every colour word.
COLORS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.97, 0.50, 0.05),
    "yellow": (0.97, 0.85, 0.12),
    "green": (0.13, 0.60, 0.18),
    "blue": (0.12, 0.30, 0.85),
    "purple": (0.50, 0.17, 0.70),
    "pink": (0.97, 0.55, 0.74),
    "brown": (0.45, 0.25, 0.11),
    "black": (0.10, 0.10, 0.11),
    "white": (0.94, 0.94, 0.95),
}

#: Every kind, with the colours it comes in when no colour is asked for (the first is the canonical one).
KINDS: dict[str, tuple[str, ...]] = {
    "duck": ("yellow", "yellow", "white", "brown"),
    "car": ("red", "blue", "white", "black"),
    "robot": ("blue", "white", "orange", "red"),
    "snowman": ("white", "white", "white", "blue"),
    "teddy bear": ("brown", "brown", "pink", "white"),
    "house": ("white", "yellow", "red", "blue"),
    "television": ("brown", "black", "red", "white"),
    "mug": ("white", "red", "blue", "green"),
    "owl": ("brown", "brown", "purple", "white"),
    "airplane": ("white", "red", "blue", "yellow"),
    "rocket": ("white", "red", "blue", "orange"),
    "chair": ("brown", "red", "blue", "green"),
    "cat": ("black", "orange", "white", "brown"),
    "truck": ("red", "yellow", "blue", "green"),
    "pig": ("pink", "pink", "pink", "brown"),
    "ball": ("red", "blue", "yellow", "green"),
    "donut": ("pink", "brown", "white", "purple"),
    "cone": ("orange", "orange", "red", "yellow"),
    "mushroom": ("red", "red", "brown", "orange"),
    "tree": ("green", "green", "green", "orange"),
    "table": ("brown", "brown", "white", "black"),
    "lamp": ("yellow", "white", "red", "green"),
    "cube": ("blue", "red", "green", "yellow"),
    "vase": ("blue", "white", "green", "purple"),
    "cactus": ("green", "green", "green", "green"),
    "apple": ("red", "red", "green", "yellow"),
    "cupcake": ("pink", "white", "brown", "purple"),
}

#: Kinds whose front cannot be mistaken: the rest look alike from (nearly) all sides.
FRONTED: frozenset[str] = frozenset(list(KINDS)[:15])

PATTERNS: tuple[str, ...] = ("striped", "spotted")
ACCESSORIES: tuple[str, ...] = ("hat", "scarf")
#: Kinds with a head and a neck to dress.
WEARERS: tuple[str, ...] = ("duck", "robot", "snowman", "teddy bear", "owl", "cat")
RELATIONS: tuple[str, ...] = ("on", "next to")
#: What can stand on what, and what can stand side by side.
TOPS: tuple[str, ...] = (
    "ball",
    "donut",
    "cone",
    "mushroom",
    "duck",
    "mug",
    "apple",
    "vase",
    "cat",
    "owl",
    "cactus",
)
BASES: tuple[str, ...] = ("cube", "table")
NEIGHBOURS: tuple[str, ...] = TOPS + ("cube", "robot", "snowman", "tree", "rocket", "lamp", "cupcake")

VIEW_WORDINGS: dict[str, tuple[str, ...]] = {
    "front": ("front view", "front view", "seen from the front", "facing the camera"),
    "side": ("side view", "side view", "seen from the side"),
    "back": ("back view", "back view", "rear view", "seen from behind"),
    "overhead": ("overhead view", "overhead view", "top view", "seen from above"),
}
DEGRADED_WORDS: tuple[str, ...] = ("blurry", "noisy", "broken")
STYLE_WORDINGS: dict[str, tuple[str, ...]] = {
    "clay": ("clay model", "clay render"),
    "normal": ("normal map", "normal map render"),
}

#: Printed by ``threedistill list words``: words that are read as another word.
SYNONYMS: dict[str, str] = {
    "automobile": "car", "teddy": "teddy bear", "bear": "teddy bear", "tv": "television", "doughnut": "donut",
    "plane": "airplane", "aeroplane": "airplane", "cup": "mug", "kitten": "cat", "kitty": "cat", "piglet": "pig",
    "sphere": "ball", "box": "cube", "lorry": "truck", "spaceship": "rocket", "toadstool": "mushroom",
    "duckling": "duck", "muffin": "cupcake", "violet": "purple", "scarlet": "red", "crimson": "red",
    "dotted": "spotted", "dots": "spots", "striped": "striped", "stripey": "striped", "cap": "hat",
    "atop": "on", "beside": "next to", "rear": "back", "top": "overhead",
}  # fmt: skip
#: Words that name nothing; they are dropped and reported.
FILLER: frozenset[str] = frozenset(
    [
        "photo",
        "photograph",
        "picture",
        "image",
        "render",
        "rendering",
        "3d",
        "model",
        "cute",
        "little",
        "small",
        "big",
        "nice",
        "beautiful",
        "dslr",
        "toy",
        "object",
        "shiny",
        "simple",
        "realistic",
        "high",
        "quality",
        "highly",
        "detailed",
        "hd",
        "4k",
        "single",
        "asset",
        "good",
    ]
)
_GRAMMAR_WORDS = [
    "a",
    "an",
    "the",
    "of",
    "on",
    "next",
    "to",
    "wearing",
    "with",
    "and",
    "in",
    "standing",
    "sitting",
    "view",
    "seen",
    "from",
    "facing",
    "camera",
    "behind",
    "above",
    "one",
    "very",
]


@dataclass(frozen=True)
class ObjectSpec:
    """One object.

    Attributes:
        kind: a key of :data:`KINDS`.
        color: a key of :data:`COLORS`, or None when the words leave it open.
        pattern, pattern_color: ``striped`` or ``spotted``, and the colour of the stripes or spots.
        accessory: (``hat`` or ``scarf``, its colour).
    """

    kind: str
    color: str | None = None
    pattern: str | None = None
    pattern_color: str | None = None
    accessory: tuple[str, str] | None = None

    @property
    def plain(self) -> bool:
        return self.pattern is None and self.accessory is None


@dataclass(frozen=True)
class Scene:
    """One object, or two in a relation (``objects[0]`` is on, or next to, ``objects[1]``)."""

    objects: tuple[ObjectSpec, ...]
    relation: str | None = None

    @property
    def tier(self) -> int:
        """1 for a single plain object, 2 for patterns, accessories and pairs."""
        return 1 if len(self.objects) == 1 and self.objects[0].plain else 2


@dataclass(frozen=True)
class ParsedPrompt:
    """A prompt as the Toybox understands it.

    Attributes:
        scene: what to build.
        normalised: the wording that the prior is given.
        ignored: filler words of the prompt that were dropped.
        view, style: view and style words found in the prompt.
    """

    scene: Scene
    normalised: str
    ignored: tuple[str, ...]
    view: ViewName | None = None
    style: Style = "plain"


def words() -> list[str]:
    """Every word the prior's tokenizer knows, in a fixed order."""
    found: dict[str, None] = {}
    phrases = [*COLORS, *KINDS, *PATTERNS, "stripes", "spots", *ACCESSORIES, *RELATIONS, *_GRAMMAR_WORDS]
    phrases += [w for options in VIEW_WORDINGS.values() for w in options]
    phrases += [w for options in STYLE_WORDINGS.values() for w in options] + list(DEGRADED_WORDS)
    phrases += ["photo", "image", "picture", "render", "toy", "3d", "model", "object", "thing"]
    for phrase in phrases:
        for word in phrase.split():
            found[word] = None
    return list(found)


def article(phrase: str) -> str:
    """The phrase with "a" or "an" before it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def describe(spec: ObjectSpec, rng: random.Random | None = None) -> str:
    """A noun phrase with its article; ``rng`` varies the word order, None gives the canonical wording."""
    pick = rng.random() if rng else 0.0
    noun = f"{spec.color} {spec.kind}" if spec.color else spec.kind
    tail = ""
    if spec.pattern:
        marks = "stripes" if spec.pattern == "striped" else "spots"
        if pick < 0.5:
            tail = f" with {spec.pattern_color} {marks}"
        else:
            noun = f"{spec.color} and {spec.pattern_color} {spec.pattern} {spec.kind}"
    if spec.accessory:
        item, color = spec.accessory
        join = "wearing" if pick < 0.7 else "with"
        tail += f" {join} {article(f'{color} {item}')}"
    return article(noun) + tail


def describe_scene(scene: Scene, rng: random.Random | None = None) -> str:
    """The scene without view words, in the canonical wording when ``rng`` is None."""
    if len(scene.objects) == 1:
        return describe(scene.objects[0], rng)
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
        text = f"{article(flaw)} {'image of ' + text if lead < 0.5 else text.split(' ', 1)[1]}"
    elif lead < 0.06:
        text = f"{rng.choice(['a photo of', 'an image of', 'a render of', 'a 3d model of'])} {text}"
    elif lead < 0.18:
        text = text.split(" ", 1)[1]
    elif lead < 0.22:
        text = f"the {text.split(' ', 1)[1]}"
    if view is None:
        return text
    wording = rng.choice(VIEW_WORDINGS[view])
    if wording.endswith("view") and rng.random() < 0.25:
        return f"{wording} of {text}"
    return f"{text}, {wording}"


def _fold(word: str, known: set[str]) -> str:
    """A word without its plural ending when only the singular is known."""
    for candidate in (
        word,
        word[:-1] if word.endswith("s") else word,
        word[:-2] if word.endswith("es") else word,
    ):
        if candidate in known:
            return candidate
    return word


_KIND_TOKENS = {kind: kind.replace(" ", "_") for kind in KINDS}


def _tokens(prompt: str) -> list[str]:
    """Lower-case words with synonyms, plurals and multi-word names folded."""
    text = re.sub(r"[^a-z0-9 ]+", " ", prompt.lower())
    text = re.sub(r"\bteddy bears?\b", "teddy_bear", text)
    text = re.sub(r"\bon top of\b", "on", text)
    text = re.sub(r"\b(top|overhead|birds eye) view\b", "overhead view", text)
    known = set(words()) | set(SYNONYMS) | FILLER | {"teddy_bear", "snowmen", "cacti"}
    irregular = {"snowmen": "snowman", "cacti": "cactus"}
    out: list[str] = []
    for raw in text.split():
        word = irregular.get(raw, raw)
        if word not in ("stripes", "spots"):
            word = _fold(word, known)
        word = SYNONYMS.get(word, word)
        out += [word.replace(" ", "_")] if word in KINDS else word.split()
    return out


def _unknown(words_: list[str], prompt: str) -> UsageError:
    pool = [*KINDS, *COLORS, *PATTERNS, *ACCESSORIES]
    close = list(dict.fromkeys(c for w in words_ for c in nearest(w, pool)))
    hint = f"nearest known: {', '.join(close)}; " if close else ""
    quoted = ", ".join(repr(w) for w in words_)
    return UsageError(
        f"prompt {prompt!r}: the toybox prior does not know {quoted} ({hint}all words: `threedistill list words`); "
        "use its vocabulary, or an open-vocabulary prior such as prior=sd15 or prior=sd21"
    )


def parse(prompt: str) -> ParsedPrompt:
    """Read a prompt of the Toybox vocabulary.

    Case, punctuation, plurals and :data:`SYNONYMS` are normalised; :data:`FILLER` words are dropped and reported.

    Raises:
        UsageError: for words outside the vocabulary (naming them, the nearest known ones and other priors), for a
            prompt without a known thing, and for combinations that the world cannot build.
    """
    tokens = _tokens(prompt)
    kinds = {token: kind for kind, token in _KIND_TOKENS.items()}
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
    tokens = text.split()
    ignored = [t for t in tokens if t in FILLER]
    tokens = [t for t in tokens if t not in FILLER]
    glue = set(_GRAMMAR_WORDS) | set(DEGRADED_WORDS) | {"thing"}
    vocabulary = set(COLORS) | set(kinds) | set(PATTERNS) | {"stripes", "spots"} | set(ACCESSORIES) | glue
    unknown = [t for t in tokens if t not in vocabulary]
    if unknown:
        raise _unknown(unknown, prompt)

    objects: list[dict] = []
    relation: str | None = None
    pending: list[str] = []  # colours waiting for their noun
    pending_pattern: str | None = None
    for token in tokens:
        if token in COLORS:
            pending.append(token)
        elif token in PATTERNS:
            pending_pattern = token
        elif token in kinds:
            spec = {"kind": kinds[token], "color": pending[0] if pending else None}
            if pending_pattern:
                spec["pattern"] = pending_pattern
                spec["pattern_color"] = pending[1] if len(pending) > 1 else None
            elif len(pending) > 1:
                raise UsageError(
                    f"prompt {prompt!r}: {' and '.join(pending)} before {kinds[token]!r}: give one colour, or two with "
                    f"'striped' or 'spotted'"
                )
            objects.append(spec)
            pending, pending_pattern = [], None
        elif token in ("stripes", "spots"):
            if not objects:
                raise UsageError(f"prompt {prompt!r}: {token!r} comes before the thing that has them")
            objects[-1]["pattern"] = "striped" if token == "stripes" else "spotted"
            objects[-1]["pattern_color"] = pending[0] if pending else None
            pending = []
        elif token in ACCESSORIES:
            if not objects:
                raise UsageError(f"prompt {prompt!r}: {token!r} comes before the one who wears it")
            objects[-1]["accessory"] = (token, pending[0] if pending else "red")
            pending = []
        elif token in ("on", "next") and objects:
            relation = "on" if token == "on" else "next to"
    if not objects:
        raise UsageError(
            f"prompt {prompt!r} names no thing that the toybox prior knows; it knows: {', '.join(KINDS)} "
            "(or use an open-vocabulary prior such as prior=sd15)"
        )
    if len(objects) > 2:
        raise UsageError(
            f"prompt {prompt!r} names {len(objects)} things; the toybox prior knows scenes of one or two"
        )
    specs = tuple(_completed(o, prompt) for o in objects)
    if len(specs) == 2:
        relation = relation or "next to"
        if relation == "on" and specs[1].kind not in BASES:
            raise UsageError(
                f"prompt {prompt!r}: things can stand on {' or '.join('a ' + b for b in BASES)}, not on "
                f"{article(specs[1].kind)}"
            )
    else:
        relation = None
    scene = Scene(specs, relation)
    normalised = describe_scene(scene)
    if style != "plain":
        normalised = f"{article(STYLE_WORDINGS[style][0])} of {normalised}"
    return ParsedPrompt(scene, normalised, tuple(dict.fromkeys(ignored)), view, style)


def _completed(found: dict, prompt: str) -> ObjectSpec:
    """An object with what the words left open filled in: patterns need two colours, accessories a wearer."""
    spec = ObjectSpec(**found)
    if spec.pattern:
        color = spec.color or KINDS[spec.kind][0]
        marks = spec.pattern_color or ("white" if color != "white" else "black")
        spec = ObjectSpec(spec.kind, color, spec.pattern, marks, spec.accessory)
    if spec.accessory and spec.kind not in WEARERS:
        raise UsageError(
            f"prompt {prompt!r}: {article(spec.kind)} cannot wear a {spec.accessory[0]}; "
            f"{', '.join(WEARERS)} can"
        )
    return spec


@lru_cache(maxsize=1)
def _held_out_file() -> tuple[str, ...]:
    lines = (assets_dir() / "toybox" / "heldout.txt").read_text().splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def held_out() -> list[str]:
    """The prompts whose combinations are never trained on; the first 24 are the public benchmark."""
    return list(_held_out_file())


@lru_cache(maxsize=1)
def held_out_scenes() -> frozenset[Scene]:
    """The held-out combinations as scenes."""
    return frozenset(parse(p).scene for p in held_out())


def is_held_out(scene: Scene) -> bool:
    """Whether the scene is on the list of combinations that training never sees."""
    return scene in held_out_scenes()


def random_scene(rng: random.Random, tier_two: float = 0.2, colourless: float = 0.15) -> Scene:
    """A training scene: plain objects, and with probability ``tier_two`` patterns, accessories and pairs.

    Arguments:
        rng: the source of randomness.
        tier_two: share of scenes with a pattern, an accessory or two objects.
        colourless: share of the plain scenes whose colour the caption leaves open.
    """
    while True:
        scene = _draw(rng, tier_two, colourless)
        if not is_held_out(scene):
            return scene


def _draw(rng: random.Random, tier_two: float, colourless: float) -> Scene:
    colors = list(COLORS)
    if rng.random() >= tier_two:
        color = None if rng.random() < colourless else rng.choice(colors)
        return Scene((ObjectSpec(rng.choice(list(KINDS)), color),))
    sort = rng.random()
    one, two = rng.sample(colors, 2)
    if sort < 0.35:
        return Scene((ObjectSpec(rng.choice(list(KINDS)), one, rng.choice(PATTERNS), two),))
    if sort < 0.65:
        return Scene((ObjectSpec(rng.choice(WEARERS), one, accessory=(rng.choice(ACCESSORIES), two)),))
    if sort < 0.85:
        return Scene((ObjectSpec(rng.choice(TOPS), one), ObjectSpec(rng.choice(BASES), two)), "on")
    first, second = rng.sample(NEIGHBOURS, 2)
    return Scene((ObjectSpec(first, one), ObjectSpec(second, two)), "next to")
