"""What the file of bookings does not tell: notes, room service, charges, points, housekeeping, reports, mistakes."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from consumers.offline.items import LocalChange

from .hotel import Deed

if TYPE_CHECKING:
    from .desk_side import DeskSide
    from .world import World

TABLETS: Final = ("tablet-1", "tablet-2", "tablet-3")
TWICE: Final = 0.004
"""Of the arrivals, how many somebody gets wrong."""
_PRICES: Final = ("4.5", "7.25", "12.9", "18", "0.35", "33.33")
_NOTES: Final = (
    "late arrival",
    "cot",
    "quiet room",
    "birthday",
    "vegan breakfast",
    "two keys",
    "high floor",
    "taxi 6:00",
)
_PER_DAY: Final = {
    "note": 14,
    "room_service": 40,
    "minibar": 16,
    "points": 20,
    "contact": 8,
    "rank": 5,
    "housekeeping": 30,
    "maintenance": 3,
    "price": 3,
    "alert": 2,
    "longer": 4,
    "dates": 0.3,
}
"""How often a day, in a house whose bookings are all there."""


class Extras:
    """People's ideas."""

    def __init__(self, world: World, draw: random.Random, share: float) -> None:
        self._world = world
        self._draw = draw
        self._share = share
        self._numbers = 0
        self._booked: dict[str, Mapping[str, Any]] = {}
        """Reservations whose guests have not left."""
        self._in_house: dict[str, str] = {}
        """Reservation → room."""
        self._rooms = sorted(world.past.rooms)

    # -- what the others did --------------------------------------------------------------------------------------

    def booked(self, name: str, data: Mapping[str, Any], arrived: bool) -> None:
        """A reservation of before the first day."""
        self._booked[name] = data
        if arrived and data["status"] == "checked_in":
            self._in_house[name] = data["room_number"]

    def happened(self, deed: Deed, said: Mapping[str, Any]) -> None:
        """A deed was done."""
        name = deed.entity_id
        if deed.kind in ("departure", "cancelled", "no_show"):
            self._booked.pop(name, None)
            self._in_house.pop(name, None)
        else:
            self._booked[name] = said
        if deed.kind == "arrival":
            self._in_house[name] = deed.data["checkin_checkout"]["room_number"]
            if self._draw.random() < TWICE:
                self._soon(lambda: self._twice(name, self._draw.choice((None, self._in_house.get(name)))), 2)
            elif self._draw.random() < TWICE:
                room = self._in_house[name]
                self._soon(lambda: self._same_room(room), 2)

    def plan(self, begin: datetime) -> None:
        """The ideas of one day."""
        for name, per_day in _PER_DAY.items():
            expected = per_day * self._share
            count = int(expected) + (self._draw.random() < expected % 1)
            for _ in range(count):
                moment = begin + timedelta(seconds=self._draw.uniform(7 * 3600, 23 * 3600))
                self._world.at_moment(moment, getattr(self, f"_{name}"))
        self._world.at_moment(begin + timedelta(hours=23, minutes=55), lambda: self._report(begin.date()))

    # -- short words ----------------------------------------------------------------------------------------------

    def _number(self, prefix: str) -> str:
        self._numbers += 1
        return f"{prefix}-{self._numbers}"

    def _some(self, among: Mapping[str, Any]) -> str | None:
        return self._draw.choice(list(among)) if among else None

    def _desk(self, *names: str) -> DeskSide:
        return self._world.desks[self._draw.choice(names)]

    def _soon(self, do: Callable[[], Awaitable[None]], hours: float = 6) -> None:
        """Somebody else does something about the same, perhaps before either has heard of the other."""
        self._world.at(self._draw.expovariate(1 / (hours * 1200)), do)

    def _update(self, desk: DeskSide, model: Any, entity: str, payload: Mapping[str, Any], operation: str) -> bool:
        """An UPDATE of what the desk has a record of."""
        type = {"Reservation": "reservation", "RoomStatus": "room", "Customer": "customer", "Order": "order"}[model]
        if not desk.up or desk.record(type, f"{type}:{entity}") is None:
            return False
        return bool(self._world.do(desk, [LocalChange(model, "UPDATE", entity, payload)], operation))

    # -- ideas ----------------------------------------------------------------------------------------------------

    async def _note(self) -> None:
        if (name := self._some(self._booked)) is None:
            return
        for turn in range(1 if self._draw.random() < 0.5 else 2):
            field, value = self._draw.choice(
                (
                    ("special_requests", f"{self._draw.choice(_NOTES)} {self._number('n')}"),
                    ("adults", self._draw.randint(1, 4)),
                    ("guest_name", f"Guest {self._number('g')}"),
                )
            )

            async def write(field: str = field, value: Any = value) -> None:
                desk = self._world.desks_for(name)[0]
                self._update(desk, "Reservation", name, {field: value}, "note")

            if turn:
                self._soon(write)
            else:
                await write()

    async def _longer(self) -> None:
        """A guest stays longer than booked."""
        if (name := self._some(self._in_house)) is None:
            return
        desk = self._world.desks_for(name)[0]
        booking = desk.record("reservation", f"reservation:{name}") if desk.up else None
        if booking is not None and booking["status"] == "checked_in":
            last = date.fromisoformat(booking["checkout_date"]) + timedelta(days=self._draw.randint(1, 3))
            self._update(desk, "Reservation", name, {"checkout_date": last.isoformat()}, "longer")

    async def _dates(self) -> None:
        """A guest comes later, and is to leave earlier: each of two desks hears of one of these."""
        if (name := self._some(self._booked)) is None or name in self._in_house:
            return
        booking = self._booked[name]
        first, last = date.fromisoformat(booking["checkin_date"]), date.fromisoformat(booking["checkout_date"])
        if booking["status"] != "confirmed" or (last - first).days < 2:
            return
        later, earlier = last - timedelta(days=1), first + timedelta(days=1)
        one, other = self._world.desks_for(name)[:2]
        self._update(one, "Reservation", name, {"checkin_date": later.isoformat()}, "dates")

        async def shorten() -> None:
            self._update(other, "Reservation", name, {"checkout_date": earlier.isoformat()}, "dates")

        self._soon(shorten, 3)

    async def _twice(self, name: str, room: str | None) -> None:
        """A guest is checked in at two desks: the second one has not heard of the first, and gives another room."""
        for desk in self._world.desks_for(f"{name} again"):
            booking = desk.record("reservation", f"reservation:{name}") if desk.up else None
            if booking is not None and booking["status"] == "confirmed":
                self._check_in(desk, name, room or self._draw.choice(self._rooms).removeprefix("room-"), "twice")
                return

    async def _same_room(self, room: str) -> None:
        """A guest is given a room that another desk has just given to somebody else."""
        today = self._world.clock.now().date().isoformat()
        for desk in self._world.desks_for(f"{room} again"):
            if not desk.up or (desk.record("room", f"room:room-{room}") or {}).get("status") == "occupied":
                continue
            for name, booking in self._booked.items():
                if booking["checkin_date"] != today or name in self._in_house:
                    continue
                seen = desk.record("reservation", f"reservation:{name}")
                if seen is not None and seen["status"] == "confirmed":
                    self._check_in(desk, name, room, "same_room")
                    return

    def _check_in(self, desk: DeskSide, name: str, room: str, operation: str) -> None:
        stay = {
            "reservation_id": name,
            "room_number": room,
            "payment_status": "pending",
            "actual_checkin_time": self._world.clock.now().isoformat(timespec="seconds"),
        }
        arrived = {"status": "checked_in", "room_number": room}
        changes = [
            LocalChange("CheckIn", "CREATE", name, stay, "high"),
            LocalChange("Reservation", "UPDATE", name, arrived),
        ]
        self._world.do(desk, changes, operation)

    async def _room_service(self) -> None:
        if (name := self._some(self._in_house)) is None:
            return
        desk = self._desk(*TABLETS)
        if not desk.up:
            return
        price, quantity = Decimal(self._draw.choice(_PRICES)), self._draw.randint(1, 3)
        order = self._number("O")
        item = {"name": "Club sandwich", "quantity": quantity, "unit_price": float(price)}
        placed = {
            "reservation_id": name,
            "room_number": self._in_house[name],
            "items": [item],
            "total_amount": float(price * quantity),
        }
        charge = self._charge(desk, name, price * quantity, "food", order_id=order)
        self._world.do(desk, [LocalChange("Order", "CREATE", order, placed), charge], "room_service")

        async def delivered() -> None:
            other = self._desk(*TABLETS)
            if other.up and other.record("order", f"order:{order}") is not None:
                change = LocalChange("Order", "UPDATE", order, {"notes": "left at the door"}, action="delivered")
                self._world.do(other, [change], "delivered")

        async def changed() -> None:
            other = self._desk("front-1", "front-2", *TABLETS)
            if self._draw.random() < 0.5:
                self._update(other, "Order", order, {"notes": f"no onions {self._number('n')}"}, "order_changed")
            elif other.up and other.record("order", f"order:{order}") is not None:
                self._world.do(other, [LocalChange("Order", "DELETE", order, {})], "order_cancelled")

        self._world.at(self._draw.uniform(600, 3600), delivered)
        if self._draw.random() < 0.15:
            self._soon(changed, 1)

    async def _minibar(self) -> None:
        if (name := self._some(self._in_house)) is None:
            return
        desk = self._world.desks_for(name)[0]
        if desk.up:
            charge = self._charge(desk, name, Decimal(self._draw.choice(_PRICES)), "beverage")
            self._world.do(desk, [charge], "minibar")

    def _charge(self, desk: DeskSide, name: str, amount: Decimal, category: str, **more: Any) -> LocalChange:
        folio = f"F-{name}"
        payload = {
            "charge_id": self._number(f"{desk.name}-c"),
            "reservation_id": name,
            "room_number": self._in_house.get(name),
            "amount": float(amount),
            "category": category,
            "balance": float(_balance(desk, folio) + amount),
        } | more
        return LocalChange("Billing", "CREATE", folio, payload)

    def settlement(self, desk: DeskSide, name: str) -> list[LocalChange]:
        """What a guest pays who leaves: what the desk knows of."""
        due = _balance(desk, f"F-{name}")
        if not due:
            return []
        payload = {"amount": float(due), "payment_method": "card", "reservation_id": name, "balance": 0}
        return [LocalChange("Billing", "CREATE", f"F-{name}", payload, "high")]

    async def _points(self) -> None:
        customer = f"C-{self._draw.randrange(300)}"
        desk = self._desk("front-1", "front-2", "front-3", *TABLETS, "loyalty-1")
        delta = self._draw.choice((10, 25, 100, -50))
        payload = {"points_delta": delta, "points_ledger_id": self._number(f"{desk.name}-p")}
        self._update(desk, "Customer", customer, payload, "points")

    async def _contact(self) -> None:
        customer = f"C-{self._draw.randrange(40)}"
        for turn in range(2):
            desk = self._desk("front-1", "office-1", "front-4", "loyalty-1")
            field, value = self._draw.choice((("phone", self._number("+351 ")), ("name", self._number("Guest"))))

            async def write(desk: DeskSide = desk, field: str = field, value: str = value) -> None:
                self._update(desk, "Customer", customer, {field: value}, "contact")

            if turn:
                self._soon(write, 12)
            else:
                await write()

    async def _rank(self) -> None:
        customer = f"C-{self._draw.randrange(300)}"
        payload = {
            "rank_id": self._draw.choice(("basic", "silver", "gold")),
            "total_points": self._draw.randrange(9999),
        }
        self._update(self._desk("loyalty-1"), "Customer", customer, payload, "rank")

    async def _housekeeping(self) -> None:
        room = self._draw.choice(self._rooms)
        state = self._draw.choice(("clean", "dirty", "cleaning", "inspected"))
        self._update(
            self._desk("housekeeping-1", "front-1"), "RoomStatus", room, {"housekeeping": state}, "housekeeping"
        )

    async def _maintenance(self) -> None:
        room = self._draw.choice(self._rooms)
        for turn in range(2):
            desk = self._desk("housekeeping-1", "office-1")
            note = {"maintenance_notes": f"tap drips {self._number('n')}"}

            async def write(desk: DeskSide = desk, note: Mapping[str, Any] = note) -> None:
                self._update(desk, "RoomStatus", room, note, "maintenance")

            if turn:
                self._soon(write)
            else:
                await write()

    async def _price(self) -> None:
        price = {"base_price": self._draw.randrange(60, 300)}
        self._update(self._desk("office-1"), "RoomStatus", self._draw.choice(self._rooms), price, "price")

    async def _alert(self) -> None:
        desk, other = self._desk("front-1", *TABLETS), self._desk("front-2", "office-1")
        alert = self._number("A")
        payload = {"severity": "warning", "message": "the lift stands still", "room_number": "101"}
        self._world.do(desk, [LocalChange("AlertLog", "CREATE", alert, payload)], "alert")

        async def cleared() -> None:
            if other.up and other.record("alert", f"alert:{alert}") is not None:
                self._world.do(other, [LocalChange("AlertLog", "DELETE", alert, {})], "cleared")

        self._soon(cleared)

    async def _report(self, day: date) -> None:
        for name in ("office-1", "front-1") if self._draw.random() < 0.01 else ("office-1",):
            desk = self._world.desks[name]
            if not desk.up or desk.record("daily_report", f"daily_report:{day}") is not None:
                continue
            payload = {
                "business_date": day.isoformat(),
                "total_revenue": self._draw.randrange(10_000, 40_000),
                "rooms_occupied": len(self._in_house),
                "submitted_by": name,
            }
            self._world.do(desk, [LocalChange("DailyReport", "CREATE", day.isoformat(), payload)], "report")


def _balance(desk: DeskSide, folio: str) -> Decimal:
    held = desk.record("billing", f"billing:{folio}") or {}
    return Decimal(str(held.get("balance", 0)))
