"""Rows as bookings: what is read from them, and what is refused."""

from __future__ import annotations

from datetime import date

import pytest
from booking_house import PROPERTIES, plan, row

from hub.core.booking_rows import COLUMNS, EXTRA, Refusal, read_booking, row_digest


@pytest.mark.parametrize(
    ("segment", "channel", "lead", "expected"),
    [
        ("Online TA", "TA/TO", 3, ("ota", "ta_to")),
        ("Online TA", "GDS", 3, ("gds", "gds")),
        ("Offline TA/TO", "TA/TO", 3, ("travel_agent", "ta_to")),
        ("Groups", "Direct", 3, ("group", "direct")),
        ("Aviation", "Corporate", 3, ("corporate", "corporate")),
        ("Complementary", "TA/TO", 3, ("travel_agent", "ta_to")),
        ("Complementary", "Direct", 3, ("direct_web", "direct")),
        ("Direct", "Direct", 3, ("direct_web", "direct")),
        ("Direct", "Direct", 0, ("walk_in", "direct")),
        ("Undefined", "Undefined", 3, ("import", None)),
    ],
)
def test_segment_and_channel_become_an_origin(
    segment: str, channel: str, lead: int, expected: tuple[str, str | None]
) -> None:
    """The file's words for where a booking came from become the hub's."""
    event = next(plan(row(market_segment=segment, distribution_channel=channel, lead=lead)).events())

    assert (event.draft["data"]["origin"], event.draft["data"].get("channel")) == expected


def test_unknown_children_are_left_out() -> None:
    """`NA` children are neither none nor some."""
    unknown = plan(row(children="NA"))

    assert "children" not in next(unknown.events()).draft["data"]
    assert unknown.survey.suspicious["children_unknown"].count == 1


def test_an_outlier_is_kept_and_reported() -> None:
    """A rate of 5,400 a night is somebody's suite or a slip: it is published, and named."""
    outlier = plan(row(adr="5400"), row(adr="999.99"))

    assert len(outlier) == 16
    assert outlier.survey.suspicious["rate_outlier"].lines == [2]


# What is refused


@pytest.mark.parametrize(
    ("changes", "column", "reason"),
    [
        ({"adr": "-6.38"}, "adr", "negative_rate"),
        ({"adr": "NaN"}, "adr", "not_a_rate"),
        ({"adr": "1e3"}, "adr", "not_a_rate"),
        ({"adr": "1.00001"}, "adr", "not_a_rate"),
        ({"adults": "0"}, "adults", "no_guests"),
        ({"adults": "0", "children": "NA"}, "adults", "no_guests"),
        ({"adults": "NULL"}, "adults", "missing_value"),
        ({"adults": "two"}, "adults", "not_a_count"),
        ({"adults": "٢"}, "adults", "not_a_count"),
        ({"lead_time": ""}, "lead_time", "missing_value"),
        ({"lead_time": "-1"}, "lead_time", "not_a_count"),
        ({"hotel": "Grand Hotel"}, "hotel", "unknown_hotel"),
        ({"arrival_date_month": "Juli"}, "arrival_date_month", "bad_date"),
        ({"arrival_date_day_of_month": "32"}, "arrival_date_day_of_month", "bad_date"),
        ({"arrival_date_year": "16"}, "arrival_date_year", "bad_date"),
        ({"reservation_status_date": "15/07/2016"}, "reservation_status_date", "bad_date"),
        ({"reservation_status_date": "2016-07-14"}, "reservation_status_date", "dates_contradict"),
        ({"reservation_status": "Checked"}, "reservation_status", "unknown_status"),
        ({"is_canceled": "1"}, "is_canceled", "status_contradicts"),
        ({"days_in_waiting_list": "11"}, "days_in_waiting_list", "dates_contradict"),
        ({"reserved_room_type": "A B"}, "reserved_room_type", "bad_room_type"),
        ({EXTRA: "surplus"}, COLUMNS[-1], "too_many_fields"),
    ],
)
def test_a_row_that_cannot_be_is_refused_by_line_and_column(changes: dict[str, str], column: str, reason: str) -> None:
    """A refused row makes no event and is named by line, column and reason."""
    refused = plan(row(), row() | changes, row())

    assert refused.survey.bookings == 2
    assert refused.survey.refused[reason].lines == [3]
    assert [(one.line, one.column, one.reason) for one in refused.survey.refusals] == [(3, column, reason)]
    assert f"line 3, {column}: " in "\n".join(refused.survey.lines())


def test_a_cancellation_before_the_booking_is_refused() -> None:
    """A booking cannot be cancelled before it was made."""
    found = row(status="Canceled", ended=date(2016, 7, 4))

    assert isinstance(read_booking(7, found, row_digest(found), 1, PROPERTIES), Refusal)


def test_a_short_row_is_refused() -> None:
    """A row that breaks off lacks the value of its first missing column."""
    short = row()
    del short["reservation_status_date"]

    assert plan(short).survey.refused["missing_value"].count == 1


def test_a_survey_counts_all_and_shows_few() -> None:
    """Of many refusals five lines are shown; the JSON and the text agree on the count."""
    survey = plan(*[row(adults="0")] * 8).survey

    assert survey.to_dict()["refused"] == {"no_guests": {"count": 8, "lines": [2, 3, 4, 5, 6]}}
    assert "refused no_guests: 8 (line 2, 3, 4, 5, 6, ...)" in survey.lines()
