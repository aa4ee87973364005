"""What is done at a front desk: the changes of each deed, and when it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from desk_rig import JAPAN, DeskRig, reservation

from consumers.offline import front_desk, room_service
from consumers.offline.bill import receipt
from consumers.offline.database import LocalDatabase
from consumers.offline.front_desk import Deed, Doubtful, Known, NotPossible
from consumers.offline.room_service import OrderLine

AT = datetime(2026, 7, 15, 15, 4, tzinfo=JAPAN)
TODAY = date(2026, 7, 15)
ROOM = {
    "room_id": "room-301",
    "room_number": "301",
    "room_type": "standard",
    "status": "vacant_clean",
    "availability_date": "2026-07-15",
}
PENDING = {"reservation_id": "R1", "room_number": "301", "payment_status": "pending"}
PAID = PENDING | {"payment_status": "completed", "additional_charges": 1200}


def expected(**said: Any) -> Known:
    """A reservation of today, with a room."""
    room = said.pop("room", ROOM)
    return Known(reservation(room_number="301", **said), room=room)


def in_house(*, owed: float = 0, stay: dict[str, Any] = PENDING, **said: Any) -> Known:
    """The guest of R1 in room 301."""
    folio = {"folio_id": "F-R1", "balance": owed} if owed else None
    room = ROOM | {"status": "occupied"}
    return Known(reservation(status="checked_in", room_number="301", **said), stay, folio, room)


def arrive(known: Known, *others: str, today: date = TODAY, anyway: bool = False) -> Deed:
    return front_desk.arrive(known, at=AT, today=today, others=others, anyway=anyway)


def depart(known: Known, method: str | None = "cash", *, anyway: bool = False) -> Deed:
    return front_desk.depart(known, at=AT, today=TODAY, method=method, charge_id="B1", anyway=anyway)


def said(deed: Deed) -> list[tuple[str, str, str, dict[str, Any]]]:
    """The changes, shortly."""
    return [(one.model, one.operation, one.entity_id, dict(one.payload)) for one in deed.changes]


# -- arrivals ---------------------------------------------------------------------------------------------------------


def test_an_arrival_is_the_stay_the_reservation_and_the_room() -> None:
    """As one operation."""
    deed = arrive(expected(customer_id="C1"))

    stay = {"room_number": "301", "actual_checkin_time": "2026-07-15T15:04:00+09:00", "payment_status": "pending"}
    assert said(deed) == [
        ("CheckIn", "CREATE", "R1", stay | {"customer_id": "C1"}),
        ("Reservation", "UPDATE", "R1", {"status": "checked_in", "room_number": "301"}),
        ("RoomStatus", "UPDATE", "room-301", {"status": "occupied", "availability_date": "2026-07-16"}),
    ]
    assert deed.operation == "check_in"


@pytest.mark.parametrize("status", ["inquiry", "waitlisted", "checked_in", "checked_out", "cancelled", "no_show"])
def test_only_who_is_expected_arrives(status: str) -> None:
    """Each other status says why not."""
    with pytest.raises(NotPossible, match=r"R1 is .*cannot be checked in"):
        arrive(expected(status=status), anyway=True)


def test_a_room_that_is_taken_or_out_of_use_is_given_to_nobody() -> None:
    """Whatever is meant; one's own reservation does not take it from oneself."""
    with pytest.raises(NotPossible, match="room 301 is taken by R7"):
        arrive(expected(), "R1", "R7", anyway=True)
    with pytest.raises(NotPossible, match="room 301 is out of order"):
        arrive(expected(room=ROOM | {"status": "out_of_order"}), anyway=True)
    with pytest.raises(NotPossible, match="--room 301"):
        arrive(expected(room=None), anyway=True)
    assert arrive(expected(), "R1")


