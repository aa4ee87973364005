"""Ends a task for certain."""

from __future__ import annotations

import asyncio
from typing import Any


async def end(task: asyncio.Task[Any] | None) -> None:
    """Cancel a task until it is over, and await it; what it failed with is its own matter.

    Again and again: before Python 3.12 `wait_for`, which redis-py and SQLAlchemy's pool use, may swallow a
    cancellation.
    """
    while task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.1)
    if task is not None:
        await asyncio.gather(task, return_exceptions=True)
