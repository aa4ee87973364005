"""`HubClient` and its connection: tokens, close codes, backoff, heartbeat, odd frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from client_harness import Seen, client_of, connection_of, failure_of, queue_of, running, running_anyhow
from fake_hub import TENANT, FakeHub, cursor, reservation
from hand_clock import HandClock, until

from consumers import (
    AccessRefused,
    SubscriptionRefused,
)
from schemas.reservation import ReservationEvent


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub() as hub:
        yield hub


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


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


async def test_a_refused_subscription_ends_run(hub: FakeHub, clock: HandClock) -> None:
    """A cursor of another tenant is not quietly replaced by a fresh start."""
    client = client_of(hub, clock, after={TENANT: cursor(3, tenant="another")})
    client.on("*")(Seen())
    error = await failure_of(client)
    assert isinstance(error, SubscriptionRefused)
    assert error.code == "invalid_cursor"
