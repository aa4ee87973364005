"""What a desk's database knows of guests, rooms and money, as the work at a front desk asks for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import date
from typing import Any, Protocol

from consumers.offline.front_desk import Known, NotPossible, folio_id
from consumers.offline.house import Figures, HouseDay, guests_of, lived
from consumers.offline.items import Record


class Records(Protocol):
    """The records of a desk: `consumers.offline.desk.Desk`."""

    async def record(self, type: str, entity: str) -> Record | None:
        """One record."""
        ...

    async def records(self, type: str, *, after: str = "", limit: int = 500) -> list[Record]:
        """A page of a type's records, by entity."""
        ...


class HouseRecords:
    """Reads a desk's records page by page: its operations may come in between."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def data(self, type: str, entity: str) -> dict[str, Any] | None:
        """A record's data; None: there is none."""
        record = await self._records.record(type, entity)
        return None if record is None else record.data

    async def all(self, type: str) -> AsyncGenerator[Record, None]:
        """All records of a type, by entity. Close it when done."""
        after = ""
        while page := await self._records.records(type, after=after):
            for record in page:
                yield record
            after = page[-1].entity

    async def bookings(self) -> AsyncGenerator[Record, None]:
        """All reservations, each as its guest lives it, by entity. Close it when done."""
        here: dict[str, Record] = {}
        async with aclosing(self.all("checkin_checkout")) as stays:
            async for stay in stays:
                if stay.data.get("actual_checkout_time") is None:
                    here[stay.entity] = stay
        async with aclosing(self.all("reservation")) as records:
            async for record in records:
                yield replace(record, data=lived(record, here.get(record.entity)))

    async def known(self, reservation_id: str, *, room: str | None = None, orders: bool = False) -> Known:
        """What the desk knows of a reservation, with `room` or the one it has, and with its unbilled orders.

        Raises:
            NotPossible: it does not know the reservation, or the room.
        """
        entity = f"reservation:{reservation_id}"
        record = await self._records.record("reservation", entity)
        if record is None:
            raise NotPossible(
                f"予約 {reservation_id} が見つかりません", f"there is no reservation {reservation_id} at this desk"
            )
        arrival = await self._records.record("checkin_checkout", entity)
        booking, stay = lived(record, arrival), None if arrival is None else arrival.data
        folio = await self.data("billing", f"billing:{folio_id(reservation_id)}")
        number = room or booking.get("room_number")
        place = None if number is None else await self.room(number)
        if room is not None and place is None:
            raise NotPossible(f"{room} 号室が見つかりません", f"there is no room {room} at this desk: see `rooms`")
        return Known(booking, stay, folio, place, await self._unbilled(reservation_id) if orders else ())

    async def room(self, number: str) -> dict[str, Any] | None:
        """A room by its number; None: the desk does not know it."""
        for entity in (f"room:room-{number}", f"room:{number}"):
            if (found := await self.data("room", entity)) is not None and found["room_number"] == number:
                return found
        async with aclosing(self.all("room")) as rooms:
            async for record in rooms:
                if record.data["room_number"] == number:
                    return record.data
        return None

    async def guests_in(self, number: str) -> list[str]:
        """The reservations in house in a room."""
        found: list[str] = []
        async with aclosing(self.bookings()) as records:
            async for record in records:
                found += guests_of([record.data], number)
        return found

    async def guest_of(self, place: str) -> Known | None:
        """Who has this reservation, or is in house in this room; None: nobody."""
        if await self.data("reservation", f"reservation:{place}") is not None:
            return await self.known(place)
        guests = await self.guests_in(place)
        return await self.known(guests[0]) if guests else None

    async def figures(self, day: date, calendar: HouseDay, *, today: date) -> Figures:
        """A business day's figures, as of now or, where the day is over, as of its end."""
        figures = Figures(day, calendar, over=day < today)
        async with aclosing(self.bookings()) as records:
            async for record in records:
                over = record.data["status"] in ("checked_in", "checked_out")
                figures.add_reservation(
                    record.data, await self.data("checkin_checkout", record.entity) if over else None
                )
        async with aclosing(self.all("room")) as rooms:
            async for record in rooms:
                figures.add_room(record.data)
        return figures

    async def _unbilled(self, reservation_id: str) -> tuple[str, ...]:
        found = []
        async with aclosing(self.all("order")) as orders:
            async for record in orders:
                data = record.data
                if data.get("reservation_id") == reservation_id and data.get("estimated") and not record.deleted:
                    found.append(str(data["order_id"]))
        return tuple(found)
