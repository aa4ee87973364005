"""The contract of the stored states, on SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from archive_bench import Open
from projected import History, opened, said

from hub.store import entities as module
from hub.store.archive import Fenced
from hub.store.database import Database
from hub.store.entities import NOTHING, Entities, Key, Reached, Stored, Superseded
from hub.store.store import Store
from schemas.cursor import StreamId

ROW: Stored = (3, 30, 1000, 1, 1, '["hotel-pms"]', '["hotel-pms"]', b'{"a":1}', '{"hotel-pms":3}')


def at(position: int) -> Reached:
    """A place in a tenant's history."""
    return Reached(position, 7, position, StreamId(1000 + position, 0))


def states(*keys: Key) -> dict[Key, Stored]:
    """Some state for each of the keys."""
    return dict.fromkeys(keys, ROW)


@pytest.fixture
def entities(database: Database) -> Entities:
    """States of nothing yet."""
    return Entities(database)


async def listed(entities: Entities, number: int = 1, count: int = 100, **narrowed: object) -> list[tuple[str, str]]:
    """The types and entities of a page."""
    _, rows = await entities.page(number, count, **narrowed)  # type: ignore[arg-type]
    return [key[1:] for key, _ in rows]


async def test_states_are_stored_with_how_far_they_go(entities: Entities) -> None:
    """Rows and watermark are there together; what is stored again replaces what was there."""
    generation = await opened(entities)
    assert await opened(entities) == generation
    key: Key = (1, "room", "room:1")
    await entities.write(generation, states(key), {1: (NOTHING, at(5)), 2: (NOTHING, at(1))}, current=True)
    assert await entities.reached(generation) == {1: at(5), 2: at(1)}
    assert await entities.fetch(generation, [key, (1, "room", "room:2"), (2, "room", "room:1")]) == {key: ROW}

    newer: Stored = (4, 40, 2000, 0, 2, "[]", '["hotel-pms"]', '{"a":"満室"}'.encode(), '{"hotel-pms":3,"desk-1":1}')
    await entities.write(generation, {key: newer}, {1: (at(5), at(6))}, current=True)
    assert await entities.fetch(generation, [key]) == {key: newer}
    assert await entities.page(1, 10) == (at(6), [(key, newer)])
    assert await entities.page(3, 10) == (NOTHING, [])
    assert await entities.fetch(generation, []) == {}


async def test_only_one_writer_gets_on(entities: Entities) -> None:
    """Who believes a tenant to be elsewhere than it is stores nothing, not even of the other tenants."""
    generation = await opened(entities)
    await entities.write(generation, {}, {1: (NOTHING, at(5))}, current=True)
    for before in (NOTHING, at(4), at(6)):
        with pytest.raises(Fenced):
            await entities.write(
                generation, states((2, "room", "room:1")), {2: (NOTHING, at(1)), 1: (before, at(9))}, current=True
            )
    assert await entities.reached(generation) == {1: at(5)}
    assert await entities.fetch(generation, [(2, "room", "room:1")]) == {}


async def test_a_generation_takes_over(open_database: Open) -> None:
    """Readers see the old one whole until the switch, then the new one; its old writer is told."""
    entities, other = Entities(await open_database()), Entities(await open_database())
    old = await opened(entities)
    await entities.write(old, states((1, "room", "room:1")), {1: (NOTHING, at(5))}, current=True)
    new = await other.begin(2)
    await other.write(new, states((1, "room", "room:2")), {1: (NOTHING, at(4))}, current=False)
    assert (await listed(entities), await entities.current()) == ([("room", "room:1")], old)
    with pytest.raises(Superseded):
        await entities.write(new, {}, {1: (at(4), at(5))}, current=True)

    await other.switch(new)
    assert (await listed(entities), await entities.current()) == ([("room", "room:2")], new)
    assert (await entities.page(1, 1))[0] == at(4)
    with pytest.raises(Superseded):
        await entities.write(old, {}, {1: (at(5), at(6))}, current=True)
    with pytest.raises(Superseded):
        await other.switch(new)
    assert await opened(entities) == new
    assert await entities.others() == [old]


