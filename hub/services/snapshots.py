"""States of entities as they were at one cursor, however many pages they take.

The projection's place at the first page is the cursor. A state that has moved on since is folded anew from its events
up to there; one that came later is left out. So is what a reader may not see: a state of which it may see only some of
the events is folded from those.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, NamedTuple

import orjson

from hub.core.entry import MASKED, Entry
from hub.core.projection import Folding, State, newest, spoken_of
from hub.core.routing import may_see
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.dispatcher import NOWHERE
from hub.services.history import History
from hub.store.database import StoreUnavailable
from hub.store.entities import NOTHING, Key, Reached, Stored, restored, systems
from schemas import patterns, registry
from schemas.cursor import ZERO, Cursor, StreamId, join, split
from schemas.errors import FieldError, Problem
from schemas.registry import EVENT_TYPES

CHUNK: Final = 200
MAX_SCANNED: Final = 5000
"""States looked at for one page: where few may be seen, the page is short and its token has moved on."""
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
MAX_TOKEN: Final = 16 * 1024
CATCH_UP_S: Final = 3.0
"""How long a page waits for a projection that is behind its cursor."""
FRESH_POLLS: Final = 25
CATCH_UP_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Scope:
    """Who is looking, and at what; None is everything."""

    system: str
    view: str
    allowed: frozenset[str]
    """The patterns of events that it may see."""
    types: frozenset[str] | None = None
    entities: frozenset[str] | None = None

    @classmethod
    def of(
        cls,
        claims: Claims,
        *,
        types: Collection[str] = (),
        wanted: Collection[str] = (),
        entities: Collection[str] = (),
    ) -> Scope:
        """What a token may see of some types, or of what some patterns ask for.

        Raises:
            Problem: `forbidden`.
        """
        allowed = claims.patterns("subscribe")
        if not allowed:
            raise Problem("forbidden", "the token has no subscribe: scope")
        held = _types(allowed)
        for name in types:
            if held is not None and name not in held:
                error = FieldError("type", f"the token lacks a scope like subscribe:{name}.*")
                raise Problem("forbidden", error.message, [error])
        asked = frozenset(types) or _types(wanted or allowed)
        return cls(claims.system, claims.view, allowed, asked, frozenset(entities) or None)

    def whole(self, type: str) -> bool:
        """Whether every action of a type may be seen."""
        kind = EVENT_TYPES.get(type)
        actions: Iterable[str] = ("*",) if kind is None else kind.actions
        return all(patterns.covered(self.allowed, f"{type}.{action}") for action in actions)

    def sees(self, entry: Entry) -> bool:
        """Whether an event may be seen."""
        return may_see(self.system, entry.targets) and patterns.covered(self.allowed, f"{entry.type}.{entry.action}")

    def digest(self) -> str:
        """Tells scopes apart: a page token is for the scope it was made in."""
        parts = (self.system, self.view, *(",".join(sorted(one or ("*",))) for one in (self.types, self.entities)))
        return sha256("\n".join(parts).encode()).hexdigest()[:16]


class Shown(NamedTuple):
    """A state as a reader is shown it; `data` is JSON."""

    tenant_id: str
    type: str
    entity: str
    revision: int
    sequence: int
    data: bytes

    def json(self) -> bytes:
        """As a member of a page."""
        return b'{"tenant_id":%b,"type":%b,"entity":%b,"revision":%d,"sequence":%d,"data":%b}' % (
            orjson.dumps(self.tenant_id),
            orjson.dumps(self.type),
            orjson.dumps(self.entity),
            self.revision,
            self.sequence,
            self.data,
        )


@dataclass(slots=True)
class SnapshotPage:
    """Some states, the cursor at which they are true, and the token of the next page."""

    entities: list[Shown]
    cursor: str
    next: str | None = None

    def body(self) -> bytes:
        """The page as JSON."""
        entities = b",".join(shown.json() for shown in self.entities)
        following, more = orjson.dumps(self.next), orjson.dumps(self.next is not None)
        return b'{"entities":[%b],"next":%b,"more":%b,"cursor":%b}' % (
            entities,
            following,
            more,
            orjson.dumps(self.cursor),
        )


@dataclass(slots=True)
class _Place:
    """Where a listing stands."""

    cursors: dict[str, Cursor]
    tenant: str
    after: tuple[str, str] = ("", "")


@dataclass(slots=True)
class _Part:
    """What was found of one tenant; `after` is where to go on, None at its end."""

    shown: list[Shown] = field(default_factory=list)
    after: tuple[str, str] | None = None
    reached: Reached = NOTHING
    scanned: int = 0
    size: int = 0


class Snapshots:
    """Reads states on behalf of scopes."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._entities = history.store.entities

    async def page(self, scope: Scope, tenants: Sequence[str], limit: int, token: str | None = None) -> SnapshotPage:
        """One page, by tenant, type and entity.

        Raises:
            Problem: the token is not one of this listing; `store_unavailable`, `log_unavailable`.
        """
        try:
            marks = await (self._fresh(tenants) if token is None else self._entities.marks(tenants))
            place = self._begin(tenants, marks) if token is None else _read(token, scope, tenants)
            first = token is None
            if not first:
                await self._reachable(place, marks)
            found: list[Shown] = []
            scanned = size = 0
            for tenant in sorted(place.cursors):
                if tenant < place.tenant:
                    continue
                if tenant > place.tenant:
                    place.tenant, place.after = tenant, ("", "")
                if tenant not in marks:
                    continue
                part = await self._part(
                    scope,
                    tenant,
                    marks[tenant][0],
                    # What is read first fixes the cursor by itself, or it would have to be folded back to the mark.
                    None if first else place.cursors[tenant].id,
                    place.after,
                    limit - len(found),
                    MAX_SCANNED - scanned,
                    MAX_PAGE_BYTES - size,
                )
                if first:
                    place.cursors[tenant] = self.cursor(tenant, part.reached)
                found += part.shown
                scanned += part.scanned
                size += part.size
                if part.after is not None:
                    place.after = part.after
                    return SnapshotPage(found, _joined(place), _token(place, scope))
            return SnapshotPage(found, _joined(place))
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the store cannot be read now; ask again") from error
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error

    async def _fresh(self, tenants: Sequence[str]) -> dict[str, tuple[int, Reached]]:
        """How far the states are: with everything that was published before the question, unless that takes long."""
        heads = await self._history.heads(tenants)
        for _ in range(FRESH_POLLS):
            marks = await self._entities.marks(tenants)
            if all(head.id <= marks.get(tenant, (0, NOTHING))[1].id for tenant, head in heads.items()):
                break
            await asyncio.sleep(CATCH_UP_POLL_S)
        return await self._entities.marks(tenants)

    async def _reachable(self, place: _Place, marks: Mapping[str, tuple[int, Reached]]) -> None:
        """Refuse a token that the states will not come to, as nothing was published there.

        Raises:
            Problem: `invalid_cursor`.
        """
        ahead = [
            tenant for tenant, cursor in place.cursors.items() if cursor.id > marks.get(tenant, (0, NOTHING))[1].id
        ]
        if not ahead:
            return
        heads = await self._history.heads(ahead)
        for tenant in ahead:
            if place.cursors[tenant].id > heads[tenant].id:
                said = f"after: nothing of {tenant} has come as far as this page token; ask for the first page again"
                raise Problem("invalid_cursor", said, [FieldError("after", said.removeprefix("after: "))])

    def _begin(self, tenants: Iterable[str], marks: Mapping[str, tuple[int, Reached]]) -> _Place:
        cursors = {tenant: self.cursor(tenant, marks.get(tenant, (0, NOTHING))[1]) for tenant in tenants}
        return _Place(cursors, min(cursors, default=""))

    def cursor(self, tenant_id: str, reached: Reached) -> Cursor:
        """The cursor of a place of the projection."""
        if reached == NOTHING:
            return Cursor.decode(self._history.cursor(tenant_id, NOWHERE))
        return Cursor.of(reached.epoch, tenant_id, reached.sequence, reached.id)

    async def walk(self, scope: Scope, tenant_id: str) -> AsyncIterator[tuple[list[Shown], str | None]]:
        """All of a tenant's states, some at a time; the last time with the cursor at which all are true.

        Raises:
            Problem: `store_unavailable`; what came so far is of no use.
        """
        try:
            marks = await self._fresh([tenant_id])
            if tenant_id not in marks:
                yield [], self.cursor(tenant_id, NOTHING).encode()
                return
            number, upto, after = marks[tenant_id][0], None, ("", "")
            cursor: str | None = None
            while True:
                part = await self._part(scope, tenant_id, number, upto, after, CHUNK, MAX_SCANNED, MAX_PAGE_BYTES)
                if cursor is None:
                    upto, cursor = part.reached.id, self.cursor(tenant_id, part.reached).encode()
                yield part.shown, cursor if part.after is None else None
                if part.after is None:
                    return
                after = part.after
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the store cannot be read now; subscribe again") from error
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; subscribe again") from error

    async def _part(
        self,
        scope: Scope,
        tenant_id: str,
        number: int,
        upto: StreamId | None,
        after: tuple[str, str],
        limit: int,
        most: int,
        size: int,
    ) -> _Part:
        """Some states at the cursor `upto`; None takes that of the projection, as it is now."""
        part = _Part()
        while True:
            count = min(CHUNK, limit - len(part.shown) + 1)
            reached, rows = await self._rows(scope, number, upto, after, count)
            if upto is None:
                upto, part.reached = reached.id, reached
            for key, row in rows:
                if len(part.shown) >= limit or part.scanned >= most or part.size >= size:
                    part.after = after
                    return part
                after = key[1:]
                part.scanned += 1
                shown = await self._shown(scope, tenant_id, upto, key, row)
                if shown is not None:
                    part.shown.append(shown)
                    part.size += len(shown.data)
            if len(rows) < count:
                return part
            await asyncio.sleep(0)

    async def _rows(
        self, scope: Scope, number: int, upto: StreamId | None, after: tuple[str, str], count: int
    ) -> tuple[Reached, list[tuple[Key, Stored]]]:
        """The next states, of a projection that has come to the cursor: another one may have taken its place since."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CATCH_UP_S
        while True:
            reached, rows = await self._entities.page(
                number, count, types=scope.types, among=scope.entities, after=after
            )
            if upto is None or reached.id >= upto:
                return reached, rows
            if loop.time() >= deadline:
                raise Problem("store_unavailable", "the states are being brought up to date; ask again")
            await asyncio.sleep(CATCH_UP_POLL_S)

    async def _shown(self, scope: Scope, tenant_id: str, upto: StreamId, key: Key, row: Stored) -> Shown | None:
        _, type, entity = key
        revision, sequence, ms, n, version, all_, some, data, _ = row
        if not may_see(scope.system, systems(some)):
            return None
        if (ms, n) > upto or not scope.whole(type) or not may_see(scope.system, systems(all_)):
            state = await self._folded(scope, tenant_id, key, upto, row)
            return None if state is None else _show(scope, tenant_id, type, entity, state)
        kind = EVENT_TYPES.get(type)
        if scope.view != MASKED and (kind is None or version >= kind.newest):
            return Shown(tenant_id, type, entity, revision, sequence, data)
        return _show(scope, tenant_id, type, entity, restored(row))

    async def _folded(self, scope: Scope, tenant_id: str, key: Key, upto: StreamId, row: Stored) -> State | None:
        """A state from the events that may be seen, up to a place."""
        _, type, entity = key
        end = StreamId(row[2], row[3])
        events = [one async for one in self._events(tenant_id, entity, min(upto, end)) if one.type == type]
        before: State | None = None
        if events and events[0].revision > 1 and scope.whole(type):
            every = [one async for one in self._events(tenant_id, entity, end) if one.type == type]
            before = _before(scope, type, row, every)
        folding = Folding(type, before)
        for entry in events:
            if scope.sees(entry):
                folding.add(entry.event, entry.sequence, entry.id)
        return folding.state if folding.sequence else None

    async def _events(self, tenant_id: str, entity: str, upto: StreamId) -> AsyncIterator[Entry]:
        after = ZERO
        while True:
            entries = await self._history.entity(tenant_id, entity, CHUNK, after)
            for entry in entries:
                if entry.id > upto:
                    return
                if entry.raw and entry.readable:
                    yield entry
            if len(entries) < CHUNK:
                return
            after = entries[-1].id

    async def at_revision(self, scope: Scope, tenant_id: str, entity: str, revision: int) -> SnapshotPage:
        """The states of one entity right after one of its revisions.

        Raises:
            Problem: `not_found`: there is no such revision, it may not be seen, or it is no longer kept.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CATCH_UP_S
        missing = Problem("not_found", f"there is no revision {revision} of {entity[:200]} for this token")
        whole = False
        try:
            while True:
                number = (await self._entities.marks([tenant_id])).get(tenant_id, (0, NOTHING))[0]
                end = await self._entities.revision(number, entity, revision)
                if end is not None:
                    break
                # It may have been published just now, and be on its way to the archive, or there since it was asked.
                if whole or loop.time() >= deadline:
                    raise missing
                whole = await self._archived(tenant_id)
                if not whole:
                    await asyncio.sleep(CATCH_UP_POLL_S)
            only = replace(scope, entities=frozenset([entity]))
            part = await self._part(only, tenant_id, number, end.id, ("", ""), CHUNK, MAX_SCANNED, MAX_PAGE_BYTES)
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the store cannot be read now; ask again") from error
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error
        if not part.shown:
            raise missing
        return SnapshotPage(part.shown, Cursor.of(end.epoch, tenant_id, end.sequence, end.id).encode())

    async def _archived(self, tenant_id: str) -> bool:
        """Whether everything of a tenant is archived."""
        heads = await self._history.heads([tenant_id])
        archived = await self._history.archived_heads([tenant_id])
        return archived.get(tenant_id, NOWHERE).sequence >= heads[tenant_id].sequence


