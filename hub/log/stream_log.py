"""The log of events: append at most once, read in order, know where a cursor stands.

Every event of a tenant lies in one partition, in the order of its `sequence`, which has no holes. Appends of all
publishers of this process that wait at the same time share one script call a partition, so throughput rises with load
while a lone publish goes out at once. The script is idempotent by (tenant, event_id), which lets the log itself retry
after a broken connection: the outcome is only reported as unknown when the server stays away.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Final, Literal, NamedTuple

import structlog
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

from hub.core.entry import Entry
from hub.errors import HubError
from hub.log.keys import Keys, partition_of
from hub.log.replies import parse
from hub.log.topology import NotSentError, RedisError, Source
from schemas.cursor import ZERO, Cursor, StreamId
from schemas.errors import Problem

MAX_CALL: Final = 256
"""Events in one script call: bounds how long the server is busy with it (about 3 ms)."""
RETRY_S: Final = 0.05
SLACK_S: Final = 3600
"""How long a generation of receipts outlasts the one after it, for hubs whose clocks differ."""

log = structlog.get_logger("hub.log")


class EpochError(HubError):
    """The log no longer holds the history this process knew."""


@dataclass(slots=True)
class Append:
    """One event ready to be stored; `head` is its JSON up to and including `"revision":`."""

    tenant_id: str
    event_id: str
    entity: str
    type: str
    action: str
    timestamp_ms: int
    head: bytes
    expected_revision: int | None = None


class Appended(NamedTuple):
    """Where an event lies. A duplicate lies where it was first stored."""

    cursor: str
    sequence: int
    revision: int
    duplicate: bool
    id: StreamId


class Conflict(NamedTuple):
    """Not stored: the entity is at `revision`, stored at `id` (None: it does not exist)."""

    revision: int
    id: StreamId | None


Outcome = Appended | Conflict


class Head(NamedTuple):
    """A place in a tenant's history; sequence 0 is before its first event."""

    sequence: int
    id: StreamId


class Start(NamedTuple):
    """Where reading a tenant begins, and the gap before it, if there is one."""

    tenant_id: str
    head: Head
    gap: Literal["expired", "epoch", "future"] | None = None


class _Waiting(NamedTuple):
    append: Append
    nonce: str
    done: Callable[[Outcome | Problem], None]
    since: float


