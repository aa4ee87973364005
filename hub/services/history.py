"""The log and, before its beginning, the archive: one history by the same cursors.

A place in a partition is the same in both, so what reads by place does not notice where the stream was trimmed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import suppress
from typing import Final

from hub.core.entry import Entry
from hub.log.stream_log import Head, Start, StreamLog
from hub.services.dispatcher import NOWHERE
from hub.store.archive import Archived
from hub.store.database import StoreUnavailable
from hub.store.store import Store
from schemas.cursor import ZERO, Cursor, StreamId

CHUNK: Final = 500


class History:
    """Reads events wherever they lie."""

    def __init__(self, log: StreamLog, store: Store) -> None:
        self.log = log
        self.store = store
        self._archive = store.archive
        self._firsts: dict[int, StreamId] = {}
        """Where streams were last seen to begin; they begin later now, or there."""

    async def read(
        self,
        partition: int,
        after: StreamId,
        count: int,
        *,
        upto: StreamId | None = None,
        tenants: Collection[str] | None = None,
    ) -> list[Entry]:
        """Up to `count` entries of a partition after `after` and not past `upto`, in order.

        From the archive come those of `tenants` alone; from the stream, others too. Nothing at all means that nothing
        lies in between.

        Raises:
            StoreUnavailable: they lie in the archive, and it does not answer.
            RedisError, OSError: the log does not answer.
        """
        if (known := self._firsts.get(partition)) is not None and after < known:
            # Where the stream was seen to begin later, the archive is asked at once.
            end = known if upto is None else min(known, upto.next)
            with suppress(StoreUnavailable):
                if end > after and (
                    archived := await self._archive.read(partition, after, count, before=end, tenants=tenants)
                ):
                    return archived
        entries = await self.log.read(partition, after, count, upto)
        # Asked after the page was read: what a trim took in between is found in the archive.
        first = await self.log.first(partition)
        if first is not None and first <= after.next:
            return entries
        if first is not None:
            self._firsts[partition] = first
        before = first
        if upto is not None and (before is None or upto < before):
            before = upto.next
        if before is not None and before <= after:
            return entries
        try:
            archived = await self._archive.read(partition, after, count, before=before, tenants=tenants)
        except StoreUnavailable:
            if await self._was_trimmed(partition, after, tenants):
                raise
            return entries
        return archived or entries

    async def of_tenant(self, tenant_id: str, after: StreamId) -> AsyncIterator[Entry]:
        """Every event of one tenant after `after`, in order.

        Others' events of its partition are read only where they are not archived yet.

        Raises:
            As `read`.
        """
        if (await self.log.heads([tenant_id]))[tenant_id].id <= after:
            return
        partition = self.log.partition(tenant_id)
        with suppress(StoreUnavailable):
            place = (await self._archive.places()).get(partition)
            # Of another epoch it says nothing of what this one has up to there.
            if place is not None and place.epoch == self.log.epochs[partition]:
                end = place.id.next
                while after < place.id:
                    entries = await self._archive.read(partition, after, CHUNK, before=end, tenants=[tenant_id])
                    for entry in entries:
                        yield entry
                    after = entries[-1].id if len(entries) >= CHUNK else place.id
        while True:
            entries = await self.read(partition, after, CHUNK, tenants=[tenant_id])
            for entry in entries:
                if entry.tenant_id == tenant_id:
                    yield entry
            if len(entries) < CHUNK:
                return
            after = entries[-1].id

    async def _was_trimmed(self, partition: int, after: StreamId, tenants: Collection[str] | None) -> bool:
        floors = await self.log.trimmed(partition)
        return any(floor.id > after for tenant, floor in floors.items() if tenants is None or tenant in tenants)

    async def resolve(self, cursors: Mapping[str, Cursor]) -> list[Start]:
        """Where reading each tenant after its cursor begins; a gap only for what neither log nor archive has.

        Raises:
            StoreUnavailable: only the archive can tell, and it does not answer.
        """
        starts = await self.log.resolve(dict(cursors))
        return [
            start if start.gap is None else await self._archived(start, cursors[start.tenant_id]) for start in starts
        ]

    async def _archived(self, start: Start, cursor: Cursor) -> Start:
        tenant = start.tenant_id
        place = Head(cursor.sequence, cursor.id)
        if place == NOWHERE:
            archived = await self._tenant(tenant)
            whole = archived is not None and archived.base.sequence == 0
            return Start(tenant, place) if whole and start.gap == "expired" else start
        partition = self.log.partition(tenant)
        first = await self.log.first(partition)
        if first is not None and cursor.id >= first:
            # Of what the stream covers, the stream alone says what the history is now.
            entry = await self.log.at(tenant, cursor.id)
            known = entry is not None and entry.sequence == cursor.sequence
            return Start(tenant, place) if known else start
        if await self._archive.holds(partition, tenant, cursor.sequence, cursor.id):
            return Start(tenant, place)
        archived = await self._tenant(tenant)
        if archived is not None and (archived.base.sequence, archived.base.id) == place:
            return Start(tenant, place)
        if start.gap == "expired":
            return Start(tenant, (await self.floors([tenant]))[tenant], start.gap)
        return start

    async def _tenant(self, tenant_id: str) -> Archived | None:
        return (await self._archive.tenants([tenant_id])).get(tenant_id)

    async def floors(self, tenants: Iterable[str]) -> dict[str, Head]:
        """The last event of each tenant that is gone from log and archive; sequence 0 when all are there."""
        floors = await self.log.floors(tenants)
        trimmed = [tenant for tenant, floor in floors.items() if floor.sequence]
        for tenant, archived in (await self._archive.tenants(trimmed)).items() if trimmed else ():
            # What the archive never had is gone with the trim; else it begins where its retention has come to.
            if archived.head.id >= floors[tenant].id:
                floors[tenant] = Head(archived.base.sequence, archived.base.id)
        return floors

    async def find(self, tenant_id: str, event_id: str) -> Entry | None:
        """An event.

        Raises:
            StoreUnavailable: it is not in the log, and the archive does not answer.
        """
        return await self.log.find(tenant_id, event_id) or await self._archive.find(tenant_id, event_id)

    async def at(self, tenant_id: str, id: StreamId) -> Entry | None:
        """The entry at a place; None when there is none."""
        entry = await self.log.at(tenant_id, id)
        if entry is None and id != ZERO:
            partition = self.log.partition(tenant_id)
            before, after = id.next, id.previous
            found = await self._archive.read(partition, after, 1, before=before, tenants=[tenant_id])
            entry = found[0] if found and found[0].id == id else None
        return entry

    async def entity(self, tenant_id: str, entity: str, count: int, after: StreamId = ZERO) -> list[Entry]:
        """Up to `count` archived events of an entity after a place, in order."""
        return await self._archive.history(tenant_id, entity, count, after)

    async def archived_heads(self, tenants: Iterable[str]) -> dict[str, Head]:
        """The last archived event of each tenant that has one."""
        found = await self._archive.tenants(list(tenants))
        return {tenant: Head(one.head.sequence, one.head.id) for tenant, one in found.items()}

    # -- what only the log knows ----------------------------------------------------------------------------------

    def partition(self, tenant_id: str) -> int:
        """The partition that holds all of a tenant's events."""
        return self.log.partition(tenant_id)

    def cursor(self, tenant_id: str, head: Head) -> str:
        """The cursor of a place, in the present epoch."""
        return self.log.cursor(tenant_id, head)

    async def tenants(self) -> dict[str, Head]:
        """Every tenant with events, and its last event."""
        return await self.log.tenants()

    async def heads(self, tenants: Iterable[str]) -> dict[str, Head]:
        """The last event of each tenant; sequence 0 for one without events."""
        return await self.log.heads(tenants)

    async def note_hole(self, tenant_id: str, head: Head) -> None:
        """Write down that a tenant's events up to `head` are gone."""
        await self.log.note_hole(tenant_id, head)
