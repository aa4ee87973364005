"""What a front desk does for who is in the house: orders, charges, points, rooms. Pure.

As in `consumers.offline.front_desk`, what comes out is a deed, or the reason why not. An order is an estimate until the
desk puts it on the bill (R68).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final, NamedTuple

from consumers.offline.bill import amount_of, on_the_wire
from consumers.offline.front_desk import Data, Deed, Known, NotPossible, folio_id
from consumers.offline.items import LocalChange
from consumers.offline.status import Text
from schemas.types import fits_money

CATEGORIES: Final = ("room", "food", "beverage", "service", "tax", "discount", "other")
ROOM_STATUSES: Final = (
    "vacant_clean",
    "vacant_dirty",
    "occupied",
    "cleaning",
    "inspected",
    "out_of_order",
    "out_of_service",
)
HOUSEKEEPING: Final = ("clean", "dirty", "cleaning", "inspected")


class OrderLine(NamedTuple):
    """One line of an order."""

    name: str
    quantity: int
    unit_price: Decimal

    @classmethod
    def read(cls, text: str) -> OrderLine:
        """`コーヒー:2:800`: what, how many, the price of one.

        Raises:
            NotPossible: it is written otherwise.
        """
        name, _, rest = text.partition(":")
        quantity, _, price = rest.partition(":")
        try:
            line = cls(name.strip(), int(quantity), Decimal(price))
        except (ValueError, InvalidOperation):
            line = cls("", 0, Decimal(0))
        priced = fits_money(line.unit_price) and line.unit_price >= 0
        if not line.name or line.quantity < 1 or not priced or not fits_money(line.quantity * line.unit_price):
            raise NotPossible(
                f"{text}: 「品名:数量:単価」で入力してください（例 コーヒー:2:800）",
                f"{text}: write an item as name:quantity:price, like coffee:2:800",
            )
        return line


# -- orders -----------------------------------------------------------------------------------------------------------


def place_order(
    order_id: str, guest: Known | None, room: str, lines: Sequence[OrderLine], *, at: datetime, currency: str | None
) -> Deed:
    """An order for a room, by telephone. `guest` is who is in house there.

    Raises:
        NotPossible: nobody is, or nothing is ordered.
    """
    if guest is None:
        raise NotPossible(f"{room} 号室に滞在中の宿泊客がいません", f"nobody is in house in room {room}")
    total = sum((line.quantity * line.unit_price for line in lines), Decimal(0))
    items = [
        {"name": line.name, "quantity": line.quantity, "unit_price": on_the_wire(line.unit_price)} for line in lines
    ]
    said = {
        "reservation_id": guest.id,
        "customer_id": guest.booking.get("customer_id"),
        "room_number": room,
        "items": items,
        "total_amount": on_the_wire(total),
        "currency": guest.booking.get("currency") or currency,
        "estimated": True,
        "placed_at": at.isoformat(timespec="seconds"),
    }
    payload = {name: value for name, value in said.items() if value is not None}
    told = Text(
        f"注文 {order_id} を受け付けました（{room} 号室、{on_the_wire(total)}、未計上）",
        f"order {order_id} for room {room}, {on_the_wire(total)}: not on the bill yet",
    )
    return Deed("order", (LocalChange("Order", "CREATE", order_id, payload),), told)


def bill_order(order: Data, guest: Known | None, *, charge_id: str) -> Deed:
    """An order goes on the bill of who ordered it.

    Raises:
        NotPossible: it is there already, or whose it is is not in house.
    """
    id = str(order["order_id"])
    if not order.get("estimated"):
        raise NotPossible(f"注文 {id} は計上済みです", f"order {id} is on the bill already")
    if guest is None or guest.status != "checked_in":
        raise NotPossible(f"注文 {id} の宿泊客は滞在中ではありません", f"whoever made order {id} is not in house")
    amount = amount_of(order, "total_amount")
    charged = _charged(guest, amount, charge_id, "food", order.get("currency")) | {"order_id": id}
    changes = (
        LocalChange("Order", "UPDATE", id, {"estimated": False}, action="confirmed"),
        LocalChange("Billing", "CREATE", folio_id(guest.id), charged, action="charged"),
    )
    told = Text(
        f"注文 {id} を {guest.id} に計上しました（{on_the_wire(amount)}）",
        f"order {id} is on the bill of {guest.id}: {on_the_wire(amount)}",
    )
    return Deed("bill_order", changes, told)


def cancel_order(order: Data) -> Deed:
    """An order is called off.

    Raises:
        NotPossible: it is on the bill.
    """
    id = str(order["order_id"])
    if not order.get("estimated"):
        raise NotPossible(
            f"注文 {id} は計上済みのため取消できません（会計訂正が必要です）",
            f"order {id} is on the bill: that has to be corrected by accounting",
        )
    told = Text(f"注文 {id} を取消しました", f"cancelled order {id}")
    return Deed("cancel_order", (LocalChange("Order", "DELETE", id, {}),), told)


# -- money and points -------------------------------------------------------------------------------------------------


def charge(
    guest: Known, amount: Decimal, *, charge_id: str, category: str, reason: str | None, currency: str | None
) -> Deed:
    """Something goes on a guest's bill.

    Raises:
        NotPossible: the guest is not in house, or it is no amount.
    """
    if guest.status != "checked_in":
        raise NotPossible(f"{guest.id} は滞在中ではありません", f"{guest.id} is not in house")
    if not fits_money(amount) or amount <= 0:
        raise NotPossible(
            "金額は正の数で入力してください（訂正は会計で行います）",
            "amount: must be more than 0; what is on the bill already is corrected by accounting",
        )
    said = _charged(guest, amount, charge_id, category, currency) | ({"reason": reason} if reason else {})
    told = Text(
        f"{guest.id} に {on_the_wire(amount)} を計上しました（残高 {said['balance']}）",
        f"charged {on_the_wire(amount)} to {guest.id}, balance {said['balance']}",
    )
    return Deed("charge", (LocalChange("Billing", "CREATE", folio_id(guest.id), said, action="charged"),), told)


def points(customer: Data, delta: int, *, ledger_id: str, waiting: int, reason: str | None = None) -> Deed:
    """Points are given or used. `waiting` is the sum of this desk's changes that the hub does not have yet.

    Raises:
        NotPossible: more would be used than there are, as far as the desk knows (R65).
    """
    id = str(customer["customer_id"])
    known = customer.get("total_points")
    if delta == 0:
        raise NotPossible("ポイント数を指定してください", "points: must not be 0, like +100 or -50")
    if delta < 0:
        if known is None:
            raise NotPossible(f"{id} の残高が不明です", f"the balance of {id} is not known here: nothing can be used")
        left = known + min(waiting, 0)
        if left + delta < 0:
            raise NotPossible(
                f"{id} が利用できるポイントは {left} です（最終同期時点）",
                f"{id} has {left} points to use, as of the last sync",
            )
    said: dict[str, Any] = {"points_delta": delta, "points_ledger_id": ledger_id}
    because = f"（{reason}）" if reason else ""
    told = Text(
        f"{id} のポイント {delta:+d} を記録しました{because}",
        f"{delta:+d} points for {id}" + (f" ({reason})" if reason else ""),
    )
    return Deed("points", (LocalChange("Customer", "UPDATE", id, said),), told)


def new_member(customer_id: str, contact: Mapping[str, Any]) -> Deed:
    """A guest becomes a member; only while the hub is reached (R67)."""
    said = {name: value for name, value in contact.items() if value is not None}
    told = Text(f"会員 {customer_id} を登録しました", f"{customer_id} is a member now")
    payload = said | {"updated_fields": sorted(said), "updatable_by_pms": True}
    return Deed("new_member", (LocalChange("Customer", "CREATE", customer_id, payload),), told)


# -- rooms ------------------------------------------------------------------------------------------------------------


def set_room(
    number: str, room: Data | None, news: Mapping[str, Any], *, today: date, guests: Sequence[str] = ()
) -> Deed:
    """A room's status, housekeeping, note or price; a room that the desk does not know is added.

    Raises:
        NotPossible: a new room has no type, nothing is changed, or guests are in it.
    """
    said = {name: value for name, value in news.items() if value is not None}
    if room is None:
        if "room_type" not in said:
            raise NotPossible(
                f"{number} 号室は登録されていません（--type を指定すると追加します）",
                f"room {number} is not known: give its --type to add it",
            )
        added = {"room_number": number, "status": "vacant_clean", "availability_date": today.isoformat()} | said
        told = Text(f"{number} 号室を追加しました", f"added room {number}")
        return Deed("add_room", (LocalChange("RoomStatus", "CREATE", f"room-{number}", added),), told)
    said = {name: value for name, value in said.items() if room.get(name) != value}
    if not said:
        raise NotPossible(f"{number} 号室に変更はありません", f"nothing is changed of room {number}")
    if guests and said.get("status", "occupied") != "occupied":
        raise NotPossible(
            f"{number} 号室は滞在中です（{', '.join(guests)}）。清掃状態は --housekeeping で変更してください",
            f"{', '.join(guests)} is in room {number}: it stays occupied; --housekeeping tells how it looks",
        )
    told = Text(
        f"{number} 号室: {', '.join(f'{name}={value}' for name, value in said.items())}",
        f"room {number}: {', '.join(f'{name} {value}' for name, value in said.items())}",
    )
    return Deed("room_status", (LocalChange("RoomStatus", "UPDATE", str(room["room_id"]), said),), told)


def _charged(guest: Known, amount: Decimal, charge_id: str, category: str, currency: str | None) -> dict[str, Any]:
    booking = guest.booking
    said = {
        "charge_id": charge_id,
        "reservation_id": guest.id,
        "customer_id": booking.get("customer_id"),
        "room_number": booking.get("room_number"),
        "amount": on_the_wire(amount),
        "balance": on_the_wire(guest.owed + amount),
        "currency": booking.get("currency") or currency,
        "category": category,
    }
    return {name: value for name, value in said.items() if value is not None}
