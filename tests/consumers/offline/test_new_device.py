"""Two desks with one device id: one of them gets another, and nothing that it did is lost or taken twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from desk_rig import DEVICE, DeskClock, DeskRig, booked, changed, checked_in, do, event, reservation, result, wrong
from engine_rig import engine_of
from real_hub import RealHub, real_hub

from consumers.offline.database import LocalDatabase
from consumers.offline.errors import LocalUnusable, OtherDesk
from consumers.offline.items import QueueItem
from consumers.offline.journal import journal_path, read_journal
from consumers.offline.local_file import LocalFile
from consumers.offline.rebuild import rebuild
from tests.offline_life.clock import SimulatedClock

NEW = "desk-2"


def refuse(rig: DeskRig, local: LocalDatabase) -> None:
    """The hub has other items of these numbers."""
    said = wrong("device_sequence", f"7 of {DEVICE} was another: does another device use this device_id?")
    items = local.batch(500, now=rig.clock.now())
    local.settle([result(item, "rejected", errors=said) for item in items], now=rig.clock.now())
    local.release()


def work(items: list[QueueItem]) -> list[tuple[str, str, Any]]:
    """What they do, without what the operation log says."""
    return [(one.model, one.entity, one.payload) for one in items if one.model != "OperationLog"]


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[RealHub]:
    """A hub with a reservation, as the desks' first id is known there."""
    directory = tmp_path / "hub"
    directory.mkdir()
    async with real_hub(directory, SimulatedClock(datetime(2026, 7, 15, 1, 0, tzinfo=UTC)), DEVICE) as hub:
        await hub.happen("reservation", "created", reservation())
        yield hub


@pytest.mark.server
async def test_two_desks_of_one_id_part(tmp_path: Path, hub: RealHub) -> None:
    """What the hub refused goes out by the new id, each once; that it did not know of the other desk's work is seen."""
    one, other = DeskRig(tmp_path / "one.db"), DeskRig(tmp_path / "other.db", DeskClock(first=1))
    async with engine_of(one, hub) as first, engine_of(other, hub) as second:  # type: ignore[arg-type]
        await first.do(changed(adults=3))
        await second.do(changed(children=1))
        await second.do(changed(adults=4))
        assert (await first.sync()).synced
        assert (await second.sync()).counts.failed
    with_id = other.open()
    assert with_id.new_device_id(NEW, operator="佐藤") == 3
    with_id.close()
    hub.outcomes.clear()
    theirs = RealHub(hub.side, NEW)
    async with engine_of(other, theirs) as second:  # type: ignore[arg-type]
        assert (await second.sync()).synced
    assert theirs.outcomes.count("resolved") == 2
    assert set(theirs.outcomes) == {"applied", "resolved"}
    made = [entry for entry in await hub.events() if entry.type == "reservation"]
    assert [entry.event["data"].get("adults") for entry in made[1:]] == [3, 3, 4]
    assert (await hub.state("reservation", "reservation:R1"))["children"] == 1


def test_the_queue_is_kept_and_what_was_refused_for_its_device_is_sent(rig: DeskRig, local: LocalDatabase) -> None:
    """In its order, as new items of the new device; the old ones stay, discarded. It is in the log."""
    do(local, booked(), checked_in())
    do(local, changed(adults=1))
    refuse(rig, local)
    before = local.pending()
    assert local.record("reservation", "reservation:R1") is None
    assert local.new_device_id(NEW, operator="佐藤", role="manager") == len(before)

    *after, log = local.pending()
    assert work(after) == work(before)
    assert {item.status for item in after} == {"queued"}
    assert {(item.device_id, item.errors) for item in after} == {(NEW, ())}
    assert {item.uuid for item in after}.isdisjoint(item.uuid for item in before)
    assert min(item.device_sequence for item in after) > max(item.device_sequence for item in before)
    assert {local.item(item.uuid).status for item in before} == {"discarded"}  # type: ignore[union-attr]
    record = local.record("reservation", "reservation:R1")
    assert record is not None
    assert record.data == reservation(adults=1)
    assert (log.model, log.payload["device_id"]) == ("OperationLog", NEW)
    entry = local.operation_log()[0]
    assert (entry.operation, entry.operator, entry.role) == ("new_device_id", "佐藤", "manager")
    assert [item.uuid for item in local.batch(500, now=rig.clock.now())][:1] == [after[0].uuid]


