"""What the hub took and lost with its log's end: the desk sends it again, in its place, and nothing is there twice."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from desk_rig import DEVICE, DeskRig, booked, changed, checked_in, do, event, reservation, result, state
from engine_rig import EngineRig, engine_of
from fake_hub import cursor
from fake_sync_hub import FakeSyncHub, uuids
from real_hub import RealHub, real_hub

from consumers.errors import Disconnected, HubRefused
from consumers.offline.database import LocalDatabase
from consumers.offline.hub_link import Batch
from consumers.offline.items import LocalChange, QueueItem
from consumers.offline.lost import beyond, lacks, of_another, turned
from consumers.offline.rebuild import open_sound
from schemas.sync import ItemResult, PushResponse, SyncRecord
from tests.offline_life.clock import SimulatedClock

FOLIO = {"folio_id": "F1", "amount": 10000, "currency": "JPY", "balance": 10000}
ROOM = {"room_id": "301", "room_number": "301", "room_type": "twin", "status": "vacant_clean"} | {
    "availability_date": "2026-07-15"
}
OLD, NEW = 7, 8
"""Epochs."""


def charge(amount: int, balance: int) -> LocalChange:
    """A charge to a folio that the desk takes to come to this balance by it."""
    said = {"amount": amount, "balance": balance, "currency": "JPY", "category": "food"}
    return LocalChange("Billing", "CREATE", "F1", said, action="charged")


def folio(balance: int, revision: int, **version: int) -> SyncRecord:
    """The hub's state of the folio."""
    data = {"folio_id": "F1", "currency": "JPY", "balance": balance}
    counted = {name.replace("_", "-"): count for name, count in version.items()}
    return state(type="billing", entity="billing:F1", data=data, revision=revision, sequence=revision, version=counted)


def snapshot(local: LocalDatabase, *records: SyncRecord, epoch: int, at: int = 1) -> int:
    """A snapshot of one page; how many items were queued again."""
    local.begin_snapshot(afresh=True)
    again = local.add_snapshot(list(records), None, cursor(at, epoch=epoch))
    local.end_snapshot(cursor(at, epoch=epoch))
    return again


def balance(local: LocalDatabase) -> float:
    """What the desk shows."""
    record = local.record("billing", "billing:F1")
    assert record is not None
    return float(record.data["balance"])


def taken(rig: DeskRig, local: LocalDatabase, *changes: LocalChange, at: int = 2, revision: int = 2) -> list[QueueItem]:
    """Items that the hub was sent and took, in the old epoch, and whose events have not come."""
    do(local, *changes)
    items = local.batch(500, now=rig.clock.now())
    results = [receipt(item, at + n, revision + n, n + 1) for n, item in enumerate(items)]
    local.settle(results, now=rig.clock.now())
    return [item for item in items if item.model != "OperationLog"]


def receipt(
    item: QueueItem, at: int, revision: int, count: int, *, epoch: int = OLD, outcome: str = "applied"
) -> ItemResult:
    version = {"hotel-pms": 1, DEVICE: count}
    return result(item, outcome, cursor=cursor(at, epoch=epoch), revision=revision, version=version)


@pytest.fixture
def folded(local: LocalDatabase) -> LocalDatabase:
    """A desk that knows a folio."""
    snapshot(local, folio(10000, 1, hotel_pms=1), epoch=OLD)
    return local


# -- what is lost -----------------------------------------------------------------------------------------------------


def test_a_history_turns_where_the_epoch_is_another() -> None:
    """Also where nothing was known before; not where a cursor cannot be read."""
    assert turned(cursor(3, epoch=OLD), cursor(2, epoch=NEW))
    assert turned(None, cursor(2, epoch=NEW))
    assert not turned(cursor(3, epoch=OLD), cursor(9, epoch=OLD))
    assert not turned(cursor(3, epoch=OLD), "c4")


def test_a_receipt_tells_where_its_event_lies() -> None:
    """Behind the last event that there is, or in another epoch than the one that is read; without a cursor neither."""
    told = {"cursor": cursor(3, epoch=OLD)}
    assert beyond(told, cursor(2, epoch=OLD))
    assert not beyond(told, cursor(3, epoch=OLD))
    assert of_another(told, cursor(9, epoch=NEW))
    assert not of_another(told, cursor(9, epoch=OLD))
    assert not beyond({}, cursor(2))
    assert not of_another({}, cursor(2))
    assert not beyond(told, None)


