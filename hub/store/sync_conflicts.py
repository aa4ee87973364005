"""Where two had changed the same, neither knowing of the other: settled by a policy, or waiting for a person.

An open conflict is resolved in three steps, by whoever decides: it is claimed, its event is published, it is closed
together with its item. The claim says whose decision the event in the log is, should a hub die in between; it is given
up when nothing was published, and passes to who comes when it has grown old.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
from sqlalchemy import Select, and_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.store.database import Database
from hub.store.sync_tables import sync_conflicts, sync_items

State = Literal["open", "resolved"]
STATES: Final[tuple[State, ...]] = ("open", "resolved")
Choice = Literal["incoming", "current", "edited", "elsewhere"]
"""`elsewhere`: the item's event was in the log already, from somebody else."""

CLAIM_MS: Final = 60_000
"""How long a claim holds: longer than publishing can take."""
MAX_BY: Final = 200
"""Characters of `by`."""
_LIGHT: Final = tuple(column for column in sync_conflicts.c if column.name not in ("current", "incoming"))
_OLDEST: Final = (sync_conflicts.c.opened_ms, sync_conflicts.c.conflict_id)


@dataclass(frozen=True, slots=True)
class Claim:
    """A person's decision on a conflict, at `at_ms` (Unix ms). The event that it makes has `claim_id` as its
    `correlation_id`."""

    claim_id: str
    by: str
    choice: Choice
    at_ms: int
    data: dict[str, Any] | None = None
    """Of an edited one: the fields that were set."""
    reason: str | None = None

    def same_as(self, other: Claim) -> bool:
        """Whether the same person decided the same."""
        return (self.by, self.choice, self.data) == (other.by, other.choice, other.data)


@dataclass(frozen=True, slots=True)
class Conflict:
    """One conflict. Times are Unix ms.

    `fields`: per contested field {field, base, current, incoming, current_by, incoming_by, winner}. `current`: the
    state that the item met, empty where there was none; `incoming`: what the item says. `claim`: of a resolved one the
    decision, where a person made it; of an open one who is at it.
    """

    conflict_id: str
    tenant_id: str
    uuid: str
    device_id: str
    system: str
    model: str
    type: str
    entity: str
    policy: str
    fields: Sequence[Mapping[str, Any]]
    current: Mapping[str, Any]
    incoming: Mapping[str, Any]
    current_revision: int
    opened_ms: int
    state: State = "open"
    winner: str | None = None
    reason: str | None = None
    resolved_ms: int | None = None
    revision: int | None = None
    cursor: str | None = None
    claim: Claim | None = None


@dataclass(frozen=True, slots=True)
class ConflictItem:
    """The item of a conflict, as it was pushed."""

    device_sequence: int
    operation: str
    action: str | None
    base_version: dict[str, int]
    created_at: str
    """By the device's clock."""
    created_ms: int
    """Corrected by what is known of that clock."""
    received_ms: int
    touched: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Resolution:
    """What closes a conflict: the event's place, who won, and what of the event was news."""

    revision: int
    cursor: str
    winner: str | None
    touched: Collection[str]


@dataclass(frozen=True, slots=True)
class ConflictFilter:
    """Which conflicts a listing is asked for; None: whatever."""

    tenants: Collection[str] | None = None
    types: Collection[str] | None = None
    state: State | None = None
    entity: str | None = None
    device_id: str | None = None


