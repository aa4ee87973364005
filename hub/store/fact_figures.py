"""A period's figures out of the facts: the database counts and sums, in integers.

- Sold are the nights, in the period, of stays that have arrived; room revenue is what falls on these nights of their
  amounts, and the amounts of day uses.
- Other revenue is what was charged and corrected less what was refunded, by the day on which it happened, but for the
  categories `room` and `tax`.
- There are as many rooms as the property says, or else as were spoken of up to the day; those out of order when the day
  was over are not available, those out of service are only counted.
- Guests are those of every stay with a night or a day use in the period, once a stay.
- Amounts in other currencies than the one asked for are counted nowhere.

SQLite refuses sums beyond 64 bits: amounts are summed in two halves, which are put together here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.calendar import Period, closes_ms, number_of
from hub.core.facts import NOT_OTHER
from hub.core.figures import Booked, DayLine, Figures, Part
from schemas.types import MONEY_DECIMALS

HALF: Final = 10**9
"""Amounts are summed in so many of their units, and in what is left over."""
MOST_CHARGED: Final = 4 * 10**18
"""What the charges of one day, action, category and currency come to at most: two of these fit 64 bits."""

# Days and numbers stand in the statements themselves: they are integers of the hub's own making, and PostgreSQL wants
# to know each parameter's width. `mine` and `d` are stays and days; a stay takes the days from `a` to `z`.
_STAYS: Final = """
WITH mine AS MATERIALIZED (
  SELECT room_type, origin, channel, currency, adults, children, status, created_day, checkin_day, checkout_day,
    arrived_day, departed_day, cancelled_day, no_show_day,
    CASE WHEN currency IS NULL OR currency = :currency THEN amount ELSE 0 END AS amount,
    arrived_day AS a,
    CASE WHEN COALESCE(departed_day, checkout_day) > arrived_day THEN COALESCE(departed_day, checkout_day) - 1
      ELSE arrived_day END AS z,
    CASE WHEN COALESCE(departed_day, checkout_day) > arrived_day THEN COALESCE(departed_day, checkout_day) - arrived_day
      ELSE 0 END AS nights
  FROM stays WHERE tenant_no = {tenant} AND last_day >= {before} AND first_day <= {end}
), d(day) AS (VALUES {days}), taken AS (
  SELECT d.day AS day, origin, channel, room_type, nights,
    CASE WHEN nights > 0 THEN amount / nights + CASE WHEN d.day - a < amount % nights THEN 1 ELSE 0 END
      ELSE amount END AS money
  FROM mine JOIN d ON d.day BETWEEN a AND z
  WHERE a <= {end} AND z >= {start}
)
SELECT 'night' AS kind, day, origin, channel, room_type,
  SUM(CASE WHEN nights > 0 THEN 1 ELSE 0 END) AS n,
  SUM(CASE WHEN nights > 0 THEN 0 ELSE 1 END) AS m,
  SUM(money / {half}) AS high, SUM(money % {half}) AS low
FROM taken GROUP BY day, origin, channel, room_type
UNION ALL
SELECT 'guests', 0, currency, NULL, NULL, SUM(CASE WHEN adults + children < 1 THEN 1 ELSE adults + children END), 0,
  0, 0
FROM mine WHERE a <= {end} AND z >= {start} GROUP BY currency
UNION ALL
SELECT 'arrival', arrived_day, NULL, NULL, NULL, COUNT(*),
  SUM(CASE WHEN checkin_day > created_day THEN checkin_day - created_day ELSE 0 END), 0, 0
FROM mine WHERE arrived_day BETWEEN {start} AND {end} GROUP BY arrived_day
UNION ALL
SELECT 'departure', departed_day, NULL, NULL, NULL, COUNT(*), SUM(nights), 0, 0
FROM mine WHERE departed_day BETWEEN {start} AND {end} GROUP BY departed_day
UNION ALL
SELECT 'no_show', 0, NULL, NULL, NULL, COUNT(*), 0, 0, 0 FROM mine WHERE no_show_day BETWEEN {start} AND {end}
UNION ALL
SELECT 'cancellation', 0, NULL, NULL, NULL, COUNT(*), 0, 0, 0 FROM mine WHERE cancelled_day BETWEEN {start} AND {end}
UNION ALL
SELECT CASE WHEN created_day >= {start} THEN 'booked' ELSE 'booked_before' END, 0, NULL, NULL, NULL, COUNT(*),
  SUM(CASE WHEN checkout_day > checkin_day THEN checkout_day - checkin_day ELSE 0 END),
  SUM(amount / {half}), SUM(amount % {half})
