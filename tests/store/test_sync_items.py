"""The contract of what devices pushed, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from hub.store.database import Database
from hub.store.sync_items import ConflictMet, Pushed, Settlement, SyncItems
from hub.store.sync_tables import sync_conflicts

TENANT = "t-1"
NOW = 1_784_077_441_000


def pushed(number: int, **more: Any) -> Pushed:
    """An item, by number."""
    item = Pushed(
        str(UUID(int=number)),
        "desk-1",
        number,
        "hotel-pms",
        "Reservation",
        "UPDATE",
        None,
        "reservation",
        f"reservation:R{number % 3}",
        f"{number:064x}",
        {"desk-1": number},
        {"adults": number, "guest_name": "山田"},
        "2026-07-15T10:04:00+09:00",
        NOW + number,
    )
    return item._replace(**more)


def conflict(number: int, state: str = "open") -> ConflictMet:
    """What an item met."""
    item = pushed(number)
    resolved = NOW if state == "resolved" else None
    return ConflictMet(
        str(UUID(int=number + 1000)),
        item.uuid,
        item.device_id,
        item.system,
        item.model,
        item.type,
        item.entity,
        state,
        "manual",
        None,
        "two rooms",
        [{"field": "adults", "base": 1, "current": 2, "incoming": 3}],
        {"adults": 2},
        {"adults": 3},
        4,
        NOW,
        resolved,
    )


async def test_an_item_is_kept_as_it_was_said(database: Database) -> None:
    """What was written down comes back as it was, with no outcome; written again it stays."""
    items = SyncItems(database)
    await items.write(TENANT, [pushed(1)], NOW)
    await items.write(TENANT, [pushed(1, payload={"adults": 9})], NOW + 5)
    (held,) = (await items.known(TENANT, [pushed(1).uuid, pushed(2).uuid])).values()
    assert (held.payload, held.base_version) == ({"adults": 1, "guest_name": "山田"}, {"desk-1": 1})
    assert (held.outcome, held.touched) == (None, None)
    assert await items.known("t-2", [pushed(1).uuid]) == {}


async def test_outcomes_and_conflicts_are_written_together(database: Database) -> None:
    """What became of items is kept with the conflicts they met; an open one holds its entity for its own device."""
    items = SyncItems(database)
    await items.write(TENANT, [pushed(1), pushed(2)], NOW)
    done = Settlement(pushed(1).uuid, "resolved", {"adults"}, 7, "cursor", "merge", "both")
    await items.settle(TENANT, [done, Settlement(pushed(2).uuid, "conflict")], [conflict(2)])
    held = await items.known(TENANT, [pushed(1).uuid, pushed(2).uuid])
    assert (held[pushed(1).uuid].outcome, held[pushed(1).uuid].revision) == ("resolved", 7)
    assert held[pushed(1).uuid].touched == {"adults"}
    names = [pushed(1).entity, pushed(2).entity]
    assert await items.held(TENANT, "desk-1", names) == {pushed(2).entity: conflict(2).conflict_id}
    assert await items.held(TENANT, "desk-2", names) == {}


async def test_items_are_found_by_entity_and_by_number(database: Database) -> None:
    """An entity's items, and whose a device's number is, are found among very many."""
    items = SyncItems(database)
    await items.write(TENANT, [pushed(number) for number in range(1, 901)], NOW)
    assert len(await items.of_entity(TENANT, "reservation:R1")) == 300
    found = await items.by_sequence(TENANT, "desk-1", range(1, 901))
    assert found == {number: pushed(number).uuid for number in range(1, 901)}
    assert len(await items.known(TENANT, list(found.values()))) == 900


async def test_what_is_old_and_settled_goes(database: Database) -> None:
    """Retention takes settled items and conflicts; what waits for a person, or for its next coming, stays."""
    items = SyncItems(database)
    await items.write(TENANT, [pushed(number) for number in range(1, 5)], NOW)
    settlements = [Settlement(pushed(1).uuid, "applied"), Settlement(pushed(2).uuid, "conflict")]
    await items.settle(TENANT, settlements, [conflict(2), conflict(1, "resolved")])
    await items.write(TENANT, [pushed(9)], NOW + 1000)
    assert await items.prune(NOW) == 0
    assert await items.prune(NOW + 1) == 1
    left = await items.known(TENANT, [pushed(number).uuid for number in range(1, 10)])
    assert sorted(item.device_sequence for item in left.values()) == [2, 3, 4, 9]
    async with database.reading() as connection:
        assert await connection.scalar(select(func.count()).select_from(sync_conflicts)) == 1


async def test_what_is_settled_stays(database: Database) -> None:
    """Of two that settle an item the first one's word stands, but for a conflict of an item that has its event."""
    items = SyncItems(database)
    await items.write(TENANT, [pushed(number) for number in range(1, 5)], NOW)
    done = Settlement(pushed(1).uuid, "resolved", {"adults"}, 7, "cursor", "merge", "both")
    waits = [Settlement(pushed(number).uuid, "conflict") for number in (2, 3)]
    assert await items.settle(TENANT, [done, *waits], [conflict(2), conflict(3)]) == {}
    again = [
        Settlement(pushed(1).uuid, "conflict"),
        Settlement(pushed(2).uuid, "conflict"),
        Settlement(pushed(3).uuid, "applied", (), 9, "place", winner="desk-1"),
        Settlement(pushed(4).uuid, "retry"),
    ]
    stand = await items.settle(TENANT, again, [conflict(1), conflict(2)])
    assert stand == {pushed(1).uuid: "resolved", pushed(2).uuid: "conflict"}
    held = await items.known(TENANT, [pushed(number).uuid for number in range(1, 5)])
    found = [held[pushed(number).uuid] for number in range(1, 5)]
    assert [one.outcome for one in found] == ["resolved", "conflict", "applied", "retry"]
    assert (found[0].policy, found[0].cursor, found[2].revision) == ("merge", "cursor", 9)
    async with database.reading() as connection:
        query = select(sync_conflicts.c.uuid, sync_conflicts.c.state, sync_conflicts.c.cursor)
        rows = sorted(tuple(row) for row in await connection.execute(query))
    assert rows == [(pushed(2).uuid, "open", None), (pushed(3).uuid, "resolved", "place")]


