"""Stays, as reports count them: what the events of a reservation and of its check-in and check-out have said so far.

`reservation` data is a merge patch. Days are business days, as numbers (`hub.core.calendar.number_of`).

- It was booked on the day of its first event. It arrived on the day of the check-in that was said first, by the desk
  (the actual time, where there is one) or by the reservation; likewise it departed. One that departs and never arrived
  arrived on its check-in day.
- It was cancelled on the day of the event that says so. It is a no-show of the day on which the desk said so, or of its
  check-in day where only the status tells.
- A status that goes back takes back what it had brought: a cancellation, a no-show, an arrival, a departure. The desk's
  check-in ends a cancellation and a no-show, too.
- A stay that has arrived takes the nights from its arrival up to its departure, or, while it is in house, its check-out
  day. Without any it is a day use. Its amount is spread evenly over its nights, what is left one ten-thousandth each
  over the first ones, so that the parts are the whole; a day use has it all on its day.

An event may change days that were over when it was recorded: `changed_days`. What was booked on a day does not count
there: every cancellation changes that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Final, NamedTuple, get_args

from hub.core.calendar import number_of
from hub.core.said import Calendar, Said, currency_code, label, moment, text, units
from schemas import reservation

MAX_LATE: Final = 400
"""How many late days one event may make: the newest."""

_STATUSES: Final = frozenset(get_args(reservation.Status))
_OPEN: Final = frozenset({"inquiry", "tentative", "waitlisted", "confirmed"})
_TOLD_BY: Final = frozenset({"cancelled", "checked_in", "checked_out"})
"""Actions that are a status."""
_ORIGINS: Final = frozenset(get_args(reservation.Origin))
_CODE: Final = 40


class Stay(NamedTuple):
    """What reports count of one reservation. Its fields are the columns of `stays`."""

    status: str
    """As the reservation's own events said last; empty before the first of them."""
    room_type: str
    origin: str
    channel: str | None
    currency: str | None
    """None: the tenant's."""
    amount: int
    adults: int
    children: int
    created_day: int
    checkin_day: int
    checkout_day: int
    arrived_day: int | None = None
    departed_day: int | None = None
    cancelled_day: int | None = None
    no_show_day: int | None = None

    @property
    def guests(self) -> int:
        """How many people; one at least."""
        return max(1, self.adults + self.children)

    @property
    def end(self) -> int:
        """The day after the last night; of a stay that has arrived."""
        return self.checkout_day if self.departed_day is None else self.departed_day

    @property
    def nights(self) -> int:
        """How many nights it takes; 0 is a day use. Of a stay that has arrived."""
        return 0 if self.arrived_day is None else max(0, self.end - self.arrived_day)

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last day whose figures have anything of it."""
        days = [self.created_day, self.arrived_day, self.departed_day, self.cancelled_day, self.no_show_day]
        if self.arrived_day is not None:
            days.append(self.arrived_day + max(0, self.nights - 1))
        known = [day for day in days if day is not None]
        return min(known), max(known)


def share(amount: int, nights: int, number: int) -> int:
    """What the `number`th night (from 0) has of an amount; all of it, where there are no nights."""
    if nights <= 0:
        return amount
    each, left = divmod(amount, nights)
    return each + (number < left)


def folded(stay: Stay | None, said: Said, calendar: Calendar) -> Stay:
    """A stay after an event of its reservation.

    Raises:
        One of `UNFIT`: the event is damaged.
    """
    if stay is None:
        stay = Stay("", "", "", None, None, 0, 0, 0, said.day, said.day, said.day)
    if said.type == "reservation":
        return _moved(_patched(stay, said.data), said)
    return _at_the_desk(stay, said, calendar)


def _patched(stay: Stay, data: Mapping[str, Any]) -> Stay:
    """The stay with what a reservation's data says, but for its status."""
    changes: dict[str, Any] = {}
    for name, (field, reading) in _PATCHES.items():
        if name in data:
            value = data[name]
            changes[field] = _REMOVED[field] if value is None else reading(value)
    for field in ("checkin_day", "checkout_day"):
        if changes.get(field, 0) is None:
            del changes[field]
    return stay._replace(**changes)


def _moved(stay: Stay, said: Said) -> Stay:
    """The stay after its reservation's status is told anew."""
    before = stay.status
    status: Any = said.action if said.action in _TOLD_BY else said.data.get("status")
    if status == before or status not in _STATUSES:
        return stay
    stay = stay._replace(status=status)
    if status in _OPEN:
        return _taken_back(stay, before)
    if status == "checked_in":
        return _arrived(stay, said.day, again=before == "checked_out")
    if status == "checked_out":
        return _departed(stay, said.day)
    if status == "cancelled":
        day = said.day if stay.cancelled_day is None else stay.cancelled_day
        return stay._replace(cancelled_day=day, arrived_day=None, departed_day=None, no_show_day=None)
    return _not_come(stay, stay.checkin_day)


