"""Which scenes there are to learn from: random ones, and the combinations that training never sees."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache

from threedistill.resources import assets_dir
from threedistill.toybox.grammar import ObjectSpec, Scene, parse
from threedistill.toybox.lexicon import (
    ACCESSORIES,
    BASES,
    COLORS,
    FINISHES,
    KIND_PARTS,
    KINDS,
    NEIGHBOURS,
    PATTERNS,
    TOPS,
    WEARERS,
)

__all__ = ["held_out", "held_out_more", "held_out_scenes", "is_held_out", "random_scene"]


@lru_cache(maxsize=2)
def _held_out_file(name: str) -> tuple[str, ...]:
    lines = (assets_dir() / "toybox" / name).read_text().splitlines()
    return tuple(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def held_out() -> list[str]:
    """The prompts whose combinations are never trained on; the first 24 are the public benchmark."""
    return list(_held_out_file("heldout.txt"))


def held_out_more() -> list[str]:
    """The held-out prompts of kinds and words that the first weights (toybox-1) do not know."""
    return list(_held_out_file("heldout-more.txt"))


@lru_cache(maxsize=1)
def held_out_scenes() -> frozenset[Scene]:
    """The held-out combinations of both lists as scenes."""
    return frozenset(parse(p).scene for p in held_out() + held_out_more())


def is_held_out(scene: Scene) -> bool:
    """Whether the scene is on the lists of combinations that training never sees.

    Size, finish and colours of parts do not make it another one: a shiny red duck would show what a red duck is.
    """
    bare = replace(scene, objects=tuple(replace(o, size=None, finish=None, parts=()) for o in scene.objects))
    alone = Scene(bare.objects[:1]) if bare.twins else bare
    return not held_out_scenes().isdisjoint({scene, bare, alone})


def random_scene(
    rng: random.Random, tier_two: float = 0.2, colourless: float = 0.15, refined: float = 0.2
) -> Scene:
    """A training scene: plain objects, and with probability ``tier_two`` patterns, accessories and pairs.

    Arguments:
        rng: the source of randomness.
        tier_two: share of scenes with a pattern, an accessory or two objects.
        colourless: share of the plain scenes whose colour the caption leaves open.
        refined: share of scenes with a size, a finish or a part in a colour of its own.
    """
    while True:
        scene = _draw(rng, tier_two, colourless)
        if rng.random() < refined:
            scene = _refined(scene, rng)
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
    if sort < 0.82:
        return Scene((ObjectSpec(rng.choice(TOPS), one), ObjectSpec(rng.choice(BASES), two)), "on")
    if sort < 0.88:
        return Scene((ObjectSpec(rng.choice(NEIGHBOURS), one),) * 2, "next to")
    first, second = rng.sample(NEIGHBOURS, 2)
    return Scene((ObjectSpec(first, one), ObjectSpec(second, two)), "next to")


def _refined(scene: Scene, rng: random.Random) -> Scene:
    """The scene with one more thing said of it: a size, a finish, or the colour of a part."""
    sort, specs = rng.random(), list(scene.objects)
    if len(specs) == 2 and not scene.twins:
        at = rng.randrange(2)
        size = rng.choice(("big", "small", "tall")) if sort < 0.6 else None
        finish = None if size else rng.choice(FINISHES)
        specs[at] = replace(specs[at], size=size, finish=finish)
        return Scene(tuple(specs), scene.relation)
    having = KIND_PARTS.get(specs[0].kind, ())
    if sort < 0.5 and having and scene.tier == 1 and specs[0].color:
        free = [c for c in COLORS if c != specs[0].color]
        parts = rng.sample(having, min(len(having), 1 if rng.random() < 0.8 else 2))
        changed = replace(specs[0], parts=tuple((part, rng.choice(free)) for part in parts))
    elif sort < 0.7:
        changed = replace(specs[0], size="tall")
    else:
        changed = replace(specs[0], finish=rng.choice(("shiny", "shiny", "matt")))
    return Scene((changed,) * len(specs), scene.relation)
