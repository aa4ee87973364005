"""The made-up hotel day: believable, valid, and the same for the same seed."""

from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core.authority import refusal
from hub.core.hotel_day import STAFF, hotel_day
from hub.core.simulated import SimulatedEvent
from schemas.envelope import Draft
from schemas.registry import require_known, validate_data

DAY = date(2026, 7, 15)
TOKYO = ZoneInfo("Asia/Tokyo")


def default_day(seed: int = 1) -> list[SimulatedEvent]:
    """The day of the documents' test tenant."""
    return hotel_day(DAY, seed=seed, zone=TOKYO)


def data_of(events: list[SimulatedEvent], name: str) -> list[dict[str, Any]]:
    """The payloads of one `type.action`, in order."""
    return [event.draft["data"] for event in events if event.name == name]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    day=st.dates(date(2020, 1, 1), date(2040, 1, 1)),
    rooms=st.integers(5, 60),
    share=st.floats(0.01, 0.55),
    zone=st.sampled_from(["Asia/Tokyo", "Europe/Lisbon", "America/New_York"]),
)
def test_any_day_fits_the_schemas_and_the_authorities(
    seed: int, day: date, rooms: int, share: float, zone: str
) -> None:
    """Every event is one that the hub takes from the system that publishes it, in order of time."""
    events = hotel_day(day, seed=seed, zone=ZoneInfo(zone), rooms=rooms, reservations=max(1, int(rooms * share)))

    for event in events:
        draft = Draft.model_validate(event.draft)
        kind = require_known(draft.type, draft.action)
        assert validate_data(kind, kind.newest, draft.data) == []
        assert refusal(kind, draft.action, event.system, draft.data) is None
        assert draft.tenant_id == event.tenant == "default"
    occurred = [datetime.fromisoformat(event.draft["occurred_at"]) for event in events]
    assert occurred == sorted(occurred)
    assert [event.at for event in events] == sorted(event.at for event in events)
    assert {event.at.date() for event in events} == {day}
    assert len({event.draft["event_id"] for event in events}) == len(events)
    _check_story(events)


def _check_story(events: list[SimulatedEvent]) -> None:
    """Each reservation goes forward, rooms are entered clean and empty, and every charge is on a guest's bill."""
    ranks = {"created": 0, "confirmed": 1, "checked_in": 2, "updated": 3, "cancelled": 3, "checked_out": 3}
    desk = {"no_show": 2, "checked_in": 2, "checked_out": 3}
    stages: dict[str, int] = {}
    guests: dict[str, str] = {}
    rooms: dict[str, str] = {}
    balances: Counter[str] = Counter()
    for event in events:
        data, type_, action = event.draft["data"], event.draft["type"], event.draft["action"]
        if type_ == "reservation":
            key = data["reservation_id"]
            assert ranks[action] > stages[key] if action != "created" else key not in stages
            stages[key] = ranks[action]
        elif type_ == "checkin_checkout":
            assert stages[data["reservation_id"]] < desk[action]
            if action == "checked_in":
                assert data["room_number"] not in guests
                assert rooms.get(data["room_number"], "vacant_clean") == "vacant_clean"
                guests[data["room_number"]] = data["reservation_id"]
            elif action == "checked_out":
                assert guests.pop(data["room_number"]) == data["reservation_id"]
                assert balances[data["reservation_id"]] == 0
        elif event.name == "room.status_changed":
            rooms[data["room_number"]] = data["status"]
            assert (data["room_number"] in guests) == (data["status"] == "occupied")
        elif type_ == "billing":
            assert guests[data["room_number"]] == data["reservation_id"]
            balances[data["reservation_id"]] += data["amount"] if action == "charged" else -data["amount"]
            assert balances[data["reservation_id"]] == data["balance"]
        elif type_ == "order":
            assert guests[data["room_number"]] == data["reservation_id"]


def test_the_same_seed_is_the_same_day() -> None:
    """Two runs of one seed are equal to the byte, so that the second adds nothing."""
    assert default_day() == default_day()


def test_other_arguments_make_other_ids() -> None:
    """Another seed, day, tenant or size of hotel shares no event id, so that nothing of it is taken for a duplicate."""
    days = [
        default_day(),
        default_day(2),
        hotel_day(DAY + timedelta(days=1), seed=1, zone=TOKYO),
        hotel_day(DAY, seed=1, zone=TOKYO, tenant="other"),
        hotel_day(DAY, seed=1, zone=TOKYO, rooms=20),
        hotel_day(DAY, seed=1, zone=TOKYO, reservations=2),
    ]

    ids = [event.draft["event_id"] for events in days for event in events]

    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("seed", range(12))
