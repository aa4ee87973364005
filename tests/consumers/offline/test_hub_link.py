"""The desk's requests: compression, the line's troubles, and what the hub says of the token."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hand_clock import HandClock, until
from sync_hub_server import SyncHubServer

from consumers.credential import Credential
from consumers.errors import AccessRefused, Disconnected, HubRefused
from consumers.offline import hub_link
from consumers.offline.hub_link import ANSWER_S, SLOW_S, Batch, HubLink
from schemas.canonical import checksum


@dataclass
class Linked:
    """A link, its clock, and how often it told of trouble."""

    link: HubLink
    clock: HandClock
    troubles: list[None]


@pytest.fixture
async def hub() -> AsyncIterator[SyncHubServer]:
    async with SyncHubServer() as hub:
        yield hub


@pytest.fixture
async def linked(hub: SyncHubServer) -> AsyncIterator[Linked]:
    one = link_of(hub, "good")
    yield one
    await one.link.close()


def link_of(hub: SyncHubServer, token: Any) -> Linked:
    clock, troubles = HandClock(), list[None]()
    link = HubLink(
        hub.url,
        Credential(token),
        tenant_id="default",
        device_id="desk-1",
        clock=clock,
        on_trouble=lambda: troubles.append(None),
    )
    return Linked(link, clock, troubles)


def batch(items: int = 1, *, plain: bool = False) -> Batch:
    wires, sums = [], []
    for number in range(items):
        payload = {"room_id": "301", "status": "clean", "memo": "x" * 100}
        sums.append(checksum(payload))
        item = {
            "uuid": f"00000000-0000-4000-8000-{number + 1:012d}",
            "model": "RoomStatus",
            "operation": "UPDATE",
            "entity_id": "301",
            "payload": payload,
            "createdAt": "2026-07-15T10:00:00+09:00",
            "device_sequence": number + 1,
            "checksum": sums[-1],
        }
        wires.append(orjson.dumps(item))
    return Batch(wires, sums, "2026-07-15T10:00:00+09:00", items, None, plain)


@pytest.mark.parametrize(
    ("items", "plain", "zstd", "encoding"),
    [(1, False, True, None), (20, False, True, "zstd"), (20, False, False, "gzip"), (20, True, True, None)],
)
async def test_a_large_body_is_compressed(
    hub: SyncHubServer,
    linked: Linked,
    monkeypatch: pytest.MonkeyPatch,
    items: int,
    plain: bool,
    zstd: bool,
    encoding: str | None,
) -> None:
    """With zstd where it is installed, else gzip; not where it is small, or shall not be."""
    if not zstd:
        monkeypatch.setattr(hub_link, "_ZSTANDARD", None)
    answer = await linked.link.push(batch(items, plain=plain))
    assert [result.outcome for result in answer.results] == ["applied"] * items
    (_, headers, body) = hub.raw[-1]
    assert headers.get("content-encoding") == encoding
    assert linked.link.bytes_sent == len(body)


async def test_a_hub_that_does_not_read_the_encoding_is_sent_none(hub: SyncHubServer, linked: Linked) -> None:
    """The body goes out again as it is, at once, and later ones too."""
    hub.encodings = frozenset({""})
    for _ in range(2):
        assert len((await linked.link.push(batch(20))).results) == 20
    assert [headers.get("content-encoding") for _, headers, _ in hub.raw] == ["zstd", None, None]


async def test_a_slow_request_is_told_of_and_given_up_in_the_end(hub: SyncHubServer, linked: Linked) -> None:
    """After a second the line should be looked at; after thirty there is no answer."""
    hub.fall_silent()
    request = asyncio.create_task(linked.link.pull(None, 1))
    await until(lambda: linked.clock.timed(SLOW_S))
    linked.clock.advance(SLOW_S)
    await until(lambda: linked.clock.timed(ANSWER_S - SLOW_S))
    assert len(linked.troubles) == 1
    linked.clock.advance(ANSWER_S - SLOW_S)
    with pytest.raises(Disconnected, match="in time") as caught:
        await request
    assert caught.value.sent


async def test_a_cut_ends_what_waits(hub: SyncHubServer, linked: Linked) -> None:
    """Once the line is known to be down nobody waits for an answer."""
    hub.fall_silent()
    requests = [asyncio.create_task(linked.link.pull(None, 1)) for _ in range(2)]
    await until(lambda: len(linked.link._asking) == 2)
    linked.link.cut()
    for request in requests:
        with pytest.raises(Disconnected, match="line is down"):
            await request
    hub.sound_again()
    assert (await linked.link.pull(None, 1)).changes == []


async def test_a_refused_connection_is_trouble(hub: SyncHubServer, linked: Linked) -> None:
    """It is told at once, without waiting for a probe's turn."""
    hub.http_down = True
    with pytest.raises(Disconnected):
        await linked.link.pull(None, 1)
    assert len(linked.troubles) == 1


async def test_an_expired_token_is_renewed_once(hub: SyncHubServer) -> None:
    """A source gives another; where that is refused too, or there is none, the session is over."""
    tokens = iter(["old", "new", "old"])
    hub.bad_tokens = {"old"}

    async def source() -> str:
        return next(tokens)

    one = link_of(hub, source)
    assert (await one.link.push(batch())).results[0].outcome == "applied"
    for ask in (lambda: one.link.push(batch()), lambda: one.link.pull(None, 1)):
        hub.bad_tokens = {"old", "new"}
        tokens = iter(["old"])
        with pytest.raises(AccessRefused) as caught:
            await ask()
        assert caught.value.code == 401
    assert one.troubles == []
    await one.link.close()


@pytest.mark.parametrize(("code", "raised"), [("forbidden", AccessRefused), ("overloaded", HubRefused)])
async def test_what_the_hub_says_of_the_token_is_told_apart(
    hub: SyncHubServer, linked: Linked, code: str, raised: type[Exception]
) -> None:
    """Of the routes that read and of those that write alike."""
    asks: list[Callable[[], Any]] = [lambda: linked.link.push(batch()), lambda: linked.link.pull(None, 1)]
    for ask in asks:
        hub.sync.problems.append(HubRefused(code, "", retryable=True))
        with pytest.raises(raised):
            await ask()


async def test_signs_of_life(hub: SyncHubServer, linked: Linked) -> None:
    """The health check says whether the hub is there, the cheap pull whether the token is good and there is news."""
    await linked.link.alive()
    assert await linked.link.authenticated() is False
    hub.sync.happen("RoomStatus", "301", {"status": "clean"})
    assert await linked.link.authenticated(None) is True
    assert await linked.link.authenticated(hub.sync.head()) is False
    assert await linked.link.schemas() == {"reservation": 1, "room": 2}
    hub.sick = True
    with pytest.raises(Disconnected, match="503"):
        await linked.link.alive()
