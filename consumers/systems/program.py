"""What the three programs share: a projection fed by the hub, each event's effect once, one line an event."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from consumers.client import HubClient
from consumers.errors import ConsumerError
from consumers.inbox import SQLiteInbox, Transaction
from schemas.envelope import Event
from schemas.frames import Gap


@dataclass(frozen=True, slots=True)
class Projection:
    """A system's view of events: its tables, and how one event changes them.

    `apply` works in the inbox's transaction and returns what to print, without guest data.
    """

    system: str
    patterns: tuple[str, ...]
    tables: tuple[str, ...]
    apply: Callable[[Event[Any], Transaction], Awaitable[str]]


async def handle(projection: Projection, inbox: SQLiteInbox, event: Event[Any]) -> str:
    """Apply the event unless it was applied before; what to print."""
    async with inbox.transaction(event) as tx:
        return "known already" if tx is None else await projection.apply(event, tx)


def main(projection: Projection, arguments: Sequence[str] | None = None) -> int:
    """Run the program until SIGINT or SIGTERM; its exit code."""
    parser = argparse.ArgumentParser(
        prog=f"python -m consumers.systems.{projection.system.replace('-', '_')}",
        description=f"Follows the hub as {projection.system} and keeps a view of its own in SQLite.",
    )
    parser.add_argument("--url", default="ws://localhost:3400/ws", help="the hub's WebSocket (default: %(default)s)")
    parser.add_argument("--token", default=os.environ.get("HUB_TOKEN"), help="default: HUB_TOKEN")
    parser.add_argument("--db", default=f"{projection.system}.db", help="SQLite file (default: %(default)s)")
    options = parser.parse_args(arguments)
    if not options.token:
        parser.error("a token is needed: --token or HUB_TOKEN")
    # Lines about events are the program's output; the client's log goes beside it.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    try:
        asyncio.run(_follow(projection, options.url, options.token, options.db))
    except (ConsumerError, ValueError, sqlite3.Error) as error:
        print(f"{projection.system}: {error}", file=sys.stderr)
        return 1
    return 0


async def _follow(projection: Projection, url: str, token: str, path: str) -> None:
    loop = asyncio.get_running_loop()
    # The name makes the hub keep the position: after a restart it goes on where it was, the first time from the start.
    client = HubClient(url, token=token, name=f"{projection.system}-view", after="earliest", on_gap=_tell_gap)
    async with await SQLiteInbox.open(path, projection.system, tables=projection.tables) as inbox:
        await inbox.prune()

        async def follow(event: Event[Any]) -> None:
            line = await handle(projection, inbox, event)
            print(event.occurred_at.isoformat(), event.tenant_id, event.name, event.entity, line, sep="  ", flush=True)

        for pattern in projection.patterns:
            client.on(pattern)(follow)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, client.stop)
        try:
            async with client:
                await client.run()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


async def _tell_gap(gap: Gap) -> None:
    print(f"events of {gap.tenant_id} are missing ({gap.reason}): compare with a snapshot", file=sys.stderr, flush=True)
