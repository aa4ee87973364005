"""A report's data: it fits the schema, its numbers are exact, and it says what changed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.calendar import Period
from hub.core.figures import NO_ROOMS, TOO_LARGE, Booked, DayLine, Figures, Part, report_data, same_figures
from schemas.registry import EVENT_TYPES, validate_data
from schemas.report import detail_of

START = date(2026, 7, 1)
MONTH = Period(START, date(2026, 7, 31))
NOW = datetime(2026, 8, 1, 5, tzinfo=UTC)


def day(number: int, **changes: Any) -> DayLine:
    """A day on which nine of ten rooms were sold for 900 and a half."""
    line = DayLine(START + timedelta(days=number), Decimal("900.5"), Decimal(10), 9, 10, 3, 2)
    return line._replace(**changes)


def a_month(**changes: Any) -> Figures:
    """A hotel of ten rooms."""
    figures = Figures(
        rooms=10,
        sold_room_nights=279,
        available_room_nights=310,
        out_of_order_room_nights=0,
        out_of_service_room_nights=1,
        day_uses=2,
        guests=150,
        room_revenue=Decimal("27915.5"),
        other_by_category={"food": Decimal(300), "discount": Decimal(10)},
        arrivals=93,
        departures=62,
        no_shows=1,
        cancellations=4,
        departed_nights=187,
        lead_days=930,
        by_origin=(
            Part("ota", "booking", None, 200, Decimal(20000)),
            Part("phone", None, None, 79, Decimal("7915.5")),
        ),
        by_room_type=(Part(None, None, "twin", 279, Decimal("27915.5")),),
        days=tuple(day(number) for number in range(31)),
        pickup=Booked(12, 30, Decimal(3000)),
        previous_pickup=Booked(10, 20, Decimal("2000.25")),
        other_currencies=(),
    )
    return replace(figures, **changes)


def data_of(figures: Figures, **changes: Any) -> dict[str, Any]:
    """Its monthly report, which must fit the schema and be as small as an event has to be."""
    given: dict[str, Any] = {"currency": "JPY", "stage": "final", "as_of": "cursor", "generated_at": NOW}
    data = report_data("monthly_report", MONTH, figures, **(given | changes))
    assert validate_data(EVENT_TYPES["analytics"], 1, data) == []
    detail_of(orjson.loads(orjson.dumps(data))["detailed_data"])
    assert len(orjson.dumps(data)) < 55_000
    return data


def test_what_a_monthly_report_says() -> None:
    """Totals, rates and averages of the figures, rounded as said, and a row a day."""
    data = data_of(a_month(), late_events=2)
    detail = data["detailed_data"]
    assert (data["total_revenue"], data["occupancy_rate"], data["customer_count"]) == (28225.5, 0.9, 150)
    assert data["average_stay_duration"] == 3.0161
    assert (data["period_start"], data["period_end"], data["generated_by_system"]) == (
        "2026-07-01",
        "2026-07-31",
        "hub",
    )
    assert (detail["adr"], detail["revpar"], detail["lead_time_days"]) == (100.0556, 90.05, 10.0)
    assert (detail["stage"], detail["as_of"], detail["late_events"], detail["notes"]) == ("final", "cursor", 2, [])
    assert detail["by_origin"][1] == {"origin": "phone", "channel": None, "nights": 79, "revenue": 7915.5}
    assert len(detail["days"]) == 31
    assert detail["days"][0]["total_revenue"] == 910.5
    assert detail["pickup"]["previous"] == {"reservations": 10, "nights": 20, "revenue": 2000.25}
    assert "changes" not in detail


def test_a_hotel_that_sold_nothing_has_no_averages() -> None:
    """Nothing is divided by nothing, and a hotel without rooms is told to say how many it has."""
    nothing = a_month(
        rooms=0, sold_room_nights=0, available_room_nights=0, room_revenue=Decimal(0), departures=0, arrivals=0,
        by_origin=(), by_room_type=(), other_by_category={}, other_currencies=("EUR", "USD"),
    )  # fmt: skip
    data = data_of(nothing)
    detail = data["detailed_data"]
    assert (data["occupancy_rate"], data["average_stay_duration"]) == (0.0, 0.0)
    assert (detail["adr"], detail["revpar"], detail["lead_time_days"]) == (None, None, None)
    assert detail["notes"] == [NO_ROOMS, "Amounts in other currencies are not counted: EUR, USD"]


def test_more_is_never_sold_than_there_is() -> None:
    """A house that says it has fewer rooms than it sold is full."""
    assert data_of(a_month(available_room_nights=100))["occupancy_rate"] == 1.0


def test_long_lists_are_cut_to_the_largest() -> None:
    """Of a hundred channels 59 are named, and one row has what the others sold."""
    many = tuple(Part("ota", f"c{number}", None, 1, Decimal(200 - number)) for number in range(100))
    rows = data_of(a_month(by_origin=many))["detailed_data"]["by_origin"]
    assert len(rows) == 60
    assert rows[-1] == {"nights": 41, "revenue": sum(200 - number for number in range(59, 100))}
    assert len(data_of(a_month(by_origin=many[:60]))["detailed_data"]["by_origin"]) == 60


def test_long_names_do_not_make_a_large_event() -> None:
    """Room types with the longest of names are cut to what an event can take; changes name them, too."""
    many = tuple(Part(None, None, "室" * 125 + f"{number:03}", 1, Decimal(1)) for number in range(60))
    data = data_of(a_month(by_room_type=many), previous=data_of(a_month(by_room_type=many, days=())))
    rows = data["detailed_data"]["by_room_type"]
    assert sum(row["nights"] for row in rows) == 60
    assert len(rows) < 40
    assert rows[-1].keys() == {"nights", "revenue"}
    fewer = tuple(part._replace(nights=2) for part in many)
    changes = data_of(a_month(by_room_type=fewer), previous=data)["detailed_data"]["changes"]
    assert len(changes) < 40


def test_amounts_of_any_size_fit_the_schema() -> None:
    """An amount too large for four decimals is rounded to those that there is room for."""
    for revenue in (Decimal("123456789012.3456"), Decimal(10**14), Decimal(10**20), Decimal("-99999999999.99995")):
        data_of(a_month(room_revenue=revenue, days=(day(0, room_revenue=revenue),)))
    assert data_of(a_month(room_revenue=Decimal("123456789012.3456"), days=()))["total_revenue"] == 123456789012.346


@given(st.integers(-(10**18), 10**18))
def test_every_amount_fits(units: int) -> None:
    """Whatever the sum, the report's number is money."""
    data_of(a_month(room_revenue=Decimal(units).scaleb(-4), days=(), by_origin=(), by_room_type=()))


