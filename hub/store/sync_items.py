"""What devices pushed: every item as it was said, what became of it, and the conflicts it met."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import and_, bindparam, delete, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.database import Database
from hub.store.sync_tables import sync_conflicts, sync_items

CHUNK: Final = 400
_DONE: Final = frozenset({"applied", "resolved"})


class Pushed(NamedTuple):
    """An item before anything of it is done."""

    uuid: str
    device_id: str
    device_sequence: int
    system: str
    model: str
    operation: str
    action: str | None
    type: str
    entity: str
    checksum: str
    base_version: Mapping[str, int]
    payload: Mapping[str, Any]
    created_at: str
    created_ms: int


class Stored(NamedTuple):
    """An item that was written down. `outcome` None: what became of it only the log knows."""

    uuid: str
    device_id: str
    device_sequence: int
    system: str
    model: str
    operation: str
    action: str | None
    type: str
    entity: str
    checksum: str
    base_version: dict[str, int]
    payload: dict[str, Any]
    touched: frozenset[str] | None
    created_ms: int
    outcome: str | None
    revision: int | None
    cursor: str | None
    policy: str | None
    winner: str | None
    conflict_id: str | None


class Settlement(NamedTuple):
    """What became of an item."""

    uuid: str
    outcome: str
    touched: Collection[str] | None = None
    revision: int | None = None
    cursor: str | None = None
    policy: str | None = None
    winner: str | None = None
    conflict_id: str | None = None
    errors: Sequence[Mapping[str, str]] = ()


class ConflictMet(NamedTuple):
    """Two that changed the same: `fields` are {field, base, current, incoming, winner}."""

    conflict_id: str
    uuid: str
    device_id: str
    system: str
    model: str
    type: str
    entity: str
    state: str
    policy: str
    winner: str | None
    reason: str | None
    fields: Sequence[Mapping[str, Any]]
    current: Mapping[str, Any]
    incoming: Mapping[str, Any]
    current_revision: int
    opened_ms: int
    resolved_ms: int | None = None
    revision: int | None = None
    cursor: str | None = None


_STORED: Final = tuple(sync_items.c[name] for name in Stored._fields)


class SyncItems:
    """Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        dialect: Any = sqlite if database.sqlite else postgresql
        self._add = dialect.insert(sync_items).on_conflict_do_nothing()
        add = dialect.insert(sync_conflicts)
        anew = {name: add.excluded[name] for name in ConflictMet._fields if name != "conflict_id"}
        self._put = add.on_conflict_do_update(
            index_elements=["conflict_id"], set_=anew | dict.fromkeys(("resolved_by", "choice", "resolution"))
        )

    async def known(self, tenant_id: str, uuids: Collection[str]) -> dict[str, Stored]:
        """Those of these items that were written down."""
        return {one.uuid: one for one in await self._select(tenant_id, sync_items.c.uuid, uuids)}

    async def by_sequence(self, tenant_id: str, device_id: str, sequences: Collection[int]) -> dict[int, str]:
        """The items that a device gave these numbers."""
        found: dict[int, str] = {}
        async with self._database.reading() as connection:
            for part in _parts(sequences):
                query = select(sync_items.c.device_sequence, sync_items.c.uuid).where(
                    sync_items.c.tenant_id == tenant_id,
                    sync_items.c.device_id == device_id,
                    sync_items.c.device_sequence.in_(part),
                )
                found |= {row[0]: row[1] for row in await connection.execute(query)}
        return found

    async def of_entity(self, tenant_id: str, entity: str) -> dict[str, Stored]:
        """Everything that was ever pushed about an entity, by uuid."""
        return {one.uuid: one for one in await self._select(tenant_id, sync_items.c.entity, [entity])}

    async def held(self, tenant_id: str, device_id: str, entities: Collection[str]) -> dict[str, str]:
        """The entities of which a device's item waits for a person: entity → conflict."""
        found: dict[str, str] = {}
        async with self._database.reading() as connection:
            for part in _parts(entities):
                query = select(sync_conflicts.c.entity, sync_conflicts.c.conflict_id).where(
                    sync_conflicts.c.tenant_id == tenant_id,
                    sync_conflicts.c.entity.in_(part),
                    sync_conflicts.c.state == "open",
                    sync_conflicts.c.device_id == device_id,
                )
                found |= {row[0]: row[1] for row in await connection.execute(query)}
        return found

    async def write(self, tenant_id: str, items: Iterable[Pushed], received_ms: int) -> None:
        """Write items down before anything is done with them. What is there already stays as it is."""
        rows = [
            {
                **one._asdict(),
                "tenant_id": tenant_id,
                "base_version": _text(one.base_version),
                "payload": _text(one.payload),
                "received_ms": received_ms,
            }
            # In one order, or two copies of a batch would wait for each other.
            for one in sorted(items, key=lambda one: one.uuid)
        ]
        if rows:
            async with self._database.writing() as connection:
                await connection.execute(self._add, rows)

    async def settle(
        self, tenant_id: str, settlements: Sequence[Settlement], conflicts: Sequence[ConflictMet] = ()
    ) -> dict[str, str]:
        """Write down what became of items, and the conflicts they met, in one transaction.

        What is written down stays: that an item has its event, whoever else looks at it, and that it waits for a
        person, unless it has its event. The items of which this is so, and their outcomes.
        """
        if not settlements and not conflicts:
            return {}
        async with self._database.writing() as connection:
            held: dict[str, str | None] = {}
            for part in _parts(sorted(one.uuid for one in settlements)):
                mine = and_(sync_items.c.tenant_id == tenant_id, sync_items.c.uuid.in_(part))
                query = select(sync_items.c.uuid, sync_items.c.outcome).where(mine).order_by(sync_items.c.uuid)
                held |= {row[0]: row[1] for row in await connection.execute(query.with_for_update())}
            stand = {one.uuid: before for one in settlements if (before := _stays(held.get(one.uuid), one)) is not None}
            news = [one for one in settlements if one.uuid not in stand]
            await self._settle(connection, tenant_id, news, [one for one in conflicts if one.uuid not in stand])
            for one in news:
                if held.get(one.uuid) == "conflict":
                    # Its event came from elsewhere: nobody is to decide any more.
                    await connection.execute(_CLOSE, _closed(tenant_id, one))
        return stand

    async def _settle(
        self,
        connection: AsyncConnection,
        tenant_id: str,
        settlements: Sequence[Settlement],
        conflicts: Sequence[ConflictMet],
    ) -> None:
        changes = [
            {
                **one._asdict(),
                "t": tenant_id,
                "u": one.uuid,
                "touched": None if one.touched is None else _text(sorted(one.touched)),
                "errors": _text(list(one.errors)) if one.errors else None,
            }
            for one in settlements
        ]
        rows = [
            {
                **one._asdict(),
                "tenant_id": tenant_id,
                "fields": _text(list(one.fields)),
                "current": _text(one.current),
                "incoming": _text(one.incoming),
            }
            for one in conflicts
        ]
        if changes:
            await connection.execute(_SETTLE, changes)
        if rows:
            await connection.execute(self._put, rows)

    async def reopen(self, tenant_id: str, uuids: Collection[str]) -> None:
        """Items that were settled have no event: the log lost it. They are as if they had just been written down."""
        nothing = Settlement("", "")._asdict() | {"outcome": None, "errors": None}
        del nothing["uuid"]
        async with self._database.writing() as connection:
            for part in _parts(sorted(uuids)):
                lost = and_(sync_items.c.tenant_id == tenant_id, sync_items.c.uuid.in_(part))
                await connection.execute(update(sync_items).where(lost, _HAS_EVENT).values(**nothing))

    async def prune(self, before_ms: int) -> int:
        """Remove what was received before then and is settled, its conflicts too; how many items.

        Their events are gone from the archive by then, and nothing is held against them any more.
        """
        old = and_(sync_items.c.received_ms < before_ms, sync_items.c.outcome.in_((*_DONE, "rejected")))
        oldest = select(sync_items.c.tenant_id, sync_items.c.uuid).where(old).limit(CHUNK)
        gone, total = CHUNK, 0
        while gone == CHUNK:
            async with self._database.writing() as connection:
                keys = tuple_(sync_items.c.tenant_id, sync_items.c.uuid)
                gone = (await connection.execute(delete(sync_items).where(keys.in_(oldest)))).rowcount
                total += gone
        async with self._database.writing() as connection:
            over = and_(sync_conflicts.c.state == "resolved", sync_conflicts.c.resolved_ms < before_ms)
            await connection.execute(delete(sync_conflicts).where(over))
        return total

    async def _select(self, tenant_id: str, column: Any, values: Collection[Any]) -> list[Stored]:
        found: list[Stored] = []
        async with self._database.reading() as connection:
            for part in _parts(values):
                query = select(*_STORED).where(sync_items.c.tenant_id == tenant_id, column.in_(part))
                found += [_stored(row) for row in await connection.execute(query)]
        return found


