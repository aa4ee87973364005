"""Each tenant's events hang together by hashes: what was changed, removed or slipped in shows, and where.

An event's hash covers the one before it, so the last hash stands for the whole history. Positions count a tenant's
events without a hole; places nearly follow them, but not over a history that was replaced while a clock was behind.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from sqlalchemy import select, tuple_

from hub.store.database import Database
from hub.store.places import Archived, archived, event_id_of
from hub.store.tables import events
from schemas.cursor import ZERO, StreamId

PAGE: Final = 2000
MAX_WAITING: Final = 50_000
"""Rows that lie before the one they follow are kept until it is found: so many. The others are read once more."""

_NAMES: Final = tuple(column.name for column in events.columns)
_TYPES: Final = tuple(column.type.python_type for column in events.columns)
"""SQLite stores any kind of value in any column."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What checking a tenant's chain found so far; `broken` names the first event that does not fit, and says how."""

    tenant_id: str
    events: int
    broken: str | None = None


def chained(
    previous: bytes,
    partition: int,
    epoch: int,
    sequence: int,
    id: StreamId,
    revision: int,
    recorded_ms: int,
    type: str,
    action: str,
    entity: str,
    key: bytes,
    body: bytes,
) -> bytes:
    """The hash of an event in its tenant's chain: SHA-256 over the previous hash and everything that is stored."""
    ms, n = id
    columns = f"{partition} {epoch} {sequence} {ms}-{n} {revision} {recorded_ms} {type}\0{action}\0{entity}\0"
    return hashlib.sha256(b"".join((previous, columns.encode(), key, body))).digest()


async def verify(
    database: Database, tenant_id: str, *, newest: int | None = None, page: int = PAGE
) -> AsyncIterator[Verified]:
    """Check a tenant's chain from its oldest event, or of the `newest` so many, to its head; page by page.

    For the events of a page it holds the event loop: 2000 take some 30 ms.

    What is archived meanwhile is checked too. The last of what it yields is the result: a chain without `broken` holds.

    Raises:
        StoreUnavailable: the store does not answer; nothing is known.
    """
    async with database.reading() as connection:
        known = (await archived(connection, [tenant_id])).get(tenant_id)
    if known is None:
        yield Verified(tenant_id, 0)
        return
    walk = _Walk(tenant_id, known, page)
    if newest is not None and known.position - known.base_position > newest:
        await walk.skip_to(database, newest)
    while walk.broken is None and not walk.done:
        await walk.page(database)
        yield Verified(tenant_id, walk.checked, walk.broken)


