"""Publishing: one receipt an event, whatever happens to the attempts."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import date
from decimal import Decimal
from typing import Any

import orjson
import pytest
from client_harness import Seen, client_of, running
from fake_hub import FakeHub, reservation
from hand_clock import BOUND_S, HandClock, until

from consumers import HubClient, OutcomeUnknown, PublishFailed, PublishRefused
from consumers.http_api import api_root
from consumers.publishing import uuid7, wire_form
from schemas.envelope import Draft
from schemas.errors import Problem
from schemas.registry import read
from schemas.reservation import ReservationData

EVENT: dict[str, Any] = {"type": "reservation", "action": "created", "data": reservation(1)["data"]}


@pytest.fixture
async def hub() -> AsyncIterator[FakeHub]:
    async with FakeHub() as hub:
        yield hub


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


async def outcome(call: Any) -> Any:
    """What a publish ends with, receipt or error."""
    async with asyncio.timeout(BOUND_S):
        return (await asyncio.gather(call, return_exceptions=True))[0]


async def test_without_run_it_goes_over_http(hub: FakeHub, clock: HandClock) -> None:
    """Inside `async with`, publishing needs no subscription and no WebSocket."""
    async with client_of(hub, clock) as client:
        receipt = await client.publish(EVENT)
    assert (receipt.sequence, receipt.duplicate) == (1, False)
    assert hub.publishes == [("http", receipt.event_id)]
    assert uuid.UUID(receipt.event_id).version == 7
    assert hub.upgrades == 0


async def test_with_run_it_goes_over_the_websocket(hub: FakeHub, clock: HandClock) -> None:
    """An open WebSocket is used, also by many at once; each gets its own receipt."""
    client = client_of(hub, clock)
    client.on("*")(Seen())
    ids = [str(uuid7()) for _ in range(50)]
    async with running(client):
        receipts = await asyncio.gather(*(client.publish(EVENT | {"event_id": one}) for one in ids))
    assert [receipt.event_id for receipt in receipts] == ids
    assert {road for road, _ in hub.publishes} == {"websocket"}


async def test_a_large_event_takes_the_road_that_holds_it(hub: FakeHub, clock: HandClock) -> None:
    """An event above the WebSocket's 64 KiB goes over HTTP, whose limit is 1 MiB."""
    client = client_of(hub, clock)
    client.on("room.*")(Seen())
    async with running(client):
        await client.publish(EVENT | {"data": {"notes": "x" * 70_000}})
    assert [road for road, _ in hub.publishes] == ["http"]


@pytest.mark.parametrize("road", ["websocket", "http"])
async def test_a_lost_answer_is_retried_with_the_same_id(hub: FakeHub, clock: HandClock, road: str) -> None:
    """When the hub stored the event and the connection broke, the retry gets the first receipt: no second event."""
    client = client_of(hub, clock)
    client.on("room.*")(Seen())
    hub.swallow_publishes = 1
    async with client:
        if road == "websocket":
            task = asyncio.create_task(client.run())
            await until(lambda: client.mode == "websocket" or task.done())
        publishing = asyncio.create_task(client.publish(EVENT))
        await clock.pass_sleep(0.5)
        async with asyncio.timeout(BOUND_S):
            receipt = await publishing
    assert (receipt.sequence, receipt.duplicate) == (1, True)
    assert hub.publishes[0] == (road, receipt.event_id)
    assert {event_id for _, event_id in hub.publishes} == {receipt.event_id}
    assert sum(map(len, hub.history.values())) == 1


async def test_a_retryable_refusal_is_retried(hub: FakeHub, clock: HandClock) -> None:
    """`overloaded` and the like are tried again with growing pauses."""
    hub.publish_problems = [Problem("overloaded").body(), Problem("log_unavailable").body()]
    async with client_of(hub, clock) as client:
        publishing = asyncio.create_task(client.publish(EVENT))
        await clock.pass_sleep(0.5)
        await clock.pass_sleep(1.0)
        receipt = await publishing
    assert not receipt.duplicate
    assert len(hub.publishes) == 3


