"""Report runs: every firing of a report job, and up to where each job has fired.

A run is `running` from when it is begun until it is `done`, has `failed`, or was `skipped`; one whose hub died stays
`running` and is taken up again. A firing has one run: the id is made of tenant, job and due time, and the table holds
that against whoever writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Final, Literal, cast

import orjson
from sqlalchemy import Select, and_, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.calendar import Period, Report, day_of, number_of
from hub.core.jobs import REPORTS, Firing
from hub.store.database import Database
from hub.store.leases import Fence
from hub.store.outward_tables import report_marks, report_runs
from schemas.report import Stage

State = Literal["running", "done", "failed", "skipped"]
STATES: Final[tuple[State, ...]] = ("running", "done", "failed", "skipped")
MAX_ERROR: Final = 1000
"""Characters of an error that are kept."""
LONGEST_DAYS: Final = 31
"""Of a period."""
_LIGHT: Final = tuple(column for column in report_runs.c if column.name != "data")
_NEWEST: Final = (report_runs.c.due_ms.desc(), report_runs.c.run_id.desc())


@dataclass(frozen=True, slots=True)
class Run:
    """One run. Times are Unix ms; `data` is the event's, None where it was not read or there is none; `deliveries` is
    by target system."""

    run_id: str
    tenant_id: str
    job: str
    due_ms: int
    report: Report
    period: Period
    stage: Stage
    state: State
    attempts: int
    started_ms: int
    finished_ms: int | None = None
    event_id: str | None = None
    cursor: str | None = None
    sequence: int | None = None
    data: dict[str, Any] | None = None
    error: str | None = None
    deliveries: dict[str, dict[str, Any]] = field(default_factory=dict)
    settled: bool = False

    @property
    def firing(self) -> Firing:
        """What it is a run of."""
        return Firing(self.tenant_id, self.job, self.due_ms, self.report, self.period, self.stage)


@dataclass(frozen=True, slots=True)
class Made:
    """What a run emitted."""

    stage: Stage
    event_id: str
    cursor: str
    sequence: int
    data: Mapping[str, Any]
    targets: Iterable[str]


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a listing is asked for; None: whatever. Due from `since_ms`, before `until_ms`; on a
    period that has `day`."""

    tenants: Collection[str] | None = None
    reports: Collection[str] | None = None
    job: str | None = None
    state: State | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    day: date | None = None


