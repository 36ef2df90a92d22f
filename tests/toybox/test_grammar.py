"""Captions, prompts and the held-out list."""

import collections
import random

import pytest

from tests.toybox.vocabularies import first_words
from threedistill.errors import UsageError
from threedistill.toybox.grammar import ObjectSpec, Scene, caption, describe_scene, parse, prior_words, words
from threedistill.toybox.lexicon import (
    ACCESSORIES,
    COLORS,
    DEGRADED_WORDS,
    FRONTED,
    KINDS,
    MEANINGS,
    NEWER,
    STYLE_WORDINGS,
    SYNONYMS,
)
from threedistill.toybox.scenes import held_out, held_out_more, held_out_scenes, is_held_out, random_scene

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


OLD_KINDS = 27


def test_shipped_weights_know_the_words_of_the_world():
    assert {"duck", "red", "spots", "frog", "wheels", "shiny", "two"} <= prior_words()
    assert set(words()) <= prior_words()
    known = first_words()
    assert {"duck", "red", "spots"} <= known and not {"frog", "wheels", "shiny", "two"} & known
    assert sum(all(w in known for w in kind.split()) for kind in KINDS) == OLD_KINDS


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        (
            "a corgi on a purple xylophone with wheels",
            ["'corgi', 'xylophone', 'wheels'", "nearest known: cat;"],
        ),
        ("a red frog", ["'frog'", "nearest known: duck;"]),
        ("two red ducks", ["'two'"]),
        ("an ice cream", ["does not know 'ice cream'"]),
    ],
)
def test_weights_refuse_words_that_came_after_them(prompt, parts):
    with pytest.raises(UsageError) as caught:
        parse(prompt, first_words())
    for part in parts:
        assert part in str(caught.value), str(caught.value)


def test_words_that_change_nothing_are_reported():
    assert parse("a big shiny red ball", first_words()).ignored == ("big", "shiny")
    assert parse("a big shiny red ball", first_words()).normalised == "a red ball"
    read = parse("a big shiny red ball")
    assert (read.ignored, read.normalised) == (("big",), "a shiny red ball")  # alone nothing is big
    assert parse("a big red ball next to a blue cube").ignored == ()
    assert parse("a red car with wheels").ignored == ("wheels",)  # it has them anyway
    assert parse("two big ducks").ignored == ("big",)


@pytest.mark.parametrize(
    ("prompt", "normalised"),
    [
        ("a red car with white tyres and a yellow light", "a red car with white wheels and yellow lights"),
        ("a tall, matte green house with a red door", "a tall matt green house with a red door"),
        ("two brown teddy bears", "two brown teddy bears"),
        ("two snowmen wearing red hats", "two snowmen wearing a red hat"),
        ("a pink ice cream", "a pink ice cream"),
        ("a huge bunny and a tiny couch", "a big rabbit next to a small sofa"),
        ("a red ball, glossy", "a shiny red ball"),
        ("a blue robot with white spots and red arms", "a blue robot with white spots and red arms"),
    ],
)
def test_sizes_finishes_parts_and_numbers(prompt, normalised):
    assert parse(prompt).normalised == normalised
    assert parse(normalised).scene == parse(prompt).scene


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("a ball with red wheels", "has no wheels that could be coloured; it has no parts"),
        ("a duck with red wheels", "it has: beak, wings, feet"),
        ("white wheels", "comes before the thing"),
        ("two ducks and a cat", "3 things"),
    ],
)
def test_parts_and_numbers_that_cannot_be(prompt, part):
    with pytest.raises(UsageError, match=part):
        parse(prompt)


def test_newer_words_have_their_own_held_out_list():
    more = [parse(p) for p in held_out_more()]
    assert all(p.normalised == text for p, text in zip(more, held_out_more()))
    scenes = {p.scene for p in more}
    assert len(scenes) == len(more) and scenes.isdisjoint(parse(p).scene for p in held_out())
    assert {o.kind for p in more for o in p.scene.objects} >= set(NEWER)
    assert [p.scene.tier for p in more[:16]] == [1] * 8 + [2] * 8
    for text in held_out_more():
        try:
            parse(text, first_words())
        except UsageError:
            continue
        raise AssertionError(f"{text!r} says nothing that the first weights do not know")


@pytest.mark.parametrize(
    "prompt", ["a shiny red duck", "a tall red duck", "two red ducks", "a red duck with blue feet"]
)
def test_one_more_word_does_not_make_a_held_out_object_another(prompt):
    assert is_held_out(parse(prompt).scene)


def test_meanings_lead_to_words_of_the_world():
    pool = {*KINDS, *COLORS, *ACCESSORIES}
    assert all(w in pool for alike in MEANINGS.values() for w in alike)
    assert not set(MEANINGS) & (set(SYNONYMS) | set(COLORS))


def test_captions_fit_the_tokenizer():
    rng = random.Random(9)
    longest = max(len(caption(random_scene(rng, 0.8, 0.1, 0.8), "front", rng).split()) for _ in range(3000))
    assert longest <= 18  # MAX_WORDS less its start and end