class SyncConflicts:
    """Every method raises `StoreUnavailable` when the database does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- reading --------------------------------------------------------------------------------------------------

    async def get(self, conflict_id: str) -> Conflict | None:
        """One conflict."""
        found = await self._read(select(sync_conflicts).where(sync_conflicts.c.conflict_id == conflict_id))
        return found[0] if found else None

    async def item(self, tenant_id: str, uuid: str) -> ConflictItem | None:
        """The item of a conflict."""
        same = and_(sync_items.c.tenant_id == tenant_id, sync_items.c.uuid == uuid)
        async with self._database.reading() as connection:
            row = (await connection.execute(select(sync_items).where(same))).mappings().first()
        return None if row is None else _item(row)

    async def listed(self, wanted: ConflictFilter, limit: int, after: tuple[int, str] | None = None) -> list[Conflict]:
        """Up to `limit` conflicts, the oldest first, after the one with this opening time and id; without their
        versions."""
        rows = sync_conflicts.c
        query = select(*_LIGHT).order_by(*_OLDEST).limit(limit)
        if wanted.tenants is not None:
            query = query.where(rows.tenant_id.in_(list(wanted.tenants)))
        if wanted.types is not None:
            query = query.where(rows.type.in_(list(wanted.types)))
        if wanted.state is not None:
            query = query.where(rows.state == wanted.state)
        if wanted.entity is not None:
            query = query.where(rows.entity == wanted.entity)
        if wanted.device_id is not None:
            query = query.where(rows.device_id == wanted.device_id)
        if after is not None:
            same = and_(rows.opened_ms == after[0], rows.conflict_id > after[1])
            query = query.where(or_(rows.opened_ms > after[0], same))
        return await self._read(query)

    async def _read(self, query: Select[Any]) -> list[Conflict]:
        async with self._database.reading() as connection:
            return [_conflict(row) for row in (await connection.execute(query)).mappings()]

    # -- resolving ------------------------------------------------------------------------------------------------

    async def claim(self, conflict_id: str, claim: Claim) -> tuple[Conflict | None, Claim]:
        """Claim an open conflict for a decision: the conflict as it was before, and the claim that stands now.

        It stands unless the conflict is resolved or another person's claim is younger than a minute. Who decides the
        same again has the claim of the first time.
        """
        async with self._database.writing() as connection:
            held = await self._held(connection, conflict_id)
            if held is None or held.state != "open":
                return held, claim
            before = held.claim
            if before is not None and before.same_as(claim):
                return held, before
            if before is not None and before.by != claim.by and claim.at_ms - before.at_ms < CLAIM_MS:
                return held, before
            same = sync_conflicts.c.conflict_id == conflict_id
            await connection.execute(update(sync_conflicts).where(same).values(**_claimed(claim)))
            return held, claim

    async def release(self, conflict_id: str, claim: Claim) -> None:
        """Give a claim up: nothing was published."""
        async with self._database.writing() as connection:
            held = await self._held(connection, conflict_id)
            if held is not None and held.state == "open" and held.claim == claim:
                same = sync_conflicts.c.conflict_id == conflict_id
                none = dict.fromkeys(("resolved_by", "choice", "resolution", "resolved_ms"))
                await connection.execute(update(sync_conflicts).where(same).values(**none))

    async def resolve(self, conflict_id: str, claim: Claim, done: Resolution, now_ms: int) -> tuple[Conflict, bool]:
        """Close a conflict whose event is in the log, and settle its item; the conflict as it is then, and whether it
        was this that closed it."""
        async with self._database.writing() as connection:
            held = await self._held(connection, conflict_id)
            assert held is not None
            if held.state == "resolved":
                return held, False
            values = _claimed(claim) | {
                "state": "resolved",
                "winner": done.winner,
                "resolved_ms": now_ms,
                "revision": done.revision,
                "cursor": done.cursor,
            }
            same = sync_conflicts.c.conflict_id == conflict_id
            await connection.execute(update(sync_conflicts).where(same).values(**values))
            item = and_(sync_items.c.tenant_id == held.tenant_id, sync_items.c.uuid == held.uuid)
            settled = {
                "outcome": "resolved",
                "policy": "manual",
                "winner": done.winner,
                "revision": done.revision,
                "cursor": done.cursor,
                "touched": orjson.dumps(sorted(done.touched)).decode(),
            }
            await connection.execute(update(sync_items).where(item).values(**settled))
            now = await self._held(connection, conflict_id)
            assert now is not None
            return now, True

    @staticmethod
    async def _held(connection: AsyncConnection, conflict_id: str) -> Conflict | None:
        same = select(sync_conflicts).where(sync_conflicts.c.conflict_id == conflict_id).with_for_update()
        row = (await connection.execute(same)).mappings().first()
        return None if row is None else _conflict(row)


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _claimed(claim: Claim) -> dict[str, Any]:
    said = {"claim_id": claim.claim_id, "data": claim.data, "reason": claim.reason, "at_ms": claim.at_ms}
    return {"resolved_by": claim.by, "choice": claim.choice, "resolution": _json(said)}


def _conflict(row: Mapping[Any, Any]) -> Conflict:
    return Conflict(
        row["conflict_id"],
        row["tenant_id"],
        row["uuid"],
        row["device_id"],
        row["system"],
        row["model"],
        row["type"],
        row["entity"],
        row["policy"],
        orjson.loads(row["fields"]),
        orjson.loads(row.get("current", "{}")),
        orjson.loads(row.get("incoming", "{}")),
        row["current_revision"],
        row["opened_ms"],
        row["state"],
        row["winner"],
        row["reason"],
        row["resolved_ms"],
        row["revision"],
        row["cursor"],
        _claim(row),
    )


def _claim(row: Mapping[Any, Any]) -> Claim | None:
    if row["resolution"] is None:
        return None
    said = orjson.loads(row["resolution"])
    return Claim(said["claim_id"], row["resolved_by"], row["choice"], said["at_ms"], said["data"], said["reason"])


def _item(row: Mapping[Any, Any]) -> ConflictItem:
    touched = row["touched"]
    return ConflictItem(
        row["device_sequence"],
        row["operation"],
        row["action"],
        orjson.loads(row["base_version"]),
        row["created_at"],
        row["created_ms"],
        row["received_ms"],
        None if touched is None else tuple(orjson.loads(touched)),
    )
