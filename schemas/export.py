"""JSON Schemas (2020-12) of the events, made from the models: what `/schemas/<type>.v<n>.json` answers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import BaseModel

from schemas.envelope import Draft, EventType
from schemas.frames import Publish
from schemas.registry import EVENT_TYPES

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
DEFS: Final = "#/$defs/"

Schema = dict[str, Any]

ENVELOPE: Final[Mapping[str, str]] = MappingProxyType(
    {
        "event_id": "The de-duplication key within the tenant; the hub makes a UUIDv7 when it is absent",
        "schema_version": "The version of this schema",
        "tenant_id": "The property; the credential's when absent",
        "type": "What the event is about",
        "action": "What happened",
        "priority": "The type's when absent",
        "sync_mode": "The type's when absent",
        "targets": "The systems it is delivered to; a publisher may narrow the type's, never widen them",
        "delivery_guarantee": "The type's when absent",
        "occurred_at": "When it happened by the source's clock; now when absent",
        "recorded_at": "When the hub stored it, UTC; set by the hub",
        "entity": "What it is about, `<type>:<id>`: order and revisions hang on it; set by the hub",
        "revision": "1, 2, 3… per entity; set by the hub",
        "expected_revision": "Store only if the entity is still at this revision; 0 means that it must not exist",
        "device_id": "The device it was made on",
        "created_offline": "Whether it was made without a connection",
        "temp_id": "The id it was known by offline",
        "correlation_id": "Carried through",
        "causation_id": "Carried through",
        "traceparent": "W3C trace context, carried through",
        "data": "What happened, by type and version",
    }
)

SET_BY_HUB: Final[Mapping[str, Schema]] = MappingProxyType(
    {
        "recorded_at": {"type": ["string", "null"], "format": "date-time"},
        "revision": {"type": ["integer", "null"], "minimum": 1},
    }
)


def schema_name(kind: EventType, version: int) -> str:
    """`<type>.v<n>`."""
    return f"{kind.name}.v{version}"


def event_schema(kind: EventType, version: int) -> Schema:
    """The schema of one version of a type of event, both as it is published and as it is read."""
    name = schema_name(kind, version)
    envelope = model_schema(Draft)["properties"]
    data = model_schema(kind.versions[version])
    definitions = data.pop("$defs", {})
    newest = version == kind.newest
    known: dict[str, Schema] = {
        **SET_BY_HUB,
        "type": {"type": "string", "const": kind.name},
        "action": {"type": "string", "enum": list(kind.actions)},
        # Without a version an event counts as the newest.
        "schema_version": {"enum": [version, None]} if newest else {"const": version},
        "data": {"$ref": f"{DEFS}data"},
    }
    required = ["type", "action", "data"] if newest else ["schema_version", "type", "action", "data"]
    return {
        "$schema": DIALECT,
        "$id": f"urn:hotel-event-hub:schema:{name}",
        "title": name,
        "description": (
            f"`{kind.name}` events, version {version}{'' if newest else f' (the newest is {kind.newest})'}. "
            f"A publisher sends {_listed(required)}, and may send the rest; an event as it is read has all but the "
            "optional fields. The hub refuses fields that are not listed here; a reader ignores them, since a newer "
            "hub may add some. Fields marked `x-guest` identify a person and are masked for tokens with a masked view."
        ),
        "type": "object",
        "properties": {
            field: known.get(field, envelope[field]) | {"description": text} for field, text in ENVELOPE.items()
        },
        "required": required,
        "additionalProperties": False,
        "$defs": {"data": data, **definitions},
    }


def event_schemas() -> dict[str, Schema]:
    """Every event schema there is, by `<type>.v<n>`."""
    return {
        schema_name(kind, version): event_schema(kind, version)
        for kind in EVENT_TYPES.values()
        for version in kind.versions
    }


def frame_schema(model: type[BaseModel]) -> Schema:
    """A WebSocket frame's schema. What it leaves open, the event of some frames, has a schema of its own."""
    schema = model_schema(model)
    # The model lets it be absent only so that the gateway can answer with the frame's `ref`.
    return schema | {"required": [*schema["required"], "event"]} if model is Publish else schema


def model_schema(model: type[BaseModel]) -> Schema:
    """A model's schema with its optional fields written plainly."""
    return _plain(model.model_json_schema())


def _plain(schema: Schema) -> Schema:
    """Without the titles and null defaults that pydantic adds, and with `anyOf: [X, null]` as one schema."""
    found: Schema = {
        key: value for key, value in schema.items() if key != "title" and (key, value) != ("default", None)
    }
    for key in ("properties", "$defs"):
        if key in found:
            found[key] = {name: _plain(inner) for name, inner in found[key].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(found.get(key), dict):
            found[key] = _plain(found[key])
    if "anyOf" in found:
        found["anyOf"] = [_plain(inner) for inner in found["anyOf"]]
        return _with_null(found)
    return found


def _with_null(schema: Schema) -> Schema:
    rest = [inner for inner in schema["anyOf"] if inner != {"type": "null"}]
    if len(rest) != 1 or len(schema["anyOf"]) != 2 or not isinstance(rest[0].get("type"), str):
        return schema
    merged: Schema = rest[0] | {key: value for key, value in schema.items() if key != "anyOf"}
    if "enum" in merged:
        merged["enum"] = [*merged["enum"], None]
    return merged | {"type": [merged["type"], "null"]}


def _listed(fields: list[str]) -> str:
    names = [f"`{field}`" for field in fields]
    return f"{', '.join(names[:-1])} and {names[-1]}"
