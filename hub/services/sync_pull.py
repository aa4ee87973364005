"""Changes after a cursor, as devices pull them: each visible event of the synced types once, in order.

A page ends where the states are projected to, and waits a little for these to come up to the head: a device that has
just pushed pulls its own events. What lies up to there is in the archive, which holds no event twice.

Every change says the entity's version after it. What the states count is the version now; the events since are taken
off again. The version after an entity's last event of a page is remembered: it is where the next page begins.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import orjson

from hub.core.entry import NOT_AN_EVENT, Entry
from hub.core.versions import Vector, author, earlier, exact, tally, total, without
from hub.log.stream_log import Head
from hub.log.topology import RedisError
from hub.services.dispatcher import NOWHERE
from hub.services.sync_records import types_of
from hub.services.sync_view import CHUNK, FRESH_POLLS, POLL_S, SyncView
from hub.store.database import StoreUnavailable
from hub.store.entities import Reached
from hub.store.sync_states import Writers
from hub.telemetry import Metrics
from schemas import registry
from schemas.cursor import Cursor, StreamId
from schemas.errors import Problem
from schemas.registry import EVENT_TYPES
from schemas.sync import SYNCED_TYPES, model_of, operation_of

MAX_CHANGES: Final = 1000
MAX_SCANNED: Final = 5000
"""Events looked at for one page: where few may be seen, the page is short and its cursor has moved on."""
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
REMEMBERED: Final = 20_000
SLICE: Final = 100
"""Changes that are written before it is another's turn."""
_KINDS: Final[Mapping[str, frozenset[str]]] = MappingProxyType(
    {name: frozenset(types_of(name)) for name in {kind.entity_type or kind.name for kind in EVENT_TYPES.values()}}
)
_UNFIT: Final = (KeyError, TypeError, ValueError, ArithmeticError)


@dataclass(slots=True)
class PullPage:
    """Changes as JSON, and the cursor after the last event that was looked at."""

    changes: list[bytes]
    next: str
    more: bool
    """Whether there is more, perhaps on its way to the states: ask again."""
    gap: dict[str, str] | None = None

    def body(self) -> bytes:
        """The page as JSON (`schemas.sync.PullResponse`)."""
        return b'{"changes":[%b],"next":%b,"more":%b,"gap":%b}' % (
            b",".join(self.changes),
            orjson.dumps(self.next),
            orjson.dumps(self.more),
            orjson.dumps(self.gap),
        )


@dataclass(slots=True)
class _Reading:
    """A page in the making."""

    place: Head
    next: str
    seen: list[Entry] = field(default_factory=list)
    chosen: list[Entry] = field(default_factory=list)
    size: int = 0
    full: bool = False
    gap: dict[str, str] | None = None

    def enough(self, limit: int) -> bool:
        """Whether the page takes no more."""
        looked_at = len(self.seen) >= MAX_SCANNED
        return self.full or looked_at or len(self.chosen) >= limit or self.size >= MAX_PAGE_BYTES


