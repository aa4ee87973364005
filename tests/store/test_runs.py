"""Report runs and marks on both databases: each firing once, and nothing by who lost the lease."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import Any

import pytest
from archive_bench import Open, change

from hub.core.calendar import Period, period_of
from hub.core.jobs import MANUAL, Firing
from hub.store.database import Database, StoreUnavailable
from hub.store.leases import Fence, LeaseLost, Leases
from hub.store.runs import MAX_ERROR, Made, Run, RunFilter, Runs

NOW = 1_784_077_441_000
DAY = date(2026, 7, 14)
FENCE = Fence("scheduler", 1)
TARGETS = ("hotel-member", "hotel-saas")


@pytest.fixture
async def runs(database: Database) -> Runs:
    """No runs, and a lease that is held."""
    assert await Leases(database).take(FENCE.name, "hub", None) is not None
    return Runs(database)


def firing(due: int = NOW, job: str = "daily", tenant: str = "t", **more: Any) -> Firing:
    """A firing of the daily report, unless another is given."""
    return Firing(tenant, job, due, "daily_report", Period(DAY, DAY), "provisional")._replace(**more)


def made(sequence: int = 1, stage: Any = "provisional", **data: Any) -> Made:
    """What a run emitted."""
    return Made(
        stage,
        f"event-{sequence}",
        f"cursor-{sequence}",
        sequence,
        {"report_type": "daily_report", "note": "満室"} | data,
        TARGETS,
    )


async def done(runs: Runs, one: Firing, sequence: int, at: int = NOW, **more: Any) -> Run:
    """A firing's run, done."""
    return await runs.finish(
        await runs.begin(one, at, FENCE, marks=True), made(sequence, **more), at, FENCE, marks=True
    )


async def test_a_run_from_its_beginning_to_its_end(runs: Runs) -> None:
    """It is running, then done, with what it emitted and every target waiting; its mark moves with that alone."""
    begun = await runs.begin(firing(), NOW + 5, FENCE, marks=True)
    assert begun == Run(
        firing().run_id, "t", "daily", NOW, "daily_report", Period(DAY, DAY), "provisional", "running", 1, NOW + 5
    )
    assert begun.firing == firing()
    assert await runs.get(begun.run_id) == begun
    assert await runs.unfinished() == [begun]
    assert await runs.marks() == {}

    ended = await runs.finish(begun, made(7, "final"), NOW + 9, FENCE, marks=True)
    assert ended == await runs.get(begun.run_id)
    assert (ended.state, ended.stage, ended.event_id) == ("done", "final", "event-7")
    assert (ended.cursor, ended.sequence) == ("cursor-7", 7)
    assert (ended.finished_ms, ended.error, ended.settled) == (NOW + 9, None, False)
    assert ended.data == {"report_type": "daily_report", "note": "満室"}
    waiting = {"status": "waiting", "at": None, "reminders": 0}
    assert ended.deliveries == {"hotel-member": waiting, "hotel-saas": waiting}
    assert await runs.unfinished() == []
    assert await runs.marks() == {"t": {"daily": NOW}}
    assert await runs.get("00000000-0000-5000-8000-000000000000") is None


async def test_a_firing_has_one_run(open_database: Open) -> None:
    """Many that begin it at once, each as another process, begin the same one; one that is over stays as it is."""
    many = [Runs(await open_database()) for _ in range(3)]
    assert await Leases(await open_database()).take(FENCE.name, "hub", None) is not None
    begun = await asyncio.gather(*[many[n % 3].begin(firing(), NOW + n, FENCE, marks=True) for n in range(9)])

    assert sorted(run.attempts for run in begun) == list(range(1, 10))
    assert len({(run.run_id, run.started_ms) for run in begun}) == 1
    first = await many[0].finish(begun[0], made(3), NOW + 20, FENCE, marks=True)
    assert await many[1].finish(begun[1], made(4), NOW + 21, FENCE, marks=True) == first
    assert await many[2].fail(begun[2], "no", NOW + 22, FENCE, marks=True) == first
    assert await many[2].begin(firing(), NOW + 23, FENCE, marks=True) == first


