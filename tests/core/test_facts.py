"""Facts folded from events: stays through every turn of their life, charges, rooms, and which days came late."""

from __future__ import annotations

import random
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.calendar import number_of
from hub.core.facts import ChargeKey, Folding, tardy
from hub.core.said import MAX_UNITS, UNITS, Calendar, Said, read
from hub.core.stays import Stay, changed_days, folded, share

ZONE = ZoneInfo("Asia/Tokyo")
CALENDAR = Calendar(ZONE, 5)
HOUR = 3_600_000
DAY0 = number_of(date(2026, 7, 1))


def ms(day: int, hour: float = 12) -> int:
    """A moment of the `day`th business day from July 1st on: the hour of its date, on the property's wall."""
    return (DAY0 + day) * 24 * HOUR + int((hour - 9) * HOUR)


def on(day: int) -> str:
    """The date of such a day."""
    return date.fromordinal(date(2026, 7, 1).toordinal() + day).isoformat()


def instant(at_ms: int) -> str:
    """As an event says it."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def said(
    type: str, action: str, at: int, *, id: str = "R1", recorded: int | None = None, sequence: int = 1, **data: Any
) -> Said:
    """An event, as the facts read it; taken when it happened, unless `recorded` says another moment."""
    body = orjson.dumps({"type": type, "action": action, "schema_version": 1, "occurred_at": instant(at), "data": data})
    found = read(type, action, f"{type}:{id}", sequence, at if recorded is None else recorded, body, CALENDAR)
    assert found is not None
    return found


def booked(at: int = ms(0), action: str = "created", **changes: Any) -> Said:
    """A reservation's event: from the 5th to the 8th day, of two, for 300."""
    data: dict[str, Any] = {
        "room_type": "twin",
        "checkin_date": on(5),
        "checkout_date": on(8),
        "total_amount": 300,
        "status": "confirmed",
        "origin": "ota",
        "adults": 2,
    }
    recorded = changes.pop("recorded", None)
    return said("reservation", action, at, recorded=recorded, **data | changes)


def desk(action: str, at: int, **data: Any) -> Said:
    """An event of the desk's."""
    return said("checkin_checkout", action, at, **data)


def stay_of(*events: Said) -> Stay:
    """What they make."""
    stay = None
    for one in events:
        stay = folded(stay, one, CALENDAR)
    assert stay is not None
    return stay


def days(stay: Stay) -> dict[str, int]:
    """When what happened, in days from July 1st."""
    named = {
        "arrived": stay.arrived_day,
        "departed": stay.departed_day,
        "cancelled": stay.cancelled_day,
        "no_show": stay.no_show_day,
    }
    return {name: day - DAY0 for name, day in named.items() if day is not None}


CANCELLED = booked(ms(3), "cancelled", status="cancelled")
CAME = desk("checked_in", ms(5))
IN_HOUSE = booked(ms(5), "checked_in", status="checked_in")


@given(st.integers(0, MAX_UNITS), st.integers(1, 1000))
def test_a_spread_amount_is_whole(amount: int, nights: int) -> None:
    """The parts of an amount are the amount, differ by at most one unit, and the first ones are the larger."""
    parts = [share(amount, nights, number) for number in range(nights)]
    assert sum(parts) == amount
    assert max(parts) - min(parts) <= 1
    assert parts == sorted(parts, reverse=True)
    assert share(amount, 0, 0) == amount


