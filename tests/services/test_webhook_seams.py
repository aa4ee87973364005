"""Webhooks where two things happen at once, or one of them fails: nothing is lost, wedged or put back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from feed_rig import TENANTS, LogServer, Rig, until
from webhook_rig import GONE, HOUR_MS, REFUSED, TENANT, Shop, Webhooks, answer

from hub.core.webhooks import Delivery, Endpoint, Key
from hub.services.leadership import Leadership
from hub.services.restoration import Restoration
from hub.services.webhook_intake import Intake
from hub.store.database import StoreUnavailable
from hub.store.leases import Fence
from hub.store.places import Place
from hub.store.webhook_queue import Looked
from schemas.cursor import StreamId
from schemas.errors import Problem

PATIENCE_S = 20.0
URL = "https://a.example/hook"


@pytest.fixture
async def shop(rig: Rig) -> AsyncIterator[Shop]:
    """Webhooks without a hub at work yet."""
    made = Shop(rig)
    yield made
    await made.close()


async def becomes(condition: Callable[[], Awaitable[bool]]) -> None:
    """Until something that has to be awaited is so."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_look_that_fails_answers_those_who_waited_for_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The change is stored; whoever works next sees it."""
    hub = await shop.hub()

    async def away() -> dict[str, int]:
        raise StoreUnavailable("away")

    monkeypatch.setattr(shop.rig.store.webhooks, "versions", away)
    async with asyncio.timeout(PATIENCE_S):
        await hub.service.changed()


async def test_what_is_due_goes_out_past_a_page_of_what_is_not(shop: Shop) -> None:
    """More deliveries than are read at a time wait for hours before it in the store."""
    endpoint = await shop.endpoint()
    now = int(shop.clock.now * 1000)
    event_id = await shop.publish("room:late")
    entry = await shop.rig.log.find(TENANT, event_id)
    assert entry is not None
    partition = shop.rig.log.partition(TENANT)

    def row(number: int, due: int) -> Delivery:
        key = Key(endpoint.endpoint_id, "", StreamId(1000 + number, 0), 1)
        return Delivery(key, partition, TENANT, f"event-{number}", f"room:{number}", due, 3)

    rows = [row(number, now + 5 * HOUR_MS) for number in range(700)]
    key = Key(endpoint.endpoint_id, "", entry.id, entry.epoch)
    rows.append(Delivery(key, partition, TENANT, event_id, entry.entity, now))
    leases = shop.rig.store.leases
    lease = await leases.take("webhooks", "before", None)
    assert lease is not None
    place = (await shop.rig.store.webhook_queue.places()).get(partition)
    looked = Looked(partition, place, (place or _place(shop, entry.id)))
    await shop.rig.store.webhook_queue.add(Fence("webhooks", lease.fence), [looked], rows)
    await shop.rig.store.webhooks.change(
        endpoint.endpoint_id, lambda held: replace(held, recover=None, until=None, since=entry.id)
    )
    await shop.hub()
    await shop.received(1)
    assert shop.endpoints.to(endpoint.url) == [event_id]


def _place(shop: Shop, id: StreamId) -> Place:
    return Place(shop.rig.log.epochs[shop.rig.log.partition(TENANT)], id)


async def test_an_endpoint_that_could_not_be_disabled_is_tried_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many attempts found it gone at once, while nobody could be told."""
    hub = await shop.hub()
    endpoint = await shop.endpoint()
    real, told = hub.publisher.submit, 0

    def submit(*_: Any) -> Any:
        nonlocal told
        told += 1
        raise Problem("log_unavailable", "no")

    monkeypatch.setattr(hub.publisher, "submit", submit)
    shop.endpoints.answers = lambda _: GONE
    shop.endpoints.hanging.add(URL)
    first = [await shop.publish("room:1"), await shop.publish("room:2")]
    await shop.received(2)
    shop.endpoints.hanging.clear()
    await until(lambda: told >= 1)

    async def stored() -> bool:
        waiting = await shop.waiting(endpoint)
        return all(waiting[id][1] > shop.clock.now * 1000 for id in first)

    await becomes(stored)
    monkeypatch.setattr(hub.publisher, "submit", real)
    shop.endpoints.answers = lambda _: answer()
    shop.clock.move(10)
    await shop.settled(endpoint)
    assert sorted(set(shop.endpoints.to(URL))) == sorted(first)


async def test_a_disabling_that_fails_puts_nothing_back(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was changed meanwhile stays changed."""
    hub = await shop.hub()
    endpoint = await shop.endpoint()
    going, go = asyncio.Event(), asyncio.Event()

    async def announce(*_: Any, **__: Any) -> None:
        going.set()
        await go.wait()
        raise Problem("log_unavailable", "no")

    monkeypatch.setattr("hub.services.announcer.Announcer.announce", announce)
    shop.endpoints.answers = lambda request: GONE if request.url == URL else answer()
    await shop.publish("room:1")
    async with asyncio.timeout(PATIENCE_S):
        await going.wait()
    mended = "https://mended.example/hook"
    await shop.rig.store.webhooks.change(endpoint.endpoint_id, lambda held: replace(held, url=mended))
    await hub.service.changed()
    go.set()
    event_id = await shop.publish("room:2")
    await until(lambda: event_id in shop.endpoints.to(mended), "the event at the new address")
    assert event_id not in shop.endpoints.to(URL)


