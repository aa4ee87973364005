"""What the desk makes of the hub's changes, snapshots and digests."""

from __future__ import annotations

from typing import Any

import pytest
from desk_rig import DEVICE, DeskRig, booked, changed, do, event, reservation, state, taken
from hypothesis import given
from hypothesis import strategies as st

from consumers.offline.database import LocalDatabase
from consumers.offline.items import Applied, Counts, LocalChange
from schemas import order, registry
from schemas.envelope import EventType
from schemas.sync import Operation, StateDigest, bucket_hash, bucket_of, root_hash, state_hash


def shown(local: LocalDatabase, type: str = "reservation", entity: str = "reservation:R1") -> dict[str, Any] | None:
    record = local.record(type, entity)
    return None if record is None else record.data


def snapshot(local: LocalDatabase, *pages: list[Any], cursor: str = "s1") -> int:
    local.begin_snapshot()
    for number, page in enumerate(pages, 1):
        local.add_snapshot(page, str(number), cursor)
    return local.end_snapshot("later")


def test_applying_a_page_twice_does_nothing(rig: DeskRig, local: LocalDatabase) -> None:
    """Changes are known by revision; the cursor moves with them, and is there after a restart."""
    page = [event(reservation(), 1), event({"reservation_id": "R1", "adults": 2}, 2), event(reservation("R2"), 1)]
    assert local.cursor is None
    assert local.apply_changes(page, "c3") == Applied(applied=3)
    assert local.apply_changes(page, "c3") == Applied(known=3)
    assert shown(local) == reservation(adults=2)
    local.close()
    again = rig.open()
    assert (again.cursor, shown(again)) == ("c3", reservation(adults=2))
    again.close()


