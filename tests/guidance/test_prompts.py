"""The wordings of a prompt."""

from __future__ import annotations

import pytest
import torch

from threedistill.cameras import orbit, place
from threedistill.config import build, compose
from threedistill.errors import UsageError
from threedistill.prompts import PromptSet, guess_category, without_view
from threedistill.rng import Streams


def test_view_words_follow_the_cameras():
    prompts = PromptSet("a red mushroom", negative="blurry")
    cameras = orbit(4)
    assert prompts.texts("view", cameras) == [
        "a red mushroom, front view", "a red mushroom, side view", "a red mushroom, back view",
        "a red mushroom, side view",
    ]  # fmt: skip
    assert prompts.texts("view", orbit(1, elevation=60)) == ["a red mushroom, overhead view"]
    assert [without_view(t) for t in prompts.texts("view", cameras)] == ["a red mushroom"] * 4
    assert prompts.texts("base", cameras) == ["a red mushroom"] * 4
    assert prompts.texts("null", cameras) == prompts.texts("inverse", cameras) == [""] * 4
    assert prompts.texts("negative", cameras) == ["blurry"] * 4
    assert PromptSet("a red mushroom", view_words=False).texts("view", cameras) == ["a red mushroom"] * 4


@pytest.mark.parametrize(
    "prompt, noun",
    [
        ("a red mushroom", "mushroom"),
        ("a DSLR photo of a squirrel wearing a purple hat", "squirrel"),
        ("An astronaut riding a horse, highly detailed", "astronaut"),
        ("the blue cube on a table", "cube"),
        ("chair", "chair"),
    ],
)
def test_the_category_is_the_head_noun(prompt, noun):
    assert guess_category(prompt) == noun
    assert PromptSet(prompt).texts("category", orbit(1)) == [f"a {noun}"]
    assert PromptSet(prompt, category="thing").texts("category", orbit(1)) == ["a thing"]


def test_missing_texts_are_usage_errors():
    with pytest.raises(UsageError, match="the prompt is empty"):
        PromptSet("  ")
    with pytest.raises(UsageError, match="compares with a source prompt, and none was given"):
        PromptSet("a duck").texts("source", orbit(1))


def test_the_prior_s_negative_is_not_the_user_s():
    prompts, cameras = PromptSet("a duck", prior_negative="blurry"), orbit(1)
    assert prompts.texts("negative", cameras) == ["blurry"] and prompts.texts("uncond", cameras) == [""]
    prompts = PromptSet("a duck", negative="dull", prior_negative="blurry", inverse="a thing")
    assert prompts.texts("negative", cameras) == prompts.texts("uncond", cameras) == ["dull"]
    assert prompts.texts("inverse", cameras) == ["a thing"] and prompts.texts("null", cameras) == [""]
    assert prompts.texts("front", cameras) == ["a duck, front view"]


def test_several_wordings_are_drawn_per_view_and_all_can_be_taken_off():
    prompts, cameras = PromptSet("a duck", view_wordings="several"), orbit(8)
    seen: dict[int, set[str]] = {}
    for iteration in range(60):
        drawn = prompts.drawn(Streams(0, iteration=iteration), 8).texts("view", cameras)
        for view, text in enumerate(drawn):
            seen.setdefault(view, set()).add(text)
    assert seen[0] == {"a duck, front view", "a duck, seen from the front"}
    assert seen[4] == {"a duck, back view", "a duck, rear view", "a duck, seen from behind"}
    assert {without_view(text) for texts in seen.values() for text in texts} == {"a duck"}
    again = prompts.drawn(Streams(0, iteration=3), 8)
    assert again == prompts.drawn(Streams(0, iteration=3), 8)
    half = prompts.drawn(Streams(0, iteration=3, view_offset=4), 4)
    assert half.wordings == again.wordings[4:]
    one = PromptSet("a duck")
    assert one.drawn(Streams(0), 8) is one
    with pytest.raises(UsageError, match=r"prompts\.view_wordings='many' must be one or several"):
        PromptSet("a duck", view_wordings="many")  # type: ignore[arg-type]


def test_a_front_bias_overrules_view_words_as_often_as_it_says():
    cameras = orbit(64)
    for words in (True, False):
        prompts = PromptSet("a duck", view_words=words, front_bias=0.7)
        drawn = prompts.drawn(Streams(0).at(3), 64)
        told, honest = drawn.texts("view", cameras), prompts.texts("view", cameras)
        expected = ["a duck, front view" if front else honest[k] for k, front in enumerate(drawn.told_front)]
        assert told == expected
        assert 0.5 < sum(drawn.told_front) / 64 < 0.9
        assert drawn.texts("base", cameras) == ["a duck"] * 64  # what a student hears stays as it is
        assert drawn.told_front == prompts.drawn(Streams(0).at(3), 64).told_front
        assert drawn.told_front != prompts.drawn(Streams(0).at(4), 64).told_front
    assert PromptSet("a duck").drawn(Streams(0).at(3), 4).told_front == ()
    with pytest.raises(UsageError, match=r"prompts\.front_bias=1\.5 must lie in \[0, 1\]"):
        PromptSet("a duck", front_bias=1.5)


def test_where_view_words_end_is_the_priors_own():
    """Toybox's captions say "overhead" above 45 degrees; DreamFusion and threestudio say so above 60."""
    from threedistill.training.planning import build_plan

    def texts(prior: str, *overrides: str) -> list[str]:
        config = compose(prompt="a duck", prior=prior, overrides=overrides)
        angles = torch.tensor([[0.0, 40.0, 140.0, 0.0], [50.0, 0.0, 0.0, 70.0]]).deg2rad()
        cameras = place(angles[0], angles[1], torch.ones(4), torch.ones(4), 8, 8)
        return [text.removeprefix("a duck, ").removesuffix(" view") for text in
                build_plan(config).prompts.texts("view", cameras)]  # fmt: skip

    assert texts("gaussian") == ["overhead", "front", "back", "overhead"]
    assert texts("sd15") == ["front", "front", "back", "overhead"]
    assert texts("sdxl", "prior.views.front=30", "prior.views.back=30") == [
        "front",
        "side",
        "side",
        "overhead",
    ]
    with pytest.raises(UsageError, match=r"prior\.views: front=100\.0 and back=90\.0 overlap"):
        texts("sd15", "prior.views.front=100", "prior.views.back=90")


def test_perp_neg_knows_the_same_views_from_above():
    config = compose(prompt="a duck", prior="sd15", overrides=["cfg=perp_neg"])
    assert build(config["guidance"]["rule"], "guidance.rule").cfg.weights.overhead == 60
    config = compose(prompt="a duck", prior="toybox", overrides=["cfg=perp_neg"])
    assert build(config["guidance"]["rule"], "guidance.rule").cfg.weights.overhead == 45
