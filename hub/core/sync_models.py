"""Which event a desk's operation becomes: its type, action and whole data (R47, R56)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from schemas import billing, registry
from schemas.envelope import EventType
from schemas.errors import FieldError, invalid_event
from schemas.registry import EVENT_TYPES
from schemas.sync import TYPES
from schemas.types import TRACKING

States = Mapping[str, Mapping[str, Any]]
"""What is known of an entity, by the type of its events."""

_STAY_ACTIONS: Final = {"CheckIn": "checked_in", "CheckOut": "checked_out", "NoShow": "no_show"}
_UNDONE: Final = {"CheckIn": "confirmed", "CheckOut": "checked_in", "NoShow": "confirmed"}
"""The status a reservation goes back to when one of these is undone."""
_STAYED: Final = frozenset({"checked_in", "checked_out", "no_show"})
_CREATED: Final = {
    "Reservation": "created",
    "Customer": "created",
    "RoomStatus": "status_changed",
    "Order": "placed",
    "DailyReport": "submitted",
    "AlertLog": "raised",
    "OperationLog": "recorded",
}
_UPDATED: Final = {
    "Reservation": "updated",
    "Customer": "updated",
    "RoomStatus": "status_changed",
    "Order": "changed",
    "DailyReport": "corrected",
    "AlertLog": "raised",
}
_DELETED: Final = {"Reservation": "cancelled", "Order": "cancelled", "AlertLog": "cleared"}
DELETIONS: Final = {
    ("reservation", "cancelled"): {"status": "cancelled"},
    ("order", "cancelled"): {},
    ("alert", "cleared"): {},
}
"""The events that take an entity away, and what they say besides."""
_NO_DELETION: Final = {
    "RoomStatus": "a room is not deleted; set its status to out_of_service",
    "Customer": "only hotel-member removes customers",
    "Billing": "a movement on a folio is not deleted; correct it with an UPDATE",
    "DailyReport": "a report is not deleted; correct it with an UPDATE",
    "OperationLog": "what was done stays written down",
}
_STATUS_ACTIONS: Final = frozenset({"confirmed", "cancelled", "checked_in", "checked_out"})
_WHOLE: Final = frozenset({"reservation", "room", "order", "daily_report", "alert"})
"""The types whose events carry the entity's whole state; of the others, what changed."""
_CURRENCY: Final = frozenset({"currency"})


class Planned(NamedTuple):
    """An event to publish."""

    type: str
    action: str
    data: dict[str, Any]

    @property
    def deletes(self) -> bool:
        """Whether it takes its entity away."""
        return (self.type, self.action) in DELETIONS


def said(
    model: str, operation: str, entity_id: str, payload: Mapping[str, Any], schema_version: int | None
) -> dict[str, Any]:
    """What an item says, at the newest version of its type: its id filled in, a deletion's own fields beside.

    Raises:
        Problem: `invalid_event`: the id contradicts the item's, or the version is not known here.
    """
    kind = EVENT_TYPES[TYPES[model]]
    version = kind.newest if schema_version is None else schema_version
    if version not in kind.versions:
        known = ", ".join(map(str, kind.versions))
        why = "this hub is older than the device" if version > kind.newest else "it is no longer read"
        raise invalid_event(
            [FieldError("schema_version", f"{kind.name} has no version {version} ({why}); known: {known}")]
        )
    name = kind.entity_fields[0]
    if payload.get(name, entity_id) != entity_id:
        raise invalid_event([FieldError(f"payload.{name}", f"is not the item's entity_id {entity_id!r}")])
    data = {**payload, name: entity_id}
    if version < kind.newest:
        if errors := registry.validate_data(kind, version, data):
            # What is not whole cannot be brought to a newer version.
            raise invalid_event(of_payload(errors))
        data = registry.upcast(kind, version, data)
    if undoes(model, operation):
        return {name: entity_id, "status": _UNDONE[model]}
    if operation == "DELETE" and model in _DELETED:
        data |= DELETIONS[kind.name, _DELETED[model]]
    return data


def misfits(type: str, said: Mapping[str, Any]) -> list[FieldError]:
    """What of an item no event could say, whatever is known of its entity. What it leaves out, or sets to nothing, may
    be known; rules between fields are for the whole event."""
    kind = EVENT_TYPES[type]
    found = []
    for error in of_payload(registry.validate_data(kind, kind.newest, said)):
        name = error.path.partition(".")[2].partition(".")[0]
        if said.get(name) is not None and name not in TRACKING:
            found.append(error)
    return found


def of_payload(errors: Iterable[FieldError]) -> list[FieldError]:
    """What is wrong with an event's data, as it is told of an item."""
    return [FieldError(one.path.replace("data", "payload", 1), one.message) for one in errors]


def undoes(model: str, operation: str) -> bool:
    """Whether an item takes back a check-in, a check-out or a no-show: nothing is deleted by that."""
    return operation == "DELETE" and model in _UNDONE


def type_of(model: str, operation: str) -> str:
    """The type of an item's event: undoing a check-in is an edit of its reservation."""
    return "reservation" if undoes(model, operation) else TYPES[model]


