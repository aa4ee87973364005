"""Writes every event to the store (R43): one transaction for what came since the last, acknowledged after its commit.

The archiver keeps its place in the store, in the same transaction as the events, and moves its consumer group after it.
So a crash at any point stores nothing twice, and of several hubs' archivers one gets on while the others wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import structlog

from hub.core.entry import Entry
from hub.log.acknowledged import move_group
from hub.log.stream_log import StreamLog
from hub.log.topology import RedisError
from hub.services.dispatcher import Dispatcher
from hub.services.ending import end, stopped_within
from hub.store.archive import START, Batch, Fenced, Place
from hub.store.database import StoreUnavailable, StoreVersionError
from hub.store.store import Store
from hub.telemetry import Metrics
from schemas.cursor import ZERO, StreamId

GROUP: Final = "archiver"
MAX_BATCH: Final = 1500
"""Events in one transaction: more would not be faster, and would keep other writers waiting."""
MAX_READ: Final = 500
"""Entries of one partition in one read."""
PACE_S: Final = 0.1
"""Between transactions that were not full: what comes meanwhile shares the next one's commit."""
IDLE_S: Final = 2.0
STANDBY_S: Final = 1.0
MAX_BACKOFF_S: Final = 5.0
STOP_S: Final = 5.0
EXPIRE_EVERY_S: Final = 3600.0
DAY_MS: Final = 86_400_000

log = structlog.get_logger("hub.archiver")


