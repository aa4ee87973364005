"""Reads what a plan selects, all its partitions as one, in the order of their places.

By rows where hundreds of thousands go by: an `Entry` for each would cost as much as reading it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from operator import attrgetter, itemgetter
from typing import Any, Final, Generic, TypeVar

from hub.core.entry import Entry
from hub.core.routing import may_see
from hub.services.history import History
from hub.services.replay_plan import Plan
from hub.store.archive import ROW
from hub.store.database import StoreUnavailable
from schemas import patterns
from schemas.cursor import ZERO, StreamId
from schemas.types import HUB

PAGE: Final = 1000
"""Entries of one partition in one read."""
MS, N, EPOCH, TENANT, SEQUENCE, REVISION, TYPE, ACTION, ENTITY, KEY, RECORDED, BODY = range(len(ROW))

Row = Sequence[Any]
"""A row of the archive (`ROW`), or an entry of the log in its shape: its tenant is a number, or a name."""
Item = TypeVar("Item")
Read = Callable[[int, StreamId, StreamId], Awaitable[list[Item]]]

_place: Final = itemgetter(MS, N)
_id: Final = attrgetter("id")


@dataclass(slots=True)
class Counts:
    """What a replay would send. Times are Unix ms of recorded_at."""

    by_type: Counter[str] = field(default_factory=Counter)
    first_ms: int | None = None
    last_ms: int | None = None

    @property
    def events(self) -> int:
        """All of them."""
        return sum(self.by_type.values())


@dataclass(slots=True)
class _Lane(Generic[Item]):
    """One partition: how far it was read, and what is not handed on yet."""

    partition: int
    at: StreamId
    end: StreamId
    ready: list[Item] = field(default_factory=list)
    done: bool = False


class Choice:
    """`Plan.wants` for rows: what it takes for each of them is looked up once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._kinds: dict[tuple[str, str], bool] = {}
        self._spans: dict[Any, tuple[StreamId, StreamId, float, float] | None] = {}
        self.names: dict[Any, str] = {}
        """The tenants of rows, by what stands there for them."""

    def learn(self, number: Any, name: str) -> None:
        """A tenant, before its rows come."""
        self.names[number], plan = name, self._plan
        end = plan.ends.get(name)
        low, high = plan.times.get(name, (None, None))
        self._spans[number] = (
            None
            if end is None
            else (
                plan.begins.get(name, ZERO),
                end,
                float("-inf") if low is None else low,
                float("inf") if high is None else high,
            )
        )

    def of(self, rows: Sequence[Row]) -> list[Row]:
        """The rows that the plan wants."""
        found: list[Row] = []
        kinds, spans, entities = self._kinds, self._spans, self._plan.interest.entities
        for row in rows:
            ms, n, _, tenant, _, _, type, action, entity, _, recorded, body = row
            span = spans[tenant]
            if span is None or not body:
                continue
            begin, end, low, high = span
            if not begin < (ms, n) <= end or not low <= recorded < high:
                continue
            kind = kinds.get((type, action))
            if kind is None:
                patterns_ = self._plan.interest.patterns
                kind = kinds[type, action] = any(patterns.matches(one, type, action) for one in patterns_)
            if kind and (entities is None or entity in entities):
                found.append(row)
        return found


