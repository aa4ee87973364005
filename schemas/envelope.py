"""The event envelope, and what a type of event declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from schemas.types import ENTITY_FORM, SYSTEMS, UUID_FORM, Instant, Model, SystemName, TenantId, read_instant

Priority = Literal["CRITICAL", "HIGH", "MEDIUM"]
SyncMode = Literal["realtime", "batch"]
Guarantee = Literal["at_least_once", "exactly_once"]

DataT = TypeVar("DataT")


class Event(BaseModel, Generic[DataT]):
    """One event as the hub stores and delivers it. Field by field: the table in `README.md`, "The event"."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    event_id: str
    schema_version: int
    tenant_id: TenantId
    type: str
    action: str
    priority: Priority
    sync_mode: SyncMode
    targets: tuple[SystemName, ...]
    delivery_guarantee: Guarantee
    occurred_at: Instant
    recorded_at: Instant
    entity: str
    revision: int
    expected_revision: int | None = None
    device_id: str | None = None
    created_offline: bool = False
    temp_id: str | None = None
    correlation_id: str | None = None
    causation_id: str | None = None
    traceparent: str | None = None
    data: DataT

    @property
    def name(self) -> str:
        """`type.action`."""
        return f"{self.type}.{self.action}"


def _uuid(value: str) -> str:
    return value.lower()


def _instant(value: str) -> str:
    read_instant(value)
    return value


UuidText = Annotated[
    str,
    Field(pattern=UUID_FORM),
    AfterValidator(_uuid),
]
InstantText = Annotated[str, AfterValidator(_instant), Field(json_schema_extra={"format": "date-time"})]
Reference = Annotated[str, Field(min_length=1, max_length=200)]
# It goes into HTTP headers.
TraceParent = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,200}$")]


class Draft(Model):
    """An event as a publisher hands it in: `type`, `action` and `data`, the rest by default.

    What the hub alone decides (`recorded_at`, `entity`, `revision`) may stand there, as when an event is sent on, and
    is set anew.
    """

    type: str
    action: str
    data: dict[str, Any]
    event_id: UuidText | None = None
    schema_version: int | None = None
    tenant_id: TenantId | None = None
    priority: Priority | None = None
    sync_mode: SyncMode | None = None
    targets: Annotated[list[SystemName], Field(min_length=1)] | None = None
    delivery_guarantee: Guarantee | None = None
    occurred_at: InstantText | None = None
    recorded_at: Any = None
    entity: Annotated[str, Field(pattern=ENTITY_FORM)] | None = None
    revision: Any = None
    expected_revision: Annotated[int, Field(ge=0)] | None = None
    device_id: Reference | None = None
    created_offline: bool | None = None
    temp_id: Reference | None = None
    correlation_id: Reference | None = None
    causation_id: Reference | None = None
    traceparent: TraceParent | None = None


Upcast = Callable[[dict[str, Any]], dict[str, Any]]
Reckon = Callable[[Mapping[str, Any], str, Mapping[str, Any] | None], Mapping[str, Any]]
"""An event's data, its action and the entity's state before it, None before its first → the data, completed."""


@dataclass(frozen=True, slots=True)
class Others:
    """What systems other than the authority may publish of one action (R29).

    `fields` None leaves the whole payload to them; else only these may be set, beside the ids. `permission` names a
    boolean field that must be true.
    """

    fields: frozenset[str] | None = None
    permission: str | None = None


@dataclass(frozen=True, slots=True)
class EventType:
    """One type of event: its actions, delivery defaults, schema versions and source of authority."""

    name: str
    event: type[Event[Any]]
    actions: tuple[str, ...]
    versions: Mapping[int, type[Model]]
    entity_fields: tuple[str, ...]
    """The data fields that together name the entity."""
    authority: str
    entity_type: str = ""
    others: Mapping[str, Others] = field(default_factory=dict)
    upcasts: Mapping[int, Upcast] = field(default_factory=dict)
    """From version n to n + 1; on the data alone."""
    priority: Priority = "HIGH"
    sync_mode: SyncMode = "realtime"
    guarantee: Guarantee = "at_least_once"
    targets: tuple[str, ...] = SYSTEMS
    transient: frozenset[str] = frozenset()
    """The data fields that speak of the event alone, and are no state of the entity."""

    reckon: Reckon | None = None
    """Completes the data of an event, where it leaves `reckoned` fields out, by what the entity was before."""
    reckoned: frozenset[str] = frozenset()

    newest: int = field(init=False)
    """The version events are read at."""
    priced: frozenset[int] = field(init=False)
    """The versions whose data has amounts in a `currency`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "newest", max(self.versions))
        priced = frozenset(number for number, model in self.versions.items() if "currency" in model.model_fields)
        object.__setattr__(self, "priced", priced)

    def entity_of(self, data: Mapping[str, Any]) -> str:
        """The entity an event with this data belongs to."""
        return ":".join((self.entity_type or self.name, *(str(data[field]) for field in self.entity_fields)))