class Archiver:
    """Owned by the composition root, which awaits `stop`.

    `on_written` is called after every commit; with True while there is more than one transaction takes.
    """

    def __init__(
        self,
        stream_log: StreamLog,
        store: Store,
        dispatcher: Dispatcher,
        metrics: Metrics,
        *,
        archive_days: int,
        on_written: Callable[[bool], None] = lambda _: None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._log = stream_log
        self._store = store
        self._archive = store.archive
        self._dispatcher = dispatcher
        self._metrics = metrics
        self._archive_days = archive_days
        self._on_written = on_written
        self._wall = wall
        self._places: dict[int, Place] | None = None
        self._ahead: list[Batch] = []
        """What follows the last transaction, where it was read meanwhile."""
        self._turn = 0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._expired_at: float | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="archiver")

    async def stop(self) -> None:
        """Write what is there, for at most 5 seconds, and end."""
        self._stopping.set()
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=STOP_S)
        await end(self._task)

    async def _run(self) -> None:
        backoff = 0.0
        while True:
            last = self._stopping.is_set()
            try:
                written = await self.round()
                backoff = 0.0
                if last and not written:
                    return
                if not written:
                    await self._news()
                elif written < MAX_BATCH and not last:
                    await asyncio.sleep(PACE_S)
            except Fenced:
                self._forget()
                if await self._pause(STANDBY_S):
                    return
            except StoreVersionError as error:
                log.error("store_not_usable", error=str(error))
                if await self._pause(MAX_BACKOFF_S):
                    return
            except (StoreUnavailable, RedisError, OSError) as error:
                if isinstance(error, StoreUnavailable):
                    self._store.failed(error, writing=True)
                    self._measure()
                self._forget()
                backoff = min(MAX_BACKOFF_S, max(0.2, backoff * 2))
                if await self._pause(backoff):
                    return
            except Exception:  # the archiver must not end while the hub runs
                log.exception("archiver_failed")
                self._forget()
                if await self._pause(MAX_BACKOFF_S):
                    return

    def _forget(self) -> None:
        self._places, self._ahead = None, []

    async def _pause(self, seconds: float) -> bool:
        """Wait; True when the archiver is to stop, and will not write what it could not."""
        return await stopped_within(self._stopping, seconds)

    async def _news(self) -> None:
        """Until an event was routed, the archiver is to stop, or some seconds have passed."""
        news = asyncio.ensure_future(self._dispatcher.wait(None))
        stop = asyncio.ensure_future(self._stopping.wait())
        try:
            # One that was routed before this began to listen is seen now, not in two seconds.
            await asyncio.sleep(0)
            if not self._behind():
                await asyncio.wait({news, stop}, timeout=IDLE_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            news.cancel()
            stop.cancel()
            await asyncio.gather(news, stop, return_exceptions=True)

    def _behind(self) -> bool:
        places = self._places or {}
        return any(
            reached > places.get(partition, Place(0, ZERO)).id
            for partition, reached in enumerate(self._dispatcher.position)
        )

    async def round(self) -> int:
        """Write one transaction's worth of what is there; how many events.

        Raises:
            Fenced: another archiver is at work.
            StoreUnavailable, RedisError, OSError: the store or the log does not answer; nothing was acknowledged.
        """
        await self._store.open()
        asked = self._places is None
        if self._places is None:
            self._places = await self._archive.places()
            await self._archive.recall()
            await self._acknowledge({partition: (place.id, 0) for partition, place in self._places.items()})
        await self._expire()
        batches, self._ahead = self._ahead or await self._gather(self._places), []
        if batches:
            self._measure()
            await self._write(batches, self._places)
            self._on_written(sum(len(batch.entries) for batch in batches) >= MAX_BATCH)
        if batches or asked:
            # An answer with nothing left to write is as good as a write.
            self._store.works(written=True)
        if batches:
            await self._acknowledge({batch.partition: (batch.reached, len(batch.entries)) for batch in batches})
        self._measure()
        written = sum(len(batch.entries) for batch in batches)
        self._metrics.archived.inc(written)
        return written

    async def _write(self, batches: list[Batch], places: dict[int, Place]) -> None:
        """Write, and where there is more than one transaction takes, read on meanwhile."""
        reached = {batch.partition: Place(batch.epoch, batch.reached) for batch in batches}
        if sum(len(batch.entries) for batch in batches) < MAX_BATCH:
            await self._archive.write(batches)
        else:
            writing = asyncio.ensure_future(self._archive.write(batches))
            try:
                self._ahead = await self._gather(places | reached)
            finally:
                # Its outcome is what counts; a read that failed is tried again.
                await writing
        places.update(reached)

    async def _gather(self, places: dict[int, Place]) -> list[Batch]:
        """What follows in each partition, beginning with another one every time, as far as one transaction goes."""
        self._turn += 1
        batches: list[Batch] = []
        room = MAX_BATCH
        count = self._log.partitions
        for step in range(count):
            partition = (self._turn + step) % count
            place = places.get(partition, Place(0, ZERO))
            epoch = self._log.epochs[partition]
            if place.epoch != epoch and place.id != ZERO:
                if batches or places is not self._places or not await self._is_current(partition):
                    continue
                await self._reconcile(partition, place, epoch)
                places[partition] = place = Place(epoch, place.id)
            entries = await self._read(partition, place.id, min(room, MAX_READ))
            if entries:
                batches.append(Batch(partition, place, entries, entries[-1].epoch, entries[-1].id))
                room -= len(entries)
                if room <= 0:
                    break
                await asyncio.sleep(0)
        return batches

    async def _read(self, partition: int, after: StreamId, count: int) -> Sequence[Entry]:
        found = self._dispatcher.recent(partition, after, count)
        # What is remembered of a history that was replaced belongs to no place after the archive's any more.
        if found and all(entry.epoch == self._log.epochs[partition] for entry in found):
            return found
        return await self._log.read(partition, after, count)

    async def _is_current(self, partition: int) -> bool:
        """Whether the epoch that this process knows is the server's: an emptied one has none until it is prepared."""
        held = await self._log.source.client.get(self._log.keys.epoch(partition))
        return held is not None and int(held) == self._log.epochs[partition]

    async def _reconcile(self, partition: int, place: Place, epoch: int) -> None:
        """The history was replaced. What the new one has before the archive's place, and the archive has not, is stored
        too: a server that took over with a clock behind gives such places."""
        after = ZERO
        while True:
            entries = await self._log.read(partition, after, MAX_READ, upto=place.id)
            missing: list[Entry] = []
            if entries:
                # Not from `after`: before its first entry the log was trimmed, and the archive goes on for long.
                at, last = entries[0].id.previous, entries[-1].id
                held: set[tuple[StreamId, str]] = set()
                while page := await self._archive.read(partition, at, 4 * MAX_READ, before=last.next):
                    held.update((one.id, one.event_id) for one in page)
                    at = page[-1].id
                missing = [entry for entry in entries if (entry.id, entry.event_id) not in held]
                after = last
            done = not entries
            if missing or done:
                now = epoch if done else place.epoch
                await self._archive.write([Batch(partition, place, missing, now, place.id)])
            if done:
                log.info("archive_follows_new_history", partition=partition, place=str(place.id))
                return

    async def _acknowledge(self, reached: dict[int, tuple[StreamId, int]]) -> None:
        for partition, (id, entries) in reached.items():
            await move_group(self._log, GROUP, partition, id, entries)

    def _measure(self) -> None:
        heads = self._archive.heads()
        lag = sum(
            max(0, self._dispatcher.head(tenant).sequence - heads.get(tenant, START).sequence)
            for tenant in self._dispatcher.tenants()
        )
        self._metrics.store_lag.set(lag)

    async def _expire(self) -> None:
        now = self._wall()
        if self._expired_at is not None and now - self._expired_at < EXPIRE_EVERY_S:
            return
        self._expired_at = now
        gone = await self._archive.expire(int(now * 1000) - self._archive_days * DAY_MS)
        if gone:
            log.info("archive_expired", events=gone, older_than_days=self._archive_days)


__all__ = ["GROUP", "Archiver"]
