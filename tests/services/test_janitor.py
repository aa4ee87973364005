"""Looking after the log: what is measured, what is missed, what is trimmed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from feed_rig import GROUPS, TENANTS, Rig, append, claims, until

from hub.log.dead_letters import DeadLetters
from hub.log.tenants import Tenants
from hub.log.topology import RedisConnectionError
from hub.services import janitor
from hub.services.janitor import Janitor
from hub.store.database import StoreUnavailable
from schemas.cursor import Cursor, StreamId

pytestmark = pytest.mark.server

HOUR_MS = 3_600_000


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def nothing() -> None:
    """For the rounds that ask nobody else."""


async def nowhere() -> dict[str, dict[int, StreamId]]:
    """Every group's place is the server's."""
    return {}


def janitor_of(rig: Rig, clock: Clock, groups: tuple[str, ...] = GROUPS, **more: Any) -> Janitor:
    """A janitor that keeps one hour."""
    options: dict[str, Any] = {"retention_hours": 1, "refresh": nothing, "places": nowhere, "clock": clock} | more
    return Janitor(rig.log, DeadLetters(rig.log, groups), Tenants(rig.log), rig.metrics, groups, **options)


async def finish(rig: Rig, group: str) -> None:
    """A group takes and acknowledges all of the first tenant's partition."""
    key = rig.log.keys.events(rig.log.partition(TENANTS[0]))
    client = rig.log.source.client
    await client.execute_command("XREADGROUP", "GROUP", group, "c", "COUNT", 1000, "STREAMS", key, ">")
    await client.xack(key, group, *[id for id, _ in await client.execute_command("XRANGE", key, "-", "+")])


def value(metric: Any, *labels: str) -> float:
    """A gauge's value."""
    return float(metric.labels(*labels)._value.get())


@pytest.mark.parametrize("kept", [0, 2, None])
async def test_a_reader_that_was_set_back_keeps_what_it_needs(rig: Rig, kept: int | None) -> None:
    """What a group's own place has not passed stays, whatever the server takes for finished; nothing goes while that
    place cannot be asked."""
    published = await rig.publish(*[append() for _ in range(5)])
    for group in GROUPS:
        await finish(rig, group)
    partition = rig.log.partition(TENANTS[0])

    async def places() -> dict[str, dict[int, StreamId]]:
        if kept is None:
            raise StoreUnavailable("away")
        return {GROUPS[0]: {partition: Cursor.decode(published[kept - 1].cursor).id} if kept else {}}

    clock = Clock()
    clock.now = 4_000_000_000.0
    assert await janitor_of(rig, clock, places=places).trim() == (kept or 0)


async def test_the_slower_of_two_trims_turns_no_floor_back(rig: Rig) -> None:
    """The floor is the last event that went, whoever wrote it down last."""
    published = await rig.publish(*[append() for _ in range(6)])
    for group in GROUPS:
        await finish(rig, group)
    floors = rig.log.keys.floor(rig.log.partition(TENANTS[0]))
    last = Cursor.decode(published[-1].cursor).id
    await rig.log.source.client.hset(floors, TENANTS[0], f"99 {last}")
    clock = Clock()
    clock.now = 4_000_000_000.0
    assert await janitor_of(rig, clock).trim() == 6
    assert (await rig.log.floors([TENANTS[0]]))[TENANTS[0]].sequence == 99


async def test_what_is_old_and_finished_is_trimmed(rig: Rig) -> None:
    """Entries go when they are past the retention and finished by all; cursors below are told, reading goes on."""
    clock = Clock()
    made = janitor_of(rig, clock)
    published = await rig.publish(*[append() for _ in range(5)])
    last = Cursor.decode(published[-1].cursor).id
    for group in GROUPS:
        await finish(rig, group)
    clock.now = (last.ms + HOUR_MS - 1000) / 1000
    assert await made.trim() == 0
    clock.now = (last.ms + HOUR_MS + 1000) / 1000
    assert await made.trim() == 5
    (start,) = await rig.log.resolve({TENANTS[0]: Cursor.decode(published[1].cursor)})
    assert (start.gap, start.head.sequence) == ("expired", 5)
    one = rig.connection(claims())
    await one.subscribe(after=published[-1].cursor)
    await rig.publish(append())
    await one.quiet()
    assert (one.sequences(), one.gaps) == ([6], [])


async def test_a_group_that_was_removed_holds_the_trim(rig: Rig) -> None:
    """A configured group that somebody destroyed is missed, and nothing it may not have finished is trimmed."""
    clock = Clock()
    made = janitor_of(rig, clock)
    await rig.publish(*[append() for _ in range(5)])
    await finish(rig, GROUPS[0])
    await rig.log.source.client.xgroup_destroy(rig.log.keys.events(rig.log.partition(TENANTS[0])), GROUPS[1])
    clock.now = 4e9
    await made.measure()
    assert made.missing == [GROUPS[1]]
    assert await made.trim() == 0
    await rig.reopen()
    await made.measure()
    assert made.missing == []
    assert await made.trim() == 0
    await finish(rig, GROUPS[1])
    assert await made.trim() == 5


async def test_groups_and_dead_letters_are_measured(rig: Rig) -> None:
    """Lag, age of the oldest pending entry and dead letters arrive in the metrics."""
    clock = Clock()
    made = janitor_of(rig, clock)
    published = await rig.publish(*[append() for _ in range(3)])
    partition = rig.log.partition(TENANTS[0])
    key, client = rig.log.keys.events(partition), rig.log.source.client
    await client.execute_command("XREADGROUP", "GROUP", GROUPS[0], "c", "COUNT", 1, "STREAMS", key, ">")
    await client.xadd(rig.log.keys.dead(partition, GROUPS[1]), {"event_id": "e"})
    clock.now = (Cursor.decode(published[0].cursor).id.ms + 9000) / 1000
    states = await made.measure()
    assert len(states) == len(GROUPS) * rig.log.partitions
    assert value(rig.metrics.group_lag, GROUPS[0], f"p{partition:02d}") == 2
    assert value(rig.metrics.group_lag, GROUPS[1], f"p{partition:02d}") == 3
    assert value(rig.metrics.group_oldest, GROUPS[0], f"p{partition:02d}") == pytest.approx(9)
    assert value(rig.metrics.dead_letters, GROUPS[1]) == 1
    assert value(rig.metrics.dead_letters, GROUPS[0]) == 0


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), ValueError("a tenant nobody can read")])
async def test_a_failed_round_is_not_the_last(rig: Rig, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Whatever goes wrong in a round, the next one comes, and stopping ends them."""
    monkeypatch.setattr(janitor, "EVERY_S", 0)
    rounds = 0

    async def refresh() -> None:
        nonlocal rounds
        rounds += 1
        if rounds < 3:
            raise error
        if rounds == 6:
            await asyncio.Event().wait()

    made = janitor_of(rig, Clock(), refresh=refresh)
    made.start()
    await until(lambda: rounds == 6)
    await made.stop()
    assert made._task is not None
    assert made._task.done()
