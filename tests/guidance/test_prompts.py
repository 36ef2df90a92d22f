"""The wordings of a prompt."""

from __future__ import annotations

import pytest

from threedistill.cameras import orbit
from threedistill.errors import UsageError
from threedistill.prompts import PromptSet, guess_category, without_view


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
