"""One grammar of ``key=value`` in every verb: what is 1000 in one of them is 1000 in all."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from threedistill.commands.arguments import frame_overrides
from threedistill.commands.export import parser as export_parser
from threedistill.commands.sweep import read_words
from threedistill.config import compose, parse_override, with_more_steps
from threedistill.errors import UsageError

#: A value as it is written, and what it is.
WRITTEN = [("1000", 1000), ("1e3", 1000), ("1E+3", 1000)]


@pytest.mark.parametrize(("text", "value"), WRITTEN)
def test_a_whole_number_is_one_however_it_is_written(command, text: str, value: int) -> None:
    for key in ("export.faces", "budget.faces", "budget.iterations", "stages.0.iterations"):
        assert parse_override(f"{key}={text}") == (key, value)
    done = command(
        "generate", "a red ball", "--print-config", f"export.faces={text}", f"budget.iterations={text}"
    )
    assert done.status == 0, done.err
    config = yaml.safe_load(done.out)
    assert (config["export"]["faces"], config["stages"][0]["iterations"]) == (value, value)
    assert isinstance(config["export"]["faces"], int)
    done = command("generate", "a red ball", "--print-config", "--face-budget", text, "export.faces=1000")
    assert done.status == 0 and yaml.safe_load(done.out)["export"]["faces"] == value, done.err
    more = with_more_steps(compose(prompt="a red ball", preset="draft"), [f"budget.iterations={text}"], "run")
    assert sum(stage["iterations"] for stage in more["stages"]) == value
    (setting,) = read_words([f"export.faces={text}"]).axes
    assert (
        compose(prompt="a red ball", overrides=[f"{setting[0]}={setting[1][0]}"])["export"]["faces"] == value
    )


def test_fractions_and_words_stay_what_they_are() -> None:
    assert parse_override("optim.eps=1e-15") == ("optim.eps", 1e-15)
    assert parse_override("a=1.5e3") == ("a", 1500.0) and isinstance(parse_override("a=1.5e3")[1], float)
    assert parse_override("a='1e3'") == ("a", "1e3") and parse_override("a=1e300") == ("a", 1e300)
    with pytest.raises(UsageError, match="give a whole number of iterations"):
        with_more_steps(compose(prompt="a red ball"), ["budget.iterations=2000.5"], "run")


def test_a_flag_and_an_override_disagree_by_value() -> None:
    options, _ = export_parser().parse(["run", "--face-budget", "1e3"])
    assert frame_overrides(options, ["export.faces=1e3"]) == ["export.faces=1e3", "export.faces=1000"]
    with pytest.raises(UsageError, match=r"--face-budget 1000 and export\.faces=999 disagree"):
        frame_overrides(options, ["export.faces=999"])


def test_a_path_with_an_equals_sign_is_a_path(command, workspace: Path) -> None:
    Path("a=b").mkdir()
    assert "a=b: not a run folder" in command("cite", "a=b").err
    assert "runs/a=b: there is no such folder" in command("resume", "runs/a=b").err
    assert "export takes one run folder, not 0" in command("export", "export.faces=1e3").err
