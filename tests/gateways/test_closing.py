"""How connections end: every close code of the contract."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from house import House


@asynccontextmanager
async def bare(house: House) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A socket past the upgrade and its welcome, for frames no library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.hub.port)
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
        f"Sec-WebSocket-Version: 13\r\nAuthorization: Bearer {house.token()}\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    await _frame(reader)
    try:
        yield reader, writer
    finally:
        writer.close()


async def _frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    async with asyncio.timeout(10):
        first, second = await reader.readexactly(2)
        size = second & 127
        if size == 126:
            size = int.from_bytes(await reader.readexactly(2), "big")
        return first, await reader.readexactly(size)


def masked(first: int, payload: bytes) -> bytes:
    """A client frame with a zero mask."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 128 | size))
    elif size < 65536:
        head = bytes((first, 254)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 255)) + size.to_bytes(8, "big")
    return head + b"\0\0\0\0" + payload


SUBSCRIBE = b'{"op":"subscribe","id":1,"patterns":["*"]}'


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x81\x02{}", 1002),
        (b"\xb1\x80\0\0\0\0", 1002),
        (masked(0x83, b"x"), 1002),
        (masked(0x80, b"continues nothing"), 1002),
        (masked(0x09, b"a fragmented ping"), 1002),
        (masked(0x82, b"{}"), 1003),
        (masked(0x81, b"\xc3\x28"), 1007),
        (masked(0x81, b"{not json"), 1007),
        (masked(0x81, b""), 1007),
        (masked(0x81, b"[" * 60_000), 1007),
        (masked(0x81, b'"' + b"x" * 70_000 + b'"'), 1009),
        (b"\x81\xff" + (2**40).to_bytes(8, "big") + b"\0\0\0\0", 1009),
        (masked(0x01, b"x" * 40_000) + masked(0x80, b"x" * 40_000), 1009),
        (masked(0x88, (1000).to_bytes(2, "big")), 1000),
        (masked(0x88, b"\x03"), 1002),
        (masked(0x88, (999).to_bytes(2, "big")), 1002),
    ],
)
async def test_broken_frames_end_the_connection(standing: House, sent: bytes, code: int) -> None:
    """Each protocol error has its code, and the hub goes on serving."""
    async with bare(standing) as (reader, writer):
        writer.write(sent)
        first, payload = await _frame(reader)
        assert first == 0x88
        assert int.from_bytes(payload[:2], "big") == code
    await standing.publish(standing.reservation())


async def test_fragments_and_bytes_one_by_one_are_understood(house: House) -> None:
    """A message in fragments with a ping between them, sent byte by byte, is one message."""
    async with bare(house) as (reader, writer):
        pieces = masked(0x01, SUBSCRIBE[:10]) + masked(0x89, b"hi") + masked(0x80, SUBSCRIBE[10:])
        for byte in pieces:
            writer.write(bytes((byte,)))
            await writer.drain()
        assert await _frame(reader) == (0x8A, b"hi")
        _, answer = await _frame(reader)
        assert b'"subscribed"' in answer


async def test_a_truncated_frame_is_no_message(house: House) -> None:
    """A peer that goes away within a frame has said nothing."""
    async with bare(house) as (_, writer):
        writer.write(masked(0x81, b'{"op":"publish","ref":1}')[:-5])
        await writer.drain()
    await house.until(lambda: not house.hub.sockets.connections)
    assert (await house.http.get("/events", headers=house.headers())).json()["events"] == []


def bad_tokens(house: House) -> dict[str, str]:
    """Tokens that must not be accepted."""
    good = {
        "iss": "hotel-common",
        "aud": "hotel-event-hub",
        "sub": "x",
        "jti": "x",
        "exp": time.time() + 60,
        "system": "hotel-pms",
        "tenants": ["default"],
        "scopes": ["subscribe:*"],
    }
    kid = jwt.get_unverified_header(house.token())["kid"]
    own = house.hub.tokens
    return {
        "nonsense": "nonsense",
        "none": jwt.encode(good, None, algorithm="none", headers={"kid": kid}),
        "another key": jwt.encode(good, "s" * 32, algorithm="HS256", headers={"kid": "other"}),
        "the key's id with another algorithm": jwt.encode(good, "s" * 32, algorithm="HS256", headers={"kid": kid}),
        "audience": own.sign(good | {"aud": "somebody-else"}),
        "issuer": own.sign(good | {"iss": "somebody-else"}),
        "no system": own.sign({key: value for key, value in good.items() if key != "system"}),
        "tenants": own.sign(good | {"tenants": "default"}),
    }


