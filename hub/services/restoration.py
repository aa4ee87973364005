"""Gives an emptied log its memory back from the archive: a flush, a lost disk, a new machine.

It runs for a partition that has no epoch, so before anybody can publish there. What the log had and the archive not yet
is lost; readers are told by the new epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from hub.log import restoration
from hub.log.stream_log import Head, StreamLog
from hub.services.archiver import GROUP
from hub.store.database import StoreUnavailable
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId

PAGE: Final = 500

log = structlog.get_logger("hub.restoration")


class Restoration:
    """What `StreamLog.on_empty` calls."""

    def __init__(
        self, stream_log: StreamLog, store: Store, *, idempotency_s: int, wall: Callable[[], float] = time.time
    ) -> None:
        self._log = stream_log
        self._store = store
        self._idempotency_s = idempotency_s
        self._wall = wall

    async def partition(self, partition: int) -> None:
        """Put back what the archive knows of one partition. Without the store, its numbering begins anew."""
        try:
            await self._store.open()
            await self._restore(partition)
        except StoreUnavailable as error:
            self._store.failed(error)
            log.error("log_begins_anew", partition=partition, reason=str(error))

    async def _restore(self, partition: int) -> None:
        archive = self._store.archive
        place = (await archive.places()).get(partition)
        if place is None or place.id == ZERO:
            return
        known = await archive.tenants()
        if any(self._log.partition(name) != one.partition for name, one in known.items()):
            log.error("log_begins_anew", partition=partition, reason="the archive is of another number of partitions")
            return
        tenants = {name: one for name, one in known.items() if one.partition == partition}
        for tenant in tenants:
            if not (await self._revisions(partition, tenant) and await self._receipts(partition, tenant)):
                return
        heads = {tenant: Head(one.head.sequence, one.head.id) for tenant, one in tenants.items()}
        # Last, the order counts if this is cut short: without them nothing of the rest is ever asked for.
        await restoration.put_heads(self._log, partition, heads)
        await restoration.begin_after(self._log, partition, GROUP, place.id)
        log.warning("log_restored", partition=partition, tenants=len(tenants), place=str(place.id))

    async def _revisions(self, partition: int, tenant: str) -> bool:
        after = ""
        while page := await self._store.archive.revisions(tenant, PAGE, after):
            values = {entity: (revision, id) for entity, revision, id in page}
            if not await restoration.put_revisions(self._log, partition, tenant, values):
                return False
            after = page[-1][0]
        return True

    async def _receipts(self, partition: int, tenant: str) -> bool:
        """Of the events that a publisher may still send again."""
        archive = self._store.archive
        after = StreamId(max(0, int((self._wall() - self._idempotency_s) * 1000)), 0)
        while page := await archive.read(partition, after, PAGE, tenants=[tenant]):
            values = {one.event_id: (one.sequence, one.revision, one.id) for one in page if one.raw}
            if not await restoration.put_receipts(self._log, partition, tenant, values):
                return False
            after = page[-1].id
        return True


__all__ = ["Restoration"]
