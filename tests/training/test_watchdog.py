"""The watchdog speaks exactly when its window agrees."""

from __future__ import annotations

from dataclasses import replace

import pytest

from threedistill.errors import ThreedistillError
from threedistill.training.watchdog import Vital, Watchdog

HEALTHY = Vital(progress=0.9, nonfinite=0, opacity=0.3, fog=0.05, saturated=0.1)


@pytest.mark.parametrize(
    ("sick", "needle"),
    [
        (replace(HEALTHY, nonfinite=3), "non-finite"),
        (replace(HEALTHY, opacity=0.0), "empty"),
        (replace(HEALTHY, opacity=1.0), "fills every view"),
    ],
)
def test_hopeless_runs_stop_after_the_window(sick: Vital, needle: str) -> None:
    dog = Watchdog(window=5)
    for _ in range(4):
        assert dog.check(sick) == []
    with pytest.raises(ThreedistillError, match=needle):
        dog.check(sick)


def test_one_healthy_step_resets_the_verdict() -> None:
    dog = Watchdog(window=3)
    for vital in (replace(HEALTHY, nonfinite=1), HEALTHY) * 10:
        assert dog.check(vital) == []


@pytest.mark.parametrize("field", ["fog", "saturated"])
def test_warnings_come_once_and_only_late(field: str) -> None:
    dog = Watchdog(window=3)
    early = replace(HEALTHY, progress=0.1, **{field: 1.0})
    assert [dog.check(early) for _ in range(6)] == [[]] * 6
    late = replace(early, progress=0.8)
    said = [w for _ in range(6) for w in dog.check(late)]
    assert len(said) == 1


def test_disabled_is_silent() -> None:
    dog = Watchdog(window=1, enabled=False)
    assert dog.check(replace(HEALTHY, nonfinite=9)) == []
