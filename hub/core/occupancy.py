"""Which guests are in which room, folded from events: two stays that share a room without knowing of each other are a
person's to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from schemas.stay import IN_HOUSE, OVER, may_be_in_house


class Stay(NamedTuple):
    """A guest in a room: by which reservation, since which event of the tenant, whose it was."""

    reservation: str
    """The entity."""
    room: str
    sequence: int
    actor: str
    """Empty where only states tell of it, which do not say which event was the last."""


class Occupancy:
    """The open stays of one property."""

    def __init__(self) -> None:
        self._by_reservation: dict[str, Stay] = {}
        self._by_room: dict[str, dict[str, Stay]] = {}
        self._in_house: set[str] = set()
        """The reservations that say so themselves: one of them that says otherwise later undoes its check-in."""

    def __len__(self) -> int:
        return len(self._by_reservation)

    def of(self, room: str) -> list[Stay]:
        """The stays in a room, oldest first."""
        return sorted(self._by_room.get(room, {}).values(), key=lambda stay: stay.sequence)

    def begin(self, reservation: str, stay: Mapping[str, Any], booking: Mapping[str, Any], sequence: int) -> None:
        """A stay that may be open, as far as its states tell, at the beginning."""
        if isinstance(room := stay.get("room_number"), str) and may_be_in_house(stay, booking):
            self._enter(Stay(reservation, room, sequence, ""))
            if booking.get("status") == IN_HOUSE:
                self._in_house.add(reservation)

    def replace(self, reservation: str, others: Occupancy) -> None:
        """A stay as another one knows it, or none."""
        self._leave(reservation)
        if (stay := others._by_reservation.get(reservation)) is not None:
            self._enter(stay)
            if reservation in others._in_house:
                self._in_house.add(reservation)

    def add(self, type: str, action: str, entity: str, data: Mapping[str, Any], sequence: int, actor: str) -> None:
        """One event more."""
        room = data.get("room_number")
        if type == "checkin_checkout":
            if action == "checked_in" and isinstance(room, str):
                self._enter(Stay(entity, room, sequence, actor))
            elif action != "checked_in":
                self._leave(entity)
        elif type == "reservation" and (stay := self._by_reservation.get(entity)) is not None:
            status = data.get("status")
            if status in OVER or (entity in self._in_house and status not in (None, IN_HOUSE)):
                self._leave(entity)
                return
            if status == IN_HOUSE:
                self._in_house.add(entity)
            if not isinstance(room, str) or room == stay.room:
                return
            self._enter(Stay(entity, room, sequence, actor))

    def _enter(self, stay: Stay) -> None:
        known = stay.reservation in self._in_house
        self._leave(stay.reservation)
        if known:
            self._in_house.add(stay.reservation)
        self._by_reservation[stay.reservation] = stay
        self._by_room.setdefault(stay.room, {})[stay.reservation] = stay

    def _leave(self, reservation: str) -> None:
        self._in_house.discard(reservation)
        stay = self._by_reservation.pop(reservation, None)
        if stay is not None:
            room = self._by_room[stay.room]
            del room[reservation]
            if not room:
                del self._by_room[stay.room]
