"""Who comes and goes on a day, and the day's figures."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from desk_rig import DeskRig, event, reservation

from consumers.offline.database import LocalDatabase
from consumers.offline.house import Figures, HouseDay, Kind, report, wanted
from consumers.offline.house_records import HouseRecords
from consumers.offline.items import Record
from consumers.offline.room_service import set_room

TOKYO = HouseDay(ZoneInfo("Asia/Tokyo"), 5)
DAY = date(2026, 7, 15)


def stay(arrived: str | None = None, left: str | None = None, extras: float = 0) -> dict[str, Any]:
    said = {"actual_checkin_time": arrived, "actual_checkout_time": left, "additional_charges": extras}
    return {name: value for name, value in said.items() if value is not None}


def test_the_business_day_turns_at_its_hour_on_the_propertys_clock() -> None:
    """A guest who comes at two in the night comes on the day before."""
    assert TOKYO.day_of(datetime(2026, 7, 15, 17, 30, tzinfo=UTC)) == DAY
    assert TOKYO.day_of(datetime(2026, 7, 15, 20, 30, tzinfo=UTC)) == date(2026, 7, 16)


@pytest.mark.parametrize(
    ("kind", "said", "listed"),
    [
        ("arrivals", {"status": "confirmed", "checkin_date": "2026-07-15"}, True),
        ("arrivals", {"status": "tentative", "checkin_date": "2026-07-14"}, True),
        ("arrivals", {"status": "confirmed", "checkin_date": "2026-07-16"}, False),
        ("arrivals", {"status": "checked_in", "checkin_date": "2026-07-15"}, False),
        ("in-house", {"status": "checked_in"}, True),
        ("in-house", {"status": "checked_out"}, False),
        ("departures", {"status": "checked_in", "checkout_date": "2026-07-15"}, True),
        ("departures", {"status": "checked_in", "checkout_date": "2026-07-16"}, False),
        ("departures", {"status": "checked_out", "checkout_date": "2026-07-15"}, False),
        ("all", {"status": "cancelled"}, True),
    ],
)
def test_a_reservation_is_in_the_lists_of_its_day(kind: Kind, said: dict[str, Any], listed: bool) -> None:
    """Those who are overdue are not forgotten."""
    assert wanted(reservation(**said), kind, DAY) is listed


def test_the_days_figures_leave_out_what_was_undone_or_is_of_another_day() -> None:
    """Arrivals, departures, and the bills of who left."""
    figures = Figures(DAY, TOKYO)
    today, before = "2026-07-15T15:00:00+09:00", "2026-07-14T15:00:00+09:00"
    figures.add_reservation(reservation("R1", status="checked_in"), stay(today))
    figures.add_reservation(reservation("R2", status="checked_out", total_amount=0.1), stay(before, today, 0.2))
    figures.add_reservation(reservation("R3", status="confirmed"), stay(today))
    figures.add_reservation(reservation("R4", status="checked_in"), stay(before, today))
    figures.add_reservation(reservation("R5", status="checked_out"), stay(before, before))
    figures.add_reservation(reservation("R6", status="no_show"), None)
    figures.add_room({"status": "occupied"})
    figures.add_room({"status": "vacant_dirty"})

    assert (figures.arrivals, figures.departures, figures.no_shows, figures.in_house) == (1, 1, 1, 2)
    assert (figures.rooms, figures.occupied, figures.revenue) == (2, 1, Decimal("0.3"))


def test_the_figures_of_a_day_that_is_over_are_as_of_its_end() -> None:
    """Who has come since then was not in house, and who has left since then was."""
    figures = Figures(DAY, TOKYO, over=True)
    before, that, since = (f"2026-07-{day}T15:00:00+09:00" for day in (14, 15, 16))
    for number, status, times in (
        ("301", "checked_in", stay(since)),
        ("302", "checked_in", stay(that)),
        ("303", "checked_out", stay(before, since)),
        ("304", "checked_out", stay(before, that)),
        ("305", "checked_in", stay()),
        ("306", "confirmed", None),
    ):
        figures.add_reservation(reservation(f"R{number}", status=status, room_number=number), times)
    for number in ("301", "302", "303", "304", "305", "306"):
        figures.add_room({"room_number": number, "status": "occupied" if number == "301" else "vacant_clean"})

    # Of the guest in 305 no time is known: the booking's day counts.
    assert (figures.in_house, figures.rooms, figures.occupied) == (3, 6, 3)
    assert (figures.arrivals, figures.departures) == (1, 1)


def test_a_report_is_submitted_once_and_corrected_after_that(rig: DeskRig, local: LocalDatabase) -> None:
    """What the person knows better goes before what the desk adds up."""
    figures = Figures(DAY, TOKYO, departures=2, rooms_revenue=Decimal(30000))
    first = report(figures, None, by="佐藤", currency="JPY", corrections={"cash_difference": -100, "notes": None})
    local.operate(first.changes, operator="佐藤", operation=first.operation, role="front_desk")
    held = local.record("daily_report", "daily_report:2026-07-15")
    assert held is not None
    assert (held.data["total_revenue"], held.data["departures"], held.data["cash_difference"]) == (30000, 2, -100)

    second = report(figures, held.data, by="佐藤", currency="JPY", corrections={"total_revenue": 29000})
    [change] = second.changes
    assert (change.operation, change.payload["total_revenue"]) == ("UPDATE", 29000)
    local.operate(second.changes, operator="佐藤", operation=second.operation, role="front_desk")


def test_a_room_of_another_id_is_changed_by_its_own() -> None:
    """Rooms came from other systems with ids of theirs."""
    room = {"room_id": "X9", "room_number": "301", "status": "vacant_clean"}
    [change] = set_room("301", room, {"status": "cleaning"}, today=DAY).changes
    assert change.entity_id == "X9"


class AtOnce:
    """A database's records, read without a thread."""

    def __init__(self, local: LocalDatabase) -> None:
        self.local = local

    async def record(self, type: str, entity: str) -> Record | None:
        """One record."""
        return self.local.record(type, entity)

    async def records(self, type: str, *, after: str = "", limit: int = 500) -> list[Record]:
        """A page."""
        return self.local.records(type, after=after, limit=limit)


