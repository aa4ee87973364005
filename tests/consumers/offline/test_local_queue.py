"""What the queue does with what the hub says: nothing is dropped, order holds, refusals are undone."""

from __future__ import annotations

from datetime import timedelta

import pytest
from desk_rig import DEVICE, DeskRig, booked, changed, checked_in, do, event, reservation, result, taken, wrong

from consumers.offline.database import LocalDatabase
from consumers.offline.errors import NoSuchItem, NotFailed
from consumers.offline.items import Counts, LocalChange, QueueItem
from schemas.errors import FieldError


def sent(rig: DeskRig, local: LocalDatabase, limit: int = 500) -> list[QueueItem]:
    """The next batch, without what the operation log says."""
    return [item for item in local.batch(limit, now=rig.clock.now()) if item.model != "OperationLog"]


def shown(local: LocalDatabase, id: str = "R1") -> dict[str, object]:
    record = local.record("reservation", f"reservation:{id}")
    assert record is not None
    return record.data


def test_a_batch_is_on_its_way_until_it_is_settled_or_released(rig: DeskRig, local: LocalDatabase) -> None:
    """Nothing is given out twice meanwhile; a broken line costs no retry."""
    do(local, booked("R1"), checked_in("R1"), booked("R2"))
    first = sent(rig, local)
    assert [item.status for item in first] == ["syncing"] * 3
    assert [item.entity_id for item in first] == ["R1", "R1", "R2"]
    do(local, changed("R1", adults=1), booked("R3"))
    assert [item.entity_id for item in sent(rig, local)] == ["R3"]
    assert local.release() == 6
    assert {item.retries for item in local.pending()} == {0}
    assert [item.entity_id for item in sent(rig, local)] == ["R1", "R1", "R2", "R3", "R1"]


def test_what_was_on_its_way_in_a_crash_is_sent_again(rig: DeskRig, local: LocalDatabase) -> None:
    """The same items, with the same uuids and sequence numbers: the hub knows what it has."""
    do(local, booked())
    before = local.batch(10, now=rig.clock.now())
    local.close()
    again = rig.open()
    assert again.counts() == Counts(queued=2)
    assert [item.wire() for item in again.batch(10, now=rig.clock.now())] == [item.wire() for item in before]
    again.close()


@pytest.mark.parametrize("outcome", ["applied", "duplicate", "resolved"])
def test_what_the_hub_has_stays_shown_until_it_is_pulled(rig: DeskRig, local: LocalDatabase, outcome: str) -> None:
    """Synced, but laid over the record until its event comes; then the record is what the hub says."""
    do(local, booked(adults=2))
    (item,) = sent(rig, local, 1)
    settled = local.settle([result(item, outcome, revision=1, version={DEVICE: 1})], now=rig.clock.now())
    assert (settled.synced, settled.outcomes) == (1, {outcome: 1})
    assert local.counts() == Counts(queued=1, unconfirmed=1)
    assert shown(local) == reservation(adults=2)
    hubs = reservation(adults=3, origin_system="hotel-pms")
    applied = local.apply_changes([event(hubs, 1, uuid=item.uuid, version={DEVICE: 1})], "c1")
    assert applied.confirmed == (item.uuid,)
    assert local.counts() == Counts(queued=1)
    record = local.record("reservation", "reservation:R1")
    assert record is not None
    assert (record.data, record.base, record.pending) == (hubs, hubs, 0)


def test_a_pull_may_come_before_the_answer_to_the_push(rig: DeskRig, local: LocalDatabase) -> None:
    """Its event says that the hub has it; the late answer, and a second page with it, change nothing."""
    do(local, booked())
    (item,) = sent(rig, local, 1)
    local.apply_changes([event(reservation(), 1, uuid=item.uuid)], "c1")
    assert local.counts() == Counts(queued=1)
    local.settle([result(item, revision=1)], now=rig.clock.now())
    local.apply_changes([event(reservation(), 1, uuid=item.uuid)], "c1")
    assert local.counts() == Counts(queued=1)


def test_only_its_own_count_moves_by_an_answer(rig: DeskRig, local: LocalDatabase) -> None:
    """What others did the desk has not seen before it pulls it, though the answer tells of it (R75)."""
    do(local, booked())
    (item,) = sent(rig, local, 1)
    local.settle([result(item, "resolved", version={DEVICE: 1, "hotel-member": 4})], now=rig.clock.now())
    assert do(local, changed(adults=1))[0].base_version == {DEVICE: 1}


