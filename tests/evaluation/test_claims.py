"""Verdicts on claims: planted effects are found, noise is not, and no verdict comes without what it rests on."""

from __future__ import annotations

import io
import random
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from threedistill.evaluation.claims import Claim, judge_claim, paired_difference, pairs, student_line
from threedistill.evaluation.plots import interval_plot, line_plot
from threedistill.evaluation.sheets import contact_sheet
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


def places(svg: bytes, name: str) -> list[tuple[float, float]]:
    """Where an SVG's marks of a value are, right and down, as an XML parser reads them."""
    ns = "{http://www.w3.org/2000/svg}"
    group = next(g for g in ElementTree.fromstring(svg).iter(f"{ns}g") if g.get("id") == f"value {name}")
    return [(float(u.get("x", "nan")), float(u.get("y", "nan"))) for u in group.iter(f"{ns}use")]


def test_plots_put_values_where_they_belong():
    """Right in proportion to the value (interval plot), up in proportion to it and right to log x (line plot)."""
    pytest.importorskip("matplotlib")
    small, middle, large = (Estimate(v, v - 0.1, v + 0.1, 4) for v in (0.2, 0.4, 0.8))
    svg = interval_plot("t", [("a", small), ("b", large), ("<c> & d", middle)], "x", 0.5)
    (a, b, c) = (places(svg, name)[0] for name in ("a", "b", "<c> & d"))
    assert (b[0] - a[0]) / (c[0] - a[0]) == pytest.approx(3, rel=1e-3) and a[1] < b[1] < c[1]
    assert b"&lt;c&gt; &amp; d</text>" in svg, "text is text"
    assert svg == interval_plot("t", [("a", small), ("b", large), ("<c> & d", middle)], "x", 0.5)
    svg = line_plot("t", {"a": [(100, middle), (1, small), (10, large)], "b": [(1, large)]}, "x", "y", True)
    first, second, third = places(svg, "a")
    assert third[0] - second[0] == pytest.approx(second[0] - first[0], rel=1e-3)
    assert (first[1] - second[1]) / (first[1] - third[1]) == pytest.approx(3, rel=1e-3)
    assert places(svg, "b")[0] == pytest.approx((first[0], second[1]), abs=1e-3)
    assert interval_plot("t", [], "x").startswith(b"<?xml")


def test_a_sheet_shows_pictures_under_their_headings():
    sheet = Image.open(
        io.BytesIO(
            contact_sheet("t", ["one", "two"], [("r", [Image.new("RGB", (8, 4), "red"), None])], (32, 16))
        )
    )
    assert (np.asarray(sheet)[..., 0].astype(int) - np.asarray(sheet)[..., 1] > 200).sum() == 32 * 16
