"""Follows what becomes of reports (R93): asks again where a target is silent, and raises an alarm where it stays so.

A report that nobody confirmed is not sent again: it lies in the log, and the target's subscription or consumer group
brings it. What goes out is a notice that says which report is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID, uuid5

import structlog

from hub.core import delivery
from hub.core.delivery import instant
from hub.log.topology import RedisError
from hub.services.announcer import Announcer
from hub.services.history import History
from hub.store.database import StoreUnavailable
from hub.store.leases import Fence, LeaseLost
from hub.store.runs import Run
from schemas.cursor import Cursor
from schemas.errors import Problem

REMINDERS: Final = (1, 6, 24)
"""When a silent target is reminded, in times of `outstanding_s` since the report; as long after the last one as after
the report before the first, it is given up."""
ANSWERED: Final = frozenset({"acknowledged", "handled", "delivered"})
PAGE: Final = 200
_NOTICES: Final = UUID("0c9bb0a7-1d1d-5f0c-8f0e-5f6a5c1c2b44")

log = structlog.get_logger("hub.reports")


def due_after(reminders: int, outstanding_ms: int) -> int:
    """How long after the report, or after the last of so many reminders, the next step is due: a reminder, or, when
    there were all of them, giving up; ms."""
    steps = (0, *REMINDERS, REMINDERS[-1] + REMINDERS[0])
    return (steps[reminders + 1] - steps[reminders]) * outstanding_ms


class ReportDeliveries:
    """Looked at by the scheduler, under its fence. `outstanding_s`: silence that is too long."""

    def __init__(
        self, history: History, announcer: Announcer, *, outstanding_s: float, wall: Callable[[], float] = time.time
    ) -> None:
        self._history = history
        self._announcer = announcer
        self._runs = history.store.runs
        self._ledger = history.store.ledger
        self._outstanding_ms = int(outstanding_s * 1000)
        self._wall = wall

    async def round(self, fence: Fence) -> None:
        """Look at every report that is not settled; where a notice cannot be sent now, the next round tries again.

        Raises:
            LeaseLost: another hub does that.
            StoreUnavailable, RedisError, OSError: the store or the log does not answer.
        """
        last: Run | None = None
        held_up, problem = 0, ""
        while page := await self._runs.unsettled(PAGE, last):
            for run in page:
                try:
                    await self._look(run, fence)
                except (LeaseLost, StoreUnavailable, RedisError, OSError):
                    raise
                except Problem as error:
                    held_up, problem = held_up + 1, str(error)
                except Exception:  # the other reports must be looked at
                    log.exception("report_not_looked_at", tenant=run.tenant_id, run_id=run.run_id)
            last = page[-1]
        if held_up:
            log.warning("report_notices_held_up", reports=held_up, error=problem)

    async def _look(self, run: Run, fence: Fence) -> None:
        """What the ledger says of one report, and what is to be done about it."""
        found = {system: dict(one) for system, one in run.deliveries.items()}
        place = Cursor.decode(run.cursor or "").id
        entry = await self._history.at(run.tenant_id, place)
        if entry is None or entry.event_id != run.event_id:
            # The history begins later now: nothing more will be heard of it.
            log.warning("report_not_in_history", tenant=run.tenant_id, run_id=run.run_id)
            await self._runs.note_deliveries(run.run_id, found, True, fence)
            return
        partition = self._history.partition(run.tenant_id)
        rows = await self._ledger.covering(partition, place, place)
        rows = [row for row in rows if delivery.is_about(row, partition, entry)]
        for system, one in found.items():
            come = delivery.with_system(rows, system, place)
            one["status"] = come.status
            one["at"] = None if come.at_ms is None else instant(max(come.at_ms, place.ms))
            if come.status not in ANSWERED:
                await self._press(run, system, one, place.ms)
        settled = all(one["status"] in ANSWERED or one.get("given_up") for one in found.values())
        if settled or found != run.deliveries:
            await self._runs.note_deliveries(run.run_id, found, settled, fence)

    async def _press(self, run: Run, system: str, one: dict[str, Any], since_ms: int) -> None:
        """Remind a target, or give it up, when it is time to."""
        if one.get("given_up"):
            one["status"] = "failed"
            return
        now, sent = int(self._wall() * 1000), one["reminders"]
        if now < one.get("reminded_ms", since_ms) + due_after(sent, self._outstanding_ms):
            return
        if sent < len(REMINDERS):
            await self._notice(run, system, one["status"], sent + 1)
            one["reminders"], one["reminded_ms"] = sent + 1, now
            return
        await self._alarm(run, system, one["status"], sent)
        one["status"], one["given_up"] = "failed", True

    async def _notice(self, run: Run, system: str, status: str, number: int) -> None:
        words = f"{system} has not confirmed the {_title(run)}: {_STANDS.get(status, status)}"
        data = _data(f"report:{run.run_id}:{system}", "warning", words, run, system)
        log.warning("report_reminder", tenant=run.tenant_id, run_id=run.run_id, system=system, reminder=number)
        await self._emit(run, "notice", f"{system}/{number}", data, [system])

    async def _alarm(self, run: Run, system: str, status: str, reminders: int) -> None:
        words = f"{system} did not confirm the {_title(run)} after {reminders} reminders: {_STANDS.get(status, status)}"
        log.error("report_not_confirmed", tenant=run.tenant_id, run_id=run.run_id, system=system, reminders=reminders)
        await self._emit(run, "alarm", f"{system}/alarm", _data("reports", "critical", words, run, system), None)

    async def _emit(
        self, run: Run, action: str, which: str, data: Mapping[str, Any], targets: Sequence[str] | None
    ) -> None:
        """Once, however often it is tried: the id says which notice it is.

        Raises:
            Problem: not now.
        """
        event = {
            "event_id": str(uuid5(_NOTICES, f"{run.run_id}/{which}")),
            "type": "system",
            "action": action,
            "causation_id": run.event_id,
            "data": data,
        }
        try:
            await self._announcer.publish_once(run.tenant_id, event | ({} if targets is None else {"targets": targets}))
        except Problem as problem:
            if problem.retryable:
                raise
            # A system that is no target of notices cannot be told.
            log.warning("report_notice_refused", run_id=run.run_id, error=str(problem))


_STANDS: Final[Mapping[str, str]] = {
    "waiting": "it was not sent to it yet",
    "sent": "it was sent, and not acknowledged",
    "retrying": "its consumer group has not handled it yet",
    "failed": "its consumer group gave it up, see its dead letters",
}


def _title(run: Run) -> str:
    return f"{run.report.replace('_', ' ')} of {run.period.start.isoformat()}"


def _data(topic: str, severity: str, message: str, run: Run, system: str) -> dict[str, Any]:
    detail = {
        "run_id": run.run_id,
        "event_id": run.event_id,
        "cursor": run.cursor,
        "report": run.report,
        "period_start": run.period.start.isoformat(),
        "system": system,
    }
    return {"topic": topic, "severity": severity, "message": message, "detail": detail}
