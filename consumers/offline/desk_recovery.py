"""Looks after one desk: recovers it when the line is back, compares it daily, rebuilds its database, tells the staff.

Beside the desk and its engine, which sync by themselves: here is what makes a recovery of a sync (R82), what is done
when it is the desk's own database that fails (R85), and who is told what to do (R83, R84).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from pathlib import Path
from random import random as random_
from typing import Any, Final, Protocol, TypeVar

import structlog

from consumers.backoff import Random, full_jitter
from consumers.clock import Clock
from consumers.credential import Credential
from consumers.errors import ConsumerError, Disconnected
from consumers.offline.comparison import Comparison, DigestHub, Local
from consumers.offline.engine import SyncOutcome
from consumers.offline.failures import action_of, kind_of
from consumers.offline.guidance import DAY_S, LONG_S, Guidance, after_failure, after_recovery, guidance, in_outage
from consumers.offline.heightened import Heightened
from consumers.offline.items import Counts
from consumers.offline.rebuild import rebuild
from consumers.offline.recovery import RETRY_BASE_S, RETRY_CAP_S, Outcome, RecoveryManager, Report
from consumers.offline.status import Status

log = structlog.get_logger(__name__)

T = TypeVar("T")

AGAIN_S: Final = 300.0
"""After how long a recovery that failed is tried again (R107)."""

_LOCAL: Final = "the local database failed"
_OFFLINE_WORK: Final = "work was done offline"


class LocalFileThread(Local, Protocol):
    """The database on its thread, and its file: `consumers.offline.local_thread.LocalThread`."""

    async def exchange(self, work: Callable[[], T]) -> T:
        """Close the database, run `work`, open what is there then."""
        ...


class HubParts(DigestHub, Protocol):
    """What a recovery asks of the hub: `consumers.offline.hub_link.HubLink`."""

    async def authenticated(self, after: str | None = None) -> bool:
        """A cheap request with the token."""
        ...

    async def schemas(self) -> dict[str, int]:
        """The newest schema version by type."""
        ...


class LineParts(Protocol):
    """The line: `consumers.offline.connectivity.Connectivity`."""

    async def check(self) -> bool:
        """Probe now; whether the line is whole."""
        ...

    def set_interval(self, seconds: float | None) -> None:
        """Probe so often; None: as usual."""
        ...


class StatusParts(Protocol):
    """The desk's state: `consumers.offline.status.StatusStream`."""

    @property
    def current(self) -> Status:
        """The state now."""
        ...

    def update(self, **facts: Any) -> None:
        """Some facts are others now."""
        ...

    def follow(self) -> AsyncGenerator[Status, None]:
        """The state now, and each other one."""
        ...


class DeskParts(Protocol):
    """A desk, as far as it is looked after: `consumers.offline.desk.Desk`."""

    @property
    def local(self) -> LocalFileThread: ...

    @property
    def hub(self) -> HubParts: ...

    @property
    def line(self) -> LineParts: ...

    @property
    def status(self) -> StatusParts: ...

    @property
    def credential(self) -> Credential: ...

    async def sync_now(self) -> SyncOutcome: ...

    def signed_in(self) -> None: ...


