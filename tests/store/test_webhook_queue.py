"""The webhook endpoints and what they are owed, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from archive_bench import Open

from hub.core.webhooks import Delivery, Endpoint, Key
from hub.store.database import Database
from hub.store.leases import Fence, LeaseLost, Leases
from hub.store.places import Fenced, Place
from hub.store.webhook_queue import Looked, Noted, Page, WebhookQueue
from hub.store.webhooks import Webhooks
from schemas.cursor import ZERO, StreamId


def endpoint(id: str = "e1", **fields: Any) -> Endpoint:
    """An endpoint with something in every field."""
    held: dict[str, Any] = {
        "endpoint_id": id,
        "tenant_id": "naha",
        "system": "hotel-member",
        "url": "https://example.com/予約",
        "patterns": ("room.*", "customer.updated"),
        "critical_only": True,
        "secret": "whsec_x",
        "since": StreamId(5, 6),
        "created_ms": 1,
        "updated_ms": 2,
        "description": "宿",
        "payload": "thin",
        "view": "masked",
        "old_secret": "whsec_y",
        "old_until_ms": 9,
        "rate_per_s": 7,
        "reason": "by hand",
        "failing_ms": 3,
        "last_error": "HTTP 500",
        "succeeded_ms": 4,
        "recover": StreamId(7, 8),
        "until": StreamId(9, 10),
    }
    return Endpoint(**held | fields)


def delivery(number: int, entity: str = "room:1", *, of: str = "e1", replay: str = "", due: int = 0) -> Delivery:
    """What an endpoint is owed of the event at this place."""
    key = Key(of, replay, StreamId(number, 0), 1)
    return Delivery(key, 3, "naha", f"event-{number}", entity, due)


@pytest.fixture
async def fence(database: Database) -> Fence:
    """The lease, held."""
    lease = await Leases(database).take("webhooks", "h", None)
    assert lease is not None
    return Fence(lease.name, lease.fence)


async def numbers(queue: WebhookQueue, of: str = "e1") -> list[int]:
    """The places of what an endpoint is owed."""
    return [one.key.id.ms for one in await queue.waiting(of, ZERO, 1000)]


async def test_an_endpoint_is_kept_as_it_is(database: Database) -> None:
    """Every field, also without values; changed under its version; removed with what it is owed."""
    webhooks = Webhooks(database)
    whole = endpoint()
    bare = Endpoint("e2", "default", "hotel-pms", "https://e", ("*",), False, "s", ZERO, 5, 5)
    assert await webhooks.create(whole, most=1)
    assert await webhooks.create(bare, most=1)
    assert [await webhooks.get("e1"), await webhooks.get("e2"), await webhooks.get("e3")] == [whole, bare, None]
    assert await webhooks.listed() == [whole, bare]
    assert await webhooks.listed(["default"]) == await webhooks.some(["e2"]) == [bare]
    assert not await webhooks.create(endpoint("e4"), most=1)
    assert await webhooks.get("e4") is None
    changed = await webhooks.change("e1", lambda held: replace(held, state="disabled", recover=None, until=None))
    assert changed == replace(whole, state="disabled", recover=None, until=None, version=2)
    assert await webhooks.get("e1") == changed
    assert await webhooks.change("e1", lambda held: held) == changed
    assert await webhooks.versions() == {"e1": 2, "e2": 1}
    assert await webhooks.change("e3", lambda held: held) is None
    assert [await webhooks.delete("e1"), await webhooks.delete("e1")] == [True, False]
    assert await webhooks.listed() == [bare]


async def test_what_is_owed_moves_with_the_place(database: Database, fence: Fence) -> None:
    """Both or neither; from where the writer believed it to be; twice is once."""
    queue = WebhookQueue(database)
    await Webhooks(database).create(endpoint())
    place = Place(1, StreamId(5, 0))
    await queue.add(fence, [Looked(3, None, place)], [delivery(4), delivery(5)])
    assert await queue.places() == {3: place}
    for before in (None, Place(1, StreamId(4, 0)), Place(2, StreamId(5, 0))):
        with pytest.raises(Fenced):
            await queue.add(fence, [Looked(3, before, Place(1, StreamId(9, 0)))], [delivery(9)])
    await queue.add(fence, [Looked(3, place, Place(1, StreamId(6, 0)))], [delivery(5), delivery(6)])
    assert await numbers(queue) == [4, 5, 6]
    assert (await queue.total(), await queue.held("e1"), await Webhooks(database).waiting(["e1"])) == (3, 3, {"e1": 3})
    await Webhooks(database).delete("e1")
    assert await queue.total() == 0


async def test_a_page_is_written_whole(database: Database, fence: Fence) -> None:
    """Attempts that begin, failures, ends and the endpoint's state in one transaction."""
    queue, webhooks = WebhookQueue(database), Webhooks(database)
    await webhooks.create(endpoint())
    rows = [delivery(number) for number in range(1, 5)]
    await queue.add(fence, [Looked(3, None, Place(1, StreamId(5, 0)))], rows)
    page = Page(
        begun={rows[0].key: (1, 77)},
        again={rows[1].key: (99, "HTTP 500: 満室")},
        settled={rows[2].key},
        noted={"e1": Noted(None, None, 55)},
    )
    await queue.write(fence, page)
    found = await queue.waiting("e1", ZERO, 10)
    assert [(one.key.id.ms, one.attempts, one.due_ms) for one in found] == [(1, 1, 0), (2, 0, 99), (4, 0, 0)]
    held = await webhooks.get("e1")
    assert held == replace(endpoint(), failing_ms=None, last_error=None, succeeded_ms=55)
    await queue.write(fence, page)
    assert len(await queue.waiting("e1", ZERO, 10)) == 3


