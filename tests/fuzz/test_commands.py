"""The short part of commands.py, and that its watch and its counts see what they are there for."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.fuzz import commands
from tests.fuzz.runner import FAULTS, run


@pytest.mark.parametrize(
    ("only", "tries"), [("prompts", 25), ("settings", 60), ("folders", 8), ("starts", 2)]
)
def test_hostile_requests_end_in_one_line(only: str, tries: int) -> None:
    report = commands.fuzz(range(tries), seed=1, only=only)
    assert not any(report.counts[word] for word in FAULTS), "\n".join(report.lines())
    assert report.counts["refused"] + report.counts[f"{only} refused"] > 0


def test_the_watch_sees_writes_outside_and_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stray = tmp_path / "stray"

    def write() -> None:
        stray.write_text("x")

    calls = [write, lambda: subprocess.run(["true"], check=False), lambda: stray.unlink(), lambda: None]
    calls.append(lambda: os.mkdir("inside"))
    monkeypatch.setattr(commands, "made", lambda n, seed, only: ("prompts", commands.Try(("try",), calls[n])))
    report = run(commands.attempt, range(5))
    assert report.counts == {"outside": 2, "forbidden": 1, "prompts done": 2}, report.lines()


def test_damage_changes_and_hostile_configurations_differ() -> None:
    rng = random.Random(0)
    data = bytes(range(200))
    assert sum(commands.damage(data, rng) != data for _ in range(50)) > 45
    config = {"plugins": [], "a": {"_target_": "x.Y", "b": 1}}
    assert any(commands._hostile(config, rng) != config for _ in range(5))
