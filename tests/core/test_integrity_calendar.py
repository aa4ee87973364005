"""When comparisons and statistics are due in a property's own time, and what of them is worth telling."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest

from hub.core.calendar import Period
from hub.core.device_states import Device
from hub.core.integrity import GRACE_MS, SILENT_MS, Examined, daily_due, data_findings, device_findings, weekly_due

TOKYO, LISBON = ZoneInfo("Asia/Tokyo"), ZoneInfo("Europe/Lisbon")
DAY_MS = 86_400_000


def ms(text: str, zone: ZoneInfo = TOKYO) -> int:
    """A time on a property's wall, Unix ms."""
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp() * 1000)


def test_a_day_is_due_when_it_is_over_by_some_minutes() -> None:
    """Once, and in the property's own time; days that were missed are not made up for."""
    at = ms("2026-07-15T05:00") + GRACE_MS
    assert daily_due(at - 1, TOKYO, 5, None) == date(2026, 7, 13)
    assert daily_due(at, TOKYO, 5, None) == date(2026, 7, 14)
    assert daily_due(at, TOKYO, 5, ms("2026-07-15T05:00") - 1) == date(2026, 7, 14)
    assert daily_due(at, TOKYO, 5, ms("2026-07-15T05:00")) is None
    assert daily_due(at + DAY_MS, TOKYO, 5, at) == date(2026, 7, 15)
    assert daily_due(at + 9 * DAY_MS, TOKYO, 5, at) == date(2026, 7, 23)
    assert daily_due(ms("2026-07-15T00:10", LISBON), LISBON, 0, None) == date(2026, 7, 14)


@pytest.mark.parametrize(("rollover", "due"), [(5, "05:10"), (0, "01:10"), (1, "01:10"), (23, "23:10")])
def test_a_week_is_due_on_sunday_after_its_report(rollover: int, due: str) -> None:
    """When its Saturday is over, and not before one o'clock."""
    at = ms(f"2026-07-19T{due}")
    week, before = Period(date(2026, 7, 12), date(2026, 7, 18)), Period(date(2026, 7, 5), date(2026, 7, 11))
    assert weekly_due(at - 1, TOKYO, rollover, None) == before
    assert weekly_due(at, TOKYO, rollover, None) == week
    assert weekly_due(at + 6 * DAY_MS, TOKYO, rollover, None) == week
    assert weekly_due(at, TOKYO, rollover, at - DAY_MS) == week
    assert weekly_due(at + DAY_MS, TOKYO, rollover, at) is None


def test_devices_worth_telling_of() -> None:
    """Those that compared and were unequal, and those that are there and did not compare for a day."""
    now = 100 * DAY_MS
    seen = Device("t-1", "a", "hotel-pms", now - 9 * DAY_MS, now, now, now)
    devices = [
        replace(seen, device_id="equal", compared_ms=now - DAY_MS, compared_equal=True),
        replace(seen, device_id="unequal", compared_ms=now - 5, compared_equal=False),
        replace(seen, device_id="silent", compared_ms=now - SILENT_MS - 1, compared_equal=True),
        replace(seen, device_id="never"),
        replace(seen, device_id="new", first_seen_ms=now - 5),
        replace(seen, device_id="away", last_seen_ms=now - 3 * DAY_MS),
        replace(seen, device_id="away unequal", last_seen_ms=now - 3 * DAY_MS, compared_ms=7, compared_equal=False),
    ]
    found = device_findings(devices, now)
    assert [(one.about, one.what, one.wrong) for one in found] == [
        ("unequal", "device_unequal", True),
        ("silent", "device_silent", False),
        ("never", "device_silent", False),
        ("away unequal", "device_unequal", True),
    ]


def test_data_worth_telling_of() -> None:
    """A broken chain, states that differ, a projection that is far behind."""
    assert data_findings(Examined(9, None, 5, 0, (), 10)) == []
    found = data_findings(Examined(9, "event 1 was changed", 5, 4, ("a", "b", "c", "d"), 10_001))
    assert [one.what for one in found] == ["chain", "states", "projection"]
    assert "4 states" in found[1].words
    assert "a; b; c …" in found[1].words
