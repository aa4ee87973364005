"""Rows of `hotel_bookings.csv` as bookings (N. Antonio, A. de Almeida, L. Nunes, "Hotel booking demand datasets",
Data in Brief 22 (2019) 41-49).

What the columns leave open is decided here:

- A row without guests, with a negative rate, with dates that contradict each other or with a field that cannot be read
  is refused; so is nothing else. What is odd but possible is kept and named in `Booking.suspicions`.
- A booking of no night is a day use: it is kept, and costs what the file says it does, the rate times no night.
- Identical rows are separate bookings (a group's rooms are entered one by one); each gets its number among its likes,
  so that its ids do not depend on where in the file it stands.
- `NULL`, `NA` and an empty field are no value. Only `children` and `babies` may lack one.
- A guest who left before the booked day left on `reservation_status_date`; the total stays what was booked.
- The one no-show that is dated before its arrival is a no-show of the arrival day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta, tzinfo
from decimal import Decimal
from hashlib import blake2b
from typing import Final, Literal, NamedTuple

COLUMNS: Final = (
    "hotel",
    "is_canceled",
    "lead_time",
    "arrival_date_year",
    "arrival_date_month",
    "arrival_date_week_number",
    "arrival_date_day_of_month",
    "stays_in_weekend_nights",
    "stays_in_week_nights",
    "adults",
    "children",
    "babies",
    "meal",
    "country",
    "market_segment",
    "distribution_channel",
    "is_repeated_guest",
    "previous_cancellations",
    "previous_bookings_not_canceled",
    "reserved_room_type",
    "assigned_room_type",
    "booking_changes",
    "deposit_type",
    "agent",
    "company",
    "days_in_waiting_list",
    "customer_type",
    "adr",
    "required_car_parking_spaces",
    "total_of_special_requests",
    "reservation_status",
    "reservation_status_date",
)
EXTRA: Final = ""
"""The key under which a row holds the fields it has beyond its header."""

OUTLIER_RATE: Final = Decimal(1000)
"""A rate per night from here on is reported; the file's median is 95 and all but one rate are under 511."""

Ending = Literal["Check-Out", "Canceled", "No-Show"]
Suspicion = Literal[
    "no_night", "rate_outlier", "rate_zero", "left_early", "no_show_misdated", "children_only", "children_unknown"
]

_NO_VALUE: Final = frozenset({"", "NULL", "NA"})
_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        (
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ),
        start=1,
    )
}
_COUNT: Final = re.compile(r"([0-9]{1,4})(?:\.0+)?")
_RATE: Final = re.compile(r"-?[0-9]{1,7}(?:\.[0-9]{1,4})?")
_ROOM_TYPE: Final = re.compile(r"[A-Za-z][A-Za-z0-9]{0,9}")
_YEARS: Final = range(1980, 2200)

_ORIGINS: Final = {
    "Online TA": "ota",
    "Offline TA/TO": "travel_agent",
    "Groups": "group",
    "Corporate": "corporate",
    # Crews, under an airline's contract.
    "Aviation": "corporate",
}
_ORIGINS_BY_CHANNEL: Final = {"TA/TO": "travel_agent", "Corporate": "corporate"}
_CHANNELS: Final = {"TA/TO": "ta_to", "Direct": "direct", "Corporate": "corporate", "GDS": "gds"}


@dataclass(frozen=True, slots=True)
class Property:
    """The tenant that a hotel of the file becomes; its days are those of `zone`."""

    tenant: str
    zone: tzinfo


class Refusal(NamedTuple):
    """A row that makes no booking, and why. `reason` is a stable code, `line` counts from 1 with the header."""

    line: int
    column: str
    reason: str
    detail: str


