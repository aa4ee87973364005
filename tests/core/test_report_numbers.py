"""How figures, differences and parts of a whole are written."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pytest

from hub.core.report_numbers import against, amount, change_row, number, parts, points
from schemas.report import Change, Share


@pytest.mark.parametrize(
    ("value", "currency", "expected"),
    [
        ("1234567.5", "JPY", "1,234,568"),
        ("0.5", "JPY", "1"),
        ("-0.4", "JPY", "0"),
        ("1234567.5", "EUR", "1,234,567.50"),
        ("-1234.005", "EUR", "-1,234.01"),
        ("1.5", "KWD", "1.500"),
        ("12", "", "12"),
        ("12.5", "", "12.50"),
    ],
)
def test_amounts_have_the_decimals_of_their_currency(value: str, currency: str, expected: str) -> None:
    """Yen have none, dinars three, rounded half away from zero."""
    assert amount(Decimal(value), currency) == expected


@pytest.mark.parametrize("value", [True, None, "1", float("nan"), float("inf"), 10**18, [], 1e300])
def test_what_is_no_number_is_none(value: Any) -> None:
    """A flag is no figure, neither is what no hotel could count."""
    assert number(value) is None


@pytest.mark.parametrize(
    ("after", "before", "expected"),
    [(110, 100, "+10.0%"), (90, 100, "-10.0%"), (100, 100, "0.0%"), (5, 0, "–"), (None, 5, "–"), (10**9, 1, "–")],
)
def test_differences_have_a_sign(after: Any, before: Any, expected: str) -> None:
    """And are not said against nothing."""
    assert against(number(after), number(before)) == expected


def test_fractions_differ_by_points() -> None:
    """From 50 to 55 percent is five points, not ten percent."""
    assert points(Decimal("0.55"), Decimal("0.5")) == "+5.0 pp"
    assert points(Decimal("0.45"), Decimal("0.5")) == "-5.0 pp"


def shares(*revenues: int) -> Iterator[Share]:
    """One a revenue."""
    return (Share(room_type=f"r{at}", nights=at, revenue=Decimal(one)) for at, one in enumerate(revenues))


def test_small_parts_are_shown_together() -> None:
    """Twelve rows at most, the biggest first, and nothing of the whole is lost."""
    rows = parts(shares(*range(1, 31)))
    assert len(rows) == 12
    assert (rows[0].label, rows[-1].label) == ("r29", "others")
    assert sum(row.revenue for row in rows) == sum(range(1, 31))
    assert sum(row.of_all or 0 for row in rows) == pytest.approx(1)
    assert [row.label for row in parts(shares(*range(12)))] == [f"r{at}" for at in reversed(range(12))]


def test_parts_without_a_name_are_others() -> None:
    """They stand last, whatever they bring, together with what is too small to be shown."""
    unnamed = Share(nights=100, revenue=Decimal(1000))
    assert [row.label for row in parts([unnamed, *shares(1, 2)])] == ["r1", "r0", "others"]
    rows = parts([unnamed, *shares(*range(1, 13))])
    assert len(rows) == 12
    assert (rows[-1].label, int(rows[-1].revenue), int(rows[-1].nights)) == ("others", 1001, 100)


@pytest.mark.parametrize(
    ("figure", "label", "after"),
    [
        ("total_revenue", "Total revenue", "JPY 1,234"),
        ("days.2026-10-03.total_revenue", "2026-10-03, Total revenue", "JPY 1,234"),
        ("days.2026-10-03.arrivals", "2026-10-03, Arrivals", "1,234"),
        ("by_origin.ota/booking.com.revenue", "ota/booking.com, Revenue", "JPY 1,234"),
        ("by_room_type.suite.nights", "suite, Nights", "1,234"),
        ("other_revenue_by_category.food.hot", "food.hot, Other revenue", "JPY 1,234"),
        ("score", "score", "1,234"),
        ("", "", "1,234"),
    ],
)
def test_a_figure_that_changed_is_named_by_its_place(figure: str, label: str, after: str) -> None:
    """With the day or the part it is about, and written as what it is."""
    change = Change(figure=figure, before=None, after=Decimal(1234))
    assert change_row(change, "JPY") == (label, "–", after, "–")


def test_shares_are_not_said_where_a_part_is_below_nothing() -> None:
    """Of 100 and -50, the first is not 200 percent of anything."""
    assert [row.of_all for row in parts(shares(100, -50))] == [None, None]