def _types(asked: Collection[str]) -> frozenset[str] | None:
    """The types of events that patterns ask for; None for all."""
    return None if "*" in asked else frozenset(pattern.partition(".")[0] for pattern in asked)


def _before(scope: Scope, type: str, row: Stored, events: Iterable[Entry]) -> State | None:
    """What is left in a state of events that are no longer there: the fields that none of `events` speaks of."""
    state = newest(type, restored(row))
    if not may_see(scope.system, state.seen_by_all):
        return None
    spoken = {name for entry in events for name in spoken_of(type, entry.event)}
    data = {name: value for name, value in state.data.items() if name not in spoken}
    return State(0, 0, ZERO, state.schema_version, state.seen_by_all, state.seen_by_some, data, {})


def _show(scope: Scope, tenant_id: str, type: str, entity: str, state: State) -> Shown:
    state = newest(type, state)
    data = state.data
    if scope.view == MASKED:
        data = registry.mask({"type": type, "schema_version": state.schema_version, "data": data})["data"]
    return Shown(tenant_id, type, entity, state.revision, state.sequence, orjson.dumps(data))


def _joined(place: _Place) -> str:
    return join([cursor.encode() for _, cursor in sorted(place.cursors.items())])


def _token(place: _Place, scope: Scope) -> str:
    return (
        urlsafe_b64encode(orjson.dumps([1, scope.digest(), _joined(place), place.tenant, *place.after]))
        .decode()
        .rstrip("=")
    )


def _read(token: str, scope: Scope, tenants: Sequence[str]) -> _Place:
    bad = "is not a page token of this hub; use `next` exactly as the hub gave it"
    try:
        # Without `validate`, what does not belong there would be passed over.
        raw = b64decode(token[:MAX_TOKEN].encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        version, digest, joined, tenant, type, entity = orjson.loads(raw)
        if version != 1 or not all(isinstance(one, str) for one in (digest, joined, tenant, type, entity)):
            raise ValueError(bad)
    except (TypeError, ValueError):
        raise Problem("invalid_request", f"after: {bad}", [FieldError("after", bad)]) from None
    if digest != scope.digest():
        error = FieldError("after", "is the token of another listing; ask for its next page as for its first")
        raise Problem("invalid_request", f"after: {error.message}", [error])
    return _Place(split(joined, list(tenants)), tenant, (type, entity))