async def test_an_attempt_that_failed_leaves_the_run_running(runs: Runs) -> None:
    """With the reason, at most so long; the next attempt is counted, and success forgets the reason."""
    run = await runs.begin(firing(), NOW, FENCE, marks=True)
    await runs.note(run, "x" * 5000, FENCE)
    noted = await runs.get(run.run_id)
    assert noted is not None
    assert (noted.state, noted.error) == ("running", "x" * MAX_ERROR)

    again = await runs.begin(firing(), NOW + 9, FENCE, marks=True)
    assert (again.attempts, again.started_ms) == (2, NOW)
    assert (await runs.finish(again, made(), NOW + 10, FENCE, marks=True)).error is None
    await runs.note(run, "too late", FENCE)
    ended = await runs.get(run.run_id)
    assert ended is not None
    assert ended.error is None


async def test_a_run_that_is_given_up(runs: Runs) -> None:
    """It says why, moves its mark, and waits for nobody."""
    run = await runs.begin(firing(), NOW, FENCE, marks=True)
    failed = await runs.fail(run, "invalid_event: data", NOW + 1, FENCE, marks=True)

    assert (failed.state, failed.error, failed.finished_ms) == ("failed", "invalid_event: data", NOW + 1)
    assert await runs.marks() == {"t": {"daily": NOW}}
    assert await runs.unsettled(9) == await runs.unfinished() == []
    assert await runs.last_of("t", "daily_report", Period(DAY, DAY)) is None


async def test_marks_begin_once_and_never_move_back(runs: Runs) -> None:
    """Neither by what was due before, nor by being opened again."""
    await runs.open_marks("t", ["daily", "weekly"], NOW, FENCE)
    await done(runs, firing(NOW + 1000), 1)
    await done(runs, firing(NOW - 1000), 2)
    await runs.open_marks("t", ["daily", "monthly"], NOW + 5000, FENCE)

    assert await runs.marks() == {"t": {"daily": NOW + 1000, "weekly": NOW, "monthly": NOW + 5000}}


async def test_a_mark_catches_up_with_a_run_that_is_over(runs: Runs) -> None:
    """Beginning it again moves the mark past it, or it would be due for ever."""
    run = await runs.begin(firing(), NOW, FENCE, marks=False)
    await runs.finish(run, made(), NOW, FENCE, marks=False)
    assert await runs.marks() == {}

    assert (await runs.begin(firing(), NOW, FENCE, marks=True)).state == "done"
    assert await runs.marks() == {"t": {"daily": NOW}}


async def test_what_is_passed_over_leaves_one_row(runs: Runs) -> None:
    """Also where that run was begun and never ended; one that is done stays done."""
    await runs.skip(firing(NOW), "3 firings", NOW + 9, FENCE)
    begun = await runs.begin(firing(NOW + 1), NOW, FENCE, marks=True)
    await runs.skip(firing(NOW + 1), "2 firings", NOW + 9, FENCE)
    ended = await done(runs, firing(NOW + 2), 5)
    await runs.skip(firing(NOW + 2), "1 firing", NOW + 9, FENCE)

    found = await runs.listed(RunFilter(), 9)
    assert [(run.state, run.error, run.attempts) for run in found] == [
        ("done", None, 1),
        ("skipped", "2 firings", begun.attempts),
        ("skipped", "3 firings", 0),
    ]
    assert await runs.get(ended.run_id) == ended
    assert await runs.marks() == {"t": {"daily": NOW + 2}}
    assert await runs.unfinished() == []
    assert [run.run_id for run in await runs.unsettled(9)] == [ended.run_id]


