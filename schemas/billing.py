"""`billing`: charges on a guest's folio and their settlement. The entity is the folio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.envelope import Event, EventType, Others
from schemas.types import HOTEL_PMS, Currency, EntityId, Label, Money, Note, Tracked

Action = Literal["charged", "settled", "refunded", "corrected"]
Category = Literal["room", "food", "beverage", "service", "tax", "discount", "other"]


class BillingData(Tracked):
    """One movement on a folio. A correction's `amount` goes either way; a discount is a charge below zero."""

    folio_id: EntityId
    charge_id: EntityId | None = None
    reservation_id: EntityId | None = None
    customer_id: EntityId | None = None
    order_id: EntityId | None = None
    room_number: Label | None = None
    amount: Money
    currency: Currency | None = None
    balance: Money | None = None
    category: Category = "other"
    payment_method: Annotated[str, Field(pattern=r"^[a-z0-9_]{1,40}$")] | None = None
    estimated: bool = False
    reason: Note | None = None


class BillingEvent(Event[BillingData]):
    """`billing.*`"""

    type: Literal["billing"]
    action: Action


def action_of(operation: str, named: str | None, said: Mapping[str, Any]) -> str:
    """What an operation at a desk does to a folio: what it names, or else what it must mean."""
    if named is not None:
        return named
    if operation != "CREATE":
        return "corrected"
    return "charged" if said.get("payment_method") is None else "settled"


def balanced(said: Mapping[str, Any], action: str, held: Mapping[str, Any] | None) -> dict[str, Any]:
    """A movement that a desk made, with the balance that it brings its folio to.

    What the desk says of that lacks what others moved meanwhile. It stands where there is nothing to reckon from.
    """
    balance = None if not held else _moved(held.get("balance"), said, action)
    return dict(said) if balance is None else {**said, "balance": balance}


def reckoned(said: Mapping[str, Any], action: str, held: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """A movement that may say nothing of the balance: room service does not know it. `held` None: the first one."""
    if "balance" in said:
        return said
    balance = _moved(0 if held is None else held.get("balance"), said, action)
    return said if balance is None else {**said, "balance": balance}


def _moved(before: Any, said: Mapping[str, Any], action: str) -> float | None:
    """The balance after a movement; None where it cannot be told: a refund returns a charge, or what was overpaid."""
    amount = said.get("amount")
    if before is None or amount is None or action == "refunded":
        return None
    balance: float = round(before - amount if action == "settled" else before + amount, 4)
    return balance


TYPE = EventType(
    name="billing",
    event=BillingEvent,
    actions=("charged", "settled", "refunded", "corrected"),
    versions={1: BillingData},
    entity_fields=("folio_id",),
    authority=HOTEL_PMS,
    # Room service charges to the room; money is settled, refunded and corrected at the front desk.
    others={"charged": Others()},
    guarantee="exactly_once",
    # The folio's state is whose it is and its balance; the rest is the one movement.
    transient=frozenset({"charge_id", "order_id", "amount", "category", "payment_method", "estimated", "reason"}),
    reckon=reckoned,
    reckoned=frozenset({"balance"}),
)
