"""Who may do what at the desk (R90): online all that the role may, offline what of it can be stood for without the hub.

These are the desk's own rights, by the PIN that was typed; what the hub takes is decided by the token, whatever the
role.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, get_args

from consumers.errors import ConsumerError
from consumers.offline.status import Text
from schemas import billing
from schemas.sync import ModelName, Operation

Role = Literal["front_desk", "manager", "housekeeping", "accounting", "room_service"]
Feature = Literal[
    "check_in",
    "check_in_cancel",
    "check_out",
    "no_show",
    "reservations",
    "customers",
    "points",
    "new_members",
    "orders",
    "stock",
    "charges",
    "settlement",
    "refund",
    "correction",
    "external_payment",
    "room_status",
    "maintenance",
    "room_price",
    "live_stock",
    "ota_stock",
    "other_systems",
    "daily_report",
    "alerts",
    "forms",
    "sync_failures",
    "conflicts",
    "operators",
]
"""A function of the desk.

`points` are used or given; `stock` is room service's, `live_stock` the hotel's rooms; `charges` put something on a
bill, `settlement` takes the money, `correction` changes what stands there; `forms` are print and CSV; `other_systems`
is what the others know; `sync_failures` are sent again or discarded, `conflicts` decided; `operators` are given PINs
and roles.
"""

FEATURES: Final[tuple[Feature, ...]] = get_args(Feature)
ROLES: Final[tuple[Role, ...]] = get_args(Role)
NAMES: Final[Mapping[Role, Text]] = MappingProxyType(
    {
        "front_desk": Text("フロント", "Front desk"),
        "manager": Text("責任者", "Manager"),
        "housekeeping": Text("客室清掃", "Housekeeping"),
        "accounting": Text("経理", "Accounting"),
        "room_service": Text("ルームサービス", "Room service"),
    }
)


class Rights(NamedTuple):
    """What a role may: `always`, and `online` only while the hub is reached."""

    always: frozenset[Feature]
    online: frozenset[Feature]


def _rights(always: set[Feature], online: set[Feature]) -> Rights:
    return Rights(frozenset(always), frozenset(online))


_NEEDS_HUB: Final[frozenset[Feature]] = frozenset({"new_members", "external_payment", "ota_stock", "conflicts"})

RIGHTS: Final[Mapping[Role, Rights]] = MappingProxyType(
    {
        # Somebody must be able to give a new PIN, refund a guest and close the day in a long outage.
        "manager": Rights(frozenset(FEATURES) - _NEEDS_HUB, _NEEDS_HUB),
        "front_desk": _rights(
            {
                "check_in",
                "check_in_cancel",
                "check_out",
                "no_show",
                "reservations",
                "customers",
                "points",
                "orders",
                "stock",
                "charges",
                "settlement",
                "room_status",
                "maintenance",
                "live_stock",
                "other_systems",
                "daily_report",
                "alerts",
                "forms",
                "sync_failures",
            },
            # Offline nobody sees whether the money was given back at another desk already.
            {"refund", "new_members", "external_payment", "ota_stock"},
        ),
        "housekeeping": _rights({"room_status", "maintenance", "alerts"}, {"stock", "other_systems"}),
        "accounting": _rights(
            {"charges", "settlement", "daily_report", "alerts", "forms"},
            # Two corrections of one bill wait for a person to decide: not to be made blindly.
            {"refund", "correction", "customers", "external_payment", "other_systems", "sync_failures", "conflicts"},
        ),
        "room_service": _rights({"orders", "charges", "stock", "alerts", "forms"}, {"customers", "other_systems"}),
    }
)


class NotAllowed(ConsumerError):
    """The role may not do this, or not while the hub is not reached (`offline_only`)."""

    def __init__(self, role: str, feature: str, *, offline_only: bool) -> None:
        when = "while the hub is not reached" if offline_only else "at all"
        super().__init__(f"the role {role} may not use {feature} {when}")
        self.role = role
        self.feature = feature
        self.offline_only = offline_only


def may(role: Role, feature: Feature, *, online: bool) -> bool:
    """Whether a role may use a feature now."""
    rights = RIGHTS[role]
    return feature in rights.always or (online and feature in rights.online)


def require(role: Role, feature: Feature, *, online: bool) -> None:
    """Raises `NotAllowed` where `may` says no."""
    if not may(role, feature, online=online):
        raise NotAllowed(role, feature, offline_only=feature in RIGHTS[role].online)


_STAYS: Final[Mapping[ModelName, Feature]] = MappingProxyType(
    {"CheckIn": "check_in", "CheckOut": "check_out", "NoShow": "no_show"}
)
_STATUSES: Final[Mapping[Any, Feature]] = MappingProxyType(
    {"checked_in": "check_in", "checked_out": "check_out", "no_show": "no_show"}
)
_RESERVATION: Final[frozenset[Feature]] = frozenset({"reservations"})
_MOVEMENTS: Final[Mapping[Any, Feature]] = MappingProxyType(
    {"charged": "charges", "settled": "settlement", "refunded": "refund", "corrected": "correction"}
)
_PLAIN: Final[Mapping[ModelName, Feature]] = MappingProxyType(
    {"Order": "orders", "DailyReport": "daily_report", "AlertLog": "alerts"}
)


def needed(
    model: ModelName,
    operation: Operation,
    payload: Mapping[str, Any],
    *,
    action: str | None = None,
    held: Mapping[str, Any] | None = None,
) -> frozenset[Feature]:
    """What an operator must be allowed for a change (`consumers.offline.items.LocalChange`).

    `held` is the record's present data: what the payload only repeats of it needs no right. Empty: the operation log,
    which writes itself.
    """
    known = held or {}
    news = {name for name, value in payload.items() if name not in known or known[name] != value}
    match model:
        case "OperationLog":
            return frozenset()
        case "CheckIn" | "CheckOut" | "NoShow":
            return frozenset({"check_in_cancel" if operation == "DELETE" else _STAYS[model]})
        case "Reservation":
            return _of_reservation(known.get("status"), payload["status"]) if "status" in news else _RESERVATION
        case "Customer":
            return _of_customer(operation, payload, news)
        case "Billing":
            return frozenset({_of_billing(operation, payload, action)})
        case "RoomStatus":
            return _of_room(action, news)
        case _:
            return frozenset({_PLAIN[model]})


def _of_reservation(before: Any, after: Any) -> frozenset[Feature]:
    if before in _STATUSES and (before, after) != ("checked_in", "checked_out"):
        return _RESERVATION | {"check_in_cancel"}
    return _RESERVATION | {_STATUSES[after]} if after in _STATUSES else _RESERVATION


def _of_customer(operation: Operation, payload: Mapping[str, Any], news: set[str]) -> frozenset[Feature]:
    if operation == "CREATE":
        return frozenset({"new_members"})
    points = payload.get("points_delta") is not None or "total_points" in news
    contact = news - {"customer_id", "points_delta", "points_ledger_id", "total_points", "updated_fields"}
    features: set[Feature] = {"points"} if points else set()
    if contact or not points:
        features.add("customers")
    return frozenset(features)


def _of_billing(operation: Operation, payload: Mapping[str, Any], action: str | None) -> Feature:
    # An action that billing does not have is refused later; nobody gets round a right by it.
    return _MOVEMENTS.get(billing.action_of(operation, action, payload), "correction")


def _of_room(action: str | None, news: set[str]) -> frozenset[Feature]:
    features: set[Feature] = set()
    if "base_price" in news or "currency" in news or action == "price_updated":
        features.add("room_price")
    if "maintenance_notes" in news or action == "maintenance_updated":
        features.add("maintenance")
    if news & {"status", "housekeeping", "availability_date", "room_type", "room_number"} or not features:
        features.add("room_status")
    return frozenset(features)
