"""What a comparison of states with their events reads (R80): entities by name, their events, states that none made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import and_, exists, func, select, tuple_

from hub.store.database import Database
from hub.store.tables import entities, events, generations
from schemas.cursor import StreamId


class Told(NamedTuple):
    """An archived event, as far as its entity's state is concerned."""

    entity: str
    id_ms: int
    id_n: int
    epoch: int
    position: int
    sequence: int
    revision: int
    type: str
    body: bytes

    @property
    def id(self) -> StreamId:
        """Where it lies."""
        return StreamId(self.id_ms, self.id_n)


BEGINNING = ("", 0, 0, 0)
_COLUMNS = tuple(events.c[name] for name in Told._fields)
_PLACE = (events.c.entity, events.c.id_ms, events.c.id_n, events.c.epoch)


class Refolds:
    """Every method raises `StoreUnavailable` when the database does not answer. All read at leisure."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entities(self, tenant_no: int, after: str, count: int) -> list[tuple[str, int]]:
        """Up to `count` entities with archived events, by name after one, and when each was spoken of last (ms)."""
        query = (
            select(events.c.entity, func.max(events.c.id_ms))
            .where(events.c.tenant_no == tenant_no, events.c.entity > after)
            .group_by(events.c.entity)
            .order_by(events.c.entity)
            .limit(count)
        )
        async with self._database.reading(leisurely=True) as connection:
            return [(row[0], row[1]) for row in await connection.execute(query)]

    async def events(
        self, tenant_no: int, names: Sequence[str], upto: int, after: tuple[str, int, int, int], count: int
    ) -> list[Told]:
        """Up to `count` events of these entities by name and place after one, not past the position `upto`. The names
        are in the order in which `entities` gave them."""
        # The database's order of names need not be Python's.
        among = names[names.index(after[0]) :] if after[0] else names
        query = (
            select(*_COLUMNS)
            .where(events.c.tenant_no == tenant_no, events.c.entity.in_(among), events.c.position <= upto)
            .where(tuple_(*_PLACE) > tuple_(*after))
            .order_by(*_PLACE)
            .limit(count)
        )
        return await self._told(query)

    async def in_turn(self, tenant_no: int, entity: str, upto: int, after: int, count: int) -> list[Told]:
        """Up to `count` events of one entity by position after `after`. Slow: they do not lie so."""
        query = (
            select(*_COLUMNS)
            .where(events.c.tenant_no == tenant_no, events.c.entity == entity)
            .where(events.c.position > after, events.c.position <= upto)
            .order_by(events.c.position)
            .limit(count)
        )
        return await self._told(query)

    async def _told(self, query: Any) -> list[Told]:
        async with self._database.reading(leisurely=True) as connection:
            return [Told._make(row) for row in (await connection.execute(query)).all()]

    async def unmade(self, tenant_no: int, base: StreamId, count: int) -> list[tuple[str, str]]:
        """Up to `count` states, by type and entity, without any event although theirs should be archived: the last one
        lies past `base`, what the retention removed last."""
        current = select(generations.c.generation).where(generations.c.current == 1).scalar_subquery()
        made = exists().where(
            events.c.tenant_no == entities.c.tenant_no,
            events.c.entity == entities.c.entity,
            events.c.type == entities.c.type,
        )
        query = (
            select(entities.c.type, entities.c.entity)
            .where(
                and_(entities.c.generation == current, entities.c.tenant_no == tenant_no),
                tuple_(entities.c.id_ms, entities.c.id_n) > tuple_(base.ms, base.n),
                ~made,
            )
            .order_by(entities.c.type, entities.c.entity)
            .limit(count)
        )
        async with self._database.reading(leisurely=True) as connection:
            return [(row[0], row[1]) for row in await connection.execute(query)]

    async def position_before(self, tenant_no: int, ms: int) -> int:
        """The position of a tenant's last event that was stored before a time, Unix ms; 0 when there is none."""
        query = (
            select(events.c.position)
            .where(events.c.tenant_no == tenant_no, events.c.id_ms < ms)
            .order_by(events.c.id_ms.desc(), events.c.id_n.desc())
            .limit(1)
        )
        async with self._database.reading() as connection:
            return int(await connection.scalar(query) or 0)
