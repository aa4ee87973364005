"""What the registry declares, reads and refuses."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import registry
from schemas.envelope import Draft, Event, EventType
from schemas.errors import MAX_FIELD_ERRORS, Problem
from schemas.registry import EVENT_TYPES
from schemas.types import HUB, SYSTEMS

Golden = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("kind", EVENT_TYPES.values(), ids=list(EVENT_TYPES))
def test_a_type_is_declared_whole(kind: EventType) -> None:
    """Versions count from 1 without a hole, each but the newest has an upcast, and names agree with the classes."""
    assert list(kind.versions) == list(range(1, kind.newest + 1))
    assert set(kind.upcasts) == set(range(1, kind.newest))
    assert get_args(kind.event.model_fields["type"].annotation) == (kind.name,)
    assert get_args(kind.event.model_fields["action"].annotation) == kind.actions
    assert kind.event.model_fields["data"].annotation is kind.versions[kind.newest]
    assert set(kind.targets) <= set(SYSTEMS)
    assert kind.authority in {*SYSTEMS, HUB}
    assert set(kind.others) <= set(kind.actions)
    assert all(kind.versions[version].model_config["extra"] == "forbid" for version in kind.versions)
    for version in kind.versions:
        for field in kind.entity_fields:
            assert kind.versions[version].model_fields[field].is_required()
    for others in kind.others.values():
        fields = kind.versions[kind.newest].model_fields
        assert (others.fields or set()) <= set(fields)
        assert others.permission is None or fields[others.permission].annotation is bool


def test_a_draft_and_an_event_have_the_same_fields() -> None:
    """What is stored can be sent on, and nothing can be sent that is not stored."""
    assert set(Draft.model_fields) == set(Event.model_fields)


def test_a_report_is_told_apart_by_type_and_period() -> None:
    """Reports of different days are different entities: a revision counts corrections of one of them."""
    data = {"report_type": "daily_report", "period_start": "2026-01-01", "period_end": "2026-01-01"}
    assert EVENT_TYPES["analytics"].entity_of(data) == "analytics:daily_report:2026-01-01"


def test_a_stay_hangs_on_its_reservation() -> None:
    """Check-in and booking share one order of events."""
    assert EVENT_TYPES["checkin_checkout"].entity_of({"reservation_id": "R:1/ä"}) == "reservation:R:1/ä"


@given(st.text(max_size=140))
def test_every_accepted_id_makes_a_valid_entity(text: str) -> None:
    """An id fits the data exactly when the entity it makes can be subscribed to and sent back."""
    kind = EVENT_TYPES["alert"]
    data = {"alert_id": text, "severity": "info", "message": "m"}
    fits = registry.validate_data(kind, 1, data) == []
    draft = {"type": "alert", "action": "raised", "data": data, "entity": kind.entity_of(data)}
    try:
        Draft.model_validate(draft)
    except ValidationError:
        assert not fits
    else:
        assert fits
    if fits:
        assert not any(character.isspace() or ord(character) < 32 or 127 <= ord(character) < 160 for character in text)


@pytest.mark.parametrize("text", ["a b", "a\tb", "a\nb", "", "a\u3000b", "a\x7f", "a\x9b31m", "x" * 129])
def test_ids_with_spaces_or_controls_are_refused(text: str) -> None:
    """Ids stand in Redis hash fields, log lines and terminals."""
    data = {"alert_id": text, "severity": "info", "message": "m"}
    assert [error.path for error in registry.validate_data(EVENT_TYPES["alert"], 1, data)] == ["data.alert_id"]


@pytest.mark.parametrize("newest", [True, False], ids=["newest version", "newer hub"])
def test_fields_of_a_newer_hub_are_ignored_on_read(golden: Golden, newest: bool) -> None:
    """A reader older than the hub goes on reading, in the envelope, the data and lists within."""
    event = golden("order.v2")
    known = registry.read(orjson.dumps(event))
    event["mood"] = "good"
    event["data"]["mood"] = "good"
    event["data"]["items"][0]["mood"] = {"deep": True}
    if newest:
        assert registry.read(orjson.dumps(event)) == known
    else:
        event["schema_version"] = 3
        assert registry.read(orjson.dumps(event)).data == known.data


def test_fields_of_a_newer_hub_are_ignored_before_an_upcast(golden: Golden) -> None:
    """An old version with a field added since is upcast all the same."""
    event = golden("order.v1")
    known = registry.read(orjson.dumps(event))
    event["data"]["mood"] = "good"
    assert registry.read(orjson.dumps(event)) == known


@pytest.mark.parametrize("change", [{"type": "spa"}, {"action": "steamed"}])
def test_unknown_types_and_actions_are_read_as_unknown(golden: Golden, change: dict[str, str]) -> None:
    """A newer hub's event is handed on with its data as it came."""
    event = golden("room.v1") | change
    found = registry.read(orjson.dumps(event))
    assert type(found) is registry.UnknownEvent
    assert found.name == f"{event['type']}.{event['action']}"
    assert found.data == event["data"]


def test_a_misleading_envelope_is_read_the_long_way(golden: Golden) -> None:
    """The type is the envelope's own, also where another one stands before it."""
    event = golden("room.v1")
    data = {"type": "order", "action": "placed"} | event["data"]
    head = {"event_id": event["event_id"], "schema_version": 1, "data": data}
    found = registry.read(orjson.dumps(head | {key: value for key, value in event.items() if key not in head}))
    assert found.type == "room"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b"[]",
        b"null",
        b"{}",
        b'{"type":[]}',
        b'{"type":"order","action":"placed","schema_version":1,"data":{}}',
        b"\xff",
    ],
)
def test_what_is_no_event_is_refused_on_read(raw: bytes) -> None:
    """Whatever stands in a stream, the reader sees one kind of error."""
    with pytest.raises(ValidationError):
        registry.read(raw)


