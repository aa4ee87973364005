"""One report: what it is made of, what becomes of it with its targets, and what people ask for."""

from __future__ import annotations

import time
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from feed_rig import Rig, claims
from replay_desk import Clock
from report_desk import TENANT, Bureau, reservation
from sqlalchemy import delete

from hub.core.calendar import Period, Report
from hub.core.delivery import row
from hub.services.publisher import Systems
from hub.services.report_deliveries import REMINDERS, due_after
from hub.services.report_maker import PATIENCE_S, POLL_S, Behind
from hub.services.report_requests import RunRequest, begun_period, shown
from hub.store.runs import Run, RunFilter
from hub.store.tables import events as archived_events
from schemas.cursor import Cursor
from schemas.errors import Problem

TOKYO = ZoneInfo("Asia/Tokyo")
OPS = claims(scopes=("ops",))
MEMBER, SAAS = "hotel-member", "hotel-saas"
OUTSTANDING_S = 300


@pytest.fixture
async def bureau(rig: Rig) -> Bureau:
    """A hub that schedules for one property, described now."""
    clock = Clock()
    clock.now = time.time()
    made = await Bureau(rig, clock).lead()
    await made.describe(rooms=10)
    return made


def asked(report: Report = "daily_report", day: date | None = None, tenant: str | None = TENANT) -> RunRequest:
    """What somebody posts."""
    return RunRequest(report=report, tenant=tenant, date=day)


def today(bureau: Bureau) -> date:
    """The property's date; its business day turns at 5."""
    return (datetime.fromtimestamp(bureau.clock.now, TOKYO) - timedelta(hours=5)).date()


async def stayed(bureau: Bureau, id: str, day: date, amount: int = 9000) -> None:
    """Publish one night that was slept."""
    checkin, checkout = day.isoformat(), (day + timedelta(days=1)).isoformat()
    told = reservation(id, checkin, checkout, amount, status="checked_out") | {"action": "checked_out"}
    await bureau.publish(told | {"occurred_at": f"{checkout}T10:00:00+09:00"})