class Runs:
    """Reads and writes runs and marks. Every method raises `StoreUnavailable` when the database does not answer, and
    those that are shown a fence raise `LeaseLost`, and write nothing, when the lease is another's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._add = (sqlite if database.sqlite else postgresql).insert

    # -- writing --------------------------------------------------------------------------------------------------

    async def open_marks(self, tenant_id: str, jobs: Collection[str], now_ms: int, fence: Fence) -> None:
        """Let jobs begin for a tenant: nothing that was due before is made up for. Those that began are left alone."""
        values = [{"tenant_id": tenant_id, "job": job, "due_ms": now_ms} for job in jobs]
        async with self._database.writing() as connection:
            await fence.check(connection)
            await connection.execute(self._add(report_marks).values(values).on_conflict_do_nothing())

    async def begin(self, firing: Firing, now_ms: int, fence: Fence | None, *, marks: bool) -> Run:
        """The run of a firing, one attempt more counted; or as it is when it is over already.

        Where `marks`, the mark of its job is brought past a run that is over: here, in `finish` and in `fail`.
        """
        async with self._database.writing() as connection:
            await self._check(connection, fence)
            new = self._add(report_runs).values(**_row(firing, "running", now_ms)).on_conflict_do_nothing()
            if (await connection.execute(new)).rowcount == 1:
                return Run(firing.run_id, *firing, state="running", attempts=1, started_ms=now_ms)
            held = await self._held(connection, firing)
            if held.state != "running":
                if marks:
                    await self._mark(connection, firing)
                return held
            again = update(report_runs).where(report_runs.c.run_id == held.run_id)
            await connection.execute(again.values(attempts=held.attempts + 1))
            return replace(held, attempts=held.attempts + 1)

    async def begin_new(self, firing: Firing, now_ms: int, fence: Fence | None) -> Run:
        """A run of a job that no time of day makes due, whose due time is put off until no other run has it."""
        same = and_(report_runs.c.tenant_id == firing.tenant_id, report_runs.c.job == firing.job)
        while True:
            async with self._database.writing() as connection:
                await self._check(connection, fence)
                last = await connection.scalar(select(func.max(report_runs.c.due_ms)).where(same))
                firing = firing._replace(due_ms=max(firing.due_ms, -1 if last is None else last + 1))
                new = self._add(report_runs).values(**_row(firing, "running", now_ms)).on_conflict_do_nothing()
                if (await connection.execute(new)).rowcount == 1:
                    return Run(firing.run_id, *firing, state="running", attempts=1, started_ms=now_ms)

    async def finish(self, run: Run, made: Made, now_ms: int, fence: Fence | None, *, marks: bool) -> Run:
        """Write down what a run emitted; the run as it is then."""
        waiting = {system: {"status": "waiting", "at": None, "reminders": 0} for system in made.targets}
        values = {
            "state": "done",
            "stage": made.stage,
            "event_id": made.event_id,
            "cursor": made.cursor,
            "sequence": made.sequence,
            "data": orjson.dumps(made.data).decode(),
            "finished_ms": now_ms,
            "error": None,
            "deliveries": orjson.dumps(waiting).decode(),
            "settled": int(not waiting),
        }
        return await self._end(run, values, fence, marks)

    async def fail(self, run: Run, error: str, now_ms: int, fence: Fence | None, *, marks: bool) -> Run:
        """Give a run up; the run as it is then."""
        values = {"state": "failed", "error": error[:MAX_ERROR], "finished_ms": now_ms, "settled": 1}
        return await self._end(run, values, fence, marks)

    async def _end(self, run: Run, values: Mapping[str, Any], fence: Fence | None, marks: bool) -> Run:
        async with self._database.writing() as connection:
            await self._check(connection, fence)
            same = and_(report_runs.c.run_id == run.run_id, report_runs.c.state == "running")
            await connection.execute(update(report_runs).where(same).values(**values))
            if marks:
                await self._mark(connection, run.firing)
            return await self._held(connection, run.firing)

    async def note(self, run: Run, error: str, fence: Fence | None) -> None:
        """Write down why an attempt failed; the run goes on."""
        same = and_(report_runs.c.run_id == run.run_id, report_runs.c.state == "running")
        async with self._database.writing() as connection:
            await self._check(connection, fence)
            await connection.execute(update(report_runs).where(same).values(error=error[:MAX_ERROR]))

    async def skip(self, firing: Firing, error: str, now_ms: int, fence: Fence) -> None:
        """Write down that a firing, and those of its job before it, were passed over."""
        ended = {"state": "skipped", "error": error[:MAX_ERROR], "finished_ms": now_ms, "settled": 1}
        values = _row(firing, "skipped", now_ms) | ended | {"attempts": 0}
        passed = self._add(report_runs).values(**values)
        passed = passed.on_conflict_do_update(
            index_elements=["run_id"], set_=ended, where=report_runs.c.state == "running"
        )
        async with self._database.writing() as connection:
            await fence.check(connection)
            await connection.execute(passed)
            await self._mark(connection, firing)

    async def note_deliveries(
        self, run_id: str, deliveries: Mapping[str, Mapping[str, Any]], settled: bool, fence: Fence
    ) -> None:
        """Write down how far a run's event has come with its targets."""
        values = {"deliveries": orjson.dumps(deliveries).decode(), "settled": int(settled)}
        async with self._database.writing() as connection:
            await fence.check(connection)
            await connection.execute(update(report_runs).where(report_runs.c.run_id == run_id).values(**values))

    async def expire(self, before_ms: int, fence: Fence) -> int:
        """Remove runs that were due before a time (Unix ms) and are over; how many."""
        old = delete(report_runs).where(report_runs.c.due_ms < before_ms, report_runs.c.state != "running")
        async with self._database.writing() as connection:
            await fence.check(connection)
            return (await connection.execute(old)).rowcount

    @staticmethod
    async def _check(connection: AsyncConnection, fence: Fence | None) -> None:
        if fence is not None:
            await fence.check(connection)

    async def _mark(self, connection: AsyncConnection, firing: Firing) -> None:
        """A mark never moves back."""
        add = self._add(report_marks).values(tenant_id=firing.tenant_id, job=firing.job, due_ms=firing.due_ms)
        await connection.execute(
            add.on_conflict_do_update(
                index_elements=["tenant_id", "job"],
                set_={"due_ms": add.excluded.due_ms},
                where=add.excluded.due_ms > report_marks.c.due_ms,
            )
        )

    @staticmethod
    async def _held(connection: AsyncConnection, firing: Firing) -> Run:
        same = select(report_runs).where(report_runs.c.run_id == firing.run_id).with_for_update()
        return _run((await connection.execute(same)).mappings().one())

    # -- reading --------------------------------------------------------------------------------------------------

    async def marks(self) -> dict[str, dict[str, int]]:
        """By tenant and job: up to which due time it has fired, or was passed over."""
        found: dict[str, dict[str, int]] = {}
        async with self._database.reading() as connection:
            for row in await connection.execute(select(report_marks)):
                found.setdefault(row.tenant_id, {})[row.job] = row.due_ms
        return found

    async def get(self, run_id: str) -> Run | None:
        """One run, with its data."""
        found = await self._read(select(report_runs).where(report_runs.c.run_id == run_id))
        return found[0] if found else None

    async def last_of(self, tenant_id: str, report: Report, period: Period) -> Run | None:
        """The run that emitted the last report on a period, with its data."""
        query = _emitted(tenant_id, report, period).order_by(report_runs.c.sequence.desc()).limit(1)
        found = await self._read(query)
        return found[0] if found else None

    async def covering(self, tenant_id: str, first: int, last: int) -> list[Run]:
        """The runs that are done or running and whose period has one of the days (numbers) from `first` to `last`,
        without their data."""
        query = select(*_LIGHT).where(
            report_runs.c.tenant_id == tenant_id,
            report_runs.c.report.in_(REPORTS),
            report_runs.c.period_start.between(first - LONGEST_DAYS, last),
            report_runs.c.period_end >= first,
            report_runs.c.state.in_(("done", "running")),
        )
        return await self._read(query)

    async def unfinished(self) -> list[Run]:
        """The runs that are running, in the order they were due."""
        query = select(*_LIGHT).where(report_runs.c.state == "running").order_by(report_runs.c.due_ms)
        return await self._read(query)

    async def unsettled(self, limit: int, after: Run | None = None) -> list[Run]:
        """Up to `limit` runs whose event is not settled with every target, in the order they finished, after one;
        without their data."""
        place = (report_runs.c.finished_ms, report_runs.c.run_id)
        query = select(*_LIGHT).where(report_runs.c.settled == 0, report_runs.c.state == "done")
        if after is not None:
            query = query.where(
                or_(place[0] > after.finished_ms, and_(place[0] == after.finished_ms, place[1] > after.run_id))
            )
        return await self._read(query.order_by(*place).limit(limit))

    async def listed(self, wanted: RunFilter, limit: int, after: tuple[int, str] | None = None) -> list[Run]:
        """Up to `limit` runs, the one due last first, after the one with this due time and id; without their data."""
        query = select(*_LIGHT).order_by(*_NEWEST).limit(limit)
        runs = report_runs.c
        if wanted.tenants is not None:
            query = query.where(runs.tenant_id.in_(list(wanted.tenants)))
        if wanted.reports is not None:
            query = query.where(runs.report.in_(list(wanted.reports)))
        if wanted.job is not None:
            query = query.where(runs.job == wanted.job)
        if wanted.state is not None:
            query = query.where(runs.state == wanted.state)
        if wanted.since_ms is not None:
            query = query.where(runs.due_ms >= wanted.since_ms)
        if wanted.until_ms is not None:
            query = query.where(runs.due_ms < wanted.until_ms)
        if wanted.day is not None:
            number = number_of(wanted.day)
            # The first two are for the index.
            query = query.where(
                runs.report.in_(list(wanted.reports or REPORTS)),
                runs.period_start.between(number - LONGEST_DAYS, number),
                runs.period_end >= number,
            )
        if after is not None:
            query = query.where(or_(runs.due_ms < after[0], and_(runs.due_ms == after[0], runs.run_id < after[1])))
        return await self._read(query)

    async def _read(self, query: Select[Any]) -> list[Run]:
        async with self._database.reading() as connection:
            return [_run(row) for row in (await connection.execute(query)).mappings()]