def test_a_state_has_an_item_if_it_counts_as_many_of_the_desk() -> None:
    """Whatever others did to the entity since."""
    told = {"version": {"hotel-pms": 4, DEVICE: 2}}
    assert lacks({"hotel-pms": 9, DEVICE: 1}, told, DEVICE)
    assert not lacks({"hotel-pms": 1, DEVICE: 2}, told, DEVICE)


# -- the database -----------------------------------------------------------------------------------------------------


def test_what_another_epoch_lacks_is_queued_again_and_still_shown(rig: DeskRig, folded: LocalDatabase) -> None:
    """Though others' events have its revision by now: they are of the new epoch."""
    (item,) = taken(rig, folded, charge(3000, 13000))
    assert snapshot(folded, folio(12000, 2, hotel_pms=2), epoch=NEW, at=2) > 0
    found = folded.item(item.uuid)
    assert found is not None
    assert (found.status, found.retries, found.laid) == ("queued", 0, True)
    assert balance(folded) == 15000


@pytest.mark.parametrize("outcome", ["applied", "duplicate"])
def test_what_another_epoch_has_is_sent_again_and_not_laid_over_itself(
    rig: DeskRig, folded: LocalDatabase, outcome: str
) -> None:
    """A balance never shows a charge twice: neither before the answer, nor after it, nor when its event comes."""
    (item,) = taken(rig, folded, charge(3000, 13000))
    assert snapshot(folded, folio(13000, 2, hotel_pms=1, desk_1=1), epoch=NEW, at=2) > 0
    assert balance(folded) == 13000
    assert item.uuid in uuids(folded.batch(500, now=rig.clock.now()))
    folded.settle([result(item, "retry")], now=rig.clock.now())
    do(folded, charge(1000, 14000))
    assert balance(folded) == 14000
    snapshot(folded, folio(13000, 2, hotel_pms=1, desk_1=1), epoch=NEW, at=2)
    assert balance(folded) == 14000
    folded.settle([receipt(item, 2, 2, 1, outcome=outcome)], now=rig.clock.now())
    found = folded.item(item.uuid)
    assert found is not None
    assert (found.status, found.laid, balance(folded)) == ("synced", False, 14000)


def test_an_item_that_waits_once_more_is_weighed_by_every_snapshot(rig: DeskRig, folded: LocalDatabase) -> None:
    """Also after the hub had no time for it: its receipt of before still tells which states have it."""
    (item,) = taken(rig, folded, charge(3000, 13000))
    by_change(folded)
    folded.batch(500, now=rig.clock.now())
    folded.settle([result(item, "retry")], now=rig.clock.now())
    assert balance(folded) == 13000
    snapshot(folded, folio(13000, 2, hotel_pms=1, desk_1=1), epoch=NEW, at=6)
    assert balance(folded) == 13000


def test_an_item_that_is_taken_anew_is_shown_once(rig: DeskRig, folded: LocalDatabase) -> None:
    """Though the state was believed to have it: somebody had restored the hub's data."""
    (item,) = taken(rig, folded, charge(3000, 13000))
    snapshot(folded, folio(10000, 2, hotel_pms=1, desk_1=1), epoch=NEW, at=2)
    assert balance(folded) == 10000
    folded.settle([receipt(item, 3, 3, 1, epoch=NEW)], now=rig.clock.now())
    assert balance(folded) == 13000


def test_no_page_of_a_snapshot_has_an_item_laid_over_itself(rig: DeskRig, folded: LocalDatabase) -> None:
    """In the same epoch the revision tells, page by page, not at the snapshot's end alone."""
    taken(rig, folded, charge(3000, 13000))
    folded.begin_snapshot(afresh=True)
    assert folded.add_snapshot([folio(13000, 2, hotel_pms=1, desk_1=1)], "1", cursor(2, epoch=OLD)) == 0
    assert balance(folded) == 13000


