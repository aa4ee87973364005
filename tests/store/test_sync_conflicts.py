"""The contract of conflicts and of who resolves them, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import insert, select, update

from hub.store.database import Database
from hub.store.sync_conflicts import CLAIM_MS, Claim, Conflict, ConflictFilter, Resolution, SyncConflicts
from hub.store.sync_tables import sync_conflicts, sync_items

NOW = 1_784_077_441_000
TENANT = "t-1"
FIELDS = [
    {
        "field": "room_number",
        "base": None,
        "current": "301",
        "incoming": "302",
        "current_by": "desk-2",
        "incoming_by": "desk-1",
        "winner": None,
    }
]
ANNA = Claim("claim-a", "anna (hotel-pms)", "incoming", NOW, None, "she called")
BEN = Claim("claim-b", "ben (hotel-pms)", "edited", NOW + 10, {"room_number": "303"})
DONE = Resolution(4, "cursor-4", "desk-1", {"room_number"})


def ids(number: int) -> tuple[str, str]:
    """The ids of a conflict and its item."""
    return str(UUID(int=number)), str(UUID(int=number + (1 << 64)))


async def opened(
    database: Database,
    number: int = 1,
    tenant: str = TENANT,
    entity: str = "reservation:R1",
    device: str = "desk-1",
    type: str = "checkin_checkout",
) -> str:
    """Write down a conflict with its item; its id."""
    conflict_id, uuid = ids(number)
    of = {"tenant_id": tenant, "uuid": uuid, "device_id": device, "system": "hotel-pms"}
    of |= {"model": "CheckIn", "type": type, "entity": entity}
    item = {
        "device_sequence": number,
        "operation": "CREATE",
        "action": None,
        "checksum": "0" * 64,
        "base_version": '{"hotel-pms":1}',
        "payload": "{}",
        "touched": '["room_number"]',
        "created_at": "2026-07-15T10:04:00+09:00",
        "created_ms": NOW - 500,
        "received_ms": NOW - 100,
        "outcome": "conflict",
        "policy": "manual",
        "conflict_id": conflict_id,
    }
    row = {
        "conflict_id": conflict_id,
        "state": "open",
        "policy": "manual",
        "reason": "others set room_number",
        "fields": orjson.dumps(FIELDS).decode(),
        "current": '{"room_number":"301"}',
        "incoming": '{"room_number":"302"}',
        "current_revision": 3,
        "opened_ms": NOW + number // 2,
    }
    async with database.writing() as connection:
        await connection.execute(insert(sync_items).values(**of, **item))
        await connection.execute(insert(sync_conflicts).values(**of, **row))
    return conflict_id


async def item_row(database: Database, number: int = 1) -> Any:
    async with database.reading() as connection:
        query = select(sync_items).where(sync_items.c.uuid == ids(number)[1])
        return (await connection.execute(query)).mappings().one()


async def test_a_conflict_with_its_item(database: Database) -> None:
    """As the syncer wrote them."""
    conflicts = SyncConflicts(database)
    conflict_id = await opened(database)

    found = await conflicts.get(conflict_id)
    assert found == Conflict(
        conflict_id,
        TENANT,
        ids(1)[1],
        "desk-1",
        "hotel-pms",
        "CheckIn",
        "checkin_checkout",
        "reservation:R1",
        "manual",
        FIELDS,
        {"room_number": "301"},
        {"room_number": "302"},
        3,
        NOW,
        reason="others set room_number",
    )
    item = await conflicts.item(TENANT, found.uuid)
    assert item is not None
    assert (item.operation, item.action, item.base_version) == ("CREATE", None, {"hotel-pms": 1})
    assert (item.created_ms, item.received_ms, item.touched) == (NOW - 500, NOW - 100, ("room_number",))
    assert await conflicts.get(ids(9)[0]) is None
    assert await conflicts.item("t-2", found.uuid) is None


async def test_the_oldest_come_first(database: Database) -> None:
    """Page by page without a hole or a double, also where several were opened at once; narrowed by whatever."""
    conflicts = SyncConflicts(database)
    made = [await opened(database, number) for number in range(1, 6)]
    made.append(await opened(database, 6, "t-2", "room:1", "desk-9", "room"))
    await conflicts.claim(made[1], ANNA)
    await conflicts.resolve(made[1], ANNA, DONE, NOW)

    seen: list[str] = []
    after = None
    while page := await conflicts.listed(ConflictFilter(), 2, after):
        seen += [one.conflict_id for one in page]
        after = (page[-1].opened_ms, page[-1].conflict_id)
    assert seen == made

    async def numbers(**wanted: Any) -> list[int]:
        return [made.index(one.conflict_id) for one in await conflicts.listed(ConflictFilter(**wanted), 9)]

    assert await numbers(state="open") == [0, 2, 3, 4, 5]
    assert await numbers(state="resolved") == [1]
    assert await numbers(tenants=["t-2"]) == await numbers(entity="room:1") == await numbers(types=["room"]) == [5]
    assert await numbers(device_id="desk-1", tenants=[TENANT], state="open") == [0, 2, 3, 4]
    assert await numbers(tenants=[]) == await numbers(types=[]) == []


async def test_resolving_closes_conflict_and_item_at_once(database: Database) -> None:
    """With who decided what; a second time it stays as it is."""
    conflicts = SyncConflicts(database)
    conflict_id = await opened(database)
    before, stands = await conflicts.claim(conflict_id, ANNA)
    assert before is not None
    assert (before.state, before.claim, stands) == ("open", None, ANNA)

    closed, by_this = await conflicts.resolve(conflict_id, ANNA, DONE, NOW + 99)
    assert by_this
    assert closed == await conflicts.get(conflict_id)
    assert (closed.state, closed.claim, closed.winner) == ("resolved", ANNA, "desk-1")
    assert (closed.resolved_ms, closed.revision, closed.cursor) == (NOW + 99, 4, "cursor-4")
    item = await item_row(database)
    assert (item["outcome"], item["policy"], item["winner"]) == ("resolved", "manual", "desk-1")
    assert (item["revision"], item["cursor"], item["touched"]) == (4, "cursor-4", '["room_number"]')

    assert await conflicts.resolve(conflict_id, BEN, replace(DONE, revision=9), NOW + 100) == (closed, False)
    assert (await conflicts.claim(conflict_id, BEN))[0] == closed
    await conflicts.release(conflict_id, ANNA)
    assert await conflicts.get(conflict_id) == closed


async def test_one_person_at_a_time_is_at_a_conflict(database: Database) -> None:
    """Another one is told who, until that grew old; who decides the same again goes on where they were."""
    conflicts = SyncConflicts(database)
    conflict_id = await opened(database)
    await conflicts.claim(conflict_id, ANNA)

    held, stands = await conflicts.claim(conflict_id, BEN)
    assert held is not None
    assert (held.claim, stands) == (ANNA, ANNA)
    held, stands = await conflicts.claim(conflict_id, replace(ANNA, claim_id="again", at_ms=NOW + 5))
    assert held is not None
    assert (held.claim, stands) == (ANNA, ANNA)

    late = replace(BEN, at_ms=NOW + CLAIM_MS)
    held, stands = await conflicts.claim(conflict_id, late)
    assert held is not None
    assert (held.claim, stands) == (ANNA, late)
    found = await conflicts.get(conflict_id)
    assert found is not None
    assert found.claim == late
    # The same person may change their mind.
    changed = replace(late, claim_id="changed", choice="current", data=None, at_ms=late.at_ms + 1)
    assert (await conflicts.claim(conflict_id, changed))[1] == changed


async def test_a_claim_that_came_to_nothing_is_given_up(database: Database) -> None:
    """By who has it, and by nobody else."""
    conflicts = SyncConflicts(database)
    conflict_id = await opened(database)
    await conflicts.claim(conflict_id, ANNA)

    await conflicts.release(conflict_id, BEN)
    assert (await conflicts.claim(conflict_id, BEN))[1] == ANNA
    await conflicts.release(conflict_id, ANNA)
    assert (await conflicts.claim(conflict_id, BEN))[1] == BEN


async def test_of_many_that_decide_at_once_one_closes_it(open_database: Any) -> None:
    """Also where each comes from another hub."""
    databases = [await open_database() for _ in range(3)]
    hubs = [SyncConflicts(database) for database in databases]
    conflict_id = await opened(databases[0])
    people = [Claim(f"claim-{number}", f"person-{number}", "incoming", NOW + number) for number in range(9)]

    claimed = await asyncio.gather(*[hubs[number % 3].claim(conflict_id, one) for number, one in enumerate(people)])
    assert len({stands for _, stands in claimed}) == 1
    ended = await asyncio.gather(
        *[hubs[number % 3].resolve(conflict_id, one, DONE, NOW) for number, one in enumerate(people)]
    )
    assert sum(by_this for _, by_this in ended) == 1
    assert len({closed.claim for closed, _ in ended}) == 1


async def test_a_conflict_that_is_not_there(database: Database) -> None:
    """Cannot be claimed, and nothing comes of giving it up."""
    conflicts = SyncConflicts(database)

    assert await conflicts.claim(ids(7)[0], ANNA) == (None, ANNA)
    await conflicts.release(ids(7)[0], ANNA)


async def test_what_a_policy_settled_was_nobodys_decision(database: Database) -> None:
    """Resolved, without a claim."""
    conflicts = SyncConflicts(database)
    conflict_id = await opened(database)
    settled = {"state": "resolved", "policy": "timestamp", "winner": "desk-2", "resolved_ms": NOW}
    async with database.writing() as connection:
        await connection.execute(update(sync_conflicts).values(**settled))

    found = await conflicts.get(conflict_id)
    assert found is not None
    assert (found.state, found.policy, found.winner, found.claim) == ("resolved", "timestamp", "desk-2", None)
