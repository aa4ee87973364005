"""What sync reads of the stored states, on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from archive_bench import Open, change
from projected import History, opened, projected

from hub.services.projecting import Projection
from hub.services.projector import rebuild
from hub.store.database import Database
from hub.store.entities import NOTHING, restored
from hub.store.store import Store
from hub.store.sync_states import SyncStates, Writers
from schemas.cursor import ZERO

TYPES = ("checkin_checkout", "customer", "room")
BESIDE = {"checkin_checkout": ("room", "customer"), "room": ("customer",)}


@pytest.fixture
async def store(database: Database) -> Store:
    """A store with nothing in it."""
    return Store(database)


async def filled(store: Store, count: int = 120) -> History:
    """A hotel's life, archived and projected."""
    history = History(5, ["naha", "default"])
    await history.archive(store, history.more(count))
    await projected(Projection(store, await opened(store.entities), current=True))
    return history


async def number(store: Store, tenant: str = "naha") -> int:
    """A tenant's number."""
    found = await store.archive.number(tenant)
    assert found is not None
    return found


def wanted(history: History, tenant: str = "naha") -> dict[tuple[str, str], dict[str, Any]]:
    """What a tenant's events lead to, by type and entity."""
    return {key[1:]: state for key, state in history.states().items() if key[0] == tenant}


async def test_pages_hold_states_with_who_made_the_others(store: Store) -> None:
    """By type and entity, of any size; beside each the writers of the entity's other types that were asked for."""
    history = await filled(store)
    states, mine = SyncStates(store.database), wanted(history)
    tenant_no = await number(store)
    for leisurely in (False, True):
        for count in (1, 4, 100):
            after, found = ("", ""), list[tuple[str, str]]()
            while True:
                slice = await states.page(tenant_no, TYPES, count, after=after, beside=BESIDE, leisurely=leisurely)
                assert slice.generation == await store.entities.current()
                assert slice.reached == (await store.entities.marks(["naha"]))["naha"][1]
                for type, entity, row in slice.rows:
                    state = restored(row)
                    assert (state.data, state.writers) == (
                        mine[(type, entity)]["data"],
                        mine[(type, entity)]["writers"],
                    )
                    for of in BESIDE.get(type, ()):
                        other = mine.get((of, entity))
                        told = [one for one in slice.others.get(entity, []) if one.type == of]
                        if other is None:
                            assert told == []
                            continue
                        (one,) = told
                        assert (one.revision, one.id) == (other["revision"], other["id"])
                        assert orjson.loads(one.writers or "") == other["writers"]
                    found.append((type, entity))
                if len(slice.rows) < count:
                    break
                after = found[-1]
            assert found == sorted(mine)
    some = await states.page(tenant_no, ("room",), 10, among=["reservation:R1", "reservation:R9"])
    assert [row[:2] for row in some.rows] == [("room", "reservation:R1")]
    assert some.others == {}


async def test_the_versions_of_some_entities(store: Store) -> None:
    """By every type that is asked for; and of a state from before versions were kept, nobody."""
    history = await filled(store)
    states, mine = SyncStates(store.database), wanted(history)
    tenant_no = await number(store)
    await change(store.database, "UPDATE entities SET writers = NULL WHERE type = 'room'")
    generation, reached, found = await states.versions(tenant_no, TYPES, ["reservation:R1", "reservation:R9"])
    assert (generation, reached) == await states.mark(tenant_no)
    assert list(found) == ["reservation:R1"]
    for one in found["reservation:R1"]:
        held = mine[(one.type, "reservation:R1")]
        text = None if one.type == "room" else one.writers
        assert one == Writers(one.type, held["revision"], held["id"], text)
        assert one.type == "room" or orjson.loads(one.writers or "") == held["writers"]
    assert {one.type for one in found["reservation:R1"]} == {type for type, name in mine if name == "reservation:R1"}


async def test_what_changed_since_a_place(store: Store) -> None:
    """The states that the events since then named; nothing where that cannot be told."""
    history = await filled(store)
    states = SyncStates(store.database)
    tenant_no = await number(store)
    generation, before = await states.mark(tenant_no)
    same = await states.changed(tenant_no, TYPES, before, generation, 100)
    assert same is not None
    assert (same.reached, same.states) == (before, {})
    fresh = history.more(25)
    await history.archive(store, fresh)
    await projected(Projection(store, generation, current=True))
    mine = [entry for entry in fresh if entry.tenant_id == "naha"]
    found = await states.changed(tenant_no, TYPES, before, generation, 100)
    assert found is not None
    assert found.reached.position == before.position + len(mine)
    assert set(found.states) == {(entry.type, entry.entity) for entry in mine}
    for key, row in found.states.items():
        assert row is not None
        assert restored(row).data == wanted(history)[key]["data"]
    narrowed = await states.changed(tenant_no, ("room",), before, generation, 100)
    assert narrowed is not None
    assert set(narrowed.states) == {(entry.type, entry.entity) for entry in mine if entry.type == "room"}

    assert await states.changed(tenant_no, TYPES, before, generation, len(mine) - 1) is None
    assert await states.changed(tenant_no, TYPES, found.reached._replace(position=9999), generation, 100) is None
    # An event that came at a place that had been passed.
    late = before._replace(id=mine[0].id)
    assert await states.changed(tenant_no, TYPES, late, generation, 100) is None
    await rebuild(store)
    assert await states.changed(tenant_no, TYPES, before, generation, 100) is None


async def test_the_events_of_some_entities(store: Store) -> None:
    """After a place and up to another, both of the tenant alone."""
    history = await filled(store)
    tenant_no = await number(store)
    mine = [entry for entry in history.entries if entry.tenant_id == "naha"]
    names = {"reservation:R1", "reservation:R4"}
    found = []
    async for rows in SyncStates(store.database).bodies(tenant_no, names, mine[10].id, mine[50].id):
        found += rows
    expected = [(one.entity, one.type, one.id, one.raw) for one in mine[11:51] if one.entity in names]
    assert sorted(found, key=lambda row: row[2]) == expected
    assert [rows async for rows in SyncStates(store.database).bodies(tenant_no, [], ZERO, mine[50].id)] == []


async def test_before_the_first_projection_there_is_nothing(open_database: Open) -> None:
    """And it says so without failing."""
    states = SyncStates(await open_database())
    assert await states.mark(1) == (0, NOTHING)
    assert await states.page(1, TYPES, 10) == (0, NOTHING, [], {})
    assert await states.versions(1, TYPES, ["room:1"]) == (0, NOTHING, {})
    assert await states.changed(1, TYPES, NOTHING, 1, 10) is None
