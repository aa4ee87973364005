"""A consumer to be killed: handles events through its inbox, and hangs in the handler of event number `hang_at`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from consumers import partition
from consumers.inbox import SQLiteInbox
from consumers.stream_consumer import StreamConsumer

TABLES = ("CREATE TABLE IF NOT EXISTS effects (customer TEXT, number INTEGER)",)


async def main(url: str, database: str, hang_at: int) -> None:
    # Acknowledge at the end of a batch only, which it will not live to see.
    partition._ACK_EVERY_S = 1e9  # type: ignore[misc]
    async with await SQLiteInbox.open(database, "hotel-member", tables=TABLES) as inbox:
        consumer = StreamConsumer(url, group="hotel-member", consumer="child", inbox=inbox, lease_s=0.6)

        @consumer.on("customer.*")
        async def changed(event: Any, tx: Any) -> None:
            await tx.execute("INSERT INTO effects VALUES ($1, $2)", (event.data.customer_id, event.data.total_points))
            if event.data.total_points == hang_at:
                print("hanging", flush=True)
                await asyncio.Event().wait()

        await consumer.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
