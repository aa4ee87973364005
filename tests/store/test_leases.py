"""Leases on both databases: one holder, the next one when it dies, and no late write of the first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from archive_bench import Open
from sqlalchemy import insert, select, text

from hub.services.leadership import PATIENCE_S, RETRY_S, Leadership
from hub.store.database import Database
from hub.store.leases import Fence, Lease, LeaseLost, Leases
from hub.store.outward_tables import report_marks
from hub.store.store import Store

NAME = "scheduler"


@pytest.fixture
async def stores(open_database: Open) -> list[Store]:
    """Two hubs on one database."""
    made = [Store(await open_database()) for _ in range(2)]
    for store in made:
        await store.open()
    return made


class Work:
    """What a hub does while it leads: it says so, and goes on."""

    def __init__(self) -> None:
        self.fences: list[Fence] = []
        self.begun = asyncio.Event()

    async def __call__(self, fence: Fence) -> None:
        """Work until it is cancelled."""
        self.fences.append(fence)
        self.begun.set()
        await asyncio.Event().wait()


class Hand:
    """A clock that a test moves; who sleeps waits for that."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        """Its time."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Until it is so much later."""
        sleeper = (self.now + seconds, asyncio.get_running_loop().create_future())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1]
        finally:
            self._sleepers.remove(sleeper)

    @property
    def asleep(self) -> bool:
        """Whether who uses it has nothing to do but to wait."""
        return bool(self._sleepers)

    def move(self, seconds: float) -> None:
        """So much later."""
        self.now += seconds
        for due, future in self._sleepers:
            if due <= self.now and not future.done():
                future.set_result(None)


async def until(condition: Callable[[], bool], *clocks: Hand) -> None:
    """Until something is so: all clocks move on, half a second whenever all sleep."""
    async with asyncio.timeout(20):
        while not condition():
            if all(clock.asleep for clock in clocks):
                for clock in clocks:
                    clock.move(RETRY_S / 2)
            # The database answers from another thread, which sends no signal.
            await asyncio.sleep(0.002)


async def marked(database: Database) -> set[str]:
    """The jobs that were written."""
    async with database.reading() as connection:
        return {row.job for row in await connection.execute(select(report_marks))}


async def write(database: Database, fence: Fence, job: str) -> None:
    """Write under a fence."""
    async with database.writing() as connection:
        await fence.check(connection)
        await connection.execute(insert(report_marks).values(tenant_id="t", job=job, due_ms=1))


async def test_of_many_that_want_it_one_gets_it(open_database: Open) -> None:
    """When nobody ever held it, and when it was let go."""
    leases = [Leases(await open_database()) for _ in range(4)]
    for _ in range(2):
        seen = await leases[0].look(NAME)
        taken = await asyncio.gather(*(one.take(NAME, f"hub-{number}", seen) for number, one in enumerate(leases)))
        held = [one for one in taken if one is not None]
        assert len(held) == 1
        assert await leases[0].look(NAME) == held[0]
        await leases[0].release(held[0])


async def test_a_holder_shows_that_it_lives(open_database: Open) -> None:
    """Each beat counts up; once another took the lease, the beat tells so, and the release is of no effect."""
    one, other = Leases(await open_database()), Leases(await open_database())
    held = await one.take(NAME, "one", None)
    assert held == Lease(NAME, "one", 1, 0)
    held = await one.beat(held)
    assert await other.look(NAME) == held == Lease(NAME, "one", 1, 1)

    taken = await other.take(NAME, "other", held)
    assert taken is not None
    assert taken.fence == 2
    with pytest.raises(LeaseLost):
        await one.beat(held)
    await one.release(held)
    assert await one.look(NAME) == taken


async def test_who_saw_an_older_beat_takes_nothing(open_database: Open) -> None:
    """The holder has shown since that it lives."""
    one, other = Leases(await open_database()), Leases(await open_database())
    seen = await one.take(NAME, "one", None)
    assert seen is not None
    await one.beat(seen)

    assert await other.take(NAME, "other", seen) is None