def test_what_changed_since_the_last_report() -> None:
    """Each figure that differs, the totals first, by a name that says where it stands; what was picked up is none."""
    before = data_of(a_month(), stage="provisional")
    days = (day(0, room_revenue=Decimal(1000), sold=10), *a_month().days[1:])
    by_origin = (Part("ota", "booking", None, 201, Decimal("20099.5")), a_month().by_origin[1])
    after = a_month(
        days=days, by_origin=by_origin, room_revenue=Decimal(28015), sold_room_nights=280, pickup=Booked(),
        other_by_category={"food": Decimal(300)},
    )  # fmt: skip
    changes = data_of(after, previous=before)["detailed_data"]["changes"]
    said = {change["figure"]: (change["before"], change["after"]) for change in changes}
    assert list(said)[:2] == ["total_revenue", "occupancy_rate"]
    assert said["total_revenue"] == (28225.5, 28325)
    assert said["other_revenue_by_category.discount"] == (10, None)
    assert said["by_origin.ota/booking.nights"] == (200, 201)
    assert said["days.2026-07-01.sold_room_nights"] == (9, 10)
    assert not any(name.startswith("pickup") for name in said)
    assert data_of(a_month(), previous=before)["detailed_data"]["changes"] == []


def test_reports_that_say_the_same() -> None:
    """Stage, time, cursor, tracking fields and pickup are no figures; everything else is."""
    before = data_of(a_month(), stage="provisional")
    after = data_of(
        a_month(pickup=Booked()), as_of="later", generated_at=NOW + timedelta(days=1), late_events=3, previous=before
    )
    after |= {"origin_system": "hub", "updated_by_system": "hub", "synced_at": "2026-08-01T00:00:00Z"}
    assert same_figures(before, orjson.loads(orjson.dumps(after)))
    for changed in (
        a_month(guests=151),
        a_month(days=(day(0, arrivals=4), *a_month().days[1:])),
        a_month(by_room_type=(Part(None, None, "single", 279, Decimal("27915.5")),)),
        a_month(other_currencies=("USD",)),
    ):
        assert not same_figures(before, data_of(changed))
    assert not same_figures(before, data_of(a_month(), currency="EUR"))


@pytest.mark.parametrize("detail", [None, [], {"days": [1, None], "by_origin": {"a": []}, "adr": "much"}])
def test_a_previous_report_of_another_make(detail: Any) -> None:
    """What is no figure in another generator's report is no change and no reason to fail."""
    before = data_of(a_month()) | {"detailed_data": detail}
    assert not same_figures(before, data_of(a_month()))
    changes = data_of(a_month(), previous=before)["detailed_data"]["changes"]
    assert {"figure": "adr", "before": None, "after": 100.0556} in changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, False),
        ({"room_revenue": Decimal(10**15 - 1) - 620}, False),
        ({"room_revenue": Decimal(10**15)}, True),
        ({"room_revenue": Decimal(10**15 - 1)}, True),
        ({"other_by_category": {"food": Decimal(-(10**15))}}, True),
        ({"days": (day(0, other_revenue=Decimal(10**15)), day(1, other_revenue=-Decimal(10**15)))}, True),
        ({"pickup": Booked(1, 1, Decimal(10**15))}, True),
        ({"previous_pickup": Booked(1, 1, Decimal(10**15))}, True),
        ({"bounded": True}, True),
    ],
)
def test_amounts_too_large_to_be_said(changes: dict[str, Any], said: bool) -> None:
    """They stand at the largest that can be, and a note says so."""
    data = report_data(
        "monthly_report", MONTH, a_month(**changes), currency="JPY", stage="final", as_of="c", generated_at=NOW
    )
    assert (TOO_LARGE in data["detailed_data"]["notes"]) is said
    assert -(10**15) < data["total_revenue"] < 10**15
    assert validate_data(EVENT_TYPES["analytics"], 1, data) == []
