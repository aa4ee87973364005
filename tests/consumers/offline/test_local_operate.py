"""What is done at the desk is kept whole, checked, and shown at once."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from desk_rig import DEVICE, DeskRig, booked, changed, checked_in, do, event, reservation, state, taken

from consumers.offline.database import LocalDatabase
from consumers.offline.errors import InvalidChange
from consumers.offline.items import LocalChange
from consumers.offline.operations import ALERT_ABOVE, CLEAR_BELOW
from schemas.canonical import checksum
from schemas.sync import SyncItem


def test_an_operation_is_a_record_an_item_and_a_line_of_the_log(local: LocalDatabase) -> None:
    """All three are there at once, and the log goes to the hub behind the change (R50, R56)."""
    (item,) = do(local, booked(guest_name="山田"), operation="booking")
    record = local.record("reservation", "reservation:R1")
    assert record is not None
    assert (record.data, record.base, record.pending) == (reservation(guest_name="山田"), None, 1)
    assert (item.status, item.retries, item.device_sequence, item.amount) == ("queued", 0, 1, 16800)
    (entry,) = local.operation_log()
    assert (entry.operator, entry.role, entry.operation, entry.target) == ("佐藤", "front", "booking", "reservation:R1")
    assert entry.items == (item.uuid,)
    logged = local.pending()[1]
    assert (logged.model, logged.device_sequence, logged.priority) == ("OperationLog", 2, "low")
    assert logged.payload["operator"] == "佐藤"


def test_an_item_goes_over_the_wire_as_the_hub_reads_it(local: LocalDatabase) -> None:
    """It fits the schema of a push, with the checksum of its payload and the desk's own time."""
    do(local, booked())
    do(local, LocalChange("Billing", "CREATE", "F1", {"amount": 100.5, "payment_method": "cash"}, action="settled"))
    for item in local.pending():
        wire = SyncItem.model_validate(item.wire())
        assert wire.checksum == checksum(wire.payload)
        assert datetime.fromisoformat(wire.createdAt) == datetime(2026, 7, 15, 1, tzinfo=UTC)
    assert [item.wire().get("action") for item in local.pending()] == [None, None, "settled", None]


def test_an_update_may_say_only_what_changed(local: LocalDatabase) -> None:
    """The rest is taken from what the desk shows; the payload stays as it was said, with the id."""
    do(local, booked())
    (item,) = do(local, changed(room_number="301", guest_name=None))
    assert item.payload == {"reservation_id": "R1", "room_number": "301", "guest_name": None}
    record = local.record("reservation", "reservation:R1")
    assert record is not None
    assert (record.data, record.pending) == (reservation(room_number="301"), 2)


def test_changes_of_one_operation_build_on_each_other(local: LocalDatabase) -> None:
    """A booking and its update may be one operation; each knows what is on its way before it."""
    first, second, third = do(local, booked(), changed(adults=2), checked_in())
    assert [one.base_version for one in (first, second, third)] == [{}, {DEVICE: 1}, {DEVICE: 2}]
    assert local.record("checkin_checkout", "reservation:R1") is not None


def test_an_item_names_the_version_that_the_desk_had_seen(rig: DeskRig, local: LocalDatabase) -> None:
    """What was pulled, and of its own what is still on its way."""
    local.apply_changes([event(reservation(), 3)], "c1")
    do(local, changed(adults=2))
    (item,) = do(local, changed(adults=3))
    assert item.base_version == {"hotel-pms": 3, DEVICE: 1}
    local.batch(1, now=rig.clock.now())
    assert do(local, changed(adults=4))[0].base_version == {"hotel-pms": 3, DEVICE: 2}


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (LocalChange("Reservation", "CREATE", "R1", {"room_type": "x"}), "changes.0.payload.checkin_date"),
        (booked("R1", status="sleeping"), "changes.0.payload.status"),
        (booked("R1", colour="red"), "changes.0.payload.colour"),
        (booked("R1", reservation_id="R2"), "changes.0.payload.reservation_id"),
        (booked("R1", adults=2**60), "changes.0.payload"),
        (booked("R1", guest_name="\ud800"), "changes.0.payload"),
        (booked("R1", checkin_date=datetime(2026, 7, 15, tzinfo=UTC)), "changes.0.payload"),
        (LocalChange("Reservation", "CREATE", "R 1", reservation()), "changes.0.entity_id"),
        (changed("R9", adults=2), "changes.0.entity_id"),
        (LocalChange("Customer", "DELETE", "C1", {}), "changes.0.operation"),
        (LocalChange("Guest", "CREATE", "C1", {}), "changes.0.model"),  # type: ignore[arg-type]
        (LocalChange("Reservation", "CREATE", "R1", reservation(), action="settled"), "changes.0.action"),
        (LocalChange("Reservation", "CREATE", "R1", reservation(), "urgent"), "changes.0.priority"),  # type: ignore[arg-type]
        (LocalChange("Reservation", "CREATE", "R1", reservation(), amount=float("nan")), "changes.0.amount"),
        (LocalChange("Reservation", "CREATE", "R1", []), "changes.0.payload"),  # type: ignore[arg-type]
    ],
)
def test_what_does_not_fit_is_refused_by_field(local: LocalDatabase, change: LocalChange, path: str) -> None:
    """The desk hears of it at once, and nothing of the operation is kept."""
    with pytest.raises(InvalidChange) as caught:
        do(local, change)
    assert path in [error.path for error in caught.value.errors]
    assert local.pending() == []
    assert local.operation_log() == []


