"""Real bookings from the file to every reader: each event once, in order, with nothing missing.

`BOOKINGS_EVENTS=0` sends the whole file (some minutes); by default a part of it.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from house import House
from websockets.asyncio.client import connect

from consumers.stream_consumer import StreamConsumer
from schemas.envelope import Event

PROJECT = Path(__file__).parents[2]
FILE = Path(os.environ.get("HOTEL_BOOKINGS", PROJECT.parent / "shared" / "data" / "hotel_bookings.zip"))
EVENTS = int(os.environ.get("BOOKINGS_EVENTS", "12000"))
TENANTS = ("city-hotel", "resort-hotel")
IDLE_S = 30.0


class Seen:
    """What one reader saw."""

    def __init__(self) -> None:
        self.ids: Counter[str] = Counter()
        self.sequences: dict[str, list[int]] = defaultdict(list)
        self.revisions: dict[tuple[str, str], list[int]] = defaultdict(list)
        self.grown = asyncio.Event()

    def take(self, event_id: str, tenant: str, entity: str, revision: int, sequence: int | None = None) -> None:
        """Note one event."""
        self.ids[event_id] += 1
        self.revisions[(tenant, entity)].append(revision)
        if sequence is not None:
            self.sequences[tenant].append(sequence)
        self.grown.set()

    async def until(self, count: int) -> None:
        """Until so many events were seen; fails when none comes for a while."""
        while self.ids.total() < count:
            self.grown.clear()
            async with asyncio.timeout(IDLE_S):
                await self.grown.wait()

    def check(self, count: int) -> None:
        """Every event once, and of each entity every revision in order."""
        assert (len(self.ids), self.ids.total()) == (count, count)
        assert all(found == list(range(1, len(found) + 1)) for found in self.revisions.values())


async def simulate(house: House) -> dict[str, int]:
    """`hub simulate --bookings FILE`, and its report."""
    limit = ("--limit", str(EVENTS)) if EVENTS else ()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hub.cli.main", "simulate", "--bookings", str(FILE), "--json", *limit),
        *("--url", f"http://127.0.0.1:{house.hub.port}", "--data-dir", str(house.hub.settings.data_dir)),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    report: dict[str, int] = orjson.loads(output)["report"]
    return report


async def follow(house: House, seen: Seen) -> None:
    """A plain WebSocket subscriber to everything."""
    headers = house.headers(tenants=TENANTS)
    url = f"ws://127.0.0.1:{house.hub.port}/ws"
    async with connect(url, additional_headers=headers, max_size=None, compression=None) as socket:
        await socket.recv()
        await socket.send('{"op":"subscribe","id":1,"patterns":["*"],"after":"earliest"}')
        async for text in socket:
            frame = orjson.loads(text)
            if frame["op"] == "event":
                event = frame["event"]
                seen.take(event["event_id"], event["tenant_id"], event["entity"], event["revision"], frame["sequence"])
            else:
                assert frame["op"] in ("subscribed", "notice"), frame


@pytest.mark.skipif(not FILE.exists(), reason="the bookings file is not there; HOTEL_BOOKINGS may name it")
async def test_every_reader_sees_every_booking_once(start: Callable[..., object]) -> None:
    """One WebSocket subscriber and one StreamConsumer see all events once and in order; a second run adds nothing."""
    async with start() as house:  # type: ignore[attr-defined]
        live, grouped = Seen(), Seen()
        consumer = StreamConsumer(house.hub.url, group="hotel-pms", consumer="desk-1")

        @consumer.on("*")
        async def handled(event: Event[object]) -> None:
            grouped.take(event.event_id, event.tenant_id, event.entity, event.revision)

        following = asyncio.create_task(follow(house, live))
        async with consumer:
            report = await simulate(house)
            count = report["added"]
            assert count > 0
            assert count == EVENTS or not EVENTS
            await live.until(count)
            await grouped.until(count)
            again = await simulate(house)
            assert (again["added"], again["duplicates"]) == (0, count)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        live.check(count)
        grouped.check(count)
        assert live.ids == grouped.ids
        for tenant, sequences in live.sequences.items():
            assert sequences == list(range(1, len(sequences) + 1)), tenant
        assert sum(map(len, live.sequences.values())) == count
