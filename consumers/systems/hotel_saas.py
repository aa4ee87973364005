"""hotel-saas, room service: knows which rooms are occupied, and takes orders for those alone.

A check-in opens a room, a check-out closes it, and a guest who is moved takes the service along.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from consumers.inbox import Transaction
from consumers.systems.program import Projection
from consumers.systems.program import main as run
from schemas.envelope import Event
from schemas.reservation import ReservationEvent
from schemas.stay import CheckInOutEvent
from schemas.types import HOTEL_SAAS

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS open_rooms (
        tenant_id TEXT NOT NULL, room_number TEXT NOT NULL, reservation_id TEXT NOT NULL, since TEXT NOT NULL,
        PRIMARY KEY (tenant_id, room_number))""",
)


def open_rooms_after(event: Event[Any], open_rooms: Mapping[str, str]) -> Mapping[str, str]:
    """The rooms open for service (room → reservation) once the event has happened.

    A late check-out never closes the room on the next guest: only the reservation that holds a room closes it.
    """
    if isinstance(event, CheckInOutEvent) and event.action == "checked_in":
        return _without(event.data.reservation_id, open_rooms) | {event.data.room_number: event.data.reservation_id}
    if isinstance(event, CheckInOutEvent):
        return _without(event.data.reservation_id, open_rooms)
    if isinstance(event, ReservationEvent) and event.data.room_number is not None:
        reservation_id = event.data.reservation_id
        if event.data.status == "checked_in" and reservation_id in open_rooms.values():
            return _without(reservation_id, open_rooms) | {event.data.room_number: reservation_id}
    return open_rooms


def _without(reservation_id: str, open_rooms: Mapping[str, str]) -> dict[str, str]:
    return {room: holder for room, holder in open_rooms.items() if holder != reservation_id}


async def apply(event: Event[Any], tx: Transaction) -> str:
    """Apply an event to the tables; what to print."""
    rows = await tx.fetch("SELECT room_number, reservation_id FROM open_rooms WHERE tenant_id = $1", (event.tenant_id,))
    before = dict(rows)
    after = open_rooms_after(event, before)
    closed = [room for room in before if after.get(room) != before[room]]
    opened = [room for room in after if before.get(room) != after[room]]
    for room in closed:
        await tx.execute("DELETE FROM open_rooms WHERE tenant_id = $1 AND room_number = $2", (event.tenant_id, room))
    for room in opened:
        await tx.execute(
            "INSERT INTO open_rooms VALUES ($1, $2, $3, $4)",
            (event.tenant_id, room, after[room], event.occurred_at.isoformat()),
        )
    said = [f"room service closed for {room}" for room in closed] + [f"room service open for {room}" for room in opened]
    return f"{', '.join(said) or 'nothing to do'}; occupied: {len(after)}"


PROJECTION: Final = Projection(HOTEL_SAAS, ("checkin_checkout.*", "reservation.*"), TABLES, apply)

if __name__ == "__main__":
    sys.exit(run(PROJECTION))
