"""The runs of comparisons and weekly statistics, and what these are made of (R80, R81).

A property has one daily run a business day and one weekly run a week; a later one of the same day takes its place.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Any, Final, NamedTuple, cast

import orjson
from sqlalchemy import and_, case, delete, func, select
from sqlalchemy.dialects import postgresql, sqlite

from hub.core.calendar import day_of, number_of
from hub.core.device_states import OFFLINE_MS, ONLINE_MS
from hub.core.integrity import Kind
from hub.store.database import Database
from hub.store.leases import Fence
from hub.store.sync_tables import integrity_runs, sync_conflicts, sync_devices, sync_items
from hub.store.tables import entities, events, generations

GONE_MS: Final = 30 * 86_400_000
"""A device that was silent for so long is counted as gone: nobody waits for it."""
STATES: Final = ("online", "late", "offline", "never", "gone")
ACCEPTED: Final = ("applied", "resolved")


@dataclass(frozen=True, slots=True)
class IntegrityRun:
    """One run. `day` is its (first) business day, `ok` whether nothing is wrong; `body` is JSON."""

    tenant_id: str
    kind: Kind
    day: date
    made_ms: int
    ok: bool
    body: dict[str, Any]


class Made(NamedTuple):
    """When the newest run of a kind was made, and its day."""

    day: date
    made_ms: int


class Lateness(NamedTuple):
    """How much later than they were made items came, in seconds."""

    items: int
    p50: float | None
    p95: float | None


class Waiting(NamedTuple):
    """What devices and people have yet to do, over all tenants."""

    devices: dict[str, int]
    """By `STATES`: presence (`hub.core.device_states`), and `gone`."""
    backlog: int
    conflicts: int


class Integrity:
    """Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = (sqlite if database.sqlite else postgresql).insert

    # -- runs -----------------------------------------------------------------------------------------------------

    async def put(self, run: IntegrityRun, fence: Fence | None) -> None:
        """Keep a run, in the place of one of the same day.

        Raises:
            LeaseLost: the lease is another's; nothing was stored.
        """
        values = {"made_ms": run.made_ms, "ok": int(run.ok), "body": orjson.dumps(run.body).decode()}
        add = self._add(integrity_runs).values(tenant_id=run.tenant_id, kind=run.kind, day=number_of(run.day), **values)
        put = add.on_conflict_do_update(index_elements=["tenant_id", "kind", "day"], set_=values)
        async with self._database.writing() as connection:
            if fence is not None:
                await fence.check(connection)
            await connection.execute(put)

    async def newest(self) -> dict[tuple[str, Kind], Made]:
        """The newest run of each tenant and kind."""
        rows = integrity_runs.c
        last = (
            select(rows.tenant_id, rows.kind, func.max(rows.day).label("day"))
            .group_by(rows.tenant_id, rows.kind)
            .subquery()
        )
        query = select(rows.tenant_id, rows.kind, rows.day, rows.made_ms).join(
            last, and_(rows.tenant_id == last.c.tenant_id, rows.kind == last.c.kind, rows.day == last.c.day)
        )
        async with self._database.reading() as connection:
            found = await connection.execute(query)
            return {(row[0], cast("Kind", row[1])): Made(day_of(row[2]), row[3]) for row in found}

    async def before(self, tenant_id: str, kind: Kind, day: date) -> Made | None:
        """The newest run of a kind on an earlier day."""
        rows = integrity_runs.c
        query = (
            select(rows.day, rows.made_ms)
            .where(rows.tenant_id == tenant_id, rows.kind == kind, rows.day < number_of(day))
            .order_by(rows.day.desc())
            .limit(1)
        )
        async with self._database.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else Made(day_of(row[0]), row[1])

    async def listed(self, kind: Kind, limit: int, *, tenants: Collection[str] | None = None) -> list[IntegrityRun]:
        """Up to `limit` runs of a kind, of some tenants (None: of all), the newest day first."""
        rows = integrity_runs.c
        query = select(integrity_runs).where(rows.kind == kind)
        if tenants is not None:
            query = query.where(rows.tenant_id.in_(list(tenants)))
        query = query.order_by(rows.day.desc(), rows.tenant_id).limit(limit)
        async with self._database.reading() as connection:
            return [
                IntegrityRun(
                    row.tenant_id, row.kind, day_of(row.day), row.made_ms, bool(row.ok), orjson.loads(row.body)
                )
                for row in await connection.execute(query)
            ]

    async def expire(self, before: date, fence: Fence) -> int:
        """Remove the runs of days before this one; how many.

        Raises:
            LeaseLost: the lease is another's.
        """
        async with self._database.writing() as connection:
            await fence.check(connection)
            old = delete(integrity_runs).where(integrity_runs.c.day < number_of(before))
            return (await connection.execute(old)).rowcount

    # -- what they are made of ------------------------------------------------------------------------------------

    async def volume(self, tenant_no: int, from_ms: int, until_ms: int) -> dict[str, int]:
        """How many events of each type a tenant's log took in from a time (Unix ms) to before another."""
        query = (
            select(events.c.type, func.count())
            .where(events.c.tenant_no == tenant_no, events.c.id_ms >= from_ms, events.c.id_ms < until_ms)
            .where(func.length(events.c.body) > 0)
            .group_by(events.c.type)
        )
        async with self._database.reading(leisurely=True) as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    async def first_ms(self, tenant_no: int) -> int | None:
        """When a tenant's first event that is still kept was recorded, Unix ms."""
        query = (
            select(events.c.id_ms)
            .where(events.c.tenant_no == tenant_no)
            .order_by(events.c.id_ms, events.c.id_n)
            .limit(1)
        )
        async with self._database.reading() as connection:
            found: int | None = await connection.scalar(query)
            return found

    async def states(self, tenant_no: int) -> dict[str, int]:
        """How many states of each type a tenant has."""
        current = select(generations.c.generation).where(generations.c.current == 1).scalar_subquery()
        query = (
            select(entities.c.type, func.count())
            .where(entities.c.generation == current, entities.c.tenant_no == tenant_no)
            .group_by(entities.c.type)
        )
        async with self._database.reading(leisurely=True) as connection:
            return {row[0]: row[1] for row in await connection.execute(query)}

    async def lateness(self, tenant_id: str, from_ms: int, until_ms: int) -> Lateness:
        """How late the items were that came within this time and were accepted; by the devices' corrected clocks."""
        rows = sync_items.c
        mine = and_(
            rows.tenant_id == tenant_id,
            rows.received_ms >= from_ms,
            rows.received_ms < until_ms,
            rows.outcome.in_(ACCEPTED),
        )
        late = case((rows.received_ms > rows.created_ms, rows.received_ms - rows.created_ms), else_=0)
        ordered = select(late.label("late")).where(mine).order_by(late)
        async with self._database.reading(leisurely=True) as connection:
            count = int(await connection.scalar(select(func.count()).select_from(sync_items).where(mine)) or 0)
            if count == 0:
                return Lateness(0, None, None)
            found = []
            for part in (0.5, 0.95):
                place = min(count - 1, int(count * part))
                found.append((await connection.scalar(ordered.offset(place).limit(1)) or 0) / 1000)
        return Lateness(count, found[0], found[1])

    async def waiting(self, now_ms: int) -> Waiting:
        """What waits now, for the metrics."""
        rows = sync_devices.c
        silent = now_ms - rows.last_seen_ms
        state = case(
            (silent > GONE_MS, "gone"),
            (and_(rows.pushed_ms.is_(None), rows.pulled_ms.is_(None)), "never"),
            (silent < ONLINE_MS, "online"),
            (silent <= OFFLINE_MS, "late"),
            else_="offline",
        )
        query = select(state, func.count(), func.coalesce(func.sum(rows.backlog), 0)).group_by(state)
        still = select(func.count()).select_from(sync_conflicts).where(sync_conflicts.c.state == "open")
        async with self._database.reading() as connection:
            found = (await connection.execute(query)).all()
            conflicts = int(await connection.scalar(still) or 0)
        # What a device had that is gone, nobody waits for.
        backlog = sum(int(row[2]) for row in found if row[0] != "gone")
        return Waiting({row[0]: row[1] for row in found}, backlog, conflicts)
