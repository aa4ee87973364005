"""Real bookings as the events that the hotels' front desks would have published.

A plan holds a few bytes for each event; the events themselves are made as they are read. Every id depends on the row
alone (`booking_rows.Booking.key`), so that publishing a plan a second time adds nothing.

The file has dates without times of day. They are drawn from the row's key, in windows that keep the order of things:
a booking made on its day of arrival is made in the morning, rooms are left by 11:30 and clean by 13:45, guests arrive
from 14:00, and one who has not come by 23:30 is a no-show. Day guests leave between 17:00 and 22:00.

The cancelled booking's change of room type has no date of its own: it is put right before the cancellation. A booking
that was cancelled while it waited is never confirmed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from enum import IntEnum
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from hub.core.booking_rows import Booking, Property, Refusal, read_booking, row_digest
from hub.core.room_allocation import RoomAllocator
from hub.core.simulated import SimulatedEvent
from schemas.types import HOTEL_PMS

CURRENCY: Final = "EUR"
"""The file names none; both hotels are in Portugal."""

DATASET: Final[UUID] = uuid5(NAMESPACE_URL, "https://doi.org/10.1016/j.dib.2018.11.126")
"""The namespace of the events' ids."""

EXAMPLES: Final = 5
"""How many line numbers a survey keeps of each kind of finding."""


class Step(IntEnum):
    """What happens in the life of a booking; of two steps at one moment the lower is first."""

    CREATED = 0
    CONFIRMED = 1
    MOVED = 2
    CANCELLED = 3
    CHECKED_IN = 4
    IN_HOUSE = 5
    ROOM_OCCUPIED = 6
    CHECKED_OUT = 7
    DEPARTED = 8
    ROOM_DIRTY = 9
    ROOM_CLEAN = 10
    NO_SHOW = 11
    NOT_COME = 12


_NAMES: Final[Mapping[Step, tuple[str, str]]] = {
    Step.CREATED: ("reservation", "created"),
    Step.CONFIRMED: ("reservation", "confirmed"),
    Step.MOVED: ("reservation", "updated"),
    Step.CANCELLED: ("reservation", "cancelled"),
    Step.CHECKED_IN: ("checkin_checkout", "checked_in"),
    Step.IN_HOUSE: ("reservation", "checked_in"),
    Step.ROOM_OCCUPIED: ("room", "status_changed"),
    Step.CHECKED_OUT: ("checkin_checkout", "checked_out"),
    Step.DEPARTED: ("reservation", "checked_out"),
    Step.ROOM_DIRTY: ("room", "status_changed"),
    Step.ROOM_CLEAN: ("room", "status_changed"),
    Step.NO_SHOW: ("checkin_checkout", "no_show"),
    # No action of `reservation` says it; without it the reservation would stay confirmed for ever.
    Step.NOT_COME: ("reservation", "updated"),
}
_STATUSES: Final[Mapping[Step, str]] = {
    Step.CANCELLED: "cancelled",
    Step.IN_HOUSE: "checked_in",
    Step.DEPARTED: "checked_out",
    Step.NOT_COME: "no_show",
}
_ROOM_STATUSES: Final[Mapping[Step, str]] = {
    Step.ROOM_OCCUPIED: "occupied",
    Step.ROOM_DIRTY: "vacant_dirty",
    Step.ROOM_CLEAN: "vacant_clean",
}

# An event of a plan is one integer that sorts by time, then booking, then step.
_STEP_BITS: Final = 4
_BOOKING_BITS: Final = 24
_TIME_SHIFT: Final = _STEP_BITS + _BOOKING_BITS
_STEP_MASK: Final = (1 << _STEP_BITS) - 1
_BOOKING_MASK: Final = (1 << _BOOKING_BITS) - 1
_ONE_DAY: Final = 86_400
_STEPS: Final = tuple(Step)


