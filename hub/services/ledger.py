"""Writes the delivery ledger: what the hot paths say in passing, gathered and stored once a second.

The calls are synchronous and cost the same however many connections or events they speak of. What the store does not
take is kept to a bound and then lost, oldest first: the ledger may say less than happened, never more.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import structlog

from hub.core.delivery import Row, Subscriber, interest_text, row
from hub.core.entry import Entry
from hub.core.routing import Audience, Interest
from hub.core.subscription import Subscription
from hub.core.webhooks import Delivery
from hub.log.dead_letters import DeadLetter
from hub.services.ending import end
from hub.services.live_ranges import LiveRanges, Trail
from hub.store.database import StoreUnavailable
from hub.store.ledger import Ledger
from hub.telemetry import Metrics
from schemas.cursor import StreamId

EVERY_S: Final = 1.0
BUCKET_MS: Final = 200
"""How exactly it is known when an event was routed."""
MAX_WAITING: Final = 50_000
CHUNK: Final = 5000
STOP_S: Final = 5.0

log = structlog.get_logger("hub.ledger")


def known_id(*parts: str) -> bytes:
    """The id of a row that more than one process may write: the same for the same thing."""
    return blake2b("\0".join(parts).encode(), digest_size=16).digest()


def delivered_id(endpoint_id: str, event_id: str) -> bytes:
    """The id of the row that says of an event that a webhook endpoint took it."""
    return known_id("webhook delivered", endpoint_id, event_id)


def letter_row(letter: DeadLetter, hub: str) -> Row | None:
    """What a dead letter says; None where its event's place is not known."""
    return _of_letter("dead_lettered", letter, hub, None)


def _of_letter(
    kind: str, letter: DeadLetter, hub: str, now_ms: int | None, place: StreamId | None = None
) -> Row | None:
    try:
        source = StreamId.parse(letter.source_id)
        partition, at = int(letter.id[1:3]), StreamId.parse(letter.id[4:])
    except ValueError:
        return None
    buried = kind == "dead_lettered"
    return row(
        known_id(kind, letter.group, letter.id),
        kind,
        partition,
        source,
        source,
        hub=hub,
        first_ms=at.ms if now_ms is None else now_ms,
        tenant_id=letter.tenant_id or None,
        event_id=letter.event_id or None,
        name=letter.group,
        session=letter.id if kind == "redriven" else None,
        ref=letter.id if place is None else str(place),
        attempts=letter.attempts if buried else None,
        error=letter.reason if buried else None,
    )


@lru_cache(maxsize=4096)
def _text(interest: Interest) -> str:
    return interest_text([interest])


class _Bucket:
    __slots__ = ("events", "first", "first_ms", "last", "last_ms")

    def __init__(self, first: StreamId, last: StreamId, events: int, now: int) -> None:
        self.first, self.last, self.events = first, last, events
        self.first_ms = self.last_ms = now