async def test_a_generation_is_removed_a_little_at_a_time(entities: Entities, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction takes some rows; the last takes the generation; the one that is read is never touched."""
    monkeypatch.setattr(module, "REMOVED_AT_ONCE", 3)
    current = await opened(entities)
    await entities.write(current, states((1, "room", "room:1")), {1: (NOTHING, at(1))}, current=True)
    other = await entities.begin(1)
    await entities.write(
        other, states(*[(1, "room", f"room:{one}") for one in range(7)]), {1: (NOTHING, at(1))}, current=False
    )
    assert [gone async for gone in entities.remove(other)] == [3, 3, 1]
    assert await entities.others() == []
    assert await entities.reached(other) == {}
    with pytest.raises(Superseded):
        await entities.write(other, {}, {1: (at(1), at(2))}, current=False)
    with pytest.raises(Superseded):
        _ = [gone async for gone in entities.remove(current)]
    assert await listed(entities) == [("room", "room:1")]
    assert await entities.begin(2) > current


PLACES: Sequence[tuple[str, str]] = [
    ("customer", "customer:a"),
    ("order", "order:1"),
    ("room", "room:1"),
    ("room", "room:10"),
    ("room", "room:2"),
    ("room", "room:満"),
]


async def test_pages_follow_each_other(entities: Entities) -> None:
    """By type and entity, of any size, narrowed by either; another tenant's never among them."""
    generation = await opened(entities)
    mine: list[Key] = [(1, type, entity) for type, entity in reversed(PLACES)]
    await entities.write(
        generation, states(*mine, (2, "room", "room:1")), {1: (NOTHING, at(1)), 2: (NOTHING, at(1))}, current=True
    )
    for count in (1, 2, 3, 100):
        found: list[tuple[str, str]] = []
        while page := await listed(entities, count=count, after=found[-1] if found else ("", "")):
            found += page
        assert found == PLACES
    assert await listed(entities, types={"room", "order"}) == PLACES[1:]
    assert await listed(entities, types={"room"}, after=("room", "room:1"), count=2) == PLACES[3:5]
    assert await listed(entities, types={"customer"}, after=("order", "order:1")) == []
    assert await listed(entities, among={"room:10", "order:1", "room:9"}) == [PLACES[1], PLACES[3]]
    assert await listed(entities, types={"order"}, among={"room:10"}) == []
    assert await listed(entities, types=set()) == []


async def test_before_the_first_projection_there_is_nothing(entities: Entities) -> None:
    """A store that was just made has no states, and says so without failing."""
    assert await entities.current() is None
    assert await entities.page(1, 10) == (NOTHING, [])
    assert await entities.marks(["naha"]) == {}


async def test_where_a_tenant_stands_and_where_a_revision_lies(database: Database) -> None:
    """Tenants by name with their projection's place; of two histories' revisions the later one."""
    store = Store(database)
    history = History(0, ["naha"])
    first = said(0, "naha", 1, 1, "room:1", {"a": 1})
    again = said(5, "naha", 2, 1, "room:1", {"a": 2}, epoch=8)
    await history.archive(store, [first, again])
    assert await store.entities.marks(["naha", "default"]) == {"naha": (1, NOTHING)}
    generation = await opened(store.entities)
    assert await store.entities.marks(["naha"]) == {"naha": (1, NOTHING)}
    await store.entities.write(generation, {}, {1: (NOTHING, at(1))}, current=True)
    assert await store.entities.marks(["naha"]) == {"naha": (1, at(1))}
    found = await store.entities.revision(1, "room:1", 1)
    assert found == (8, 2, again.id)
    assert await store.entities.revision(1, "room:1", 2) is None
