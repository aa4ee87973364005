"""The archive: every event the log ever took, in the order of its streams, each tenant's in a chain of hashes.

Written by position: a batch is stored only if each partition stands where its writer believed it to stand, in the same
transaction. So any number of archivers may run, one of them gets on, and nothing is stored twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, Final

from sqlalchemy import ARRAY, ColumnElement, LargeBinary, and_, any_, bindparam, func, select, tuple_, union_all, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.entry import Entry
from hub.store import chain, retention
from hub.store.chain import Verified, chained
from hub.store.database import Database, StoreUnavailable
from hub.store.places import (
    GENESIS,
    START,
    Archived,
    Batch,
    Fenced,
    Mark,
    Place,
    archived,
    event_id_of,
    event_key,
)
from hub.store.rows import chained_rows, storable
from hub.store.tables import events, partitions, tenants
from schemas.cursor import ZERO, StreamId

EACH_TENANT: Final = 8
"""Up to so many tenants are read each by its own index; more, by their partition's."""
MAX_KEYS: Final = 10_000
"""Event ids in one question: SQLite takes some 32,000 parameters."""
_TIES: Final = 3
"""Events of histories that were replaced while a clock was behind may share a place: at most so many, and one."""
SLICE: Final = 32
"""Events that are made rows of before it is others' turn: some tenths of a millisecond."""
_BODY: Final = 13
"""Where the body stands in a row, of `events.columns`."""
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

ROW: Final = tuple(column.name for column in _COLUMNS)
"""The columns of `Archive.rows`."""


