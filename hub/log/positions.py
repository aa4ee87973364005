"""Where durable WebSocket subscriptions stand: one cursor a (system, name, tenant), moved by acknowledgements.

A position is a promise kept to the client: what it acknowledged does not come again, what it did not does. Writes are
gathered for one turn of the event loop; a reader in this process sees them at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog

from hub.log.stream_log import StreamLog
from hub.log.topology import RedisError
from schemas.cursor import Cursor

RETRY_S = 0.5
ALL = "*"

log = structlog.get_logger("hub.log")


class Positions:
    """Keeps durable positions. Owned by the composition root, which awaits `aclose`."""

    def __init__(self, stream_log: StreamLog) -> None:
        self._log = stream_log
        self._unwritten: dict[tuple[int, str], str] = {}
        self._task: asyncio.Task[None] | None = None

    @staticmethod
    def _field(system: str, name: str, tenant_id: str) -> str:
        return f"{system} {name} {tenant_id}"

    async def get(self, system: str, name: str, tenants: Iterable[str]) -> dict[str, Cursor]:
        """The positions that are known; tenants without one are left out."""
        found: dict[str, Cursor] = {}
        for tenant in tenants:
            partition, field = self._log.partition(tenant), self._field(system, name, tenant)
            value = self._unwritten.get((partition, field))
            if value is None:
                raw = await self._log.source.client.hget(self._log.keys.positions(partition), field)
                value = None if raw is None else raw.decode()
            if value is not None:
                found[tenant] = Cursor.decode(value, tenant)
        return found

    async def begin(self, system: str, name: str, cursors: Mapping[str, str]) -> None:
        """Write down where a subscription begins, be it new, resumed or set to another place by its client.

        It must hold before the first event is sent: a client that goes away before it acknowledges comes back here.
        """
        by_partition: dict[int, dict[str, str]] = {}
        for tenant, cursor in cursors.items():
            partition, field = self._log.partition(tenant), self._field(system, name, tenant)
            by_partition.setdefault(partition, {})[field] = cursor
        before = dict(self._unwritten)
        # Known also where no tenant has an event yet, so that the first of them is not taken for an old one.
        by_partition.setdefault(0, {})[self._field(system, name, ALL)] = "1"
        for partition, mapping in by_partition.items():
            await self._log.source.client.hset(self._log.keys.positions(partition), mapping=mapping)
            for field in mapping:
                if self._unwritten.get((partition, field)) == before.get((partition, field)):
                    self._unwritten.pop((partition, field), None)

    async def known(self, system: str, name: str) -> bool:
        """Whether a durable subscription of this name was ever opened."""
        return bool(await self._log.source.client.hexists(self._log.keys.positions(0), self._field(system, name, ALL)))

    def move(self, system: str, name: str, tenant_id: str, cursor: str) -> None:
        """Move a position forward; the caller has seen that it is forward."""
        self._unwritten[(self._log.partition(tenant_id), self._field(system, name, tenant_id))] = cursor
        if self._task is None:
            self._task = asyncio.create_task(self._write(), name="positions")

    async def _write(self) -> None:
        try:
            while self._unwritten:
                batch = dict(self._unwritten)
                by_partition: dict[int, dict[str, str]] = {}
                for (partition, field), cursor in batch.items():
                    by_partition.setdefault(partition, {})[field] = cursor
                try:
                    for partition, mapping in by_partition.items():
                        await self._log.source.client.hset(self._log.keys.positions(partition), mapping=mapping)
                except (RedisError, OSError) as error:
                    # Not written is not lost: the events come again, and the client knows them by their sequence.
                    log.warning("positions_not_written", error=str(error), waiting=len(self._unwritten))
                    await asyncio.sleep(RETRY_S)
                    continue
                for key, cursor in batch.items():
                    if self._unwritten.get(key) == cursor:
                        del self._unwritten[key]
        finally:
            self._task = None

    async def aclose(self, grace_s: float = 2.0) -> None:
        """Write what is unwritten, for at most `grace_s` seconds."""
        if self._task is not None:
            task = self._task
            _, unfinished = await asyncio.wait([task], timeout=grace_s)
            # Again until it works: before Python 3.12 `wait_for`, which redis-py uses, may swallow a cancellation.
            while unfinished:
                task.cancel()
                _, unfinished = await asyncio.wait([task], timeout=0.1)