def test_one_wrong_change_keeps_out_the_whole_operation(local: LocalDatabase) -> None:
    """Nothing of it is there, and its sequence numbers are not used up: they were never given out."""
    with pytest.raises(InvalidChange) as caught:
        do(local, booked("R1"), booked("R2", status="sleeping"), booked("R3", adults=-1))
    assert [error.path for error in caught.value.errors] == ["changes.1.payload.status", "changes.2.payload.adults"]
    assert local.record("reservation", "reservation:R1") is None
    assert do(local, booked("R1"))[0].device_sequence == 1


@pytest.mark.parametrize(("operator", "operation"), [("", "x"), ("x", ""), ("x", "y" * 200)])
def test_an_operation_needs_somebody_and_a_name(local: LocalDatabase, operator: str, operation: str) -> None:
    """The error names the argument, not the log entry that is made of it."""
    with pytest.raises(InvalidChange) as caught:
        local.operate([booked()], operator=operator, operation=operation)
    assert caught.value.errors[0].path == ("operator" if not operator else "operation")
    assert local.pending() == []


def test_a_cancelled_reservation_shows_so(local: LocalDatabase) -> None:
    """A DELETE lays its meaning over the record before the hub has heard of it."""
    local.apply_changes([event(reservation(), 1)], "c1")
    do(local, LocalChange("Reservation", "DELETE", "R1", {}))
    record = local.record("reservation", "reservation:R1")
    assert record is not None
    assert (record.data["status"], record.deleted, record.base) == ("cancelled", True, reservation())


def test_a_guest_of_a_known_reservation_may_be_checked_out(local: LocalDatabase) -> None:
    """The stay has no record yet, but its reservation does."""
    local.apply_changes([event(reservation(), 1)], "c1")
    stay = {"room_number": "301", "payment_status": "completed"}
    assert do(local, LocalChange("CheckOut", "UPDATE", "R1", stay))[0].type == "checkin_checkout"


def test_records_are_read_in_pages(local: LocalDatabase) -> None:
    """By entity, each page going on behind the one before, whether confirmed or not."""
    local.apply_changes([event(reservation("R2"), 1)], "c1")
    do(local, booked("R3"), booked("R1"))
    page = local.records("reservation", limit=2)
    rest = local.records("reservation", after=page[-1].entity)
    assert [one.entity for one in page + rest] == ["reservation:R1", "reservation:R2", "reservation:R3"]
    assert [one.revision for one in page + rest] == [0, 1, 0]


def test_a_long_queue_raises_one_alert_a_crossing(rig: DeskRig, local: LocalDatabase) -> None:
    """Past the limit once, however much longer it gets; again only after it had become clearly shorter (R54)."""

    def add(count: int) -> None:
        # Half of an operation's items are its log's.
        rooms: list[Any] = [booked(f"R{rig.clock.made}-{number}") for number in range(count - 1)]
        do(local, *rooms)

    add(ALERT_ABOVE)
    assert local.alerts() == []
    add(2)
    add(2)
    (alert,) = local.alerts(standing=True)
    assert (alert.kind, alert.detail["waiting"]) == ("queue_long", ALERT_ABOVE + 2)
    gone = 4 + ALERT_ABOVE - CLEAR_BELOW
    local.settle(taken(local.batch(gone, now=rig.clock.now())), now=rig.clock.now())
    assert len(local.alerts(standing=True)) == 1
    local.settle(taken(local.batch(1, now=rig.clock.now())), now=rig.clock.now())
    assert local.alerts(standing=True) == []
    add(ALERT_ABOVE)
    assert [one.cleared_at is None for one in local.alerts()] == [True, False]
    assert local.counts().waiting > ALERT_ABOVE


def test_a_snapshot_record_can_be_worked_on(local: LocalDatabase) -> None:
    """What came by snapshot is known like what came by pull."""
    local.begin_snapshot()
    local.add_snapshot([state()], None)
    local.end_snapshot("c1")
    assert do(local, changed(adults=1))[0].base_version == {"hotel-pms": 1}