_SETTLE: Final = (
    update(sync_items)
    .where(and_(sync_items.c.tenant_id == bindparam("t"), sync_items.c.uuid == bindparam("u")))
    .values({name: bindparam(name) for name in Settlement._fields if name != "uuid"})
)
_PLACE: Final[dict[str, Any]] = {name: bindparam(f"new_{name}") for name in ("winner", "revision", "cursor")}
_HAS_EVENT: Final = sync_items.c.outcome.in_(tuple(_DONE))
_CLOSE: Final = (
    update(sync_conflicts)
    .where(
        and_(
            sync_conflicts.c.tenant_id == bindparam("t"),
            sync_conflicts.c.uuid == bindparam("u"),
            sync_conflicts.c.state == "open",
        )
    )
    # It was none from the beginning.
    .values(state="resolved", resolved_ms=sync_conflicts.c.opened_ms, **_PLACE)
)


def _closed(tenant_id: str, one: Settlement) -> dict[str, Any]:
    return {"t": tenant_id, "u": one.uuid} | {f"new_{name}": getattr(one, name) for name in _PLACE}


def _stays(held: str | None, settlement: Settlement) -> str | None:
    """The outcome that an item has already, if it keeps it."""
    if held in _DONE or (held == "conflict" and settlement.outcome not in _DONE):
        return held
    return None


def _stored(row: Any) -> Stored:
    held = Stored(*row)
    touched = None if held.touched is None else frozenset(orjson.loads(held.touched))  # type: ignore[arg-type]
    return held._replace(
        base_version=orjson.loads(held.base_version),  # type: ignore[arg-type]
        payload=orjson.loads(held.payload),  # type: ignore[arg-type]
        touched=touched,
    )


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


def _parts(values: Collection[Any]) -> Iterable[list[Any]]:
    """SQLite and PostgreSQL take so many parameters a statement."""
    wanted = list(values)
    for start in range(0, len(wanted), CHUNK):
        yield wanted[start : start + CHUNK]
