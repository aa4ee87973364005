"""The archive: every event the log ever took, in the order of its streams, each tenant's in a chain of hashes.

Written by position: a batch is stored only if each partition stands where its writer believed it to stand, in the same
transaction. So any number of archivers may run, one of them gets on, and nothing is stored twice.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    LargeBinary,
    and_,
    any_,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.entry import Entry
from hub.store.database import Database, StoreUnavailable
from hub.store.tables import events, partitions, tenants
from schemas.cursor import ZERO, StreamId

GENESIS: Final = bytes(32)
"""What a tenant's chain begins with."""
EACH_TENANT: Final = 8
"""Up to so many tenants are read each by its own index; more, by their partition's."""
VERIFY_PAGE: Final = 2000
EXPIRE_PAGE: Final = 2000
MAX_OUT_OF_ORDER: Final = 100_000
_BODY: Final = 13
"""Where the body stands in a row, of `events.columns`."""


class Fenced(Exception):
    """Another archiver was faster: nothing was stored, and the places must be read again."""


class Place(NamedTuple):
    """How far a partition's stream is archived."""

    epoch: int
    id: StreamId


class Mark(NamedTuple):
    """A place in a tenant's history; sequence 0 is before its first event."""

    epoch: int
    sequence: int
    id: StreamId


START: Final = Mark(0, 0, ZERO)


@dataclass(frozen=True, slots=True)
class Batch:
    """What follows in one partition: its entries, and how far the stream was read for them."""

    partition: int
    place: Place
    entries: Sequence[Entry]
    epoch: int
    reached: StreamId


@dataclass(frozen=True, slots=True)
class Archived:
    """One tenant's archive: its number, its chain's head, and the two ends of its history."""

    tenant_no: int
    partition: int
    position: int
    hash: bytes
    head: Mark
    base_position: int
    base_hash: bytes
    base: Mark
    """The last event that the retention removed."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What checking a tenant's chain found; `broken` names the first event that does not fit, and says how."""

    tenant_id: str
    events: int
    broken: str | None = None


def event_key(event_id: str) -> bytes:
    """An event's id as it is stored: the UUID's bytes; what is no UUID, by its hash."""
    try:
        key = bytes.fromhex(event_id.replace("-", ""))
    except ValueError:
        key = b""
    return key if len(key) == 16 else hashlib.sha256(event_id.encode()).digest()[:16]


def _event_id(key: bytes) -> str:
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def chained(previous: bytes, epoch: int, sequence: int, id: StreamId, key: bytes, body: bytes) -> bytes:
    """The hash of an event in its tenant's chain: SHA-256 over the previous hash, the place and the stored bytes."""
    place = b"%d %d %d-%d " % (epoch, sequence, id.ms, id.n)
    return hashlib.sha256(b"".join((previous, place, key, body))).digest()


_COLUMNS: Final = (
    events.c.id_ms,
    events.c.id_n,
    events.c.epoch,
    events.c.tenant_no,
    events.c.sequence,
    events.c.revision,
    events.c.type,
    events.c.action,
    events.c.entity,
    events.c.event_id,
    events.c.recorded_ms,
    events.c.body,
)