class DeskRecovery:
    """Looks after one desk. `run` is a task of its owner's; stop it before the desk is closed."""

    def __init__(
        self,
        desk: DeskParts,
        path: Path,
        *,
        clock: Clock,
        now: Callable[[], datetime],
        random: Random = random_,
        report: Callable[[Report], None] = lambda report: None,
        tell: Callable[[Sequence[Guidance]], None] = lambda told: None,
    ) -> None:
        """`path` is the desk's database; `report` hears of each attempt of a step, `tell` what to tell the staff."""
        self._desk = desk
        self._path = path
        self._clock = clock
        self._now = now
        self._random = random
        self._tell = tell
        self.comparison = Comparison(desk.local, desk.hub, self.sync, clock=clock, now=now)
        self.heightened = Heightened(desk.local, self.comparison, desk.line.set_interval, clock=clock, now=now)
        self.manager = RecoveryManager(
            desk.local,
            self,
            self.comparison,
            self.heightened,
            clock=clock,
            now=now,
            report=report,
            random=random,
        )
        self._due: str | None = None
        """What the next recovery is for, as soon as the line holds."""
        self._recovering = False
        self._cause: str | None = None
        self._woken = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._outage: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Look after the desk until cancelled, or until its state ends."""
        beside = [
            asyncio.create_task(self._recoveries(), name="desk-recoveries"),
            asyncio.create_task(self.comparison.daily(), name="desk-comparisons"),
        ]
        self._watch()
        try:
            await self._at_start()
            await self._follow()
        finally:
            tasks = [one for one in (*beside, self._watching, self._outage) if one is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def approve_rebuild(self) -> Outcome:
        """A person agreed to the rebuild that was proposed: do it, then recover."""
        self._tell([guidance("rebuilding")])
        return await self._recover("a rebuild was approved", rebuild=True)

    # -- what a recovery does (`consumers.offline.recovery.Surroundings`) ---------------------------------------------

    async def probe(self) -> None:
        """A sign of life of the hub."""
        if not await self._desk.line.check():
            raise Disconnected("the hub gives no sign of life")

    async def authenticate(self) -> None:
        """Something cheap with the token."""
        await self._desk.hub.authenticated(await self._desk.local.call(lambda database: database.cursor))

    async def renew(self) -> bool:
        """A fresh token, if the source has one without a person; else it refuses, as of one that expired."""
        credential = self._desk.credential
        if not credential.renewable:
            return False
        await credential.renew()
        self._desk.signed_in()
        return True

    async def schemas(self) -> Mapping[str, int]:
        """What the hub knows."""
        return await self._desk.hub.schemas()

    async def sync(self) -> None:
        """One whole sync."""
        outcome = await self._desk.sync_now()
        match outcome.state:
            case "done":
                return
            case "offline":
                raise Disconnected(outcome.detail or "the line is down")
        raise outcome.error or Disconnected(outcome.detail or f"the sync ended: {outcome.state}", sent=True)

    async def rebuild(self, *, even_if_sound: bool) -> bool:
        """Exchange the database's file under the desk."""
        now, path = self._now, self._path
        rebuilt = await self._desk.local.exchange(lambda: rebuild(path, now=now, even_if_sound=even_if_sound))
        counts = await self._desk.local.call(lambda database: database.counts())
        self._desk.status.update(local_error=None, counts=counts)
        return rebuilt is not None

    # -- what calls for one -------------------------------------------------------------------------------------------

    async def _at_start(self) -> None:
        """A recovery that was left unfinished goes on; what was done before the desk was started was done offline."""
        with suppress(ConsumerError):
            left = await self.manager.unfinished()
            waiting = (await self._desk.local.call(lambda database: database.counts())).waiting
            self._due = left.cause if left is not None else _OFFLINE_WORK if waiting else None

    async def _follow(self) -> None:
        before: Status | None = None
        async with aclosing(self._desk.status.follow()) as states:
            async for status in states:
                self._changed(before, status)
                before = status

    def _changed(self, before: Status | None, status: Status) -> None:
        if status.state == "local_error" and (before is None or before.state != "local_error"):
            self._wake(_LOCAL)
        was_online = before is not None and before.online
        if was_online and not status.online:
            self._due = "the line is back"
            self._outage = asyncio.create_task(self._escalate(), name="desk-outage")
        if status.online and not was_online:
            if self._outage is not None:
                self._outage.cancel()
                self._outage = None
            if self._due is None and before is not None and before.counts.waiting:
                # The desk was started with the line down and nothing to send.
                self._due = _OFFLINE_WORK
            if self._due is not None:
                self._wake(self._due)
                self._due = None
        signed_in = before is not None and before.state == "session_expired" != status.state
        if signed_in and status.online and not self._recovering:
            self._wake("signed in")

    def _wake(self, cause: str) -> None:
        if self._cause != _LOCAL:
            self._cause = cause
        self._woken.set()

    async def _escalate(self) -> None:
        """Tell the staff what to do in an outage, more urgently as it lasts (R83)."""
        for since, until in ((0.0, LONG_S), (LONG_S, DAY_S), (DAY_S, None)):
            self._tell(in_outage(since, self._desk.status.current.counts.waiting))
            if until is not None:
                await self._clock.sleep(until - since)

    async def _recoveries(self) -> None:
        again = False
        while True:
            with suppress(TimeoutError):
                async with self._clock.timeout(AGAIN_S if again else None):
                    await self._woken.wait()
            self._woken.clear()
            cause, self._cause = self._cause or "the last recovery failed", None
            try:
                if cause == _LOCAL and not await self._database_needs_one():
                    continue
                again = (await self._recover(cause)).state == "failed"
            except ConsumerError as error:
                log.warning("recovery_not_run", reason=str(error))
                again = True

    async def _database_needs_one(self) -> bool:
        """The desk could not read or write its database: try it, and do what its failure calls for (R85)."""
        failures = 0
        while True:
            try:
                await self._desk.local.call(lambda database: database.put_vault("written_at", self._written()))
                self._desk.status.update(local_error=None)
                return False
            except ConsumerError as error:
                failures += 1
                action = action_of(kind_of(error), failures)
                log.warning("local_database_failed", action=action, attempt=failures, reason=str(error))
                if action == "rebuild":
                    self._tell([guidance("rebuilding")])
                    return True
                if action != "retry":
                    if (told := after_failure(action)) is not None:
                        self._tell([told])
                    return False
            await self._clock.sleep(full_jitter(failures - 1, self._random, base=RETRY_BASE_S, cap=RETRY_CAP_S))

    def _written(self) -> bytes:
        return self._now().isoformat().encode()

    async def _recover(self, cause: str, *, rebuild: bool = False) -> Outcome:
        self._tell([guidance("recovering")])
        self._recovering = True
        try:
            outcome = await self.manager.run(cause, rebuild=rebuild)
        finally:
            self._recovering = False
        counts = Counts()
        with suppress(ConsumerError):
            counts = await self._desk.local.call(lambda database: database.counts())
        rebuilt = outcome.notes.get("local_database", "").startswith("rebuilt")
        self._tell(after_recovery(outcome.state, conflicts=counts.conflict, failed=counts.failed, rebuilt=rebuilt))
        self._watch()
        return outcome

    def _watch(self) -> None:
        """Watch closely, where a period of it is not over."""
        if self._watching is not None:
            self._watching.cancel()
        self._watching = asyncio.create_task(self._heightened(), name="desk-heightened")

    async def _heightened(self) -> None:
        with suppress(ConsumerError):
            await self.heightened.run()
