"""`checkin_checkout` (R20, R21): a guest arrives, leaves, or never came. Its entity is the reservation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from schemas.envelope import Event, EventType
from schemas.types import HOTEL_PMS, Currency, EntityId, Instant, Label, Money, Tracked

PaymentStatus = Literal["pending", "completed", "failed"]
Action = Literal["checked_in", "checked_out", "no_show"]

IN_HOUSE: Final = "checked_in"
"""The status of reservations whose guests are in the house."""
OVER: Final = frozenset({"checked_out", "cancelled", "no_show"})
"""The statuses of reservations whose guests are not in the house any more, or never came."""


def may_be_in_house(stay: Mapping[str, Any], booking: Mapping[str, Any]) -> bool:
    """Whether a guest may be in the house, as far as the states of stay and reservation tell: who came and left need
    not say when."""
    if booking.get("status") in OVER:
        return False
    return booking.get("status") == IN_HOUSE or (bool(stay) and stay.get("actual_checkout_time") is None)


class CheckInOutData(Tracked):
    """What happened at the desk."""

    reservation_id: EntityId
    customer_id: EntityId | None = None
    room_number: Label
    actual_checkin_time: Instant | None = None
    actual_checkout_time: Instant | None = None
    additional_charges: Money | None = None
    currency: Currency | None = None
    payment_status: PaymentStatus


class CheckInOutEvent(Event[CheckInOutData]):
    """`checkin_checkout.*`"""

    type: Literal["checkin_checkout"]
    action: Action


TYPE = EventType(
    name="checkin_checkout",
    event=CheckInOutEvent,
    actions=("checked_in", "checked_out", "no_show"),
    versions={1: CheckInOutData},
    entity_fields=("reservation_id",),
    entity_type="reservation",
    authority=HOTEL_PMS,
    priority="CRITICAL",
    guarantee="exactly_once",
)