def test_what_was_made_on_own_items_is_made_on_the_new_devices(rig: DeskRig, local: LocalDatabase) -> None:
    """The old id's count is what was really seen of it; the items before it count under the new one."""
    local.apply_changes([event(reservation(), 3, version={"hotel-pms": 1, DEVICE: 2})], "c1")
    do(local, changed(adults=1))
    do(local, changed(adults=2))
    assert [item.base_version[DEVICE] for item in local.pending() if item.model == "Reservation"] == [2, 3]
    local.new_device_id(NEW, operator="佐藤")
    bases = [item.base_version for item in local.pending() if item.model == "Reservation"]
    assert bases == [{"hotel-pms": 1, DEVICE: 2}, {"hotel-pms": 1, DEVICE: 2, NEW: 1}]


def test_what_a_person_decides_and_what_failed_otherwise_stays(rig: DeskRig, local: LocalDatabase) -> None:
    """The hub knows the one; the other is not sent again before somebody says so."""
    do(local, booked("R1"))
    do(local, booked("R2"))
    (first, second) = [item for item in local.batch(4, now=rig.clock.now()) if item.model == "Reservation"]
    answers = [result(first, "conflict", conflict_id="c-1"), result(second, "rejected", errors=wrong("payload", "no"))]
    local.settle(answers, now=rig.clock.now())
    local.release()
    local.new_device_id(NEW, operator="佐藤")

    [waits] = local.conflicts()
    assert (waits.uuid, waits.device_id) == (first.uuid, DEVICE)
    [failed] = local.failed()
    assert (failed.entity, failed.last_error, failed.device_id) == ("reservation:R2", "payload: no", NEW)
    assert local.resend(failed.uuid, operator="佐藤").status == "queued"


def test_cut_off_before_the_end_nothing_is_changed(
    rig: DeskRig, local: LocalDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the queue nor whose it is."""
    do(local, booked())
    refuse(rig, local)
    before = local.pending()

    def fail() -> str:
        raise RuntimeError("cut off")

    monkeypatch.setattr(rig.clock, "uuid", fail)
    local.close()
    broken = rig.open()
    with pytest.raises(RuntimeError, match="cut off"):
        broken.new_device_id(NEW, operator="佐藤")
    assert (broken.device_id, broken.pending()) == (DEVICE, before)
    broken.close()
    again = rig.open(device_id=None)
    assert (again.device_id, again.pending()) == (DEVICE, before)
    again.close()


def test_cut_off_after_it_the_desk_is_known_by_both_ids(
    rig: DeskRig, local: LocalDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opens it may not have heard of the new one; the journal that was not written anew is, and keeps all."""
    do(local, booked())
    refuse(rig, local)
    monkeypatch.setattr(LocalFile, "shorten", lambda *given, **named: None)
    local.new_device_id(NEW, operator="佐藤")
    pending = local.pending()
    local.close()
    monkeypatch.undo()

    again = rig.open(device_id=DEVICE)
    assert (again.device_id, again.pending()) == (NEW, pending)
    again.close()
    with pytest.raises(OtherDesk):
        rig.open(device_id="desk-3")
    read = read_journal(journal_path(rig.path))
    assert read is not None
    assert (read.desk or {})["device_id"] == NEW
    assert read.kept == {item.uuid for item in pending}
    rebuilt = rebuild(rig.path, now=rig.clock.now, even_if_sound=True)
    assert rebuilt is not None
    assert (rebuilt.waiting, rebuilt.uncertain) == (len(pending), 0)


@pytest.mark.parametrize("id", [DEVICE, "with space", ""])
def test_an_id_that_is_none_or_its_own_is_refused(id: str, local: LocalDatabase) -> None:
    """And one is made where none is named."""
    if id:
        with pytest.raises(LocalUnusable, match="device_id"):
            local.new_device_id(id, operator="佐藤")
        assert local.device_id == DEVICE
    else:
        local.new_device_id(operator="佐藤")
        assert local.device_id.startswith("desk-")
        assert local.device_id != DEVICE


def test_sending_all_again_is_one_operation(rig: DeskRig, local: LocalDatabase) -> None:
    """It adds one line to the log, not one for each."""
    do(local, booked("R1"), booked("R2"))
    refuse(rig, local)
    assert (local.resend_all(operator="佐藤"), local.resend_all(operator="佐藤")) == (3, 0)
    assert local.counts().queued == 4
    assert [entry.operation for entry in local.operation_log()][:2] == ["resend", "sync OperationLog CREATE"]
