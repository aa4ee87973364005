"""The published JSON Schemas say what the hub does."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from schemas.envelope import Draft
from schemas.export import ENVELOPE, event_schema, event_schemas
from schemas.registry import EVENT_TYPES, mask, validate_data

Golden = Callable[[str], dict[str, Any]]

NAMES = [f"{kind.name}.v{version}" for kind in EVENT_TYPES.values() for version in kind.versions]
SCHEMAS = event_schemas()
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}
PUBLISHED = ("type", "action", "data")


def hub_accepts(event: dict[str, Any]) -> bool:
    """Whether the hub takes this event from a publisher."""
    try:
        draft = Draft.model_validate(event)
    except ValidationError:
        return False
    kind = EVENT_TYPES.get(draft.type)
    if kind is None or draft.action not in kind.actions:
        return False
    version = kind.newest if draft.schema_version is None else draft.schema_version
    return validate_data(kind, version, draft.data) == []


def places(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value in a tree."""
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield (*path, key)
            yield from places(value, (*path, key))


def test_there_is_a_schema_for_every_version() -> None:
    """By the name it is published under."""
    assert list(SCHEMAS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_is_a_schema(name: str) -> None:
    """Valid 2020-12, self-contained, with an id and a description, and nothing that JSON cannot say."""
    schema = SCHEMAS[name]
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"] == f"urn:hotel-event-hub:schema:{name}"
    assert json.loads(json.dumps(schema, allow_nan=False)) == schema
    references = [value for path in places(schema) if path[-1] == "$ref" for value in [_at(schema, path)]]
    assert references
    for reference in references:
        assert reference.removeprefix("#/$defs/") in schema["$defs"]


def _at(node: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        node = node[step]
    return node


def test_every_envelope_field_is_described() -> None:
    """A field added to the envelope needs a sentence for its readers."""
    assert set(ENVELOPE) == set(Draft.model_fields)


@pytest.mark.parametrize("name", NAMES)
def test_stored_events_and_drafts_fit(golden: Golden, name: str) -> None:
    """The stored event, its masked view, and the least a publisher may send are all of the schema."""
    event = golden(name)
    VALIDATORS[name].validate(event)
    VALIDATORS[name].validate(mask(event))
    fields = (
        PUBLISHED if EVENT_TYPES[event["type"]].newest == event["schema_version"] else (*PUBLISHED, "schema_version")
    )
    draft = {field: event[field] for field in fields}
    VALIDATORS[name].validate(draft)
    for field in fields:
        assert not VALIDATORS[name].is_valid({key: value for key, value in draft.items() if key != field})


@pytest.mark.parametrize("name", NAMES)
def test_events_of_other_schemas_do_not_fit(golden: Golden, name: str) -> None:
    """An event fits its own schema and no other."""
    event = golden(name)
    assert [other for other in NAMES if VALIDATORS[other].is_valid(event)] == [name]


def test_an_old_version_must_be_named(golden: Golden) -> None:
    """Without a version the hub reads an order as the newest, so the old schema asks for it."""
    event = golden("order.v1")
    del event["schema_version"]
    assert not VALIDATORS["order.v1"].is_valid(event)
    assert not hub_accepts(event)


def test_the_newest_version_may_be_left_open(golden: Golden) -> None:
    """Null is the same as nothing, here as in every optional field."""
    event = golden("order.v2") | {"schema_version": None, "device_id": None, "priority": None}
    VALIDATORS["order.v2"].validate(event)
    assert hub_accepts(event)


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("room.v1", ("type",), "rooms"),
        ("room.v1", ("action",), "created"),
        ("room.v1", ("schema_version",), 2),
        ("room.v1", ("surprise",), 1),
        ("room.v1", ("data", "surprise"), 1),
        ("room.v1", ("data", "status"), "clean"),
        ("room.v1", ("data", "base_price"), -1),
        ("room.v1", ("data", "base_price"), 10**15),
        ("room.v1", ("data", "base_price"), "100"),
        ("room.v1", ("data", "room_id"), "3 1"),
        ("room.v1", ("data", "currency"), "yen"),
        ("room.v1", ("data",), None),
        ("room.v1", ("entity",), "301"),
        ("room.v1", ("event_id",), "1"),
        ("room.v1", ("targets",), ["Hotel PMS"]),
        ("room.v1", ("expected_revision",), -1),
        ("room.v1", ("priority",), "LOW"),
        ("room.v1", ("created_offline",), "yes"),
        ("order.v2", ("data", "items"), []),
        ("order.v2", ("data", "items", 0, "quantity"), 0),
        ("order.v2", ("data", "items", 0, "surprise"), 0),
        ("analytics.v1", ("data", "occupancy_rate"), 1.5),
        ("customer.v1", ("data", "email"), "hanako"),
        ("customer.v1", ("data", "updated_fields"), [1]),
        ("reservation.v1", ("data", "checkin_date"), None),
        ("reservation.v1", ("data", "channel"), "Rakuten Travel"),
    ],
)
def test_bad_events_are_refused_by_schema_and_hub(golden: Golden, name: str, path: tuple[Any, ...], value: Any) -> None:
    """A publisher that checks against the schema learns what the hub would say."""
    event = golden(name)
    _at(event, path[:-1])[path[-1]] = value
    assert not VALIDATORS[name].is_valid(event)
    assert not hub_accepts(event)


VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-2, 3)
    | st.integers(1 - 10**15, 10**15 - 1)
    | st.floats(-100, 100).map(lambda value: round(value, 4))
    | st.text(max_size=5)
    | st.sampled_from(
        ["2026-01-01", "2026-01-01T00:00:00Z", "JPY", "hotel-pms", "HIGH", "ota", "dirty", "clean", "a:b"]
    )
    | st.lists(st.text(max_size=3), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(0, 3), max_size=2)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=400)
@given(name=st.sampled_from(NAMES), data=st.data())
def test_what_the_hub_accepts_the_schema_accepts(golden: Golden, name: str, data: st.DataObject) -> None:
    """Whatever is put in the place of a value, the schema never refuses what the hub would take."""
    event = copy.deepcopy(golden(name))
    # What the hub alone sets is not looked at in a draft; a schema says what a reader finds.
    whole = [path for path in places(event) if path[0] not in ("recorded_at", "revision")]
    path = data.draw(st.sampled_from(whole))
    _at(event, path[:-1])[path[-1]] = data.draw(VALUES)
    if hub_accepts(event):
        found = [error.message for error in VALIDATORS[name].iter_errors(event)]
        # An old version's event without a version is of the newest schema.
        assert not found or event["schema_version"] is None


def test_guest_fields_are_marked() -> None:
    """The schemas mark what the hub masks, and nothing else."""
    marked = {
        name: {field for field, inner in schema["$defs"]["data"]["properties"].items() if inner.get("x-guest")}
        for name, schema in SCHEMAS.items()
    }
    assert {name: fields for name, fields in marked.items() if fields} == {
        "reservation.v1": {"guest_name", "special_requests"},
        "customer.v1": {"name", "email", "phone"},
        "order.v2": {"notes"},
        "daily_report.v1": {"submitted_by"},
        "operation_log.v1": {"operator"},
    }


def test_nullable_fields_are_written_plainly() -> None:
    """A field that may be null says so in its type."""
    properties = event_schema(EVENT_TYPES["room"], 1)["$defs"]["data"]["properties"]
    assert properties["maintenance_notes"] == {"type": ["string", "null"], "maxLength": 4000}
    assert properties["housekeeping"] == {
        "type": ["string", "null"],
        "enum": ["clean", "dirty", "cleaning", "inspected", None],
    }
    assert properties["base_price"]["minimum"] == 0
