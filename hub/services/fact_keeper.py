"""Folds the archive's events into the facts that reports are made of (`hub.core.facts`), a tenant and a transaction at
a time.

A tenant's events are folded in the order of its positions. That is the order of their places, unless a server with its
clock behind took over: then they are read by position until the end is reached. Events without a body and damaged ones
move the place and nothing else. Of events that the retention removed before they were folded nothing is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import count, takewhile
from typing import Final
from zoneinfo import ZoneInfo

import structlog

from hub.core.facts import Folding, tardy
from hub.core.said import Calendar, Said, read
from hub.store.facts import FactPlace, Row
from hub.store.places import START, Archived, Fenced, Mark
from hub.store.store import Store
from schemas.cursor import StreamId

MAX_BATCH: Final = 1000
"""Events in one transaction: more would keep other writers waiting, and their rows hold the event loop."""
SLICE_S: Final = 0.0005
"""How long the event loop is held at a time."""

log = structlog.get_logger("hub.facts")


class FactKeeper:
    """Brings tenants' facts up to the archive's end. Any number of them, in one hub or several, may do so at a time."""

    def __init__(self, store: Store, calendar_of: Callable[[str], tuple[str, int]]) -> None:
        """`calendar_of` gives a tenant's IANA zone and the hour at which its business days turn."""
        self._store = store
        self._facts = store.facts
        self._calendar_of = calendar_of
        self._turns: dict[str, asyncio.Lock] = {}

    async def catch_up(self, tenant_id: str) -> Mark:
        """Fold what is archived now and not in the tenant's facts yet; the event up to which they are true then.

        Facts that were made by another calendar are made anew. Cancelled, it leaves the facts at an earlier event.

        Raises:
            StoreUnavailable: what was folded before stays.
        """
        async with self._turns.setdefault(tenant_id, asyncio.Lock()):
            while True:
                try:
                    return await self._catch_up(tenant_id)
                except Fenced:
                    # Another hub's keeper is at work: begin where that one is.
                    continue

    async def _catch_up(self, tenant_id: str) -> Mark:
        tenant = (await self._store.archive.tenants([tenant_id])).get(tenant_id)
        if tenant is None:
            return START
        place = await self._facts.reached(tenant.tenant_no)
        calendar = self._calendar_of(tenant_id)
        if place is not None and (place.timezone, place.rollover_hour) != calendar:
            log.info("facts_removed", tenant=tenant_id, timezone=calendar[0], rollover_hour=calendar[1])
            await self._facts.remove(tenant.tenant_no, place)
            place = None
        return await _Way(self._store, tenant, calendar, place).follow()


class _Way:
    """One tenant's facts on their way to where its archive ends now."""

    def __init__(self, store: Store, tenant: Archived, calendar: tuple[str, int], place: FactPlace | None) -> None:
        self._facts = store.facts
        self._number = tenant.tenant_no
        self._goal = tenant.position
        self._timezone, self._rollover_hour = calendar
        self._calendar = Calendar(ZoneInfo(self._timezone), self._rollover_hour)
        self._stored = place
        self._position, self._mark = (0, START) if place is None else (place.position, place.mark)
        if self._position < tenant.base_position:
            self._position, self._mark = tenant.base_position, tenant.base

    async def follow(self) -> Mark:
        """Fold up to the archive's end; where that is.

        Raises:
            Fenced: another keeper moved the tenant's facts.
        """
        after = self._mark.id
        while self._position < self._goal:
            rows = await self._facts.following(self._number, after, MAX_BATCH)
            if rows:
                after = StreamId(rows[-1][1], rows[-1][2])
                new = [row for row in rows if row[0] > self._position]
                in_turn = [row for row, _ in takewhile(_follows, zip(new, count(self._position + 1)))]
                await self._fold(in_turn)
                if len(in_turn) == len(new):
                    continue
            await self._follow_astray()
        return self._mark

    async def _follow_astray(self) -> None:
        """Read by position. An event that is missing altogether is passed: the chain's check tells of it."""
        while self._position < self._goal:
            rows = await self._facts.following_of(self._number, self._position, MAX_BATCH)
            if not rows:
                # What is stored of the tenant's end is no longer there.
                self._goal = self._position
            await self._fold(rows)

    async def _fold(self, rows: list[Row]) -> None:
        """Fold events that follow, in one transaction."""
        if not rows:
            return
        events = await self._read(rows)
        stays = {said.id for said in events if said.type in ("reservation", "checkin_checkout")}
        rooms = await self._facts.rooms(self._number, {said.id for said in events if said.type == "room"})
        folding = Folding(
            self._calendar,
            await self._facts.stays(self._number, stays),
            rooms,
            await self._facts.conditions(self._number, tardy(events, rooms)),
        )
        until = time.perf_counter() + SLICE_S
        for said in events:
            folding.add(said)
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE_S
        position, ms, n, epoch, sequence, *_ = rows[-1]
        place = FactPlace(position, Mark(epoch, sequence, StreamId(ms, n)), self._timezone, self._rollover_hour)
        await self._facts.write(self._number, self._stored, place, folding)
        self._stored, self._position, self._mark = place, position, place.mark

    async def _read(self, rows: list[Row]) -> list[Said]:
        events = []
        until = time.perf_counter() + SLICE_S
        for _, ms, _, _, sequence, type, action, entity, body in rows:
            said = read(type, action, entity, sequence, ms, body, self._calendar) if body else None
            if said is not None:
                events.append(said)
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE_S
        return events


def _follows(turn: tuple[Row, int]) -> bool:
    return turn[0][0] == turn[1]
