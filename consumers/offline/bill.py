"""What a guest pays, and the receipt for it (R56). Pure. Receipts are printed here and never synced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from consumers.offline.status import WAITING_MARK, Text
from schemas.types import exact, json_number

_METHODS: Final = {
    "cash": "現金",
    "invoice": "請求書払い",
    "voucher": "クーポン",
    "credit_card": "クレジットカード",
    "debit_card": "デビットカード",
    "qr_code": "QRコード決済",
    "e_money": "電子マネー",
}
_RULE: Final = "-" * 40


class BillLine(NamedTuple):
    """One line of a bill."""

    what: Text
    amount: Decimal


@dataclass(frozen=True, slots=True)
class Bill:
    """What is due at a departure. `number` is the receipt's, and the settlement's `charge_id`."""

    number: str
    reservation_id: str
    guest: str | None
    room: str
    checkin: str
    checkout: str
    lines: tuple[BillLine, ...]
    currency: str | None
    method: str | None

    @property
    def total(self) -> Decimal:
        """The sum of the lines."""
        return sum((line.amount for line in self.lines), Decimal(0))


def receipt(bill: Bill, *, hotel: str, at: datetime, operator: str, device: str, waiting: bool) -> list[str]:
    """The receipt's lines, Japanese with English. `waiting`: the hub does not have the settlement yet."""
    told = [
        "領収書 / Receipt",
        hotel,
        f"No. {bill.number}",
        f"{at:%Y-%m-%d %H:%M}",
        _RULE,
        f"{bill.guest or ''} 様".strip(),
        f"予約 / Reservation  {bill.reservation_id}",
        f"客室 / Room  {bill.room}   {bill.checkin} - {bill.checkout}",
        _RULE,
        *(f"{line.what.ja} / {line.what.en}  {shown(line.amount, bill.currency)}" for line in bill.lines),
        _RULE,
        f"合計 / Total  {shown(bill.total, bill.currency)}",
    ]
    if bill.method is not None:
        told.append(f"お支払い / Paid by  {_METHODS.get(bill.method, bill.method)} / {bill.method}")
    told.append(f"担当 / Served by  {operator}  ({device})")
    if waiting:
        # Kept at the desk, and the money is taken: only that the others do not know of it yet.
        told.append(f"（{WAITING_MARK}）")
    return told


def amount_of(data: Mapping[str, Any] | None, name: str) -> Decimal:
    """An amount of a record, exactly; 0 where it has none."""
    value = None if data is None else data.get(name)
    return Decimal(0) if value is None else exact(value)


def on_the_wire(amount: Decimal) -> int | float:
    """An amount as the JSON number that stands for it."""
    return json_number(amount)


def shown(amount: Decimal, currency: str | None) -> str:
    """An amount for people."""
    text = f"{amount:,.0f}" if amount == amount.to_integral_value() else f"{amount:,f}".rstrip("0")
    return text if currency is None else f"{text} {currency}"