async def test_who_lost_the_lease_writes_nothing(open_database: Open) -> None:
    """In none of the ways there are."""
    database = await open_database()
    leases, queue = Leases(database), WebhookQueue(database)
    await Webhooks(database).create(endpoint())
    lease = await leases.take("webhooks", "a", None)
    assert lease is not None
    old = Fence("webhooks", lease.fence)
    await queue.add(old, [Looked(3, None, Place(1, StreamId(1, 0)))], [delivery(1)])
    assert await leases.take("webhooks", "b", lease) is not None
    with pytest.raises(LeaseLost):
        await queue.write(old, Page(settled={delivery(1).key}))
    with pytest.raises(LeaseLost):
        await queue.add(old, [Looked(3, Place(1, StreamId(1, 0)), Place(1, StreamId(2, 0)))], [delivery(2)])
    with pytest.raises(LeaseLost):
        await queue.recover(old, "e1", (StreamId(7, 8), StreamId(9, 10)), None, [delivery(3)])
    assert await numbers(queue) == [1]


async def test_a_write_that_waits_for_a_taker_is_refused(open_database: Open) -> None:
    """The lease is looked at within the transaction: whichever comes first, the taker's successor sees all of it."""
    database, other = await open_database(), await open_database()
    leases, queue = Leases(database), WebhookQueue(other)
    await Webhooks(database).create(endpoint())
    lease = await leases.take("webhooks", "a", None)
    assert lease is not None
    fence = Fence("webhooks", lease.fence)
    writes = [queue.add(fence, [Looked(n, None, Place(1, StreamId(1, 0)))], [delivery(n)]) for n in range(20)]
    done = await asyncio.gather(*writes[:10], leases.take("webhooks", "b", lease), *writes[10:], return_exceptions=True)
    refused = [one for one in done if isinstance(one, BaseException)]
    assert all(isinstance(one, LeaseLost) for one in refused), refused
    assert len(await numbers(queue)) == 20 - len(refused)


