"""The viewer's budget against a clock of our own: its share holds, and nothing waits for ever."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from threedistill.viewer.budget import Budget


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("cost", [0.01, 0.3, 3.0], ids=["small", "middling", "more than is ever saved up"])
def test_the_share_holds_whatever_a_job_costs(cost: float):
    clock = Clock()
    budget, done = Budget(share=0.02, most=0.6, clock=clock), 0
    for _ in range(3000):
        clock.work(1.0)
        budget.accrue()
        if budget.affords("panel"):
            budget.pay("panel", lambda: clock.work(cost))
            done += 1
    # One job may be under way before it is earned, and what is saved up at the end is not spent.
    due = min(0.02 * 3000, cost * 3000)
    assert due - cost - 0.6 <= budget.spent == pytest.approx(done * cost)
    assert budget.spent <= due + cost


def test_time_in_which_the_run_waits_is_neither_earned_nor_paid():
    clock = Clock()
    budget = Budget(share=0.02, clock=clock)
    budget.pay("render", lambda: clock.work(5.0), free=True)
    clock.work(100.0)
    budget.wait()
    assert (budget.saved, budget.spent) == (0.0, 0.0)
    clock.work(1.0)
    budget.accrue()
    assert budget.saved == pytest.approx(0.02)
    assert not budget.fits("render") and budget.fits("render", 0.1)


def test_a_view_that_cannot_be_sharp_is_new_all_the_same():
    pytest.importorskip("viser")
    from threedistill.viewer.live import HEIGHTS, _View

    view = _View(SimpleNamespace())  # type: ignore[arg-type]
    coarse = HEIGHTS[0]
    for iteration in range(3):
        assert view.wanted(iteration, lambda h: h <= coarse) == coarse
        view._rendered, view._level = (iteration, 0), 1
        assert view.wanted(iteration, lambda h: h <= coarse) is None
        assert view.wanted(iteration, lambda h: True) == HEIGHTS[1]
