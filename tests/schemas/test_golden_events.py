"""Stored events stay readable: every version ever written is read, and says the same as on the day it was written."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas import registry
from schemas.registry import EVENT_TYPES

Golden = Callable[[str], dict[str, Any]]

VERSIONS = [(kind.name, version) for kind in EVENT_TYPES.values() for version in kind.versions]
OLD = [(name, version) for name, version in VERSIONS if version < EVENT_TYPES[name].newest]
REQUIRED = {
    "reservation.v1": [
        "reservation_id",
        "room_type",
        "checkin_date",
        "checkout_date",
        "total_amount",
        "status",
        "origin",
    ],
    "customer.v1": ["customer_id"],
    "room.v1": ["room_id", "room_number", "room_type", "status", "availability_date"],
    "checkin_checkout.v1": ["reservation_id", "room_number", "payment_status"],
    "order.v1": ["order_id", "room_number", "item", "quantity", "unit_price"],
    "order.v2": ["order_id", "room_number", "items", "total_amount"],
    "billing.v1": ["folio_id", "amount"],
    "analytics.v1": [
        "report_type",
        "period_start",
        "period_end",
        "total_revenue",
        "occupancy_rate",
        "customer_count",
        "average_stay_duration",
        "generated_at",
    ],
    "daily_report.v1": ["business_date", "total_revenue"],
    "alert.v1": ["alert_id", "severity", "message"],
    "operation_log.v1": ["operation_id", "operation"],
    "system.v1": ["topic", "message"],
}
ENVELOPE_OPTIONAL = [
    "expected_revision",
    "device_id",
    "created_offline",
    "temp_id",
    "correlation_id",
    "causation_id",
    "traceparent",
]
INSTANT = re.compile(r"\d{4}-\d{2}-\d{2}T.*")


def comparable(node: Any) -> Any:
    """A JSON tree in which two spellings of one instant are equal."""
    if isinstance(node, dict):
        return {key: comparable(value) for key, value in node.items()}
    if isinstance(node, list):
        return [comparable(item) for item in node]
    return datetime.fromisoformat(node) if isinstance(node, str) and INSTANT.fullmatch(node) else node


def test_every_version_has_one_golden_event(golden_directory: Path) -> None:
    """A version without a golden file, or a file without a version, is a mistake."""
    wanted = {f"{name}.v{version}.json" for name, version in VERSIONS}
    wanted |= {f"{name}.v{version}.upcast.json" for name, version in OLD}
    assert {path.name for path in golden_directory.glob("*.json")} == wanted


def test_golden_events_are_never_edited(golden_directory: Path) -> None:
    """A changed golden file means that events already stored are read differently: add a version instead."""
    lines = (golden_directory / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in golden_directory.glob("*.json")}
    assert found == sums


@pytest.mark.parametrize(("name", "version"), VERSIONS)
def test_a_golden_event_names_every_field(golden: Golden, name: str, version: int) -> None:
    """Only a full event guards every field."""
    event = golden(f"{name}.v{version}")
    kind = EVENT_TYPES[name]
    assert set(event) == set(kind.event.model_fields)
    assert set(event["data"]) == set(kind.versions[version].model_fields)
    assert event["entity"] == kind.entity_of(event["data"])
    assert registry.validate_data(kind, version, event["data"]) == []


@pytest.mark.parametrize("name", REQUIRED)
def test_required_fields_stay_as_they_are(golden: Golden, name: str) -> None:
    """Stored events lack every optional field somewhere: one that becomes required would make them unreadable."""
    event = golden(name)
    kind = EVENT_TYPES[event["type"]]
    assert set(REQUIRED) == {f"{name}.v{version}" for name, version in VERSIONS}
    for field in ENVELOPE_OPTIONAL:
        del event[field]
    event["data"] = {field: event["data"][field] for field in REQUIRED[name]}
    assert registry.validate_data(kind, event["schema_version"], event["data"]) == []
    assert type(registry.read(orjson.dumps(event))) is kind.event
    for field in REQUIRED[name]:
        rest = {key: value for key, value in event["data"].items() if key != field}
        assert registry.validate_data(kind, event["schema_version"], rest) != []


@pytest.mark.parametrize(("name", "version"), VERSIONS)
@pytest.mark.parametrize("spaced", [False, True], ids=["as the hub writes it", "as others might"])
def test_a_golden_event_survives_reading(golden: Golden, name: str, version: int, spaced: bool) -> None:
    """Read as its class and written again, an event at the newest version of its type is what it was."""
    event = golden(f"{name}.v{version}")
    raw = orjson.dumps(event, option=orjson.OPT_INDENT_2 if spaced else 0)
    found = registry.read(raw)
    assert type(found) is EVENT_TYPES[name].event
    assert found.schema_version == EVENT_TYPES[name].newest
    assert comparable(orjson.loads(found.model_dump_json(exclude_unset=True))) == comparable(registry.current(event))


@pytest.mark.parametrize(("name", "version"), OLD)
def test_an_old_version_is_upcast_as_recorded(golden: Golden, name: str, version: int) -> None:
    """An upcast gives what it gave when the golden file was made, and leaves its input alone."""
    event = golden(f"{name}.v{version}")
    before = orjson.dumps(event)
    wanted = golden(f"{name}.v{version}.upcast")
    assert registry.current(event) == wanted
    assert orjson.dumps(event) == before
    assert registry.read(before) == registry.read(orjson.dumps(wanted))
    assert registry.validate_data(EVENT_TYPES[name], EVENT_TYPES[name].newest, wanted["data"]) == []


@pytest.mark.parametrize(("name", "version"), [(name, EVENT_TYPES[name].newest) for name in EVENT_TYPES])
def test_a_current_event_is_not_copied(golden: Golden, name: str, version: int) -> None:
    """`current` costs nothing where there is nothing to do."""
    event = golden(f"{name}.v{version}")
    assert registry.current(event) is event
