"""What a browser may ask for: prompts are data, choices are from lists, everything else is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from threedistill.app.asked import GROUPS, Limits, Offer, ask, offer
from threedistill.commands.generate import parse
from threedistill.errors import UsageError

OFFER = Offer(
    {"preset": ("draft", "high"), "representation": ("hashgrid",), "guidance": ("sds",), "prior": ("toybox",)}
)

#: Texts that would mean something to a shell, an argument parser, a template, a path or a page.
HOSTILE = [
    "--overwrite", "-x", "a=b", "export.faces=1", "; touch x", "$(touch x)", "`touch x`", "../../etc", "/etc/passwd",
    "<script>x</script>", "'\"><img src=x onerror=x>", "{{7*7}}", "${HOME}", "%s%n", "a\u202eb", "\u0000", "",
    "  ", "ключ", "🦆" * 50, "a\nb\tc", "\x1b[31mred", "--", "@file", "plugins=[os]", "C:\\x", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text)[:20])
def test_a_prompt_reaches_generate_as_it_is_or_is_refused(text, tmp_path, monkeypatch):
    try:
        asked = ask(OFFER, Limits(), text, 3)
    except UsageError as error:
        assert not text.strip() or "\0" in text
        assert "\n" not in str(error)
        return
    words = asked.words(tmp_path / "run", None, ["export.faces=9"])
    assert not any(text in word for word in words if len(text) > 2), (
        "the prompt is no word of the command line"
    )
    file = tmp_path / "prompt"
    file.write_text(asked.prompt, encoding="utf-8")
    request = parse([str(file) if word == "-" else word for word in words[1:]])
    assert request.prompt == " ".join(text.split()) and request.out == tmp_path / "run" and request.resume
    assert request.overrides == ["export.faces=9"] and request.seed == 3 and request.preset == "draft"


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize(
    "value", ["", "nothing", "../x", 3, ["draft"], {"a": 1}, "draft ", b"draft"], ids=repr
)
def test_a_choice_is_one_of_the_list(group, value):
    with pytest.raises(UsageError, match=f"^{group}: .* is not offered here"):
        ask(OFFER, Limits(), "a duck", 0, **{group: value})


@pytest.mark.parametrize("seed", [-1, 2**31, 0.5, float("nan"), float("inf"), "1", True, [1]], ids=repr)
def test_a_seed_is_a_number_in_its_range(seed):
    with pytest.raises(UsageError, match=r"^the seed must"):
        ask(OFFER, Limits(), "a duck", seed)


def test_limits_hold():
    with pytest.raises(UsageError, match="has 11 characters; at most 10"):
        ask(OFFER, Limits(prompt=10), "x" * 11, 0)
    with pytest.raises(UsageError, match="has 3 bytes; at most 2"):
        ask(OFFER, Limits(picture=2), "a duck", 0, b"abc")
    with pytest.raises(UsageError, match="must be a file"):
        ask(OFFER, Limits(), "a duck", 0, "/etc/passwd")
    with pytest.raises(UsageError, match="nothing to choose by the name 'out'"):
        ask(OFFER, Limits(), "a duck", 0, out="/tmp")


def test_a_picture_is_a_file_of_the_page(tmp_path):
    asked = ask(OFFER, Limits(), "a duck", None, b"png", preset="high")
    words = asked.words(Path("run"), tmp_path / "k.png", [])
    assert words[words.index("--image") + 1] == str(tmp_path / "k.png")
    assert words[words.index("--preset") + 1] == "high"


def test_the_offer_is_what_there_is():
    found = offer(["draft"], ["toybox", "sd15_image"])
    assert found.choices["representation"][0] == "hashgrid" and "gaussians" in found.choices["representation"]
    assert "canvas" not in found.choices["representation"], "a picture is no asset"
    assert found.choices["guidance"][0] == "sds" and found.pictured == {"sd15_image"}
    assert offer(["draft"]).choices["prior"] == ("toybox",)
    with pytest.raises(UsageError, match="unknown preset 'drfat'; did you mean 'draft'"):
        offer(["drfat"])
