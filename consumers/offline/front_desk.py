"""What is done at a front desk: which changes an arrival, a departure, an order … consist of, and when it cannot be.

Pure: what the desk knows comes in as records' data, a `Deed` comes out, which `Desk.operate` keeps as one operation.
What cannot be at all raises `NotPossible`; what a person may have reasons for raises `Doubtful` until it is meant
`anyway`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, Final, NamedTuple

from consumers.errors import ConsumerError
from consumers.offline.bill import Bill, BillLine, amount_of, on_the_wire
from consumers.offline.items import LocalChange
from consumers.offline.status import Text

Data = Mapping[str, Any]
"""A record's data."""

EXPECTED: Final = frozenset({"confirmed", "tentative"})
"""The statuses in which a guest may arrive."""
LETTABLE: Final = frozenset({"vacant_clean", "inspected"})
OUT_OF_USE: Final = frozenset({"out_of_order", "out_of_service"})
EXTERNAL_METHODS: Final = frozenset({"credit_card", "debit_card", "qr_code", "e_money"})
"""Ways to pay that take somebody outside, and so the line (R67)."""
METHODS: Final = ("cash", "invoice", "voucher", *sorted(EXTERNAL_METHODS))
NO_ROOM: Final = "-"
"""The room of a guest who never came and was never given one."""

_STATUS: Final[Mapping[str, Text]] = {
    "inquiry": Text("問い合わせ", "an inquiry"),
    "tentative": Text("仮予約", "tentative"),
    "waitlisted": Text("キャンセル待ち", "waitlisted"),
    "confirmed": Text("確定", "confirmed"),
    "checked_in": Text("チェックイン済み", "checked in"),
    "checked_out": Text("チェックアウト済み", "checked out"),
    "cancelled": Text("キャンセル済み", "cancelled"),
    "no_show": Text("ノーショー", "a no-show"),
}


class NotPossible(ConsumerError):
    """It cannot be done as things stand; `reason` says why, and what would help."""

    def __init__(self, ja: str, en: str) -> None:
        super().__init__(en)
        self.reason = Text(ja, en)


