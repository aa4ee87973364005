"""A clock that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

BOUND_S = 10.0
"""How long a test waits for something that ought to happen, before it fails."""


async def until(condition: Callable[[], object]) -> None:
    """Poll until the condition holds; fail after `BOUND_S`."""
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 - any condition, also of code that signals nothing
            await asyncio.sleep(0.001)


class HandClock:
    """Implements `consumers.clock.Clock`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []
        """Every sleep asked for, in order."""
        self._sleepers: list[tuple[float, float, asyncio.Future[None]]] = []
        self._timeouts: list[tuple[float, asyncio.Timeout]] = []

    def monotonic(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        sleeper = (self.now + seconds, seconds, asyncio.get_running_loop().create_future())
        self._sleepers.append(sleeper)
        try:
            await sleeper[2]
        finally:
            self._sleepers.remove(sleeper)

    @asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncIterator[None]:
        async with asyncio.timeout(None) as timeout:
            entry = (self.now + (float("inf") if seconds is None else seconds), timeout)
            self._timeouts.append(entry)
            try:
                yield
            finally:
                self._timeouts.remove(entry)

    def advance(self, seconds: float) -> None:
        """Move on; wakes and times out whoever is due."""
        self.now += seconds
        for due, _, future in self._sleepers:
            if due <= self.now and not future.done():
                future.set_result(None)
        for due, timeout in self._timeouts:
            if due <= self.now:
                timeout.reschedule(asyncio.get_running_loop().time())

    def asleep(self, seconds: float) -> bool:
        """Whether somebody sleeps for just so long."""
        return any(asked == seconds and not future.done() for _, asked, future in self._sleepers)

    def timed(self, seconds: float) -> bool:
        """Whether some block has just so many seconds left."""
        return any(due - self.now == seconds for due, _ in self._timeouts)

    async def pass_sleep(self, seconds: float) -> None:
        """Wait until somebody sleeps for just so long, and let that time pass."""
        await until(lambda: self.asleep(seconds))
        self.advance(seconds)
