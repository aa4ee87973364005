"""A desk with its real database and a hub in memory, on a clock that moves as somebody sleeps; can be cut anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from hand_clock import HandClock

from consumers.offline.comparison import Compared, Comparison
from consumers.offline.database import LocalDatabase
from consumers.offline.heightened import Heightened
from consumers.offline.items import LocalChange, QueueItem
from consumers.offline.rebuild import rebuild
from consumers.offline.recovery import Outcome, RecoveryManager, Report
from schemas.cursor import Cursor, StreamId
from schemas.registry import EVENT_TYPES
from schemas.state import merged
from schemas.sync import (
    TYPES,
    BucketEntry,
    Change,
    ComparisonReport,
    DigestResponse,
    ItemResult,
    SnapshotResponse,
    StateDigest,
    SyncRecord,
    bucket_hash,
    bucket_of,
    entity_of,
    root_hash,
    state_hash,
)

T = TypeVar("T")
START = datetime(2026, 7, 15, 6, 0, tzinfo=UTC)


class Cut(BaseException):
    """The power went off."""


class SelfMovingClock(HandClock):
    """Time passes by sleeping, and by `advance`."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)
        self.advance(seconds)


class Cutter:
    """Counts awaits, and cuts the run off before or after the `at`-th."""

    def __init__(self) -> None:
        self.count = 0
        self.at: int | None = None
        self.after = False

    def arm(self, at: int | None, *, after: bool) -> None:
        """Cut at this await, counted from now; None: at none."""
        self.count, self.at, self.after = 0, at, after

    async def passing(self, work: Callable[[], T]) -> T:
        """Do the work of one await."""
        self.count += 1
        await asyncio.sleep(0)
        if self.count == self.at and not self.after:
            raise Cut
        found = work()
        if self.count == self.at:
            raise Cut
        return found


def cursor(sequence: int) -> str:
    """The cursor behind the event of this number."""
    return Cursor.of(7, "default", sequence, StreamId(1000 + sequence, 0)).encode()


def room(number: str, status: str = "cleaning", **more: Any) -> dict[str, Any]:
    """The data of a room."""
    data = {"room_id": number, "room_number": number, "room_type": "twin", "status": status}
    return data | {"availability_date": "2026-07-15"} | more


class HubInMemory:
    """The hub's side of a sync: every item once, states, digests."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.states: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
        self.versions: dict[str, dict[str, int]] = {}
        self.reports: list[ComparisonReport] = []
        self.outcomes: dict[str, ItemResult] = {}
        """What is said of an item, where it is not to be applied."""
        self.pushed: list[str] = []

    @property
    def cursor(self) -> str:
        """Behind its last event."""
        return cursor(len(self.changes))

    def publish(
        self, number: str, status: str, *, uuid: str | None = None, actor: str = "hotel-pms", model: str = "RoomStatus"
    ) -> None:
        """One more event of a room."""
        self.take(
            uuid or f"00000000-0000-4000-8000-{len(self.changes):012d}", actor, model, number, room(number, status)
        )

    def take(self, uuid: str, actor: str, model: str, entity_id: str, data: Mapping[str, Any]) -> None:
        """Store an event."""
        type, entity = TYPES[model], entity_of(model, entity_id)
        version = self.versions.setdefault(entity, {})
        version[actor] = version.get(actor, 0) + 1
        revision = sum(version.values())
        self.states[type, entity] = revision, merged(self.states.get((type, entity), (0, {}))[1], data)
        sequence = len(self.changes) + 1
        self.changes.append(
            Change(
                cursor=cursor(sequence),
                sequence=sequence,
                uuid=uuid,
                model=model,
                operation="UPDATE",
                type=type,
                action=EVENT_TYPES[type].actions[0],
                entity=entity,
                revision=revision,
                version=dict(version),
                data=dict(data),
                schema_version=EVENT_TYPES[type].newest,
                occurred_at="2026-07-15T06:00:00Z",
            )
        )

    def push(self, item: QueueItem) -> ItemResult:
        """One item."""
        self.pushed.append(item.uuid)
        if item.uuid in self.outcomes:
            return self.outcomes[item.uuid]
        known = next((one for one in self.changes if one.uuid == item.uuid), None)
        if known is None:
            self.take(item.uuid, item.device_id, item.model, item.entity_id, item.payload)
        return ItemResult(uuid=item.uuid, outcome="applied" if known is None else "duplicate")

    def snapshot(self, entity: str | None = None) -> SnapshotResponse:
        """All states, or one entity's."""
        records = [
            SyncRecord(
                type=type,
                entity=name,
                revision=revision,
                sequence=1,
                version=self.versions[name],
                data=data,
                schema_version=EVENT_TYPES[type].newest,
            )
            for (type, name), (revision, data) in sorted(self.states.items())
            if entity in (None, name)
        ]
        return SnapshotResponse(records=records, cursor=self.cursor, more=False)

    def digest(self, buckets: Sequence[int]) -> DigestResponse:
        """The tree, and the states of these buckets."""
        states = [
            StateDigest(type, entity, revision, state_hash(type, entity, revision, data))
            for (type, entity), (revision, data) in self.states.items()
        ]
        tree: dict[int, list[StateDigest]] = {}
        for state in states:
            tree.setdefault(bucket_of(state.type, state.entity), []).append(state)
        hashes = {number: bucket_hash(found) for number, found in tree.items()}
        asked = [BucketEntry(**one._asdict()) for number in buckets for one in tree.get(number, ())]
        named = {f"{number:02x}": hash for number, hash in hashes.items()}
        return DigestResponse(
            cursor=self.cursor,
            root=root_hash(hashes),
            count=len(states),
            buckets=named,
            states=asked if buckets else None,
        )