@pytest.mark.parametrize(
    ("known", "today", "doubt"),
    [
        (expected(room=ROOM | {"status": "vacant_dirty"}), TODAY, "room 301 is vacant dirty"),
        (expected(), date(2026, 7, 14), "the guest is expected on 2026-07-15"),
        (expected(), date(2026, 7, 17), "the stay was to 2026-07-16"),
    ],
)
def test_what_is_doubtful_is_done_when_it_is_meant(known: Known, today: date, doubt: str) -> None:
    """And not before."""
    with pytest.raises(Doubtful) as raised:
        arrive(known, today=today)
    assert [reason.en for reason in raised.value.reasons] == [doubt]
    assert arrive(known, today=today, anyway=True).changes


# -- departures -------------------------------------------------------------------------------------------------------


def test_a_departure_settles_the_room_and_what_the_folio_holds() -> None:
    """The room is charged once, then all of it is paid; the bill says the same."""
    deed = depart(in_house(owed=1200, currency="JPY"))

    folio = {"reservation_id": "R1", "room_number": "301", "currency": "JPY"}
    stay = {"room_number": "301", "actual_checkout_time": "2026-07-15T15:04:00+09:00", "payment_status": "completed"}
    room = {"charge_id": "B1-room", "amount": 16800, "category": "room", "balance": 18000}
    paid = {"charge_id": "B1", "amount": 18000, "balance": 0, "payment_method": "cash"}
    assert said(deed) == [
        ("CheckOut", "CREATE", "R1", stay | {"additional_charges": 1200, "currency": "JPY"}),
        ("Reservation", "UPDATE", "R1", {"status": "checked_out"}),
        ("RoomStatus", "UPDATE", "room-301", {"status": "vacant_dirty", "availability_date": "2026-07-15"}),
        ("Billing", "CREATE", "F-R1", folio | room),
        ("Billing", "CREATE", "F-R1", folio | paid),
    ]
    assert [one.action for one in deed.changes[3:]] == ["charged", "settled"]
    assert deed.bill is not None
    assert deed.bill.total == Decimal(18000)


def test_amounts_add_up_exactly() -> None:
    """As decimals, not as binary fractions."""
    deed = depart(in_house(owed=0.1, total_amount=0.2))
    assert deed.changes[-1].payload["amount"] == 0.3


def test_who_owes_nothing_pays_nothing() -> None:
    """No method is asked for, and there is no receipt."""
    deed = depart(in_house(total_amount=0), None)

    assert [one.model for one in deed.changes] == ["CheckOut", "Reservation", "RoomStatus"]
    assert deed.bill is None


def test_what_is_due_has_to_be_paid_somehow() -> None:
    """Even when it is meant otherwise."""
    with pytest.raises(NotPossible, match="16800 is due: say how it is paid"):
        depart(in_house(), None, anyway=True)
    with pytest.raises(NotPossible, match="R1 is confirmed, it cannot be checked out"):
        depart(expected())


def test_orders_not_billed_and_credits_are_doubtful() -> None:
    """They would be lost otherwise."""
    with pytest.raises(Doubtful, match="not on the bill yet: O1, O2"):
        depart(in_house()._replace(unbilled=("O1", "O2")))
    with pytest.raises(Doubtful, match="1000 are the guest's to get back"):
        depart(in_house(owed=-1000, total_amount=0), None)


def test_a_guest_of_whom_another_desk_says_otherwise_leaves_only_when_it_is_meant() -> None:
    """It may have been paid there, and the money would be taken twice."""
    known = in_house(owed=500)._replace(undecided=("payment_status: is completed by desk-2",))
    with pytest.raises(Doubtful, match="a conflict waits for a manager: payment_status: is completed by desk-2"):
        depart(known)
    assert depart(known, anyway=True).bill is not None


def test_a_room_that_was_assigned_and_is_not_known_is_named() -> None:
    """The clerk did choose one; nobody is told that none was."""
    with pytest.raises(NotPossible, match="there is no room 999 at this desk"):
        arrive(Known(reservation(room_number="999")))


def test_a_departure_after_one_that_was_undone_charges_the_room_no_second_time() -> None:
    """Only what came since; the stay's additional charges are all of them."""
    deed = depart(in_house(owed=500, stay=PAID))

    assert [dict(one.payload)["amount"] for one in deed.changes if one.model == "Billing"] == [500]
    assert deed.changes[0].payload["additional_charges"] == 1700
    assert [one.model for one in depart(in_house(stay=PAID), None).changes] == ["CheckOut", "Reservation", "RoomStatus"]


