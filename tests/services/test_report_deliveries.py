"""What becomes of reports with their targets: told in the run, asked for again where a target is silent."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID, uuid5

import pytest
from feed_rig import Rig, claims
from replay_desk import Clock
from report_desk import TENANT, Bureau, squat
from sqlalchemy import delete, update
from structlog.testing import capture_logs

from hub.core.delivery import row
from hub.services.publisher import Systems
from hub.services.report_deliveries import _NOTICES, REMINDERS, due_after
from hub.services.report_requests import RunRequest, shown
from hub.store.outward_tables import report_runs
from hub.store.runs import Run
from hub.store.tables import events as archived_events
from schemas.cursor import Cursor
from schemas.errors import Problem

OPS = claims(scopes=("ops",))
MEMBER, SAAS = "hotel-member", "hotel-saas"
OUTSTANDING_S = 300
ASKED = RunRequest(report="daily_report", tenant=TENANT)


@pytest.fixture
async def bureau(rig: Rig) -> Bureau:
    """A hub that schedules for one property, described now."""
    clock = Clock()
    clock.now = time.time()
    made = await Bureau(rig, clock).lead()
    await made.describe(rooms=10)
    return made


@pytest.fixture
async def run(bureau: Bureau) -> Run:
    """A report that nobody has confirmed."""
    return await bureau.requests.run(OPS, ASKED)


async def answer(bureau: Bureau, run: Run, system: str, kind: str = "acked") -> None:
    """A target says that it has it, or a row says something else."""
    place = Cursor.decode(run.cursor or "").id
    group = kind in ("handled", "dead_lettered")
    written = row(
        f"{kind} {system}".encode(),
        kind,
        bureau.rig.log.partition(run.tenant_id),
        place,
        place,
        hub="hub",
        first_ms=place.ms + 2000,
        tenant_id=run.tenant_id,
        event_id=run.run_id,
        system=None if group else system,
        name=system if group else "sync",
    )
    await bureau.rig.store.ledger.write([written])


async def look(bureau: Bureau, run: Run, after_s: float) -> Run:
    """The run as it is once so much time has passed since its event."""
    at = Cursor.decode(run.cursor or "").id.ms / 1000 + after_s
    bureau.clock.now = max(bureau.clock.now, at)
    await bureau.scheduler._deliveries.round(bureau.fence)
    found = await bureau.runs.get(run.run_id)
    assert found is not None
    return found


async def test_what_targets_say_is_in_the_run(bureau: Bureau, run: Run) -> None:
    """How far each is; once all have answered it is settled and looked at no more."""
    assert {one["status"] for one in (await look(bureau, run, 1)).deliveries.values()} == {"waiting"}
    await answer(bureau, run, MEMBER, "sent")
    assert (await look(bureau, run, 2)).deliveries[MEMBER]["status"] == "sent"
    await answer(bureau, run, MEMBER)
    found = await look(bureau, run, 10)
    assert found.deliveries[MEMBER]["status"] == "acknowledged"
    assert found.deliveries[MEMBER]["at"] is not None
    assert not found.settled
    await answer(bureau, run, SAAS, "handled")
    found = await look(bureau, run, 20)
    assert found.deliveries[SAAS]["status"] == "handled"
    assert found.settled
    assert await bureau.runs.unsettled(10) == []
    assert await bureau.events("system") == []


async def test_a_silent_target_is_reminded_then_given_up(bureau: Bureau, run: Run) -> None:
    """After once, 6 and 24 times the time that is too long, to it alone; at last everybody hears of it."""
    await answer(bureau, run, SAAS)
    said: list[tuple[float, str, tuple[str, ...]]] = []
    times = [0.5, 1, 1.1, 5.9, 6, 23, 24, 24.5, 25, 26, 100]
    for time_ in times:
        # Each reminder counts from the one before it, which was sent a moment late.
        await look(bureau, run, time_ * OUTSTANDING_S + 1)
        notices = await bureau.events("system")
        said += [(time_, one.action, one.targets) for one in notices[len(said) :]]

    assert said == [
        (1, "notice", (MEMBER,)),
        (6, "notice", (MEMBER,)),
        (24, "notice", (MEMBER,)),
        (25, "alarm", ("hotel-member", "hotel-pms", "hotel-saas")),
    ]
    found = await bureau.runs.get(run.run_id)
    assert found is not None
    assert found.settled
    assert {system: one["status"] for system, one in found.deliveries.items()} == {
        MEMBER: "failed",
        SAAS: "acknowledged",
    }
    assert shown(found, OPS)["deliveries"][MEMBER] == {"status": "failed", "at": None, "reminders": 3}
    first, alarm = (await bureau.events("system"))[0].event, (await bureau.events("system"))[-1].event
    assert first["data"]["topic"] == f"report:{run.run_id}:{MEMBER}"
    assert (first["data"]["severity"], first["causation_id"]) == ("warning", run.run_id)
    assert first["data"]["detail"] == {
        "run_id": run.run_id,
        "event_id": run.run_id,
        "cursor": run.cursor,
        "report": "daily_report",
        "period_start": run.period.start.isoformat(),
        "system": MEMBER,
    }
    assert (alarm["data"]["topic"], alarm["data"]["severity"]) == ("reports", "critical")
    assert f"{MEMBER} did not confirm the daily report of" in alarm["data"]["message"]


async def test_a_target_that_answers_is_reminded_no_more(bureau: Bureau, run: Run) -> None:
    """Also after two reminders."""
    await answer(bureau, run, SAAS)
    await look(bureau, run, OUTSTANDING_S + 1)
    await look(bureau, run, 6 * OUTSTANDING_S + 2)
    await answer(bureau, run, MEMBER)
    found = await look(bureau, run, 25 * OUTSTANDING_S)

    assert found.settled
    assert found.deliveries[MEMBER]["reminders"] == 2
    assert [one.action for one in await bureau.events("system")] == ["notice", "notice"]


async def test_a_target_whose_group_gave_it_up_is_reminded_too(bureau: Bureau, run: Run) -> None:
    """It may be redriven; the notice says where it lies."""
    await answer(bureau, run, SAAS)
    await answer(bureau, run, MEMBER, "dead_lettered")
    found = await look(bureau, run, OUTSTANDING_S + 1)

    assert found.deliveries[MEMBER]["status"] == "failed"
    assert not found.settled
    [notice] = await bureau.events("system")
    assert "see its dead letters" in notice.event["data"]["message"]


async def test_a_target_that_was_given_up_stays_so(bureau: Bureau, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another one, whose consumer group gave the report up late, still has its time."""
    publish, alarms = bureau.announcer.publish, 0

    async def count(tenant_id: str, event: Any) -> Any:
        nonlocal alarms
        alarms += event["action"] == "alarm"
        return await publish(tenant_id, event)

    monkeypatch.setattr(bureau.announcer, "publish", count)
    await answer(bureau, run, SAAS)
    for number, time_ in enumerate((1, 6, 24)):
        await look(bureau, run, time_ * OUTSTANDING_S + 1 + number)
    await answer(bureau, run, SAAS, "dead_lettered")
    for late in (25.1, 25.2, 30.2):
        found = await look(bureau, run, late * OUTSTANDING_S)
        assert found.deliveries[MEMBER]["status"] == "failed"
        assert not found.settled

    assert (found.deliveries[MEMBER]["reminders"], found.deliveries[SAAS]["reminders"]) == (3, 2)
    assert alarms == 1


