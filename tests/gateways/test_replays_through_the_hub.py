"""Replays over a whole hub: to a channel over WebSocket, to a consumer group, as a stream of lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import orjson
import pytest
from house import House

from consumers import HubClient, StreamConsumer, replay_id
from consumers.inbox import SQLiteInbox
from hub.services import replayer

pytestmark = [pytest.mark.server]

PMS = {"system": "hotel-pms", "channel": "test"}


def ops(house: House, **more: Any) -> dict[str, str]:
    return house.headers("hub", ("*",), ("ops", "subscribe:*"), **more)


async def begin(house: House, **asked: Any) -> dict[str, Any]:
    response = await house.http.post("/replays", json={"target": PMS, "speed": "full"} | asked, headers=ops(house))
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def show(house: House, id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await house.http.get(f"/replays/{id}", headers=ops(house))).json()
    return found


async def ended(house: House, id: str, state: str = "done") -> dict[str, Any]:
    async with asyncio.timeout(20):
        while (found := await show(house, id))["state"] != state:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return found


async def test_a_channel_gets_its_replay_in_order_and_nobody_else_does(house: House) -> None:
    """Marked, with the subscription and the replay it belongs to; a live subscription on the same and on another
    connection sees none of it, and the channel nothing live."""
    receipts = await house.publish(*[house.reservation() for _ in range(300)])
    async with house.socket() as other, house.socket() as socket:
        await other.ask("subscribe", id=1, patterns=["*"])
        await socket.ask("subscribe", id="live", patterns=["*"])
        stands = await socket.ask("subscribe", id="again", patterns=["reservation.*"], replay="test")
        assert (stands["op"], stands["position"]) == ("subscribed", {})
        made = await begin(house)
        frames = await socket.take(301)

        *events, end = frames
        assert [frame["cursor"] for frame in events] == [one["cursor"] for one in receipts]
        assert {(frame["op"], frame["replay"], frame["replay_id"], frame["sub"]) for frame in events} == {
            ("event", True, made["replay_id"], "again")
        }
        assert end["op"] == "notice"
        assert (end["code"], end["detail"]) == (
            "replay_done",
            {"sub": "again", "channel": "test", "replay_id": made["replay_id"], "state": "done", "events": 300},
        )
        await socket.quiet()
        await other.quiet()

        await house.publish(house.reservation())
        live = await socket.next()
        assert "replay" not in live
        assert (await other.next())["cursor"] == live["cursor"]
        await socket.quiet()
    assert (await ended(house, made["replay_id"]))["progress"]["events"] == 300


async def test_a_subscription_gets_what_it_asks_for_and_may_see(house: House) -> None:
    """Its patterns, entities and tenants; its system's targets; one replay after the other. A part of a replay neither
    begins nor ends it."""
    await house.publish(
        house.reservation("R1"), house.reservation("R2"), house.reservation("R3", targets=["hotel-saas"])
    )
    async with house.socket() as socket, house.socket() as whole:
        await socket.ask(
            "subscribe", id=1, patterns=["*"], replay="test", entities=["reservation:R2", "reservation:R3"]
        )
        for _ in range(2):
            made = await begin(house)
            await socket.quiet()
            shown = await show(house, made["replay_id"])
            assert (shown["state"], shown["started_at"]) == ("running", None)
            await whole.ask("subscribe", id=1, patterns=["reservation.*"], replay="test")
            event, end = await socket.take(2)
            assert event["event"]["entity"] == "reservation:R2"
            assert end["detail"]["events"] == 1
            assert (await whole.take(3))[-1]["detail"]["events"] == 2
            assert (await ended(house, made["replay_id"]))["progress"]["events"] == 2
            await whole.send("unsubscribe", id=1)
            await whole.quiet()
        await begin(house, target=PMS | {"channel": "another"})
        await socket.quiet()


async def test_a_replay_of_other_tenants_is_not_there(house: House) -> None:
    """Its channel's name is no way to it, nor is its id: it does not begin, nothing of it is told, and its own tenant
    gets it at last."""
    await house.publish(house.reservation(tenant_id="ta"), tenants=["ta"])
    await house.publish(house.reservation(tenant_id="tb"), tenants=["tb"])
    made = await begin(house, tenants=["ta"])
    both = await begin(house, tenants=["ta", "tb"])
    async with house.socket(token=house.token(tenants=["tb"])) as other:
        await other.ask("subscribe", id=1, patterns=["*"], replay="test")
        answers = []
        for id in (made["replay_id"], both["replay_id"], str(uuid4())):
            answer = await other.ask("subscribe", id=2, patterns=["*"], replay="test", replay_id=id)
            answers.append((answer["code"], answer["message"].replace(id, "")))
        assert answers[0][0] == "not_found"
        assert len(set(answers)) == 1
        await other.quiet()
        for one in (made, both):
            shown = await show(house, one["replay_id"])
            assert (shown["state"], shown["started_at"]) == ("running", None)
        own = await begin(house, tenants=["tb"])
        event, end = await other.take(2)
        assert (event["event"]["tenant_id"], end["detail"]["replay_id"]) == ("tb", own["replay_id"])
    async with house.socket(token=house.token(tenants=["ta", "tb"])) as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], replay="test")
        frames = await socket.take(5)
        ends = {frame["detail"]["replay_id"]: frame["detail"]["events"] for frame in frames if frame["op"] == "notice"}
        assert ends == {made["replay_id"]: 1, both["replay_id"]: 2}


async def test_a_connection_has_one_subscription_a_channel_and_eight_in_all(house: House) -> None:
    """Each of them reads the history for itself."""
    async with house.socket() as socket:
        for number in range(8):
            stands = await socket.ask("subscribe", id=number, patterns=["*"], replay=f"c{number}")
            assert stands["op"] == "subscribed"
            again = await socket.ask("subscribe", id="x", patterns=["*"], replay=f"c{number}")
            assert (again["code"], again["errors"][0]["path"]) == ("invalid_request", "replay")
        assert (await socket.ask("subscribe", id="x", patterns=["*"], replay="c8"))["code"] == "rate_limited"
        await socket.send("unsubscribe", id=3)
        assert (await socket.ask("subscribe", id="x", patterns=["*"], replay="c8"))["op"] != "error"


async def test_an_interrupted_one_goes_on_behind_the_last_event(house: House) -> None:
    """By its id and a cursor: on a new connection, nothing is missing and nothing comes twice, also once it is done."""
    receipts = await house.publish(*[house.reservation() for _ in range(20)])
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], replay="test")
        made = await begin(house)
        await socket.take(21)
    for at in (4, 19):
        async with house.socket() as socket:
            again = {"replay": "test", "replay_id": made["replay_id"], "after": {"default": receipts[at]["cursor"]}}
            await socket.ask("subscribe", id=1, patterns=["*"], **again)
            *events, end = await socket.take(20 - at)
            assert [frame["cursor"] for frame in events] == [one["cursor"] for one in receipts[at + 1 :]]
            assert end["detail"]["state"] == "done"


async def test_refused_subscriptions_name_what_is_wrong(house: House) -> None:
    """What only live subscriptions have, an id in use, places of no replay, scopes that are not there."""
    await house.publish(house.reservation())
    made = await begin(house, target={"system": "hotel-saas", "channel": "test"})
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], replay="test")
        for asked, code, path in (
            ({"name": "x"}, "invalid_request", "name"),
            ({"snapshot": True}, "invalid_request", "snapshot"),
            ({"changes_only": True}, "invalid_request", "changes_only"),
            ({"after": {"default": "x"}}, "invalid_request", "replay_id"),
            ({"replay_id": str(uuid4())}, "not_found", None),
            ({"replay_id": made["replay_id"]}, "not_found", None),
            ({"id": 1}, "invalid_request", "id"),
            ({}, "invalid_request", "replay"),
            ({"replay": "no name"}, "invalid_request", "replay"),
        ):
            frame = await socket.ask("subscribe", **{"id": 2, "patterns": ["*"], "replay": "test"} | asked)
            assert (frame["op"], frame["code"]) == ("error", code), asked
            assert path is None or frame["errors"][0]["path"] == path
    async with house.socket(token=house.token(scopes=["subscribe:room.*"])) as socket:
        frame = await socket.ask("subscribe", id=1, patterns=["*"], replay="test")
        assert frame["code"] == "forbidden"


async def test_pause_resume_and_cancel_take_hold_of_a_running_channel(house: House) -> None:
    """Paused before anyone came, nothing comes; resumed it does; cancelled, the subscription is told; closed, it gets
    nothing."""
    await house.publish(house.reservation())
    async with house.socket() as socket:

        async def move(id: str, action: str) -> None:
            response = await house.http.post(f"/replays/{id}/{action}", headers=ops(house))
            assert response.status_code == 200

        first = await begin(house)
        await move(first["replay_id"], "pause")
        await socket.ask("subscribe", id=1, patterns=["*"], replay="test")
        await house.publish(house.reservation())
        await socket.quiet()
        await move(first["replay_id"], "resume")
        event, end = await socket.take(2)
        assert (event["replay_id"], end["detail"]["state"]) == (first["replay_id"], "done")

        # At this speed, what was recorded a moment after the first event is due long after this test's end.
        slow = await begin(house, speed=0.01)
        assert (await socket.next())["replay_id"] == slow["replay_id"]
        await move(slow["replay_id"], "cancel")
        cancelled = await socket.next()
        assert (cancelled["detail"]["state"], cancelled["detail"]["events"]) == ("cancelled", 1)

        await socket.send("unsubscribe", id=1)
        await socket.quiet()
        await begin(house)
        await socket.quiet()


async def test_a_client_that_does_not_read_is_waited_for(start: Callable[..., Any]) -> None:
    """The hub holds no more than the socket's buffer of a replay; all of it comes once it is read."""
    async with start(high_water_kib=16) as house:
        for _ in range(8):
            await house.publish(*[house.reservation(data_special_requests="x" * 1000) for _ in range(400)])
        async with house.socket(max_queue=1) as socket:
            await socket.ask("subscribe", id=1, patterns=["*"], replay="test")
            made = await begin(house)
            connection = next(iter(house.hub.sockets.connections))
            await house.until(lambda: not connection.writable)
            assert connection._transport.get_write_buffer_size() < 600_000
            assert (await show(house, made["replay_id"]))["state"] == "running"
            frames = await socket.take(3201)
            assert [frame["sequence"] for frame in frames[:-1]] == list(range(1, 3201))


