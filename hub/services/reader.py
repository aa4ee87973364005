"""Reads events by cursor: pages for HTTP, long polls and Server-Sent Events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import orjson
import structlog

from hub.core.entry import NOT_AN_EVENT, Entry
from hub.core.routing import Interest, may_see
from hub.log.stream_log import Head, Start
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.dispatcher import Dispatcher, Position
from hub.services.history import History
from hub.store.database import StoreUnavailable
from hub.telemetry import Metrics
from schemas.cursor import Cursor, StreamId, join, split
from schemas.errors import FieldError, Problem

CHUNK: Final = 500
MAX_SCANNED: Final = 20_000
"""Entries looked at for one page: a rare pattern gets an empty page and a cursor that has moved on."""
MAX_TENANTS: Final = 64
MAX_INDEXED: Final = 32
"""Pairs of tenant and entity that are looked up one by one."""
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
SKEW_MS: Final = 3_600_000

log = structlog.get_logger("hub.reader")


@dataclass(frozen=True, slots=True)
class Query:
    """What a reader asks for. Times are Unix ms of recorded_at, `from_ms` inclusive, `to_ms` exclusive."""

    interest: Interest
    tenants: tuple[str, ...]
    after: str | None = None
    from_ms: int | None = None
    to_ms: int | None = None
    limit: int = 100
    every: bool = False
    """All tenants there are, also those that come while it is waited for events."""


@dataclass(slots=True)
class Page:
    """Events in order, and the cursor after the last one that was looked at."""

    entries: list[Entry]
    next: str
    gaps: list[dict[str, str]] = field(default_factory=list)
    more: bool = False
    """Whether there was more to look at."""

    def body(self, view: str) -> bytes:
        """The page as JSON."""
        events = b",".join(
            b'{"cursor":"%b","sequence":%d,"event":%b}' % (one.cursor.encode(), one.sequence, one.json(view))
            for one in self.entries
        )
        gap = b"" if not self.gaps else b',"gap":%b,"gaps":%b' % (orjson.dumps(self.gaps[0]), orjson.dumps(self.gaps))
        return b'{"events":[%b],"next":"%b"%b}' % (events, self.next.encode(), gap)


@dataclass(slots=True)
class _Lane:
    """One partition's share of a page: tenants with where they stand, entries read and not yet looked at."""

    partition: int
    at: StreamId
    tenants: set[str]
    ready: deque[Entry] = field(default_factory=deque)
    done: bool = False


