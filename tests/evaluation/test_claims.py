"""Verdicts on claims: planted effects are found, noise is not, and no verdict comes without what it rests on."""

from __future__ import annotations

import io
import random

import numpy as np
import pytest
from PIL import Image

from threedistill.evaluation.claims import Claim, judge_claim, paired_difference, pairs, student_line
from threedistill.evaluation.plots import contact_sheet, interval_plot, line_plot, ticks
from threedistill.evaluation.statistics import Estimate

CLAIM = Claim("B lowers A's Janus", "test", "janus", "A", "B", "lower", ("A", "B"), "S")


def row(setting: str, prompt: str, seed: int, janus: float, **more: object) -> dict:
    facts = {
        "setting": setting,
        "prompt": prompt,
        "seed": seed,
        "status": "done",
        "janus": janus,
        "kind_right": True,
    }
    return {**facts, "student_gain": 0.5, "camera_gain": 0.01, **more}


def world(effect: float, prompts: int = 8, seeds: int = 5, noise: float = 0.05) -> list[dict]:
    """Prompts differ much, seeds a little; B differs from A by ``effect``."""
    rng = random.Random(0)
    rows = []
    for p in range(prompts):
        base = rng.uniform(0.2, 0.8)
        for s in range(seeds):
            a = base + rng.gauss(0, noise)
            rows.append(row("A", f"p{p}", s, a))
            rows.append(row("B", f"p{p}", s, a + effect + rng.gauss(0, noise)))
            rows.append(row("S", f"p{p}", s, 0.5, student_gain=None, camera_gain=None))
    return rows


def test_a_planted_effect_is_found_with_its_size():
    found = judge_claim(CLAIM, world(-0.2), expected=40)
    assert found.verdict == "holds" and not found.partial
    assert found.difference is not None and found.difference.value == pytest.approx(-0.2, abs=0.03)
    assert found.difference.low < -0.2 < found.difference.high
    assert judge_claim(CLAIM, world(+0.2), expected=40).verdict == "reversed"
    assert judge_claim(CLAIM, world(0.0), expected=40).verdict == "not shown"
    assert "HOLDS; difference -0.2" in found.line() and "40 pairs of 8 prompts" in found.line()


def test_the_interval_is_that_of_whole_prompts():
    """Seeds that only repeat their prompt add no certainty: five copies give the interval of one."""
    rng = random.Random(1)
    effects = [rng.gauss(-0.1, 0.1) for _ in range(8)]
    once = [(f"p{k}", e, True) for k, e in enumerate(effects)]
    one, five = paired_difference(once), paired_difference(once * 5)
    assert one is not None and five is not None
    assert (five.value, five.low, five.high) == pytest.approx((one.value, one.low, one.high))
    # and it is the bootstrap's: about the normal interval of the mean of eight
    expected = 1.96 * np.std(effects) / np.sqrt(8)
    assert (one.high - one.low) / 2 == pytest.approx(expected, rel=0.15)


def test_pairs_need_the_same_prompt_and_seed_finished_on_both_sides():
    rows = [
        row("A", "p", 0, 0.5), row("B", "p", 0, 0.2),
        row("A", "p", 1, 0.5), row("B", "p", 2, 0.2),
        row("A", "q", 0, 0.5), row("B", "q", 0, 0.2, status="failed"),
        row("A", "r", 0, 0.5), row("B", "r", 0, 0.25, kind_right=False),
        row("A", "t", 0, 0.5), {**row("B", "t", 0, 0.0), "janus": None},
    ]  # fmt: skip
    assert pairs(rows, "A", "B", "janus") == [
        ("p", pytest.approx(-0.3), True),
        ("r", pytest.approx(-0.25), False),
    ]


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda r: r.update(student_gain=0.1) if r["setting"] == "B" else None, "no claim without a student"),
        (lambda r: r.update(camera_gain=0.0) if r["setting"] == "A" else None, "did NOT learn enough"),
        (
            lambda r: r.update(student_gain=None) if r["setting"] == "A" else None,
            "no finished run with a student",
        ),
        (lambda r: r.update(janus=0.29) if r["setting"] == "S" else None, "too little of the disease"),
        (lambda r: r.update(status="failed") if r["prompt"] > "p1" else None, "2 prompts are too few"),
    ],
)
def test_no_verdict_without_its_preconditions(spoil, reason):
    rows = world(-0.3)
    for r in rows:
        spoil(r)
    found = judge_claim(CLAIM, rows, expected=40)
    assert found.verdict == "no verdict" and reason in found.line()


def test_partial_tables_say_so():
    rows = [r for r in world(-0.2) if r["seed"] < 2]
    found = judge_claim(CLAIM, rows, expected=40)
    assert found.partial and "[partial: 16 of 40 pairs]" in found.line()
    assert "[partial: 0 of 40 pairs]" in judge_claim(CLAIM, [], expected=40).line()


def test_students_are_summed_up_by_their_medians():
    rows = [row("A", "p", s, 0.5, student_gain=g, camera_gain=0.001) for s, g in enumerate((0.1, 0.35, 0.9))]
    assert student_line(rows, "A") == (
        "A: student_gain 0.35 (needed 0.3), camera_gain 0.00100 (needed > 0), medians of 3 runs: learned"
    )


def test_plots_put_values_where_they_belong():
    """The dot of the larger value lies further right (interval plot) and higher (line plot)."""
    small, large = Estimate(0.2, 0.1, 0.3, 4), Estimate(0.8, 0.7, 0.9, 4)
    picture = np.asarray(Image.open(io.BytesIO(interval_plot("t", [("a", small), ("b", large)], "x", 0.5))))
    first, second = (
        np.argwhere((np.abs(picture.astype(int) - c) < 12).all(-1)) for c in ((0, 114, 178), (213, 94, 0))
    )
    assert first[:, 1].max() < second[:, 1].min() and first[:, 0].mean() < second[:, 0].mean()
    lines = np.asarray(
        Image.open(
            io.BytesIO(line_plot("t", {"a": [(1, small), (10, small)], "b": [(1, large)]}, "x", "y", True))
        )
    )
    body = lines[:, :505]  # without the legend
    first, second = (
        np.argwhere((np.abs(body.astype(int) - c) < 12).all(-1)) for c in ((0, 114, 178), (213, 94, 0))
    )
    assert first[:, 0].mean() > second[:, 0].mean()
    sheet = Image.open(
        io.BytesIO(
            contact_sheet("t", ["one", "two"], [("r", [Image.new("RGB", (8, 4), "red"), None])], (32, 16))
        )
    )
    assert (np.asarray(sheet)[..., 0].astype(int) - np.asarray(sheet)[..., 1] > 200).sum() == 32 * 16
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0] and ticks(-3, 12, 3) == [0, 5, 10]
