"""Room numbers for stays that come without them: greedy interval partitioning, the optimum in rooms per type."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta
from heapq import heappop, heappush
from typing import Final

_NIGHT: Final = timedelta(days=1)


def held_until(arrival: date, departure: date) -> date:
    """The first day on which the room can be given to another guest.

    A stay of no night holds the room for its day: it ends after the hour at which the next guest would arrive.
    """
    return max(departure, arrival + _NIGHT)


class RoomAllocator:
    """Gives every stay of one hotel a room of its type; a room is made when none of the type is free.

    Stays must come in the order of their arrivals. The lowest free number wins, so that the same stays in the same
    order get the same rooms.
    """

    def __init__(self) -> None:
        self._free: defaultdict[str, list[int]] = defaultdict(list)
        self._held: defaultdict[str, list[tuple[date, int]]] = defaultdict(list)
        self._made: defaultdict[str, int] = defaultdict(int)
        self._last = date.min

    def allocate(self, room_type: str, arrival: date, departure: date) -> str:
        """The number of a room that is free from `arrival` to `held_until(arrival, departure)`: `A007`.

        Raises:
            ValueError: `arrival` lies before that of an earlier call.
        """
        if arrival < self._last:
            raise ValueError(f"stays must come in order of arrival: {arrival} after {self._last}")
        self._last = arrival
        free, held = self._free[room_type], self._held[room_type]
        while held and held[0][0] <= arrival:
            heappush(free, heappop(held)[1])
        if free:
            number = heappop(free)
        else:
            number = self._made[room_type] = self._made[room_type] + 1
        heappush(held, (held_until(arrival, departure), number))
        return f"{room_type}{number:03d}"

    @property
    def rooms(self) -> int:
        """How many rooms there are."""
        return sum(self._made.values())
