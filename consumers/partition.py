"""One partition in the hands of the consumer that holds its lease.

Entries of one entity are handled strictly in order. A failing one is tried again after a pause, and later entries of
its entity wait behind it (a `lane`), while other entities go on. Reading, acknowledging and burying check the lease in
the same script, so a consumer that lost it changes nothing any more; what it had in hand is taken over by the next.

Nothing here needs a read to be finished: entries whose reply was lost or cancelled are pending, and pending entries
are taken over before anything new is read, at the start and after every failure of the connection.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from time import monotonic
from typing import Final

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from consumers import stream_entry
from consumers.backoff import full_jitter
from consumers.handlers import Handler, Handlers
from consumers.in_hand import Alarm, Entry, Fields, Handling, Source, Stats, Work
from consumers.inbox import Inbox
from consumers.lease import Lease
from consumers.replayed import replaying
from consumers.stream_entry import ACTION, ENTITY, TENANT, TYPE, Undecodable
from consumers.stream_keys import Script, command
from consumers.time_limit import TimeLimit
from schemas.types import HUB

log = structlog.get_logger(__name__)

BLOCK_MS: Final = 2000
_TAKE_OVER: Final = 100
_ACK_EVERY_S: Final = 0.1
_YIELD_EVERY_S: Final = 0.005
_ROUTES: Final = 1000

_Read = tuple[list[Entry], list[Entry], list[bytes]] | None
_RECONNECT_BASE_S: Final = 0.1
_RECONNECT_CAP_S: Final = 5.0


class LeaseLost(Exception):
    """The partition is another consumer's, or will be: the server was away when this one had to stop."""


class Scripts:
    """The scripts of a partition."""

    def __init__(self, redis: Redis) -> None:
        self.ensure = Script(redis, "stream_ensure")
        self.read = Script(redis, "stream_read")
        self.take_over = Script(redis, "stream_take_over")
        self.attempt = Script(redis, "stream_attempt")
        self.ack = Script(redis, "stream_ack")
        self.bury = Script(redis, "stream_bury")


