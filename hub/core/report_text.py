"""A report as text for a terminal: figures in columns, and small charts of block characters.

Columns are counted as terminals do: East Asian wide characters take two, combining ones none. Characters of ambiguous
width, the blocks among them, take one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, Final, NamedTuple

from hub.core.report_numbers import (
    NOTHING,
    STAGES,
    Part,
    Reading,
    amount,
    categories,
    change_row,
    count,
    number,
    occupancy,
    parts,
    percent,
    pickup_rows,
    read,
    weekday,
    written,
)
from schemas.report import DayFigures, Share

NARROWEST: Final = 40
_TWO_COLUMNS_FROM: Final = 72
_GAP: Final = 2
_WEEK: Final = 7
_CHANGES: Final = 20
"""So many are listed on a terminal."""
_COLUMNS: Final = "▁▂▃▄▅▆▇█"
_BARS: Final = ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")
_SHORTEST_BAR: Final = 6
_STYLES: Final = {
    "title": "1",
    "heading": "1;36",
    "faint": "2",
    "chart": "36",
    "provisional": "1;33",
    "final": "1;32",
    "revised": "1;35",
    "more": "32",
    "less": "31",
}


class Span(NamedTuple):
    """A piece of a line, and its style: one of `_STYLES`, or none."""

    text: str
    style: str = ""


Line = Sequence[Span]


def as_text(data: Mapping[str, Any], *, width: int = 80, colour: bool = False) -> str:
    """A report for people on a terminal, ending with a line feed.

    `data` is that of an analytics event, whoever generated it: a detail of another shape leaves its top-level figures.
    No line is wider than `width` columns, which are at least `NARROWEST`. With `colour`, ANSI sequences are the only
    control characters in it; without, line feeds are.
    """
    width = max(width, NARROWEST)
    reading = read(data)
    sections = (
        [*_heading(reading, width), *_figures(reading, width)],
        _titled("Other revenue by category", _category_lines(reading, width)),
        _titled("By day", _day_lines(reading, width)),
        _titled("By origin and channel", _part_lines(reading.detail.by_origin, reading.currency, width)),
        _titled("By room type", _part_lines(reading.detail.by_room_type, reading.currency, width)),
        _titled("Booked in the period", _pickup_lines(reading, width)),
        _titled("Changed since the last report", _change_lines(reading, width)),
        _titled("Notes", _note_lines(reading, width)),
    )
    shown = [[_painted(line, width, colour) for line in section] for section in sections]
    return "\n\n".join("\n".join(lines) for lines in shown if lines) + "\n"


def columns_of(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.east_asian_width(character) in "WF":
        return 2
    return 0 if unicodedata.category(character) in ("Mn", "Me", "Cf") else 1


def cut(text: str, width: int) -> str:
    """A text of at most so many columns, its end replaced by … where it is longer."""
    # Marks that take no column are bounded too, or one cell could hold any number of them.
    if len(text) <= 4 * width and columns_of(text) <= width:
        return text
    kept, taken = [], 1
    for character in text[: 4 * width - 1]:
        taken += _columns(character)
        if taken > width:
            break
        kept.append(character)
    return "".join(kept) + "…" if width > 0 else ""


def _left(text: str, width: int) -> str:
    text = cut(text, width)
    return text + " " * (width - columns_of(text))


def _right(text: str, width: int) -> str:
    text = cut(text, width)
    return " " * (width - columns_of(text)) + text


def _painted(line: Line, width: int, colour: bool) -> str:
    """A line as it is written; what would not fit is cut."""
    spans = [span for span in line if span.text]
    if sum(columns_of(span.text) for span in spans) > width:
        spans, left = [], width
        for span in line:
            text = cut(span.text, left)
            spans.append(Span(text, span.style))
            left -= columns_of(text)
            if text != span.text:
                break
    if not colour:
        return "".join(span.text for span in spans).rstrip()
    return "".join(f"\x1b[{_STYLES[span.style]}m{span.text}\x1b[0m" if span.style else span.text for span in spans)


def _titled(title: str, lines: Iterable[Line]) -> list[Line]:
    body = list(lines)
    return [[Span(title, "heading")], *body] if body else []


def _heading(reading: Reading, width: int) -> Iterator[Line]:
    words = STAGES[reading.stage] if reading.stage else None
    stage = f"{words.japanese} {words.english}" if words else ""
    days = f" ({reading.days} days)" if reading.days and reading.days > 1 else ""
    title = f"{reading.kind}  {reading.period}"
    room = width - columns_of(stage) - _GAP * bool(stage)
    if columns_of(title + days) <= room:
        title += days
    if columns_of(title) <= room:
        yield [Span(_left(title, width - columns_of(stage)), "title"), Span(stage, reading.stage or "")]
    else:
        yield [Span(title, "title")]
        yield [Span(stage, reading.stage or "")]
    if words:
        yield from ([Span(line, "faint")] for line in _wrapped(words.meaning, width))
    if reading.made:
        yield from ([Span(line, "faint")] for line in _wrapped(f"Generated by {reading.made}", width))
    yield [Span("─" * width, "faint")]


def _figures(reading: Reading, width: int) -> Iterator[Line]:
    money, rest = reading.group("money"), [*reading.group("rooms"), *reading.group("guests")]
    half = (width - 2 * _GAP) // 2
    if width < _TWO_COLUMNS_FROM or any(columns_of(a) + columns_of(b) + _GAP > half for a, b in (*money, *rest)):
        for label, value in (*money, *rest):
            yield [_pair(label, value, min(width, half if width >= _TWO_COLUMNS_FROM else width))]
        return
    # What is left of the shorter column goes on below the money.
    spill = max(0, (len(rest) - len(money)) // 2)
    left, right = [*money, *rest[len(rest) - spill :]], rest[: len(rest) - spill]
    for row in range(max(len(left), len(right))):
        cells = [_pair(*side[row], half) if row < len(side) else Span(" " * half) for side in (left, right)]
        yield [cells[0], Span(" " * 2 * _GAP), cells[1]]


def _pair(label: str, value: str, width: int) -> Span:
    """A label and a number at either end of so many columns; the number is never cut for the label's sake."""
    room = max(0, width - columns_of(value) - 1)
    return Span(_left(label, room) + " " + _right(value, width - room - 1))


