"""When jobs are due in a property's own time, and which business days a report is about."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.calendar import (
    Period,
    Report,
    business_day,
    check_cron,
    closes_ms,
    day_of,
    due_times,
    local_date,
    month_of,
    next_due,
    number_of,
    opens_ms,
    period_due,
    period_of,
)

LISBON = ZoneInfo("Europe/Lisbon")
TOKYO = ZoneInfo("Asia/Tokyo")
ZONES = (
    "Asia/Tokyo",
    "Europe/Lisbon",
    "Europe/Berlin",
    "America/New_York",
    "America/St_Johns",
    "America/Santiago",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Asia/Kathmandu",
    "UTC",
)
"""Clocks that are never moved, moved by an hour, by half an hour, and at midnight."""
LINES = (
    "0 23 * * *",
    "0 1 * * 0",
    "0 2 1 * *",
    "30 1 * * *",
    "30 2 * * *",
    "0 0 * * *",
    "15 0 * * *",
    "0 5 * * 0",
    "0,30 1,2 * * *",
    "*/20 * * * *",
    "*/30 1-3 * * *",
    "7 * * * *",
    "0 12 29 2 *",
    "0 0 13 * 5",
)
DAY_MS = 86_400_000
MOMENTS = st.integers(int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000), 1_900_000_000_000)


@cache
def moves(name: str) -> list[int]:
    """When the clocks of a zone are moved, to the day."""
    zone, found, before = ZoneInfo(name), [], None
    for day in range(6 * 366):
        moment = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day)
        offset = moment.astimezone(zone).utcoffset()
        if before not in (None, offset):
            found.append(int(moment.timestamp() * 1000))
        before = offset
    return found


@st.composite
def places(draw: st.DrawFn) -> tuple[ZoneInfo, int]:
    """A zone and a moment, most often not long before its clocks are moved, or right then."""
    name = draw(st.sampled_from(ZONES))
    if not moves(name) or draw(st.integers(0, 3)) == 0:
        return ZoneInfo(name), draw(MOMENTS)
    minute = draw(st.integers(-3 * 1440, 1440))
    return ZoneInfo(name), draw(st.sampled_from(moves(name))) + minute * 60_000 + draw(st.sampled_from((0, 1, -1, 500)))


def ms(text: str, zone: ZoneInfo = LISBON, fold: int = 0) -> int:
    """A time on the property's wall; `fold` 1: the second time that it is shown."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp() * 1000)


def dues(cron: str, zone: ZoneInfo, after_ms: int, count: int) -> list[int]:
    """The next due times."""
    return list(islice(due_times(cron, zone, after_ms, 1 << 62), count))


@given(st.sampled_from(LINES), places())
@settings(max_examples=400, deadline=None)
def test_due_times_strictly_increase(cron: str, place: tuple[ZoneInfo, int]) -> None:
    """The first one lies after the moment that was asked for, and none comes twice."""
    zone, after = place

    assert all(before < later for before, later in pairwise([after, *dues(cron, zone, after, 40)]))


@given(st.sampled_from(LINES), places(), st.integers(0, 4 * DAY_MS), st.integers(0, 4 * DAY_MS))
@settings(max_examples=400, deadline=None)
def test_no_due_time_is_skipped(cron: str, place: tuple[ZoneInfo, int], first: int, second: int) -> None:
    """Whoever stops at any moment and asks again goes on where he was: what is due does not hang on when one looks."""
    zone, after = place
    between, until = after + first, after + first + second
    whole = list(due_times(cron, zone, after, until))

    assert whole == [*due_times(cron, zone, after, between), *due_times(cron, zone, between, until)]
    assert next_due(cron, zone, until) > until


@given(places(), st.integers(0, 23))
@settings(max_examples=400, deadline=None)
def test_every_moment_belongs_to_one_business_day(place: tuple[ZoneInfo, int], rollover: int) -> None:
    """It lies from where its day begins to where the next one does, and days follow each other without a hole."""
    zone, moment = place
    day = business_day(moment, zone, rollover)

    assert opens_ms(day, zone, rollover) <= moment < closes_ms(day, zone, rollover)
    assert business_day(closes_ms(day, zone, rollover), zone, rollover) == day + timedelta(days=1)
    assert business_day(opens_ms(day, zone, rollover) - 1, zone, rollover) == day - timedelta(days=1)
    assert abs((local_date(moment, zone) - day).days) <= 1


@given(places(), st.integers(0, 23))
@settings(max_examples=200, deadline=None)
def test_at_its_rollover_every_business_day_is_over_once(place: tuple[ZoneInfo, int], rollover: int) -> None:
    """A job at the hour at which the day turns is about each day in turn, when that is over, wherever clocks move."""
    zone, after = place
    found = dues(f"0 {rollover} * * *", zone, after, 220)
    days = [period_due("daily_report", due, zone, rollover).end for due in found]

    assert all(later - before == timedelta(days=1) for before, later in pairwise(days))
    assert all(closes_ms(day, zone, rollover) <= due for day, due in zip(days, found, strict=True))