class Partition:
    """Handles one partition while its lease is held. `run` once."""

    def __init__(
        self,
        redis: Redis,
        lease: Lease,
        *,
        group: str,
        consumer: str,
        system: str,
        handlers: Handlers,
        inbox: Inbox | None,
        handling: Handling,
        stats: Stats,
        alarm: Callable[[Alarm], None],
        finished: bytes | None,
    ) -> None:
        """`finished`: up to where this process had handled the partition when it held it before."""
        self.lease = lease
        self._redis = redis
        self._scripts = Scripts(redis)
        self._group = group
        self._consumer = consumer
        self._system = system
        self._handlers = handlers
        self._inbox = inbox
        self._handling = handling
        self._stats = stats
        self._alarm = alarm
        self._groups_seen = finished is not None
        self.events = Source(lease.keys.events, deletes=False, finished=finished or b"")
        self.redriven = Source(lease.keys.redrive, deletes=True, finished=b"")
        self._routes: dict[tuple[bytes, bytes], tuple[Handler, ...]] = {}
        self._lanes: dict[tuple[bytes, bytes], deque[Work]] = {}
        self._slots = asyncio.Semaphore(handling.concurrency)
        self._time_limit = TimeLimit(handling.handler_timeout_s)
        self._acking = asyncio.Lock()
        self._halt = asyncio.Event()
        self._room = asyncio.Event()
        self._log = log.bind(group=group, consumer=consumer, partition=lease.keys.partition)

    def stop(self) -> None:
        """Finish the handlers under way, acknowledge, and end `run`. What was not begun stays pending."""
        self._halt.set()
        self._room.set()

    async def run(self) -> None:
        """Handle the partition until `stop` or until the lease is lost. Survives the server's absence.

        Cancelling it abandons the handlers under way; their entries stay pending.
        """
        try:
            async with asyncio.TaskGroup() as self._lane_tasks:
                await self._serve()
            with suppress(RedisError, OSError):
                await self._acknowledge()
        except* LeaseLost:
            self._log.warning("partition_lost", in_hand=len(self.events.in_hand) + len(self.redriven.in_hand))

    async def _serve(self) -> None:
        self._failures = 0
        while not self._halt.is_set():
            try:
                await self._acknowledge()
                for source in (self.events, self.redriven):
                    await self._ensure_group(source)
                for source in (self.events, self.redriven):
                    await self._take_over(source)
                self._groups_seen = True
                await self._read()
            except (RedisError, OSError) as error:
                self._failures += 1
                if _no_group(error) and self._failures == 1:
                    continue
                self._log.warning("partition_read_failed", error=str(error), failures=self._failures)
                await self._pause(
                    full_jitter(self._failures, random.random, base=_RECONNECT_BASE_S, cap=_RECONNECT_CAP_S)
                )

    async def _ensure_group(self, source: Source) -> None:
        made, delivered = await self._scripts.ensure([source.key], self._group, source.finished)
        if not made:
            source.group_delivered = delivered
            return
        source.restart(delivered)
        if self._groups_seen:
            self._raise_alarm("group_lost", source, f"made anew after {delivered.decode()}")

    async def _take_over(self, source: Source) -> None:
        """Handle what was delivered before, to this consumer or the lease's former holders, and is unfinished."""
        start = b"0-0"
        while not self._halt.is_set():
            room = await self._make_room()
            reply = await self._scripts.take_over(
                [self.lease.keys.lease, source.key],
                *(self.lease.value, self._group, self._consumer, start, min(room, _TAKE_OVER)),
            )
            if reply is None:
                raise LeaseLost
            start, taken, deleted = reply
            if deleted:
                first = f"{len(deleted)} from {deleted[0].decode()}"
                self._raise_alarm("entries_lost", source, f"deleted before they were handled: {first}")
            entries = source.admit([(id, fields) for id, fields, _ in taken])
            await self._dispatch(source, entries, {id: count for id, _, count in taken})
            if start == b"0-0":
                source.delivered(source.group_delivered)
                return

    async def _read(self) -> None:
        ahead: asyncio.Task[_Read] | None = None
        try:
            while not self._halt.is_set():
                reply = await (ahead or self._read_once(await self._make_room()))
                ahead = None
                if reply is None:
                    raise LeaseLost
                self._failures = 0
                redriven, entries, last = reply
                fresh = (self.redriven, self.redriven.admit(redriven)), (self.events, self.events.admit(entries))
                if not last and (room := self._room_left()) > 0:
                    # The server works on the next batch while the handlers work on this one.
                    ahead = asyncio.create_task(self._read_once(room))
                    await asyncio.sleep(0)
                for source, admitted in fresh:
                    await self._dispatch(source, admitted)
                await self._acknowledge()
                if last and not self._halt.is_set():
                    await self._wait_for_entries(last)
        finally:
            if ahead is not None:
                ahead.cancel()
                await asyncio.gather(ahead, return_exceptions=True)

    async def _read_once(self, room: int) -> _Read:
        keys = self.lease.keys
        reply: _Read = await self._scripts.read(
            [keys.lease, keys.events, keys.redrive],
            *(self.lease.value, self._group, self._consumer, min(room, self._handling.batch)),
        )
        return reply

    def _room_left(self) -> int:
        return self._handling.max_in_flight - len(self.events.in_hand) - len(self.redriven.in_hand)

    async def _make_room(self) -> int:
        """How many more entries may be taken in hand; waits until there is one."""
        while True:
            room = self._room_left()
            if room > 0 or self._halt.is_set():
                return max(room, 1)
            self._room.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(BLOCK_MS / 1000):
                    await self._room.wait()
            # Lanes acknowledge for themselves; this says aloud when they cannot.
            await self._acknowledge()

    async def _wait_for_entries(self, last: list[bytes]) -> None:
        """Wait until one of the streams goes past `last`, some seconds at most. XREAD: waiting takes nothing."""
        keys = self.lease.keys
        streams: list[str | bytes] = [keys.events, keys.redrive, *last]
        read = asyncio.ensure_future(command(self._redis, "XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", *streams))
        halt = asyncio.ensure_future(self._halt.wait())
        try:
            await asyncio.wait({read, halt}, return_when=asyncio.FIRST_COMPLETED)
            if read.done():
                read.result()
        finally:
            for waiting in (read, halt):
                waiting.cancel()
            await asyncio.gather(read, halt, return_exceptions=True)

    async def _dispatch(
        self, source: Source, entries: Sequence[Entry], deliveries: dict[bytes, int] | None = None
    ) -> None:
        acknowledged = yielded = monotonic()
        for id, fields in entries:
            if self._halt.is_set():
                return
            count = deliveries[id] if deliveries else 0
            await self._take(source, id, fields, count)
            now = monotonic()
            # What was taken over is acknowledged one by one, so that an entry that ends the process does not make its
            # neighbours look guilty.
            if count or now - acknowledged > _ACK_EVERY_S:
                await self._acknowledge_quietly()
                acknowledged = now
            elif now - yielded > _YIELD_EVERY_S:
                # Handlers that never wait would keep everything else on the loop waiting.
                await asyncio.sleep(0)
                yielded = now

    async def _take(self, source: Source, id: bytes, fields: Fields, count: int) -> None:
        """Handle the entry, or put it in its entity's lane. `count`: earlier deliveries of one taken over."""
        try:
            fields = stream_entry.in_order(fields)
            handlers = self._route(fields[TYPE], fields[ACTION])
            if not handlers:
                source.to_ack.append(id)
                return
            event = stream_entry.read(fields)
        except Undecodable as error:
            await self._bury(source, id, fields, f"undecodable: {error}", count)
            return
        if self._system not in event.targets and self._system != HUB:
            source.to_ack.append(id)
            return
        if count > self._handling.attempts:
            # The first delivery of a batch is not yet an attempt.
            await self._bury(source, id, fields, f"its consumer ended without an answer {count} times", count)
            return
        replay = stream_entry.replay_of(fields) if source.deletes else None
        work = Work(source, id, fields, event, handlers, max(count - 1, 0), count > 0, replay)
        entity = (fields[TENANT], fields[ENTITY])
        lane = self._lanes.get(entity)
        if lane is not None:
            lane.append(work)
        elif self._handling.concurrency > 1 or not await self._attempt(work):
            self._lanes[entity] = lane = deque([work])
            self._lane_tasks.create_task(self._run_lane(entity, lane))

    def _route(self, type: bytes, action: bytes) -> tuple[Handler, ...]:
        found = self._routes.get((type, action))
        if found is None:
            found = self._handlers.find(type.decode(errors="replace"), action.decode(errors="replace"))
            if found or len(self._routes) < _ROUTES:
                self._routes[type, action] = found
        return found

    async def _attempt(self, work: Work) -> bool:
        """Handle the event once. True when it needs no further attempt: handled, or buried after the last."""
        if self._lanes:
            async with self._slots:
                failure = await self._try(work)
        else:
            # Nothing else runs, nor can begin before this has ended.
            failure = await self._try(work)
        if failure is None:
            work.source.to_ack.append(work.id)
            return True
        work.failures += 1
        reason = f"{type(failure).__name__}: {failure}"
        if work.failures < self._handling.attempts:
            self._stats.retried += 1
            self._log.warning(
                "handler_failed",
                event_id=work.event.event_id,
                name=work.event.name,
                attempt=work.failures,
                error=reason,
            )
            return False
        await self._bury(work.source, work.id, work.fields, reason, work.failures)
        return True

    async def _try(self, work: Work) -> BaseException | None:
        """Call the handlers; what went wrong."""
        if work.taken_over:
            await self._insist(
                self._scripts.attempt,
                [self.lease.keys.lease, work.source.key],
                *(self.lease.value, self._group, self._consumer, work.id),
            )
        try:
            if work.replay is None:
                await self._call(work)
            else:
                with replaying(work.replay):
                    await self._call(work)
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return error  # the handler's own
        except Exception as error:
            return error
        return None

    async def _call(self, work: Work) -> None:
        if self._inbox is not None:
            await self._time_limit.run(self._handle_once(work, self._inbox))
        elif len(work.handlers) == 1:
            await self._time_limit.run(work.handlers[0](work.event))
            self._stats.handled += 1
        else:
            await self._time_limit.run(self._handle_in_turn(work))

    async def _handle_in_turn(self, work: Work) -> None:
        for handler in work.handlers:
            await handler(work.event)
        self._stats.handled += 1

    async def _handle_once(self, work: Work, inbox: Inbox) -> None:
        async with inbox.transaction(work.event, work.replay) as tx:
            if tx is not None:
                for handler in work.handlers:
                    await handler(work.event, tx)
        if tx is None:
            self._stats.duplicates += 1
        else:
            self._stats.handled += 1

    async def _run_lane(self, entity: tuple[bytes, bytes], lane: deque[Work]) -> None:
        """Handle one entity's events in order until there are no more."""
        handling = self._handling
        while lane:
            work = lane[0]
            if work.failures:
                await self._pause(
                    full_jitter(work.failures - 1, random.random, base=handling.retry_base_s, cap=handling.retry_cap_s)
                )
            if self._halt.is_set():
                return
            if await self._attempt(work):
                lane.popleft()
                await self._acknowledge_quietly()
        del self._lanes[entity]

    async def _bury(self, source: Source, id: bytes, fields: Fields, reason: str, attempts: int) -> None:
        letter = stream_entry.dead_letter(id, fields, reason, attempts, datetime.now(UTC))
        buried = await self._insist(
            self._scripts.bury,
            [self.lease.keys.lease, source.key, self.lease.keys.dead],
            *(self.lease.value, self._group, int(source.deletes), id, *letter),
        )
        source.forget([id])
        self._room.set()
        if buried:
            self._stats.dead += 1
            self._log.error("dead_letter", source_id=id.decode(), attempts=attempts, reason=reason)

    async def _insist(self, script: Script, keys: Sequence[str], *args: str | bytes | int) -> int:
        """The script's answer, asked for until the server gives one.

        Raises:
            LeaseLost: the lease is lost, or the partition was stopped while the server was away.
        """
        failures = 0
        while True:
            try:
                answer = int(await script(keys, *args))
            except (RedisError, OSError) as error:
                self._log.warning("server_refused", error=str(error), failures=failures)
                await self._pause(full_jitter(failures, random.random, base=_RECONNECT_BASE_S, cap=_RECONNECT_CAP_S))
                failures += 1
                if self._halt.is_set():
                    raise LeaseLost from error
                continue
            if answer < 0:
                raise LeaseLost
            return answer

    async def _acknowledge(self) -> None:
        """Acknowledge what is done. Raises LeaseLost, RedisError, OSError; what is not acknowledged stays to be."""
        async with self._acking:
            for source in (self.events, self.redriven):
                if not source.to_ack:
                    continue
                ids, source.to_ack = source.to_ack, []
                try:
                    acked = await self._scripts.ack(
                        [self.lease.keys.lease, source.key],
                        self.lease.value,
                        self._group,
                        int(source.deletes),
                        b" ".join(ids),
                    )
                except BaseException:
                    source.to_ack[:0] = ids
                    raise
                if acked < 0:
                    raise LeaseLost
                source.forget(ids)
                self._room.set()

    async def _acknowledge_quietly(self) -> None:
        # A failure is the reader's to see: it acknowledges before it reads.
        with suppress(RedisError, OSError):
            await self._acknowledge()

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._halt.wait()

    def _raise_alarm(self, code: str, source: Source, detail: str) -> None:
        self._stats.alarms += 1
        self._log.error(code, stream=source.key, detail=detail)
        self._alarm(Alarm(code, self.lease.keys.partition, source.key, detail))


def _no_group(error: Exception) -> bool:
    return isinstance(error, ResponseError) and str(error).startswith("NOGROUP")
