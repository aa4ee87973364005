"""What breaks in the middle of the archive's work leaves nothing half, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from archive_bench import (
    A,
    C,
    Open,
    alike,
    batch,
    dump,
    events_of,
    place,
    verified,
)
from sqlalchemy import event as engine_events

from hub.store.archive import Archive
from hub.store.database import StoreUnavailable
from schemas.cursor import ZERO

EVER = 100_000


@pytest.mark.parametrize("statement", ["partitions", "INSERT INTO tenants", "events", "UPDATE tenants"])
async def test_a_connection_that_breaks_leaves_nothing_half(
    open_database: Open, statement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever statement of the transaction it breaks at; the archive then goes on as if nothing had been."""
    database = await open_database()
    archive, other = Archive(database), await open_database()
    entries = events_of(A, range(20))
    await archive.write([batch(entries[:5])])
    new = events_of(C, range(100, 105))
    before = await dump(other)
    struck = 0

    def strike(connection: object, cursor: object, sql: str, *_: object) -> None:
        nonlocal struck
        if statement in sql and not struck:
            struck = 1
            raise OSError("the line is cut")

    add = database.add_rows

    async def add_and_strike(*arguments: Any) -> None:
        nonlocal struck
        await add(*arguments)
        if not struck:
            struck = 1
            raise OSError("the line is cut")

    if statement == "events":
        monkeypatch.setattr(database, "add_rows", add_and_strike)
    else:
        engine_events.listen(database._writer.sync_engine, "before_cursor_execute", strike)
    with pytest.raises(StoreUnavailable, match="the line is cut"):
        await archive.write([batch([*entries[5:10], *new], place(entries[4]))])
    assert struck
    assert await dump(other) == before

    await archive.write([batch([*entries[5:10], *new], place(entries[4]))])
    assert await verified(archive) == (10, None)
    assert await verified(archive, C) == (5, None)


async def test_a_write_that_is_cancelled_is_whole_or_not_there(open_database: Open) -> None:
    """At whatever point; the next write finds the database as it should be, and a connection to it."""
    database = await open_database()
    archive, other = Archive(database), await open_database()
    entries = events_of(A, range(1200))
    await archive.write([batch(entries[:10])])
    there, kept = place(entries[9]), []

    for moment in range(40):
        at = next(number for number, entry in enumerate(entries) if entry.id > there.id)
        writing = asyncio.ensure_future(archive.write([batch(entries[at : at + 20], there)]))
        await asyncio.wait({writing}, timeout=moment / 2000)
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        # Who looks at an exception later keeps what it was raised in: that must hold nothing up.
        kept.append(writing)

        held = (await Archive(other).places())[0]
        assert held in (there, place(entries[at + 19]))
        there = held
        at = next(number for number, entry in enumerate(entries) if entry.id > there.id)
        assert len((await dump(other))["events"]) == at
        async with asyncio.timeout(5):
            await archive.write([batch(entries[at : at + 5], there)])
        there = place(entries[at + 4])

    assert any(writing.cancelled() for writing in kept)
    stored = [entry for entry in entries if entry.id <= there.id]
    assert await verified(archive) == (len(stored), None)
    assert alike(await archive.read(0, ZERO, EVER), stored)


async def test_many_that_are_cancelled_leave_the_pool_as_it_was(archive: Archive) -> None:
    """Readers and writers that gave up hold no connection back."""
    entries = events_of(A, range(10))
    await archive.write([batch(entries)])
    for round in range(40):
        tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(archive.read(0, ZERO, EVER)) for _ in range(3)]
        tasks.append(asyncio.ensure_future(archive.write([replace(batch(entries, place(entries[-1])), entries=())])))
        for _ in range(round):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with asyncio.timeout(20):
        found = await asyncio.gather(*(archive.read(0, ZERO, EVER) for _ in range(20)))
        assert all(len(page) == 10 for page in found)
        assert await verified(archive) == (10, None)


async def test_a_server_that_ends_a_connection_loses_nothing(open_database: Open, postgres_url: str) -> None:
    """PostgreSQL ends a session in the middle of its transaction; the next write takes a new one."""
    import asyncpg

    database = await open_database()
    if database.sqlite:
        pytest.skip("SQLite has no sessions to end")
    archive = Archive(database)
    entries = events_of(A, range(20))
    await archive.write([batch(entries[:10])])
    admin = await asyncpg.connect(postgres_url)
    # Holds the tenant, so the writer waits in the middle of its transaction, its events inserted.
    hold = admin.transaction()
    await hold.start()
    await admin.execute("SELECT * FROM tenants FOR UPDATE")

    writing = asyncio.ensure_future(archive.write([batch(entries[10:], place(entries[9]))]))
    waits = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE tenants%'"
    pid = None
    async with asyncio.timeout(20):
        while pid is None:
            pid = await _fetched(postgres_url, waits)
    await _fetched(postgres_url, f"SELECT pg_terminate_backend({pid})")
    with pytest.raises(StoreUnavailable, match="terminating connection"):
        await writing
    await hold.rollback()
    await admin.close()

    assert len(await archive.read(0, ZERO, EVER)) == 10
    await archive.write([batch(entries[10:], place(entries[9]))])
    assert await verified(archive) == (20, None)


async def _fetched(url: str, sql: str) -> int | None:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        value: int | None = await connection.fetchval(sql)
        return value
    finally:
        await connection.close()
