"""What the hub notes of devices, when it writes that, and who may see and ask them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from feed_rig import Rig, claims, until
from replay_desk import T0, Clock

from hub.services import devices as module
from hub.services.announcer import Announcer
from hub.services.devices import EVERY_S, SUMMED_MS, DeviceDesk
from hub.services.publisher import Publisher, Systems
from hub.store.database import StoreUnavailable
from hub.store.sync_devices import SyncDevices
from schemas.cursor import ZERO
from schemas.errors import Problem
from schemas.sync import ComparisonReport

TENANT = "t-1"
OPS = claims(scopes=("ops",))
PMS = claims([TENANT], "hotel-pms", ("sync",))


class Desk:
    """A desk by a clock that the test moves, and what it wrote."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.clock = Clock()
        self.devices = SyncDevices(rig.store.database)
        self.writes: list[tuple[int, int]] = []
        self.away = False
        note = self.devices.note

        async def counted(sights: Any, syncs: Any = (), comparisons: Any = ()) -> None:
            if self.away:
                raise StoreUnavailable("away")
            self.writes.append((len(list(sights)), len(list(syncs))))
            await note(sights, syncs, comparisons)

        self.devices.note = counted  # type: ignore[method-assign]
        announcer = Announcer(Publisher(rig.history, Systems(), rig.metrics), rig.history)
        self.desk = DeviceDesk(
            self.devices, rig.history, announcer, keep_days=30, wall=self.clock.wall, sleep=self.clock.sleep
        )

    def pull(self, items: int = 1, sequence: int = 1, device: str = "desk-1", more: bool = False) -> None:
        self.desk.pulled(
            TENANT,
            device,
            "hotel-pms",
            items=items,
            cursor=f"c{sequence}",
            sequence=sequence,
            more=more,
            duration_ms=2,
        )

    async def push(self, items: int = 1, device: str = "desk-1", system: str = "hotel-pms", **told: Any) -> bool:
        given: dict[str, Any] = {"device_sequence": 1, "backlog": 0, "clock_skew_ms": 0} | told
        outcomes = {"applied": items} if items else {}
        return await self.desk.pushed(
            told.pop("tenant", TENANT), device, system, items=items, outcomes=outcomes, duration_ms=5, **given
        )

    async def written(self) -> None:
        """Some seconds later, what the writer does then."""
        self.clock.now += EVERY_S
        await self.desk.write()

    async def row(self, device: str = "desk-1") -> Any:
        return await self.devices.get(TENANT, device)

    async def history(self, device: str = "desk-1") -> list[tuple[str, int]]:
        return [(one.kind, one.items) for one in await self.devices.history(TENANT, device, 99)]


@pytest.fixture
async def desk(rig: Rig) -> AsyncIterator[Desk]:
    """A desk whose notes are written when the test says so."""
    made = Desk(rig)
    yield made
    await made.desk.stop()


async def test_pulls_are_written_together(desk: Desk) -> None:
    """A hundred of some devices are one write some seconds later, and one row each in the history."""
    for number in range(100):
        desk.pull(sequence=number, device=f"desk-{number % 4}")
    assert desk.writes == []

    await desk.written()
    assert desk.writes == [(4, 4)]
    row = await desk.row("desk-3")
    assert (row.cursor, row.sequence, row.pulled_ms) == ("c99", 99, T0)
    assert await desk.history("desk-3") == [("pull", 25)]


async def test_a_quiet_device_costs_one_write_in_some_seconds(desk: Desk) -> None:
    """And no row in the history: it pulled nothing."""
    for _ in range(3):
        for _ in range(50):
            desk.pull(items=0)
        await desk.written()

    assert desk.writes == [(1, 0)] * 3
    assert await desk.history() == []
    assert (await desk.row()).last_seen_ms == T0 + int(2 * EVERY_S * 1000)


