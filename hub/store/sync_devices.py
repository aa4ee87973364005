"""The devices that work offline: when each pushed, pulled and compared what, and how far it is.

A device's row is brought up to date by whoever hears of it, on any hub, in any order: what is later or higher stays.
The history has a row for each push and each comparison; pulls, of which there are many, come summed up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple

import orjson
import uuid_utils
from sqlalchemy import ColumnElement, Table, and_, case, delete, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.device_states import Device
from hub.store.database import Database
from hub.store.sync_tables import sync_comparisons, sync_devices, sync_history

Kind = Literal["push", "pull", "snapshot", "compare"]

PRUNE_ROWS: Final = 5000
"""Rows that one transaction removes: others have their turn in between."""
MAX_DURATION_MS: Final = 2**31 - 1
_RAISED: Final = frozenset({"pushed_ms", "pulled_ms", "compared_ms", "device_sequence"})
"""What never goes down, whoever is late to tell it."""
_TOLD_AT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "backlog": "pushed_ms",
        "clock_skew_ms": "pushed_ms",
        "cursor": "pulled_ms",
        "sequence": "pulled_ms",
        "compared_equal": "compared_ms",
    }
)
"""Of the rest, by which time the last word is told."""
_KEY: Final = ("tenant_id", "device_id")


@dataclass(frozen=True, slots=True)
class Sight:
    """What somebody heard of a device at `at_ms` (Unix ms); None where it says nothing of that.

    Backlog and clock come with `pushed_ms`, cursor and sequence with `pulled_ms`, how it compared with `compared_ms`.
    `whole_ms`: when it last began to pull and got all there was, which answers a request to sync from before.
    """

    tenant_id: str
    device_id: str
    system: str
    at_ms: int
    pushed_ms: int | None = None
    pulled_ms: int | None = None
    compared_ms: int | None = None
    device_sequence: int | None = None
    backlog: int | None = None
    clock_skew_ms: int | None = None
    cursor: str | None = None
    sequence: int | None = None
    compared_equal: bool | None = None
    whole_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Sync:
    """A row of the history. `outcomes`: outcome → how many items came to it."""

    tenant_id: str
    device_id: str
    kind: Kind
    at_ms: int
    duration_ms: int
    items: int
    outcomes: Mapping[str, int] = field(default_factory=dict)
    backlog: int | None = None
    clock_skew_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a device's states compared with the hub's at a cursor; `differing` are `type entity`."""

    tenant_id: str
    device_id: str
    at_ms: int
    cursor: str
    root: str
    count: int
    equal: bool
    differing: tuple[str, ...] = ()
    repaired: int = 0


class Place(NamedTuple):
    """After which device a page begins."""

    tenant_id: str
    device_id: str