def _category_lines(reading: Reading, width: int) -> Iterator[Line]:
    rows = [(label, written(value, "money", reading.currency)) for label, value in categories(reading)]
    yield from _table(rows, width)


def _table(
    rows: Sequence[Sequence[str]], width: int, heads: Sequence[str] = (), *, more_is_better: bool = False
) -> Iterator[Line]:
    """Rows of a label and numbers: the label gives way where the width does not do for all."""
    everything = [*([heads] if heads else []), *rows]
    if not rows:
        return
    sizes = [max(columns_of(row[cell]) for row in everything) for cell in range(len(everything[0]))]
    room = width - sum(size + _GAP for size in sizes[1:])
    sizes[0] = max(min(sizes[0], room), 1)
    for at, row in enumerate(everything):
        faint = "faint" if heads and at == 0 else ""
        spans = [Span(_left(row[0], sizes[0]), faint)]
        for text, size in zip(row[1:], sizes[1:], strict=True):
            spans.append(Span(" " * _GAP + _right(text, size), faint or (_direction(text) if more_is_better else "")))
        yield spans


def _direction(text: str) -> str:
    if not text.endswith("%"):
        return ""
    return {"+": "more", "-": "less"}.get(text[:1], "")


def _day_lines(reading: Reading, width: int) -> Iterator[Line]:
    days = reading.by_day
    if len(days) < 2:
        return
    money = partial(amount, currency=reading.currency)
    revenue = _Series("Revenue", [number(day.total_revenue) for day in days], None, money)
    rates = _Series("Occupancy", [occupancy(day) for day in days], Decimal(1), percent)
    label_width = columns_of(rates.label) + _GAP
    room = width - label_width
    shown = [one for one in (revenue, rates) if one.known]
    beside = room - _GAP - max((columns_of(one.extent) for one in shown), default=0)
    room = beside if beside >= len(days) else room
    for one in shown:
        spans = [Span(_left(one.label, label_width)), Span(sparkline(one.values, room, one.top), "chart")]
        if room == beside:
            yield [*spans, Span(" " * _GAP + one.extent, "faint")]
        else:
            yield spans
            yield [Span(" " * label_width), Span(one.extent, "faint")]
    drawn = columns_of(sparkline(revenue.values, room, None))
    first, last = _short(days[0]), _short(days[-1])
    between = drawn - columns_of(first) - columns_of(last)
    yield [Span(" " * label_width), Span(first + (" " * between if between > 0 else " – ") + last, "faint")]


class _Series(NamedTuple):
    label: str
    values: Sequence[Decimal | None]
    top: Decimal | None
    shown: Callable[[Decimal], str]

    @property
    def known(self) -> Sequence[Decimal]:
        return [value for value in self.values if value is not None]

    @property
    def extent(self) -> str:
        return f"{self.shown(min(self.known))} – {self.shown(max(self.known))}"