async def test_copies_of_a_batch_are_settled_at_once(database: Database) -> None:
    """In whatever order their items were done, neither copy fails, and each item has one conflict."""
    items = SyncItems(database)
    numbers = range(1, 201)
    one = [pushed(number) for number in numbers]
    await asyncio.gather(items.write(TENANT, one, NOW), items.write(TENANT, one[::-1], NOW))
    settled = [Settlement(item.uuid, "conflict") for item in one]
    met = [conflict(number) for number in numbers]
    stands = await asyncio.gather(
        items.settle(TENANT, settled, met), items.settle(TENANT, settled[::-1], met[::-1]), return_exceptions=False
    )
    assert sorted(map(len, stands)) == [0, 200]
    async with database.reading() as connection:
        assert await connection.scalar(select(func.count()).select_from(sync_conflicts)) == 200


async def test_what_the_log_lost_is_as_it_was_written_down(database: Database) -> None:
    """Only what was called done; a conflict it met then is met anew."""
    items = SyncItems(database)
    await items.write(TENANT, [pushed(1), pushed(2)], NOW)
    lost = Settlement(pushed(1).uuid, "resolved", {"adults"}, 7, "cursor", "timestamp", "desk-1", "c", [{"path": "a"}])
    await items.settle(TENANT, [lost, Settlement(pushed(2).uuid, "conflict")], [conflict(1, "resolved"), conflict(2)])
    await items.reopen(TENANT, [pushed(1).uuid, pushed(2).uuid])
    held = await items.known(TENANT, [pushed(1).uuid, pushed(2).uuid])
    first = held[pushed(1).uuid]
    assert (first.outcome, first.touched, first.revision, first.cursor, first.policy, first.winner) == (None,) * 6
    assert (first.payload, held[pushed(2).uuid].outcome) == (pushed(1).payload, "conflict")
    assert await items.settle(TENANT, [Settlement(pushed(1).uuid, "conflict")], [conflict(1)]) == {}
    names = [pushed(1).entity, pushed(2).entity]
    assert len(await items.held(TENANT, "desk-1", names)) == 2
