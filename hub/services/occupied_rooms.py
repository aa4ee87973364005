"""The open stays of each property, kept up from the log."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import orjson

from hub.core.occupancy import Occupancy, Stay
from hub.core.versions import actor
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
        self._rooms: dict[tuple[str, str], asyncio.Lock] = {}

    def turn(self, tenant_id: str, room: str) -> asyncio.Lock:
        """Held while a guest is checked in, or two desks would both find the room empty."""
        if len(self._rooms) > CHUNK:
            self._rooms = {key: lock for key, lock in self._rooms.items() if lock.locked()}
        return self._rooms.setdefault((tenant_id, room), asyncio.Lock())

    async def of(self, tenant_id: str, room: str) -> list[Stay]:
        """The stays in a room, with everything that is in the log by now."""
        epoch = self._history.log.epochs[self._history.partition(tenant_id)]
        held = self._properties.get(tenant_id)
        if held is None or held.epoch != epoch:
            held = self._properties[tenant_id] = _Property(Occupancy(), epoch)
            while len(self._properties) > REMEMBERED:
                self._properties.popitem(last=False)
        async with held.turn:
            if held.at == ZERO:
                await self._begin(tenant_id, held)
            await self._follow(tenant_id, held)
        return held.stays.of(room)

    async def _begin(self, tenant_id: str, held: _Property) -> None:
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

    async def _follow(self, tenant_id: str, held: _Property) -> None:
        partition = self._history.partition(tenant_id)
        while True:
            entries = await self._history.read(partition, held.at, CHUNK, tenants=[tenant_id])
            for entry in entries:
                held.at = entry.id
                mine = entry.tenant_id == tenant_id and entry.type in ("checkin_checkout", "reservation")
                if mine and entry.raw and entry.readable:
                    event = entry.event
                    held.stays.add(entry.type, entry.action, entry.entity, event["data"], entry.sequence, actor(event))
            if len(entries) < CHUNK:
                return