class SyncPull:
    """Reads changes on behalf of systems."""

    def __init__(self, view: SyncView, metrics: Metrics) -> None:
        self._view = view
        self._history = view.history
        self._metrics = metrics
        self._known: OrderedDict[tuple[int, int, int, str, int], Vector] = OrderedDict()
        """Versions by tenant number, generation, epoch, entity and revision."""

    async def page(self, system: str, tenant_id: str, after: str | None, limit: int) -> PullPage:
        """The changes after a cursor; None begins with the first event.

        Raises:
            Problem: `invalid_cursor`; `log_unavailable`, `store_unavailable`: they cannot be read now.
        """
        try:
            return await self._page(system, tenant_id, after, limit)
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the store cannot be read now; ask again") from error
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error

    async def _page(self, system: str, tenant_id: str, after: str | None, limit: int) -> PullPage:
        reading = await self._start(tenant_id, after)
        if reading.gap is not None:
            return PullPage([], reading.next, True, reading.gap)
        head = await self._view.head(tenant_id)
        number = 0
        for poll in range(FRESH_POLLS + 1):
            number, _, reached = await self._view.mark(tenant_id)
            await self._read(system, tenant_id, reached, limit, reading)
            ready = reading.enough(limit) or reading.gap is not None or reading.place.id >= head.id
            if ready or poll == FRESH_POLLS:
                break
            await asyncio.sleep(POLL_S)
        changes = await self._written(number, reading) if reading.chosen else []
        more = reading.full or reading.gap is not None or reading.place.id < head.id
        return PullPage(changes, reading.next, more, reading.gap)

    async def _start(self, tenant_id: str, after: str | None) -> _Reading:
        if after is None:
            floor = (await self._history.floors([tenant_id]))[tenant_id]
            reading = _Reading(NOWHERE, self._history.cursor(tenant_id, NOWHERE))
            reason = "expired" if floor.sequence else None
            begin = floor
        else:
            cursor = Cursor.decode(after, tenant_id)
            (start,) = await self._history.resolve({tenant_id: cursor})
            reading, reason, begin = _Reading(start.head, after), start.gap, start.head
        if reason is not None:
            self._break_off(tenant_id, str(reason), begin, reading)
        self._metrics.resumes.labels("gap" if reading.gap else "recovered").inc()
        return reading

    def _break_off(self, tenant_id: str, reason: str, head: Head, reading: _Reading) -> None:
        self._metrics.gaps.labels(reason).inc()
        reading.next = self._history.cursor(tenant_id, head)
        reading.gap = {"tenant_id": tenant_id, "reason": reason, "resume_from": reading.next}

    async def _read(self, system: str, tenant_id: str, reached: Reached, limit: int, reading: _Reading) -> None:
        """Read on, up to where the states are."""
        partition = self._history.partition(tenant_id)
        while not reading.full and reading.place.id < reached.id:
            entries = await self._view.archive.read(
                partition, reading.place.id, CHUNK, before=reached.id.next, tenants=[tenant_id]
            )
            for entry in entries:
                if entry.sequence > reading.place.sequence + 1:
                    reading.full = True
                    if not reading.seen:
                        # What comes before a hole is given first; the next page begins with it.
                        hole = Head(entry.sequence - 1, entry.id.previous)
                        await self._history.note_hole(tenant_id, hole)
                        self._break_off(tenant_id, "expired", hole, reading)
                    return
                reading.place, reading.next = Head(entry.sequence, entry.id), entry.cursor
                reading.seen.append(entry)
                if _visible(system, entry):
                    reading.chosen.append(entry)
                    reading.size += len(entry.raw)
                if reading.enough(limit):
                    reading.full = reading.place.id < reached.id
                    return
            if not entries:
                return
            await asyncio.sleep(0)

    # -- versions -------------------------------------------------------------------------------------------------

    async def _written(self, number: int, reading: _Reading) -> list[bytes]:
        versions = await self._versions(number, reading)
        found: list[bytes] = []
        for count, entry in enumerate(reading.chosen, 1):
            found.append(orjson.dumps(_change(entry, versions[entry])))
            if count % SLICE == 0:
                await asyncio.sleep(0)
        return found

    async def _versions(self, number: int, reading: _Reading) -> dict[Entry, Vector]:
        """The entity's version after each change."""
        told: dict[str, list[Entry]] = {entry.entity: [] for entry in reading.chosen}
        for entry in reading.seen:
            if (mine := told.get(entry.entity)) is not None and entry.type in _counted(entry.entity):
                mine.append(entry)
        generation, _ = await self._view.states.mark(number)
        found: dict[Entry, Vector] = {}
        unknown: list[str] = []
        for entity, entries in told.items():
            first = entries[0]
            key = (number, generation, first.epoch, entity, first.revision - 1)
            before = self._known.get(key)
            if before is None:
                unknown.append(entity)
            else:
                self._known.move_to_end(key)
                self._forward(number, generation, before, entries, found)
        if unknown:
            await self._look_up(number, {entity: told[entity] for entity in unknown}, reading.place.id, found)
        return found

    async def _look_up(
        self, number: int, told: Mapping[str, list[Entry]], end: StreamId, found: dict[Entry, Vector]
    ) -> None:
        types = {type for entity in told for type in _counted(entity)}
        generation, reached, held = await self._view.states.versions(number, types, told)
        if reached.id < end:
            # Another generation took over, and is not there yet.
            raise Problem("store_unavailable", "the states are being brought up to date; ask again")
        now = {entity: _version(held.get(entity, ())) for entity in told}
        back: list[str] = []
        for entity, entries in told.items():
            newest = max((one.revision for one in held.get(entity, ())), default=0)
            whole = exact(now[entity]) and sum(now[entity].values()) == newest
            if entries[0].revision == 1 and whole:
                self._forward(number, generation, {}, entries, found)
            else:
                back.append(entity)
        since: dict[str, Vector] = {entity: {} for entity in back}
        later = [entity for entity in back if any(one.id > end for one in held.get(entity, ()))]
        if later:
            async for rows in self._view.states.bodies(number, later, end, reached.id):
                for entity, type, _, body in rows:
                    if type in _counted(entity):
                        since[entity] = total((since[entity], tally((body,))))
                await asyncio.sleep(0)
        for entity in back:
            version = without(now[entity], since[entity])
            entries = told[entity]
            if exact(now[entity]):
                self._remember(number, generation, entries[-1], version)
            for entry in reversed(entries):
                found[entry] = version
                if (name := _author(entry)) is not None:
                    version = without(version, {name: 1})

    def _forward(
        self, number: int, generation: int, version: Vector, entries: list[Entry], found: dict[Entry, Vector]
    ) -> None:
        for entry in entries:
            if (name := _author(entry)) is not None:
                version = version | {name: version.get(name, 0) + 1}
            found[entry] = version
        self._remember(number, generation, entries[-1], version)

    def _remember(self, number: int, generation: int, entry: Entry, version: Vector) -> None:
        self._known[(number, generation, entry.epoch, entry.entity, entry.revision)] = version
        while len(self._known) > REMEMBERED:
            self._known.popitem(last=False)


