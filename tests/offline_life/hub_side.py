"""The hub: its real parts over a real log server and a real store, that die together and are put together anew.

A hub that is killed at its n-th durable step does nothing more from there on: the step before is in the log or in the
store, the one after is not. What it held in memory is gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry

from hub.log import groups
from hub.log.keys import Keys
from hub.log.setup import open_log
from hub.log.stream_log import Head, StreamLog
from hub.log.topology import connect
from hub.security.tokens import Claims
from hub.services.announcer import Announcer
from hub.services.archiver import Archiver
from hub.services.conflict_desk import ConflictDesk
from hub.services.devices import DeviceDesk
from hub.services.history import History
from hub.services.occupied_rooms import OccupiedRooms
from hub.services.projector import Projector
from hub.services.publisher import Publisher, Systems
from hub.services.sync_reading import SyncReading
from hub.services.sync_records import SyncRecords
from hub.services.sync_settling import SyncSettling
from hub.services.syncer import Syncer
from hub.store.database import Database, store_url
from hub.store.store import Store
from hub.telemetry import Metrics
from schemas import strict_json
from schemas.cursor import ZERO
from tests.memory_log_server import MemoryLogServer

from .clock import SimulatedClock
from .hotel import LISBON, TENANT

_FAR: Final = 1 << 60


class HubDied(BaseException):
    """The hub process is gone. No service can catch it."""


class _NoDispatcher:
    """Nobody is connected; the archiver reads the log itself."""

    position: tuple[Any, ...] = ()

    def recent(self, partition: int, after: Any, count: int) -> list[Any]:
        return []

    def tenants(self) -> list[str]:
        return []

    def head(self, tenant_id: str) -> Head:
        return Head(0, ZERO)


def claims(system: str, device_id: str | None = None, scopes: tuple[str, ...] = ("sync",)) -> Claims:
    """A token's."""
    return Claims(device_id or system, "id", system, frozenset({TENANT}), frozenset(scopes), 1e12, device_id)


