"""`HubClient` over WebSocket: order, acknowledgements, reconnects, failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fake_hub import TENANT, FakeHub, cursor, reservation
from hand_clock import BOUND_S, HandClock, until

from consumers import (
    AccessRefused,
    ClientClosed,
    FileCursors,
    Gap,
    HandlerFailed,
    HubClient,
    MemoryCursors,
    SubscriptionRefused,
    UnreadableEvent,
)
from consumers.connection import Connection
from schemas.reservation import ReservationEvent


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub() as hub:
        yield hub


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


class Seen(list[str]):
    """A handler that writes down the reservations it is given."""

    async def __call__(self, event: ReservationEvent) -> None:
        self.append(event.data.reservation_id)


def client_of(hub: FakeHub, clock: HandClock, **options: Any) -> HubClient:
    """A client whose every backoff is at its ceiling."""
    options = {"token": "good", "random": lambda: 1.0} | options
    return HubClient(hub.url, clock=clock, **options)


def connection_of(client: HubClient) -> Connection:
    """The client's open WebSocket."""
    assert client._link is not None
    assert client._link.connection is not None
    return client._link.connection


def queue_of(client: HubClient) -> asyncio.Queue[Any]:
    """What waits for the client's one worker."""
    assert client._link is not None
    return client._link._intake._workers._queues[0]


@asynccontextmanager
async def running(client: HubClient, mode: str = "websocket") -> AsyncIterator[asyncio.Task[None]]:
    """Run the client inside the block; leaving it closes the client as its owner would."""
    async with client:
        task = asyncio.create_task(client.run())
        try:
            await until(lambda: client.mode == mode or task.done())
            yield task
        except BaseException:
            # A failed test does not wait for its handlers.
            task.cancel()
            raise
    async with asyncio.timeout(BOUND_S):
        await asyncio.wait({task})


async def failure_of(client: HubClient) -> BaseException:
    """What `run` ends with."""
    with pytest.raises(Exception) as caught:
        async with asyncio.timeout(BOUND_S):
            await client.run()
    assert not isinstance(caught.value, TimeoutError)
    return caught.value


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


async def test_a_failing_handler_is_retried_with_backoff(hub: FakeHub, clock: HandClock) -> None:
    """A handler that fails twice and then works has its event acknowledged, after growing pauses."""
    client = client_of(hub, clock, name="sync")
    calls = 0

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise RuntimeError("the till is jammed")

    async with running(client):
        await hub.append(reservation(1))
        await clock.pass_sleep(0.5)
        assert hub.acks == []
        await clock.pass_sleep(1.0)
        await until(lambda: hub.positions[TENANT] == 1)
    assert calls == 3


async def test_a_handler_that_keeps_failing_ends_run(hub: FakeHub, clock: HandClock) -> None:
    """Without `on_failure` run ends with the error; what came before is acknowledged, the event and later ones not."""
    client = client_of(hub, clock, name="sync", attempts=1)
    seen = Seen()

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        if event.data.reservation_id == "R2":
            raise RuntimeError("the till is jammed")
        await seen(event)

    await hub.append(*(reservation(number) for number in range(1, 4)))
    hub.positions[TENANT] = 0
    error = await failure_of(client)
    assert isinstance(error, HandlerFailed)
    assert (error.event, error.cursor, error.attempts) == ("reservation.created", cursor(2), 1)
    assert isinstance(error.__cause__, RuntimeError)
    assert client.mode == "offline"
    assert (seen, hub.positions[TENANT]) == (["R1"], 1)
    # The same client may run again: the event comes again.
    assert isinstance(await failure_of(client), HandlerFailed)
    assert seen == ["R1"]


async def test_on_failure_takes_over(hub: FakeHub, clock: HandClock) -> None:
    """With `on_failure` the hook gets the event and the error, and the client goes on behind it."""
    failed: list[tuple[str, str]] = []

    async def on_failure(event: Any, error: Exception) -> None:
        failed.append((event.data.reservation_id, str(error)))

    client = client_of(hub, clock, name="sync", attempts=1, on_failure=on_failure)

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        if event.data.reservation_id == "R1":
            raise RuntimeError("the till is jammed")

    async with running(client):
        await hub.append(reservation(1), reservation(2))
        await until(lambda: hub.positions[TENANT] == 2)
    assert failed == [("R1", "the till is jammed")]


async def test_a_handler_timeout_counts_as_failure(hub: FakeHub, clock: HandClock) -> None:
    """A handler that takes longer than `handler_timeout` is cancelled and retried."""
    client = client_of(hub, clock, name="sync", handler_timeout=7.0)
    calls = 0

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()

    async with running(client):
        await hub.append(reservation(1))
        await until(lambda: clock.timed(7.0))
        clock.advance(7.0)
        await clock.pass_sleep(0.5)
        await until(lambda: hub.positions[TENANT] == 1)
    assert calls == 2


