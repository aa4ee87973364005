"""Answers from the delivery ledger: pages of delivery logs, and the whole story of one event."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from hub.core import delivery
from hub.core.delivery import Row, Subscriber, View
from hub.core.entry import MASKED, Entry
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.history import History
from hub.store.database import StoreUnavailable
from hub.store.ledger import MAX_COVERING, Ledger
from schemas import patterns
from schemas.cursor import ZERO, StreamId
from schemas.delivery import DeliveryPage, EventDeliveryLog, EventTrace
from schemas.errors import FieldError, Problem

MAX_PAGE: Final = 500
MAX_SCANNED: Final = 2000
"""Events looked at for one page: a rare status gets an empty page that leads on."""
MAX_FAILURES: Final = 1000
"""The same where events are looked up by their failures."""
CHUNK: Final = 250
BATCH: Final = 64
"""Events whose rows are read together."""
_ROW: Final = re.compile(r"r([0-9]{1,15})-((?:[0-9a-f]{2}){1,64})")
_PLACE: Final = re.compile(r"p([0-9]{1,15})-([0-9]{1,19})-([0-9]{1,4})")
_FAILED: Final = ("dead_lettered", "discarded", "given_up")
_RETRYING: Final = ("retried", "redriven", "attempted")
_UNSEEN: Final = ("routed", "replayed")
"""Rows that say nothing of a status."""

Status = Literal["success", "failed", "retrying", "pending", "outstanding"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a listing is asked for. Times are Unix ms, from inclusive, until exclusive: of the append; with the status
    `failed` or `retrying`, of the failure. `tenants` None: all."""

    tenants: frozenset[str] | None
    patterns: frozenset[str] = frozenset()
    system: str | None = None
    status: Status | None = None
    since_ms: int = 0
    until_ms: int | None = None
    limit: int = 100
    after: str | None = None

    def asks_for(self, entry: Entry) -> bool:
        """Whether an event is one of those, whatever became of it."""
        if not entry.readable or (self.tenants is not None and entry.tenant_id not in self.tenants):
            return False
        if self.system is not None and self.system not in entry.targets:
            return False
        return not self.patterns or any(
            patterns.matches(pattern, entry.type, entry.action) for pattern in self.patterns
        )

    def is_met(self, entry: Entry, rows: Sequence[Row], now_ms: int, outstanding_ms: int) -> bool:
        """Whether the event has come to what is asked for: with the system, or with all together."""
        if self.status is None:
            return True
        systems = entry.targets if self.system is None else (self.system,)
        status = delivery.whole([delivery.with_system(rows, system, entry.id).status for system in systems])
        if self.status == "outstanding":
            return delivery.is_outstanding(status, entry, now_ms, outstanding_ms)
        return status == self.status


