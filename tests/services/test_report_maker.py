"""One report: what it is made of, and what people ask for."""

from __future__ import annotations

import time
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from feed_rig import Rig, claims
from replay_desk import Clock
from report_desk import TENANT, Bureau, reservation, squat

from hub.core import jobs
from hub.core.calendar import Period, Report
from hub.log.stream_log import Head
from hub.services.fact_keeper import FactKeeper
from hub.services.publisher import Systems
from hub.services.report_maker import PATIENCE_S, POLL_S, Behind
from hub.services.report_requests import RunRequest, begun_period, shown
from hub.store.database import StoreUnavailable
from hub.store.runs import RunFilter
from schemas.cursor import StreamId
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

    async def test_a_number_that_is_given_again_is_not_enough(
        self, bureau: Bureau, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After a failover the log's last event may have the number of one that was archived and lost: it is waited
        for."""
        await stayed(bureau, "R1", today(bureau))
        head = (await bureau.rig.log.heads([TENANT]))[TENANT]
        lost = Head(head.sequence, StreamId(head.id.ms - 1, 0))
        archived, sleeps = bureau.rig.history.archived_heads, 0

        async def heads(tenants: Any) -> dict[str, Head]:
            return {TENANT: lost} if sleeps < 2 else await archived(tenants)

        async def sleep(_: float) -> None:
            nonlocal sleeps
            sleeps += 1

        monkeypatch.setattr(bureau.rig.history, "archived_heads", heads)
        monkeypatch.setattr(bureau.maker, "_sleep", sleep)
        assert (await bureau.maker.caught_up(TENANT)).id == head.id
        assert sleeps == 2

        async def stuck(_: str) -> Any:
            return lost

        monkeypatch.setattr(bureau.keeper, "catch_up", stuck)
        with pytest.raises(Behind, match="the facts lack events"):
            await bureau.maker.caught_up(TENANT)

    async def test_facts_that_are_made_anew_meanwhile_make_no_report(
        self, bureau: Bureau, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another hub has heard of a new calendar first, and dies over it: what is left is not reported. Asked again,
        the report is as it would have been."""
        day = today(bureau) - timedelta(days=1)
        await stayed(bureau, "R1", day)
        theirs = FactKeeper(bureau.rig.store, lambda _: ("Asia/Tokyo", 6))
        figures = bureau.rig.store.facts.figures

        async def dies(*_: Any) -> None:
            raise StoreUnavailable("gone")

        async def removed(*args: Any, **more: Any) -> Any:
            with monkeypatch.context() as there:
                there.setattr(bureau.rig.store.facts, "write", dies)
                with pytest.raises(StoreUnavailable):
                    await theirs.catch_up(TENANT)
            return await figures(*args, **more)

        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(bureau.rig.store.facts, "figures", removed)
            with pytest.raises(Problem) as refused:
                await bureau.requests.run(OPS, asked(day=day))
        assert refused.value.retryable
        assert await bureau.events() == []

        run = await bureau.requests.run(OPS, asked(day=day))
        assert run.data is not None
        assert run.data["total_revenue"] == 9000


REPORT = {
    "type": "analytics",
    "action": "daily_report",
    "data": {
        "report_type": "daily_report",
        "period_start": "2026-07-14",
        "period_end": "2026-07-14",
        "total_revenue": 1,
        "occupancy_rate": 0.5,
        "customer_count": 1,
        "average_stay_duration": 1,
        "generated_by_system": "hub",
        "generated_at": "2026-07-14T23:00:00+09:00",
    },
}
"""Somebody's who says that it is the hub's."""


class TestTakenIds:
    """Run ids can be reckoned by whoever knows a tenant's jobs."""

    @pytest.mark.parametrize("event", [{}, REPORT], ids=["another-event", "a-made-up-report"])
    @pytest.mark.parametrize("when", ["before", "meanwhile"])
    async def test_the_report_is_made_all_the_same(
        self, bureau: Bureau, event: dict[str, Any], when: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Under another id, which the run tells; what others published is not taken for it."""
        day = today(bureau) - timedelta(days=1)
        await stayed(bureau, "R1", day)
        now_ms = int(bureau.clock.now * 1000)
        taken = jobs.Firing(TENANT, "manual", now_ms, "daily_report", Period(day, day), "final").run_id
        if when == "before":
            await squat(bureau.rig, taken, event)
        else:
            compute = bureau.maker._compute

            async def meanwhile(*args: Any) -> Any:
                data = await compute(*args)
                await squat(bureau.rig, taken, event)
                return data

            monkeypatch.setattr(bureau.maker, "_compute", meanwhile)
        run = await bureau.requests.run(OPS, asked(day=day))

        assert run.run_id == taken
        assert run.event_id not in (None, taken)
        assert run.data is not None
        assert run.data["total_revenue"] == 9000
        assert shown(run, OPS)["event_id"] == run.event_id
        [entry] = [one for one in await bureau.events() if one.source == "hub"]
        assert (entry.event_id, entry.cursor, entry.event["data"]) == (run.event_id, run.cursor, run.data)

        await bureau.archive()
        await bureau.scheduler._deliveries.round(bureau.fence)
        found = await bureau.runs.get(run.run_id)
        assert found is not None
        assert (found.settled, set(found.deliveries)) == (False, {MEMBER, SAAS})

    async def test_a_run_that_is_taken_up_finds_its_event(
        self, bureau: Bureau, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Although it has another id than the run: there is no second one."""
        now_ms = int(bureau.clock.now * 1000)
        day = today(bureau) - timedelta(days=1)
        taken = jobs.Firing(TENANT, "manual", now_ms, "daily_report", Period(day, day), "final").run_id
        await squat(bureau.rig, taken, REPORT)

        async def dies(*_: Any, **__: Any) -> None:
            raise StoreUnavailable("gone")

        with monkeypatch.context() as dying:
            dying.setattr(bureau.runs, "finish", dies)
            with pytest.raises(StoreUnavailable):
                await bureau.requests.run(OPS, asked())
        bureau.clock.move(121)
        await bureau.round()

        [run] = await bureau.all()
        [entry] = [one for one in await bureau.events() if one.source == "hub"]
        assert (run.run_id, run.state, run.event_id) == (taken, "done", entry.event_id)
