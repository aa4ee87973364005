"""The contract of what devices pushed, on both databases."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, select

from hub.store.database import Database
from hub.store.sync_items import Conflict, Pushed, Settlement, SyncItems
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


def conflict(number: int, state: str = "open") -> Conflict:
    """What an item met."""
    item = pushed(number)
    resolved = NOW if state == "resolved" else None
    return Conflict(
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