FROM mine WHERE created_day BETWEEN {before} AND {end} AND cancelled_day IS NULL AND status <> ''
GROUP BY 1
"""
_CHARGES: Final = """
SELECT day, action, category, currency, amount FROM charges
WHERE tenant_no = {tenant} AND day BETWEEN {start} AND {end}
"""
_ROOMS: Final = """
SELECT CASE WHEN first_day < {start} THEN {start} ELSE first_day END AS day, COUNT(*) AS n FROM rooms
WHERE tenant_no = {tenant} AND first_day <= {end} GROUP BY 1
"""
# A room without a condition that was written down is in order.
_CONDITIONS: Final = """
WITH d(day, closes) AS (VALUES {closings}), r AS MATERIALIZED (
  SELECT room_id FROM rooms WHERE tenant_no = {tenant} AND first_day <= {end} AND EXISTS (
    SELECT 1 FROM room_conditions AS c WHERE c.tenant_no = {tenant} AND c.room_id = rooms.room_id)
), held AS (
  SELECT d.day AS day, (
    SELECT c.condition FROM room_conditions AS c
    WHERE c.tenant_no = {tenant} AND c.room_id = r.room_id AND c.at_ms < d.closes
    ORDER BY c.at_ms DESC, c.sequence DESC LIMIT 1) AS condition
  FROM d CROSS JOIN r
)
SELECT day, condition, COUNT(*) AS n FROM held WHERE condition <> 'in_order' GROUP BY day, condition
"""


async def read_figures(
    connection: AsyncConnection,
    tenant_no: int,
    period: Period,
    *,
    currency: str,
    rooms: int | None,
    zone: tzinfo,
    rollover_hour: int,
) -> Figures:
    """The figures, all of the state that the connection's transaction sees."""
    start, end = number_of(period.start), number_of(period.end)
    closings = [
        (number, closes_ms(period.start + timedelta(days=number - start), zone, rollover_hour))
        for number in range(start, end + 1)
    ]
    numbers = {
        "tenant": tenant_no,
        "start": start,
        "end": end,
        "before": number_of(period.before.start),
        "half": HALF,
        "days": ", ".join(f"({day})" for day, _ in closings),
        "closings": ", ".join(f"({day}, {ms})" for day, ms in closings),
    }

    async def rows(statement: str, **values: Any) -> Sequence[Any]:
        return (await connection.execute(text(statement.format_map(numbers)), values)).all()

    found = _Found(start, end, currency)
    found.add_stays(await rows(_STAYS, currency=currency))
    found.add_charges(await rows(_CHARGES))
    first = {row.day: row.n for row in await rows(_ROOMS)} if rooms is None else {}
    found.add_rooms(rooms, first, await rows(_CONDITIONS))
    return found.figures(period)


@dataclass(slots=True)
class _Day:
    """One day's, in integers."""

    room_revenue: int = 0
    other_revenue: int = 0
    sold: int = 0
    rooms: int = 0
    out_of_order: int = 0
    arrivals: int = 0
    departures: int = 0


@dataclass(slots=True)
class _Part:
    nights: int = 0
    revenue: int = 0