class Reading:
    """Reads histories for replays."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._archive = history.store.archive

    def rows(self, plan: Plan) -> AsyncIterator[list[Row]]:
        """Rows page by page, among them what the plan does not want: `wanted` says which it does.

        Raises:
            StoreUnavailable, RedisError, OSError: what comes next cannot be read now.
        """

        async def read(partition: int, after: StreamId, end: StreamId) -> list[Row]:
            return await self._rows(plan, partition, after, end)

        return self._merged(plan, read, _place)

    def entries(self, plan: Plan) -> AsyncIterator[list[Entry]]:
        """The same as entries, those that are wanted."""

        async def read(partition: int, after: StreamId, end: StreamId) -> list[Entry]:
            return await self.page(plan, partition, after, end, PAGE)

        return self._wanted(plan, self._merged(plan, read, _id))

    async def page(self, plan: Plan, partition: int, after: StreamId, end: StreamId, count: int) -> list[Entry]:
        """Entries of one partition, wanted or not; nothing at all means that nothing lies in between."""
        tenants = None if plan.every else self._tenants(plan, partition)
        return await self.history.read(partition, after, count, upto=end, tenants=tenants)

    async def learn(self, rows: Sequence[Row], choice: Choice) -> None:
        """Tell a choice the names of these rows' tenants."""
        for number in {row[TENANT] for row in rows} - choice.names.keys():
            choice.learn(number, number if isinstance(number, str) else await self._archive.name(number))

    async def count(self, plan: Plan, system: str = HUB) -> Counts:
        """What the plan selects of what a system may see."""
        counts, choice = Counts(), Choice(plan)
        async for rows in self.rows(plan):
            await self.learn(rows, choice)
            for row in choice.of(rows):
                recorded = row[RECORDED]
                if system != HUB and not _seen_by(system, row, choice):
                    continue
                counts.by_type[f"{row[TYPE]}.{row[ACTION]}"] += 1
                if counts.first_ms is None or recorded < counts.first_ms:
                    counts.first_ms = recorded
                if counts.last_ms is None or recorded > counts.last_ms:
                    counts.last_ms = recorded
            await asyncio.sleep(0)
        return counts

    async def _rows(self, plan: Plan, partition: int, after: StreamId, end: StreamId) -> list[Row]:
        tenants = None if plan.every else self._tenants(plan, partition)
        rows: list[Row] = []
        with suppress(StoreUnavailable):  # the history knows whether the log has it all
            rows = await self._archive.rows(partition, after, PAGE, before=end.next, tenants=tenants)
        if len(rows) >= PAGE:
            return rows
        if rows:
            after = StreamId(rows[-1][MS], rows[-1][N])
        entries = await self.history.read(partition, after, PAGE, upto=end, tenants=tenants)
        return [*rows, *map(as_row, entries)]

    def _tenants(self, plan: Plan, partition: int) -> list[str]:
        return [tenant for tenant in plan.ends if self.history.partition(tenant) == partition]

    async def _merged(self, plan: Plan, read: Read[Item], place: Callable[[Item], Any]) -> AsyncIterator[list[Item]]:
        lanes = [_Lane[Item](number, begin, end) for number, (begin, end) in plan.spans(self.history).items()]
        while True:
            for lane in lanes:
                if not lane.ready and not lane.done:
                    lane.ready = await read(lane.partition, lane.at, lane.end)
                    lane.done = not lane.ready
                    if lane.ready:
                        lane.at = StreamId(*place(lane.ready[-1]))
            lanes = [lane for lane in lanes if not lane.done]
            if not lanes:
                return
            # Nothing that is not read yet lies before this place.
            bound = min(place(lane.ready[-1]) for lane in lanes)
            found: list[Item] = []
            for lane in lanes:
                cut = bisect_right(lane.ready, bound, key=place)
                found += lane.ready[:cut]
                del lane.ready[:cut]
            if len(lanes) > 1:
                found.sort(key=place)
            yield found

    async def _wanted(self, plan: Plan, pages: AsyncIterator[list[Entry]]) -> AsyncIterator[list[Entry]]:
        async for page in pages:
            yield [entry for entry in page if wants(plan, entry)]


def wants(plan: Plan, entry: Entry) -> bool:
    """Whether an entry is an event the plan selects."""
    return (
        bool(entry.raw)
        and plan.wants(entry.tenant_id, entry.id, entry.type, entry.action, entry.entity, entry.timestamp_ms)
        and entry.readable
    )


def as_row(entry: Entry) -> Row:
    """An entry in the shape of a row; its body is the envelope."""
    return (
        entry.id.ms,
        entry.id.n,
        entry.epoch,
        entry.tenant_id,
        entry.sequence,
        entry.revision,
        entry.type,
        entry.action,
        entry.entity,
        entry.event_id,
        entry.timestamp_ms,
        entry.raw,
    )


def as_entry(row: Row, choice: Choice) -> Entry:
    """A row as an entry, as far as showing its event goes: without the event's id."""
    return Entry(
        StreamId(row[MS], row[N]),
        row[EPOCH],
        choice.names[row[TENANT]],
        row[SEQUENCE],
        row[REVISION],
        row[TYPE],
        row[ACTION],
        row[ENTITY],
        "",
        row[RECORDED],
        row[BODY],
    )


def _seen_by(system: str, row: Row, choice: Choice) -> bool:
    entry = as_entry(row, choice)
    return entry.readable and may_see(system, entry.targets)