def _short(day: DayFigures) -> str:
    return f"{weekday(day.date)} {day.date.month:02}-{day.date.day:02}"


def sparkline(values: Sequence[Decimal | None], room: int, top: Decimal | None) -> str:
    """Values as columns of block characters, from 0 (or the lowest below it) to `top` or the highest; a dot where there
    is none. Few take more than one character each; more than `room` are shown by the means of neighbours."""
    if len(values) > room:
        values = [_mean(values[at * len(values) // room : (at + 1) * len(values) // room]) for at in range(room)]
    each = 4 if len(values) <= _WEEK and 4 * len(values) <= room else 2 if 2 * len(values) <= room else 1
    known = [value for value in values if value is not None]
    low = min([Decimal(0), *known])
    high = max([top or Decimal(0), *known])
    drawn = []
    for value in values:
        if value is None:
            block = "·"
        else:
            reached = (value - low) / (high - low) if high > low else Decimal(0)
            block = _COLUMNS[min(len(_COLUMNS) - 1, int(reached * len(_COLUMNS)))]
        # Wide ones are set apart, or two equal days would look like one.
        drawn.append(block * (each - 1) + " " if each > 2 else block * each)
    return "".join(drawn).rstrip()


def _mean(values: Sequence[Decimal | None]) -> Decimal | None:
    known = [value for value in values if value is not None]
    return sum(known, Decimal(0)) / len(known) if known else None


def _part_lines(shares: Iterable[Share] | None, currency: str, width: int) -> Iterator[Line]:
    rows = parts(shares)
    if not rows:
        return
    numbers = [_part_numbers(row, currency) for row in rows]
    heads = ("nights", "revenue", "share")
    sizes = [max(len(head), *(len(row[cell]) for row in numbers)) for cell, head in enumerate(heads)]
    taken = sum(size + _GAP for size in sizes)
    if width - taken < _SHORTEST_BAR + _GAP + 8:
        yield from _table([(row.label, *cells) for row, cells in zip(rows, numbers, strict=True)], width, ("", *heads))
        return
    label = min(max(columns_of(row.label) for row in rows), (width - taken) // 2)
    bar = width - taken - label - _GAP
    longest = max(row.revenue for row in rows)
    yield [
        Span(
            " " * (label + _GAP + bar) + "".join(" " * _GAP + _right(*one) for one in zip(heads, sizes, strict=True)),
            "faint",
        )
    ]
    for row, cells in zip(rows, numbers, strict=True):
        length = row.revenue / longest if longest > 0 else Decimal(0)
        yield [
            Span(_left(row.label, label) + " " * _GAP),
            Span(_left(bar_of(length, bar), bar), "chart"),
            Span("".join(" " * _GAP + _right(*one) for one in zip(cells, sizes, strict=True))),
        ]


def bar_of(length: Decimal, room: int) -> str:
    """A bar that takes so much of the room, to an eighth of a column; a little shows, nothing does not."""
    eighths = int(max(Decimal(0), length) * room * 8)
    if eighths == 0 and length > 0:
        eighths = 1
    return "█" * (eighths // 8) + _BARS[eighths % 8]


def _part_numbers(part: Part, currency: str) -> tuple[str, str, str]:
    share = NOTHING if part.of_all is None else percent(part.of_all)
    return count(part.nights), amount(part.revenue, currency), share


def _pickup_lines(reading: Reading, width: int) -> Iterator[Line]:
    yield from _table(pickup_rows(reading), width, ("", "now", "before", "change"), more_is_better=True)


def _change_lines(reading: Reading, width: int) -> Iterator[Line]:
    changes = reading.detail.changes or []
    rows = [change_row(change, reading.currency) for change in changes[:_CHANGES]]
    yield from _table([(label, f"{before} → {after}", change) for label, before, after, change in rows], width)
    if len(changes) > _CHANGES:
        yield [Span(f"and {len(changes) - _CHANGES} more", "faint")]


def _note_lines(reading: Reading, width: int) -> Iterator[Line]:
    for remark in reading.remarks:
        for at, line in enumerate(_wrapped(remark, width - _GAP)):
            yield [Span("- " if at == 0 else "  "), Span(line)]


def _wrapped(text: str, width: int) -> Iterator[str]:
    """Lines of at most so many columns, broken between words, or within one that is longer than a line."""
    line = ""
    for word in text.split():
        if line and columns_of(line) + 1 + columns_of(word) <= width:
            line += f" {word}"
            continue
        if line:
            yield line
        line = ""
        for character in word:
            if columns_of(line) + _columns(character) > width:
                yield line
                line = ""
            line += character
    if line:
        yield line
