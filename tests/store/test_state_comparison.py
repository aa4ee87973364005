"""States held against their events: equal whatever the history was, and unequal wherever somebody changed them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from archive_bench import DAY, EPOCH, T0, change
from projected import History, opened, projected, said

from hub.services import state_comparison
from hub.services.projecting import Projection
from hub.services.state_comparison import Compared, StateComparison
from hub.store.database import Database
from hub.store.store import Store


@pytest.fixture
async def store(database: Database) -> Store:
    """A store with nothing in it."""
    return Store(database)


async def project(store: Store) -> None:
    """Bring the states up to the archive's end."""
    await projected(Projection(store, await opened(store.entities), current=True))


async def compare(store: Store, tenant: str = "naha", **more: Any) -> Compared:
    """Compare one tenant's states."""
    found = Compared()
    archived = (await store.archive.tenants([tenant]))[tenant]
    given = {"since_ms": 0, "part": 0} | {name: more.pop(name) for name in ("since_ms", "part") if name in more}
    await StateComparison(store, sleep=lambda _: asyncio.sleep(0), **more).compare(archived, found, **given)
    return found


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_was_projected_is_equal(store: Store, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Every state of every tenant, in pages of any size, while the projection is anywhere behind the archive."""
    history = History(seed)
    for _ in range(4):
        await history.archive(store, history.more(60))
        await project(store)
    await history.archive(store, history.more(40))
    monkeypatch.setattr(state_comparison, "ENTITIES", history.random.choice((1, 2, 200)))
    monkeypatch.setattr(state_comparison, "EVENTS", history.random.choice((1, 3, 500)))
    states = history.states(history.entries[:-40])
    for tenant in history.tenants:
        found = await compare(store, tenant)
        assert found.examples == []
        assert found.states == sum(1 for name, _, _ in states if name == tenant)
        assert found.events == sum(1 for entry in history.entries[:-40] if entry.tenant_id == tenant)
        assert (found.partial, found.left_out) == (0, 0)


SAID = {"a": 0, "b": [1], "updated_by_system": "hotel-pms"}
CHANGES = {
    "data": ("UPDATE entities SET data = :data WHERE entity = 'room:1'", "room room:1: its a differs"),
    "revision": ("UPDATE entities SET revision = 9 WHERE entity = 'room:1'", "room room:1: its revision is another"),
    "place": ("UPDATE entities SET id_ms = id_ms + 1 WHERE entity = 'room:1'", "room room:1: its id is another"),
    "readers": ("UPDATE entities SET seen_by_all = '[]' WHERE entity = 'room:1'", "its seen_by_all is another"),
    "writers": ("UPDATE entities SET writers = :writers WHERE entity = 'room:1'", "its version is another"),
    "lost": (
        "DELETE FROM entities WHERE entity = 'room:1'",
        "room room:1: its events led to a state that is not there",
    ),
    "made up": ("UPDATE entities SET entity = 'room:7' WHERE entity = 'room:1'", "room room:7: no event made it"),
    "event lost": (
        "DELETE FROM events WHERE entity = 'room:1' AND sequence = 3",
        "room room:1: its revision is another",
    ),
}


async def two_rooms(store: Store) -> History:
    """Two rooms with two events each, projected."""
    history = History(0, ["naha"])
    for number in range(4):
        data = SAID | {"a": number}
        room = f"room:{number % 2 + 1}"
        history.entries.append(said(number, "naha", number + 1, number // 2 + 1, room, data))
    await history.archive(store, history.entries)
    await project(store)
    return history


@pytest.mark.parametrize("what", CHANGES)
async def test_what_somebody_changed_is_found(store: Store, what: str) -> None:
    """Whatever it was, and named without its values."""
    await two_rooms(store)
    sql, words = CHANGES[what]
    other: dict[str, Any] = {"data": orjson.dumps(SAID | {"a": 77}), "writers": '{"x":2}'}
    values = {name: value for name, value in other.items() if f":{name}" in sql}
    assert (await compare(store)).examples == []

    assert await change(store.database, sql, **values) == 1
    found = await compare(store)
    assert any(words in one for one in found.examples), found.examples
    assert found.differing == len(found.examples)
    assert "77" not in str(found.examples)


async def test_numbers_and_booleans_are_not_the_same(store: Store) -> None:
    """What Python would call equal."""
    history = History(0, ["naha"])
    await history.archive(store, [said(0, "naha", 1, 1, "room:1", {"a": 1})])
    await project(store)
    await change(store.database, "UPDATE entities SET data = :data", data=b'{"a":true}')

    assert (await compare(store)).examples == ["room room:1: its a differs"]


async def test_a_history_that_is_partly_expired_is_compared_as_far_as_it_goes(store: Store) -> None:
    """States whose first events are gone are equal, and what the rest speaks of is found when it is changed."""
    history = History(5, ["naha"])
    await history.archive(store, history.more(40))
    moved = [history.more(1, at=70 * DAY + at)[0] for at in range(40)]
    await history.archive(store, moved)
    await project(store)
    assert await store.archive.expire(T0 + 35 * DAY)

    found = await compare(store)
    assert found.examples == []
    assert found.partial == found.states > 0
    entity, type = next((one.entity, one.type) for one in moved if one.event["data"].get("a") is not None)
    sql = "UPDATE entities SET data = :data WHERE entity = :entity AND type = :type"
    await change(store.database, sql, data=b'{"a":"another"}', entity=entity, type=type)
    assert any(f"{type} {entity}" in one for one in (await compare(store)).examples)


async def test_events_that_lie_before_those_they_follow(store: Store) -> None:
    """A server with its clock behind took over: they are folded in the order in which they were archived."""
    history = History(5, ["naha"])
    await history.archive(store, history.more(40))
    projection = Projection(store, await opened(store.entities), current=True)
    await projected(projection)
    back = [history.more(1, epoch=EPOCH + 1, at=5 + 2 * number)[0] for number in range(10)]
    await history.archive(store, back)
    await projected(projection)

    found = await compare(store)
    assert (found.examples, found.events) == ([], 50)


async def test_a_very_long_history_is_looked_at_in_parts(store: Store) -> None:
    """Every entity has its turn within a week, and those that were spoken of lately have it every day."""
    history = History(1, ["naha"])
    rooms = [said(at, "naha", at + 1, 1, f"room:{at}", {"a": at}) for at in range(60)]
    await history.archive(store, rooms)
    await project(store)
    await change(store.database, "UPDATE entities SET data = :data", data=b"{}")

    whole = await compare(store)
    assert (whole.entities, whole.left_out, whole.differing) == (60, 0, 60)
    parts = [await compare(store, all_events=10, since_ms=T0 + 1000, part=part) for part in range(7)]
    assert sum(one.entities for one in parts) == 60
    assert all(0 < one.entities < 60 and one.entities + one.left_out == 60 for one in parts)
    lately = await compare(store, all_events=10, since_ms=T0 + 30, part=3)
    assert 30 <= lately.entities < 60


async def test_it_goes_on_beside_a_projection(store: Store) -> None:
    """Nothing that is projected meanwhile looks like a difference."""
    history = History(9)
    await history.archive(store, history.more(200))
    await project(store)
    going = True

    async def live() -> None:
        while going:
            await history.archive(store, history.more(20))
            await project(store)

    living = asyncio.create_task(live())
    try:
        for _ in range(3):
            for tenant in history.tenants:
                assert (await compare(store, tenant)).examples == []
    finally:
        going = False
        await living