async def test_after_an_outage_reminders_do_not_come_at_once(bureau: Bureau, run: Run) -> None:
    """However late the first one is, the target has its time until the next."""
    await answer(bureau, run, SAAS)
    for more in (0, 30, 60, 90):
        found = await look(bureau, run, 40 * OUTSTANDING_S + more)

    assert found.deliveries[MEMBER]["reminders"] == 1
    assert not found.settled
    assert len(await bureau.events("system")) == 1


async def test_a_reminder_whose_hub_died_comes_once(bureau: Bureau, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It went out and was not written down: the next hub sends the same one, which the log has already."""
    note = bureau.runs.note_deliveries

    async def dies(*_: Any) -> None:
        raise ConnectionError("gone")

    monkeypatch.setattr(bureau.runs, "note_deliveries", dies)
    with pytest.raises(ConnectionError):
        await look(bureau, run, OUTSTANDING_S + 1)
    monkeypatch.setattr(bureau.runs, "note_deliveries", note)
    await look(bureau, run, OUTSTANDING_S + 1)

    notices = await bureau.events("system")
    assert {one.targets for one in notices} == {(MEMBER,), (SAAS,)}
    assert len(notices) == 2
    assert {UUID(one.event_id).version for one in notices} == {5}


async def test_a_system_that_gets_no_notices_is_given_up_in_time(rig: Rig) -> None:
    """It cannot be reminded: it is no target of notices; the alarm comes all the same."""
    clock = Clock()
    clock.now = time.time()
    bureau = await Bureau(rig, clock, systems=Systems({"owner-app": ("analytics.*",)})).lead()
    await bureau.describe()
    run = await bureau.requests.run(OPS, ASKED)
    await answer(bureau, run, SAAS)
    await answer(bureau, run, MEMBER)
    for number, time_ in enumerate((1, 6, 24, 25)):
        found = await look(bureau, run, time_ * OUTSTANDING_S + 1 + number)

    assert found.settled
    assert found.deliveries["owner-app"]["status"] == "failed"
    assert [one.action for one in await bureau.events("system")] == ["alarm"]


async def test_a_report_that_left_the_history_is_settled(bureau: Bureau, run: Run) -> None:
    """Nothing more will be heard of it."""
    partition = bureau.rig.log.partition(TENANT)
    await bureau.rig.log.source.client.execute_command("XTRIM", bureau.rig.log.keys.events(partition), "MAXLEN", 0)
    async with bureau.rig.store.database.writing() as connection:
        await connection.execute(delete(archived_events))
    found = await look(bureau, run, 40 * OUTSTANDING_S)

    assert found.settled
    assert await bureau.events("system") == []


async def test_the_scheduler_looks_every_half_minute(bureau: Bureau, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its clock, which may be put back."""
    looks = 0

    async def look(_: Any) -> None:
        nonlocal looks
        looks += 1

    monkeypatch.setattr(bureau.scheduler._deliveries, "round", look)
    counts = []
    for seconds in (30, 10, 10, 10, -7200, 0, 30):
        bureau.clock.move(seconds)
        await bureau.round()
        counts.append(looks)
    assert counts == [1, 1, 1, 2, 3, 3, 4]


def test_when_the_next_step_is_due() -> None:
    """The reminders, then giving up."""
    assert [due_after(sent, 1000) for sent in range(len(REMINDERS) + 1)] == [1000, 5000, 18_000, 1000]


async def test_a_notice_whose_id_is_taken_is_sent_all_the_same(bureau: Bureau, run: Run) -> None:
    """A publisher that reckoned the ids of the notices keeps none of them back; each is sent once."""
    await answer(bureau, run, SAAS)
    for which in (f"{MEMBER}/1", f"{MEMBER}/2", f"{MEMBER}/3", f"{MEMBER}/alarm"):
        await squat(bureau.rig, str(uuid5(_NOTICES, f"{run.run_id}/{which}")))
    for number, time_ in enumerate((1, 6, 24, 25, 26)):
        await look(bureau, run, time_ * OUTSTANDING_S + 1 + number)

    assert [one.action for one in await bureau.events("system")] == ["notice", "notice", "notice", "alarm"]


async def test_a_log_that_takes_no_notices_holds_up_nothing_else(
    bureau: Bureau, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other reports are looked at, old runs are removed, and it is told once a round; the next round tries
    again."""
    other = await bureau.requests.run(OPS, ASKED)
    for system in (MEMBER, SAAS):
        await answer(bureau, other, system)
    publish, tried = bureau.announcer.publish, 0
    expired: list[int] = []
    expire = bureau.runs.expire

    async def away(_: str, event: dict[str, Any]) -> Any:
        nonlocal tried
        # A report of the day may be due at this hour, too.
        tried += event["type"] == "system"
        raise Problem("log_unavailable")

    async def note(before_ms: int, fence: Any) -> int:
        expired.append(before_ms)
        return await expire(before_ms, fence)

    monkeypatch.setattr(bureau.announcer, "publish", away)
    monkeypatch.setattr(bureau.runs, "expire", note)
    bureau.clock.move(3601)
    with capture_logs() as logs:
        assert await bureau.scheduler.round(bureau.fence) > 0
    assert [one["reports"] for one in logs if one["event"] == "report_notices_held_up"] == [1]
    assert tried == 1
    assert len(expired) == 1
    found = await bureau.runs.get(other.run_id)
    assert found is not None
    assert found.settled

    monkeypatch.setattr(bureau.announcer, "publish", publish)
    bureau.clock.move(31)
    await bureau.round()
    assert {one.targets for one in await bureau.events("system")} == {(MEMBER,), (SAAS,)}


async def test_a_report_that_cannot_be_looked_at_holds_up_no_other(
    bureau: Bureau, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a reason that nobody knows."""
    other = await bureau.requests.run(OPS, ASKED)
    for system in (MEMBER, SAAS):
        await answer(bureau, other, system)
    async with bureau.rig.store.database.writing() as connection:
        damaged = update(report_runs).where(report_runs.c.run_id == run.run_id)
        await connection.execute(damaged.values(deliveries=f'{{"{MEMBER}": {{}}}}'))
    assert (await look(bureau, other, 1)).settled
