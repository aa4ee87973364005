"""The time of the simulation: it moves when the world says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta


class SimulatedClock:
    """True time. Implements `consumers.clock.Clock`; nobody waits by it."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self.seconds = 0.0
        """Since the beginning."""

    def now(self) -> datetime:
        """The moment, in UTC."""
        return (self._start + timedelta(seconds=self.seconds)).astimezone(UTC)

    def wall(self) -> float:
        """Unix seconds."""
        return self.now().timestamp()

    def monotonic(self) -> float:
        """Seconds since the beginning."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Give others a turn."""
        await asyncio.sleep(0)

    @asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncIterator[None]:
        """Never up: what takes no simulated time cannot take too long."""
        yield
