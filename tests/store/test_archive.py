"""The archive's contract, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from archive_bench import (
    EPOCH,
    T0,
    A,
    B,
    C,
    Open,
    alike,
    batch,
    dump,
    event,
    events_of,
    place,
    verified,
    write_next,
)

from hub.core.entry import Entry
from hub.store.archive import Archive, Batch, Fenced, Place
from schemas.cursor import ZERO, StreamId

EVER = 100_000


async def test_what_was_written_is_read_in_order(archive: Archive) -> None:
    """Pages follow each other by place, over both tenants of a partition, with every field as it was."""
    entries = [event(number, (A, C)[number % 2], sequence=number // 2 + 1) for number in range(100)]
    assert await archive.write([batch(entries[:60])]) == 60
    assert await archive.write([batch(entries[60:], place(entries[59]))]) == 40

    assert alike(await archive.read(0, ZERO, EVER), entries)
    page = await archive.read(0, entries[9].id, 20)
    assert alike(page, entries[10:30])
    assert alike(await archive.read(0, entries[9].id, 20, before=entries[15].id), entries[10:15])
    assert await archive.read(0, entries[-1].id, 20) == []
    assert await archive.read(1, ZERO, 20) == []
    assert (await archive.places())[0] == place(entries[-1])


async def test_tenants_are_read_apart(archive: Archive) -> None:
    """One, some by their own indexes, many by their partition's; those of another partition are not in this one."""
    names = [f"t{number}" for number in range(12)]
    entries = [event(number, names[number % 12], sequence=number // 12 + 1) for number in range(240)]
    elsewhere = events_of(B, range(1000, 1010))
    await archive.write([batch(entries), batch(elsewhere, partition=1)])

    def of(*tenants: str) -> list[Entry]:
        return [entry for entry in entries if entry.tenant_id in tenants]

    fresh = archive
    assert alike(await fresh.read(0, ZERO, EVER, tenants=["t3"]), of("t3"))
    assert alike(await fresh.read(0, ZERO, 7, tenants=["t3", "t9"]), of("t3", "t9")[:7])
    assert alike(await fresh.read(0, entries[50].id, EVER, tenants=names[:10]), of(*names[:10])[43:])
    assert await fresh.read(0, ZERO, EVER, tenants=["unknown"]) == []
    assert await fresh.read(0, ZERO, EVER, tenants=[]) == []
    assert alike(await fresh.read(0, ZERO, EVER, tenants=[B, "t0"]), of("t0"))
    assert alike(await fresh.read(1, ZERO, EVER, tenants=[B, "t0"]), elsewhere)


async def test_entries_at_one_place_come_together(archive: Archive) -> None:
    """A history that began anew while a clock was behind may use a place again: no page ends between the two."""
    first = events_of(A, range(10))
    again = [event(100 + at, A, sequence=11 + at, id=first[at].id, epoch=8) for at in range(10)]
    await archive.write([batch(first)])
    await archive.write([Batch(0, place(first[-1]), again, 8, first[-1].id)])

    for count in (1, 2, 3, 7):
        found: list[Entry] = []
        while page := await archive.read(0, found[-1].id if found else ZERO, count, tenants=[A]):
            found += page
        assert sorted(one.sequence for one in found) == list(range(1, 21))
        assert [one.id for one in found] == sorted(one.id for one in found)
    assert await verified(archive) == (20, None)


async def test_a_repeated_event_leaves_a_placeholder(archive: Archive) -> None:
    """An event_id that is stored, or twice in a batch, keeps its first place; its later ones have no body."""
    one, two = event(0), event(1, event_id=event(0).event_id)
    three, four = event(2), event(3, event_id=event(0).event_id)
    other = event(4, C, sequence=1, event_id=event(0).event_id)
    assert await archive.write([batch([one, two])]) == 1
    assert await archive.write([batch([three, four, other], place(two))]) == 2

    found = await archive.read(0, ZERO, EVER)
    assert [one.raw != b"" for one in found] == [True, False, True, False, True]
    assert [one.sequence for one in found] == [1, 2, 3, 4, 1]
    assert not found[1].readable
    held = await archive.find(A, one.event_id)
    assert held is not None
    assert alike([held], [one])
    assert await verified(archive) == (4, None)
    assert (await archive.tenants())[A].position == 4


async def test_of_two_archivers_one_gets_on(open_database: Open) -> None:
    """Who does not stand where the partition stands is fenced, and nothing of its transaction is kept."""
    one, two = Archive(await open_database()), Archive(await open_database())
    entries = events_of(A, range(30))
    await one.write([batch(entries[:10])])
    before = await dump(await open_database())

    with pytest.raises(Fenced):
        await two.write([batch(events_of(B, range(50, 60)), partition=1), batch(entries[:20])])
    assert await dump(await open_database()) == before

    # It learns the place and goes on where the other was; then the other one is fenced.
    assert (await two.places())[0] == place(entries[9])
    await two.write([batch(entries[10:20], place(entries[9]))])
    with pytest.raises(Fenced):
        await one.write([batch(entries[10:20], place(entries[9]))])
    await one.write([batch(entries[20:], (await one.places())[0])])
    assert await verified(one) == (30, None)
    assert alike(await two.read(0, ZERO, EVER), entries)


async def test_archivers_that_race_store_each_event_once(open_database: Open) -> None:
    """Four at the same time, each as fast as it can: the history is whole, the chain holds."""
    entries = events_of(A, range(60))

    async def run(archive: Archive) -> int:
        written = 0
        while True:
            held = (await archive.places()).get(0, Place(0, ZERO))
            rest = [entry for entry in entries if entry.id > held.id][:7]
            if not rest:
                return written
            with contextlib.suppress(Fenced):
                written += await archive.write([batch(rest, held)])

    archives = [Archive(await open_database()) for _ in range(4)]
    assert sum(await asyncio.gather(*map(run, archives))) == 60
    assert alike(await archives[0].read(0, ZERO, EVER), entries)
    assert await verified(archives[0]) == (60, None)


async def test_archivers_of_several_partitions_do_not_disturb_each_other(open_database: Open) -> None:
    """Each begins a partition, makes a tenant and a month, all at once."""
    archives = [Archive(await open_database()) for _ in range(4)]
    names = [f"t{number}" for number in range(4)]
    await asyncio.gather(
        *(
            archive.write([batch(events_of(name, range(number * 10, number * 10 + 10)), partition=number)])
            for number, (archive, name) in enumerate(zip(archives, names, strict=True))
        )
    )
    assert [await verified(archives[0], name) for name in names] == [(10, None)] * 4


async def test_what_is_no_event_does_not_stop_the_archive(archive: Archive) -> None:
    """What others wrote into the stream may be more than a column holds: it is left out, and the place moves on."""
    strange = [
        event(0, "x" * 101),
        event(1, entity="room:\0"),
        event(2, sequence=1 << 63),
        event(3, revision=1 << 63),
    ]
    entries = [*strange, event(4, sequence=1), event(5, sequence=2, id=StreamId(99_999_999_999_999_999, 5))]
    assert await archive.write([batch(entries)]) == 2
    assert alike(await archive.read(0, ZERO, EVER), entries[4:])
    assert await verified(archive) == (2, None)


async def test_a_batch_may_be_large(archive: Archive) -> None:
    """More events than SQLite takes parameters."""
    entries = events_of(A, range(35_000))
    assert await archive.write([batch(entries)]) == 35_000
    assert await verified(archive) == (35_000, None)


async def test_events_are_found(archive: Archive) -> None:
    """By id in any writing, by entity, by time, by place; and not in another tenant."""
    entries = events_of(A, range(20))
    await archive.write([batch(entries)])

    found = await archive.find(A, entries[7].event_id.upper())
    assert found is not None
    assert alike([found], [entries[7]])
    assert await archive.find(C, entries[7].event_id) is None
    assert await archive.find(A, "no uuid at all") is None

    room = [entry for entry in entries if entry.entity == "room:R2"]
    assert alike(await archive.history(A, "room:R2", EVER), room)
    assert alike(await archive.history(A, "room:R2", 2, room[0].id), room[1:3])
    assert await archive.history(A, "room:none", EVER) == []
    assert await archive.history(B, "room:R2", EVER) == []
    assert await archive.revisions(A, 2, "room:R1") == [
        ("room:R2", 4, entries[17].id),
        ("room:R3", 4, entries[18].id),
    ]

    after = await archive.first_at(A, T0 + 5)
    assert after is not None
    assert alike(await archive.read(0, after, 1), [entries[5]])
    assert await archive.first_at(A, T0 + 20) is None
    assert await archive.first_at(B, T0) is None
    assert await archive.holds(0, A, 8, entries[7].id)
    assert not await archive.holds(0, A, 9, entries[7].id)
    assert not await archive.holds(0, B, 8, entries[7].id)
    assert await archive.back(0, 5) == entries[14].id
    assert await archive.back(0, 50) == ZERO


async def test_heads_are_told(archive: Archive, open_database: Open) -> None:
    """By the process that wrote, and by another that asks."""
    entries = events_of(A, range(3))
    await archive.write([batch(entries)])
    other = Archive(await open_database())
    assert other.heads() == {}
    await other.recall()
    assert archive.heads() == other.heads()
    head = archive.heads()[A]
    assert (head.epoch, head.sequence, head.id) == (EPOCH, 3, entries[-1].id)


async def test_pages_of_several_tenants_are_of_one_moment(archive: Archive) -> None:
    """While somebody writes both tenants' events, no reader sees a later one without the earlier ones."""
    total = 400
    entries = [event(number, (A, C)[number % 2], sequence=number // 2 + 1) for number in range(total)]

    async def write() -> None:
        held = None
        for at in range(0, total, 5):
            held = await write_next(archive, entries[at : at + 5], held)

    async def read() -> list[Entry]:
        found: list[Entry] = []
        while len(found) < total:
            found += await archive.read(0, found[-1].id if found else ZERO, 50, tenants=[A, C])
        return found

    _, *found = await asyncio.gather(write(), read(), read())
    assert all(alike(one, entries) for one in found)
