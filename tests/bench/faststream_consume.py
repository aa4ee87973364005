"""The same work by FastStream: `python tests/bench/faststream_consume.py --url URL --events N` prints one JSON line.

For `hub bench consume --beside`. FastStream reads messages of its own format, so the events of the hub's log are first
published again through its broker, to a stream of its own on the same server. It acknowledges one by one, which a
server with `appendfsync always` makes it pay for; with many workers the acknowledgements share a flush, but the order
is gone. Both are measured, and the better one is `consumed_per_s`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import sys
import time
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import uvloop
from faststream.redis import RedisBroker, StreamSub
from pydantic import BaseModel
from redis.asyncio import Redis

STREAM = "bench:faststream"
GROUP = "bench"
AT_ONCE = 50
WORKERS = 64


class Data(BaseModel):
    """The payload, typed as far as the load uses it."""

    reservation_id: str
    room_type: str
    checkin_date: date
    checkout_date: date
    total_amount: Decimal
    status: str
    origin: str
    special_requests: str
    origin_system: str
    updated_by_system: str
    synced_at: datetime
    currency: str


class Reservation(BaseModel):
    """The envelope."""

    event_id: str
    schema_version: int
    tenant_id: str
    type: str
    action: str
    priority: str
    sync_mode: str
    targets: tuple[str, ...]
    delivery_guarantee: str
    occurred_at: datetime
    recorded_at: datetime
    entity: str
    revision: int
    data: Data


async def stored(url: str, events: int) -> list[dict[str, Any]]:
    """The first events of the hub's log."""
    found: list[dict[str, Any]] = []
    redis: Any
    async with Redis.from_url(url, protocol=2) as redis:
        partitions = int(await redis.hget("hub:meta", "partitions"))
        for partition in range(partitions):
            after = "-"
            while entries := await redis.xrange(f"hub:{{p{partition:02d}}}:events", after, "+", 1000):
                found += [json.loads(fields[b"event_data"]) for _, fields in entries]
                after = f"({entries[-1][0].decode()}"
    return found[:events]


async def consume(url: str, events: int) -> dict[str, Any]:
    """Publish the events through FastStream, then consume them with a typed handler that does nothing."""
    in_order = await worked_off(url, events, 1)
    many = await worked_off(url, events, WORKERS)
    best = max(in_order, many, key=lambda figures: figures["consumed_per_s"])
    return best | {"in_order_per_s": in_order["consumed_per_s"], f"{WORKERS}_workers_per_s": many["consumed_per_s"]}


async def worked_off(url: str, events: int, workers: int) -> dict[str, Any]:
    """One run."""
    broker = RedisBroker(url, log_level=logging.CRITICAL)
    everything = asyncio.Event()
    seen = 0
    begun = ended = 0.0

    @broker.subscriber(stream=StreamSub(STREAM, group=GROUP, consumer="bench", max_records=500), max_workers=workers)
    async def handled(event: Reservation) -> None:
        nonlocal seen, begun, ended
        seen += 1
        if seen == 1:
            begun = time.perf_counter()
        if seen == events:
            ended = time.perf_counter()
            everything.set()

    async with Redis.from_url(url, protocol=2) as redis:
        await redis.delete(STREAM)
        await redis.xgroup_create(STREAM, GROUP, "0", mkstream=True)
    await broker.connect()
    waiting = await stored(url, events)
    publishing = time.perf_counter()
    for first in range(0, len(waiting), AT_ONCE):
        await asyncio.gather(*(broker.publish(event, stream=STREAM) for event in waiting[first : first + AT_ONCE]))
    published = time.perf_counter() - publishing
    await broker.start()
    await everything.wait()
    await broker.stop()
    return {
        "consumed": seen,
        "seconds": round(ended - begun, 3),
        "consumed_per_s": round(events / (ended - begun), 1),
        "published_per_s": round(len(waiting) / published, 1),
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--events", type=int, required=True)
    asked = parser.parse_args()
    # The same conditions as for the consumer it stands beside.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(consume(asked.url, asked.events))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
