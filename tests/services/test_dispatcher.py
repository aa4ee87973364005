"""The one reader of a process: what it routes, what it remembers, whom it wakes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from feed_rig import PARTITIONS, TENANTS, LogServer, Rig, append, turns, until

from hub.core.entry import Entry
from hub.core.routing import Audience, Interest
from hub.services import dispatcher
from hub.services.dispatcher import Position, Ring
from schemas.cursor import ZERO, StreamId

pytestmark = pytest.mark.server

EVERYTHING = Audience(frozenset({Interest(None, frozenset({"*"}))}), "hub")


class Listener:
    """A member that keeps what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[str, int]] = []
        self.writes = 0

    def deliver(self, buffer: bytes, events: Sequence[Entry], before: Position) -> bool:
        """Take everything."""
        self.got += [(entry.tenant_id, entry.sequence) for entry in events]
        self.writes += 1
        return True


def listen(rig: Rig) -> Listener:
    """Join for everything."""
    made = Listener()
    rig.dispatcher.fanout.join(made, EVERYTHING)
    return made


async def test_every_hub_sees_every_event(rig: Rig, log_server: LogServer) -> None:
    """Two hubs on one log both route all events of all partitions, each tenant's in order."""
    other = await Rig(log_server, rig.prefix).start()
    try:
        one, two = listen(rig), listen(other)
        for _ in range(10):
            await rig.publish(*[append(tenant) for tenant in TENANTS for _ in range(20)])
        await until(lambda: len(one.got) == len(two.got) == 800)
        for listener in (one, two):
            for tenant in TENANTS:
                assert [number for name, number in listener.got if name == tenant] == list(range(1, 201))
    finally:
        await other.stop()


async def test_a_start_begins_at_the_end(rig: Rig, log_server: LogServer) -> None:
    """What was there before a hub started is not routed; heads and positions are known at once."""
    published = await rig.publish(*[append(tenant) for tenant in TENANTS])
    other = await Rig(log_server, rig.prefix).start()
    try:
        assert other.dispatcher.connected
        assert {tenant: other.dispatcher.head(tenant).sequence for tenant in TENANTS} == dict.fromkeys(TENANTS, 1)
        assert sorted(other.dispatcher.tenants()) == sorted(TENANTS)
        listener = listen(other)
        await rig.publish(append())
        await until(lambda: listener.got)
        assert listener.got == [(TENANTS[0], 2)]
        assert published[0].sequence == 1
    finally:
        await other.stop()
    assert all(task.done() for task in other.dispatcher._tasks)


def caught_up(rig: Rig, last: int) -> bool:
    """Whether a hub has routed the first tenant's event `last`."""
    return rig.dispatcher.head(TENANTS[0]).sequence == last


def level(one: Rig, other: Rig) -> bool:
    """Whether two hubs have read the same."""
    return one.dispatcher.position == other.dispatcher.position


def told(gaps: list[Any], *gap: Any) -> None:
    """Note a gap."""
    gaps.append(gap)


async def test_appends_during_a_start_are_no_gap(rig: Rig, log_server: LogServer) -> None:
    """A hub that starts while events are stored neither misses one after its start nor sees a hole."""
    for _ in range(5):
        writing = asyncio.create_task(rig.publish(*[append(TENANTS[n % 4]) for n in range(400)]))
        await turns(30)
        other = Rig(log_server, rig.prefix)
        gaps: list[Any] = []
        await other.start()
        other.dispatcher.on_gap = partial(told, gaps)
        listener = listen(other)
        try:
            await writing
            last = max(number for tenant, number in rig.published if tenant == TENANTS[0])
            await until(partial(caught_up, other, last))
            await until(partial(level, rig, other))
            assert gaps == []
            for tenant in TENANTS:
                mine = [number for name, number in listener.got if name == tenant]
                assert mine == list(range(mine[0], mine[0] + len(mine))) if mine else True
        finally:
            await other.stop()


async def test_what_others_wrote_does_not_stop_it(rig: Rig) -> None:
    """Entries that are not the hub's, in fields or in content, are passed over; the next event is routed."""
    listener = listen(rig)
    partition = rig.log.partition(TENANTS[0])
    key = rig.log.keys.events(partition)
    await rig.publish(append())
    ((_, fields),) = await rig.log.source.client.execute_command("XRANGE", key, "-", "+")

    def but(name: bytes, value: bytes) -> list[bytes]:
        changed = list(fields)
        changed[changed.index(name) + 1] = value
        return changed

    for wrong in (
        [b"event_type", b"room", b"event_data", b"{}", b"timestamp", b"1"],
        but(b"sequence", b"many"),
        but(b"timestamp", b""),
        but(b"entity", b"\xff"),
        [*but(b"event_data", b"{")[:-1], b"2"],
        [*but(b"event_data", b"[]")[:-1], b"3"],
    ):
        await rig.log.source.client.execute_command("XADD", key, "*", *wrong)
    sequences = rig.log.keys.sequences(partition)
    held = (await rig.log.source.client.hget(sequences, TENANTS[0])).decode().split()
    await rig.log.source.client.hset(sequences, TENANTS[0], f"3 {held[1]}")
    await rig.publish(append(), append(TENANTS[1]))
    await until(lambda: len(listener.got) == 3)
    assert sorted(listener.got) == [(TENANTS[0], 1), (TENANTS[0], 4), (TENANTS[1], 1)]
    assert rig.dispatcher.connected


