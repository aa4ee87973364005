"""The days of a report as a plot for a page: bars of revenue above, the line of occupancy below, on one axis of days.

The marks are SVG that is stretched to the room there is; what is read stands beside them as text of the page, so that
it keeps its size on a telephone and on paper.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from html import escape
from typing import Final, NamedTuple

from hub.core.report_numbers import NOTHING, Reading, amount, count, number, occupancy, percent, weekday, written
from schemas.report import DayFigures

_STEPS: Final = (Decimal(1), Decimal(2), Decimal("2.5"), Decimal(5), Decimal(10))
_LABELS_AT_MOST: Final = 8
_BAR: Final = 0.72
"""How much of its day a bar takes."""


def plot(reading: Reading, key: str) -> str:
    """The plot as HTML, and the same as a table; nothing for fewer than two days. `key` is the prefix of ids."""
    days = reading.by_day
    if len(days) < 2:
        return ""
    said = [_said(day, reading) for day in days]
    span = f"{days[0].date} to {days[-1].date}"
    revenue = [number(day.total_revenue) for day in days]
    money = ticks(*ends(revenue))
    bars = _Panel(
        title="Revenue by day",
        described=_described("Revenue", revenue, span, partial(written, unit="money", currency=reading.currency)),
        marks=_bars(revenue, money[0], money[-1]),
        scale=[(_share(tick, money[0], money[-1]), short(tick)) for tick in money],
        zero=_share(Decimal(0), money[0], money[-1]),
    )
    rates = [occupancy(day) for day in days]
    # More may be sold than is there.
    top = max(Decimal(1), ends(rates)[1])
    line = _Panel(
        title="Occupancy by day",
        described=_described("Occupancy", rates, span, percent),
        marks=_line(rates, top),
        scale=[(half / 2, f"{count(top * 50 * half)}%") for half in range(3)],
        zero=0.0,
    )
    unit = f", {escape(reading.currency)}" if reading.currency else ""
    below = ""
    if any(rate is not None for rate in rates):
        below = f'<p class="series low">Occupancy</p>{_drawn(line, f"{key}-occupancy", "low", said)}'
    return (
        f'<figure class="plot"><p class="series tall">Revenue{unit}</p>{_drawn(bars, f"{key}-revenue", "tall", said)}'
        f"{below}{_axis(days)}{_table(days, reading)}</figure>"
    )


class _Panel(NamedTuple):
    """`scale`: how high, of 1, each of its labels stands; `zero`: how high nothing is."""

    title: str
    described: str
    marks: str
    scale: Sequence[tuple[float, str]]
    zero: float


def ends(values: Sequence[Decimal | None]) -> tuple[Decimal, Decimal]:
    """The lowest and the highest of the values, 0 among them."""
    known = [value for value in values if value is not None]
    return min([Decimal(0), *known]), max([Decimal(0), *known])


def ticks(low: Decimal, high: Decimal) -> list[Decimal]:
    """Round numbers at even distances, four or so, over both ends; `low` is at most 0, `high` at least."""
    rough = (high - low) / 4 or Decimal("0.25")
    unit = Decimal(1).scaleb(rough.adjusted())
    step = next(unit * one for one in _STEPS if unit * one >= rough)
    first, last = (low / step).to_integral_value("ROUND_FLOOR"), (high / step).to_integral_value("ROUND_CEILING")
    return [step * at for at in range(int(first), int(max(last, first + 1)) + 1)]


def short(value: Decimal) -> str:
    """A round number in few characters: 1.2M."""
    for size, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if abs(value) >= Decimal(1).scaleb(size):
            return f"{_bare(value.scaleb(-size))}{letter}"
    return _bare(value)


def _bare(value: Decimal) -> str:
    return format(value.normalize() + 0, "f")


def _share(value: Decimal, low: Decimal, high: Decimal) -> float:
    return float((value - low) / (high - low)) if high > low else 0.0


def _said(day: DayFigures, reading: Reading) -> str:
    rate = occupancy(day)
    revenue = written(number(day.total_revenue), "money", reading.currency)
    return f"{weekday(day.date)} {day.date}: {revenue}, {NOTHING if rate is None else percent(rate)} occupied"


def _described(what: str, values: Sequence[Decimal | None], span: str, write: Callable[[Decimal], str]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return f"{what} from {span}: not known"
    return f"{what} from {span}: from {write(min(known))} to {write(max(known))}. The table below has every day."


def _drawn(panel: _Panel, key: str, size: str, said: Sequence[str]) -> str:
    """Scale and drawing, a hundred units either way; in front, a column a day that says what the day had."""
    labels = "".join(f'<span style="bottom:{100 * at:.2f}%">{escape(text)}</span>' for at, text in panel.scale)
    lines = "".join(
        f'<line class="{"zero" if at == panel.zero else "grid"}" x2="100" y1="{100 - 100 * at:.2f}" '
        f'y2="{100 - 100 * at:.2f}"/>'
        for at, _ in panel.scale
    )
    width = 100 / len(said)
    hovers = "".join(
        f'<rect class="day" x="{at * width:.3f}" width="{width:.3f}" height="100"><title>{escape(text)}</title></rect>'
        for at, text in enumerate(said)
    )
    return (
        f'<div class="panel {size}"><div class="scale" aria-hidden="true">{labels}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-labelledby="{key}-title {key}-desc">'
        f'<title id="{key}-title">{panel.title}</title><desc id="{key}-desc">{escape(panel.described)}</desc>'
        f"{lines}{panel.marks}{hovers}</svg></div>"
    )


def _bars(values: Sequence[Decimal | None], low: Decimal, high: Decimal) -> str:
    width = 100 / len(values)
    zero = 100 - 100 * _share(Decimal(0), low, high)
    drawn = []
    for at, value in enumerate(values):
        if value is None:
            continue
        end = 100 - 100 * _share(value, low, high)
        x = (at + (1 - _BAR) / 2) * width
        drawn.append(
            f'<rect class="bar" x="{x:.3f}" y="{min(end, zero):.2f}" width="{_BAR * width:.3f}" '
            f'height="{abs(end - zero):.2f}"/>'
        )
    return "".join(drawn)


def _line(values: Sequence[Decimal | None], top: Decimal) -> str:
    """A line through the days that have a value, broken where one has none, and a dot on each."""
    width = 100 / len(values)
    points = [
        None if value is None else f"{(at + 0.5) * width:.3f} {100 - 100 * _share(value, Decimal(0), top):.2f}"
        for at, value in enumerate(values)
    ]
    path = "".join(
        f"{'L' if at and points[at - 1] else 'M'}{point}" for at, point in enumerate(points) if point is not None
    )
    # A stroke of no length with round ends: the only dot that stays round where the drawing is stretched.
    dots = "".join(f"M{point}h0" for point in points if point is not None)
    return f'<path class="line" d="{path}"/><path class="dots" d="{dots}"/>' if path else ""


def _axis(days: Sequence[DayFigures]) -> str:
    every = -(-len(days) // _LABELS_AT_MOST)
    if len(days) > _LABELS_AT_MOST:
        # By weeks where it can be, so that the same day of the week is named throughout.
        every = -(-every // 7) * 7
    shown = "".join(
        f'<span style="left:{100 * (at + 0.5) / len(days):.2f}%"><b>{weekday(day.date)}</b> {day.date:%m-%d}</span>'
        for at, day in enumerate(days)
        if at % every == 0
    )
    return f'<div class="axis" aria-hidden="true">{shown}</div>'


_HEADS: Final = ("Day", "Revenue", "of rooms", "Sold", "Available", "Occupancy", "Arrivals", "Departures")


def _table(days: Sequence[DayFigures], reading: Reading) -> str:
    heads = "".join(f'<th scope="col">{head}</th>' for head in _HEADS)
    return (
        f'<details><summary>Every day as a table</summary><div class="wide"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(_row(day, reading) for day in days)}</tbody></table></div></details>"
    )


def _row(day: DayFigures, reading: Reading) -> str:
    money = partial(amount, currency=reading.currency)
    cells: tuple[tuple[Decimal | None, Callable[[Decimal], str]], ...] = (
        (number(day.total_revenue), money),
        (number(day.room_revenue), money),
        (number(day.sold_room_nights), count),
        (number(day.available_room_nights), count),
        (occupancy(day), percent),
        (number(day.arrivals), count),
        (number(day.departures), count),
    )
    shown = "".join(f"<td>{NOTHING if value is None else write(value)}</td>" for value, write in cells)
    return f'<tr><th scope="row"><b>{weekday(day.date)}</b> {day.date}</th>{shown}</tr>'