async def test_who_lost_the_lease_writes_nothing(open_database: Open) -> None:
    """No method that is shown a fence changes anything then."""
    database, other = await open_database(), await open_database()
    held = await Leases(database).take(FENCE.name, "one", None)
    runs = Runs(database)
    begun = await runs.begin(firing(), NOW, FENCE, marks=True)
    await Leases(other).take(FENCE.name, "other", held)
    later = firing(NOW + 1)
    for attempt in (
        runs.open_marks("t", ["daily"], NOW, FENCE),
        runs.begin(later, NOW, FENCE, marks=True),
        runs.begin(firing(), NOW, FENCE, marks=True),
        runs.begin_new(later, NOW, FENCE),
        runs.finish(begun, made(), NOW, FENCE, marks=True),
        runs.fail(begun, "no", NOW, FENCE, marks=True),
        runs.note(begun, "no", FENCE),
        runs.skip(later, "no", NOW, FENCE),
        runs.note_deliveries(begun.run_id, {}, True, FENCE),
    ):
        with pytest.raises(LeaseLost):
            await attempt

    assert await Runs(other).marks() == {}
    assert await Runs(other).listed(RunFilter(), 9) == await Runs(other).unfinished() == [begun]


async def test_runs_that_are_asked_for_at_the_same_moment(open_database: Open) -> None:
    """Each is one of its own, without a lease, whichever hub was asked."""
    many = [Runs(await open_database()) for _ in range(3)]
    asked = [firing(NOW, MANUAL, report=report) for report in ("daily_report", "weekly_report", "monthly_report") * 2]
    begun = await asyncio.gather(*[many[n % 3].begin_new(one, NOW, None) for n, one in enumerate(asked)])

    assert sorted(run.due_ms for run in begun) == list(range(NOW, NOW + 6))
    assert [run.report for run in begun] == [one.report for one in asked]
    assert len(await many[0].unfinished()) == 6
    assert await many[0].marks() == {}


async def test_the_last_report_on_a_period(runs: Runs) -> None:
    """Of all jobs, the one whose event came last, whenever it was due or written down."""
    week = period_of("weekly_report", DAY)
    await done(runs, firing(NOW), 4, at=NOW + 100)
    last = await done(runs, firing(NOW + 1, "daily-final"), 9, at=NOW + 50, stage="final", total=5)
    await done(runs, firing(NOW + 9, "noon"), 6, at=NOW + 200)
    await done(runs, firing(NOW, tenant="u"), 20)
    await done(runs, firing(NOW, "weekly", report="weekly_report", period=week), 30)
    await runs.begin(firing(NOW + 10), NOW, FENCE, marks=True)

    assert await runs.last_of("t", "daily_report", Period(DAY, DAY)) == last
    found = await runs.last_of("t", "weekly_report", week)
    assert found is not None
    assert found.sequence == 30
    assert await runs.last_of("t", "weekly_report", Period(DAY, DAY)) is None


async def test_the_runs_that_cover_some_days(runs: Runs) -> None:
    """Done or running, of all reports whose period has one of the days; without their data."""
    march = period_of("monthly_report", date(2026, 3, 31))
    days = {
        "daily": Period(DAY, DAY),
        "weekly": period_of("weekly_report", DAY),
        "monthly": period_of("monthly_report", DAY),
        "noon": period_of("monthly_report", date(2026, 6, 30)),
        "old": march,
    }
    for number, (job, period) in enumerate(days.items()):
        await done(runs, firing(NOW, job, period=period), number)
    await runs.begin(firing(NOW, "eve", period=Period(DAY, DAY)), NOW, FENCE, marks=True)
    await runs.fail(
        await runs.begin(firing(NOW, "bad", period=Period(DAY, DAY)), NOW, FENCE, marks=True),
        "",
        NOW,
        FENCE,
        marks=True,
    )

    async def covering(first: date, last: date) -> set[str]:
        found = await runs.covering("t", (first - date(1970, 1, 1)).days, (last - date(1970, 1, 1)).days)
        assert all(run.data is None for run in found)
        return {run.job for run in found}

    assert await covering(DAY, DAY) == {"daily", "weekly", "monthly", "eve"}
    assert await covering(date(2026, 7, 31), date(2026, 8, 9)) == {"monthly"}
    assert await covering(date(2026, 6, 30), date(2026, 7, 1)) == {"monthly", "noon"}
    assert await covering(date(2026, 3, 1), date(2026, 3, 1)) == await covering(march.end, march.end) == {"old"}
    assert await covering(date(2026, 2, 28), date(2026, 2, 28)) == set()


