"""A report as people read it: which figures it has, in which order, and how a number is written.

What is read here may come from another generator, and labels from any publisher: nothing raises, a value that is no
number is left out or shown as `NOTHING`, and text is cleaned of what a terminal or a page would act on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, Literal, NamedTuple

from pydantic import ValidationError

from schemas.report import Change, DayFigures, ReportDetail, Share, Stage, detail_of
from schemas.types import read_day

NOTHING: Final = "–"
Unit = Literal["money", "fraction", "count", "nights", "days"]
Group = Literal["money", "rooms", "guests"]

KINDS: Final = {"daily_report": "Daily report", "weekly_report": "Weekly report", "monthly_report": "Monthly report"}


class StageWords(NamedTuple):
    """How far a report is to be trusted, in Japanese, in English, and in a sentence."""

    japanese: str
    english: str
    meaning: str


STAGES: Final[Mapping[Stage, StageWords]] = {
    "provisional": StageWords("速報", "Provisional", "The period was not over yet: these figures will change."),
    "final": StageWords("確定", "Final", "The period was over when this was counted."),
    "revised": StageWords("訂正", "Revised", "Events that came late have changed the final report."),
}


class Meaning(NamedTuple):
    """What a figure is called, what it counts, and which others it is shown with."""

    label: str
    unit: Unit
    group: Group


FIGURES: Final[Mapping[str, Meaning]] = {
    "total_revenue": Meaning("Total revenue", "money", "money"),
    "room_revenue": Meaning("Room revenue", "money", "money"),
    "other_revenue": Meaning("Other revenue", "money", "money"),
    "adr": Meaning("ADR", "money", "money"),
    "revpar": Meaning("RevPAR", "money", "money"),
    "occupancy_rate": Meaning("Occupancy", "fraction", "rooms"),
    "rooms": Meaning("Rooms", "count", "rooms"),
    "sold_room_nights": Meaning("Nights sold", "count", "rooms"),
    "available_room_nights": Meaning("Nights available", "count", "rooms"),
    "out_of_order_room_nights": Meaning("Out of order", "count", "rooms"),
    "out_of_service_room_nights": Meaning("Out of service", "count", "rooms"),
    "day_uses": Meaning("Day uses", "count", "rooms"),
    "customer_count": Meaning("Guests", "count", "guests"),
    "arrivals": Meaning("Arrivals", "count", "guests"),
    "departures": Meaning("Departures", "count", "guests"),
    "no_shows": Meaning("No-shows", "count", "guests"),
    "cancellations": Meaning("Cancellations", "count", "guests"),
    "average_stay_duration": Meaning("Average stay", "nights", "guests"),
    "lead_time_days": Meaning("Lead time", "days", "guests"),
}
"""Every figure of a report that is one number, in the order in which it is shown."""

TOP_LEVEL: Final = ("total_revenue", "occupancy_rate", "customer_count", "average_stay_duration")
"""What every report has, whoever generated it."""

OTHERS_FROM: Final = 12
"""So many parts of a breakdown are shown one by one; the rest together."""

# Minor units that are not 2, by ISO 4217.
_MINOR_UNITS: Final = dict.fromkeys(
    ("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "VND", "VUV", "XAF", "XOF", "XPF"), 0
) | dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3)
_BEYOND: Final = Decimal(10**18)
# Control characters, line separators, what turns the writing direction, what is no character at all.
_UNFIT: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]"
)


class Part(NamedTuple):
    """One part of a breakdown, `of_all` its share of the revenue of all parts, None where that says nothing."""

    label: str
    nights: Decimal
    revenue: Decimal
    of_all: Decimal | None


class Reading(NamedTuple):
    """A report, read. `figures`: by name, those of `TOP_LEVEL` always, None where there is no number. `foreign`: there
    is a detail, and it is not of the shape the hub writes."""

    kind: str
    period: str
    days: int | None
    stage: Stage | None
    currency: str
    made: str
    figures: Mapping[str, Decimal | None]
    detail: ReportDetail
    foreign: bool

    def group(self, group: Group) -> list[tuple[str, str]]:
        """Label and written value of each figure of a group."""
        return [
            (FIGURES[name].label, written(value, FIGURES[name].unit, self.currency))
            for name, value in self.figures.items()
            if FIGURES[name].group == group
        ]

    @property
    def by_day(self) -> Sequence[DayFigures]:
        """The days of the period, in order."""
        return sorted(self.detail.days or (), key=lambda one: one.date)

    @property
    def remarks(self) -> Sequence[str]:
        """What else is to be said, cleaned."""
        said = [clean(one) for one in self.detail.notes or ()]
        late = number(self.detail.late_events)
        if late:
            said.insert(0, f"{count(late)} {'event' if late == 1 else 'events'} came late.")
        if self.foreign:
            said.append("The detail of this report is in a form of its own and is not shown.")
        return said


def read(data: Mapping[str, Any]) -> Reading:
    """Read the `data` of an analytics event, whoever generated it; nothing raises."""
    raw = data.get("detailed_data")
    detail, foreign = ReportDetail(), False
    if isinstance(raw, Mapping):
        try:
            detail = detail_of(raw)
            foreign = bool(raw) and not detail.model_fields_set & ReportDetail.model_fields.keys()
        except ValidationError:
            foreign = True
    figures = {}
    for name in FIGURES:
        value = number(data.get(name) if name in TOP_LEVEL else getattr(detail, name))
        if value is not None or name in TOP_LEVEL:
            figures[name] = value
    start, end = clean(data.get("period_start")), clean(data.get("period_end"))
    kind = clean(data.get("report_type"))
    made = (clean(data.get("generated_by_system")), moment(data.get("generated_at")))
    return Reading(
        kind=KINDS.get(kind, kind or "Report"),
        period=start if start == end else f"{start or NOTHING} – {end or NOTHING}",
        days=_days(start, end),
        stage=detail.stage,
        currency=clean(data.get("currency")),
        made=" · ".join(one for one in made if one),
        figures=figures,
        detail=detail,
        foreign=foreign,
    )


def _days(start: str, end: str) -> int | None:
    try:
        return (read_day(end) - read_day(start)).days + 1
    except ValueError:
        return None


def clean(value: object) -> str:
    """A value as one line of text without control characters; None as nothing."""
    return "" if value is None else _UNFIT.sub("\ufffd", str(value)).strip()


def moment(value: object) -> str:
    """An instant as it was written, shorter by its T and what is below a minute."""
    return re.sub(r"T(\d\d:\d\d)(:[\d.]+)?", r" \1 ", clean(value)).replace(" Z", " UTC")


def number(value: object) -> Decimal | None:
    """A JSON number, exact; None for what is none, or is beyond anything a hotel counts."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
    return exact if exact.is_finite() and abs(exact) < _BEYOND else None


