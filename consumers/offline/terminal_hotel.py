"""The hotel's own work as commands of the terminal program: guests, rooms, orders, money, the day's report."""

from __future__ import annotations

import argparse
from contextlib import aclosing
from datetime import date, datetime
from typing import Any, Final, get_args

from consumers.offline import front_desk, house, room_service
from consumers.offline import terminal_views as views
from consumers.offline.bill import on_the_wire, receipt, shown
from consumers.offline.front_desk import EXTERNAL_METHODS, METHODS, NotPossible
from consumers.offline.roles import Feature
from consumers.offline.room_service import CATEGORIES, HOUSEKEEPING, ROOM_STATUSES, OrderLine
from consumers.offline.status import Text
from consumers.offline.terminal_command import Command, day, listing, money, today_of, whole
from consumers.offline.terminal_desk import Refused, Terminal
from schemas.reservation import Origin

Arguments = argparse.Namespace

_GUESTS: Final[tuple[Feature, ...]] = ("reservations", "charges", "orders")
"""Who may do one of these may see who is in the house."""
_UNDO: Final = ("check-in", "check-out", "no-show")


def _here(terminal: Terminal) -> datetime:
    """Now, on the property's clock."""
    return terminal.around.now().astimezone(terminal.setup.calendar.zone)


def _may_see_guests(terminal: Terminal) -> None:
    session = terminal.session
    session.touch()
    if not any(session.may(one, online=terminal.online) for one in _GUESTS):
        raise Refused("権限がないため使用不可", f"the role {session.role} does not see guests")


# -- reservations -----------------------------------------------------------------------------------------------------


def _reservations_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("which", nargs="?", choices=house.KINDS, default="all")
    parser.add_argument("--date", type=day, help="of another day")
    listing(parser)


async def _reservations(terminal: Terminal, given: Arguments) -> None:
    _may_see_guests(terminal)
    on = date.fromisoformat(given.date) if given.date else today_of(terminal)
    async with aclosing(terminal.house.bookings()) as records:
        rows = [views.reservation_row(one) async for one in records if house.wanted(one.data, given.which, on)]
    terminal.console.rows(views.RESERVATIONS, rows)


def _book_arguments(parser: argparse.ArgumentParser) -> None:
    _stay_arguments(parser, new=True)
    parser.add_argument("--id", help="default: a new one")
    parser.add_argument("--origin", choices=get_args(Origin), default="phone")
    parser.add_argument("--customer", help="the member's id")


def _stay_arguments(parser: argparse.ArgumentParser, *, new: bool) -> None:
    parser.add_argument("--in", dest="checkin", type=day, required=new, metavar="DATE")
    parser.add_argument("--out", dest="checkout", type=day, required=new, metavar="DATE")
    parser.add_argument("--type", required=new, help="the type of room")
    parser.add_argument("--amount", type=money, required=new, help="the price of the stay")
    parser.add_argument("--guest", help="the guest's name")
    parser.add_argument("--room", help="a room given already")
    parser.add_argument("--adults", type=whole)
    parser.add_argument("--note", help="what the guest wishes")


def _stay(given: Arguments) -> dict[str, Any]:
    return {
        "checkin_date": given.checkin,
        "checkout_date": given.checkout,
        "room_type": given.type,
        "total_amount": None if given.amount is None else on_the_wire(given.amount),
        "guest_name": given.guest,
        "room_number": given.room,
        "adults": given.adults,
        "special_requests": given.note,
    }


async def _book(terminal: Terminal, given: Arguments) -> None:
    currency = {"currency": terminal.setup.currency, "origin": given.origin, "customer_id": given.customer}
    id = given.id or terminal.new_id("R")
    if await terminal.house.data("reservation", f"reservation:{id}") is not None:
        raise NotPossible(f"予約 {id} は既にあります", f"there is a reservation {id} already: choose another --id")
    await terminal.do(front_desk.book(id, _stay(given) | currency))


def _change_arguments(parser: argparse.ArgumentParser) -> None:
    _id(parser)
    _stay_arguments(parser, new=False)


async def _change(terminal: Terminal, given: Arguments) -> None:
    await terminal.do(front_desk.amend(await terminal.house.known(given.reservation), _stay(given)))


async def _cancel(terminal: Terminal, given: Arguments) -> None:
    await terminal.do(front_desk.cancel(await terminal.house.known(given.reservation)))


# -- comings and goings -----------------------------------------------------------------------------------------------


def _id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reservation", help="its id")