class Doubtful(ConsumerError):
    """A person must say that it is meant: `reasons` to think twice. Then it is done with `anyway`."""

    def __init__(self, reasons: Sequence[Text]) -> None:
        super().__init__("; ".join(reason.en for reason in reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True, slots=True)
class Deed:
    """One operation: its name in the operation log, its changes, and what to tell whoever did it."""

    operation: str
    changes: tuple[LocalChange, ...]
    told: Text
    bill: Bill | None = None


class Known(NamedTuple):
    """What the desk knows of one reservation. `room` is the one in question; `unbilled` its orders not on the bill;
    `undecided` why a person has to decide on it."""

    booking: Data
    stay: Data | None = None
    folio: Data | None = None
    room: Data | None = None
    unbilled: tuple[str, ...] = ()
    undecided: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The reservation's."""
        return str(self.booking["reservation_id"])

    @property
    def status(self) -> str:
        """The reservation's."""
        return str(self.booking["status"])

    @property
    def paid(self) -> bool:
        """Whether the stay was settled once."""
        return self.stay is not None and self.stay.get("payment_status") == "completed"

    @property
    def owed(self) -> Decimal:
        """The folio's balance: what was charged and not yet settled."""
        return amount_of(self.folio, "balance")


def folio_id(reservation_id: str) -> str:
    """The folio of a reservation."""
    return f"F-{reservation_id}"


# -- reservations -----------------------------------------------------------------------------------------------------


def book(reservation_id: str, data: Mapping[str, Any]) -> Deed:
    """A new reservation. `data` without what is None is its payload; it is confirmed unless said otherwise."""
    payload = {"status": "confirmed", **{name: value for name, value in data.items() if value is not None}}
    change = LocalChange("Reservation", "CREATE", reservation_id, payload)
    guest = payload.get("guest_name") or ""
    told = Text(f"予約 {reservation_id} を作成しました {guest}".rstrip(), f"booked {reservation_id} {guest}".rstrip())
    return Deed("book", (change,), told)


def amend(known: Known, news: Mapping[str, Any]) -> Deed:
    """Another date, amount, guest … of a reservation.

    Raises:
        NotPossible: it is over, or there is nothing to change, or the guest sleeps in another room already, or has paid
            for the room, which a departure charges once.
    """
    said = {name: value for name, value in news.items() if value is not None and known.booking.get(name) != value}
    if not said:
        raise NotPossible("変更する項目がありません", "nothing is changed: say what, like --out 2026-07-18")
    if known.status in ("checked_out", "cancelled", "no_show"):
        raise _not_in(known, "変更できません", "cannot be changed")
    if known.status == "checked_in" and {"room_number", "checkin_date"} & said.keys():
        raise NotPossible(
            f"{known.id} は滞在中です。部屋と到着日は変更できません（チェックイン取消後に変更してください）",
            f"{known.id} is in house: room and arrival stay as they are; undo the check-in first",
        )
    if known.paid and "total_amount" in said:
        raise NotPossible(
            f"{known.id} は精算済みです。宿泊料の追加は charge {known.id} 金額 --category room で計上してください",
            f"{known.id} was settled: put what the stay costs more on the bill, by "
            f"`charge {known.id} AMOUNT --category room`",
        )
    told = Text(f"予約 {known.id} を変更しました", f"changed {known.id}: {', '.join(sorted(said))}")
    return Deed("change", (LocalChange("Reservation", "UPDATE", known.id, said),), told)


def cancel(known: Known) -> Deed:
    """A reservation is called off.

    Raises:
        NotPossible: the guest is here or was, or it is off already.
    """
    if known.status in ("checked_in", "checked_out", "cancelled", "no_show"):
        raise _not_in(known, "キャンセルできません", "cannot be cancelled")
    told = Text(f"予約 {known.id} をキャンセルしました", f"cancelled {known.id}")
    return Deed("cancel", (LocalChange("Reservation", "DELETE", known.id, {}),), told)


# -- comings and goings -----------------------------------------------------------------------------------------------


def arrive(known: Known, *, at: datetime, today: date, others: Iterable[str], anyway: bool = False) -> Deed:
    """A guest gets a room. `others` are the reservations in house in it; `today` is the business day.

    Raises:
        NotPossible: the guest is not expected, or the room not to be had.
        Doubtful: the room is not ready, or it is not the day.
    """
    booking, room = known.booking, known.room
    if known.status not in EXPECTED:
        raise _not_in(known, "チェックインできません", "cannot be checked in")
    if room is None and (given := booking.get("room_number")):
        raise NotPossible(
            f"{given} 号室が見つかりません。別の部屋を指定してください（--room）",
            f"there is no room {given} at this desk, which was assigned: say another one, like --room 301",
        )
    if room is None:
        raise NotPossible("部屋番号を指定してください（--room）", "no room was assigned: say which, like --room 301")
    number = str(room["room_number"])
    if taken := sorted(other for other in others if other != known.id):
        raise NotPossible(
            f"{number} 号室は使用中です（{', '.join(taken)}）",
            f"room {number} is taken by {', '.join(taken)}: choose another one",
        )
    if room["status"] in OUT_OF_USE:
        raise NotPossible(f"{number} 号室は使用停止中です", f"room {number} is {_said(room['status'])}: choose another")
    doubts = []
    if room["status"] not in LETTABLE:
        doubts.append(Text(f"{number} 号室の状態は {room['status']} です", f"room {number} is {_said(room['status'])}"))
    if today < date.fromisoformat(booking["checkin_date"]):
        doubts.append(
            Text(f"到着予定日は {booking['checkin_date']} です", f"the guest is expected on {booking['checkin_date']}")
        )
    if today > date.fromisoformat(booking["checkout_date"]):
        doubts.append(
            Text(f"出発予定日 {booking['checkout_date']} を過ぎています", f"the stay was to {booking['checkout_date']}")
        )
    _meant(doubts, anyway)
    stay = {"room_number": number, "actual_checkin_time": _instant(at), "payment_status": "pending"}
    changes = (
        LocalChange("CheckIn", "CREATE", known.id, stay | _guest(booking), "high"),
        LocalChange("Reservation", "UPDATE", known.id, {"status": "checked_in", "room_number": number}, "high"),
        _room(room, "occupied", booking["checkout_date"]),
    )
    told = Text(f"{known.id} を {number} 号室にチェックインしました", f"checked in {known.id}, room {number}")
    return Deed("check_in", changes, told)


def depart(
    known: Known,
    *,
    at: datetime,
    today: date,
    method: str | None,
    charge_id: str,
    currency: str | None = None,
    anyway: bool = False,
) -> Deed:
    """A guest leaves, and what is due is settled: the room, once, and what the folio holds. The deed has the bill.

    `charge_id` names the two movements: `<it>-room` and `<it>`, which is the receipt's number.

    Raises:
        NotPossible: the guest is not in house, or something is due and nobody said how it is paid.
        Doubtful: orders are not on the bill yet, the guest is to get something back, or what another desk says of the
            guest waits for a person: it may have been paid there.
    """
    if known.status != "checked_in":
        raise _not_in(known, "チェックアウトできません", "cannot be checked out")
    booking, number = known.booking, _place(known)
    bill = bill_of(known, currency=currency, number=charge_id, method=method)
    if bill.total > 0 and method is None:
        raise NotPossible(
            f"お支払い {on_the_wire(bill.total)} があります。支払方法を指定してください（--pay cash など）",
            f"{on_the_wire(bill.total)} is due: say how it is paid, like --pay cash ({', '.join(METHODS)})",
        )
    doubts = []
    if named := ", ".join(known.unbilled):
        doubts.append(Text(f"未計上の注文があります: {named}", f"orders are not on the bill yet: {named}"))
    if bill.total < 0:
        credit = on_the_wire(-bill.total)
        doubts.append(Text(f"お預かり金が {credit} あります", f"{credit} are the guest's to get back"))
    doubts += [
        Text(f"競合が未解決です（責任者の判断待ち）: {reason}", f"a conflict waits for a manager: {reason}")
        for reason in known.undecided
    ]
    _meant(doubts, anyway)
    # Of a departure that was undone the extras were paid then.
    extras = known.owed + (amount_of(known.stay, "additional_charges") if known.paid else 0)
    stay = {
        "room_number": number,
        "actual_checkout_time": _instant(at),
        "additional_charges": on_the_wire(extras),
        "payment_status": "completed",
    }
    changes = [LocalChange("CheckOut", "CREATE", known.id, stay | _guest(booking) | _money(bill.currency), "high")]
    changes.append(LocalChange("Reservation", "UPDATE", known.id, {"status": "checked_out"}, "high"))
    if known.room is not None:
        changes.append(_room(known.room, "vacant_dirty", today.isoformat()))
    changes += _settlement(known, bill, number)
    told = Text(f"{known.id} をチェックアウトしました（{number} 号室）", f"checked out {known.id}, room {number}")
    return Deed("check_out", tuple(changes), told, bill if bill.total > 0 else None)


def bill_of(known: Known, *, currency: str | None, number: str, method: str | None) -> Bill:
    """What a guest would pay now: the room, where it was not paid, and the folio's balance."""
    booking = known.booking
    lines = []
    if not known.paid and (room := amount_of(booking, "total_amount")):
        lines.append(BillLine(Text("宿泊料", "Room"), room))
    if extras := known.owed:
        lines.append(BillLine(Text("追加料金", "Additional charges"), extras))
    money = booking.get("currency") or (known.folio or {}).get("currency") or currency
    return Bill(
        number=number,
        reservation_id=known.id,
        guest=booking.get("guest_name"),
        room=_place(known),
        checkin=str(booking["checkin_date"]),
        checkout=str(booking["checkout_date"]),
        lines=tuple(lines),
        currency=money,
        method=method,
    )


def _settlement(known: Known, bill: Bill, number: str) -> list[LocalChange]:
    if bill.total <= 0:
        return []
    folio = {"reservation_id": known.id, "room_number": number, **_guest(known.booking), **_money(bill.currency)}
    id = folio_id(known.id)
    changes = []
    due = bill.total - known.owed
    if due:
        room = {"charge_id": f"{bill.number}-room", "amount": on_the_wire(due), "category": "room"}
        charged = folio | room | {"balance": on_the_wire(bill.total)}
        changes.append(LocalChange("Billing", "CREATE", id, charged, "high", "charged"))
    paid = {"charge_id": bill.number, "amount": on_the_wire(bill.total), "balance": 0, "payment_method": bill.method}
    return [*changes, LocalChange("Billing", "CREATE", id, folio | paid, "high", "settled")]


def undo_arrival(known: Known, *, today: date) -> Deed:
    """A check-in was a mistake: the reservation is expected again, and the room free.

    Raises:
        NotPossible: the guest is not in house, or has paid.
    """
    if known.status != "checked_in":
        raise _not_in(known, "取消できるチェックインがありません", "has no check-in to undo")
    if known.paid:
        raise NotPossible(
            f"{known.id} は精算済みのため、チェックインを取消できません",
            f"{known.id} was settled: a check-in that was paid for is not undone",
        )
    changes = [
        LocalChange("CheckIn", "DELETE", known.id, _undone(known), "high"),
        LocalChange("Reservation", "UPDATE", known.id, {"status": "confirmed"}, "high"),
    ]
    if known.room is not None:
        changes.append(_room(known.room, "vacant_clean", today.isoformat()))
    told = Text(
        f"{known.id} のチェックインを取消しました（{_place(known)} 号室は清掃済みに戻りました。"
        "使用した場合は変更してください）",
        f"undid the check-in of {known.id}; room {_place(known)} is vacant_clean: change that if it was used",
    )
    return Deed("undo_check_in", tuple(changes), told)


def undo_departure(known: Known, *, others: Iterable[str]) -> Deed:
    """A check-out was a mistake: the guest is in the room again. What was paid stays paid.

    Raises:
        NotPossible: the guest has not left, or somebody else is in the room.
    """
    if known.status != "checked_out":
        raise _not_in(known, "取消できるチェックアウトがありません", "has no check-out to undo")
    number = _place(known)
    if taken := sorted(other for other in others if other != known.id):
        raise NotPossible(
            f"{number} 号室は使用中です（{', '.join(taken)}）", f"room {number} is taken by {', '.join(taken)} by now"
        )
    changes = [
        LocalChange("CheckOut", "DELETE", known.id, _undone(known), "high"),
        LocalChange("Reservation", "UPDATE", known.id, {"status": "checked_in"}, "high"),
    ]
    if known.room is not None:
        changes.append(_room(known.room, "occupied", known.booking["checkout_date"]))
    told = Text(
        f"{known.id} のチェックアウトを取消しました（精算はそのままです）",
        f"undid the check-out of {known.id}; what was paid stays paid",
    )
    return Deed("undo_check_out", tuple(changes), told)


def stay_away(known: Known, *, today: date, anyway: bool = False) -> Deed:
    """A guest never came.

    Raises:
        NotPossible: nobody is expected.
        Doubtful: the day of arrival is not over.
    """
    if known.status not in EXPECTED:
        raise _not_in(known, "ノーショーにできません", "cannot be a no-show")
    expected = known.booking["checkin_date"]
    if today < date.fromisoformat(expected):
        _meant([Text(f"到着予定日は {expected} です", f"the guest is expected on {expected}")], anyway)
    number = known.booking.get("room_number") or NO_ROOM
    stay = {"room_number": number, "payment_status": "pending"}
    changes = (
        LocalChange("NoShow", "CREATE", known.id, stay | _guest(known.booking), "high"),
        LocalChange("Reservation", "UPDATE", known.id, {"status": "no_show"}, "high"),
    )
    return Deed("no_show", changes, Text(f"{known.id} をノーショーにしました", f"{known.id} is a no-show"))


def undo_no_show(known: Known) -> Deed:
    """The guest came after all.

    Raises:
        NotPossible: it is no no-show.
    """
    if known.status != "no_show":
        raise _not_in(known, "取消できるノーショーがありません", "has no no-show to undo")
    changes = (
        LocalChange("NoShow", "DELETE", known.id, _undone(known), "high"),
        LocalChange("Reservation", "UPDATE", known.id, {"status": "confirmed"}, "high"),
    )
    told = Text(f"{known.id} のノーショーを取消しました", f"undid the no-show of {known.id}")
    return Deed("undo_no_show", changes, told)


# -- within -----------------------------------------------------------------------------------------------------------


def _meant(doubts: Sequence[Text], anyway: bool) -> None:
    if doubts and not anyway:
        raise Doubtful(doubts)


def _not_in(known: Known, ja: str, en: str) -> NotPossible:
    status = _STATUS.get(known.status, Text(known.status, known.status))
    return NotPossible(f"{known.id} は{status.ja}のため、{ja}", f"{known.id} is {status.en}, it {en}")


def _place(known: Known) -> str:
    """The room that the guest has: the reservation's, which moves with the guest."""
    return str(known.booking.get("room_number") or (known.stay or {}).get("room_number") or NO_ROOM)


def _undone(known: Known) -> dict[str, Any]:
    paid = (known.stay or {}).get("payment_status", "pending")
    return {"room_number": _place(known), "payment_status": paid}


def _room(room: Data, status: str, available: str) -> LocalChange:
    said = {"status": status, "availability_date": available}
    return LocalChange("RoomStatus", "UPDATE", str(room["room_id"]), said, "high")


def _guest(booking: Data) -> dict[str, Any]:
    return {"customer_id": booking["customer_id"]} if booking.get("customer_id") else {}


def _money(currency: str | None) -> dict[str, Any]:
    return {} if currency is None else {"currency": currency}


def _instant(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


def _said(status: str) -> str:
    return status.replace("_", " ")
