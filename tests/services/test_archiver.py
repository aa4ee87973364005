"""The archiver against a real server and a real database."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from feed_rig import PARTITIONS, TENANTS, LogServer, Rig, append, until

from hub.log.groups import group_states
from hub.log.setup import new_epoch
from hub.services import archiver
from hub.services.archiver import GROUP, Archiver
from hub.store.archive import Fenced
from hub.store.database import StoreUnavailable
from schemas.cursor import ZERO

pytestmark = pytest.mark.server


def archiver_of(rig: Rig, **options: Any) -> Archiver:
    """An archiver with its own view of the store."""
    return Archiver(rig.log, rig.store, rig.dispatcher, rig.metrics, archive_days=400, **options)


async def stored(rig: Rig) -> list[tuple[str, int]]:
    """Everything in the archive, each partition in order."""
    entries = [one for p in range(PARTITIONS) for one in await rig.store.archive.read(p, ZERO, 10_000)]
    return [(entry.tenant_id, entry.sequence) for entry in entries]


async def finished(rig: Rig) -> list[Any]:
    """How far the archiver's group is, by partition."""
    states = await group_states(rig.log, 0)
    return [(one.finished, one.lag, one.pending) for one in states if one.group == GROUP]


async def test_every_event_is_stored_once_and_acknowledged(rig: Rig) -> None:
    """What the log took is in the archive, byte for byte, and the group stands at the end with nothing pending."""
    await rig.publish(*[append(tenant) for tenant in TENANTS for _ in range(30)])
    await rig.archive()
    assert sorted(await stored(rig)) == sorted(rig.published)
    for partition in range(PARTITIONS):
        logged = await rig.log.read(partition, ZERO, 1000)
        archived = await rig.store.archive.read(partition, ZERO, 1000)
        assert [(one.cursor, one.raw) for one in archived] == [(one.cursor, one.raw) for one in logged]
    assert await finished(rig) == [(await rig.end(p), 0, 0) for p in range(PARTITIONS)]


async def test_a_crash_before_the_acknowledgement_stores_nothing_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archiver that died between commit and acknowledgement is followed by one that only acknowledges."""
    await rig.publish(*[append() for _ in range(10)])
    await rig.routed()

    async def died(*_: Any) -> None:
        raise OSError("the process is gone")

    with monkeypatch.context() as patch:
        patch.setattr(archiver, "move_group", died)
        with pytest.raises(OSError, match="gone"):
            await rig.archiver.round()
    assert len(await stored(rig)) == 10
    assert (await finished(rig))[rig.log.partition(TENANTS[0])][0] == ZERO
    await archiver_of(rig).round()
    assert len(await stored(rig)) == 10
    assert (await finished(rig))[rig.log.partition(TENANTS[0])][1:] == (0, 0)


async def test_of_two_archivers_one_gets_on(rig: Rig) -> None:
    """The slower one stores nothing, learns where the other is, and goes on from there."""
    other = archiver_of(rig)
    await rig.publish(append())
    await rig.routed()
    assert [await rig.archiver.round(), await other.round()] == [1, 0]
    await rig.publish(append())
    await rig.routed()
    assert await rig.archiver.round() == 1
    with pytest.raises(Fenced):
        await other.round()
    assert len(await stored(rig)) == 2


async def test_a_store_that_is_away_loses_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the store is away the group stands still and the stream keeps the events; then it catches up by itself."""
    monkeypatch.setattr(archiver, "MAX_BACKOFF_S", 0.02)
    write = rig.store.archive.write
    refused = asyncio.Event()

    async def away(*_: Any) -> int:
        refused.set()
        raise StoreUnavailable("no space left on device")

    monkeypatch.setattr(rig.store.archive, "write", away)
    rig.archiver.start()
    await rig.publish(*[append() for _ in range(5)])
    await refused.wait()
    await until(lambda: not rig.store.ok)
    assert rig.store.detail == "no space left on device"
    assert all(place == ZERO for place, _, _ in await finished(rig))
    monkeypatch.setattr(rig.store.archive, "write", write)
    await until(lambda: rig.store.ok)
    await rig.archiver.stop()
    assert len(await stored(rig)) == 5


async def test_stopping_writes_what_is_there(rig: Rig) -> None:
    """An archiver that is stopped right after a publish has stored it."""
    rig.archiver.start()
    await rig.publish(*[append(tenant) for tenant in TENANTS])
    await rig.routed()
    await rig.archiver.stop()
    assert sorted(await stored(rig)) == sorted(rig.published)


async def test_a_new_history_with_a_clock_behind_is_stored_too(rig: Rig) -> None:
    """Events that a server with a slower clock put before the archive's place are found and stored."""
    first = (await rig.publish(append(), append()))[0]
    await rig.archive()
    client, partition = rig.log.source.client, rig.log.partition(first.tenant)
    key = rig.log.keys.events(partition)
    ((_, fields), (_, second)) = await client.execute_command("XRANGE", key, "-", "+")
    place = (await rig.store.archive.places())[partition].id
    # As after a failover: the second event was lost, another took its number, a minute before.
    other = [b"another-event" if value == second[7] else value for value in second]
    await client.execute_command("DEL", key)
    await client.execute_command("XADD", key, f"{place.ms - 120_000}-0", *fields)
    await client.execute_command("XADD", key, f"{place.ms - 60_000}-0", *other)
    await client.execute_command("XGROUP", "CREATE", key, GROUP, "0")
    await new_epoch(rig.log.source, rig.log, partition)
    again = archiver_of(rig)
    while await again.round():
        pass
    archived = await rig.store.archive.read(partition, ZERO, 100)
    assert [(one.event_id, bool(one.raw)) for one in archived].count((archived[-1].event_id, True)) == 1
    assert len({one.event_id for one in archived if one.raw}) == 3
    found = [one async for one in rig.store.archive.verify(first.tenant)]
    assert found[-1].broken is None


async def test_two_hubs_archive_side_by_side(rig: Rig, log_server: LogServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two running archivers over one log and one database: everything once, and the chains hold."""
    monkeypatch.setattr(archiver, "STANDBY_S", 0.01)
    other = await Rig(log_server, rig.prefix).start()
    try:
        rig.archiver.start()
        other.archiver.start()
        for _ in range(10):
            await asyncio.gather(*[rig.publish(*[append(tenant) for _ in range(5)]) for tenant in TENANTS])
        await rig.routed()
        await rig.archiver.stop()
        await other.archiver.stop()
        assert sorted(await stored(rig)) == sorted(rig.published)
        for tenant in TENANTS:
            found = [one async for one in rig.store.archive.verify(tenant)]
            assert (found[-1].events, found[-1].broken) == (50, None)
    finally:
        await other.stop()