def test_a_stay_from_booking_to_departure() -> None:
    """Desk and reservation both say that the guest came and went; the first word counts, in business days."""
    stay = stay_of(
        booked(),
        desk("checked_in", ms(6, 4), actual_checkin_time=instant(ms(5, 26))),
        booked(ms(6, 6), "checked_in", status="checked_in"),
        desk("checked_out", ms(8, 10)),
        booked(ms(9, 6), "checked_out", status="checked_out"),
    )
    assert days(stay) == {"arrived": 5, "departed": 8}
    assert (stay.created_day, stay.checkin_day, stay.checkout_day) == (DAY0, DAY0 + 5, DAY0 + 8)
    assert (stay.nights, stay.amount, stay.guests, stay.status) == (3, 300 * UNITS, 2, "checked_out")
    assert stay.span == (DAY0, DAY0 + 8)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([CANCELLED], {"cancelled": 3}),
        ([booked(ms(3), "updated", status="cancelled")], {"cancelled": 3}),
        ([CANCELLED, booked(ms(4), "updated", status="cancelled")], {"cancelled": 3}),
        ([CANCELLED, CAME, booked(ms(6), "updated", status="cancelled")], {"arrived": 5}),
        ([CANCELLED, booked(ms(4), "confirmed")], {}),
        ([desk("no_show", ms(6, 3))], {"no_show": 5}),
        ([booked(ms(7), "updated", status="no_show")], {"no_show": 5}),
        ([desk("no_show", ms(6, 3)), booked(ms(7), "updated", status="no_show")], {"no_show": 5}),
        ([booked(ms(7), "updated", status="no_show"), booked(ms(8), "updated")], {}),
        ([desk("no_show", ms(6, 3)), desk("checked_in", ms(6, 15))], {"arrived": 6}),
        ([desk("checked_in", ms(5, 15)), booked(ms(5, 16), "updated", total_amount=400)], {"arrived": 5}),
        ([IN_HOUSE, booked(ms(5), "updated")], {}),
        ([IN_HOUSE, booked(ms(6), "cancelled", status="cancelled")], {"cancelled": 6}),
        ([booked(ms(9), "checked_out", status="checked_out")], {"arrived": 5, "departed": 9}),
        (
            [
                IN_HOUSE,
                booked(ms(7), "checked_out", status="checked_out"),
                booked(ms(7, 13), "checked_in", status="checked_in"),
            ],
            {"arrived": 5},
        ),
        ([CAME, desk("checked_out", ms(6)), CAME], {"arrived": 5, "departed": 6}),
        ([CAME, desk("checked_out", ms(6)), desk("checked_in", ms(7))], {"arrived": 5}),
    ],
    ids=range(17),
)  # fmt: skip
def test_turns_of_a_reservation(events: list[Said], expected: dict[str, int]) -> None:
    """What happened to a reservation, and what was taken back."""
    assert days(stay_of(booked(), *events)) == expected


def test_a_patch_leaves_what_it_does_not_say() -> None:
    """A field that is there replaces, `null` removes, an absent one stays; dates are never removed."""
    stay = stay_of(
        booked(channel="direct", currency="JPY", children=1), said("reservation", "updated", ms(1), channel=None)
    )
    assert (stay.channel, stay.currency, stay.guests, stay.room_type) == (None, "JPY", 3, "twin")
    stay = stay_of(booked(), said("reservation", "updated", ms(1), checkin_date=None, total_amount=None, children=0))
    assert (stay.checkin_day, stay.amount, stay.guests) == (DAY0 + 5, 0, 2)


@pytest.mark.parametrize(
    "data",
    [
        {"total_amount": "300"},
        {"total_amount": -1},
        {"checkin_date": 20260705},
        {"room_type": "twin\0"},
        {"adults": -2},
        {"currency": "YENS"},
        {"status": []},
    ],
)
def test_a_damaged_event_leaves_the_stay(data: dict[str, Any]) -> None:
    """What never went through validation changes nothing, and what follows is folded."""
    folding = Folding(CALENDAR, {}, {}, {})
    folding.add(booked())
    before = dict(folding.stays)
    folding.add(said("reservation", "updated", ms(1), **data))
    assert folding.stays == before
    folding.add(booked(ms(2), "updated", total_amount=500))
    assert folding.stays["R1"].amount == 500 * UNITS


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"type":"room"}', b'{"type":"room","schema_version":1,"data":{}}']
)
def test_what_is_no_event_is_not_read(body: bytes) -> None:
    """A damaged body is no event of the facts."""
    assert read("room", "status_changed", "room:1", 1, ms(0), body, CALENDAR) is None


def test_amounts_are_exact_and_bounded() -> None:
    """Four decimals are kept, and what is beyond all prices counts as nothing."""
    assert stay_of(booked(total_amount=0.1)).amount == 1000
    assert stay_of(booked(total_amount=99_999_999.9999)).amount == 999_999_999_999
    assert stay_of(booked(total_amount=999_999_999_999_999)).amount == 0


def late_days(*events: Said, rooms: Any = None, conditions: Any = None) -> dict[int, int]:
    """How many events changed which days after these were over."""
    tardies = tardy(events, rooms or {})
    folding = Folding(CALENDAR, {}, rooms or {}, conditions or {id: [] for id in tardies})
    for one in events:
        folding.add(one)
    return {day - DAY0: number for day, number, _ in folding.late}


def test_an_ordinary_stay_makes_no_day_late() -> None:
    """A guest who comes and goes as booked, said by desk and reservation, changes no day that was over."""
    assert (
        late_days(
            booked(),
            desk("checked_in", ms(5, 15)),
            booked(ms(5, 15), "checked_in", status="checked_in"),
            desk("checked_out", ms(8, 10)),
            booked(ms(8, 10), "checked_out", status="checked_out"),
        )
        == {}
    )
    assert late_days(booked(), booked(ms(3), "cancelled", status="cancelled")) == {}
    assert late_days(booked(), desk("no_show", ms(5, 23.9)), booked(ms(5, 24), "updated", status="no_show")) == {}


