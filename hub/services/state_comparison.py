"""Holds a tenant's stored states against its archived events, folded anew (R80), while the hub goes on.

Every entity that has events is looked at, or, of a property with a very long history, those that were spoken of lately
and a part of the others that is another one every day. A page of entities is read as of one place: their states as the
projection left them, then their events up to there; events do not change any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from hub.core.integrity import MAX_TOLD
from hub.core.projection import State
from hub.core.refold import Difference, Refolding
from hub.store.entities import restored
from hub.store.places import Archived
from hub.store.refolds import BEGINNING, Refolds, Told
from hub.store.store import Store

ENTITIES: Final = 200
EVENTS: Final = 500
TYPES: Final = 64
"""Kinds of states that an entity may have: there are a dozen types of events."""
SLICE_S: Final = 0.0005
"""How long the event loop is held at a time."""
ALL_EVENTS: Final = 1_000_000
"""With no more archived events than this, all entities are looked at every day."""
PARTS: Final = 7
"""Else each of them within so many days."""


@dataclass(slots=True)
class Compared:
    """What a comparison has come to."""

    entities: int = 0
    left_out: int = 0
    """Entities whose turn it is on another day."""
    states: int = 0
    partial: int = 0
    """Those of these whose oldest events are no longer archived."""
    events: int = 0
    differing: int = 0
    examples: list[str] = field(default_factory=list)
    """The first of them, in words."""

    def note(self, found: Difference) -> None:
        """One more state that differs."""
        self.differing += 1
        if len(self.examples) < MAX_TOLD:
            self.examples.append(f"{found.type} {found.entity}: {found.words}")


class StateComparison:
    """Compares; several may be at work at a time."""

    def __init__(
        self,
        store: Store,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        all_events: int = ALL_EVENTS,
    ) -> None:
        self._entities = store.entities
        self._refolds = Refolds(store.database)
        self._sleep = sleep
        self._all_events = all_events

    async def compare(self, tenant: Archived, found: Compared, *, since_ms: int, part: int) -> None:
        """Compare a tenant's states; `found` tells how far it is meanwhile.

        What was spoken of since `since_ms` is looked at in any case, and of the rest the part of this number.

        Raises:
            StoreUnavailable: nothing is known of the rest.
        """
        whole = tenant.base_position == 0
        every = tenant.position - tenant.base_position <= self._all_events
        after = ""
        while page := await self._refolds.entities(tenant.tenant_no, after, ENTITIES):
            after = page[-1][0]
            begun = time.perf_counter()
            names = [
                name
                for name, last_ms in page
                if every or last_ms >= since_ms or crc32(name.encode()) % PARTS == part % PARTS
            ]
            found.left_out += len(page) - len(names)
            if names:
                await self._page(tenant.tenant_no, names, whole, found)
            # What others have to do takes at most twice as long for it.
            await self._sleep(time.perf_counter() - begun)
        for type, entity in await self._refolds.unmade(tenant.tenant_no, tenant.base.id, MAX_TOLD):
            found.note(Difference(type, entity, "no event made it"))

    async def _page(self, tenant_no: int, names: list[str], whole: bool, found: Compared) -> None:
        reached, rows = await self._entities.page(tenant_no, len(names) * TYPES, among=names)
        held: dict[str, dict[str, State]] = {}
        until = time.perf_counter() + SLICE_S
        for (_, type, entity), row in rows:
            held.setdefault(entity, {})[type] = restored(row)
            if time.perf_counter() > until:
                await asyncio.sleep(0)
                until = time.perf_counter() + SLICE_S
        after, one = BEGINNING, _Entity()
        while events := await self._refolds.events(tenant_no, names, reached.position, after, EVENTS):
            for event in events:
                if event.entity != one.name:
                    await self._settle(tenant_no, one, reached.position, found)
                    one = _Entity(event.entity, held.get(event.entity, {}), whole or event.revision == 1)
                one.add(event)
                if time.perf_counter() > until:
                    await asyncio.sleep(0)
                    until = time.perf_counter() + SLICE_S
            last = events[-1]
            after = (last.entity, last.id_ms, last.id_n, last.epoch)
        await self._settle(tenant_no, one, reached.position, found)

    async def _settle(self, tenant_no: int, one: _Entity, upto: int, found: Compared) -> None:
        """An entity is through."""
        if one.refolding is None:
            return
        if one.astray:
            one = await self._in_turn(tenant_no, one, upto)
        assert one.refolding is not None
        found.entities += 1
        found.events += one.events
        types = len(one.held)
        found.states += types
        found.partial += 0 if one.whole else types
        for difference in one.refolding.differences():
            found.note(difference)

    async def _in_turn(self, tenant_no: int, before: _Entity, upto: int) -> _Entity:
        """Fold it again in the order of positions: a server with its clock behind had taken over."""
        one = _Entity(before.name, before.held, before.whole)
        position = 0
        while events := await self._refolds.in_turn(tenant_no, one.name, upto, position, EVENTS):
            for event in events:
                one.add(event)
            position = events[-1].position
            await asyncio.sleep(0)
        return one


class _Entity:
    """One entity on its way through the page."""

    def __init__(self, name: str = "", held: dict[str, State] | None = None, whole: bool = True) -> None:
        self.name = name
        self.held = held or {}
        self.whole = whole
        self.refolding = None if not name else Refolding(name, self.held, whole=whole)
        self.events = 0
        self.astray = False
        self._position = 0

    def add(self, event: Told) -> None:
        """The next of its events."""
        self.astray |= event.position < self._position
        self._position = event.position
        self.events += 1
        if event.body and self.refolding is not None:
            self.refolding.add(event.type, event.body, event.sequence, event.id)
