"""Webhooks from event to endpoint: what is written down when, what is tried again, what survives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from feed_rig import Rig, append, until
from webhook_rig import GONE, HOUR_MS, REFUSED, SCHEDULE, TENANT, Request, Shop, answer

from hub.core import webhook_lane
from hub.log.setup import new_epoch
from hub.services import webhooks as service_module
from hub.services.ending import end
from hub.services.ledger import delivered_id
from hub.store.database import StoreUnavailable
from hub.store.leases import LeaseLost
from hub.store.webhook_queue import Page
from schemas.cursor import StreamId


@pytest.fixture
async def shop(rig: Rig) -> AsyncIterator[Shop]:
    """Webhooks without a hub at work yet."""
    made = Shop(rig)
    yield made
    await made.close()


async def test_an_event_is_written_down_before_it_is_sent(shop: Shop) -> None:
    """With the attempt that is being made; once it is taken, it is owed no longer, and the ledger says so."""
    hub = await shop.hub()
    endpoint = await shop.endpoint()
    seen: list[Any] = []

    async def look(request: Request) -> None:
        seen.append(await shop.waiting(endpoint))

    shop.endpoints.before = look
    event_id = await shop.publish()
    (request,) = await shop.received(1)
    assert (request.event_id, request.attempt, request.body["event_id"]) == (event_id, 1, event_id)
    assert [{id: attempts for id, (attempts, _) in one.items()} for one in seen] == [{event_id: 1}]
    await shop.settled(endpoint)
    await hub.recorder.write(everything=True)
    id = delivered_id(endpoint.endpoint_id, event_id)
    assert await shop.rig.store.ledger.known([id]) == {id}


async def test_attempts_follow_the_schedule_and_then_it_is_given_up(shop: Shop) -> None:
    """Each when it is due and not before; the entity's next event waits for that, others do not."""
    hub = await shop.hub()
    endpoint = await shop.endpoint()
    first = await shop.publish("room:1")
    shop.endpoints.answers = lambda request: REFUSED if request.event_id == first else answer()
    await shop.received(1)
    second, other = await shop.publish("room:1"), await shop.publish("room:2")
    await until(lambda: other in shop.endpoints.to("https://a.example/hook"))
    made = shop.clock.now
    for attempt, wait in enumerate(SCHEDULE, start=2):
        held = shop.endpoints.requests[:]
        await _stored(shop, endpoint, first, attempt - 1)
        shop.clock.move(wait - 0.001)
        assert shop.endpoints.requests == held
        shop.clock.move(0.001)
        await until(lambda at=attempt: [r for r in shop.endpoints.requests if r.attempt == at])  # type: ignore[misc]
    assert shop.clock.now == pytest.approx(made + sum(SCHEDULE))
    await until(lambda: second in shop.endpoints.to("https://a.example/hook"))
    await shop.settled(endpoint)
    assert shop.endpoints.to("https://a.example/hook") == [first, other, first, first, first, second]
    await hub.recorder.write(everything=True)
    partition = shop.rig.log.partition(TENANT)
    entry = await shop.rig.log.find(TENANT, first)
    assert entry is not None
    rows = await shop.rig.store.ledger.covering(partition, entry.id, entry.id)
    assert sorted((row.kind, row.attempts) for row in rows) == [
        ("attempted", 1),
        ("attempted", 2),
        ("attempted", 3),
        ("attempted", 4),
        ("given_up", 4),
    ]


async def _stored(shop: Shop, endpoint: Any, event_id: str, attempts: int) -> None:
    """Until the outcome of an attempt is in the store, and its next one waited for."""
    due = int(shop.clock.now * 1000)
    async with asyncio.timeout(20):
        while True:
            found = (await shop.waiting(endpoint)).get(event_id)
            if found is not None and found[0] == attempts and found[1] > due:
                return
            await asyncio.sleep(0.002)


async def test_an_endpoint_says_when_to_come_back(shop: Shop) -> None:
    """Retry-After is a least."""
    await shop.hub()
    endpoint = await shop.endpoint()
    shop.endpoints.answers = lambda _: answer("refused", 429, retry_after_s=100.0)
    event_id = await shop.publish()
    await shop.received(1)
    await _stored(shop, endpoint, event_id, 1)
    assert (await shop.waiting(endpoint))[event_id][1] == int(shop.clock.now * 1000) + 100_000


