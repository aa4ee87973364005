"""The facts that reports are made of (`hub.core.facts`), each tenant's up to a place in its events.

The place moves in the same transaction as the facts, and only from where the writer knew it to be: of two writers one
gets on, and no event is counted twice. Facts are made by a calendar; those of another one are removed and made anew.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, tzinfo
from typing import Any, Final, NamedTuple

import orjson
from sqlalchemy import ColumnElement, Table, and_, case, delete, func, literal, literal_column, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.calendar import Period, day_of, number_of
from hub.core.facts import Folding, Room, Told
from hub.core.figures import Figures
from hub.core.said import TYPES
from hub.core.stays import Stay
from hub.errors import HubError
from hub.store.database import Database
from hub.store.fact_figures import MOST_CHARGED, read_figures
from hub.store.outward_tables import charges, fact_places, late_days, room_conditions, rooms, stays
from hub.store.places import Fenced, Mark
from hub.store.tables import events, tenants
from schemas.cursor import StreamId

REMOVED_AT_ONCE: Final = 2000


class FactsMoved(HubError):
    """The facts are being made anew, or are no longer those that were asked for."""


class LateDay(NamedTuple):
    """A business day whose figures changed after it was over: by how many events, and the last of them."""

    day: date
    events: int
    sequence: int


class FactPlace(NamedTuple):
    """The last event that is in a tenant's facts, and the calendar that they were made by."""

    position: int
    mark: Mark
    timezone: str
    rollover_hour: int

    @property
    def vanishing(self) -> bool:
        """Whether these facts are being removed: nothing may be added to them."""
        return not self.timezone


Row = tuple[int, int, int, int, int, str, str, str, bytes]
"""An archived event: position, id_ms, id_n, epoch, sequence, type, action, entity, body. The body is empty where the
event is no matter of the facts, or lies elsewhere."""

_ROW: Final = (
    *(events.c[name] for name in ("position", "id_ms", "id_n", "epoch", "sequence", "type", "action", "entity")),
    case((events.c.type.in_(TYPES), events.c.body), else_=literal(b"")).label("body"),
)
_STAY: Final = tuple(stays.c[name] for name in Stay._fields)
_ROOM: Final = tuple(rooms.c[name] for name in Room._fields)
_TABLES: Final = (stays, charges, rooms, room_conditions, late_days)


