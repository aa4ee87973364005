"""What a system may see of a tenant's states and events, as sync reads them.

A device sees the events that are for its system, and those that its system made itself (`Entry.readable_by`). A state
of which it may see only some events is folded from those, like the device folds what it pulls. In such a state, what
events said that are no longer kept is missing.
"""

from __future__ import annotations

import asyncio
from typing import Final

import orjson

from hub.core.projection import Folding, State
from hub.core.routing import may_see
from hub.core.sight import Sight, sight
from hub.log.stream_log import Head
from hub.services.dispatcher import NOWHERE
from hub.services.history import History
from hub.store.entities import NOTHING, Reached, Stored, restored, systems, written_by
from hub.store.sync_states import SyncStates
from schemas.cursor import ZERO, Cursor, StreamId
from schemas.sync import SYNCED_TYPES

CHUNK: Final = 500
POLL_S: Final = 0.02
FRESH_POLLS: Final = 60
"""How long an answer waits for the states of what was published before the question."""
TYPES: Final = tuple(sorted(SYNCED_TYPES))


class SyncView:
    """Methods raise `StoreUnavailable`, `RedisError` and `OSError` when store or log are away."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.archive = history.store.archive
        self.states = SyncStates(history.store.database)

    async def mark(self, tenant_id: str) -> tuple[int, int, Reached]:
        """A tenant's number, the generation of its states, and how far that is projected; zeros where it has none."""
        number = await self.archive.number(tenant_id)
        return (0, 0, NOTHING) if number is None else (number, *await self.states.mark(number))

    async def head(self, tenant_id: str) -> Head:
        """The last event that was published."""
        return (await self.history.heads([tenant_id]))[tenant_id]

    async def fresh(self, tenant_id: str) -> tuple[int, int, Reached]:
        """As `mark`, with everything that was published before the question, unless that takes long."""
        head = await self.head(tenant_id)
        found = await self.mark(tenant_id)
        for _ in range(FRESH_POLLS):
            if found[2].id >= head.id:
                break
            await asyncio.sleep(POLL_S)
            found = await self.mark(tenant_id)
        return found

    def cursor(self, tenant_id: str, reached: Reached) -> str:
        """The cursor of a place of the projection."""
        if reached == NOTHING:
            return self.history.cursor(tenant_id, NOWHERE)
        return Cursor.of(reached.epoch, tenant_id, reached.sequence, reached.id).encode()

    async def seen(self, system: str, tenant_id: str, type: str, entity: str, row: Stored) -> State | None:
        """A state as a system may see it; None where it may not."""
        how = sight_of(system, type, row)
        if how == "whole":
            return restored(row)
        return None if how == "none" else await self._folded(system, tenant_id, type, entity, StreamId(row[2], row[3]))

    async def _folded(self, system: str, tenant_id: str, type: str, entity: str, upto: StreamId) -> State | None:
        folding, after = Folding(type), ZERO
        while True:
            entries = await self.archive.history(tenant_id, entity, CHUNK, after)
            for entry in entries:
                if entry.id > upto:
                    break
                if entry.type == type and entry.raw and entry.readable and entry.readable_by(system):
                    folding.add(entry.event, entry.sequence, entry.id)
            if len(entries) < CHUNK or entries[-1].id > upto:
                return folding.state
            after = entries[-1].id
            await asyncio.sleep(0)


def sight_of(system: str, type: str, row: Stored) -> Sight:
    """How much of a state a system may see."""
    all_ = systems(row[5])
    if may_see(system, all_):
        return "whole"
    updated_by = orjson.loads(row[7]).get("updated_by_system")
    return sight(system, type, all_, systems(row[6]), None if row[8] is None else written_by(row), updated_by)