@dataclass(slots=True)
class _Lane:
    """One partition's waiting appends. One call is in flight at a time, so order is the order of submission."""

    waiting: deque[_Waiting] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class StreamLog:
    """Access to the log. `open` in `hub.log.setup` prepares the server and fills in the epochs."""

    def __init__(
        self,
        source: Source,
        keys: Keys,
        partitions: int,
        *,
        idempotency_s: int,
        max_waiting: int = 10_000,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.source = source
        self.keys = keys
        self.partitions = partitions
        self.epochs: list[int] = [0] * partitions
        self.last_error: str | None = None
        self.on_lost: Callable[[], Any] | None = None
        """Awaited when the server answers that its epoch is another: the owner prepares it again."""
        self.on_empty: Callable[[int], Awaitable[Any]] | None = None
        """Awaited for a partition without history, before one begins: the owner may put back what it knows of it."""
        self._idempotency_s = idempotency_s
        self._receipts_ttl_s = 2 * idempotency_s + SLACK_S
        self._max_waiting = max_waiting
        self._timeout_s = timeout_s
        self._clock = clock
        self._wall = wall
        self._lanes = [_Lane() for _ in range(partitions)]
        self._waiting = 0
        self._closing = False
        self._mark = secrets.token_hex(6)
        self._numbers = itertools.count()
        self._script = files("hub.log").joinpath("append.lua").read_text()
        self._sha = ""

    def partition(self, tenant_id: str) -> int:
        """The partition of a tenant."""
        return partition_of(tenant_id, self.partitions)

    def cursor(self, tenant_id: str, head: Head) -> str:
        """The cursor of a place in a tenant's history."""
        epoch = self.epochs[self.partition(tenant_id)]
        return Cursor.of(epoch, tenant_id, head.sequence, head.id).encode()

    # -- appending ------------------------------------------------------------------------------------------------

    def submit(self, append: Append) -> asyncio.Future[Outcome]:
        """Queue one event; the future resolves once it is durable, or known not to be stored.

        Events of a tenant are stored in the order of submission. The future fails with `Problem`: `log_unavailable`
        (not stored), `outcome_unknown` (a retry with the same event_id is safe). Cancelling the future does not
        withdraw the event.

        Raises:
            Problem: `overloaded` or `draining`; nothing was accepted.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome | Problem) -> None:
            if future.done():
                return
            if isinstance(outcome, Problem):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        self.post(append, done)
        return future

    def post(self, append: Append, done: Callable[[Outcome | Problem], None]) -> None:
        """Queue one event, as `submit` does, and call `done` with what became of it, for those who publish thousands.

        `done` is called once, in the event loop, and must not raise.
        """
        if self._closing:
            raise Problem("draining")
        if self._waiting >= self._max_waiting:
            raise Problem("overloaded", f"{self._waiting} events are waiting for the log")
        partition = self.partition(append.tenant_id)
        lane = self._lanes[partition]
        self._waiting += 1
        lane.waiting.append(_Waiting(append, f"{self._mark}{next(self._numbers):x}", done, self._clock()))
        if lane.task is None:
            lane.task = asyncio.create_task(self._drain(partition, lane), name=f"append-p{partition:02d}")

    async def _drain(self, partition: int, lane: _Lane) -> None:
        try:
            while lane.waiting:
                batch = [lane.waiting.popleft() for _ in range(min(MAX_CALL, len(lane.waiting)))]
                try:
                    await self._append(partition, batch)
                except Exception as error:  # the publishers must hear of it, whatever it is
                    problem = error if isinstance(error, Problem) else Problem("internal", type(error).__name__)
                    if not isinstance(error, Problem):
                        log.exception("append_failed", partition=partition)
                    self._fail(batch, problem)
                    self._fail_overdue(lane)
                finally:
                    self._waiting -= len(batch)
        finally:
            lane.task = None

    def _fail_overdue(self, lane: _Lane) -> None:
        """Tell those whose time ran out behind a call that failed: they were never sent."""
        latest, overdue = self._clock() - self._timeout_s, []
        while lane.waiting and lane.waiting[0].since <= latest:
            overdue.append(lane.waiting.popleft())
        self._waiting -= len(overdue)
        self._fail(overdue, Problem("log_unavailable"))

    @staticmethod
    def _fail(appends: Iterable[_Waiting], problem: Problem) -> None:
        for one in appends:
            one.done(Problem(problem.code, problem.detail, extra={"event_id": one.append.event_id}))

    async def _append(self, partition: int, batch: Sequence[_Waiting]) -> None:
        keys = self.keys
        names: list[str] = [
            keys.events(partition),
            keys.sequences(partition),
            keys.revisions(partition),
            keys.epoch(partition),
            *self._receipts(partition, self._wall()),
        ]
        args: list[Any] = []
        for append, nonce, _, _ in batch:
            args += (
                append.tenant_id,
                append.event_id,
                append.entity,
                "" if append.expected_revision is None else append.expected_revision,
                append.type,
                append.action,
                append.timestamp_ms,
                append.head,
                nonce,
            )
        replies = await self._call(partition, names, args, batch[0].since + self._timeout_s)
        epoch = self.epochs[partition]
        for one, (outcome, sequence, revision, at) in zip(batch, replies, strict=True):
            if outcome == 3:
                one.done(Problem("log_unavailable", extra={"event_id": one.append.event_id}))
            elif outcome == 2:
                one.done(Conflict(revision, StreamId.parse(at) if at else None))
            else:
                id = StreamId.parse(at)
                cursor = Cursor.of(epoch, one.append.tenant_id, sequence, id).encode()
                one.done(Appended(cursor, sequence, revision, outcome == 1, id))

    async def _call(self, partition: int, names: Sequence[str], args: Sequence[Any], deadline: float) -> Any:
        deadline = max(deadline, self._clock() + 2 * RETRY_S)
        perhaps_stored = False
        while True:
            try:
                epoch = str(self.epochs[partition])
                reply = await self.source.call(
                    "EVALSHA", self._sha or "-", len(names), *names, self._receipts_ttl_s, epoch, *args
                )
                self.last_error = None
                return reply
            except NoScriptError:
                reason = "the server does not know the append script"
                try:
                    self._sha = await self._load()
                    continue
                except (RedisError, OSError, NotSentError) as error:
                    reason = str(error)
            except NotSentError as error:
                reason = str(error)
            except (ResponseError, BusyLoadingError) as error:
                reason = str(error)
                if reason.startswith("EPOCH") or "EPOCH the log" in reason:
                    await self._lost()
                elif not _passing(error):
                    self.last_error = reason
                    raise self._failed(perhaps_stored, reason) from error
            except (RedisError, OSError) as error:
                reason = str(error) or type(error).__name__
                perhaps_stored = True
            self.last_error = reason
            if self._clock() + RETRY_S >= deadline:
                raise self._failed(perhaps_stored, reason)
            await asyncio.sleep(RETRY_S)

    async def _load(self) -> str:
        loaded = await self.source.client.script_load(self._script)
        return loaded.decode() if isinstance(loaded, bytes) else str(loaded)

    async def _lost(self) -> None:
        if self.on_lost is not None:
            try:
                await self.on_lost()
            except (RedisError, OSError) as error:
                log.warning("log_not_prepared", error=str(error) or type(error).__name__)

    @staticmethod
    def _failed(perhaps_stored: bool, reason: str) -> Problem:
        # The server's own words may name paths or addresses; they go to the log, not to the publisher.
        log.warning("append_refused", reason=reason, perhaps_stored=perhaps_stored)
        return Problem("outcome_unknown" if perhaps_stored else "log_unavailable")

    # -- reading --------------------------------------------------------------------------------------------------

    async def read(self, partition: int, after: StreamId, count: int, upto: StreamId | None = None) -> list[Entry]:
        """Up to `count` entries of a partition after `after`, in order."""
        last = "+" if upto is None else str(upto)
        while True:
            reply = await self.source.client.execute_command(
                "XRANGE", self.keys.events(partition), f"({after}", last, "COUNT", count
            )
            entries = parse(reply, self.epochs[partition])
            # A page of nothing but what others wrote is not the end.
            if entries or len(reply) < count:
                return entries
            after = StreamId.parse(reply[-1][0])

    async def first(self, partition: int) -> StreamId | None:
        """The oldest entry of a partition's stream; None when it is empty."""
        reply = await self.source.client.execute_command("XRANGE", self.keys.events(partition), "-", "+", "COUNT", 1)
        return StreamId.parse(reply[0][0]) if reply else None

    async def trimmed(self, partition: int) -> dict[str, Head]:
        """The last event that was trimmed away, of every tenant of a partition that lost one."""
        held = await self.source.client.hgetall(self.keys.floor(partition))
        return {tenant.decode(): _head(value) for tenant, value in held.items()}

    async def at(self, tenant_id: str, id: StreamId) -> Entry | None:
        """The entry with this id, or None when it is not in the stream (any more)."""
        partition = self.partition(tenant_id)
        key = self.keys.events(partition)
        entries = parse(
            await self.source.client.execute_command("XRANGE", key, str(id), str(id)), self.epochs[partition]
        )
        return entries[0] if entries and entries[0].tenant_id == tenant_id else None

    async def find(self, tenant_id: str, event_id: str) -> Entry | None:
        """The entry of an event, while its receipt and its stream entry last."""
        partition = self.partition(tenant_id)
        for key in self._receipts(partition, self._wall()):
            known = await self.source.client.hget(key, f"{tenant_id} {event_id}")
            if known is not None:
                return await self.at(tenant_id, StreamId.parse(known.split()[2]))
        return None

    def _receipts(self, partition: int, wall: float) -> tuple[str, ...]:
        """Receipts are kept by generations of the length they must last: a new one is begun, the older of two goes."""
        generation = int(wall // self._idempotency_s)
        return tuple(self.keys.receipts(partition, one) for one in (generation, generation - 1, generation + 1))

    def receipts_key(self, partition: int) -> tuple[str, int]:
        """Where receipts are written now, and the seconds they are kept."""
        return self._receipts(partition, self._wall())[0], self._receipts_ttl_s

    async def heads(self, tenants: Iterable[str]) -> dict[str, Head]:
        """The last event of each tenant; sequence 0 for one without events."""
        return await self._places(tenants, self.keys.sequences)

    async def floors(self, tenants: Iterable[str]) -> dict[str, Head]:
        """The last event of each tenant that was trimmed away; sequence 0 when all are there."""
        return await self._places(tenants, self.keys.floor)

    async def _places(self, tenants: Iterable[str], key: Callable[[int], str]) -> dict[str, Head]:
        by_partition: dict[int, list[str]] = {}
        for tenant in tenants:
            by_partition.setdefault(self.partition(tenant), []).append(tenant)
        found: dict[str, Head] = {}
        for partition, names in by_partition.items():
            for tenant, value in zip(names, await self.source.client.hmget(key(partition), names), strict=True):
                found[tenant] = _head(value)
        return found

    async def revisions(self, tenant_id: str, entities: Iterable[str]) -> dict[str, int]:
        """The present revision of each entity; 0 for one without events."""
        names = list(dict.fromkeys(entities))
        if not names:
            return {}
        key = self.keys.revisions(self.partition(tenant_id))
        held = await self.source.client.hmget(key, [f"{tenant_id} {name}" for name in names])
        return {name: 0 if value is None else int(value.split()[0]) for name, value in zip(names, held, strict=True)}

    async def note_hole(self, tenant_id: str, head: Head) -> None:
        """Write down that a tenant's events up to `head` are gone, so that later cursors below it get their gap."""
        key = self.keys.floor(self.partition(tenant_id))
        held = _head(await self.source.client.hget(key, tenant_id))
        if head.sequence > held.sequence:
            await self.source.client.hset(key, tenant_id, f"{head.sequence} {head.id}")

    async def tenants(self) -> dict[str, Head]:
        """Every tenant with events, and its last event."""
        found: dict[str, Head] = {}
        for partition in range(self.partitions):
            for tenant, value in (await self.source.client.hgetall(self.keys.sequences(partition))).items():
                found[tenant.decode()] = _head(value)
        return found

    async def resolve(self, cursors: dict[str, Cursor]) -> list[Start]:
        """Where reading each tenant after its cursor begins.

        A hole is never passed in silence: a cursor of another epoch, of an event that a failover lost, of one not yet
        written, or of a tail that was trimmed comes back with the reason of its gap.
        """
        heads, floors = await self.heads(cursors), await self.floors(cursors)
        return [await self._start(tenant, cursor, heads[tenant], floors[tenant]) for tenant, cursor in cursors.items()]

    async def _start(self, tenant_id: str, cursor: Cursor, head: Head, floor: Head) -> Start:
        place = Head(cursor.sequence, cursor.id)
        if cursor.epoch != self.epochs[self.partition(tenant_id)]:
            return Start(tenant_id, floor, "epoch")
        if cursor.sequence > head.sequence:
            return Start(tenant_id, head, "future")
        if cursor.sequence < floor.sequence:
            return Start(tenant_id, floor, "expired")
        if place in (head, floor) or (cursor.sequence == 0 and cursor.id == ZERO):
            return Start(tenant_id, place)
        entry = await self.at(tenant_id, cursor.id)
        if entry is not None and entry.sequence == cursor.sequence:
            return Start(tenant_id, place)
        return Start(tenant_id, floor, "epoch")

    async def aclose(self) -> None:
        """Take no more appends, finish those that wait, close the connections."""
        self._closing = True
        running = [lane.task for lane in self._lanes if lane.task is not None]
        if running:
            await asyncio.wait(running)
        await self.source.aclose()


def _head(value: bytes | None) -> Head:
    if value is None:
        return Head(0, ZERO)
    sequence, id = value.split()
    return Head(int(sequence), StreamId.parse(id))


def _passing(error: RedisError) -> bool:
    """Whether a server's refusal is one that waiting cures: starting up, failing over."""
    passing = (BusyLoadingError, ReadOnlyError, ClusterDownError, TryAgainError)
    return isinstance(error, passing) or str(error).startswith("BUSY")
