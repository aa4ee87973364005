"""Which report jobs there are, and what a firing is about."""

from __future__ import annotations

from collections import Counter
from datetime import date
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_calendar import TOKYO, ms, places

from hub.core.calendar import Period, Report, due_times, number_of, period_of
from hub.core.jobs import BUILT_IN, NAMES, Firing, Job, built_in, firing, last_over, stage_at, touched

DAY_MS = 86_400_000


def due(after_ms: int, days: int, zone: ZoneInfo = TOKYO, rollover: int = 5) -> list[Firing]:
    """What is due in some days, in order."""
    found = [
        firing("t", job, at, zone, rollover)
        for job in built_in(rollover)
        for at in due_times(job.cron, zone, after_ms, after_ms + days * DAY_MS)
    ]
    return sorted(found, key=lambda one: one.due_ms)


def test_a_week_of_a_property() -> None:
    """Daily at 23:00 and when the day is over, weekly on Sunday 01:00 and when its last day is over, monthly too."""
    found = due(ms("2026-02-26T12:00", TOKYO), 4)

    assert [(one.job, one.stage, one.period.start.isoformat()) for one in found] == [
        ("daily", "provisional", "2026-02-26"),
        ("daily-final", "final", "2026-02-26"),
        ("daily", "provisional", "2026-02-27"),
        ("daily-final", "final", "2026-02-27"),
        ("daily", "provisional", "2026-02-28"),
        ("weekly", "provisional", "2026-02-22"),
        ("monthly", "provisional", "2026-02-01"),
        ("daily-final", "final", "2026-02-28"),
        ("weekly-final", "final", "2026-02-22"),
        ("monthly-final", "final", "2026-02-01"),
        ("daily", "provisional", "2026-03-01"),
        ("daily-final", "final", "2026-03-01"),
    ]


@given(places(), st.integers(0, 23))
@example((ZoneInfo("Europe/Lisbon"), ms("2024-01-01T00:00", ZoneInfo("UTC"))), 2)
@settings(max_examples=60, deadline=None)
def test_every_period_gets_one_final_report(place: tuple[ZoneInfo, int], rollover: int) -> None:
    """Wherever the property is and whenever its day turns: one that holds, and at most one before it that does not."""
    zone, after = place
    found = due(after, 100, zone, rollover)
    final = Counter((one.report, one.period) for one in found if one.stage == "final")
    first = Counter((one.report, one.period) for one in found if one.stage == "provisional")

    assert set(final.values()) == {1}
    assert set(first.values()) <= {1}
    # The last ones of the hundred days may be still to come.
    assert len(set(first) - set(final)) <= 3
    daily = sorted(period.start for report, period in final if report == "daily_report")
    assert [number_of(day) for day in daily] == list(range(number_of(daily[0]), number_of(daily[0]) + len(daily)))


@pytest.mark.parametrize(
    ("rollover", "without"),
    [
        (23, {"daily-final"}),
        (0, {"weekly-final", "monthly-final"}),
        (1, {"weekly-final", "monthly-final"}),
        (2, {"monthly-final"}),
        (5, set()),
    ],
)
def test_no_second_report_where_the_first_is_final(rollover: int, without: set[str]) -> None:
    """Its period is over when it is due."""
    assert BUILT_IN - {job.name for job in built_in(rollover)} == without


def test_names_that_are_taken() -> None:
    """The built-in jobs', and those of runs that no time of day makes due."""
    assert set(NAMES) == {
        *("daily", "daily-final", "weekly", "weekly-final", "monthly", "monthly-final"),
        *("manual", "revised-daily", "revised-weekly", "revised-monthly"),
    }


def test_a_run_s_id_is_made_of_tenant_job_and_due_time() -> None:
    """The same for whoever asks, and another for anything else."""
    job = Job("daily", "0 23 * * *", "daily_report")
    one = firing("t", job, 1_784_077_200_000, TOKYO, 5)

    assert one.run_id == "fa7ee14d-6a59-50a7-bc5c-14373ab15488"
    assert one.run_id == firing("t", job, 1_784_077_200_000, TOKYO, 3).run_id
    others = [one._replace(tenant_id="u"), one._replace(job="noon"), one._replace(due_ms=one.due_ms + 1)]
    assert len({one.run_id, *(other.run_id for other in others)}) == 4


def test_a_period_is_over_with_its_last_business_day() -> None:
    """Not at midnight."""
    period = period_of("weekly_report", date(2026, 7, 14))

    assert stage_at(period, ms("2026-07-19T04:59", TOKYO), TOKYO, 5) == "provisional"
    assert stage_at(period, ms("2026-07-19T05:00", TOKYO), TOKYO, 5) == "final"


@given(places(), st.integers(0, 23))
@settings(max_examples=100, deadline=None)
def test_the_last_period_that_is_over(place: tuple[ZoneInfo, int], rollover: int) -> None:
    """It is over, and the next one is not."""
    zone, now = place
    for report in ("daily_report", "weekly_report", "monthly_report"):
        period = last_over(report, now, zone, rollover)
        following = period_of(report, date.fromordinal(period.end.toordinal() + 1))

        assert period == period_of(report, period.start)
        assert stage_at(period, now, zone, rollover) == "final"
        assert stage_at(following, now, zone, rollover) == "provisional"


def test_the_periods_that_days_touch() -> None:
    """Each once, days before weeks before months, the oldest first; what has none of the days is left out."""
    days = [date(2026, 7, 14), date(2026, 7, 13)]
    reports: tuple[Report, ...] = ("monthly_report", "daily_report")
    periods = [(report, period_of(report, day)) for report in reports for day in days]
    other = Period(date(2026, 7, 1), date(2026, 7, 7))

    found = touched([*periods, *periods, ("weekly_report", other)], {number_of(day) for day in days})

    assert found == [
        ("daily_report", Period(days[1], days[1])),
        ("daily_report", Period(days[0], days[0])),
        ("monthly_report", Period(date(2026, 7, 1), date(2026, 7, 31))),
    ]