def _taken_back(stay: Stay, before: str) -> Stay:
    if before == "cancelled":
        return stay._replace(cancelled_day=None)
    if before == "no_show":
        return stay._replace(no_show_day=None)
    if before in ("checked_in", "checked_out"):
        return stay._replace(arrived_day=None, departed_day=None)
    return stay


def _at_the_desk(stay: Stay, said: Said, calendar: Calendar) -> Stay:
    if said.action == "checked_in":
        at = said.data.get("actual_checkin_time")
        day = said.day if at is None else calendar.day(moment(at))
        return _arrived(stay, day, again=stay.departed_day is not None and day > stay.departed_day)
    if said.action == "checked_out":
        at = said.data.get("actual_checkout_time")
        return _departed(stay, said.day if at is None else calendar.day(moment(at)))
    if said.action == "no_show":
        return _not_come(stay, said.day)
    return stay


def _arrived(stay: Stay, day: int, *, again: bool) -> Stay:
    return stay._replace(
        arrived_day=day if stay.arrived_day is None else stay.arrived_day,
        departed_day=None if again else stay.departed_day,
        cancelled_day=None,
        no_show_day=None,
    )


def _departed(stay: Stay, day: int) -> Stay:
    departed = day if stay.departed_day is None else stay.departed_day
    return stay._replace(
        arrived_day=min(stay.checkin_day, departed) if stay.arrived_day is None else stay.arrived_day,
        departed_day=departed,
        cancelled_day=None,
        no_show_day=None,
    )


def _not_come(stay: Stay, day: int) -> Stay:
    no_show = day if stay.no_show_day is None else stay.no_show_day
    return stay._replace(no_show_day=no_show, arrived_day=None, departed_day=None, cancelled_day=None)


def changed_days(before: Stay | None, after: Stay | None, until: int) -> set[int]:
    """The days before `until` of which the two say something different; of the nights' the newest `MAX_LATE`."""
    found = {point[0] for point in _points(before) ^ _points(after) if point[0] < until}
    if _nights(before) != _nights(after):
        spans = [(stay.arrived_day, stay) for stay in (before, after) if stay is not None]
        arrivals = [(day, day + max(0, stay.nights - 1)) for day, stay in spans if day is not None]
        last = min(until - 1, max(end for _, end in arrivals))
        first = max(min(begin for begin, _ in arrivals), last - MAX_LATE + 1)
        found.update(day for day in range(first, last + 1) if _on(before, day) != _on(after, day))
    return found


def _points(stay: Stay | None) -> set[tuple[int, str, int]]:
    """What it counts for on single days."""
    if stay is None:
        return set()
    found = set()
    if stay.arrived_day is not None:
        found.add((stay.arrived_day, "arrival", max(0, stay.checkin_day - stay.created_day)))
    if stay.departed_day is not None:
        found.add((stay.departed_day, "departure", stay.nights))
    if stay.cancelled_day is not None:
        found.add((stay.cancelled_day, "cancellation", 0))
    if stay.no_show_day is not None:
        found.add((stay.no_show_day, "no_show", 0))
    return found


def _nights(stay: Stay | None) -> tuple[Any, ...] | None:
    """What its nights are made of."""
    if stay is None or stay.arrived_day is None:
        return None
    return stay.arrived_day, stay.nights, stay.amount, *_kind(stay)


def _kind(stay: Stay) -> tuple[Any, ...]:
    return stay.currency, stay.origin, stay.channel, stay.room_type, stay.guests


def _on(stay: Stay | None, day: int) -> tuple[Any, ...] | None:
    """What one day has of its nights."""
    if stay is None or stay.arrived_day is None or not 0 <= day - stay.arrived_day <= max(0, stay.nights - 1):
        return None
    return share(stay.amount, stay.nights, day - stay.arrived_day), stay.nights == 0, *_kind(stay)


# -- values -----------------------------------------------------------------------------------------------------------


def _price(value: int | float) -> int:
    found = units(value)
    if found < 0:
        raise ValueError(value)
    return found


def _count(value: int) -> int:
    if type(value) is not int or not 0 <= value <= 999:
        raise ValueError(value)
    return value


def _day(value: str) -> int:
    return number_of(date.fromisoformat(value))


def _code(value: str) -> str:
    return text(value, _CODE)


def _origin(value: str) -> str:
    # A newer hub's may be longer than the column.
    return value if value in _ORIGINS else "import"


_PATCHES: Final[Mapping[str, tuple[str, Any]]] = {
    "room_type": ("room_type", label),
    "origin": ("origin", _origin),
    "channel": ("channel", _code),
    "currency": ("currency", currency_code),
    "total_amount": ("amount", _price),
    "adults": ("adults", _count),
    "children": ("children", _count),
    "checkin_date": ("checkin_day", _day),
    "checkout_date": ("checkout_day", _day),
}
_REMOVED: Final[Mapping[str, Any]] = {
    "room_type": "",
    "origin": "",
    "channel": None,
    "currency": None,
    "amount": 0,
    "adults": 0,
    "children": 0,
    # There is no stay without them: they are left as they were.
    "checkin_day": None,
    "checkout_day": None,
}
