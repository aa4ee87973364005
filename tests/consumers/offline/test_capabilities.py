"""What works offline, for whom, and how the screen says so (R56, R64-R69, R90, R98)."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from consumers.offline.capabilities import LABELS, OFFLINE, Capability, UnknownSystem, capabilities, capability
from consumers.offline.roles import FEATURES, NAMES, RIGHTS, ROLES, Feature, Role, may, needed
from consumers.offline.status import Text
from schemas.sync import ModelName
from schemas.types import SYSTEMS


def offline(system: str, role: Role = "manager") -> dict[str, Capability]:
    """What a role can do while the line is down."""
    return {one.name: one for one in capabilities(system, online=False, role=role)}


@pytest.mark.parametrize(
    ("system", "level", "names"),
    [
        (
            "hotel-pms",
            "full",
            "check_in check_in_cancel check_out no_show settlement charges refund correction orders room_status "
            "maintenance daily_report forms alerts operators",
        ),
        ("hotel-pms", "limited", "reservations live_stock other_systems customers points room_price sync_failures"),
        ("hotel-pms", "unavailable", "new_members external_payment ota_stock conflicts"),
        ("hotel-saas", "full", "orders stock forms alerts operators"),
        ("hotel-saas", "limited", "charges other_systems customers sync_failures"),
        ("hotel-saas", "unavailable", "external_payment conflicts"),
        ("hotel-member", "full", "forms alerts operators"),
        ("hotel-member", "limited", "customers points reservations other_systems sync_failures"),
        ("hotel-member", "unavailable", "new_members external_payment conflicts"),
    ],
)
def test_what_is_left_offline(system: str, level: str, names: str) -> None:
    """R64 in full, R65 limited, R67 online only; R68 for room service, R69 for members: no more and no less."""
    assert [one.name for one in offline(system).values() if one.level == level] == names.split()


@pytest.mark.parametrize("system", SYSTEMS)
def test_online_all_works_in_full(system: str) -> None:
    """A manager has all features of the desk, in the same order, and nothing is greyed."""
    online = capabilities(system, online=True, role="manager")
    assert [one.name for one in online] == list(offline(system))
    assert all(one.level == "full" and one.available and not one.degraded and one.note is None for one in online)


def test_what_the_screen_says() -> None:
    """R98: greyed with the words of the requirements; what is limited says how, in both languages."""
    card = offline("hotel-pms")["external_payment"]
    assert (card.available, card.reason_ja, card.reason_en) == (
        False,
        "オフライン中のため使用不可",
        "Not available while offline",
    )
    estimate = offline("hotel-saas")["charges"]
    assert estimate.degraded
    assert "概算" in str(estimate.reason_ja)
    assert "Estimated" in str(estimate.reason_en)
    assert "復旧時に送信" in str(offline("hotel-pms")["alerts"].reason_ja)
    assert offline("hotel-pms")["check_in"].reason_ja is None


def test_every_limit_is_explained_and_every_feature_named() -> None:
    """A limited feature says how it is limited; each feature and role has a name in both languages."""
    for system in OFFLINE:
        for one in capabilities(system, online=False, role="manager"):
            assert one.level == "full" or (one.reason_ja and one.reason_en)
    assert set(LABELS) == set(FEATURES) == {name for table in OFFLINE.values() for name in table}
    assert set(NAMES) == set(RIGHTS) == set(ROLES)
    texts: list[Text] = [*LABELS.values(), *NAMES.values()]
    assert all(text.ja and text.en.isascii() for text in texts)


def test_what_a_role_may_not_is_told_apart_from_the_line() -> None:
    """Housekeeping never checks in; the front desk refunds, but not offline."""
    refused = capability("hotel-pms", "check_in", online=True, role="housekeeping")
    assert (refused.available, refused.reason_ja) == (False, "権限がないため使用不可")
    assert capability("hotel-pms", "check_in", online=False, role="housekeeping") == refused
    assert capability("hotel-pms", "refund", online=True, role="front_desk").level == "full"
    assert capability("hotel-pms", "refund", online=False, role="front_desk").reason_ja == "オフライン中のため使用不可"
    assert capability("hotel-pms", "refund", online=False, role="manager").available


def test_what_a_system_does_not_have() -> None:
    """A feature of another desk is unavailable, with the reason; an unknown system is an error that names the known."""
    assert (
        capability("hotel-saas", "check_in", online=True, role="manager").reason_en == "hotel-saas has no such function"
    )
    for ask in (
        lambda: capabilities("hotel-spa", online=True, role="manager"),
        lambda: capability("hotel-spa", "check_in", online=True, role="manager"),
    ):
        with pytest.raises(UnknownSystem, match="hotel-pms"):
            ask()


@pytest.mark.parametrize("role", ROLES)
def test_offline_a_role_may_less(role: Role) -> None:
    """R90: some of its rights are there online only, and none is there offline only."""
    rights = RIGHTS[role]
    assert rights.online
    assert not rights.always & rights.online
    for feature in FEATURES:
        assert may(role, feature, online=True) >= may(role, feature, online=False)


def test_somebody_may_use_every_feature() -> None:
    """No feature is out of everybody's reach, and only managers give PINs and roles."""
    assert all(any(may(role, feature, online=True) for role in ROLES) for feature in FEATURES)
    assert [role for role in ROLES if may(role, "operators", online=True)] == ["manager"]


