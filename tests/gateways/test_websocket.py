"""`/ws` from outside: subscribe, publish, acknowledge, resume."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from house import House
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from schemas.cursor import Cursor, StreamId


def sequences(frames: list[dict[str, Any]]) -> list[int]:
    """The sequences of event frames."""
    assert all(frame["op"] == "event" for frame in frames), frames
    return [frame["sequence"] for frame in frames]


async def test_welcome_tells_who_and_how_much(house: House) -> None:
    """The first frame names session, system, tenants and limits; the subprotocol is echoed."""
    async with house.socket(raw=True, token=house.token("hotel-saas", ["b", "a"])) as socket:
        welcome = await socket.next()
        assert welcome["op"] == "welcome"
        assert (welcome["system"], welcome["tenants"], welcome["heartbeat_s"]) == ("hotel-saas", ["a", "b"], 25)
        assert welcome["limits"]["window"] == 1000
        assert welcome["limits"]["message_bytes"] == 65536
        assert socket.connection.subprotocol == "hub.v1"


async def test_the_subprotocol_is_not_required(house: House) -> None:
    """A client that offers none, or another, is served."""
    for offered in (None, ["graphql-ws"]):
        async with house.socket(subprotocols=offered) as socket:
            assert socket.connection.subprotocol is None


async def test_auth_by_frame(house: House) -> None:
    """A browser sends its token in the first frame."""
    async with house.socket(raw=True) as socket:
        assert (await socket.ask("auth", token=house.token(), device_id="desk-1"))["op"] == "welcome"
        assert (await socket.ask("auth", token=house.token()))["op"] == "error"


async def test_live_events_arrive(house: House) -> None:
    """A subscription with `latest` gets what is published after it, and nothing before."""
    await house.publish(house.reservation("R0"))
    async with house.socket() as socket:
        answer = await socket.ask("subscribe", id=1, patterns=["reservation.*"])
        assert answer["op"] == "subscribed"
        assert (answer["recovered"], answer["tenants"]) == (True, ["default"])
        (receipt,) = await house.publish(house.reservation("R1"))
        frame = await socket.next()
        assert frame["op"] == "event"
        assert (frame["cursor"], frame["sequence"]) == (receipt["cursor"], 2)
        assert frame["event"]["event_id"] == receipt["event_id"]
        assert frame["event"]["entity"] == "reservation:R1"
        assert list(frame) == ["op", "cursor", "sequence", "event"]


async def test_backlog_then_live_without_a_seam(house: House) -> None:
    """From `earliest`, or from a cursor, every later event comes exactly once while more are being published."""
    receipts = await house.publish(*(house.reservation() for _ in range(300)))

    async def more() -> None:
        for _ in range(30):
            await house.publish(*(house.reservation() for _ in range(10)))

    publishing = asyncio.create_task(more())
    async with house.socket() as first, house.socket() as second:
        await first.send("subscribe", id=1, patterns=["*"], after="earliest")
        await second.send("subscribe", id=1, patterns=["*"], after=receipts[99]["cursor"])
        assert (await first.next())["op"] == (await second.next())["op"] == "subscribed"
        assert sequences(await first.take(600)) == list(range(1, 601))
        assert sequences(await second.take(500)) == list(range(101, 601))
        await publishing
        await first.quiet()
        await second.quiet()


async def test_position_resumes_without_having_seen_an_event(house: House) -> None:
    """The `position` of `subscribed` is itself a cursor to resume from, also as {tenant: cursor}."""
    async with house.socket() as socket:
        position = (await socket.ask("subscribe", id="a", patterns=["*"]))["position"]
    await house.publish(house.reservation(), house.reservation())
    for after in (position, position["default"]):
        async with house.socket() as socket:
            assert (await socket.ask("subscribe", id="a", patterns=["*"], after=after))["recovered"] is True
            assert sequences(await socket.take(2)) == [1, 2]
            await socket.quiet()


async def test_overlapping_subscriptions_deliver_once(house: House) -> None:
    """An event that matches several subscriptions of a connection arrives once, live and from the backlog."""
    await house.publish(house.reservation("R1"), house.reservation("R2"))
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["reservation.created"], after="earliest")
        assert sequences(await socket.take(2)) == [1, 2]
        assert (await socket.ask("subscribe", id=2, patterns=["*"], after="earliest"))["op"] == "subscribed"
        await house.publish(house.reservation("R3"))
        assert sequences(await socket.take(1)) == [3]
        await socket.quiet()


async def test_entities_and_patterns_filter(house: House) -> None:
    """Only the asked-for entities and patterns come; a check-in belongs to its reservation."""
    async with house.socket() as socket:
        await socket.ask(
            "subscribe", id=1, patterns=["checkin_checkout.checked_in", "room.*"], entities=["reservation:R1", "room:7"]
        )
        desk = {"reservation_id": "R1", "room_number": "7", "payment_status": "pending"}
        room = {"room_number": "7", "room_type": "twin", "status": "occupied", "availability_date": "2026-07-03"}
        await house.publish(
            house.reservation("R1"),
            {"type": "checkin_checkout", "action": "checked_in", "data": desk | {"reservation_id": "R2"}},
            {"type": "checkin_checkout", "action": "checked_in", "data": desk},
            {"type": "room", "action": "status_changed", "data": room | {"room_id": "8"}},
            {"type": "room", "action": "status_changed", "data": room | {"room_id": "7"}},
        )
        assert sequences(await socket.take(2)) == [3, 5]
        await socket.quiet()


async def test_targets_tenants_and_scopes_keep_hotels_apart(house: House) -> None:
    """A system sees only types that target it, only its tenants, only patterns within its scopes."""
    room = {
        "room_id": "7",
        "room_number": "7",
        "room_type": "twin",
        "status": "occupied",
        "availability_date": "2026-07-03",
    }
    async with house.socket(token=house.token("hotel-saas", ["a"])) as saas:
        await saas.ask("subscribe", id=1, patterns=["*"])
        refused = await saas.ask("subscribe", id=2, patterns=["*"], tenants=["b"])
        assert (refused["op"], refused["code"], refused["id"]) == ("error", "forbidden", 2)
        await house.publish(
            {"type": "room", "action": "status_changed", "data": room, "tenant_id": "a"},
            house.reservation("R1", tenant_id="b"),
            house.reservation("R2", tenant_id="a", targets=["hotel-pms"]),
            house.reservation("R3", tenant_id="a"),
            tenants=["a", "b"],
        )
        frame = await saas.next()
        assert frame["event"]["entity"] == "reservation:R3"
        await saas.quiet()
    narrow = house.token(scopes=["subscribe:room.*"])
    async with house.socket(token=narrow) as socket:
        for pattern in ("*", "reservation.*", "reservation.created"):
            assert (await socket.ask("subscribe", id=1, patterns=[pattern]))["code"] == "forbidden"
        assert (await socket.ask("subscribe", id=1, patterns=["room.status_changed"]))["op"] == "subscribed"


async def test_masked_readers_see_no_guest(house: House) -> None:
    """A `view: masked` token reads masked guest fields on every way; a full one beside it reads them whole."""
    event = house.reservation("R1", data_guest_name="山田 花子", data_special_requests="quiet room")
    masked = house.token("hotel-saas", view="masked")
    async with house.socket(token=masked) as blind, house.socket() as seeing:
        await blind.ask("subscribe", id=1, patterns=["*"])
        await seeing.ask("subscribe", id=1, patterns=["*"])
        await house.publish(event)
        assert (await seeing.next())["event"]["data"]["guest_name"] == "山田 花子"
        data = (await blind.next())["event"]["data"]
        assert (data["guest_name"], data["special_requests"], data["room_type"]) == ("***", "***", "twin")
        await blind.ask("subscribe", id=2, patterns=["reservation.created"], after="earliest")
    headers = {"Authorization": f"Bearer {masked}"}
    page = await house.http.get("/events", headers=headers)
    assert "山田" not in page.text
    one = await house.http.get(f"/events/{page.json()['events'][0]['event']['event_id']}", headers=headers)
    assert one.status_code == 200
    assert "山田" not in one.text


async def test_publish_over_the_socket(house: House) -> None:
    """`publish` is answered by `published` or `error` with its ref; a bad event does not end the connection."""
    async with house.socket() as socket:
        done = await socket.ask("publish", ref="p1", event=house.reservation("R1"))
        assert (done["op"], done["ref"], done["sequence"], done["duplicate"]) == ("published", "p1", 1, False)
        bad = await socket.ask("publish", ref=2, event=house.reservation("R1", data_total_amount=-1))
        assert (bad["op"], bad["ref"], bad["code"], bad["retryable"]) == ("error", 2, "invalid_event", False)
        assert bad["errors"][0]["path"] == "data.total_amount"
        await socket.connection.send('{"op":"publish","ref":3,"event":{"type":"room","type":"room","x":NaN}}')
        twice = await socket.next()
        assert (twice["ref"], twice["code"]) == (3, "invalid_event")
        late = await socket.ask("publish", ref=4, event=house.reservation("R1", expected_revision=7))
        assert (late["code"], late["latest"]["revision"]) == ("conflict", 1)


async def test_many_publishes_in_flight_keep_their_order(house: House) -> None:
    """Publishes of one connection are stored in the order they were sent."""
    async with house.socket() as socket:
        for ref in range(400):
            await socket.send("publish", ref=ref, event=house.reservation("R1"))
        answers = await socket.take(400)
        assert [(one["ref"], one["sequence"]) for one in answers] == [(ref, ref + 1) for ref in range(400)]


async def test_a_subscription_gets_what_its_connection_publishes_behind_it(house: House) -> None:
    """Also where nobody waits for `subscribed` before publishing; the receipts come in their order."""
    async with house.socket() as socket:
        for round in range(5):
            await socket.send("subscribe", id=round, patterns=["reservation.*"])
            for number in range(3):
                await socket.send("publish", ref=number, event=house.reservation(f"R{round}{number}"))
            answers = [await socket.next() for _ in range(7)]
            entities = [one["event"]["entity"] for one in answers if one["op"] == "event"]
            assert entities == [f"reservation:R{round}{number}" for number in range(3)]
            assert [one["ref"] for one in answers if one["op"] == "published"] == [0, 1, 2]
            await socket.send("unsubscribe", id=round)


async def test_what_was_published_before_the_end_is_stored(house: House) -> None:
    """A connection that closes behind its publishes, a subscription not yet opened before them, loses none of them."""
    async with house.socket() as socket:
        await socket.send("subscribe", id=1, patterns=["reservation.*"])
        for number in range(3):
            await socket.send("publish", ref=number, event=house.reservation(f"R{number}"))
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["reservation.*"], after="earliest")
        assert sequences([await socket.next() for _ in range(3)]) == [1, 2, 3]


async def test_durable_subscription_resumes_after_its_acks(house: House) -> None:
    """What was acknowledged does not come again, what was not does; a new name begins where it was opened."""
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], name="ledger")
    receipts = await house.publish(*(house.reservation() for _ in range(5)))
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], name="ledger")
        assert sequences(await socket.take(5)) == [1, 2, 3, 4, 5]
        await socket.send("ack", cursors={"default": receipts[2]["cursor"]})
        await socket.quiet()
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], name="ledger", after="earliest")
        assert sequences(await socket.take(2)) == [4, 5]
        early = await socket.ask("ack", cursors={"default": "nonsense"})
        assert early["code"] == "invalid_cursor"
        await socket.quiet()
    async with house.socket(token=house.token("hotel-saas")) as other:
        await other.ask("subscribe", id=1, patterns=["*"], name="ledger")
        await other.quiet()


async def test_a_durable_name_set_to_a_cursor_stays_there(house: House) -> None:
    """A client that names its own cursor moves the kept position, also when it goes away before its first ack."""
    receipts = await house.publish(*(house.reservation() for _ in range(5)))
    for name, sequence in (("new", 2), ("new", 4), ("new", 1)):
        async with house.socket() as socket:
            await socket.ask("subscribe", id=1, patterns=["*"], name=name, after=receipts[sequence - 1]["cursor"])
        async with house.socket() as socket:
            await socket.ask("subscribe", id=1, patterns=["*"], name=name)
            assert (await socket.next())["sequence"] == sequence + 1


async def test_the_window_holds_back(house: House) -> None:
    """At most 1000 events are unacknowledged; an ack lets the next ones through."""
    receipts: list[dict[str, Any]] = []
    for _ in range(3):
        receipts += await house.publish(*(house.reservation() for _ in range(400)))
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], name="slow", after="earliest")
        assert sequences(await socket.take(1000)) == list(range(1, 1001))
        await socket.quiet()
        await house.publish(house.reservation())
        await socket.quiet()
        await socket.send("ack", cursors={"default": receipts[499]["cursor"]})
        assert sequences(await socket.take(201)) == list(range(1001, 1202))
        await house.publish(house.reservation())
        assert sequences(await socket.take(1)) == [1202]


async def test_gaps_are_told(house: House) -> None:
    """A cursor from the future or another epoch gets `gap`; one of another tenant, or nonsense, is refused."""
    (receipt,) = await house.publish(house.reservation())
    (other,) = await house.publish(house.reservation(tenant_id="b"), tenants=["b"])
    future = Cursor.decode(receipt["cursor"])._replace(sequence=99, id=StreamId(2**42, 0)).encode()
    epoch = Cursor.decode(receipt["cursor"])._replace(epoch=5, id=StreamId(7, 7)).encode()
    async with house.socket() as socket:
        for id, after, reason in ((1, future, "future"), (2, epoch, "epoch")):
            answer = await socket.ask("subscribe", id=id, patterns=["*"], after=after)
            gap = await socket.next()
            assert (answer["recovered"], gap["op"], gap["reason"], gap["id"]) == (False, "gap", reason, id)
            assert gap["tenant_id"] == "default"
            if reason == "epoch":
                assert sequences(await socket.take(1)) == [1]
        for after in (other["cursor"], "nonsense", receipt["cursor"][:-1] + "z", {"b": other["cursor"]}):
            refused = await socket.ask("subscribe", id=9, patterns=["*"], after=after)
            assert refused["op"] == "error", after
            assert refused["code"] in ("invalid_cursor", "forbidden")
        await socket.quiet()


async def test_a_flushed_log_goes_on_for_live_subscribers_where_it_was_archived(house: House) -> None:
    """When the server is emptied under live subscriptions that have all there was, the next number follows."""
    receipts = await house.publish(house.reservation(), house.reservation())
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"])
        await house.archived(*receipts)
        await house.hub.log.source.client.flushall()
        await house.publish(house.reservation("R7"))
        assert sequences(await socket.take(1)) == [3]
    async with house.socket() as socket:
        answer = await socket.ask("subscribe", id=1, patterns=["*"], after=receipts[0]["cursor"])
        assert answer["recovered"] is True
        assert sequences(await socket.take(2)) == [2, 3]


async def test_a_flushed_log_is_a_gap_for_live_subscribers(start: Callable[..., Any]) -> None:
    """When what the server had is nowhere else, live subscriptions hear `gap` with `epoch`, then the new events."""
    async with start(roles=("gateway",)) as house:
        await flushed_under(house)


async def flushed_under(house: House) -> None:
    """Empty the server under a live subscription, and listen."""
    await house.publish(house.reservation(), house.reservation())
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"])
        await house.hub.log.source.client.flushall()
        await house.publish(house.reservation("R7"))
        gap = await socket.next()
        assert (gap["op"], gap["reason"]) == ("gap", "epoch")
        assert sequences(await socket.take(1)) == [1]
        await house.publish(house.reservation("R8"))
        frame = await socket.next()
        assert frame["sequence"] == 2
    async with house.socket() as socket:
        answer = await socket.ask("subscribe", id=1, patterns=["*"], after=gap["resume_from"])
        assert answer["recovered"] is True
        assert sequences(await socket.take(2)) == [1, 2]
        after = await socket.ask("subscribe", id=2, patterns=["room.*"], after=frame["cursor"])
        assert after["recovered"] is True


async def test_unsubscribe_and_resubscribe(house: House) -> None:
    """After `unsubscribe` nothing comes; the same id may be used again, a used one may not."""
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"])
        assert (await socket.ask("subscribe", id=1, patterns=["*"]))["code"] == "invalid_request"
        await socket.send("unsubscribe", id=1)
        await house.publish(house.reservation())
        await socket.quiet()
        assert (await socket.ask("unsubscribe", id=1))["code"] == "not_found"
        assert (await socket.ask("subscribe", id=1, patterns=["*"], after="earliest"))["op"] == "subscribed"
        assert sequences(await socket.take(1)) == [1]


async def test_unknown_things_are_errors_not_ends(house: House) -> None:
    """An unknown op, pattern, field or shape is answered by `error`; unknown fields are ignored."""
    async with house.socket() as socket:
        assert (await socket.ask("dance", ref=1))["code"] == "unknown_op"
        assert (await socket.ask("subscribe", id=1, patterns=["reservation"]))["code"] == "invalid_request"
        assert (await socket.ask("subscribe", id=1, patterns=[]))["code"] == "invalid_request"
        assert (await socket.ask("subscribe", patterns=["*"]))["errors"][0]["path"] == "id"
        assert (await socket.ask("subscribe", id=True, patterns=["*"]))["code"] == "invalid_request"
        assert (await socket.ask("ack", cursors={"default": "x"}))["op"] == "error"
        await socket.connection.send("[1,2]")
        assert (await socket.next())["code"] == "unknown_op"
        assert (await socket.ask("ping", colour="blue")) == {"op": "pong"}
        await socket.quiet()


async def test_batches_are_gathered_in_time(house: House) -> None:
    """With batch_ms events still come one a frame, in order, once."""
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], batch_ms=50)
        await house.publish(*(house.reservation() for _ in range(20)))
        await house.publish(*(house.reservation() for _ in range(20)))
        assert sequences(await socket.take(40)) == list(range(1, 41))


async def test_compression_is_shared_and_right(start: Callable[..., Any]) -> None:
    """With HUB_DEFLATE a client that offers permessage-deflate gets compressed frames; the others do not."""
    async with (
        start(deflate=True) as house,
        house.socket() as packed,
        house.socket(compression=None) as plain,
    ):
        assert [extension.name for extension in packed.connection.protocol.extensions] == ["permessage-deflate"]
        assert plain.connection.protocol.extensions == []
        for socket in (packed, plain):
            await socket.ask("subscribe", id=1, patterns=["*"])
        await house.publish(*(house.reservation(data_special_requests="x" * 2000) for _ in range(10)))
        assert await packed.take(10) == await plain.take(10)
    async with start(data_dir=house.hub.settings.data_dir / "two") as other, other.socket() as socket:
        assert socket.connection.protocol.extensions == []


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_foreign_pages_are_refused(house: House, origin: str) -> None:
    """A browser page of an unlisted origin gets no WebSocket; the hub's own pages do."""
    with pytest.raises(InvalidStatus) as refused:
        async with house.socket(origin=origin):
            pass
    assert refused.value.response.status_code == 403
    async with house.socket(origin=f"http://127.0.0.1:{house.hub.port}"):
        pass


async def test_other_paths_have_no_websocket(house: House) -> None:
    """An upgrade elsewhere than /ws is 404."""
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"ws://127.0.0.1:{house.hub.port}/elsewhere"):
            pass
    assert refused.value.response.status_code == 404
