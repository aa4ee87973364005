"""Compares every property's data once a day (R80) and looks over its week once a week (R81), on one hub at a time.

A run is kept when what it found was told, and what was told is told once: the ids of the notices say what they are
about. A run that cannot be made now is tried again; after some attempts it is kept as failed: that is what is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, timedelta
from typing import Any, Final
from uuid import UUID, uuid5

import structlog

from hub.core.calendar import business_day, closes_ms
from hub.core.integrity import MAX_TOLD, Finding, Kind, daily_due, weekly_due, weekly_words
from hub.log.tenants import Tenant, Tenants
from hub.log.topology import RedisError
from hub.services.announcer import Announcer
from hub.services.integrity_checks import Examination, IntegrityChecks, Progress
from hub.services.report_maker import Behind
from hub.store.database import StoreUnavailable
from hub.store.integrity import STATES, Integrity, IntegrityRun, Made, Waiting
from hub.store.leases import Fence, LeaseLost
from hub.store.store import Store
from hub.telemetry import Metrics
from schemas.errors import Problem

LEASE: Final = "integrity"
EVERY_S: Final = 60.0
"""Clocks are moved, tenants described and devices heard of meanwhile."""
AGAIN_S: Final = 300.0
ATTEMPTS: Final = 5
"""A run that cannot be made for no passing reason is kept as failed after so many."""
TOPIC: Final = "integrity"
WEEKLY_TOPIC: Final = "integrity-weekly"
_NOTICES: Final = UUID("7c1f3a54-52c9-5f0e-9d0b-6a2f6a0e4d19")

log = structlog.get_logger("hub.integrity")


class IntegrityJob:
    """Its `work` is what a `Leadership` of the lease `LEASE` does; `daily_now` may be called on any hub."""

    def __init__(
        self,
        store: Store,
        tenants: Tenants,
        checks: IntegrityChecks,
        announcer: Announcer,
        metrics: Metrics,
        *,
        keep_days: int = 400,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._integrity = Integrity(store.database)
        self._archive = store.archive
        self._tenants = tenants
        self._checks = checks
        self._announcer = announcer
        self._metrics = metrics
        self._keep_days = keep_days
        self._wall = wall
        self._sleep = sleep
        self._waits: dict[tuple[str, Kind], tuple[float, int]] = {}
        """Until when (Unix s) a run is not tried again, and how often it was tried."""
        self._expired: date | None = None

    async def work(self, fence: Fence) -> None:
        """Make what is due, until it is cancelled.

        Raises:
            LeaseLost: another hub does it.
            StoreUnavailable: the store does not answer.
        """
        try:
            while True:
                try:
                    await self.round(fence)
                except (RedisError, OSError) as error:
                    log.warning("round_failed", error=str(error) or type(error).__name__)
                await self._sleep(EVERY_S)
        finally:
            # Another hub tells them now, or none does. Alerts take the highest of several hubs'.
            self._show(Waiting({}, 0, 0))

    async def round(self, fence: Fence) -> None:
        """Bring the metrics up to date, and make what is due of each tenant.

        Raises:
            LeaseLost: another hub does it.
            StoreUnavailable, RedisError, OSError: the store or the log does not answer.
        """
        await self.measure()
        newest = await self._integrity.newest()
        for tenant, head in await self._tenants.listed():
            if head is None:
                continue
            try:
                await self._turn(fence, tenant, newest)
            except (LeaseLost, StoreUnavailable, RedisError, OSError):
                raise
            except Exception:  # the other tenants have their turn
                log.exception("tenant_failed", tenant=tenant.tenant_id)
        await self._expire(fence)

    async def measure(self) -> None:
        """Bring the metrics of what waits at devices and for people up to date.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        self._show(await self._integrity.waiting(self._now_ms()))

    def _show(self, waiting: Waiting) -> None:
        for state in STATES:
            self._metrics.sync_devices.labels(state).set(waiting.devices.get(state, 0))
        self._metrics.sync_backlog.set(waiting.backlog)
        self._metrics.conflicts_open.set(waiting.conflicts)

    async def daily_now(self, tenant: Tenant, progress: Progress | None = None) -> IntegrityRun:
        """Compare a property's data now, whatever was compared today already; the run.

        Raises:
            Problem: what was found cannot be told now.
            StoreUnavailable, RedisError, OSError: the store or the log does not answer.
        """
        day = business_day(self._now_ms(), tenant.zone, tenant.rollover_hour)
        return await self._daily(None, tenant, day, progress or Progress())

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)

    async def _expire(self, fence: Fence) -> None:
        today = date.fromordinal(date(1970, 1, 1).toordinal() + self._now_ms() // 86_400_000)
        if today != self._expired:
            await self._integrity.expire(today - timedelta(days=self._keep_days), fence)
            self._expired = today

    # -- what is due ----------------------------------------------------------------------------------------------

    async def _turn(self, fence: Fence, tenant: Tenant, newest: Mapping[tuple[str, Kind], Made]) -> None:
        name, zone, rollover, now = tenant.tenant_id, tenant.zone, tenant.rollover_hour, self._now_ms()
        made = newest.get((name, "daily"))
        day = daily_due(now, zone, rollover, None if made is None else made.made_ms)
        if day is not None and await self._was_there(tenant, day):
            await self._attempt(fence, tenant, "daily", day, lambda: self._daily(fence, tenant, day, Progress()))
        made = newest.get((name, "weekly"))
        week = weekly_due(now, zone, rollover, None if made is None else made.made_ms)
        if week is not None and await self._was_there(tenant, week.end):

            async def weekly() -> IntegrityRun:
                return await self._keep(fence, tenant, "weekly", week.start, await self._checks.weekly(tenant, week))

            await self._attempt(fence, tenant, "weekly", week.start, weekly)

    async def _was_there(self, tenant: Tenant, day: date) -> bool:
        """Whether a property had events before a day was over: else nothing is due of that."""
        number = await self._archive.number(tenant.tenant_id)
        first = None if number is None else await self._integrity.first_ms(number)
        return first is not None and first < closes_ms(day, tenant.zone, tenant.rollover_hour)

    async def _attempt(
        self, fence: Fence, tenant: Tenant, kind: Kind, day: date, make: Callable[[], Awaitable[IntegrityRun]]
    ) -> None:
        """Make a run, or see to it that it is tried again, or keep that it failed."""
        key = (tenant.tenant_id, kind)
        until, tried = self._waits.get(key, (0.0, 0))
        # A pause that is longer than any is one of a clock that was put back since.
        if self._wall() < until <= self._wall() + AGAIN_S:
            return
        try:
            await make()
        except LeaseLost:
            raise
        except (Behind, StoreUnavailable, RedisError, OSError) as error:
            self._put_off(key, tried, str(error) or type(error).__name__)
        except Problem as problem:
            if problem.retryable or tried + 1 < ATTEMPTS:
                self._put_off(key, tried + (0 if problem.retryable else 1), str(problem))
            else:
                await self._failed(fence, tenant, kind, day, str(problem))
        except Exception as error:
            log.exception("integrity_run_failed", tenant=tenant.tenant_id, kind=kind)
            if tried + 1 < ATTEMPTS:
                self._put_off(key, tried + 1, repr(error))
            else:
                await self._failed(fence, tenant, kind, day, repr(error))
        else:
            self._waits.pop(key, None)

    def _put_off(self, key: tuple[str, Kind], tried: int, error: str) -> None:
        self._waits[key] = (self._wall() + AGAIN_S, tried)
        log.warning("integrity_run_held_up", tenant=key[0], kind=key[1], error=error, again_s=AGAIN_S)

    async def _failed(self, fence: Fence, tenant: Tenant, kind: Kind, day: date, error: str) -> None:
        self._waits.pop((tenant.tenant_id, kind), None)
        body = {"findings": [Finding("failed", f"it could not be made: {error}").body()]}
        await self._integrity.put(IntegrityRun(tenant.tenant_id, kind, day, self._now_ms(), False, body), fence)
        self._metrics.integrity_runs.labels(kind, "failed").inc()

    # -- making and telling ---------------------------------------------------------------------------------------

    async def _daily(self, fence: Fence | None, tenant: Tenant, day: date, progress: Progress) -> IntegrityRun:
        examination = await self._checks.daily(tenant, day, self._now_ms(), progress)
        return await self._keep(fence, tenant, "daily", day, examination)

    async def _keep(
        self, fence: Fence | None, tenant: Tenant, kind: Kind, day: date, seen: Examination
    ) -> IntegrityRun:
        name = tenant.tenant_id
        run = IntegrityRun(name, kind, day, self._now_ms(), seen.ok, seen.body)
        await self._tell(run, seen)
        await self._integrity.put(run, fence)
        outcome = "ok" if seen.ok else "unequal" if kind == "daily" else "unusual"
        self._metrics.integrity_runs.labels(kind, outcome).inc()
        tell = log.info if seen.ok else log.warning
        tell(
            "integrity_run",
            tenant=name,
            kind=kind,
            day=day.isoformat(),
            outcome=outcome,
            findings=[one.what for one in seen.findings[:MAX_TOLD]],
            anomalies=len(seen.unusual),
        )
        return run

    async def _tell(self, run: IntegrityRun, seen: Examination) -> None:
        """Tell what is wrong, each once.

        Raises:
            Problem: not now.
        """
        devices = [one for one in seen.findings if one.about]
        for one in seen.findings:
            if not one.about:
                which = f"{run.kind}/{run.day.isoformat()}/{one.what}/{one.words}"
                await self._announce(run, "alarm", TOPIC, "critical", one.words, which, one.body())
        for one in devices[:MAX_TOLD]:
            which = f"{one.what}/{one.about}/{one.since_ms}"
            await self._announce(run, "notice", f"device:{one.about}", "warning", one.words, which, one.body())
        if len(devices) > MAX_TOLD:
            words = f"{len(devices)} devices have not compared their data, or held other data than the hub"
            await self._announce(run, "notice", TOPIC, "warning", words, f"{run.day.isoformat()}/devices", {})
        if seen.unusual:
            words = weekly_words(seen.unusual)
            detail = {"week": run.day.isoformat(), "anomalies": seen.body["anomalies"]}
            which = f"weekly/{run.day.isoformat()}"
            await self._announce(run, "notice", WEEKLY_TOPIC, "warning", words, which, detail)

    async def _announce(
        self, run: IntegrityRun, action: Any, topic: str, severity: Any, words: str, which: str, detail: dict[str, Any]
    ) -> None:
        event_id = str(uuid5(_NOTICES, f"{run.tenant_id}/{which}"))
        said = words if len(words) <= 2000 else f"{words[:2000]}…"
        try:
            await self._announcer.announce(
                run.tenant_id, action, topic, said, event_id=event_id, severity=severity, detail=detail
            )
        except Problem as problem:
            if problem.retryable:
                raise
            # What the schema of notices does not take must not keep the run from being kept.
            log.warning("integrity_notice_refused", tenant=run.tenant_id, topic=topic, error=str(problem))
