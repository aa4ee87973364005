"""`HubClient` over WebSocket: order, acknowledgements, resuming, positions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from client_harness import Seen, client_of, connection_of, queue_of, running
from fake_hub import TENANT, FakeHub, cursor, reservation
from hand_clock import HandClock, until

from consumers import (
    FileCursors,
    Gap,
    MemoryCursors,
)
from schemas.reservation import ReservationEvent


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub() as hub:
        yield hub


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


async def test_a_handler_gets_typed_events_in_order(hub: FakeHub, clock: HandClock) -> None:
    """Events reach the handler as their class, in the hub's order, and the patterns asked for are the handlers'."""
    client = client_of(hub, clock)
    got: list[ReservationEvent] = []

    @client.on("reservation.created")
    async def created(event: ReservationEvent) -> None:
        got.append(event)

    async with running(client):
        await hub.append(*(reservation(number) for number in range(1, 6)))
        await until(lambda: len(got) == 5)
    assert all(type(event) is ReservationEvent for event in got)
    assert [event.data.reservation_id for event in got] == ["R1", "R2", "R3", "R4", "R5"]
    assert hub.subscribes[0]["patterns"] == ["reservation.created"]
    assert hub.tokens == ["good"]


async def test_options_pass_through(hub: FakeHub, clock: HandClock) -> None:
    """Patterns, tenants, entities, after, batch_ms and the name stand in the subscribe frame."""
    client = client_of(
        hub,
        clock,
        name="sync",
        patterns=["room.*"],
        tenants=[TENANT],
        entities=["room:1"],
        after="earliest",
        batch_ms=50,
    )
    async with running(client):
        pass
    frame = hub.subscribes[0]
    assert {key: frame[key] for key in ("patterns", "tenants", "entities", "after", "batch_ms", "name")} == {
        "patterns": ["room.*"],
        "tenants": [TENANT],
        "entities": ["room:1"],
        "after": "earliest",
        "batch_ms": 50,
        "name": "sync",
    }


async def test_nothing_is_acknowledged_before_its_handler_returned(hub: FakeHub, clock: HandClock) -> None:
    """While the first event is being handled no ack leaves, although later events are finished by other workers."""
    client = client_of(hub, clock, name="sync", concurrency=4)
    seen, release = Seen(), asyncio.Event()

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        await seen(event)
        if event.data.reservation_id == "R1":
            await release.wait()

    async with running(client):
        await hub.append(*(reservation(number) for number in range(1, 9)))
        # R1 holds one of four workers; those hashed to the other three go through.
        await until(lambda: len(seen) >= 4)
        assert hub.acks == []
        release.set()
        await until(lambda: hub.positions[TENANT] == 8)
    assert hub.acks[-1] == {TENANT: cursor(8)}
    assert sorted(seen) == [f"R{number}" for number in range(1, 9)]


async def test_acks_are_coalesced(hub: FakeHub, clock: HandClock) -> None:
    """A burst of quick events is acknowledged with far fewer frames than events."""
    client = client_of(hub, clock, name="sync")
    client.on("reservation.*")(Seen())
    async with running(client):
        await hub.append(*(reservation(number) for number in range(1, 501)))
        await until(lambda: hub.positions[TENANT] == 500)
    assert len(hub.acks) < 250


async def test_events_of_one_entity_stay_in_order_across_workers(hub: FakeHub, clock: HandClock) -> None:
    """With several workers, each entity's events are handled one after another while entities overlap."""
    client = client_of(hub, clock, concurrency=4)
    order: dict[str, list[int]] = {}
    active: set[str] = set()
    overlaps = 0

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        nonlocal overlaps
        assert event.entity not in active
        overlaps = max(overlaps, len(active))
        active.add(event.entity)
        await asyncio.sleep(0)
        active.discard(event.entity)
        order.setdefault(event.entity, []).append(event.revision)

    events = [reservation(number) | {"revision": turn} for turn in range(1, 11) for number in range(1, 11)]
    async with running(client):
        await hub.append(*events)
        await until(lambda: sum(map(len, order.values())) == 100)
    assert all(revisions == list(range(1, 11)) for revisions in order.values())
    assert overlaps > 0


async def test_reconnect_resumes_without_hole_or_double(hub: FakeHub, clock: HandClock) -> None:
    """After a cut the client resumes from what it took in, even when nothing had come on the first connection."""
    client = client_of(hub, clock)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running(client):
        hub.cut()
        await until(lambda: client.mode == "offline")
        await hub.append(reservation(1))
        await clock.pass_sleep(0.5)
        await until(lambda: seen == ["R1"])
        hub.cut()
        await until(lambda: client.mode == "offline")
        await hub.append(reservation(2))
        await clock.pass_sleep(1.0)
        await until(lambda: len(seen) == 2)
    assert seen == ["R1", "R2"]
    assert hub.subscribes[1]["after"] == {TENANT: cursor(0)}
    assert hub.subscribes[2]["after"] == {TENANT: cursor(1)}


