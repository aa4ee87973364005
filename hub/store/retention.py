"""How events leave the archive by age: row by row on SQLite, in whole months on PostgreSQL, which keeps one table each.

What was removed last stays known of each tenant, with its hash: from there the rest of the chain is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import and_, delete, func, select, text, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.database import Database
from hub.store.tables import events, partitions, tenants

PAGE: Final = 2000
LOCK_WAIT_MS: Final = 2000
"""How long dropping a month waits for those who read; others wait behind it, so it is short, and tried again."""
MONTHS_LOCK: Final = 0x48_55_42_4D
"""PostgreSQL's advisory lock of all who make months."""
_LAST_MONTH: Final = 9999 * 12 + 11
_ENDS: Final = (
    events.c.tenant_no,
    events.c.position,
    events.c.hash,
    events.c.epoch,
    events.c.sequence,
    events.c.id_ms,
    events.c.id_n,
)


async def expire(database: Database, older_than_ms: int) -> int:
    """Remove events stored before a time (Unix ms); how many. In PostgreSQL, months that ended before it.

    Raises:
        StoreUnavailable: not now; what is removed already stays so, and the chains hold.
    """
    if database.sqlite:
        return await _expire_rows(database, older_than_ms)
    return await _expire_months(database, older_than_ms)


async def _expire_rows(database: Database, older_than_ms: int) -> int:
    async with database.reading() as connection:
        known = [row[0] for row in await connection.execute(select(partitions.c.partition))]
    place = tuple_(events.c.id_ms, events.c.id_n, events.c.epoch)
    gone = 0
    for partition in known:
        oldest = (
            select(*_ENDS)
            .where(events.c.partition == partition, events.c.id_ms < older_than_ms)
            .order_by(events.c.id_ms, events.c.id_n, events.c.epoch)
            .limit(PAGE)
        )
        while True:
            # A page a transaction: the archiver's turn comes in between.
            async with database.writing() as connection:
                old = (await connection.execute(oldest)).all()
                if old:
                    last = old[-1]
                    await _rebase(connection, old)
                    await connection.execute(
                        delete(events).where(
                            events.c.partition == partition,
                            events.c.id_ms <= last.id_ms,
                            place <= tuple_(last.id_ms, last.id_n, last.epoch),
                        )
                    )
            gone += len(old)
            if len(old) < PAGE:
                break
    return gone


async def _expire_months(database: Database, older_than_ms: int) -> int:
    gone = 0
    for month, table in await _months_before(database, older_than_ms):
        first, next = month_bounds(month)
        inside = and_(events.c.id_ms >= first, events.c.id_ms < next)
        last = select(events.c.tenant_no, func.max(events.c.position)).where(inside).group_by(events.c.tenant_no)
        ends = select(*_ENDS).where(inside, tuple_(events.c.tenant_no, events.c.position).in_(last))
        async with database.writing(patient=True) as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}"))
            # Nobody writes into the month while it is counted; then nobody reads while it goes. The tenants come last,
            # because writers take them last.
            await connection.execute(text(f"LOCK TABLE {table} IN SHARE MODE"))
            count = await connection.scalar(select(func.count()).select_from(events).where(inside)) or 0
            removed = (await connection.execute(ends)).all()
            await connection.execute(text("LOCK TABLE ONLY events IN ACCESS EXCLUSIVE MODE"))
            await _rebase(connection, removed)
            await connection.execute(text(f"DROP TABLE {table}"))
        gone += count
    return gone


async def _months_before(database: Database, older_than_ms: int) -> list[tuple[int, str]]:
    query = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass")
    async with database.reading() as connection:
        names = [str(row[0]) for row in await connection.execute(query)]
    months = sorted((int(name[-6:-2]) * 12 + int(name[-2:]) - 1, name) for name in names)
    return [(month, name) for month, name in months if month_bounds(month)[1] <= older_than_ms]


async def _rebase(connection: AsyncConnection, removed: Sequence[Any]) -> None:
    """Note the last of each tenant's events that go."""
    last: dict[int, Any] = {}
    for row in removed:
        if row.tenant_no not in last or last[row.tenant_no].position < row.position:
            last[row.tenant_no] = row
    for number, row in sorted(last.items()):
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


# -- months ---------------------------------------------------------------------------------------------------------


def month_of(ms: int) -> int:
    """The month (UTC) of a time, counted from the year 0; the last of the year 9999 for all that follow."""
    try:
        at = datetime.fromtimestamp(ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return _LAST_MONTH
    return at.year * 12 + at.month - 1


def month_bounds(month: int) -> tuple[int, int]:
    """The first ms of a month, and of the next one."""
    first = _first_ms(month)
    return first, 1 << 62 if month == _LAST_MONTH else _first_ms(month + 1)


def _first_ms(month: int) -> int:
    return int(datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC).timestamp()) * 1000


async def make_months(database: Database, months: Iterable[int]) -> None:
    """Make tables for the months that have none. PostgreSQL alone has them."""
    async with database.writing() as connection:
        # IF NOT EXISTS would be no help against two who do it at the same time.
        await connection.execute(text(f"SELECT pg_advisory_xact_lock({MONTHS_LOCK})"))
        for month in months:
            table = f"events_{month // 12:04d}{month % 12 + 1:02d}"
            if await connection.scalar(text(f"SELECT to_regclass('{table}')")) is None:
                first, next = month_bounds(month)
                # Attached, and not made as a part: for that everybody would have to wait who reads.
                await connection.execute(text(f"CREATE TABLE {table} (LIKE events INCLUDING ALL)"))
                await connection.execute(
                    text(f"ALTER TABLE events ATTACH PARTITION {table} FOR VALUES FROM ({first}) TO ({next})")
                )