class Archive:
    """Reads and writes the events. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = (sqlite if database.sqlite else postgresql).insert
        self._heads: dict[str, Mark] = {}
        self._names: dict[int, str] = {}
        self._numbers: dict[str, tuple[int, int]] = {}
        """Each tenant's number and partition, which never change."""
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
        the sequence has no hole. Cancelled, it stores all or nothing.

        Raises:
            Fenced: one of the partitions stands elsewhere; nothing was stored.
        """
        found = [(batch.partition, entry) for batch in batches for entry in batch.entries if storable(entry)]
        keys = [event_key(entry.event_id) for _, entry in found]
        if not self._database.sqlite:
            months = {retention.month_of(entry.id.ms) for _, entry in found} - self._months
            if months:
                await retention.make_months(self._database, months)
                self._months |= months
        try:
            async with self._database.writing() as connection:
                for batch in sorted(batches, key=lambda one: one.partition):
                    await self._move(connection, batch)
                heads = await self._heads_of(connection, {entry.tenant_id: partition for partition, entry in found})
                there = await self._stored(connection, keys)
                rows: list[tuple[Any, ...]] = []
                ends: dict[str, Archived] = {}
                for start in range(0, len(found), SLICE):
                    slice = found[start : start + SLICE]
                    made, reached = chained_rows(slice, keys[start : start + SLICE], heads, there)
                    rows += made
                    heads |= reached
                    ends |= reached
                    await asyncio.sleep(0)
                if rows:
                    await self._database.add_rows(connection, events, rows)
                    await self._write_heads(connection, ends)
        except StoreUnavailable:
            # A month that is known here may be gone.
            self._months.clear()
            raise
        self._heads |= {tenant: end.head for tenant, end in ends.items()}
        return sum(1 for row in rows if row[_BODY])

    async def _move(self, connection: AsyncConnection, batch: Batch) -> None:
        known, reached = batch.place, batch.reached
        values = {"epoch": batch.epoch, "id_ms": reached.ms, "id_n": reached.n}
        moved = None
        if known == Place(0, ZERO):
            first = self._add(partitions).values(partition=batch.partition, **values).on_conflict_do_nothing()
            moved = await connection.execute(first)
        if moved is None or moved.rowcount != 1:
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

    async def _heads_of(self, connection: AsyncConnection, wanted: Mapping[str, int]) -> dict[str, Archived]:
        """The heads of tenants, which are made where they are new. Asked in every transaction: whoever holds the
        partition may write its tenants, and none else."""
        if not wanted:
            return {}
        heads = await archived(connection, wanted)
        new = [tenant for tenant in wanted if tenant not in heads]
        if new:
            ends = (f"{end}{name}" for end in ("", "base_") for name in ("position", "epoch", "sequence"))
            nothing = dict.fromkeys((*ends, "id_ms", "id_n", "base_ms", "base_n"), 0)
            for tenant in new:
                await connection.execute(
                    self._add(tenants)
                    .values(tenant_id=tenant, partition=wanted[tenant], hash=GENESIS, base_hash=GENESIS, **nothing)
                    .on_conflict_do_nothing()
                )
            heads |= await archived(connection, new)
        return heads

    async def _stored(self, connection: AsyncConnection, keys: Sequence[bytes]) -> set[tuple[int, bytes]]:
        """Which of these events are stored."""
        found: set[tuple[int, bytes]] = set()
        for at in range(0, len(keys), MAX_KEYS):
            some = keys[at : at + MAX_KEYS]
            among: ColumnElement[bool]
            if self._database.sqlite:
                among = events.c.event_id.in_(some)
            else:
                among = events.c.event_id == any_(bindparam("keys", some, type_=ARRAY(LargeBinary)))
            query = select(events.c.tenant_no, events.c.event_id).where(among, func.length(events.c.body) > 0)
            found.update((row[0], bytes(row[1])) for row in await connection.execute(query))
        return found

    @staticmethod
    async def _write_heads(connection: AsyncConnection, ends: Mapping[str, Archived]) -> None:
        await connection.execute(
            update(tenants).where(tenants.c.tenant_no == bindparam("no")),
            [
                {
                    "no": now.tenant_no,
                    "position": now.position,
                    "hash": now.hash,
                    "epoch": now.head.epoch,
                    "sequence": now.head.sequence,
                    "id_ms": now.head.id.ms,
                    "id_n": now.head.id.n,
                }
                for now in sorted(ends.values(), key=lambda one: one.tenant_no)
            ],
        )

    async def recall(self) -> None:
        """Learn every tenant's head, as a writer does that begins."""
        self._heads = {tenant: one.head for tenant, one in (await self.tenants()).items()}

    def heads(self) -> dict[str, Mark]:
        """The last archived event of each tenant, as far as this process wrote or recalled it."""
        return dict(self._heads)

    # -- reading --------------------------------------------------------------------------------------------------

    async def tenants(self, names: Iterable[str] | None = None) -> dict[str, Archived]:
        """The tenants there are, or those of `names` that are."""
        async with self._database.reading() as connection:
            found = await archived(connection, names)
        for tenant, one in found.items():
            self._names[one.tenant_no], self._numbers[tenant] = tenant, (one.tenant_no, one.partition)
        return found

    async def number(self, tenant_id: str) -> int | None:
        """A tenant's number in this store; None for one without archived events."""
        if tenant_id not in self._numbers:
            await self.tenants([tenant_id])
        known = self._numbers.get(tenant_id)
        return None if known is None else known[0]

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
        """Up to `count` entries of a partition after `after` and before `before`, in order; of `tenants` alone.

        Entries at one place come together, the last page's too, which may be so much longer.
        """
        return await self._made(await self.rows(partition, after, count, before=before, tenants=tenants))

    async def rows(
        self,
        partition: int,
        after: StreamId,
        count: int,
        *,
        before: StreamId | None = None,
        tenants: Collection[str] | None = None,
    ) -> list[Any]:
        """As `read`, but the rows themselves (`ROW`), for those who read hundreds of thousands."""
        numbers: list[int] | None = None
        if tenants is not None:
            numbers = await self._numbers_in(partition, tenants)
            if not numbers:
                return []
        limit = count + _TIES
        query: Any
        if numbers is not None and len(numbers) <= EACH_TENANT:
            query = _merged([_page(events.c.tenant_no == number, after, before, limit) for number in numbers], limit)
        elif numbers is not None:
            query = _page(and_(events.c.partition == partition, events.c.tenant_no.in_(numbers)), after, before, limit)
        else:
            query = _page(events.c.partition == partition, after, before, limit)
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        end = count
        while 0 < end < len(rows) and rows[end][:2] == rows[end - 1][:2]:
            end += 1
        return list(rows[:end])

    async def _numbers_in(self, partition: int, wanted: Collection[str]) -> list[int]:
        unknown = [tenant for tenant in wanted if tenant not in self._numbers]
        if unknown:
            await self.tenants(unknown)
        known = [self._numbers[tenant] for tenant in sorted(wanted) if tenant in self._numbers]
        return [number for number, of in known if of == partition]

    async def history(self, tenant_id: str, entity: str, count: int, after: StreamId = ZERO) -> list[Entry]:
        """Up to `count` events of an entity after `after`, in order."""
        number = await self.number(tenant_id)
        if number is None:
            return []
        return await self._entries(
            _page(and_(events.c.tenant_no == number, events.c.entity == entity), after, None, count)
        )

    async def find(self, tenant_id: str, event_id: str) -> Entry | None:
        """An event."""
        number = await self.number(tenant_id)
        if number is None:
            return None
        found = await self._entries(
            select(*_COLUMNS).where(
                events.c.event_id == event_key(event_id), events.c.tenant_no == number, func.length(events.c.body) > 0
            )
        )
        return found[0] if found else None

    async def holds(self, partition: int, tenant_id: str, sequence: int, id: StreamId) -> bool:
        """Whether a tenant's event with this sequence lies at this place."""
        number = await self.number(tenant_id)
        if number is None:
            return False
        query = select(events.c.sequence).where(
            events.c.partition == partition,
            events.c.id_ms == id.ms,
            events.c.id_n == id.n,
            events.c.tenant_no == number,
            events.c.sequence == sequence,
        )
        async with self._database.reading() as connection:
            return await connection.scalar(query) is not None

    async def first_at(self, tenant_id: str, ms: int) -> StreamId | None:
        """The place right before a tenant's first event that was stored at `ms` (Unix ms) or later."""
        number = await self.number(tenant_id)
        if number is None:
            return None
        query = (
            select(events.c.id_ms, events.c.id_n)
            .where(events.c.tenant_no == number, events.c.id_ms >= ms)
            .order_by(events.c.id_ms, events.c.id_n)
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else StreamId(row[0], row[1]).previous

    async def last_upto(self, tenant_id: str, id: StreamId) -> Mark | None:
        """A tenant's last event at or before a place."""
        number = await self.number(tenant_id)
        query = (
            select(events.c.epoch, events.c.sequence, events.c.id_ms, events.c.id_n)
            .where(events.c.tenant_no == number, tuple_(events.c.id_ms, events.c.id_n) <= tuple_(id.ms, id.n))
            .order_by(events.c.id_ms.desc(), events.c.id_n.desc())
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = None if number is None else (await connection.execute(query)).first()
        return None if row is None else Mark(row.epoch, row.sequence, StreamId(row.id_ms, row.id_n))

    async def revisions(self, tenant_id: str, count: int, after: str = "") -> list[tuple[str, int, StreamId]]:
        """Up to `count` entities of a tenant after one, by name: the last revision of each, and where it lies."""
        number = await self.number(tenant_id)
        if number is None:
            return []
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
            rows = (await connection.execute(query)).all()
        return [(row.entity, row.revision, StreamId(row.id_ms, row.id_n)) for row in rows]

    async def back(self, partition: int, count: int) -> StreamId:
        """The place that has `count` entries of a partition after it; the beginning when there are no more."""
        query = (
            select(events.c.id_ms, events.c.id_n)
            .where(events.c.partition == partition)
            .order_by(events.c.id_ms.desc(), events.c.id_n.desc())
            .offset(count)
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return ZERO if row is None else StreamId(row[0], row[1])

    async def _entries(self, query: Any) -> list[Entry]:
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return await self._made(rows)

    async def _made(self, rows: Sequence[Any]) -> list[Entry]:
        names = self._names
        if any(row[3] not in names for row in rows):
            await self.tenants()
        return [
            Entry(
                StreamId(ms, n),
                epoch,
                names[tenant_no],
                sequence,
                revision,
                type,
                action,
                entity,
                event_id_of(key),
                recorded_ms,
                body,
            )
            for ms, n, epoch, tenant_no, sequence, revision, type, action, entity, key, recorded_ms, body in rows
        ]

    # -- care -----------------------------------------------------------------------------------------------------

    def verify(self, tenant_id: str, *, newest: int | None = None) -> AsyncIterator[Verified]:
        """Check a tenant's chain, as `hub.store.chain.verify` says."""
        return chain.verify(self._database, tenant_id, newest=newest)

    async def expire(self, older_than_ms: int) -> int:
        """Remove old events, as `hub.store.retention.expire` says."""
        try:
            return await retention.expire(self._database, older_than_ms)
        finally:
            self._months.clear()


def _page(where: Any, after: StreamId, before: StreamId | None, count: int) -> Any:
    place = tuple_(events.c.id_ms, events.c.id_n)
    # The comparison of ms alone is for PostgreSQL, which leaves out months by it.
    query = select(*_COLUMNS).where(where, events.c.id_ms >= after.ms, place > tuple_(after.ms, after.n))
    if before is not None:
        query = query.where(events.c.id_ms <= before.ms, place < tuple_(before.ms, before.n))
    return query.order_by(events.c.id_ms, events.c.id_n).limit(count)


def _merged(pages: Sequence[Any], count: int) -> Any:
    """Pages as one, in one statement: what is stored between two of them must not be skipped."""
    if len(pages) == 1:
        return pages[0]
    union = union_all(*(select(page.subquery()) for page in pages)).subquery()
    return select(union).order_by(union.c.id_ms, union.c.id_n).limit(count)


__all__ = [
    "START",
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
