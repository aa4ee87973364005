"""Which event an operation of a desk becomes."""

from __future__ import annotations

from typing import Any

import pytest

from hub.core.sync_models import Planned, event_of, said, type_of
from schemas import registry
from schemas.errors import Problem
from schemas.registry import EVENT_TYPES
from schemas.sync import entity_of

BOOKING = {
    "reservation_id": "1",
    "room_type": "twin",
    "checkin_date": "2026-07-15",
    "checkout_date": "2026-07-17",
    "total_amount": 24000,
    "status": "confirmed",
    "origin": "phone",
    "room_number": "301",
    "customer_id": "C1",
}
ROOM = {
    "room_id": "1",
    "room_number": "301",
    "room_type": "twin",
    "status": "occupied",
    "availability_date": "2026-07-15",
}
ORDER = {
    "order_id": "1",
    "room_number": "301",
    "items": [{"name": "tea", "quantity": 1, "unit_price": 5}],
    "total_amount": 5,
}
STATES: dict[str, dict[str, Any]] = {
    "reservation": BOOKING | {"origin_system": "hotel-member", "synced_at": "x", "updated_by_system": "hotel-pms"},
    "room": ROOM,
    "order": ORDER,
    "customer": {"customer_id": "1", "name": "Ito", "updatable_by_pms": True, "rank_id": "gold"},
}


def plan(model: str, operation: str, payload: dict[str, Any], action: str | None = None) -> Planned:
    """The event of an operation on an entity that is known."""
    told = said(model, operation, "1", payload, None)
    return event_of(model, operation, action, entity_of(model, "1"), told, STATES)


@pytest.mark.parametrize(
    ("model", "operation", "payload", "action"),
    [
        ("Reservation", "CREATE", BOOKING, "created"),
        ("Reservation", "UPDATE", {"adults": 2}, "updated"),
        ("Reservation", "UPDATE", {"status": "checked_in"}, "checked_in"),
        ("Reservation", "UPDATE", {"status": "confirmed", "adults": 2}, "updated"),
        ("Reservation", "DELETE", {}, "cancelled"),
        ("CheckIn", "CREATE", {"payment_status": "pending"}, "checked_in"),
        ("CheckOut", "CREATE", {"payment_status": "completed", "room_number": "301"}, "checked_out"),
        ("NoShow", "CREATE", {"payment_status": "failed"}, "no_show"),
        ("RoomStatus", "UPDATE", {"status": "cleaning"}, "status_changed"),
        ("RoomStatus", "UPDATE", {"maintenance_notes": "tap"}, "maintenance_updated"),
        ("RoomStatus", "UPDATE", {"base_price": 9}, "price_updated"),
        ("Order", "CREATE", ORDER, "placed"),
        ("Order", "UPDATE", {"notes": "no ice"}, "changed"),
        ("Order", "DELETE", {}, "cancelled"),
        ("Billing", "CREATE", {"amount": 5}, "charged"),
        ("Billing", "CREATE", {"amount": 5, "payment_method": "cash"}, "settled"),
        ("Billing", "UPDATE", {"amount": -5}, "corrected"),
        ("Customer", "UPDATE", {"phone": "1"}, "updated"),
        ("Customer", "UPDATE", {"points_delta": 5, "points_ledger_id": "L"}, "points_changed"),
        ("Customer", "UPDATE", {"rank_id": "black"}, "rank_changed"),
        ("AlertLog", "CREATE", {"severity": "info", "message": "m"}, "raised"),
        ("OperationLog", "CREATE", {"operation": "check_in"}, "recorded"),
    ],
)
def test_operations_have_their_events(model: str, operation: str, payload: dict[str, Any], action: str) -> None:
    """Each operation of each model is an event that fits its schema."""
    planned = plan(model, operation, payload)
    assert (planned.type, planned.action) == (type_of(model, operation), action)
    kind = EVENT_TYPES[planned.type]
    assert registry.validate_data(kind, kind.newest, planned.data) == []


def test_what_happened_to_a_guest_is_undone_once_it_has() -> None:
    """An undone check-in is an edit of its reservation; of a guest whom nothing happened to, nothing is undone."""
    told = said("CheckIn", "DELETE", "1", {}, None)
    stay = {"checkin_checkout": {"reservation_id": "1", "room_number": "301", "payment_status": "pending"}}
    planned = event_of("CheckIn", "DELETE", None, "reservation:1", told, STATES | stay)
    assert (planned.type, planned.action, planned.data["status"]) == ("reservation", "updated", "confirmed")
    with pytest.raises(Problem, match="no CheckIn that could be undone"):
        plan("CheckIn", "DELETE", {})


def test_a_change_of_what_is_not_known_says_so() -> None:
    """Beside the fields that are missing for want of it; a creation that lacks fields misses those alone."""
    told = said("Reservation", "UPDATE", "7", {"adults": 2}, None)
    with pytest.raises(Problem) as refused:
        event_of("Reservation", "UPDATE", None, "reservation:7", told, {})
    first, *others = refused.value.errors
    assert (first.path, "nothing is known of reservation:7" in first.message) == ("entity_id", True)
    assert "payload.room_type" in [error.path for error in others]
    with pytest.raises(Problem) as refused:
        event_of("Reservation", "CREATE", None, "reservation:7", told, {})
    assert {error.path.partition(".")[0] for error in refused.value.errors} == {"payload"}


def test_a_named_action_goes_before_the_derived_one() -> None:
    """Where an operation may mean several actions, the item says which; one that the type has not is refused."""
    assert plan("Billing", "CREATE", {"amount": 5}, "refunded").action == "refunded"
    with pytest.raises(Problem, match="no action 'paid'"):
        plan("Billing", "CREATE", {"amount": 5}, "paid")


def test_what_is_known_completes_an_event() -> None:
    """Types whose events carry the whole state are completed by it, without its tracking; the origin stays."""
    planned = plan("Reservation", "UPDATE", {"adults": 2, "channel": None})
    assert planned.data["room_type"] == "twin"
    assert planned.data["origin_system"] == "hotel-member"
    assert "synced_at" not in planned.data
    assert planned.data["channel"] is None
    assert plan("CheckIn", "CREATE", {"payment_status": "pending"}).data["room_number"] == "301"


def test_a_customers_event_says_what_changed() -> None:
    """A customer's event has what the desk may change, and what lets it; not what only the authority may say."""
    planned = plan("Customer", "UPDATE", {"phone": "090"})
    assert planned.data == {"customer_id": "1", "phone": "090", "updatable_by_pms": True, "updated_fields": ["phone"]}


def test_an_older_schema_is_brought_up() -> None:
    """A whole payload of an older version is read; a part of one cannot be."""
    old = {"room_number": "301", "item": "tea", "quantity": 2, "unit_price": 5}
    assert said("Order", "CREATE", "1", old, 1)["total_amount"] == 10
    with pytest.raises(Problem, match=r"payload\.item"):
        said("Order", "UPDATE", "1", {"quantity": 2}, 1)
    with pytest.raises(Problem, match="this hub is older"):
        said("Order", "CREATE", "1", ORDER, 3)


def test_an_id_cannot_be_two() -> None:
    """A payload that names another entity than the item is refused."""
    with pytest.raises(Problem, match=r"payload\.reservation_id"):
        said("Reservation", "UPDATE", "1", {"reservation_id": "2"}, None)
