"""Puts back what an emptied log knew, from a place that remembers it, before a new history begins.

Numbering goes on where it stood, publishers' retries are known again, and entries follow the old ones. Nothing is put
back into a partition that has an epoch: somebody already publishes there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hub.log.stream_log import Head, StreamLog
from schemas.cursor import StreamId

# KEYS 1 epoch, 2 the hash; ARGV 1 seconds to live or '', then field, value …
_PUT: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
if ARGV[1] ~= '' then redis.call('EXPIRE', KEYS[2], ARGV[1]) end
return 1
"""
# KEYS 1 epoch, 2 stream; ARGV 1 group, 2 id
_BEGIN: Final = """
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.pcall('XGROUP', 'CREATE', KEYS[2], ARGV[1], ARGV[2], 'MKSTREAM')
local moved = redis.pcall('XSETID', KEYS[2], ARGV[2])
if type(moved) == 'table' and moved.err then return moved end
return 1
"""


CHUNK: Final = 500
"""Fields in one call: a script's stack holds some thousands."""


async def _put(log: StreamLog, partition: int, key: str, values: Mapping[str, str], ttl_s: int | None = None) -> bool:
    pairs, epoch = list(values.items()), log.keys.epoch(partition)
    for start in range(0, len(pairs), CHUNK):
        flat = [part for pair in pairs[start : start + CHUNK] for part in pair]
        if not await log.source.client.eval(_PUT, 2, epoch, key, "" if ttl_s is None else ttl_s, *flat):
            return False
    return True


async def put_heads(log: StreamLog, partition: int, heads: Mapping[str, Head]) -> bool:
    """The last event of each tenant: the next one follows it, and all up to it are gone from the stream.

    False when a new history has begun meanwhile.
    """
    places = {tenant: f"{head.sequence} {head.id}" for tenant, head in heads.items()}
    return await _put(log, partition, log.keys.sequences(partition), places) and await _put(
        log, partition, log.keys.floor(partition), places
    )


async def put_revisions(
    log: StreamLog, partition: int, tenant_id: str, revisions: Mapping[str, tuple[int, StreamId]]
) -> bool:
    """The last revision of each entity, and where it lies; False when a new history has begun meanwhile."""
    values = {f"{tenant_id} {entity}": f"{revision} {id}" for entity, (revision, id) in revisions.items()}
    return await _put(log, partition, log.keys.revisions(partition), values)


async def put_receipts(
    log: StreamLog, partition: int, tenant_id: str, receipts: Mapping[str, tuple[int, int, StreamId]]
) -> bool:
    """Sequence, revision and place of events that publishers may send again; False as above."""
    values = {f"{tenant_id} {event}": f"{s} {r} {id} archive" for event, (s, r, id) in receipts.items()}
    key, ttl_s = log.receipts_key(partition)
    return await _put(log, partition, key, values, ttl_s)


async def put_positions(log: StreamLog, partition: int, positions: Mapping[tuple[str, str, str], str]) -> bool:
    """The cursors of durable subscriptions, by system, name and tenant; False as above."""
    values = {" ".join(names): cursor for names, cursor in positions.items()}
    return await _put(log, partition, log.keys.positions(partition), values)


async def put_settings(log: StreamLog, partition: int, settings: Mapping[str, str]) -> bool:
    """What is known of the properties, as JSON by tenant; False as above."""
    return await _put(log, partition, log.keys.tenants(partition), settings)


async def begin_after(log: StreamLog, partition: int, group: str, id: StreamId) -> bool:
    """The stream's next entry comes after `id`, up to which `group` has done everything; False as above."""
    keys = log.keys
    return bool(await log.source.client.eval(_BEGIN, 2, keys.epoch(partition), keys.events(partition), group, str(id)))