@dataclass(slots=True)
class Finding:
    """How often something was found, and the first lines where it was."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        """Count one more."""
        self.count += 1
        if len(self.lines) < EXAMPLES:
            self.lines.append(line)


@dataclass(slots=True)
class Survey:
    """What a file of bookings holds: every row is either a booking or refused."""

    rows: int = 0
    bookings: int = 0
    identical_rows: int = 0
    """Rows equal to an earlier one in every column; they are bookings like any other."""
    refused: dict[str, Finding] = field(default_factory=dict)
    suspicious: dict[str, Finding] = field(default_factory=dict)
    """Kept, but odd."""
    refusals: list[Refusal] = field(default_factory=list)
    """The first of each reason, in words."""
    rooms: dict[str, int] = field(default_factory=dict)
    """Rooms made, by tenant."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON says it."""
        return {
            "rows": self.rows,
            "bookings": self.bookings,
            "identical_rows": self.identical_rows,
            "refused": {reason: {"count": one.count, "lines": one.lines} for reason, one in self.refused.items()},
            "suspicious": {reason: {"count": one.count, "lines": one.lines} for reason, one in self.suspicious.items()},
            "refusals": [refusal._asdict() for refusal in self.refusals],
            "rooms": self.rooms,
        }

    def lines(self) -> list[str]:
        """As a person reads it."""
        rooms = ", ".join(f"{tenant} {count}" for tenant, count in self.rooms.items())
        text = [f"{self.rows} rows: {self.bookings} bookings, {self.identical_rows} of the rows repeat an earlier one"]
        if rooms:
            text.append(f"rooms: {rooms}")
        text += [f"refused {reason}: {_places(one)}" for reason, one in self.refused.items()]
        text += [f"kept, but {reason}: {_places(one)}" for reason, one in self.suspicious.items()]
        text += [f"line {one.line}, {one.column}: {one.detail}" for one in self.refusals]
        return text


def _places(finding: Finding) -> str:
    more = ", ..." if finding.count > len(finding.lines) else ""
    return f"{finding.count} (line {', '.join(map(str, finding.lines))}{more})"


class BookingPlan:
    """The events of a file of bookings, in order of time, made by `plan_bookings`."""

    def __init__(self, bookings: list[Booking], survey: Survey) -> None:
        self.survey = survey
        self._bookings = bookings
        self._entries = sorted(
            moment << _TIME_SHIFT | index << _STEP_BITS | step
            for index, booking in enumerate(bookings)
            for step, moment in _timetable(booking)
        )

    def __len__(self) -> int:
        return len(self._entries)

    def events(self, start: date | None = None, end: date | None = None) -> Iterator[SimulatedEvent]:
        """The events from day `start` to day `end` of the hotels' calendars, both included.

        A reservation that was made before `start` begins in its middle; ids and data do not depend on the days asked.
        """
        for booking, step, at in self._within(start, end):
            yield _event(booking, step, at)

    def counts(self, start: date | None = None, end: date | None = None) -> dict[str, int]:
        """How many events of each `type.action` there are between two days, as in `events`."""
        if start is None and end is None:
            steps = Counter(entry & _STEP_MASK for entry in self._entries)
        else:
            steps = Counter(step.value for _, step, _ in self._within(start, end))
        found: Counter[str] = Counter()
        for step, count in steps.items():
            found[".".join(_NAMES[_STEPS[step]])] += count
        return dict(sorted(found.items()))

    def _within(self, start: date | None, end: date | None) -> Iterator[tuple[Booking, Step, datetime]]:
        # A day of any zone lies within a day of UTC's; the rest is decided by each hotel's own calendar.
        first = 0 if start is None else bisect_left(self._entries, (_midnight(start) - _ONE_DAY) << _TIME_SHIFT)
        last = len(self._entries)
        if end is not None:
            last = bisect_left(self._entries, (_midnight(end) + 2 * _ONE_DAY) << _TIME_SHIFT)
        for position in range(first, last):
            entry = self._entries[position]
            booking = self._bookings[entry >> _STEP_BITS & _BOOKING_MASK]
            at = datetime.fromtimestamp(entry >> _TIME_SHIFT, booking.hotel.zone)
            if start is not None or end is not None:
                day = at.date()
                if (start is not None and day < start) or (end is not None and day > end):
                    continue
            yield booking, _STEPS[entry & _STEP_MASK], at