def test_a_refused_change_is_taken_out_of_the_record(rig: DeskRig, local: LocalDatabase) -> None:
    """Later changes stay laid over what is left, wait, and the refusal is in the log (R52, R57)."""
    local.apply_changes([event(reservation(), 1)], "c1")
    (item,) = do(local, changed(adults=9))
    do(local, changed(children=1))
    do(local, booked("R2"))
    assert sent(rig, local, 2)[1].uuid == item.uuid
    told = result(item, "rejected", errors=wrong("payload.adults", "too many for the room"))
    settled = local.settle([told], now=rig.clock.now())
    assert [one.uuid for one in settled.failed] == [item.uuid]
    assert settled.failed[0].errors == (FieldError("payload.adults", "too many for the room"),)
    assert shown(local) == reservation(children=1)
    (entry,) = local.operation_log(failed=True)
    assert (entry.detail, entry.items) == ("payload.adults: too many for the room", (item.uuid,))
    local.release()
    assert [one.entity_id for one in sent(rig, local)] == ["R2"]
    assert [one.uuid for one in local.failed()] == [item.uuid]


def test_a_refused_first_record_is_gone_again(rig: DeskRig, local: LocalDatabase) -> None:
    """What the hub never had and nobody pursues is not shown; sent again, it is."""
    do(local, booked())
    (item,) = sent(rig, local, 1)
    local.settle([result(item, "rejected")], now=rig.clock.now())
    assert local.record("reservation", "reservation:R1") is None
    again = local.resend(item.uuid, operator="佐藤")
    assert (again.status, again.wire()) == ("queued", item.wire())
    assert shown(local) == reservation()
    assert local.operation_log()[0].operation == "resend"


def test_a_change_of_a_refused_booking_shows_nothing_by_itself(rig: DeskRig, local: LocalDatabase) -> None:
    """Half a reservation is not shown as one; with the booking sent again, both are."""
    do(local, booked())
    do(local, changed(adults=1))
    (item,) = sent(rig, local, 1)
    local.settle([result(item, "rejected")], now=rig.clock.now())
    assert local.record("reservation", "reservation:R1") is None
    assert local.counts().waiting == 3
    local.resend(item.uuid, operator="佐藤")
    assert shown(local) == reservation(adults=1)


def test_a_discarded_item_stays_in_the_queue_and_frees_its_lane(rig: DeskRig, local: LocalDatabase) -> None:
    """Nothing is dropped: it is only not sent and not shown any more, and the log says who and why."""
    do(local, booked())
    do(local, changed(adults=1))
    (item,) = sent(rig, local, 1)
    local.settle([result(item, "rejected")], now=rig.clock.now())
    gone = local.discard(item.uuid, operator="佐藤", reason="entered twice")
    assert gone.status == "discarded"
    assert local.item(item.uuid) == gone
    entry = local.operation_log()[0]
    assert (entry.operation, entry.operator, entry.items) == ("discard", "佐藤", (item.uuid,))
    assert (entry.detail or "").endswith("entered twice")
    assert [one.device_sequence for one in sent(rig, local)] == [3]
    with pytest.raises(NotFailed):
        local.discard(item.uuid, operator="佐藤", reason="again")
    with pytest.raises(NotFailed):
        local.resend(local.pending()[0].uuid, operator="佐藤")
    with pytest.raises(NoSuchItem):
        local.resend("00000000-0000-4000-8000-00000000ffff", operator="佐藤")


def test_retries_wait_longer_each_time_and_then_give_up(rig: DeskRig, local: LocalDatabase) -> None:
    """1, 2 and 4 seconds, stretched by the jitter; then failed, but still shown: nobody refused it (R51)."""
    do(local, booked())
    for wait in (1.5, 3.0, 6.0):
        (item,) = sent(rig, local, 1)
        settled = local.settle([result(item, "retry")], now=rig.clock.now(), jitter=0.5)
        assert (settled.retrying, settled.failed) == (1, ())
        assert local.item(item.uuid).not_before == rig.clock.now() + timedelta(seconds=wait)  # type: ignore[union-attr]
        rig.clock.pass_by(wait - 0.001)
        assert sent(rig, local) == []
        local.release()
        rig.clock.pass_by(0.001)
    (item,) = sent(rig, local, 1)
    assert item.retries == 3
    (failed,) = local.settle([result(item, "retry", errors=wrong("", "busy"))], now=rig.clock.now()).failed
    assert failed.last_error == "gave up after 4 tries: busy"
    assert shown(local) == reservation()
    assert local.resend(item.uuid, operator="佐藤").retries == 0


def test_waiting_for_a_person_counts_no_retry(rig: DeskRig, local: LocalDatabase) -> None:
    """However often the hub says so, the item stays queued, half a minute at a time."""
    do(local, booked())
    for _ in range(6):
        (item,) = sent(rig, local, 1)
        local.settle([result(item, "retry", errors=wrong("conflict", "R1 is being decided"))], now=rig.clock.now())
        assert sent(rig, local) == []
        local.release()
        rig.clock.pass_by(30)
    assert local.pending()[0].retries == 0


