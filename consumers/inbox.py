"""The inbox: an event's effect happens once, in the consumer's own database.

At-least-once delivery brings an event again after a crash. The inbox records its id in the transaction that holds its
effect, so both are kept or neither, and the second delivery finds the record.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final, Protocol, Self, TypeVar

from schemas.envelope import Event

KEEP_DAYS: Final = 30
"""How long a record is kept: longer than the log keeps events, so that none can come again after it."""

Parameter = str | bytes | int | float | None
ResultT = TypeVar("ResultT")

_BUSY_S: Final = 30.0
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS inbox (
    tenant_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    consumer TEXT NOT NULL,
    handled_at INTEGER NOT NULL,
    PRIMARY KEY (tenant_id, event_id, consumer)
) WITHOUT ROWID
"""
_BY_AGE: Final = "CREATE INDEX IF NOT EXISTS inbox_by_age ON inbox (handled_at)"
_RECORD: Final = "INSERT INTO inbox VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
_PRUNE: Final = "DELETE FROM inbox WHERE consumer = $1 AND handled_at <= $2"


class Transaction(Protocol):
    """The open transaction an effect belongs to. Placeholders are `$1`, `$2`, … in every implementation."""

    async def execute(self, sql: str, parameters: Sequence[Parameter] = ()) -> int:
        """Run one statement; the number of rows it changed."""
        ...

    async def fetch(self, sql: str, parameters: Sequence[Parameter] = ()) -> list[tuple[Any, ...]]:
        """Run one query; its rows."""
        ...


class Inbox(Protocol):
    """Remembers which events a consumer has handled.

    Atomicity: the record and everything done through the transaction are committed together when the block ends, and
    rolled back together when it raises or is cancelled. A cancellation that meets the commit may leave it done; the
    event then comes again as a duplicate. Durability: a committed effect survives a crash of process and machine.
    Isolation: nobody else reads the effect before it is committed; of two transactions for one event the second waits
    for the first, and then is a duplicate, or not if the first was rolled back. Duplicates: an event is known by
    (tenant_id, event_id), per consumer; a record may be pruned after `KEEP_DAYS`. A replay of the event is another one,
    known by its replay too: it is handled again, once a replay.
    """

    def transaction(
        self, event: Event[Any], replay: str | None = None
    ) -> AbstractAsyncContextManager[Transaction | None]:
        """A transaction for the event's effect; None when the event, or this replay of it, was handled before."""
        ...

    async def prune(self) -> int:
        """Remove this consumer's records of `KEEP_DAYS` and older; how many there were."""
        ...

    async def close(self) -> None:
        """Release the database, after the open transactions."""
        ...


def effect(event: Event[Any], replay: str | None) -> str:
    """What an inbox knows an effect by, beside its tenant and consumer."""
    return event.event_id if replay is None else f"{event.event_id} {replay}"


class SQLiteInbox:
    """An inbox in one SQLite file, which holds the consumer's own tables too.

    One thread owns the connection; transactions follow each other. Several processes may share the file.
    """

    def __init__(
        self, connection: sqlite3.Connection, thread: ThreadPoolExecutor, consumer: str, clock: Callable[[], float]
    ) -> None:
        self._connection = connection
        self._thread = thread
        self._consumer = consumer
        self._clock = clock
        self._turn = asyncio.Lock()

    @classmethod
    async def open(
        cls, path: str | Path, consumer: str, *, tables: Sequence[str] = (), clock: Callable[[], float] = time.time
    ) -> Self:
        """Open or make the file. `tables`: statements that make the consumer's own tables if they are missing.

        Raises:
            sqlite3.Error: the file is not a database, or cannot be opened.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="inbox")
        try:
            connection = await asyncio.wrap_future(thread.submit(_connect, Path(path), tables))
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(connection, thread, consumer, clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @asynccontextmanager
    async def transaction(self, event: Event[Any], replay: str | None = None) -> AsyncIterator[Transaction | None]:
        """A transaction for the event's effect; None when the event, or this replay of it, was handled before."""
        record = (event.tenant_id, effect(event, replay), self._consumer, int(self._clock()))
        async with self._turn:
            try:
                if await self._run(self._begin, record):
                    yield _SQLiteTransaction(self._run, self._connection)
                    await self._run(self._connection.execute, "COMMIT")
                else:
                    yield None
            finally:
                # Queued even when we are being cancelled; the thread gets to it before any later transaction.
                await asyncio.shield(asyncio.wrap_future(self._thread.submit(self._roll_back)))

    async def prune(self) -> int:
        """Remove this consumer's records of `KEEP_DAYS` and older; how many there were."""
        before = int(self._clock()) - KEEP_DAYS * 86400
        async with self._turn:
            return await self._run(lambda: _execute(self._connection, _PRUNE, (self._consumer, before)))

    async def close(self) -> None:
        """Release the file, after the open transactions."""
        async with self._turn:
            await self._run(self._connection.close)
            self._thread.shutdown(wait=False)

    async def _run(self, function: Callable[..., ResultT], *args: Any) -> ResultT:
        return await asyncio.wrap_future(self._thread.submit(function, *args))

    def _begin(self, record: tuple[Parameter, ...]) -> bool:
        self._connection.execute("BEGIN IMMEDIATE")
        return _execute(self._connection, _RECORD, record) == 1

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


class _SQLiteTransaction:
    def __init__(self, run: Callable[..., Any], connection: sqlite3.Connection) -> None:
        self._run = run
        self._connection = connection

    async def execute(self, sql: str, parameters: Sequence[Parameter] = ()) -> int:
        changed: int = await self._run(_execute, self._connection, sql, parameters)
        return changed

    async def fetch(self, sql: str, parameters: Sequence[Parameter] = ()) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = await self._run(_fetch, self._connection, sql, parameters)
        return rows


def _connect(path: Path, tables: Sequence[str]) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        for statement in (_TABLE, _BY_AGE, *tables):
            connection.execute(statement)
    except BaseException:
        connection.close()
        raise
    return connection


def _execute(connection: sqlite3.Connection, sql: str, parameters: Sequence[Parameter]) -> int:
    return max(connection.execute(sql, _named(parameters)).rowcount, 0)


def _fetch(connection: sqlite3.Connection, sql: str, parameters: Sequence[Parameter]) -> list[tuple[Any, ...]]:
    return connection.execute(sql, _named(parameters)).fetchall()


def _named(parameters: Sequence[Parameter]) -> Mapping[str, Parameter]:
    # SQLite reads `$1` as a parameter named "1".
    return {str(number): value for number, value in enumerate(parameters, 1)}
