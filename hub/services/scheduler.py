"""The batch scheduler (R26, R92): makes every report when it is due in its property's own time.

One hub at a time schedules, under the lease `scheduler`. A firing is made once, however many hubs there are and
wherever one of them dies; what fell due while none ran is made up for, oldest first. The wall clock may be moved: what
has fired does not fire again.

Firings of one job and tenant come in order: while one is tried again, the later ones wait.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import structlog

from hub.core import jobs
from hub.core.calendar import Period, Report, due_times, next_due, number_of
from hub.core.delivery import instant
from hub.core.jobs import REVISED, Firing, Job
from hub.errors import StartError
from hub.log.stream_log import Head
from hub.log.tenants import Tenant, Tenants
from hub.log.topology import RedisError
from hub.services.report_deliveries import ReportDeliveries
from hub.services.report_maker import Behind, ReportMaker
from hub.store.database import StoreUnavailable
from hub.store.facts import LateDay
from hub.store.leases import Fence, LeaseLost
from hub.store.places import Mark
from hub.store.runs import Run
from hub.store.store import Store
from hub.telemetry import Metrics
from schemas.errors import Problem

LEASE: Final = "scheduler"
LONGEST_SLEEP_S: Final = 30.0
"""Clocks are moved, tenants described and events published meanwhile."""
LATE_EVERY_S: Final = 60.0
EXPIRE_EVERY_S: Final = 3600.0
DELIVERIES_EVERY_S: Final = 30.0
TURN: Final = 10
"""Runs of one tenant before it is the next one's turn."""
LATE_DAYS: Final = 7
"""Late days of one tenant before it is the next one's turn."""
FIRST_PAUSE_S: Final = 5.0
LONGEST_PAUSE_S: Final = 600.0
ODD_ATTEMPTS: Final = 5
"""A run that fails for no known reason is given up after so many."""
MANUAL_S: Final = 120.0
"""A run that somebody asked for is left for so long to the hub that was asked."""
SLICE: Final = 200
"""Due times that are counted before it is others' turn."""

log = structlog.get_logger("hub.scheduler")


def own_jobs(lines: Mapping[str, tuple[str, Report]]) -> tuple[Job, ...]:
    """The jobs that operators added (HUB_JOBS): by name, cron line and report.

    Raises:
        StartError: one has a name that is taken.
    """
    for name in lines:
        if name in jobs.NAMES:
            raise StartError(f"HUB_JOBS: {name} is the name of a built-in job", "Give yours another name")
    return tuple(Job(name, cron, report) for name, (cron, report) in lines.items())


class _Next(NamedTuple):
    """When a job is due next, and what that was reckoned from."""

    cron: str
    timezone: str
    mark: int
    due_ms: int