@pytest.mark.parametrize("road", ["websocket", "http"])
async def test_a_refusal_carries_the_problem(hub: FakeHub, clock: HandClock, road: str) -> None:
    """A conflict is raised at once with the code and the latest state; a schema error with its fields."""
    latest = {"revision": 4, "data": {"reservation_id": "R1"}}
    fields = [{"path": "data.total_amount", "message": "must be a number"}]
    hub.publish_problems = [
        Problem("conflict", extra={"latest": latest}).body(),
        Problem("invalid_event").body() | {"errors": fields},
    ]
    client = client_of(hub, clock)
    client.on("room.*")(Seen())
    async with client:
        if road == "websocket":
            task = asyncio.create_task(client.run())
            await until(lambda: client.mode == "websocket" or task.done())
        conflict = await outcome(client.publish(EVENT | {"expected_revision": 3}))
        invalid = await outcome(client.publish(EVENT))
    assert isinstance(conflict, PublishRefused)
    assert (conflict.code, conflict.latest) == ("conflict", latest)
    assert isinstance(invalid, PublishRefused)
    assert [(error.path, error.message) for error in invalid.errors] == [("data.total_amount", "must be a number")]
    assert [way for way, _ in hub.publishes] == [road, road]


async def test_no_hub_in_time_is_a_failure(hub: FakeHub, clock: HandClock) -> None:
    """When no attempt can have arrived, the error says that nothing was taken."""
    hub.publish_problems = [Problem("draining").body()] * 2
    async with client_of(hub, clock) as client:
        publishing = asyncio.create_task(outcome(client.publish(EVENT, timeout=1.2)))
        await clock.pass_sleep(0.5)
        await until(lambda: clock.asleep(1.0))
        clock.advance(0.7)
        error = await publishing
    assert isinstance(error, PublishFailed)
    assert error.event_id == hub.publishes[0][1]


async def test_an_answer_that_never_comes_is_an_unknown_outcome(hub: FakeHub, clock: HandClock) -> None:
    """When an attempt may have arrived and no receipt came, the error says so and names the id."""
    hub.swallow_publishes = 100
    async with client_of(hub, clock) as client:
        publishing = asyncio.create_task(outcome(client.publish(EVENT, timeout=0.4)))
        await until(lambda: clock.asleep(0.5))
        clock.advance(0.4)
        error = await publishing
    assert isinstance(error, OutcomeUnknown)
    assert error.event_id in hub.receipts


async def test_a_hanging_attempt_gives_way_to_the_next(hub: FakeHub, clock: HandClock) -> None:
    """One attempt waits 10 s at most, so that a dead connection does not use up the whole time."""
    hub.http_down = True
    async with HubClient(
        hub.url.replace("127.0.0.1", "localhost"), token="good", clock=clock, random=lambda: 1.0
    ) as client:
        hold = asyncio.Event()

        async def hang(*_: Any) -> None:
            await hold.wait()

        original, hub._publish = hub._publish, hang  # type: ignore[method-assign,assignment]
        hub.http_down = False
        publishing = asyncio.create_task(client.publish(EVENT))
        await until(lambda: clock.timed(10.0))
        hub._publish = original  # type: ignore[method-assign]
        clock.advance(10.0)
        await clock.pass_sleep(0.5)
        receipt = await publishing
        hold.set()
    assert receipt.sequence == 1


async def test_a_token_refused_after_a_lost_answer_leaves_the_outcome_open(hub: FakeHub, clock: HandClock) -> None:
    """ "Token expired" on a retry says nothing about the attempt before it."""
    hub.swallow_publishes = 1
    async with client_of(hub, clock) as client:
        publishing = asyncio.create_task(outcome(client.publish(EVENT)))
        await until(lambda: clock.asleep(0.5))
        hub.bad_tokens = {"good"}
        clock.advance(0.5)
        error = await publishing
    assert isinstance(error, OutcomeUnknown)