def test_a_stay_that_was_paid_for_costs_more_by_a_charge() -> None:
    """A higher amount of the reservation would be asked of nobody: the room is charged once."""
    known = in_house(stay=PAID)
    with pytest.raises(NotPossible, match="charge R1 AMOUNT --category room"):
        front_desk.amend(known, {"checkout_date": "2026-07-18", "total_amount": 33600})
    assert front_desk.amend(known, {"checkout_date": "2026-07-18"}).changes
    assert front_desk.amend(in_house(), {"total_amount": 33600}).changes


def test_the_receipt_says_what_was_paid() -> None:
    """In Japanese and English; while the hub does not know of it, it is marked."""
    bill = depart(in_house(owed=1200, currency="JPY", guest_name="山田太郎")).bill
    assert bill is not None
    lines = receipt(bill, hotel="default", at=AT, operator="佐藤", device="desk-1", waiting=True)

    assert lines[:4] == ["領収書 / Receipt", "default", "No. B1", "2026-07-15 15:04"]
    assert "山田太郎 様" in lines
    assert "宿泊料 / Room  16,800 JPY" in lines
    assert "合計 / Total  18,000 JPY" in lines
    assert "お支払い / Paid by  現金 / cash" in lines
    assert lines[-1] == "（同期待ち）"


# -- undone -----------------------------------------------------------------------------------------------------------


def test_a_check_in_is_undone() -> None:
    """The room is free and the guest expected again; what was paid for is not undone."""
    deed = front_desk.undo_arrival(in_house(), today=TODAY)

    assert said(deed) == [
        ("CheckIn", "DELETE", "R1", {"room_number": "301", "payment_status": "pending"}),
        ("Reservation", "UPDATE", "R1", {"status": "confirmed"}),
        ("RoomStatus", "UPDATE", "room-301", {"status": "vacant_clean", "availability_date": "2026-07-15"}),
    ]
    with pytest.raises(NotPossible, match="was settled"):
        front_desk.undo_arrival(in_house(stay=PAID), today=TODAY)
    with pytest.raises(NotPossible, match="has no check-in to undo"):
        front_desk.undo_arrival(expected(), today=TODAY)


def test_a_check_out_is_undone() -> None:
    """Unless somebody else is in the room by now."""
    left = Known(reservation(status="checked_out", room_number="301"), PAID, room=ROOM)

    assert said(front_desk.undo_departure(left, others=["R1"]))[1:] == [
        ("Reservation", "UPDATE", "R1", {"status": "checked_in"}),
        ("RoomStatus", "UPDATE", "room-301", {"status": "occupied", "availability_date": "2026-07-16"}),
    ]
    with pytest.raises(NotPossible, match="room 301 is taken by R2"):
        front_desk.undo_departure(left, others=["R2"])


def test_a_no_show_and_its_undoing() -> None:
    """Not before the day; without a room there is none to name."""
    known = Known(reservation())
    deed = front_desk.stay_away(known, today=TODAY)

    assert said(deed) == [
        ("NoShow", "CREATE", "R1", {"room_number": "-", "payment_status": "pending"}),
        ("Reservation", "UPDATE", "R1", {"status": "no_show"}),
    ]
    with pytest.raises(Doubtful, match="expected on 2026-07-15"):
        front_desk.stay_away(known, today=date(2026, 7, 14))
    back = front_desk.undo_no_show(Known(reservation(status="no_show")))
    assert [one.operation for one in back.changes] == ["DELETE", "UPDATE"]
    with pytest.raises(NotPossible, match="has no no-show to undo"):
        front_desk.undo_no_show(known)


# -- reservations -----------------------------------------------------------------------------------------------------


