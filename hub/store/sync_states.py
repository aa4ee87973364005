"""The states as sync reads them: with what else has happened to their entities, and what changed since a place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from sqlalchemy import and_, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.database import Database
from hub.store.entities import NOTHING, STATE, Reached, Stored
from hub.store.tables import entities, events, generations, projections
from schemas.cursor import StreamId

AT_ONCE: Final = 500
"""Names in one statement."""


class Writers(NamedTuple):
    """Who made the events of a state, as `Stored` has it, and where the last of them lies."""

    type: str
    revision: int
    id: StreamId
    writers: str | None


class Slice(NamedTuple):
    """Some states of a tenant by (type, entity), read in one transaction."""

    generation: int
    reached: Reached
    """How far the tenant is projected."""
    rows: list[tuple[str, str, Stored]]
    """Type, entity, state."""
    others: dict[str, list[Writers]]
    """Of each entity, who made the events of its states by other types."""


class Changed(NamedTuple):
    """The states that changed between two places; None for one that is no more."""

    generation: int
    reached: Reached
    states: dict[tuple[str, str], Stored | None]


_EMPTY: Final = Slice(0, NOTHING, [], {})


class SyncStates:
    """Reads states. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        tenant_no: int,
        types: Sequence[str],
        count: int,
        *,
        after: tuple[str, str] = ("", ""),
        among: Collection[str] | None = None,
        beside: Mapping[str, Collection[str]] = MappingProxyType({}),
        leisurely: bool = False,
    ) -> Slice:
        """Up to `count` states of these types, which are sorted, after one; `among` narrows the entities down.

        `beside` names, for a type of state, the other types whose writers are wanted of the same entities.
        """
        async with self._database.reading(leisurely=leisurely) as connection:
            held = await _held(connection, tenant_no)
            if held is None:
                return _EMPTY
            generation, reached = held
            mine = and_(entities.c.generation == generation, entities.c.tenant_no == tenant_no)
            rows: list[tuple[str, str, Stored]] = []
            for type in types:
                if type < after[0] or len(rows) >= count:
                    continue
                where = and_(mine, entities.c.type == type)
                if type == after[0]:
                    where = and_(where, entities.c.entity > after[1])
                if among is not None:
                    where = and_(where, entities.c.entity.in_(list(among)))
                query = select(entities.c.entity, *STATE).where(where).order_by(entities.c.entity)
                found = await connection.execute(query.limit(count - len(rows)))
                rows += [(type, row[0], tuple(row[1:])) for row in found.all()]
            others: dict[str, list[Writers]] = {}
            for of in sorted({of for wanted in beside.values() for of in wanted}):
                names = [entity for type, entity, _ in rows if of in beside.get(type, ())]
                async for entity, writers in _writers(connection, mine, [of], names):
                    others.setdefault(entity, []).append(writers)
        return Slice(generation, reached, rows, others)

    async def versions(
        self, tenant_no: int, types: Collection[str], names: Collection[str]
    ) -> tuple[int, Reached, dict[str, list[Writers]]]:
        """Who made the events of some entities, those of these types: generation, how far it is projected, who."""
        found: dict[str, list[Writers]] = {}
        async with self._database.reading() as connection:
            held = await _held(connection, tenant_no)
            if held is None:
                return 0, NOTHING, {}
            generation, reached = held
            mine = and_(entities.c.generation == generation, entities.c.tenant_no == tenant_no)
            async for entity, writers in _writers(connection, mine, sorted(types), names):
                found.setdefault(entity, []).append(writers)
        return generation, reached, found

    async def mark(self, tenant_no: int) -> tuple[int, Reached]:
        """The generation that is read, and how far the tenant is projected in it; 0 where it is not yet."""
        async with self._database.reading() as connection:
            return await _held(connection, tenant_no) or (0, NOTHING)

    async def changed(
        self, tenant_no: int, types: Collection[str], since: Reached, generation: int, most: int
    ) -> Changed | None:
        """The states by these types that events since a place have changed; None where that cannot be told, or there
        are more than `most` events.

        It cannot where another generation is read now, or events came at places that were passed already.
        """
        states: dict[tuple[str, str], Stored | None] = {}
        async with self._database.reading() as connection:
            held = await _held(connection, tenant_no)
            if held is None or held[0] != generation:
                return None
            reached = held[1]
            span = reached.position - since.position
            if span == 0 and reached == since:
                return Changed(generation, reached, {})
            if not 0 < span <= most:
                return None
            found = (
                await connection.execute(
                    select(events.c.type, events.c.entity, func.count())
                    .where(_between(tenant_no, since.id, reached.id))
                    .group_by(events.c.type, events.c.entity)
                )
            ).all()
            if sum(row[2] for row in found) != span:
                return None
            keys: dict[str, list[str]] = {}
            for type, entity, _ in found:
                if type in types:
                    keys.setdefault(type, []).append(entity)
                    states[(type, entity)] = None
            mine = and_(entities.c.generation == generation, entities.c.tenant_no == tenant_no)
            for type, names in keys.items():
                for some in _some(names):
                    where = and_(mine, entities.c.type == type, entities.c.entity.in_(some))
                    for row in (await connection.execute(select(entities.c.entity, *STATE).where(where))).all():
                        states[(type, row[0])] = tuple(row[1:])
        return Changed(generation, reached, states)

    async def bodies(
        self, tenant_no: int, names: Collection[str], after: StreamId, upto: StreamId
    ) -> AsyncIterator[list[tuple[str, str, StreamId, bytes]]]:
        """The archived events of some entities after a place and up to another, some at a time: entity, type, place,
        envelope, which is empty where the event lies elsewhere."""
        columns = (events.c.entity, events.c.type, events.c.id_ms, events.c.id_n, events.c.body)
        for some in _some(sorted(names)):
            where = and_(_between(tenant_no, after, upto), events.c.entity.in_(some))
            async with self._database.reading() as connection:
                result = await connection.stream(select(*columns).where(where))
                async for rows in result.partitions(AT_ONCE):
                    yield [(entity, type, StreamId(ms, n), body) for entity, type, ms, n, body in rows]


