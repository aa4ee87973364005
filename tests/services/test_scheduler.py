"""The batch scheduler: each report once and in order, whatever hubs and clocks do."""

from __future__ import annotations

import asyncio
import time
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from feed_rig import LogServer, Rig
from replay_desk import Clock
from report_desk import TENANT, Bureau, reservation

from hub.core.calendar import due_times
from hub.core.jobs import Job, built_in, firing
from hub.errors import StartError
from hub.services.leadership import PATIENCE_S, Leadership
from hub.services.scheduler import FIRST_PAUSE_S, LEASE, LONGEST_SLEEP_S, ODD_ATTEMPTS, own_jobs
from hub.store.database import StoreUnavailable
from hub.store.leases import LeaseLost
from hub.store.runs import Made, Run
from schemas import registry
from schemas.errors import Problem

TOKYO, LISBON = ZoneInfo("Asia/Tokyo"), ZoneInfo("Europe/Lisbon")
HALF_PAST = Job("half-past", "30 1 * * *", "daily_report")


def local(text: str, zone: ZoneInfo = TOKYO) -> float:
    """A time on a property's wall, Unix seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def clock_at(text: str, zone: ZoneInfo = TOKYO) -> Clock:
    """A clock that stands there."""
    clock = Clock()
    clock.now = local(text, zone)
    return clock


@pytest.fixture
async def bureau(rig: Rig) -> Bureau:
    """A hub that schedules for one property in Tokyo, which was described on a Tuesday at noon."""
    made = await Bureau(rig, clock_at("2026-07-14T12:00")).lead()
    await made.describe(rooms=10)
    return made


def counted(rig: Rig, job: str, outcome: str) -> float:
    """How many runs came to that."""
    return rig.metrics.batch_runs.labels(job, outcome)._value.get()


async def test_a_report_comes_when_it_is_due_and_not_before(bureau: Bureau) -> None:
    """The daily one at 23:00, provisional, and the one that holds when the business day is over."""
    pause = await bureau.at("2026-07-14T22:59:59.990", TOKYO)
    assert await bureau.emitted() == []
    assert pause == pytest.approx(0.01)

    await bureau.at("2026-07-14T23:00:00", TOKYO)
    assert await bureau.emitted() == [("daily_report", "2026-07-14", "provisional")]
    assert await bureau.round() == LONGEST_SLEEP_S

    await bureau.at("2026-07-15T05:00:00", TOKYO)
    assert await bureau.emitted() == [
        ("daily_report", "2026-07-14", "provisional"),
        ("daily_report", "2026-07-14", "final"),
    ]
    assert counted(bureau.rig, "daily", "done") == counted(bureau.rig, "daily-final", "done") == 1


async def test_what_is_emitted_is_what_the_run_says(bureau: Bureau) -> None:
    """The run's id is the event's, its data the event's data, its cursor the event's place; the event is of the hub,
    for the targets of its type, and due when it says that it occurred."""
    await bureau.at("2026-07-14T23:00:02", TOKYO)

    [run], [entry] = await bureau.all(), await bureau.events()
    run = await bureau.runs.get(run.run_id) or run
    assert (run.state, run.stage, run.attempts) == ("done", "provisional", 1)
    assert (run.run_id, run.cursor, run.sequence) == (entry.event_id, entry.cursor, entry.sequence)
    assert run.data == entry.event["data"]
    assert set(run.deliveries) == set(entry.targets) == {"hotel-member", "hotel-saas"}
    assert entry.source == "hub"
    assert entry.event["occurred_at"] == "2026-07-14T14:00:00.000Z"
    data: Any = registry.read(entry.raw).data
    assert (data.report_type, data.period_start, data.period_end) == ("daily_report", *[date(2026, 7, 14)] * 2)
    assert data.detailed_data["rooms"] == 10


async def test_weeks_and_months(bureau: Bureau) -> None:
    """On Sunday at 01:00 and on the first at 02:00, and again when the last business day is over."""
    for text in ("2026-07-19T00:59", "2026-07-19T04:59", "2026-07-19T05:00", "2026-08-01T01:59", "2026-08-01T05:00"):
        await bureau.at(text, TOKYO)

    assert [one for one in await bureau.emitted() if one[0] != "daily_report"] == [
        ("weekly_report", "2026-07-12", "provisional"),
        ("weekly_report", "2026-07-12", "final"),
        ("weekly_report", "2026-07-19", "provisional"),
        ("weekly_report", "2026-07-19", "final"),
        ("monthly_report", "2026-07-01", "provisional"),
        ("monthly_report", "2026-07-01", "final"),
    ]


async def test_a_day_that_turns_at_23_is_reported_once(rig: Rig) -> None:
    """Its report is final at 23:00: there is no second one."""
    bureau = await Bureau(rig, clock_at("2026-07-14T12:00")).lead()
    await bureau.describe(rollover_hour=23)
    await bureau.at("2026-07-16T12:00", TOKYO)

    assert await bureau.emitted() == [
        ("daily_report", "2026-07-13", "final"),
        ("daily_report", "2026-07-14", "final"),
    ]


async def test_each_property_has_its_own_time(rig: Rig) -> None:
    """At 23:00 in Tokyo it is afternoon in Lisbon, where only the night's report has come since."""
    bureau = await Bureau(rig, clock_at("2026-07-14T12:00")).lead()
    await bureau.describe("t-1")
    await bureau.describe("t-2", timezone="Europe/Lisbon")
    await bureau.at("2026-07-14T23:00", TOKYO)
    assert await bureau.emitted("t-1") == [("daily_report", "2026-07-14", "provisional")]
    assert await bureau.emitted("t-2") == [("daily_report", "2026-07-13", "final")]

    await bureau.at("2026-07-14T23:00", LISBON)
    assert (await bureau.emitted("t-2"))[1:] == [("daily_report", "2026-07-14", "provisional")]
    assert await bureau.emitted("t-1") == [
        ("daily_report", "2026-07-14", "provisional"),
        ("daily_report", "2026-07-14", "final"),
    ]


