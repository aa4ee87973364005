"""When things are due in a property's own time, and which business days a report is about (R92).

A business day is named by its date and turns at the property's rollover hour: what happens at 02:00 belongs to the day
before. Clocks that are put forward or back are cronsim's matter, which does as Debian's cron: a job at an hour that
does not exist runs right after, one at an hour that comes twice runs once.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Final, Literal, NamedTuple

from cronsim import CronSim, CronSimError

Report = Literal["daily_report", "weekly_report", "monthly_report"]
EPOCH: Final = date(1970, 1, 1)
_FIELDS: Final = 5
_FIX: Final = "write five fields, minute hour day-of-month month day-of-week, like 0 23 * * *"


class Period(NamedTuple):
    """Business days from the first to the last, both included."""

    start: date
    end: date

    @property
    def days(self) -> int:
        """How many."""
        return (self.end - self.start).days + 1

    @property
    def before(self) -> Period:
        """As many days right before."""
        return Period(self.start - timedelta(days=self.days), self.start - timedelta(days=1))


def check_cron(line: str) -> None:
    """Refuse a line that is no cron line, or that never fires.

    Raises:
        ValueError: saying what to write.
    """
    if len(line.split()) != _FIELDS:
        raise ValueError(f"{line!r} is not a cron line; {_FIX}")
    try:
        next(CronSim(line, datetime(2026, 1, 1, tzinfo=UTC)))
    except CronSimError as error:
        raise ValueError(f"{line!r} is not a cron line that ever fires: {error}; {_FIX}") from None
    except StopIteration:
        raise ValueError(f"{line!r} never fires; name a day that exists") from None


def due_times(cron: str, zone: tzinfo, after_ms: int, until_ms: int) -> Iterator[int]:
    """When a job is due, Unix ms, later than `after_ms` and not past `until_ms`, in order."""
    # One step earlier, or a firing at this very second would be passed over when it lies ms after its beginning.
    began = datetime.fromtimestamp(after_ms // 1000, zone)
    for moment in CronSim(cron, began):
        due = int(moment.timestamp() * 1000)
        if due > until_ms:
            return
        if due > after_ms:
            yield due


def next_due(cron: str, zone: tzinfo, after_ms: int) -> int:
    """The first time after `after_ms`, Unix ms."""
    return next(due_times(cron, zone, after_ms, 1 << 62))


def local_date(ms: int, zone: tzinfo) -> date:
    """The date on the property's wall."""
    return datetime.fromtimestamp(ms / 1000, zone).date()


def business_day(ms: int, zone: tzinfo, rollover_hour: int) -> date:
    """The business day that a moment, Unix ms, belongs to."""
    # By the day's beginning, not by the hour shown: on a day when clocks change, both can be read.
    day = local_date(ms, zone)
    return day if ms >= opens_ms(day, zone, rollover_hour) else day - timedelta(days=1)


@lru_cache(maxsize=4096)
def opens_ms(day: date, zone: tzinfo, rollover_hour: int) -> int:
    """When a business day begins, Unix ms; where clocks pass over that hour, right after, as its jobs run."""
    moment = datetime.combine(day, time(rollover_hour), zone)
    while moment.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment.replace(tzinfo=None):
        moment += timedelta(minutes=1)
    return int(moment.timestamp() * 1000)


def closes_ms(day: date, zone: tzinfo, rollover_hour: int) -> int:
    """When a business day is over, Unix ms: the next one begins."""
    return opens_ms(day + timedelta(days=1), zone, rollover_hour)


def period_due(report: Report, due_ms: int, zone: tzinfo, rollover_hour: int) -> Period:
    """What a report that is due now is about: the business day that is ending or has just ended; the seven days up to
    yesterday; the month before this one."""
    if report == "daily_report":
        day = business_day(due_ms - 1, zone, rollover_hour)
        return Period(day, day)
    today = local_date(due_ms, zone)
    if report == "weekly_report":
        return Period(today - timedelta(days=7), today - timedelta(days=1))
    return month_of(today.replace(day=1) - timedelta(days=1))


def period_of(report: Report, day: date) -> Period:
    """The period of a report that a day lies in: the day; the week from Sunday to Saturday; the month."""
    if report == "daily_report":
        return Period(day, day)
    if report == "weekly_report":
        start = day - timedelta(days=(day.weekday() + 1) % 7)
        return Period(start, start + timedelta(days=6))
    return month_of(day)


def month_of(day: date) -> Period:
    """The month of a day."""
    start = day.replace(day=1)
    return Period(start, (start + timedelta(days=31)).replace(day=1) - timedelta(days=1))


def number_of(day: date) -> int:
    """A day as the store counts it: days since 1970-01-01."""
    return (day - EPOCH).days


def day_of(number: int) -> date:
    """The day of such a number."""
    return EPOCH + timedelta(days=number)
