"""Events that come late: the final reports that they change are revised, once."""

from __future__ import annotations

import asyncio
import time
from datetime import date, datetime, timedelta
from typing import Any

import pytest
from feed_rig import Rig
from replay_desk import Clock
from report_desk import TENANT, TOKYO, Bureau, Hung, reservation

from hub.core import said
from hub.log.stream_log import Head
from hub.store.runs import Run
from schemas.cursor import StreamId


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


async def test_late_days_without_a_final_report_wait_for_none(past: Bureau) -> None:
    """Where nothing was reported as final there is nothing to revise: what comes has it."""
    before = len(await past.events())
    await past.publish(stay("R1", datetime.now(TOKYO).date() - timedelta(days=200)))
    past.clock.move(61)
    await past.round()

    assert await past.rig.store.facts.late(TENANT) == []
    assert len(await past.events()) == before


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


@pytest.mark.parametrize("after_the_report", [True, False])
async def test_a_clock_of_the_logs_that_is_behind(
    rig: Rig, after_the_report: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes after the final report, by a clock by which the day is not over, is in a revised one; what came before
    it revises nothing."""
    monkeypatch.setattr(said, "CLOCK_MS", 86_400_000)
    now = datetime.now(TOKYO)
    clock = Clock()
    clock.now = time.time()
    bureau = await Bureau(rig, clock).lead()
    await bureau.describe(rooms=10)
    data = {"folio_id": "F1", "reservation_id": "R1", "amount": 500, "category": "food"}
    charged = {"type": "billing", "action": "charged", "occurred_at": now.isoformat(), "data": data}
    if not after_the_report:
        await bureau.publish(charged)
    # The business day that it is by the log's clock is over by the hub's.
    day = (now - timedelta(hours=5)).date()
    clock.now = datetime(day.year, day.month, day.day, 5, 0, 1, tzinfo=TOKYO).timestamp() + 86_400
    await bureau.round()
    if after_the_report:
        await bureau.publish(charged)
    for _ in range(2):
        clock.move(61)
        await bureau.round()

    days = [run.period.start for run in await revised(bureau) if run.report == "daily_report"]
    assert days == ([day] if after_the_report else [])
    assert await rig.store.facts.late(TENANT) == []


async def test_a_number_that_is_given_again_is_something_new(past: Bureau) -> None:
    """After a failover: it was looked at only up to another event of this number."""
    await past.publish(stay("R1", (await reported(past, 3)).period.start))
    [(_, head)] = [one for one in await past.tenants.listed() if one[0].tenant_id == TENANT]
    assert head is not None
    past.scheduler._looked[TENANT] = Head(head.sequence, StreamId(head.id.ms - 1, 0))
    past.clock.move(61)
    await past.round()
    assert await revised(past)
