"""How fast a `StreamConsumer` works off a log: `python -m consumers.bench --url URL --events N` prints one JSON line.

The handler is typed and does nothing, so the figure is the consumer's own: reading, parsing, leases, acknowledging.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import json
import sys
import time
from contextlib import suppress

from consumers.stream_consumer import StreamConsumer
from schemas.reservation import ReservationEvent


async def consume(url: str, group: str, prefix: str, events: int, concurrency: int) -> dict[str, float]:
    """Work off `events` events; the time counts from the first to the last."""
    consumer = StreamConsumer(url, group=group, consumer="bench", prefix=prefix, concurrency=concurrency)
    everything = asyncio.Event()
    seen = 0
    begun = ended = 0.0

    @consumer.on("reservation.*")
    async def handled(event: ReservationEvent) -> None:
        nonlocal seen, begun, ended
        seen += 1
        if seen == 1:
            begun = time.perf_counter()
        if seen == events:
            ended = time.perf_counter()
            everything.set()

    async with consumer:
        await everything.wait()
    return {"consumed": seen, "seconds": round(ended - begun, 3), "consumed_per_s": round(events / (ended - begun), 1)}


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="the Redis that holds the log")
    parser.add_argument("--events", type=int, required=True, help="how many to wait for")
    parser.add_argument("--group", default="hotel-member")
    parser.add_argument("--prefix", default="hub")
    parser.add_argument("--concurrency", type=int, default=1)
    asked = parser.parse_args()
    # As a service that has many events to work off would be run.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    factory = None
    with suppress(ImportError):
        factory = importlib.import_module("uvloop").new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        found = runner.run(consume(asked.url, asked.group, asked.prefix, asked.events, asked.concurrency))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
