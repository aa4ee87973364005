"""`StreamConsumer`: a member of a consumer group, for a service that sits next to Redis."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from consumers.backoff import full_jitter
from consumers.errors import ClientClosed, ConsumerError
from consumers.handlers import Handlers, HandlerT
from consumers.in_hand import Alarm, Handling, Stats
from consumers.inbox import Inbox
from consumers.lease import Lease, Leases, fair_share
from consumers.partition import BLOCK_MS, Partition
from consumers.stream_keys import PartitionKeys, command

log = structlog.get_logger(__name__)

_COMMAND_S: Final = 5.0


class LogNotFound(ConsumerError):
    """The Redis server holds no hub's log under this prefix: the wrong server, or no hub has started there yet."""

    def __init__(self, key: str) -> None:
        super().__init__(f"{key} does not say how many partitions there are: is this the hub's Redis and its prefix?")
        self.key = key


@dataclass(slots=True)
class _Held:
    """A partition at work, and the timers that end it."""

    partition: Partition
    task: asyncio.Task[None]
    expiry: asyncio.TimerHandle | None = None
    drain: asyncio.TimerHandle | None = None
    """Set once the partition is being given up."""

    def watch(self) -> None:
        """Cancel the work when the lease may be another's, unless it is renewed before."""
        if self.expiry is not None:
            self.expiry.cancel()
        self.expiry = asyncio.get_running_loop().call_at(self.partition.lease.expires, self.task.cancel)

    def unwatch(self) -> None:
        for timer in (self.expiry, self.drain):
            if timer is not None:
                timer.cancel()