def test_nothing_of_a_page_is_kept_when_it_breaks_off(local: LocalDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """States and cursor move together or not at all."""
    local.apply_changes([event(reservation(), 1)], "c1")

    def broken(*_: object) -> None:
        raise RuntimeError("in the middle")

    with monkeypatch.context() as patch:
        patch.setattr(local._notes, "put_meta", broken)
        with pytest.raises(RuntimeError):
            local.apply_changes([event(reservation(adults=2), 2)], "c2")
    assert (local.cursor, shown(local)) == ("c1", reservation())
    assert local.apply_changes([event(reservation(adults=2), 2)], "c2").applied == 1


def test_what_speaks_of_the_event_alone_is_no_state(local: LocalDatabase) -> None:
    """Points earned are news of the event, the total is the customer's; null removes a field."""
    said: dict[str, Any] = {"type": "customer", "entity": "customer:C1", "model": "Customer"}
    local.apply_changes([event({"customer_id": "C1", "name": "山田", "phone": "1"}, 1, **said)], "c1")
    data = {"customer_id": "C1", "points_delta": 5, "points_ledger_id": "L", "total_points": 50, "phone": None}
    local.apply_changes([event(data, 2, **said)], "c2")
    assert shown(local, "customer", "customer:C1") == {"customer_id": "C1", "name": "山田", "total_points": 50}


@pytest.mark.parametrize(
    ("operation", "action", "moved", "balance"),
    [
        ("CREATE", None, {"amount": 10, "balance": 40}, 47),
        ("CREATE", None, {"amount": 30, "balance": 0, "payment_method": "cash"}, 7),
        ("CREATE", "settled", {"amount": 30, "balance": 0}, 7),
        ("UPDATE", None, {"amount": -5, "balance": 25}, 32),
        ("UPDATE", "refunded", {"amount": 30, "balance": 30}, 30),
    ],
)
def test_a_folio_shows_what_all_movements_come_to(
    local: LocalDatabase, operation: Operation, action: str | None, moved: dict[str, Any], balance: int
) -> None:
    """What another desk charged meanwhile is not hidden by the balance that this desk's own movement said."""
    folio: dict[str, Any] = {"type": "billing", "entity": "billing:F1", "model": "Billing", "action": "charged"}
    local.apply_changes([event({"folio_id": "F1", "amount": 30, "balance": 30}, 1, **folio)], "c1")
    [own] = do(local, LocalChange("Billing", operation, "F1", moved, action=action))
    assert shown(local, "billing", "billing:F1") == {"folio_id": "F1", "balance": moved["balance"]}
    local.apply_changes([event({"folio_id": "F1", "amount": 7, "balance": 37}, 2, **folio)], "c2")
    assert shown(local, "billing", "billing:F1") == {"folio_id": "F1", "balance": balance}
    settled = event({"folio_id": "F1", **moved, "balance": balance}, 3, uuid=own.uuid, **folio)
    local.apply_changes([settled], "c3")
    assert shown(local, "billing", "billing:F1") == {"folio_id": "F1", "balance": balance}


def test_an_older_schema_version_is_read_as_the_newest(local: LocalDatabase) -> None:
    """An order of one item becomes a list of one (R45)."""
    old = {"order_id": "O1", "room_number": "301", "item": "tea", "quantity": 2, "unit_price": 300}
    local.apply_changes([event(old, 1, type="order", entity="order:O1", model="Order")], "c1")
    record = local.record("order", "order:O1")
    assert record is not None
    assert (record.schema_version, record.data["total_amount"]) == (2, 600)


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets this release know version 3 of orders."""

    class OrderDataV3(order.OrderData):
        floor: int

    def switch(on: bool) -> None:
        kind = order.TYPE
        if on:
            kind = EventType(
                "order",
                order.OrderEvent,
                order.TYPE.actions,
                {**order.TYPE.versions, 3: OrderDataV3},
                ("order_id",),
                "hotel-saas",
                upcasts={**order.TYPE.upcasts, 2: lambda data: data | {"floor": 0}},
            )
        monkeypatch.setattr(registry, "EVENT_TYPES", types := dict(registry.EVENT_TYPES) | {"order": kind})
        monkeypatch.setattr("consumers.offline.records.EVENT_TYPES", types)
        monkeypatch.setattr("consumers.offline.acceptance.EVENT_TYPES", types)

    return switch


def ordered(revision: int, version: int, **said: Any) -> Any:
    item = {"name": "tea", "quantity": 1, "unit_price": 300}
    data = {"order_id": "O1", "room_number": "301", "items": [item], "total_amount": 300, **said}
    return event(data, revision, type="order", entity="order:O1", model="Order", schema_version=version)


def test_what_a_newer_release_said_is_kept_until_it_is_known(rig: DeskRig, local: LocalDatabase, newer: Any) -> None:
    """Held back with what follows it, and so is the version seen; after the upgrade all is applied, in order."""
    local.apply_changes([ordered(1, 2)], "c1")
    page = [ordered(2, 3, floor=7), ordered(3, 2, notes="later"), event(reservation(), 1)]
    assert local.apply_changes(page, "c4") == Applied(applied=1, held=2)
    assert local.apply_changes(page, "c4") == Applied(known=1, held=2)
    assert (local.held(), local.cursor) == (2, "c4")
    record = local.record("order", "order:O1")
    assert record is not None
    assert (record.revision, record.version) == (1, {"hotel-pms": 1})
    local.close()
    again = rig.open()
    assert again.held() == 2
    again.close()
    newer(True)
    upgraded = rig.open()
    record = upgraded.record("order", "order:O1")
    assert record is not None
    assert (upgraded.held(), record.revision, record.schema_version) == (0, 3, 3)
    # The last one was said at version 2, which knows no floors.
    assert (record.data["notes"], record.data["floor"]) == ("later", 0)
    assert record.version == {"hotel-pms": 3}
    assert upgraded.check() == []
    upgraded.close()


def test_states_are_brought_up_to_a_new_release(rig: DeskRig, local: LocalDatabase, newer: Any) -> None:
    """Also where nothing was held, and with what is laid over them; the digest is that of the new state."""
    local.apply_changes([ordered(1, 2)], "c1")
    before = local.digest()
    local.close()
    newer(True)
    upgraded = rig.open()
    record = upgraded.record("order", "order:O1")
    assert record is not None
    assert (record.schema_version, record.data["floor"]) == (3, 0)
    assert upgraded.digest().root != before.root
    assert upgraded.check() == []
    upgraded.close()


def test_an_own_event_that_cannot_be_read_yet_is_synced(rig: DeskRig, local: LocalDatabase) -> None:
    """The hub has it, so it is not sent again; it stays shown as the desk made it."""
    do(local, booked())
    item = local.batch(1, now=rig.clock.now())[0]
    local.apply_changes([event(reservation(), 1, uuid=item.uuid, schema_version=9, version={DEVICE: 1})], "c1")
    local.release()
    assert local.counts() == Counts(queued=1, unconfirmed=1)
    assert shown(local) == reservation()


def test_what_is_held_is_not_seen(rig: DeskRig, local: LocalDatabase) -> None:
    """While a stay cannot be read, its reservation's version stays behind, though the reservation itself moves on."""
    stay = {
        "type": "checkin_checkout",
        "model": "CheckIn",
        "schema_version": 9,
        "version": {"hotel-pms": 1, "desk-2": 1},
    }
    data = {"reservation_id": "R1", "room_number": "301", "payment_status": "pending"}
    local.apply_changes([event(reservation(), 1), event(data, 2, **stay)], "c2")
    local.apply_changes([event(reservation(adults=2), 3, version={"hotel-pms": 2, "desk-2": 1})], "c3")
    record = local.record("reservation", "reservation:R1")
    assert record is not None
    assert (record.revision, record.version) == (3, {"hotel-pms": 1})
    # As a release would read it that knows version 9.
    local._file.sql.execute("""UPDATE held SET schema_version = 1, body = replace(body, 'version":9', 'version":1')""")
    local.close()
    upgraded = rig.open()
    record = upgraded.record("checkin_checkout", "reservation:R1")
    assert record is not None
    assert (record.data, record.version) == (data, {"hotel-pms": 2, "desk-2": 1})
    upgraded.close()


def test_a_snapshot_replaces_what_is_confirmed_and_keeps_what_is_pending(rig: DeskRig, local: LocalDatabase) -> None:
    """What the hub does not have is gone, but for the desk's own changes, which lie over the new states."""
    local.apply_changes([event(reservation("R1"), 1), event(reservation("R2"), 1), event(reservation("R3"), 1)], "c1")
    do(local, changed("R1", adults=2), changed("R3", adults=2), booked("R4"))
    assert snapshot(local, [state("R1", 5, data=reservation("R1", children=3))], [state("R5")]) == 2
    assert shown(local) == reservation("R1", children=3, adults=2)
    assert shown(local, entity="reservation:R2") is None
    # Half a reservation is not shown as one; its item is still sent, and the hub says what becomes of it.
    assert shown(local, entity="reservation:R3") is None
    assert [one.entity for one in local.records("reservation")] == [f"reservation:R{id}" for id in (1, 4, 5)]
    assert (local.cursor, local.digest().count) == ("s1", 2)
    assert local.counts().waiting == 4


def test_a_snapshot_goes_on_where_it_was_broken_off(rig: DeskRig, local: LocalDatabase) -> None:
    """Also after a restart; the cursor is that of its first page, and nothing read before is taken for gone."""
    assert local.begin_snapshot() is None
    local.add_snapshot([state("R1")], "p2", "first")
    local.close()
    again = rig.open()
    assert (again.snapshotting, again.cursor) == (True, None)
    assert again.begin_snapshot() == "p2"
    again.add_snapshot([state("R2")], None, "second")
    assert again.end_snapshot("third") == 0
    assert (again.snapshotting, again.cursor, again.digest().count) == (False, "first", 2)
    assert again.begin_snapshot() is None
    again.add_snapshot([state("R1")], "p2")
    assert again.begin_snapshot(afresh=True) is None
    again.add_snapshot([state("R2")], None)
    assert again.end_snapshot("c9") == 1
    assert again.cursor == "c9"
    again.close()


def test_pages_of_one_snapshot_tell_one_version_together(local: LocalDatabase) -> None:
    """Two records of one entity on two pages: the version is what both have told; an older snapshot's is not kept."""
    local.apply_changes([event(reservation(), 9)], "c1")
    stay = state(revision=2, type="checkin_checkout", version={"hotel-pms": 1, "desk-2": 1}, data={"room_number": "1"})
    snapshot(local, [state(version={"hotel-pms": 2})], [stay])
    assert do(local, changed(adults=1))[0].base_version == {"hotel-pms": 2, "desk-2": 1}


def test_a_snapshot_confirms_the_items_that_are_in_it(rig: DeskRig, local: LocalDatabase) -> None:
    """What the hub took at a revision that the snapshot has will not be pulled; what it took later will be."""
    do(local, booked("R1"), booked("R2"))
    first, second, *log = local.batch(10, now=rig.clock.now())
    results = taken([first, second, *log])
    for one in results[:2]:
        one.revision = 3
    local.settle(results, now=rig.clock.now())
    snapshot(local, [state("R1", 3), state("R2", 2)])
    assert local.counts() == Counts(unconfirmed=1)
    assert [one.pending for one in local.records("reservation")] == [0, 1]


def test_a_snapshot_of_a_newer_release_is_held(rig: DeskRig, local: LocalDatabase, newer: Any) -> None:
    """The state known before stays, and is not taken for gone; the new one comes with the upgrade."""
    local.apply_changes([ordered(1, 2), ordered(2, 3, floor=1)], "c1")
    data = ordered(4, 3, floor=4).data
    fields: dict[str, Any] = {"type": "order", "entity": "order:O1", "data": data, "schema_version": 3}
    assert snapshot(local, [state(revision=4, **fields)]) == 0
    assert local.held() == 1
    record = local.record("order", "order:O1")
    assert record is not None
    assert record.revision == 1
    local.close()
    newer(True)
    upgraded = rig.open()
    record = upgraded.record("order", "order:O1")
    assert record is not None
    assert (record.revision, record.data, record.version) == (4, data, {"hotel-pms": 4})
    upgraded.close()


def test_repair_puts_the_hubs_word_in_place(local: LocalDatabase) -> None:
    """Whatever revision it is of; what the hub does not have goes, and pending changes stay laid over."""
    local.apply_changes([event(reservation("R1"), 9), event(reservation("R2"), 1)], "c1")
    do(local, changed("R1", adults=2))
    local.repair([state("R1", 7, data=reservation("R1", children=1))], [("reservation", "reservation:R2")])
    record = local.record("reservation", "reservation:R1")
    assert record is not None
    assert (record.revision, record.data) == (7, reservation("R1", children=1, adults=2))
    assert shown(local, entity="reservation:R2") is None
    assert local.cursor == "c1"


def test_the_digest_is_the_schemas_over_confirmed_states(local: LocalDatabase) -> None:
    """The desk's own pending changes are not in it; each way a state gets in keeps it right."""
    states = {f"R{number}": reservation(f"R{number}", total_amount=number + 0.5) for number in range(40)}
    snapshot(local, [state(id, 1, data=data) for id, data in list(states.items())[:20]])
    local.apply_changes([event(data, 2) for data in list(states.values())[20:]], "c1")
    do(local, changed("R0", adults=9), booked("R99"))
    expected: dict[int, list[StateDigest]] = {}
    for number, (id, data) in enumerate(states.items()):
        entity = f"reservation:{id}"
        revision = 1 if number < 20 else 2
        one = StateDigest("reservation", entity, revision, state_hash("reservation", entity, revision, data))
        expected.setdefault(bucket_of("reservation", entity), []).append(one)
    digest = local.digest()
    assert digest.count == 40
    assert digest.buckets == {number: bucket_hash(ones) for number, ones in expected.items()}
    assert digest.root == root_hash(digest.buckets)
    for number, ones in expected.items():
        assert local.bucket(number) == sorted(ones)
    assert local.check() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), max_size=30), st.data())
def test_pages_may_be_cut_and_repeated_anyhow(events: list[tuple[str, int]], data: st.DataObject) -> None:
    """However a log is cut into pages, and whatever is sent again, the states are those of the log."""
    import tempfile
    from pathlib import Path

    revisions = dict.fromkeys("abc", 0)
    log = []
    want: dict[str, dict[str, Any]] = {}
    for id, number in events:
        revisions[id] += 1
        log.append(event(reservation(id, adults=number), revisions[id]))
        want[id] = reservation(id, adults=number)
    with tempfile.TemporaryDirectory() as directory:
        local = DeskRig(Path(directory) / "d.db").open()
        at = 0
        while at < len(log):
            start = data.draw(st.integers(0, at))
            end = data.draw(st.integers(at + 1, len(log)))
            local.apply_changes(log[start:end], str(end))
            at = end
        assert {one.entity[12:]: one.data for one in local.records("reservation")} == want
        local.close()
