"""Who comes, who is here and who leaves, and the day's figures, out of a desk's records. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final, Literal

from consumers.offline.bill import amount_of, on_the_wire
from consumers.offline.front_desk import EXPECTED, LETTABLE, NO_ROOM, Data, Deed
from consumers.offline.items import LocalChange, Record
from consumers.offline.status import Text
from schemas.stay import may_be_in_house

Kind = Literal["arrivals", "in-house", "departures", "all"]
KINDS: Final[tuple[Kind, ...]] = ("arrivals", "in-house", "departures", "all")


@dataclass(frozen=True, slots=True)
class HouseDay:
    """The property's calendar: `day_of` is the business day, which turns at `rollover_hour` on its own clock."""

    zone: tzinfo
    rollover_hour: int

    def day_of(self, moment: datetime) -> date:
        """The business day of a moment."""
        return (moment.astimezone(self.zone) - timedelta(hours=self.rollover_hour)).date()


def wanted(booking: Data, kind: Kind, day: date) -> bool:
    """Whether a reservation is in a list of a day: who is expected, overdue ones too; who is here; who has to leave."""
    here: bool = booking["status"] == "checked_in"
    match kind:
        case "arrivals":
            return booking["status"] in EXPECTED and str(booking["checkin_date"]) <= day.isoformat()
        case "in-house":
            return here
        case "departures":
            return here and str(booking["checkout_date"]) <= day.isoformat()
        case "all":
            return True


@dataclass(slots=True)
class Figures:
    """A day's figures, put together reservation by reservation.

    The revenue is that of the bills settled at departures of the day: of each the room and its additional charges. Of a
    day that is `over`, in house are the guests of its end, and occupied their rooms: the statuses tell of now.
    """

    day: date
    calendar: HouseDay
    over: bool = False
    arrivals: int = 0
    departures: int = 0
    no_shows: int = 0
    in_house: int = 0
    rooms: int = 0
    occupied: int = 0
    rooms_revenue: Decimal = Decimal(0)
    charges_revenue: Decimal = Decimal(0)
    _slept_in: set[str] = field(default_factory=set)

    def add_reservation(self, booking: Data, stay: Data | None) -> None:
        """One more. What was undone does not count."""
        status = booking["status"]
        self.in_house += self._slept_here(booking, stay) if self.over else status == "checked_in"
        self.no_shows += status == "no_show" and booking["checkin_date"] == self.day.isoformat()
        if stay is None or status not in ("checked_in", "checked_out"):
            return
        self.arrivals += self._today(stay.get("actual_checkin_time"))
        if status == "checked_out" and self._today(stay.get("actual_checkout_time")):
            self.departures += 1
            self.rooms_revenue += amount_of(booking, "total_amount")
            self.charges_revenue += amount_of(stay, "additional_charges")

    def add_room(self, room: Data) -> None:
        """One more, after all reservations."""
        self.rooms += 1
        self.occupied += room["room_number"] in self._slept_in if self.over else room["status"] == "occupied"

    @property
    def revenue(self) -> Decimal:
        """Of rooms and charges."""
        return self.rooms_revenue + self.charges_revenue

    def _slept_here(self, booking: Data, stay: Data | None) -> bool:
        """Whether the guest was in house at the day's end."""
        if stay is None or booking["status"] not in ("checked_in", "checked_out"):
            return False
        came = self._day(stay.get("actual_checkin_time")) or date.fromisoformat(booking["checkin_date"])
        left = self._day(stay.get("actual_checkout_time")) if booking["status"] == "checked_out" else None
        here = came <= self.day and (left is None or left > self.day)
        if here:
            self._slept_in.add(str(booking.get("room_number") or stay.get("room_number")))
        return here

    def _day(self, instant: Any) -> date | None:
        return self.calendar.day_of(datetime.fromisoformat(instant)) if isinstance(instant, str) else None

    def _today(self, instant: Any) -> bool:
        return self._day(instant) == self.day


def report(
    figures: Figures, held: Data | None, *, by: str, currency: str | None, corrections: Mapping[str, Any]
) -> Deed:
    """The day's report, as a person submits it; `held` is the one that was submitted before. `corrections`: what the
    person knows better."""
    said = {
        "total_revenue": on_the_wire(figures.revenue),
        "currency": currency,
        "arrivals": figures.arrivals,
        "departures": figures.departures,
        "rooms_occupied": figures.occupied,
        "submitted_by": by,
        "figures": {
            "rooms": figures.rooms,
            "in_house": figures.in_house,
            "no_shows": figures.no_shows,
            "rooms_revenue": on_the_wire(figures.rooms_revenue),
            "charges_revenue": on_the_wire(figures.charges_revenue),
        },
        **{name: value for name, value in corrections.items() if value is not None},
    }
    payload = {name: value for name, value in said.items() if value is not None}
    day = figures.day.isoformat()
    if held is None:
        told = Text(f"{day} の日報を提出しました", f"submitted the report of {day}")
        return Deed("daily_report", (LocalChange("DailyReport", "CREATE", day, payload),), told)
    told = Text(f"{day} の日報を訂正しました", f"corrected the report of {day}")
    return Deed("daily_report", (LocalChange("DailyReport", "UPDATE", day, payload),), told)


def lived(booking: Record, stay: Record | None) -> dict[str, Any]:
    """A reservation as its guest lives it: one of whom a check-in alone tells is in house, in the room of that.

    A reservation that said something since then knows better, as where the check-in was undone.
    """
    data = dict(booking.data)
    if stay is None or data["status"] not in EXPECTED or booking.pending or booking.revision > stay.revision:
        return data
    here = may_be_in_house(stay.data, data) and stay.data["room_number"] != NO_ROOM
    return data | {"status": "checked_in", "room_number": stay.data["room_number"]} if here else data


def room_status(room: Data, guests: Sequence[str]) -> str:
    """A room's status as it is lived: who is in it has it, whatever it says of itself."""
    said = str(room["status"])
    return "occupied" if guests and (said in LETTABLE or said == "vacant_dirty") else said


def guests_of(bookings: Iterable[Data], room: str) -> list[str]:
    """The reservations that are in house in a room."""
    return [
        str(booking["reservation_id"])
        for booking in bookings
        if booking["status"] == "checked_in" and booking.get("room_number") == room
    ]
