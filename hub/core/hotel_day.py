"""One made-up day of one hotel, from a seed: the same arguments give the same events, ids included.

The day opens at 06:00 with what is on the books: the guests in the house, the arrivals of the day that were booked on
days before, and the status of every room. Guests leave in the morning, rooms are cleaned until noon, arrivals come
from 15:00, room service runs in the morning and the evening; one booking is cancelled, one guest does not come, and
the front desk closes the day at 23:00 (R92).

Each system publishes what is its own: hotel-member the customers, their points and the bookings of its members,
hotel-saas the room service, hotel-pms the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta, tzinfo
from random import Random
from typing import Any, Final
from uuid import UUID, uuid5

from hub.core.hotel_cast import AGENCIES, BREAKFAST, GUESTS, MENU, PAYMENTS, ROOM_TYPES, Room, Stay
from hub.core.simulated import SimulatedEvent
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS

ROOMS: Final = 10
RESERVATIONS: Final = 3
STAFF: Final = ("山田 花子", "中村 健", "小林 直美")
"""Ten rooms, three reservations and three staff: the documents' test tenant (R111)."""

_IDS: Final = UUID("6f3c1f5e-8f0b-4d62-9a55-3d7c0d7c2b11")


def hotel_day(
    day: date,
    *,
    seed: int,
    zone: tzinfo,
    tenant: str = "default",
    rooms: int = ROOMS,
    reservations: int = RESERVATIONS,
    staff: Sequence[str] = STAFF,
    currency: str = "JPY",
) -> list[SimulatedEvent]:
    """The events of `day`, in order of time; with `reservations` guests in the house when it opens.

    Prices are whole units of `currency`, of the size of yen.

    Raises:
        ValueError: nobody is in the house or at work, or the rooms are too few for the day's guests.
    """
    return _Story(day, seed, zone, tenant, rooms, reservations, staff, currency).tell()


