"""What happened in a real hotel in 60 days, as the deeds of the people at its desks.

The bookings are those of the resort hotel in the file of real bookings; the events that `plan_bookings` makes of them
are put together as a desk does them: an arrival is one operation with the stay, the reservation and the room.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from hub.core.bookings import plan_bookings
from hub.core.simulated import SimulatedEvent
from hub.services.booking_file import ZONE, portuguese_hotels, read_rows

REAL_FILE: Final = Path(
    os.environ.get("HOTEL_BOOKINGS")
    or Path(__file__).parents[2].joinpath("..", "shared", "data", "hotel_bookings.zip").resolve()
)
TENANT: Final = "resort-hotel"
LISBON: Final = ZoneInfo(ZONE)
FIRST_DAY: Final = date(2016, 8, 1)
ROOMS: Final = 226

_MONTHS: Final = {date(2016, month, 1).strftime("%B"): month for month in range(1, 13)}
_TOGETHER: Final = {
    "checkin_checkout.checked_in": "arrival",
    "checkin_checkout.checked_out": "departure",
    "checkin_checkout.no_show": "no_show",
}
_ALONE: Final = {
    "reservation.created": "created",
    "reservation.confirmed": "confirmed",
    "reservation.updated": "moved",
    "reservation.cancelled": "cancelled",
    "room.status_changed": "cleaned",
}


class Deed(NamedTuple):
    """Something that people did: its events' data by type."""

    at: datetime
    kind: str
    """arrival, departure, no_show, created, confirmed, moved, cancelled, cleaned"""
    entity_id: str
    """The reservation's, or of `cleaned` the room's."""
    data: Mapping[str, dict[str, Any]]


@dataclass(slots=True)
class Past:
    """What is known at the hub before the first day."""

    reservations: dict[str, dict[str, Any]] = field(default_factory=dict)
    stays: dict[str, dict[str, Any]] = field(default_factory=dict)
    rooms: dict[str, dict[str, Any]] = field(default_factory=dict)


@cache
def _rows() -> list[tuple[int, dict[str, str]]]:
    """The bookings that have a part in these days: made before their end, over after their beginning."""
    found = []
    begin, end = FIRST_DAY - timedelta(days=45), FIRST_DAY + timedelta(days=90)
    for line, row in read_rows(REAL_FILE):
        if row["hotel"] != "Resort Hotel":
            continue
        month = _MONTHS[row["arrival_date_month"]]
        arrival = date(int(row["arrival_date_year"]), month, int(row["arrival_date_day_of_month"]))
        if arrival >= begin and arrival - timedelta(days=int(row["lead_time"])) <= end:
            found.append((line, row))
    return found


@cache
def deeds(days: int, every: int, phase: int) -> tuple[Past, list[Deed]]:
    """The deeds of so many days, and what was before them, by each `every`th booking from the `phase`th on."""
    plan = plan_bookings(_rows()[phase::every], portuguese_hotels(resort=TENANT))
    last = FIRST_DAY + timedelta(days=days - 1)
    found = _deeds(plan.events(FIRST_DAY, last))
    living = {one.entity_id for one in found}
    past = Past()
    for event in plan.events(None, FIRST_DAY - timedelta(days=1)):
        data = event.draft["data"]
        if event.draft["type"] == "room":
            past.rooms[data["room_id"]] = data
        elif data["reservation_id"] in living:
            states = past.reservations if event.draft["type"] == "reservation" else past.stays
            states[data["reservation_id"]] = states.get(data["reservation_id"], {}) | data
    for deed in reversed(found):
        if (data := deed.data.get("room")) is not None and data["room_id"] not in past.rooms:
            past.rooms[data["room_id"]] = data | {"status": "vacant_clean", "availability_date": FIRST_DAY.isoformat()}
    for number in range(1, ROOMS + 1):
        name = f"{100 * (1 + (number - 1) // 50) + (number - 1) % 50 + 1}"
        empty = {"room_number": name, "room_type": "A", "status": "vacant_clean"}
        room = {"room_id": f"room-{name}", **empty, "availability_date": FIRST_DAY.isoformat()}
        if len(past.rooms) < ROOMS:
            past.rooms.setdefault(f"room-{name}", room)
    return past, found


def _deeds(events: Any) -> list[Deed]:
    found: list[Deed] = []
    open_stays: dict[str, Deed] = {}
    in_rooms: dict[tuple[str, datetime], Deed] = {}
    for event in events:
        data = event.draft["data"]
        kind = _TOGETHER.get(event.name)
        if kind is not None:
            deed = Deed(event.at, kind, data["reservation_id"], {"checkin_checkout": data})
            open_stays[deed.entity_id] = deed
            in_rooms[data["room_number"], event.at + timedelta(seconds=2)] = deed
            found.append(deed)
        elif (deed := _whole(event, open_stays, in_rooms)) is not None:
            deed.data[event.draft["type"]] = data  # type: ignore[index]  # its own still
        else:
            entity_id = data["room_id"] if event.draft["type"] == "room" else data["reservation_id"]
            found.append(Deed(event.at, _ALONE[event.name], entity_id, {event.draft["type"]: data}))
    return found


def _whole(event: SimulatedEvent, stays: Mapping[str, Deed], rooms: Mapping[tuple[str, datetime], Deed]) -> Deed | None:
    """The deed that an event is a part of."""
    data = event.draft["data"]
    if event.draft["type"] == "room":
        return rooms.get((data["room_number"], event.at))
    deed = stays.get(data["reservation_id"])
    return deed if deed is not None and event.at - deed.at == timedelta(seconds=1) else None
