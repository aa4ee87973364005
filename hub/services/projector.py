"""Keeps the entities' states up with the archive, and rebuilds them beside their readers.

Of several hubs' projectors one gets on while the others wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import structlog

from hub.services.ending import end, stopped_within
from hub.services.projecting import MAX_BATCH, Projection
from hub.store.archive import Fenced
from hub.store.database import StoreUnavailable, StoreVersionError
from hub.store.entities import NOTHING, Superseded
from hub.store.store import Store

PACE_S: Final = 0.15
"""Between transactions that were not full: what comes meanwhile shares the next one's commit."""
IDLE_S: Final = 2.0
BUSY_S: Final = 0.25
MAX_BUSY_S: Final = 5.0
STANDBY_S: Final = 3.0
MAX_BACKOFF_S: Final = 5.0
STOP_S: Final = 5.0
SMALL_LAG: Final = MAX_BATCH
"""A rebuilt projection takes over when it is no further behind the archive: the projector makes up for that at once."""

log = structlog.get_logger("hub.projector")


class Projector:
    """Follows the archive. Owned by the composition root, which awaits `stop`."""

    def __init__(self, store: Store, *, wall: Callable[[], float] = time.time) -> None:
        self._store = store
        self._wall = wall
        self._now = time.monotonic
        self._busy_at = -BUSY_S
        self._projection: Projection | None = None
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name="projector")

    def wake(self, busy: bool = False) -> None:
        """Something was archived; `busy`: there is much more, and the archiver should have the writer for itself."""
        if busy:
            self._busy_at = self._now()
        self._woken.set()

    async def _let_archive(self) -> None:
        """Events first, states later: a burst is archived at full speed, and projected when it is over."""
        begun = self._now()
        while self._now() - self._busy_at < BUSY_S and self._now() - begun < MAX_BUSY_S and not self._stopping.is_set():
            await self._pause(BUSY_S)

    async def stop(self) -> None:
        """Project what is archived, for at most 5 seconds, and end."""
        self._stopping.set()
        self._woken.set()
        if self._task is None:
            return
        await asyncio.wait([self._task], timeout=STOP_S)
        await end(self._task)

    async def _run(self) -> None:
        backoff = 0.0
        while True:
            last = self._stopping.is_set()
            self._woken.clear()
            await self._let_archive()
            try:
                done = await self.round()
                backoff = 0.0
                if done < MAX_BATCH and last:
                    return
                if not done:
                    await self._news()
                elif done < MAX_BATCH and await self._pause(PACE_S):
                    continue
            except Fenced:
                if await self._pause(STANDBY_S):
                    return
            except Superseded:
                self._projection = None
                log.info("projection_superseded")
            except (StoreUnavailable, StoreVersionError, OSError):
                # Whoever writes to the store says that it is away.
                self._projection = None
                backoff = min(MAX_BACKOFF_S, max(0.2, backoff * 2))
                if await self._pause(backoff):
                    return
            except Exception:  # the projector must not end while the hub runs
                log.exception("projector_failed")
                self._projection = None
                if await self._pause(MAX_BACKOFF_S):
                    return

    async def round(self) -> int:
        """One step of the projection that is read; 0 when it has everything.

        Raises:
            Fenced, Superseded, StoreUnavailable: as `Projection.step`.
        """
        if self._projection is None:
            await self._store.open()
            generation = await self._store.entities.open(int(self._wall() * 1000))
            await _clear(self._store, generation)
            self._projection = Projection(self._store, generation, current=True)
        return await self._projection.step()

    async def _news(self) -> None:
        try:
            async with asyncio.timeout(IDLE_S):
                await self._woken.wait()
        except TimeoutError:
            return

    async def _pause(self, seconds: float) -> bool:
        """Wait; True when the projector is to stop."""
        return await stopped_within(self._stopping, seconds)


async def rebuild(
    store: Store, progress: Callable[[int, int], None] = lambda *_: None, *, wall: Callable[[], float] = time.time
) -> int:
    """Project everything anew beside the states that are read, switch to it, remove the old ones; how many events.

    Cut short at any point, the old states or the new ones are read, whole; the next one begins anew and clears up.
    `progress` is called with the events projected and the events there are.

    Raises:
        Superseded: another rebuild began after this one.
        StoreUnavailable: the store does not answer.
    """
    entities = store.entities
    old = await entities.open(int(wall() * 1000))
    for left in await entities.others():
        await _remove(store, left)
    projection = Projection(store, await entities.begin(int(wall() * 1000)), current=False, seeds=old)
    try:
        await _catch_up(store, projection, progress)
    finally:
        await projection.aclose()
    for number, upto in projection.expired.items():
        after: tuple[str, str] | None = ("", "")
        while after is not None:
            after = await entities.carry(old, projection.generation, number, upto, after)
    # A tenant whose events have all expired was never written to: its states are carried, its place is what is gone.
    settled = await entities.reached(projection.generation)
    unwritten = {number: (NOTHING, projection.at(number)) for number in projection.expired if number not in settled}
    if unwritten:
        await entities.write(projection.generation, {}, unwritten, current=False)
    await entities.switch(projection.generation)
    done = projection.position - sum(one.base_position for one in (await store.archive.tenants()).values())
    log.info("projection_rebuilt", generation=projection.generation, events=done)
    await _clear(store, projection.generation)
    return done


async def _catch_up(store: Store, projection: Projection, progress: Callable[[int, int], None]) -> None:
    """Until everything is projected, or little is missing of what keeps coming."""
    known = 0
    while True:
        try:
            done = await projection.step()
        except Fenced:
            # Nobody else writes to it, but whether a broken commit was kept only the store knows.
            continue
        tenants = (await store.archive.tenants()).values()
        gone = sum(one.base_position for one in tenants)
        every = sum(one.position for one in tenants)
        progress(max(0, projection.position - gone), every - gone)
        if done == 0 or (projection.position >= known > 0 and every - projection.position <= SMALL_LAG):
            break
        known = every
    await projection.settle()


async def _clear(store: Store, current: int) -> None:
    """Remove the generations from before the one that is read."""
    for left in await store.entities.others():
        if left < current:
            await _remove(store, left)


async def _remove(store: Store, generation: int) -> None:
    try:
        async for _ in store.entities.remove(generation):
            await asyncio.sleep(0)
    except Superseded:
        return  # somebody else removed it


__all__ = ["Projector", "rebuild"]
