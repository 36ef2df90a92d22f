"""Captions, prompts and the held-out list."""

import collections
import random

import pytest

from threedistill.errors import UsageError
from threedistill.toybox.grammar import (
    COLORS,
    DEGRADED_WORDS,
    FRONTED,
    KINDS,
    STYLE_WORDINGS,
    SYNONYMS,
    ObjectSpec,
    Scene,
    caption,
    describe_scene,
    held_out,
    held_out_scenes,
    is_held_out,
    parse,
    random_scene,
    words,
)

VIEWS = [None, "front", "side", "back", "overhead"]


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("style", ["plain", "clay", "normal", "degraded"])
def test_every_caption_reads_back_as_its_scene_and_view(view, style):
    rng = random.Random(f"{view}/{style}")
    for _ in range(400):
        scene = random_scene(rng)
        flaw = rng.choice(DEGRADED_WORDS)
        text = caption(scene, view, rng, style, flaw)
        read = parse(text)
        assert (read.scene, read.view) == (scene, view), text
        if style in STYLE_WORDINGS:
            assert read.style == style, text
        assert set(text.replace(",", "").split()) <= set(words()), text


def test_normalised_wording_is_stable():
    rng = random.Random(3)
    for _ in range(300):
        scene = random_scene(rng, tier_two=0.7)
        normal = describe_scene(scene)
        assert parse(normal).normalised == normal
        assert parse(caption(scene, rng.choice(VIEWS), rng)).normalised == normal


def test_training_never_draws_a_held_out_combination():
    rng = random.Random(0)
    held = held_out_scenes()
    seen = {random_scene(rng, tier_two=0.5, colourless=0.1) for _ in range(30000)}
    assert not seen & held
    # The test bites: nearly every other plain combination was drawn.
    plain = {Scene((ObjectSpec(k, c),)) for k in KINDS for c in COLORS}
    assert len(plain - held - seen) <= 5


def test_held_out_list_is_what_the_benchmark_promises():
    prompts = held_out()
    scenes = [parse(p).scene for p in prompts]
    assert len(prompts) >= 48 and len(set(scenes)) == len(prompts)
    public = scenes[:24]
    assert [s.tier for s in public] == [1] * 16 + [2] * 8
    assert len({s.objects[0].kind for s in public}) >= 12
    colors = collections.Counter(o.color for s in public for o in s.objects)
    assert max(colors.values()) <= 3
    assert all(p == parse(p).normalised for p in prompts)


@pytest.mark.parametrize(
    "prompt", ["a red mushroom", "a blue car", "a yellow duck", "a green house", "an orange robot"]
)
def test_prompts_of_the_readme_are_trained(prompt):
    assert not is_held_out(parse(prompt).scene)


def test_world_is_as_large_as_promised():
    assert len(KINDS) >= 24 and len(COLORS) >= 10 and len(FRONTED) * 2 >= len(KINDS)
    assert set(KINDS) >= FRONTED


@pytest.mark.parametrize(
    ("prompt", "normalised"),
    [
        ("A Red MUSHROOM!", "a red mushroom"),
        ("red mushrooms", "a red mushroom"),
        ("an automobile", "a car"),
        ("a violet TV", "a purple television"),
        ("teddy", "a teddy bear"),
        ("two brown teddy-bears"[4:], "a brown teddy bear"),
        ("a stripey red and white duck", "a red duck with white stripes"),
        ("a red spotted mug", "a red mug with white spots"),
        ("a ball on top of a cube", "a ball on a cube"),
        ("a red ball and a blue cube", "a red ball next to a blue cube"),
        ("a robot with a cap", "a robot wearing a red hat"),
        ("red boxes", "a red cube"),
    ],
)
def test_normalisation(prompt, normalised):
    assert parse(prompt).normalised == normalised


def test_filler_is_reported():
    read = parse("a highly detailed DSLR photo of a cute red duck")
    assert read.normalised == "a red duck"
    assert read.ignored == ("highly", "detailed", "dslr", "photo", "cute")


def test_synonyms_lead_to_known_words():
    known = set(words()) | set(KINDS) | {"next to", "on"}
    assert set(SYNONYMS.values()) <= known


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a red dukc", ["'dukc'", "nearest known: duck", "prior=sd15"]),
        ("a dragon and a wizard", ["'dragon'", "'wizard'", "prior=sd21"]),
        ("red", ["names no thing", "mushroom", "prior=sd15"]),
        ("", ["names no thing"]),
        ("a ball on a duck", ["can stand on", "cube"]),
        ("a car wearing a hat", ["cannot wear a hat", "snowman"]),
        ("a red blue car", ["give one colour"]),
        ("a cat, a duck and an owl", ["3 things"]),
        ("red stripes", ["before the thing"]),
    ],
)
def test_what_cannot_be_built_is_refused_with_a_way_out(prompt, parts):
    with pytest.raises(UsageError) as caught:
        parse(prompt)
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
