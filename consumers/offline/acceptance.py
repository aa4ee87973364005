"""Whether a change at the desk fits, decided where the person still stands in front of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import orjson

from consumers.offline.items import LocalChange
from schemas import billing
from schemas.canonical import checksum
from schemas.envelope import EventType
from schemas.errors import FieldError
from schemas.registry import EVENT_TYPES, upcast, validate_data
from schemas.state import merged
from schemas.sync import TYPES
from schemas.types import ENTITY_FORM

_ENTITY: Final = re.compile(ENTITY_FORM)
_PRIORITIES: Final = ("high", "medium", "low")
_ALL: Final = ("CREATE", "UPDATE", "DELETE")
_KEPT: Final = ("CREATE", "UPDATE")
_OPERATIONS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "CheckIn": _ALL,
        "CheckOut": _ALL,
        "NoShow": _ALL,
        "Reservation": _ALL,
        "Order": _ALL,
        "AlertLog": _ALL,
        "RoomStatus": _KEPT,
        "Customer": _KEPT,
        "Billing": _KEPT,
        "DailyReport": _KEPT,
        "OperationLog": ("CREATE",),
    }
)
"""What the hub takes of each model: nobody deletes a room, a guest or a movement of money from a desk."""
_AMOUNTS: Final = ("total_amount", "amount", "additional_charges", "total_revenue")


class Accepted(NamedTuple):
    """A change that fits."""

    type: str
    entity: str
    payload: dict[str, Any]
    checksum: str
    schema_version: int
    amount: float


def accept(
    change: LocalChange, shown: Mapping[str, Any] | None, entity_seen: bool
) -> tuple[Accepted | None, list[FieldError]]:
    """The change as it is kept, or what is wrong with it.

    `shown` is the record's state as the desk sees it, if there is one; `entity_seen` tells whether there is any record
    of its entity. What the schema requires and an UPDATE leaves out is taken from that state, as the hub does.
    """
    errors = _outside(change)
    if errors:
        return None, errors
    kind = EVENT_TYPES[TYPES[change.model]]
    entity = f"{kind.entity_type or kind.name}:{change.entity_id}"
    if change.operation != "CREATE" and not entity_seen:
        errors.append(FieldError("entity_id", f"{entity} was never seen here; use CREATE, or pull first"))
        return None, errors
    try:
        payload = orjson.loads(
            orjson.dumps(dict(change.payload), option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_SUBCLASS)
        )
        digest = ""
        # The id belongs to what the hub validates; a desk need not say it twice.
        for field in kind.entity_fields:
            payload.setdefault(field, change.entity_id)
            if payload[field] != change.entity_id:
                errors.append(FieldError(f"payload.{field}", f"must be the entity_id {change.entity_id!r}"))
        digest = checksum(payload)
    except (orjson.JSONEncodeError, ValueError) as error:
        return None, [FieldError("payload", f"is not JSON that can be checked: {error}")]
    completed = payload if change.operation == "CREATE" else _completed(kind, shown or {}, payload)
    errors += [
        FieldError(f"payload{error.path.removeprefix('data')}", error.message)
        for error in validate_data(kind, kind.newest, completed)
    ]
    if errors:
        return None, errors
    amount = change.amount if change.amount is not None else _amount(payload)
    return Accepted(kind.name, entity, payload, digest, kind.newest, float(amount)), []


def _outside(change: LocalChange) -> list[FieldError]:
    """What is wrong beside the payload."""
    if change.model not in TYPES:
        return [FieldError("model", f"{change.model!r} is not a model; one of: {', '.join(TYPES)}")]
    kind = EVENT_TYPES[TYPES[change.model]]
    errors = []
    if change.operation not in (allowed := _OPERATIONS[change.model]):
        errors.append(FieldError("operation", f"{change.model} takes {' or '.join(allowed)}, not {change.operation!r}"))
    entity_id: Any = change.entity_id
    if not isinstance(entity_id, str) or not _ENTITY.match(f"{kind.name}:{change.entity_id}"):
        errors.append(FieldError("entity_id", "must be 1 to 128 characters without spaces"))
    if change.action is not None and change.action not in kind.actions:
        errors.append(FieldError("action", f"{kind.name} has no action {change.action!r}: {', '.join(kind.actions)}"))
    if change.priority not in _PRIORITIES:
        errors.append(FieldError("priority", f"must be one of: {', '.join(_PRIORITIES)}"))
    payload: Any = change.payload
    if not isinstance(payload, Mapping):
        errors.append(FieldError("payload", "must be an object"))
    if change.amount is not None and not isfinite(change.amount):
        errors.append(FieldError("amount", "must be a number"))
    return errors


def _completed(kind: EventType, shown: Mapping[str, Any], payload: Mapping[str, Any]) -> dict[str, Any]:
    fields = kind.versions[kind.newest].model_fields
    missing = (name for name, field in fields.items() if field.is_required() and name not in payload)
    return {name: shown[name] for name in missing if name in shown} | dict(payload)


def _amount(payload: Mapping[str, Any]) -> float:
    for name in _AMOUNTS:
        if isinstance(value := payload.get(name), int | float) and not isinstance(value, bool):
            return value
    return 0.0


def laid_over(
    state: Mapping[str, Any],
    type: str,
    operation: str,
    action: str | None,
    payload: Mapping[str, Any],
    schema_version: int,
) -> dict[str, Any]:
    """`state` as it will be when the hub takes the change.

    A folio's balance counts what others moved before: what the change says of it was so when it was made.
    """
    kind = EVENT_TYPES.get(type)
    if kind is None:
        return merged(state, payload)
    said = newest_data(kind, schema_version, dict(payload))
    if type == "billing":
        said = billing.balanced(said, billing.action_of(operation, action, said), state)
    data = merged(state, said, kind.transient)
    if operation == "DELETE" and type == "reservation":
        data["status"] = "cancelled"
    return data


def newest_data(kind: EventType, schema_version: int, data: dict[str, Any]) -> dict[str, Any]:
    """`data` as the newest schema version says it; as it is where it is not data of its version, like a part of it."""
    if schema_version >= kind.newest:
        return data
    try:
        return upcast(kind, schema_version, dict(data))
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return data


def event_type(model: str, operation: str) -> str:
    """The type of event that an item becomes: an undone stay speaks of its reservation."""
    type = TYPES[model]
    return "reservation" if type == "checkin_checkout" and operation == "DELETE" else type
