"""What a report says: its figures as exact numbers, and the event's data made of them (R22, R23).

How the figures come out of the facts is told in `hub.core.facts` and `hub.store.fact_figures`.

- The occupancy rate is sold of available room nights, at most 1, and 0 where nothing is available.
- The average stay is that of the stays that departed in the period; lead time, from booking to arrival, that of those
  that arrived.
- ADR and RevPAR are room revenue a sold and an available room night; there is none where the divisor is 0.
- Lists of origins and of room types are cut to the largest; one row at the end, without a name, has all others.
- `pickup` moves with every cancellation: it is no change of the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, NamedTuple

import orjson

from hub.core.calendar import Period, Report
from schemas.report import Stage
from schemas.types import HUB, MONEY_DECIMALS, MONEY_DIGITS, json_number

MAX_ROWS: Final = 60
"""Rows of a breakdown, and changes that are listed."""
MAX_LIST_BYTES: Final = 12_000
"""What each of these lists takes at most, as JSON: a room type may have a long name."""
NO_ROOMS: Final = (
    "No room is known, so there is no occupancy: say how many there are with `hub tenants set ID --rooms N`"
)

TOO_LARGE: Final = "Some amounts are larger than a report can say, and stand at the largest: look for slips in prices"


class Part(NamedTuple):
    """One part of the sold nights: of an origin and channel, or of a room type."""

    origin: str | None
    channel: str | None
    room_type: str | None
    nights: int
    revenue: Decimal


class DayLine(NamedTuple):
    """One business day."""

    day: date
    room_revenue: Decimal
    other_revenue: Decimal
    sold: int
    available: int
    arrivals: int
    departures: int


class Booked(NamedTuple):
    """Reservations made and not cancelled since."""

    reservations: int = 0
    nights: int = 0
    revenue: Decimal = Decimal(0)


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything a report says of one tenant and period. Money is exact, in the tenant's currency."""

    rooms: int
    """On the last day."""
    sold_room_nights: int
    available_room_nights: int
    out_of_order_room_nights: int
    out_of_service_room_nights: int
    day_uses: int
    guests: int
    """Of stays with a night or a day use in the period, each stay once."""
    room_revenue: Decimal
    other_by_category: Mapping[str, Decimal]
    arrivals: int
    departures: int
    no_shows: int
    cancellations: int
    departed_nights: int
    """Of all stays that departed; likewise the days from booking to arrival, of those that arrived."""
    lead_days: int
    by_origin: tuple[Part, ...]
    by_room_type: tuple[Part, ...]
    days: tuple[DayLine, ...]
    pickup: Booked
    previous_pickup: Booked
    other_currencies: tuple[str, ...]
    """Those in which there were amounts, too, that are counted nowhere."""
    bounded: bool = False
    """Whether so much was charged that it was not all summed."""

    @property
    def other_revenue(self) -> Decimal:
        """What was charged beside the rooms."""
        return sum((day.other_revenue for day in self.days), Decimal(0))

    @property
    def occupancy_rate(self) -> float:
        """A fraction of 1."""
        return min(1.0, _mean(self.sold_room_nights, self.available_room_nights, 6) or 0.0)


def report_data(
    report: Report,
    period: Period,
    figures: Figures,
    *,
    currency: str,
    stage: Stage,
    as_of: str,
    generated_at: datetime,
    previous: Mapping[str, Any] | None = None,
    late_events: int = 0,
) -> dict[str, Any]:
    """The `data` of an `analytics` event, as JSON says it.

    `as_of` is the cursor up to which the facts are true, `generated_at` has a zone, `previous` is the data of the last
    report on the same period (the changes are against it), `late_events` how many events changed the period after it
    was over.
    """
    data: dict[str, Any] = {
        "report_type": report,
        "period_start": period.start.isoformat(),
        "period_end": period.end.isoformat(),
        "total_revenue": _said(figures.room_revenue + figures.other_revenue),
        "currency": currency,
        "occupancy_rate": figures.occupancy_rate,
        "customer_count": figures.guests,
        "average_stay_duration": _mean(figures.departed_nights, figures.departures, 4) or 0.0,
        "detailed_data": {"stage": stage, "as_of": as_of, "late_events": late_events} | _detail(figures),
        "generated_by_system": HUB,
        "generated_at": generated_at.isoformat(),
    }
    if previous is not None:
        data["detailed_data"]["changes"] = _changes(previous, data)
    return data