def test_a_reservation_is_changed_and_called_off() -> None:
    """Only by what is news, and only while it makes sense."""
    known = expected()

    assert said(front_desk.amend(known, {"checkout_date": "2026-07-18", "room_type": "standard", "adults": None})) == [
        ("Reservation", "UPDATE", "R1", {"checkout_date": "2026-07-18"})
    ]
    assert said(front_desk.cancel(known)) == [("Reservation", "DELETE", "R1", {})]
    with pytest.raises(NotPossible, match="nothing is changed"):
        front_desk.amend(known, {"room_type": "standard"})
    with pytest.raises(NotPossible, match="room and arrival stay as they are"):
        front_desk.amend(in_house(), {"room_number": "302"})
    with pytest.raises(NotPossible, match="cannot be changed"):
        front_desk.amend(expected(status="cancelled"), {"adults": 2})
    with pytest.raises(NotPossible, match="cannot be cancelled"):
        front_desk.cancel(in_house())


# -- orders, charges, points, rooms -----------------------------------------------------------------------------------


def test_an_order_is_an_estimate_until_it_is_on_the_bill() -> None:
    """Then it is a charge on the folio, once."""
    placed = room_service.place_order(
        "O1", in_house(), "301", [OrderLine.read("コーヒー:2:800"), OrderLine.read("a:1:0.5")], at=AT, currency="JPY"
    )
    [(model, _, _, order)] = said(placed)
    assert (model, order["estimated"], order["total_amount"], order["reservation_id"]) == ("Order", True, 1600.5, "R1")

    held = order | {"order_id": "O1"}
    billed = room_service.bill_order(held, in_house(owed=100), charge_id="B2")
    assert said(billed)[0] == ("Order", "UPDATE", "O1", {"estimated": False})
    charged = said(billed)[1][3]
    assert (charged["amount"], charged["balance"], charged["order_id"]) == (1600.5, 1700.5, "O1")
    assert said(room_service.cancel_order(held)) == [("Order", "DELETE", "O1", {})]

    on_bill = held | {"estimated": False}
    refused: list[Callable[[], Deed]] = [
        lambda: room_service.bill_order(on_bill, in_house(), charge_id="B3"),
        lambda: room_service.cancel_order(on_bill),
        lambda: room_service.bill_order(held, expected(), charge_id="B3"),
        lambda: room_service.place_order("O2", None, "301", [], at=AT, currency=None),
    ]
    for again in refused:
        with pytest.raises(NotPossible):
            again()


@pytest.mark.parametrize(
    "text",
    [
        "coffee",
        "coffee:2",
        "coffee:x:1",
        "coffee:0:1",
        ":1:1",
        "a:1:-1",
        "a:1:NaN",
        "a:1:0.00001",
        "a:99999999999999999:1",
    ],
)
def test_an_order_is_written_as_it_is_said(text: str) -> None:
    """Name, quantity, price."""
    with pytest.raises(NotPossible, match="name:quantity:price"):
        OrderLine.read(text)


def test_a_charge_goes_on_the_balance() -> None:
    """Of who is in house, and never less than nothing."""

    def charged(known: Known, amount: str) -> Deed:
        return room_service.charge(
            known, Decimal(amount), charge_id="B1", category="service", reason="laundry", currency=None
        )

    [(model, operation, folio, payload)] = said(charged(in_house(owed=0.1), "0.2"))
    assert (model, operation, folio, payload["balance"], payload["reason"]) == (
        "Billing",
        "CREATE",
        "F-R1",
        0.3,
        "laundry",
    )
    for known, amount in ((expected(), "1"), (in_house(), "0"), (in_house(), "-5"), (in_house(), "NaN")):
        with pytest.raises(NotPossible):
            charged(known, amount)


def test_points_are_used_within_what_is_known() -> None:
    """What this desk has used and not told yet is used; what it has given is not there yet (R65)."""

    def points(delta: int, *, waiting: int = 0, **said: Any) -> Deed:
        return room_service.points({"customer_id": "C1", **said}, delta, ledger_id="L1", waiting=waiting)

    assert said(points(-50, total_points=50)) == [
        ("Customer", "UPDATE", "C1", {"points_delta": -50, "points_ledger_id": "L1"})
    ]
    assert points(100)
    for delta, waiting, known in (
        (-50, -1, {"total_points": 50}),
        (-51, 100, {"total_points": 50}),
        (-1, 0, {}),
        (0, 0, {}),
    ):
        with pytest.raises(NotPossible):
            points(delta, waiting=waiting, **known)