def _emitted(tenant_id: str, report: Report, period: Period) -> Select[Any]:
    return select(report_runs).where(
        report_runs.c.tenant_id == tenant_id,
        report_runs.c.report == report,
        report_runs.c.period_start == number_of(period.start),
        report_runs.c.period_end == number_of(period.end),
        report_runs.c.state == "done",
    )


def _row(firing: Firing, state: State, now_ms: int) -> dict[str, Any]:
    return {
        "run_id": firing.run_id,
        "tenant_id": firing.tenant_id,
        "job": firing.job,
        "due_ms": firing.due_ms,
        "report": firing.report,
        "period_start": number_of(firing.period.start),
        "period_end": number_of(firing.period.end),
        "stage": firing.stage,
        "state": state,
        "attempts": 1,
        "started_ms": now_ms,
        "deliveries": "{}",
        "settled": 0,
    }


def _run(row: Mapping[Any, Any]) -> Run:
    data = row.get("data")
    return Run(
        row["run_id"],
        row["tenant_id"],
        row["job"],
        row["due_ms"],
        row["report"],
        Period(day_of(row["period_start"]), day_of(row["period_end"])),
        row["stage"],
        row["state"],
        row["attempts"],
        row["started_ms"],
        row["finished_ms"],
        row["event_id"],
        row["cursor"],
        row["sequence"],
        None if data is None else cast("dict[str, Any]", orjson.loads(data)),
        row["error"],
        orjson.loads(row["deliveries"]),
        bool(row["settled"]),
    )
