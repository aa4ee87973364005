"""The batch scheduler where hubs die or are superseded over a report, and where something fails: each report once."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from feed_rig import LogServer, Rig
from replay_desk import Clock
from report_desk import TENANT, TOKYO, Bureau, Hung, clock_at, counted, local, reservation

from hub.services.ending import end
from hub.services.leadership import PATIENCE_S, Leadership
from hub.services.scheduler import FIRST_PAUSE_S, LEASE, ODD_ATTEMPTS
from hub.store.database import StoreUnavailable
from hub.store.leases import LeaseLost
from hub.store.runs import Made
from schemas.errors import Problem


@pytest.fixture
async def bureau(rig: Rig) -> Bureau:
    """A hub that schedules for one property in Tokyo, which was described on a Tuesday at noon."""
    made = await Bureau(rig, clock_at("2026-07-14T12:00")).lead()
    await made.describe(rooms=10)
    return made


@pytest.fixture
async def other(log_server: LogServer, bureau: Bureau) -> Any:
    """Another hub on the same log and store, which does not lead yet."""
    rig = await Rig(log_server, bureau.rig.prefix).start()
    yield Bureau(rig, bureau.clock)
    await rig.stop()


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
        await finish(begun, Made("final", begun.run_id, "elsewhere", 99, {}, ()), 0, bureau.fence, marks=True)
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
    await end(work)
    assert times == 3
