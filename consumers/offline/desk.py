"""A front desk: works on its own database at once, and keeps that and the hub alike whenever the hub is reached.

No operation waits for the network. Everything that runs beside them is a task of the desk's, ended by `close`.
"""

from __future__ import annotations

import asyncio
import math
import random as random_module
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import structlog

from consumers.backoff import Random
from consumers.clock import Clock, SystemClock
from consumers.credential import Credential, TokenSource
from consumers.errors import AccessRefused, ClientClosed, ConsumerError, Disconnected, HubRefused
from consumers.offline.connectivity import Connectivity
from consumers.offline.database import LocalDatabase
from consumers.offline.engine import COALESCE_S, Progress, SyncEngine, SyncOutcome
from consumers.offline.errors import LocalDamaged, LocalError, LocalFull, LocalUnusable
from consumers.offline.hub_link import HubLink
from consumers.offline.items import Counts, LocalChange, QueueItem, Record
from consumers.offline.live import REFUSED_S, LiveFeed
from consumers.offline.local_thread import LocalThread
from consumers.offline.order import FIRST, settles
from consumers.offline.rebuild import resume
from consumers.offline.settings import DeskSettings
from consumers.offline.status import StatusStream

log = structlog.get_logger(__name__)

T = TypeVar("T")

CLOSE_S: Final = 5.0
"""How long `close` lets a sync under way go on."""
BROKEN_S: Final = 5.0
"""After how long a task that broke by a fault of its own is started again: a desk works around the clock (R107)."""


class OfflineModeDisabled(ConsumerError):
    """The hub is not reached, and this desk may not work without it (OFFLINE_MODE_ENABLED). Nothing was kept."""

    def __init__(self) -> None:
        super().__init__("the hub is not reached, and OFFLINE_MODE_ENABLED is false: nothing was kept")