def _counted(entity: str) -> Collection[str]:
    """The types whose events are counted in an entity's version."""
    return _KINDS.get(entity.partition(":")[0], frozenset())


def _version(states: Iterable[Writers]) -> Vector:
    return total(earlier(one.revision) if one.writers is None else orjson.loads(one.writers) for one in states)


def _author(entry: Entry) -> str | None:
    try:
        return author(entry.event) if entry.raw else None
    except NOT_AN_EVENT:
        return None


def _visible(system: str, entry: Entry) -> bool:
    return (
        entry.type in SYNCED_TYPES
        and model_of(entry.type, entry.action) is not None
        and bool(entry.raw)
        and entry.readable
        and _author(entry) is not None
        and entry.readable_by(system)
    )


def _change(entry: Entry, version: Vector) -> dict[str, Any]:
    event = entry.event
    try:
        event = registry.current(event)
    except _UNFIT:
        # Not data of that version, whoever wrote it: the states have it as it is, too.
        event = event | {"schema_version": EVENT_TYPES[entry.type].newest}
    occurred = event.get("occurred_at") or datetime.fromtimestamp(entry.timestamp_ms / 1000, UTC).isoformat()
    return {
        "cursor": entry.cursor,
        "sequence": entry.sequence,
        "uuid": entry.event_id,
        "model": model_of(entry.type, entry.action),
        "operation": operation_of(entry.action),
        "type": entry.type,
        "action": entry.action,
        "entity": entry.entity,
        "revision": entry.revision,
        "version": version,
        "data": event["data"],
        "schema_version": event["schema_version"],
        "system": entry.source,
        "device_id": event.get("device_id"),
        "occurred_at": occurred,
    }
