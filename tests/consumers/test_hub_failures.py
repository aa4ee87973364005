"""`HubClient` when handlers, events or stores fail, and when it is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from client_harness import Gated, Seen, client_of, connection_of, failure_of, running
from fake_hub import TENANT, FakeHub, cursor, reservation
from hand_clock import HandClock, until

from consumers import (
    ClientClosed,
    HandlerFailed,
    MemoryCursors,
    UnreadableEvent,
)
from schemas.reservation import ReservationEvent


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub() as hub:
        yield hub


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


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