def test_a_change_of_another_epoch_tells_it_too(rig: DeskRig, folded: LocalDatabase) -> None:
    """The history went on from where the desk was, without what followed; what came by now is not sent again."""
    here, lost = taken(rig, folded, booked("R1"), booked("R2"), at=3)
    changes = [
        event(reservation("R1"), 1, uuid=here.uuid, cursor=cursor(3, epoch=OLD), version={DEVICE: 1}),
        event(reservation("R9"), 1, cursor=cursor(4, epoch=NEW)),
    ]
    applied = folded.apply_changes(changes, cursor(4, epoch=NEW))
    # With the operation log's.
    assert applied.again == 2
    statuses = [one.status for uuid in (here.uuid, lost.uuid) if (one := folded.item(uuid)) is not None]
    assert statuses == ["synced", "queued"]


def test_what_lies_behind_the_end_is_queued_again(rig: DeskRig, folded: LocalDatabase) -> None:
    """All was pulled and its event did not come; it is said once, not again and again."""
    (item,) = taken(rig, folded, charge(3000, 13000))
    assert folded.unpulled == 2
    assert folded.queue_lost() == 2
    assert (folded.unpulled, folded.queue_lost()) == (0, 0)
    assert item.uuid in uuids(folded.pending())


def test_what_came_to_the_desk_is_not_sent_again(rig: DeskRig, folded: LocalDatabase) -> None:
    """It is archived at the hub, which may have forgotten the item and would do it a second time."""
    (item,) = taken(rig, folded, booked("R1"))
    change = event(reservation("R1"), 1, uuid=item.uuid, cursor=cursor(2, epoch=OLD), version={DEVICE: 1})
    folded.apply_changes([change], cursor(3, epoch=OLD))
    snapshot(folded, state("R1", version={DEVICE: 1}), epoch=NEW, at=2)
    found = folded.item(item.uuid)
    assert found is not None
    assert (found.status, found.laid) == ("synced", False)


def test_its_count_of_its_own_goes_back_with_what_is_lost(rig: DeskRig, folded: LocalDatabase) -> None:
    """An item that is made now is made on what the hub will have when it comes."""
    taken(rig, folded, charge(3000, 13000), charge(1000, 14000))
    snapshot(folded, folio(10000, 1, hotel_pms=1), epoch=NEW)
    record = folded.record("billing", "billing:F1")
    assert record is not None
    assert record.version == {"hotel-pms": 1, DEVICE: 0}
    (made, *_) = do(folded, charge(500, 14500))
    assert made.base_version == {"hotel-pms": 1, DEVICE: 2}


def test_a_crash_after_it_was_noticed_forgets_nothing(rig: DeskRig, folded: LocalDatabase) -> None:
    """It was noticed by the cursor that moved, so it is kept in the transaction that moved it."""
    (item,) = taken(rig, folded, charge(3000, 13000))
    folded.begin_snapshot(afresh=True)
    folded.add_snapshot([folio(12000, 2, hotel_pms=2)], None, cursor(2, epoch=NEW))
    folded.close()
    again = rig.open()
    again.end_snapshot(cursor(2, epoch=NEW))
    assert item.uuid in uuids(again.batch(500, now=rig.clock.now()))
    assert balance(again) == 15000
    again.close()