def _anyway(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--anyway", action="store_true", help="in spite of what there is against it")


def _check_in_arguments(parser: argparse.ArgumentParser) -> None:
    _id(parser)
    parser.add_argument("--room", help="default: the one that was given")
    _anyway(parser)


async def _check_in(terminal: Terminal, given: Arguments) -> None:
    known = await terminal.house.known(given.reservation, room=given.room)
    others = [] if known.room is None else await terminal.house.guests_in(known.room["room_number"])
    at, today = _here(terminal), today_of(terminal)
    deed = await terminal.meant(
        lambda anyway: front_desk.arrive(known, at=at, today=today, others=others, anyway=anyway), given.anyway
    )
    await terminal.do(deed)


def _check_out_arguments(parser: argparse.ArgumentParser) -> None:
    _id(parser)
    parser.add_argument("--pay", choices=METHODS, help="how what is due is paid")
    _anyway(parser)


async def _check_out(terminal: Terminal, given: Arguments) -> None:
    known = await terminal.house.known(given.reservation, orders=True)
    known = known._replace(undecided=await _undecided(terminal, known.id))
    at, today, id = _here(terminal), today_of(terminal), terminal.new_id("B")
    method, currency = given.pay, terminal.setup.currency
    due = front_desk.bill_of(known, currency=currency, number=id, method=None)
    if known.status == "checked_in" and due.total > 0 and method is None and terminal.console.interactive:
        for line in due.lines:
            terminal.console.say(Text(f"{line.what.ja} {shown(line.amount, due.currency)}", _line(line, due.currency)))
        ask = Text(f"支払方法（{'、'.join(METHODS)}）", f"Paid by ({', '.join(METHODS)})")
        method = await terminal.asked(ask, "--pay")
        if method not in METHODS:
            raise NotPossible(
                f"支払方法 {method} はありません", f"nobody pays by {method}: one of {', '.join(METHODS)}"
            )
    external: tuple[Feature, ...] = ("external_payment",) if method in EXTERNAL_METHODS else ()
    deed = await terminal.meant(
        lambda anyway: front_desk.depart(
            known, at=at, today=today, method=method, charge_id=id, currency=currency, anyway=anyway
        ),
        given.anyway,
    )
    await terminal.do(deed, *external)
    if deed.bill is not None:
        told = receipt(
            deed.bill,
            hotel=terminal.setup.tenant_id,
            at=at,
            operator=terminal.session.operator,
            device=terminal.desk.device_id,
            waiting=not terminal.online,
        )
        for one in told:
            terminal.console.say(one)


async def _undecided(terminal: Terminal, reservation_id: str) -> tuple[str, ...]:
    """What the hub said of this desk's items on a stay, or its money, that wait for a person."""
    entities = {f"reservation:{reservation_id}", f"billing:{front_desk.folio_id(reservation_id)}"}
    items = await terminal.desk.local.call(lambda database: database.conflicts())
    return tuple(views.conflict_reason(one) for one in items if one.entity in entities)


def _line(line: Any, currency: str | None) -> str:
    return f"{line.what.en} {shown(line.amount, currency)}"


async def _no_show(terminal: Terminal, given: Arguments) -> None:
    known, today = await terminal.house.known(given.reservation), today_of(terminal)
    deed = await terminal.meant(lambda anyway: front_desk.stay_away(known, today=today, anyway=anyway), given.anyway)
    await terminal.do(deed)


def _no_show_arguments(parser: argparse.ArgumentParser) -> None:
    _id(parser)
    _anyway(parser)


def _undo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=_UNDO)
    _id(parser)


async def _undo(terminal: Terminal, given: Arguments) -> None:
    known = await terminal.house.known(given.reservation)
    match given.what:
        case "check-in":
            deed = front_desk.undo_arrival(known, today=today_of(terminal))
        case "check-out":
            others = [] if known.room is None else await terminal.house.guests_in(known.room["room_number"])
            deed = front_desk.undo_departure(known, others=others)
        case _:
            deed = front_desk.undo_no_show(known)
    await terminal.do(deed)


# -- rooms ------------------------------------------------------------------------------------------------------------


def _rooms_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--status", choices=ROOM_STATUSES)
    listing(parser)


async def _rooms(terminal: Terminal, given: Arguments) -> None:
    terminal.session.touch()
    guests: dict[str, list[str]] = {}
    async with aclosing(terminal.house.bookings()) as records:
        async for record in records:
            if record.data["status"] == "checked_in" and record.data.get("room_number"):
                guests.setdefault(record.data["room_number"], []).append(record.data["reservation_id"])
    async with aclosing(terminal.house.all("room")) as records:
        rows = [
            views.room_row(one, house.room_status(one.data, here), here)
            async for one in records
            for here in [guests.get(one.data["room_number"], [])]
        ]
    shown = [row for row in rows if given.status in (None, row["status"])]
    terminal.console.rows(views.ROOMS, sorted(shown, key=lambda row: row["room"]))