async def test_redelivered_events_are_dropped(hub: FakeHub, clock: HandClock) -> None:
    """A durable subscription sends unacknowledged events again after a cut; those under way are not handled twice."""
    client = client_of(hub, clock, name="sync")
    seen, release = Seen(), asyncio.Event()

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        await seen(event)
        await release.wait()

    async with running(client):
        await hub.append(*(reservation(number) for number in range(1, 4)))
        await until(lambda: len(seen) == 1)
        hub.cut()
        await until(lambda: client.mode == "offline")
        await clock.pass_sleep(0.5)
        await until(lambda: client.mode == "websocket")
        # The hub has begun again behind its last ack.
        assert hub.session.sent[TENANT] == 3
        release.set()
        await until(lambda: hub.positions[TENANT] == 3)
        await hub.append(reservation(4))
        await until(lambda: hub.positions[TENANT] == 4)
    assert seen == ["R1", "R2", "R3", "R4"]


async def test_work_finished_while_offline_is_acknowledged_on_return(hub: FakeHub, clock: HandClock) -> None:
    """An event that was finished between two connections is acknowledged on the next, without being handled again."""
    client = client_of(hub, clock, name="sync")
    seen, started, release = Seen(), asyncio.Event(), asyncio.Event()

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        started.set()
        await release.wait()
        await seen(event)

    async with running(client):
        await hub.append(reservation(1))
        await started.wait()
        hub.cut()
        await until(lambda: client.mode == "offline")
        release.set()
        await until(lambda: seen == ["R1"])
        assert hub.positions[TENANT] == 0
        await clock.pass_sleep(0.5)
        await until(lambda: hub.positions[TENANT] == 1)
    assert seen == ["R1"]


async def test_a_dropped_duplicate_is_acknowledged_again(hub: FakeHub, clock: HandClock) -> None:
    """The hub counts a duplicate as unacknowledged; left so, enough of them would fill its window for good."""
    client = client_of(hub, clock, name="sync")
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running(client):
        await hub.append(reservation(1), reservation(2))
        await until(lambda: hub.positions[TENANT] == 2)
        acks = len(hub.acks)
        await hub.send_event(hub.session, 1)
        await until(lambda: len(hub.acks) == acks + 1)
    assert hub.acks[-1] == {TENANT: cursor(2)}
    assert seen == ["R1", "R2"]


async def test_a_new_epoch_is_not_taken_for_duplicates(hub: FakeHub, clock: HandClock) -> None:
    """When the history was replaced, the hub says gap, and events with small sequences are handled."""
    gaps: list[Gap] = []

    async def on_gap(gap: Gap) -> None:
        gaps.append(gap)

    client = client_of(hub, clock, name="sync", on_gap=on_gap)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running(client):
        await hub.append(reservation(1), reservation(2))
        await until(lambda: hub.positions[TENANT] == 2)
        hub.epoch, hub.positions = 8, {}
        hub.history.clear()
        hub.cut()
        await until(lambda: client.mode == "offline")
        await clock.pass_sleep(0.5)
        await until(lambda: gaps)
        await hub.append(reservation(3))
        await until(lambda: len(seen) == 3)
        await until(lambda: hub.acks[-1] == {TENANT: cursor(1, epoch=8)})
    assert [gap.reason for gap in gaps] == ["epoch"]
    assert seen == ["R1", "R2", "R3"]


async def test_replays_are_handled_but_do_not_move_the_position(hub: FakeHub, clock: HandClock) -> None:
    """A replayed event is handled although it was seen, and changes no acknowledgement."""
    client = client_of(hub, clock, name="sync")
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running(client):
        await hub.append(reservation(1), reservation(2))
        await until(lambda: hub.positions[TENANT] == 2)
        acks = len(hub.acks)
        await hub.send_event(hub.session, 1, replay=True)
        await until(lambda: len(seen) == 3)
        # One from further on, too: the events before it still count as new when their turn comes.
        hub.history[TENANT] += [reservation(3), reservation(4)]
        await hub.send_event(hub.session, 4, replay=True)
        await until(lambda: len(seen) == 4)
        assert len(hub.acks) == acks
        await hub.append()
        await until(lambda: hub.positions[TENANT] == 2 and hub.session.sent[TENANT] == 4)
        await hub.append(reservation(5))
        await until(lambda: hub.positions[TENANT] == 5)
    assert seen == ["R1", "R2", "R1", "R4", "R3", "R4", "R5"]


