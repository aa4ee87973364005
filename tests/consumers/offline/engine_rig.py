"""A desk's engine beside a hub in memory, on clocks that only the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from desk_rig import DeskRig
from fake_sync_hub import FakeSyncHub
from hand_clock import BOUND_S, HandClock, until

from consumers.offline.database import LocalDatabase
from consumers.offline.engine import Progress, SyncEngine, SyncOutcome, Trigger
from consumers.offline.items import LocalChange, QueueItem
from consumers.offline.local_thread import LocalThread

T = TypeVar("T")
INTERVAL_S = 300.0


@dataclass
class EngineRig:
    """One engine. `outcomes` are those of its syncs, in order."""

    local: LocalThread
    engine: SyncEngine
    hub: FakeSyncHub
    clock: HandClock
    desk: DeskRig
    outcomes: list[SyncOutcome]
    told: list[Progress] = field(default_factory=list)

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        return await self.local.call(work)

    async def do(self, *changes: LocalChange) -> list[QueueItem]:
        """An operation at the desk; the engine is not told."""
        return await self.local.call(
            lambda database: database.operate(changes, operator="佐藤", operation="front desk", role="front")
        )

    async def sync(self) -> SyncOutcome:
        async with asyncio.timeout(BOUND_S):
            return await self.engine.sync()

    async def next(self, trigger: Trigger | None = None) -> SyncOutcome:
        """Wait for one more outcome than were there."""
        before = len(self.outcomes)
        if trigger is not None:
            self.engine.request(trigger)
        await until(lambda: len(self.outcomes) > before)
        return self.outcomes[before]

    async def status(self, item: QueueItem) -> tuple[str, int]:
        """The item's status and its retries."""
        found = await self.call(lambda database: database.item(item.uuid))
        assert found is not None
        return found.status, found.retries

    def pass_by(self, seconds: float) -> None:
        """Move both clocks."""
        self.desk.clock.pass_by(seconds)
        self.clock.advance(seconds)


@asynccontextmanager
async def engine_of(desk: DeskRig, hub: FakeSyncHub, *, online: bool = True, **named: Any) -> AsyncIterator[EngineRig]:
    """A running engine, the line up, its first sync over."""
    clock = HandClock()
    outcomes: list[SyncOutcome] = []
    told: list[Progress] = []
    wanted: dict[str, Any] = {"interval_s": INTERVAL_S, "max_retries": 3, "random": lambda: 1.0, **named}
    local = await LocalThread.open(desk.open)
    engine = SyncEngine(
        local,
        hub,
        clock=clock,
        now=desk.clock.now,
        on_outcome=outcomes.append,
        on_progress=told.append,
        **wanted,
    )
    rig = EngineRig(local, engine, hub, clock, desk, outcomes, told)
    task = asyncio.create_task(engine.run())
    try:
        if online:
            engine.line(True, "start")
            await until(lambda: outcomes)
        yield rig
        engine.stop()
        async with asyncio.timeout(BOUND_S):
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await local.close()