@pytest.mark.parametrize(
    "which",
    [
        "nonsense",
        "none",
        "another key",
        "the key's id with another algorithm",
        "audience",
        "issuer",
        "no system",
        "tenants",
    ],
)
async def test_a_bad_token_is_4501(standing: House, which: str) -> None:
    """Whether in the header or in `auth`, over HTTP it is 401."""
    token = bad_tokens(standing)[which]
    async with standing.socket(raw=True, token=token) as socket:
        assert await socket.closed() == 4501
    async with standing.socket(raw=True) as socket:
        await socket.send("auth", token=token)
        assert await socket.closed() == 4501
    response = await standing.http.get("/events", headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 401


async def test_no_auth_in_time_is_4502(house: House) -> None:
    """Five seconds without a token, or another frame first, end the connection."""
    async with house.socket(raw=True) as socket:
        (connection,) = house.hub.sockets.connections
        connection.tick(house.hub.sockets.now() + 4.5, time.time())
        assert await socket.ask("ping") == {"op": "pong"}
        connection.tick(house.hub.sockets.now() + 5.1, time.time())
        assert await socket.closed() == 4502
    async with house.socket(raw=True) as socket:
        await socket.send("subscribe", id=1, patterns=["*"])
        assert await socket.closed() == 4502


async def test_a_token_without_tenants_is_4503(house: House) -> None:
    """A token that is good for nothing, or for another device, is forbidden."""
    async with house.socket(raw=True, token=house.token(tenants=[])) as socket:
        assert await socket.closed() == 4503
    async with house.socket(raw=True) as socket:
        await socket.send("auth", token=house.token(device_id="desk-1"), device_id="desk-2")
        assert await socket.closed() == 4503


async def test_an_expired_token_is_4001_and_a_refresh_prevents_it(house: House) -> None:
    """A minute before the end comes a notice; a new token keeps the connection; without one it ends."""
    async with house.socket(token=house.token(lifetime_s=100)) as socket:
        (connection,) = house.hub.sockets.connections
        now, wall = house.hub.sockets.now(), time.time()
        connection.tick(now, wall + 50)
        notice = await socket.next()
        assert (notice["op"], notice["code"]) == ("notice", "token_expiring")
        narrower = await socket.ask("refresh", token=house.token("hotel-saas"))
        assert narrower["code"] == "forbidden"
        assert (await socket.ask("refresh", token="nonsense"))["code"] == "unauthorized"
        await socket.send("refresh", token=house.token(lifetime_s=1000))
        await socket.quiet()
        connection.tick(now, wall + 101)
        assert (await socket.ask("subscribe", id=1, patterns=["*"]))["op"] == "subscribed"
        connection.tick(now, wall + 1001)
        assert await socket.closed() == 4001


async def test_a_refresh_must_cover_the_subscriptions(house: House) -> None:
    """A token that holds less than what is subscribed to is refused, and the old one stays."""
    async with house.socket(token=house.token(tenants=["a", "b"])) as socket:
        await socket.ask("subscribe", id=1, patterns=["*"])
        for less in (house.token(tenants=["a"]), house.token(tenants=["a", "b"], scopes=["subscribe:room.*"])):
            assert (await socket.ask("refresh", token=less))["code"] == "forbidden"
        await socket.quiet()


async def test_a_silent_peer_is_dropped(house: House) -> None:
    """A ping every 25 s; without a pong in 10 s the connection ends with 1011."""
    async with bare(house) as (reader, _):
        (connection,) = house.hub.sockets.connections
        now, wall = house.hub.sockets.now(), time.time()
        connection.tick(now + 25.1, wall)
        assert await _frame(reader) == (0x89, b"")
        connection.tick(now + 35.0, wall)
        connection.tick(now + 35.2, wall)
        first, payload = await _frame(reader)
        assert (first, int.from_bytes(payload[:2], "big")) == (0x88, 1011)


async def test_a_reader_that_stops_is_told_then_closed_with_4008(start: Callable[..., Any]) -> None:
    """It leaves the group and hears `lagging`; others are not held up; past the limit it is closed and can resume."""
    async with start(high_water_kib=16) as house:
        async with bare(house) as (reader, writer), house.socket() as quick:
            writer.write(masked(0x81, SUBSCRIBE))
            await house.until(lambda: len(house.hub.dispatcher.fanout) == 1)
            (slow,) = (one for one in house.hub.sockets.connections if one._received == 1)
            await quick.ask("subscribe", id=1, patterns=["*"])
            total = 0
            while slow.writable:
                await house.publish(*(house.reservation(data_special_requests="x" * 3900) for _ in range(100)))
                total += 100
                await quick.take(100)
            await house.publish(*(house.reservation() for _ in range(10)))
            await quick.take(10)
            slow.tick(house.hub.sockets.now() + 31, time.time())
            seen: list[bytes] = []
            while True:
                first, payload = await _frame(reader)
                if first == 0x88:
                    break
                seen.append(payload)
            assert int.from_bytes(payload[:2], "big") == 4008
            assert any(b'"lagging"' in one for one in seen)
            events = [one for one in seen if b'"op":"event"' in one]
            last = house_cursor(events[-1])
        async with house.socket() as again:
            assert (await again.ask("subscribe", id=1, patterns=["*"], after=last))["recovered"] is True
            rest = await again.take(total + 10 - len(events))
            assert [one["sequence"] for one in rest] == list(range(len(events) + 1, total + 11))


def house_cursor(frame: bytes) -> str:
    """The cursor of an event frame."""
    return frame.split(b'"cursor":"')[1].split(b'"')[0].decode()


async def test_a_slow_reader_that_reads_again_catches_up(start: Callable[..., Any]) -> None:
    """After a pause it gets everything it missed, in order and once, and is live again."""
    async with start(high_water_kib=16) as house, bare(house) as (reader, writer):
        (connection,) = house.hub.sockets.connections
        writer.write(masked(0x81, SUBSCRIBE))
        await house.until(lambda: len(house.hub.dispatcher.fanout) == 1)
        total = 0
        while connection.writable:
            await house.publish(*(house.reservation(data_special_requests="x" * 3900) for _ in range(100)))
            total += 100
        await house.publish(*(house.reservation() for _ in range(500)))
        total += 500
        received: list[int] = []
        while len(received) < total:
            _, payload = await _frame(reader)
            if b'"op":"event"' in payload:
                received.append(int(payload.split(b'"sequence":')[1].split(b",")[0]))
        assert received == list(range(1, total + 1))
        await house.until(lambda: len(house.hub.dispatcher.fanout) == 1)
        await house.publish(house.reservation())
        _, payload = await _frame(reader)
        assert b'"sequence":%d' % (total + 1) in payload


async def test_a_flood_of_publishes_is_4029(start: Callable[..., Any]) -> None:
    """Past its rate a connection is refused event by event, and closed when it does not slow down."""
    async with start(publish_per_s=1) as house, house.socket() as socket:
        for ref in range(3):
            await socket.send("publish", ref=ref, event=house.reservation())
        answers = sorted([await socket.next() for _ in range(3)], key=lambda one: one["ref"])
        assert [one["op"] for one in answers] == ["published", "published", "error"]
        assert (answers[2]["code"], answers[2]["retryable"]) == ("rate_limited", True)
        for _ in range(250):
            await socket.send("publish", ref=0, event=house.reservation())
        assert await socket.closed() == 4029


async def test_nothing_but_refused_frames_is_1008(house: House) -> None:
    """A hundred frames in a row that mean nothing end the connection; one good frame among them does not."""
    async with house.socket() as socket:
        for _ in range(99):
            assert (await socket.ask("dance"))["op"] == "error"
        await socket.quiet()
        for _ in range(100):
            await socket.send("dance")
        assert await socket.closed() == 1008


async def test_a_full_hub_is_1013(start: Callable[..., Any]) -> None:
    """A connection more than the hub will hold is told to come later."""
    async with start(max_connections=1) as house, house.socket(), house.socket(raw=True) as second:
        assert await second.closed() == 1013


async def test_draining_says_when_to_come_back_and_takes_acks(start: Callable[..., Any]) -> None:
    """On shutdown: notice with a delay, acknowledgements still count, then 1001; the position is kept."""
    async with start() as house:
        receipts = await house.publish(house.reservation(), house.reservation())
        async with house.socket() as socket:
            await socket.ask("subscribe", id=1, patterns=["*"], name="n", after="earliest")
            await socket.take(2)
            draining = asyncio.create_task(house.hub.sockets.drain(5))
            notice = await socket.next()
            assert (notice["op"], notice["code"]) == ("notice", "draining")
            assert 0 <= notice["reconnect_after_ms"] <= 30_000
            refused = await socket.ask("publish", ref=1, event=house.reservation())
            assert (refused["code"], refused["retryable"]) == ("draining", True)
            assert not draining.done()
            await socket.send("ack", cursors={"default": receipts[1]["cursor"]})
            assert await socket.closed() == 1001
            await draining
        directory = house.hub.settings.data_dir
    async with start(data_dir=directory) as house, house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], name="n")
        await socket.quiet()
        await house.publish(house.reservation())
        assert (await socket.next())["sequence"] == 3


