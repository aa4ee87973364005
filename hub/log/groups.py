"""What the consumer groups have yet to do: lag, pending, age. And trimming below all of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from hub.log.replies import parse
from hub.log.stream_log import StreamLog
from schemas.cursor import ZERO, StreamId

CHUNK = 1000


@dataclass(frozen=True, slots=True)
class GroupState:
    """One consumer group on one partition. `lag` None: the server cannot tell (after deletions)."""

    group: str
    partition: int
    lag: int | None
    pending: int
    oldest_pending_s: float
    consumers: int
    last_delivered: StreamId
    finished: StreamId
    """Every entry up to here was delivered and acknowledged."""


async def group_states(log: StreamLog, now_ms: int, partitions: Sequence[int] | None = None) -> list[GroupState]:
    """Every group of every partition. The age of a pending entry is counted from its append."""
    client = log.source.client
    states = []
    for partition in range(log.partitions) if partitions is None else partitions:
        stream = log.keys.events(partition)
        try:
            reply = await client.execute_command("XINFO GROUPS", stream)
        except ResponseError as error:
            if "no such key" in str(error).lower():
                continue
            raise
        for raw in reply:
            info = _named(raw)
            group = _text(info["name"])
            pending, oldest = int(info["pending"]), None
            if pending:
                oldest = await _oldest_pending(log, stream, group)
            delivered = StreamId.parse(info["last-delivered-id"])
            lag = info.get("lag")
            states.append(
                GroupState(
                    group=group,
                    partition=partition,
                    lag=None if lag is None else int(lag),
                    pending=pending,
                    oldest_pending_s=0.0 if oldest is None else max(0.0, (now_ms - oldest.ms) / 1000),
                    consumers=int(info["consumers"]),
                    last_delivered=delivered,
                    finished=delivered if oldest is None else oldest.previous,
                )
            )
    return states


async def finished_in(log: StreamLog, stream: str, group: str) -> StreamId | None:
    """Up to where a group has finished a stream of its own; None while it does not read it."""
    try:
        reply = await log.source.client.execute_command("XINFO GROUPS", stream)
    except ResponseError:
        return None
    for raw in reply:
        info = _named(raw)
        if _text(info["name"]) == group:
            oldest = await _oldest_pending(log, stream, group) if int(info["pending"]) else None
            return StreamId.parse(info["last-delivered-id"]) if oldest is None else oldest.previous
    return None


async def retried(log: StreamLog, partition: int, group: str, count: int) -> list[tuple[StreamId, int]]:
    """Of a group's `count` oldest unfinished entries, those given out more than once, and how often."""
    reply = await log.source.client.xpending_range(log.keys.events(partition), group, "-", "+", count)
    return [
        (StreamId.parse(one["message_id"]), int(one["times_delivered"])) for one in reply if one["times_delivered"] > 1
    ]


async def first_after(log: StreamLog, partition: int, after: StreamId, upto: StreamId) -> StreamId | None:
    """The place of the first entry after a place and not past another."""
    if upto <= after:
        return None
    reply = await log.source.client.execute_command(
        "XRANGE", log.keys.events(partition), f"({after}", str(upto), "COUNT", 1
    )
    return StreamId.parse(reply[0][0]) if reply else None


async def _oldest_pending(log: StreamLog, stream: str, group: str) -> StreamId | None:
    summary = await log.source.client.execute_command("XPENDING", stream, group)
    first = summary.get("min") if isinstance(summary, dict) else summary[1]
    return None if first is None else StreamId.parse(first)


def _named(raw: Any) -> dict[str, Any]:
    if isinstance(raw, dict):
        return {_text(key): value for key, value in raw.items()}
    return {_text(raw[i]): raw[i + 1] for i in range(0, len(raw), 2)}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


async def trim(log: StreamLog, older_than_ms: int, now_ms: int, configured: Collection[str]) -> int:
    """Remove what is older than `older_than_ms` (Unix ms) and finished by every group; how many entries went.

    A group holds the trim when it is configured, or when somebody has ever read with it: a group that is neither was
    made by former settings and waits for nobody. The last trimmed event of each tenant is written down in the same
    transaction, so that a cursor below it is answered by a gap.
    """
    trimmed = 0
    for partition in range(log.partitions):
        states = await group_states(log, now_ms, [partition])
        if set(configured) - {state.group for state in states}:
            # A group that should be there is not: what it has finished is unknown until it is made again.
            continue
        holding = [state for state in states if state.group in configured or _used(state)]
        limit = min([StreamId(older_than_ms, 0), *(state.finished.next for state in holding)])
        trimmed += await _trim_below(log, partition, limit)
    return trimmed


def _used(state: GroupState) -> bool:
    return state.last_delivered != ZERO or state.consumers > 0


async def _trim_below(log: StreamLog, partition: int, limit: StreamId) -> int:
    client, stream = log.source.client, log.keys.events(partition)
    trimmed, after = 0, ZERO
    while True:
        reply = await client.execute_command("XRANGE", stream, f"({after}", f"({limit}", "COUNT", CHUNK)
        if not reply:
            return trimmed
        last = {entry.tenant_id: f"{entry.sequence} {entry.id}" for entry in parse(reply, 0)}
        after = StreamId.parse(reply[-1][0])
        async with client.pipeline(transaction=True) as pipe:
            if last:
                pipe.hset(log.keys.floor(partition), mapping=last)
            pipe.execute_command("XTRIM", stream, "MINID", "=", str(after.next))
            *_, removed = await pipe.execute()
        trimmed += int(removed)