class _Story:
    def __init__(
        self,
        day: date,
        seed: int,
        zone: tzinfo,
        tenant: str,
        rooms: int,
        reservations: int,
        staff: Sequence[str],
        currency: str,
    ) -> None:
        self._day, self._zone, self._tenant, self._currency, self._staff = day, zone, tenant, currency, staff
        self._leaving = (2 * reservations + 2) // 3
        self._staying = reservations - self._leaving
        # Of tonight's arrivals one in two was booked on a day before; one more walks in.
        self._due = self._same_day = max(1, rooms // 5)
        needed = max(reservations, self._staying + self._due + self._same_day + 1)
        if reservations < 1 or rooms < needed:
            raise ValueError(
                f"{rooms} rooms and {reservations} reservations: a day needs a guest in the house and rooms for all, "
                f"here {needed}"
            )
        if not staff:
            raise ValueError("a day needs somebody at the desk")
        self._key = f"{seed}/{day.isoformat()}/{tenant}/{rooms}/{reservations}"
        self._random = Random(f"{self._key}/{currency}")
        self._tag = f"{day:%y%m%d}-{uuid5(_IDS, self._key).hex[:6]}"
        self._rooms_a_floor = 5 if rooms <= 50 else 20
        self._rooms = [self._room(index) for index in range(rooms)]
        self._earlier: list[tuple[datetime, str, str, str, dict[str, Any]]] = []
        self._today: list[tuple[datetime, str, str, str, dict[str, Any]]] = []
        self._numbers = {"R": 0, "C": 0, "O": 0, "B": 0, "L": 0}
        self._guests = list(GUESTS)
        self._random.shuffle(self._guests)
        self._met = 0
        self._charged = 0
        self._counts = {"arrivals": 0, "departures": 0, "new_reservations": 0, "cancellations": 0, "no_shows": 0}

    def tell(self) -> list[SimulatedEvent]:
        free = list(self._rooms)
        self._random.shuffle(free)
        house = [self._in_house(free.pop(), index) for index in range(self._leaving + self._staying)]
        leaving, staying = house[: self._leaving], house[self._leaving :]
        free += [stay.room for stay in leaving]
        self._random.shuffle(free)
        expected = [self._expected(free.pop()) for _ in range(self._due)]
        expected += [self._book(free.pop(), self._between(8, 12), self._day) for _ in range(self._same_day)]
        self._open_rooms({stay.room for stay in house})
        for stay in leaving:
            self._order(stay, self._between(7, 8), BREAKFAST)
            self._leave(stay, self._between(9, 11))
        self._future_bookings()
        absent = self._random.choice(expected)
        for stay in expected:
            if stay is absent:
                self._no_show(stay)
            else:
                self._arrive(stay, self._between(15, 18))
        self._walk_in(free.pop())
        for stay in [*staying, *(stay for stay in expected if stay is not absent)]:
            self._order(stay, self._between(19, 21), MENU)
        self._complaint((staying or leaving)[0])
        self._close(occupied=len(staying) + self._counts["arrivals"])
        return self._events()

    def _events(self) -> list[SimulatedEvent]:
        opening = self._at(6)
        first = sorted(self._earlier, key=lambda one: one[0])
        timed = [(opening, *one) for one in first]
        timed += [(one[0], *one) for one in sorted(self._today, key=lambda one: one[0])]
        events = []
        for number, (at, occurred, system, type_, action, data) in enumerate(timed):
            draft = {
                "event_id": str(uuid5(_IDS, f"{self._key}/{number}")),
                "tenant_id": self._tenant,
                "type": type_,
                "action": action,
                "occurred_at": occurred.isoformat(),
                "data": data,
            }
            events.append(SimulatedEvent(system, self._tenant, at, draft))
        return events

    # The books

    def _in_house(self, room: Room, index: int) -> Stay:
        # The first guest is a member, so that every day has points.
        stay = self._stay(room, self._day - timedelta(days=1), nights=1, member=index == 0)
        if index >= self._leaving:
            stay.checkout = self._day + timedelta(days=self._random.randint(1, 3))
        self._booked_earlier(stay)
        arrival = self._at(15, minutes=self._random.randrange(300), day=stay.checkin)
        self._check_in(stay, arrival, self._earlier)
        return stay

    def _expected(self, room: Room) -> Stay:
        stay = self._stay(room, self._day, nights=self._random.randint(1, 3))
        self._booked_earlier(stay)
        return stay

    def _booked_earlier(self, stay: Stay) -> None:
        moment = self._at(9, minutes=self._random.randrange(720), day=stay.checkin) - timedelta(
            days=self._random.randint(2, 40)
        )
        self._reserve(stay, moment, self._earlier)

    def _book(self, room: Room, moment: datetime, checkin: date) -> Stay:
        stay = self._stay(room, checkin, nights=self._random.randint(1, 3))
        self._reserve(stay, moment, self._today)
        self._counts["new_reservations"] += 1
        return stay

    def _future_bookings(self) -> None:
        count = max(2, len(self._rooms) // 5)
        for index in range(count):
            moment = self._between(8, 12) if index == 0 else self._between(8, 21)
            checkin = self._day + timedelta(days=self._random.randint(3, 60))
            stay = self._book(self._random.choice(self._rooms), moment, checkin)
            if index == 0:
                stay.status = "cancelled"
                self._say(self._between(14, 20), stay.booker, "reservation", "cancelled", stay.data())
                self._counts["cancellations"] += 1

    def _stay(self, room: Room, checkin: date, nights: int, member: bool = False) -> Stay:
        name, mailbox = self._next_guest()
        kind = "member_app" if member else self._random.choice(("member_app", "direct_web", "ota", "ota", "phone"))
        stay = Stay(
            reservation_id=self._id("R"),
            room=room,
            checkin=checkin,
            checkout=checkin + timedelta(days=nights),
            guest=name,
            mailbox=mailbox,
            adults=1 if room.type == "single" else 2,
            origin=kind,
            booker=HOTEL_MEMBER if kind in ("member_app", "direct_web") else HOTEL_PMS,
            channel=self._random.choice(AGENCIES) if kind == "ota" else None,
        )
        if stay.booker == HOTEL_MEMBER:
            stay.customer_id = self._id("C")
            stay.points = self._random.randrange(0, 8_000, 10)
            stay.status = "tentative"
        return stay

    def _reserve(self, stay: Stay, moment: datetime, told: list[Any]) -> None:
        if stay.customer_id is not None:
            customer = {
                "customer_id": stay.customer_id,
                "name": stay.guest,
                "email": f"{stay.mailbox}@example.com",
                "rank_id": "gold" if stay.points >= 5_000 else "regular",
                "total_points": stay.points,
                "updated_fields": ["name", "email", "rank_id", "total_points"],
                "updatable_by_pms": True,
            }
            joined = moment - timedelta(minutes=self._random.randint(2, 9))
            told.append((joined, HOTEL_MEMBER, "customer", "created", customer))
        told.append((moment, stay.booker, "reservation", "created", stay.data()))
        if stay.status == "tentative":
            stay.status = "confirmed"
            confirmed = moment + timedelta(seconds=self._random.randint(40, 240))
            told.append((confirmed, HOTEL_PMS, "reservation", "confirmed", stay.data()))

    # Comings and goings

    def _arrive(self, stay: Stay, moment: datetime) -> None:
        self._check_in(stay, moment, self._today)
        self._say_room(stay.room, moment + timedelta(seconds=2), "occupied", until=stay.checkout)
        self._counts["arrivals"] += 1

    def _check_in(self, stay: Stay, moment: datetime, told: list[Any]) -> None:
        stay.status, stay.numbered = "checked_in", True
        desk = self._desk(stay) | {"actual_checkin_time": moment.isoformat(), "payment_status": "pending"}
        told.append((moment, HOTEL_PMS, "checkin_checkout", "checked_in", desk))
        told.append((moment + timedelta(seconds=1), HOTEL_PMS, "reservation", "checked_in", stay.data()))

    def _walk_in(self, room: Room) -> None:
        name, mailbox = self._next_guest()
        moment = self._between(17, 19)
        stay = Stay(
            reservation_id=self._id("R"),
            room=room,
            checkin=self._day,
            checkout=self._day + timedelta(days=1),
            guest=name,
            mailbox=mailbox,
            adults=1,
            origin="walk_in",
            booker=HOTEL_PMS,
            customer_id=self._id("C"),
        )
        customer = {
            "customer_id": stay.customer_id,
            "name": name,
            "phone": f"+81 3 0000 {self._random.randrange(10_000):04d}",
            "updated_fields": ["name", "phone"],
            "updatable_by_pms": True,
        }
        self._say(moment, HOTEL_PMS, "customer", "created", customer)
        self._say(moment + timedelta(minutes=1), HOTEL_PMS, "reservation", "created", stay.data())
        self._counts["new_reservations"] += 1
        self._arrive(stay, moment + timedelta(minutes=5))

    def _leave(self, stay: Stay, moment: datetime) -> None:
        self._charge(stay, moment - timedelta(minutes=4), stay.total, "room", owed=stay.total + stay.extras)
        paid = stay.total + stay.extras
        settlement = self._folio(stay) | {
            "amount": paid,
            "balance": 0,
            "currency": self._currency,
            "payment_method": self._random.choice(PAYMENTS),
        }
        self._say(moment - timedelta(minutes=1), HOTEL_PMS, "billing", "settled", settlement)
        desk = self._desk(stay) | {
            "actual_checkout_time": moment.isoformat(),
            "additional_charges": stay.extras,
            "currency": self._currency,
            "payment_status": "completed",
        }
        self._say(moment, HOTEL_PMS, "checkin_checkout", "checked_out", desk)
        stay.status = "checked_out"
        self._say(moment + timedelta(seconds=1), HOTEL_PMS, "reservation", "checked_out", stay.data())
        self._log(moment + timedelta(seconds=20), "settlement", stay.reservation_id)
        self._counts["departures"] += 1
        if stay.customer_id is not None:
            earned = paid // 100
            points = {
                "customer_id": stay.customer_id,
                "total_points": stay.points + earned,
                "points_delta": earned,
                "points_ledger_id": self._id("L"),
                "updated_fields": ["total_points"],
            }
            self._say(moment + timedelta(minutes=2), HOTEL_MEMBER, "customer", "points_changed", points)
        self._say_room(stay.room, moment + timedelta(seconds=2), "vacant_dirty")
        started = moment + timedelta(minutes=self._random.randint(15, 60))
        self._say_room(stay.room, started, "cleaning")
        cleaned = started + timedelta(minutes=self._random.randint(25, 40))
        self._say_room(stay.room, cleaned, "inspected")
        self._say_room(stay.room, cleaned + timedelta(minutes=10), "vacant_clean")

    def _no_show(self, stay: Stay) -> None:
        moment = self._at(22, minutes=self._random.randrange(5, 25))
        desk = self._desk(stay) | {"payment_status": "pending"}
        self._say(moment, HOTEL_PMS, "checkin_checkout", "no_show", desk)
        stay.status = "no_show"
        self._say(moment + timedelta(seconds=1), HOTEL_PMS, "reservation", "updated", stay.data())
        self._counts["no_shows"] += 1

    # Service

    def _order(self, stay: Stay, moment: datetime, menu: Sequence[tuple[str, int]]) -> None:
        chosen = self._random.sample(menu, self._random.randint(1, 2))
        lines = [(name, self._random.randint(1, stay.adults), price) for name, price in chosen]
        amount = sum(quantity * price for _, quantity, price in lines)
        items = [{"name": name, "quantity": quantity, "unit_price": price} for name, quantity, price in lines]
        order: dict[str, Any] = {
            "order_id": self._id("O"),
            "reservation_id": stay.reservation_id,
            "room_number": stay.room.number,
            "items": items,
            "total_amount": amount,
            "currency": self._currency,
            "placed_at": moment.isoformat(),
        }
        if stay.customer_id is not None:
            order["customer_id"] = stay.customer_id
        # An estimate until the front desk has it on the bill (R68).
        self._say(moment, HOTEL_SAAS, "order", "placed", order | {"estimated": True})
        confirmed = moment + timedelta(seconds=self._random.randint(60, 240))
        self._say(confirmed, HOTEL_PMS, "order", "confirmed", order)
        delivered = moment + timedelta(minutes=self._random.randint(15, 30))
        self._say(delivered, HOTEL_SAAS, "order", "delivered", order)
        stay.extras += amount
        charged = delivered + timedelta(seconds=30)
        self._charge(stay, charged, amount, "food", owed=stay.extras, order_id=order["order_id"])

    def _charge(
        self, stay: Stay, moment: datetime, amount: int, category: str, *, owed: int, order_id: str | None = None
    ) -> None:
        charge = self._folio(stay) | {
            "charge_id": self._id("B"),
            "amount": amount,
            "balance": owed,
            "currency": self._currency,
            "category": category,
        }
        if order_id is not None:
            charge["order_id"] = order_id
        self._say(moment, HOTEL_PMS, "billing", "charged", charge)
        self._charged += amount

    def _complaint(self, stay: Stay) -> None:
        raised = self._at(6, minutes=self._random.randint(20, 50))
        alert = {
            "alert_id": f"AL-{self._tag}",
            "severity": "warning",
            "message": "the air conditioning is loud",
            "room_number": stay.room.number,
            "raised_at": raised.isoformat(),
        }
        self._say(raised, HOTEL_SAAS, "alert", "raised", alert)
        room = self._room_data(stay.room, "occupied", stay.checkout) | {"maintenance_notes": "air conditioning: filter"}
        self._say(raised + timedelta(minutes=5), HOTEL_PMS, "room", "maintenance_updated", room)
        self._say(raised + timedelta(hours=1), HOTEL_PMS, "alert", "cleared", alert)

    def _close(self, occupied: int) -> None:
        closing = self._at(23)
        report = {
            "business_date": self._day.isoformat(),
            "total_revenue": self._charged,
            "currency": self._currency,
            "arrivals": self._counts["arrivals"],
            "departures": self._counts["departures"],
            "rooms_occupied": occupied,
            "cash_difference": 0,
            "submitted_by": self._random.choice(self._staff),
            "figures": {name: self._counts[name] for name in ("new_reservations", "cancellations", "no_shows")}
            | {"orders": self._numbers["O"], "rooms": len(self._rooms)},
        }
        self._say(closing, HOTEL_PMS, "daily_report", "submitted", report)
        self._log(closing + timedelta(seconds=5), "daily_close", self._day.isoformat())

    def _log(self, moment: datetime, operation: str, target: str) -> None:
        entry = {
            "operation_id": f"OP-{self._tag}-{operation}-{target}",
            "operation": operation,
            "operator": self._random.choice(self._staff),
            "target": target,
        }
        self._say(moment, HOTEL_PMS, "operation_log", "recorded", entry)

    # Rooms

    def _room(self, index: int) -> Room:
        floor, place = divmod(index, self._rooms_a_floor)
        type_, price = ROOM_TYPES[index % len(ROOM_TYPES)]
        return Room(f"{floor + 1}{place + 1:02d}", type_, price)

    def _open_rooms(self, occupied: set[Room]) -> None:
        for index, room in enumerate(self._rooms):
            moment = self._at(6) - timedelta(seconds=len(self._rooms) - index)
            status = "occupied" if room in occupied else "vacant_clean"
            data = self._room_data(room, status, self._day)
            self._earlier.append((moment, HOTEL_PMS, "room", "status_changed", data))

    def _room_data(self, room: Room, status: str, available: date) -> dict[str, Any]:
        return {
            "room_id": f"room-{room.number}",
            "room_number": room.number,
            "room_type": room.type,
            "status": status,
            "availability_date": available.isoformat(),
            "base_price": room.price,
            "currency": self._currency,
        }

    def _say_room(self, room: Room, moment: datetime, status: str, until: date | None = None) -> None:
        self._say(moment, HOTEL_PMS, "room", "status_changed", self._room_data(room, status, until or self._day))

    # Words and times

    def _desk(self, stay: Stay) -> dict[str, Any]:
        desk = {"reservation_id": stay.reservation_id, "room_number": stay.room.number}
        return desk if stay.customer_id is None else desk | {"customer_id": stay.customer_id}

    def _folio(self, stay: Stay) -> dict[str, Any]:
        return {"folio_id": f"F-{stay.reservation_id}", **self._desk(stay)}

    def _say(self, moment: datetime, system: str, type_: str, action: str, data: dict[str, Any]) -> None:
        self._today.append((moment, system, type_, action, data))

    def _next_guest(self) -> tuple[str, str]:
        round_, place = divmod(self._met, len(self._guests))
        self._met += 1
        name, mailbox = self._guests[place]
        return name, mailbox if round_ == 0 else f"{mailbox}.{round_ + 1}"

    def _id(self, kind: str) -> str:
        self._numbers[kind] += 1
        return f"{kind}-{self._tag}-{self._numbers[kind]:03d}"

    def _at(self, hour: int, *, minutes: int = 0, day: date | None = None) -> datetime:
        hour, minutes = hour + minutes // 60, minutes % 60
        return datetime.combine(day or self._day, time(hour, minutes), self._zone)

    def _between(self, first: int, last: int) -> datetime:
        """A moment from the hour `first` to before the hour `last`."""
        second = self._random.randrange((last - first) * 3600)
        return datetime.combine(self._day, time(first + second // 3600, second // 60 % 60, second % 60), self._zone)