class TestAskedFor:
    """`ReportRequests`."""

    async def test_the_last_period_that_is_over_is_reported_by_default(self, bureau: Bureau) -> None:
        """As final, at once, as a run of the job `manual`, by any hub: no lease is asked for."""
        day = today(bureau) - timedelta(days=1)
        await stayed(bureau, "R1", day)
        run = await bureau.requests.run(OPS, asked())

        assert (run.job, run.state, run.stage, run.period) == ("manual", "done", "final", Period(day, day))
        assert run.data is not None
        assert run.data["total_revenue"] == 9000
        [entry] = await bureau.events()
        assert (entry.event_id, entry.event["data"]) == (run.run_id, run.data)
        assert await bureau.requests.get(OPS, run.run_id) == run
        assert bureau.rig.metrics.batch_runs.labels("manual", "done")._value.get() == 1

    async def test_any_period_that_has_begun(self, bureau: Bureau) -> None:
        """By any of its days: the one that is not over is provisional, one long ago is back-dated."""
        now = today(bureau)
        for report, day, start, stage in (
            ("daily_report", now, now, "provisional"),
            ("monthly_report", now.replace(day=28), now.replace(day=1), "provisional"),
            ("weekly_report", date(2024, 2, 29), date(2024, 2, 25), "final"),
            ("monthly_report", date(2024, 2, 29), date(2024, 2, 1), "final"),
        ):
            run = await bureau.requests.run(OPS, RunRequest(report=report, tenant=TENANT, date=day))  # type: ignore[arg-type]
            assert (run.stage, run.period.start) == (stage, start)
            assert run.due_ms == pytest.approx(bureau.clock.now * 1000, abs=10)

    async def test_a_report_that_says_something_else_than_the_final_one_is_a_revision(self, bureau: Bureau) -> None:
        """One that says the same is final again; the first final one after a provisional one is none."""
        day = today(bureau) - timedelta(days=1)
        stages = []
        for number in range(4):
            if number in (1, 3):
                await stayed(bureau, f"R{number}", day)
            stages.append((await bureau.requests.run(OPS, asked(day=day))).stage)

        assert stages == ["final", "revised", "final", "revised"]
        data = (await bureau.events())[-1].event["data"]
        assert data["detailed_data"]["stage"] == "revised"
        assert {"figure": "total_revenue", "before": 9000, "after": 18000} in data["detailed_data"]["changes"]

    @pytest.mark.parametrize(
        ("report", "day", "now", "said"),
        [
            ("daily_report", "2026-07-15", "2026-07-14", "2026-07-15 is in the future; it is 2026-07-14 there"),
            ("weekly_report", "2026-07-19", "2026-07-18", "is in the future"),
            ("monthly_report", "2026-08-01", "2026-07-31", "is in the future"),
            ("monthly_report", "9999-12-31", "2026-07-14", "is in the future"),
            ("daily_report", "1970-12-31", "2026-07-14", "1970-12-31 is before 1971"),
            ("weekly_report", "0001-01-01", "2026-07-14", "is before 1971"),
        ],
    )
    def test_a_period_that_has_not_begun(self, report: Report, day: str, now: str, said: str) -> None:
        """Is refused, as is one before there were reports, naming the field."""
        with pytest.raises(Problem) as refused:
            begun_period(report, date.fromisoformat(day), date.fromisoformat(now))
        assert refused.value.code == "invalid_request"
        assert refused.value.errors[0].path == "date"
        assert said in refused.value.detail

    @pytest.mark.parametrize(
        ("report", "day", "now", "start"),
        [
            ("daily_report", "2026-07-14", "2026-07-14", "2026-07-14"),
            ("weekly_report", "2026-07-18", "2026-07-12", "2026-07-12"),
            ("monthly_report", "2026-07-31", "2026-07-01", "2026-07-01"),
            ("monthly_report", "1971-01-01", "2026-07-14", "1971-01-01"),
        ],
    )
    def test_a_period_that_has_begun(self, report: Report, day: str, now: str, start: str) -> None:
        """On its first day already, by its last one too."""
        period = begun_period(report, date.fromisoformat(day), date.fromisoformat(now))
        assert period.start == date.fromisoformat(start)

    async def test_which_property(self, bureau: Bureau) -> None:
        """The only one of the token, or the one that is named: it must be the token's, and be there."""
        own = claims([TENANT], scopes=("ops",))
        assert (await bureau.requests.run(own, asked(tenant=None))).tenant_id == TENANT
        for token, tenant, code in (
            (OPS, None, "invalid_request"),
            (claims([TENANT, "t-2"], scopes=("ops",)), None, "invalid_request"),
            (own, "t-2", "forbidden"),
            (OPS, "nowhere", "not_found"),
        ):
            with pytest.raises(Problem) as refused:
                await bureau.requests.run(token, asked(tenant=tenant))
            assert refused.value.code == code
        assert len(await bureau.all()) == 1

    async def test_not_while_the_archive_is_behind(self, bureau: Bureau) -> None:
        """It is said so, and may be asked again; the run that was begun has failed."""
        bureau.archives = False
        await bureau.announcer.publish(TENANT, reservation("R1", "2026-07-14", "2026-07-15", 9000))
        with pytest.raises(Problem) as refused:
            await bureau.requests.run(OPS, asked())

        assert refused.value.code == "store_unavailable"
        assert refused.value.retryable
        assert "lacks 1 events" in refused.value.detail
        [run] = await bureau.all()
        assert (run.state, run.settled) == ("failed", True)
        assert await bureau.events() == []

    async def test_a_run_whose_end_is_not_known_is_left_to_the_scheduler(
        self, bureau: Bureau, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may have been emitted: the run stays, and is taken up without a second event."""
        publish = bureau.announcer.publish

        async def broken(tenant_id: str, event: Any) -> Any:
            await publish(tenant_id, event)
            raise Problem("outcome_unknown")

        monkeypatch.setattr(bureau.announcer, "publish", broken)
        with pytest.raises(Problem):
            await bureau.requests.run(OPS, asked())
        [run] = await bureau.all()
        assert run.state == "running"

        bureau.clock.move(121)
        await bureau.round()
        [run] = await bureau.all()
        assert run.state == "done"
        assert len(await bureau.events()) == 1

    async def test_who_may_see_which_reports(self, bureau: Bureau) -> None:
        """Operators all, a target what it may subscribe to, others nothing; and nobody another property's."""
        await bureau.describe("t-2")
        daily = await bureau.requests.run(OPS, asked())
        weekly = await bureau.requests.run(OPS, asked("weekly_report"))
        other = await bureau.requests.run(OPS, asked(tenant="t-2"))
        everything = ("subscribe:*",)

        async def seen(token: Any, **wanted: Any) -> set[str]:
            return {run.run_id for run in (await bureau.requests.listed(token, RunFilter(**wanted), 10, None)).runs}

        assert await seen(OPS) == {daily.run_id, weekly.run_id, other.run_id}
        assert await seen(claims([TENANT], scopes=("ops",), system="hotel-pms")) == {daily.run_id, weekly.run_id}
        assert await seen(claims([TENANT], MEMBER, everything)) == {daily.run_id, weekly.run_id}
        narrow = claims([TENANT], MEMBER, ("subscribe:analytics.weekly_report",))
        assert await seen(narrow) == {weekly.run_id}
        assert await bureau.requests.get(narrow, weekly.run_id) == weekly
        for token in (
            claims([TENANT], "hotel-pms", everything),
            claims([TENANT], MEMBER, ("subscribe:room.*",)),
            claims([TENANT], MEMBER, ("publish:*",)),
        ):
            with pytest.raises(Problem) as refused:
                await seen(token)
            assert refused.value.code == "forbidden"
            with pytest.raises(Problem) as refused:
                await bureau.requests.get(token, daily.run_id)
            assert refused.value.code == "not_found"
        for run_id in (daily.run_id, other.run_id, "none"):
            with pytest.raises(Problem) as refused:
                await bureau.requests.get(narrow, run_id)
            assert refused.value.code == "not_found"
        for wanted in ({"tenants": ["t-2"]}, {"reports": ["daily_report"]}):
            with pytest.raises(Problem) as refused:
                await seen(narrow, **wanted)
            assert refused.value.code == "forbidden"

    async def test_a_system_that_the_deployment_added_may_see_its_reports(self, rig: Rig) -> None:
        """Where HUB_SYSTEMS makes it a target of them."""
        clock = Clock()
        bureau = await Bureau(rig, clock, systems=Systems({"owner-app": ("analytics.daily_report",)})).lead()
        await bureau.describe()
        run = await bureau.requests.run(OPS, asked())
        owner = claims([TENANT], "owner-app", ("subscribe:*",))

        assert set(run.deliveries) == {MEMBER, SAAS, "owner-app"}
        page = await bureau.requests.listed(owner, RunFilter(), 10, None)
        assert [one.run_id for one in page.runs] == [run.run_id]

    async def test_pages(self, bureau: Bureau) -> None:
        """Each run once, newest first; the last page has no next; a made-up place is refused."""
        made = [await bureau.requests.run(OPS, asked()) for _ in range(5)]
        found: list[str] = []
        after = None
        sizes = []
        while True:
            page = await bureau.requests.listed(OPS, RunFilter(), 2, after)
            found += [run.run_id for run in page.runs]
            sizes.append(len(page.runs))
            after = page.next
            if after is None:
                break
        assert found == [run.run_id for run in reversed(made)]
        assert sizes == [2, 2, 1]
        for wrong in ("", "r", "r1-2", "x" * 500):
            with pytest.raises(Problem) as refused:
                await bureau.requests.listed(OPS, RunFilter(), 2, wrong)
            assert refused.value.errors[0].path == "after"

    async def test_what_went_wrong_is_for_operators(self, bureau: Bureau) -> None:
        """A target sees that a run failed, not what the store said."""
        run = await bureau.runs.begin_new((await bureau.requests.run(OPS, asked())).firing, 0, None)
        failed = await bureau.runs.fail(run, "secret", 0, None, marks=False)

        assert shown(failed, OPS)["error"] == "secret"
        assert shown(failed, claims([TENANT], MEMBER, ("subscribe:*",)))["error"] is None
        assert shown(failed, OPS)["event_id"] is None


class TestMaking:
    """`ReportMaker`."""

    async def test_it_waits_for_the_archive(self, bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
        """What comes to the store while it waits is in the report; it looks again every quarter of a second."""
        sleeps: list[float] = []

        async def sleep(seconds: float) -> None:
            sleeps.append(seconds)
            if len(sleeps) == 3:
                await bureau.archive()

        day = today(bureau) - timedelta(days=1)
        told = reservation("R1", day.isoformat(), (day + timedelta(days=1)).isoformat(), 500, status="checked_in")
        await bureau.announcer.publish(TENANT, told | {"action": "checked_in", "occurred_at": f"{day}T15:00:00+09:00"})
        monkeypatch.setattr(bureau.maker, "_sleep", sleep)
        run = await bureau.requests.run(OPS, asked())

        assert run.data is not None
        assert run.data["total_revenue"] == 500
        assert sleeps == [POLL_S] * 3

    async def test_it_waits_no_longer_than_its_patience(self, bureau: Bureau, monkeypatch: pytest.MonkeyPatch) -> None:
        """Then whoever asked is told how far the store is behind."""
        slept = 0.0

        async def sleep(seconds: float) -> None:
            nonlocal slept
            slept += seconds

        await bureau.announcer.publish(TENANT, reservation("R1", "2026-07-14", "2026-07-15", 9000))
        monkeypatch.setattr(bureau.maker, "_sleep", sleep)
        with pytest.raises(Behind, match="lacks 1 events"):
            await bureau.maker.caught_up(TENANT)
        assert slept == PATIENCE_S

    async def test_an_event_that_is_emitted_while_it_reckons_is_not_waited_for(
        self, bureau: Bureau, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the log had when the run began is enough: a busy property is reported, too. The report says up to
        which event it goes."""
        await stayed(bureau, "R1", today(bureau) - timedelta(days=1))
        before = (await bureau.rig.log.heads([TENANT]))[TENANT]
        catch_up = bureau.keeper.catch_up

        async def busy(tenant_id: str) -> Any:
            await bureau.announcer.publish(TENANT, reservation("R2", "2026-07-14", "2026-07-15", 9000))
            return await catch_up(tenant_id)

        monkeypatch.setattr(bureau.keeper, "catch_up", busy)
        run = await bureau.requests.run(OPS, asked())
        assert run.data is not None
        assert run.data["detailed_data"]["as_of"] == bureau.rig.log.cursor(TENANT, before)

    async def test_facts_that_lack_something_make_no_report(
        self, bureau: Bureau, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Although the archive has it."""
        await stayed(bureau, "R1", today(bureau))
        before = await bureau.keeper.catch_up(TENANT)
        await stayed(bureau, "R2", today(bureau))

        async def stuck(_: str) -> Any:
            return before

        monkeypatch.setattr(bureau.keeper, "catch_up", stuck)
        with pytest.raises(Behind, match="the facts lack 1 events"):
            await bureau.maker.caught_up(TENANT)


class TestDeliveries:
    """`ReportDeliveries`."""

    @pytest.fixture
    async def run(self, bureau: Bureau) -> Run:
        """A report that nobody has confirmed."""
        return await bureau.requests.run(OPS, asked())

    @staticmethod
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

    @staticmethod
    async def look(bureau: Bureau, run: Run, after_s: float) -> Run:
        """The run as it is once so much time has passed since its event."""
        at = Cursor.decode(run.cursor or "").id.ms / 1000 + after_s
        bureau.clock.now = max(bureau.clock.now, at)
        await bureau.scheduler._deliveries.round(bureau.fence)
        found = await bureau.runs.get(run.run_id)
        assert found is not None
        return found

    async def test_what_targets_say_is_in_the_run(self, bureau: Bureau, run: Run) -> None:
        """How far each is; once all have answered it is settled and looked at no more."""
        assert {one["status"] for one in (await self.look(bureau, run, 1)).deliveries.values()} == {"waiting"}
        await self.answer(bureau, run, MEMBER, "sent")
        assert (await self.look(bureau, run, 2)).deliveries[MEMBER]["status"] == "sent"
        await self.answer(bureau, run, MEMBER)
        found = await self.look(bureau, run, 10)
        assert found.deliveries[MEMBER]["status"] == "acknowledged"
        assert found.deliveries[MEMBER]["at"] is not None
        assert not found.settled
        await self.answer(bureau, run, SAAS, "handled")
        found = await self.look(bureau, run, 20)
        assert found.deliveries[SAAS]["status"] == "handled"
        assert found.settled
        assert await bureau.runs.unsettled(10) == []
        assert await bureau.events("system") == []

    async def test_a_silent_target_is_reminded_then_given_up(self, bureau: Bureau, run: Run) -> None:
        """After once, 6 and 24 times the time that is too long, to it alone; at last everybody hears of it."""
        await self.answer(bureau, run, SAAS)
        said: list[tuple[float, str, tuple[str, ...]]] = []
        times = [0.5, 1, 1.1, 5.9, 6, 23, 24, 24.5, 25, 26, 100]
        for time_ in times:
            # Each reminder counts from the one before it, which was sent a moment late.
            await self.look(bureau, run, time_ * OUTSTANDING_S + 1)
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

    async def test_a_target_that_answers_is_reminded_no_more(self, bureau: Bureau, run: Run) -> None:
        """Also after two reminders."""
        await self.answer(bureau, run, SAAS)
        await self.look(bureau, run, OUTSTANDING_S + 1)
        await self.look(bureau, run, 6 * OUTSTANDING_S + 2)
        await self.answer(bureau, run, MEMBER)
        found = await self.look(bureau, run, 25 * OUTSTANDING_S)

        assert found.settled
        assert found.deliveries[MEMBER]["reminders"] == 2
        assert [one.action for one in await bureau.events("system")] == ["notice", "notice"]

    async def test_a_target_whose_group_gave_it_up_is_reminded_too(self, bureau: Bureau, run: Run) -> None:
        """It may be redriven; the notice says where it lies."""
        await self.answer(bureau, run, SAAS)
        await self.answer(bureau, run, MEMBER, "dead_lettered")
        found = await self.look(bureau, run, OUTSTANDING_S + 1)

        assert found.deliveries[MEMBER]["status"] == "failed"
        assert not found.settled
        [notice] = await bureau.events("system")
        assert "see its dead letters" in notice.event["data"]["message"]

    async def test_after_an_outage_reminders_do_not_come_at_once(self, bureau: Bureau, run: Run) -> None:
        """However late the first one is, the target has its time until the next."""
        await self.answer(bureau, run, SAAS)
        for more in (0, 30, 60, 90):
            found = await self.look(bureau, run, 40 * OUTSTANDING_S + more)

        assert found.deliveries[MEMBER]["reminders"] == 1
        assert not found.settled
        assert len(await bureau.events("system")) == 1

    async def test_a_reminder_whose_hub_died_comes_once(
        self, bureau: Bureau, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It went out and was not written down: the next hub sends the same one, which the log has already."""
        note = bureau.runs.note_deliveries

        async def dies(*_: Any) -> None:
            raise ConnectionError("gone")

        monkeypatch.setattr(bureau.runs, "note_deliveries", dies)
        with pytest.raises(ConnectionError):
            await self.look(bureau, run, OUTSTANDING_S + 1)
        monkeypatch.setattr(bureau.runs, "note_deliveries", note)
        await self.look(bureau, run, OUTSTANDING_S + 1)

        notices = await bureau.events("system")
        assert {one.targets for one in notices} == {(MEMBER,), (SAAS,)}
        assert len(notices) == 2
        assert {UUID(one.event_id).version for one in notices} == {5}

    async def test_a_system_that_gets_no_notices_is_given_up_in_time(self, rig: Rig) -> None:
        """It cannot be reminded: it is no target of notices; the alarm comes all the same."""
        clock = Clock()
        clock.now = time.time()
        bureau = await Bureau(rig, clock, systems=Systems({"owner-app": ("analytics.*",)})).lead()
        await bureau.describe()
        run = await bureau.requests.run(OPS, asked())
        await self.answer(bureau, run, SAAS)
        await self.answer(bureau, run, MEMBER)
        for number, time_ in enumerate((1, 6, 24, 25)):
            found = await self.look(bureau, run, time_ * OUTSTANDING_S + 1 + number)

        assert found.settled
        assert found.deliveries["owner-app"]["status"] == "failed"
        assert [one.action for one in await bureau.events("system")] == ["alarm"]

    async def test_a_report_that_left_the_history_is_settled(self, bureau: Bureau, run: Run) -> None:
        """Nothing more will be heard of it."""
        partition = bureau.rig.log.partition(TENANT)
        await bureau.rig.log.source.client.execute_command("XTRIM", bureau.rig.log.keys.events(partition), "MAXLEN", 0)
        async with bureau.rig.store.database.writing() as connection:
            await connection.execute(delete(archived_events))
        found = await self.look(bureau, run, 40 * OUTSTANDING_S)

        assert found.settled
        assert await bureau.events("system") == []

    async def test_the_scheduler_looks_every_half_minute(
        self, bureau: Bureau, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
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

    def test_when_the_next_step_is_due(self) -> None:
        """The reminders, then giving up."""
        assert [due_after(sent, 1000) for sent in range(len(REMINDERS) + 1)] == [1000, 5000, 18_000, 1000]
