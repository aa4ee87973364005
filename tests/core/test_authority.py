"""Who may publish what (R29): every type, action and system, against the rules written out."""

from __future__ import annotations

from typing import Any

import pytest

from hub.core.authority import refusal
from schemas.registry import EVENT_TYPES
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS, HUB

SYSTEMS = (HOTEL_PMS, HOTEL_SAAS, HOTEL_MEMBER, HUB, "housekeeping-app")
AUTHORITY: dict[str, str] = {
    "reservation": HOTEL_PMS,
    "customer": HOTEL_MEMBER,
    "room": HOTEL_PMS,
    "checkin_checkout": HOTEL_PMS,
    "order": HOTEL_SAAS,
    "billing": HOTEL_PMS,
    "analytics": HOTEL_PMS,
    "daily_report": HOTEL_PMS,
    "alert": HOTEL_PMS,
    "operation_log": HOTEL_PMS,
    "system": HUB,
}
# What systems other than the authority may publish.
OTHERS: dict[str, set[str]] = {
    "reservation": {"created", "updated", "confirmed", "cancelled"},
    "customer": {"created", "updated", "points_changed"},
    "order": {"placed", "changed", "confirmed", "cancelled"},
    "billing": {"charged"},
    "alert": {"raised", "cleared"},
    "operation_log": {"recorded"},
}
EVERY = [(name, action) for name, kind in EVENT_TYPES.items() for action in kind.actions]


def test_every_type_has_its_authority() -> None:
    """The table above knows every type, and the named authorities are those of the requirements."""
    assert set(AUTHORITY) == set(EVENT_TYPES)
    for name, system in AUTHORITY.items():
        assert EVENT_TYPES[name].authority == system


@pytest.mark.parametrize(("name", "action"), EVERY)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_type_and_action(name: str, action: str, system: str) -> None:
    """The authority and the hub publish everything; others what is left to them, and are told which system does."""
    kind = EVENT_TYPES[name]
    found = refusal(kind, action, system, {"updatable_by_pms": True} if name == "customer" else {})
    if system in (AUTHORITY[name], HUB) or action in OTHERS.get(name, set()):
        assert found is None
    else:
        assert found is not None
        assert found.path == "action"
        assert AUTHORITY[name] in found.message


@pytest.mark.parametrize("system", [HOTEL_PMS, HOTEL_SAAS, "housekeeping-app"])
@pytest.mark.parametrize(
    ("action", "data", "path"),
    [
        ("created", {"customer_id": "c", "name": "N", "email": "a@b", "phone": "1"}, None),
        ("created", {"customer_id": "c", "rank_id": "gold"}, "data.rank_id"),
        ("created", {"customer_id": "c", "total_points": 0}, "data.total_points"),
        ("updated", {"customer_id": "c", "name": "N", "updatable_by_pms": True}, None),
        ("updated", {"customer_id": "c", "name": "N", "updatable_by_pms": False}, "data.updatable_by_pms"),
        ("updated", {"customer_id": "c", "name": "N"}, "data.updatable_by_pms"),
        ("updated", {"customer_id": "c", "total_points": 5, "updatable_by_pms": True}, "data.total_points"),
        ("updated", {"customer_id": "c", "total_points": None, "updatable_by_pms": True}, None),
        ("updated", {"updated_fields": ["name", "email"], "updatable_by_pms": True}, None),
        ("updated", {"updated_fields": ["name", "rank_id"], "updatable_by_pms": True}, "data.updated_fields.1"),
        ("points_changed", {"customer_id": "c", "points_delta": 5, "points_ledger_id": "l"}, None),
        ("points_changed", {"customer_id": "c", "total_points": 5}, "data.total_points"),
        ("points_changed", {"customer_id": "c", "name": "N"}, "data.name"),
        ("created", {"customer_id": "c", "origin_system": "x", "updated_by_system": "y", "synced_at": "z"}, None),
    ],
)
def test_the_customers_master_keeps_rank_and_points(
    system: str, action: str, data: dict[str, Any], path: str | None
) -> None:
    """Other systems change contact fields where allowed, and points by delta only; the refused field is named."""
    found = refusal(EVENT_TYPES["customer"], action, system, data)
    assert (None if found is None else found.path) == path