def plan_bookings(rows: Iterable[tuple[int, Mapping[str, str]]], properties: Mapping[str, Property]) -> BookingPlan:
    """The plan of rows, each with its line number; `properties` says which tenant each hotel of the file is.

    Raises:
        ValueError: more than 16,777,216 bookings.
    """
    survey, bookings = Survey(), []
    occurrences: dict[bytes, int] = {}
    for line, row in rows:
        survey.rows += 1
        digest = row_digest(row)
        occurrence = occurrences[digest] = occurrences.get(digest, 0) + 1
        survey.identical_rows += occurrence > 1
        found = read_booking(line, row, digest, occurrence, properties)
        if isinstance(found, Refusal):
            if found.reason not in survey.refused:
                survey.refusals.append(found)
            survey.refused.setdefault(found.reason, Finding()).add(line)
            continue
        for suspicion in found.suspicions:
            survey.suspicious.setdefault(suspicion, Finding()).add(line)
        bookings.append(found)
    if len(bookings) > _BOOKING_MASK + 1:
        raise ValueError(f"{len(bookings)} bookings are more than a plan can hold ({_BOOKING_MASK + 1})")
    survey.bookings = len(bookings)
    survey.rooms = _give_rooms(bookings)
    return BookingPlan(bookings, survey)


def _give_rooms(bookings: list[Booking]) -> dict[str, int]:
    allocators: dict[str, RoomAllocator] = {}
    for booking in sorted(bookings, key=lambda one: (one.arrival, one.key)):
        if booking.ending == "Canceled":
            continue
        hotel = allocators.setdefault(booking.hotel.tenant, RoomAllocator())
        # The room of a guest who does not come is held for the first night.
        booking.room_number = hotel.allocate(booking.assigned_type, booking.arrival, booking.ended)
    return {tenant: hotel.rooms for tenant, hotel in sorted(allocators.items())}


def _timetable(booking: Booking) -> Iterator[tuple[Step, int]]:
    arrival, ended, cancelled = booking.arrival, booking.ended, booking.ending == "Canceled"
    last_day = ended if cancelled else arrival
    latest = _hm(12) if booking.booked == last_day else _hm(23)
    yield Step.CREATED, _moment(booking, booking.booked, _hm(7), latest, 0)
    if booking.waiting_days:
        confirmed = booking.booked + timedelta(days=booking.waiting_days)
        if not cancelled or confirmed < ended:
            yield Step.CONFIRMED, _moment(booking, confirmed, _hm(9), _hm(12), 2)
    if cancelled:
        moment = _moment(booking, ended, _hm(12, 30), _hm(23), 4)
        if booking.moved:
            yield Step.MOVED, moment - 600
        yield Step.CANCELLED, moment
        return
    if booking.moved:
        yield Step.MOVED, _moment(booking, arrival, _hm(12, 15), _hm(13, 45), 6)
    if booking.ending == "No-Show":
        moment = _moment(booking, arrival, _hm(23, 30), _hm(23, 58), 8)
        yield Step.NO_SHOW, moment
        yield Step.NOT_COME, moment + 1
        return
    day_use = ended == arrival
    moment = _moment(booking, arrival, _hm(14), _hm(16) if day_use else _hm(23), 8)
    yield Step.CHECKED_IN, moment
    yield Step.IN_HOUSE, moment + 1
    yield Step.ROOM_OCCUPIED, moment + 2
    moment = _moment(booking, ended, *((_hm(17), _hm(22)) if day_use else (_hm(6, 30), _hm(11, 30))), 10)
    yield Step.CHECKED_OUT, moment
    yield Step.DEPARTED, moment + 1
    yield Step.ROOM_DIRTY, moment + 2
    cleaning = 3600 + _drawn(booking, 12) % 4000
    yield Step.ROOM_CLEAN, moment + cleaning


