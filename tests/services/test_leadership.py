"""How one process works under a lease: begins, goes on, begins again, lets go."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from feed_rig import until
from replay_desk import Clock

from hub.services.leadership import BEAT_S, Leadership, Work
from hub.store.database import Database, StoreUnavailable, store_url
from hub.store.leases import Fence, Lease, LeaseLost
from hub.store.store import Store

NAME = "work"


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    """A store that nobody opened yet."""
    return Store(Database(store_url(None, tmp_path)))


class Hub:
    """One process that wants the lease."""

    def __init__(self, store: Store, work: Work | None = None, clock: Clock | None = None) -> None:
        self.store = store
        self.clock = clock or Clock()
        self.calls: list[Fence] = []
        self.cancelled = 0
        self.work = work or self._work
        self.leadership = Leadership(store, NAME, "one", self.work, monotonic=self.clock.wall, sleep=self.clock.sleep)

    async def _work(self, fence: Fence) -> None:
        self.calls.append(fence)
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    async def moved(self, condition: Callable[[], bool]) -> None:
        """Let seconds pass until something is so."""

        def check() -> bool:
            self.clock.move(BEAT_S)
            return condition()

        await until(check)

    async def __aenter__(self) -> Hub:
        self.leadership.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leadership.stop()
        await self.store.aclose()


async def held(store: Store) -> Lease:
    """The lease as it stands."""
    found = await store.leases.look(NAME)
    assert found is not None
    return found


async def test_it_works_while_it_leads_and_lets_go_at_the_end(store: Store) -> None:
    """The work is given its fence and is cancelled once; the lease has no holder then."""
    hub = Hub(store)
    hub.leadership.start()
    await hub.moved(lambda: hub.leadership.leads)
    assert hub.calls == [Fence(NAME, 1)]
    before = (await held(store)).beat
    await _beats(hub, before + 2)
    await until(lambda: hub.clock.asleep)

    await hub.leadership.stop()
    assert hub.cancelled == 1
    assert not hub.leadership.leads
    after = await held(store)
    assert (after.holder, after.fence) == ("", 1)
    assert after.beat > before + 3
    await store.aclose()


async def test_work_that_ends_or_fails_is_begun_again(store: Store) -> None:
    """A second later, under the same fence."""
    calls: list[Fence] = []

    async def work(fence: Fence) -> None:
        calls.append(fence)
        if len(calls) == 1:
            raise StoreUnavailable("away")
        if len(calls) == 2:
            raise RuntimeError("odd")
        if len(calls) > 3:
            await asyncio.Event().wait()

    async with Hub(store, work) as hub:
        await hub.moved(lambda: len(calls) == 4)
        assert set(calls) == {Fence(NAME, 1)}


async def test_a_lease_that_is_lost_ends_the_work(store: Store) -> None:
    """It is cancelled at the next beat, and not begun again while another holds the lease."""
    async with Hub(store) as hub:
        await hub.moved(lambda: hub.leadership.leads)
        taken = None
        while taken is None:
            # Its own beat may come between the look and the taking.
            taken = await store.leases.take(NAME, "other", await held(store))
        await hub.moved(lambda: not hub.leadership.leads)
        assert hub.cancelled == 1
        assert (await held(store)).holder == "other"
        assert len(hub.calls) == 1


async def test_work_that_hears_of_the_loss_first_just_ends(store: Store) -> None:
    """Nothing is begun again before the lease is held anew."""
    calls: list[Fence] = []

    async def work(fence: Fence) -> None:
        calls.append(fence)
        raise LeaseLost(NAME)

    async with Hub(store, work) as hub:
        await hub.moved(lambda: bool(calls))
        for _ in range(5):
            await hub.moved(lambda: True)
        assert len(calls) == 1


async def test_a_store_that_is_away_takes_the_lease_from_nobody(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beats that fail, and one whose answer alone is lost, are made up for when it answers again."""
    async with Hub(store) as hub:
        await hub.moved(lambda: hub.leadership.leads)
        beat = store.leases.beat
        failed = 0

        async def unheard(lease: Lease) -> Lease:
            nonlocal failed
            failed += 1
            if failed == 2:
                await beat(lease)
            raise StoreUnavailable("away")

        monkeypatch.setattr(store.leases, "beat", unheard)
        await hub.moved(lambda: failed >= 4)
        assert hub.leadership.leads
        monkeypatch.setattr(store.leases, "beat", beat)
        await _beats(hub, (await held(store)).beat)
        assert hub.leadership.leads
        assert hub.cancelled == 0


async def _beats(hub: Hub, before: int) -> None:
    """Until the lease has been counted further."""
    async with asyncio.timeout(20):
        while (await held(hub.store)).beat <= before:
            await hub.moved(lambda: True)


async def test_it_waits_for_a_store_that_comes_later(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leads once that is open."""
    opened: Callable[[], Awaitable[None]] = store.open
    tries = 0

    async def away() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise StoreUnavailable("away")
        await opened()

    monkeypatch.setattr(store, "open", away)
    async with Hub(store) as hub:
        await hub.moved(lambda: hub.leadership.leads)
        assert tries >= 3
