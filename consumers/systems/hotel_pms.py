"""hotel-pms, the front desk: rooms, reservations, who is in house, and the desk's count of the day.

The count is not idempotent (a second check-in would count a second guest): it relies on the inbox, which applies each
`event_id` once.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, Literal

from consumers.inbox import Transaction
from consumers.systems.program import Projection
from consumers.systems.program import main as run
from schemas.envelope import Event
from schemas.reservation import ReservationEvent
from schemas.room import RoomEvent
from schemas.stay import CheckInOutEvent
from schemas.types import HOTEL_PMS

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS rooms (
        tenant_id TEXT NOT NULL, room_id TEXT NOT NULL, room_number TEXT NOT NULL, room_type TEXT NOT NULL,
        status TEXT NOT NULL, housekeeping TEXT, base_price TEXT, maintenance_notes TEXT, revision INTEGER NOT NULL,
        PRIMARY KEY (tenant_id, room_id))""",
    """CREATE TABLE IF NOT EXISTS reservations (
        tenant_id TEXT NOT NULL, reservation_id TEXT NOT NULL, customer_id TEXT, room_type TEXT NOT NULL,
        room_number TEXT, checkin_date TEXT NOT NULL, checkout_date TEXT NOT NULL, status TEXT NOT NULL,
        total_amount TEXT NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (tenant_id, reservation_id))""",
    """CREATE TABLE IF NOT EXISTS in_house (
        tenant_id TEXT NOT NULL, reservation_id TEXT NOT NULL, room_number TEXT NOT NULL, customer_id TEXT,
        since TEXT NOT NULL, PRIMARY KEY (tenant_id, reservation_id))""",
    """CREATE TABLE IF NOT EXISTS desk_days (
        tenant_id TEXT NOT NULL, day TEXT NOT NULL, arrivals INTEGER NOT NULL, departures INTEGER NOT NULL,
        no_shows INTEGER NOT NULL, PRIMARY KEY (tenant_id, day))""",
)

# Older revisions do not undo newer ones; a price or a note that an event leaves out stands.
_PUT_ROOM: Final = """
INSERT INTO rooms VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (tenant_id, room_id) DO UPDATE SET room_number = excluded.room_number, room_type = excluded.room_type,
    status = excluded.status, housekeeping = coalesce(excluded.housekeeping, housekeeping),
    base_price = coalesce(excluded.base_price, base_price),
    maintenance_notes = coalesce(excluded.maintenance_notes, maintenance_notes), revision = excluded.revision
WHERE excluded.revision > rooms.revision
"""
_PUT_RESERVATION: Final = """
INSERT INTO reservations VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (tenant_id, reservation_id) DO UPDATE SET customer_id = excluded.customer_id,
    room_type = excluded.room_type, room_number = excluded.room_number, checkin_date = excluded.checkin_date,
    checkout_date = excluded.checkout_date, status = excluded.status, total_amount = excluded.total_amount,
    revision = excluded.revision
WHERE excluded.revision > reservations.revision
"""
_COUNT: Final = """
INSERT INTO desk_days VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, day) DO UPDATE SET arrivals = arrivals + excluded.arrivals,
    departures = departures + excluded.departures, no_shows = no_shows + excluded.no_shows
"""


@dataclass(frozen=True, slots=True)
class DeskEntry:
    """What a check-in, check-out or no-show means at the desk: whom it moves, and the day it counts for."""

    day: date
    guest: Literal["enters", "leaves", "never came"]
    status: Literal["checked_in", "checked_out", "no_show"]


def desk_entry(event: CheckInOutEvent) -> DeskEntry:
    """Read the event. The day is the one on the clock of where it happened."""
    if event.action == "checked_in":
        return DeskEntry((event.data.actual_checkin_time or event.occurred_at).date(), "enters", "checked_in")
    if event.action == "checked_out":
        return DeskEntry((event.data.actual_checkout_time or event.occurred_at).date(), "leaves", "checked_out")
    return DeskEntry(event.occurred_at.date(), "never came", "no_show")


async def apply(event: Event[Any], tx: Transaction) -> str:
    """Apply an event to the tables; what to print."""
    if isinstance(event, RoomEvent):
        room = event.data
        price = None if room.base_price is None else str(room.base_price)
        taken = await tx.execute(
            _PUT_ROOM,
            (
                *(event.tenant_id, room.room_id, room.room_number, room.room_type, room.status, room.housekeeping),
                *(price, room.maintenance_notes, event.revision),
            ),
        )
        return f"room {room.room_number}: {room.status}" if taken else "an older revision"
    if isinstance(event, ReservationEvent):
        booking = event.data
        taken = await tx.execute(
            _PUT_RESERVATION,
            (
                *(event.tenant_id, booking.reservation_id, booking.customer_id, booking.room_type, booking.room_number),
                *(booking.checkin_date.isoformat(), booking.checkout_date.isoformat(), booking.status),
                *(str(booking.total_amount), event.revision),
            ),
        )
        return f"{booking.status}, room {booking.room_number or 'to be assigned'}" if taken else "an older revision"
    if isinstance(event, CheckInOutEvent):
        return await _desk(event, tx)
    return "nothing to do"


async def _desk(event: CheckInOutEvent, tx: Transaction) -> str:
    entry = desk_entry(event)
    stay = event.data
    which = (event.tenant_id, stay.reservation_id)
    if entry.guest == "enters":
        await tx.execute(
            "INSERT INTO in_house VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            (*which, stay.room_number, stay.customer_id, entry.day.isoformat()),
        )
    else:
        await tx.execute("DELETE FROM in_house WHERE tenant_id = $1 AND reservation_id = $2", which)
    counts = (int(entry.guest == "enters"), int(entry.guest == "leaves"), int(entry.guest == "never came"))
    await tx.execute(_COUNT, (event.tenant_id, entry.day.isoformat(), *counts))
    await tx.execute(
        "UPDATE reservations SET status = $3, revision = $4 "
        "WHERE tenant_id = $1 AND reservation_id = $2 AND revision < $4",
        (*which, entry.status, event.revision),
    )
    [[guests]] = await tx.fetch("SELECT count(*) FROM in_house WHERE tenant_id = $1", (event.tenant_id,))
    return f"{entry.status}, room {stay.room_number}; in house: {guests}"


PROJECTION: Final = Projection(HOTEL_PMS, ("room.*", "reservation.*", "checkin_checkout.*"), TABLES, apply)

if __name__ == "__main__":
    sys.exit(run(PROJECTION))