def test_what_must_work_offline_works_at_the_front_desk() -> None:
    """R56: check-in with its cancellation, check-out with settlement and receipt, daily report, room status."""
    mandatory: list[Feature] = [
        "check_in",
        "check_in_cancel",
        "check_out",
        "settlement",
        "forms",
        "daily_report",
        "room_status",
    ]
    for feature in mandatory:
        assert capability("hotel-pms", feature, online=False, role="front_desk").level == "full"


@pytest.mark.parametrize(
    ("model", "operation", "payload", "more", "features"),
    [
        ("CheckIn", "CREATE", {"room_number": "301"}, {}, "check_in"),
        ("CheckIn", "DELETE", {}, {}, "check_in_cancel"),
        ("CheckOut", "UPDATE", {}, {}, "check_out"),
        ("NoShow", "CREATE", {}, {}, "no_show"),
        ("Reservation", "CREATE", {"status": "confirmed"}, {}, "reservations"),
        ("Reservation", "UPDATE", {"status": "checked_in"}, {}, "reservations check_in"),
        (
            "Reservation",
            "UPDATE",
            {"status": "checked_out"},
            {"held": {"status": "checked_in"}},
            "reservations check_out",
        ),
        (
            "Reservation",
            "UPDATE",
            {"status": "confirmed"},
            {"held": {"status": "checked_in"}},
            "reservations check_in_cancel",
        ),
        ("Reservation", "UPDATE", {"status": "checked_in"}, {"held": {"status": "checked_in"}}, "reservations"),
        ("Reservation", "DELETE", {}, {}, "reservations"),
        ("Customer", "CREATE", {"name": "n"}, {}, "new_members"),
        ("Customer", "UPDATE", {"phone": "1"}, {}, "customers"),
        ("Customer", "UPDATE", {"points_delta": -5, "points_ledger_id": "L"}, {}, "points"),
        ("Customer", "UPDATE", {"points_delta": -5, "email": "e"}, {}, "points customers"),
        ("Customer", "UPDATE", {"total_points": 5}, {}, "points"),
        ("RoomStatus", "UPDATE", {"status": "cleaning"}, {}, "room_status"),
        ("RoomStatus", "UPDATE", {"status": "cleaning", "base_price": 1}, {}, "room_status room_price"),
        ("RoomStatus", "UPDATE", {"status": "cleaning", "base_price": 1}, {"held": {"base_price": 1}}, "room_status"),
        ("RoomStatus", "UPDATE", {"maintenance_notes": "tap"}, {}, "maintenance"),
        ("Order", "DELETE", {}, {}, "orders"),
        ("Billing", "CREATE", {"amount": 5}, {}, "charges"),
        ("Billing", "CREATE", {"amount": 5, "payment_method": "cash"}, {}, "settlement"),
        ("Billing", "CREATE", {"amount": 5}, {"action": "refunded"}, "refund"),
        ("Billing", "CREATE", {"amount": 5, "payment_method": "cash"}, {"action": "corrected"}, "correction"),
        ("Billing", "CREATE", {"amount": 5}, {"action": "given"}, "correction"),
        ("Billing", "UPDATE", {"amount": -5}, {}, "correction"),
        ("DailyReport", "CREATE", {}, {}, "daily_report"),
        ("AlertLog", "CREATE", {}, {}, "alerts"),
        ("OperationLog", "CREATE", {}, {}, ""),
    ],
)
def test_what_a_change_takes(model: Any, operation: Any, payload: dict[str, Any], more: Any, features: str) -> None:
    """The rights that an operator needs for a change, by what it says that is new."""
    assert needed(model, operation, payload, **more) == frozenset(features.split())


def test_every_model_takes_some_right() -> None:
    """None but the operation log is free for all."""
    free = [model for model in get_args(ModelName) if not needed(model, "UPDATE", {})]
    assert free == ["OperationLog"]