async def test_what_is_unsettled_comes_by_pages(runs: Runs) -> None:
    """In the order it finished, each once, until it is settled."""
    ended = [await done(runs, firing(NOW + number), number, at=NOW + number // 2) for number in range(5)]
    expected = sorted(ended, key=lambda run: (run.finished_ms, run.run_id))
    found: list[Run] = []
    while page := await runs.unsettled(2, found[-1] if found else None):
        found += page
    assert [run.run_id for run in found] == [run.run_id for run in expected]

    said = {"hotel-member": {"status": "handled", "at": "2026-07-15T01:04:01.000Z", "reminders": 1}}
    await runs.note_deliveries(ended[0].run_id, said, False, FENCE)
    await runs.note_deliveries(ended[1].run_id, said, True, FENCE)
    noted, settled = await runs.get(ended[0].run_id), await runs.get(ended[1].run_id)
    assert noted is not None and settled is not None  # noqa: PT018
    assert (noted.deliveries, noted.settled, settled.settled) == (said, False, True)
    assert len(await runs.unsettled(9)) == 4


async def test_a_listing_is_newest_first_by_pages_and_filtered(runs: Runs) -> None:
    """Each filter by itself and all together; what is due at the same time comes once, too."""
    week = period_of("weekly_report", DAY)
    for number in range(6):
        await done(runs, firing(NOW + number // 2 * 1000, f"job-{number}"), number)
    await done(runs, firing(NOW, "weekly", report="weekly_report", period=week), 7)
    await done(runs, firing(NOW + 9000, tenant="u"), 8)
    await runs.fail(await runs.begin(firing(NOW - 9000), NOW, FENCE, marks=True), "", NOW, FENCE, marks=True)

    whole = await runs.listed(RunFilter(), 99)
    assert [run.due_ms for run in whole] == sorted((run.due_ms for run in whole), reverse=True)
    assert len(whole) == 9
    paged: list[Run] = []
    while page := await runs.listed(RunFilter(), 2, (paged[-1].due_ms, paged[-1].run_id) if paged else None):
        paged += page
    assert paged == whole

    async def jobs(**wanted: Any) -> list[str]:
        return sorted(run.job for run in await runs.listed(RunFilter(**wanted), 99))

    assert await jobs(tenants=["u"]) == ["daily"]
    assert await jobs(tenants=[]) == []
    assert await jobs(reports=["weekly_report"]) == ["weekly"]
    assert await jobs(job="job-3") == ["job-3"]
    assert await jobs(state="failed") == ["daily"]
    assert await jobs(since_ms=NOW + 1000, until_ms=NOW + 2000) == ["job-2", "job-3"]
    assert await jobs(day=date(2026, 7, 13)) == ["weekly"]
    assert await jobs(day=DAY, reports=["daily_report"], tenants=["t"], since_ms=NOW + 2000) == ["job-4", "job-5"]


async def test_the_table_refuses_a_second_run_of_a_firing(database: Database, runs: Runs) -> None:
    """Under whatever id: the last guard."""
    await done(runs, firing(), 1)
    columns = "run_id, tenant_id, job, due_ms, report, period_start, period_end, stage, state, attempts, started_ms"

    with pytest.raises(StoreUnavailable, match=r"(?i)unique"):
        await change(
            database,
            f"INSERT INTO report_runs ({columns}, deliveries, settled) "
            f"SELECT 'another', {columns.partition(', ')[2]}, deliveries, settled FROM report_runs",
        )


async def test_old_runs_are_removed(runs: Runs) -> None:
    """Those that are over; the marks stay, so that nothing fires again."""
    old, newer = firing(), firing(NOW + 2000)
    await done(runs, old, 1)
    await done(runs, newer, 2)
    await runs.begin(firing(NOW, "weekly"), NOW, FENCE, marks=True)
    with pytest.raises(LeaseLost):
        await runs.expire(NOW + 1000, Fence("scheduler", 9))
    assert await runs.expire(NOW + 1000, FENCE) == 1
    assert sorted(run.job for run in await runs.listed(RunFilter(), 9)) == ["daily", "weekly"]
    assert await runs.marks() == {"t": {"daily": NOW + 2000}}