def _between(tenant_no: int, after: StreamId, upto: StreamId) -> Any:
    place = tuple_(events.c.id_ms, events.c.id_n)
    # The comparisons of ms alone are for PostgreSQL, which leaves out months by them.
    return and_(
        events.c.tenant_no == tenant_no,
        events.c.id_ms >= after.ms,
        events.c.id_ms <= upto.ms,
        place > tuple_(after.ms, after.n),
        place <= tuple_(upto.ms, upto.n),
    )


def _some(names: Sequence[str]) -> Iterable[Sequence[str]]:
    return (names[start : start + AT_ONCE] for start in range(0, len(names), AT_ONCE))


async def _held(connection: AsyncConnection, tenant_no: int) -> tuple[int, Reached] | None:
    query = (
        select(generations.c.generation, projections)
        .select_from(generations)
        .join(projections, projections.c.generation == generations.c.generation)
        .where(generations.c.current == 1, projections.c.tenant_no == tenant_no)
    )
    row = (await connection.execute(query)).first()
    if row is None:
        return None
    return row[0], Reached(row.position, row.epoch, row.sequence, StreamId(row.id_ms, row.id_n))


async def _writers(
    connection: AsyncConnection, mine: Any, types: Sequence[str], names: Collection[str]
) -> AsyncIterator[tuple[str, Writers]]:
    columns = (entities.c.entity, entities.c.revision, entities.c.id_ms, entities.c.id_n, entities.c.writers)
    for type in types:
        for some in _some(list(names)):
            where = and_(mine, entities.c.type == type, entities.c.entity.in_(some))
            for entity, revision, ms, n, writers in (await connection.execute(select(*columns).where(where))).all():
                yield entity, Writers(type, revision, StreamId(ms, n), writers)
