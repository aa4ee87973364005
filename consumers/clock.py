"""Time as the SDK sees it: one clock, so that tests move it instead of waiting."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol


class Clock(Protocol):
    """A monotonic clock in seconds, and waiting by it."""

    def monotonic(self) -> float:
        """Seconds from an arbitrary start; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait. Cancellation-safe."""
        ...

    def timeout(self, seconds: float | None) -> AbstractAsyncContextManager[Any]:
        """Like `asyncio.timeout`: the block is cancelled after `seconds` and `TimeoutError` raised."""
        ...


class SystemClock:
    """The real clock."""

    def monotonic(self) -> float:
        """`time.monotonic`"""
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        """`asyncio.sleep`"""
        await asyncio.sleep(seconds)

    def timeout(self, seconds: float | None) -> asyncio.Timeout:
        """`asyncio.timeout`"""
        return asyncio.timeout(seconds)