class Scheduler:
    """Its `work` is what a `Leadership` of the lease `LEASE` does."""

    def __init__(
        self,
        store: Store,
        tenants: Tenants,
        maker: ReportMaker,
        deliveries: ReportDeliveries,
        metrics: Metrics,
        own: Sequence[Job] = (),
        *,
        catch_up_days: int,
        keep_days: int = 400,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._runs = store.runs
        self._tenants = tenants
        self._maker = maker
        self._deliveries = deliveries
        self._metrics = metrics
        self._own = tuple(own)
        self._catch_up_ms = catch_up_days * 86_400_000
        self._keep_ms = max(keep_days, catch_up_days) * 86_400_000
        self._wall = wall
        self._sleep = sleep
        self._next: dict[tuple[str, str], _Next] = {}
        self._nearest_ms = 0
        self._waits: dict[tuple[str, str], int] = {}
        """Until when (Unix ms) a job of a tenant is not tried again."""
        self._late_at = self._deliveries_at = self._expired_at = 0.0
        self._looked: dict[str, Head] = {}
        """By tenant, the last event up to which late ones were looked for."""

    async def work(self, fence: Fence) -> None:
        """Schedule, until it is cancelled.

        Raises:
            LeaseLost: another hub schedules.
            StoreUnavailable: the store does not answer.
        """
        while True:
            try:
                pause = await self.round(fence)
            except (RedisError, OSError) as error:
                log.warning("round_failed", error=str(error) or type(error).__name__)
                pause = FIRST_PAUSE_S
            await self._sleep(pause)

    async def round(self, fence: Fence) -> float:
        """Make what is due; how many seconds there are until the next round. 0: there is more to do now.

        Raises:
            LeaseLost: another hub schedules.
            StoreUnavailable, RedisError, OSError: the store or the log does not answer.
        """
        now = self._now_ms()
        # A pause that is longer than any is one of a clock that was put back since.
        self._waits = {key: at for key, at in self._waits.items() if now < at <= now + LONGEST_PAUSE_S * 1000}
        self._nearest_ms = now + int(LONGEST_SLEEP_S * 1000)
        listed = await self._tenants.listed()
        marks = await self._runs.marks()
        begun: dict[str, list[Run]] = {}
        for run in await self._runs.unfinished():
            begun.setdefault(run.tenant_id, []).append(run)
        more = False
        for tenant, _ in listed:
            name = tenant.tenant_id
            more |= await self._unharmed(name, self._turn(fence, tenant, marks.get(name, {}), begun.get(name, [])))
        if self._is_time(self._late_at, LATE_EVERY_S):
            again = False
            for tenant, head in listed:
                if head is not None and self._looked.get(tenant.tenant_id) != head:
                    again |= await self._unharmed(tenant.tenant_id, self._look_late(fence, tenant))
            # What is left over is looked at in the next round.
            self._late_at = 0.0 if again else self._wall()
            more |= again
        if self._is_time(self._deliveries_at, DELIVERIES_EVERY_S):
            await self._deliveries.round(fence)
            self._deliveries_at = self._wall()
        if self._is_time(self._expired_at, EXPIRE_EVERY_S):
            await self._runs.expire(now - self._keep_ms, fence)
            self._expired_at = self._wall()
        return 0.0 if more else self._until_next()

    @staticmethod
    async def _unharmed(tenant_id: str, work: Awaitable[bool]) -> bool:
        """What fails with one tenant for no known reason does not keep the others from their reports."""
        try:
            return await work
        except (LeaseLost, StoreUnavailable, RedisError, OSError):
            raise
        except Exception:
            log.exception("tenant_failed", tenant=tenant_id)
            return False

    def _is_time(self, last: float, every_s: float) -> bool:
        # A clock that was put back does not put it off.
        return not last <= self._wall() < last + every_s

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)

    def _until_next(self) -> float:
        nearest = min(self._nearest_ms, *self._waits.values()) if self._waits else self._nearest_ms
        return max(0.001, min(LONGEST_SLEEP_S, (nearest - self._now_ms()) / 1000))

    # -- what is due ----------------------------------------------------------------------------------------------

    async def _turn(self, fence: Fence, tenant: Tenant, marks: Mapping[str, int], begun: Iterable[Run]) -> bool:
        """Make some of what is due for a tenant; whether there is more."""
        wanted = (*jobs.built_in(tenant.rollover_hour), *self._own)
        held = dict(marks)
        if new := [job.name for job in wanted if job.name not in held]:
            await self._runs.open_marks(tenant.tenant_id, new, self._now_ms(), fence)
            held |= dict.fromkeys(new, self._now_ms())
        for run in begun:
            if await self._take_up(fence, tenant, run):
                held[run.job] = max(held.get(run.job, 0), run.due_ms)
        for _ in range(TURN):
            due = await self._first_due(fence, tenant, wanted, held)
            if due is None:
                return False
            run = await self._runs.begin(due, self._now_ms(), fence, marks=True)
            await self._make(fence, tenant, run)
            held[due.job] = due.due_ms
        return True

    async def _take_up(self, fence: Fence, tenant: Tenant, run: Run) -> bool:
        """Go on with a run that was begun; whether it was its turn."""
        if self._waiting(run.tenant_id, run.job):
            return False
        if run.job == jobs.MANUAL and 0 <= self._now_ms() - run.started_ms < MANUAL_S * 1000:
            return False
        if run.job not in jobs.MARKLESS and run.due_ms <= self._now_ms() - self._catch_up_ms:
            await self._give_up(fence, run, f"{run.error or 'its hub ended'}; it is too old now")
            return True
        marks = run.job not in jobs.MARKLESS
        await self._make(fence, tenant, await self._runs.begin(run.firing, self._now_ms(), fence, marks=marks))
        return True

    async def _first_due(
        self, fence: Fence, tenant: Tenant, wanted: Sequence[Job], marks: dict[str, int]
    ) -> Firing | None:
        """The firing that has been due for the longest."""
        now, zone = self._now_ms(), tenant.zone
        earliest: tuple[int, Job] | None = None
        for job in wanted:
            due_ms = self._next_of(tenant, job, marks[job.name])
            if due_ms <= now - self._catch_up_ms:
                marks[job.name] = await self._pass_over(fence, tenant, job, marks[job.name], now - self._catch_up_ms)
                due_ms = self._next_of(tenant, job, marks[job.name])
            if due_ms > now:
                self._nearest_ms = min(self._nearest_ms, due_ms)
                continue
            if self._waiting(tenant.tenant_id, job.name):
                continue
            if earliest is None or due_ms < earliest[0]:
                earliest = (due_ms, job)
        if earliest is None:
            return None
        return jobs.firing(tenant.tenant_id, earliest[1], earliest[0], zone, tenant.rollover_hour)

    def _next_of(self, tenant: Tenant, job: Job, mark: int) -> int:
        key = (tenant.tenant_id, job.name)
        known = self._next.get(key)
        if known is None or known[:3] != (job.cron, tenant.timezone, mark):
            known = _Next(job.cron, tenant.timezone, mark, next_due(job.cron, tenant.zone, mark))
            self._next[key] = known
        return known.due_ms

    def _waiting(self, tenant_id: str, job: str) -> bool:
        return (tenant_id, job) in self._waits

    async def _pass_over(self, fence: Fence, tenant: Tenant, job: Job, mark: int, upto_ms: int) -> int:
        """Leave out what was due too long ago; the last of it."""
        count, last = 0, mark
        for due_ms in due_times(job.cron, tenant.zone, mark, upto_ms):
            count, last = count + 1, due_ms
            if count % SLICE == 0:
                await asyncio.sleep(0)
        days = self._catch_up_ms // 86_400_000
        words = f"{count} firings after {instant(mark)} were passed over: due more than {days} days ago"
        passed = jobs.firing(tenant.tenant_id, job, last, tenant.zone, tenant.rollover_hour)
        await self._runs.skip(passed, words, self._now_ms(), fence)
        log.warning("reports_passed_over", tenant=tenant.tenant_id, job=job.name, firings=count, upto=instant(last))
        self._metrics.batch_runs.labels(job.name, "skipped").inc(count)
        return last

    # -- making ---------------------------------------------------------------------------------------------------

    async def _make(self, fence: Fence, tenant: Tenant, run: Run) -> None:
        """Make a run that was begun, or see to it that it is tried again."""
        if run.state != "running":
            return
        marks = run.job not in jobs.MARKLESS
        try:
            done = await self._maker.make(run, tenant, fence, marks=marks)
        except LeaseLost:
            raise
        except Problem as problem:
            if problem.retryable:
                await self._try_again(fence, run, str(problem))
            else:
                await self._give_up(fence, run, str(problem))
        except (Behind, StoreUnavailable, RedisError, OSError) as error:
            await self._try_again(fence, run, str(error) or type(error).__name__)
        except Exception as error:  # the other reports must be made
            log.exception("report_failed", tenant=run.tenant_id, job=run.job, run_id=run.run_id)
            if run.attempts < ODD_ATTEMPTS:
                await self._try_again(fence, run, repr(error))
            else:
                await self._give_up(fence, run, repr(error))
        else:
            self._metrics.batch_runs.labels(run.job, done.state).inc()
            log.info(
                "report_made",
                tenant=run.tenant_id,
                job=run.job,
                run_id=run.run_id,
                due=instant(run.due_ms),
                period=run.period.start.isoformat(),
                stage=done.stage,
                late_s=round(self._wall() - run.due_ms / 1000, 1),
            )

    async def _try_again(self, fence: Fence, run: Run, error: str) -> None:
        pause = min(FIRST_PAUSE_S * 2 ** (min(run.attempts, 20) - 1), LONGEST_PAUSE_S)
        self._waits[(run.tenant_id, run.job)] = self._now_ms() + int(pause * 1000)
        self._metrics.batch_runs.labels(run.job, "retried").inc()
        log.warning("report_held_up", tenant=run.tenant_id, job=run.job, run_id=run.run_id, error=error, again_s=pause)
        await self._runs.note(run, error, fence)

    async def _give_up(self, fence: Fence, run: Run, error: str) -> None:
        await self._runs.fail(run, error, self._now_ms(), fence, marks=run.job not in jobs.MARKLESS)
        self._metrics.batch_runs.labels(run.job, "failed").inc()
        log.error("report_failed", tenant=run.tenant_id, job=run.job, run_id=run.run_id, error=error)

    # -- events that came late ------------------------------------------------------------------------------------

    async def _look_late(self, fence: Fence, tenant: Tenant) -> bool:
        """Revise final reports that events changed since; whether there is more to look at now."""
        name = tenant.tenant_id
        try:
            mark = await self._maker.caught_up(name)
            late = await self._store.facts.late(name)
            done = await self._revise(fence, tenant, mark, late) if late else []
        except LeaseLost:
            raise
        except (Behind, Problem, StoreUnavailable, RedisError, OSError) as error:
            log.warning("late_events_not_looked_for", tenant=name, error=str(error) or type(error).__name__)
            return False
        if done:
            await self._store.facts.forget_late(name, done)
        if len(done) == len(late):
            self._looked[name] = Head(mark.sequence, mark.id)
        return len(late) > LATE_DAYS and bool(done)

    async def _revise(self, fence: Fence, tenant: Tenant, mark: Mark, late: Sequence[LateDay]) -> list[LateDay]:
        """Make the revised reports that the first of some late days ask for; the days that are dealt with.

        A day of which a report is being made stays; one without a final report is in the one that comes.
        """
        name = tenant.tenant_id
        days = {number_of(one.day): one for one in late[:LATE_DAYS]}
        runs = await self._runs.covering(name, min(days), max(days))
        held = {day for day in days for run in runs if run.state == "running" and _has(run.period, day)}
        final = [(run.report, run.period) for run in runs if run.state == "done" and run.stage != "provisional"]
        for report, period in jobs.touched(final, days.keys() - held):
            last = await self._runs.last_of(name, report, period)
            if last is None or not await self._maker.differs(last, tenant, mark):
                continue
            job, now = REVISED[report], self._now_ms()
            if not self._waiting(name, job):
                firing = Firing(name, job, now, report, period, "revised")
                await self._make(fence, tenant, await self._runs.begin_new(firing, now, fence))
            if self._waiting(name, job):
                held |= {day for day in days if _has(period, day)}
        return [one for day, one in days.items() if day not in held]


def _has(period: Period, day: int) -> bool:
    return number_of(period.start) <= day <= number_of(period.end)
