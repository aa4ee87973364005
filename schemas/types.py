"""Field types the event schemas share."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Final

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

HOTEL_PMS: Final = "hotel-pms"
HOTEL_SAAS: Final = "hotel-saas"
HOTEL_MEMBER: Final = "hotel-member"
HUB: Final = "hub"
"""The hub itself and its operators' tools: not bound by an event's `targets`."""

SYSTEMS: Final = (HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS)

SYSTEM_FORM: Final = r"^[a-z][a-z0-9-]{1,62}$"
TENANT_FORM: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ENTITY_FORM: Final = r"^[a-z_]{1,32}:[^\s\x00-\x1f]{1,128}$"


@dataclass(frozen=True, slots=True)
class Guest:
    """Marks a field that identifies a guest; a token with `view: masked` reads `mask` in its place."""

    mask: str = "***"


def _exact(value: Any) -> Any:
    if type(value) is float or type(value) is int:
        return Decimal(repr(value))
    if isinstance(value, str):
        raise ValueError("money is a JSON number, not a string")
    return value


def _plain_number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)


Money = Annotated[
    Decimal,
    BeforeValidator(_exact),
    Field(max_digits=15, decimal_places=4, allow_inf_nan=False),
    PlainSerializer(_plain_number, return_type=float, when_used="json"),
    WithJsonSchema({"type": "number", "description": "At most 15 digits, 4 of them decimals"}),
]
"""Decimal inside, a JSON number of at most 15 digits and 4 decimals on the wire."""

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", description="ISO 4217; the tenant's when absent")]
SystemName = Annotated[str, Field(pattern=SYSTEM_FORM)]
TenantId = Annotated[str, Field(pattern=TENANT_FORM)]
EntityId = Annotated[str, Field(pattern=r"^[^\s\x00-\x1f]{1,128}$")]
Label = Annotated[str, Field(min_length=1, max_length=128)]
Note = Annotated[str, Field(max_length=4000)]
Instant = AwareDatetime
Day = date
"""A plain date in the property's own calendar."""

GuestName = Annotated[str, Field(min_length=1, max_length=256), Guest()]
GuestEmail = Annotated[str, Field(max_length=254, pattern=r"^[^@\s]+@[^@\s]+$"), Guest("***@***")]
GuestPhone = Annotated[str, Field(max_length=40), Guest()]
GuestNote = Annotated[str, Field(max_length=4000), Guest()]


class Model(BaseModel):
    """Strict and closed: no coercion, no unknown fields."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class Tracked(Model):
    """Source tracking (R12). The hub fills in what is absent; `updated_by_system` is always the credential's system."""

    origin_system: SystemName | None = None
    updated_by_system: SystemName | None = None
    synced_at: Instant | None = None
