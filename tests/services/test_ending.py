"""Tasks end when they are to, whatever becomes of a cancellation."""

from __future__ import annotations

import asyncio

import pytest

from hub.services import ending
from hub.services.ending import end


async def _deaf(cancellations: int) -> None:
    """Goes on through so many cancellations, as `wait_for` may make a task do."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if cancellations == 0:
                raise
            cancellations -= 1


async def test_who_is_ended_again_ends_its_own_tasks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that ends others when it ends leaves none behind, though it is cancelled while it does."""
    monkeypatch.setattr(ending, "AGAIN_S", 0.01)
    inner = asyncio.create_task(_deaf(5))

    async def owner() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await end(inner)

    outer = asyncio.create_task(owner())
    await asyncio.sleep(0)
    await end(outer)
    left = not inner.done()
    await end(inner)
    assert not left
    assert outer.cancelled()