async def test_pulls_become_one_row_a_minute(desk: Desk) -> None:
    """The first at once, what follows when its minute is over; a device is seen all the while."""
    for _ in range(SUMMED_MS // int(EVERY_S * 1000) + 1):
        desk.pull()
        await desk.written()

    assert await desk.history() == [("pull", 12), ("pull", 1)]
    assert len(desk.writes) == 13


async def test_what_is_noted_is_written_at_the_end(desk: Desk) -> None:
    """Sums of pulls too."""
    desk.pull()
    await desk.written()
    desk.pull(items=3, sequence=9)
    await desk.desk.stop()

    assert (await desk.row()).sequence == 9
    assert await desk.history() == [("pull", 3), ("pull", 1)]


async def test_a_store_that_is_away_loses_nothing(desk: Desk) -> None:
    """What was noted before and meanwhile is written when it is back, the later over the earlier."""
    desk.away = True
    for items, sequence in ((2, 2), (3, 5)):
        desk.pull(items=items, sequence=sequence)
        with pytest.raises(StoreUnavailable):
            await desk.written()
    desk.away = False
    await desk.written()

    assert desk.writes == [(1, 1)]
    assert (await desk.row()).sequence == 5
    assert await desk.history() == [("pull", 5)]


async def test_a_write_that_fails_does_not_overwrite_what_came_meanwhile(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull that is noted while the one before is being written stays the last."""

    async def failing(*_: Any) -> None:
        desk.pull(items=1, sequence=8)
        raise StoreUnavailable("away")

    desk.pull(items=1, sequence=3)
    with monkeypatch.context() as patch:
        patch.setattr(desk.devices, "note", failing)
        with pytest.raises(StoreUnavailable):
            await desk.desk.write()
    await desk.desk.write()
    assert (await desk.row()).sequence == 8
    assert await desk.history() == [("pull", 2)]


async def test_what_is_remembered_is_bounded(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more devices than that, those not heard of for longest are forgotten."""
    monkeypatch.setattr(module, "MAX_NOTED", 3)
    for number in range(5):
        desk.pull(device=f"desk-{number}")
    await desk.written()

    assert desk.writes == [(3, 3)]
    assert await desk.row("desk-1") is None
    assert await desk.row("desk-2") is not None


async def test_a_push_is_written_at_once(desk: Desk) -> None:
    """With its row in the history; one without items only shows the device."""
    assert not await desk.push(items=3, device_sequence=17, backlog=2, clock_skew_ms=-40)
    row = await desk.row()
    assert (row.device_sequence, row.backlog, row.clock_skew_ms, row.pushed_ms) == (17, 2, -40, T0)
    [sync] = await desk.devices.history(TENANT, "desk-1", 9)
    assert (sync.kind, sync.items, sync.outcomes, sync.duration_ms) == ("push", 3, {"applied": 3}, 5)

    await desk.push(items=0, device_sequence=None, backlog=0)
    assert desk.writes == [(1, 1)]
    await desk.written()
    assert (await desk.row()).backlog == 0
    assert await desk.history() == [("push", 3)]


async def test_half_a_snapshot_is_no_place(desk: Desk) -> None:
    """The last page is: only then a device that begins anew holds what there was."""
    for more in (True, False):
        desk.desk.pulled(
            TENANT,
            "desk-1",
            "hotel-pms",
            items=500,
            cursor="c9",
            sequence=9,
            more=more,
            duration_ms=1,
            kind="snapshot",
        )
        await desk.written()
        assert (await desk.row()).sequence == (None if more else 9)


async def test_a_comparison_is_kept(desk: Desk) -> None:
    """With the device, and with what differed."""
    report = {"device_id": "desk-1", "cursor": "c4", "root": "a" * 64, "count": 12, "equal": False}
    report |= {"differing": ["room room:1"], "repaired": 1}
    await desk.desk.compared(TENANT, "hotel-pms", ComparisonReport.model_validate(report))

    found = await desk.desk.get(OPS, "desk-1", TENANT)
    assert (found["compared_equal"], found["warnings"], found["state"]) == (False, ["unequal"], "never")
    [comparison] = found["comparisons"]
    assert (comparison["differing"], comparison["repaired"], comparison["count"]) == (["room room:1"], 1, 12)
    [sync] = found["history"]
    assert (sync["kind"], sync["outcomes"]) == ("compare", {"differing": 1, "repaired": 1})


async def test_old_history_goes(desk: Desk) -> None:
    """After as many days as are kept, looked at once an hour."""
    await desk.push()
    desk.clock.now += 31 * 86_400
    desk.pull()
    desk.desk.start()
    await until(lambda: desk.clock.asleep, "the writer to wait")
    pruned: list[int] = []
    prune = desk.devices.prune

    async def counted(before_ms: int) -> int:
        pruned.append(await prune(before_ms))
        return pruned[-1]

    desk.devices.prune = counted  # type: ignore[method-assign]
    desk.clock.move(EVERY_S)
    await until(lambda: pruned, "the old to go")
    assert pruned == [1]
    assert [kind for kind, _ in await desk.history()] == ["pull"]


async def test_whose_a_device_is(desk: Desk) -> None:
    """Who pushes for it; nobody's as long as it only reads."""
    assert await desk.desk.system_of(TENANT, "desk-1") is None
    desk.pull()
    await desk.written()
    assert await desk.desk.system_of(TENANT, "desk-1") is None
    await desk.push(system="hotel-saas")
    assert await desk.desk.system_of(TENANT, "desk-1") == "hotel-saas"
    assert await desk.desk.system_of("t-2", "desk-1") is None


async def test_a_device_hears_that_it_is_asked_until_it_pulled(desk: Desk) -> None:
    """With each push; also before its pull is written."""
    await desk.push()
    asked = await desk.desk.ask(OPS, "desk-1", None)
    assert asked == {"tenant_id": TENANT, "devices": 1, "requested": ["desk-1"], "notified": True}
    assert await desk.push()
    assert (await desk.desk.get(OPS, "desk-1", None))["sync_requested_at"] == "2026-07-15T01:04:01.000Z"

    desk.clock.now += 1
    desk.pull(more=True)
    assert await desk.push()
    desk.pull()
    assert not await desk.push()
    await desk.written()
    assert (await desk.row()).requested_ms is None


async def test_asking_is_an_event_for_the_devices_system(desk: Desk) -> None:
    """Which every hub turns into a notice on the device's connections; `*` is one event for all of a tenant."""
    await desk.push(device="desk-1")
    await desk.push(device="desk-2")
    await desk.push(device="tablet", system="hotel-saas")
    assert (await desk.desk.ask(PMS, "desk-2", None))["requested"] == ["desk-2"]
    assert (await desk.desk.ask(PMS, "*", None))["requested"] == ["desk-1", "desk-2"]
    assert (await desk.desk.ask(OPS, "*", TENANT))["requested"] == ["desk-1", "desk-2", "tablet"]
    assert (await desk.desk.ask(OPS, "*", "t-2"))["devices"] == 0

    partition = desk.rig.log.partition(TENANT)
    entries = [entry for entry in await desk.rig.log.read(partition, ZERO, 99) if entry.tenant_id == TENANT]
    assert [(entry.type, entry.action, entry.entity) for entry in entries] == [
        ("system", "notice", "system:device:desk-2"),
        ("system", "notice", "system:device:*"),
        ("system", "notice", "system:device:*"),
    ]
    details = [entry.event["data"]["detail"] for entry in entries]
    assert details[0] == {"code": "sync_requested", "device_id": "desk-2", "system": "hotel-pms"}
    assert [detail["system"] for detail in details] == ["hotel-pms", "hotel-pms", None]
    assert set(entries[0].targets) == {"hotel-pms"}


async def test_what_cannot_be_told_is_remembered(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """And said to be told later."""

    async def refused(*_: Any, **__: Any) -> None:
        raise Problem("log_unavailable")

    await desk.push()
    monkeypatch.setattr(Announcer, "announce", refused)
    assert (await desk.desk.ask(OPS, "desk-1", None))["notified"] is False
    assert await desk.push()
    await desk.desk.wake(TENANT, "desk-1", "a test")

    async def away(*_: Any, **__: Any) -> list[str]:
        raise StoreUnavailable("away")

    monkeypatch.setattr(desk.devices, "request", away)
    await desk.desk.wake(TENANT, "desk-1", "a test")


async def test_who_sees_which_devices(desk: Desk) -> None:
    """A token with `sync` those of its system, or its own device; one with `ops` all; each only of its tenants."""
    for tenant, device, system in (
        (TENANT, "desk-1", "hotel-pms"),
        (TENANT, "desk-2", "hotel-pms"),
        (TENANT, "tablet", "hotel-saas"),
        ("t-2", "desk-1", "hotel-pms"),
    ):
        await desk.desk.pushed(
            tenant,
            device,
            system,
            items=1,
            outcomes={},
            device_sequence=1,
            backlog=None,
            clock_skew_ms=None,
            duration_ms=1,
        )
    bound = claims([TENANT], "hotel-pms", ("sync",), device_id="desk-2")

    async def listed(token: Any, **wanted: Any) -> list[str]:
        page = await desk.desk.listed(token, wanted.get("tenants"), wanted.get("system"), 99, None)
        return [f"{one['tenant_id']} {one['device_id']}" for one in page.devices]

    assert await listed(OPS) == ["t-1 desk-1", "t-1 desk-2", "t-1 tablet", "t-2 desk-1"]
    assert await listed(OPS, system="hotel-saas") == ["t-1 tablet"]
    assert await listed(OPS, tenants=["t-2"]) == ["t-2 desk-1"]
    assert await listed(PMS) == ["t-1 desk-1", "t-1 desk-2"]
    assert await listed(bound) == ["t-1 desk-2"]
    assert (await desk.desk.get(PMS, "desk-1", None))["tenant_id"] == TENANT
    assert (await desk.desk.get(OPS, "desk-1", "t-2"))["tenant_id"] == "t-2"

    for attempt, code in (
        (desk.desk.listed(PMS, ["t-2"], None, 9, None), "forbidden"),
        (desk.desk.listed(PMS, None, "hotel-saas", 9, None), "forbidden"),
        (desk.desk.listed(claims([TENANT], "hotel-pms"), None, None, 9, None), "forbidden"),
        (desk.desk.listed(OPS, None, None, 9, "elsewhere"), "invalid_request"),
        (desk.desk.get(OPS, "desk-1", None), "invalid_request"),
        (desk.desk.get(PMS, "tablet", None), "not_found"),
        (desk.desk.get(PMS, "desk-1", "t-2"), "not_found"),
        (desk.desk.get(bound, "desk-1", None), "not_found"),
        (desk.desk.ask(bound, "desk-1", None), "not_found"),
        (desk.desk.ask(bound, "*", None), "forbidden"),
        (desk.desk.ask(OPS, "*", None), "invalid_request"),
        (desk.desk.ask(PMS, "*", "t-2"), "forbidden"),
        (desk.desk.ask(PMS, "nobody", None), "not_found"),
    ):
        with pytest.raises(Problem) as refused:
            await attempt
        assert refused.value.code == code, refused.value


async def test_a_page_of_devices_says_where_the_next_begins(desk: Desk) -> None:
    """Whatever stands in their names."""
    names = sorted(["a", "b/c", 'd"%', "e"])
    for name in names:
        await desk.push(device=name)
    seen: list[str] = []
    after = None
    while True:
        page = await desk.desk.listed(OPS, None, None, 1, after)
        seen += [one["device_id"] for one in page.devices]
        if (after := page.next) is None:
            break
    assert seen == names


async def test_how_far_behind_a_device_is(desk: Desk) -> None:
    """By the events of its tenant that it has not pulled."""
    desk.pull(sequence=1)
    await desk.written()
    await desk.desk.ask(OPS, "desk-1", None)
    await desk.desk.ask(OPS, "desk-1", None)
    assert (await desk.desk.get(OPS, "desk-1", None))["behind"] == 1


async def test_the_writer_goes_on_whatever_happens(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wakes when something is noted; a round that fails is logged, and what it had is written by the next."""
    wrote = desk.desk.write
    fails: list[BaseException] = [RuntimeError("oops"), StoreUnavailable("away")]

    async def failing(**_: Any) -> None:
        if fails:
            raise fails.pop()
        await wrote()

    monkeypatch.setattr(desk.desk, "write", failing)
    desk.desk.start()
    desk.pull()
    for left in (1, 0):
        await until(lambda: desk.clock.asleep, "the writer to wait")
        assert desk.writes == []
        desk.clock.move(EVERY_S)
        await until(lambda left=left: len(fails) == left, "the round to fail")
        await until(lambda: desk.clock.asleep, "the writer to wait again")
    desk.clock.move(EVERY_S)
    await until(lambda: desk.writes, "the round")
    monkeypatch.undo()
    assert desk.writes == [(1, 1)]
