"""Turns that hubs on one log take at the same thing."""

from __future__ import annotations

import asyncio

import pytest
from feed_rig import TENANTS, LogServer, Rig

from hub.log import turns
from hub.log.turns import turn

pytestmark = pytest.mark.server

ONE, TWO = TENANTS[:2]


async def test_one_hub_after_the_other(rig: Rig, log_server: LogServer) -> None:
    """The second begins when the first is done; another room, and another tenant's room, wait for nobody."""
    other = await Rig(log_server, rig.prefix).start()
    order: list[str] = []

    async def second() -> None:
        async with turn(other.log, ONE, "room:301"):
            order.append("second")

    try:
        async with turn(rig.log, ONE, "room:301"):
            waits = asyncio.create_task(second())
            async with turn(other.log, ONE, "room:302"), turn(other.log, TWO, "room:301"):
                order.append("first")
        await waits
    finally:
        await other.stop()
    assert order == ["first", "second"]


async def test_who_waits_too_long_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And has taken nothing from whoever has the turn."""
    monkeypatch.setattr(turns, "WAIT_S", 0.02)
    async with turn(rig.log, ONE, "room:301"):
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with turn(rig.log, ONE, "room:301"):
                    pass
    async with turn(rig.log, ONE, "room:301"):
        pass


async def test_a_dead_holders_turn_is_over_by_itself(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes late to let go of it leaves the next one's alone."""
    with monkeypatch.context() as patch:
        patch.setattr(turns, "HELD_MS", 1)
        dead = turn(rig.log, ONE, "room:301")
        await dead.__aenter__()
    async with turn(rig.log, ONE, "room:301"):
        await dead.__aexit__(None, None, None)
        monkeypatch.setattr(turns, "WAIT_S", 0.02)
        with pytest.raises(TimeoutError):
            async with turn(rig.log, ONE, "room:301"):
                pass
