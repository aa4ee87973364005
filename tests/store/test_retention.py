"""Old events leave, and the chains hold, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from archive_bench import (
    DAY,
    A,
    B,
    C,
    Open,
    alike,
    batch,
    change,
    event,
    events_of,
    month_start,
    place,
    verified,
    write_next,
)
from sqlalchemy import text

from hub.core.entry import Entry
from hub.store.archive import Archive, Batch, Fenced, Place
from hub.store.database import Database, StoreUnavailable
from schemas.cursor import ZERO, StreamId

EVER = 100_000


async def test_old_events_leave_and_the_chain_holds(archive: Archive, database: Database) -> None:
    """What left is counted, the tenant's base is its last; reading begins behind it, and writing goes on."""
    entries = [event(number, (A, C)[number % 2], sequence=number // 2 + 1) for number in range(100)]
    entries = [_at(entry, month_start() + number * DAY) for number, entry in enumerate(entries)]
    elsewhere = [_at(entry, month_start() + number * DAY) for number, entry in enumerate(events_of(B, range(500, 600)))]
    await archive.write([batch(entries[:90]), batch(elsewhere, partition=1)])
    kept = [entry for entry in entries if entry.id.ms >= month_start(1)]
    gone = len(entries) - len(kept)

    assert await archive.expire(month_start(1)) == 2 * gone
    assert await archive.expire(month_start(1)) == 0

    assert alike(await archive.read(0, ZERO, EVER), kept[:-10])
    there = await archive.tenants()
    assert there[A].base.sequence == (gone + 1) // 2
    assert there[C].base.sequence == gone // 2
    assert max(there[A].base.id, there[C].base.id) == entries[gone - 1].id
    assert there[B].base.sequence == gone
    await archive.write([batch(entries[90:], place(entries[89]))])
    assert await verified(archive, A) == (50 - (gone + 1) // 2, None)
    assert await verified(archive, C) == (50 - gone // 2, None)
    assert await verified(archive, B) == (100 - gone, None)
    assert await archive.find(A, entries[0].event_id) is None

    # All of it, then on from there.
    assert await archive.expire(month_start(12)) == 200 - 2 * gone
    assert await archive.read(0, ZERO, EVER) == []
    assert await verified(archive, A) == (0, None)
    later = [_at(event(1000, sequence=51), month_start(12))]
    await archive.write([batch(later, place(entries[-1]))])
    assert await verified(archive, A) == (1, None)
    await change(database, "UPDATE events SET revision = 99")
    assert (await verified(archive, A))[1] is not None


def _at(entry: Entry, ms: int) -> Entry:
    return event(
        entry.sequence,
        entry.tenant_id,
        sequence=entry.sequence,
        id=StreamId(ms, 0),
        event_id=entry.event_id,
        entity=entry.entity,
    )


async def test_expiry_removes_by_position_where_places_overlap(archive: Archive) -> None:
    """The base is the event with the greatest position that left, whatever its place; the rest is checked from it."""
    first = [event(number, id=StreamId(month_start() + number * DAY, 0)) for number in range(10)]
    second = [
        event(100 + number, sequence=11 + number, epoch=8, id=StreamId(month_start(-1) + number * DAY, 0))
        for number in range(3)
    ]
    third = [event(200, sequence=14, epoch=8, id=StreamId(month_start(1), 0))]
    await archive.write([batch(first)])
    await archive.write([Batch(0, place(first[-1]), second, 8, first[-1].id)])
    await archive.write([Batch(0, Place(8, first[-1].id), third, 8, third[0].id)])

    assert await archive.expire(month_start()) == 3
    assert (await archive.tenants())[A].base.sequence == 13
    assert await verified(archive) == (1, None)
    assert await archive.expire(month_start(1)) == 10
    assert (await archive.tenants())[A].base.sequence == 13
    assert await verified(archive) == (1, None)


async def test_months_are_dropped_whole(archive: Archive, database: Database) -> None:
    """On PostgreSQL a month that has not ended stays, and no table is left of one that went; it may come again."""
    if database.sqlite:
        pytest.skip("SQLite has no months")
    entries = [event(number, id=StreamId(month_start() + number * DAY, 0)) for number in range(90)]
    await archive.write([batch(entries)])
    assert await _months(database) == ["events_202609", "events_202610", "events_202611"]

    assert await archive.expire(month_start(1) - 1) == 0
    assert await archive.expire(month_start(1) + DAY) == 30
    assert await _months(database) == ["events_202610", "events_202611"]

    late = [event(500, sequence=91, id=StreamId(month_start() + 5, 0), epoch=8)]
    await archive.write([Batch(0, place(entries[-1]), late, 8, entries[-1].id)])
    assert await _months(database) == ["events_202609", "events_202610", "events_202611"]
    assert await verified(archive) == (61, None)


async def test_a_month_that_another_process_dropped_is_made_again(open_database: Open) -> None:
    """A writer that knows it is refused once, and then makes it."""
    one, two = Archive(await open_database()), Archive(await open_database())
    entries = events_of(A, range(20))
    await one.write([batch(entries[:10])])
    await two.expire(month_start(1))
    with contextlib.suppress(StoreUnavailable):
        await one.write([batch(entries[10:], place(entries[9]))])
    with contextlib.suppress(Fenced):
        await one.write([batch(entries[10:], place(entries[9]))])
    assert alike(await one.read(0, ZERO, EVER), entries[10:])
    assert await verified(one) == (10, None)


async def test_writers_and_readers_go_on_while_months_leave(open_database: Open) -> None:
    """Nobody waits for another in a circle."""
    writer, keeper = Archive(await open_database()), Archive(await open_database())
    old = [event(number, id=StreamId(month_start(-6) + number * 6 * DAY, 0)) for number in range(30)]
    held = await write_next(writer, old, None)
    new = [event(100 + number, sequence=31 + number, id=StreamId(month_start(1) + number, 0)) for number in range(200)]

    async def write() -> None:
        nonlocal held
        for at in range(0, 200, 5):
            held = await write_next(writer, new[at : at + 5], held)

    async def read() -> None:
        while not (page := await keeper.read(0, new[0].id, EVER)) or page[-1].id != new[-1].id:
            await keeper.read(0, ZERO, 50, tenants=[A])

    _, _, gone = await asyncio.gather(write(), read(), keeper.expire(month_start(-1)))
    assert gone > 20
    assert (await verified(writer))[1] is None


async def _months(database: Database) -> list[str]:
    query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'events'::regclass ORDER BY 1"
    async with database.reading() as connection:
        return [row[0] for row in await connection.execute(text(query))]
