"""Replays as the hub puts them together, over a rig's log and store, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from feed_rig import GROUPS, Rig, append, claims

from hub.log.dead_letters import DeadLetters
from hub.log.redrive import Redrive
from hub.log.tenants import Tenants
from hub.services.ledger import Recorder
from hub.services.replay_jobs import ReplayJobs
from hub.services.replay_reading import Reading
from hub.services.replay_watch import ReplayWatch
from hub.services.replayer import Replayer
from schemas.replay import ReplayRequest

GROUP = "hotel-member"
OPS = claims(scopes=("ops", "subscribe:*"))
T0 = 1_784_077_441_000


class Clock:
    """Stands still until it is moved; with `jumps`, every sleep is over at once and moves it so far."""

    def __init__(self, *, jumps: bool = False) -> None:
        self.now = T0 / 1000
        self._jumps = jumps
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def wall(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if self._jumps:
            self.now += seconds
            await asyncio.sleep(0)
            return
        sleeper = (self.now + seconds, asyncio.get_running_loop().create_future())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1]
        finally:
            self._sleepers.remove(sleeper)

    @property
    def asleep(self) -> bool:
        """Whether somebody waits for it to be moved."""
        return bool(self._sleepers)

    def move(self, seconds: float) -> None:
        """So much later."""
        self.now += seconds
        for due, future in self._sleepers:
            if due <= self.now and not future.done():
                future.set_result(None)


class Desk:
    """One hub, as far as replays go. `async with` starts it."""

    def __init__(self, rig: Rig, clock: Clock | None = None) -> None:
        self.rig = rig
        self.clock = clock or Clock(jumps=True)
        self.reading = Reading(rig.history)
        self.watch = ReplayWatch(
            rig.store.replays, lambda: rig.store.opened, wall=self.clock.wall, sleep=self.clock.sleep
        )
        self.redrive = Redrive(rig.log)
        self.tenants = Tenants(rig.log)
        dead_letters = DeadLetters(rig.log, (*GROUPS, GROUP))
        self.jobs = ReplayJobs(self.reading, self.watch, self.tenants, dead_letters.groups, ["hotel-spa"])
        self.replayer = Replayer(self.reading, self.watch, self.redrive, Recorder(rig.metrics, rig.log.partition))

    async def __aenter__(self) -> Desk:
        self.watch.start()
        self.replayer.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.replayer.stop()
        await self.watch.stop()

    async def create(self, **asked: Any) -> dict[str, Any]:
        """Make a replay to the group, unless another target is given."""
        made, _ = await self.jobs.create(OPS, request(**asked))
        return made

    async def show(self, replay_id: str) -> dict[str, Any]:
        """The replay as it is now."""
        return await self.jobs.get(OPS, replay_id)

    async def ended(self, replay_id: str, state: str = "done") -> dict[str, Any]:
        """The replay, once it has this state."""
        found = await self.show(replay_id)
        async with asyncio.timeout(20):
            while found["state"] != state:
                await asyncio.sleep(0.005)
                found = await self.show(replay_id)
        return found

    async def handed(self) -> list[dict[str, str]]:
        """What lies in the group's streams, by partition and place."""
        found = []
        for partition in range(self.rig.log.partitions):
            key = self.rig.log.keys.redrive(partition, GROUP)
            for _, fields in await self.rig.log.source.client.execute_command("XRANGE", key, "-", "+"):
                flat = [field.decode() for field in fields]
                found.append(dict(zip(flat[::2], flat[1::2], strict=True)))
        return found

    async def took(self, condition: Callable[[list[dict[str, str]]], bool]) -> list[dict[str, str]]:
        """What lies there, once it is as it should be."""
        async with asyncio.timeout(20):
            while not condition(found := await self.handed()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return found

    async def empty(self) -> int:
        """Finish what lies there, as the group would; how many that were."""
        count = 0
        for partition in range(self.rig.log.partitions):
            key = self.rig.log.keys.redrive(partition, GROUP)
            for id, _ in await self.rig.log.source.client.execute_command("XRANGE", key, "-", "+"):
                count += int(await self.rig.log.source.client.xdel(key, id))
        return count


def request(**asked: Any) -> ReplayRequest:
    """What an operator posts."""
    return ReplayRequest.model_validate({"target": {"group": GROUP}, "speed": "full"} | asked)


async def events(rig: Rig, tenant: str, count: int, *, start_ms: int = T0, every_ms: int = 1000, **more: Any) -> None:
    """Publish events of a tenant, recorded so far apart."""
    await rig.publish(*[append(tenant, at_ms=start_ms + number * every_ms, **more) for number in range(count)])