@dataclass(slots=True)
class Booking:
    """One booking as far as the file knows it. `room_number` is for an allocator to set."""

    hotel: Property
    line: int
    key: bytes
    """16 bytes that depend on the row and its number among identical rows alone."""
    booked: date
    waiting_days: int
    arrival: date
    nights: int
    ending: Ending
    ended: date
    reserved_type: str
    assigned_type: str
    adults: int
    children: int | None
    total: int | float
    origin: str
    channel: str | None
    prepaid: bool
    suspicions: tuple[Suspicion, ...]
    room_number: str | None = None

    @property
    def departure(self) -> date:
        """The departure that was booked."""
        return self.arrival + timedelta(days=self.nights)

    @property
    def moved(self) -> bool:
        """Whether the guest was given another type of room than the one booked."""
        return self.reserved_type != self.assigned_type


class _Unfit(Exception):
    def __init__(self, column: str, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.column = column
        self.reason = reason
        self.detail = detail


def row_digest(row: Mapping[str, str]) -> bytes:
    """Equal for rows that are equal in every column."""
    return blake2b("\x1f".join([row.get(column, "") for column in COLUMNS]).encode(), digest_size=16).digest()


def read_booking(
    line: int, row: Mapping[str, str], digest: bytes, occurrence: int, properties: Mapping[str, Property]
) -> Booking | Refusal:
    """The booking of a row, the `occurrence`-th (from 1) of those with its `digest`, or why there is none."""
    try:
        return _booking(line, row, blake2b(b"%b %d" % (digest, occurrence), digest_size=16).digest(), properties)
    except _Unfit as unfit:
        return Refusal(line, unfit.column, unfit.reason, unfit.detail)


def _booking(line: int, row: Mapping[str, str], key: bytes, properties: Mapping[str, Property]) -> Booking:
    if EXTRA in row:
        raise _Unfit(COLUMNS[-1], "too_many_fields", "the row has more fields than the header")
    place = properties.get(_text(row, "hotel"))
    if place is None:
        raise _Unfit("hotel", "unknown_hotel", f"{row['hotel']!r} is none of: {', '.join(properties)}")
    arrival = _arrival(row)
    nights = _count(row, "stays_in_weekend_nights") + _count(row, "stays_in_week_nights")
    booked = arrival - timedelta(days=_count(row, "lead_time"))
    waiting_days = _count(row, "days_in_waiting_list")
    if waiting_days > (arrival - booked).days:
        raise _Unfit("days_in_waiting_list", "dates_contradict", "the waiting list ends after the arrival")
    ending = _ending(row)
    ended = _status_date(row)
    adults, children = _guests(row)
    rate = _rate(row)
    origin, channel = _origin(row, walk_in=booked == arrival)
    suspicions: list[Suspicion] = []
    if nights == 0:
        suspicions.append("no_night")
    if rate >= OUTLIER_RATE:
        suspicions.append("rate_outlier")
    if rate == 0:
        suspicions.append("rate_zero")
    if children is None:
        suspicions.append("children_unknown")
    if adults == 0:
        suspicions.append("children_only")
    if ending == "Canceled" and ended < booked:
        raise _Unfit("reservation_status_date", "dates_contradict", "cancelled before it was booked")
    if ending == "Check-Out" and ended < arrival:
        raise _Unfit("reservation_status_date", "dates_contradict", "left before arriving")
    if ending == "Check-Out" and ended < arrival + timedelta(days=nights):
        suspicions.append("left_early")
    if ending == "No-Show" and ended != arrival:
        suspicions.append("no_show_misdated")
        ended = arrival
    return Booking(
        hotel=place,
        line=line,
        key=key,
        booked=booked,
        waiting_days=waiting_days,
        arrival=arrival,
        nights=nights,
        ending=ending,
        ended=ended,
        reserved_type=_room_type(row, "reserved_room_type"),
        assigned_type=_room_type(row, "assigned_room_type"),
        adults=adults,
        children=children,
        total=_number(rate * nights),
        origin=origin,
        channel=channel,
        prepaid=_text(row, "deposit_type") == "Non Refund",
        suspicions=tuple(suspicions),
    )


def _text(row: Mapping[str, str], column: str) -> str:
    value = row.get(column, "")
    if value in _NO_VALUE:
        raise _Unfit(column, "missing_value", f"{column} has no value")
    return value


def _count(row: Mapping[str, str], column: str) -> int:
    found = _COUNT.fullmatch(_text(row, column))
    if found is None:
        raise _Unfit(column, "not_a_count", f"{row[column]!r} is not a whole number from 0 to 9999")
    return int(found[1])


def _arrival(row: Mapping[str, str]) -> date:
    month = _MONTHS.get(_text(row, "arrival_date_month"))
    if month is None:
        raise _Unfit("arrival_date_month", "bad_date", f"{row['arrival_date_month']!r} is not the name of a month")
    year, day = _count(row, "arrival_date_year"), _count(row, "arrival_date_day_of_month")
    if year not in _YEARS:
        raise _Unfit("arrival_date_year", "bad_date", f"{year} is not a year from {_YEARS[0]} to {_YEARS[-1]}")
    try:
        return date(year, month, day)
    except ValueError:
        raise _Unfit("arrival_date_day_of_month", "bad_date", f"{year}-{month:02d} has no day {day}") from None


def _status_date(row: Mapping[str, str]) -> date:
    text = _text(row, "reservation_status_date")
    try:
        found = date.fromisoformat(text)
    except ValueError:
        raise _Unfit("reservation_status_date", "bad_date", f"{text!r} is not a date like 2016-07-15") from None
    if found.year not in _YEARS:
        raise _Unfit("reservation_status_date", "bad_date", f"{found.year} is not a year of this file's")
    return found


def _ending(row: Mapping[str, str]) -> Ending:
    status, cancelled = _text(row, "reservation_status"), _text(row, "is_canceled")
    match status:
        case "Check-Out" | "Canceled" | "No-Show":
            # The file counts a no-show as cancelled.
            if cancelled != ("0" if status == "Check-Out" else "1"):
                raise _Unfit("is_canceled", "status_contradicts", f"is_canceled {cancelled} with status {status}")
            return status
    raise _Unfit("reservation_status", "unknown_status", f"{status!r} is none of: Check-Out, Canceled, No-Show")


def _guests(row: Mapping[str, str]) -> tuple[int, int | None]:
    adults = _count(row, "adults")
    known = [_count(row, column) for column in ("children", "babies") if row.get(column, "") not in _NO_VALUE]
    if adults + sum(known) == 0:
        raise _Unfit("adults", "no_guests", "neither adults nor children nor babies")
    if adults > 999 or sum(known) > 999:
        raise _Unfit("adults", "not_a_count", "more than 999 guests")
    return adults, sum(known) if len(known) == 2 else None


def _rate(row: Mapping[str, str]) -> Decimal:
    text = _text(row, "adr")
    if _RATE.fullmatch(text) is None:
        raise _Unfit("adr", "not_a_rate", f"{text!r} is not a number of at most 7 digits and 4 decimals")
    rate = Decimal(text)
    if rate < 0:
        raise _Unfit("adr", "negative_rate", f"a rate of {rate}")
    return rate


def _room_type(row: Mapping[str, str], column: str) -> str:
    # Some copies of the file pad the letter with blanks.
    text = _text(row, column).strip()
    if _ROOM_TYPE.fullmatch(text) is None:
        raise _Unfit(column, "bad_room_type", f"{text!r} is not a code of letters and digits")
    return text


def _origin(row: Mapping[str, str], *, walk_in: bool) -> tuple[str, str | None]:
    """The origin and channel codes: the market segment tells who booked, the distribution channel which way it came.

    A direct booking is a walk-in on the day of arrival; before that the file does not tell the web from the telephone.
    """
    segment, distribution = _text(row, "market_segment"), _text(row, "distribution_channel")
    channel = _CHANNELS.get(distribution)
    if distribution == "GDS":
        return "gds", channel
    if segment in _ORIGINS:
        return _ORIGINS[segment], channel
    if distribution in _ORIGINS_BY_CHANNEL:
        return _ORIGINS_BY_CHANNEL[distribution], channel
    if segment == "Direct" or distribution == "Direct":
        return ("walk_in" if walk_in else "direct_web"), channel
    return "import", channel


def _number(value: Decimal) -> int | float:
    return int(value) if value == value.to_integral_value() else float(value)
