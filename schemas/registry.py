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
from schemas.errors import FieldError, Problem, invalid_event
from schemas.types import Guest

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

# The hub writes envelopes with the version in second place; anything else is read the long way.
_VERSION: Final = re.compile(rb'\{"event_id":"[^"]{0,64}","schema_version":(\d{1,9})')


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
    return []


def field_errors(error: ValidationError, prefix: str = "") -> list[FieldError]:
    """A pydantic error as field errors, without the input."""
    found = []
    for one in error.errors(include_url=False, include_context=False, include_input=False):
        path = ".".join([prefix, *map(str, one["loc"])] if prefix else map(str, one["loc"]))
        message = "unknown field" if one["type"] == "extra_forbidden" else one["msg"].removeprefix("Value error, ")
        found.append(FieldError(path, message))
    return found


def upcast(kind: EventType, version: int, data: dict[str, Any]) -> dict[str, Any]:
    """`data` as the newest version of its type says it."""
    for step in range(version, kind.newest):
        data = kind.upcasts[step](data)
    return data


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
    found = _VERSION.match(raw)
    if found is not None and (model := _current_model(raw, int(found[1]))) is not None:
        return model.model_validate_json(raw, extra="ignore")
    event = orjson.loads(raw)
    kind = EVENT_TYPES.get(event.get("type", ""))
    if kind is None or event.get("action") not in kind.actions:
        return UnknownEvent.model_validate_json(raw)
    return kind.event.model_validate_json(orjson.dumps(current(event)), extra="ignore")


def _current_model(raw: bytes, version: int) -> type[Event[Any]] | None:
    start = raw.find(b'"type":"', 0, 400) + 8
    kind = EVENT_TYPES.get(raw[start : raw.find(b'"', start)].decode(errors="replace"))
    if kind is None or version != kind.newest:
        return None
    start = raw.find(b'"action":"', 0, 400) + 10
    return kind.event if raw[start : raw.find(b'"', start)].decode(errors="replace") in kind.actions else None


def mask(event: dict[str, Any]) -> dict[str, Any]:
    """The event with every guest field of its data masked; a type without guest fields comes back as it is."""
    kind = EVENT_TYPES.get(event["type"])
    if kind is None:
        return event | {"data": {}}
    model = kind.versions.get(event["schema_version"], kind.versions[kind.newest])
    masker = _masker(model)
    return event if masker is None else event | {"data": masker(event["data"])}


Masker = Callable[[dict[str, Any]], dict[str, Any]]


@cache
def _masker(model: type[BaseModel]) -> Masker | None:
    masks: dict[str, str] = {}
    nested: dict[str, Masker] = {}
    for name, info in model.model_fields.items():
        found = _guest_mark(info.metadata) or _guest_mark_within(info.annotation)
        if found is not None:
            masks[name] = found.mask
        for inner in _models_within(info.annotation):
            if (masker := _masker(inner)) is not None:
                nested[name] = masker
    if not masks and not nested:
        return None

    def apply(data: dict[str, Any]) -> dict[str, Any]:
        masked = dict(data)
        for name, replacement in masks.items():
            if masked.get(name) is not None:
                masked[name] = replacement
        for name, masker in nested.items():
            value = masked.get(name)
            if isinstance(value, list):
                masked[name] = [masker(item) for item in value]
            elif isinstance(value, dict):
                masked[name] = masker(value)
        return masked

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
