"""From the archive to the states: by any way, in any batches, after any crash, the same."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from archive_bench import EPOCH, T0, Open, change
from projected import PARTITIONS, History, kept, opened, partition_of, projected, said

from hub.services import projecting, projector
from hub.services.projecting import Projection
from hub.services.projector import Projector, rebuild
from hub.store import entities as stored_entities
from hub.store.archive import Batch, Fenced, Place
from hub.store.database import Database, StoreUnavailable
from hub.store.entities import Superseded
from hub.store.store import Store
from schemas.cursor import StreamId


@pytest.fixture
async def store(database: Database) -> Store:
    """A store with nothing in it."""
    return Store(database)


async def finished(running: Projector) -> None:
    """Let it do what there is to do."""
    while await running.round():
        pass


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition is true."""
    async with asyncio.timeout(20):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("seed", range(4))
async def test_states_are_what_the_events_say(store: Store, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """In batches of any size, remembered or not, by one projection or by several after each other."""
    history = History(seed)
    generation = await opened(store.entities)
    projection = Projection(store, generation, current=True)
    for _ in range(12):
        monkeypatch.setattr(projecting, "MAX_BATCH", history.random.choice((1, 3, 10, 1000)))
        if history.random.random() < 0.5:
            projection = Projection(
                store, generation, current=True, cache_bytes=history.random.choice((0, 3000, 1 << 20))
            )
        await history.archive(store, history.more(history.random.randrange(1, 60)))
        await projected(projection)
        assert await kept(store) == history.states()
    assert projection.position == len(history.entries)


async def test_old_versions_are_stored_as_the_newest(store: Store) -> None:
    """An order of version 1 is kept as version 2 says it."""
    history = History(0, ["naha"])
    data = {"order_id": "1", "room_number": "301", "item": "tea", "quantity": 2, "unit_price": 500}
    await history.archive(store, [said(0, "naha", 1, 1, "order:1", data, type="order", action="placed")])
    await projected(Projection(store, await opened(store.entities), current=True))
    _, [(_, row)] = await store.entities.page(1, 10)
    assert row[4] == 2
    assert b'"total_amount":1000' in row[7]


async def test_one_of_two_projectors_gets_on(open_database: Open) -> None:
    """However they take turns, each event is folded once, and the one that was late goes on from there."""
    first, second = Store(await open_database()), Store(await open_database())
    history = History(7)
    generation = await opened(first.entities)
    one, two = Projection(first, generation, current=True), Projection(second, generation, current=True)
    fenced = 0
    for turn in range(10):
        await history.archive(first, history.more(30))
        for projection in (one, two) if turn % 2 else (two, one):
            try:
                await projected(projection)
            except Fenced:
                fenced += 1
                await projected(projection)
        assert await kept(first) == history.states()
    assert fenced


async def test_a_commit_that_was_not_answered_is_not_folded_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection broke after the commit: the next step sees where the store is."""
    history = History(3)
    await history.archive(store, history.more(50))
    projection = Projection(store, await opened(store.entities), current=True)
    write = store.entities.write

    async def broken(*args: Any, **more: Any) -> None:
        await write(*args, **more)
        raise StoreUnavailable("gone")

    monkeypatch.setattr(store.entities, "write", broken)
    with pytest.raises(StoreUnavailable):
        await projection.step()
    monkeypatch.setattr(store.entities, "write", write)
    await history.archive(store, history.more(20))
    await projected(projection)
    assert await kept(store) == history.states()


async def test_places_that_were_passed_are_followed_too(store: Store) -> None:
    """A server took over with its clock behind: its events lie before those that are projected, and come after them."""
    history = History(5, ["naha", "t-4"])
    await history.archive(store, history.more(40))
    projection = Projection(store, await opened(store.entities), current=True)
    await projected(projection)
    back = [history.more(1, epoch=EPOCH + 1, at=5 + 2 * number)[0] for number in range(10)]
    await history.archive(store, back)
    assert all(entry.id < StreamId(T0 + 39, 0) for entry in back)
    await projected(projection)
    assert await kept(store) == history.states()
    await history.archive(store, history.more(10, epoch=EPOCH + 1))
    await projected(projection)
    assert await kept(store) == history.states()
    await rebuild(store)
    assert await kept(store) == history.states()


async def test_numbers_that_begin_anew_forget_nothing(store: Store) -> None:
    """The log was emptied and counts revisions from 1 again: what was said before still holds."""
    history = History(0, ["naha"])
    projection = Projection(store, await opened(store.entities), current=True, cache_bytes=0)
    facts: list[dict[str, Any]] = [{"a": 1, "b": 1}, {"b": 2}, {"b": 3}]
    for number, (data, epoch) in enumerate(zip(facts, (EPOCH, EPOCH + 1, EPOCH + 1), strict=True)):
        entry = said(number, "naha", number + 1, 1 + number // 2, "reservation:R1", data, epoch=epoch)
        history.entries.append(entry)
        await history.archive(store, [entry])
        await projected(projection)
    assert await kept(store) == history.states()
    assert next(iter((await kept(store)).values()))["data"] == {"a": 1, "b": 3}


async def test_an_event_stored_twice_is_folded_once(store: Store) -> None:
    """At its second place stands a row without body: the tenant moves over it, the state does not change."""
    history = History(6, ["naha"])
    first = history.more(3)
    again = said(9, "naha", 4, 9, first[0].entity, {"a": 9})
    again.event_id = first[0].event_id
    await history.archive(store, [*first, again])
    await projected(Projection(store, await opened(store.entities), current=True))
    assert await kept(store) == history.states()
    assert (await store.entities.page(1, 1))[0].sequence == 4


async def test_a_missing_or_foreign_row_stops_nobody(store: Store, database: Database) -> None:
    """Somebody removed one event and spoilt another: the rest is projected, also of the same tenant."""
    history = History(8, ["naha"])
    entries = history.more(30)
    await history.archive(store, entries)
    await change(database, "DELETE FROM events WHERE position = 10")
    await change(database, "UPDATE events SET body = :body WHERE position = 20", body=b"[not json")
    await projected(Projection(store, await opened(store.entities), current=True))
    assert await kept(store) == history.states([*entries[:9], *entries[10:19], *entries[20:]])


async def test_a_rebuild_leaves_readers_undisturbed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old states are read, whole, until the new ones are; then the projector goes on with those."""
    monkeypatch.setattr(projecting, "MAX_BATCH", 20)
    monkeypatch.setattr(stored_entities, "REMOVED_AT_ONCE", 5)
    history = History(1)
    await history.archive(store, history.more(200))
    running = Projector(store)
    await finished(running)
    old, wanted = await store.entities.current(), history.states()
    told: list[tuple[int, int]] = []
    seen: list[bool] = []

    def progress(done: int, every: int) -> None:
        told.append((done, every))

    reading = asyncio.Event()

    async def readers() -> None:
        while not reading.is_set():
            seen.append(await kept(store) == wanted)
            await asyncio.sleep(0)

    watching = asyncio.create_task(readers())
    assert await rebuild(store, progress) == 200
    reading.set()
    await watching
    assert all(seen)
    assert len(seen) > 3
    assert told == sorted(told)
    assert (told[0], told[-1]) == ((20, 200), (200, 200))
    assert await store.entities.current() != old
    assert await store.entities.others() == []

    await history.archive(store, history.more(30))
    with pytest.raises(Superseded):
        await finished(running)
    await finished(Projector(store))
    assert await kept(store) == history.states()


async def test_a_rebuild_that_was_cut_short_is_begun_anew(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whatever step it ended, the old states are there; the next one clears up and comes to its end."""
    monkeypatch.setattr(projecting, "MAX_BATCH", 20)
    monkeypatch.setattr(stored_entities, "REMOVED_AT_ONCE", 5)
    history = History(2)
    await history.archive(store, history.more(100))
    await projected(Projection(store, await opened(store.entities), current=True))

    class Killed(Exception):
        """As good as kill -9."""

    for step in range(1, 8):
        calls = 0

        def dying(*_: int, step: int = step) -> None:
            nonlocal calls
            calls += 1
            if calls == step:
                raise Killed

        try:
            await rebuild(store, dying)
        except Killed:
            assert len(await store.entities.others()) == 1
        assert await kept(store) == history.states()
    await rebuild(store)
    assert await store.entities.others() == []
    assert await kept(store) == history.states()


async def test_the_later_of_two_rebuilds_wins(open_database: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The earlier one is told, and spoils nothing."""
    monkeypatch.setattr(projecting, "MAX_BATCH", 10)
    first, second = Store(await open_database()), Store(await open_database())
    history = History(4)
    await history.archive(first, history.more(100))
    await projected(Projection(first, await opened(first.entities), current=True))
    started, over = asyncio.Event(), asyncio.Event()
    step = Projection.step

    async def held(projection: Projection) -> int:
        done = await step(projection)
        if not started.is_set():
            started.set()
            await over.wait()
        return done

    monkeypatch.setattr(Projection, "step", held)
    earlier = asyncio.create_task(rebuild(first))
    await started.wait()
    assert await rebuild(second) == 100
    over.set()
    with pytest.raises(Superseded):
        await earlier
    assert await kept(first) == history.states()
    assert await first.entities.others() == []


async def test_a_rebuild_ends_while_events_keep_coming(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It switches when little is missing, and what is missing the projector makes up for."""
    monkeypatch.setattr(projecting, "MAX_BATCH", 50)
    monkeypatch.setattr(projector, "MAX_BATCH", 50)
    monkeypatch.setattr(projector, "SMALL_LAG", 50)
    history = History(9)
    await history.archive(store, history.more(300))
    waiting = 0
    step = Projection.step

    async def publishing(projection: Projection) -> int:
        nonlocal waiting
        waiting += 1
        await history.archive(store, history.more(10))
        return await step(projection)

    monkeypatch.setattr(Projection, "step", publishing)
    assert await rebuild(store) >= 300
    monkeypatch.setattr(Projection, "step", step)
    assert 6 <= waiting <= 12
    running = Projector(store)
    await finished(running)
    assert await kept(store) == history.states()


async def test_a_rebuild_keeps_what_only_expired_events_said(store: Store, database: Database) -> None:
    """Retention took the oldest events: what they alone had said stays, also of entities that have no others."""
    history = History(11)
    await history.archive(store, history.more(150))
    await projected(Projection(store, await opened(store.entities), current=True))
    wanted = history.states()
    # In PostgreSQL the retention drops whole months; what it leaves behind is the same as after this.
    for name, one in (await store.archive.tenants()).items():
        gone = [entry for entry in history.entries if entry.tenant_id == name][: one.position * 2 // 3]
        await change(
            database, "DELETE FROM events WHERE tenant_no = :n AND position <= :p", n=one.tenant_no, p=len(gone)
        )
        await change(
            database,
            "UPDATE tenants SET base_position = :p, base_epoch = :e, base_sequence = :p, base_ms = :ms, base_n = 0 "
            "WHERE tenant_no = :n",
            n=one.tenant_no,
            p=len(gone),
            e=EPOCH,
            ms=gone[-1].id.ms,
        )
    left = sum(one.position - one.base_position for one in (await store.archive.tenants()).values())
    assert await rebuild(store) == left
    assert await kept(store) == wanted
    await history.archive(store, history.more(50))
    await projected(Projection(store, await store.entities.open(T0), current=True))
    assert await kept(store) == history.states()


async def test_the_task_follows_the_archive(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Woken it projects at once; a store that is away, or a rebuild, holds it up and no more."""
    monkeypatch.setattr(projector, "IDLE_S", 3600)
    history = History(12)
    running = Projector(store)
    running.start()
    try:
        await history.archive(store, history.more(40))
        running.wake()

        async def done() -> bool:
            return await kept(store) == history.states()

        await until(done)
        places = store.archive.places
        asked = asyncio.Event()

        async def away() -> dict[int, Place]:
            asked.set()
            raise StoreUnavailable("away")

        monkeypatch.setattr(store.archive, "places", away)
        await history.archive(store, history.more(40))
        running.wake()
        await asked.wait()
        monkeypatch.setattr(store.archive, "places", places)
        await until(done)

        await rebuild(store)
        await history.archive(store, history.more(40))
        running.wake()
        await until(done)
        await history.archive(store, history.more(10))
    finally:
        await running.stop()
    assert await kept(store) == history.states()


async def test_the_partitions_of_one_step_share_a_transaction(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few events in each of several partitions are one commit, not one each."""
    history = History(13)
    entries = history.more(60)
    assert {partition_of(entry.tenant_id) for entry in entries} == set(range(PARTITIONS))
    await history.archive(store, entries)
    projection = Projection(store, await opened(store.entities), current=True)
    assert await projection.step() == 60
    assert await projection.step() == 0
    assert await kept(store) == history.states()


async def test_a_tenant_of_another_partition_count_is_none_of_ours(store: Store) -> None:
    """An archive without places for a partition, as after a partition was never used, is no reason to fail."""
    entry = said(0, "naha", 1, 1, "room:1", {"a": 1})
    await store.archive.write([Batch(5, Place(0, StreamId(0, 0)), [entry], EPOCH, entry.id)])
    await projected(Projection(store, await opened(store.entities), current=True))
    assert (await store.entities.page(1, 10))[0].position == 1
