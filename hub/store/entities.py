"""The entities' states, as the projection of the events leaves them.

A generation is one whole projection. One of them is read; a rebuild fills another beside it and switches. How far a
tenant is projected moves in the same transaction as its entities, and only from where the writer knew it to be: of two
projectors one gets on, and no event is folded twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import and_, delete, func, insert, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core import versions
from hub.core.projection import State
from hub.store.archive import Fenced, Mark
from hub.store.database import Database
from hub.store.tables import entities, events, generations, projections, tenants
from schemas.cursor import ZERO, StreamId

REMOVED_AT_ONCE: Final = 1000


class Superseded(Exception):
    """The generation is no longer what its writer took it for: another one is read now, or it was removed."""


class Reached(NamedTuple):
    """The last event of a tenant that is in a projection; position 0 is before its first."""

    position: int
    epoch: int
    sequence: int
    id: StreamId


NOTHING: Final = Reached(0, 0, 0, ZERO)


Key = tuple[int, str, str]
"""Whose state it is: tenant number, type, entity. An entity has one state for each type of its events."""

Stored = tuple[int, int, int, int, int, str, str, bytes, str | None]
"""A state's columns after its key, as `stored` makes them. A plain tuple: they are kept by the ten thousand, and the
garbage collector does not look into these."""

Written = tuple[int, int, int, int, int, int, int, str, str, bytes]
"""An archived event, as far as a projection is concerned: tenant_no, position, id_ms, id_n, epoch, sequence,
revision, type, entity, body. An empty body is no event: it lies elsewhere."""


def stored(state: State) -> Stored:
    """The columns of a state."""
    id = state.id
    return (
        state.revision,
        state.sequence,
        id.ms,
        id.n,
        state.schema_version,
        _listed(state.seen_by_all),
        _listed(state.seen_by_some),
        orjson.dumps(state.data),
        orjson.dumps(state.writers).decode(),
    )


def restored(row: Stored) -> State:
    """The state of such columns."""
    revision, sequence, ms, n, version, all, some, data, _ = row
    return State(
        revision, sequence, StreamId(ms, n), version, systems(all), systems(some), orjson.loads(data), written_by(row)
    )


def written_by(row: Stored) -> dict[str, int]:
    """Who made how many of the events in a state."""
    found: dict[str, int] = versions.earlier(row[0]) if row[8] is None else orjson.loads(row[8])
    return found


_sets: dict[str, frozenset[str]] = {}
_lists: dict[frozenset[str], str] = {}
_REMEMBERED: Final = 1024


def systems(text: str) -> frozenset[str]:
    """The systems of a stored list. There are few such lists: each is read once."""
    found = _sets.get(text)
    if found is None:
        if len(_sets) >= _REMEMBERED:
            _sets.clear()
        found = _sets[text] = frozenset(orjson.loads(text))
    return found


def _listed(names: frozenset[str]) -> str:
    found = _lists.get(names)
    if found is None:
        if len(_lists) >= _REMEMBERED:
            _lists.clear()
        found = _lists[names] = orjson.dumps(sorted(names)).decode()
    return found


_FIELDS: Final = (
    "revision",
    "sequence",
    "id_ms",
    "id_n",
    "schema_version",
    "seen_by_all",
    "seen_by_some",
    "data",
    "writers",
)
_WRITTEN: Final = tuple(
    events.c[name]
    for name in (
        "tenant_no",
        "position",
        "id_ms",
        "id_n",
        "epoch",
        "sequence",
        "revision",
        "type",
        "entity",
        "body",
    )
)
STATE: Final = tuple(entities.c[name] for name in _FIELDS)
"""The columns of a `Stored`."""
_KEY: Final = (entities.c.generation, entities.c.tenant_no, entities.c.type, entities.c.entity)


class Entities:
    """Reads and writes the states. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        dialect: Any = sqlite if database.sqlite else postgresql
        put = dialect.insert(entities)
        self._put = database.compiled(
            put.on_conflict_do_update(
                index_elements=[column.name for column in _KEY],
                set_={name: put.excluded[name] for name in _FIELDS},
            )
        )
        moved = dialect.insert(projections)
        names = ("position", "epoch", "sequence", "id_ms", "id_n")
        self._move = database.compiled(
            moved.on_conflict_do_update(
                index_elements=["generation", "tenant_no"], set_={name: moved.excluded[name] for name in names}
            )
        )
        self._carry = dialect.insert(entities)

    # -- generations ----------------------------------------------------------------------------------------------

    async def revisions(self, tenant_id: str) -> list[tuple[str, int, StreamId]]:
        """The last revision of each entity of a tenant, and where it lies, as far as it is projected."""
        mine = and_(tenants.c.tenant_id == tenant_id, tenants.c.tenant_no == entities.c.tenant_no)
        current = select(generations.c.generation).where(generations.c.current == 1).scalar_subquery()
        query = select(entities.c.entity, entities.c.revision, entities.c.id_ms, entities.c.id_n).where(
            mine, entities.c.generation == current
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        newest: dict[str, tuple[str, int, StreamId]] = {}
        for entity, revision, ms, n in rows:
            # A reservation and its stay are two states of one entity.
            if entity not in newest or newest[entity][1] < revision:
                newest[entity] = (entity, revision, StreamId(ms, n))
        return list(newest.values())

    async def current(self) -> int | None:
        """The generation that is read; None before the first projection."""
        async with self._database.reading() as connection:
            return await _current(connection)

    async def open(self, now_ms: int) -> int:
        """The generation that is read, made if there is none."""
        found = await self.current()
        if found is not None:
            return found
        async with self._database.writing() as connection:
            found = await _current(connection)
            return found if found is not None else await _make(connection, now_ms, current=True)

    async def begin(self, now_ms: int) -> int:
        """A new, empty generation beside the one that is read."""
        async with self._database.writing() as connection:
            return await _make(connection, now_ms, current=False)

    async def others(self) -> list[int]:
        """The generations that are not read, oldest first."""
        async with self._database.reading() as connection:
            query = select(generations.c.generation).where(generations.c.current == 0)
            return list(await connection.scalars(query.order_by(generations.c.generation)))

    async def switch(self, to: int) -> None:
        """From now on this generation is read, and the one before is not.

        Raises:
            Superseded: it was removed, or is the one that is read.
        """
        async with self._database.writing() as connection:
            query = select(generations).order_by(generations.c.generation).with_for_update()
            held = {row.generation: row.current for row in await connection.execute(query)}
            if held.get(to) != 0:
                raise Superseded
            await connection.execute(update(generations).values(current=0).where(generations.c.generation != to))
            await connection.execute(update(generations).values(current=1).where(generations.c.generation == to))

    async def remove(self, generation: int) -> AsyncIterator[int]:
        """Remove a generation that is not read, some rows a transaction; after each, how many these were."""
        keys = select(*_KEY).where(entities.c.generation == generation).limit(REMOVED_AT_ONCE)
        gone = REMOVED_AT_ONCE
        while gone == REMOVED_AT_ONCE:
            async with self._database.writing() as connection:
                await _hold(connection, generation, current=False)
                gone = (await connection.execute(delete(entities).where(tuple_(*_KEY).in_(keys)))).rowcount
            yield gone
        async with self._database.writing() as connection:
            await _hold(connection, generation, current=False)
            await connection.execute(delete(projections).where(projections.c.generation == generation))
            await connection.execute(delete(generations).where(generations.c.generation == generation))

    async def carry(
        self, generation: int, to: int, tenant_no: int, upto: StreamId, after: tuple[str, str] = ("", "")
    ) -> tuple[str, str] | None:
        """Copy some of a tenant's states that no archived event is left of (the last one lies not past `upto`) to a
        generation that is not read; how far that came, None when it was all."""
        place = tuple_(entities.c.type, entities.c.entity)
        query = (
            select(entities.c.tenant_no, entities.c.type, entities.c.entity, *STATE)
            .where(
                entities.c.generation == generation,
                entities.c.tenant_no == tenant_no,
                place > tuple_(*after),
                tuple_(entities.c.id_ms, entities.c.id_n) <= tuple_(upto.ms, upto.n),
            )
            .order_by(entities.c.type, entities.c.entity)
            .limit(REMOVED_AT_ONCE)
        )
        async with self._database.writing() as connection:
            await _hold(connection, to, current=False)
            rows = (await connection.execute(query)).all()
            if rows:
                await connection.execute(
                    self._carry.on_conflict_do_nothing(),
                    [{"generation": to, **row._mapping} for row in rows],
                )
        return (rows[-1].type, rows[-1].entity) if len(rows) == REMOVED_AT_ONCE else None

    # -- projecting -----------------------------------------------------------------------------------------------

    async def reached(self, generation: int) -> dict[int, Reached]:
        """How far each tenant is projected."""
        query = select(projections).where(projections.c.generation == generation)
        async with self._database.reading() as connection:
            return {row.tenant_no: _reached(row) for row in await connection.execute(query)}

    async def following(self, partition: int, after: StreamId, count: int) -> list[Written]:
        """Up to `count` archived events of a partition after a place."""
        place = tuple_(events.c.id_ms, events.c.id_n) > tuple_(after.ms, after.n)
        # The comparison of ms alone is for PostgreSQL, which leaves out months by it.
        where = and_(events.c.partition == partition, events.c.id_ms >= after.ms, place)
        query = select(*_WRITTEN).where(where).order_by(events.c.id_ms, events.c.id_n).limit(count)
        async with self._database.reading() as connection:
            return [tuple(row) for row in (await connection.execute(query)).all()]

    async def following_of(self, tenant_no: int, position: int, count: int) -> list[Written]:
        """Up to `count` archived events of a tenant after a position. Slow: its events are not kept in this order."""
        where = and_(events.c.tenant_no == tenant_no, events.c.position > position)
        query = select(*_WRITTEN).where(where).order_by(events.c.position).limit(count)
        async with self._database.reading() as connection:
            return [tuple(row) for row in (await connection.execute(query)).all()]

    async def fetch(self, generation: int, keys: Sequence[Key]) -> dict[Key, Stored]:
        """Those of these states that there are."""
        if not keys:
            return {}
        columns: Iterable[Any] = zip(*keys, strict=True)
        async with self._database.reading() as connection:
            if self._database.sqlite:
                found = await connection.exec_driver_sql(_FETCH_SQLITE, (generation, orjson.dumps(keys).decode()))
            else:
                found = await connection.exec_driver_sql(_FETCH_POSTGRES, (generation, *map(list, columns)))
            rows: Sequence[Any] = found.all()
        return {(row[0], row[1], row[2]): _columns(row[3:]) for row in rows}

    async def write(
        self,
        generation: int,
        states: Mapping[Key, Stored],
        moved: Mapping[int, tuple[Reached, Reached]],
        *,
        current: bool,
    ) -> None:
        """Store states and how far their tenants are projected now; `moved` says from where to where.

        Raises:
            Fenced: another projector moved one of the tenants; nothing was stored.
            Superseded: the generation is not what `current` says; nothing was stored.
        """
        async with self._database.writing() as connection:
            # Also serializes the writers of a generation.
            await _hold(connection, generation, current=current)
            query = select(projections.c.tenant_no, projections.c.position).where(
                projections.c.generation == generation, projections.c.tenant_no.in_(list(moved))
            )
            held = {row[0]: row[1] for row in await connection.execute(query)}
            if any(held.get(number, 0) != before.position for number, (before, _) in moved.items()):
                raise Fenced
            if states and self._database.sqlite:
                await connection.exec_driver_sql(self._put, [(generation, *key, *row) for key, row in states.items()])
            elif states:
                # A statement a row would cost three times as much.
                columns = zip(*((*key, *row) for key, row in states.items()), strict=True)
                await connection.exec_driver_sql(_PUT_POSTGRES, (generation, *map(list, columns)))
            await connection.exec_driver_sql(
                self._move,
                [
                    (generation, number, now.position, now.epoch, now.sequence, now.id.ms, now.id.n)
                    for number, (_, now) in moved.items()
                ],
            )

    # -- reading --------------------------------------------------------------------------------------------------

    async def marks(self, names: Collection[str]) -> dict[str, tuple[int, Reached]]:
        """The number of each of these tenants that has archived events, and how far it is projected."""
        async with self._reading() as connection:
            generation = await _current(connection)
            query = (
                select(tenants.c.tenant_id, tenants.c.tenant_no, projections)
                .select_from(tenants)
                .outerjoin(
                    projections,
                    and_(projections.c.tenant_no == tenants.c.tenant_no, projections.c.generation == generation),
                )
                .where(tenants.c.tenant_id.in_(list(names)))
            )
            return {
                row.tenant_id: (row.tenant_no, NOTHING if row.position is None else _reached(row))
                for row in await connection.execute(query)
            }

    async def page(
        self,
        tenant_no: int,
        count: int,
        *,
        types: Collection[str] | None = None,
        among: Collection[str] | None = None,
        after: tuple[str, str] = ("", ""),
    ) -> tuple[Reached, list[tuple[Key, Stored]]]:
        """Up to `count` states of a tenant by (type, entity), and how far it was projected when they were read.

        `types` and `among` (entities) narrow them down; None does not.
        """
        found: list[tuple[Key, Stored]] = []
        async with self._reading() as connection:
            generation = await _current(connection)
            if generation is None:
                return NOTHING, []
            query = select(projections).where(
                projections.c.generation == generation, projections.c.tenant_no == tenant_no
            )
            held = (await connection.execute(query)).first()
            mine = and_(entities.c.generation == generation, entities.c.tenant_no == tenant_no)
            wanted = sorted(types) if types is not None else await _types(connection, mine)
            # A type at a time: that is how they lie, and neither database finds it out for a list of them.
            for type in wanted:
                if type < after[0] or len(found) >= count:
                    continue
                where = and_(mine, entities.c.type == type)
                if type == after[0]:
                    where = and_(where, entities.c.entity > after[1])
                if among is not None:
                    where = and_(where, entities.c.entity.in_(list(among)))
                rows = await connection.execute(
                    select(entities.c.entity, *STATE).where(where).order_by(entities.c.entity).limit(count - len(found))
                )
                found += [((tenant_no, type, row[0]), _columns(row[1:])) for row in rows.all()]
        return NOTHING if held is None else _reached(held), found

    async def revision(self, tenant_no: int, entity: str, revision: int) -> Mark | None:
        """Where the archived event lies that made this revision of an entity; of several histories, the last."""
        query = (
            select(events.c.epoch, events.c.sequence, events.c.id_ms, events.c.id_n)
            .where(events.c.tenant_no == tenant_no, events.c.entity == entity, events.c.revision == revision)
            .where(func.length(events.c.body) > 0)
            .order_by(events.c.id_ms.desc(), events.c.id_n.desc())
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else Mark(row[0], row[1], StreamId(row[2], row[3]))

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction whose statements all see one state of the database."""
        async with self._database.reading() as connection:
            if not self._database.sqlite:
                await connection.execution_options(isolation_level="REPEATABLE READ")
            yield connection


async def _current(connection: AsyncConnection) -> int | None:
    query = select(generations.c.generation).where(generations.c.current == 1)
    found: int | None = await connection.scalar(query)
    return found


async def _make(connection: AsyncConnection, now_ms: int, *, current: bool) -> int:
    last: int = await connection.scalar(select(func.coalesce(func.max(generations.c.generation), 0))) or 0
    await connection.execute(insert(generations).values(generation=last + 1, current=int(current), started_ms=now_ms))
    return last + 1


async def _hold(connection: AsyncConnection, generation: int, *, current: bool) -> None:
    """Keep the generation as it is until the transaction ends."""
    query = select(generations.c.current).where(generations.c.generation == generation).with_for_update()
    if await connection.scalar(query) != int(current):
        raise Superseded


async def _types(connection: AsyncConnection, mine: Any) -> list[str]:
    """The types that there are: looked up one after the other, not by reading every row."""
    found: list[str] = []
    while True:
        where = mine if not found else and_(mine, entities.c.type > found[-1])
        next = await connection.scalar(select(func.min(entities.c.type)).where(where))
        if next is None:
            return found
        found.append(next)


def _columns(row: Any) -> Stored:
    columns: Stored = tuple(row)
    return columns


def _reached(row: Any) -> Reached:
    return Reached(row.position, row.epoch, row.sequence, StreamId(row.id_ms, row.id_n))


_NAMES: Final = ("tenant_no", "type", "entity", *_FIELDS)
_COLUMNS: Final = ", ".join(f"e.{name}" for name in _NAMES)
_FETCH_SQLITE: Final = (
    f"WITH g(g) AS (SELECT ?) SELECT {_COLUMNS} FROM json_each(?) AS k CROSS JOIN g CROSS JOIN entities AS e "
    "ON e.generation = g.g AND e.tenant_no = json_extract(k.value, '$[0]') "
    "AND e.type = json_extract(k.value, '$[1]') AND e.entity = json_extract(k.value, '$[2]')"
)
_FETCH_POSTGRES: Final = (
    f"SELECT {_COLUMNS} FROM unnest($2::int[], $3::text[], $4::text[]) AS k(no, type, entity) "
    "JOIN entities AS e ON e.generation = $1 AND e.tenant_no = k.no AND e.type = k.type AND e.entity = k.entity"
)
_KINDS: Final = ("int", "text", "text", "bigint", "bigint", "bigint", "bigint", "int", "text", "text", "bytea", "text")
_PUT_POSTGRES: Final = (
    f"INSERT INTO entities (generation, {', '.join(_NAMES)}) "
    f"SELECT $1, * FROM unnest({', '.join(f'${number}::{kind}[]' for number, kind in enumerate(_KINDS, 2))}) "
    "ON CONFLICT (generation, tenant_no, type, entity) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _FIELDS)
)