async def test_an_endpoint_made_while_a_round_waits_misses_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round had begun when nobody asked for its partition."""
    rig, other = shop.rig, next(t for t in TENANTS if shop.rig.log.partition(t) != shop.rig.log.partition(TENANT))
    gate, reached, armed = asyncio.Event(), asyncio.Event(), True
    recent, read, round = rig.dispatcher.recent, rig.history.read, Intake.round

    def behind(partition: int, after: StreamId, count: int) -> Any:
        # As after a restart: it reads from the log or the archive.
        return None if armed and partition == rig.log.partition(TENANT) else recent(partition, after, count)

    async def slowly(*arguments: Any, **more: Any) -> Any:
        if armed:
            reached.set()
            await gate.wait()
        return await read(*arguments, **more)

    async def that_one_first(intake: Intake, fence: Fence) -> bool:
        while (intake._turn + 1) % rig.log.partitions != rig.log.partition(TENANT):
            intake._turn += 1
        return await round(intake, fence)

    monkeypatch.setattr(Intake, "round", that_one_first)
    await shop.hub()
    await shop.endpoint()
    monkeypatch.setattr(rig.dispatcher, "recent", behind)
    monkeypatch.setattr(rig.history, "read", slowly)
    await shop.publish("room:1")
    async with asyncio.timeout(PATIENCE_S):
        await reached.wait()
    made = await shop.endpoint("b", tenant_id=other)
    event_id = await shop.publish("room:9", other)
    head = (await rig.history.heads([other]))[other]
    await until(lambda: rig.dispatcher.position[rig.log.partition(other)] >= head.id)
    armed = False
    gate.set()
    await until(lambda: shop.endpoints.to(made.url) == [event_id], "the event")


async def test_an_endpoint_made_while_the_intake_is_behind_gets_nothing_older(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published before it was made is not its own."""
    await shop.hub()
    other = await shop.endpoint("b")
    gate, next = asyncio.Event(), Intake._next

    async def late(intake: Intake, partition: int, epoch: int) -> Any:
        await gate.wait()
        return await next(intake, partition, epoch)

    monkeypatch.setattr(Intake, "_next", late)
    await shop.publish("room:1")
    made = await shop.endpoint("a")
    new = await shop.publish("room:1")
    gate.set()
    await until(lambda: len(shop.endpoints.to(other.url)) == 2)
    await until(lambda: new in shop.endpoints.to(made.url))
    assert shop.endpoints.to(made.url) == [new]


