"""How long-running tasks end, and how they wait until they are to."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

AGAIN_S: Final = 0.1
"""A task that has not ended so long after it was cancelled is cancelled again."""


async def end(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks until they are over, and await them; what they failed with is their own matter.

    Again and again: before Python 3.12 `wait_for`, which redis-py and SQLAlchemy's pool use, may swallow a
    cancellation. Who is cancelled while ending others ends them first: else they would go on with nobody to know.
    """
    given = [task for task in tasks if task is not None]
    cancelled: asyncio.CancelledError | None = None
    while running := [task for task in given if not task.done()]:
        for task in running:
            task.cancel()
        try:
            await asyncio.wait(running, timeout=AGAIN_S)
        except asyncio.CancelledError as error:
            cancelled = error
    await asyncio.gather(*given, return_exceptions=True)
    if cancelled is not None:
        raise cancelled


async def first_of(*waits: Awaitable[object]) -> None:
    """Until one of these is over; the others are cancelled."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def stopped_within(stopping: asyncio.Event, seconds: float) -> bool:
    """Wait; True when it was to stop before the time was over."""
    try:
        async with asyncio.timeout(seconds):
            await stopping.wait()
    except TimeoutError:
        return False
    return True
