"""What reports count, folded from events one after the other (R22, R23): stays (`hub.core.stays`), charges, rooms.

Charges, refunds and corrections are summed by business day, what was settled is payment and no revenue. A room is in
order unless its status says that it is out of order or out of service; what a day counts is its condition when the day
was over. A condition that is told late corrects what was known until the next one that is written down.

An event may change days that were over when it was recorded: those are late days, of which reports may have been made.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, get_args

from hub.core.said import UNFIT, Calendar, Said, currency_code, label, units
from hub.core.stays import MAX_LATE, Stay, changed_days, folded
from schemas import billing, room

Condition = Literal["in_order", "out_of_order", "out_of_service"]

_CONDITIONS: Final = frozenset(get_args(Condition))
_CATEGORIES: Final = frozenset(get_args(billing.Category))
_ROOM_STATUSES: Final = frozenset(get_args(room.Status))
_CHARGES: Final = frozenset({"charged", "refunded", "corrected"})
NOT_OTHER: Final = frozenset({"room", "tax"})
"""Categories that are no other revenue: rooms are counted by their nights, taxes are not the property's."""


class Room(NamedTuple):
    """A room as the events spoke of it."""

    room_type: str
    first_day: int
    condition: str
    at_ms: int
    """When its condition was said last."""


class ChargeKey(NamedTuple):
    """What charges are summed by. An empty currency is the tenant's."""

    day: int
    action: str
    category: str
    currency: str


Told = tuple[int, int, str]
"""A condition: when (Unix ms), by which event (its sequence), and which."""


@dataclass(slots=True)
class _Sum:
    amount: int = 0
    count: int = 0


class Folding:
    """Facts of one tenant that events are folded into, one after the other.

    It is given what the store has of the reservations and rooms that the events speak of, and of those rooms whose
    conditions come late (`tardy`) what is known of them.
    """

    def __init__(
        self,
        calendar: Calendar,
        stays: Mapping[str, Stay],
        rooms: Mapping[str, Room],
        conditions: Mapping[str, Iterable[Told]],
    ) -> None:
        self._calendar = calendar
        self._stays = dict(stays)
        self._rooms = dict(rooms)
        self._known = {id: sorted(told) for id, told in conditions.items()}
        self.stays: dict[str, Stay] = {}
        """Those that changed, as they are now; likewise the rooms."""
        self.rooms: dict[str, Room] = {}
        self.conditions: dict[tuple[str, int, int], str] = {}
        """New ones, by room, time and sequence."""
        self._charges: dict[ChargeKey, _Sum] = {}
        self._late: dict[int, tuple[int, int]] = {}

    @property
    def charges(self) -> list[tuple[ChargeKey, int, int]]:
        """What is to be added: amount and how many charges."""
        return [(key, sum.amount, sum.count) for key, sum in self._charges.items()]

    @property
    def late(self) -> list[tuple[int, int, int]]:
        """The late days: day, how many events, the sequence of the last."""
        return [(day, *events) for day, events in self._late.items()]

    def add(self, said: Said) -> None:
        """Fold in an event; what is damaged leaves everything as it was."""
        try:
            if said.type == "billing":
                self._charge(said)
            elif said.type == "room":
                self._room(said)
            else:
                self._stay(said)
        except UNFIT:
            return

    def _stay(self, said: Said) -> None:
        before = self._stays.get(said.id)
        after = folded(before, said, self._calendar)
        if after == before:
            return
        self._stays[said.id] = self.stays[said.id] = after
        self._mark(changed_days(before, after, said.recorded_day), said.sequence)

    def _charge(self, said: Said) -> None:
        if said.action not in _CHARGES:
            return
        data = said.data
        category, currency = data.get("category"), data.get("currency")
        key = ChargeKey(
            said.day,
            said.action,
            str(category) if category in _CATEGORIES else "other",
            "" if currency is None else currency_code(currency),
        )
        amount = units(data["amount"])
        sum = self._charges.setdefault(key, _Sum())
        sum.amount += amount
        sum.count += 1
        if amount and key.category not in NOT_OTHER and said.day < said.recorded_day:
            self._mark((said.day,), said.sequence)

    def _room(self, said: Said) -> None:
        data = said.data
        status: Any = data.get("status")
        if status not in _ROOM_STATUSES:
            return
        told: str = status if status in _CONDITIONS else "in_order"
        kind = data.get("room_type")
        kind = "" if kind is None else label(kind)
        before = self._rooms.get(said.id)
        late: set[int] = set()
        if before is None:
            room = Room(kind, said.day, "in_order", said.at_ms)
            late.update(_newest(said.day, said.recorded_day))
        else:
            room = before._replace(room_type=kind or before.room_type)
            if said.day < room.first_day:
                late.update(_newest(said.day, min(room.first_day, said.recorded_day)))
                room = room._replace(first_day=said.day)
        if said.at_ms < room.at_ms:
            late.update(self._condition_late(said, told, room))
        else:
            if told != room.condition:
                self._tell(said.id, said.at_ms, said.sequence, told)
                late.update(_newest(said.day, said.recorded_day))
            room = room._replace(condition=told, at_ms=said.at_ms)
        self._rooms[said.id] = self.rooms[said.id] = room
        self._mark(late, said.sequence)

    def _condition_late(self, said: Said, told: str, room: Room) -> Iterable[int]:
        """Put a condition in its place, before what was told since; the days on which the room had another one."""
        known = self._known.get(said.id, [])
        place = bisect_right(known, (said.at_ms, said.sequence, ""))
        was = known[place - 1][2] if place else "in_order"
        next_ms = min([room.at_ms, *(at for at, _, _ in known[place : place + 1])])
        self._tell(said.id, said.at_ms, said.sequence, told)
        if told != room.condition:
            # What repeated the condition before was not written down: without this the late one would last.
            self._tell(said.id, room.at_ms, said.sequence, room.condition)
        if told == was:
            return ()
        return _newest(said.day, min(self._calendar.day(next_ms), said.recorded_day))

    def _tell(self, id: str, at_ms: int, sequence: int, condition: str) -> None:
        self.conditions[(id, at_ms, sequence)] = condition
        if (known := self._known.get(id)) is not None:
            insort(known, (at_ms, sequence, condition))

    def _mark(self, days: Iterable[int], sequence: int) -> None:
        for day in sorted(days)[-MAX_LATE:]:
            self._late[day] = (self._late.get(day, (0, 0))[0] + 1, sequence)


def tardy(events: Iterable[Said], rooms: Mapping[str, Room]) -> dict[str, int]:
    """The rooms of whose conditions some are told after later ones, with the earliest of these, Unix ms."""
    last = {id: room.at_ms for id, room in rooms.items()}
    found: dict[str, int] = {}
    for said in events:
        if said.type != "room":
            continue
        if said.at_ms < last.get(said.id, said.at_ms):
            found[said.id] = min(found.get(said.id, said.at_ms), said.at_ms)
        else:
            last[said.id] = said.at_ms
    return found


def _newest(first: int, until: int) -> range:
    """The days from `first` to before `until`: the newest of them."""
    return range(max(first, until - MAX_LATE), until)