async def test_what_was_due_before_a_property_came_is_not_made_up_for(bureau: Bureau) -> None:
    """Neither for one that was described, nor for one that has events alone, nor for a job that was added."""
    assert await bureau.emitted() == []
    await bureau.publish(reservation("R1", "2026-07-14", "2026-07-15", 9000), "t-5")
    await bureau.at("2026-07-14T18:00", TOKYO)
    own = Bureau(bureau.rig, bureau.clock, [Job("noon", "0 12 * * *", "daily_report")])
    own.fence = bureau.fence
    await own.at("2026-07-14T23:00", TOKYO)
    await own.at("2026-07-15T12:00", TOKYO)

    assert {(run.tenant_id, run.job, run.period.start.day) for run in await own.all()} == {
        (tenant, job, day)
        for tenant in (TENANT, "t-5")
        for job, day in (("daily", 14), ("daily-final", 14), ("noon", 15))
    }


async def test_thirty_days_of_downtime(bureau: Bureau) -> None:
    """Each report that was due meanwhile comes once, oldest first, with the stage it would have had."""
    await bureau.at("2026-08-13T12:00", TOKYO)

    until = int(bureau.clock.now * 1000)
    expected = [
        firing(TENANT, job, due, TOKYO, 5)
        for job in built_in(5)
        for due in due_times(job.cron, TOKYO, int(local("2026-07-14T12:00") * 1000), until)
    ]
    expected.sort(key=lambda one: one.due_ms)
    assert len(expected) == 30 * 2 + 2 * 4 + 2
    assert await bureau.emitted() == [(one.report, one.period.start.isoformat(), one.stage) for one in expected]
    runs = await bureau.all()
    assert sorted(run.run_id for run in runs) == sorted(one.run_id for one in expected)
    assert {(run.state, run.attempts) for run in runs} == {("done", 1)}

    await bureau.round()
    assert len(await bureau.events()) == len(expected)