def action_of(
    model: str, operation: str, action: str | None, fields: Mapping[str, Any], states: States
) -> tuple[str, str]:
    """The type and action of an item's event.

    Raises:
        Problem: `invalid_event`: the operation makes no sense for the model.
    """
    kind = EVENT_TYPES[TYPES[model]]
    if operation == "DELETE":
        if model in _UNDONE:
            return "reservation", "updated"
        if model in _NO_DELETION:
            raise invalid_event([FieldError("operation", _NO_DELETION[model])])
        return kind.name, _DELETED[model]
    if model in _STAY_ACTIONS:
        return kind.name, _STAY_ACTIONS[model]
    if model == "OperationLog" and operation == "UPDATE":
        raise invalid_event([FieldError("operation", "what was done stays written down; only CREATE")])
    if action is not None:
        if action not in kind.actions:
            message = f"{kind.name} has no action {action!r}; one of: {', '.join(kind.actions)}"
            raise invalid_event([FieldError("action", message)])
        return kind.name, action
    return kind.name, _derived(model, operation, fields, states.get(kind.name))


def _derived(model: str, operation: str, fields: Mapping[str, Any], state: Mapping[str, Any] | None) -> str:
    if model == "Billing":
        return billing.action_of(operation, None, fields)
    if operation == "CREATE":
        return _CREATED[model]
    held = state or {}
    news = {name for name, value in fields.items() if name not in TRACKING and held.get(name) != value}
    if model == "Reservation" and "status" in news and fields["status"] in _STATUS_ACTIONS:
        return str(fields["status"])
    if model == "Customer" and fields.get("points_delta") is not None:
        return "points_changed"
    if model == "Customer" and "rank_id" in news:
        return "rank_changed"
    if model == "RoomStatus" and "status" not in news and "housekeeping" not in news:
        if "maintenance_notes" in news:
            return "maintenance_updated"
        if "base_price" in news:
            return "price_updated"
    return _UPDATED[model]


def event_of(
    model: str,
    operation: str,
    action: str | None,
    entity: str,
    fields: Mapping[str, Any],
    states: States,
    *,
    deleted: bool | None = None,
    touched: frozenset[str] | None = None,
) -> Planned:
    """The event of an item that sets `fields`, completed from what is known of its entity.

    `deleted` says whether the entity is deleted after it, where others have a say in that; `touched` what of `fields`
    is news.

    Raises:
        Problem: `invalid_event`, naming the fields; nothing is known of what is to be changed.
    """
    type, named = action_of(model, operation, action, fields, states)
    kind = EVENT_TYPES[type]
    entity_id = entity.partition(":")[2]
    if deleted and model in _DELETED:
        named = _DELETED[model]
        fields = {**fields, **DELETIONS[type, named]}
    elif deleted is False and (type, named) in DELETIONS and operation == "DELETE":
        named = _UPDATED[model]
    state = states.get(type, {})
    if undoes(model, operation):
        fields = {"status": fields.get("status", _UNDONE[model])}
        if state and not states.get(TYPES[model]) and state.get("status") not in _STAYED:
            raise invalid_event([FieldError("entity_id", f"{entity} has no {model} that could be undone")])
    if operation == "DELETE" and not state and not _fits(kind, fields, entity_id):
        raise invalid_event([FieldError("entity_id", f"nothing is known of {entity}; there is nothing to delete")])
    data = _completed(kind, named, entity_id, fields, states, touched)
    if errors := registry.validate_data(kind, kind.newest, data):
        found = of_payload(errors)
        if operation == "UPDATE" and not states:
            # Or the fields that it leaves out are named, and not why they are asked for.
            found.insert(0, FieldError("entity_id", f"nothing is known of {entity}; make it first, or send it whole"))
        raise invalid_event(found)
    return Planned(type, named, data)


def _completed(
    kind: EventType,
    action: str,
    entity_id: str,
    fields: Mapping[str, Any],
    states: States,
    touched: frozenset[str] | None,
) -> dict[str, Any]:
    state = states.get(kind.name, {})
    data = {name: value for name, value in fields.items() if name not in TRACKING or name == "origin_system"}
    data[kind.entity_fields[0]] = entity_id
    if kind.name in _WHOLE:
        data = {**{name: value for name, value in state.items() if name not in TRACKING}, **data}
        if "origin_system" in state:
            data.setdefault("origin_system", state["origin_system"])
        return {name: value for name, value in data.items() if value is not None or name in fields}
    required = [name for name, field in kind.versions[kind.newest].model_fields.items() if field.is_required()]
    booked = states.get("reservation", {}) if kind.name == "checkin_checkout" else {}
    # Or an amount would be in the property's own.
    for name in (*required, *_CURRENCY.intersection(kind.versions[kind.newest].model_fields)):
        if data.get(name) is None and (held := state.get(name, booked.get(name))) is not None:
            data[name] = held
    if kind.name == "checkin_checkout" and "customer_id" not in data and (known := booked.get("customer_id")):
        data["customer_id"] = known
    if kind.name == "customer":
        return _customer(data, state, action, touched)
    return data


def _customer(
    data: dict[str, Any], state: Mapping[str, Any], action: str, touched: frozenset[str] | None
) -> dict[str, Any]:
    """A customer's event says what changed, and what lets others than the authority change it."""
    ids = {"customer_id", "updatable_by_pms", "points_ledger_id", "updated_fields"}
    if touched is not None and action != "created":
        data = {name: value for name, value in data.items() if name in touched or name in ids}
    if "updatable_by_pms" not in data and state.get("updatable_by_pms") is not None:
        data["updatable_by_pms"] = state["updatable_by_pms"]
    data.setdefault("updated_fields", sorted(data.keys() - ids - {"points_delta", "origin_system"}))
    return data


def _fits(kind: EventType, fields: Mapping[str, Any], entity_id: str) -> bool:
    return not registry.validate_data(kind, kind.newest, {**fields, kind.entity_fields[0]: entity_id})
