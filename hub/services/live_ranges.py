"""What live connections were sent, as ranges of places.

The fan-out says once a flush and group what it wrote; a connection says when it joins its group and when it leaves it.
Between the two it has had everything the group was written. A group's flushes are gathered into segments, cut where
somebody joins, so that a member's range is the segments since it came: nothing is counted per member and event.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final

from hub.core.delivery import Row, interest_text, row
from hub.core.entry import Entry
from hub.core.routing import Audience
from schemas.cursor import StreamId

RUN_MS: Final = 50_000
"""A range is ended after so long, however long its connection lives: a narrow one is found at once."""
FOLD_EVENTS: Final = 2048
MAX_SEGMENTS: Final = 64
ROWS_A_TICK: Final = 4000
"""Growing rows written at once; more groups wait for the next time."""
_REMEMBERED: Final = 100_000


class Trail:
    """One connection in the ledger."""

    __slots__ = ("_ids", "_run", "_since", "acked", "session", "system")

    def __init__(self, session: str, system: str) -> None:
        self.session = session
        self.system = system
        self.acked: dict[tuple[int | str, str], StreamId] = {}
        """Up to where its durable subscriptions came, by subscription and tenant."""
        self._run: _Run | None = None
        self._since = 0
        self._ids: dict[int, bytes] = {}


class _Span:
    __slots__ = ("events", "first", "first_ms", "last", "last_ms")

    def __init__(self, first: StreamId, last: StreamId, events: int, first_ms: int, last_ms: int) -> None:
        self.first = first
        self.last = last
        self.events = events
        self.first_ms = first_ms
        self.last_ms = last_ms


_Segment = dict[int, _Span]


class _Run:
    """What a group was written since its ranges began."""

    __slots__ = ("audience", "flushed", "interest", "members", "segments", "started_ms", "touched", "waiting")

    def __init__(self, audience: Audience) -> None:
        self.audience = audience
        self.interest = interest_text(audience.interests)
        self.members: set[Trail] = set()
        self.segments: list[_Segment] = [{}]
        self.flushed: list[tuple[Sequence[Entry], int]] = []
        self.waiting = 0
        self.touched: set[int] = set()
        self.started_ms = 0

    def since(self, segment: int) -> _Segment:
        """The segments from one on, as one."""
        if segment == len(self.segments) - 1:
            return self.segments[segment]
        found: _Segment = {}
        for one in self.segments[segment:]:
            for partition, span in one.items():
                held = found.get(partition)
                if held is None:
                    found[partition] = _Span(span.first, span.last, span.events, span.first_ms, span.last_ms)
                else:
                    held.last, held.last_ms = span.last, span.last_ms
                    held.events += span.events
        return found


class LiveRanges:
    """All groups of one process. `write` takes the rows; one that has grown comes again with its id."""

    def __init__(
        self,
        partition: Callable[[str], int],
        hub: str,
        write: Callable[[Row], None],
        new_id: Callable[[], bytes],
        now_ms: Callable[[], int],
    ) -> None:
        self._partition = partition
        self._hub = hub
        self._write = write
        self._new_id = new_id
        self._now_ms = now_ms
        self._runs: dict[Audience, _Run] = {}
        self._dirty: dict[Audience, _Run] = {}
        self._partitions: dict[str, int] = {}

    def flushed(self, audience: Audience, events: Sequence[Entry]) -> None:
        """A group's members were written these events; those that refused them have left."""
        run = self._runs.get(audience)
        if run is None:
            return
        now = self._now_ms()
        if run.started_ms and now - run.started_ms > RUN_MS:
            self._begin_again(run)
        run.started_ms = run.started_ms or now
        run.flushed.append((events, now))
        run.waiting += len(events)
        self._dirty[audience] = run
        if run.waiting >= FOLD_EVENTS:
            self._fold(run)

    def joined(self, trail: Trail, audience: Audience) -> None:
        """A connection has everything that its group was written, and is written what follows."""
        self.left(trail)
        run = self._runs.get(audience)
        if run is None:
            run = self._runs[audience] = _Run(audience)
        self._fold(run)
        if run.segments[-1]:
            run.segments.append({})
        run.members.add(trail)
        trail._run, trail._since, trail._ids = run, len(run.segments) - 1, {}

    def left(self, trail: Trail) -> None:
        """A connection has left its group: what it was flushed before is its own, nothing after."""
        run = trail._run
        if run is None:
            return
        trail._run = None
        self._fold(run)
        self._emit(run, trail, run.since(trail._since), run.touched)
        run.members.discard(trail)
        if not run.members and self._runs.get(run.audience) is run:
            del self._runs[run.audience]
            self._dirty.pop(run.audience, None)

    def tick(self, *, everything: bool = False) -> None:
        """Hand out the ranges that have grown since the last time."""
        rows = 0
        for audience, run in list(self._dirty.items()):
            if rows >= ROWS_A_TICK and not everything:
                break
            del self._dirty[audience]
            self._fold(run)
            rows += self._emit_all(run)
            if len(run.segments) > MAX_SEGMENTS:
                self._begin_again(run)

    def _fold(self, run: _Run) -> None:
        flushed, run.flushed, run.waiting = run.flushed, [], 0
        for events, now in flushed:
            for entry in events:
                partition = self._place(entry.tenant_id)
                span = run.segments[-1].get(partition)
                if span is not None and entry.id <= span.last:
                    # The history was replaced: places begin again.
                    self._begin_again(run)
                    span = None
                if span is None:
                    run.segments[-1][partition] = _Span(entry.id, entry.id, 1, now, now)
                else:
                    span.last, span.last_ms = entry.id, now
                    span.events += 1
                run.touched.add(partition)

    def _place(self, tenant_id: str) -> int:
        found = self._partitions.get(tenant_id)
        if found is None:
            if len(self._partitions) >= _REMEMBERED:
                self._partitions.clear()
            found = self._partitions[tenant_id] = self._partition(tenant_id)
        return found

    def _begin_again(self, run: _Run) -> None:
        """End everybody's ranges here; the next flush begins new ones."""
        if run.flushed:
            self._fold(run)
        self._emit_all(run)
        run.segments, run.started_ms = [{}], 0
        for trail in run.members:
            trail._since, trail._ids = 0, {}

    def _emit_all(self, run: _Run) -> int:
        spans: dict[int, _Segment] = {}
        touched = run.touched
        if touched:
            for trail in run.members:
                since = trail._since
                if since not in spans:
                    spans[since] = run.since(since)
                self._emit(run, trail, spans[since], touched)
            run.touched = set()
        return len(run.members) * len(touched)

    def _emit(self, run: _Run, trail: Trail, spans: _Segment, touched: Collection[int]) -> None:
        for partition in touched:
            span = spans.get(partition)
            if span is None:
                continue
            id = trail._ids.get(partition)
            if id is None:
                id = trail._ids[partition] = self._new_id()
            self._write(
                row(
                    id,
                    "sent",
                    partition,
                    span.first,
                    span.last,
                    hub=self._hub,
                    first_ms=span.first_ms,
                    last_ms=span.last_ms,
                    system=trail.system,
                    channel="websocket",
                    session=trail.session,
                    interest=run.interest,
                    events=span.events,
                )
            )
