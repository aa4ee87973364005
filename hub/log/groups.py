"""What the consumer groups have yet to do: lag, pending, age. And trimming below all of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

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


async def trim(
    log: StreamLog,
    older_than_ms: int,
    now_ms: int,
    configured: Collection[str],
    places: Mapping[str, Mapping[int, StreamId]] | None = None,
) -> int:
    """Remove what is older than `older_than_ms` (Unix ms) and finished by every group; how many entries went.

    `places` are those that a group's reader keeps itself, by partition, and that count instead of the server's: a
    reader that was set back to an older copy of its own still needs what the server takes for finished.

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
        own = places or {}
        done = [own[one.group].get(partition, ZERO) if one.group in own else one.finished for one in holding]
        limit = min([StreamId(older_than_ms, 0), *(place.next for place in done)])
        trimmed += await _trim_below(log, partition, limit)
    return trimmed


def _used(state: GroupState) -> bool:
    return state.last_delivered != ZERO or state.consumers > 0


# Of two hubs that trim the slower one must not turn a floor back. ARGV 1 the first id that stays, then tenant, place …
_TRIM: Final = """
for i = 2, #ARGV, 2 do
  local held = redis.call('HGET', KEYS[1], ARGV[i])
  if not held or tonumber(string.match(held, '^%d+')) < tonumber(string.match(ARGV[i + 1], '^%d+')) then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  end
end
return redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[1])
"""


async def _trim_below(log: StreamLog, partition: int, limit: StreamId) -> int:
    client, stream = log.source.client, log.keys.events(partition)
    trimmed, after = 0, ZERO
    while True:
        reply = await client.execute_command("XRANGE", stream, f"({after}", f"({limit}", "COUNT", CHUNK)
        if not reply:
            return trimmed
        last = {entry.tenant_id: f"{entry.sequence} {entry.id}" for entry in parse(reply, 0)}
        after = StreamId.parse(reply[-1][0])
        floor = [part for pair in last.items() for part in pair]
        trimmed += int(await client.eval(_TRIM, 2, log.keys.floor(partition), stream, str(after.next), *floor))