async def test_what_is_too_old_is_passed_over_and_said_so(rig: Rig) -> None:
    """One row a job says how many firings that were; what is younger is made up for."""
    bureau = await Bureau(rig, clock_at("2026-07-14T12:00"), catch_up_days=3).lead()
    await bureau.describe()
    await bureau.at("2026-07-24T12:00", TOKYO)

    runs = await bureau.all()
    skipped = {run.job: run for run in runs if run.state == "skipped"}
    assert set(skipped) == {"daily", "daily-final", "weekly", "weekly-final"}
    assert skipped["daily"].error is not None
    assert skipped["daily"].error.startswith("7 firings after 2026-07-14T03:00:00.000Z were passed over")
    assert "more than 3 days ago" in skipped["daily"].error
    assert skipped["daily"].period.start == date(2026, 7, 20)
    assert await bureau.emitted() == [
        ("daily_report", f"2026-07-{day}", stage) for day in (21, 22, 23) for stage in ("provisional", "final")
    ]
    assert counted(rig, "daily", "skipped") == 7
    await bureau.round()
    assert await bureau.all() == runs


async def test_a_clock_that_is_put_back_fires_nothing_again(bureau: Bureau) -> None:
    """An hour back over a due time, and forth again; what is due later comes when the clock is there."""
    await bureau.at("2026-07-14T23:30", TOKYO)
    await bureau.at("2026-07-14T22:30", TOKYO)
    await bureau.at("2026-07-14T23:00", TOKYO)
    await bureau.at("2026-07-14T23:30", TOKYO)
    assert len(await bureau.events()) == 1

    await bureau.at("2026-07-15T05:00", TOKYO)
    assert len(await bureau.events()) == 2


async def test_clocks_go_forward(rig: Rig) -> None:
    """In Lisbon there is no 01:30 on 29 March 2026: the job fires at 02:00, once, and the day is reported once."""
    bureau = await Bureau(rig, clock_at("2026-03-28T12:00", LISBON), [HALF_PAST]).lead()
    await bureau.describe(timezone="Europe/Lisbon")
    await bureau.at("2026-03-29T00:59:59", LISBON)
    assert await bureau.all(job="half-past") == []
    for text in ("2026-03-29T02:00", "2026-03-29T02:30", "2026-03-30T01:29", "2026-03-30T01:30"):
        await bureau.at(text, LISBON)

    fired = await bureau.all(job="half-past")
    assert [(run.due_ms / 1000, run.period.start) for run in fired] == [
        (local("2026-03-29T02:00", LISBON), date(2026, 3, 28)),
        (local("2026-03-30T01:30", LISBON), date(2026, 3, 29)),
    ]
    assert [run.due_ms / 1000 for run in await bureau.all(job="weekly")] == [local("2026-03-29T02:00", LISBON)]


async def test_clocks_go_back(rig: Rig) -> None:
    """01:30 comes twice on 25 October 2026: the job fires the first time."""
    bureau = await Bureau(rig, clock_at("2026-10-24T12:00", LISBON), [HALF_PAST]).lead()
    await bureau.describe(timezone="Europe/Lisbon")
    await bureau.at("2026-10-25T01:30", LISBON)
    assert len(await bureau.all(job="half-past")) == 1
    await bureau.at("2026-10-25T01:30", LISBON, fold=1)
    await bureau.at("2026-10-25T01:59", LISBON, fold=1)
    await bureau.at("2026-10-26T01:30", LISBON)

    assert [run.due_ms / 1000 for run in await bureau.all(job="half-past")] == [
        local("2026-10-25T01:30", LISBON),
        local("2026-10-26T01:30", LISBON),
    ]
    assert [run.due_ms / 1000 for run in await bureau.all(job="weekly")] == [local("2026-10-25T01:00", LISBON)]


async def test_a_property_that_moves_to_another_zone(bureau: Bureau) -> None:
    """What comes next is due in its new time; nothing fires twice for one moment."""
    await bureau.at("2026-07-14T23:00", TOKYO)
    await bureau.tenants.put({"tenant_id": TENANT, "timezone": "Europe/Lisbon"})
    await bureau.at("2026-07-14T22:59", LISBON)
    assert len(await bureau.all(job="daily")) == 1
    await bureau.at("2026-07-14T23:00", LISBON)

    assert [run.due_ms / 1000 for run in await bureau.all(job="daily")] == [
        local("2026-07-14T23:00"),
        local("2026-07-14T23:00", LISBON),
    ]