def _room_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", help="its number")
    parser.add_argument("status", nargs="?", choices=ROOM_STATUSES)
    parser.add_argument("--housekeeping", choices=HOUSEKEEPING)
    parser.add_argument("--note", help="for maintenance")
    parser.add_argument("--price", type=money)
    parser.add_argument("--type", help="of a new room")


async def _room(terminal: Terminal, given: Arguments) -> None:
    news = {
        "status": given.status,
        "housekeeping": given.housekeeping,
        "maintenance_notes": given.note,
        "base_price": None if given.price is None else on_the_wire(given.price),
        "room_type": given.type,
    }
    held, guests = await terminal.house.room(given.room), await terminal.house.guests_in(given.room)
    await terminal.do(room_service.set_room(given.room, held, news, today=today_of(terminal), guests=guests))


# -- orders, charges, points ------------------------------------------------------------------------------------------


def _order_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("room", help="where the guest is")
    parser.add_argument("items", nargs="+", metavar="NAME:QUANTITY:PRICE", help="like コーヒー:2:800")


async def _order(terminal: Terminal, given: Arguments) -> None:
    lines = [OrderLine.read(one) for one in given.items]
    guest = await terminal.house.guest_of(given.room)
    room = given.room if guest is None else guest.booking.get("room_number") or given.room
    at, currency = _here(terminal), terminal.setup.currency
    await terminal.do(room_service.place_order(terminal.new_id("O"), guest, room, lines, at=at, currency=currency))


async def _orders(terminal: Terminal, given: Arguments) -> None:
    _may_see_guests(terminal)
    async with aclosing(terminal.house.all("order")) as records:
        rows = [
            views.order_row(terminal.console, one)
            async for one in records
            if given.all or (one.data.get("estimated") and not one.deleted)
        ]
    terminal.console.rows(views.ORDERS, rows)


def _orders_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="also what is on a bill, or cancelled")
    listing(parser)


def _order_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("order", help="its id")


async def _held_order(terminal: Terminal, id: str) -> dict[str, Any]:
    record = await terminal.desk.record("order", f"order:{id}")
    if record is None or record.deleted:
        raise NotPossible(f"注文 {id} が見つかりません", f"there is no order {id} at this desk")
    return record.data


async def _bill_order(terminal: Terminal, given: Arguments) -> None:
    order = await _held_order(terminal, given.order)
    reservation = order.get("reservation_id")
    guest = None if reservation is None else await terminal.house.known(reservation)
    await terminal.do(room_service.bill_order(order, guest, charge_id=terminal.new_id("B")))


async def _cancel_order(terminal: Terminal, given: Arguments) -> None:
    await terminal.do(room_service.cancel_order(await _held_order(terminal, given.order)))


def _charge_arguments(parser: argparse.ArgumentParser) -> None:
    _id(parser)
    parser.add_argument("amount", type=money)
    parser.add_argument("--category", choices=CATEGORIES, default="other")
    parser.add_argument("--reason")


async def _charge(terminal: Terminal, given: Arguments) -> None:
    guest = await terminal.house.known(given.reservation)
    deed = room_service.charge(
        guest,
        given.amount,
        charge_id=terminal.new_id("B"),
        category=given.category,
        reason=given.reason,
        currency=terminal.setup.currency,
    )
    await terminal.do(deed)


def _points_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("customer", help="the member's id")
    parser.add_argument("points", type=whole, help="+100 gives, -50 uses")
    parser.add_argument("--reason")


async def _points(terminal: Terminal, given: Arguments) -> None:
    entity = f"customer:{given.customer}"
    customer = await terminal.house.data("customer", entity)
    if customer is None:
        raise NotPossible(
            f"会員 {given.customer} が見つかりません", f"there is no member {given.customer} at this desk"
        )
    async with aclosing(terminal.pending()) as items:
        own = [one.payload.get("points_delta") or 0 async for one in items if one.entity == entity and one.laid]
    waiting = sum(own)
    ledger = terminal.new_id("L")
    await terminal.do(
        room_service.points(customer, given.points, ledger_id=ledger, waiting=waiting, reason=given.reason)
    )