async def test_a_group_handles_a_replay_once_each_and_knows_it(
    house: House, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a StreamConsumer with an inbox: the first delivery, and each replay of it, is an effect of its own."""
    monkeypatch.setattr(replayer, "BATCH", 7)
    await house.publish(*[house.reservation(f"R{number}") for number in range(60)])
    handled: list[tuple[str, str | None]] = []
    async with await SQLiteInbox.open(tmp_path / "inbox.db", "hotel-member") as inbox:
        consumer = StreamConsumer(house.hub.url, group="hotel-member", consumer="c", inbox=inbox, lease_s=2)

        @consumer.on("reservation.*")
        async def on(event: Any, tx: Any) -> None:
            handled.append((event.entity, replay_id()))

        async with consumer:
            await house.until(lambda: len(handled) == 60)
            made = await begin(house, target={"group": "hotel-member"})
            await ended(house, made["replay_id"])
            await house.until(lambda: len(handled) == 120)
            for partition in range(house.hub.log.partitions):
                key = house.hub.log.keys.redrive(partition, "hotel-member")
                while await house.hub.log.source.client.xlen(key):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    entities = [f"reservation:R{number}" for number in range(60)]
    assert handled[:60] == [(entity, None) for entity in entities]
    assert handled[60:120] == [(entity, made["replay_id"]) for entity in entities]


async def test_started_twice_it_runs_once(house: House) -> None:
    """The same request again finds it, another one for the target is refused with its name."""
    await house.publish(*[house.reservation() for _ in range(3)])
    asked = {"target": PMS, "speed": "full", "replay_id": str(uuid4())}
    codes = [(await house.http.post("/replays", json=asked, headers=ops(house))).status_code for _ in range(3)]
    assert codes == [201, 200, 200]

    refused = await house.http.post("/replays", json={"target": PMS}, headers=ops(house))
    assert (refused.status_code, refused.json()["replay_id"]) == (409, asked["replay_id"])
    assert refused.json()["code"] == "replay_active"
    listed = (await house.http.get("/replays", headers=ops(house))).json()["replays"]
    assert [one["replay_id"] for one in listed] == [asked["replay_id"]]


async def test_only_operators_may_replay(house: House) -> None:
    """Every route needs the scope `ops`, and events a scope for them; what is wrong with a request is said before
    anything begins."""
    await house.publish(house.reservation())
    blind = house.headers("hub", ("*",), ("ops",))
    for method, path in (("GET", "/replays/export"), ("POST", "/replays")):
        told = (await house.http.request(method, path, headers=blind, json={"target": PMS})).json()
        assert (told["code"], told["detail"]) == ("forbidden", "the token lacks the scope subscribe:*")
    mine = house.headers()
    for method, path in (
        ("POST", "/replays"),
        ("GET", "/replays"),
        ("GET", "/replays/x"),
        ("GET", "/replays/export"),
        ("POST", "/replays/x/pause"),
        ("POST", "/replays/x/resume"),
        ("POST", "/replays/x/cancel"),
    ):
        assert (await house.http.request(method, path, headers=mine)).json()["code"] == "forbidden", path
    twice = await house.http.post("/replays", content=b'{"speed":1,"speed":2}', headers=ops(house))
    assert twice.status_code == 400
    absurd = {"target": {"group": "hotel-member"}, "speed": 0}
    response = await house.http.post("/replays", json=absurd, headers=ops(house))
    assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "speed")
    webhook = await house.http.post("/replays", json={"target": {"webhook": "w"}}, headers=ops(house))
    assert (webhook.status_code, webhook.json()["errors"][0]["path"]) == (422, "target.webhook")


async def test_an_export_is_a_stream_of_lines_with_an_end(house: House) -> None:
    """Filtered by the query; a wrong one is a problem and no stream."""
    receipts = await house.publish(*[house.reservation(f"R{number}") for number in range(30)])
    response = await house.http.get("/replays/export", headers=ops(house))
    assert response.headers["content-type"] == "application/x-ndjson"
    *lines, end = [orjson.loads(line) for line in response.text.splitlines()]
    assert [line["cursor"] for line in lines] == [one["cursor"] for one in receipts]
    assert end == {"end": True, "events": 30, "skipped": 0, "cursor": receipts[-1]["cursor"]}

    rest = {"after": receipts[27]["cursor"], "tenant": "default", "speed": "x1000"}
    response = await house.http.get("/replays/export", params=rest, headers=ops(house))
    assert [orjson.loads(line)["sequence"] for line in response.text.splitlines()[:-1]] == [29, 30]

    for query, code in (
        ({"after": "x"}, "invalid_cursor"),
        ({"speed": "fast"}, "invalid_request"),
        ({"from": "2026-01-02", "to": "2026-01-01"}, "invalid_request"),
    ):
        response = await house.http.get("/replays/export", params=query, headers=ops(house))
        assert (response.status_code, response.json()["code"]) == (422, code)


async def test_a_client_of_the_sdk_receives_a_replay_beside_its_live_events(house: House) -> None:
    """Its handlers can tell them apart, its live position stays where it is, and it is told how it ended."""
    await house.publish(*[house.reservation(f"R{number}") for number in range(50)])
    handled: list[tuple[str, str | None]] = []
    url = f"ws://127.0.0.1:{house.hub.port}/ws"
    async with HubClient(url, token=house.token(), name="desk", concurrency=4) as client:

        @client.on("reservation.*")
        async def on(event: Any) -> None:
            handled.append((event.entity, replay_id()))

        running = asyncio.create_task(client.run())
        await house.until(lambda: client.mode == "websocket")
        replaying = asyncio.create_task(client.replay("test"))
        made = await begin(house)
        result = await replaying
        await house.publish(house.reservation("live"))
        await house.until(lambda: len(handled) == 51)
        client.stop()
        await running

    assert (result.replay_id, result.state, result.events) == (made["replay_id"], "done", 50)
    assert sorted(handled[:50]) == sorted((f"reservation:R{number}", made["replay_id"]) for number in range(50))
    assert handled[50:] == [("reservation:live", None)]


async def test_a_client_that_loses_its_connection_goes_on_with_the_replay(house: House) -> None:
    """Each event is handled once, over two connections."""
    await house.publish(*[house.reservation(f"R{number}") for number in range(400)])
    handled: list[int] = []
    url = f"ws://127.0.0.1:{house.hub.port}/ws"
    async with HubClient(url, token=house.token(), queue_size=10) as client:

        @client.on("*")
        async def on(event: Any) -> None:
            handled.append(int(event.entity.removeprefix("reservation:R")))
            if len(handled) == 100:
                for connection in list(house.hub.sockets.connections):
                    connection.abort()
            await asyncio.sleep(0)

        replaying = asyncio.create_task(client.replay("test"))
        await begin(house)
        result = await replaying

    assert handled == list(range(400))
    assert (result.state, result.events) == ("done", 400)


async def test_a_client_is_stopped_while_it_waits_for_a_replay(house: House) -> None:
    """It says so and returns."""
    url = f"ws://127.0.0.1:{house.hub.port}/ws"
    async with HubClient(url, token=house.token(), patterns=["*"]) as client:
        replaying = asyncio.create_task(client.replay("test"))
        await house.until(lambda: len(house.hub.sockets.connections) == 1)
        client.stop()
        assert (await replaying).state == "stopped"
