"""The processes that consume and get killed: `python -m tests.faults.worker stream|client SPECIFICATION`.

Each writes what it handled to an SQLite file, which the harness reads. A file of a `stream` consumer is its inbox's, so
that an effect is there once; a `client` has none, and may write an event again after it was killed.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import sys
from pathlib import Path
from typing import Any

from consumers import FileCursors, HubClient
from consumers.inbox import SQLiteInbox
from consumers.stream_consumer import StreamConsumer
from schemas.frames import Gap

TABLES = (
    "CREATE TABLE IF NOT EXISTS effects "
    "(place INTEGER PRIMARY KEY AUTOINCREMENT, event_id TEXT, tenant TEXT, reservation TEXT, number INTEGER)",
    "CREATE TABLE IF NOT EXISTS notes (text TEXT)",
)
INSERT = "INSERT INTO effects (event_id, tenant, reservation, number) VALUES ($1, $2, $3, $4)"


def _row(event: Any) -> tuple[str, str, str, int]:
    return event.event_id, event.tenant_id, event.data.reservation_id, int(event.data.total_amount)


async def stream(database: str, url: str, group: str, consumer: str) -> None:
    """A `StreamConsumer` with an inbox."""
    async with await SQLiteInbox.open(database, group, tables=TABLES) as inbox:
        one = StreamConsumer(
            url,
            group=group,
            consumer=consumer,
            inbox=inbox,
            lease_s=1.5,
            on_alarm=lambda alarm: print("alarm", alarm.code, alarm.detail, flush=True),
        )

        @one.on("reservation.*")
        async def changed(event: Any, tx: Any) -> None:
            await tx.execute(INSERT, _row(event))

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(one.stop()))
        await one.run()


async def client(database: str, url: str, token: str, name: str) -> None:
    """A durable `HubClient`."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    # A killed process loses nothing that it wrote; only a machine would.
    connection.execute("PRAGMA synchronous=OFF")
    for table in TABLES:
        connection.execute(table)

    async def missed(gap: Gap) -> None:
        connection.execute("INSERT INTO notes VALUES (?)", (f"gap {gap.tenant_id} {gap.reason}",))

    cursors = FileCursors(Path(database).with_suffix(".cursors"))
    async with HubClient(url, token=token, name=name, after="earliest", cursors=cursors, on_gap=missed) as hub:

        @hub.on("reservation.*")
        async def changed(event: Any) -> None:
            connection.execute(INSERT.replace("$1, $2, $3, $4", "?, ?, ?, ?"), _row(event))

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, hub.stop)
        await hub.run()
    connection.close()


if __name__ == "__main__":
    specification = json.loads(sys.argv[2])
    asyncio.run(stream(**specification) if sys.argv[1] == "stream" else client(**specification))
