"""Rows of bookings to test with, and a house that their events must be possible in."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from hub.core.booking_rows import COLUMNS, Property
from hub.core.bookings import BookingPlan, plan_bookings
from hub.core.simulated import SimulatedEvent
from schemas.envelope import Draft
from schemas.registry import require_known, validate_data

ZONE = ZoneInfo("Europe/Lisbon")
PROPERTIES = {"City Hotel": Property("city-hotel", ZONE), "Resort Hotel": Property("resort-hotel", ZONE)}
MONTHS = [date(2016, month, 1).strftime("%B") for month in range(1, 13)]


def row(
    arrival: date = date(2016, 7, 15),
    *,
    lead: int = 10,
    nights: int = 2,
    status: str = "Check-Out",
    ended: date | None = None,
    **changes: str,
) -> dict[str, str]:
    """A row of the file, of a guest who stayed as booked unless told otherwise."""
    if ended is None:
        ended = arrival + timedelta(days=nights) if status == "Check-Out" else arrival
    return dict.fromkeys(COLUMNS, "0") | {
        "hotel": "City Hotel",
        "is_canceled": "0" if status == "Check-Out" else "1",
        "lead_time": str(lead),
        "arrival_date_year": str(arrival.year),
        "arrival_date_month": MONTHS[arrival.month - 1],
        "arrival_date_day_of_month": str(arrival.day),
        "stays_in_week_nights": str(nights),
        "adults": "2",
        "market_segment": "Online TA",
        "distribution_channel": "TA/TO",
        "reserved_room_type": "A",
        "assigned_room_type": "A",
        "deposit_type": "No Deposit",
        "adr": "100",
        "reservation_status": status,
        "reservation_status_date": ended.isoformat(),
    } | changes  # fmt: skip


def plan(*rows: dict[str, str]) -> BookingPlan:
    """The plan of rows that stand below a header."""
    return plan_bookings(enumerate(rows, start=2), PROPERTIES)


def check_fits(event: SimulatedEvent) -> None:
    """Fail unless the event is a draft that the hub would take."""
    draft = Draft.model_validate(event.draft)
    kind = require_known(draft.type, draft.action)
    assert validate_data(kind, kind.newest, draft.data) == []
    assert event.draft["occurred_at"] == event.at.isoformat()
    assert draft.tenant_id == event.tenant
    assert event.system == kind.authority


ORDER = {
    ("reservation.created", "waitlisted"): 0,
    ("reservation.created", "confirmed"): 0,
    ("reservation.confirmed", "confirmed"): 1,
    ("reservation.updated", "waitlisted"): 2,
    ("reservation.updated", "confirmed"): 2,
    ("reservation.cancelled", "cancelled"): 3,
    ("checkin_checkout.checked_in", None): 3,
    ("reservation.checked_in", "checked_in"): 4,
    ("checkin_checkout.checked_out", None): 5,
    ("reservation.checked_out", "checked_out"): 6,
    ("checkin_checkout.no_show", None): 3,
    ("reservation.updated", "no_show"): 4,
}


class House:
    """Follows events and fails at the first that cannot happen in a hotel."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.stages: dict[tuple[str, str], tuple[int, datetime]] = {}
        self.guests: dict[tuple[str, str], str] = {}
        self.rooms: dict[tuple[str, str], str] = {}
        self.last: datetime | None = None

    def follow(self, event: SimulatedEvent) -> None:
        """The next event."""
        draft, data = event.draft, event.draft["data"]
        assert self.last is None or self.last <= event.at
        self.last = event.at
        assert draft["event_id"] not in self.ids
        self.ids.add(draft["event_id"])
        if draft["type"] == "room":
            self._room((event.tenant, data["room_number"]), data["status"])
            return
        key = (event.tenant, data["reservation_id"])
        stage = ORDER[event.name, data.get("status")]
        before = self.stages.get(key)
        if before is None:
            assert event.name == "reservation.created"
        else:
            assert before[0] < stage
            assert before[1] < event.at
        self.stages[key] = (stage, event.at)
        if draft["type"] == "checkin_checkout":
            self._desk((event.tenant, data["room_number"]), draft["action"], data["reservation_id"])

    def _desk(self, room: tuple[str, str], action: str, guest: str) -> None:
        if action == "checked_in":
            assert room not in self.guests, "two guests in a room"
            assert self.rooms.get(room, "vacant_clean") == "vacant_clean"
            self.guests[room] = guest
        elif action == "checked_out":
            assert self.guests.pop(room) == guest
        else:
            assert room not in self.guests, "the room of a no-show was given away"

    def _room(self, room: tuple[str, str], status: str) -> None:
        follows = {"occupied": "vacant_clean", "vacant_dirty": "occupied", "vacant_clean": "vacant_dirty"}
        assert self.rooms.get(room, "vacant_clean") == follows[status]
        self.rooms[room] = status

    def closed(self) -> None:
        """Fail if somebody is still in the house."""
        assert not self.guests
        assert set(self.rooms.values()) <= {"vacant_clean"}


def follow(events: Iterable[SimulatedEvent]) -> House:
    """Check every event and the whole."""
    house = House()
    for event in events:
        check_fits(event)
        house.follow(event)
    return house
