"""Replays as a consumer group's member meets them: entries of its own stream that name their replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stream_server import GROUP, StreamServer, customer, entry, until

from consumers import StreamConsumer, replay_id
from consumers.inbox import Inbox, SQLiteInbox
from consumers.stream_entry import replay_of


async def hand_over(server: StreamServer, event: dict[str, Any], replay: str | None) -> None:
    """As the hub does it: a dead letter, or an event of a replay."""
    more = {"source_id": "17-0", "attempts": "0"} | ({} if replay is None else {"replay": replay})
    await server.redis.xadd(server.key("redrive"), {**entry(event), **more})


def make(server: StreamServer, inbox: Inbox | None = None, **options: Any) -> StreamConsumer:
    return StreamConsumer(server.url, group=GROUP, consumer="c", inbox=inbox, lease_s=1, retry_base_s=0, **options)


async def test_a_replayed_event_is_an_effect_of_its_own_and_a_redriven_one_is_not(
    stream_server: StreamServer, tmp_path: Path
) -> None:
    """Each replay is handled once, however often it comes; a dead letter that was handled meanwhile is not again."""
    event = customer("a", 1)
    handled: list[str | None] = []
    async with await SQLiteInbox.open(tmp_path / "inbox.db", GROUP) as inbox:
        consumer = make(stream_server, inbox)

        @consumer.on("customer.*")
        async def on(event: Any, tx: Any) -> None:
            handled.append(replay_id())

        async with consumer:
            await stream_server.append(event)
            await until(lambda: handled == [None])
            for replay in ("r-1", None, "r-1", "r-2", None, "r-2"):
                await hand_over(stream_server, event, replay)

            async def finished() -> bool:
                return await stream_server.redis.xlen(stream_server.key("redrive")) == 0

            await until(finished)
            assert replay_id() is None
    assert handled == [None, "r-1", "r-2"]
    assert (consumer.stats.handled, consumer.stats.duplicates) == (3, 4)


async def test_a_replayed_event_that_fails_keeps_its_replay_as_a_dead_letter(stream_server: StreamServer) -> None:
    """So that it comes back as what it was; every attempt sees which replay it is."""
    seen: list[str | None] = []
    consumer = make(stream_server, attempts=3)

    @consumer.on("customer.*")
    async def on(event: Any) -> None:
        seen.append(replay_id())
        raise RuntimeError("no")

    async with consumer:
        await hand_over(stream_server, customer("a", 1), "r-1")
        await until(lambda: consumer.stats.dead == 1)
    letters: Any = await stream_server.redis.xrange(stream_server.key("dead"))
    [(_, letter)] = letters

    assert seen == ["r-1"] * 3
    assert (letter[b"replay"], letter[b"source_id"]) == (b"r-1", b"17-0")


def test_the_replay_of_an_entry_stands_behind_the_event() -> None:
    """A field of the same name within an event's nine would be a value of its own."""
    flat = [part for pair in entry(customer("a", 1)).items() for part in (str(one).encode() for one in pair)]

    assert replay_of(flat) is None
    assert replay_of([*flat, b"source_id", b"replay"]) is None
    assert replay_of([*flat, b"attempts", b"0", b"replay", b"r-1"]) == "r-1"
