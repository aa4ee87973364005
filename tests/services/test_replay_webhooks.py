"""Replays to webhook endpoints: marked, at their pace, once, and none that was not named."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from feed_rig import Rig, until
from replay_desk import GROUP, OPS, Clock, Desk
from webhook_rig import TENANT, Shop

from hub.core.webhooks import Endpoint
from hub.services.ledger import Recorder
from hub.services.replay_webhooks import WebhookSink
from hub.services.replayer import Replayer
from schemas.errors import Problem
from schemas.replay import ReplayRequest


@pytest.fixture
async def shop(rig: Rig) -> AsyncIterator[Shop]:
    """Webhooks at work."""
    made = Shop(rig)
    await made.hub()
    yield made
    await made.close()


@asynccontextmanager
async def desk(shop: Shop) -> AsyncIterator[Desk]:
    """A desk whose replayer sends to webhooks too."""
    made = Desk(shop.rig, Clock(jumps=True))
    sink = WebhookSink(shop.rig.store, shop.working[-1].service.changed, wall=shop.clock.wall)
    recorder = Recorder(shop.rig.metrics, shop.rig.log.partition)
    made.replayer = Replayer(made.reading, made.watch, made.redrive, recorder, sink)
    async with made:
        yield made


def asked(endpoint: Endpoint, **more: object) -> ReplayRequest:
    """A replay to an endpoint, as fast as it goes."""
    return ReplayRequest.model_validate({"target": {"webhook": endpoint.endpoint_id}, "speed": "full"} | more)


async def test_an_endpoint_gets_what_a_replay_names(shop: Shop) -> None:
    """Events from before it was made, in order, marked with the replay; another endpoint gets none."""
    ids = [await shop.publish(f"room:{number % 3}") for number in range(30)]
    endpoint, other = await shop.endpoint("a"), await shop.endpoint("b")
    async with desk(shop) as it:
        made, _ = await it.jobs.create(OPS, asked(endpoint, tenants=[TENANT]))
        await until(lambda: len(shop.endpoints.requests) >= 30, "the replay")
        await until(lambda: it.watch.seen(made["replay_id"]) is None, "its end")
        assert (await it.jobs.get(OPS, made["replay_id"]))["state"] == "done"
    assert sorted(shop.endpoints.to(endpoint.url)) == sorted(ids)
    assert shop.endpoints.to(other.url) == []
    assert {request.headers["hub-replay"] for request in shop.endpoints.requests} == {made["replay_id"]}
    for entity in range(3):
        sent = [id for id in shop.endpoints.to(endpoint.url) if id in ids[entity::3]]
        assert sent == ids[entity::3]


async def test_a_replay_that_names_no_webhook_fires_none(shop: Shop) -> None:
    """To a group, say."""
    await shop.publish()
    endpoint = await shop.endpoint()
    async with desk(shop) as it:
        target = {"target": {"group": GROUP}, "speed": "full"}
        made, _ = await it.jobs.create(OPS, ReplayRequest.model_validate(target))
        await until(lambda: it.watch.seen(made["replay_id"]) is None, "its end")
    mark = await shop.publish()
    await shop.received(1)
    assert shop.endpoints.to(endpoint.url) == [mark]


async def test_a_hub_that_dies_in_a_replay_leaves_no_hole_and_no_double(shop: Shop) -> None:
    """The next one goes on where what is owed says it was."""
    ids = [await shop.publish(f"room:{number % 7}") for number in range(400)]
    endpoint = await shop.endpoint()
    async with desk(shop) as it:
        await it.jobs.create(OPS, asked(endpoint))
        await until(lambda: len(shop.endpoints.requests) >= 20, "its beginning")
    async with desk(shop) as it:
        await until(lambda: len(set(shop.endpoints.to(endpoint.url))) >= 400, "all of it")
        await shop.settled(endpoint)
    assert sorted(shop.endpoints.to(endpoint.url)) == sorted(ids)


async def test_what_makes_no_sense_is_refused(shop: Shop) -> None:
    """An endpoint that is not there, another tenant's events, one that is disabled."""
    await shop.publish()
    endpoint = await shop.endpoint(state="disabled")
    other = await shop.endpoint()
    async with desk(shop) as it:
        for one, tenants, field in (
            (endpoint, [TENANT], "target.webhook"),
            (other, ["t-2"], "tenants"),
            (None, None, "target.webhook"),
        ):
            target = {"webhook": "nowhere" if one is None else one.endpoint_id}
            with pytest.raises(Problem) as caught:
                await it.jobs.create(OPS, ReplayRequest.model_validate({"target": target, "tenants": tenants}))
            assert [error.path for error in caught.value.errors] == [field]