def test_a_room_is_changed_or_added() -> None:
    """One that guests are in stays occupied."""

    def changed(room: dict[str, Any] | None, *guests: str, **news: Any) -> Deed:
        return room_service.set_room("301", room, news, today=TODAY, guests=guests)

    assert said(changed(ROOM, status="cleaning", housekeeping=None)) == [
        ("RoomStatus", "UPDATE", "room-301", {"status": "cleaning"})
    ]
    assert changed(ROOM | {"status": "occupied"}, "R1", housekeeping="dirty")
    [(_, operation, id, added)] = said(changed(None, room_type="twin"))
    assert (operation, id, added["status"], added["room_number"]) == ("CREATE", "room-301", "vacant_clean", "301")
    for room, guests, news in (
        (None, (), {"status": "cleaning"}),
        (ROOM, (), {"status": "vacant_clean"}),
        (ROOM | {"status": "occupied"}, ("R1",), {"status": "vacant_dirty"}),
    ):
        with pytest.raises(NotPossible):
            changed(room, *guests, **news)


# -- as a database takes them -----------------------------------------------------------------------------------------


def test_a_stay_from_booking_to_departure_is_taken_by_the_desks_database(rig: DeskRig, local: LocalDatabase) -> None:
    """Every deed fits its schemas, and the records are as it says."""

    def do(deed: Deed) -> None:
        local.operate(deed.changes, operator="佐藤", operation=deed.operation, role="front_desk")

    def data(type: str, entity: str) -> dict[str, Any]:
        record = local.record(type, entity)
        assert record is not None
        return record.data

    def known() -> Known:
        folio = local.record("billing", "billing:F-R1")
        stay = local.record("checkin_checkout", "reservation:R1")
        return Known(
            data("reservation", "reservation:R1"),
            None if stay is None else stay.data,
            None if folio is None else folio.data,
            data("room", "room:room-301"),
        )

    do(room_service.set_room("301", None, {"room_type": "standard", "base_price": 9000}, today=TODAY))
    booking = reservation()
    do(front_desk.book("R1", {name: booking[name] for name in booking if name not in ("reservation_id", "status")}))
    do(front_desk.amend(known(), {"room_number": "301"}))
    steps: list[Callable[[], Deed]] = [
        lambda: front_desk.stay_away(known(), today=TODAY),
        lambda: front_desk.undo_no_show(known()),
        lambda: arrive(known()),
        lambda: front_desk.undo_arrival(known(), today=TODAY),
        lambda: arrive(known()),
        lambda: room_service.place_order("O1", known(), "301", [OrderLine("a", 1, Decimal(700))], at=AT, currency=None),
        lambda: room_service.bill_order(data("order", "order:O1"), known(), charge_id="B0"),
        lambda: depart(known()),
        lambda: front_desk.undo_departure(known(), others=()),
        lambda: room_service.charge(
            known(), Decimal(300), charge_id="B9", category="other", reason=None, currency=None
        ),
        lambda: depart(known(), "invoice"),
    ]
    statuses = []
    for step in steps:
        do(step())
        statuses.append((data("reservation", "reservation:R1")["status"], data("room", "room:room-301")["status"]))

    assert statuses == [
        ("no_show", "vacant_clean"),
        ("confirmed", "vacant_clean"),
        ("checked_in", "occupied"),
        ("confirmed", "vacant_clean"),
        *[("checked_in", "occupied")] * 3,
        ("checked_out", "vacant_dirty"),
        *[("checked_in", "occupied")] * 2,
        ("checked_out", "vacant_dirty"),
    ]
    stay = data("checkin_checkout", "reservation:R1")
    assert (stay["payment_status"], stay["additional_charges"]) == ("completed", 1000)
    assert data("billing", "billing:F-R1")["balance"] == 0
