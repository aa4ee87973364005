"""When properties' data are compared (R80) and their weeks looked over (R81), and what of it is to be told.

Both are due when the business day is over by ten minutes, the week's on Sunday and not before its report. What a hub
missed is not made up for day by day: a comparison is of what there is now, and looks as far back as nobody looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from typing import Any, Final, Literal

from hub.core.anomalies import Anomaly
from hub.core.calendar import Period, business_day, closes_ms, next_due, period_of
from hub.core.delivery import instant
from hub.core.device_states import Device, presence

Kind = Literal["daily", "weekly"]
KINDS: Final[tuple[Kind, ...]] = ("daily", "weekly")

GRACE_MS: Final = 10 * 60_000
"""What was recorded in the day's last minutes is archived and projected by then."""
WEEKLY_CRON: Final = "0 1 * * 0"
WEEKLY_HOUR: Final = 1
"""When the week's report is due, in the property's own time."""
SILENT_MS: Final = 26 * 3_600_000
"""A desk compares once a day; past that and two hours it has missed one."""
MAX_BEHIND: Final = 10_000
"""Events that may wait to be projected while a comparison runs."""
MAX_TOLD: Final = 20
"""Examples, anomalies and devices that are named one by one."""


def daily_due(now_ms: int, zone: tzinfo, rollover_hour: int, made_ms: int | None) -> date | None:
    """The business day whose comparison is due; None when the last one, `made_ms`, was made after it was over."""
    day = business_day(now_ms - GRACE_MS, zone, rollover_hour) - timedelta(days=1)
    over = closes_ms(day, zone, rollover_hour)
    return None if made_ms is not None and made_ms >= over else day


def weekly_due(now_ms: int, zone: tzinfo, rollover_hour: int, made_ms: int | None) -> Period | None:
    """The week, Sunday to Saturday, that is to be looked over; None when that was done since it was over."""
    week = period_of("weekly_report", business_day(now_ms, zone, rollover_hour)).before
    if _week_due(week, zone, rollover_hour) + GRACE_MS > now_ms:
        week = week.before
    due = _week_due(week, zone, rollover_hour)
    return None if made_ms is not None and made_ms >= due else week


def _week_due(week: Period, zone: tzinfo, rollover_hour: int) -> int:
    over = closes_ms(week.end, zone, rollover_hour)
    # Where the day turns early, the report comes later than that.
    return over if rollover_hour > WEEKLY_HOUR else next_due(WEEKLY_CRON, zone, over - 1)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. `what` names the kind, `about` is a device's id, `since_ms` tells one time from another:
    what was told of it once is not told again."""

    what: Literal["chain", "states", "projection", "device_unequal", "device_silent", "failed"]
    words: str
    about: str = ""
    since_ms: int = 0

    @property
    def wrong(self) -> bool:
        """Whether data differ, or nobody knows; a device that does not compare is only looked after."""
        return self.what != "device_silent"

    def body(self) -> dict[str, Any]:
        """As a run keeps it."""
        return {"what": self.what, "words": self.words} | ({"device_id": self.about} if self.about else {})


@dataclass(frozen=True, slots=True)
class Examined:
    """What a comparison looked at and found."""

    chain_events: int
    broken: str | None
    states: int
    differing: int
    examples: Sequence[str]
    behind: int


def data_findings(seen: Examined) -> list[Finding]:
    """What is wrong with the hub's own data."""
    found = []
    if seen.broken is not None:
        found.append(Finding("chain", f"the history was changed: {seen.broken}"))
    if seen.differing:
        named = "; ".join(seen.examples[:3]) + (" …" if seen.differing > 3 else "")
        found.append(Finding("states", f"{seen.differing} states are not what their events say: {named}"))
    if seen.behind > MAX_BEHIND:
        found.append(Finding("projection", f"{seen.behind} archived events are in no state yet"))
    return found


def device_findings(devices: Iterable[Device], now_ms: int) -> list[Finding]:
    """The devices whose last comparison was unequal, and those that are there and have not compared for a day."""
    found = []
    for one in devices:
        since = one.first_seen_ms if one.compared_ms is None else one.compared_ms
        if one.compared_equal is False:
            words = f"device {one.device_id} held other data than the hub when it compared last, at {instant(since)}"
            found.append(Finding("device_unequal", words, one.device_id, since))
        elif presence(one, now_ms) in ("online", "late") and now_ms - since > SILENT_MS:
            words = f"device {one.device_id} has not compared its data since {instant(since)}"
            found.append(Finding("device_silent", words, one.device_id, since))
    return found


def weekly_words(found: Sequence[Anomaly]) -> str:
    """What a notice says of a week's anomalies."""
    named = "; ".join(one.words for one in found[:5])
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return f"out of the ordinary last week: {named}{more}"
