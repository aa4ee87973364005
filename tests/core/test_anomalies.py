"""Weeks that are out of the ordinary, and those that are not."""

from __future__ import annotations

import random
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.anomalies import LEAST_WEEKS, WEEKS, Figure, Kind, anomalies

QUIET = [100, 104, 98, 101, 99, 103, 97, 102]


def weeks(kind: Kind, *values: float | None) -> list[dict[str, Figure]]:
    """Weeks with one figure."""
    return [{"x": Figure(kind, value)} for value in values]


def judged(kind: Kind, value: float | None, *past: float | None) -> Any:
    """What is said of one figure; None where nothing is."""
    found = anomalies({"x": Figure(kind, value)}, weeks(kind, *past))
    return found[0] if found else None


def test_a_week_like_the_others_is_no_news() -> None:
    """Nor is one that is a little off."""
    for value in (90, 100, 110, 130):
        assert judged("count", value, *QUIET) is None


@pytest.mark.parametrize(
    ("kind", "value", "past", "words"),
    [
        ("count", 0, QUIET, "x 0, usually 65 to 136 (less than in the last 8 weeks)"),
        ("count", 400, QUIET, "x 400, usually 65 to 136 (more than in the last 8 weeks)"),
        ("money", 0, [1_000_000] * 6, "x 0, usually 650,000 to 1,350,000 (less than in the last 6 weeks)"),
        ("share", 0.2, [0.8, 0.78, 0.82, 0.8], "x 20.0 %, usually 66.0 % to 94.0 % (less than in the last 4 weeks)"),
        ("share", 1.0, [0.5] * 4, "x 100.0 %, usually 36.0 % to 64.0 % (more than in the last 4 weeks)"),
        ("seconds", 7200, [40, 60, 50, 45], "x 120 min, usually 0.0 s to 3 min (more than in the last 4 weeks)"),
    ],
)
def test_what_is_out_of_the_ordinary_is_told_in_words(kind: Kind, value: float, past: list[float], words: str) -> None:
    """With the figure, the usual range and out of how many weeks."""
    found = judged(kind, value, *past)
    assert found.words == words
    assert found.value == value
    assert found.usual == median(past)
    assert not found.low <= value <= found.high
    assert (found.score > 0) == (value > found.usual)


def test_a_busy_season_varies_more() -> None:
    """What is far off in a steady property is nothing where weeks differ that much."""
    assert judged("count", 400, *QUIET) is not None
    assert judged("count", 400, 100, 320, 90, 410, 250, 180, 330, 70) is None


def test_one_odd_week_before_hides_nothing() -> None:
    """Neither makes it the usual range wide: a mean and a standard deviation would."""
    found = judged("count", 400, *QUIET[:-1], 5000)
    assert found is not None
    assert found.high < 200


def test_quiet_properties_raise_nothing_over_trifles() -> None:
    """Ten events where there were none are no news; five hundred are."""
    assert judged("count", 10, 0, 0, 0, 0, 0) is None
    assert judged("count", 500, 0, 0, 0, 0, 0) is not None
    assert judged("seconds", 60, 0.1, 0.1, 0.1, 0.1) is None
    assert judged("money", 0, 0, 0, 0, 0) is None
    assert judged("money", 1, 0, 0, 0, 0) is not None


def test_faster_is_never_a_trouble() -> None:
    """Items that come earlier than usual are as they should be."""
    assert judged("seconds", 0, 9000, 9100, 9050, 8990) is None


def test_without_enough_weeks_nothing_is_said() -> None:
    """Unknown weeks do not count."""
    assert judged("count", 1000, *QUIET[: LEAST_WEEKS - 1]) is None
    assert judged("count", 1000, *QUIET[:LEAST_WEEKS]) is not None
    assert judged("share", 0.0, 0.9, 0.9, 0.9, None, None) is None
    assert judged("share", None, 0.9, 0.9, 0.9, 0.9) is None


def test_a_count_that_is_not_there_is_zero() -> None:
    """A type of event that came every week and does not any more, and a new one."""
    before = [{"events": Figure("count", 300), "order": Figure("count", 200)}] * 5
    found = anomalies({"events": Figure("count", 300), "alert": Figure("count", 300)}, before)
    assert {(one.figure, one.value) for one in found} == {("order", 0), ("alert", 300)}


def test_the_furthest_off_comes_first_and_only_the_last_weeks_count() -> None:
    """Eight of them."""
    before = [{"a": Figure("count", 9_999)}] * 20 + [{"a": Figure("count", 100), "b": Figure("count", 100)}] * WEEKS
    found = anomalies({"a": Figure("count", 300), "b": Figure("count", 900)}, before)
    assert [(one.figure, one.usual, one.weeks) for one in found] == [("b", 100, WEEKS), ("a", 100, WEEKS)]


@given(st.sampled_from(["count", "money", "share", "seconds"]), st.lists(st.floats(0, 1e9), min_size=4, max_size=12))
def test_the_usual_is_never_an_anomaly(kind: Kind, past: list[float]) -> None:
    """Whatever it is."""
    assert judged(kind, median(past[-WEEKS:]), *past) is None


def test_few_alarms_in_an_ordinary_year() -> None:
    """Weeks around the same mean, as counts vary by themselves: hardly one in a hundred is told of."""
    chance = random.Random(7)
    counts = [sum(chance.random() < 0.5 for _ in range(400)) for _ in range(500)]
    told = sum(judged("count", counts[at], *counts[at - 8 : at]) is not None for at in range(8, 500))
    assert told <= 5
