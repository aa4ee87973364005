"""Prepares a Redis for the log and says how safe it is: partitions, epochs, groups, durability."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from hub.errors import StartError
from hub.log.stream_log import StreamLog
from hub.log.topology import RedisError, Source

LAYOUT: Final = "1"
OLDEST: Final = (7, 0)

log = structlog.get_logger("hub.log")


@dataclass(frozen=True, slots=True)
class Durability:
    """What an acknowledged publish is worth on this server; `durable` None when the server will not say."""

    durable: bool | None
    detail: str


async def check_server(source: Source) -> str:
    """The server's version.

    Raises:
        StartError: it cannot be reached or is older than Redis 7.0.
    """
    try:
        found: dict[str, Any] = await source.client.info("server")
    except (RedisError, OSError) as error:
        raise StartError(
            f"the Redis at {source.shown} cannot be reached: {error}",
            "Start it, correct HUB_REDIS_URL, or unset it to use the embedded server",
        ) from error
    if source.cluster and "redis_version" not in found:
        found = next(iter(found.values()))
    version = str(found.get("valkey_version") or found.get("redis_version", "0"))
    compatible = str(found.get("redis_version", version))
    numbers = tuple(int(part) for part in re.findall(r"\d+", compatible)[:2])
    if numbers < OLDEST:
        raise StartError(
            f"the server at {source.shown} is Redis {version}", "The hub needs Redis or Valkey 7.0 or later"
        )
    return version


async def fix_layout(source: Source, log: StreamLog) -> None:
    """Write down the number of partitions at first start, hold to it afterwards.

    Raises:
        StartError: the log was made with another number, or by another layout.
    """
    key = log.keys.meta
    client = source.client
    await client.hsetnx(key, "partitions", log.partitions)
    await client.hsetnx(key, "layout", LAYOUT)
    partitions, layout = await client.hmget(key, "partitions", "layout")
    if int(partitions) != log.partitions:
        raise StartError(
            f"the log at {source.shown} has {int(partitions)} partitions, this hub is set to {log.partitions}",
            f"Set HUB_PARTITIONS={int(partitions)}; the number is fixed at first start",
        )
    if layout.decode() != LAYOUT:
        raise StartError(f"the log has layout {layout.decode()}, this hub knows {LAYOUT}", "Use the matching release")


async def load_epochs(source: Source, log: StreamLog) -> bool:
    """Learn every partition's epoch, making those that are missing. True when a known one changed."""
    changed = False
    for partition in range(log.partitions):
        key = log.keys.epoch(partition)
        if log.on_empty is not None and not await source.client.exists(key):
            await log.on_empty(partition)
        await source.client.set(key, secrets.randbits(32) | 1, nx=True)
        epoch = int(await source.client.get(key))
        changed = changed or log.epochs[partition] not in (0, epoch)
        log.epochs[partition] = epoch
    return changed


_ROTATE: Final = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2]) end
return redis.call('GET', KEYS[1])
"""


async def new_epoch(source: Source, log: StreamLog, partition: int) -> None:
    """Begin a new epoch of one partition, unless another hub already did."""
    key = log.keys.epoch(partition)
    known = log.epochs[partition]
    log.epochs[partition] = int(await source.client.eval(_ROTATE, 1, key, str(known), str(secrets.randbits(32) | 1)))


async def make_groups(source: Source, log: StreamLog, groups: Sequence[str]) -> list[tuple[int, str]]:
    """Make the consumer groups that are missing, from the beginning of each stream; those that were made."""
    made = []
    for partition in range(log.partitions):
        for group in groups:
            try:
                await source.client.xgroup_create(log.keys.events(partition), group, id="0", mkstream=True)
                made.append((partition, group))
            except ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise
    return made


async def durability(source: Source) -> Durability:
    """Whether an acknowledged append is on the server's disk."""
    if source.cluster:
        return Durability(None, "a cluster's nodes are not asked; run each with appendonly yes, appendfsync always")
    try:
        settings: dict[Any, Any] = await source.client.config_get("append*")
        memory: dict[Any, Any] = await source.client.config_get("maxmemory*")
    except RedisError:
        return Durability(None, "the server does not tell its settings; see that appendfsync is always")
    values = {_text(key): _text(value) for key, value in (settings | memory).items()}
    if values.get("appendonly") != "yes":
        return Durability(False, "appendonly is off: a crash of the server loses acknowledged events")
    if values.get("appendfsync") != "always":
        return Durability(
            False, f"appendfsync is {values.get('appendfsync')}: a crash may lose the last acknowledged events"
        )
    if values.get("maxmemory", "0") != "0" and values.get("maxmemory-policy") != "noeviction":
        return Durability(False, f"maxmemory-policy is {values.get('maxmemory-policy')}: the server may evict events")
    return Durability(True, "appendonly with appendfsync always")


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def open_log(source: Source, stream_log: StreamLog, groups: Sequence[str]) -> None:
    """Everything between a reachable server and a log that may be used.

    Raises:
        StartError: the server is unfit, or holds a log of another shape.
    """
    version = await check_server(source)
    made = await prepare(source, stream_log, groups)
    log.info("log_open", server=version, url=source.shown, partitions=stream_log.partitions, groups_made=len(made))


async def prepare(source: Source, stream_log: StreamLog, groups: Sequence[str]) -> list[tuple[int, str]]:
    """What a server needs before the log may be used, also when it was away or emptied; the groups that were made.

    Raises:
        StartError: the server holds a log of another shape.
    """
    await fix_layout(source, stream_log)
    await load_epochs(source, stream_log)
    return await make_groups(source, stream_log, groups)
