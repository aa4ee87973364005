"""The present states of entities with their versions, as fresh as the log: what a pushed item is held against.

The log knows each entity's revision. A state is taken from memory or from the projection where it has that revision;
where the projection is behind, what the log has beyond it is folded on top.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hub.core.entry import Entry
from hub.core.projection import Folding, State
from hub.core.sight import sight
from hub.core.sync_models import Planned
from hub.core.versions import Vector, total
from hub.services.history import History
from hub.services.publisher import Systems
from hub.store.entities import NOTHING, Reached, restored
from schemas.cursor import ZERO, StreamId
from schemas.registry import EVENT_TYPES

REMEMBERED: Final = 20_000
CHUNK: Final = 500


@dataclass(frozen=True, slots=True)
class Known:
    """An entity as it is now. Do not change what is in it: it is shared."""

    revision: int = 0
    states: Mapping[str, State] = field(default_factory=dict)
    """By the type of its events."""

    @property
    def version(self) -> Vector:
        """Who made how many of its events."""
        return total(state.writers for state in self.states.values())

    def data(self, type: str) -> dict[str, Any] | None:
        """What the events of a type have said; None when there are none."""
        state = self.states.get(type)
        return None if state is None else state.data

    @property
    def said(self) -> dict[str, dict[str, Any]]:
        """What the events of each type have said."""
        return {type: state.data for type, state in self.states.items()}

    def may_be_seen_by(self, system: str) -> bool:
        """Whether a system may see something of each of these states."""
        return not any(
            sight(system, type, one.seen_by_all, one.seen_by_some, one.writers, one.data.get("updated_by_system"))
            == "none"
            for type, one in self.states.items()
        )

    def audience(self, systems: Systems, planned: Planned, maker: str) -> list[str]:
        """Who is sent an event that tells these states again: its maker, and of the others those that nothing of them
        was kept from; where that is nobody, the source of authority."""
        kind = EVENT_TYPES[planned.type]
        kept_from: set[str] = set()
        for type, one in self.states.items():
            others = set(EVENT_TYPES[type].targets) - one.seen_by_all - one.writers.keys()
            kept_from |= others - {one.data.get("updated_by_system")}
        by_default = systems.targets(kind, planned.action)
        told = [system for system in by_default if system == maker or system not in kept_from]
        return told or [kind.authority]

    def after(self, entry: Entry) -> Known:
        """The entity after one more event."""
        folding = Folding(entry.type, self.states.get(entry.type))
        folding.add(entry.event, entry.sequence, entry.id)
        state = folding.state
        states = dict(self.states)
        if state is not None:
            states[entry.type] = state
        return Known(max(self.revision, entry.revision), states)


_NEW: Final = Known()


class SyncRecords:
    """Looks entities up. Methods raise `StoreUnavailable`, `RedisError` and `OSError` when they are away."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._entities = history.store.entities
        self._memory: OrderedDict[tuple[int, str, str], Known] = OrderedDict()
        """By the epoch too: a log that lost its end counts on from an earlier revision."""

    async def load(self, tenant_id: str, entities: Collection[str]) -> dict[str, Known]:
        """Each of these as it is now; one of revision 0 that nothing is known of."""
        revisions = await self._history.log.revisions(tenant_id, entities)
        found: dict[str, Known] = {}
        behind: list[str] = []
        for entity, revision in revisions.items():
            held = self._memory.get(self._key(tenant_id, entity))
            if revision == 0:
                found[entity] = _NEW
            elif held is not None and held.revision >= revision:
                self._memory.move_to_end(self._key(tenant_id, entity))
                found[entity] = held
            else:
                behind.append(entity)
        if behind:
            found |= await self._read(tenant_id, behind, revisions)
        return found

    async def _read(self, tenant_id: str, entities: list[str], revisions: Mapping[str, int]) -> dict[str, Known]:
        generation = await self._entities.current() or 0
        while True:
            reached, found = await self._projected(tenant_id, entities, generation)
            before, generation = generation, await self._entities.current() or 0
            if generation == before:
                break
            # Another one took its place, which may be behind where this one was.
        if any(found[entity].revision < revisions[entity] for entity in entities):
            async for entry in self._history.of_tenant(tenant_id, reached.id):
                held_now = found.get(entry.entity)
                if held_now is not None and _tells(entry) and entry.revision > held_now.revision:
                    found[entry.entity] = held_now.after(entry)
        for entity, known in found.items():
            self.remember(tenant_id, entity, known)
        return found

    async def _projected(
        self, tenant_id: str, entities: list[str], generation: int
    ) -> tuple[Reached, dict[str, Known]]:
        # Where the projection stands is read before its states: what is folded twice is left out by its revision.
        number, reached = (await self._entities.marks([tenant_id])).get(tenant_id, (0, NOTHING))
        found = dict.fromkeys(entities, _NEW)
        if number:
            for start in range(0, len(entities), CHUNK):
                # All states of an entity as of one moment.
                part = entities[start : start + CHUNK]
                keys = [(number, type, entity) for entity in part for type in types_of(entity)]
                rows = await self._entities.fetch(generation, keys)
                for (_, type, entity), row in rows.items():
                    held, state = found[entity], restored(row)
                    found[entity] = Known(max(held.revision, state.revision), {**held.states, type: state})
        return reached, found

    async def events(self, tenant_id: str, entity: str, after: StreamId = ZERO) -> list[Entry]:
        """Every event of an entity after a place that is still kept, in order."""
        # Before they are read: what is archived meanwhile would lie before a later one, and be in neither.
        head = (await self._history.archived_heads([tenant_id])).get(tenant_id)
        found: list[Entry] = []
        while head is not None and after < head.id:
            page = await self._history.entity(tenant_id, entity, CHUNK, after)
            found += [entry for entry in page if _tells(entry)]
            if page:
                after = page[-1].id
            if len(page) < CHUNK:
                break
        # What was not archived then lies behind what was the tenant's last archived event.
        beyond = after if head is None else max(after, head.id)
        async for entry in self._history.of_tenant(tenant_id, beyond):
            if entry.entity == entity and _tells(entry):
                found.append(entry)
        return found

    def remember(self, tenant_id: str, entity: str, known: Known) -> None:
        """Keep an entity for the next question: it is used only while its revision is the log's."""
        key = self._key(tenant_id, entity)
        self._memory[key] = known
        self._memory.move_to_end(key)
        while len(self._memory) > REMEMBERED:
            self._memory.popitem(last=False)

    def forget(self, tenant_id: str, entity: str) -> None:
        """Look it up anew the next time."""
        self._memory.pop(self._key(tenant_id, entity), None)

    def _key(self, tenant_id: str, entity: str) -> tuple[int, str, str]:
        return self._history.log.epochs[self._history.partition(tenant_id)], tenant_id, entity


def _tells(entry: Entry) -> bool:
    """Whether there is something of an event to read."""
    return bool(entry.raw) and entry.readable


def types_of(entity: str) -> list[str]:
    """The types of events that an entity of this name may have."""
    name = entity.partition(":")[0]
    return [kind.name for kind in EVENT_TYPES.values() if (kind.entity_type or kind.name) == name]
