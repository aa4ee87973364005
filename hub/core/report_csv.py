"""Reports as CSV for a spreadsheet: a row a report, and for one alone its days and breakdowns below.

Numbers are exact and bare: no thousands separators, no currency, a dot before decimals, rates as fractions of 1. A cell
that comes from a label and would be read as a formula gets an apostrophe before it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from hub.core.report_numbers import FIGURES, TOP_LEVEL, Reading, categories, clean, number, occupancy, read
from schemas.report import Booked, DayFigures, Pickup, Share

Cell = str | Decimal | None
Table = Sequence[Sequence[Cell]]

# Spreadsheets pass over blanks before it, and take the full-width forms for the same.
_FORMULA: Final = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")
_TEXTS: Final = ("report_type", "period_start", "period_end", "stage", "currency")
_ORIGIN: Final = ("generated_by_system", "generated_at")
_NUMBERS: Final = (*TOP_LEVEL, *(name for name in FIGURES if name not in TOP_LEVEL), "late_events")
_PICKUP: Final = tuple((when, field) for when in Pickup.model_fields for field in Booked.model_fields)
_DAY: Final = tuple(DayFigures.model_fields)

COLUMNS: Final = (*_TEXTS, *_NUMBERS, *(f"pickup_{when}_{field}" for when, field in _PICKUP), *_ORIGIN, "as_of")
"""The columns of the first table, the same for every report: what one does not have is left empty."""


def as_csv(reports: Sequence[Mapping[str, Any]]) -> str:
    """Reports in the order given: RFC 4180 with CRLF, a header and a row each.

    `reports` are the data of analytics events, whoever generated them. Where there is exactly one, its days, other
    revenue, breakdowns, changes and notes follow, each a table of its own below an empty line. To be written as UTF-8
    without a byte order mark and without translating line ends: `text/csv; charset=utf-8`.
    """
    readings = [read(data) for data in reports]
    rows = [_row(data, reading) for data, reading in zip(reports, readings, strict=True)]
    tables: list[Table] = [[COLUMNS, *rows]]
    if len(readings) == 1:
        tables += [table for table in _detail_tables(readings[0]) if len(table) > 1]
    out = io.StringIO()
    writer = csv.writer(out)
    for at, table in enumerate(tables):
        if at:
            out.write("\r\n")
        writer.writerows([_cell(value) for value in row] for row in table)
    return out.getvalue()


def _row(data: Mapping[str, Any], reading: Reading) -> list[Cell]:
    detail = reading.detail
    texts = [detail.stage if name == "stage" else clean(data.get(name)) for name in _TEXTS]
    numbers = [number(detail.late_events) if name == "late_events" else reading.figures.get(name) for name in _NUMBERS]
    pickup = detail.pickup
    booked = [number(getattr(getattr(pickup, when), field)) if pickup else None for when, field in _PICKUP]
    return [*texts, *numbers, *booked, *(clean(data.get(name)) for name in _ORIGIN), clean(detail.as_of)]


def _detail_tables(reading: Reading) -> Iterator[Table]:
    detail = reading.detail
    yield [(*_DAY, "occupancy_rate"), *(_day_row(day) for day in reading.by_day)]
    yield [("category", "revenue"), *categories(reading)]
    yield [("origin", "channel", "nights", "revenue"), *_share_rows(detail.by_origin, "origin", "channel")]
    yield [("room_type", "nights", "revenue"), *_share_rows(detail.by_room_type, "room_type")]
    changes = ((clean(one.figure), number(one.before), number(one.after)) for one in detail.changes or ())
    yield [("figure", "before", "after"), *changes]
    yield [("note",), *((clean(note),) for note in detail.notes or ())]


def _day_row(day: DayFigures) -> list[Cell]:
    rate = occupancy(day)
    figures = [number(getattr(day, name)) for name in _DAY[1:]]
    return [day.date.isoformat(), *figures, None if rate is None else round(rate, 4)]


def _share_rows(shares: Sequence[Share] | None, *labels: str) -> Iterator[Sequence[Cell]]:
    for one in shares or ():
        yield [*(clean(getattr(one, label)) for label in labels), number(one.nights), number(one.revenue)]


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, Decimal):
        # Never with an exponent, and without zeros that say nothing.
        return format(value.normalize() + 0, "f")
    return safe(value)


def safe(label: str) -> str:
    """A label as no spreadsheet takes it for a formula."""
    return f"'{label}" if _FORMULA.match(label) else label