async def test_a_broken_connection_is_taken_up_again(rig: Rig) -> None:
    """When the server drops the reader, it goes on where it was, and tells no gap."""
    listener, gaps = listen(rig), []
    rig.dispatcher.on_gap = lambda *told: gaps.append(told)
    await rig.publish(append())
    await until(lambda: listener.got)
    client = rig.log.source.client
    for info in await client.client_list():
        if info["cmd"].startswith("xread"):
            await client.client_kill(info["addr"])
    await until(lambda: not rig.dispatcher.connected)
    await rig.publish(append(), append())
    await until(lambda: len(listener.got) == 3)
    assert rig.dispatcher.connected
    assert (listener.got, gaps) == ([(TENANTS[0], number) for number in (1, 2, 3)], [])


async def test_a_log_trimmed_while_away_is_no_loss(rig: Rig) -> None:
    """A stream that was trimmed to nothing while the connection was broken has lost nothing that was not finished."""
    gaps: list[Any] = []
    rig.dispatcher.on_gap = lambda *told: gaps.append(told)
    await rig.publish(append())
    await rig.routed()
    await rig.log.source.client.execute_command(
        "XTRIM", rig.log.keys.events(rig.log.partition(TENANTS[0])), "MAXLEN", 0
    )
    rig.dispatcher._away.update(range(PARTITIONS))
    listener = listen(rig)
    await rig.publish(append())
    await until(lambda: listener.got and rig.dispatcher.connected)
    assert (listener.got, gaps) == ([(TENANTS[0], 2)], [])


async def test_waiters_are_woken_by_their_tenants(rig: Rig) -> None:
    """A wait ends with the next event of its tenants, of any tenant without a list, and when the reader stops."""
    mine = asyncio.create_task(rig.dispatcher.wait([TENANTS[0], TENANTS[2]]))
    others = asyncio.create_task(rig.dispatcher.wait([TENANTS[1]]))
    any_one = asyncio.create_task(rig.dispatcher.wait(None))
    none = asyncio.create_task(rig.dispatcher.wait([]))
    await turns(2)
    await rig.publish(append(TENANTS[2]))
    async with asyncio.timeout(10):
        await mine
        await any_one
    assert not others.done()
    others.cancel()
    await asyncio.gather(others, return_exceptions=True)
    last = asyncio.create_task(rig.dispatcher.wait([TENANTS[1]]))
    await turns(2)
    none.cancel()
    await rig.dispatcher.stop()
    async with asyncio.timeout(10):
        await last
        await rig.dispatcher.wait(None)
    assert rig.dispatcher._waiters == {}


async def test_recent_entries_are_remembered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory is read from there up to the position; what is no longer is read from the log."""
    monkeypatch.setattr(dispatcher, "RING_ENTRIES", 3)
    start = rig.dispatcher.position
    await rig.publish(*[append() for _ in range(5)])
    await rig.routed()
    partition = rig.log.partition(TENANTS[0])
    read = rig.dispatcher.read
    assert rig.dispatcher.recent(partition, start[partition], 10) is None
    assert [entry.sequence for entry in await read(partition, start[partition], 10)] == [1, 2, 3, 4, 5]
    second = (await read(partition, start[partition], 2))[-1].id
    remembered = rig.dispatcher.recent(partition, second, 10)
    assert remembered is not None
    assert [entry.sequence for entry in remembered] == [3, 4, 5]
    assert [entry.sequence for entry in await read(partition, second, 2)] == [3, 4]
    assert rig.dispatcher.recent(partition, rig.dispatcher.position[partition], 10) == []


def test_the_ring_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither entries nor bytes grow past their limits, and what fell out is not taken for an end."""
    monkeypatch.setattr(dispatcher, "RING_BYTES", 1000)
    ring = Ring(ZERO)
    for n in range(1, 11):
        ring.push(Entry(StreamId(n, 0), 1, "t", n, 1, "room", "a", "room:1", "e", 1, b"x" * 300))
    assert ring.since == StreamId(7, 0)
    assert ring.after(StreamId(6, 5), 10) is None
    kept = ring.after(StreamId(7, 0), 10)
    assert kept is not None
    assert [entry.sequence for entry in kept] == [8, 9, 10]


def test_nothing_lies_between_an_entry_and_the_place_before_it() -> None:
    """`previous` is smaller, also across a millisecond."""
    assert StreamId(5, 3).previous == StreamId(5, 2)
    assert StreamId(4, 1000) < StreamId(5, 0).previous < StreamId(5, 0)


async def test_stopping_writes_what_is_buffered(rig: Rig) -> None:
    """Events that were gathered for a later write are written when the reader stops."""
    gathers, listener = Audience(EVERYTHING.interests, "hub", batch_ms=1000), Listener()
    rig.dispatcher.fanout.join(listener, gathers)
    await rig.publish(append())
    await rig.routed()
    assert listener.got == []
    await rig.dispatcher.stop()
    assert listener.got == [(TENANTS[0], 1)]
    assert listener.writes == 1