def same_figures(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether the data of two reports say the same of the same period: whatever their stage, as of when, when they were
    made and by whom, and whatever was picked up since."""
    same = all(before.get(name) == after.get(name) for name in _SUBJECT) and _flat(before) == _flat(after)
    return same and _notes(before) == _notes(after)


def _detail(figures: Figures) -> dict[str, Any]:
    notes = [] if figures.rooms else [NO_ROOMS]
    if figures.other_currencies:
        named = ", ".join(figures.other_currencies[:MAX_ROWS])
        notes.append(f"Amounts in other currencies are not counted: {named}")
    if figures.bounded or any(abs(amount) > _MOST for amount in _amounts(figures)):
        notes.append(TOO_LARGE)
    return {
        "rooms": figures.rooms,
        "sold_room_nights": figures.sold_room_nights,
        "available_room_nights": figures.available_room_nights,
        "out_of_order_room_nights": figures.out_of_order_room_nights,
        "out_of_service_room_nights": figures.out_of_service_room_nights,
        "day_uses": figures.day_uses,
        "room_revenue": _said(figures.room_revenue),
        "other_revenue": _said(figures.other_revenue),
        "other_revenue_by_category": {name: _said(value) for name, value in figures.other_by_category.items()},
        "adr": _each(figures.room_revenue, figures.sold_room_nights),
        "revpar": _each(figures.room_revenue, figures.available_room_nights),
        "arrivals": figures.arrivals,
        "departures": figures.departures,
        "no_shows": figures.no_shows,
        "cancellations": figures.cancellations,
        "lead_time_days": _mean(figures.lead_days, figures.arrivals, 4),
        "by_origin": _rows(figures.by_origin, "origin", "channel"),
        "by_room_type": _rows(figures.by_room_type, "room_type"),
        "days": [
            {
                "date": day.day.isoformat(),
                "total_revenue": _said(day.room_revenue + day.other_revenue),
                "room_revenue": _said(day.room_revenue),
                "sold_room_nights": day.sold,
                "available_room_nights": day.available,
                "arrivals": day.arrivals,
                "departures": day.departures,
            }
            for day in figures.days
        ],
        "pickup": {"period": _booked(figures.pickup), "previous": _booked(figures.previous_pickup)},
        "notes": notes,
    }


def _amounts(figures: Figures) -> Iterator[Decimal]:
    """The money in a report, of which no other amount in it is larger."""
    yield figures.room_revenue + figures.other_revenue
    yield figures.other_revenue
    yield from figures.other_by_category.values()
    for day in figures.days:
        yield day.room_revenue + day.other_revenue
        yield day.room_revenue
    for part in (*figures.by_origin, *figures.by_room_type):
        yield part.revenue
    yield figures.room_revenue
    yield figures.pickup.revenue
    yield figures.previous_pickup.revenue


def _rows(parts: Sequence[Part], *names: str) -> list[dict[str, Any]]:
    rows = [
        {name: getattr(part, name) for name in names} | {"nights": part.nights, "revenue": _said(part.revenue)}
        for part in parts
    ]
    kept = _fitting(rows)
    if kept == len(rows):
        return rows
    kept = min(kept, MAX_ROWS - 1)
    rest = parts[kept:]
    revenue = sum((part.revenue for part in rest), Decimal(0))
    return [*rows[:kept], {"nights": sum(part.nights for part in rest), "revenue": _said(revenue)}]


def _fitting(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many of these rows a list of a report takes."""
    left = MAX_LIST_BYTES
    for number, row in enumerate(rows[:MAX_ROWS]):
        left -= len(orjson.dumps(row))
        if left < 0:
            return number
    return min(len(rows), MAX_ROWS)


def _booked(booked: Booked) -> dict[str, Any]:
    return {"reservations": booked.reservations, "nights": booked.nights, "revenue": _said(booked.revenue)}


# -- numbers ----------------------------------------------------------------------------------------------------------


_MOST: Final = 10**MONEY_DIGITS - 1


def _said(value: Decimal) -> int | float:
    """Money as the JSON number that stands for it: of an amount too large for four decimals, with fewer."""
    value = min(max(value, Decimal(-_MOST)), Decimal(_MOST))
    decimals = min(MONEY_DECIMALS, MONEY_DIGITS - max(1, value.adjusted() + 1))
    return json_number(value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def _each(value: Decimal, by: int) -> int | float | None:
    return None if by == 0 else _said(value / by)


def _mean(value: int, by: int, decimals: int) -> float | None:
    if by == 0:
        return None
    return float((Decimal(value) / by).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


# -- comparing --------------------------------------------------------------------------------------------------------

_SUBJECT: Final = ("report_type", "period_start", "period_end", "currency")
_TOTALS: Final = ("total_revenue", "occupancy_rate", "customer_count", "average_stay_duration")
_NO_FIGURES: Final = frozenset({"stage", "as_of", "late_events", "changes", "pickup", "notes"})
_NAMES: Final = ("date", "room_type", "origin", "channel")
"""Fields that say what a row of a list is about."""


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures that differ, as many as are listed: the whole's before its parts'."""
    old, new = _flat(before), _flat(after)
    found = [
        {"figure": name, "before": old.get(name), "after": new.get(name)}
        for name in sorted({**new, **old}, key=lambda name: "." in name)
        if old.get(name) != new.get(name)
    ]
    return found[: _fitting(found)]


def _flat(data: Mapping[str, Any]) -> dict[str, int | float]:
    """Every figure of a report, by a name that says where it stands; also of what another generator wrote."""
    detail = data.get("detailed_data")
    found: dict[str, Any] = {name: data.get(name) for name in _TOTALS}
    for name, value in detail.items() if isinstance(detail, Mapping) else ():
        if name not in _NO_FIGURES:
            found.update(_figures_of(name, value))
    return {name: value for name, value in found.items() if type(value) in (int, float)}


def _notes(data: Mapping[str, Any]) -> Any:
    detail = data.get("detailed_data")
    return detail.get("notes") if isinstance(detail, Mapping) else None


def _figures_of(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((f"{name}.{part}", figure) for part, figure in value.items())
    elif isinstance(value, list):
        for row in value:
            if isinstance(row, Mapping):
                named = [str(row[key]) for key in _NAMES if row.get(key) is not None]
                about = "/".join(named) if named else "others"
                yield from ((f"{name}.{about}.{part}", figure) for part, figure in row.items())
    else:
        yield name, value
