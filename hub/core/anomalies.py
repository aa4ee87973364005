"""What is out of the ordinary in a property's week (R81): each figure against the weeks before it.

The usual is the median of up to eight weeks. What a figure may be off by is measured by the median of the weeks' own
distances from it (MAD), which a single odd week does not move, and is never less than a floor: a quiet property's
figures hardly vary, and one event more is no news. Without four weeks to compare with, nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal, NamedTuple

WEEKS: Final = 8
LEAST_WEEKS: Final = 4
LIMIT: Final = 3.5
"""So many (robust) standard deviations off is out of the ordinary."""
NORMAL: Final = 1.4826
"""Of figures that are normally distributed, the standard deviation in times of the MAD."""

Kind = Literal["count", "money", "share", "seconds"]


class Floor(NamedTuple):
    """The least that a figure is held to vary by: a part of the usual, and an amount."""

    part: float
    amount: float


FLOORS: Final[Mapping[Kind, Floor]] = {
    # Beside the noise that any count has, its square root.
    "count": Floor(0.1, 5.0),
    "money": Floor(0.1, 0.0),
    "share": Floor(0.0, 0.04),
    "seconds": Floor(0.25, 30.0),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of one week. `value` is None where there is nothing to say of it."""

    kind: Kind
    value: float | None


Statistics = Mapping[str, Figure]
"""A week's figures by name."""


@dataclass(frozen=True, slots=True)
class Anomaly:
    """A figure that is out of the ordinary: the usual range is from `low` to `high`, out of `weeks` weeks."""

    figure: str
    kind: Kind
    value: float
    usual: float
    low: float
    high: float
    score: float
    """How far off, in robust standard deviations; negative where it is too little."""
    weeks: int
    words: str


def anomalies(week: Statistics, before: Sequence[Statistics]) -> list[Anomaly]:
    """What is out of the ordinary in a week, the furthest off first. `before`: the weeks before it, the last one last.

    A figure that a week does not have was zero if it is a count, and else unknown.
    """
    history = before[-WEEKS:]
    found = []
    for name in sorted({*week, *(name for one in history for name in one)}):
        kind = next(one[name].kind for one in (week, *history) if name in one)
        value = _value(week, name, kind)
        past = [held for one in history if (held := _value(one, name, kind)) is not None]
        if value is None or len(past) < LEAST_WEEKS:
            continue
        anomaly = _judged(name, kind, value, past)
        if anomaly is not None:
            found.append(anomaly)
    return sorted(found, key=lambda one: (-abs(one.score), one.figure))


def _value(week: Statistics, name: str, kind: Kind) -> float | None:
    held = week.get(name)
    if held is None:
        return 0.0 if kind == "count" else None
    return held.value


def _judged(name: str, kind: Kind, value: float, past: Sequence[float]) -> Anomaly | None:
    usual = median(past)
    spread = max(NORMAL * median(abs(one - usual) for one in past), _floor(kind, usual))
    # Where neither money nor its spread is known there is no measure: any money at all is news then.
    score = (
        (value - usual) / spread if spread else (0.0 if value == usual else LIMIT * 2 * (1 if value > usual else -1))
    )
    if abs(score) <= LIMIT or (kind == "seconds" and score < 0):
        return None
    low, high = usual - LIMIT * spread, usual + LIMIT * spread
    if kind in ("count", "seconds", "share"):
        low = max(0.0, low)
    if kind == "share":
        high = min(1.0, high)
    words = (
        f"{name} {_shown(kind, value)}, usually {_shown(kind, low)} to {_shown(kind, high)} "
        f"({'more' if score > 0 else 'less'} than in the last {len(past)} weeks)"
    )
    return Anomaly(name, kind, value, usual, low, high, round(score, 2), len(past), words)


def _floor(kind: Kind, usual: float) -> float:
    floor = FLOORS[kind]
    noise = abs(usual) ** 0.5 if kind == "count" else 0.0
    return max(floor.part * abs(usual), floor.amount, noise)


def _shown(kind: Kind, value: float) -> str:
    if kind == "share":
        return f"{value * 100:.1f} %"
    if kind == "seconds":
        return f"{value:,.1f} s" if value < 120 else f"{value / 60:,.0f} min"
    return f"{value:,.0f}"
