"""The contract of the replay jobs, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any, get_args

import pytest

from hub.store.database import Database
from hub.store.replays import MOVES, Action, Replay, Replays, State
from schemas.errors import Problem

NOW = 1_784_077_441_000


def job(replay_id: str = "r-1", target: str = "group hotel-member", at: int = NOW, **spec: Any) -> Replay:
    return Replay(replay_id, target, {"asked": spec}, at, updated_ms=at)


async def test_what_was_made_is_found_again(database: Database) -> None:
    """By its id, in the listing, and among those that are not over."""
    replays = Replays(database)
    made, new = await replays.create(job(speed="full"))

    assert new
    assert made == job(speed="full")
    assert await replays.get("r-1") == made
    assert await replays.get("r-2") is None
    assert await replays.active() == await replays.listed(10) == [made]


async def test_the_same_id_makes_one_job(database: Database) -> None:
    """The second finds the first, also once that is over, whatever it asks for."""
    replays = Replays(database)
    made, _ = await replays.create(job())

    assert await replays.create(job(at=NOW + 5, speed="full")) == (made, False)
    await replays.move("r-1", "cancel", NOW + 6)
    again, new = await replays.create(job())
    assert (again.state, new) == ("cancelled", False)


async def test_a_target_has_one_job_that_is_not_over(database: Database) -> None:
    """The refusal names it; once it is over, the next may come."""
    replays = Replays(database)
    await replays.create(job("r-1"))
    await replays.create(job("r-2", "channel hotel-pms test"))
    await replays.move("r-1", "pause", NOW)

    with pytest.raises(Problem) as refused:
        await replays.create(job("r-3"))
    assert refused.value.code == "replay_active"
    assert refused.value.extra == {"replay_id": "r-1"}
    assert "r-1" in refused.value.detail

    await replays.move("r-1", "cancel", NOW)
    assert (await replays.create(job("r-3")))[1]


async def test_of_many_that_are_made_at_once_one_gets_the_target(open_database: Any) -> None:
    """Also where each comes from another process."""
    stores = [Replays(await open_database()) for _ in range(3)]
    attempts = [stores[number % 3].create(job(f"r-{number}")) for number in range(9)]
    ended = await asyncio.gather(*attempts, return_exceptions=True)

    assert sum(isinstance(one, tuple) and one[1] for one in ended) == 1
    assert sum(isinstance(one, Problem) and one.code == "replay_active" for one in ended) == 8
    assert len(await stores[0].active()) == 1


@pytest.mark.parametrize("state", get_args(State))
@pytest.mark.parametrize("action", get_args(Action))
async def test_the_table_of_moves_is_what_moves(database: Database, state: State, action: Action) -> None:
    """From each state by each action: to where the table says, or a refusal that changes nothing."""
    replays = Replays(database)
    await replays.create(Replay("r-1", "t", {}, NOW, state))
    there = MOVES[state].get(action)

    if there is None:
        with pytest.raises(Problem) as refused:
            await replays.move("r-1", action, NOW + 1, lambda _: {"changed": True})
        assert refused.value.code == "replay_over"
        found = await replays.get("r-1")
        assert found is not None
        assert (found.state, found.progress) == (state, {})
    else:
        moved = await replays.move("r-1", action, NOW + 1, lambda _: {"changed": True})
        assert moved.state == there
        assert moved == await replays.get("r-1")
        assert moved.progress == ({} if there == state else {"changed": True})


async def test_a_job_that_is_not_there_cannot_be_moved(database: Database) -> None:
    """Nor noted."""
    for attempt in (
        Replays(database).move("r-9", "pause", NOW),
        Replays(database).note("r-9", NOW, lambda _: {}),
    ):
        with pytest.raises(Problem) as refused:
            await attempt
        assert refused.value.code == "not_found"


async def test_notes_of_two_hubs_at_once_are_both_kept(open_database: Any) -> None:
    """Each sees what the other wrote, and every change has a later time, whatever the clocks say."""
    one, other = Replays(await open_database()), Replays(await open_database())
    await one.create(job())

    def add(held: Replay) -> dict[str, Any]:
        return held.progress | {"events": held.progress.get("events", 0) + 1}

    found = await asyncio.gather(*[(one, other)[number % 2].note("r-1", NOW - number, add) for number in range(20)])

    last = await one.get("r-1")
    assert last is not None
    assert last.progress == {"events": 20}
    assert len({replay.updated_ms for replay in found}) == 20


async def test_the_listing_is_newest_first_and_bounded(database: Database) -> None:
    """And may be narrowed to states."""
    replays = Replays(database)
    for number in range(4):
        await replays.create(job(f"r-{number}", f"target {number}", NOW + number))
    await replays.move("r-1", "cancel", NOW + 9)

    assert [one.replay_id for one in await replays.listed(3)] == ["r-3", "r-2", "r-1"]
    assert [one.replay_id for one in await replays.listed(9, states=["cancelled"])] == ["r-1"]
    assert [one.replay_id for one in await replays.active()] == ["r-0", "r-2", "r-3"]