def test_an_hour_that_does_not_exist() -> None:
    """In Lisbon clocks go from 01:00 to 02:00 on 29 March 2026: a job at 01:30 runs at 02:00, once."""
    found = dues("30 1 * * *", LISBON, ms("2026-03-27T12:00"), 4)

    assert found == [ms("2026-03-28T01:30"), ms("2026-03-29T02:00"), ms("2026-03-30T01:30"), ms("2026-03-31T01:30")]


def test_an_hour_that_comes_twice() -> None:
    """From 02:00 to 01:00 on 25 October 2026: a job at 01:30 runs the first time, one by the minute both times."""
    found = dues("30 1 * * *", LISBON, ms("2026-10-24T12:00"), 2)

    assert found == [ms("2026-10-25T01:30"), ms("2026-10-26T01:30")]
    assert next_due("30 1 * * *", LISBON, ms("2026-10-25T01:10", fold=1)) == ms("2026-10-26T01:30")
    assert dues("*/30 * * * *", LISBON, ms("2026-10-25T00:30"), 5) == [
        ms("2026-10-25T01:00"),
        ms("2026-10-25T01:30"),
        ms("2026-10-25T01:00", fold=1),
        ms("2026-10-25T01:30", fold=1),
        ms("2026-10-25T02:00"),
    ]


def test_a_due_time_is_found_to_the_millisecond() -> None:
    """One is due after a millisecond before it, not after itself; `until` belongs to the range."""
    due = ms("2026-07-14T23:00", TOKYO)

    assert next_due("0 23 * * *", TOKYO, due - 1) == due
    assert next_due("0 23 * * *", TOKYO, due) == next_due("0 23 * * *", TOKYO, due + 1) == due + DAY_MS
    assert list(due_times("0 23 * * *", TOKYO, due - 1, due)) == [due]
    assert list(due_times("0 23 * * *", TOKYO, due - 1, due - 1)) == []


def test_the_same_line_is_due_in_each_property_s_own_time() -> None:
    """23:00 in Tokyo is not 23:00 in Lisbon."""
    noon = ms("2026-07-14T12:00", TOKYO)

    assert next_due("0 23 * * *", TOKYO, noon) == ms("2026-07-14T23:00", TOKYO)
    assert next_due("0 23 * * *", LISBON, noon) == ms("2026-07-14T23:00", LISBON)


@pytest.mark.parametrize(
    ("report", "at", "start", "end"),
    [
        ("daily_report", "2026-07-14T23:00", "2026-07-14", "2026-07-14"),
        ("daily_report", "2026-07-15T04:59", "2026-07-14", "2026-07-14"),
        ("daily_report", "2026-07-15T05:00", "2026-07-14", "2026-07-14"),
        ("daily_report", "2026-07-15T05:01", "2026-07-15", "2026-07-15"),
        ("weekly_report", "2026-07-19T01:00", "2026-07-12", "2026-07-18"),
        ("weekly_report", "2026-07-15T08:00", "2026-07-08", "2026-07-14"),
        ("monthly_report", "2026-03-01T02:00", "2026-02-01", "2026-02-28"),
        ("monthly_report", "2028-03-01T02:00", "2028-02-01", "2028-02-29"),
        ("monthly_report", "2026-01-17T12:00", "2025-12-01", "2025-12-31"),
    ],
)
def test_what_a_report_that_is_due_is_about(report: Report, at: str, start: str, end: str) -> None:
    """The day that is ending or has just ended, the seven days up to yesterday, the month before."""
    assert period_due(report, ms(at, TOKYO), TOKYO, 5) == Period(date.fromisoformat(start), date.fromisoformat(end))


@given(st.dates(date(1971, 1, 1), date(2100, 1, 1)), st.sampled_from(("daily_report", "weekly_report")))
def test_a_day_lies_in_its_period(day: date, report: Report) -> None:
    """As does the month's; weeks run from Sunday to Saturday; the period before ends where this one begins."""
    period = period_of(report, day)

    assert period.start <= day <= period.end
    assert period_of(report, period.start) == period_of(report, period.end) == period
    assert period.days == (1 if report == "daily_report" else 7)
    assert report == "daily_report" or period.start.isoweekday() == 7
    assert period.before == period_of(report, period.start - timedelta(days=1))
    month = period_of("monthly_report", day)
    assert month == month_of(day)
    assert (month.start.day, (month.end + timedelta(days=1)).day) == (1, 1)
    assert month.start <= day <= month.end
    assert day_of(number_of(day)) == day


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("0 23 * *", "is not a cron line"),
        ("0 0 23 * * *", "is not a cron line"),
        ("60 23 * * *", "not a cron line that ever fires"),
        ("0 25 * * *", "not a cron line that ever fires"),
        ("0 0 31 2 *", "not a cron line that ever fires"),
        ("0 0 30 2 *", "not a cron line that ever fires"),
        ("0 0 29 2 1#6", "not a cron line that ever fires"),
        ("", "is not a cron line"),
    ],
)
def test_a_line_that_never_fires_is_refused(line: str, said: str) -> None:
    """And it is said what to write."""
    with pytest.raises(ValueError, match=said) as refused:
        check_cron(line)
    assert "like 0 23 * * *" in str(refused.value) or "name a day that exists" in str(refused.value)


@pytest.mark.parametrize("line", LINES)
def test_a_line_that_fires_is_taken(line: str) -> None:
    """However seldom."""
    check_cron(line)
