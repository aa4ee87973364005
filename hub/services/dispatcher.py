"""Reads every stream once and hands its events to the fan-out.

Each hub process has one dispatcher. It reads with XREAD, not as a group: every process sees every event. Readers that
are behind (a backlog, a slow connection, a long poll) read by position; its ring of recent entries saves most of them
the way to the server and lets a reader that has caught up go live without a seam.

The dispatcher also watches the history: a tenant's sequence that does not continue, or a server whose stream ends
before what was already read, becomes a gap that subscribers are told of, never a silent hole.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import structlog
from redis.exceptions import ResponseError

from hub.core import wire
from hub.core.changes import Changes
from hub.core.entry import Entry
from hub.core.fanout import FanOut, Group
from hub.core.routing import Audience, Codec, View, may_see
from hub.log.replies import parse
from hub.log.setup import load_epochs, new_epoch
from hub.log.stream_log import Head, StreamLog
from hub.log.topology import READ_BLOCK_MS, NotSentError, RedisError
from hub.services.ending import end
from hub.services.ledger import Recorder
from hub.telemetry import Metrics
from schemas.cursor import ZERO, StreamId

READ_COUNT: Final = 250
"""Entries of one stream in one read: bounds what one flush writes to a connection."""
RING_ENTRIES: Final = 2048
RING_BYTES: Final = 2 * 1024 * 1024
SHARED_PAGES: Final = 64
PACE: Final = 0.3
"""After a flush, the next read waits this share of the flush's own time: under load the ticks grow, and with them the
number of events that one write carries."""
MAX_PACE_S: Final = 0.005
RETRY_S: Final = 0.2

NOWHERE: Final = Head(0, ZERO)

Position = tuple[StreamId, ...]
GapListener = Callable[[str, str, Head, str], Any]

log = structlog.get_logger("hub.dispatcher")


def encode(entry: Entry, view: View, codec: Codec) -> bytes:
    """The `event` frame of an entry."""
    frame = entry.frames.get((view, codec))
    if frame is None:
        payload = wire.event_message(entry.cursor, entry.sequence, entry.json(view))
        frame = wire.framed(payload, codec)
        entry.frames[(view, codec)] = frame
    return frame


class Ring:
    """The newest entries of one partition, without a hole."""

    __slots__ = ("_bytes", "_entries", "_ids", "since")

    def __init__(self, since: StreamId) -> None:
        self.since = since
        """Entries after this position are here."""
        self._entries: deque[Entry] = deque()
        self._ids: deque[StreamId] = deque()
        self._bytes = 0

    def push(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._ids.append(entry.id)
        self._bytes += len(entry.raw)
        while len(self._entries) > RING_ENTRIES or self._bytes > RING_BYTES:
            gone = self._entries.popleft()
            self._ids.popleft()
            self._bytes -= len(gone.raw)
            self.since = gone.id

    def after(self, id: StreamId, count: int) -> list[Entry] | None:
        """Up to `count` entries after `id`; None when they begin before the ring does."""
        if id < self.since:
            return None
        start = bisect_right(self._ids, id)
        entries = self._entries
        return [entries[index] for index in range(start, min(start + count, len(entries)))]


class Dispatcher:
    """The one reader of a process, and what the others ask it."""

    def __init__(
        self,
        stream_log: StreamLog,
        metrics: Metrics,
        *,
        reopen: Callable[[], Awaitable[Any]],
        recorder: Recorder | None = None,
    ) -> None:
        self.log = stream_log
        self.recorder = recorder or Recorder(metrics, stream_log.partition)
        self._changes = Changes(encode)
        self.fanout: FanOut[Entry, Position] = FanOut(encode, self._changes)
        self.fanout.on_flush = self.recorder.flushed
        self.position: Position = (ZERO,) * stream_log.partitions
        """The last entry of each partition that was handed to the fan-out."""
        self.on_gap: GapListener = lambda *_: None
        """Called with tenant, reason, where events follow from, and that place's cursor; before the events after it."""
        self.on_notice: Callable[[Entry], Any] = lambda _: None
        """Called with each `system` event as it is routed."""
        self._metrics = metrics
        self._reopen = reopen
        self._rings = [Ring(ZERO) for _ in range(stream_log.partitions)]
        self._heads: dict[str, Head] = {}
        self._epochs = list(stream_log.epochs)
        """The epochs of what was read, which another part of the process may have found to be over."""
        self._pages: dict[tuple[Audience, int, StreamId], tuple[bytes, int, StreamId]] = {}
        self._waiters: dict[str | None, set[asyncio.Future[None]]] = {}
        self._timers: set[asyncio.TimerHandle] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._away: set[int] = set()
        self.history = 0
        """How often some partition's history was found to be replaced."""
        """The partitions whose server was lost."""
        self._stopping = False

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin at the present end of every stream."""
        await self._locate()
        partitions = range(self.log.partitions)
        # In a cluster a read must stay on one slot; otherwise one read serves all partitions.
        shares = [[one] for one in partitions] if self.log.source.cluster else [list(partitions)]
        self._tasks = [asyncio.create_task(self._run(share), name="dispatcher") for share in shares]

    @property
    def connected(self) -> bool:
        """Whether every stream is being read."""
        return bool(self._tasks) and not self._away

    async def stop(self) -> None:
        """Stop reading; what is buffered is written."""
        self._stopping = True
        await end(*self._tasks)
        for timer in self._timers:
            timer.cancel()
        self.flush_all()
        self._wake_all()

    async def _locate(self) -> None:
        self._epochs = list(self.log.epochs)
        # Not the last entry there is: a stream that was trimmed to nothing has a history all the same.
        ends = [await self._generated(partition) for partition in range(self.log.partitions)]
        self.position = tuple(ends)
        self._rings = [Ring(end) for end in ends]
        self._heads = await self.log.tenants()

    async def _last_id(self, partition: int, upto: StreamId | None = None) -> StreamId:
        last = "+" if upto is None else str(upto)
        reply = await self.log.source.client.execute_command(
            "XREVRANGE", self.log.keys.events(partition), last, "-", "COUNT", 1
        )
        return StreamId.parse(reply[0][0]) if reply else ZERO

    # -- reading the streams --------------------------------------------------------------------------------------

    async def _run(self, share: list[int]) -> None:
        names = {self.log.keys.events(partition).encode(): partition for partition in share}
        while not self._stopping:
            try:
                if not self._away.isdisjoint(share):
                    await self._reconnect(share)
                ids = [str(self.position[partition]) for partition in share]
                reply = await self.log.source.call(
                    "XREAD", "COUNT", READ_COUNT, "BLOCK", READ_BLOCK_MS, "STREAMS", *names, *ids
                )
                if not reply:
                    # Ids of a new history may lie below the position, where nothing is ever read.
                    await load_epochs(self.log.source, self.log)
                    if any(self.log.epochs[partition] != self._epochs[partition] for partition in share):
                        self._away.update(share)
                    continue
                pairs = reply.items() if isinstance(reply, dict) else reply
                spent = await self._take([(names[bytes(name)], entries) for name, entries in pairs])
                if spent > 0.001:
                    await asyncio.sleep(min(spent * PACE, MAX_PACE_S))
            except (RedisError, OSError, NotSentError) as error:
                if self._away.isdisjoint(share):
                    log.warning("log_connection_lost", error=str(error) or type(error).__name__)
                self._away.update(share)
                await asyncio.sleep(RETRY_S)
            except Exception:  # the reader must not end while the hub runs
                log.exception("dispatcher_failed", partitions=share)
                self._away.update(share)
                await asyncio.sleep(RETRY_S)

    async def _reconnect(self, share: list[int]) -> None:
        """Prepare the server again and see whether its history is still the one that was read."""
        await self._reopen()
        for partition in share:
            kept = await self._last_id(partition, self.position[partition])
            replaced = self.log.epochs[partition] != self._epochs[partition]
            if replaced or (kept != self.position[partition] and not await self._was_trimmed(partition, kept)):
                await self._begin_again(partition, kept)
        self._away.difference_update(share)
        log.info("log_connected")

    async def _was_trimmed(self, partition: int, kept: StreamId) -> bool:
        """Whether the entry at the position is gone because all up to it were trimmed, not lost.

        A stream that was trimmed to nothing still knows its last id; a lost one does not.
        """
        return kept == ZERO and await self._generated(partition) >= self.position[partition]

    async def _generated(self, partition: int) -> StreamId:
        """The last id that a stream gave, be its entry there or trimmed."""
        try:
            info = await self.log.source.client.xinfo_stream(self.log.keys.events(partition))
        except ResponseError:
            return ZERO
        return StreamId.parse(info["last-generated-id"])

    async def _begin_again(self, partition: int, kept: StreamId) -> None:
        """The history that was read has been replaced after `kept`: read on from there, and tell everybody."""
        if self.log.epochs[partition] == self._epochs[partition]:
            await new_epoch(self.log.source, self.log, partition)
        log.error("history_lost", partition=partition, had=str(self.position[partition]), has=str(kept))
        tenants = [tenant for tenant in self._heads if self.log.partition(tenant) == partition]
        heads = {tenant: await self._head_upto(tenant, partition, kept) for tenant in tenants}
        # A log that was given its memory back begins after what the archive has.
        kept = max([kept, *(head.id for head in heads.values())])
        self.flush_all()
        self._advance({partition: kept})
        self._epochs[partition] = self.log.epochs[partition]
        self.history += 1
        self._changes.clear()
        self._rings[partition] = Ring(kept)
        for tenant, head in heads.items():
            had, self._heads[tenant] = self.head(tenant), head
            # An emptied log that was given its memory back goes on where this tenant's readers are: they miss nothing.
            if had != head:
                self._gap(tenant, "epoch", head)

    async def _head_upto(self, tenant_id: str, partition: int, upto: StreamId) -> Head:
        """The last event of a tenant up to an entry, as the log has it now."""
        known, last = self.head(tenant_id), str(upto)
        if known.id <= upto:
            entry = await self.log.at(tenant_id, known.id)
            if entry is not None and entry.sequence == known.sequence:
                return known
        while True:
            reply = await self.log.source.client.execute_command(
                "XREVRANGE", self.log.keys.events(partition), last, "-", "COUNT", READ_COUNT
            )
            for entry in parse(reply, 0):
                if entry.tenant_id == tenant_id:
                    return Head(entry.sequence, entry.id)
            if len(reply) < READ_COUNT:
                return (await self.log.floors([tenant_id]))[tenant_id]
            last = f"({reply[-1][0].decode()}"

    def _advance(self, reached: dict[int, StreamId]) -> None:
        self.position = tuple(reached.get(partition, held) for partition, held in enumerate(self.position))

    async def _take(self, replies: Iterable[tuple[int, Any]]) -> float:
        """Route what was read and write it out; the seconds spent on it."""
        started = time.perf_counter()
        since = self.position
        reached: dict[int, StreamId] = {}
        woken: list[Group[Entry, Position]] = []
        routed: list[tuple[int, list[Entry]]] = []
        for partition, raw in replies:
            entries = parse(raw, self.log.epochs[partition])
            for index, entry in enumerate(entries):
                if entry.sequence != self.head(entry.tenant_id).sequence + 1:
                    # Rare. Everything routed so far must be out before readers hear of a hole.
                    if index:
                        reached[partition] = entries[index - 1].id
                    self._advance(reached)
                    self.flush_all()
                    if await self._replaced(entry):
                        self._wake_all()
                        return 0.0
                    since = self.position
                self._heads[entry.tenant_id] = Head(entry.sequence, entry.id)
                self._rings[partition].push(entry)
                try:
                    woken += self.fanout.add(entry, since)
                    if entry.type == "system":
                        self.on_notice(entry)
                except (KeyError, TypeError, ValueError):  # whoever wrote that, the others' events go on
                    log.exception("entry_not_readable", partition=partition, id=str(entry.id))
            reached[partition] = StreamId.parse(raw[-1][0])
            routed.append((partition, entries))
            for tenant in {entry.tenant_id for entry in entries}:
                self._wake(tenant)
        self._advance(reached)
        self._set_timers(woken)
        self._write(self.fanout.due())
        for partition, entries in routed:
            self.recorder.routed(partition, entries)
        self._wake(None)
        return time.perf_counter() - started

    async def _replaced(self, entry: Entry) -> bool:
        """Look into a sequence that does not continue: a hole, a start that raced with an append, a new history.

        True when the history was replaced; then it is read again from where the new one begins.
        """
        head = self.head(entry.tenant_id)
        partition = self.log.partition(entry.tenant_id)
        await load_epochs(self.log.source, self.log)
        new = self.log.epochs[partition] != self._epochs[partition]
        # The same number on a later entry: a failover lost the tail, and other events took its place.
        if new or (entry.sequence <= head.sequence and entry.id > head.id):
            had = self.position[partition]
            await self._reopen()
            await self._begin_again(partition, await self._last_id(partition, had))
            if self.position[partition] == had:
                self._heads[entry.tenant_id] = Head(entry.sequence - 1, self.head(entry.tenant_id).id)
            return True
        if entry.sequence > head.sequence + 1:
            hole = Head(entry.sequence - 1, entry.id.previous)
            await self.log.note_hole(entry.tenant_id, hole)
            # Who is behind reads across the hole from the log, and sees it there.
            self._rings[partition] = Ring(hole.id)
            self._gap(entry.tenant_id, "expired", hole)
        return False

    def _gap(self, tenant_id: str, reason: str, head: Head) -> None:
        self._changes.clear()
        self._metrics.gaps.labels(reason).inc()
        log.error("history_gap", reason=reason, resume_sequence=head.sequence)
        self.on_gap(tenant_id, reason, head, self.log.cursor(tenant_id, head))

    # -- writing --------------------------------------------------------------------------------------------------

    def _set_timers(self, woken: Iterable[Group[Entry, Position]]) -> None:
        loop = asyncio.get_running_loop()
        for group in woken:
            if group.audience.batch_ms:
                holder: list[asyncio.TimerHandle] = []

                def fire(group: Group[Entry, Position] = group, holder: list[asyncio.TimerHandle] = holder) -> None:
                    self._timers.discard(holder[0])
                    self._write([group])

                holder.append(loop.call_later(group.audience.batch_ms / 1000, fire))
                self._timers.add(holder[0])

    def _write(self, groups: list[Group[Entry, Position]]) -> None:
        if not groups:
            return
        newest: dict[str, Entry] = {}
        for group in groups:
            system, events = group.audience.system, group.events
            for entry in events:
                newest[entry.event_id] = entry
            made = self.fanout.flush([group])
            if made:
                self._metrics.deliveries.labels("websocket", system, "sent").inc(made)
                self._metrics.frames.labels("out").inc(made)
        now = time.time() * 1000
        observe = self._metrics.delivery_seconds.labels("websocket").observe
        for entry in newest.values():
            observe(max(0.0, now - entry.timestamp_ms) / 1000)

    def flush_all(self) -> None:
        """Write out everything that is buffered."""
        self._write(list(self.fanout.waiting()))

    # -- for readers by position ----------------------------------------------------------------------------------

    def recent(self, partition: int, after: StreamId, count: int) -> list[Entry] | None:
        """Entries after `after` up to the dispatcher's position, from memory; None when they are no longer there."""
        return self._rings[partition].after(after, count)

    def page(self, audience: Audience, partition: int, after: StreamId, entries: list[Entry]) -> tuple[bytes, int]:
        """The frames of `entries`, which lie after `after`, for an audience, and how many there are.

        Remembered: when many connections fall behind at once, they fall behind at the same place, and what one of
        them catches up with serves the others too.
        """
        key = (audience, partition, after)
        found = self._pages.get(key)
        if found is None or found[2] != entries[-1].id:
            frames = [
                encode(entry, audience.view, audience.codec)
                for entry in entries
                if entry.readable
                and may_see(audience.system, entry.targets)
                and any(
                    one.wants(entry.tenant_id, entry.type, entry.action, entry.entity) for one in audience.interests
                )
            ]
            if len(self._pages) >= SHARED_PAGES:
                self._pages.clear()
            found = self._pages[key] = (b"".join(frames), len(frames), entries[-1].id)
        return found[0], found[1]

    async def read(self, partition: int, after: StreamId, count: int) -> list[Entry]:
        """Entries after `after`, none of them past the dispatcher's position."""
        found = self.recent(partition, after, count)
        if found is None:
            found = await self.log.read(partition, after, count, upto=self.position[partition])
        return found

    def head(self, tenant_id: str) -> Head:
        """The last event of a tenant that was routed."""
        return self._heads.get(tenant_id, NOWHERE)

    def tenants(self) -> list[str]:
        """Every tenant with events."""
        return list(self._heads)

    async def wait(self, tenants: Iterable[str] | None) -> None:
        """Until an event of one of the tenants (None: of any) was routed, or the dispatcher stops."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        keys: list[str | None] = [None] if tenants is None else list(tenants)
        for key in keys:
            self._waiters.setdefault(key, set()).add(future)
        try:
            if not self._stopping:
                await future
        finally:
            for key in keys:
                waiting = self._waiters.get(key)
                if waiting is not None:
                    waiting.discard(future)
                    if not waiting:
                        del self._waiters[key]

    def _wake(self, tenant_id: str | None) -> None:
        for future in self._waiters.get(tenant_id, ()):
            if not future.done():
                future.set_result(None)

    def _wake_all(self) -> None:
        for tenant in list(self._waiters):
            self._wake(tenant)
