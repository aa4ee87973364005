"""What `hub doctor` looks at in the store: the chains, and what lies in the log too. Nothing here changes anything."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from hub.cli.check import Check
from hub.cli.output import Bar
from hub.cli.store import is_there
from hub.core.entry import Entry
from hub.errors import StartError
from hub.log.keys import Keys
from hub.log.stream_log import StreamLog
from hub.log.topology import RedisError, Source, connect
from hub.settings import Settings
from hub.store.archive import START, Archive, Place
from hub.store.database import Database, StoreUnavailable, StoreVersionError, store_url
from hub.store.migrate import check, newest
from schemas.cursor import ZERO, StreamId

NEWEST: Final = 20_000
"""So many of a tenant's chain, and of a partition's entries, are looked at unless all are asked for."""
PAGE: Final = 500

_VERIFY: Final = "Restore a backup with `hub store restore`, and find out who wrote to the database"
_REBUILD: Final = "Restore the newest backup with `hub store restore`; the hub archives again what its log still has"


async def store_checks(settings: Settings, redis_url: str | None, *, full: bool) -> list[Check]:
    """The store by itself, and held against the log where there is one."""
    name = "store"
    try:
        url = store_url(settings.store_url, settings.data_dir)
    except StartError as error:
        return [Check(name, "fail", error.message, error.fix)]
    if not is_there(url):
        return [Check(name, "ok", f"{url.database} will be made at first start")]
    database = Database(url)
    try:
        held = await check(database)
        if held is None:
            return [Check(name, "ok", f"{database.shown}: empty, and reachable; its tables are made at first start")]
        if held != newest():
            return [Check(name, "warn", f"{database.shown}: version {held}", f"`hub store migrate`, to {newest()}")]
        archive = Archive(database)
        there = await archive.tenants()
        events = sum(one.position - one.base_position for one in there.values())
        told = f"{database.shown}: version {held}, {events} events of {len(there)} tenants"
        return [
            Check(name, "ok", told),
            await _chain(archive, full),
            *(await _archive(settings, archive, redis_url, full)),
        ]
    except StoreVersionError as error:
        return [Check(name, "fail", str(error), "Use the release that wrote it")]
    except StoreUnavailable as error:
        return [Check(name, "fail", str(error), "Until it answers, events stay in the log")]
    finally:
        await database.aclose()


async def _chain(archive: Archive, full: bool) -> Check:
    there = await archive.tenants()
    checked = 0
    total = sum(one.position - one.base_position for one in there.values())
    with Bar("events checked", total) as bar:
        for tenant in sorted(there):
            events = 0
            async for result in archive.verify(tenant, newest=None if full else NEWEST):
                if result.broken is not None:
                    return Check("chain", "fail", result.broken, _VERIFY)
                events = result.events
                bar.at(checked + events, time.monotonic())
            checked += events
    if checked < total:
        return Check("chain", "ok", f"the newest {checked} of {total} events; `hub events verify` checks all")
    return Check("chain", "ok", f"all {checked} events of {len(there)} tenants")


async def _archive(settings: Settings, archive: Archive, redis_url: str | None, full: bool) -> list[Check]:
    """The log against the archive; nothing where the log cannot be asked, which another check tells."""
    if redis_url is None:
        return []
    try:
        source = connect(redis_url)
    except StartError:
        return []
    try:
        log = await _log(settings, source)
        return [] if log is None else [await _held_against(log, archive, full)]
    except (RedisError, OSError):
        return []
    finally:
        await source.aclose()


async def _log(settings: Settings, source: Source) -> StreamLog | None:
    keys = Keys(settings.key_prefix)
    held = await source.client.hget(keys.meta, "partitions")
    if held is None or int(held) != settings.partitions:
        return None
    log = StreamLog(source, keys, settings.partitions, idempotency_s=settings.idempotency_hours * 3600)
    # Read here and not by what opens a log: that would make the missing ones.
    log.epochs = [int(await source.client.get(keys.epoch(one)) or 0) for one in range(log.partitions)]
    return log


async def _held_against(log: StreamLog, archive: Archive, full: bool) -> Check:
    name = "archive"
    there = await archive.tenants()
    places = await archive.places()
    heads = await log.tenants()
    behind = 0
    for tenant, head in sorted(heads.items()):
        mark = there[tenant].head if tenant in there else START
        if mark.epoch == log.epochs[log.partition(tenant)] and mark.sequence > head.sequence:
            detail = f"{tenant}: the archive has events up to sequence {mark.sequence}, the log to {head.sequence}"
            return Check(name, "fail", f"{detail}: the log lost its newest", "Restart the hub: it opens the log anew")
        behind += max(0, head.sequence - mark.sequence)
    compared = 0
    with Bar("events compared", None) as bar:
        for partition in range(log.partitions):
            place = places.get(partition, Place(0, ZERO))
            after = ZERO if full else await archive.back(partition, NEWEST)
            while page := await log.read(partition, after, PAGE, place.id):
                held = await archive.read(partition, after, 2 * PAGE, before=page[-1].id.next)
                found = await _difference(log, partition, page, held)
                if found is not None:
                    return Check(name, "fail", found, _REBUILD)
                after = page[-1].id
                compared += len(page)
                bar.at(compared, time.monotonic())
    told = "nothing waits to be archived" if not behind else f"{behind} events wait to be archived"
    return Check(name, "ok", f"{compared} events compared with the log, all the same; {told}")


async def _difference(log: StreamLog, partition: int, page: Sequence[Entry], held: Sequence[Entry]) -> str | None:
    """How the archive differs from a page of the log, by its first event that does."""
    stored = {(one.id, one.event_id): one for one in held}
    for entry in page:
        one = stored.pop((entry.id, entry.event_id), None)
        if one is None:
            return f"{_name(entry)} is in the log, and not in the archive"
        for part in ("tenant_id", "sequence", "revision", "type", "action", "entity", "timestamp_ms"):
            if getattr(one, part) != getattr(entry, part):
                was, now = getattr(entry, part), getattr(one, part)
                return f"{_name(entry)}: its {part} is {was} in the log, and {now} in the archive"
        if one.raw and one.raw != entry.raw:
            return f"{_name(entry)}: the archive holds another body than the log"
    first: StreamId | None = await log.first(partition)
    for one in stored.values():
        # Not so where the stream was trimmed meanwhile, or the history replaced.
        if one.epoch == log.epochs[partition] and first is not None and one.id >= first:
            return f"{_name(one)} is in the archive, and not in the log"
    return None


def _name(entry: Entry) -> str:
    return f"event {entry.event_id} of {entry.tenant_id} (sequence {entry.sequence}, stored at {entry.id})"