def test_days_that_an_event_changes_after_they_were_over() -> None:
    """A late check-in, an early departure and another price change the days that have to do with them, no others."""
    came = booked(), desk("checked_in", ms(5, 15))
    assert late_days(came[0], desk("checked_in", ms(5, 15), recorded=ms(7, 12))) == {5: 1, 6: 1}
    assert late_days(*came, desk("checked_out", ms(7, 10))) == {5: 1, 6: 1}
    assert late_days(*came, booked(ms(6), "updated", total_amount=330)) == {5: 1}
    assert late_days(*came, booked(ms(6), "updated", total_amount=300, checkout_date=on(8))) == {}
    # One night more at the same price leaves those that were.
    assert late_days(*came, booked(ms(6), "updated", total_amount=400, checkout_date=on(9))) == {}
    cancelled = booked(ms(3), "cancelled", status="cancelled", recorded=ms(4))
    assert late_days(booked(), cancelled) == {3: 1}


def test_one_event_makes_a_bounded_number_of_days_late() -> None:
    """A stay of a thousand years changes the newest 400 days, and is folded at once."""
    events = booked(checkin_date="1026-07-05"), desk("checked_out", ms(2, 12))
    assert set(late_days(*events)) == set(range(2 - 400, 2))


def _reference_days(before: Stay, after: Stay, until: int) -> set[int]:
    """Day by day, everything that a day has of a stay."""

    def of(stay: Stay, day: int) -> Any:
        night = None
        if stay.arrived_day is not None and stay.arrived_day <= day <= stay.arrived_day + max(0, stay.nights - 1):
            parts = [share(stay.amount, stay.nights, number) for number in range(max(1, stay.nights))]
            night = parts[day - stay.arrived_day], stay.nights > 0, stay.room_type, stay.guests
        lead = max(0, stay.checkin_day - stay.created_day) if stay.arrived_day == day else None
        left = stay.nights if stay.departed_day == day else None
        return night, lead, left, stay.cancelled_day == day, stay.no_show_day == day

    return {day for day in range(DAY0 - 50, until) if of(before, day) != of(after, day)}


@given(st.integers(0, 10_000))
def test_changed_days_are_those_that_differ(seed: int) -> None:
    """Whatever a reservation goes through, each event's changed days are those whose parts of it differ."""
    chance = random.Random(seed)
    stay: Stay | None = None
    for one in a_life(chance):
        before = stay
        stay = folded(before, one, CALENDAR)
        until = DAY0 + chance.randrange(0, 15)
        if before is not None:
            assert changed_days(before, stay, until) == _reference_days(before, stay, until)
        first, last = stay.span
        nobody = stay._replace(arrived_day=None, departed_day=None, cancelled_day=None, no_show_day=None)
        assert all(first <= day <= last for day in changed_days(nobody, stay, DAY0 + 50))


def a_life(chance: random.Random) -> list[Said]:
    """Events of one reservation in any order."""
    found = []
    for number in range(chance.randrange(1, 10)):
        at = ms(number, chance.uniform(5, 29))
        if chance.random() < 0.4:
            found.append(desk(chance.choice(("checked_in", "checked_out", "no_show")), at))
            continue
        status = chance.choice(("waitlisted", "confirmed", "cancelled", "checked_in", "checked_out", "no_show"))
        begin = chance.randrange(0, 10)
        dates = {"checkin_date": on(begin), "checkout_date": on(begin + chance.randrange(0, 5))}
        amount = chance.choice((0, 100, 100.01, 333.3333))
        found.append(booked(at, "updated", status=status, total_amount=amount, **dates))
    return found


@given(st.integers(0, 10_000))
def test_an_event_said_twice_changes_nothing(seed: int) -> None:
    """Folding an event again right after itself leaves the stay, and marks no day."""
    stay = None
    for one in a_life(random.Random(seed)):
        stay = folded(stay, one, CALENDAR)
        assert folded(stay, one, CALENDAR) == stay


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_folding_may_be_cut_anywhere(seed: int, cut: int) -> None:
    """What is folded in two parts, with the store between them, is what is folded at once."""
    events = a_life(random.Random(seed))
    whole = Folding(CALENDAR, {}, {}, {})
    for one in events:
        whole.add(one)
    first = Folding(CALENDAR, {}, {}, {})
    for one in events[:cut]:
        first.add(one)
    second = Folding(CALENDAR, first.stays, {}, {})
    for one in events[cut:]:
        second.add(one)
    assert {**first.stays, **second.stays} == whole.stays