async def test_who_checked_in_without_their_reservation_saying_so_is_in_house(local: LocalDatabase) -> None:
    """A room that a check-in alone gives away is not free; a reservation that speaks later knows better."""
    arrival = {"room_number": "301", "actual_checkin_time": "2026-07-15T15:00:00+09:00", "payment_status": "pending"}
    said: dict[str, Any] = {"type": "checkin_checkout", "entity": "reservation:R1", "model": "CheckIn"}
    local.apply_changes(
        [event(reservation(), 1), event({"reservation_id": "R1", **arrival}, 2, action="checked_in", **said)], "c2"
    )
    records = HouseRecords(AtOnce(local))
    assert await records.guests_in("301") == ["R1"]
    known = await records.known("R1")
    assert (known.status, known.booking["room_number"]) == ("checked_in", "301")
    figures = await records.figures(DAY, TOKYO, today=DAY)
    assert (figures.in_house, figures.arrivals) == (1, 1)
    local.apply_changes([event(reservation(status="confirmed"), 3)], "c3")
    assert (await records.guests_in("301"), (await records.known("R1")).status) == ([], "confirmed")


async def test_who_left_by_a_check_out_alone_is_not_in_house(local: LocalDatabase) -> None:
    """Though the reservation still says what it said."""
    times = {"actual_checkin_time": "2026-07-15T15:00:00+09:00", "actual_checkout_time": "2026-07-16T10:00:00+09:00"}
    gone = {"reservation_id": "R1", "room_number": "301", "payment_status": "completed", **times}
    said: dict[str, Any] = {"type": "checkin_checkout", "entity": "reservation:R1", "model": "CheckOut"}
    local.apply_changes([event(reservation(), 1), event(gone, 2, action="checked_out", **said)], "c2")
    records = HouseRecords(AtOnce(local))
    assert (await records.guests_in("301"), (await records.known("R1")).status) == ([], "confirmed")
