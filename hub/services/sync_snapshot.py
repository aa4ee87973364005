"""States for a device that begins empty, page by page from the projection as it is at each page.

`cursor` is where the projection stood at the first page; a state may be newer, and then the changes up to its revision
are in it. Its version goes with it: of the events of its own type it counts those that are in its data; of those of the
entity's other types, what they came to at `cursor`, which the device holds when it has every page. So no version claims
an event that the device has not got, whatever moved between two pages.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count
from types import MappingProxyType
from typing import Final

import orjson

from hub.core.projection import newest
from hub.core.versions import Vector, earlier, tally, total, without
from hub.log.topology import RedisError
from hub.services.sync_view import FRESH_POLLS, POLL_S, TYPES, SyncView, sight_of
from hub.store.database import StoreUnavailable
from hub.store.entities import NOTHING, Stored
from hub.store.sync_states import Slice, Writers
from schemas.cursor import Cursor, StreamId
from schemas.errors import FieldError, Problem
from schemas.registry import EVENT_TYPES

MAX_RECORDS: Final = 5000
CHUNK: Final = 500
MAX_PAGE_BYTES: Final = 4 * 1024 * 1024
MAX_SCANNED: Final = 20_000
MAX_FOLDED: Final = 500
"""States that are folded from their events for one page."""
MAX_TOKEN: Final = 4096
_BESIDE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        name: others
        for name, kind in EVENT_TYPES.items()
        if (
            others := tuple(
                other.name
                for other in EVENT_TYPES.values()
                if other.name != name and (other.entity_type or other.name) == (kind.entity_type or name)
            )
        )
    }
)
"""What other types of events an entity has, of a type."""


@dataclass(slots=True)
class SyncSnapshotPage:
    """Records as JSON, where to pull from, and the token of the next page."""

    records: list[bytes]
    cursor: str
    next: str | None = None

    def body(self) -> bytes:
        """The page as JSON (`schemas.sync.SnapshotResponse`)."""
        return b'{"records":[%b],"cursor":%b,"next":%b,"more":%b}' % (
            b",".join(self.records),
            orjson.dumps(self.cursor),
            orjson.dumps(self.next),
            orjson.dumps(self.next is not None),
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """Whose states, for whom, and which: `types` are sorted, no `entities` are all."""

    system: str
    tenant_id: str
    types: tuple[str, ...] = TYPES
    entities: frozenset[str] = frozenset()

    def digest(self) -> str:
        """Tells listings apart: a page token is for the one it was made in."""
        parts = (self.system, self.tenant_id, ",".join(self.types), *sorted(self.entities))
        return sha256("\n".join(parts).encode()).hexdigest()[:16]


@dataclass(slots=True)
class _Place:
    """Where a listing stands: its cursor, and the type and entity it has come to."""

    cursor: str
    after: tuple[str, str] = ("", "")


@dataclass(slots=True)
class _Filling:
    """A page in the making."""

    records: list[bytes] = field(default_factory=list)
    size: int = 0
    scanned: int = 0
    folded: int = 0

    def full(self, limit: int) -> bool:
        """Whether the next state belongs to the next page."""
        return (
            len(self.records) >= limit
            or self.size >= MAX_PAGE_BYTES
            or self.scanned >= MAX_SCANNED
            or self.folded >= MAX_FOLDED
        )


class SyncSnapshots:
    """Reads states on behalf of systems."""

    def __init__(self, view: SyncView) -> None:
        self._view = view

    async def page(self, asked: Asked, limit: int, token: str | None = None) -> SyncSnapshotPage:
        """Up to `limit` states by type and entity, after a page's token.

        Raises:
            Problem: `invalid_request`: the token is not of this listing; `log_unavailable`, `store_unavailable`.
        """
        place = None if token is None else _read(token, asked)
        try:
            return await self._page(asked, limit, place)
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the store cannot be read now; ask again") from error
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log cannot be read now; ask again") from error

    async def _page(self, asked: Asked, limit: int, place: _Place | None) -> SyncSnapshotPage:
        if place is None:
            number, _, reached = await self._view.fresh(asked.tenant_id)
            place = _Place(self._view.cursor(asked.tenant_id, reached))
            if reached == NOTHING:
                return SyncSnapshotPage([], place.cursor)
        else:
            number, _, _ = await self._view.mark(asked.tenant_id)
        begun = Cursor.decode(place.cursor, asked.tenant_id).id
        filling = _Filling()
        while True:
            wanted = min(CHUNK, limit - len(filling.records) + 1)
            slice = await self._slice(asked, number, wanted, place, begun)
            since = await self._since(number, slice, begun)
            for type, entity, row in slice.rows:
                if filling.full(limit):
                    return SyncSnapshotPage(filling.records, place.cursor, _token(place, asked))
                place.after = (type, entity)
                filling.scanned += 1
                others = [one for one in slice.others.get(entity, ()) if one.type != type]
                version = _version(row, others, since, entity, begun)
                record = await self._record(asked, type, entity, row, version, filling)
                if record is not None:
                    filling.records.append(record)
                    filling.size += len(record)
            if len(slice.rows) < wanted:
                return SyncSnapshotPage(filling.records, place.cursor)
            await asyncio.sleep(0)

    async def _slice(self, asked: Asked, number: int, count_: int, place: _Place, begun: StreamId) -> Slice:
        """The next states, of a projection that has come to the cursor: another one may have taken its place since."""
        for poll in count():
            slice = await self._view.states.page(
                number, asked.types, count_, after=place.after, among=asked.entities or None, beside=_BESIDE
            )
            if slice.reached.id >= begun:
                return slice
            if poll == FRESH_POLLS:
                break
            await asyncio.sleep(POLL_S)
        raise Problem("store_unavailable", "the states are being brought up to date; ask again")

    async def _since(self, number: int, slice: Slice, begun: StreamId) -> dict[tuple[str, str], Vector]:
        """Who made the events since the cursor, of entities that have several types and moved on."""
        moved = [entity for entity, others in slice.others.items() if any(one.id > begun for one in others)]
        found: dict[tuple[str, str], Vector] = {}
        if moved:
            async for rows in self._view.states.bodies(number, moved, begun, slice.reached.id):
                for entity, type, _, body in rows:
                    found[(type, entity)] = total((found.get((type, entity), {}), tally((body,))))
        return found

    async def _record(
        self, asked: Asked, type: str, entity: str, row: Stored, version: bytes, filling: _Filling
    ) -> bytes | None:
        how = sight_of(asked.system, type, row)
        if how == "none":
            return None
        if how == "whole" and row[4] >= EVENT_TYPES[type].newest:
            return _json(type, entity, row[0], row[1], version, row[7], row[4])
        if how == "some":
            filling.folded += 1
        state = await self._view.seen(asked.system, asked.tenant_id, type, entity, row)
        if state is None:
            return None
        state = newest(type, state)
        data = orjson.dumps(state.data)
        return _json(type, entity, state.revision, state.sequence, version, data, state.schema_version)


def _json(type: str, entity: str, revision: int, sequence: int, version: bytes, data: bytes, schema: int) -> bytes:
    return b'{"type":"%b","entity":%b,"revision":%d,"sequence":%d,"version":%b,"data":%b,"schema_version":%d}' % (
        type.encode(),
        orjson.dumps(entity),
        revision,
        sequence,
        version,
        data,
        schema,
    )


def _version(
    row: Stored, others: Collection[Writers], since: Mapping[tuple[str, str], Vector], entity: str, begun: StreamId
) -> bytes:
    """The entity's version that goes with a state, as JSON."""
    if not others and row[8] is not None:
        return row[8].encode()
    mine: Vector = earlier(row[0]) if row[8] is None else orjson.loads(row[8])
    found = [mine]
    for one in others:
        theirs: Vector = earlier(one.revision) if one.writers is None else orjson.loads(one.writers)
        found.append(without(theirs, since.get((one.type, entity), {})) if one.id > begun else theirs)
    return orjson.dumps(total(found))


def _token(place: _Place, asked: Asked) -> str:
    return urlsafe_b64encode(orjson.dumps([1, asked.digest(), place.cursor, *place.after])).decode().rstrip("=")


def _read(token: str, asked: Asked) -> _Place:
    bad = "is not a page token of this hub; use `next` exactly as the hub gave it"
    try:
        # Without `validate`, what does not belong there would be passed over.
        raw = b64decode(token[:MAX_TOKEN].encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        version, digest, cursor, type, entity = orjson.loads(raw)
        if version != 1 or not all(isinstance(one, str) for one in (digest, cursor, type, entity)):
            raise ValueError(bad)
        if digest == asked.digest():
            Cursor.decode(cursor, asked.tenant_id)
    except (TypeError, ValueError, Problem):
        raise Problem("invalid_request", f"after: {bad}", [FieldError("after", bad)]) from None
    if digest != asked.digest():
        error = FieldError("after", "is the token of another listing; ask for its next page as for its first")
        raise Problem("invalid_request", f"after: {error.message}", [error])
    return _Place(cursor, (type, entity))