async def test_pages_follow_places_and_entities(database: Database, fence: Fence) -> None:
    """In order; what shares the last place comes with it; each endpoint's own."""
    queue = WebhookQueue(database)
    rows = [delivery(number, f"room:{number % 2}") for number in range(1, 8)]
    rows += [delivery(4, "room:0", replay="r"), delivery(3, of="e2")]
    await queue.add(fence, [Looked(3, None, Place(1, StreamId(9, 0)))], rows)
    assert [one.key.id.ms for one in await queue.waiting("e1", ZERO, 4)] == [1, 2, 3, 4, 4]
    assert [one.key.id.ms for one in await queue.waiting("e1", StreamId(4, 0), 2)] == [5, 6]
    assert [one.key.id.ms for one in await queue.following("e1", "room:0", 10)] == [2, 4, 4, 6]
    assert [one.key.id.ms for one in await queue.following("e1", "room:1", 2)] == [1, 3]
    assert await queue.held("e1", "r") == 1
    assert not await queue.replayed("e1")
    replay = "019a0000-0000-7000-8000-000000000000"
    await queue.add(fence, [Looked(4, None, Place(1, StreamId(9, 0)))], [delivery(9, replay=replay)])
    assert await queue.replayed("e1")
    wanted = [("e1", "event-1"), ("e1", "event-9"), ("e2", "event-3"), ("e2", "event-1")]
    assert await queue.waiting_of(wanted) == {("e1", "event-1"), ("e2", "event-3")}


async def test_what_strangers_are_owed_is_removed(database: Database, fence: Fence) -> None:
    """Of endpoints that are gone; the others' stays."""
    queue = WebhookQueue(database)
    await Webhooks(database).create(endpoint())
    await queue.add(fence, [Looked(3, None, Place(1, StreamId(9, 0)))], [delivery(1), delivery(2, of="gone")])
    with pytest.raises(LeaseLost):
        await queue.forget_strangers(Fence("webhooks", 9))
    assert await queue.forget_strangers(fence) == 1
    assert (await numbers(queue), await queue.total()) == ([1], 1)


async def test_a_recovery_moves_with_what_it_found(database: Database, fence: Fence) -> None:
    """What waits already is left out; asked for anew meanwhile, nothing is stored."""
    queue, webhooks = WebhookQueue(database), Webhooks(database)
    await webhooks.create(endpoint(recover=StreamId(1, 0), until=StreamId(9, 0)))
    await queue.add(fence, [Looked(3, None, Place(1, StreamId(9, 0)))], [delivery(3)])
    again = [delivery(number, replay="recover") for number in (2, 3, 4)]
    end = StreamId(9, 0)
    assert not await queue.recover(fence, "e1", (StreamId(1, 0), StreamId(8, 0)), StreamId(4, 0), again)
    assert await queue.recover(fence, "e1", (StreamId(1, 0), end), StreamId(4, 0), again)
    assert await numbers(queue) == [2, 3, 4]
    assert not await queue.recover(fence, "e1", (StreamId(1, 0), end), None, [delivery(8, replay="recover")])
    assert await queue.recover(fence, "e1", (StreamId(4, 0), end), None, [delivery(5, replay="recover")])
    held = await webhooks.get("e1")
    assert held is not None
    assert (held.recover, held.until, await numbers(queue)) == (None, None, [2, 3, 4, 5])


async def test_a_replay_moves_with_what_it_hands_over(database: Database) -> None:
    """By one hub at a time; the endpoint's version tells the sender."""
    queue, webhooks = WebhookQueue(database), Webhooks(database)
    await webhooks.create(endpoint())
    assert await queue.place_of("r", 3) == (None, 0)
    assert await queue.replay("r", "e1", 3, None, StreamId(5, 0), [delivery(4, replay="r"), delivery(5, replay="r")])
    assert not await queue.replay("r", "e1", 3, None, StreamId(6, 0), [delivery(6, replay="r")])
    assert not await queue.replay("r", "e1", 3, StreamId(4, 0), StreamId(6, 0), [delivery(6, replay="r")])
    assert await queue.replay("r", "e1", 3, StreamId(5, 0), StreamId(7, 0), [])
    assert await queue.place_of("r", 3) == (StreamId(7, 0), 2)
    assert await numbers(queue) == [4, 5]
    assert await webhooks.versions() == {"e1": 2}
    assert await queue.replays() == {"r"}
    await queue.forget_replay("r")
    assert await queue.replays() == set()
