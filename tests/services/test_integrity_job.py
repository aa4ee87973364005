"""Daily comparisons and weekly statistics: when they are due, what they find, and that it is told once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson
import pytest
from feed_rig import Rig, claims
from replay_desk import Clock
from report_desk import TENANT, Bureau, reservation
from sqlalchemy import text

from hub.core.anomalies import Figure, anomalies
from hub.core.calendar import opens_ms, period_of
from hub.core.entry import Entry
from hub.core.integrity import MAX_TOLD
from hub.log.tenants import Tenant
from hub.services.ending import end
from hub.services.integrity import AGAIN_S, ATTEMPTS, LEASE, IntegrityJob
from hub.services.integrity_checks import Examination, IntegrityChecks, Progress
from hub.services.integrity_requests import IntegrityRequests
from hub.store.archive import Batch, Place
from hub.store.integrity import Integrity, IntegrityRun
from hub.store.leases import Fence, LeaseLost
from hub.store.sync_devices import Sight
from schemas.cursor import ZERO, StreamId
from schemas.errors import Problem

TOKYO = ZoneInfo("Asia/Tokyo")
OPS, SYNC = claims(scopes=("ops",)), claims(["t-1"], "hotel-pms", ("sync",))


class Guard:
    """A hub that compares one property's data. Days pass when the test says so."""

    def __init__(self, bureau: Bureau) -> None:
        self.bureau = bureau
        self.rig = bureau.rig
        self.clock = bureau.clock
        self.integrity = Integrity(self.rig.store.database)
        self.checks = IntegrityChecks(self.rig.store, bureau.maker, sleep=lambda _: asyncio.sleep(0))
        self.job = self.another()
        self.fence = Fence(LEASE, 0)

    def another(self, checks: Any = None) -> IntegrityJob:
        """A job over the same store, as after a restart."""
        return IntegrityJob(
            self.rig.store,
            self.bureau.tenants,
            checks or self.checks,
            self.bureau.announcer,
            self.rig.metrics,
            wall=self.clock.wall,
            sleep=self.clock.sleep,
        )

    async def lead(self) -> Guard:
        """Hold the lease."""
        leases = self.rig.store.leases
        held = await leases.take(LEASE, f"hub-{id(self)}", await leases.look(LEASE))
        assert held is not None
        self.fence = Fence(LEASE, held.fence)
        return self

    async def settle(self) -> None:
        """Archive and project all that was published."""
        await self.bureau.archive()
        while await self.rig.projector.round():
            pass

    async def morning(self, days: int = 1) -> None:
        """Look again at six in the morning, so many days later."""
        await self.settle()
        now = datetime.fromtimestamp(self.clock.now, TOKYO)
        then = (now + timedelta(days=days)).replace(hour=6, minute=0)
        self.clock.now = then.timestamp()
        await self.job.round(self.fence)

    async def runs(self, kind: Any = "daily") -> list[IntegrityRun]:
        """The runs there are, newest first."""
        return await self.integrity.listed(kind, 100)

    async def told(self) -> list[tuple[str, str, str]]:
        """What was told: action, topic, words."""
        entries = await self.bureau.events("system")
        return [(one.action, one.event["data"]["topic"], one.event["data"]["message"]) for one in entries]

    async def change(self, sql: str, **values: Any) -> None:
        """What somebody does to the store behind the hub's back."""
        async with self.rig.store.database.writing() as connection:
            assert (await connection.execute(text(sql), values)).rowcount

    def counted(self, kind: str, outcome: str) -> float:
        """How many runs came to that."""
        return float(self.rig.metrics.integrity_runs.labels(kind, outcome)._value.get())


@pytest.fixture
async def guard(rig: Rig) -> Guard:
    """A property with two reservations, whose states are there. It is noon, two days after the present day."""
    clock = Clock()
    now = datetime.fromtimestamp(time.time(), TOKYO) + timedelta(days=2)
    clock.now = now.replace(hour=12, minute=0).timestamp()
    bureau = Bureau(rig, clock)
    await bureau.tenants.put({"tenant_id": TENANT, "rooms": 10})
    made = await Guard(bureau).lead()
    for id in ("R1", "R2"):
        await bureau.publish(reservation(id, "2026-07-14", "2026-07-16", 24000))
    await made.settle()
    return made