def test_an_event_that_lies_about_its_version_is_refused_on_read(golden: Golden) -> None:
    """An upcast is not tried on data that is not of its version."""
    with pytest.raises(ValidationError):
        registry.read(orjson.dumps(golden("order.v2") | {"schema_version": 1}))


def test_an_unknown_type_is_refused_with_the_known_ones() -> None:
    """The refusal names the field and what would do."""
    with pytest.raises(Problem) as raised:
        registry.event_type("spa")
    assert raised.value.code == "invalid_event"
    assert raised.value.errors[0].path == "type"
    assert "reservation" in raised.value.errors[0].message


def test_an_unknown_action_is_refused_with_the_known_ones() -> None:
    """The refusal names the field and what would do."""
    assert registry.require_known("room", "price_updated") is EVENT_TYPES["room"]
    with pytest.raises(Problem) as raised:
        registry.require_known("room", "placed")
    assert raised.value.errors[0].path == "action"
    assert "status_changed" in raised.value.errors[0].message


@pytest.mark.parametrize("version", [0, -1, 3, 10**14])
def test_an_unknown_version_is_a_field_error(golden: Golden, version: int) -> None:
    """The refusal names the field and the known versions."""
    errors = registry.validate_data(EVENT_TYPES["order"], version, golden("order.v2")["data"])
    assert [error.path for error in errors] == ["schema_version"]
    assert "1, 2" in errors[0].message


def test_field_errors_name_every_wrong_field_and_no_value(golden: Golden) -> None:
    """One answer tells all that is wrong, and repeats nothing that may identify a guest."""
    data = golden("order.v2")["data"]
    data["items"][1]["quantity"] = "secret-4"
    data["surprise"] = "secret-5"
    data["notes"] = ["secret-6"]
    del data["room_number"]
    errors = registry.validate_data(EVENT_TYPES["order"], 2, data)
    assert {error.path for error in errors} == {
        "data.items.1.quantity",
        "data.surprise",
        "data.notes",
        "data.room_number",
    }
    assert next(error.message for error in errors if error.path == "data.surprise") == "unknown field"
    assert "secret" not in repr(errors)


def test_field_errors_are_bounded(golden: Golden) -> None:
    """An answer does not outgrow the request: a body of junk is not listed field by field."""
    data = golden("room.v1")["data"] | {f"x{index}": 1 for index in range(5000)}
    assert len(registry.validate_data(EVENT_TYPES["room"], 1, data)) == MAX_FIELD_ERRORS


@pytest.mark.parametrize("value", [2**70, object(), {1: 2}, "\ud800"])
def test_data_that_is_no_json_is_a_field_error(value: Any) -> None:
    """Code that publishes gets a refusal, not a crash."""
    data = {"topic": "t", "message": "m", "detail": {"value": value}}
    assert [error.path for error in registry.validate_data(EVENT_TYPES["system"], 1, data)] == ["data"]


@pytest.mark.parametrize(
    ("name", "change", "path"),
    [
        ("reservation.v1", {"checkout_date": "2026-07-14"}, "data"),
        ("analytics.v1", {"period_end": "2026-07-13"}, "data"),
        ("customer.v1", {"points_ledger_id": None}, "data"),
        ("reservation.v1", {"total_amount": -1}, "data.total_amount"),
        ("room.v1", {"base_price": -0.5}, "data.base_price"),
        ("order.v2", {"items": []}, "data.items"),
        ("order.v1", {"quantity": 9999, "unit_price": 99999999999.9999}, "data"),
        ("analytics.v1", {"occupancy_rate": 1.01}, "data.occupancy_rate"),
        ("checkin_checkout.v1", {"payment_status": "Pending"}, "data.payment_status"),
        ("reservation.v1", {"adults": 999}, None),
        ("reservation.v1", {"adults": True}, "data.adults"),
        ("reservation.v1", {"adults": 2.0}, "data.adults"),
        ("reservation.v1", {"adults": "2"}, "data.adults"),
        ("customer.v1", {"updatable_by_pms": 1}, "data.updatable_by_pms"),
    ],
)
def test_rules_of_the_types(golden: Golden, name: str, change: dict[str, Any], path: str | None) -> None:
    """What a field may say, at its edge."""
    kind, version = name.split(".v")
    errors = registry.validate_data(EVENT_TYPES[kind], int(version), golden(name)["data"] | change)
    assert [error.path for error in errors] == ([] if path is None else [path])


@given(quantity=st.integers(1, 9999), units=st.integers(0, 10**15 - 1), places=st.integers(0, 4))
def test_an_accepted_order_can_always_be_upcast(quantity: int, units: int, places: int) -> None:
    """What enters as version 1 can be read as version 2, with an exact total."""
    kind = EVENT_TYPES["order"]
    price = units / 10**places if places else units
    data = {"order_id": "o", "room_number": "1", "item": "beer", "quantity": quantity, "unit_price": price}
    if registry.validate_data(kind, 1, data):
        assert quantity * units >= 10 ** (11 + places)
        return
    newer = registry.upcast(kind, 1, data)
    assert registry.validate_data(kind, 2, newer) == []
    assert Decimal(repr(newer["total_amount"])) == Decimal(quantity * units).scaleb(-places)