class Archive:
    """Reads and writes the events. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = database.compiled(insert(events))
        self._tenants: dict[str, Archived] = {}
        """The heads as this process left them; forgotten when another one wrote."""
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._months: set[int] = set()

    # -- writing --------------------------------------------------------------------------------------------------

    async def places(self) -> dict[int, Place]:
        """How far each partition is archived; one that is missing, not at all."""
        async with self._database.reading() as connection:
            rows = await connection.execute(select(partitions))
            return {row.partition: Place(row.epoch, StreamId(row.id_ms, row.id_n)) for row in rows}

    async def write(self, batches: Sequence[Batch]) -> int:
        """Store what follows in some partitions, in one transaction; how many events were new.

        An event that is stored already keeps its first place; at the new one a row without body stands for it, so that
        the sequence has no hole.

        Raises:
            Fenced: one of the partitions stands elsewhere; nothing was stored.
        """
        entries = [entry for batch in batches for entry in batch.entries]
        heads = dict(self._tenants)
        try:
            async with self._database.writing() as connection:
                for batch in batches:
                    await self._move(connection, batch)
                await self._know(connection, heads, entries, batches)
                keys = [event_key(entry.event_id) for entry in entries]
                there = await self._stored(connection, keys)
                rows = self._rows(entries, keys, heads, there)
                if rows:
                    if not self._database.sqlite:
                        await self._make_months(connection, rows)
                    # The statement is compiled once: binding a dict a row would cost as much as storing it.
                    await connection.exec_driver_sql(self._insert, rows)
                await self._write_heads(connection, heads)
        except BaseException:
            self._tenants.clear()
            raise
        self._tenants = heads
        return sum(1 for row in rows if row[_BODY])

    @staticmethod
    async def _move(connection: AsyncConnection, batch: Batch) -> None:
        known, reached = batch.place, batch.reached
        values = {"epoch": batch.epoch, "id_ms": reached.ms, "id_n": reached.n}
        if known == Place(0, ZERO):
            held = await connection.scalar(select(partitions.c.epoch).where(partitions.c.partition == batch.partition))
            if held is None:
                await connection.execute(insert(partitions).values(partition=batch.partition, **values))
                return
        moved = await connection.execute(
            update(partitions)
            .where(
                partitions.c.partition == batch.partition,
                partitions.c.epoch == known.epoch,
                partitions.c.id_ms == known.id.ms,
                partitions.c.id_n == known.id.n,
            )
            .values(**values)
        )
        if moved.rowcount != 1:
            raise Fenced

    async def _know(
        self,
        connection: AsyncConnection,
        heads: dict[str, Archived],
        entries: Iterable[Entry],
        batches: Iterable[Batch],
    ) -> None:
        """See that the heads of all these entries' tenants are known, making the tenants that are new."""
        unknown = {entry.tenant_id: batch.partition for batch in batches for entry in batch.entries} if entries else {}
        unknown = {tenant: partition for tenant, partition in unknown.items() if tenant not in heads}
        if not unknown:
            return
        heads.update(await self._load(connection, unknown))
        for tenant, partition in unknown.items():
            if tenant not in heads:
                made = await connection.execute(
                    insert(tenants).values(
                        tenant_id=tenant,
                        partition=partition,
                        position=0,
                        hash=GENESIS,
                        epoch=0,
                        sequence=0,
                        id_ms=0,
                        id_n=0,
                        base_position=0,
                        base_hash=GENESIS,
                        base_epoch=0,
                        base_sequence=0,
                        base_ms=0,
                        base_n=0,
                    )
                )
                key = made.inserted_primary_key
                assert key is not None
                heads[tenant] = Archived(key[0], partition, 0, GENESIS, START, 0, GENESIS, START)

    @staticmethod
    async def _load(connection: AsyncConnection, names: Iterable[str] | None = None) -> dict[str, Archived]:
        query = select(tenants)
        if names is not None:
            query = query.where(tenants.c.tenant_id.in_(list(names)))
        return {
            row.tenant_id: Archived(
                row.tenant_no,
                row.partition,
                row.position,
                row.hash,
                Mark(row.epoch, row.sequence, StreamId(row.id_ms, row.id_n)),
                row.base_position,
                row.base_hash,
                Mark(row.base_epoch, row.base_sequence, StreamId(row.base_ms, row.base_n)),
            )
            for row in await connection.execute(query)
        }

    async def _stored(self, connection: AsyncConnection, keys: list[bytes]) -> set[tuple[int, bytes]]:
        """Which of these events are stored."""
        if not keys:
            return set()
        if self._database.sqlite:
            among = events.c.event_id.in_(keys)
        else:
            among = events.c.event_id == any_(bindparam("keys", keys, type_=ARRAY(LargeBinary)))
        query = select(events.c.tenant_no, events.c.event_id).where(among, func.length(events.c.body) > 0)
        return {(row[0], row[1]) for row in await connection.execute(query)}

    @staticmethod
    def _rows(
        entries: Sequence[Entry], keys: Sequence[bytes], heads: dict[str, Archived], there: set[tuple[int, bytes]]
    ) -> list[tuple[Any, ...]]:
        rows = []
        ends: dict[str, tuple[int, bytes, Entry]] = {}
        for entry, key in zip(entries, keys, strict=True):
            tenant = entry.tenant_id
            archived = heads[tenant]
            end = ends.get(tenant)
            position, previous = (archived.position, archived.hash) if end is None else end[:2]
            same = (archived.tenant_no, key)
            body = b"" if same in there else entry.raw
            there.add(same)
            position, hash = position + 1, chained(previous, entry.epoch, entry.sequence, entry.id, key, body)
            ends[tenant] = (position, hash, entry)
            rows.append(
                (
                    archived.partition,
                    entry.id.ms,
                    entry.id.n,
                    entry.epoch,
                    archived.tenant_no,
                    position,
                    entry.sequence,
                    entry.revision,
                    entry.type,
                    entry.action,
                    entry.entity,
                    key,
                    entry.timestamp_ms,
                    body,
                    hash,
                )
            )
        for tenant, (position, hash, last) in ends.items():
            heads[tenant] = replace(
                heads[tenant], position=position, hash=hash, head=Mark(last.epoch, last.sequence, last.id)
            )
        return rows

    async def _write_heads(self, connection: AsyncConnection, heads: Mapping[str, Archived]) -> None:
        moved = [
            {
                "no": now.tenant_no,
                "position": now.position,
                "hash": now.hash,
                "epoch": now.head.epoch,
                "sequence": now.head.sequence,
                "id_ms": now.head.id.ms,
                "id_n": now.head.id.n,
            }
            for tenant, now in heads.items()
            if now.position and now is not self._tenants.get(tenant)
        ]
        if moved:
            await connection.execute(update(tenants).where(tenants.c.tenant_no == bindparam("no")), moved)

    async def _make_months(self, connection: AsyncConnection, rows: Sequence[Sequence[Any]]) -> None:
        """In PostgreSQL, make the months that are missing; the retention drops them whole."""
        for month in {_month(row[1]) for row in rows} - self._months:
            first, next = _bounds(month)
            await connection.execute(
                text(
                    f"CREATE TABLE IF NOT EXISTS {_month_table(month)} PARTITION OF events "
                    f"FOR VALUES FROM ({first}) TO ({next})"
                )
            )
            self._months.add(month)

    async def recall(self) -> None:
        """Learn every tenant's head, as a writer does that begins."""
        self._tenants = await self.tenants()

    def heads(self) -> dict[str, Mark]:
        """The last archived event of each tenant, as far as this process wrote or recalled it."""
        return {tenant: one.head for tenant, one in self._tenants.items()}

    async def revisions(self, tenant_id: str, count: int, after: str = "") -> list[tuple[str, int, StreamId]]:
        """Up to `count` entities of a tenant after one, by name: the last revision of each, and where it lies."""
        number = await self.number(tenant_id)
        newest = func.row_number().over(
            partition_by=events.c.entity, order_by=(events.c.id_ms.desc(), events.c.id_n.desc())
        )
        names = (
            select(events.c.entity)
            .where(events.c.tenant_no == number, events.c.entity > after)
            .distinct()
            .order_by(events.c.entity)
            .limit(count)
        )
        ranked = (
            select(events.c.entity, events.c.revision, events.c.id_ms, events.c.id_n, newest.label("rank"))
            .where(events.c.tenant_no == number, events.c.entity.in_(names))
            .subquery()
        )
        query = select(ranked).where(ranked.c.rank == 1).order_by(ranked.c.entity)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all() if number is not None else []
        return [(row.entity, row.revision, StreamId(row.id_ms, row.id_n)) for row in rows]

    # -- reading --------------------------------------------------------------------------------------------------

    async def tenants(self, names: Iterable[str] | None = None) -> dict[str, Archived]:
        """The tenants there are, or those of `names` that are."""
        async with self._database.reading() as connection:
            found = await self._load(connection, names)
        for tenant, archived in found.items():
            self._names[archived.tenant_no], self._numbers[tenant] = tenant, archived.tenant_no
        return found

    async def number(self, tenant_id: str) -> int | None:
        """A tenant's number in this store; None for one without archived events."""
        if tenant_id not in self._numbers:
            await self.tenants([tenant_id])
        return self._numbers.get(tenant_id)

    async def name(self, tenant_no: int) -> str:
        """The tenant of a number."""
        if tenant_no not in self._names:
            await self.tenants()
        return self._names[tenant_no]

    async def read(
        self,
        partition: int,
        after: StreamId,
        count: int,
        *,
        before: StreamId | None = None,
        tenants: Collection[str] | None = None,
    ) -> list[Entry]:
        """Up to `count` entries of a partition after `after` and before `before`, in order; of `tenants` alone."""
        numbers: list[int] | None = None
        if tenants is not None:
            numbers = [number for tenant in sorted(tenants) if (number := await self.number(tenant)) is not None]
            if not numbers:
                return []
        async with self._database.reading() as connection:
            if numbers is not None and len(numbers) <= EACH_TENANT:
                pages = [
                    (await connection.execute(_page(events.c.tenant_no == number, after, before, count))).all()
                    for number in numbers
                ]
                merged = pages[0] if len(pages) == 1 else heapq.merge(*pages, key=lambda row: (row[0], row[1]))
                rows = [row for row, _ in zip(merged, range(count), strict=False)]
            else:
                where: ColumnElement[bool] = events.c.partition == partition
                if numbers is not None:
                    where = and_(where, events.c.tenant_no.in_(numbers))
                rows = list((await connection.execute(_page(where, after, before, count))).all())
        return [await self._entry(row) for row in rows]

    async def history(self, tenant_id: str, entity: str, count: int, after: StreamId = ZERO) -> list[Entry]:
        """Up to `count` events of an entity after `after`, in order."""
        number = await self.number(tenant_id)
        if number is None:
            return []
        where = and_(events.c.tenant_no == number, events.c.entity == entity)
        async with self._database.reading() as connection:
            rows = (await connection.execute(_page(where, after, None, count))).all()
        return [await self._entry(row) for row in rows]

    async def find(self, tenant_id: str, event_id: str) -> Entry | None:
        """An event."""
        number = await self.number(tenant_id)
        if number is None:
            return None
        query = select(*_COLUMNS).where(
            events.c.event_id == event_key(event_id), events.c.tenant_no == number, func.length(events.c.body) > 0
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else await self._entry(row)

    async def holds(self, partition: int, tenant_id: str, mark: Mark) -> bool:
        """Whether a tenant's event lies at this place."""
        number = await self.number(tenant_id)
        query = select(events.c.sequence).where(
            events.c.partition == partition,
            events.c.id_ms == mark.id.ms,
            events.c.id_n == mark.id.n,
            events.c.epoch == mark.epoch,
            events.c.tenant_no == number,
        )
        async with self._database.reading() as connection:
            return number is not None and await connection.scalar(query) == mark.sequence

    async def first_at(self, tenant_id: str, ms: int) -> StreamId | None:
        """The place right before a tenant's first event that was stored at `ms` (Unix ms) or later."""
        number = await self.number(tenant_id)
        query = (
            select(events.c.id_ms, events.c.id_n)
            .where(events.c.tenant_no == number, events.c.id_ms >= ms)
            .order_by(events.c.id_ms, events.c.id_n)
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = None if number is None else (await connection.execute(query)).first()
        return None if row is None else StreamId(row[0], row[1])

    async def _entry(self, row: Any) -> Entry:
        ms, n, epoch, tenant_no, sequence, revision, type, action, entity, key, recorded_ms, body = row
        name = self._names.get(tenant_no) or await self.name(tenant_no)
        return Entry(
            StreamId(ms, n),
            epoch,
            name,
            sequence,
            revision,
            type,
            action,
            entity,
            _event_id(key),
            recorded_ms,
            bytes(body),
        )

    # -- the chain ------------------------------------------------------------------------------------------------

    async def verify(self, tenant_id: str) -> AsyncIterator[Verified]:
        """Check a tenant's chain from its oldest event to its head; after each page, what was found so far."""
        archived = (await self.tenants([tenant_id])).get(tenant_id)
        if archived is None:
            yield Verified(tenant_id, 0)
            return
        previous, position, checked = archived.base_hash, archived.base_position, 0
        after, waiting = ZERO, {}
        while position < archived.position:
            rows = await self._links(archived.tenant_no, after)
            for row in rows:
                after = StreamId(row.id_ms, row.id_n)
                waiting[row.position] = row
            while (row := waiting.pop(position + 1, None)) is not None:
                fault = _fault(tenant_id, previous, row)
                if fault is not None:
                    yield Verified(tenant_id, checked, fault)
                    return
                previous, position, checked = bytes(row.hash), position + 1, checked + 1
                if position == archived.position:
                    break
            if (not rows or len(waiting) > MAX_OUT_OF_ORDER) and position < archived.position:
                yield Verified(tenant_id, checked, f"event {position + 1} of {tenant_id} is missing")
                return
            yield Verified(tenant_id, checked)
        if previous != archived.hash:
            yield Verified(tenant_id, checked, f"the head of {tenant_id} does not fit its last event")

    async def _links(self, tenant_no: int, after: StreamId) -> Sequence[Any]:
        query = (
            select(events)
            .where(events.c.tenant_no == tenant_no, tuple_(events.c.id_ms, events.c.id_n) > tuple_(after.ms, after.n))
            .order_by(events.c.id_ms, events.c.id_n)
            .limit(VERIFY_PAGE)
        )
        async with self._database.reading() as connection:
            return (await connection.execute(query)).all()

    # -- retention ------------------------------------------------------------------------------------------------

    async def expire(self, older_than_ms: int) -> int:
        """Remove events stored before a time (Unix ms); how many. In PostgreSQL, in whole months."""
        if self._database.sqlite:
            return await self._expire_rows(older_than_ms)
        return await self._expire_months(older_than_ms)

    async def _expire_rows(self, older_than_ms: int) -> int:
        gone = 0
        while True:
            async with self._database.writing() as connection:
                old = (
                    await connection.execute(
                        select(events.c.partition, events.c.id_ms, events.c.id_n, *_ENDS)
                        .where(events.c.partition.in_(select(partitions.c.partition)), events.c.id_ms < older_than_ms)
                        .order_by(events.c.id_ms, events.c.id_n)
                        .limit(EXPIRE_PAGE)
                    )
                ).all()
                await self._rebase(connection, old)
                for row in old:
                    await connection.execute(
                        _REMOVE, {"p": row.partition, "ms": row.id_ms, "n": row.id_n, "e": row.epoch}
                    )
            self._tenants.clear()
            gone += len(old)
            if len(old) < EXPIRE_PAGE:
                return gone

    async def _expire_months(self, older_than_ms: int) -> int:
        gone = 0
        for month, table in await self._months_before(older_than_ms):
            first, next = _bounds(month)
            inside = and_(events.c.id_ms >= first, events.c.id_ms < next)
            async with self._database.writing() as connection:
                gone += await connection.scalar(select(func.count()).select_from(events).where(inside)) or 0
                last = (
                    select(events.c.tenant_no, func.max(events.c.position)).where(inside).group_by(events.c.tenant_no)
                )
                ends = select(*_ENDS, events.c.id_ms, events.c.id_n).where(
                    inside, tuple_(events.c.tenant_no, events.c.position).in_(last)
                )
                await self._rebase(connection, (await connection.execute(ends)).all())
                await connection.execute(text(f"DROP TABLE {table}"))
            self._months.discard(month)
            self._tenants.clear()
        return gone

    async def _months_before(self, older_than_ms: int) -> list[tuple[int, str]]:
        query = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass")
        async with self._database.reading() as connection:
            names = [str(row[0]) for row in await connection.execute(query)]
        months = sorted((int(name[-6:-2]) * 12 + int(name[-2:]) - 1, name) for name in names)
        return [(month, name) for month, name in months if _bounds(month)[1] <= older_than_ms]

    @staticmethod
    async def _rebase(connection: AsyncConnection, removed: Sequence[Any]) -> None:
        last: dict[int, Any] = {}
        for row in removed:
            if row.tenant_no not in last or last[row.tenant_no].position < row.position:
                last[row.tenant_no] = row
        for number, row in last.items():
            await connection.execute(
                update(tenants)
                .where(tenants.c.tenant_no == number, tenants.c.base_position < row.position)
                .values(
                    base_position=row.position,
                    base_hash=row.hash,
                    base_epoch=row.epoch,
                    base_sequence=row.sequence,
                    base_ms=row.id_ms,
                    base_n=row.id_n,
                )
            )


_ENDS: Final = (events.c.tenant_no, events.c.position, events.c.hash, events.c.epoch, events.c.sequence)
_REMOVE: Final = delete(events).where(
    events.c.partition == bindparam("p"),
    events.c.id_ms == bindparam("ms"),
    events.c.id_n == bindparam("n"),
    events.c.epoch == bindparam("e"),
)


def _page(where: Any, after: StreamId, before: StreamId | None, count: int) -> Any:
    place = tuple_(events.c.id_ms, events.c.id_n)
    # The comparison of ms alone is for PostgreSQL, which leaves out months by it.
    query = select(*_COLUMNS).where(where, events.c.id_ms >= after.ms, place > tuple_(after.ms, after.n))
    if before is not None:
        query = query.where(events.c.id_ms <= before.ms, place < tuple_(before.ms, before.n))
    return query.order_by(events.c.id_ms, events.c.id_n).limit(count)


def _fault(tenant_id: str, previous: bytes, row: Any) -> str | None:
    id = StreamId(row.id_ms, row.id_n)
    body = bytes(row.body)
    name = f"event {_event_id(row.event_id)} of {tenant_id} (sequence {row.sequence}, stored at {id})"
    if chained(previous, row.epoch, row.sequence, id, bytes(row.event_id), body) != bytes(row.hash):
        return f"{name} was changed: its hash does not fit"
    if not body:
        return None
    return _column_fault(name, row, body)


def _column_fault(name: str, row: Any, body: bytes) -> str | None:
    """What stands beside the body must say what the body says."""
    import orjson

    try:
        event = orjson.loads(body)
        said = (event["type"], event["action"], event["entity"], event["revision"])
    except (ValueError, KeyError, TypeError):
        return None
    for column, value in zip(("type", "action", "entity", "revision"), said, strict=True):
        if getattr(row, column) != value:
            return f"{name} was changed: its column {column} is not what the event says"
    return None


def _month(ms: int) -> int:
    at = datetime.fromtimestamp(ms / 1000, UTC)
    return at.year * 12 + at.month - 1


def _bounds(month: int) -> tuple[int, int]:
    return tuple(  # type: ignore[return-value]
        int(datetime(one // 12, one % 12 + 1, 1, tzinfo=UTC).timestamp() * 1000) for one in (month, month + 1)
    )


def _month_table(month: int) -> str:
    return f"events_{month // 12:04d}{month % 12 + 1:02d}"


__all__ = [
    "Archive",
    "Archived",
    "Batch",
    "Fenced",
    "Mark",
    "Place",
    "StoreUnavailable",
    "Verified",
    "chained",
    "event_key",
]