def count(value: Decimal, decimals: int = 0) -> str:
    """With thousands separators, rounded half up."""
    rounded = value.quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP)
    return f"{rounded + 0:,f}"


def amount(value: Decimal, currency: str) -> str:
    """An amount without its currency, with as many decimals as that has; two where it is not known and they say
    something."""
    decimals = _MINOR_UNITS.get(currency, 2) if currency or value != value.to_integral_value() else 0
    return count(value, decimals)


def percent(fraction: Decimal) -> str:
    """A fraction of 1, to a tenth of a percent."""
    return f"{count(fraction * 100, 1)}%"


def written(value: Decimal | None, unit: Unit, currency: str) -> str:
    """A figure with its unit."""
    if value is None:
        return NOTHING
    if unit == "money":
        return f"{currency} {amount(value, currency)}".lstrip()
    if unit == "fraction":
        return percent(value)
    if unit == "count":
        # Counts are whole; what somebody else counts may not be.
        return count(value, 0 if value == value.to_integral_value() else 2)
    return f"{count(value, 1)} {unit}"


def points(value: Decimal | None, before: Decimal | None) -> str:
    """How much a fraction of 1 went up or down, in percentage points."""
    if value is None or before is None:
        return NOTHING
    return f"{_signed(count((value - before) * 100, 1))} pp"


