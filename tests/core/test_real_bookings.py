"""The real file of bookings, read by path: it is no part of the project, and what needs it is skipped without it."""

from __future__ import annotations

import csv
import io
import os
import zipfile
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest
from booking_house import MONTHS, House

from hub.core.bookings import plan_bookings
from hub.services.booking_file import portuguese_hotels, read_rows
from schemas.registry import EVENT_TYPES, validate_data

REAL_FILE = Path(
    os.environ.get("HOTEL_BOOKINGS")
    or Path(__file__).parents[2].joinpath("..", "shared", "data", "hotel_bookings.zip").resolve()
)


@pytest.mark.skipif(not REAL_FILE.exists(), reason="hotel_bookings.zip is not there; HOTEL_BOOKINGS may name it")
def test_the_real_file_gives_what_its_rows_say() -> None:
    """119,390 real rows: every total agrees with a count of the rows, and the house rules hold for every event."""
    whole = plan_bookings(read_rows(REAL_FILE), portuguese_hotels())
    house, drafts = House(), 0
    names: Counter[str] = Counter()
    for event in whole.events():
        house.follow(event)
        draft = event.draft
        kind = EVENT_TYPES[draft["type"]]
        assert draft["action"] in kind.actions
        # Three in ten, for the time it takes; what is made from other rows is checked in full beside this.
        assert drafts % 10 > 2 or validate_data(kind, kind.newest, draft["data"]) == []
        names[event.name] += 1
        drafts += 1
    house.closed()

    expected, refused = _counted_by_hand()
    assert names == expected
    assert whole.counts() == dict(sorted(expected.items()))
    assert drafts == len(whole) == sum(expected.values())
    survey = whole.survey
    assert (survey.rows, survey.identical_rows) == (119_390, 31_994)
    assert {reason: one.count for reason, one in survey.refused.items()} == refused
    assert survey.suspicious["rate_outlier"].count == 1
    # A real burst: the day on which the city hotel cancelled most.
    burst = whole.events(date(2015, 10, 21), date(2015, 10, 21))
    found = sum(event.tenant == "city-hotel" and event.name == "reservation.cancelled" for event in burst)
    assert found == 1_365


def _counted_by_hand() -> tuple[Counter[str], dict[str, int]]:
    with zipfile.ZipFile(REAL_FILE) as archive, archive.open("hotel_bookings.csv") as raw:
        table = list(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")))
    guests = ("adults", "children", "babies")
    empty = [one for one in table if all(one[column] in ("0", "NA") for column in guests)]
    negative = [one for one in table if one["adr"].startswith("-")]
    kept = [one for one in table if one not in negative and any(one[column] not in ("0", "NA") for column in guests)]
    ended = Counter(one["reservation_status"] for one in kept)
    stayed, cancelled, absent = ended["Check-Out"], ended["Canceled"], ended["No-Show"]
    moved = sum(one["reserved_room_type"] != one["assigned_room_type"] for one in kept)
    confirmed = sum(_confirmed(one) for one in kept)
    names = Counter(
        {
            "reservation.created": len(kept),
            "reservation.confirmed": confirmed,
            "reservation.updated": moved + absent,
            "reservation.cancelled": cancelled,
            "checkin_checkout.checked_in": stayed,
            "reservation.checked_in": stayed,
            "checkin_checkout.checked_out": stayed,
            "reservation.checked_out": stayed,
            "room.status_changed": 3 * stayed,
            "checkin_checkout.no_show": absent,
        }
    )
    return names, {"no_guests": len(empty), "negative_rate": len(negative)}


def _confirmed(one: dict[str, str]) -> bool:
    waited = int(one["days_in_waiting_list"])
    if waited == 0 or one["reservation_status"] != "Canceled":
        return waited > 0
    month = MONTHS.index(one["arrival_date_month"]) + 1
    arrival = date(int(one["arrival_date_year"]), month, int(one["arrival_date_day_of_month"]))
    booked = arrival - timedelta(days=int(one["lead_time"]))
    return booked + timedelta(days=waited) < date.fromisoformat(one["reservation_status_date"])