class TestDaily:
    """The comparison."""

    async def test_a_property_whose_data_are_whole(self, guard: Guard) -> None:
        """Everything is looked at, kept as a run of the day that is over, and nobody is told."""
        await guard.morning()
        [run] = await guard.runs()
        day = datetime.fromtimestamp(guard.clock.now, TOKYO).date() - timedelta(days=1)
        assert (run.tenant_id, run.day, run.ok) == (TENANT, day, True)
        assert run.made_ms == int(guard.clock.now * 1000)
        assert run.body["chain"] == {"events": 2, "broken": None}
        states = {name: run.body["states"][name] for name in ("compared", "differing", "left_out", "events")}
        assert states == {"compared": 2, "differing": 0, "left_out": 0, "events": 2}
        assert run.body["counts"]["states"] == {"reservation": 2}
        assert run.body["findings"] == []
        assert await guard.told() == []
        assert guard.counted("daily", "ok") == 1

    async def test_once_a_day_whichever_hub(self, guard: Guard) -> None:
        """A round later, after a restart, and on a hub that lost the lease: nothing more; the next day, another one."""
        await guard.morning()
        await guard.job.round(guard.fence)
        await guard.another().round(guard.fence)
        assert len(await guard.runs()) == 1

        await guard.morning()
        assert len(await guard.runs()) == 2
        guard.clock.now += 86_400
        with pytest.raises(LeaseLost):
            await guard.job.round(Fence(LEASE, guard.fence.number + 1))
        assert len(await guard.runs()) == 2

    async def test_a_state_that_somebody_changed(self, guard: Guard) -> None:
        """The run says which, an alarm goes out once; again the next day while it lasts, and not when it is mended."""
        await guard.change("UPDATE entities SET data = :data WHERE entity = 'reservation:R1'", data=b'{"a":1}')
        await guard.morning()
        [run] = await guard.runs()
        assert not run.ok
        assert [one["what"] for one in run.body["findings"]] == ["states"]
        [(action, topic, words)] = await guard.told()
        assert (action, topic) == ("alarm", "integrity")
        assert "1 states are not what their events say: reservation reservation:R1" in words
        assert guard.counted("daily", "unequal") == 1

        await guard.morning()
        assert len(await guard.told()) == 2
        # What the hub itself publishes is compared too.
        assert (await guard.runs())[0].body["states"]["compared"] == 3

    async def test_what_was_told_before_a_crash_is_not_told_again(
        self, guard: Guard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The hub died between the alarm and the run: the next one keeps the run."""
        await guard.change("UPDATE entities SET revision = 7 WHERE entity = 'reservation:R1'")

        async def dies(*_: Any) -> None:
            raise LeaseLost(LEASE)

        with monkeypatch.context() as patch:
            patch.setattr(Integrity, "put", dies)
            with pytest.raises(LeaseLost):
                await guard.morning()
        assert len(await guard.told()) == 1
        assert await guard.runs() == []

        await guard.another().round(guard.fence)
        assert len(await guard.told()) == 1
        assert len(await guard.runs()) == 1

    async def test_a_history_that_somebody_changed(self, guard: Guard) -> None:
        """The first time the whole chain is checked, later the part since the last time, which hangs on the rest."""
        await guard.morning()
        await guard.bureau.publish(reservation("R3", "2026-07-14", "2026-07-16", 24000))
        await guard.morning()
        assert (await guard.runs())[0].body["chain"]["events"] <= 3

        await guard.change("UPDATE events SET body = replace(body, 'twin', 'suite') WHERE entity = 'reservation:R3'")
        await guard.change("DELETE FROM integrity_runs")
        await guard.morning()
        run = (await guard.runs())[0]
        assert [one["what"] for one in run.body["findings"]] == ["chain", "states"]
        assert "was changed" in run.body["chain"]["broken"]

    async def test_a_projection_that_does_not_get_on_is_told(
        self, guard: Guard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After some patience."""
        monkeypatch.setattr("hub.core.integrity.MAX_BEHIND", 1)
        await guard.change("UPDATE projections SET position = 0, id_ms = 0")
        await guard.change("DELETE FROM entities")
        progress = Progress()
        seen = await guard.checks.daily(guard.bureau.tenants.get(TENANT), date(2026, 7, 1), 0, progress)
        assert seen.body["behind"] == 2
        assert [one.what for one in seen.findings] == ["projection"]
        assert not seen.ok

    async def test_devices_are_told_of_once(self, guard: Guard) -> None:
        """By what it is and since when: not day by day."""
        now = int(guard.clock.now * 1000)
        seen = Sight(TENANT, "desk-1", "hotel-pms", now, pulled_ms=now, compared_ms=now, compared_equal=False)
        await guard.rig.store.sync_devices.note([seen])
        await guard.morning()
        await guard.morning()
        first, second = (await guard.runs())[::-1]
        assert first.body["devices"]["unequal"] == second.body["devices"]["unequal"] == ["desk-1"]
        assert (first.ok, second.ok) == (False, False)
        [(action, topic, words)] = await guard.told()
        assert (action, topic) == ("notice", "device:desk-1")
        assert words.startswith("device desk-1 held other data than the hub when it compared last, at ")

        later = int(guard.clock.now * 1000)
        await guard.rig.store.sync_devices.note([replace(seen, at_ms=later, compared_ms=later)])
        await guard.morning()
        assert len(await guard.told()) == 2

    async def test_many_devices_at_once_are_told_of_in_one(self, guard: Guard) -> None:
        """Twenty by name, the rest as a number."""
        now = int(guard.clock.now * 1000)
        sights = [
            Sight(TENANT, f"desk-{at:02d}", "hotel-pms", now, pulled_ms=now, compared_ms=now, compared_equal=False)
            for at in range(MAX_TOLD + 5)
        ]
        await guard.rig.store.sync_devices.note(sights)
        await guard.morning()
        told = await guard.told()
        assert len(told) == MAX_TOLD + 1
        assert told[-1][2].startswith("25 devices")

    async def test_a_property_without_events_has_nothing_to_compare(self, guard: Guard) -> None:
        """Nor has one that came since the day was over."""
        await guard.bureau.tenants.put({"tenant_id": "t-9"})
        guard.clock.now = time.time()
        await guard.job.round(guard.fence)
        assert await guard.runs() == []


class TestHeldUp:
    """What cannot be made now."""

    async def test_it_is_tried_again_and_kept_as_failed_in_the_end(self, guard: Guard) -> None:
        """Other tenants' runs are made; a failure is said to be one."""

        class Odd(IntegrityChecks):
            async def daily(self, tenant: Tenant, *more: Any) -> Examination:
                if tenant.tenant_id == TENANT:
                    raise ValueError("odd")
                return await super().daily(tenant, *more)

        await guard.bureau.publish(reservation("R1", "2026-07-14", "2026-07-16", 1), "t-5")
        guard.job = guard.another(Odd(guard.rig.store, guard.bureau.maker, sleep=lambda _: asyncio.sleep(0)))
        await guard.morning()
        assert [run.tenant_id for run in await guard.runs()] == ["t-5"]
        for _ in range(ATTEMPTS - 1):
            await guard.job.round(guard.fence)
            guard.clock.now += AGAIN_S
            await guard.job.round(guard.fence)
        failed = next(run for run in await guard.runs() if run.tenant_id == TENANT)
        assert not failed.ok
        assert failed.body["findings"] == [{"what": "failed", "words": "it could not be made: ValueError('odd')"}]
        assert guard.counted("daily", "failed") == 1

    async def test_a_notice_that_cannot_go_out_holds_the_run_up(
        self, guard: Guard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is kept when it was told; one that never will be told does not hold it up."""
        await guard.change("UPDATE entities SET revision = 7 WHERE entity = 'reservation:R1'")
        problem = Problem("log_unavailable", "away")

        async def refuses(*_: Any, **__: Any) -> Any:
            raise problem

        with monkeypatch.context() as patch:
            patch.setattr(guard.bureau.announcer, "announce", refuses)
            await guard.morning()
            assert await guard.runs() == []
            problem = Problem("invalid_event", "no")
            guard.clock.now += AGAIN_S
            await guard.job.round(guard.fence)
        assert [run.ok for run in await guard.runs()] == [False]

    async def test_metrics_are_another_hubs_when_the_work_ends(self, guard: Guard) -> None:
        """What waits is told while this hub looks, and not any more when it does not."""
        now = int(guard.clock.now * 1000)
        await guard.rig.store.sync_devices.note([Sight(TENANT, "a", "hotel-pms", now, pushed_ms=now, backlog=7)])
        working = asyncio.create_task(guard.job.work(guard.fence))
        metrics = guard.rig.metrics
        async with asyncio.timeout(20):
            while not guard.clock.asleep:  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        assert metrics.sync_devices.labels("online")._value.get() == 1
        assert metrics.sync_backlog._value.get() == 7

        await end(working)
        assert metrics.sync_backlog._value.get() == 0
        assert metrics.sync_devices.labels("online")._value.get() == 0


class TestWeekly:
    """Statistics."""

    async def test_a_week_that_is_not_like_the_others(self, guard: Guard) -> None:
        """Figures of events and of facts, of nine weeks; what is out of the ordinary is told once."""
        rig, name = guard.rig, "t-2"
        tenant = Tenant(tenant_id=name, rooms=10)
        week = period_of("weekly_report", date(2026, 7, 8))
        entries: list[Entry] = []
        for back in range(8, -1, -1):
            opened = opens_ms(week.start - timedelta(days=7 * back), TOKYO, 5)
            for at in range(40 if back else 3):
                entries.append(_stayed(name, len(entries) + 1, opened + at * 3_600_000 * 4))
        await rig.store.archive.write([Batch(0, Place(0, ZERO), entries, 7, entries[-1].id)])

        seen = await guard.checks.weekly(tenant, week)
        assert seen.body["weeks"] == 8
        assert seen.body["figures"]["events"] == 3
        assert seen.body["figures"]["events of reservation"] == 3
        assert seen.body["figures"]["lateness of synced items, median"] is None
        unusual = {one["figure"] for one in seen.body["anomalies"]}
        assert unusual == {"events", "events of reservation", "room revenue", "occupancy"}
        assert not seen.ok

        early = await guard.checks.weekly(tenant, period_of("weekly_report", date(2026, 6, 1)))
        assert early.body["weeks"] == 3
        assert early.ok
        assert "4 weeks" in early.body["note"]

    async def test_it_is_made_when_the_week_is_over_and_told_once(self, guard: Guard) -> None:
        """As a notice to the tenant's systems."""
        week = {"events": Figure("count", 900)}
        found = anomalies(week, [{"events": Figure("count", 100)}] * 5)

        class Unusual(IntegrityChecks):
            async def weekly(self, *_: Any) -> Examination:
                return Examination({"anomalies": [{"figure": "events", "words": found[0].words}]}, (), tuple(found))

        checks = Unusual(guard.rig.store, guard.bureau.maker, sleep=lambda _: asyncio.sleep(0))
        guard.job = guard.another(checks)
        await guard.morning(8)
        await guard.job.round(guard.fence)
        [run] = await guard.runs("weekly")
        assert run.day == period_of("weekly_report", datetime.fromtimestamp(guard.clock.now, TOKYO).date()).before.start
        assert not run.ok
        assert run.day.weekday() == 6
        [(action, topic, words)] = await guard.told()
        assert (action, topic) == ("notice", "integrity-weekly")
        assert words == f"out of the ordinary last week: {found[0].words}"
        assert guard.counted("weekly", "unusual") == 1

    async def test_without_trouble_nobody_is_told(self, guard: Guard) -> None:
        """A new property has nothing to compare with, which its run says."""
        await guard.morning(8)
        [run] = await guard.runs("weekly")
        assert run.ok
        assert "4 weeks are needed" in run.body["note"]
        assert await guard.told() == []


class TestAskedFor:
    """What operators ask."""

    def requests(self, guard: Guard, patience_s: float = 20.0) -> IntegrityRequests:
        """Over the guard's job."""
        return IntegrityRequests(
            guard.rig.store, guard.bureau.tenants, guard.job, wall=guard.clock.wall, patience_s=patience_s
        )

    async def test_a_comparison_now(self, guard: Guard) -> None:
        """Of the day that it is, at any hour; the day's own comparison comes all the same."""
        requests = self.requests(guard)
        run, progress = await requests.run(OPS, TENANT)
        assert run is not None
        assert (run.ok, progress.compared.states) == (True, 2)
        today = datetime.fromtimestamp(guard.clock.now, TOKYO).date()
        assert run.day == today

        await guard.morning()
        [again] = await guard.runs()
        assert again.day == today
        assert again.made_ms > run.made_ms

    async def test_who_waits_too_short_joins_later(self, guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
        """It goes on, once, and its result is there for who asks again."""
        going = asyncio.Event()
        compare: Callable[..., Any] = guard.checks.daily
        calls = 0

        async def slow(*arguments: Any) -> Examination:
            nonlocal calls
            calls += 1
            await going.wait()
            found: Examination = await compare(*arguments)
            return found

        monkeypatch.setattr(guard.checks, "daily", slow)
        requests = self.requests(guard, patience_s=0.01)
        assert (await requests.run(OPS, TENANT))[0] is None
        going.set()
        async with asyncio.timeout(20):
            # Asking waits a little itself.
            while (run := (await requests.run(OPS, TENANT))[0]) is None:
                pass
        assert run.ok
        assert calls == 1
        await requests.stop()

    async def test_who_may(self, guard: Guard) -> None:
        """Operators compare; who syncs sees runs of the token's tenants, and the devices of its own system."""
        requests = self.requests(guard)
        now = int(guard.clock.now * 1000)
        sights = [
            Sight(TENANT, "desk-1", "hotel-pms", now, pulled_ms=now),
            Sight(TENANT, "desk-2", "hotel-saas", now, pulled_ms=now, compared_ms=now, compared_equal=False),
        ]
        await guard.rig.store.sync_devices.note(sights)
        await guard.morning()

        everything = await requests.listed(OPS, None, None, 10)
        assert [one["device_id"] for one in everything["devices"]] == ["desk-2", "desk-1"]
        assert everything["devices"][0]["warnings"] == ["unequal"]
        assert len(everything["daily"]) == 1
        own = await requests.listed(SYNC, TENANT, "weekly", 10)
        assert ([one["device_id"] for one in own["devices"]], own["daily"]) == (["desk-1"], [])
        for act in (
            requests.run(SYNC, TENANT),
            requests.listed(SYNC, "t-9", None, 10),
            requests.listed(claims(), None, None, 10),
        ):
            with pytest.raises(Problem, match=r"lacks|hold"):
                await act
        with pytest.raises(Problem, match="no tenant"):
            await requests.run(OPS, "t-404")
        with pytest.raises(Problem, match="name one"):
            await requests.run(OPS, None)


def _stayed(tenant: str, number: int, at: int) -> Entry:
    """A night that was slept, as it was recorded at a moment (Unix ms)."""
    day = datetime.fromtimestamp(at / 1000, TOKYO).date()
    data = {
        "reservation_id": f"R{number}",
        "room_type": "twin",
        "checkin_date": (day - timedelta(days=1)).isoformat(),
        "checkout_date": day.isoformat(),
        "total_amount": 9000,
        "status": "checked_out",
        "origin": "phone",
    }
    entity, key = f"reservation:R{number}", str(UUID(int=number))
    envelope = {
        "event_id": key,
        "schema_version": 1,
        "tenant_id": tenant,
        "type": "reservation",
        "action": "checked_out",
        "targets": ["hotel-pms"],
        "occurred_at": datetime.fromtimestamp(at / 1000, UTC).isoformat(),
        "entity": entity,
        "data": data,
        "revision": 1,
    }
    raw = orjson.dumps(envelope)
    id = StreamId(at, 0)
    return Entry(id, 7, tenant, number, 1, "reservation", "checked_out", entity, key, at, raw)
