"""Makes one report: waits until the store holds what the log has, computes, emits, writes it down.

The id of the event is the id of the run, or where another's event has that, one derived from it. So whoever takes up a
run whose hub died finds the event, if it was emitted, and the log stores no second one if two hubs make the same run at
once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from hub.core.calendar import Period, Report
from hub.core.delivery import instant
from hub.core.entry import Entry
from hub.core.figures import Figures, report_data, same_figures
from hub.core.jobs import MANUAL
from hub.errors import HubError
from hub.log.stream_log import Head
from hub.log.tenants import Tenant
from hub.services.announcer import Announcer
from hub.services.dispatcher import NOWHERE
from hub.services.fact_keeper import FactKeeper
from hub.services.history import History
from hub.store.facts import FactsMoved
from hub.store.leases import Fence
from hub.store.places import Mark
from hub.store.runs import Made, Run
from schemas.cursor import Cursor
from schemas.errors import Problem
from schemas.report import Stage

TYPE: Final = "analytics"
PATIENCE_S: Final = 10.0
"""How long a report waits for the archiver; then it is tried again later."""
POLL_S: Final = 0.25

log = structlog.get_logger("hub.reports")


class Behind(HubError):
    """The store has not everything yet that the log has: a report made now would be wrong."""


class ReportMaker:
    """Makes reports, for the scheduler and for whoever asks. May be called from several tasks at once."""

    def __init__(
        self,
        history: History,
        announcer: Announcer,
        keeper: FactKeeper,
        *,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._history = history
        self._announcer = announcer
        self._keeper = keeper
        self._store = history.store
        self._runs = history.store.runs
        self._wall = wall
        self._sleep = sleep

    async def make(self, run: Run, tenant: Tenant, fence: Fence | None, *, marks: bool) -> Run:
        """Bring a run that was begun to its end; the run as it is then. Safe to repeat, and to cancel.

        Raises:
            Behind, Problem, StoreUnavailable, RedisError, OSError: not now, or, where a `Problem` is not retryable,
                not at all; the run is as it was.
            LeaseLost: another hub does it.
        """
        entry = await self._announcer.published(run.tenant_id, run.run_id, TYPE, run.report)
        if entry is None:
            data = await self._compute(run, tenant)
            event = {
                "event_id": run.run_id,
                "type": TYPE,
                "action": run.report,
                "occurred_at": instant(run.due_ms),
                "data": data,
            }
            receipt = await self._announcer.publish_once(run.tenant_id, event)
            # As it is stored: if another hub was faster, what it computed is what everybody was sent.
            entry = await self._history.find(run.tenant_id, receipt["event_id"])
        if entry is None:
            raise Problem("log_unavailable", "the report's event is not in the log")
        if entry.event_id != run.run_id:
            log.warning("report_id_taken", tenant=run.tenant_id, run_id=run.run_id, event_id=entry.event_id)
        return await self._runs.finish(run, _made(run, entry), self._now_ms(), fence, marks=marks)

    async def differs(self, last: Run, tenant: Tenant, mark: Mark) -> bool:
        """Whether a report on the same period would say something else now, with the facts up to a mark, than the
        last one.

        Raises:
            Behind: the facts are no longer there, or made anew.
            StoreUnavailable: the store does not answer.
        """
        now = await self._figures(tenant, last.report, last.period, "revised", mark, last.data, 0)
        return not same_figures(last.data or {}, now)

    async def caught_up(self, tenant_id: str) -> Mark:
        """Bring the facts up with all that the log has now of a tenant; how far they are.

        Raises:
            Behind: the archiver did not come so far within `PATIENCE_S`.
            StoreUnavailable, RedisError, OSError: the store or the log does not answer.
        """
        head = (await self._history.heads([tenant_id]))[tenant_id]
        waited = 0.0
        while not _covers(archived := await self._archived(tenant_id), head):
            if waited >= PATIENCE_S:
                raise Behind(f"the store lacks {_missing(archived, head)} that the log has")
            await self._sleep(POLL_S)
            waited += POLL_S
        mark = await self._keeper.catch_up(tenant_id)
        if not _covers(mark, head):
            raise Behind(f"the facts lack {_missing(mark, head)} that the log has")
        return mark

    async def _archived(self, tenant_id: str) -> Head:
        return (await self._history.archived_heads([tenant_id])).get(tenant_id, NOWHERE)

    async def _compute(self, run: Run, tenant: Tenant) -> dict[str, Any]:
        mark = await self.caught_up(run.tenant_id)
        last = await self._runs.last_of(run.tenant_id, run.report, run.period)
        before = None if last is None else last.data
        late = 0
        if run.stage == "revised":
            days = await self._store.facts.late(run.tenant_id)
            late = sum(one.events for one in days if run.period.start <= one.day <= run.period.end)
        data = await self._figures(tenant, run.report, run.period, run.stage, mark, before, late)
        reported = run.job == MANUAL and run.stage == "final" and last is not None and last.stage != "provisional"
        if reported and not same_figures(before or {}, data):
            # Somebody asked for what was reported already: what differs from that is said to be a revision.
            data = await self._figures(tenant, run.report, run.period, "revised", mark, before, late)
        return data

    async def counted(self, tenant: Tenant, period: Period, mark: Mark) -> Figures:
        """The figures of a period, by the facts up to a place.

        Raises:
            Behind: the facts have moved on from there.
            StoreUnavailable: they cannot be read now.
        """
        try:
            return await self._store.facts.figures(
                tenant.tenant_id,
                period,
                currency=tenant.currency,
                rooms=tenant.rooms,
                zone=tenant.zone,
                rollover_hour=tenant.rollover_hour,
                upto=mark,
            )
        except FactsMoved as error:
            raise Behind(str(error)) from error

    async def _figures(
        self,
        tenant: Tenant,
        report: Report,
        period: Period,
        stage: Stage,
        mark: Mark,
        before: Mapping[str, Any] | None,
        late_events: int,
    ) -> dict[str, Any]:
        figures = await self.counted(tenant, period, mark)
        return report_data(
            report,
            period,
            figures,
            currency=tenant.currency,
            stage=stage,
            as_of=Cursor.of(mark.epoch, tenant.tenant_id, mark.sequence, mark.id).encode(),
            generated_at=datetime.fromtimestamp(self._wall(), UTC),
            previous=before,
            late_events=late_events,
        )

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)


def _covers(place: Head | Mark, head: Head) -> bool:
    """Whether a place in the history is not before the log's end. After a failover other events have the numbers of
    those that were lost: the number alone does not say it."""
    return place.sequence >= head.sequence and place.id >= head.id


def _missing(place: Head | Mark, head: Head) -> str:
    count = head.sequence - place.sequence
    return f"{count} events" if count > 0 else "events"


def _made(run: Run, entry: Entry) -> Made:
    data: dict[str, Any] = entry.event["data"]
    stage = data.get("detailed_data", {}).get("stage", run.stage)
    return Made(stage, entry.event_id, entry.cursor, entry.sequence, data, entry.targets)