def test_nothing_is_noticed_where_the_cursor_did_not_move(
    rig: DeskRig, folded: LocalDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off in between, both are as before, and it is noticed the next time."""
    (item,) = taken(rig, folded, charge(3000, 13000))

    def broken(*_: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(folded._notes, "put_meta", broken)
        with pytest.raises(RuntimeError):
            folded.apply_changes([], cursor(5, epoch=NEW))
    assert (folded.item(item.uuid) or item).status == "synced"
    assert folded.apply_changes([], cursor(5, epoch=NEW)).again == 2


def by_snapshot(local: LocalDatabase) -> None:
    snapshot(local, folio(12000, 2, hotel_pms=2), epoch=NEW, at=2)


def by_change(local: LocalDatabase) -> None:
    local.apply_changes([], cursor(5, epoch=NEW))


def by_the_end(local: LocalDatabase) -> None:
    local.queue_lost()


@pytest.mark.parametrize("notice", [by_snapshot, by_change, by_the_end])
def test_the_journal_has_it_among_what_waits(
    rig: DeskRig, folded: LocalDatabase, notice: Callable[[LocalDatabase], None]
) -> None:
    """It had noted that the item is out: a database that cannot be read any more still gives it back."""
    (item,) = taken(rig, folded, charge(3000, 13000))
    notice(folded)
    folded.close()
    rig.path.write_bytes(b"nothing of it can be read" * 1000)
    database, rebuilt = open_sound(
        rig.path, tenant_id="default", system="hotel-pms", device_id=DEVICE, now=rig.clock.now
    )
    assert rebuilt is not None
    assert item.uuid in uuids(database.pending())
    database.close()


def test_a_journal_that_a_crash_left_behind_is_mended(
    rig: DeskRig, folded: LocalDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ended after the transaction and before the journal knew of it."""
    (item,) = taken(rig, folded, charge(3000, 13000))
    with monkeypatch.context() as patch:
        patch.setattr(folded._file, "shorten", lambda *_, **__: None)
        snapshot(folded, folio(12000, 2, hotel_pms=2), epoch=NEW, at=2)
    folded.close()
    rig.open().close()
    rig.path.write_bytes(b"nothing of it can be read" * 1000)
    database, _ = open_sound(rig.path, tenant_id="default", system="hotel-pms", device_id=DEVICE, now=rig.clock.now)
    assert item.uuid in uuids(database.pending())
    database.close()


# -- the engine -------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> FakeSyncHub:
    return FakeSyncHub()


@pytest.fixture
async def synced(rig: DeskRig, hub: FakeSyncHub) -> AsyncIterator[EngineRig]:
    """A desk that has begun, beside a hub with a folio."""
    hub.happen("Billing", "F1", FOLIO)
    async with engine_of(rig, hub) as one:
        yield one


async def answered(one: EngineRig, hub: FakeSyncHub, *changes: LocalChange) -> list[QueueItem]:
    """Items that were answered, before the line broke and their events could be pulled."""
    items = await one.do(*changes)
    pull = hub.pull

    async def broken(*_: Any) -> Any:
        raise Disconnected("gone")

    hub.pull = broken  # type: ignore[method-assign]
    assert (await one.sync()).state == "interrupted"
    hub.pull = pull  # type: ignore[method-assign]
    return items


async def shown(one: EngineRig) -> float:
    return await one.call(balance)


@pytest.mark.parametrize("gap", [True, False])
@pytest.mark.parametrize("others", [True, False])
async def test_lost_items_are_there_again_after_one_sync(
    synced: EngineRig, hub: FakeSyncHub, *, gap: bool, others: bool
) -> None:
    """Told by a gap, by an event of others or by nothing but the history's end: each is taken once more, and once."""
    items = await answered(synced, hub, charge(3000, 13000), booked("R1"))
    hub.fail_over(lost=3, gap=gap)
    if others:
        hub.happen("RoomStatus", "301", {"room_id": "301", "status": "vacant_clean"})
    outcome = await synced.sync()
    assert outcome.synced
    assert sorted(change.uuid for change in hub.changes if change.uuid in uuids(items)) == sorted(uuids(items))
    assert await synced.call(lambda database: database.counts().unconfirmed) == 0
    assert (await shown(synced), hub.states["billing", "billing:F1"]["data"]["balance"]) == (13000, 13000)
    pushes = len(hub.pushes)
    await synced.sync()
    assert len(hub.pushes) == pushes


async def test_a_loss_between_answer_and_pull_is_made_good_in_that_sync(synced: EngineRig, hub: FakeSyncHub) -> None:
    """Nobody has to wait for the next one."""
    (item, *_) = await synced.do(charge(3000, 13000))
    push = hub.push

    async def last(batch: Batch) -> PushResponse:
        answer = await push(batch)
        hub.push = push  # type: ignore[method-assign]
        hub.fail_over(lost=2)
        return answer

    hub.push = last  # type: ignore[method-assign]
    assert (await synced.sync()).synced
    assert [change.uuid for change in hub.changes].count(item.uuid) == 1
    assert await shown(synced) == 13000


@pytest.mark.parametrize("gap", [True, False])
async def test_items_that_were_not_lost_are_not_there_twice(synced: EngineRig, hub: FakeSyncHub, *, gap: bool) -> None:
    """Another epoch, and nothing gone."""
    (item, *_) = await answered(synced, hub, charge(3000, 13000))
    hub.fail_over(gap=gap)
    assert (await synced.sync()).synced
    assert [change.uuid for change in hub.changes].count(item.uuid) == 1
    assert await shown(synced) == 13000
    assert await synced.call(lambda database: database.counts().unconfirmed) == 0


async def test_what_was_done_after_it_does_not_go_before_it(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The desk goes on before it hears of the loss: the hub still takes the operations in their order."""
    before = await answered(synced, hub, booked("R1"), checked_in("R1"))
    hub.fail_over(lost=3, gap=False)
    after = await synced.do(changed("R1", adults=3))
    assert (await synced.sync()).synced
    own = [change.uuid for change in hub.changes if change.entity == "reservation:R1"]
    assert own == uuids([*before, *after])


async def test_what_waits_goes_out_though_nothing_can_be_pulled(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The look for lost items is tried, not insisted on."""
    await answered(synced, hub, charge(3000, 13000))
    (item, *_) = await synced.do(booked("R2"))
    hub.problems = [HubRefused("not_settled", "later", retryable=True)]
    await synced.sync()
    assert item.uuid in hub.results


async def test_the_hub_is_not_told_that_lost_items_knew_what_came_since(synced: EngineRig, hub: FakeSyncHub) -> None:
    """They were made on less than the desk has pulled by now."""
    await answered(synced, hub, checked_in("R1"))
    hub.fail_over(lost=2)
    hub.happen("CheckIn", "R2", {"room_number": "301", "payment_status": "pending"})
    hub.batches.clear()
    await synced.sync()
    assert [batch.cursor for batch in hub.batches] == [None]
    await synced.do(booked("R3"))
    await synced.sync()
    assert hub.batches[-1].cursor is not None


async def test_a_desk_that_is_started_anew_sends_what_was_lost(rig: DeskRig, hub: FakeSyncHub) -> None:
    """The loss is noticed, the push is not answered, the desk ends."""
    hub.happen("Billing", "F1", FOLIO)
    async with engine_of(rig, hub) as one:
        (item, *_) = await answered(one, hub, charge(3000, 13000))
        hub.fail_over(lost=2)
        hub.problems = [None, None, None, Disconnected("gone")]
        assert (await one.sync()).state == "interrupted"
    assert item.uuid not in hub.results
    async with engine_of(rig, hub) as one:
        assert one.outcomes[0].synced
        assert item.uuid in hub.results
        assert await shown(one) == 13000


async def test_a_hub_that_contradicts_itself_is_not_asked_without_end(synced: EngineRig, hub: FakeSyncHub) -> None:
    """It calls an item a duplicate, and has no event of it: one try a sync."""
    (item, *_) = await answered(synced, hub, charge(3000, 13000))
    kept = dict(hub.results)
    hub.fail_over(lost=2, gap=False)
    hub.results = kept
    before = len(hub.pushes)
    await synced.sync()
    assert len(hub.pushes) - before <= 2
    assert await shown(synced) == 13000
    assert (await synced.status(item))[0] == "queued"


# -- a real hub -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def whole(rig: DeskRig, tmp_path: Path) -> AsyncIterator[tuple[EngineRig, RealHub]]:
    """A desk that has begun, beside a real hub with a folio and a reservation."""
    directory = tmp_path / "hub"
    directory.mkdir()
    async with real_hub(directory, SimulatedClock(datetime(2026, 7, 15, 1, 0, tzinfo=UTC)), DEVICE) as hub:
        await hub.happen("billing", "charged", FOLIO | {"charge_id": "C0"})
        await hub.happen("reservation", "created", reservation("R0"))
        async with engine_of(rig, hub) as one:  # type: ignore[arg-type]
            assert one.outcomes[0].state == "done"
            yield one, hub


async def before_pulling(one: EngineRig, hub: RealHub, *changes: LocalChange) -> list[QueueItem]:
    """Items that the hub took, and has not archived."""
    items = await one.do(*changes)
    pull = hub.pull

    async def broken(*_: Any) -> Any:
        raise Disconnected("gone")

    hub.pull = broken  # type: ignore[method-assign]
    assert (await one.sync()).outcomes == {"applied": len(items) + 1}
    hub.pull = pull  # type: ignore[method-assign]
    return items


@pytest.mark.server
@pytest.mark.parametrize("others", [True, False])
async def test_a_real_log_that_lost_its_end_gets_it_back(whole: tuple[EngineRig, RealHub], *, others: bool) -> None:
    """Each operation is one event again, in its order, and the folio comes to what was moved on it."""
    one, hub = whole
    replica = await hub.replica()
    items = await before_pulling(
        one, hub, charge(3000, 13000), changed("R0", adults=2), checked_in("R0"), charge(500, 13500)
    )
    await hub.fail_over(replica)
    if others:
        await hub.happen("billing", "charged", FOLIO | {"charge_id": "C1", "amount": 200, "balance": 10200})
    assert (await one.sync()).synced
    entries = [entry for entry in await hub.events() if entry.event_id in uuids(items)]
    for entity in ("billing:F1", "reservation:R0"):
        own = [item.uuid for item in items if item.entity == entity]
        assert [entry.event_id for entry in entries if entry.entity == entity] == own
    expected = 13700 if others else 13500
    assert (await shown(one), (await hub.state("billing", "billing:F1"))["balance"]) == (expected, expected)
    assert await one.call(lambda database: database.counts().unconfirmed) == 0


@pytest.mark.server
async def test_a_real_log_that_lost_nothing_has_nothing_twice(whole: tuple[EngineRig, RealHub]) -> None:
    """Another epoch alone: what is sent again is a duplicate, and the balance stays."""
    one, hub = whole
    (item, *_) = await before_pulling(one, hub, charge(3000, 13000))
    await hub.fail_over()
    await hub.happen("reservation", "updated", reservation("R0", adults=3))
    assert (await one.sync()).synced
    assert len(await hub.events(item.uuid)) == 1
    assert (await shown(one), (await hub.state("billing", "billing:F1"))["balance"]) == (13000, 13000)


@pytest.mark.server
async def test_an_item_made_after_the_loss_is_decided_by_what_there_is(whole: tuple[EngineRig, RealHub]) -> None:
    """The desk had counted more of itself than the hub has: nothing waits for a person or for ever, and the last word
    of the desk stands."""
    one, hub = whole
    replica = await hub.replica()
    await before_pulling(one, hub, changed("R0", adults=2), changed("R0", adults=3))
    await hub.fail_over(replica)
    await one.do(changed("R0", adults=4))
    await hub.happen("reservation", "updated", {**reservation("R0"), "special_requests": "高層階"})
    assert (await one.sync()).synced
    await one.do(changed("R0", children=1))
    assert (await one.sync()).synced
    assert set(hub.outcomes) <= {"applied", "resolved"}
    held = await hub.state("reservation", "reservation:R0")
    assert (held["adults"], held["children"], held["special_requests"]) == (4, 1, "高層階")
    record = await one.call(lambda database: database.record("reservation", "reservation:R0"))
    assert record is not None
    assert (record.version, record.pending) == ({"hotel-pms": 2, DEVICE: 4}, 0)


@pytest.mark.server
async def test_a_real_hub_that_lost_what_it_had_archived_does_not_take_it_twice(
    whole: tuple[EngineRig, RealHub],
) -> None:
    """The replica had less than the archive: what the desk pulled stays, and is not sent again."""
    one, hub = whole
    replica = await hub.replica()
    (item, *_) = await one.do(charge(3000, 13000))
    assert (await one.sync()).synced
    pushes = len(hub.pushes)
    await hub.fail_over(replica)
    await hub.happen("room", "status_changed", ROOM)
    await one.sync()
    assert len(hub.pushes) == pushes
    assert (await one.status(item), await shown(one)) == (("synced", 0), 13000)