@dataclass(slots=True)
class DeskCounters:
    """What has happened since the desk was opened."""

    operations: int = 0
    syncs: int = 0
    syncs_failed: int = 0
    pushed: int = 0
    pulled: int = 0
    batches: int = 0
    batches_resent: int = 0
    snapshots: int = 0
    outages: int = 0
    """How often the line was lost."""
    recoveries: int = 0
    """How often all was synced after that."""
    last_recovery_s: float | None = None
    """Seconds from the first good probe until all was synced, the last time (R101: below 30)."""
    longest_recovery_s: float = 0.0
    clock_skew_ms: int | None = None
    """How far this computer's clock is ahead of the hub's, as far as it is known."""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Desk:
    """One desk. Operations and reads are local; `status` tells how it stands with the hub, `counters` how it stood."""

    def __init__(
        self,
        local: LocalThread,
        *,
        url: str,
        credential: Credential,
        tenant_id: str,
        device_id: str,
        clock: Clock,
        now: Callable[[], datetime],
        settings: DeskSettings,
        random: Random,
    ) -> None:
        """Use `open`."""
        self.local = local
        """The database on its own thread: `await desk.local.call(lambda database: database.records("room"))`."""
        self.device_id = device_id
        self.tenant_id = tenant_id
        self.status = StatusStream()
        self.counters = DeskCounters()
        self.credential = credential
        self._clock = clock
        self._settings = settings
        self._back_at: float | None = None
        self._lost = False
        self._refused_at = -math.inf
        self._closing: asyncio.Task[None] | None = None
        self._resets: set[asyncio.Task[None]] = set()
        self.line = Connectivity(self._probe, clock=clock, on_change=self._line_changed)
        self.hub = HubLink(
            url, credential, tenant_id=tenant_id, device_id=device_id, clock=clock, on_trouble=self.line.suspect
        )
        self.engine = SyncEngine(
            local,
            self.hub,
            clock=clock,
            now=now,
            random=random,
            interval_s=settings.sync_interval_s,
            max_retries=settings.max_retry_count,
            on_progress=self._progressed,
            on_outcome=self._synced,
        )
        self._live = LiveFeed(
            url,
            credential,
            self.line,
            tenant_id=tenant_id,
            device_id=device_id,
            clock=clock,
            random=random,
            on_news=self.engine.news,
            on_sync_requested=lambda: self.engine.request("requested"),
            on_refused=self._refused,
        )
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        path: str | Path | None = None,
        *,
        url: str,
        token: str | TokenSource,
        tenant_id: str,
        system: str,
        device_id: str | None = None,
        clock: Clock | None = None,
        now: Callable[[], datetime] = _utc_now,
        settings: DeskSettings | None = None,
        random: Random = random_module.random,
    ) -> Self:
        """Open the desk, which then works at once, whether the hub is reached or not. Close it, or use it as a context.

        Args:
            path: its database; default: LOCAL_DB_PATH. A damaged one is not repaired here
                (`consumers.offline.rebuild`), but a repair that was cut off is finished.
            url: the hub's WebSocket, like `ws://localhost:3400/ws`; the HTTP API is looked for beside it.
            token: a token, or a coroutine function that fetches a fresh one, which may raise a `ConsumerError` where
                that takes a person.
            device_id: default: the database's own, or a new one.
            now: the time of day, aware.

        Raises:
            LocalDamaged, LocalInUse, LocalUnusable, LocalFull: as `LocalDatabase.open`.
            ValueError: the URL is none.
        """
        settings = DeskSettings.from_environment() if settings is None else settings
        path = settings.local_db_path if path is None else Path(path)

        def opened() -> LocalDatabase:
            path.parent.mkdir(parents=True, exist_ok=True)
            # One that a crash cut off has the queue in files of its own until it is finished.
            resume(path)
            return LocalDatabase.open(
                path,
                tenant_id=tenant_id,
                system=system,
                device_id=device_id,
                now=now,
                max_retries=settings.max_retry_count,
            )

        local = await LocalThread.open(opened)
        try:
            own, counts = await local.call(lambda database: (database.device_id, database.counts()))
            desk = cls(
                local,
                url=url,
                credential=Credential(token if isinstance(token, str) else _asked_for(token)),
                tenant_id=tenant_id,
                device_id=own,
                clock=SystemClock() if clock is None else clock,
                now=now,
                settings=settings,
                random=random,
            )
        except BaseException:
            await local.close()
            raise
        desk._start(counts)
        return desk

    # -- at the desk --------------------------------------------------------------------------------------------------

    async def operate(
        self, changes: Sequence[LocalChange], *, operator: str, operation: str, role: str | None = None
    ) -> list[QueueItem]:
        """Keep an operation, all of it or nothing, and return the changes' queue items; then it is on its way.

        Cancelled: it may have been kept.

        Raises:
            InvalidChange: a change does not fit; nothing was kept.
            LocalFull, LocalDamaged, LocalUnusable: it could not be kept.
            OfflineModeDisabled: the hub is not reached, and the desk may not work without it.
            ClientClosed: the desk was closed.
        """
        if not self._settings.offline_mode_enabled and not self.line.online:
            raise OfflineModeDisabled

        def work(database: LocalDatabase) -> tuple[list[QueueItem], Counts]:
            return database.operate(changes, operator=operator, operation=operation, role=role), database.counts()

        items, counts = await self._locally(work)
        self.counters.operations += 1
        self.status.update(counts=counts, local_error=None)
        self.engine.request("operation", 0.0 if any(map(_urgent, items)) else COALESCE_S)
        return items

    async def record(self, type: str, entity: str) -> Record | None:
        """The state of an entity (`reservation:R1`) by one type of event, as the desk shows it."""
        return await self._locally(lambda database: database.record(type, entity))

    async def records(self, type: str, *, after: str = "", limit: int = 500) -> list[Record]:
        """The records of a type whose entity sorts behind `after`, by entity."""
        return await self._locally(lambda database: database.records(type, after=after, limit=limit))

    async def resend(self, uuid: str, *, operator: str) -> QueueItem:
        """Send a failed item again (R53).

        Raises:
            NoSuchItem, NotFailed
        """
        return await self._by_hand(lambda database: database.resend(uuid, operator=operator))

    async def resend_all(self, *, operator: str) -> int:
        """Send all failed items again, as one operation: how many."""
        return await self._by_hand(lambda database: database.resend_all(operator=operator))

    async def discard(self, uuid: str, *, operator: str, reason: str) -> QueueItem:
        """Give a failed item up; what waited behind it goes on.

        Raises:
            NoSuchItem, NotFailed
        """
        return await self._by_hand(lambda database: database.discard(uuid, operator=operator, reason=reason))

    async def sync_now(self) -> SyncOutcome:
        """Sync, and tell what it came to (R59). While the desk counts as offline the line is looked at first."""
        if self._closing is not None:
            raise ClientClosed("the desk was closed")
        if not self.line.online:
            await self.line.check()
        return await self.engine.sync()

    @property
    def late(self) -> str | None:
        """Why others' changes come some seconds late, with the probes alone; None: they come at once, as far as is
        known."""
        return self._live.denied

    def signed_in(self) -> None:
        """There is a good token again (`credential`, or its source, has it): go on with it."""
        self._refused_at = -math.inf
        self.status.update(session_expired=False)
        self._live.renewed()
        self.engine.request("recovery")

    async def close(self) -> None:
        """Let the sync under way come to an end, for at most `CLOSE_S`, and let go of everything. May be called twice.

        What the hub does not have yet waits in the database.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name="desk-close")
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # -- beside it ----------------------------------------------------------------------------------------------------

    def _start(self, counts: Counts) -> None:
        self.status.update(counts=counts)
        for name, run in (("line", self.line.run), ("sync", self.engine.run), ("live", self._live.run)):
            self._tasks.append(asyncio.create_task(self._keep(name, run), name=f"desk-{name}"))

    async def _keep(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await run()
                return
            except Exception as error:
                log.exception("desk_task_broke", task=name)
                self.status.update(problem=f"{name}: {type(error).__name__}", syncing=False, recovering=False)
            await self._clock.sleep(BROKEN_S)

    async def _close(self) -> None:
        line, sync, live = self._tasks
        self.engine.stop()
        with suppress(TimeoutError):
            async with self._clock.timeout(CLOSE_S):
                await asyncio.wait({sync})
        for task in (line, sync, live):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._resets, return_exceptions=True)
        try:
            await self.hub.close()
            with suppress(LocalError):
                await self.local.call(lambda database: database.release())
        finally:
            await self.local.close()
            self.status.end()

    async def _locally(self, work: Callable[[LocalDatabase], T]) -> T:
        if self._closing is not None:
            raise ClientClosed("the desk was closed")
        try:
            return await self.local.call(work)
        except (LocalFull, LocalDamaged, LocalUnusable) as error:
            self.status.update(local_error=str(error))
            raise

    async def _by_hand(self, change: Callable[[LocalDatabase], T]) -> T:
        done, counts = await self._locally(lambda database: (change(database), database.counts()))
        self.status.update(counts=counts, local_error=None)
        self.engine.request("operation")
        return done

    async def _probe(self) -> bool:
        """Whether the hub is there and answers. What it says of the token is not the line's fault."""
        try:
            await self.hub.alive()
            # A token that the hub does not take is not shown to it every few seconds.
            if self._clock.monotonic() - self._refused_at >= REFUSED_S:
                if await self.hub.authenticated(self.engine.cursor):
                    self.engine.news(None)
                self.status.update(session_expired=False)
        except Disconnected:
            return False
        except HubRefused as refusal:
            log.info("probe_refused", code=refusal.code)
        except AccessRefused as refusal:
            self._refused(refusal)
        return True

    def _line_changed(self, online: bool) -> None:
        log.info("desk_online" if online else "desk_offline", waiting=self.status.facts.counts.waiting)
        if online:
            self._back_at = self.line.back_at if self._lost else None
            self.status.update(online=True, recovering=self._lost, problem=None)
            self.engine.line(True, "recovery" if self._lost else "start")
            return
        self.counters.outages += self.status.facts.online
        self._lost = True
        self._back_at = None
        self.status.update(online=False, recovering=False, syncing=False, synced=False)
        self.hub.cut()
        self.engine.line(False)
        # Connections that lie idle may be dead without knowing it.
        reset = asyncio.create_task(self.hub.close(), name="desk-reset")
        self._resets.add(reset)
        reset.add_done_callback(self._resets.discard)

    def _progressed(self, progress: Progress) -> None:
        if self.line.online:
            self.status.update(syncing=True, done=progress.done, total=progress.total)

    def _synced(self, outcome: SyncOutcome) -> None:
        counters = self.counters
        counters.syncs += 1
        counters.syncs_failed += outcome.state not in ("done", "interrupted")
        counters.pushed += outcome.pushed
        counters.pulled += outcome.pulled
        counters.batches += outcome.batches
        counters.batches_resent += outcome.resent
        counters.snapshots += outcome.snapshots
        if outcome.skew_ms is not None:
            counters.clock_skew_ms = outcome.skew_ms
        if isinstance(outcome.error, AccessRefused):
            self._refused(outcome.error)
        done = outcome.state == "done"
        problem = None if done or outcome.retry_in_s is not None else outcome.detail
        self.status.update(
            syncing=False,
            recovering=self.status.facts.recovering and not done and problem is None,
            counts=outcome.counts,
            synced=done or self.status.facts.synced,
            problem=problem if outcome.state in ("failed", "refused", "interrupted") else None,
            session_expired=outcome.state == "session_expired" or (not done and self.status.facts.session_expired),
            local_error=outcome.detail if outcome.state == "local_error" else None,
        )
        if done and self._back_at is not None and not outcome.sendable:
            took = self._clock.monotonic() - self._back_at
            self._back_at = None
            counters.recoveries += 1
            counters.last_recovery_s = took
            counters.longest_recovery_s = max(counters.longest_recovery_s, took)
            log.info("desk_recovered", seconds=round(took, 3))

    def _refused(self, error: AccessRefused) -> None:
        log.warning("token_refused", code=error.code)
        self._refused_at = self._clock.monotonic()
        if error.code in (403, 4503):
            self.status.update(problem=str(error))
        else:
            self.status.update(session_expired=True)


def _urgent(item: QueueItem) -> bool:
    """Check-ins, check-outs and settlements go at once (R60)."""
    return item.model in FIRST or settles(
        item.model, item.operation, item.action, item.payload.get("payment_method") is not None
    )


def _asked_for(token: TokenSource) -> TokenSource:
    """A source that cannot give a token without a person is as good as a token that expired."""

    async def source() -> str:
        try:
            return await token()
        except (Disconnected, AccessRefused):
            raise
        except ConsumerError as error:
            raise AccessRefused(401, str(error)) from error

    return source