async def test_a_cancellation_inside_a_handler_is_a_failure(hub: FakeHub, clock: HandClock) -> None:
    """A handler that lets a CancelledError escape does not silently stop the worker."""
    client = client_of(hub, clock, attempts=1)

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        raise asyncio.CancelledError

    await hub.append(reservation(1))
    client._after = "earliest"
    assert isinstance(await failure_of(client), HandlerFailed)


async def test_an_event_that_does_not_fit_is_not_skipped(hub: FakeHub, clock: HandClock) -> None:
    """An unreadable event ends run, or goes to `on_failure`; it is never passed over in silence."""
    await hub.append(reservation(1, total_amount="a lot"))
    seen = Seen()
    client = client_of(hub, clock, after="earliest")
    client.on("reservation.*")(seen)
    assert isinstance(await failure_of(client), UnreadableEvent)

    failed: list[Any] = []

    async def on_failure(event: Any, error: Exception) -> None:
        failed.append((event.name, type(error)))

    client = client_of(hub, clock, after="earliest", on_failure=on_failure)
    client.on("reservation.*")(seen)
    async with running(client):
        await until(lambda: failed)
    assert failed == [("reservation.created", UnreadableEvent)]
    assert seen == []


@pytest.mark.parametrize("code", [4502, 4503])
async def test_final_close_codes_end_run(hub: FakeHub, clock: HandClock, code: int) -> None:
    """A close code at or above 4500 ends run with that code, without another attempt."""
    client = client_of(hub, clock, token=_tokens("good", "good"))
    client.on("*")(Seen())
    async with running(client) as task:
        await hub.session.socket.close(code, "no")
        await until(task.done)
    error = task.exception()
    assert isinstance(error, AccessRefused)
    assert error.code == code
    assert hub.upgrades == 1


async def test_a_bad_fixed_token_ends_run(hub: FakeHub, clock: HandClock) -> None:
    """A fixed token that the hub refuses is not tried again."""
    hub.bad_tokens = {"good"}
    client = client_of(hub, clock)
    client.on("*")(Seen())
    error = await failure_of(client)
    assert isinstance(error, AccessRefused)
    assert (error.code, hub.upgrades) == (4501, 1)


def _tokens(*tokens: str) -> Any:
    remaining = list(tokens)

    async def fetch() -> str:
        return remaining.pop(0)

    return fetch


async def test_a_refused_token_is_fetched_anew_once(hub: FakeHub, clock: HandClock) -> None:
    """After 4501 a token source is asked once more at once; a second refusal ends run."""
    hub.bad_tokens = {"stale", "staler"}
    client = client_of(hub, clock, token=_tokens("stale", "fresh"))
    client.on("*")(Seen())
    async with running(client):
        pass
    assert hub.tokens == ["stale", "fresh"]

    client = client_of(hub, clock, token=_tokens("stale", "staler", "fresh"))
    client.on("*")(Seen())
    assert isinstance(await failure_of(client), AccessRefused)
    assert hub.tokens[2:] == ["stale", "staler"]


async def test_an_expired_token_is_replaced_on_reconnect(hub: FakeHub, clock: HandClock) -> None:
    """After 4001 the client comes back with a fresh token."""
    client = client_of(hub, clock, token=_tokens("one", "two"))
    client.on("*")(Seen())
    async with running(client):
        await hub.session.socket.close(4001, "expired")
        await clock.pass_sleep(0.5)
        await until(lambda: hub.tokens == ["one", "two"])


async def test_token_expiring_is_answered_with_refresh(hub: FakeHub, clock: HandClock) -> None:
    """The notice makes the client send a fresh token on the same connection."""
    client = client_of(hub, clock, token=_tokens("one", "two"))
    client.on("*")(Seen())
    async with running(client):
        await hub.session.send(op="notice", code="token_expiring", detail={"in_s": 60})
        await until(lambda: hub.session.token == "two")
    assert hub.upgrades == 1


async def test_draining_sets_the_time_of_return(hub: FakeHub, clock: HandClock) -> None:
    """After a draining notice the client waits as long as it was told."""
    client = client_of(hub, clock)
    client.on("*")(Seen())
    async with running(client):
        await hub.session.send(op="notice", code="draining", detail={}, reconnect_after_ms=3210)
        await hub.session.socket.close(1001, "draining")
        await clock.pass_sleep(3.21)
        await until(lambda: client.mode == "websocket")


async def test_backoff_grows_to_its_cap(hub: FakeHub, clock: HandClock) -> None:
    """Attempts that end at once are spaced 0.5, 1, 2 … 30 s at most."""
    client = client_of(hub, clock)
    client.on("*")(Seen())
    async with running(client):
        for pause in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
            connections = len(hub.subscribes)
            await until(lambda: client.mode == "websocket")
            await hub.session.socket.close(1013, "later")
            await clock.pass_sleep(pause)
            await until(lambda before=connections: len(hub.subscribes) == before + 1)  # type: ignore[misc]