async def test_an_expired_token_is_fetched_anew(hub: FakeHub, clock: HandClock) -> None:
    """With a token source, 401 is answered with a fresh token within the same attempt."""
    hub.bad_tokens = {"stale"}
    remaining = ["stale", "fresh"]

    async def fetch() -> str:
        return remaining.pop(0)

    async with client_of(hub, clock, token=fetch) as client:
        receipt = await client.publish(EVENT)
    assert receipt.sequence == 1


async def test_the_number_in_flight_is_bounded(hub: FakeHub, clock: HandClock) -> None:
    """Beyond the limit further publishes wait for one to end."""
    at_once = most = 0
    original = hub._publish

    async def counted(road: str, event: dict[str, Any]) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        try:
            return await original(road, event)
        finally:
            at_once -= 1

    hub._publish = counted  # type: ignore[method-assign]
    async with client_of(hub, clock, publish_in_flight=3) as client:
        await asyncio.gather(*(client.publish(EVENT) for _ in range(20)))
    assert most == 3
    assert len(hub.publishes) == 20


async def test_leaving_waits_for_publishes_under_way(hub: FakeHub, clock: HandClock) -> None:
    """A publish begun before the client is closed still gets its receipt."""
    async with client_of(hub, clock) as client:
        publishing = asyncio.create_task(client.publish(EVENT))
        await until(lambda: clock.timed(30.0))
    assert publishing.done()
    assert (await publishing).sequence == 1


def test_the_wire_form_of_models_and_mappings() -> None:
    """Models, drafts and plain mappings come out as the same JSON; money stays a number, an id is kept."""
    data = ReservationData(
        reservation_id="R1",
        room_type="twin",
        checkin_date=date(2026, 7, 20),
        checkout_date=date(2026, 7, 22),
        total_amount=Decimal("16800.5"),
        status="confirmed",
        origin="phone",
    )
    known = "00000000-0000-7000-8000-000000000001"
    event_id, typed = wire_form({"type": "reservation", "action": "created", "data": data, "event_id": known})
    plain = orjson.loads(typed)
    assert event_id == plain["event_id"] == known
    assert plain["data"] == {
        "reservation_id": "R1",
        "room_type": "twin",
        "checkin_date": "2026-07-20",
        "checkout_date": "2026-07-22",
        "total_amount": 16800.5,
        "status": "confirmed",
        "origin": "phone",
    }
    draft = Draft(type="reservation", action="created", data={**plain["data"], "total_amount": Decimal("16800.5")})
    _, drafted = wire_form(draft)
    assert orjson.loads(drafted)["data"] == plain["data"]
    received = read(orjson.dumps(reservation(7)))
    sent_on = orjson.loads(wire_form(received)[1])
    assert sent_on["data"] == reservation(7)["data"]
    assert sent_on["event_id"] == reservation(7)["event_id"]
    with pytest.raises(TypeError):
        wire_form({"type": "room", "action": "x", "data": {"socket": object()}})


def test_made_ids_are_version_7_and_in_order_of_time() -> None:
    """RFC 9562: version and variant bits, the millisecond in front."""
    ids = [uuid7() for _ in range(1000)]
    assert {(one.version, one.variant) for one in ids} == {(7, uuid.RFC_4122)}
    milliseconds = [one.int >> 80 for one in ids]
    assert milliseconds == sorted(milliseconds)
    assert len(set(ids)) == 1000


def test_the_http_api_stands_beside_the_websocket() -> None:
    """The scheme, a path prefix and the port carry over; anything but ws and wss is refused."""
    assert api_root("ws://localhost:3400/ws") == "http://localhost:3400/api/v1/"
    assert api_root("wss://hotel.example/hub/ws") == "https://hotel.example/hub/api/v1/"
    with pytest.raises(ValueError):
        api_root("http://localhost:3400/ws")