def against(value: Decimal | None, before: Decimal | None) -> str:
    """How much more or less than before, in percent; nothing to say where before was nothing."""
    if value is None or before is None or before <= 0:
        return NOTHING
    changed = (value - before) / before
    # More than a thousandfold says nothing: what was before was next to nothing.
    return _signed(percent(changed)) if changed < 1000 else NOTHING


def _signed(shown: str) -> str:
    return shown if shown.startswith(("-", "0.0")) else f"+{shown}"


def pickup_rows(reading: Reading) -> list[tuple[str, str, str, str]]:
    """What was booked in the period: label, now, before, and the difference in percent."""
    pickup = reading.detail.pickup
    if pickup is None:
        return []

    def row(label: str, field: str, write: Callable[[Decimal], str]) -> tuple[str, str, str, str]:
        now, before = (number(getattr(one, field)) for one in (pickup.period, pickup.previous))
        shown = [NOTHING if value is None else write(value) for value in (now, before)]
        return label, shown[0], shown[1], against(now, before)

    revenue = f"Revenue, {reading.currency}" if reading.currency else "Revenue"
    return [
        row("Bookings", "reservations", count),
        row("Nights", "nights", count),
        row(revenue, "revenue", lambda value: amount(value, reading.currency)),
    ]


def change_row(change: Change, currency: str) -> tuple[str, str, str, str]:
    """A figure that changed: label, before, after, and the difference in percent, or in points for what is percent."""
    label, unit = _named(change.figure)
    before, after = number(change.before), number(change.after)
    difference = points(after, before) if unit == "fraction" else against(after, before)
    return label, written(before, unit, currency), written(after, unit, currency), difference


def _named(figure: str) -> tuple[str, Unit]:
    """What a figure that changed is called, by where it stands: `days.2026-10-03.arrivals`."""
    where, _, rest = figure.partition(".")
    if where == "other_revenue_by_category":
        return f"{clean(rest)}, Other revenue", "money"
    about, _, name = figure.rpartition(".")
    about = clean(about.partition(".")[2])
    meaning = FIGURES.get(name)
    label = meaning.label if meaning else clean(name.capitalize() if about else name)
    unit: Unit = meaning.unit if meaning else "money" if name.endswith("revenue") else "count"
    return (f"{about}, {label}" if about else label), unit


def parts(shares: Iterable[Share] | None) -> list[Part]:
    """The parts of a breakdown by revenue, the biggest first; in a last one those past `OTHERS_FROM`, and those that
    have no name."""
    rows = [
        (_part_label(one), number(one.nights) or Decimal(0), number(one.revenue) or Decimal(0)) for one in shares or ()
    ]
    named = sorted((row for row in rows if row[0]), key=lambda row: (-row[2], -row[1], row[0]))
    others = [row for row in rows if not row[0]]
    if len(named) + bool(others) > OTHERS_FROM:
        others += named[OTHERS_FROM - 1 :]
        del named[OTHERS_FROM - 1 :]
    rows = named
    if others:
        zero = Decimal(0)
        rows.append(("others", sum((row[1] for row in others), zero), sum((row[2] for row in others), zero)))
    # Where a part is below nothing, shares of the whole mislead.
    whole = sum((row[2] for row in rows), Decimal(0)) if all(row[2] >= 0 for row in rows) else Decimal(0)
    return [Part(*row, of_all=row[2] / whole if whole else None) for row in rows]


def _part_label(share: Share) -> str:
    labels = (clean(one) for one in (share.origin, share.channel, share.room_type))
    return " / ".join(one for one in labels if one)


def categories(reading: Reading) -> list[tuple[str, Decimal | None]]:
    """Other revenue by category, the biggest first."""
    rows = [(clean(name), number(value)) for name, value in (reading.detail.other_revenue_by_category or {}).items()]
    return sorted(rows, key=lambda row: (-(row[1] or 0), row[0]))


def occupancy(day: DayFigures) -> Decimal | None:
    """The fraction of a day's available rooms that was sold; None where no room was there."""
    sold, available = number(day.sold_room_nights), number(day.available_room_nights)
    return sold / available if sold is not None and available else None


def weekday(day: date) -> str:
    """Mon to Sun, in English wherever the hub runs."""
    return ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[day.weekday()]
