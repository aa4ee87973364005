"""Reports as people and systems ask for them: listed, shown, made now."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Any, Final

import structlog
from pydantic import BaseModel, ConfigDict

from hub.core import jobs
from hub.core.calendar import Period, Report, business_day, period_of
from hub.core.delivery import instant
from hub.core.jobs import MANUAL, REPORTS, Firing
from hub.log.tenants import Tenant, Tenants
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.named_tenant import named_tenant
from hub.services.publisher import Systems
from hub.services.report_maker import Behind, ReportMaker
from hub.store.database import StoreUnavailable
from hub.store.runs import Run, RunFilter, Runs
from hub.telemetry import Metrics
from schemas import registry
from schemas.errors import Problem, invalid_request
from schemas.types import HUB, Day, TenantId

MAX_PAGE: Final = 500
FIRST_YEAR: Final = 1971
"""There are no reports on earlier days."""
_PLACE: Final = re.compile(r"r([0-9]{1,15})-([0-9a-f-]{36})")

log = structlog.get_logger("hub.reports")


class RunRequest(BaseModel):
    """The body of `POST /reports/run`. `date`: any day of the period; by default the last period that is over."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    report: Report
    tenant: TenantId | None = None
    date: Day | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of runs, and where the next one begins."""

    runs: list[Run]
    next: str | None


class ReportRequests:
    """What the routes of `/reports` call. Every method raises `StoreUnavailable` when the store does not answer."""

    def __init__(
        self,
        runs: Runs,
        maker: ReportMaker,
        tenants: Tenants,
        systems: Systems,
        metrics: Metrics,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._runs = runs
        self._maker = maker
        self._tenants = tenants
        self._systems = systems
        self._metrics = metrics
        self._wall = wall

    async def listed(self, claims: Claims, wanted: RunFilter, limit: int, after: str | None) -> Listing:
        """Runs of the token's tenants and reports, the one due last first.

        Raises:
            Problem: `forbidden`; `invalid_request` for an `after` that is none.
        """
        for tenant in wanted.tenants or ():
            claims.require_tenant(tenant)
        for report in wanted.reports or ():
            self._require(claims, report)
        reports = wanted.reports or self._readable(claims)
        if not reports:
            raise Problem("forbidden", "the token lacks the scope ops, or subscribe:analytics.* of a target system")
        tenants = wanted.tenants or (None if claims.all_tenants else claims.tenants)
        place = None
        if after is not None:
            found = _PLACE.fullmatch(after)
            if found is None:
                raise invalid_request("after", "must be the `next` of a page, as it was given")
            place = (int(found[1]), found[2])
        runs = await self._runs.listed(replace(wanted, tenants=tenants, reports=reports), limit + 1, place)
        last = runs[limit - 1] if len(runs) > limit else None
        return Listing(runs[:limit], None if last is None else f"r{last.due_ms}-{last.run_id}")

    async def get(self, claims: Claims, run_id: str) -> Run:
        """One run with its data.

        Raises:
            Problem: `not_found`, also for one that the token may not see.
        """
        run = await self._runs.get(run_id)
        if run is None or not claims.holds(run.tenant_id) or run.report not in self._readable(claims):
            raise Problem("not_found", f"there is no report run {run_id[:64]}")
        return run

    async def run(self, claims: Claims, asked: RunRequest) -> Run:
        """Make a report now, and emit it; the run, done.

        Raises:
            Problem: the tenant is not there or not the token's, the period has not begun, or the report cannot be
                made now; a run that was begun is then `failed`.
        """
        tenant = await named_tenant(self._tenants, claims, asked.tenant)
        now_ms = int(self._wall() * 1000)
        period = self._period(asked, tenant, now_ms)
        stage = jobs.stage_at(period, now_ms, tenant.zone, tenant.rollover_hour)
        firing = Firing(tenant.tenant_id, MANUAL, now_ms, asked.report, period, stage)
        run = await self._runs.begin_new(firing, now_ms, None)
        try:
            done = await self._maker.make(run, tenant, None, marks=False)
        except Exception as error:
            await self._failed(run, error)
            if isinstance(error, Behind):
                raise Problem("store_unavailable", f"{error}; ask again") from error
            raise
        self._metrics.batch_runs.labels(MANUAL, done.state).inc()
        log.info("report_made", tenant=run.tenant_id, job=MANUAL, run_id=run.run_id, by=claims.system, stage=done.stage)
        return done

    async def _failed(self, run: Run, error: Exception) -> None:
        self._metrics.batch_runs.labels(MANUAL, "failed").inc()
        log.warning("report_failed", tenant=run.tenant_id, job=MANUAL, run_id=run.run_id, error=str(error))
        unknown = isinstance(error, StoreUnavailable | RedisError | OSError)
        if unknown or (isinstance(error, Problem) and error.code == "outcome_unknown"):
            # It may have been emitted: the scheduler finds out.
            return
        await self._runs.fail(run, str(error) or type(error).__name__, int(self._wall() * 1000), None, marks=False)

    @staticmethod
    def _period(asked: RunRequest, tenant: Tenant, now_ms: int) -> Period:
        if asked.date is None:
            return jobs.last_over(asked.report, now_ms, tenant.zone, tenant.rollover_hour)
        return begun_period(asked.report, asked.date, business_day(now_ms, tenant.zone, tenant.rollover_hour))

    # -- who may see what -----------------------------------------------------------------------------------------

    def _readable(self, claims: Claims) -> frozenset[Report]:
        return frozenset(report for report in REPORTS if self._may_read(claims, report))

    def _may_read(self, claims: Claims, report: Report) -> bool:
        if claims.has("ops"):
            return True
        targets = self._systems.targets(registry.EVENT_TYPES["analytics"], report)
        return (claims.system == HUB or claims.system in targets) and claims.may("subscribe", f"analytics.{report}")

    def _require(self, claims: Claims, report: str) -> None:
        if report not in self._readable(claims):
            raise Problem("forbidden", f"the token lacks the scope ops, or subscribe:analytics.{report} of a target")


def begun_period(report: Report, day: date, today: date) -> Period:
    """The period of a report that a day lies in; `today` is the business day that it is now.

    Raises:
        Problem: `invalid_request`: it has not begun, or nothing is known of it.
    """
    if day.year < FIRST_YEAR:
        raise invalid_request("date", f"{day.isoformat()} is before {FIRST_YEAR}")
    # Compared before the period is made: years end.
    if day > today and period_of(report, today).end < day:
        raise invalid_request("date", f"{day.isoformat()} is in the future; it is {today.isoformat()} there")
    return period_of(report, day)


def shown(run: Run, claims: Claims) -> dict[str, Any]:
    """A run as the API says it. What went wrong within the hub is for operators."""
    return {
        "run_id": run.run_id,
        "tenant_id": run.tenant_id,
        "job": run.job,
        "report": run.report,
        "period_start": run.period.start.isoformat(),
        "period_end": run.period.end.isoformat(),
        "stage": run.stage,
        "state": run.state,
        "due_at": instant(run.due_ms),
        "started_at": instant(run.started_ms),
        "finished_at": None if run.finished_ms is None else instant(run.finished_ms),
        "attempts": run.attempts,
        "event_id": run.event_id,
        "cursor": run.cursor,
        "sequence": run.sequence,
        "error": run.error if claims.has("ops") else None,
        "deliveries": {system: _shown_delivery(one) for system, one in run.deliveries.items()},
        "settled": run.settled,
    }


def _shown_delivery(one: Mapping[str, Any]) -> dict[str, Any]:
    return {"status": one["status"], "at": one["at"], "reminders": one["reminders"]}