async def test_a_gone_endpoint_is_disabled_and_a_system_event_says_so(shop: Shop) -> None:
    """At once, and once; nothing more is sent to it or kept for it."""
    await shop.hub()
    endpoint = await shop.endpoint()
    other = await shop.endpoint("b", patterns=("system.*",))
    shop.endpoints.answers = lambda request: GONE if "a.example" in request.url else answer()
    await shop.publish()
    await until(lambda: shop.endpoints.to("https://b.example/hook"), "the alarm")
    alarm = next(request for request in shop.endpoints.requests if "b.example" in request.url)
    assert (alarm.body["type"], alarm.body["action"]) == ("system", "alarm")
    assert alarm.body["data"]["detail"]["endpoint_id"] == endpoint.endpoint_id
    held = await shop.rig.store.webhooks.get(endpoint.endpoint_id)
    assert held is not None
    assert (held.state, held.reason) == ("disabled", "it answered 410 Gone")
    await shop.working[0].service.changed()
    later = await shop.publish()
    await shop.rig.routed()
    await shop.settled(other)
    assert later not in await shop.waiting(endpoint)
    assert len(shop.endpoints.to(endpoint.url)) == 1


async def test_five_days_of_failure_disable_an_endpoint(shop: Shop) -> None:
    """Counted from the first failure after the last success."""
    await shop.hub()
    endpoint = await shop.endpoint()
    shop.endpoints.answers = lambda _: REFUSED
    event_id = await shop.publish()
    await shop.received(1)
    await _stored(shop, endpoint, event_id, 1)
    held = await shop.rig.store.webhooks.get(endpoint.endpoint_id)
    assert held is not None
    assert (held.state, held.failing_ms, held.last_error) == ("enabled", int(shop.clock.now * 1000), "HTTP 500: no")
    shop.clock.move(5 * 86_400)
    await shop.received(2)

    async def disabled() -> bool:
        now = await shop.rig.store.webhooks.get(endpoint.endpoint_id)
        return now is not None and now.state == "disabled" and "5 days" in str(now.reason)

    async with asyncio.timeout(20):
        while not await disabled():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_success_ends_a_failure(shop: Shop) -> None:
    """The endpoint's row says so."""
    await shop.hub()
    endpoint = await shop.endpoint()
    answers = [REFUSED, answer()]
    shop.endpoints.answers = lambda _: answers.pop(0)
    event_id = await shop.publish()
    await shop.received(1)
    await _stored(shop, endpoint, event_id, 1)
    shop.clock.move(5)
    await shop.settled(endpoint)
    held = await shop.rig.store.webhooks.get(endpoint.endpoint_id)
    assert held is not None
    assert (held.failing_ms, held.last_error, held.succeeded_ms) == (None, None, int(shop.clock.now * 1000))


async def test_a_hub_that_dies_in_an_attempt_has_it_made_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the next one, as a further attempt; everything behind it follows in order."""
    monkeypatch.setattr(service_module, "STOP_S", 0.0)
    first_hub = await shop.hub()
    endpoint = await shop.endpoint()
    shop.endpoints.hanging.add(endpoint.url)
    ids = [await shop.publish() for _ in range(3)]
    await shop.received(1)
    async with asyncio.timeout(20):
        while len(await shop.waiting(endpoint)) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    await end(first_hub.over)
    assert {id: attempts for id, (attempts, _) in (await shop.waiting(endpoint)).items()} == {
        ids[0]: 1,
        ids[1]: 0,
        ids[2]: 0,
    }
    shop.endpoints.hanging.clear()
    await shop.hub()
    await shop.settled(endpoint)
    assert [(request.event_id, request.attempt) for request in shop.endpoints.requests] == [
        (ids[0], 1),
        (ids[0], 2),
        (ids[1], 1),
        (ids[2], 1),
    ]


async def test_a_hub_that_lost_its_lease_writes_nothing(shop: Shop) -> None:
    """And sends nothing more: its work ends."""
    old = await shop.hub()
    endpoint = await shop.endpoint()
    shop.endpoints.hanging.add(endpoint.url)
    event_id = await shop.publish()
    await shop.received(1)
    new = await shop.hub()
    with pytest.raises(LeaseLost):
        await shop.rig.store.webhook_queue.write(old.fence, Page(noted={}, settled=set(), begun={}))
    shop.endpoints.hanging.clear()
    await shop.settled(endpoint)
    await until(old.over.done, "the old hub's work to end")
    with pytest.raises(LeaseLost):
        old.over.result()
    assert not new.over.done()
    assert {request.event_id for request in shop.endpoints.requests} == {event_id}


async def test_nothing_is_sent_that_the_store_did_not_take(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what came of an attempt is kept until it does."""
    await shop.hub()
    endpoint = await shop.endpoint()
    queue = shop.rig.store.webhook_queue
    write, failing = queue.write, {"on": True, "tries": 0}

    async def refuse(*arguments: Any) -> None:
        if failing["on"]:
            failing["tries"] += 1
            raise StoreUnavailable("away")
        await write(*arguments)

    monkeypatch.setattr(queue, "write", refuse)
    monkeypatch.setattr("hub.services.webhook_journal.RETRY_S", 0.0)
    event_id = await shop.publish()
    await until(lambda: failing["tries"] >= 1)
    assert shop.endpoints.requests == []

    async def break_again(_: Request) -> None:
        failing.update(on=True, tries=0)

    shop.endpoints.before = break_again
    failing["on"] = False

    def later() -> bool:
        shop.clock.move(0.5)
        return bool(shop.endpoints.requests)

    await until(later, "the attempt")
    await until(lambda: failing["tries"] >= 3)
    assert event_id in await shop.waiting(endpoint)
    failing["on"] = False
    await shop.settled(endpoint)
    assert len(shop.endpoints.requests) == 1


