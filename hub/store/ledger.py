"""The delivery ledger: what became of the events, by the place they lie at."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    CompoundSelect,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.delivery import WIDTHS_MS, Row, Subscriber
from hub.store.database import Database
from hub.store.tables import deliveries, groups, subscribers
from schemas.cursor import StreamId

EXPIRE_PAGE: Final = 2000
MAX_COVERING: Final = 50_000
IDS_AT_ONCE: Final = 1000
KINDS: Final = (
    "routed",
    "sent",
    "caught_up",
    "polled",
    "acked",
    "handled",
    "retried",
    "dead_lettered",
    "redriven",
    "discarded",
    "replayed",
    "attempted",
    "delivered",
    "given_up",
)
_GROWS: Final = ("to_ms", "to_n", "width", "events", "attempts", "error", "last_ms")
"""What a row that is written again has anew."""


class Moved(Exception):
    """Another hub was faster with this group: nothing was written, and the groups must be read again."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A consumer group on a partition, as far as the ledger has followed it."""

    name: str
    partition: int
    finished: StreamId
    last_letter: StreamId
    letters: int
    """How many dead letters the group's stream had ever had."""
    at_ms: int


class Ledger:
    """Reads and writes the ledger. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        dialect: Any = sqlite if database.sqlite else postgresql
        rows = dialect.insert(deliveries)
        again = {name: rows.excluded[name] for name in _GROWS}
        self._rows = database.compiled(rows.on_conflict_do_update(index_elements=["id"], set_=again))
        durable = dialect.insert(subscribers)
        again = {name: durable.excluded[name] for name in ("interest", "sequence", "id_ms", "id_n", "acked_ms")}
        self._subscribers = database.compiled(
            durable.on_conflict_do_update(index_elements=["system", "name", "tenant_id"], set_=again)
        )

    # -- writing --------------------------------------------------------------------------------------------------

    async def write(self, rows: Sequence[Row], durable: Sequence[Subscriber] = ()) -> None:
        """Store rows, those that are there already with what they have grown to; and how far subscriptions came."""
        async with self._database.writing() as connection:
            await self._write(connection, rows)
            if durable:
                values = [(o.system, o.name, o.tenant_id, o.interest, o.sequence, *o.id, o.acked_ms) for o in durable]
                await connection.exec_driver_sql(self._subscribers, values)

    async def _write(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        if rows:
            # The statement is compiled once: binding a dict a row would cost as much as storing it.
            await connection.exec_driver_sql(self._rows, [tuple(row) for row in rows])

    async def advance(self, steps: Iterable[tuple[Watched | None, Watched]], rows: Sequence[Row]) -> None:
        """Store rows together with how far the groups were followed for them.

        Raises:
            Moved: one of the groups is no longer where the writer believed it to be; nothing was stored.
        """
        async with self._database.writing() as connection:
            for before, now in steps:
                await self._follow(connection, before, now)
            await self._write(connection, rows)

    @staticmethod
    async def _follow(connection: AsyncConnection, before: Watched | None, now: Watched) -> None:
        values = {
            "id_ms": now.finished.ms,
            "id_n": now.finished.n,
            "dead_ms": now.last_letter.ms,
            "dead_n": now.last_letter.n,
            "dead_count": now.letters,
            "at_ms": now.at_ms,
        }
        same = and_(groups.c.name == now.name, groups.c.partition == now.partition)
        if before is None:
            if await connection.scalar(select(groups.c.at_ms).where(same)) is not None:
                raise Moved
            await connection.execute(insert(groups).values(name=now.name, partition=now.partition, **values))
            return
        moved = await connection.execute(
            update(groups)
            .where(
                same,
                groups.c.id_ms == before.finished.ms,
                groups.c.id_n == before.finished.n,
                groups.c.dead_count == before.letters,
            )
            .values(**values)
        )
        if moved.rowcount != 1:
            raise Moved

    async def expire(self, before_ms: int) -> int:
        """Remove what was last written before `before_ms` (Unix ms); how many rows went."""
        gone = 0
        for kind in KINDS:
            while True:
                old = select(deliveries.c.id).where(deliveries.c.kind == kind, deliveries.c.last_ms < before_ms)
                async with self._database.writing() as connection:
                    page = delete(deliveries).where(deliveries.c.id.in_(old.limit(EXPIRE_PAGE)))
                    removed = (await connection.execute(page)).rowcount
                gone += removed
                if removed < EXPIRE_PAGE:
                    break
        async with self._database.writing() as connection:
            await connection.execute(delete(subscribers).where(subscribers.c.acked_ms < before_ms))
        return gone

    # -- reading --------------------------------------------------------------------------------------------------

    async def covering(
        self, partition: int, first: StreamId, last: StreamId, *, without: Collection[str] = ()
    ) -> list[Row]:
        """The rows whose ranges may hold a place between two places of a partition, at most `MAX_COVERING`; kinds in
        `without` left out."""
        places = {"partition": partition, "first": first.ms, "last": last.ms}
        async with self._database.reading() as connection:
            return _rows(await connection.execute(_covering(tuple(without)), places))

    async def page(
        self, kinds: Collection[str], since_ms: int, until_ms: int, after: tuple[int, bytes], count: int
    ) -> list[Row]:
        """Up to `count` rows of some kinds last written from `since_ms` and before `until_ms` (Unix ms), in the order
        of that time, after the row with this time and id."""
        query = (
            select(deliveries)
            .where(
                deliveries.c.kind.in_(kinds),
                deliveries.c.last_ms >= max(since_ms, after[0]),
                deliveries.c.last_ms < until_ms,
                or_(
                    deliveries.c.last_ms > after[0], and_(deliveries.c.last_ms == after[0], deliveries.c.id > after[1])
                ),
            )
            .order_by(deliveries.c.last_ms, deliveries.c.id)
            .limit(count)
        )
        async with self._database.reading() as connection:
            return _rows(await connection.execute(query))

    async def redriven(self, since_ms: int) -> list[Row]:
        """The letters redriven since, of which it is not written what became of them."""
        query = select(deliveries).where(
            deliveries.c.kind == "redriven", deliveries.c.last_ms >= since_ms, deliveries.c.attempts.is_(None)
        )
        async with self._database.reading() as connection:
            return _rows(await connection.execute(query))

    async def letters(self, group: str, partition: int, after: StreamId) -> set[str]:
        """The ids of a group's dead letters later than `after` that are written down."""
        query = select(deliveries.c.ref).where(
            deliveries.c.kind == "dead_lettered",
            deliveries.c.last_ms >= after.ms,
            deliveries.c.partition == partition,
            deliveries.c.name == group,
        )
        async with self._database.reading() as connection:
            return {row[0] for row in await connection.execute(query)}

    async def known(self, ids: Sequence[bytes]) -> set[bytes]:
        """Which of these rows there are."""
        found: set[bytes] = set()
        async with self._database.reading() as connection:
            for at in range(0, len(ids), IDS_AT_ONCE):
                query = select(deliveries.c.id).where(deliveries.c.id.in_(ids[at : at + IDS_AT_ONCE]))
                found.update(bytes(row[0]) for row in await connection.execute(query))
        return found

    async def watched(self) -> dict[tuple[str, int], Watched]:
        """The groups as they were left, by name and partition."""
        async with self._database.reading() as connection:
            return {
                (row.name, row.partition): Watched(
                    row.name,
                    row.partition,
                    StreamId(row.id_ms, row.id_n),
                    StreamId(row.dead_ms, row.dead_n),
                    row.dead_count,
                    row.at_ms,
                )
                for row in await connection.execute(select(groups))
            }

    async def subscribers(self, tenants: Collection[str] | None, systems: Collection[str] | None) -> list[Subscriber]:
        """The durable subscriptions of some systems to some tenants; None: of all."""
        query = select(subscribers)
        if tenants is not None:
            query = query.where(subscribers.c.tenant_id.in_(tenants))
        if systems is not None:
            query = query.where(subscribers.c.system.in_(systems))
        async with self._database.reading() as connection:
            return [
                Subscriber(
                    row.system,
                    row.name,
                    row.tenant_id,
                    row.interest,
                    row.sequence,
                    StreamId(row.id_ms, row.id_n),
                    row.acked_ms,
                )
                for row in await connection.execute(query)
            ]

    async def count(self) -> int:
        """How many rows there are."""
        async with self._database.reading() as connection:
            return await connection.scalar(select(func.count()).select_from(deliveries)) or 0


@lru_cache(maxsize=8)
def _covering(without: tuple[str, ...]) -> CompoundSelect[Any]:
    """Made once: putting it together costs as much as asking it."""
    pages = []
    last = bindparam("last", type_=BigInteger)
    for step in range(len(WIDTHS_MS) + 1):
        # A range of this step that covers the first place ends at most one step after the last.
        page: Select[Any] = select(deliveries).where(
            deliveries.c.partition == bindparam("partition"),
            deliveries.c.width == step,
            deliveries.c.to_ms >= bindparam("first"),
            deliveries.c.from_ms <= last,
        )
        if step < len(WIDTHS_MS):
            page = page.where(deliveries.c.to_ms <= last + WIDTHS_MS[step])
        if without:
            page = page.where(deliveries.c.kind.not_in(without))
        pages.append(page)
    return union_all(*pages).limit(MAX_COVERING)


def _rows(found: Iterable[Any]) -> list[Row]:
    return [Row(bytes(row[0]), *row[1:]) for row in found]


__all__ = ["Ledger", "Moved", "Watched"]
