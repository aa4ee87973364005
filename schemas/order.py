"""`order`: room service. Version 1 held one item an order; version 2 holds a list."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.envelope import Event, EventType, Others
from schemas.types import (
    HOTEL_SAAS,
    Currency,
    EntityId,
    GuestNote,
    Instant,
    Label,
    Model,
    Price,
    Tracked,
    exact,
    fits_money,
    json_number,
)

Action = Literal["placed", "changed", "confirmed", "delivered", "cancelled"]
Quantity = Annotated[int, Field(ge=1, le=9999)]


class OrderDataV1(Tracked):
    """An order of one item."""

    order_id: EntityId
    reservation_id: EntityId | None = None
    room_number: Label
    item: Label
    quantity: Quantity
    unit_price: Price
    currency: Currency | None = None
    placed_at: Instant | None = None

    @model_validator(mode="after")
    def _total_is_money(self) -> Self:
        # What version 2 cannot say must not enter as version 1: nobody could read it.
        if not fits_money(self.quantity * self.unit_price):
            raise ValueError("quantity times unit_price has too many digits for money")
        return self


class OrderItem(Model):
    """One line of an order."""

    item_id: EntityId | None = None
    name: Label
    quantity: Quantity
    unit_price: Price


class OrderData(Tracked):
    """An order's whole state; `estimated` marks charges that the front desk has yet to confirm (R68)."""

    order_id: EntityId
    reservation_id: EntityId | None = None
    customer_id: EntityId | None = None
    room_number: Label
    items: Annotated[list[OrderItem], Field(min_length=1, max_length=200)]
    total_amount: Price
    currency: Currency | None = None
    estimated: bool = False
    placed_at: Instant | None = None
    notes: GuestNote | None = None


class OrderEvent(Event[OrderData]):
    """`order.*`"""

    type: Literal["order"]
    action: Action


def _one_item_to_list(data: dict[str, Any]) -> dict[str, Any]:
    item = {"name": data["item"], "quantity": data["quantity"], "unit_price": data["unit_price"]}
    rest = {key: value for key, value in data.items() if key not in ("item", "quantity", "unit_price")}
    total = json_number(data["quantity"] * exact(data["unit_price"]))
    return rest | {"items": [item], "total_amount": total, "estimated": False}


TYPE = EventType(
    name="order",
    event=OrderEvent,
    actions=("placed", "changed", "confirmed", "delivered", "cancelled"),
    versions={1: OrderDataV1, 2: OrderData},
    upcasts={1: _one_item_to_list},
    entity_fields=("order_id",),
    authority=HOTEL_SAAS,
    # The front desk takes orders by telephone and confirms them onto the bill.
    others={action: Others() for action in ("placed", "changed", "confirmed", "cancelled")},
)