async def test_a_property_without_rooms_and_events(rig: Rig) -> None:
    """Its report is empty, not an error, and says that no rooms are known."""
    bureau = await Bureau(rig, clock_at("2026-07-14T12:00")).lead()
    await bureau.describe(name="Empty")
    await bureau.at("2026-07-14T23:00", TOKYO)

    [entry] = await bureau.events()
    data = entry.event["data"]
    assert (data["total_revenue"], data["occupancy_rate"], data["customer_count"]) == (0, 0, 0)
    assert data["detailed_data"]["rooms"] == 0
    assert data["detailed_data"]["notes"]


# -- several hubs -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def other(log_server: LogServer, bureau: Bureau) -> Any:
    """Another hub on the same log and store, which does not lead yet."""
    rig = await Rig(log_server, bureau.rig.prefix).start()
    yield Bureau(rig, bureau.clock)
    await rig.stop()


class Hung:
    """A step that a hub comes to and never gets over."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def __call__(self, *_: Any, **__: Any) -> Any:
        """Hang."""
        self.reached.set()
        await asyncio.Event().wait()


@pytest.mark.parametrize("published", [False, True], ids=["before-it-is-emitted", "after-it-is-emitted"])
async def test_a_hub_that_dies_over_a_report(
    bureau: Bureau, other: Bureau, published: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one takes the run up: there is one event and one run, which is done, and the first can write no more."""
    hung, finish = Hung(), bureau.runs.finish
    if published:
        monkeypatch.setattr(bureau.runs, "finish", hung)
    else:
        monkeypatch.setattr(bureau.announcer, "publish", hung)
    bureau.clock.now = local("2026-07-14T23:00")
    dying = asyncio.create_task(bureau.round())
    await asyncio.wait_for(hung.reached.wait(), 20)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    [begun] = await bureau.runs.unfinished()

    await other.lead()
    bureau.clock.move(10)
    await other.round()

    [run], [entry] = await other.all(), await other.events()
    assert (run.state, run.attempts, run.run_id, run.sequence) == ("done", 2, begun.run_id, entry.sequence)
    found = await other.runs.get(run.run_id)
    assert found is not None
    assert found.data == entry.event["data"]
    with pytest.raises(LeaseLost):
        await finish(begun, Made("final", "elsewhere", 99, {}, ()), 0, bureau.fence, marks=True)
    await other.at("2026-07-15T05:00", TOKYO)
    assert len(await other.events()) == 2