@dataclass(slots=True)
class _Found:
    """The rows of the statements, put together."""

    start: int
    end: int
    currency: str
    days: dict[int, _Day] = field(init=False)
    counts: dict[str, int] = field(default_factory=dict)
    by_origin: dict[tuple[str, str | None], _Part] = field(default_factory=dict)
    by_room_type: dict[str, _Part] = field(default_factory=dict)
    by_category: dict[str, int] = field(default_factory=dict)
    pickup: dict[str, Booked] = field(default_factory=dict)
    currencies: set[str] = field(default_factory=set)
    bounded: bool = False

    def __post_init__(self) -> None:
        self.days = {day: _Day() for day in range(self.start, self.end + 1)}

    def count(self, name: str, more: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + more

    def add_stays(self, rows: Iterable[Any]) -> None:
        for kind, day, origin, channel, room_type, n, m, high, low in rows:
            # PostgreSQL sums 64 bits as decimals, and nothing as NULL.
            n, m, money = int(n or 0), int(m or 0), int(high or 0) * HALF + int(low or 0)
            if kind == "night":
                self.days[day].sold += n
                self.days[day].room_revenue += money
                self.count("day_uses", m)
                for part in (
                    self.by_origin.setdefault((origin, channel), _Part()),
                    self.by_room_type.setdefault(room_type, _Part()),
                ):
                    part.nights += n
                    part.revenue += money
            elif kind == "guests":
                self.count("guests", n)
                self._note_currency(origin)
            elif kind == "arrival":
                self.days[day].arrivals = n
                self.count("lead_days", m)
            elif kind == "departure":
                self.days[day].departures = n
                self.count("departed_nights", m)
            elif kind in ("booked", "booked_before"):
                self.pickup[kind] = Booked(n, m, _money(money))
            else:
                self.count(kind, n)

    def _note_currency(self, currency: str | None) -> None:
        if currency and currency != self.currency:
            self.currencies.add(currency)

    def add_charges(self, rows: Iterable[Any]) -> None:
        for day, action, category, currency, amount in rows:
            self._note_currency(currency)
            if category in NOT_OTHER or currency not in ("", self.currency):
                continue
            self.bounded |= abs(amount) >= MOST_CHARGED
            amount = -amount if action == "refunded" else amount
            self.days[day].other_revenue += amount
            self.by_category[category] = self.by_category.get(category, 0) + amount

    def add_rooms(self, rooms: int | None, first: Mapping[int, int], conditions: Iterable[Any]) -> None:
        known = 0
        for number, day in self.days.items():
            known += first.get(number, 0)
            day.rooms = known if rooms is None else rooms
        for number, condition, n in conditions:
            self.count(condition, n)
            if condition == "out_of_order":
                self.days[number].out_of_order = n

    def figures(self, period: Period) -> Figures:
        days = tuple(
            DayLine(
                period.start + timedelta(days=number - self.start),
                _money(day.room_revenue),
                _money(day.other_revenue),
                day.sold,
                max(0, day.rooms - day.out_of_order),
                day.arrivals,
                day.departures,
            )
            for number, day in self.days.items()
        )
        counts = self.counts
        return Figures(
            rooms=self.days[self.end].rooms,
            sold_room_nights=sum(day.sold for day in days),
            available_room_nights=sum(day.available for day in days),
            out_of_order_room_nights=counts.get("out_of_order", 0),
            out_of_service_room_nights=counts.get("out_of_service", 0),
            day_uses=counts.get("day_uses", 0),
            guests=counts.get("guests", 0),
            room_revenue=sum((day.room_revenue for day in days), Decimal(0)),
            other_by_category={category: _money(units) for category, units in sorted(self.by_category.items())},
            arrivals=sum(day.arrivals for day in days),
            departures=sum(day.departures for day in days),
            no_shows=counts.get("no_show", 0),
            cancellations=counts.get("cancellation", 0),
            departed_nights=counts.get("departed_nights", 0),
            lead_days=counts.get("lead_days", 0),
            by_origin=_parts(
                Part(origin, channel, None, part.nights, _money(part.revenue))
                for (origin, channel), part in self.by_origin.items()
            ),
            by_room_type=_parts(
                Part(None, None, room_type, part.nights, _money(part.revenue))
                for room_type, part in self.by_room_type.items()
            ),
            days=days,
            pickup=self.pickup.get("booked", Booked()),
            previous_pickup=self.pickup.get("booked_before", Booked()),
            other_currencies=tuple(sorted(self.currencies)),
            bounded=self.bounded,
        )


def _parts(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Largest first; of the same size by name, so that two reports have them in the same order."""
    return tuple(
        sorted(
            parts, key=lambda one: (-one.revenue, -one.nights, one.origin or "", one.channel or "", one.room_type or "")
        )
    )


def _money(units: int) -> Decimal:
    return Decimal(units).scaleb(-MONEY_DECIMALS)
