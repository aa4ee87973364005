"""Finds out what webhook endpoints are owed: looks the streams through, in order, and writes it down.

How far it looked is stored with what it found, and shown by the consumer group `webhooks` after that; so a crash at
any point owes nothing twice, and nothing is trimmed that was not looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final

import structlog

from hub.core.entry import NOT_AN_EVENT, Entry
from hub.core.webhooks import Delivery, Endpoint, owed
from hub.log.acknowledged import move_group
from hub.services.dispatcher import Dispatcher
from hub.services.history import History
from hub.services.ledger import delivered_id
from hub.store.leases import Fence
from hub.store.places import Place
from hub.store.webhook_queue import Looked, WebhookQueue
from schemas.cursor import ZERO, StreamId
from schemas.types import HUB

GROUP: Final = "webhooks"
MAX_BATCH: Final = 500
"""Entries of one partition that are looked at together."""
MAX_OWED: Final = 1000
"""Deliveries after which a transaction is closed: others want to write too."""
IDLE_S: Final = 2.0
QUIET_S: Final = 1.0
"""How often it is written down how far it was looked where nothing was found."""
LOOK_BACK_MS: Final = 3_600_000
"""How far back it is looked again when a partition's history was replaced: what took the place of a lost tail may lie
at earlier places. What went out already is left out, as far as the ledger knows."""

Offer = Callable[[Sequence[Delivery]], None]
Due = Callable[[Entry], int]

log = structlog.get_logger("hub.webhooks")


class Intake:
    """One hub's, as long as it holds the lease. Its owner runs `run`."""

    def __init__(
        self,
        history: History,
        dispatcher: Dispatcher,
        queue: WebhookQueue,
        endpoints: Callable[[], Mapping[str, Sequence[Endpoint]]],
        served: Callable[[], Collection[int]],
        offer: Offer,
        batch_due: Due,
        *,
        now_ms: Callable[[], int],
        delivered: Callable[[Sequence[bytes]], Awaitable[set[bytes]]],
    ) -> None:
        """`endpoints`: by tenant, those that are enabled; `served`: the partitions of those tenants. `offer` is given
        what was written down. `batch_due`: when an event of sync_mode batch is due. `delivered`: which of these rows
        the ledger has."""
        self._history = history
        self._log = history.log
        self._dispatcher = dispatcher
        self._queue = queue
        self._endpoints = endpoints
        self._served = served
        self._offer = offer
        self._batch_due = batch_due
        self._now_ms = now_ms
        self._delivered = delivered
        self._stored: dict[int, Place] = {}
        self._looked: dict[int, Place] = {}
        self._entries: dict[int, int] = {}
        self._again_upto: dict[int, StreamId] = {}
        self._written_at = 0.0
        self._turn = 0

    async def begin(self) -> None:
        """Learn how far it was looked.

        Raises:
            StoreUnavailable, RedisError, OSError: it is to be begun again.
        """
        self._stored = await self._queue.places()
        self._looked = dict(self._stored)
        for partition, place in self._stored.items():
            await move_group(self._log, GROUP, partition, place.id, 0)

    async def run(self, fence: Fence) -> None:
        """Look until cancelled.

        Raises:
            LeaseLost, Fenced: it is another hub's turn.
            StoreUnavailable, RedisError, OSError: it is to be begun again.
        """
        while True:
            news = asyncio.ensure_future(self._dispatcher.wait(None))
            try:
                # Listening before looking: what is routed meanwhile is not slept over.
                await asyncio.sleep(0)
                if not await self.round(fence):
                    await asyncio.wait({news}, timeout=IDLE_S)
            finally:
                news.cancel()
                await asyncio.gather(news, return_exceptions=True)

    async def round(self, fence: Fence) -> bool:
        """Look at what follows in every partition; whether there was anything."""
        found: list[Delivery] = []
        busy = False
        self._turn += 1
        for step in range(self._log.partitions):
            partition = (self._turn + step) % self._log.partitions
            # Asked at each step: an endpoint may have been made while this one waited.
            if partition not in self._served():
                self._pass_over(partition)
                continue
            epoch = self._log.epochs[partition]
            entries = await self._next(partition, epoch)
            if not entries:
                continue
            busy = True
            # Nothing is awaited in between: an endpoint is either among these, or is told where they end.
            owed_now = self._owed(partition, entries)
            self._looked[partition] = Place(epoch, entries[-1].id)
            self._entries[partition] = self._entries.get(partition, 0) + len(entries)
            found += await self._new(partition, owed_now, entries[-1].id)
            if len(found) >= MAX_OWED:
                break
        now = asyncio.get_running_loop().time()
        if found or now - self._written_at >= QUIET_S:
            self._written_at = now
            await self._write(fence, found)
        return busy

    def looked(self, partition: int) -> StreamId:
        """Up to here a partition was looked through: events after it are found as they come."""
        if partition not in self._looked:
            self._pass_over(partition)
        return self._looked[partition].id

    def _pass_over(self, partition: int) -> None:
        """Nobody asks for anything there: an endpoint that is made later is owed only what comes later."""
        position = self._dispatcher.position[partition]
        held = self._looked.get(partition)
        if held is None or position > held.id:
            self._looked[partition] = Place(self._log.epochs[partition], position)

    async def _next(self, partition: int, epoch: int) -> Sequence[Entry]:
        """What follows. The place is one of the present epoch, whatever those of the entries: some may come out of the
        archive."""
        place = self._looked.get(partition)
        if place is None:
            # Known to nobody, with endpoints there: nothing before theirs is owed.
            endpoints = [one for some in self._endpoints().values() for one in some]
            mine = [one.since for one in endpoints if self._history.partition(one.tenant_id) == partition]
            place = Place(epoch, min(mine, default=ZERO))
        if place.epoch != epoch and place.id != ZERO:
            self._again_upto[partition] = place.id
            back = StreamId(max(0, place.id.ms - LOOK_BACK_MS), 0)
            log.warning("webhooks_look_again", partition=partition, since=str(back))
            place = self._looked[partition] = Place(epoch, back)
        found = self._dispatcher.recent(partition, place.id, MAX_BATCH)
        if found is None:
            found = await self._history.read(partition, place.id, MAX_BATCH, upto=self._dispatcher.position[partition])
        return found

    def _owed(self, partition: int, entries: Sequence[Entry]) -> list[Delivery]:
        by_tenant = self._endpoints()
        return [
            owed(endpoint, entry, partition, self.due(entry))
            for entry in entries
            for endpoint in by_tenant.get(entry.tenant_id, ())
            if endpoint.wants(entry)
        ]

    async def _new(self, partition: int, found: list[Delivery], reached: StreamId) -> Iterable[Delivery]:
        """Those that did not go out before, and do not wait yet, where it is looked again."""
        upto = self._again_upto.get(partition)
        if upto is None:
            return found
        again = [one for one in found if one.key.id <= upto]
        ids = {delivered_id(one.key.endpoint_id, one.event_id): one.key for one in again}
        gone = {ids[id] for id in await self._delivered(list(ids))} if ids else set()
        waiting = await self._queue.waiting_of([(one.key.endpoint_id, one.event_id) for one in again])
        if reached > upto:
            self._again_upto.pop(partition, None)
        return [
            one
            for one in found
            if one.key.id > upto or (one.key not in gone and (one.key.endpoint_id, one.event_id) not in waiting)
        ]

    def due(self, entry: Entry) -> int:
        """When an event is due, Unix ms. Now; an event that is meant for a batch waits for its time, unless it is the
        hub's own, which is on time."""
        try:
            batch = entry.event.get("sync_mode") == "batch" and entry.source != HUB
        except NOT_AN_EVENT:
            batch = False
        return self._batch_due(entry) if batch else self._now_ms()

    async def _write(self, fence: Fence, found: Sequence[Delivery]) -> None:
        moved = [
            Looked(partition, self._stored.get(partition), place)
            for partition, place in self._looked.items()
            if self._stored.get(partition) != place
        ]
        if not moved:
            return
        await self._queue.add(fence, moved, found)
        self._stored |= {one.partition: one.now for one in moved}
        self._offer(found)
        entries, self._entries = self._entries, {}
        for one in moved:
            await move_group(self._log, GROUP, one.partition, one.now.id, entries.get(one.partition, 0))
