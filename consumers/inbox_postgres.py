"""The inbox in PostgreSQL, for a consumer whose own tables are there."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import asyncpg

from consumers.inbox import KEEP_DAYS, Parameter, Transaction, effect
from schemas.envelope import Event

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS inbox (
    tenant_id text NOT NULL,
    event_id text NOT NULL,
    consumer text NOT NULL,
    handled_at bigint NOT NULL,
    PRIMARY KEY (tenant_id, event_id, consumer)
);
CREATE INDEX IF NOT EXISTS inbox_by_age ON inbox (handled_at);
"""
# CREATE … IF NOT EXISTS fails when two sessions run it at once; consumers that start together take turns.
_TURN: Final = "SELECT pg_advisory_xact_lock(hashtext('inbox'))"
_RECORD: Final = "INSERT INTO inbox VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING"
_PRUNE: Final = "DELETE FROM inbox WHERE consumer = $1 AND handled_at <= $2"


class PostgresInbox:
    """An inbox in the first schema of the connection's search path. Transactions run side by side, READ COMMITTED."""

    def __init__(self, pool: Any, consumer: str, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._consumer = consumer
        self._clock = clock

    @classmethod
    async def open(
        cls, url: str, consumer: str, *, tables: Sequence[str] = (), clock: Callable[[], float] = time.time
    ) -> Self:
        """Connect. `tables`: statements that make the consumer's own tables if they are missing.

        Raises:
            OSError, asyncpg.PostgresError: the server cannot be reached, or refuses.
        """
        pool = await asyncpg.create_pool(url, min_size=1)
        try:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute(_TURN)
                for statement in (_TABLES, *tables):
                    await connection.execute(statement)
        except BaseException:
            await pool.close()
            raise
        return cls(pool, consumer, clock)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @asynccontextmanager
    async def transaction(self, event: Event[Any], replay: str | None = None) -> AsyncIterator[Transaction | None]:
        """A transaction for the event's effect; None when the event, or this replay of it, was handled before."""
        record = (event.tenant_id, effect(event, replay), self._consumer, int(self._clock()))
        async with self._pool.acquire() as connection, connection.transaction():
            tx = _PostgresTransaction(connection)
            yield tx if await tx.execute(_RECORD, record) else None

    async def prune(self) -> int:
        """Remove this consumer's records of `KEEP_DAYS` and older; how many there were."""
        before = int(self._clock()) - KEEP_DAYS * 86400
        async with self._pool.acquire() as connection:
            return await _PostgresTransaction(connection).execute(_PRUNE, (self._consumer, before))

    async def close(self) -> None:
        """Disconnect, after the open transactions."""
        await self._pool.close()


class _PostgresTransaction:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str, parameters: Sequence[Parameter] = ()) -> int:
        status: str = await self._connection.execute(sql, *parameters)
        changed = status.rpartition(" ")[2]
        return int(changed) if changed.isdigit() else 0

    async def fetch(self, sql: str, parameters: Sequence[Parameter] = ()) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in await self._connection.fetch(sql, *parameters)]