async def test_a_full_queue_stops_reading(hub: FakeHub, clock: HandClock) -> None:
    """Behind a slow handler only so many events are taken in; all are handled in the end; publishing still works."""
    client = client_of(hub, clock, queue_size=5)
    seen, started, release = Seen(), asyncio.Event(), asyncio.Event()

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        started.set()
        await release.wait()
        await seen(event)

    async with running(client):
        connection = connection_of(client)
        await hub.append(*(reservation(number) for number in range(1, 101)))
        await started.wait()
        await until(lambda: not connection.reading and queue_of(client).full())
        assert queue_of(client).qsize() == 5
        receipt = await client.publish({"type": "room", "action": "status_changed", "data": {}})
        assert receipt.sequence == 101
        assert [road for road, _ in hub.publishes] == ["http"]
        # What the client does not read is no sign of a dead hub.
        clock.advance(60.0)
        release.set()
        await until(lambda: len(seen) == 100)
        assert connection.reading
    assert seen == [f"R{number}" for number in range(1, 101)]
    assert hub.upgrades == 1


async def test_a_handler_may_publish(hub: FakeHub, clock: HandClock) -> None:
    """Publishing from a handler gets its receipt over the same connection, also while events keep coming."""
    client = client_of(hub, clock, queue_size=1)
    receipts: list[int] = []

    @client.on("reservation.created")
    async def handle(event: ReservationEvent) -> None:
        note = {"type": "system", "action": "notice", "data": {}, "entity": "system:x"}
        receipts.append((await client.publish(note)).sequence)

    async with running(client):
        publishing = asyncio.create_task(_keep_advancing(clock))
        await hub.append(*(reservation(number) for number in range(1, 21)))
        await until(lambda: len(receipts) == 20)
        publishing.cancel()
    assert len(set(receipts)) == 20


async def _keep_advancing(clock: HandClock) -> None:
    """A publish whose answer fell behind a full queue is sent again after a pause."""
    while True:
        await clock.pass_sleep(0.5)


async def test_a_gap_is_told_and_passed(hub: FakeHub, clock: HandClock) -> None:
    """The hook gets the gap; events behind it are handled, and acknowledged."""
    gaps: list[Gap] = []

    async def on_gap(gap: Gap) -> None:
        gaps.append(gap)

    await hub.append(*(reservation(number) for number in range(1, 5)))
    hub.positions[TENANT] = 3
    hub.gap = {"tenant_id": TENANT, "reason": "expired", "resume_from": cursor(3)}
    client = client_of(hub, clock, name="sync", on_gap=on_gap)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running(client):
        await until(lambda: hub.positions[TENANT] == 4)
    assert [(gap.reason, gap.resume_from) for gap in gaps] == [("expired", cursor(3))]
    assert seen == ["R4"]


async def test_a_gap_is_not_passed_before_its_hook_returned(hub: FakeHub, clock: HandClock) -> None:
    """The kept cursor stays before the gap until the owner has dealt with it: else a crash would hide it."""
    told, dealt_with = asyncio.Event(), asyncio.Event()

    async def on_gap(gap: Gap) -> None:
        told.set()
        await dealt_with.wait()

    await hub.append(*(reservation(number) for number in range(1, 5)))
    hub.gap = {"tenant_id": TENANT, "reason": "expired", "resume_from": cursor(3)}
    store = MemoryCursors()
    await store.save({TENANT: cursor(1)})
    client = client_of(hub, clock, cursors=store, on_gap=on_gap)
    client.on("reservation.*")(Seen())
    async with running(client):
        await told.wait()
        assert client._link is not None
        await client._link._intake.flush()
        assert await store.load() == {TENANT: cursor(1)}
        dealt_with.set()
        await until(lambda: store._kept == {TENANT: cursor(4)})


async def test_kept_cursors_survive_the_client(hub: FakeHub, clock: HandClock, tmp_path: Any) -> None:
    """A second client with the same file goes on where the first had finished, without a durable name."""
    seen = Seen()
    for first in (1, 4):
        client = client_of(hub, clock, cursors=FileCursors(tmp_path / "cursors.json"))
        client.on("reservation.*")(seen)
        async with running(client):
            await hub.append(*(reservation(number) for number in range(first, first + 2)))
            await until(lambda last=first + 1: seen and seen[-1] == f"R{last}")  # type: ignore[misc]
        await hub.append(reservation(first + 2))
    assert seen == ["R1", "R2", "R3", "R4", "R5"]
    assert hub.acks == []


async def test_kept_and_given_beginnings_are_joined(hub: FakeHub, clock: HandClock) -> None:
    """A tenant with a kept cursor goes on there; `after` holds for the others."""
    hub.tenants = ["default", "second"]
    store = MemoryCursors()
    await store.save({"default": cursor(4)})
    after = {"default": cursor(1), "second": cursor(2, "second")}
    client = client_of(hub, clock, cursors=store, after=after)
    client.on("*")(Seen())
    async with running(client):
        pass
    assert hub.subscribes[0]["after"] == {"default": cursor(4), "second": cursor(2, "second")}
