"""What values a schedule takes is known in closed form, and the ranges of settings are checked against that."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from threedistill.guidance import ESD, ClassifierFree, Window
from threedistill.schedule import Constant, Piecewise, Ramp, Schedule, bounds, first_above, stations, value_at

VALUES = st.floats(-100, 100, allow_nan=False).map(lambda x: round(x, 3))
POSITIVE = st.floats(0.01, 100).map(lambda x: round(x, 3))
FRACTIONS = st.one_of(st.floats(0, 1).map(lambda x: round(x, 3)), st.sampled_from((0.0, 0.5, 1.0)))
SPANS = st.one_of(st.just(0.0), st.floats(0.01, 3))
RAMPS = st.one_of(
    st.builds(Ramp, VALUES, VALUES, FRACTIONS, SPANS, st.sampled_from(("linear", "sqrt", "cosine"))),
    st.builds(Ramp, POSITIVE, POSITIVE, FRACTIONS, SPANS, st.just("log")),
)
#: Before the stage, in it and behind it; several at one place now and then.
PLACES = st.one_of(
    st.sampled_from((-0.5, 0.0, 0.3, 0.5, 1.0, 1.5)), st.floats(-0.5, 1.5).map(lambda x: round(x, 3))
)
POINTS = st.lists(st.tuples(PLACES, VALUES), min_size=1, max_size=7)
PIECES = st.builds(Piecewise, POINTS.map(lambda points: tuple(sorted(points, key=lambda point: point[0]))))
SCHEDULES: st.SearchStrategy[Schedule] = st.one_of(st.builds(Constant, VALUES), RAMPS, PIECES)


def samples(schedule: Schedule) -> list[float]:
    """Dense values over the stage, and those just beside every place where the formula changes."""
    places = [k / 2000 for k in range(2001)]
    if isinstance(schedule, Piecewise):
        ats = [at for at, _ in schedule.points]
    else:
        ats = [schedule.at, schedule.at + schedule.over] if isinstance(schedule, Ramp) else []
    for at in ats:
        places += [p for p in (math.nextafter(at, -1.0), at, math.nextafter(at, 2.0)) if 0 <= p <= 1]
    return [schedule(place) for place in places]


@settings(max_examples=400)
@given(SCHEDULES)
def test_the_bounds_are_those_of_dense_samples(schedule: Schedule) -> None:
    low, high = bounds(schedule)
    values = samples(schedule)
    slack = 1e-9 * max(abs(low), abs(high), 1.0)
    assert low - slack <= min(values) and max(values) <= high + slack
    assert low >= min(values) - slack and high <= max(values) + slack, "refuses more than it must"


@given(SCHEDULES, SCHEDULES)
def test_where_one_exceeds_another_it_truly_does(low: Schedule, high: Schedule) -> None:
    found = first_above(low, high)
    if found is not None:
        progress, below, above = found
        assert below == value_at(low, progress) > above == value_at(high, progress)
    assert {0.0, 1.0} <= set(stations(low, high))


def test_a_plain_number_is_its_own_bounds() -> None:
    assert bounds(3) == (3.0, 3.0) and bounds(0.5) == (0.5, 0.5)


def test_a_peak_between_looks_is_refused() -> None:
    """Five looks over the stage would not see it."""
    peak = Piecewise(((0.05, 0.2), (0.1, 5.0), (0.15, 0.2)))
    with pytest.raises(ValueError, match=r"lam.* must lie in \[0, 1\]; it takes values from 0\.2 to 5"):
        ESD(ClassifierFree(7.5), lam=peak)
    with pytest.raises(ValueError, match=r"max takes values in \[0\.2, 5\]"):
        Window(min=0.0, max=peak)
    ESD(ClassifierFree(7.5), lam=Piecewise(((0.05, 0.2), (0.1, 1.0), (0.15, 0.2))))


def test_the_middle_of_three_points_at_one_place_never_shows() -> None:
    assert bounds(Piecewise(((0.0, 0.1), (0.5, 0.2), (0.5, 9.0), (0.5, 0.3)))) == (0.1, 0.3)
    assert bounds(Piecewise(((1.0, 0.1), (1.0, 9.0)))) == (0.1, 0.1)
    assert bounds(Piecewise(((-1.0, 9.0), (0.0, 0.1), (0.5, 0.4)))) == pytest.approx((0.1, 0.4))