class Stage:
    """The desk. Implements the ports of `consumers.offline.recovery` and `.comparison`."""

    def __init__(self, path: Path, hub: HubInMemory | None = None, *, clock: SelfMovingClock | None = None) -> None:
        self.path = path
        self.memory = hub or HubInMemory()
        self.clock = clock or SelfMovingClock()
        self.cutter = Cutter()
        self.failing: dict[str, list[BaseException]] = {}
        """What the next calls of a method raise, in order."""
        self.calls: list[str] = []
        self.can_renew = True
        self.intervals: list[float | None] = []
        self.compared: list[Compared] = []
        self.told: list[Report] = []
        self.database = self.open()
        self.restart()

    def now(self) -> datetime:
        """By the hand-moved clock."""
        return START + timedelta(seconds=self.clock.now - 1000)

    def open(self) -> LocalDatabase:
        """Open the file."""
        return LocalDatabase.open(self.path, tenant_id="default", system="hotel-pms", now=self.now, device_id="desk-1")

    def restart(self) -> None:
        """What a new process has: the file, and nothing else."""
        self.database.close()
        self.database = self.open()
        self.cutter.arm(None, after=False)
        self.comparison = Comparison(self, self, self.sync, clock=self.clock, now=self.now)
        self.heightened = Heightened(
            self, self.comparison, self.intervals.append, clock=self.clock, now=self.now, told=self.compared.append
        )
        self.manager = RecoveryManager(
            self,
            self,
            self.comparison,
            self.heightened,
            clock=self.clock,
            now=self.now,
            report=self.told.append,
            random=lambda: 0.5,
        )

    def work(self, number: str, status: str = "occupied") -> str:
        """One operation at the desk: the uuid of its item."""
        change = LocalChange("RoomStatus", "UPDATE" if self.knows(number) else "CREATE", number, room(number, status))
        return self.database.operate([change], operator="sato", operation="room_status")[0].uuid

    def knows(self, number: str) -> bool:
        """Whether the desk has the room."""
        return self.database.record("room", f"room:{number}") is not None

    async def run(self, cause: str = "online again") -> Outcome:
        """Recover."""
        return await self.manager.run(cause)

    # -- ports --------------------------------------------------------------------------------------------------------

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        return await self.cutter.passing(lambda: work(self.database))

    async def _do(self, name: str, work: Callable[[], T]) -> T:
        def carried_out() -> T:
            self.calls.append(name)
            if waiting := self.failing.get(name):
                raise waiting.pop(0)
            return work()

        return await self.cutter.passing(carried_out)

    async def probe(self) -> None:
        await self._do("probe", lambda: None)

    async def authenticate(self) -> None:
        await self._do("authenticate", lambda: None)

    async def renew(self) -> bool:
        return await self._do("renew", lambda: self.can_renew)

    async def schemas(self) -> Mapping[str, int]:
        return await self._do("schemas", lambda: {kind.name: kind.newest for kind in EVENT_TYPES.values()})

    async def sync(self) -> None:
        await self._do("sync", lambda: None)
        if await self.call(lambda database: database.cursor) is None:
            await self.call(lambda database: database.begin_snapshot())
            page = await self._do("snapshot", self.memory.snapshot)
            await self.call(lambda database: database.add_snapshot(page.records, None, page.cursor))
            await self.call(lambda database: database.end_snapshot(page.cursor))
        await self.call(lambda database: database.release())
        while items := await self.call(lambda database: database.batch(3, now=self.now())):
            await self._push(items)
        after = await self.call(lambda database: database.cursor)
        assert after is not None
        changes = [one for one in self.memory.changes if one.cursor > after]
        await self.call(lambda database: database.apply_changes(changes, self.memory.cursor))

    async def _push(self, items: Sequence[QueueItem]) -> None:
        results = await self._do("push", lambda: [self.memory.push(item) for item in items])
        await self.call(lambda database: database.settle(results, now=self.now()))

    async def rebuild(self, *, even_if_sound: bool) -> bool:
        self.calls.append("rebuild")
        self.database.close()
        try:
            return rebuild(self.path, now=self.now, even_if_sound=even_if_sound) is not None
        finally:
            self.database = self.open()

    async def digest(self, buckets: Sequence[int] = ()) -> DigestResponse:
        return await self._do("digest", lambda: self.memory.digest(buckets))

    async def entity(self, entity: str) -> SnapshotResponse:
        return await self._do("entity", lambda: self.memory.snapshot(entity))

    async def report_digest(self, report: ComparisonReport) -> None:
        await self._do("report", lambda: self.memory.reports.append(report))