class Facts:
    """Reads and writes the facts. Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = (sqlite if database.sqlite else postgresql).insert
        self._put_stays = self._put(stays, "tenant_no", "reservation_id")
        self._put_rooms = self._put(rooms, "tenant_no", "room_id")
        self._put_conditions = self._put(room_conditions, "tenant_no", "room_id", "at_ms", "sequence")
        self._add_charges = self._put(
            charges, "tenant_no", "day", "action", "category", "currency", added=("amount", "count"), bounded="amount"
        )
        self._add_late = self._put(late_days, "tenant_no", "day", added=("events",))

    def _put(self, table: Table, *key: str, added: Collection[str] = (), bounded: str = "") -> str:
        """The statement that writes a row over one of the same key, or adds to what that one has: to `bounded` only so
        much that it stays within `MOST_CHARGED`."""
        statement = self._add(table)
        changes: dict[str, ColumnElement[Any]] = {
            column.name: column + statement.excluded[column.name]
            if column.name in added
            else statement.excluded[column.name]
            for column in table.columns
            if column.name not in key
        }
        if bounded:
            changes[bounded] = _within(changes[bounded])
        return self._database.compiled(statement.on_conflict_do_update(index_elements=key, set_=changes))

    # -- figures --------------------------------------------------------------------------------------------------

    async def figures(
        self,
        tenant_id: str,
        period: Period,
        *,
        currency: str,
        rooms: int | None,
        zone: tzinfo,
        rollover_hour: int,
        upto: Mark | None = None,
    ) -> Figures:
        """What the facts say of a period: all of one state of the store, and as far as `FactKeeper` brought them.

        `rooms` is how many the property says it has; None: as many as were spoken of. A tenant without facts has sold
        nothing. `upto` is the event up to which the keeper said that they are true.

        Raises:
            FactsMoved: they are not true so far any more, for somebody makes them anew, or by another calendar.
        """
        async with self._database.reading(leisurely=True) as connection:
            number = await connection.scalar(select(tenants.c.tenant_no).where(tenants.c.tenant_id == tenant_id))
            if upto is not None and upto.sequence > 0:
                await _require(connection, number, (str(zone), rollover_hour), upto)
            return await read_figures(
                connection,
                -1 if number is None else number,
                period,
                currency=currency,
                rooms=rooms,
                zone=zone,
                rollover_hour=rollover_hour,
            )

    # -- late days ------------------------------------------------------------------------------------------------

    async def late(self, tenant_id: str) -> list[LateDay]:
        """The days whose figures changed after they were over, oldest first."""
        query = (
            select(late_days.c.day, late_days.c.events, late_days.c.sequence)
            .join(tenants, tenants.c.tenant_no == late_days.c.tenant_no)
            .where(tenants.c.tenant_id == tenant_id)
            .order_by(late_days.c.day)
        )
        async with self._database.reading() as connection:
            return [LateDay(day_of(row[0]), row[1], row[2]) for row in await connection.execute(query)]

    async def forget_late(self, tenant_id: str, days: Iterable[LateDay]) -> None:
        """The reports on these days were looked at; a day that changed again since then stays."""
        seen = [(number_of(one.day), one.sequence, one.events) for one in days]
        if not seen:
            return
        number = select(tenants.c.tenant_no).where(tenants.c.tenant_id == tenant_id).scalar_subquery()
        async with self._database.writing() as connection:
            for start in range(0, len(seen), REMOVED_AT_ONCE):
                some = seen[start : start + REMOVED_AT_ONCE]
                same = tuple_(late_days.c.day, late_days.c.sequence, late_days.c.events).in_(some)
                await connection.execute(delete(late_days).where(late_days.c.tenant_no == number, same))

    # -- keeping --------------------------------------------------------------------------------------------------

    async def reached(self, tenant_no: int) -> FactPlace | None:
        """How far a tenant's facts are; None when it has none."""
        query = select(fact_places).where(fact_places.c.tenant_no == tenant_no)
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        if row is None:
            return None
        mark = Mark(row.epoch, row.sequence, StreamId(row.id_ms, row.id_n))
        return FactPlace(row.position, mark, row.timezone, row.rollover_hour)

    async def following(self, tenant_no: int, after: StreamId, count: int) -> list[Row]:
        """Up to `count` archived events of a tenant after a place, by place."""
        place = tuple_(events.c.id_ms, events.c.id_n)
        # The comparison of ms alone is for PostgreSQL, which leaves out months by it.
        where = and_(events.c.tenant_no == tenant_no, events.c.id_ms >= after.ms, place > tuple_(after.ms, after.n))
        return await self._rows(select(*_ROW).where(where).order_by(events.c.id_ms, events.c.id_n).limit(count))

    async def following_of(self, tenant_no: int, position: int, count: int) -> list[Row]:
        """Up to `count` archived events of a tenant after a position, by position. Slow: they do not lie so."""
        where = and_(events.c.tenant_no == tenant_no, events.c.position > position)
        return await self._rows(select(*_ROW).where(where).order_by(events.c.position).limit(count))

    async def _rows(self, query: Any) -> list[Row]:
        async with self._database.reading() as connection:
            return [tuple(row) for row in (await connection.execute(query)).all()]

    async def stays(self, tenant_no: int, ids: Collection[str]) -> dict[str, Stay]:
        """Those of these stays that there are."""
        found = await self._named(stays, stays.c.reservation_id, _STAY, tenant_no, ids)
        return {row[0]: Stay._make(row[1:]) for row in found}

    async def rooms(self, tenant_no: int, ids: Collection[str]) -> dict[str, Room]:
        """Those of these rooms that there are."""
        found = await self._named(rooms, rooms.c.room_id, _ROOM, tenant_no, ids)
        return {row[0]: Room._make(row[1:]) for row in found}

    async def _named(
        self, table: Table, name: ColumnElement[str], columns: Sequence[Any], tenant_no: int, ids: Collection[str]
    ) -> Sequence[Any]:
        if not ids:
            return ()
        query = select(name, *columns).where(table.c.tenant_no == tenant_no, name.in_(self._list(ids)))
        async with self._database.reading() as connection:
            return (await connection.execute(query)).all()

    def _list(self, ids: Collection[str]) -> Any:
        """Texts as one parameter: a statement with one for each would be made anew for every number of them."""
        if self._database.sqlite:
            return select(func.json_each(orjson.dumps(list(ids)).decode()).table_valued("value").c.value)
        return select(func.unnest(literal(list(ids), postgresql.ARRAY(postgresql.TEXT))))

    async def conditions(self, tenant_no: int, since: Mapping[str, int]) -> dict[str, list[Told]]:
        """What was written down of these rooms' conditions, each from the one that held at a time, Unix ms, on."""
        found: dict[str, list[Told]] = {id: [] for id in since}
        mine = room_conditions
        async with self._database.reading() as connection:
            for id, ms in since.items():
                room = and_(mine.c.tenant_no == tenant_no, mine.c.room_id == id)
                held = select(func.max(mine.c.at_ms)).where(room, mine.c.at_ms <= ms).scalar_subquery()
                query = select(mine.c.at_ms, mine.c.sequence, mine.c.condition).where(
                    room, mine.c.at_ms >= func.coalesce(held, ms)
                )
                found[id] = [(row[0], row[1], row[2]) for row in await connection.execute(query)]
        return found

    async def write(self, tenant_no: int, before: FactPlace | None, after: FactPlace, folding: Folding) -> None:
        """Store what events changed, and how far the facts are now.

        Raises:
            Fenced: another writer moved the place; nothing was stored.
        """
        async with self._database.writing() as connection:
            await self._move(connection, tenant_no, before, after)
            await self._write(
                connection,
                self._put_stays,
                [(tenant_no, id, *stay, *stay.span) for id, stay in folding.stays.items()],
            )
            await self._write(
                connection, self._put_rooms, [(tenant_no, id, *room) for id, room in folding.rooms.items()]
            )
            await self._write(
                connection,
                self._put_conditions,
                [(tenant_no, *key, condition) for key, condition in folding.conditions.items()],
            )
            await self._write(
                connection,
                self._add_charges,
                [
                    (tenant_no, *key, max(-MOST_CHARGED, min(MOST_CHARGED, amount)), count)
                    for key, amount, count in folding.charges
                ],
            )
            await self._write(connection, self._add_late, [(tenant_no, *late) for late in folding.late])

    @staticmethod
    async def _write(connection: AsyncConnection, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            await connection.exec_driver_sql(statement, rows)

    async def _move(
        self, connection: AsyncConnection, tenant_no: int, before: FactPlace | None, after: FactPlace
    ) -> None:
        values = {
            "position": after.position,
            "epoch": after.mark.epoch,
            "sequence": after.mark.sequence,
            "id_ms": after.mark.id.ms,
            "id_n": after.mark.id.n,
            "timezone": after.timezone,
            "rollover_hour": after.rollover_hour,
        }
        statement: Any
        if before is None:
            statement = self._add(fact_places).values(tenant_no=tenant_no, **values).on_conflict_do_nothing()
        else:
            statement = update(fact_places).where(_at(tenant_no, before)).values(**values)
        if (await connection.execute(statement)).rowcount != 1:
            raise Fenced

    async def remove(self, tenant_no: int, place: FactPlace) -> None:
        """Remove all facts of a tenant, some rows a transaction. Another one that removes them may be joined.

        Raises:
            Fenced: they are no longer at this place.
        """
        if not place.vanishing:
            gone = place._replace(timezone="")
            async with self._database.writing() as connection:
                await self._move(connection, tenant_no, place, gone)
            place = gone
        held = select(fact_places.c.tenant_no).where(_at(tenant_no, place)).with_for_update()
        for table in _TABLES:
            key = tuple(table.primary_key)
            some = select(*key).where(table.c.tenant_no == tenant_no).limit(REMOVED_AT_ONCE)
            rows = REMOVED_AT_ONCE
            while rows == REMOVED_AT_ONCE:
                async with self._database.writing() as connection:
                    # Who was faster may be making new ones already.
                    if await connection.scalar(held) is None:
                        raise Fenced
                    rows = (await connection.execute(delete(table).where(tuple_(*key).in_(some)))).rowcount
        async with self._database.writing() as connection:
            await connection.execute(delete(fact_places).where(_at(tenant_no, place)))


def _within(amount: ColumnElement[Any]) -> ColumnElement[Any]:
    """An amount, or the bound that it is beyond."""
    # They stand in the statement itself, whose parameters are the row's.
    most: ColumnElement[int] = literal_column(str(MOST_CHARGED))
    least: ColumnElement[int] = literal_column(str(-MOST_CHARGED))
    return case((amount > most, most), (amount < least, least), else_=amount)


async def _require(connection: AsyncConnection, tenant_no: int | None, calendar: tuple[str, int], upto: Mark) -> None:
    """Refuse facts that are not true up to an event."""
    query = (
        select(tenants.c.base_ms, tenants.c.base_n, fact_places)
        .select_from(tenants.outerjoin(fact_places, fact_places.c.tenant_no == tenants.c.tenant_no))
        .where(tenants.c.tenant_no == tenant_no)
    )
    row = (await connection.execute(query)).first()
    if row is None:
        raise FactsMoved("the store does not know the tenant any more")
    # Of what the retention removed before it was folded there are no facts.
    reached = StreamId(row.base_ms, row.base_n)
    if row.position is not None:
        if (row.timezone, row.rollover_hour) != calendar:
            raise FactsMoved("the facts are being made anew, by another calendar")
        reached = max(reached, StreamId(row.id_ms, row.id_n))
    if reached < upto.id:
        raise FactsMoved("the facts are being made anew")


def _at(tenant_no: int, place: FactPlace) -> ColumnElement[bool]:
    return and_(
        fact_places.c.tenant_no == tenant_no,
        fact_places.c.position == place.position,
        fact_places.c.epoch == place.mark.epoch,
        fact_places.c.sequence == place.mark.sequence,
        fact_places.c.timezone == place.timezone,
        fact_places.c.rollover_hour == place.rollover_hour,
    )
