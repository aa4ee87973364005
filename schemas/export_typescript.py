"""TypeScript types of events and frames, made from the same schemas as everything else that is published."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from schemas.envelope import Draft, Event, EventType
from schemas.errors import CODES
from schemas.export import DEFS, ENVELOPE, SET_BY_HUB, Schema, event_schema, frame_schema, model_schema, schema_name
from schemas.frames import CLIENT_FRAMES, SERVER_FRAMES, may_reconnect
from schemas.frames import Close as CloseCodes
from schemas.registry import EVENT_TYPES

_HEAD: Final = """\
// Types of the hotel event hub: events, WebSocket frames (subprotocol hub.v1) and cursors.
// Written by `hub schemas export`; change the schemas, not this file.

/** A tenant's position in its event history: opaque, URL-safe; use one exactly as the hub gave it. */
export type Cursor = string & { readonly __brand: "Cursor" };
"""

_FORMATS: Final[Mapping[str, str]] = {"hub-cursor": "Cursor", "hub-pattern": "EventPattern"}
_PLAIN: Final[Mapping[str, str]] = {
    "string": "string",
    "number": "number",
    "integer": "number",
    "boolean": "boolean",
    "null": "null",
}
# What the schema of a frame leaves open because events have schemas of their own.
_FRAME_FIELDS: Final[Mapping[tuple[str, str], str]] = {
    ("publish", "event"): "HotelEventDraft",
    ("event", "event"): "HotelEvent",
    ("error", "code"): "ErrorCode",
}


def typescript() -> str:
    """One module of declarations: events as delivered, stored and published, frames both ways, and their parts."""
    blocks = [_HEAD, *_names(), *_envelopes()]
    for kind in EVENT_TYPES.values():
        blocks.append(f"export type {_pascal(kind.name)}Action = {_literals(kind.actions)};\n")
        for version in kind.versions:
            blocks += _event(kind, version)
    newest = [_stem(kind, kind.newest) for kind in EVENT_TYPES.values()]
    stems = [_stem(kind, version) for kind in EVENT_TYPES.values() for version in kind.versions]
    blocks += [
        "/** Any event as the hub delivers it, at the newest version of its type; `type` tells them apart. */\n"
        + _union("HotelEvent", [stem.format("Event") for stem in newest]),
        "/** Any event as it lies in the log; `type` and `schema_version` tell them apart. */\n"
        + _union("StoredEvent", [stem.format("Event") for stem in stems]),
        "/** Any event as it is published. */\n" + _union("HotelEventDraft", [stem.format("Draft") for stem in stems]),
        *_frames(),
    ]
    return "\n".join(blocks)


def _names() -> Iterable[str]:
    yield f"export type EventTypeName = {_literals(EVENT_TYPES)};\n"
    yield _union(
        "EventName", [json.dumps(f"{kind.name}.{action}") for kind in EVENT_TYPES.values() for action in kind.actions]
    )
    yield '/** `type.action`, `type.*` or `*`. */\nexport type EventPattern = EventName | `${EventTypeName}.*` | "*";\n'
    yield "/** Stable codes of problems and `error` frames. */\n" + _union("ErrorCode", map(json.dumps, CODES))


def _envelopes() -> Iterable[str]:
    own = {"type", "action", "schema_version", "data"}
    for name, model, text in (
        ("EventEnvelope", Event[dict[str, Any]], "What every event has as it is read."),
        ("DraftEnvelope", Draft, "What every event may carry as it is published; the hub fills in the rest."),
    ):
        schema = model_schema(model)
        fields = {
            field: (SET_BY_HUB.get(field, inner) if model is Draft else inner) | {"description": ENVELOPE[field]}
            for field, inner in schema["properties"].items()
            if field not in own
        }
        yield _interface(name, schema | {"properties": fields, "description": text})


def _event(kind: EventType, version: int) -> Iterable[str]:
    schema = event_schema(kind, version)
    stem = _stem(kind, version)
    parts = {name: inner for name, inner in schema["$defs"].items() if name != "data"}
    names = {name: f"{_pascal(kind.name)}{name.removeprefix(_pascal(kind.name))}V{version}" for name in parts}
    for name, part in parts.items():
        yield _interface(names[name], part, names)
    yield _interface(stem.format("Data"), schema["$defs"]["data"], names)
    own = f"  type: {json.dumps(kind.name)};\n  action: {_pascal(kind.name)}Action;\n"
    optional = "" if "schema_version" in schema["required"] else "?"
    for form, verb, sign in (("Event", "read", ""), ("Draft", "published", optional)):
        yield (
            f"/** `{schema_name(kind, version)}` as it is {verb}. */\n"
            f"export interface {stem.format(form)} extends {form}Envelope {{\n"
            f"{own}  schema_version{sign}: {version};\n  data: {stem.format('Data')};\n}}\n"
        )


def _frames() -> Iterable[str]:
    for union, direction, models in (
        ("ClientFrame", "Client to hub", CLIENT_FRAMES.values()),
        ("ServerFrame", "Hub to client", SERVER_FRAMES),
    ):
        names = []
        for model in models:
            schema = frame_schema(model)
            op = schema["properties"]["op"]["const"]
            parts = schema.get("$defs", {})
            for name, part in parts.items():
                yield _interface(name, part)
            replaced = {field: text for (frame, field), text in _FRAME_FIELDS.items() if frame == op}
            names.append(f"{_pascal(op)}Frame")
            yield _interface(names[-1], schema, {name: name for name in parts}, replaced)
        yield f"/** {direction}; `op` tells them apart. */\n" + _union(union, names)
    codes = sorted(value for name, value in vars(CloseCodes).items() if not name.startswith("_"))
    yield f"/** Close codes after which the client may come back. */\n{_union('RetryableClose', _codes(codes, True))}"
    yield f"/** Close codes that the same token will meet again. */\n{_union('FinalClose', _codes(codes, False))}"


def _codes(codes: list[int], reconnect: bool) -> list[str]:
    return [str(code) for code in codes if may_reconnect(code) is reconnect]


def _interface(
    name: str, schema: Schema, names: Mapping[str, str] | None = None, replaced: Mapping[str, str] | None = None
) -> str:
    required = schema.get("required", ())
    lines = [_comment(schema.get("description", ""), ""), f"export interface {name} {{\n"]
    for field, inner in schema["properties"].items():
        notes = [str(inner["description"])] if "description" in inner else []
        notes += ["masked in masked views"] if inner.get("x-guest") else []
        text = (replaced or {}).get(field) or _type(inner, names or {})
        lines.append(_comment("; ".join(notes), "  "))
        lines.append(f"  {field}{'' if field in required else '?'}: {text};\n")
    return "".join([*lines, "}\n"])


def _type(schema: Schema, names: Mapping[str, str]) -> str:
    if "$ref" in schema:
        return names[schema["$ref"].removeprefix(DEFS)]
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return _literals(schema["enum"])
    if "anyOf" in schema:
        return " | ".join(dict.fromkeys(_type(inner, names) for inner in schema["anyOf"]))
    kinds = schema.get("type", [])
    found = [_one(kind, schema, names) for kind in ([kinds] if isinstance(kinds, str) else kinds)]
    return " | ".join(found) or "unknown"


def _one(kind: str, schema: Schema, names: Mapping[str, str]) -> str:
    if kind == "array":
        inner = _type(schema["items"], names)
        return f"({inner})[]" if " | " in inner else f"{inner}[]"
    if kind == "object":
        values = schema.get("additionalProperties", True)
        return f"Record<string, {_type(values, names) if isinstance(values, dict) else 'unknown'}>"
    return "null" if kind == "null" else _FORMATS.get(schema.get("format", ""), _PLAIN[kind])


def _comment(text: str, indent: str) -> str:
    if not text:
        return ""
    lines = text.replace("*/", "*\\/").splitlines()
    if len(lines) == 1:
        return f"{indent}/** {lines[0]} */\n"
    body = "".join(f"{indent} * {line}".rstrip() + "\n" for line in lines)
    return f"{indent}/**\n{body}{indent} */\n"


def _union(name: str, members: Iterable[str]) -> str:
    return f"export type {name} =" + "".join(f"\n  | {member}" for member in members) + ";\n"


def _literals(values: Iterable[Any]) -> str:
    return " | ".join(json.dumps(value) for value in values)


def _pascal(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def _stem(kind: EventType, version: int) -> str:
    return f"{_pascal(kind.name)}{{}}V{version}"
