"""Bookings as events: what a booking becomes, and what holds for any file."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import date, timedelta
from zoneinfo import ZoneInfo

import pytest
from booking_house import PROPERTIES, ZONE, follow, plan, row
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.booking_rows import Property
from hub.core.bookings import plan_bookings


def told(*rows: dict[str, str]) -> list[tuple[str, str]]:
    """Each event of the rows by name, with the reservation's or the room's status it tells."""
    return [(event.name, event.draft["data"].get("status", "")) for event in plan(*rows).events()]


# What a row becomes


def test_a_stay_is_told_from_booking_to_clean_room() -> None:
    """A stay is a booking, an arrival, a departure and a cleaned room, on the file's days."""
    stay = plan(row(date(2016, 7, 15), lead=10, nights=2))

    events = list(stay.events())

    assert [(event.name, event.draft["data"].get("status", "")) for event in events] == [
        ("reservation.created", "confirmed"),
        ("checkin_checkout.checked_in", ""),
        ("reservation.checked_in", "checked_in"),
        ("room.status_changed", "occupied"),
        ("checkin_checkout.checked_out", ""),
        ("reservation.checked_out", "checked_out"),
        ("room.status_changed", "vacant_dirty"),
        ("room.status_changed", "vacant_clean"),
    ]
    days = [event.at.date().isoformat() for event in events]
    assert days == ["2016-07-05", *["2016-07-15"] * 3, *["2016-07-17"] * 4]
    follow(events).closed()


def test_a_booking_carries_dates_money_guests_and_origin() -> None:
    """The reservation holds the stay's plain dates, its exact total in euro, its guests and where it came from."""
    event = next(plan(row(nights=3, adr="100.35", children="1", babies="1")).events())

    assert event.tenant == "city-hotel"
    assert event.draft["occurred_at"].startswith("2016-07-05T")
    assert event.draft["occurred_at"].endswith("+01:00")
    data = event.draft["data"]
    assert data.pop("reservation_id").startswith("RSV-")
    assert data == {
        "room_type": "A",
        "checkin_date": "2016-07-15",
        "checkout_date": "2016-07-18",
        "total_amount": 301.05,
        "currency": "EUR",
        "status": "confirmed",
        "origin": "ota",
        "channel": "ta_to",
        "adults": 2,
        "children": 2,
    }


def test_a_cancellation_ends_the_booking() -> None:
    """A cancelled booking is made and cancelled, on the day of its status, and never gets a room."""
    cancelled = plan(row(status="Canceled", ended=date(2016, 7, 8)))

    events = list(cancelled.events())

    assert [event.name for event in events] == ["reservation.created", "reservation.cancelled"]
    assert events[1].at.date() == date(2016, 7, 8)
    assert "room_number" not in events[1].draft["data"]
    assert cancelled.survey.rooms == {}


def test_a_booking_can_be_made_and_cancelled_in_a_day() -> None:
    """Made and cancelled on one day, it is made first."""
    assert told(*[row(lead=0, status="Canceled")] * 30)[:1] == [("reservation.created", "confirmed")]
    follow(plan(*[row(lead=0, status="Canceled")] * 30).events())


def test_a_no_show_has_a_room_that_nobody_enters() -> None:
    """A guest who does not come is a no-show at night, and the reservation says so."""
    assert told(row(status="No-Show")) == [
        ("reservation.created", "confirmed"),
        ("checkin_checkout.no_show", ""),
        ("reservation.updated", "no_show"),
    ]


def test_a_no_show_dated_before_its_arrival_is_one_of_the_arrival_day() -> None:
    """The file's impossible no-show is kept, on the day it can have happened, and reported."""
    odd = plan(row(status="No-Show", ended=date(2016, 3, 28)))

    assert [event.at.date() for event in odd.events()][1] == date(2016, 7, 15)
    assert odd.survey.suspicious["no_show_misdated"].lines == [2]


def test_another_room_type_is_an_update_before_the_arrival() -> None:
    """A guest who is given another type of room is moved on the day of arrival, before arriving."""
    moved = list(plan(row(assigned_room_type="D")).events())

    assert [event.name for event in moved[:3]] == [
        "reservation.created",
        "reservation.updated",
        "checkin_checkout.checked_in",
    ]
    assert [event.draft["data"].get("room_type") for event in moved[:2]] == ["A", "D"]
    assert moved[1].draft["data"]["room_number"] == moved[2].draft["data"]["room_number"] == "D001"


def test_a_waiting_list_ends_with_a_confirmation() -> None:
    """A booking on the waiting list is confirmed after its days of waiting."""
    waited = list(plan(row(lead=10, days_in_waiting_list="4")).events())

    assert [(event.name, event.draft["data"]["status"]) for event in waited[:2]] == [
        ("reservation.created", "waitlisted"),
        ("reservation.confirmed", "confirmed"),
    ]
    assert waited[1].at.date() == date(2016, 7, 9)


def test_a_booking_cancelled_while_waiting_is_never_confirmed() -> None:
    """What was cancelled before its waiting ended stays on the waiting list until then, moved or not."""
    waiting = row(status="Canceled", ended=date(2016, 7, 8), days_in_waiting_list="3", assigned_room_type="B")

    assert told(waiting) == [
        ("reservation.created", "waitlisted"),
        ("reservation.updated", "waitlisted"),
        ("reservation.cancelled", "cancelled"),
    ]


def test_a_day_use_keeps_its_room_until_the_next_day() -> None:
    """A booking of no night comes and goes in a day, costs nothing by the file, and has its room to itself."""
    day_use, arriving = row(nights=0), row(nights=1)
    both = plan(day_use, arriving)

    house = follow(both.events())

    house.closed()
    assert both.survey.rooms == {"city-hotel": 2}
    assert both.survey.suspicious["no_night"].lines == [2]
    totals = {event.draft["data"]["total_amount"] for event in both.events() if event.draft["type"] == "reservation"}
    assert totals == {0, 100}