async def test_a_hub_that_was_superseded_over_a_report_goes_on(
    bureau: Bureau, other: Bureau, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It emits what the other one has emitted already: the log keeps one event, and the run says what that holds."""
    publish, gate, reached = bureau.announcer.publish, asyncio.Event(), asyncio.Event()

    async def slow(tenant_id: str, event: Any) -> Any:
        reached.set()
        await gate.wait()
        return await publish(tenant_id, event | {"data": event["data"] | {"customer_count": 77}})

    monkeypatch.setattr(bureau.announcer, "publish", slow)
    bureau.clock.now = local("2026-07-14T23:00")
    late = asyncio.create_task(bureau.scheduler.round(bureau.fence))
    await asyncio.wait_for(reached.wait(), 20)
    await other.lead()
    await other.round()
    gate.set()
    with pytest.raises(LeaseLost):
        await late

    [run], [entry] = await other.all(), await other.events()
    found = await other.runs.get(run.run_id)
    assert found is not None
    assert (found.state, found.data) == ("done", entry.event["data"])
    assert entry.event["data"]["customer_count"] == 0


async def test_a_hub_that_emits_second_writes_down_what_the_first_emitted(
    bureau: Bureau, other: Bureau, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both made the report, with different figures: the run has those of the event that is in the log."""
    publish, gate, reached = other.announcer.publish, asyncio.Event(), asyncio.Event()

    async def slow(tenant_id: str, event: Any) -> Any:
        reached.set()
        await gate.wait()
        return await publish(tenant_id, event | {"data": event["data"] | {"customer_count": 77}})

    hung = Hung()
    monkeypatch.setattr(other.announcer, "publish", slow)
    monkeypatch.setattr(bureau.runs, "finish", hung)
    await other.lead()
    bureau.clock.now = local("2026-07-14T23:00")
    second = asyncio.create_task(other.round())
    await asyncio.wait_for(reached.wait(), 20)
    # The first one believes to lead still, and begins where no fence is asked for.
    [begun] = await bureau.runs.unfinished()
    tenant = bureau.tenants.get(TENANT)
    first = asyncio.create_task(bureau.maker.make(begun, tenant, None, marks=False))
    await asyncio.wait_for(hung.reached.wait(), 20)
    first.cancel()
    gate.set()
    await second

    [entry] = await other.events()
    found = await other.runs.get(begun.run_id)
    assert found is not None
    assert found.data == entry.event["data"]
    assert entry.event["data"]["customer_count"] == 0


async def test_two_hubs_with_leases(bureau: Bureau, other: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    """One schedules; when it dies over a report, the other takes over and makes it, once."""
    hung = Hung()
    hers, his = Clock(), Clock()
    held = await bureau.rig.store.leases.look(LEASE)
    assert held is not None
    await bureau.rig.store.leases.release(held)
    works = (bureau.scheduler.work, other.scheduler.work)
    stores = (bureau.rig.store, other.rig.store)
    first, second = (
        Leadership(store, LEASE, name, work, monotonic=clock.wall, sleep=clock.sleep)
        for store, name, work, clock in zip(stores, "ab", works, (hers, his), strict=True)
    )
    monkeypatch.setattr(bureau.runs, "finish", hung)
    bureau.clock.now = local("2026-07-14T23:00")
    first.start()
    await asyncio.wait_for(hung.reached.wait(), 20)
    # Killed: its tasks end without another word to the store.
    monkeypatch.setattr(bureau.rig.store.leases, "release", Hung())
    await asyncio.wait_for(first.stop(), 20)

    second.start()
    try:
        async with asyncio.timeout(20):
            while not [run for run in await other.all() if run.state == "done"]:
                his.move(0.5)
                await asyncio.sleep(0.01)
    finally:
        await second.stop()
    assert his.now - hers.now >= PATIENCE_S - 1
    assert len(await other.events()) == 1
    assert [run.attempts for run in await other.all()] == [2]


# -- what fails -------------------------------------------------------------------------------------------------------


async def test_no_report_while_the_archive_is_behind(bureau: Bureau) -> None:
    """A report without the last events would be wrong: it is tried again, later and later, and then has them."""
    bureau.archives = False
    stay = reservation("R1", "2026-07-14", "2026-07-15", 9000, status="checked_in") | {"action": "checked_in"}
    await bureau.announcer.publish(TENANT, stay | {"occurred_at": "2026-07-14T15:00:00+09:00"})
    pause = await bureau.at("2026-07-14T23:00", TOKYO)
    assert await bureau.events() == []
    assert pause == FIRST_PAUSE_S
    [run] = await bureau.all()
    assert (run.state, run.attempts) == ("running", 1)
    assert run.error is not None
    assert run.error.startswith("the store lacks 1 events that the log has")

    for attempt, expected in ((2, 10), (3, 20), (4, 30)):
        bureau.clock.move(600 if attempt == 4 else pause)
        pause = await bureau.round()
        [run] = await bureau.all()
        assert (pause, run.attempts) == (expected, attempt)
    await bureau.at("2026-07-15T06:00", TOKYO)
    assert {(run.job, run.state) for run in await bureau.all()} == {("daily", "running"), ("daily-final", "running")}
    assert counted(bureau.rig, "daily", "retried") == 5

    bureau.archives = True
    await bureau.at("2026-07-15T06:30", TOKYO)
    assert await bureau.emitted() == [
        ("daily_report", "2026-07-14", "provisional"),
        ("daily_report", "2026-07-14", "final"),
    ]
    assert (await bureau.events())[0].event["data"]["total_revenue"] == 9000


async def test_later_firings_of_a_job_wait_and_others_do_not(bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of one job come in order; other jobs and other properties go on meanwhile."""
    await bureau.describe("t-2")
    publish = bureau.announcer.publish
    refusing = True

    async def refuse(tenant_id: str, event: Any) -> Any:
        if refusing and tenant_id == TENANT and event["occurred_at"].startswith("2026-07-14T14:00"):
            raise Problem("log_unavailable")
        return await publish(tenant_id, event)

    monkeypatch.setattr(bureau.announcer, "publish", refuse)
    await bureau.at("2026-07-16T12:00", TOKYO)
    assert await bureau.emitted() == [("daily_report", f"2026-07-{day}", "final") for day in (14, 15)]
    assert len(await bureau.emitted("t-2")) == 4

    refusing = False
    bureau.clock.move(FIRST_PAUSE_S)
    await bureau.round()
    assert (await bureau.emitted())[2:] == [("daily_report", f"2026-07-{day}", "provisional") for day in (14, 15)]


async def test_a_store_that_goes_away_over_a_report(bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round ends; the next ones make it, once, although it had been emitted."""
    finish, times = bureau.runs.finish, 0

    async def away(*args: Any, **more: Any) -> Any:
        nonlocal times
        times += 1
        if times < 3:
            raise StoreUnavailable("away")
        return await finish(*args, **more)

    monkeypatch.setattr(bureau.runs, "finish", away)
    await bureau.at("2026-07-14T23:00", TOKYO)
    for _ in range(2):
        bureau.clock.move(10)
        await bureau.round()

    [run] = await bureau.all()
    assert (run.state, run.attempts, run.error) == ("done", 3, None)
    assert len(await bureau.events()) == 1


async def test_a_report_that_never_can_be_is_given_up(bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why, and the next one of its job goes on."""
    publish = bureau.announcer.publish

    async def refuse(tenant_id: str, event: Any) -> Any:
        if event["data"]["period_start"] == "2026-07-14":
            raise Problem("invalid_event", "data.total_revenue: no")
        return await publish(tenant_id, event)

    monkeypatch.setattr(bureau.announcer, "publish", refuse)
    await bureau.at("2026-07-15T23:00", TOKYO)

    assert [(run.job, run.state, run.error) for run in await bureau.all()] == [
        ("daily", "failed", "invalid_event: data.total_revenue: no"),
        ("daily-final", "failed", "invalid_event: data.total_revenue: no"),
        ("daily", "done", None),
    ]
    assert counted(bureau.rig, "daily", "failed") == 1


async def test_a_failure_that_nobody_knows(bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried some times, then given up, and keeps neither other properties nor the job's next firing waiting."""
    await bureau.describe("t-2")
    figures = bureau.rig.store.facts.figures

    async def odd(tenant_id: str, *args: Any, **more: Any) -> Any:
        if tenant_id == TENANT:
            raise ZeroDivisionError("odd")
        return await figures(tenant_id, *args, **more)

    monkeypatch.setattr(bureau.rig.store.facts, "figures", odd)
    await bureau.at("2026-07-14T23:00", TOKYO)
    assert len(await bureau.emitted("t-2")) == 1
    for _ in range(ODD_ATTEMPTS):
        bureau.clock.move(300)
        await bureau.round()

    [run] = await bureau.all(tenants=[TENANT])
    assert (run.state, run.attempts, run.error) == ("failed", ODD_ATTEMPTS, "ZeroDivisionError('odd')")
    monkeypatch.setattr(bureau.rig.store.facts, "figures", figures)
    await bureau.at("2026-07-15T05:00", TOKYO)
    assert await bureau.emitted() == [("daily_report", "2026-07-14", "final")]


async def test_one_property_that_fails_for_no_known_reason(bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of its reports, too, the others get theirs."""
    await bureau.describe("t-2")
    begin = bureau.runs.begin

    async def odd(one: Any, *args: Any, **more: Any) -> Any:
        if one.tenant_id == TENANT:
            raise RuntimeError("odd")
        return await begin(one, *args, **more)

    monkeypatch.setattr(bureau.runs, "begin", odd)
    await bureau.at("2026-07-14T23:00", TOKYO)
    assert len(await bureau.emitted("t-2")) == 1


async def test_work_goes_on_while_the_log_is_away(bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    """It pauses, and comes back."""
    listed, times = bureau.tenants.listed, 0

    async def away() -> Any:
        nonlocal times
        times += 1
        if times < 3:
            raise ConnectionError("away")
        return await listed()

    monkeypatch.setattr(bureau.tenants, "listed", away)
    bureau.clock.now = local("2026-07-14T23:00")
    work = asyncio.create_task(bureau.scheduler.work(bureau.fence))
    async with asyncio.timeout(20):
        while not await bureau.events():
            if bureau.clock.asleep:
                bureau.clock.move(1)
            await asyncio.sleep(0.005)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    assert times == 3


# -- events that came late --------------------------------------------------------------------------------------------


@pytest.fixture
async def past(rig: Rig) -> Bureau:
    """A hub whose property was described eight days ago, and has its reports up to now: what it hears now of days that
    are over is late."""
    clock = Clock()
    today = datetime.now(TOKYO).replace(hour=12, minute=0, second=0, microsecond=0)
    clock.now = (today - timedelta(days=8)).timestamp()
    made = await Bureau(rig, clock).lead()
    await made.describe(rooms=10)
    clock.now = time.time()
    await made.round()
    return made


def stay(id: str, day: date, amount: int = 9000) -> dict[str, Any]:
    """One night that was slept, told now."""
    checkin, checkout = day.isoformat(), (day + timedelta(days=1)).isoformat()
    told = reservation(id, checkin, checkout, amount, status="checked_out") | {"action": "checked_out"}
    return told | {"occurred_at": f"{checkout}T10:00:00+09:00"}


async def reported(bureau: Bureau, days: int) -> Run:
    """The final report on the business day so many days before this one."""
    return (await bureau.all(job="daily-final"))[-days]


async def revised(bureau: Bureau) -> list[Run]:
    """The revised runs."""
    return [run for run in await bureau.all() if run.job.startswith("revised-")]


async def test_an_event_that_comes_late_revises_the_reports_it_changes_once(past: Bureau) -> None:
    """The day's, and the week's where that is over: with what changed, and how many events that were."""
    before = len(await past.events())
    day = (await reported(past, 3)).period.start
    await past.publish(stay("R1", day))
    past.clock.move(61)
    await past.round()

    runs = await revised(past)
    daily = next(run for run in runs if run.job == "revised-daily" and run.period.start == day)
    found = await past.runs.get(daily.run_id)
    assert found is not None
    assert found.data is not None
    detail = found.data["detailed_data"]
    assert (found.stage, found.state, found.data["total_revenue"]) == ("revised", "done", 9000)
    assert (detail["stage"], detail["late_events"]) == ("revised", 1)
    assert {"figure": "total_revenue", "before": 0, "after": 9000} in detail["changes"]
    assert len(await past.events()) == before + len(runs)
    assert {run.stage for run in runs} == {"revised"}
    assert await past.rig.store.facts.late(TENANT) == []

    for _ in range(3):
        past.clock.move(61)
        await past.round()
    assert await revised(past) == runs


async def test_late_events_are_looked_for_once_a_minute(past: Bureau) -> None:
    """Not in every round; and a look that finds nothing new reads no facts."""
    await past.publish(stay("R1", (await reported(past, 3)).period.start))
    past.clock.move(30)
    await past.round()
    assert await revised(past) == []
    past.clock.move(31)
    await past.round()
    assert await revised(past)


async def test_late_events_that_change_no_figure_revise_nothing(past: Bureau) -> None:
    """Two that undo each other are looked at, and forgotten."""
    when = f"{(await reported(past, 2)).period.start}T12:00:00+09:00"

    async def charged(*actions: str) -> int:
        data = {"folio_id": "F1", "amount": 500, "category": "food"}
        for action in actions:
            event = {"type": "billing", "action": action, "occurred_at": when, "data": data}
            await past.publish(event)
        past.clock.move(61)
        await past.round()
        assert await past.rig.store.facts.late(TENANT) == []
        return len(await past.events())

    before = await charged("charged")
    assert "revised-daily" in {run.job for run in await revised(past)}
    assert await charged("charged", "refunded") == before


async def test_late_days_without_a_final_report_wait_for_none(bureau: Bureau) -> None:
    """Where nothing was reported as final there is nothing to revise: what comes has it."""
    bureau.clock.now = time.time()
    await bureau.publish(stay("R1", datetime.now(TOKYO).date() - timedelta(days=200)))
    await bureau.scheduler._look_late(bureau.fence, bureau.tenants.get(TENANT))

    assert await bureau.rig.store.facts.late(TENANT) == []
    assert await revised(bureau) == []


async def test_a_late_day_waits_for_the_report_that_is_being_made(past: Bureau) -> None:
    """That one may have been reckoned without it: the day is looked at when it is there."""
    running = (await reported(past, 3)).firing
    begun = await past.runs.begin_new(running._replace(job="manual"), int(past.clock.now * 1000), None)
    await past.publish(stay("R1", running.period.start))
    past.clock.move(61)
    await past.round()
    assert not [run for run in await revised(past) if run.period.start == running.period.start]
    assert await past.rig.store.facts.late(TENANT)

    await past.runs.fail(begun, "no", 0, None, marks=False)
    past.clock.move(61)
    await past.round()
    assert len([run for run in await revised(past) if run.period == running.period]) == 1
    assert await past.rig.store.facts.late(TENANT) == []


async def test_a_revision_whose_hub_died_is_made_once(past: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was emitted: the next round takes it up, and looks at the days again, and finds nothing to say."""
    finish, hung = past.runs.finish, Hung()
    await past.publish(stay("R1", (await reported(past, 3)).period.start))
    before = len(await past.events())
    past.clock.move(61)
    monkeypatch.setattr(past.runs, "finish", hung)
    dying = asyncio.create_task(past.round())
    await asyncio.wait_for(hung.reached.wait(), 20)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    monkeypatch.setattr(past.runs, "finish", finish)
    heir = Bureau(past.rig, past.clock)
    await heir.lead()
    for _ in range(3):
        heir.clock.move(61)
        await heir.round()

    runs = await revised(heir)
    assert {run.state for run in runs} == {"done"}
    assert len({run.period for run in runs}) == len(runs)
    assert len(await heir.events()) == before + len(runs)
    assert await heir.rig.store.facts.late(TENANT) == []


async def test_an_abandoned_request_is_taken_up(bureau: Bureau) -> None:
    """A run that somebody asked for is left to its hub for two minutes; then it is made."""
    bureau.clock.now = local("2026-07-14T15:00")
    asked = firing(TENANT, Job("manual", "", "daily_report"), int(bureau.clock.now * 1000), TOKYO, 5)
    await bureau.runs.begin_new(asked, asked.due_ms, None)
    bureau.clock.move(119)
    await bureau.round()
    assert await bureau.events() == []
    bureau.clock.move(2)
    await bureau.round()

    assert await bureau.emitted() == [("daily_report", "2026-07-14", "provisional")]
    assert [run.state for run in await bureau.all()] == ["done"]


def test_own_jobs_have_names_of_their_own() -> None:
    """A built-in job's is refused, naming the setting."""
    assert own_jobs({"noon": ("0 12 * * *", "daily_report")}) == (Job("noon", "0 12 * * *", "daily_report"),)
    for name in ("daily", "weekly-final", "manual", "revised-daily"):
        with pytest.raises(StartError) as refused:
            own_jobs({name: ("0 12 * * *", "daily_report")})
        assert "HUB_JOBS" in refused.value.message
        assert name in refused.value.message