class Deliveries:
    """Reads ledger and history together. Every method raises `Problem` when one of them cannot be read."""

    def __init__(
        self, history: History, ledger: Ledger, *, outstanding_s: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._history = history
        self._ledger = ledger
        self._outstanding_ms = int(outstanding_s * 1000)
        self._clock = clock

    async def trace(self, claims: Claims, entry: Entry) -> EventTrace:
        """The story of an event that the token may see."""
        partition = self._history.partition(entry.tenant_id)
        try:
            rows = await self._ledger.covering(partition, entry.id, entry.id)
            durable = await self._ledger.subscribers([entry.tenant_id], entry.targets)
        except StoreUnavailable as error:
            raise Problem("store_unavailable") from error
        rows = [row for row in rows if delivery.is_about(row, partition, entry)]
        view = View(claims.has("ops"), claims.view == MASKED, claims.system)
        return delivery.trace_of(entry, rows, self._now_ms(), self._outstanding_ms, view, durable)

    async def find(self, claims: Claims, event_id: str, wanted: Wanted) -> DeliveryPage:
        """The delivery log of one event, on a page of its own; empty when it is not there or not as asked for."""
        try:
            tenants = wanted.tenants if wanted.tenants is not None else await self._history.tenants()
            for tenant in sorted(tenants):
                entry = await self._history.find(tenant, event_id)
                if entry is not None and wanted.asks_for(entry):
                    partition = self._history.partition(tenant)
                    (rows,) = await self._rows(partition, [entry])
                    log = self._log(claims, wanted, entry, rows, await self._subscribers(wanted))
                    return DeliveryPage(deliveries=[] if log is None else [log])
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error
        except StoreUnavailable as error:
            raise Problem("store_unavailable") from error
        return DeliveryPage(deliveries=[])

    async def page(self, claims: Claims, wanted: Wanted) -> DeliveryPage:
        """A page, oldest first: by append, or with the status `failed` or `retrying` by when that came."""
        try:
            if wanted.status == "failed":
                return await self._by_row(claims, wanted, _FAILED)
            if wanted.status == "retrying":
                return await self._by_row(claims, wanted, _RETRYING)
            return await self._by_place(claims, wanted)
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error
        except StoreUnavailable as error:
            raise Problem("store_unavailable") from error

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    # -- by what happened -----------------------------------------------------------------------------------------

    async def _by_row(self, claims: Claims, wanted: Wanted, kinds: Collection[str]) -> DeliveryPage:
        after = _row_after(wanted.after)
        until = wanted.until_ms if wanted.until_ms is not None else 1 << 62
        durable = await self._subscribers(wanted)
        found: list[EventDeliveryLog] = []
        scanned = 0
        while scanned < MAX_FAILURES:
            rows = await self._ledger.page(kinds, wanted.since_ms, until, after, CHUNK)
            for row in rows:
                after = (row.last_ms, row.id)
                scanned += 1
                entry = await self._entry(row, wanted)
                if entry is None:
                    continue
                covering = await self._rows(row.partition, [entry])
                if any(other.kind in kinds and (other.last_ms, other.id) > after for other in covering[0]):
                    continue  # it is listed with its latest failure
                log = self._log(claims, wanted, entry, covering[0], durable)
                if log is not None:
                    found.append(log)
                    if len(found) >= wanted.limit:
                        return DeliveryPage(deliveries=found, next=f"r{after[0]}-{after[1].hex()}")
            if len(rows) < CHUNK:
                return DeliveryPage(deliveries=found)
        return DeliveryPage(deliveries=found, next=f"r{after[0]}-{after[1].hex()}")

    async def _entry(self, row: Row, wanted: Wanted) -> Entry | None:
        if row.tenant_id is not None and wanted.tenants is not None and row.tenant_id not in wanted.tenants:
            return None
        place = row.first
        entries = await self._history.read(row.partition, place.previous, 1, upto=place)
        if not entries or entries[0].id != place or not wanted.asks_for(entries[0]):
            return None
        return entries[0]

    # -- by place -------------------------------------------------------------------------------------------------

    async def _by_place(self, claims: Claims, wanted: Wanted) -> DeliveryPage:
        now = self._now_ms()
        until = now + 1000 if wanted.until_ms is None else wanted.until_ms
        if wanted.status == "outstanding":
            until = min(until, now - self._outstanding_ms)
        at, of = _place_after(wanted.after)
        if at is None:
            at, of = StreamId(wanted.since_ms, 0).previous if wanted.since_ms else ZERO, -1
        if until <= wanted.since_ms:
            return DeliveryPage(deliveries=[])
        durable = await self._subscribers(wanted)
        lanes = [
            _Lane(partition, at if partition <= of or of < 0 else at.previous) for partition in self._partitions(wanted)
        ]
        upto = StreamId(until, 0).previous
        found: list[EventDeliveryLog] = []
        scanned = 0
        while scanned < MAX_SCANNED:
            batch: list[tuple[int, Entry]] = []
            while len(batch) < BATCH and scanned < MAX_SCANNED:
                next = await self._next(lanes, upto, wanted)
                if next is None:
                    break
                scanned += 1
                (of, entry), at = next, next[1].id
                if wanted.asks_for(entry):
                    batch.append((of, entry))
            ended = len(batch) < BATCH and scanned < MAX_SCANNED
            for (partition, entry), rows in zip(batch, await self._batch(batch), strict=True):
                log = self._log(claims, wanted, entry, rows, durable)
                if log is not None:
                    found.append(log)
                    if len(found) >= wanted.limit:
                        return DeliveryPage(deliveries=found, next=f"p{entry.id}-{partition}")
            if ended:
                return DeliveryPage(deliveries=found)
        return DeliveryPage(deliveries=found, next=f"p{at}-{of}")

    def _partitions(self, wanted: Wanted) -> list[int]:
        if wanted.tenants is None:
            return list(range(self._history.log.partitions))
        return sorted({self._history.partition(tenant) for tenant in wanted.tenants})

    async def _next(self, lanes: Iterable[_Lane], upto: StreamId, wanted: Wanted) -> tuple[int, Entry] | None:
        """The next entry of all lanes."""
        for lane in lanes:
            while not lane.ready and not lane.ended:
                entries = await self._history.read(lane.partition, lane.at, CHUNK, upto=upto, tenants=wanted.tenants)
                lane.ended = not entries
                if entries:
                    lane.at = entries[-1].id
                lane.ready = entries[::-1]
        ready = [lane for lane in lanes if lane.ready]
        if not ready:
            return None
        lane = min(ready, key=lambda one: (one.ready[-1].id, one.partition))
        return lane.partition, lane.ready.pop()

    # -- rows -----------------------------------------------------------------------------------------------------

    async def _batch(self, batch: Sequence[tuple[int, Entry]]) -> list[list[Row]]:
        by_partition: dict[int, list[Entry]] = {}
        for partition, entry in batch:
            by_partition.setdefault(partition, []).append(entry)
        found: dict[tuple[int, StreamId], list[Row]] = {}
        for partition, entries in by_partition.items():
            for entry, rows in zip(entries, await self._rows(partition, entries), strict=True):
                found[partition, entry.id] = rows
        return [found[partition, entry.id] for partition, entry in batch]

    async def _rows(self, partition: int, entries: Sequence[Entry]) -> list[list[Row]]:
        """For each of a partition's entries, in order, the rows that speak of it."""
        rows = await self._ledger.covering(partition, entries[0].id, entries[-1].id, without=_UNSEEN)
        if len(rows) >= MAX_COVERING and len(entries) > 1:
            # More than are read at once would leave out what was acknowledged.
            half = len(entries) // 2
            return [*await self._rows(partition, entries[:half]), *await self._rows(partition, entries[half:])]
        return delivery.by_event(rows, partition, entries)

    def _log(
        self, claims: Claims, wanted: Wanted, entry: Entry, rows: Sequence[Row], durable: Iterable[Subscriber]
    ) -> EventDeliveryLog | None:
        now_ms = self._now_ms()
        if not wanted.is_met(entry, rows, now_ms, self._outstanding_ms):
            return None
        view = View(claims.has("ops"), claims.view == MASKED, claims.system)
        return delivery.log_of(entry, rows, now_ms, self._outstanding_ms, view, durable)

    async def _subscribers(self, wanted: Wanted) -> list[Subscriber]:
        return await self._ledger.subscribers(wanted.tenants, None if wanted.system is None else [wanted.system])


class _Lane:
    """One partition's share of a page. `ready` is in reverse."""

    __slots__ = ("at", "ended", "partition", "ready")

    def __init__(self, partition: int, at: StreamId) -> None:
        self.partition = partition
        self.at = at
        self.ready: list[Entry] = []
        self.ended = False


def _row_after(after: str | None) -> tuple[int, bytes]:
    if after is None:
        return 0, b""
    found = _ROW.fullmatch(after)
    if found is None:
        raise _bad_after()
    return int(found[1]), bytes.fromhex(found[2])


def _place_after(after: str | None) -> tuple[StreamId | None, int]:
    if after is None:
        return None, -1
    found = _PLACE.fullmatch(after)
    if found is None:
        raise _bad_after()
    ms, n, partition = map(int, found.groups())
    if not (0 < ms < 1 << 48 and n < 1 << 62):
        raise _bad_after()
    return StreamId(ms, n), partition


def _bad_after() -> Problem:
    error = FieldError("after", "is not the `next` of a page of this listing with the same status")
    return Problem("invalid_request", f"{error.path}: {error.message}", [error])


__all__ = ["MAX_PAGE", "Deliveries", "Status", "Wanted"]