def test_a_room_that_changes_hands_is_clean_for_the_next_guest() -> None:
    """Guests who follow each other day by day share one room, and each finds it clean."""
    month = plan(*[row(date(2016, 7, 1) + timedelta(days=n), nights=1) for n in range(60)])

    follow(month.events()).closed()
    assert month.survey.rooms == {"city-hotel": 1}


def test_an_early_departure_keeps_the_booked_total() -> None:
    """A guest who left before the booked day left on the day of the status."""
    early = plan(row(nights=7, ended=date(2016, 7, 16)))

    departed = next(event for event in early.events() if event.name == "reservation.checked_out")

    assert departed.at.date() == date(2016, 7, 16)
    assert departed.draft["data"]["checkout_date"] == "2016-07-16"
    assert departed.draft["data"]["total_amount"] == 700
    assert early.survey.suspicious["left_early"].count == 1


@pytest.mark.parametrize(("deposit", "expected"), [("Non Refund", "completed"), ("No Deposit", "pending")])
def test_a_deposit_that_is_kept_is_a_payment(deposit: str, expected: str) -> None:
    """Who paid in advance has paid at the arrival already; everybody has at the departure."""
    desk = [
        event.draft["data"]["payment_status"]
        for event in plan(row(deposit_type=deposit)).events()
        if event.draft["type"] == "checkin_checkout"
    ]

    assert desk == [expected, "completed"]


# Ids


def test_identical_rows_are_bookings_of_their_own() -> None:
    """A group's identical rows are separate bookings, in separate rooms, and are counted."""
    group = plan(*[row()] * 5)

    follow(group.events()).closed()
    assert group.survey.identical_rows == 4
    assert len({event.draft["data"]["reservation_id"] for event in group.events() if "reservation" in event.name}) == 5
    assert group.survey.rooms == {"city-hotel": 5}


def test_the_same_rows_in_any_order_are_the_same_events() -> None:
    """A second run, even of a re-sorted file, has the same events: publishing it again adds nothing."""
    rows = [row(date(2016, 7, 1) + timedelta(days=n % 9), nights=n % 4, lead=n) for n in range(40)] + [row()] * 3

    first = {event.draft["event_id"]: event.draft for event in plan(*rows).events()}
    second = {event.draft["event_id"]: event.draft for event in plan(*reversed(rows)).events()}

    assert first == second


def test_the_days_of_a_plan_make_up_the_plan() -> None:
    """Asked day by day, a plan gives each event once, on its day in the hotel's own calendar."""
    far = {"City Hotel": Property("west", ZoneInfo("Pacific/Honolulu")), "Resort Hotel": Property("east", ZONE)}
    rows = [row(hotel=hotel, nights=n, lead=n) for n in range(5) for hotel in far]
    whole = plan_bookings(enumerate(rows, start=2), far)

    days = [date(2016, 7, 9) + timedelta(days=n) for n in range(20)]
    by_day = [(day, event) for day in days for event in whole.events(day, day)]

    assert all(event.at.date() == day for day, event in by_day)
    assert {event.draft["event_id"] for _, event in by_day} == {e.draft["event_id"] for e in whole.events()}
    assert len(by_day) == len(whole)
    assert sum(whole.counts(days[0], days[4]).values()) == sum(day <= days[4] for day, _ in by_day)


# What holds for any file


@st.composite
def rows(draw: st.DrawFn) -> dict[str, str]:
    """A row that fits, of a small hotel in a short season, so that guests meet."""
    arrival = date(2016, 3, 20) + timedelta(days=draw(st.integers(0, 12)))
    lead, nights = draw(st.integers(0, 5)), draw(st.integers(0, 4))
    status = draw(st.sampled_from(["Check-Out", "Check-Out", "Check-Out", "Canceled", "No-Show"]))
    ended = None
    if status == "Canceled":
        ended = arrival - timedelta(days=draw(st.integers(0, lead)))
    elif status == "Check-Out":
        ended = arrival + timedelta(days=draw(st.integers(0, nights)))
    return row(
        arrival,
        lead=lead,
        nights=nights,
        status=status,
        ended=ended,
        hotel=draw(st.sampled_from(list(PROPERTIES))),
        reserved_room_type=draw(st.sampled_from("AB")),
        assigned_room_type=draw(st.sampled_from("AB")),
        days_in_waiting_list=str(draw(st.integers(0, lead))),
        adr=str(draw(st.decimals(0, 9_999, places=draw(st.integers(0, 4)), allow_nan=False))),
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(rows(), max_size=25))
def test_any_season_could_have_happened(season: list[dict[str, str]]) -> None:
    """Every event fits its schema, each reservation goes forward, and no room holds two guests."""
    whole = plan(*season)

    house = follow(whole.events())

    house.closed()
    assert whole.survey.bookings == len(season)
    assert whole.counts() == dict(sorted(Counter(event.name for event in whole.events()).items()))


def test_rooms_are_as_few_as_the_fullest_night_needs() -> None:
    """Rooms are made only when none of the type is free: as many as are held on the fullest night."""
    season = [row(date(2016, 7, 1) + timedelta(days=n * 7 % 11), nights=1 + n % 5, lead=n) for n in range(60)]
    held: defaultdict[date, int] = defaultdict(int)
    for n in range(60):
        for night in range(1 + n % 5):
            held[date(2016, 7, 1) + timedelta(days=n * 7 % 11 + night)] += 1

    assert plan(*season).survey.rooms == {"city-hotel": max(held.values())}
