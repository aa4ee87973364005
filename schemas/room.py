"""`room` (R18, R19): status, maintenance and price of one room."""

from __future__ import annotations

from typing import Literal

from schemas.envelope import Event, EventType
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, Currency, Day, EntityId, Label, Note, Price, Tracked

Status = Literal["vacant_clean", "vacant_dirty", "occupied", "cleaning", "inspected", "out_of_order", "out_of_service"]
Housekeeping = Literal["clean", "dirty", "cleaning", "inspected"]
Action = Literal["status_changed", "maintenance_updated", "price_updated"]


class RoomData(Tracked):
    """A room's state; `housekeeping` tells an occupied room that is dirty from one that is clean."""

    room_id: EntityId
    room_number: Label
    room_type: Label
    status: Status
    housekeeping: Housekeeping | None = None
    availability_date: Day
    base_price: Price | None = None
    currency: Currency | None = None
    maintenance_notes: Note | None = None


class RoomEvent(Event[RoomData]):
    """`room.*`"""

    type: Literal["room"]
    action: Action


TYPE = EventType(
    name="room",
    event=RoomEvent,
    actions=("status_changed", "maintenance_updated", "price_updated"),
    versions={1: RoomData},
    entity_fields=("room_id",),
    authority=HOTEL_PMS,
    targets=(HOTEL_MEMBER, HOTEL_PMS),
)
