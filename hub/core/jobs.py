"""Report jobs: which there are for a property, what a firing of one is about, and under which id it is known (R92).

The reports of R92 come while their last business day may still be open; each is followed, when that day is over, by one
that holds: `daily` by `daily-final`, and so on. Where the first one comes after the day is over there is no second.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from hub.core import calendar
from hub.core.calendar import Period, Report
from schemas.report import Stage

REPORTS: Final[tuple[Report, ...]] = ("daily_report", "weekly_report", "monthly_report")
MANUAL: Final = "manual"
"""The job of runs that somebody asked for."""
REVISED: Final[dict[Report, str]] = {
    "daily_report": "revised-daily",
    "weekly_report": "revised-weekly",
    "monthly_report": "revised-monthly",
}
"""The jobs of runs that events which came late made necessary."""
MARKLESS: Final = frozenset({MANUAL, *REVISED.values()})
"""Jobs that no time of day makes due."""
_RUNS: Final = UUID("5e3f0c1e-6d0b-5d0e-9f5a-2c7a1f0b8d11")
_FIRSTS: Final[tuple[tuple[str, str, Report, int, str], ...]] = (
    ("daily", "0 23 * * *", "daily_report", 23, "* * *"),
    ("weekly", "0 1 * * 0", "weekly_report", 1, "* * 0"),
    ("monthly", "0 2 1 * *", "monthly_report", 2, "1 * *"),
)
"""Name, cron line, report, the line's hour, and the days of the one that follows."""


class Job(NamedTuple):
    """A report that is due again and again, in the property's own time."""

    name: str
    cron: str
    report: Report


class Firing(NamedTuple):
    """A job that is due once, for one property. `due_ms` is in Unix ms."""

    tenant_id: str
    job: str
    due_ms: int
    report: Report
    period: Period
    stage: Stage

    @property
    def run_id(self) -> str:
        """The same for the same tenant, job and due time, whoever asks."""
        return str(uuid5(_RUNS, f"{self.tenant_id}/{self.job}/{self.due_ms}"))


def built_in(rollover_hour: int) -> tuple[Job, ...]:
    """The jobs of every property whose business day turns at this hour; what is due together comes in this order."""
    found = []
    for name, cron, report, hour, days in _FIRSTS:
        found.append(Job(name, cron, report))
        # A day that turns at 23 is over when its report is due, a week that turns at 1 too.
        over = rollover_hour == hour if report == "daily_report" else rollover_hour <= hour
        if not over:
            found.append(Job(f"{name}-final", f"0 {rollover_hour} {days}", report))
    return tuple(found)


BUILT_IN: Final = frozenset(job.name for rollover in (5, 23) for job in built_in(rollover))
NAMES: Final = BUILT_IN | MARKLESS
"""Names that no operators' job may have."""


def firing(tenant_id: str, job: Job, due_ms: int, zone: ZoneInfo, rollover_hour: int) -> Firing:
    """What a job that is due is about.

    One that another follows when its period is over is never final: where clocks are put forward over its hour, both
    are due at one moment.
    """
    period = calendar.period_due(job.report, due_ms, zone, rollover_hour)
    followed = any(one.name == f"{job.name}-final" for one in built_in(rollover_hour))
    stage: Stage = "provisional" if followed else stage_at(period, due_ms, zone, rollover_hour)
    return Firing(tenant_id, job.name, due_ms, job.report, period, stage)


def stage_at(period: Period, at_ms: int, zone: ZoneInfo, rollover_hour: int) -> Stage:
    """Whether a period is over at a moment: its report is final then."""
    return "final" if calendar.closes_ms(period.end, zone, rollover_hour) <= at_ms else "provisional"


def last_over(report: Report, now_ms: int, zone: ZoneInfo, rollover_hour: int) -> Period:
    """The last period of a report that is over."""
    today = calendar.business_day(now_ms, zone, rollover_hour)
    return calendar.period_of(report, calendar.period_of(report, today).before.end)


def touched(periods: Iterable[tuple[Report, Period]], days: Iterable[int]) -> list[tuple[Report, Period]]:
    """Those of some reports' periods that one of these days lies in, each once: the shortest first, then the oldest."""
    numbers = sorted(days)
    found = {
        (report, period)
        for report, period in periods
        if any(calendar.number_of(period.start) <= day <= calendar.number_of(period.end) for day in numbers)
    }
    return sorted(found, key=lambda one: (REPORTS.index(one[0]), one[1]))
