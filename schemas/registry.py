"""Every type of event, by name: validation, upcasts, masking, typed reading.

A new type is one module with its `EventType`, one line in `EVENT_TYPES` and one golden file in `tests/golden/`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Final, get_args

import orjson
from pydantic import BaseModel, ValidationError

from schemas import analytics, billing, customer, operations, order, reservation, room, stay, system
from schemas.envelope import Event, EventType
from schemas.errors import MAX_FIELD_ERRORS, FieldError, Problem, invalid_event
from schemas.types import FORMS, Guest

EVENT_TYPES: Final[Mapping[str, EventType]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            reservation.TYPE,
            customer.TYPE,
            room.TYPE,
            stay.TYPE,
            order.TYPE,
            billing.TYPE,
            analytics.TYPE,
            operations.DAILY_REPORT,
            operations.ALERT,
            operations.OPERATION_LOG,
            system.TYPE,
        )
    }
)

# The hub writes envelopes in this order and without spaces; anything else is read the long way.
_HEAD: Final = re.compile(
    rb'\{"event_id":"[^"\\]{0,64}","schema_version":(\d{1,9}),"tenant_id":"[^"\\]{0,64}",'
    rb'"type":"([a-z_]{1,32})","action":"([a-z_]{1,32})"'
)


class UnknownEvent(Event[dict[str, Any]]):
    """An event of a type this release does not know: a newer hub's."""


def event_type(name: str) -> EventType:
    """The type by name.

    Raises:
        Problem: `invalid_event`, listing the known types.
    """
    try:
        return EVENT_TYPES[name]
    except KeyError:
        known = ", ".join(EVENT_TYPES)
        raise invalid_event([FieldError("type", f"{name!r} is not an event type; one of: {known}")]) from None


def validate_data(kind: EventType, version: int, data: Mapping[str, Any]) -> list[FieldError]:
    """The field errors of `data` against version `version` of its type; none when it fits."""
    model = kind.versions.get(version)
    if model is None:
        known = ", ".join(map(str, kind.versions))
        return [FieldError("schema_version", f"{kind.name} has no version {version}; known: {known}")]
    try:
        model.__pydantic_validator__.validate_json(orjson.dumps(data))
    except ValidationError as error:
        return field_errors(error, "data")
    except orjson.JSONEncodeError as error:
        return [FieldError("data", f"is not JSON: {error}")]
    return []


def field_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    """A pydantic error as field errors, without the input; the first hundred."""
    found = []
    for one in error.errors(include_url=False, include_input=False)[:MAX_FIELD_ERRORS]:
        path = ".".join([prefix, *map(str, one["loc"])] if prefix else map(str, one["loc"]))
        message = "unknown field" if one["type"] == "extra_forbidden" else one["msg"].removeprefix("Value error, ")
        if one["type"] == "string_pattern_mismatch":
            message = FORMS.get(one["ctx"]["pattern"], message)
        found.append(FieldError(path, message))
    return found


def refused(error: ValidationError) -> Problem:
    """The problem of a request that does not fit its model: every field error, the first one in words."""
    found = field_errors(error)
    return Problem("invalid_request", f"{found[0].path}: {found[0].message}", found)


def upcast(kind: EventType, version: int, data: dict[str, Any]) -> dict[str, Any]:
    """`data` as the newest version of its type says it."""
    for step in range(version, kind.newest):
        data = kind.upcasts[step](data)
    return data


def newest(type: str) -> int:
    """The version that events of a type are read at; 0 for a type this release does not know."""
    kind = EVENT_TYPES.get(type)
    return 0 if kind is None else kind.newest


def current(event: dict[str, Any]) -> dict[str, Any]:
    """The event at the newest version of its type; the same object when it is there already or the type is unknown."""
    kind = EVENT_TYPES.get(event["type"])
    version = event["schema_version"]
    if kind is None or version >= kind.newest:
        return event
    return event | {"schema_version": kind.newest, "data": upcast(kind, version, event["data"])}


def read(raw: bytes) -> Event[Any]:
    """A stored or delivered event as its typed class, upcast to the newest version this release knows.

    Fields that a newer hub added are ignored, a type it added is read as `UnknownEvent`.

    Raises:
        pydantic.ValidationError: `raw` is not an event.
    """
    head = _HEAD.match(raw)
    if head is not None:
        kind = EVENT_TYPES.get(head[2].decode())
        if kind is not None and int(head[1]) == kind.newest and head[3].decode() in kind.actions:
            return kind.event.model_validate_json(raw, extra="ignore")
    plain = UnknownEvent.model_validate_json(raw)
    kind = EVENT_TYPES.get(plain.type)
    if kind is None or plain.action not in kind.actions:
        return plain
    if (written := kind.versions.get(plain.schema_version)) is None or plain.schema_version == kind.newest:
        return kind.event.model_validate_json(raw, extra="ignore")
    written.model_validate_json(orjson.dumps(plain.data), extra="ignore")
    return kind.event.model_validate_json(orjson.dumps(current(orjson.loads(raw))), extra="ignore")


def mask(event: dict[str, Any]) -> dict[str, Any]:
    """The event without what identifies a guest; the same object when nothing of it had to change.

    Guest fields are masked. Fields and types this release does not know are left out: a newer hub wrote them, and they
    may name a guest.
    """
    kind = EVENT_TYPES.get(event["type"])
    if kind is None:
        return event | {"data": {}}
    data = event["data"]
    masked = _masker(kind.versions.get(event["schema_version"], kind.versions[kind.newest]))(data)
    return event if masked is data else event | {"data": masked}


Masker = Callable[[dict[str, Any]], dict[str, Any]]


@cache
def _masker(model: type[BaseModel]) -> Masker:
    known = model.model_fields.keys()
    masks: dict[str, str] = {}
    nested: dict[str, Masker] = {}
    for name, info in model.model_fields.items():
        found = _guest_mark(info.metadata) or _guest_mark_within(info.annotation)
        if found is not None:
            masks[name] = found.mask
        for inner in _models_within(info.annotation):
            nested[name] = _masker(inner)

    def apply(data: dict[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {name: text for name, text in masks.items() if data.get(name) is not None}
        for name, masker in nested.items():
            value = data.get(name)
            masked: Any = value
            if isinstance(value, list):
                masked = [masker(item) for item in value]
                if all(new is old for new, old in zip(masked, value, strict=True)):
                    continue
            elif isinstance(value, dict):
                masked = masker(value)
            if masked is not value:
                changes[name] = masked
        if not changes and data.keys() <= known:
            return data
        return {name: changes.get(name, value) for name, value in data.items() if name in known}

    return apply


def _guest_mark(metadata: Any) -> Guest | None:
    return next((item for item in metadata if isinstance(item, Guest)), None)


def _guest_mark_within(annotation: Any) -> Guest | None:
    if (found := _guest_mark(getattr(annotation, "__metadata__", ()))) is not None:
        return found
    return next((mark for inner in get_args(annotation) if (mark := _guest_mark_within(inner)) is not None), None)


def _models_within(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_within(inner)]


def require_known(name: str, action: str) -> EventType:
    """The type, when it has the action.

    Raises:
        Problem: `invalid_event`, listing what is known.
    """
    kind = event_type(name)
    if action not in kind.actions:
        raise invalid_event(
            [FieldError("action", f"{name} has no action {action!r}; one of: {', '.join(kind.actions)}")]
        )
    return kind


__all__ = ["EVENT_TYPES", "Problem", "UnknownEvent", "current", "event_type", "mask", "read", "upcast", "validate_data"]
