"""`reservation` (R14, R15): the booking from inquiry to departure."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.envelope import Event, EventType, Others
from schemas.types import HOTEL_PMS, Currency, Day, EntityId, GuestName, GuestNote, Label, Price, Tracked

Status = Literal["inquiry", "tentative", "waitlisted", "confirmed", "checked_in", "checked_out", "cancelled", "no_show"]
Origin = Literal[
    "direct_web",
    "member_app",
    "phone",
    "email",
    "walk_in",
    "ota",
    "site_controller",
    "travel_agent",
    "corporate",
    "gds",
    "group",
    "import",
]
Action = Literal["created", "updated", "confirmed", "cancelled", "checked_in", "checked_out"]


class ReservationData(Tracked):
    """A reservation's whole state after the event."""

    reservation_id: EntityId
    customer_id: EntityId | None = None
    room_type: Label
    room_number: Label | None = None
    checkin_date: Day
    checkout_date: Day
    total_amount: Price
    currency: Currency | None = None
    status: Status
    origin: Origin
    channel: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] | None = None
    guest_name: GuestName | None = None
    adults: Annotated[int, Field(ge=0, le=999)] | None = None
    children: Annotated[int, Field(ge=0, le=999)] | None = None
    special_requests: GuestNote | None = None

    @model_validator(mode="after")
    def _dates_in_order(self) -> Self:
        if self.checkout_date < self.checkin_date:
            raise ValueError("checkout_date is before checkin_date")
        return self


class ReservationEvent(Event[ReservationData]):
    """`reservation.*`"""

    type: Literal["reservation"]
    action: Action


TYPE = EventType(
    name="reservation",
    event=ReservationEvent,
    actions=("created", "updated", "confirmed", "cancelled", "checked_in", "checked_out"),
    versions={1: ReservationData},
    entity_fields=("reservation_id",),
    authority=HOTEL_PMS,
    # Any system takes bookings (R15: origin_system member|pms|saas); only the front desk moves guests in and out.
    others={"created": Others(), "updated": Others(), "confirmed": Others(), "cancelled": Others()},
)
