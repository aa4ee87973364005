"""Gives an emptied log its memory back from the archive: a flush, a lost disk, a new machine.

It runs for a partition that has no epoch, so before anybody can publish there. What the log had and the archive not yet
is lost; readers are told by the new epoch.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Final

import structlog

from hub.log import restoration
from hub.log.positions import ALL
from hub.log.stream_log import Head, StreamLog
from hub.services.archiver import GROUP
from hub.store.archive import START, Batch, Fenced, Place
from hub.store.database import StoreUnavailable
from hub.store.store import Store
from schemas.cursor import ZERO, Cursor, StreamId

PAGE: Final = 500
RETRY_S: Final = 0.5
PATIENCE_S: Final = 5.0

log = structlog.get_logger("hub.restoration")


class Restoration:
    """What `StreamLog.on_empty` calls."""

    def __init__(
        self,
        stream_log: StreamLog,
        store: Store,
        *,
        idempotency_s: int,
        wall: Callable[[], float] = time.time,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = stream_log
        self._store = store
        self._idempotency_s = idempotency_s
        self._wall = wall
        self._now = now
        self._patient_until: float | None = None

    async def partition(self, partition: int) -> None:
        """Put back what the archive knows of one partition.

        A store that does not answer is waited for, some seconds once; without it the numbering begins anew.
        """
        while True:
            try:
                await self._store.open()
                await self._settings(partition)
                await self._positions(partition)
                while not await self._restore(partition):
                    pass
                self._patient_until = None
                return
            except StoreUnavailable as error:
                self._store.failed(error)
                now = self._now()
                if self._patient_until is None:
                    self._patient_until = now + PATIENCE_S
                if now >= self._patient_until:
                    log.error("log_begins_anew", partition=partition, reason=str(error))
                    return
            await asyncio.sleep(RETRY_S)

    async def _restore(self, partition: int) -> bool:
        """False: the archive moved on meanwhile, and it is to be done again."""
        archive = self._store.archive
        place = (await archive.places()).get(partition)
        if place is None or place.id == ZERO:
            return True
        # Whoever still writes what he has in memory of the old history is refused from now on.
        fence = Place(secrets.randbits(32) | 1, place.id)
        try:
            await archive.write([Batch(partition, place, (), fence.epoch, place.id)])
        except Fenced:
            return False
        known = await archive.tenants()
        if any(self._log.partition(name) != one.partition for name, one in known.items()):
            log.error("log_begins_anew", partition=partition, reason="the archive is of another number of partitions")
            return True
        tenants = {name: one for name, one in known.items() if one.partition == partition}
        heads = {tenant: Head(one.head.sequence, one.head.id) for tenant, one in tenants.items()}
        for tenant in tenants:
            if not (await self._revisions(partition, tenant) and await self._receipts(partition, tenant)):
                return True
        if (await archive.places()).get(partition) != fence:
            return False
        if await restoration.put_heads(self._log, partition, heads):
            await restoration.begin_after(self._log, partition, GROUP, place.id)
            log.warning("log_restored", partition=partition, tenants=len(tenants), place=str(place.id))
            await self._tell_of_groups(partition, place.id)
        return True

    async def _settings(self, partition: int) -> None:
        known = await self._store.properties.all()
        mine = {tenant: text for tenant, text in known.items() if self._log.partition(tenant) == partition}
        await restoration.put_settings(self._log, partition, mine)

    async def _positions(self, partition: int) -> None:
        """Durable subscriptions go on where the ledger last saw them, at the latest: what comes again is known."""
        positions: dict[tuple[str, str, str], str] = {}
        for one in await self._store.ledger.subscribers(None, None):
            if partition == 0:
                # Where it is kept that a name is known at all.
                positions[(one.system, one.name, ALL)] = "1"
            if self._log.partition(one.tenant_id) == partition:
                mark = await self._store.archive.last_upto(one.tenant_id, one.id) or START
                if mark.sequence != one.sequence:
                    # Not archived: a place that nobody knows, whose reader is told of a gap.
                    mark = START._replace(sequence=one.sequence, id=one.id) if one.sequence else mark
                cursor = Cursor.of(mark.epoch, one.tenant_id, mark.sequence, mark.id).encode()
                positions[(one.system, one.name, one.tenant_id)] = cursor
        await restoration.put_positions(self._log, partition, positions)

    async def _tell_of_groups(self, partition: int, place: StreamId) -> None:
        """A consumer group is given what is in the stream: what it had not finished, it is sent again by a replay."""
        for (group, at), held in (await self._store.ledger.watched()).items():
            if at == partition and group != GROUP and ZERO < held.finished < place:
                log.error("group_lost_its_backlog", group=group, partition=partition, finished=str(held.finished))

    async def _revisions(self, partition: int, tenant: str) -> bool:
        # First the states: they know entities whose events have all left the archive.
        states = {entity: (revision, id) for entity, revision, id in await self._store.entities.revisions(tenant)}
        if not await restoration.put_revisions(self._log, partition, tenant, states):
            return False
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