class HubSide:
    """One hub. `boot` before anything; a request raises `HubDied` where it was killed in it."""

    def __init__(self, directory: Path, clock: SimulatedClock) -> None:
        self._directory = directory
        self._clock = clock
        self._server = MemoryLogServer()
        self._steps_left: int | None = None
        self.dead = True
        self.deaths = 0
        self.steps = 0
        self.beside: Callable[[], Awaitable[None]] | None = None
        """Done once, right before the next event is published: a race."""
        self._published = 1
        self._archived = 0
        self.metrics = Metrics(CollectorRegistry())

    # -- life -----------------------------------------------------------------------------------------------------

    async def boot(self) -> None:
        """A new process over the same log and store."""
        clock, metrics = self._clock, self.metrics
        self._archiving = asyncio.Lock()
        self.log = StreamLog(connect(self._server.url), Keys("life"), 1, idempotency_s=168 * 3600, wall=time.time)
        self.store = Store(Database(store_url(f"sqlite:///{self._directory / 'hub.db'}", self._directory)))
        await self.store.open()
        await open_log(self.log.source, self.log, ("archiver",))
        self.history = History(self.log, self.store)
        systems = Systems()
        self.publisher = Publisher(self.history, systems, metrics, currency=lambda _: "EUR", clock=clock.now)
        announcer = Announcer(self.publisher, self.history)
        self._projector = Projector(self.store, wall=clock.wall)
        self._archiver = Archiver(
            self.log,
            self.store,
            _NoDispatcher(),  # type: ignore[arg-type]  # what the archiver asks of one
            metrics,
            archive_days=4000,
            wall=clock.wall,
        )
        self.devices = DeviceDesk(
            self.store.sync_devices, self.history, announcer, items=self.store.sync_items, wall=clock.wall
        )
        records = SyncRecords(self.history)
        items = self.store.sync_items
        settling = SyncSettling(self.history, self.publisher, records, items, OccupiedRooms(self.history))
        self.conflicts = ConflictDesk(
            self.store.sync_conflicts,
            records,
            self.history,
            announcer,
            systems,
            metrics,
            self.devices.wake,
            wall=clock.wall,
        )
        self.syncer = Syncer(
            self.history,
            settling,
            records,
            items,
            self.devices,
            announcer,
            metrics,
            finish=self.conflicts.finish,
            zone=lambda _: LISBON,
            clock=clock.now,
        )
        self.reading = SyncReading(self.history, self.devices, metrics)
        submit = self.publisher.submit

        async def published(*args: Any) -> Any:
            if self.beside is not None:
                beside, self.beside = self.beside, None
                await beside()
            receipt = await submit(*args)
            self._published += 1
            return receipt

        self.publisher.submit = self._mortal(published)  # type: ignore[method-assign]
        for owner, name in (
            (items, "write"),
            (items, "settle"),
            (self.store.sync_conflicts, "claim"),
            (self.store.sync_conflicts, "resolve"),
            (self.store.archive, "write"),
        ):
            setattr(owner, name, self._mortal(getattr(owner, name)))
        self._steps_left, self.dead = None, False
        self._archived = 0

    def _mortal(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        """A durable step: the hub may die right before it, or right after."""

        async def step(*args: Any, **kwargs: Any) -> Any:
            self._live()
            result = await call(*args, **kwargs)
            self._live()
            return result

        return step

    def _live(self) -> None:
        self.steps += 1
        if self._steps_left is not None:
            self._steps_left -= 1
            self.dead = self.dead or self._steps_left < 0
        if self.dead:
            raise HubDied

    def doom(self, steps: int) -> None:
        """Die after so many more steps."""
        self._steps_left = steps

    async def kill(self) -> None:
        """Everything in memory is gone."""
        self.dead = True
        self.deaths += 1
        # What other lanes of the dead requests do ends at its next step.
        while lanes := [task for task in asyncio.all_tasks() if "Syncer._settle" in _name(task)]:
            await asyncio.gather(*lanes, return_exceptions=True)
        await self.publisher.aclose()
        await self.log.aclose()
        await self.store.aclose()

    async def close(self) -> None:
        """End it, and its server."""
        if not self.dead:
            await self.devices.stop()
            await self.publisher.aclose()
            await self.log.aclose()
            await self.store.aclose()
        self._server.close()

    # -- what goes on beside requests -----------------------------------------------------------------------------

    async def catch_up(self) -> None:
        """Archive and project all that was published before."""
        # There is one archiver, however many wait for it.
        async with self._archiving:
            if (due := self._published) == self._archived:
                return
            while await self._archiver.round():
                pass
            while await self._projector.round():
                pass
            self._archived = due

    async def trim(self) -> None:
        """Take what is archived out of the log, as the janitor does after some days."""
        await self.catch_up()
        await groups.trim(self.log, _FAR, _FAR, ("archiver",))

    # -- requests: bytes in, bytes out ----------------------------------------------------------------------------

    async def push(self, token: Claims, body: bytes) -> bytes:
        """`POST /sync/push`."""
        token.require("sync")
        response = await self.syncer.push(token, strict_json.parse(body))
        return response.model_dump_json(exclude_none=True).encode()

    async def pull(self, token: Claims, after: str | None, limit: int) -> bytes:
        """`GET /sync/pull`."""
        await self.catch_up()
        return await self.reading.pull(token, TENANT, after, limit, token.device_id)

    async def snapshot(self, token: Claims, after: str | None, limit: int) -> bytes:
        """`GET /sync/snapshot`."""
        await self.catch_up()
        return await self.reading.snapshot(token, TENANT, after, limit, token.device_id)

    async def digest(self, token: Claims) -> bytes:
        """`GET /sync/digest`."""
        await self.catch_up()
        return await self.reading.digest(token, TENANT)


def _name(task: asyncio.Task[Any]) -> str:
    return getattr(task.get_coro(), "__qualname__", "")