async def test_a_recovery_puts_back_nothing_that_changed_meanwhile(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that worked again while its history was read is not taken for one that failed for days."""
    hub = await shop.hub()
    endpoint = await shop.endpoint()
    event_id = await shop.publish("room:1")
    await shop.received(1)
    await shop.settled(endpoint)
    gate, at, read = asyncio.Event(), asyncio.Event(), shop.rig.history.read

    async def slowly(*arguments: Any, **more: Any) -> Any:
        if "tenants" in more:
            at.set()
            await gate.wait()
        return await read(*arguments, **more)

    monkeypatch.setattr(shop.rig.history, "read", slowly)
    entry = await shop.rig.log.find(TENANT, event_id)
    assert entry is not None
    old = int(shop.clock.now * 1000) - 5 * 86_400_000 + 1000
    await shop.rig.store.webhooks.change(
        endpoint.endpoint_id, lambda held: replace(held, failing_ms=old, recover=entry.id, until=entry.id.next)
    )
    await hub.service.changed()
    async with asyncio.timeout(PATIENCE_S):
        await at.wait()
    await shop.publish("room:2")
    await becomes(lambda: _is(shop, endpoint, failing_ms=None))
    gate.set()
    await becomes(lambda: _is(shop, endpoint, recover=None))
    shop.endpoints.answers = lambda _: REFUSED
    shop.clock.move(10)
    await shop.publish("room:3")
    await becomes(lambda: _is(shop, endpoint, failing_ms=int(shop.clock.now * 1000)))
    assert await _is(shop, endpoint, state="enabled")


async def _is(shop: Shop, endpoint: Endpoint, **fields: Any) -> bool:
    held = await shop.rig.store.webhooks.get(endpoint.endpoint_id)
    return held is not None and all(getattr(held, name) == value for name, value in fields.items())


async def test_order_holds_over_a_crash_while_an_endpoint_is_taken_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next hub looks for what came before it was known, too, before anything later goes out."""
    hub = await shop.hub()
    other = await shop.endpoint("b")
    working, shop.working = shop.working, []
    made = await shop.endpoint()  # on another hub
    shop.working = working
    first = await shop.publish("room:1")
    await until(lambda: first in shop.endpoints.to(other.url))
    stuck = asyncio.Event()

    async def hangs(*_: Any) -> None:
        stuck.set()
        await asyncio.Event().wait()

    recover = hub.service._recover
    monkeypatch.setattr(hub.service, "_recover", hangs)
    shop.clock.move(1)
    async with asyncio.timeout(PATIENCE_S):
        await stuck.wait()
    second = await shop.publish("room:1")
    await until(lambda: second in shop.endpoints.to(other.url))
    await hub.end()
    monkeypatch.setattr(hub.service, "_recover", recover)
    shop.working.remove(hub)
    gate, read = asyncio.Event(), shop.rig.history.read

    async def slowly(*arguments: Any, **more: Any) -> Any:
        if "tenants" in more:
            await gate.wait()
        return await read(*arguments, **more)

    monkeypatch.setattr(shop.rig.history, "read", slowly)
    beginning = asyncio.create_task(shop.hub())
    third = asyncio.create_task(shop.publish("room:2"))
    await until(lambda: third.done() and third.result() in shop.endpoints.to(other.url))
    gate.set()
    await beginning
    await until(lambda: len(shop.endpoints.to(made.url)) >= 3)
    assert [id for id in shop.endpoints.to(made.url) if id != third.result()] == [first, second]


async def test_a_hub_begins_on_an_emptied_log(log_server: LogServer) -> None:
    """What comes after the loss is sent, and what was delivered before it is not sent again."""
    rig = await Rig(log_server).start()
    shop = Shop(rig)
    hub = await shop.hub()
    endpoint = await shop.endpoint()
    before = await shop.publish("room:1")
    await shop.received(1)
    await shop.settled(endpoint)
    await hub.recorder.write(everything=True)
    await rig.archive()
    partition, queue = rig.log.partition(TENANT), rig.store.webhook_queue
    last = (await rig.history.heads([TENANT]))[TENANT].id
    await becomes(lambda: _reached(queue, partition, last))
    await shop.close()
    await rig.log.source.client.delete(*[key async for key in rig.log.source.client.scan_iter(f"{rig.prefix}:*")])
    await rig.stop()

    rig = Rig(log_server, rig.prefix)
    await rig.store.open()
    rig.log.on_empty = Restoration(rig.log, rig.store, idempotency_s=600).partition
    await rig.start()
    shop = Shop(rig)
    await shop.hub()
    after = await shop.publish("room:2")
    await until(lambda: after in shop.endpoints.to(endpoint.url), "the event after the loss")
    assert before not in shop.endpoints.to(endpoint.url)
    await shop.close()
    await rig.stop()


async def _reached(queue: Any, partition: int, id: StreamId) -> bool:
    place = (await queue.places()).get(partition)
    return place is not None and place.id >= id


async def test_a_stop_waits_for_attempts_and_lets_the_lease_go(shop: Shop) -> None:
    """What was under way is written down, and the next hub need not wait."""
    hub = Webhooks(shop.rig, shop.endpoints, shop.clock, Fence("webhooks", 1))
    lead = Leadership(shop.rig.store, "webhooks", "me", hub.service.work)
    endpoint = await shop.endpoint()
    lead.start()
    await until(lambda: hub.service.working)
    shop.endpoints.hanging.add(URL)
    await shop.publish()
    await shop.received(1)
    stopping = asyncio.create_task(lead.stop())
    await until(lambda: not lead.leads)
    assert not stopping.done()
    shop.endpoints.hanging.clear()
    async with asyncio.timeout(PATIENCE_S):
        await stopping
    held = await shop.rig.store.leases.look("webhooks")
    assert held is not None
    assert held.holder == ""
    assert await shop.waiting(endpoint) == {}
    await hub.recorder.stop()
    await hub.publisher.aclose()
