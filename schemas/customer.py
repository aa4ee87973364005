"""`customer` (R16, R17): the guest profile and loyalty account; hotel-member is its master (R29)."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.envelope import Event, EventType, Others
from schemas.types import HOTEL_MEMBER, EntityId, GuestEmail, GuestName, GuestPhone, Label, Tracked

Action = Literal["created", "updated", "rank_changed", "points_changed"]

CONTACT_FIELDS = frozenset({"name", "email", "phone"})
"""What other systems may change of a customer, where `updatable_by_pms` says so."""

_BOOKKEEPING = frozenset({"customer_id", "updated_fields", "updatable_by_pms"})


class CustomerData(Tracked):
    """What changed of a customer: `updated_fields` names the fields that carry news."""

    customer_id: EntityId
    name: GuestName | None = None
    email: GuestEmail | None = None
    phone: GuestPhone | None = None
    rank_id: Label | None = None
    total_points: Annotated[int, Field(ge=-(10**12), le=10**12)] | None = None
    points_delta: Annotated[int, Field(ge=-(10**12), le=10**12)] | None = None
    points_ledger_id: EntityId | None = None
    updated_fields: list[Label] = Field(default_factory=list)
    updatable_by_pms: bool = False

    @model_validator(mode="after")
    def _delta_has_a_ledger_id(self) -> Self:
        if self.points_delta is not None and self.points_ledger_id is None:
            raise ValueError("points_delta needs points_ledger_id, so that the change is counted once")
        return self


class CustomerEvent(Event[CustomerData]):
    """`customer.*`"""

    type: Literal["customer"]
    action: Action


TYPE = EventType(
    name="customer",
    event=CustomerEvent,
    actions=("created", "updated", "rank_changed", "points_changed"),
    versions={1: CustomerData},
    entity_fields=("customer_id",),
    authority=HOTEL_MEMBER,
    transient=frozenset({"points_delta", "points_ledger_id", "updated_fields"}),
    others={
        # A walk-in guest gets a profile at the desk, without rank or points.
        "created": Others(fields=_BOOKKEEPING | CONTACT_FIELDS),
        "updated": Others(fields=_BOOKKEEPING | CONTACT_FIELDS, permission="updatable_by_pms"),
        # Points earned or used elsewhere arrive as a delta; the total is hotel-member's to say.
        "points_changed": Others(fields=_BOOKKEEPING | {"points_delta", "points_ledger_id"}),
    },
)