async def test_a_silent_connection_is_given_up(hub: FakeHub, clock: HandClock) -> None:
    """Nothing for a heartbeat and 10 s ends the connection; a protocol ping keeps it."""
    client = client_of(hub, clock)
    client.on("*")(Seen())
    async with running(client):
        await until(lambda: clock.asleep(35.0))
        clock.advance(30.0)
        pong = await hub.session.socket.ping()
        await pong
        clock.advance(5.0)
        await until(lambda: clock.asleep(30.0))
        assert (client.mode, hub.upgrades) == ("websocket", 1)
        clock.advance(30.0)
        # It lived longer than the longest backoff: the first pause is short again.
        await clock.pass_sleep(0.5)
        await until(lambda: hub.upgrades == 2)


async def test_a_hub_that_never_welcomes_is_given_up(hub: FakeHub, clock: HandClock) -> None:
    """An opening that hangs is abandoned after 10 s and tried again."""
    hub.deaf = True
    client = client_of(hub, clock)
    client.on("*")(Seen())
    async with running_anyhow(client):
        await until(lambda: hub.upgrades == 1 and clock.timed(10.0))
        clock.advance(10.0)
        hub.deaf = False
        await clock.pass_sleep(0.5)
        await until(lambda: client.mode == "websocket")


@asynccontextmanager
async def running_anyhow(client: HubClient) -> AsyncIterator[asyncio.Task[None]]:
    """Like `running`, for a client that does not get through at first."""
    async with running(client, mode="offline") as task:
        yield task


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


async def test_unknown_and_unreadable_frames(hub: FakeHub, clock: HandClock) -> None:
    """An op of a later hub is passed over; a frame that cannot be read ends the connection, and the client returns."""
    client = client_of(hub, clock)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running(client):
        await hub.session.send(op="of_a_later_release", anything=1)
        await hub.session.send(op="error", code="unknown_op", message="?", retryable=False)
        await hub.append(reservation(1))
        await until(lambda: seen == ["R1"])
        await hub.session.send(op="event", cursor=cursor(2), sequence=2, event={"type": "reservation"})
        await clock.pass_sleep(0.5)
        await until(lambda: client.mode == "websocket")
        await hub.session.socket.send("this is no JSON")
        await clock.pass_sleep(1.0)
        await until(lambda: client.mode == "websocket")
        await hub.append(reservation(2))
        await until(lambda: seen == ["R1", "R2"])


async def test_a_refusal_of_the_upgrade_by_the_hub_itself_is_final(hub: FakeHub, clock: HandClock) -> None:
    """401 with the hub's problem document ends run; 403 with a proxy's page is a failed attempt like others."""
    client = client_of(hub, clock)
    client.on("*")(Seen())
    hub.refuse_upgrade = 403
    async with running_anyhow(client) as task:
        await until(lambda: clock.asleep(0.5))
        hub.refuse_upgrade, hub.refusal = 401, b'{"code": "unauthorized", "detail": "signature"}'
        clock.advance(0.5)
        await until(task.done)
    error = task.exception()
    assert isinstance(error, AccessRefused)
    assert (error.code, error.reason) == (4501, "unauthorized: signature")


async def test_a_token_source_that_fails_is_asked_again(hub: FakeHub, clock: HandClock) -> None:
    """An authorisation service that is down for a moment does not end run."""
    failures = 1

    async def fetch() -> str:
        nonlocal failures
        if failures:
            failures -= 1
            raise OSError("the authorisation service is down")
        return "good"

    client = client_of(hub, clock, token=fetch)
    client.on("*")(Seen())
    async with running_anyhow(client):
        await clock.pass_sleep(0.5)
        await until(lambda: client.mode == "websocket")