async def test_leases_of_different_names_do_not_meet(database: Database) -> None:
    """Each has its own holder and fence."""
    leases = Leases(database)
    first, second = await leases.take("a", "one", None), await leases.take("b", "other", None)

    assert first is not None and second is not None  # noqa: PT018
    await write(database, Fence("a", first.fence), "by-a")
    with pytest.raises(LeaseLost):
        await write(database, Fence("c", 1), "by-c")
    assert await marked(database) == {"by-a"}


async def test_a_write_of_a_hub_that_was_superseded_is_refused_whole(open_database: Open) -> None:
    """What else its transaction wrote is not kept either."""
    one, other = await open_database(), await open_database()
    held = await Leases(one).take(NAME, "one", None)
    assert held is not None
    fence = Fence(NAME, held.fence)
    await write(one, fence, "in-time")
    await Leases(other).take(NAME, "other", held)

    async def late() -> None:
        async with one.writing() as connection:
            await connection.execute(insert(report_marks).values(tenant_id="t", job="late", due_ms=1))
            await fence.check(connection)

    with pytest.raises(LeaseLost):
        await late()
    assert await marked(other) == {"in-time"}


async def test_a_lease_cannot_be_taken_between_check_and_commit(open_database: Open) -> None:
    """Whoever takes it waits for the write that has shown its fence, so that none is committed after."""
    one, other = await open_database(), await open_database()
    held = await Leases(one).take(NAME, "one", None)
    assert held is not None
    # Its connection is there already.
    assert await Leases(other).look(NAME) == held
    order = []

    async def take() -> None:
        assert await Leases(other).take(NAME, "other", held) is not None
        order.append("taken")

    async with one.writing() as connection:
        await Fence(NAME, held.fence).check(connection)
        taking = asyncio.create_task(take())
        # Long enough for it to come as far as it can: it waits in the database.
        for _ in range(200):
            await connection.execute(text("SELECT 1"))
        await connection.execute(insert(report_marks).values(tenant_id="t", job="in-time", due_ms=1))
        order.append("written")
    await taking

    assert order == ["written", "taken"]
    assert await marked(other) == {"in-time"}


async def test_the_second_hub_takes_over_when_the_first_dies(stores: list[Store]) -> None:
    """It lets go of nothing, and the second waits `PATIENCE_S` by its own clock; what the first writes then is
    refused, and when it comes back it does not lead."""
    first, second = Work(), Work()
    hers, his = Hand(), Hand()
    one = Leadership(stores[0], NAME, "one", first, monotonic=hers.monotonic, sleep=hers.sleep)
    other = Leadership(stores[1], NAME, "other", second, monotonic=his.monotonic, sleep=his.sleep)
    one.start()
    await asyncio.wait_for(first.begun.wait(), 20)
    other.start()
    try:
        await until(lambda: his.now >= 3 * PATIENCE_S, hers, his)
        assert (one.leads, other.leads) == (True, False)

        # From here on the first hangs: its clock stands still.
        began = his.now
        await until(second.begun.is_set, his)
        assert his.now - began >= PATIENCE_S - RETRY_S
        assert one.leads, "it does not know yet"
        await write(stores[1].database, second.fences[0], "of the second")
        with pytest.raises(LeaseLost):
            await write(stores[0].database, first.fences[0], "of the first")
        assert await marked(stores[0].database) == {"of the second"}

        await until(lambda: not one.leads, hers, his)
        later = hers.now + 3 * PATIENCE_S
        await until(lambda: hers.now >= later, hers, his)
        assert other.leads
        assert len(first.fences) == 1
    finally:
        await one.stop()
        await other.stop()


async def test_a_hub_that_stops_lets_the_next_one_lead_at_once(stores: list[Store]) -> None:
    """No patience is needed."""
    first, second = Work(), Work()
    clock = Hand()
    one = Leadership(stores[0], NAME, "one", first, monotonic=clock.monotonic, sleep=clock.sleep)
    other = Leadership(stores[1], NAME, "other", second, monotonic=clock.monotonic, sleep=clock.sleep)
    one.start()
    await asyncio.wait_for(first.begun.wait(), 20)
    await one.stop()
    other.start()
    await asyncio.wait_for(second.begun.wait(), 20)

    assert clock.now == 0.0
    assert [fence.number for fence in (*first.fences, *second.fences)] == [1, 2]
    await other.stop()