@pytest.mark.parametrize(
    "headers",
    [
        "Host: a\r\nHost: b",
        "Host: a\r\nOrigin: http://[",
        "Host: a\r\nAuthorization: Bearer x\r\nAuthorization: Bearer y",
    ],
)
async def test_odd_upgrades_leave_nothing_behind(start: Callable[..., Any], headers: str) -> None:
    """An upgrade with repeated or broken headers is refused, is forgotten, and does not keep the hub from stopping."""
    async with start() as house:
        reader, writer = await asyncio.open_connection("127.0.0.1", house.hub.port)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET /ws HTTP/1.1\r\n{headers}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        async with asyncio.timeout(10):
            answer = await reader.read()
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))
        writer.close()
        await house.until(lambda: not house.hub.sockets.connections)


async def test_marks_that_cannot_be_sent_back_are_not(house: House) -> None:
    """A ref or id with a lone surrogate is answered without it, and the connection goes on."""
    async with house.socket() as socket:
        for frame in (
            '{"op":"nope","ref":"\\ud800"}',
            '{"op":"publish","ref":"\\ud800"}',
            '{"op":"unsubscribe","id":"\\ud800"}',
        ):
            await socket.connection.send(frame)
            answer = await socket.next()
            assert answer["op"] == "error"
            assert "ref" not in answer
        await socket.quiet()