class StreamConsumer:
    """Reads the hub's log as one consumer of a group, and hands events to handlers.

    ```python
    consumer = StreamConsumer("redis://localhost", group="hotel-member", consumer="member-1")

    @consumer.on("reservation.*")
    async def reserved(event: ReservationEvent) -> None: ...

    await consumer.run()
    ```

    Events of one entity are handled in order, one at a time, in the whole group. A handler that raises is called again
    after a pause, `attempts` times in all; then the event goes to the group's dead letters. Events come at least once;
    with an `inbox`, handlers are called as `handler(event, tx)` and their effect through `tx` happens once. Of several
    handlers of one event each is called in turn, and all of them again when one fails.

    The processes of a group share the partitions by leases; give each a `consumer` name that stays the same over
    restarts. Events that are not for `system` (default: the group's name) or that nobody handles are acknowledged
    unread.
    """

    def __init__(
        self,
        url: str,
        *,
        group: str,
        consumer: str,
        prefix: str = "hub",
        inbox: Inbox | None = None,
        system: str | None = None,
        concurrency: int = 1,
        attempts: int = 5,
        retry_base_s: float = 0.2,
        retry_cap_s: float = 30.0,
        handler_timeout_s: float | None = 60.0,
        max_in_flight: int = 1000,
        lease_s: float = 10.0,
        drain_s: float = 10.0,
        on_alarm: Callable[[Alarm], None] | None = None,
    ) -> None:
        """`concurrency` and `max_in_flight` count per partition; times are in seconds.

        `lease_s`: how long the partitions of a consumer that died stay unattended. `drain_s`: how long `stop`, or
        giving a partition to another consumer, waits for handlers under way before it cancels them. `on_alarm` is
        called on the event loop and must neither block nor raise.
        """
        self.stats = Stats()
        self._url = url
        self._prefix = prefix
        self._group = group
        self._consumer = consumer
        self._system = system or group
        self._inbox = inbox
        self._handlers = Handlers()
        self._handling = Handling(
            concurrency=concurrency,
            attempts=attempts,
            retry_base_s=retry_base_s,
            retry_cap_s=retry_cap_s,
            handler_timeout_s=handler_timeout_s,
            max_in_flight=max_in_flight,
        )
        self._lease_s = lease_s
        self._drain_s = drain_s
        self._alarm = on_alarm or (lambda alarm: None)
        self._held: dict[int, _Held] = {}
        self._finished: dict[int, bytes] = {}
        self._stopping = asyncio.Event()
        self._nudge = asyncio.Event()
        self._found = asyncio.Event()
        self._ended = asyncio.Event()
        self._running = False
        self._task: asyncio.Task[None] | None = None
        self._log = log.bind(group=group, consumer=consumer)

    def on(self, pattern: str) -> Callable[[HandlerT], HandlerT]:
        """Register the decorated coroutine function for `type.action`, `type.*` or `*`, before `run`.

        Raises:
            ValueError: the pattern is malformed.
        """
        return self._handlers.on(pattern)

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions this consumer works on now."""
        return frozenset(self._held)

    async def run(self) -> None:
        """Consume until `stop`. Survives the server's restart, and the loss of the group.

        Cancelling it abandons the handlers under way; their events come again.

        Raises:
            LogNotFound: there is no hub's log at this address and prefix.
            ClientClosed: it ran before.
        """
        if self._running or self._ended.is_set():
            raise ClientClosed("a StreamConsumer runs once")
        self._running = True
        try:
            await self._run()
        finally:
            self._running = False
            self._ended.set()

    async def stop(self) -> None:
        """Finish the handlers under way, acknowledge, give up the partitions; returns when `run` has ended.

        Not to be awaited by a handler, which it waits for.
        """
        self._stopping.set()
        self._nudge.set()
        if self._running:
            await self._ended.wait()

    async def __aenter__(self) -> Self:
        """`run` in the background; returns once the log is found.

        Raises:
            LogNotFound: there is no hub's log at this address and prefix.
        """
        self._task = asyncio.create_task(self.run())
        found = asyncio.create_task(self._found.wait())
        try:
            await asyncio.wait({self._task, found}, return_when=asyncio.FIRST_COMPLETED)
            if self._task.done():
                await self._task
        except BaseException:
            self._task.cancel()
            raise
        finally:
            found.cancel()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        # Blocking reads keep to connections of their own, whose timeout leaves room for the block.
        reading = self._connect(BLOCK_MS / 1000 + _COMMAND_S)
        leasing = self._connect(min(_COMMAND_S, self._lease_s / 2))
        async with reading, leasing:
            partitions = await self._find_log(leasing)
            self._found.set()
            owner = f"{self._consumer}/{secrets.token_hex(6)}"
            leases = Leases(leasing, self._prefix, self._group, self._consumer, owner, self._lease_s)
            try:
                while not self._stopping.is_set() or self._held:
                    self._nudge.clear()
                    try:
                        await self._tend(reading, leases, partitions)
                    except (RedisError, OSError) as error:
                        self._log.warning("leases_not_tended", error=str(error))
                    if self._held or not self._stopping.is_set():
                        with suppress(TimeoutError):
                            async with asyncio.timeout(self._lease_s / 3):
                                await self._nudge.wait()
            finally:
                await self._abandon()
                with suppress(RedisError, OSError):
                    await leases.leave()

    def _connect(self, timeout_s: float) -> Redis:
        # Retries off: what a script took or changed before its answer was lost must be seen here, not repeated below.
        return Redis.from_url(
            self._url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=timeout_s,
            socket_connect_timeout=min(timeout_s, _COMMAND_S),
        )

    async def _find_log(self, redis: Redis) -> int:
        key = f"{self._prefix}:meta"
        failures = 0
        while not self._stopping.is_set():
            try:
                partitions = await command(redis, "HGET", key, "partitions")
            except (RedisError, OSError) as error:
                self._log.warning("server_unreachable", error=str(error), failures=failures)
                with suppress(TimeoutError):
                    async with asyncio.timeout(full_jitter(failures, random.random)):
                        await self._stopping.wait()
                failures += 1
                continue
            if partitions is None:
                raise LogNotFound(key)
            return int(partitions)
        return 0

    async def _tend(self, redis: Redis, leases: Leases, partitions: int) -> None:
        """Keep what is held, give up what is too much, take what is free."""
        loop = asyncio.get_running_loop()
        if self._stopping.is_set():
            self._shed(0)
        await self._reap(leases)
        live = 0 if self._stopping.is_set() else await leases.announce()
        for held in self._held.values():
            in_hand = (list(held.partition.events.in_hand), list(held.partition.redriven.in_hand))
            if await leases.renew(held.partition.lease, loop.time(), *in_hand):
                held.watch()
            else:
                held.task.cancel()
        if self._stopping.is_set():
            return
        share = fair_share(partitions, live)
        missing = share - self._shed(share)
        free = [number for number in range(partitions) if number not in self._held]
        random.shuffle(free)
        for number in free:
            if missing <= 0:
                break
            lease = await leases.acquire(PartitionKeys(self._prefix, number, self._group), loop.time())
            if lease is not None:
                self._start(redis, number, lease)
                missing -= 1

    def _shed(self, share: int) -> int:
        """Begin to give up the partitions beyond `share`; how many stay."""
        staying = [held for held in self._held.values() if held.drain is None]
        for held in staying[share:]:
            held.partition.stop()
            held.drain = asyncio.get_running_loop().call_later(self._drain_s, held.task.cancel)
        return min(len(staying), share)

    def _start(self, redis: Redis, number: int, lease: Lease) -> None:
        partition = Partition(
            redis,
            lease,
            group=self._group,
            consumer=self._consumer,
            system=self._system,
            handlers=self._handlers,
            inbox=self._inbox,
            handling=self._handling,
            stats=self.stats,
            alarm=self._alarm,
            finished=self._finished.get(number),
        )
        task = asyncio.create_task(partition.run(), name=f"partition-{number}")
        task.add_done_callback(lambda _: self._nudge.set())
        self._held[number] = held = _Held(partition, task)
        held.watch()

    async def _reap(self, leases: Leases) -> None:
        """Let go of the partitions whose work has ended."""
        for number, held in list(self._held.items()):
            if not held.task.done():
                continue
            del self._held[number]
            held.unwatch()
            self._finished[number] = held.partition.events.finished
            if not held.task.cancelled():
                held.task.result()
            await leases.release(held.partition.lease)

    async def _abandon(self) -> None:
        for held in self._held.values():
            held.unwatch()
            held.task.cancel()
        await asyncio.gather(*(held.task for held in self._held.values()), return_exceptions=True)
        self._held.clear()
