"""The batch scheduler: each report when it is due, once and in order, whatever clocks do."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from feed_rig import Rig
from report_desk import LISBON, TENANT, TOKYO, Bureau, clock_at, counted, local, reservation

from hub.core.calendar import due_times
from hub.core.jobs import Job, built_in, firing
from hub.errors import StartError
from hub.services.scheduler import LONGEST_SLEEP_S, own_jobs
from schemas import registry

HALF_PAST = Job("half-past", "30 1 * * *", "daily_report")


@pytest.fixture
async def bureau(rig: Rig) -> Bureau:
    """A hub that schedules for one property in Tokyo, which was described on a Tuesday at noon."""
    made = await Bureau(rig, clock_at("2026-07-14T12:00")).lead()
    await made.describe(rooms=10)
    return made


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