class Recorder:
    """What one process writes into the ledger. Does nothing before `start`; the composition root awaits `stop`."""

    def __init__(
        self,
        metrics: Metrics,
        partition: Callable[[str], int],
        *,
        clock: Callable[[], float] = time.time,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        self.hub = secrets.token_hex(4)
        """This process, in the rows."""
        self._metrics = metrics
        self._partition = partition
        self._clock = clock
        self._max_waiting = max_waiting
        self._ledger: Ledger | None = None
        self._on = False
        self._task: asyncio.Task[None] | None = None
        self._prefix = secrets.token_bytes(8)
        self._numbers = itertools.count()
        self._live = LiveRanges(partition, self.hub, self._put, self._new_id, self._now_ms)
        self._rows: dict[bytes, Row] = {}
        self._routed: dict[int, _Bucket] = {}
        self._acked: dict[tuple[str, int | str, str], Row] = {}
        self._caught_up: dict[tuple[str, int | str, int, str], Row] = {}
        self._durable: dict[tuple[str, str, str], Subscriber] = {}
        self._failing = False

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self, ledger: Ledger) -> None:
        """Begin to record."""
        self._ledger, self._on = ledger, True
        self._task = asyncio.create_task(self._run(), name="ledger")

    async def stop(self) -> None:
        """Write what is gathered, and end."""
        task, self._task = self._task, None
        if task is None:
            return
        await end(task)
        self._on = False
        try:
            async with asyncio.timeout(STOP_S):
                await self.write(everything=True)
        except Exception as error:  # what else has to be stopped is stopped
            log.warning("ledger_not_written", rows=len(self._rows), error=str(error) or type(error).__name__)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.write()
            except Exception:  # the hub delivers, whatever becomes of its notes
                log.exception("ledger_failed")

    async def write(self, *, everything: bool = False) -> None:
        """Store what was gathered. When the store does not take it, it is kept to a bound."""
        self._gather(everything)
        self._metrics.ledger_waiting.set(len(self._rows))
        while self._ledger is not None and (self._rows or self._durable):
            taken = dict(itertools.islice(self._rows.items(), CHUNK))
            durable, self._durable = self._durable, {}
            for id in taken:
                del self._rows[id]
            try:
                await self._ledger.write(list(taken.values()), list(durable.values()))
            except BaseException as error:
                # A row that has grown meanwhile is newer than the one that was not stored.
                self._rows = taken | self._rows
                self._durable = durable | self._durable
                self._bound()
                if not isinstance(error, StoreUnavailable):
                    raise
                if not self._failing:
                    log.warning("ledger_waits_for_store", error=str(error))
                self._failing = True
                return
            self._failing = False
            self._metrics.ledger_rows.inc(len(taken))
        self._metrics.ledger_waiting.set(len(self._rows))

    def _gather(self, everything: bool) -> None:
        self._live.tick(everything=everything)
        for partition, bucket in self._routed.items():
            self._put(self._bucket_row(partition, bucket))
        self._routed.clear()
        for rows in (self._acked, self._caught_up):
            for one in rows.values():
                self._put(one)
            rows.clear()

    def _put(self, one: Row) -> None:
        self._rows[one.id] = one
        if len(self._rows) > self._max_waiting:
            self._bound()

    def _bound(self) -> None:
        excess = len(self._rows) - self._max_waiting
        if excess > 0:
            for id in list(itertools.islice(self._rows, excess)):
                del self._rows[id]
            self._metrics.ledger_dropped.inc(excess)

    def _new_id(self) -> bytes:
        return self._prefix + next(self._numbers).to_bytes(8, "big")

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    # -- the dispatcher -------------------------------------------------------------------------------------------

    def routed(self, partition: int, entries: Sequence[Entry]) -> None:
        """A partition's next entries were fanned out."""
        if not self._on or not entries:
            return
        now, last = self._now_ms(), entries[-1].id
        bucket = self._routed.get(partition)
        if bucket is not None:
            if now - bucket.first_ms <= BUCKET_MS and bucket.last < entries[0].id:
                bucket.last, bucket.last_ms = last, now
                bucket.events += len(entries)
                return
            self._put(self._bucket_row(partition, bucket))
        self._routed[partition] = _Bucket(entries[0].id, last, len(entries), now)

    def _bucket_row(self, partition: int, bucket: _Bucket) -> Row:
        return row(
            self._new_id(),
            "routed",
            partition,
            bucket.first,
            bucket.last,
            hub=self.hub,
            first_ms=bucket.first_ms,
            last_ms=bucket.last_ms,
            events=bucket.events,
        )

    def flushed(self, audience: Audience, events: Sequence[Entry]) -> None:
        """A group's members were written these events; those that refused them have left."""
        if self._on:
            self._live.flushed(audience, events)

    # -- connections ----------------------------------------------------------------------------------------------

    def joined(self, trail: Trail, audience: Audience) -> None:
        """A connection went live."""
        if self._on:
            self._live.joined(trail, audience)

    def left(self, trail: Trail) -> None:
        """A connection is live no longer; it has what its group was flushed before, and nothing after."""
        self._live.left(trail)

    def caught_up(
        self, trail: Trail, served: Iterable[tuple[Subscription, StreamId]], partition: int, entries: Sequence[Entry]
    ) -> None:
        """A connection that was behind was written a page. `served`: its subscriptions that were behind, and where
        each stood before; where they stand now, everything they ask for has been written."""
        if not self._on:
            return
        now = self._now_ms()
        for one, stood in served:
            last = one.at[partition]
            fresh = [entry for entry in entries if stood < entry.id <= last]
            if not fresh:
                continue
            interest = self._begun(one, partition, stood)
            if interest is None:
                continue
            text = _text(interest)
            key = (trail.session, one.id, partition, text)
            held = self._caught_up.get(key)
            # Only where the row ends: in between, a subscription may have been closed and opened again elsewhere.
            if held is not None and stood <= held.last < fresh[0].id:
                first, first_ms, id = held.first, held.first_ms, held.id
            else:
                if held is not None:
                    self._put(held)
                first, first_ms, id = fresh[0].id, now, self._new_id()
            self._caught_up[key] = row(
                id,
                "caught_up",
                partition,
                first,
                last,
                hub=self.hub,
                first_ms=first_ms,
                last_ms=now,
                system=trail.system,
                channel="websocket",
                session=trail.session,
                name=one.name,
                interest=text,
            )

    def _begun(self, one: Subscription, partition: int, stood: StreamId) -> Interest | None:
        """What a subscription asks for, without the tenants it begins with later than where it stood."""
        if one.last_begin[partition] <= stood and one.begin[partition] <= stood:
            return one.interest
        begun = frozenset(
            tenant for tenant, id in one.begin_of.items() if id <= stood and self._partition(tenant) == partition
        )
        if one.interest.tenants is not None:
            begun &= one.interest.tenants
        return Interest(begun, one.interest.patterns, one.interest.entities) if begun else None

    def opened(self, trail: Trail, one: Subscription) -> None:
        """A durable subscription was opened."""
        if self._on and one.name is not None:
            tenants = one.begin_of if one.interest.tenants is None else one.interest.tenants
            for tenant in tenants:
                place = one.begin_of.get(tenant, one.begin[self._partition(tenant)])
                self._moved(trail, one, tenant, one.acked.get(tenant, 0), place)

    def acked(
        self, trail: Trail, one: Subscription, tenant_id: str, sequence: int, place: StreamId, given: bool
    ) -> None:
        """A durable subscription came to a place: by an acknowledgement, or (not `given`) because nothing before it
        was its own."""
        if not self._on or one.name is None:
            return
        partition = self._partition(tenant_id)
        begin = one.begin_of.get(tenant_id, one.begin[partition])
        before = max(trail.acked.get((one.id, tenant_id), begin), begin)
        trail.acked[(one.id, tenant_id)] = place
        self._moved(trail, one, tenant_id, sequence, place)
        if not given or place <= before:
            return
        key = (trail.session, one.id, tenant_id)
        now, held = self._now_ms(), self._acked.get(key)
        first = before.next
        if held is not None and held.last < first:
            first, first_ms, id = held.first, held.first_ms, held.id
        else:
            if held is not None:
                self._put(held)
            first_ms, id = now, self._new_id()
        self._acked[key] = row(
            id,
            "acked",
            partition,
            first,
            place,
            hub=self.hub,
            first_ms=first_ms,
            last_ms=now,
            tenant_id=tenant_id,
            system=trail.system,
            channel="websocket",
            session=trail.session,
            name=one.name,
            interest=_text(one.interest),
        )

    def _moved(self, trail: Trail, one: Subscription, tenant_id: str, sequence: int, place: StreamId) -> None:
        assert one.name is not None
        self._durable[(trail.system, one.name, tenant_id)] = Subscriber(
            trail.system, one.name, tenant_id, _text(one.interest), sequence, place, self._now_ms()
        )

    # -- HTTP -----------------------------------------------------------------------------------------------------

    def polled(
        self,
        system: str,
        channel: str,
        interest: Interest,
        entries: Sequence[Entry],
        from_ms: int | None = None,
        to_ms: int | None = None,
    ) -> None:
        """A page was given: of each tenant, everything from its first to its last event in it that was asked for."""
        if not self._on or not entries:
            return
        now, text = self._now_ms(), interest_text([interest], from_ms, to_ms)
        spans: dict[str, list[Entry]] = {}
        for entry in entries:
            spans.setdefault(entry.tenant_id, []).append(entry)
        for tenant, given in spans.items():
            self._put(
                row(
                    self._new_id(),
                    "polled",
                    self._partition(tenant),
                    given[0].id,
                    given[-1].id,
                    hub=self.hub,
                    first_ms=now,
                    tenant_id=tenant,
                    system=system,
                    channel=channel,
                    interest=text,
                    events=len(given),
                )
            )

    def webhook(self, kind: str, delivery: Delivery, system: str, at_ms: int, error: str | None = None) -> None:
        """An attempt at a webhook failed (`attempted`), was taken (`delivered`), or there is to be no other
        (`given_up`)."""
        if not self._on:
            return
        key = delivery.key
        id = delivered_id(key.endpoint_id, delivery.event_id)
        if kind != "delivered":
            id = known_id("webhook", kind, key.endpoint_id, key.replay_id, delivery.event_id, str(delivery.attempts))
        self._put(
            row(
                id,
                kind,
                delivery.partition,
                key.id,
                key.id,
                hub=self.hub,
                first_ms=at_ms,
                tenant_id=delivery.tenant_id,
                event_id=delivery.event_id,
                system=system,
                channel="webhook",
                name=key.endpoint_id,
                attempts=delivery.attempts,
                error=error,
            )
        )

    def redriven(self, letters: Iterable[DeadLetter], places: Mapping[str, StreamId]) -> None:
        """Dead letters went back to their group; `places` by letter in the stream they went to."""
        for letter in letters:
            if (place := places.get(letter.id)) is not None:
                self._letter(letter, "redriven", place)

    def discarded(self, letters: Iterable[DeadLetter]) -> None:
        """Dead letters were removed for good."""
        for letter in letters:
            self._letter(letter, "discarded")

    def _letter(self, letter: DeadLetter, kind: str, place: StreamId | None = None) -> None:
        if not self._on:
            return
        # The letter too: it may be gone before the groups are next looked at.
        for one in (letter_row(letter, self.hub), _of_letter(kind, letter, self.hub, self._now_ms(), place)):
            if one is not None:
                self._put(one)

    def replayed(
        self,
        replay_id: str,
        target: str,
        partition: int,
        first: StreamId,
        last: StreamId,
        *,
        events: int,
        system: str | None = None,
        interests: Iterable[Interest] = (),
        tenant_id: str | None = None,
        times: tuple[int | None, int | None] = (None, None),
    ) -> None:
        """Of this range of places, ends included, what the interests ask for was replayed to a target; with `times`
        (Unix ms of recorded_at, from inclusive, to exclusive) only what was recorded between them."""
        if not self._on:
            return
        interests, now = list(interests), self._now_ms()
        self._put(
            row(
                self._new_id(),
                "replayed",
                partition,
                first,
                last,
                hub=self.hub,
                first_ms=now,
                tenant_id=tenant_id,
                system=system,
                channel=target[:20],
                ref=replay_id,
                interest=interest_text(interests, *times) if interests else None,
                events=events,
            )
        )
