"""The open stays of each property, kept up from the log."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import orjson

from hub.core.entry import Entry
from hub.core.occupancy import Occupancy, Stay
from hub.core.versions import actor
from hub.log.turns import turn
from hub.services.history import History
from hub.store.entities import NOTHING
from schemas.cursor import ZERO, StreamId

CHUNK: Final = 1000
REMEMBERED: Final = 200
"""Properties; one that is forgotten is read anew."""


@dataclass(slots=True)
class _Property:
    """One property's stays, and how far its events are in them."""

    stays: Occupancy
    epoch: int
    at: StreamId = ZERO
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class OccupiedRooms:
    """Who is in a room now. Methods raise `StoreUnavailable`, `RedisError` and `OSError` when they are away."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._entities = history.store.entities
        self._properties: OrderedDict[str, _Property] = OrderedDict()
        self._rooms: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()
        """Of those rooms for which somebody here has a turn, or waits for one."""

    @asynccontextmanager
    async def turn(self, tenant_id: str, room: str) -> AsyncIterator[None]:
        """Held while a guest is checked in, or two desks would both find the room empty, at one hub or at two."""
        async with (
            self._rooms.setdefault((tenant_id, room), asyncio.Lock()),
            turn(self._history.log, tenant_id, f"room:{room}"),
        ):
            yield

    async def of(self, tenant_id: str, room: str) -> list[Stay]:
        """The stays in a room, with everything that is in the log by now."""
        epoch = self._history.log.epochs[self._history.partition(tenant_id)]
        held = self._properties.get(tenant_id)
        if held is None or held.epoch != epoch:
            held = self._properties[tenant_id] = _Property(Occupancy(), epoch)
            while len(self._properties) > REMEMBERED:
                self._properties.popitem(last=False)
        self._properties.move_to_end(tenant_id)
        async with held.turn:
            if held.at == ZERO:
                await self._begin(tenant_id, held)
            await self._follow(tenant_id, held)
            for stay in held.stays.of(room):
                if not stay.actor:
                    await self._look_up(tenant_id, held, stay.reservation)
        return held.stays.of(room)

    async def _begin(self, tenant_id: str, held: _Property) -> None:
        generation = await self._entities.current()
        while True:
            await self._read(tenant_id, held)
            before, generation = generation, await self._entities.current()
            if generation == before:
                return
            # Another projection took its place, which may be behind where this one was.

    async def _read(self, tenant_id: str, held: _Property) -> None:
        # A beginning that failed half way is none.
        held.stays, held.at = Occupancy(), ZERO
        number, reached = (await self._entities.marks([tenant_id])).get(tenant_id, (0, NOTHING))
        if not number:
            return
        after = ("", "")
        while True:
            _, rows = await self._entities.page(number, CHUNK, types=["checkin_checkout"], after=after)
            entities = [key[2] for key, _ in rows]
            _, booked = await self._entities.page(number, CHUNK, types=["reservation"], among=entities)
            bookings = {key[2]: orjson.loads(row[7]) for key, row in booked}
            for (_, type, entity), row in rows:
                held.stays.begin(entity, orjson.loads(row[7]), bookings.get(entity, {}), row[1])
                after = (type, entity)
            if len(rows) < CHUNK:
                break
            await asyncio.sleep(0)
        # What came while these were read is folded once more, which changes nothing.
        held.at = reached.id

    async def _look_up(self, tenant_id: str, held: _Property, reservation: str) -> None:
        """Whether a stay that states tell of is open, and whose it is: the events of these are archived."""
        stays, after = Occupancy(), ZERO
        while True:
            entries = await self._history.entity(tenant_id, reservation, CHUNK, after)
            for entry in entries:
                after = entry.id
                _add(stays, entry)
            if len(entries) < CHUNK:
                break
        held.stays.replace(reservation, stays)

    async def _follow(self, tenant_id: str, held: _Property) -> None:
        async for entry in self._history.of_tenant(tenant_id, held.at):
            _add(held.stays, entry)
            held.at = entry.id


def _add(stays: Occupancy, entry: Entry) -> None:
    if entry.type in ("checkin_checkout", "reservation") and entry.raw and entry.readable:
        event = entry.event
        stays.add(entry.type, entry.action, entry.entity, event["data"], entry.sequence, actor(event))
