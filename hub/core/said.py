"""An archived event as facts are made of it, and the values in it.

What comes out of the archive was validated once, or was written past the hub: reading it refuses what does not fit.
"""

from __future__ import annotations

from datetime import datetime, tzinfo
from typing import Any, Final, NamedTuple

import orjson

from hub.core.calendar import business_day, number_of
from schemas import registry
from schemas.types import MONEY_DECIMALS, exact

TYPES: Final = ("reservation", "checkin_checkout", "billing", "room")
"""The types of events that facts are made of."""
UNITS: Final = 10**MONEY_DECIMALS
"""Amounts are integers of ten-thousandths."""
MAX_UNITS: Final = 10**11 * UNITS
"""More than that is a slip, and counts as nothing: sums must stay within 64 bits."""
CLOCK_MS: Final = 60_000
"""How far the log's clock, which says when the hub took an event, may be behind the one that makes reports: what it
takes so shortly before a day is over may have come after the day's report."""
UNFIT: Final = (KeyError, TypeError, ValueError, ArithmeticError, AttributeError)
"""What reading an event may raise that never went through validation."""

_LABEL: Final = 128
_CURRENCY: Final = 3


class Calendar(NamedTuple):
    """A property's business days."""

    zone: tzinfo
    rollover_hour: int

    def day(self, ms: int) -> int:
        """The number of the business day that a moment, Unix ms, belongs to."""
        return number_of(business_day(ms, self.zone, self.rollover_hour))


class Said(NamedTuple):
    """An event that matters to the facts."""

    type: str
    action: str
    id: str
    """Of the reservation or the room."""
    at_ms: int
    day: int
    """The business day on which it happened."""
    recorded_day: int
    """The business day on which the hub took it, at the latest: see `CLOCK_MS`."""
    sequence: int
    data: dict[str, Any]


def read(
    type: str, action: str, entity: str, sequence: int, id_ms: int, body: bytes, calendar: Calendar
) -> Said | None:
    """An archived event as facts need it; None when it has nothing for them or cannot be read."""
    try:
        event = registry.current(orjson.loads(body))
        data = event["data"]
        if type not in TYPES or not isinstance(data, dict):
            return None
        at_ms = moment(event["occurred_at"])
        id, recorded_day = entity.partition(":")[2], calendar.day(id_ms + CLOCK_MS)
        return Said(type, action, id, at_ms, calendar.day(at_ms), recorded_day, sequence, data)
    except UNFIT:
        return None


def moment(value: str) -> int:
    """An instant, Unix ms. It raises one of `UNFIT` when it is none, as the readings below do."""
    at = datetime.fromisoformat(value)
    if at.tzinfo is None:
        raise ValueError(value)
    return int(at.timestamp() * 1000)


def units(value: int | float) -> int:
    """An amount in ten-thousandths."""
    if isinstance(value, bool):
        raise TypeError(value)
    found = value * UNITS if isinstance(value, int) else int((exact(value) * UNITS).to_integral_value())
    return found if abs(found) <= MAX_UNITS else 0


def text(value: str, length: int) -> str:
    """Text that a column can hold."""
    # PostgreSQL's text has no NUL.
    if not isinstance(value, str) or len(value) > length or "\0" in value:
        raise ValueError(value)
    return value


def label(value: str) -> str:
    """A room type."""
    return text(value, _LABEL)


def currency_code(value: str) -> str:
    """A currency."""
    return text(value, _CURRENCY)