def test_the_default_day_has_all_that_happens_in_a_hotel(seed: int) -> None:
    """Every seed has arrivals, departures, orders, charges, points, a cancellation and a no-show, and three systems."""
    events = default_day(seed)
    names = Counter(event.name for event in events)

    assert names["room.status_changed"] >= 10 + 3 + 4
    assert names["checkin_checkout.checked_in"] == 3 + 4
    assert names["checkin_checkout.checked_out"] == names["reservation.checked_out"] == 2
    assert names["checkin_checkout.no_show"] == names["reservation.cancelled"] == 1
    assert names["order.placed"] == names["order.confirmed"] == names["order.delivered"] >= 5
    assert names["billing.charged"] == names["order.delivered"] + 2
    assert names["customer.points_changed"] >= 1
    assert names["daily_report.submitted"] == 1
    assert {event.system for event in events} == {"hotel-pms", "hotel-saas", "hotel-member"}
    assert len({room["room_id"] for room in data_of(events, "room.status_changed")}) == 10
    assert {entry["operator"] for entry in data_of(events, "operation_log.recorded")} <= set(STAFF)


def test_departures_are_in_the_morning_and_arrivals_in_the_afternoon() -> None:
    """Guests leave from nine to eleven, arrive from three, and the day is closed at eleven at night."""
    events = default_day()
    hours = {
        name: [event.at.hour for event in events if event.name == name and event.draft["occurred_at"] >= "2026-07-15"]
        for name in ("checkin_checkout.checked_out", "checkin_checkout.checked_in", "daily_report.submitted")
    }

    assert all(9 <= hour < 11 for hour in hours["checkin_checkout.checked_out"])
    assert all(15 <= hour < 20 for hour in hours["checkin_checkout.checked_in"])
    assert hours["daily_report.submitted"] == [23]


def test_earlier_days_are_sent_when_the_day_opens() -> None:
    """What happened before the day keeps its own time and is sent at six."""
    brought = [event for event in default_day() if event.draft["occurred_at"] < "2026-07-15T06:00"]

    assert {event.at for event in brought} == {datetime(2026, 7, 15, 6, tzinfo=TOKYO)}
    assert min(event.draft["occurred_at"] for event in brought) < "2026-07-14"


@pytest.mark.parametrize("seed", range(5))
def test_the_report_says_what_the_day_did(seed: int) -> None:
    """The evening's figures are those of the day's own events."""
    events = default_day(seed)
    today = [event for event in events if event.draft["occurred_at"] >= "2026-07-15T06:00"]
    names = Counter(event.name for event in today)
    (report,) = data_of(events, "daily_report.submitted")
    rooms = {room["room_number"]: room["status"] for room in data_of(events, "room.status_changed")}

    assert report["total_revenue"] == sum(charge["amount"] for charge in data_of(events, "billing.charged"))
    assert report["arrivals"] == names["checkin_checkout.checked_in"]
    assert report["departures"] == names["checkin_checkout.checked_out"]
    assert report["rooms_occupied"] == list(rooms.values()).count("occupied")
    assert report["figures"] == {
        "new_reservations": names["reservation.created"],
        "cancellations": names["reservation.cancelled"],
        "no_shows": names["checkin_checkout.no_show"],
        "orders": names["order.placed"],
        "rooms": 10,
    }
    assert report["submitted_by"] in STAFF


def test_points_are_told_as_a_change_and_a_total() -> None:
    """A change of points names its ledger entry, and its total is the total before plus the change."""
    events = default_day()
    before = {customer["customer_id"]: customer.get("total_points") for customer in data_of(events, "customer.created")}

    for change in data_of(events, "customer.points_changed"):
        assert change["points_delta"] > 0
        assert change["total_points"] == before[change["customer_id"]] + change["points_delta"]


@pytest.mark.parametrize("sizes", [{"rooms": 3}, {"reservations": 0}, {"rooms": 10, "reservations": 11}, {"staff": ()}])
def test_a_hotel_too_small_for_its_guests_is_refused(sizes: dict[str, Any]) -> None:
    """Rooms for everybody, somebody in the house and somebody at the desk are asked for."""
    with pytest.raises(ValueError):
        hotel_day(DAY, seed=1, zone=TOKYO, **sizes)