def test_a_conflict_waits_for_a_person_and_holds_its_entity(rig: DeskRig, local: LocalDatabase) -> None:
    """It stays shown; when its event is pulled it is synced, and the next one goes."""
    do(local, booked())
    do(local, changed(adults=1))
    (item,) = sent(rig, local, 1)
    (waits,) = local.settle([result(item, "conflict", conflict_id="c-1")], now=rig.clock.now()).conflicts
    assert (waits.status, waits.conflict_id, waits.laid) == ("conflict", "c-1", True)
    assert sent(rig, local) == []
    local.release()
    assert [one.uuid for one in local.conflicts()] == [item.uuid]
    decided = reservation(special_requests="decided")
    local.apply_changes([event(decided, 2, uuid=item.uuid)], "c1")
    assert shown(local) == decided | {"adults": 1}
    assert [one.device_sequence for one in sent(rig, local)] == [3]


def test_only_a_decision_frees_what_waits_for_a_person(rig: DeskRig, local: LocalDatabase) -> None:
    """Not the event of another own item of the entity; then nothing says any more that it waits."""
    do(local, booked(), changed(adults=1), changed(adults=2))
    taken_, decided, behind = sent(rig, local, 3)
    waits = result(behind, "retry", errors=wrong("conflict", "waits for the conflict c-1"))
    answers = [result(taken_, revision=1), result(decided, "conflict", conflict_id="c-1"), waits]
    local.settle(answers, now=rig.clock.now())
    assert local.apply_changes([event(reservation(), 1, uuid=taken_.uuid)], "c1").freed == 0
    assert local.pending()[1].last_error == "conflict: waits for the conflict c-1"
    assert local.apply_changes([event(reservation(adults=1), 2, uuid=decided.uuid)], "c2").freed == 1
    assert [(one.last_error, one.not_before) for one in local.pending()[:1]] == [(None, None)]
    assert sent(rig, local) == [local.item(behind.uuid)]


def test_results_of_strangers_are_told_and_change_nothing(rig: DeskRig, local: LocalDatabase) -> None:
    """A uuid that the queue does not have is given back; one without uuid only counts."""
    do(local, booked())
    stranger = "00000000-0000-4000-8000-00000000ffff"
    told = [result(stranger), result(stranger, "rejected").model_copy(update={"uuid": None})]
    settled = local.settle(told, now=rig.clock.now())
    assert (settled.unknown, settled.outcomes) == ((stranger,), {"applied": 1, "rejected": 1})
    assert local.counts() == Counts(queued=2)


def test_an_undone_check_in_is_confirmed_by_the_reservations_event(rig: DeskRig, local: LocalDatabase) -> None:
    """The event is of another type than the item; both records are put right."""
    local.apply_changes([event(reservation(), 1)], "c1")
    do(local, checked_in())
    (item,) = do(local, LocalChange("CheckIn", "DELETE", "R1", {}))
    local.settle(taken(local.batch(10, now=rig.clock.now())), now=rig.clock.now())
    local.apply_changes([event(reservation(), 3, uuid=item.uuid)], "c2")
    stay = local.record("checkin_checkout", "reservation:R1")
    assert stay is not None
    assert (stay.pending, stay.deleted) == (1, False)


def test_an_item_the_hub_had_before_the_snapshot_is_confirmed_by_its_answer(rig: DeskRig, local: LocalDatabase) -> None:
    """Its event will not be pulled: the state already is of that revision or later."""
    local.apply_changes([event(reservation(adults=5), 4)], "c1")
    do(local, changed(adults=1))
    (item,) = sent(rig, local, 1)
    local.settle([result(item, "duplicate", revision=3)], now=rig.clock.now())
    assert shown(local)["adults"] == 5
    assert local.counts() == Counts(queued=1)


def test_what_is_settled_and_pulled_may_be_forgotten(rig: DeskRig, local: LocalDatabase) -> None:
    """Only that, only when it is old, and sequence numbers go on."""
    do(local, booked("R1"))
    do(local, booked("R2"))
    items = local.batch(1, now=rig.clock.now())
    local.settle(taken(items), now=rig.clock.now())
    local.apply_changes([event(reservation("R1"), 1, uuid=items[0].uuid)], "c1")
    assert local.forget(rig.clock.now()) == 0
    rig.clock.pass_by(1)
    assert local.forget(rig.clock.now()) == 1
    assert local.operation_log() == []
    assert len(local.pending()) == 3
    local.close()
    again = rig.open()
    assert do(again, booked("R3"))[0].device_sequence == 5
    again.close()