def _event(booking: Booking, step: Step, at: datetime) -> SimulatedEvent:
    type_, action = _NAMES[step]
    moment = at.isoformat()
    if type_ == "reservation":
        data = _reservation(booking, step)
    elif type_ == "room":
        data = _room(booking, step, at)
    else:
        data = _stay(booking, step, moment)
    tenant = booking.hotel.tenant
    draft = {
        "event_id": str(uuid5(DATASET, f"{tenant}/{booking.key.hex()}/{step.name}")),
        "tenant_id": tenant,
        "type": type_,
        "action": action,
        "occurred_at": moment,
        "data": data,
    }
    return SimulatedEvent(HOTEL_PMS, tenant, at, draft)


def _reservation_id(booking: Booking) -> str:
    return f"RSV-{booking.key.hex()}"


def _reservation(booking: Booking, step: Step) -> dict[str, Any]:
    data: dict[str, Any] = {
        "reservation_id": _reservation_id(booking),
        "room_type": booking.assigned_type if step >= Step.MOVED else booking.reserved_type,
        "checkin_date": booking.arrival.isoformat(),
        "checkout_date": (booking.ended if step is Step.DEPARTED else booking.departure).isoformat(),
        "total_amount": booking.total,
        "currency": CURRENCY,
        "status": _STATUSES.get(step, "confirmed"),
        "origin": booking.origin,
        "adults": booking.adults,
    }
    if (step is Step.CREATED and booking.waiting_days) or (step is Step.MOVED and _still_waiting(booking)):
        data["status"] = "waitlisted"
    if step >= Step.MOVED and booking.room_number is not None:
        data["room_number"] = booking.room_number
    if booking.channel is not None:
        data["channel"] = booking.channel
    if booking.children is not None:
        data["children"] = booking.children
    return data


def _still_waiting(booking: Booking) -> bool:
    waited_until = booking.booked + timedelta(days=booking.waiting_days)
    return booking.waiting_days > 0 and booking.ending == "Canceled" and waited_until >= booking.ended


def _stay(booking: Booking, step: Step, moment: str) -> dict[str, Any]:
    settled = booking.prepaid or step is Step.CHECKED_OUT
    data: dict[str, Any] = {
        "reservation_id": _reservation_id(booking),
        "room_number": booking.room_number,
        "currency": CURRENCY,
        "payment_status": "completed" if settled else "pending",
    }
    if step is Step.CHECKED_IN:
        data["actual_checkin_time"] = moment
    elif step is Step.CHECKED_OUT:
        data["actual_checkout_time"] = moment
    return data


def _room(booking: Booking, step: Step, at: datetime) -> dict[str, Any]:
    available = booking.departure if step is Step.ROOM_OCCUPIED else at.date()
    return {
        "room_id": f"room-{booking.room_number}",
        "room_number": booking.room_number,
        "room_type": booking.assigned_type,
        "status": _ROOM_STATUSES[step],
        "availability_date": available.isoformat(),
    }


def _hm(hour: int, minute: int = 0) -> int:
    return hour * 60 + minute


def _drawn(booking: Booking, place: int) -> int:
    return booking.key[place] << 8 | booking.key[place + 1]


def _moment(booking: Booking, day: date, earliest: int, latest: int, place: int) -> int:
    """A second of `day`, from minute `earliest` to before minute `latest`, drawn from the key at `place`."""
    second = earliest * 60 + _drawn(booking, place) * (latest - earliest) * 60 // 65_536
    hour, rest = divmod(second, 3600)
    moment = datetime.combine(day, time(hour, *divmod(rest, 60)), booking.hotel.zone)
    return int(moment.timestamp())


def _midnight(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp())