async def test_no_event_after_its_creation_passes_an_endpoint_by(shop: Shop) -> None:
    """However the two fall together: nobody asked for the partition before."""
    await shop.hub()
    wanted: dict[str, list[str]] = {}
    for number in range(30):
        tenant = ("t-1", "t-2", "t-4", "t-5")[number % 4]
        made, _ = await asyncio.gather(
            shop.endpoint(f"e{number}", tenant_id=tenant), shop.publish(f"room:{number}", tenant)
        )
        wanted[made.url] = [await shop.publish(f"room:{number}", tenant)]
    await until(lambda: all(set(ids) <= set(shop.endpoints.to(url)) for url, ids in wanted.items()), "all of them")


async def test_a_backlog_larger_than_memory_is_worked_off(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event once and each entity in order, with one entity that fails in between."""
    monkeypatch.setattr(webhook_lane, "MAX_ENTITIES", 6)
    monkeypatch.setattr(webhook_lane, "MAX_EACH", 2)
    monkeypatch.setattr(service_module, "PAGE", 10)
    endpoint = await shop.endpoint()
    hub = await shop.hub()
    shop.endpoints.hanging.add(endpoint.url)
    ids: dict[str, list[str]] = {}
    for number in range(120):
        entity = f"room:{number % 13}"
        ids.setdefault(entity, []).append(await shop.publish(entity))
    await until(lambda: len(shop.endpoints.requests) >= 6)
    bad = ids["room:3"][0]
    shop.endpoints.answers = lambda request: REFUSED if request.event_id == bad else answer()
    shop.endpoints.hanging.clear()
    others = [id for entity, some in ids.items() for id in some if entity != "room:3"]
    await until(lambda: len(set(shop.endpoints.to(endpoint.url)) & set(others)) == len(others), "the others")
    assert set(ids["room:3"][1:]).isdisjoint(shop.endpoints.to(endpoint.url))
    shop.endpoints.answers = lambda _: answer()
    for _ in range(3):
        shop.clock.move(5)
    await shop.settled(endpoint)
    sent = [id for id in shop.endpoints.to(endpoint.url) if id != bad]
    assert sorted([*sent, bad]) == sorted(id for some in ids.values() for id in some)
    for some in ids.values():
        assert [id for id in sent if id in some] == [id for id in some if id != bad]
    assert not hub.over.done()


async def test_batch_events_wait_for_their_time(shop: Shop) -> None:
    """A publisher's; an event of the same entity that does not wait lets it go before."""
    await shop.hub()
    endpoint = await shop.endpoint()
    held = await _publish_batch(shop, "room:1")
    other = await _publish_batch(shop, "room:2")
    urgent = await shop.publish("room:2")
    await shop.received(2)
    assert shop.endpoints.to(endpoint.url) == [other, urgent]
    shop.clock.move(HOUR_MS / 1000)
    await shop.settled(endpoint)
    assert shop.endpoints.to(endpoint.url) == [other, urgent, held]


async def _publish_batch(shop: Shop, entity: str) -> str:
    event = append(TENANT, entity=entity)
    event = replace(event, head=event.head.replace(b'"targets"', b'"sync_mode":"batch","targets"'))
    await shop.rig.log.submit(event)
    return event.event_id


async def test_what_was_missed_is_recovered(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a place up to another, beside what comes; what still waits is not doubled."""
    monkeypatch.setattr(service_module, "PAGE", 7)
    before = [await shop.publish(f"room:{number % 3}") for number in range(20)]
    await shop.hub()
    endpoint = await shop.endpoint()
    assert shop.endpoints.requests == []
    head = (await shop.rig.history.heads([TENANT]))[TENANT]
    await shop.rig.store.webhooks.change(
        endpoint.endpoint_id, lambda held: replace(held, recover=StreamId(0, 0), until=head.id)
    )
    await shop.working[0].service.changed()
    later = await shop.publish("room:7")
    await until(lambda: len(shop.endpoints.requests) >= 21)
    await shop.settled(endpoint)
    assert sorted(shop.endpoints.to(endpoint.url)) == sorted([*before, later])
    held = await shop.rig.store.webhooks.get(endpoint.endpoint_id)
    assert held is not None
    assert (held.recover, held.until) == (None, None)


async def test_a_replaced_history_is_looked_through_again_and_nothing_doubled(shop: Shop) -> None:
    """What the ledger knows to be delivered is not sent again; what is new is sent."""
    hub = await shop.hub()
    endpoint = await shop.endpoint()
    old = [await shop.publish(f"room:{number}") for number in range(5)]
    await shop.received(5)
    await shop.settled(endpoint)
    await hub.recorder.write(everything=True)
    partition = shop.rig.log.partition(TENANT)
    await new_epoch(shop.rig.log.source, shop.rig.log, partition)
    new = await shop.publish("room:1")
    await until(lambda: new in shop.endpoints.to(endpoint.url), "the new one")
    await shop.settled(endpoint)
    assert shop.endpoints.to(endpoint.url) == [*old, new]


async def test_the_group_is_where_the_intake_is(shop: Shop) -> None:
    """So that the stream may be trimmed behind it, with endpoints or without."""
    await shop.hub()
    await shop.endpoint()
    await shop.publish()
    partition = shop.rig.log.partition(TENANT)
    last = (await shop.rig.history.heads([TENANT]))[TENANT].id

    async def delivered() -> str:
        groups = await shop.rig.log.source.client.xinfo_groups(shop.rig.log.keys.events(partition))
        found = next(group for group in groups if group["name"] in (b"webhooks", "webhooks"))
        reached = found["last-delivered-id"]
        return reached.decode() if isinstance(reached, bytes) else reached

    async with asyncio.timeout(20):
        while await delivered() != str(last):  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_what_came_before_an_endpoint_was_known_here_goes_first(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked for while later events of the same entity come: those wait."""
    hub = await shop.hub()
    other = await shop.endpoint("b")
    working, shop.working = shop.working, []
    endpoint = await shop.endpoint()  # made on another hub: this one has not looked yet
    shop.working = working
    first = await shop.publish()
    await until(lambda: first in shop.endpoints.to(other.url))
    read, later = shop.rig.history.read, asyncio.Event()

    async def slowly(*arguments: Any, **more: Any) -> Any:
        await later.wait()
        return await read(*arguments, **more)

    monkeypatch.setattr(shop.rig.history, "read", slowly)
    looking = asyncio.create_task(hub.service.changed())
    await until(lambda: any(one.endpoint_id == endpoint.endpoint_id for one in hub.service._by_tenant[TENANT]))
    second = await shop.publish()
    await until(lambda: second in shop.endpoints.to(other.url))
    later.set()
    await looking
    await until(lambda: len(shop.endpoints.to(endpoint.url)) == 2)
    assert shop.endpoints.to(endpoint.url) == [first, second]


async def test_an_event_that_cannot_be_written_is_given_up(shop: Shop) -> None:
    """Where a guest may stand in it that nobody can mask: its entity goes on."""
    await shop.hub()
    endpoint = await shop.endpoint(view="masked")
    damaged = append(TENANT)
    damaged = replace(damaged, head=damaged.head.replace(b'"data":{}', b'"data":[]'))
    assert damaged.head.count(b'"data":[]') == 1
    await shop.rig.log.submit(damaged)
    event_id = await shop.publish()
    await shop.received(1)
    await shop.settled(endpoint)
    assert shop.endpoints.to(endpoint.url) == [event_id]


async def test_what_is_published_while_nobody_works_is_sent_later(shop: Shop) -> None:
    """The next hub looks at the endpoints before it looks through anything."""
    first = await shop.hub()
    endpoint = await shop.endpoint()
    before = await shop.publish()
    await shop.received(1)
    await shop.settled(endpoint)
    await first.end()
    missed = [await shop.publish(f"room:{number}") for number in range(5)]
    shop.working.clear()
    await shop.hub()
    await shop.received(6)
    assert sorted(shop.endpoints.to(endpoint.url)) == sorted([before, *missed])


async def test_many_changes_at_once_are_all_answered(shop: Shop) -> None:
    """Whoever waits for a look that was under way waits for the next one."""
    hub = await shop.hub()
    async with asyncio.timeout(20):
        await asyncio.gather(*(hub.service.changed() for _ in range(10)), shop.endpoint(), shop.endpoint("b"))