class Reader:
    """Reads on behalf of credentials."""

    def __init__(self, history: History, dispatcher: Dispatcher, metrics: Metrics) -> None:
        self._log = history
        self._dispatcher = dispatcher
        self._metrics = metrics

    async def interest(
        self,
        claims: Claims,
        *,
        wanted: Sequence[str] = (),
        tenants: Sequence[str] = (),
        entities: Sequence[str] = (),
    ) -> tuple[Interest, tuple[str, ...]]:
        """What a token may read of what is asked for; by default all that its scopes and tenants allow.

        Raises:
            Problem: something is asked for that the token does not allow.
        """
        for pattern in wanted:
            if not claims.may("subscribe", pattern):
                error = FieldError("patterns", f"the token lacks the scope subscribe:{pattern}")
                raise Problem("forbidden", error.message, [error])
        allowed = frozenset(wanted) or claims.patterns("subscribe")
        if not allowed:
            raise Problem("forbidden", "the token has no subscribe: scope")
        chosen = await self.tenants(claims, tenants)
        return Interest(frozenset(chosen), allowed, frozenset(entities) or None), chosen

    async def tenants(self, claims: Claims, named: Sequence[str] = ()) -> tuple[str, ...]:
        """Whose events a token may ask for: of the tenants that are named, or of all its own.

        Raises:
            Problem: one is named that the token does not hold, or there are too many.
        """
        for tenant in named:
            claims.require_tenant(tenant)
        chosen = tuple(named)
        if not chosen:
            chosen = tuple(sorted(await self._log.tenants() if claims.all_tenants else claims.tenants))
        if len(chosen) > MAX_TENANTS:
            error = FieldError("tenant", f"a listing covers at most {MAX_TENANTS} tenants; name them")
            raise Problem("invalid_request", error.message, [error])
        return chosen

    async def page(self, claims: Claims, query: Query) -> Page:
        """One page.

        Raises:
            Problem: `invalid_cursor`; `log_unavailable` when the log cannot be read.
        """
        # Nothing that was routed before this point can be newer than the heads asked for below.
        routed = self._dispatcher.position
        try:
            starts = await self._starts(query)
            heads = await self._log.heads(query.tenants)
            page = Page([], "", [self._gap(one.tenant_id, str(one.gap), one.head) for one in starts if one.gap])
            places = {start.tenant_id: start.head for start in starts}
            if query.interest.entities is None or await self._by_entity(claims, query, places, page):
                await self._read(claims, query, places, heads, routed, page)
            page.next = join([self._log.cursor(tenant, place) for tenant, place in places.items()])
            return page
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error
        except StoreUnavailable as error:
            raise Problem("store_unavailable") from error

    async def wait(self, claims: Claims, query: Query, seconds: float, stopping: asyncio.Event) -> Page:
        """A page with events, or an empty one when `seconds` have passed or the hub is stopping."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            query = await self._grown(query)
            # Asked for before the page is read, so that an event between the two is not slept through.
            news = asyncio.ensure_future(self._dispatcher.wait(None if query.every else query.tenants))
            stop = asyncio.ensure_future(stopping.wait())
            try:
                await asyncio.sleep(0)
                page = await self.page(claims, query)
                left = deadline - loop.time()
                if page.entries or page.gaps or left <= 0 or stopping.is_set():
                    return page
                query = replace(query, after=page.next)
                if not page.more:
                    await asyncio.wait({news, stop}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                news.cancel()
                stop.cancel()
                await asyncio.gather(news, stop, return_exceptions=True)

    async def _grown(self, query: Query) -> Query:
        """The query with the tenants that have come since; they begin at their first event."""
        if not query.every:
            return query
        try:
            tenants = dict.fromkeys((*query.tenants, *sorted(await self._log.tenants())))
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error
        interest = replace(query.interest, tenants=frozenset(tenants))
        return replace(query, interest=interest, tenants=tuple(tenants))

    async def _starts(self, query: Query) -> list[Start]:
        after = query.after
        if after in ("latest", "now"):
            return [Start(tenant, head) for tenant, head in (await self._log.heads(query.tenants)).items()]
        cursors: dict[str, Cursor] = {}
        if after and after != "earliest":
            cursors = split(after, list(query.tenants))
        starts = {start.tenant_id: start for start in (await self._log.resolve(cursors) if cursors else [])}
        fresh = [tenant for tenant in query.tenants if tenant not in starts]
        for tenant, floor in (await self._log.floors(fresh)).items():
            starts[tenant] = Start(tenant, floor)
        if cursors:
            self._metrics.resumes.labels("gap" if any(start.gap for start in starts.values()) else "recovered").inc()
        return [starts[tenant] for tenant in query.tenants]

    async def _by_entity(self, claims: Claims, query: Query, places: dict[str, Head], page: Page) -> bool:
        """What the archive has of a few entities, by its index, instead of reading through everybody's events.

        True when the page has room for what follows the archive; `places` has come that far.
        """
        entities = query.interest.entities or frozenset()
        if len(entities) * len(places) > MAX_INDEXED:
            return True
        try:
            heads = await self._log.archived_heads(places)
        except StoreUnavailable:
            return True
        heads = {tenant: head for tenant, head in heads.items() if head.id > places[tenant].id}
        floor = StreamId(0, 0) if query.from_ms is None else StreamId(max(0, query.from_ms - SKEW_MS), 0)
        entries: list[Entry] = []
        cut: StreamId | None = None
        for tenant, head in heads.items():
            for entity in entities:
                found = await self._log.entity(tenant, entity, query.limit, max(places[tenant].id, floor))
                entries += [entry for entry in found if entry.id <= head.id]
                if len(found) == query.limit:
                    cut = found[-1].id if cut is None else min(cut, found[-1].id)
        entries.sort(key=lambda entry: entry.id)
        for entry in entries:
            if len(page.entries) == query.limit or (cut is not None and entry.id > cut):
                page.more = True
                return False
            places[entry.tenant_id] = Head(entry.sequence, entry.id)
            if self._wanted(claims, query, entry):
                page.entries.append(entry)
        if cut is not None:
            page.more = True
            return False
        places.update(heads)
        return True

    async def _read(
        self,
        claims: Claims,
        query: Query,
        places: dict[str, Head],
        heads: Mapping[str, Head],
        routed: Position,
        page: Page,
    ) -> None:
        begins = {tenant: place.id for tenant, place in places.items()}
        for tenant, head in places.items():
            if head == heads[tenant]:
                # It has everything: what was routed since is other tenants', and need not be looked through again.
                begins[tenant] = max(head.id, routed[self._log.partition(tenant)])
        jumped = query.from_ms is not None
        lanes = self._lanes(begins, query.from_ms)
        found, gaps = page.entries, page.gaps
        scanned = size = 0
        while len(found) < query.limit and scanned < MAX_SCANNED and size < MAX_PAGE_BYTES:
            await self._fill(lanes)
            ready = [lane for lane in lanes if lane.ready]
            if not ready:
                break
            lane = min(ready, key=lambda one: one.ready[0].id)
            entry = lane.ready.popleft()
            place = places.get(entry.tenant_id)
            if place is None or entry.id <= begins[entry.tenant_id]:
                continue
            # Only what moves a cursor counts, or a tenant far behind the others would hold the page where it is.
            scanned += 1
            if not jumped and entry.sequence > place.sequence + 1:
                hole = Head(entry.sequence - 1, entry.id.previous)
                await self._log.note_hole(entry.tenant_id, hole)
                gaps.append(self._gap(entry.tenant_id, "expired", hole))
            places[entry.tenant_id] = Head(entry.sequence, entry.id)
            if self._wanted(claims, query, entry):
                found.append(entry)
                size += len(entry.raw)
        page.more = any(lane.ready or not lane.done for lane in lanes)

    def _lanes(self, begins: Mapping[str, StreamId], from_ms: int | None) -> list[_Lane]:
        lanes: dict[int, _Lane] = {}
        floor = StreamId(0, 0) if from_ms is None else StreamId(max(0, from_ms - SKEW_MS), 0)
        for tenant, id in begins.items():
            partition = self._log.partition(tenant)
            begin = max(id, floor)
            lane = lanes.get(partition)
            if lane is None:
                lanes[partition] = _Lane(partition, begin, {tenant})
            else:
                lane.tenants.add(tenant)
                lane.at = min(lane.at, begin)
        return list(lanes.values())

    async def _fill(self, lanes: Iterable[_Lane]) -> None:
        for lane in lanes:
            while not lane.ready and not lane.done:
                entries = await self._log.read(lane.partition, lane.at, CHUNK, tenants=lane.tenants)
                if entries:
                    lane.at = entries[-1].id
                lane.done = not entries
                lane.ready.extend(entry for entry in entries if entry.tenant_id in lane.tenants)

    def _wanted(self, claims: Claims, query: Query, entry: Entry) -> bool:
        if not entry.readable or (query.from_ms is not None and entry.timestamp_ms < query.from_ms):
            return False
        if query.to_ms is not None and entry.timestamp_ms >= query.to_ms:
            return False
        return (
            query.interest.wants(entry.tenant_id, entry.type, entry.action, entry.entity)
            and may_see(claims.system, entry.targets)
            and _shown(entry, claims.view)
        )

    def _gap(self, tenant_id: str, reason: str, head: Head) -> dict[str, str]:
        self._metrics.gaps.labels(reason).inc()
        return {"tenant_id": tenant_id, "reason": reason, "resume_from": self._log.cursor(tenant_id, head)}

    async def find(self, claims: Claims, event_id: str, tenants: Sequence[str]) -> Entry | None:
        """One event, when the token may see it: its system is a target, or published it."""
        for tenant in tenants:
            try:
                entry = await self._log.find(tenant, event_id)
            except (RedisError, OSError) as error:
                raise Problem("log_unavailable", "the log cannot be read now; ask again") from error
            except StoreUnavailable as error:
                raise Problem("store_unavailable") from error
            if entry is None or not entry.readable:
                continue
            if entry.published_by(claims.system) or (
                may_see(claims.system, entry.targets) and claims.may("subscribe", f"{entry.type}.{entry.action}")
            ):
                return entry if _shown(entry, claims.view) else None
        return None


def _shown(entry: Entry, view: str) -> bool:
    """Whether the event can be shown; what was made of it for that is kept with it."""
    try:
        if entry.json(view) is entry.raw:
            # What goes out as it is stored was not parsed yet, and one that is broken would break the page.
            orjson.loads(entry.raw)
    except NOT_AN_EVENT:  # it is damaged within; the others' events go on
        log.exception("entry_not_readable", id=str(entry.id))
        return False
    return True