class _Walk:
    """One chain, as far as it is checked."""

    def __init__(self, tenant_id: str, known: Archived, rows: int) -> None:
        self._tenant = tenant_id
        self._rows = rows
        self._known = known
        self._previous, self._position = known.base_hash, known.base_position
        self._last = f"sequence {known.base.sequence}"
        self._floor = known.base_position
        """Rows up to here were checked, or are no part of the chain any more."""
        self._begun_at = -1
        self._after = ZERO
        self._after_epoch = -1
        self._waiting: dict[int, Any] = {}
        self.checked = 0
        self.broken: str | None = None
        self.done = False

    async def skip_to(self, database: Database, newest: int) -> None:
        """Begin behind the event that has `newest` after it; its own hash is taken on trust."""
        query = (
            select(events.c.position, events.c.sequence, events.c.hash, events.c.id_ms, events.c.id_n, events.c.epoch)
            .where(events.c.tenant_no == self._known.tenant_no, events.c.position <= self._known.position - newest)
            .order_by(events.c.id_ms.desc(), events.c.id_n.desc())
            .limit(1)
        )
        async with database.reading() as connection:
            row = (await connection.execute(query)).first()
        if row is not None:
            self._previous, self._position, self._floor = bytes(row.hash), row.position, row.position
            self._last = f"sequence {row.sequence}"
            self._after, self._after_epoch = StreamId(row.id_ms, row.id_n), row.epoch

    async def page(self, database: Database) -> None:
        """Check what the next rows allow."""
        async with database.reading() as connection:
            now = (await archived(connection, [self._tenant])).get(self._tenant)
            rows: Sequence[Any] = (await connection.execute(self._query())).all()
        if now is None:
            self.broken = f"{self._tenant} is no longer there"
            return
        self._known = now
        if now.base_position > self._position:
            # The retention went by: what it removed is not missing.
            self._previous, self._position, self._floor = now.base_hash, now.base_position, now.base_position
            self._waiting = {at: row for at, row in self._waiting.items() if at > now.base_position}
        for row in rows:
            if tuple(map(type, row)) != _TYPES:
                wrong = [name for name, value, kind in zip(_NAMES, row, _TYPES, strict=True) if type(value) is not kind]
                self.broken = f"{self._name(row)} was changed: its column {wrong[0]} holds another kind of value"
                return
            self._after, self._after_epoch = StreamId(row.id_ms, row.id_n), row.epoch
            if row.position in self._waiting or self._floor < row.position <= self._position:
                self.broken = f"{self._name(row)} was put in: event {row.position} is there twice"
                return
            if row.position > self._position:
                self._waiting[row.position] = row
        self._follow()
        if len(self._waiting) > MAX_WAITING:
            self._waiting = dict(sorted(self._waiting.items())[: MAX_WAITING // 2])
        if self.broken is None and not rows:
            self._end()

    def _query(self) -> Any:
        at = tuple_(events.c.id_ms, events.c.id_n, events.c.epoch)
        return (
            select(events)
            .where(
                events.c.tenant_no == self._known.tenant_no,
                events.c.id_ms >= self._after.ms,  # by this PostgreSQL leaves out months
                tuple_(events.c.id_ms, events.c.id_n) >= tuple_(self._after.ms, self._after.n),
                at > tuple_(self._after.ms, self._after.n, self._after_epoch),
                events.c.position > self._floor,
            )
            .order_by(events.c.id_ms, events.c.id_n, events.c.epoch)
            .limit(self._rows)
        )

    def _follow(self) -> None:
        while (row := self._waiting.pop(self._position + 1, None)) is not None:
            self.broken = self._fault(row)
            if self.broken is not None:
                return
            self._previous, self._position = row.hash, self._position + 1
            self._last = f"sequence {row.sequence}, stored at {row.id_ms}-{row.id_n}"
            self.checked += 1

    def _end(self) -> None:
        """All rows were seen."""
        head = self._known
        if self._position == head.position and not self._waiting:
            if self._previous != head.hash:
                self.broken = f"the head of {self._tenant} was changed: it does not fit its last event ({self._last})"
            self.done = True
        elif self._position >= head.position:
            row = next(iter(self._waiting.values()), None)
            what = self._name(row) if row is not None else f"the event of {self._tenant} with {self._last}"
            self.broken = f"{what} was put in, or the head taken back: the head is at event {head.position}"
        elif self._begun_at == self._position:
            self.broken = (
                f"event {self._position + 1} of {head.position} of {self._tenant} is missing: "
                f"it follows the one with {self._last}"
            )
        else:
            # It may lie where the search has been: written since, or of an older clock.
            self._begun_at = self._floor = self._position
            self._after, self._after_epoch, self._waiting = ZERO, -1, {}

    def _name(self, row: Any) -> str:
        id = StreamId(row.id_ms, row.id_n)
        key = row.event_id if isinstance(row.event_id, bytes) else b""
        return f"event {event_id_of(key)} of {self._tenant} (sequence {row.sequence}, stored at {id})"

    def _fault(self, row: Any) -> str | None:
        hash = chained(
            self._previous,
            row.partition,
            row.epoch,
            row.sequence,
            StreamId(row.id_ms, row.id_n),
            row.revision,
            row.recorded_ms,
            row.type,
            row.action,
            row.entity,
            row.event_id,
            row.body,
        )
        if hash == row.hash and row.partition == self._known.partition:
            return None
        column = _column_fault(row, row.body)
        return f"{self._name(row)} was changed: " + (
            "its hash does not fit" if column is None else f"its column {column} is not what the event says"
        )


def _column_fault(row: Any, body: bytes) -> str | None:
    """The first column that does not say what the body says."""
    try:
        event = orjson.loads(body)
        said = {name: event[name] for name in ("type", "action", "entity", "revision")}
        said["event_id"] = event["event_id"]
    except (ValueError, KeyError, TypeError):
        return None
    for name, value in said.items():
        held = event_id_of(row.event_id) if name == "event_id" else getattr(row, name)
        if held != value:
            return name
    return None