class SyncDevices:
    """Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = (sqlite if database.sqlite else postgresql).insert

    # -- writing --------------------------------------------------------------------------------------------------

    async def note(
        self, sights: Iterable[Sight], syncs: Iterable[Sync] = (), comparisons: Iterable[Comparison] = ()
    ) -> None:
        """Write down what was heard, all in one transaction."""
        # In one order, whoever writes: two that lock the same rows do not wait for each other.
        ordered = sorted(sights, key=lambda one: (one.tenant_id, one.device_id, one.at_ms))
        rows = [_history_row(one) for one in syncs]
        compared = [_comparison_row(one) for one in comparisons]
        if not ordered and not rows and not compared:
            return
        async with self._database.writing() as connection:
            for sight in ordered:
                await self._see(connection, sight)
            if rows:
                await connection.execute(insert(sync_history), rows)
            if compared:
                await connection.execute(insert(sync_comparisons), compared)

    async def _see(self, connection: AsyncConnection, sight: Sight) -> None:
        told = {
            "pushed_ms": sight.pushed_ms,
            "pulled_ms": sight.pulled_ms,
            "compared_ms": sight.compared_ms,
            "device_sequence": sight.device_sequence,
            "backlog": sight.backlog,
            "clock_skew_ms": sight.clock_skew_ms,
            "cursor": sight.cursor,
            "sequence": sight.sequence,
            "compared_equal": None if sight.compared_equal is None else int(sight.compared_equal),
        }
        given = {name: value for name, value in told.items() if value is not None}
        row = {
            "tenant_id": sight.tenant_id,
            "device_id": sight.device_id,
            "system": sight.system,
            "first_seen_ms": sight.at_ms,
            "last_seen_ms": sight.at_ms,
            "device_sequence": 0,
        } | given
        add = self._add(sync_devices).values(**row)
        held, new = sync_devices.c, add.excluded
        change: dict[str, Any] = {"last_seen_ms": _higher(held.last_seen_ms, new.last_seen_ms)}
        if sight.pushed_ms is not None:
            # Whoever only reads under its name does not own it.
            change["system"] = case((held.pushed_ms.is_(None), new.system), else_=held.system)
        for name in given:
            raised = name in _RAISED
            change[name] = _higher(held[name], new[name]) if raised else _newer(held, new, name, _TOLD_AT[name])
        if sight.whole_ms is not None:
            open_still = held.requested_ms > sight.whole_ms
            change["requested_ms"] = case((open_still, held.requested_ms), else_=None)
        await connection.execute(add.on_conflict_do_update(index_elements=list(_KEY), set_=change))

    async def request(
        self, tenant_id: str, now_ms: int, *, device_id: str | None = None, system: str | None = None
    ) -> list[str]:
        """Remember that a device (None: every one of the tenant, or of a system) is asked to sync; which these are."""
        wanted = [sync_devices.c.tenant_id == tenant_id]
        if device_id is not None:
            wanted.append(sync_devices.c.device_id == device_id)
        if system is not None:
            wanted.append(sync_devices.c.system == system)
        asked = update(sync_devices).where(*wanted).values(requested_ms=now_ms).returning(sync_devices.c.device_id)
        async with self._database.writing() as connection:
            return sorted(row[0] for row in await connection.execute(asked))

    async def prune(self, before_ms: int) -> int:
        """Remove history and comparisons from before a time (Unix ms); how many rows."""
        return await self._prune(sync_history, sync_history.c.sync_id, before_ms) + await self._prune(
            sync_comparisons, sync_comparisons.c.comparison_id, before_ms
        )

    async def _prune(self, table: Table, key: ColumnElement[str], before_ms: int) -> int:
        old = select(key).where(table.c.at_ms < before_ms).order_by(table.c.at_ms).limit(PRUNE_ROWS)
        gone = 0
        while True:
            async with self._database.writing() as connection:
                removed = (await connection.execute(delete(table).where(key.in_(old)))).rowcount
            gone += removed
            if removed < PRUNE_ROWS:
                return gone

    # -- reading --------------------------------------------------------------------------------------------------

    async def get(self, tenant_id: str, device_id: str) -> Device | None:
        """One device."""
        same = and_(sync_devices.c.tenant_id == tenant_id, sync_devices.c.device_id == device_id)
        async with self._database.reading() as connection:
            row = (await connection.execute(select(sync_devices).where(same))).mappings().first()
        return None if row is None else _device(row)

    async def listed(
        self,
        limit: int,
        *,
        tenants: Collection[str] | None = None,
        system: str | None = None,
        device_id: str | None = None,
        after: Place | None = None,
    ) -> list[Device]:
        """Up to `limit` devices by tenant and name, after a place; None: whatever."""
        devices = sync_devices.c
        query = select(sync_devices).order_by(devices.tenant_id, devices.device_id).limit(limit)
        if tenants is not None:
            query = query.where(devices.tenant_id.in_(list(tenants)))
        if system is not None:
            query = query.where(devices.system == system)
        if device_id is not None:
            query = query.where(devices.device_id == device_id)
        if after is not None:
            further = and_(devices.tenant_id == after.tenant_id, devices.device_id > after.device_id)
            query = query.where(or_(devices.tenant_id > after.tenant_id, further))
        async with self._database.reading() as connection:
            return [_device(row) for row in (await connection.execute(query)).mappings()]

    async def history(self, tenant_id: str, device_id: str, limit: int) -> list[Sync]:
        """The last syncs of a device, newest first."""
        query = select(sync_history).where(sync_history.c.tenant_id == tenant_id, sync_history.c.device_id == device_id)
        query = query.order_by(sync_history.c.at_ms.desc(), sync_history.c.sync_id.desc()).limit(limit)
        async with self._database.reading() as connection:
            return [_sync(row) for row in (await connection.execute(query)).mappings()]

    async def comparisons(self, tenant_id: str, device_id: str, limit: int) -> list[Comparison]:
        """The last comparisons of a device, newest first."""
        rows = sync_comparisons.c
        query = select(sync_comparisons).where(rows.tenant_id == tenant_id, rows.device_id == device_id)
        query = query.order_by(rows.at_ms.desc(), rows.comparison_id.desc()).limit(limit)
        async with self._database.reading() as connection:
            return [_comparison(row) for row in (await connection.execute(query)).mappings()]


def _higher(held: ColumnElement[Any], new: ColumnElement[Any]) -> ColumnElement[Any]:
    return case((or_(held.is_(None), new > held), new), else_=held)


def _newer(held: Any, new: Any, name: str, time: str) -> ColumnElement[Any]:
    return case((or_(held[time].is_(None), new[time] >= held[time]), new[name]), else_=held[name])


def _history_row(sync: Sync) -> dict[str, Any]:
    return asdict(sync) | {
        "sync_id": str(uuid_utils.uuid7()),
        "duration_ms": min(sync.duration_ms, MAX_DURATION_MS),
        "outcomes": orjson.dumps(dict(sync.outcomes)).decode(),
    }


def _comparison_row(one: Comparison) -> dict[str, Any]:
    return asdict(one) | {
        "comparison_id": str(uuid_utils.uuid7()),
        "equal": int(one.equal),
        "differing": orjson.dumps(one.differing).decode(),
    }


def _device(row: Mapping[Any, Any]) -> Device:
    equal = row["compared_equal"]
    return Device(
        row["tenant_id"],
        row["device_id"],
        row["system"],
        row["first_seen_ms"],
        row["last_seen_ms"],
        row["pushed_ms"],
        row["pulled_ms"],
        row["device_sequence"],
        row["backlog"],
        row["clock_skew_ms"],
        row["cursor"],
        row["sequence"],
        row["requested_ms"],
        row["compared_ms"],
        None if equal is None else bool(equal),
    )


def _sync(row: Mapping[Any, Any]) -> Sync:
    return Sync(
        row["tenant_id"],
        row["device_id"],
        row["kind"],
        row["at_ms"],
        row["duration_ms"],
        row["items"],
        orjson.loads(row["outcomes"]),
        row["backlog"],
        row["clock_skew_ms"],
    )


def _comparison(row: Mapping[Any, Any]) -> Comparison:
    return Comparison(
        row["tenant_id"],
        row["device_id"],
        row["at_ms"],
        row["cursor"],
        row["root"],
        row["count"],
        bool(row["equal"]),
        tuple(orjson.loads(row["differing"])),
        row["repaired"],
    )
