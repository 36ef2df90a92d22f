"""From rows of runs to verdicts about claims: paired differences, resampled over prompts, behind preconditions.

A verdict is only as good as what it rests on, so every claim names what must hold first: a student that learned, a
teacher that shows the disease, enough pairs. Where something is missing there is no verdict, and the line says why.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from threedistill.evaluation.statistics import Estimate, bootstrap

__all__ = [
    "GAIN_NEEDED", "JANUS_NEEDED", "PROMPTS_NEEDED", "Claim", "Finding", "Row", "Verdict", "judge_claim",
    "paired_difference", "pairs", "signed", "student_facts", "student_line",
]  # fmt: skip

Row = dict[str, Any]
Verdict = Literal["holds", "reversed", "not shown", "no verdict"]

#: What a student must have learned before VSD or ESD is anything but CSD with extra steps.
GAIN_NEEDED = 0.3
#: Plain SDS must show this much Janus before a remedy can be seen to work.
JANUS_NEEDED = 0.3
#: Fewer prompts than this make no interval over prompts.
PROMPTS_NEEDED = 3


@dataclass(frozen=True)
class Claim:
    """``figure(second) - figure(first)`` has a sign.

    Attributes:
        text: the claim in words, "ESD lowers VSD's Janus estimate".
        source: who claims it.
        figure: column of the rows.
        first, second: settings' names.
        direction: which sign of the difference the claim asks for.
        students: settings whose student must have learned.
        diseased: setting whose mean Janus estimate must reach :data:`JANUS_NEEDED`.
    """

    text: str
    source: str
    figure: str
    first: str
    second: str
    direction: Literal["lower", "higher"]
    students: tuple[str, ...] = ()
    diseased: str | None = None


@dataclass(frozen=True)
class Finding:
    """What came of a claim.

    Attributes:
        claim: the claim.
        verdict: ``holds`` or ``reversed``: the 95 % interval lies on that side of 0; ``not shown``: it includes 0;
            ``no verdict``: a precondition failed or there are too few pairs.
        difference: mean of ``second - first`` over pairs of equal prompt and seed, interval over prompts.
        prompts: number of prompts behind it.
        expected: pairs that a complete table would have.
        reason: why there is no verdict.
        recognised: the same difference over the pairs in which the judge sees the right kind in both.
    """

    claim: Claim
    verdict: Verdict
    difference: Estimate | None
    prompts: int
    expected: int
    reason: str = ""
    recognised: Estimate | None = None

    @property
    def partial(self) -> bool:
        """Whether pairs are missing."""
        return self.difference is None or self.difference.count < self.expected

    def line(self) -> str:
        """One line for people."""
        text = f"{self.claim.text}: {self.verdict.upper()}"
        if self.difference is not None:
            text += f"; difference {signed(self.difference)}, {self.difference.count} pairs of {self.prompts} prompts"
            if self.recognised is not None and self.recognised.count != self.difference.count:
                text += f" ({signed(self.recognised)} over the {self.recognised.count} whose kind is right in both)"
        if self.reason:
            text += f"; {self.reason}"
        if self.partial:
            text += f" [partial: {self.difference.count if self.difference else 0} of {self.expected} pairs]"
        return text


def signed(estimate: Estimate) -> str:
    """A difference and its interval, with signs."""
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def pairs(rows: Sequence[Row], first: str, second: str, figure: str) -> list[tuple[str, float, bool]]:
    """(prompt, ``second - first``, right kind in both) for every prompt and seed that both settings finished."""
    table = {(r["setting"], r["prompt"], r["seed"]): r for r in rows if r["status"] == "done"}
    found = []
    for (setting, prompt, seed), one in table.items():
        other = table.get((second, prompt, seed))
        if setting != first or other is None or one.get(figure) is None or other.get(figure) is None:
            continue
        seen = bool(one.get("kind_right")) and bool(other.get("kind_right"))
        found.append((prompt, float(other[figure]) - float(one[figure]), seen))
    return found


def paired_difference(found: Sequence[tuple[str, float, bool]]) -> Estimate | None:
    """Mean difference with a 95 % interval from resampling whole prompts; None without pairs.

    Seeds of one prompt share what makes that prompt easy or hard, so prompts are the independent units.
    """
    if not found:
        return None
    return bootstrap([d for _, d, _ in found], groups=[prompt for prompt, _, _ in found])


def student_facts(rows: Sequence[Row], setting: str) -> tuple[float, float, int] | None:
    """Medians of ``student_gain`` and ``camera_gain`` over a setting's finished runs, and their number."""
    runs = [r for r in rows if r["setting"] == setting and r["status"] == "done"]
    runs = [r for r in runs if r["student_gain"] is not None and r["camera_gain"] is not None]
    if not runs:
        return None
    gains = [[r[name] for r in runs] for name in ("student_gain", "camera_gain")]
    return statistics.median(gains[0]), statistics.median(gains[1]), len(runs)


def student_line(rows: Sequence[Row], setting: str) -> str:
    """Whether a setting's student learned, in words; always printed beside claims about it."""
    facts = student_facts(rows, setting)
    if facts is None:
        return f"{setting}: no finished run with a student"
    gain, camera, count = facts
    word = "learned" if gain >= GAIN_NEEDED and camera > 0 else "did NOT learn enough"
    return (
        f"{setting}: student_gain {gain:.2f} (needed {GAIN_NEEDED}), camera_gain {camera:.5f} (needed > 0), "
        f"medians of {count} runs: {word}"
    )


def judge_claim(claim: Claim, rows: Sequence[Row], expected: int) -> Finding:
    """Weigh one claim.

    Arguments:
        claim: what to weigh.
        rows: of the sweep, with the columns of :func:`threedistill.sweeps.table.rows`.
        expected: pairs that a complete table has.
    """
    found = pairs(rows, claim.first, claim.second, claim.figure)
    prompts = len({prompt for prompt, _, _ in found})
    difference = paired_difference(found)
    recognised = paired_difference([pair for pair in found if pair[2]])
    reason = _missing(claim, rows, prompts)
    if reason or difference is None:
        return Finding(claim, "no verdict", difference, prompts, expected, reason, recognised)
    low, high = (
        (difference.low, difference.high)
        if claim.direction == "higher"
        else (-difference.high, -difference.low)
    )
    verdict: Verdict = "holds" if low > 0 else "reversed" if high < 0 else "not shown"
    return Finding(claim, verdict, difference, prompts, expected, "", recognised)


def _missing(claim: Claim, rows: Sequence[Row], prompts: int) -> str:
    """Why there can be no verdict; empty where there can."""
    for setting in claim.students:
        facts = student_facts(rows, setting)
        if facts is None or facts[0] < GAIN_NEEDED or facts[1] <= 0:
            return f"no claim without a student that learned: {student_line(rows, setting)}"
    if claim.diseased is not None:
        sick = [
            r["janus"] for r in rows
            if r["setting"] == claim.diseased and r["status"] == "done" and r["janus"] is not None
        ]  # fmt: skip
        mean = statistics.fmean(sick) if sick else 0.0
        if mean < JANUS_NEEDED:
            return (
                f"the Janus estimate of {claim.diseased} is {mean:.2f} over {len(sick)} runs, below {JANUS_NEEDED}: "
                "the teacher shows too little of the disease for a remedy to be seen"
            )
    if prompts < PROMPTS_NEEDED:
        return f"{prompts} prompts are too few for an interval over prompts (needed {PROMPTS_NEEDED})"
    return ""
