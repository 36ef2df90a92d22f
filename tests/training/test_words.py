"""Which words a run's prior knows, and that what it does not use is said."""

import json

import pytest

from tests.toybox.vocabularies import first_words
from threedistill.commands.listing import choices
from threedistill.config import compose, recipe
from threedistill.errors import UsageError
from threedistill.training.plan import PriorPlan
from threedistill.training.refusals import WrongPrompt, check_words


def prior(name: str, **model: object) -> PriorPlan:
    """The plan of a prior by its option."""
    config = compose(prompt="a red duck", prior=name)["prior"]
    return PriorPlan(name, recipe({**config["model"], **model}, "prior.model"), needs_camera=False)


def test_weights_know_their_own_tokenizers_words(tmp_path):
    """The words are those saved with the weights that the configuration names, not those of the world."""
    for name in ("world", "oracle", "sd15"):
        assert check_words("a red frog", prior(name)) == ()
    with pytest.raises(WrongPrompt, match="does not know 'dragon'") as told:
        check_words("a red dragon", prior("toybox"))
    assert told.value.unknown is not None and list(told.value.unknown.words) == ["dragon"]
    (tmp_path / "tokenizer").mkdir()
    vocabulary = {word: i for i, word in enumerate(["<pad>", "a", "red", "frog", "shiny"])}
    (tmp_path / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    own = prior("toybox", folder=str(tmp_path))
    assert check_words("a shiny red frog", own) == () and check_words("a tall red frog", own) == ("tall",)
    with pytest.raises(UsageError, match="does not know 'duck'"):
        check_words("a red duck", own)


def test_unused_words_are_named_and_open_vocabularies_have_none():
    assert check_words("a big shiny red ball", prior("toybox")) == ("big",)  # alone nothing is big
    assert check_words("a big shiny red ball", prior("world")) == ("big",)
    assert check_words("a marble bust of Ada, big and shiny", prior("sd15")) == ()


def test_the_list_of_words_is_what_the_weights_know(monkeypatch):
    table = choices("words")
    assert {"duck", "frog"} <= set(table["kinds"].split(", ")) and "only the world" not in table
    monkeypatch.setattr("threedistill.toybox.priors.texts.prior_words", first_words)
    table = choices("words")
    assert "duck" in table["kinds"] and "frog" not in table["kinds"]
    assert {"frog", "wheels", "tall", "two"} <= set(table["only the world"].split(" (")[0].split(", "))
    assert "puppy" not in table["read as another word"] and "kitten = cat" in table["read as another word"]
    known = prior("toybox")
    for synonym in table["read as another word"].split(", "):
        word, meant = synonym.split(" = ")
        assert check_words(f"a red {word}" if meant in table["kinds"].split(", ") else "a duck", known) == ()