def _member_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True)
    parser.add_argument("--email")
    parser.add_argument("--phone")
    parser.add_argument("--id", help="default: a new one")


async def _member(terminal: Terminal, given: Arguments) -> None:
    contact = {"name": given.name, "email": given.email, "phone": given.phone}
    await terminal.do(room_service.new_member(given.id or terminal.new_id("C"), contact))


# -- the day ----------------------------------------------------------------------------------------------------------


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--date", type=day, help="of another business day")
    parser.add_argument("--revenue", type=money, help="instead of what the desk adds up")
    parser.add_argument("--cash-difference", type=money)
    parser.add_argument("--notes")
    parser.add_argument("--submit", action="store_true", help="it is right as it is shown")


async def _report(terminal: Terminal, given: Arguments) -> None:
    terminal.allow("daily_report")
    today = today_of(terminal)
    on = date.fromisoformat(given.date) if given.date else today
    if on > today:
        raise NotPossible(
            f"{on} の日報はまだ作成できません（本日の営業日は {today} です）",
            f"{on} has not begun: the business day is {today}",
        )
    figures = await terminal.house.figures(on, terminal.setup.calendar, today=today)
    held = await terminal.house.data("daily_report", f"daily_report:{on.isoformat()}")
    corrections = {
        "total_revenue": None if given.revenue is None else on_the_wire(given.revenue),
        "cash_difference": None if given.cash_difference is None else on_the_wire(given.cash_difference),
        "notes": given.notes,
    }
    deed = house.report(
        figures, held, by=terminal.session.operator, currency=terminal.setup.currency, corrections=corrections
    )
    said = deed.changes[0].payload
    terminal.console.say(Text(f"日報 {on}", f"Report of {on}"), "bold")
    for name, label in _FIGURES.items():
        if name in said:
            terminal.console.say(f"  {terminal.console.text(label)}: {said[name]}")
    if held is not None:
        terminal.console.say(Text("（提出済み。再提出は訂正になります）", "(submitted before: this corrects it)"))
    question = Text("この内容で提出しますか?", "Submit this?")
    if given.submit or await terminal.console.confirm(question):
        await terminal.do(deed)
    else:
        terminal.console.say(Text("未提出（提出するには --submit）", "not submitted; --submit does it"), "yellow")


_FIGURES: Final = {
    "arrivals": Text("到着", "arrivals"),
    "departures": Text("出発", "departures"),
    "rooms_occupied": Text("使用中の客室", "rooms occupied"),
    "total_revenue": Text("売上", "revenue"),
    "cash_difference": Text("現金過不足", "cash difference"),
    "notes": Text("メモ", "notes"),
}

COMMANDS: Final = (
    Command(
        "reservations",
        Text("予約一覧（arrivals, in-house, departures）", "list reservations"),
        _reservations_arguments,
        _reservations,
    ),
    Command("book", Text("予約作成", "make a reservation"), _book_arguments, _book),
    Command("change", Text("予約変更", "change a reservation"), _change_arguments, _change),
    Command("cancel", Text("予約キャンセル", "cancel a reservation"), _id, _cancel),
    Command("check-in", Text("チェックイン", "check a guest in"), _check_in_arguments, _check_in),
    Command(
        "check-out",
        Text("チェックアウト・精算・領収書", "check out, settle, receipt"),
        _check_out_arguments,
        _check_out,
    ),
    Command("no-show", Text("ノーショー", "the guest never came"), _no_show_arguments, _no_show),
    Command(
        "undo",
        Text("取消（check-in, check-out, no-show）", "undo a check-in, check-out or no-show"),
        _undo_arguments,
        _undo,
    ),
    Command("rooms", Text("客室一覧", "list rooms"), _rooms_arguments, _rooms),
    Command("room", Text("客室状態の変更・追加", "change or add a room"), _room_arguments, _room),
    Command("order", Text("ルームサービス注文", "order room service"), _order_arguments, _order),
    Command("orders", Text("注文一覧", "list orders"), _orders_arguments, _orders),
    Command("bill-order", Text("注文を計上", "put an order on the bill"), _order_id, _bill_order),
    Command("cancel-order", Text("注文取消", "cancel an order"), _order_id, _cancel_order),
    Command("charge", Text("料金計上", "charge something to a guest"), _charge_arguments, _charge),
    Command("points", Text("ポイント付与・利用", "give or use points"), _points_arguments, _points),
    Command(
        "new-member", Text("新規会員登録（オンラインのみ）", "a new member; online only"), _member_arguments, _member
    ),
    Command("report", Text("日報", "the daily report"), _report_arguments, _report),
)
