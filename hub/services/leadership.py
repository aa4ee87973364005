"""Does a piece of work on one hub at a time: waits for its lease, works while it holds it, lets go when it stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from hub.services.ending import end, first_of
from hub.store.database import StoreUnavailable, StoreVersionError
from hub.store.leases import Fence, Lease, LeaseLost, Leases
from hub.store.store import Store

BEAT_S: Final = 1.0
PATIENCE_S: Final = 6.0
"""A holder that shows no sign of life for so long is taken for dead."""
RETRY_S: Final = 1.0
WORK_ENDS_S: Final = 5.0
"""How long the work may take to come to its end when it is cancelled."""
STOP_S: Final = WORK_ENDS_S + 2.0

Work = Callable[[Fence], Awaitable[None]]

log = structlog.get_logger("hub.leases")


class Leadership:
    """One lease as this process wants it. Whoever made it awaits `stop`.

    `work` runs from when the lease is held until it is lost or `stop` is called, and then is cancelled; work that
    ends or fails is begun again. What it writes it writes with the fence it is given, so that a hub which only believes
    to hold the lease changes nothing.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        holder: str,
        work: Work,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._leases: Leases = store.leases
        self._name = name
        self._holder = holder
        self._work = work
        self._monotonic = monotonic
        self._sleep = sleep
        self._seen: Lease | None = None
        self._since = 0.0
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.leads = False
        """Whether this process holds the lease."""

    def start(self) -> None:
        """Begin to want it."""
        self._task = asyncio.create_task(self._run(), name=f"lease-{self._name}")

    async def stop(self) -> None:
        """End the work, which has some seconds for that, and let go."""
        self._stopping.set()
        if self._task is not None:
            # Not cancelled, or it could not let go in order.
            await asyncio.wait([self._task], timeout=STOP_S)
        await end(self._task)

    async def _waited(self, seconds: float) -> bool:
        """Wait; False when it is to stop."""
        await first_of(self._sleep(seconds), self._stopping.wait())
        return not self._stopping.is_set()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._store.open()
                held = await self._take()
                if held is not None:
                    await self._lead(held)
                    continue
            except LeaseLost:
                log.warning("lease_lost", name=self._name)
            except (StoreUnavailable, OSError) as error:
                log.debug("lease_not_read", name=self._name, error=str(error) or type(error).__name__)
            except StoreVersionError as error:
                log.error("store_not_usable", error=str(error))
            except Exception:  # another hub may hold it, but somebody must
                log.exception("lease_failed", name=self._name)
            await self._waited(RETRY_S)

    async def _take(self) -> Lease | None:
        found = await self._leases.look(self._name)
        now = self._monotonic()
        if found is not None and found.holder and (self._seen is None or found != self._seen):
            self._seen, self._since = found, now
            return None
        if found is not None and found.holder and now - self._since < PATIENCE_S:
            return None
        return await self._leases.take(self._name, self._holder, found)

    async def _lead(self, held: Lease) -> None:
        log.info("lease_held", name=self._name, fence=held.fence)
        self.leads = True
        work = asyncio.create_task(self._keep_working(Fence(held.name, held.fence)), name=f"work-{self._name}")
        try:
            while await self._waited(BEAT_S):
                held = await self._beat(held)
        finally:
            self.leads = False
            self._seen = None
            work.cancel()
            await asyncio.wait([work], timeout=WORK_ENDS_S)
            await end(work)
            with suppress(StoreUnavailable, OSError, asyncio.CancelledError):
                async with asyncio.timeout(RETRY_S):
                    await self._leases.release(held)

    async def _beat(self, held: Lease) -> Lease:
        """Beat; a store that is away for a while takes the lease from nobody, for nobody else can write either."""
        while not self._stopping.is_set():
            try:
                return await self._leases.beat(held)
            except (StoreUnavailable, OSError) as error:
                log.debug("lease_not_shown", name=self._name, error=str(error) or type(error).__name__)
                found = None
                with suppress(StoreUnavailable, OSError):
                    found = await self._leases.look(self._name)
                if found is not None and found.fence == held.fence:
                    # The beat may have been stored although its answer was lost.
                    held = found
                await self._waited(RETRY_S)
        return held

    async def _keep_working(self, fence: Fence) -> None:
        while True:
            try:
                await self._work(fence)
            except LeaseLost:
                return
            except (StoreUnavailable, OSError) as error:
                log.warning("work_held_up", name=self._name, error=str(error) or type(error).__name__)
            except Exception:  # it must go on while the hub runs
                log.exception("work_failed", name=self._name)
            await self._sleep(RETRY_S)