def charge(action: str, amount: Any, at: int = ms(0), **data: Any) -> Said:
    """A movement on a folio."""
    recorded = data.pop("recorded", None)
    return said("billing", action, at, id="F1", recorded=recorded, folio_id="F1", amount=amount, **data)


def test_charges_are_summed_by_day_and_kind() -> None:
    """What was settled is no charge; a category that is not known is another one; no currency is the tenant's."""
    folding = Folding(CALENDAR, {}, {}, {})
    for one in (
        charge("charged", 10.5, category="food"),
        charge("charged", 4, ms(1, 4.9), category="food"),
        charge("refunded", 2, category="food", currency="USD"),
        charge("corrected", -3, ms(1), category="spa"),
        charge("settled", 50, category="food"),
        charge("charged", "1", category="food"),
    ):
        folding.add(one)
    assert folding.charges == [
        (ChargeKey(DAY0, "charged", "food", ""), 145_000, 2),
        (ChargeKey(DAY0, "refunded", "food", "USD"), 20_000, 1),
        (ChargeKey(DAY0 + 1, "corrected", "other", ""), -30_000, 1),
    ]
    assert folding.late == []


def test_a_late_charge_marks_its_day() -> None:
    """A charge that comes late changes the day on which it was made, unless it is of a room or a tax."""
    assert late_days(charge("charged", 1, recorded=ms(2))) == {0: 1}
    assert late_days(charge("charged", 1, recorded=ms(2), category="tax")) == {}
    assert late_days(charge("settled", 1, recorded=ms(2))) == {}


def status(day: int, condition: str, *, recorded: int | None = None, sequence: int = 1, hour: float = 12) -> Said:
    """What a room's status is said to be on a day."""
    at = None if recorded is None else ms(recorded)
    data = {"status": condition, "room_type": "twin"}
    return said("room", "status_changed", ms(day, hour), id="101", recorded=at, sequence=sequence, **data)


def test_conditions_are_written_where_they_change() -> None:
    """A room's cleaning is no change of its condition; being out of order is one, and coming back another."""
    folding = Folding(CALENDAR, {}, {}, {})
    for number, condition in enumerate(("occupied", "vacant_dirty", "out_of_order", "out_of_order", "vacant_clean")):
        folding.add(status(number, condition, sequence=number))
    assert folding.conditions == {("101", ms(2), 2): "out_of_order", ("101", ms(4), 4): "in_order"}
    room = folding.rooms["101"]
    assert (room.room_type, room.first_day, room.condition, room.at_ms) == ("twin", DAY0, "in_order", ms(4))
    assert folding.late == []


def test_a_condition_that_comes_late_is_put_in_its_place() -> None:
    """It holds until the next one that is known, and the last word stays the last."""
    seen = status(0, "occupied"), status(6, "vacant_clean", sequence=2)
    events = (
        *seen,
        status(2, "out_of_order", recorded=8, sequence=3),
        status(4, "out_of_service", recorded=8, sequence=4),
    )
    assert tardy(events, {}) == {"101": ms(2)}
    folding = Folding(CALENDAR, {}, {}, {"101": []})
    for one in events:
        folding.add(one)
    told = sorted((at, sequence, condition) for (_, at, sequence), condition in folding.conditions.items())
    assert [(at, condition) for at, _, condition in told] == [
        (ms(2), "out_of_order"),
        (ms(4), "out_of_service"),
        (ms(6), "in_order"),
        (ms(6), "in_order"),
    ]
    assert folding.rooms["101"].condition == "in_order"
    assert {day - DAY0: number for day, number, _ in folding.late} == {2: 1, 3: 1, 4: 2, 5: 2}


def test_days_of_a_room_that_is_told_late() -> None:
    """A condition that comes a day late marks the days since; one that says what was known marks none."""
    seen = status(0, "occupied")
    assert late_days(seen, status(3, "out_of_order", recorded=5)) == {3: 1, 4: 1}
    assert late_days(seen, status(3, "vacant_dirty", recorded=5)) == {}
    assert late_days(seen, status(5, "vacant_dirty"), status(3, "occupied", recorded=5)) == {}
    # A room that nobody knew of was there on the days before.
    assert late_days(status(3, "occupied", recorded=5)) == {3: 1, 4: 1}


def test_the_logs_clock_may_be_behind() -> None:
    """What is taken within the last minute of a day may have come after the report on it: it marks the day."""
    end = ms(1, 5)
    for before_ms, late in ((60_001, {}), (60_000, {0: 1}), (1, {0: 1})):
        assert late_days(charge("charged", 1, recorded=end - before_ms)) == late