async def test_no_token_and_no_payload_reach_the_log(
    hub: FakeHub, clock: HandClock, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not on connecting, not on a failing handler, not on an unreadable event."""
    await hub.append(reservation(1, guest_name="Yamada Hanako"), reservation(2, guest_name=["Yamada"]))
    client = client_of(hub, clock, token="secret-token", after="earliest", attempts=1, on_failure=_ignore)

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        raise RuntimeError(f"no room for {event.data.guest_name}")

    async with running(client):
        await hub.append(reservation(3))
        await until(lambda: len(_ignored) == 3)
        hub.cut()
        await until(lambda: client.mode == "offline")
    written = capsys.readouterr().out
    assert "handler_failed" in written
    assert "event_unreadable" in written
    assert "Yamada" not in written
    assert "secret-token" not in written


_ignored: list[Any] = []


async def _ignore(event: Any, error: Exception) -> None:
    _ignored.append(event)


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


async def test_a_refused_subscription_ends_run(hub: FakeHub, clock: HandClock) -> None:
    """A cursor of another tenant is not quietly replaced by a fresh start."""
    client = client_of(hub, clock, after={TENANT: cursor(3, tenant="another")})
    client.on("*")(Seen())
    error = await failure_of(client)
    assert isinstance(error, SubscriptionRefused)
    assert error.code == "invalid_cursor"


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


class Gated(MemoryCursors):
    """A store whose first write waits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.writes = 0

    async def save(self, cursors: Any) -> None:
        self.writes += 1
        if self.writes == 1:
            await self.gate.wait()
        await super().save(cursors)


async def test_the_last_cursor_is_kept_behind_a_slow_write(hub: FakeHub, clock: HandClock) -> None:
    """What is finished while the store still writes an earlier position is written before the client is closed."""
    store = Gated()
    client = client_of(hub, clock, cursors=store)
    seen = Seen()
    client.on("reservation.*")(seen)
    async with running(client):
        await until(lambda: store.writes == 1)
        await hub.append(reservation(1))
        await until(lambda: seen)
        closing = asyncio.create_task(client.aclose())
        await until(lambda: not connection_of(client).reading)
        assert not closing.done()
        store.gate.set()
        await closing
    assert await store.load() == {TENANT: cursor(1)}


async def test_a_failure_keeps_what_was_finished_before_it(hub: FakeHub, clock: HandClock) -> None:
    """When a handler ends run while the store is writing, the events before the failed one need not come again."""
    store = Gated()
    client = client_of(hub, clock, cursors=store, after="earliest", attempts=1)

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        await until(lambda: store.writes == 1)
        if event.data.reservation_id == "R2":
            raise RuntimeError("the till is jammed")

    await hub.append(reservation(1), reservation(2))
    assert isinstance(await failure_of(client), HandlerFailed)
    assert await store.load() == {TENANT: cursor(1)}


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


async def test_our_own_silence_is_not_the_hubs(hub: FakeHub, clock: HandClock) -> None:
    """Time in which the client did not read does not count towards the heartbeat once it reads again."""
    client = client_of(hub, clock, queue_size=5)
    seen, started, release = Seen(), asyncio.Event(), asyncio.Event()

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        started.set()
        await release.wait()
        await seen(event)

    async with running(client):
        connection = connection_of(client)
        await until(lambda: clock.asleep(35.0))
        # Few enough to have been received before the pause.
        await hub.append(*(reservation(number) for number in range(1, 9)))
        await started.wait()
        await until(lambda: not connection.reading and queue_of(client).full())
        clock.advance(34.0)
        release.set()
        await until(lambda: len(seen) == 8 and connection.reading)
        clock.advance(1.0)
        await until(lambda: clock.asleep(34.0))
    assert hub.upgrades == 1


async def test_leaving_lets_the_handler_finish_and_acknowledges(hub: FakeHub, clock: HandClock) -> None:
    """On close the handler under way returns and its event is acknowledged; queued events are left for next time."""
    client = client_of(hub, clock, name="sync")
    seen, started, release = Seen(), asyncio.Event(), asyncio.Event()

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        started.set()
        await release.wait()
        await seen(event)

    async with running(client):
        await hub.append(reservation(1), reservation(2))
        await started.wait()
        closing = asyncio.create_task(client.aclose())
        await until(lambda: not connection_of(client).reading)
        release.set()
        await closing
    assert seen == ["R1"]
    await until(lambda: hub.positions[TENANT] == 1)
    assert client.mode == "offline"
    with pytest.raises(ClientClosed):
        await client.run()
    with pytest.raises(ClientClosed):
        await client.publish({})


async def test_cancelling_run_leaves_no_task(hub: FakeHub, clock: HandClock) -> None:
    """A cancelled run cancels its handler and everything it started."""
    client = client_of(hub, clock)
    cancelled = asyncio.Event()
    started = asyncio.Event()

    @client.on("reservation.*")
    async def handle(event: ReservationEvent) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with running(client) as task:
        await hub.append(reservation(1))
        await started.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert cancelled.is_set()
        names = {one.get_name() for one in asyncio.all_tasks()}
        assert not {name for name in names if name.startswith("hub-")}
        with pytest.raises(ValueError):
            await client_of(hub, clock).run()


async def test_a_store_that_fails_ends_run(hub: FakeHub, clock: HandClock) -> None:
    """A cursor that cannot be kept is not shrugged off."""

    class Full(MemoryCursors):
        async def save(self, cursors: Any) -> None:
            raise OSError(28, "No space left on device")

    client = client_of(hub, clock, cursors=Full())
    client.on("*")(Seen())
    assert isinstance(await failure_of(client), OSError)
