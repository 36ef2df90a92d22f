"""The short part of files.py: some hundred damaged files over all formats."""

from __future__ import annotations

from tests.fuzz.files import attempt, fuzz, sound
from tests.fuzz.runner import FAULTS, run
from threedistill.errors import ThreedistillError


def test_damaged_files_are_read_refused_or_lose_with_a_word() -> None:
    report = fuzz(range(160), seed=1)
    assert not any(report.counts[word] for word in FAULTS), "\n".join(report.lines())
    assert report.counts["refused"] > 40 and report.counts["read"] > 10


def test_sound_files_are_read() -> None:
    """The files that are damaged are sound before."""
    names = [one.name for one in sound()]
    assert len(names) >= 14 and len(set(names)) == len(names)


def test_every_way_to_fail_is_counted() -> None:
    """The runner itself: tries that raise, hang, crash and grow."""
    import os
    import time

    held = []

    def ways(number: int) -> tuple[str, str]:
        if number == 1:
            raise ThreedistillError("one line")
        if number == 2:
            raise ThreedistillError("two\nlines")
        if number == 3:
            raise KeyError("a")
        if number == 4:
            os._exit(9)
        if number == 5:
            time.sleep(60)
        if number == 6:
            held.append(bytearray(os.urandom(1 << 10) * (60 << 10)))
        return ("silent loss" if number == 7 else "read"), "name"

    report = run(ways, range(9), seconds=2, megabytes=40)
    expected = {
        "read": 2,
        "refused": 1,
        "long line": 1,
        "traceback": 1,
        "crash": 1,
        "hang": 1,
        "memory": 1,
        "silent loss": 1,
    }
    assert dict(report.counts) == expected
    assert [number for number, _, _ in report.faults] == [2, 3, 4, 5, 6, 7]
    assert attempt.__doc__ and len(report.lines()) == 7
