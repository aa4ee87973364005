"""Format errors that are mended at sync: form only, never what was said."""

from __future__ import annotations

from datetime import date
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.format_fixes import Fix, fixed
from schemas import registry
from schemas.registry import EVENT_TYPES
from schemas.sync import SYNCED_TYPES

TOKYO, LISBON = ZoneInfo("Asia/Tokyo"), ZoneInfo("Europe/Lisbon")
STAY: dict[str, Any] = {"reservation_id": "R1", "room_number": "301", "payment_status": "completed"}
ORDER: dict[str, Any] = {
    "order_id": "O1",
    "room_number": "301",
    "items": [{"name": "tea", "quantity": 1, "unit_price": 600}, {"name": "beer", "quantity": 2, "unit_price": 700}],
    "total_amount": 2000,
}
RESERVATION: dict[str, Any] = {
    "reservation_id": "R1",
    "room_type": "twin",
    "checkin_date": "2026-07-15",
    "checkout_date": "2026-07-16",
    "total_amount": 16800,
    "status": "confirmed",
    "origin": "phone",
}
SAMPLES: dict[str, dict[str, Any]] = {
    "checkin_checkout": STAY | {"actual_checkout_time": "2026-07-15T10:04:00+09:00"},
    "order": ORDER,
    "reservation": RESERVATION,
    "customer": {"customer_id": "C1", "email": "a@example.jp", "points_delta": -3, "points_ledger_id": "L1"},
    "room": {
        "room_id": "301",
        "room_number": "301",
        "room_type": "twin",
        "status": "occupied",
        "availability_date": "2026-07-15",
    },
    "billing": {"folio_id": "F1", "amount": 1200.5, "currency": "JPY"},
    "daily_report": {"business_date": "2026-07-15", "total_revenue": 0, "figures": {"roomNumber": " 1 "}},
    "alert": {"alert_id": "A1", "severity": "info", "message": " 満室 "},
    "operation_log": {"operation_id": "P1", "operation": "check in"},
}


def mend(type: str, payload: dict[str, Any], zone: ZoneInfo = TOKYO) -> dict[str, Any]:
    """The payload alone."""
    return fixed(type, payload, zone)[0]


def test_the_documents_own_sample_is_read() -> None:
    """R49: camel case, their name of the departure, a sum with a comma; what they call `total` stays unknown."""
    sent = {
        "reservationId": " R1",
        "roomNumber": "301",
        "checkOutTime": "2025/07/15 10:04",
        "additionalCharges": "16,800",
        "paymentStatus": "ｃｏｍｐｌｅｔｅｄ",
        "total": 16800,
    }
    found, fixes = fixed("checkin_checkout", sent, TOKYO)

    assert found == {
        "reservation_id": "R1",
        "room_number": "301",
        "actual_checkout_time": "2025-07-15T10:04:00+09:00",
        "additional_charges": 16800,
        "payment_status": "completed",
        "total": 16800,
    }
    assert Fix("checkOutTime", "checkOutTime", "actual_checkout_time") in fixes
    assert Fix("checkOutTime", "2025/07/15 10:04", "2025-07-15T10:04:00+09:00") in fixes
    assert Fix("reservationId", " R1", "R1") in fixes
    assert len(fixes) == 9
    assert sent["reservationId"] == " R1"


@pytest.mark.parametrize(
    ("type", "field", "sent", "meant"),
    [
        ("reservation", "total_amount", "16,800", 16800),
        ("reservation", "total_amount", "１６，８００", 16800),
        ("reservation", "total_amount", " 1234.5 ", 1234.5),
        ("reservation", "total_amount", "999,999,999,999", 999999999999),
        ("reservation", "adults", "2", 2),
        ("reservation", "adults", 2.0, 2),
        ("reservation", "checkin_date", "2026/07/15", "2026-07-15"),
        ("reservation", "checkin_date", "2026-7-5", "2026-07-05"),
        ("reservation", "checkin_date", "２０２６．０７．１５", "2026-07-15"),
        ("reservation", "checkin_date", "2026年7月15日", "2026-07-15"),
        ("reservation", "checkin_date", "20260715", "2026-07-15"),
        ("reservation", "currency", "ＪＰＹ", "JPY"),
        ("reservation", "status", "　confirmed", "confirmed"),
        ("reservation", "customer_id", "\tC1\n", "C1"),
        ("customer", "points_delta", "-500", -500),
        ("customer", "points_delta", "+500", 500),
        ("customer", "updatable_by_pms", "true", True),
        ("order", "estimated", " FALSE", False),
        ("checkin_checkout", "actual_checkin_time", "2026-07-15T15:04:05.25", "2026-07-15T15:04:05.25+09:00"),
        ("checkin_checkout", "actual_checkin_time", "2026/07/15 9:04", "2026-07-15T09:04:00+09:00"),
        ("checkin_checkout", "actual_checkin_time", "2026-07-15 06:04:00z", "2026-07-15T06:04:00Z"),
        ("checkin_checkout", "actual_checkin_time", "20260715T150400+0900", None),
        ("checkin_checkout", "actual_checkin_time", "2026-07-15T15:04:00+0900", "2026-07-15T15:04:00+09:00"),
    ],
)
def test_values_in_another_form(type: str, field: str, sent: Any, meant: Any) -> None:
    """What the schema refuses, and can mean one thing only, is spelled as the schema wants it; None: it is left."""
    payload = SAMPLES[type] | {field: sent}
    found, fixes = fixed(type, payload, TOKYO)

    if meant is None:
        assert (found, fixes) == (payload, [])
    else:
        assert fixes == [Fix(field, sent, meant)]
        assert found == payload | {field: meant}
        assert registry.validate_data(EVENT_TYPES[type], EVENT_TYPES[type].newest, found) == []


@pytest.mark.parametrize(
    ("type", "field", "sent"),
    [
        ("reservation", "total_amount", "16.800"),
        ("reservation", "total_amount", "16,80"),
        ("reservation", "total_amount", "¥16,800"),
        ("reservation", "total_amount", "1e3"),
        ("reservation", "total_amount", ""),
        ("reservation", "total_amount", "-1"),
        ("reservation", "total_amount", True),
        ("reservation", "adults", 2.5),
        ("reservation", "adults", "two"),
        ("reservation", "room_number", 301),
        ("reservation", "checkin_date", "07/08/2026"),
        ("reservation", "checkin_date", "26/07/15"),
        ("reservation", "checkin_date", "2026-07/15"),
        ("reservation", "checkin_date", "2026-02-30"),
        ("reservation", "checkin_date", "2026-07-15T00:00:00+09:00"),
        ("reservation", "checkin_date", 1784077441000),
        ("reservation", "status", "checked in"),
        ("customer", "updatable_by_pms", "yes"),
        ("customer", "updatable_by_pms", 1),
        ("checkin_checkout", "actual_checkin_time", "2026-07-15"),
        ("checkin_checkout", "actual_checkin_time", "2026-07-15T25:00"),
        ("checkin_checkout", "actual_checkin_time", "15:04"),
        ("checkin_checkout", "actual_checkin_time", 1784077441),
    ],
)
def test_what_may_mean_two_things_is_left_to_the_schema(type: str, field: str, sent: Any) -> None:
    """It stays as it was sent, and is refused."""
    payload = SAMPLES[type] | {field: sent}

    assert fixed(type, payload, TOKYO) == (payload, [])
    assert registry.validate_data(EVENT_TYPES[type], EVENT_TYPES[type].newest, payload) != []


def test_an_instant_without_an_offset_is_told_by_the_propertys_clock() -> None:
    """In summer and in winter time; not in the hour that comes twice, nor in the one that never is."""

    def told(text: str) -> Any:
        return mend("checkin_checkout", STAY | {"actual_checkin_time": text}, LISBON)["actual_checkin_time"]

    assert told("2026-07-15T10:00") == "2026-07-15T10:00:00+01:00"
    assert told("2026-12-15T10:00") == "2026-12-15T10:00:00+00:00"
    assert told("2026-10-25T01:30") == "2026-10-25T01:30"
    assert told("2026-03-29T01:30") == "2026-03-29T01:30"
    assert told("2026-10-25T01:30Z") == "2026-10-25T01:30Z"


def test_names_within_lists_are_mended_too() -> None:
    """An order's lines, by the names and places as they were sent."""
    line = {"name": "tea", "Quantity": "２", "unit-price": "1,200"}
    sent = {"orderId": "O1", "roomNumber": "3", "totalAmount": 5, "Items": [line]}
    found, fixes = fixed("order", sent, TOKYO)

    assert found["items"] == [{"name": "tea", "quantity": 2, "unit_price": 1200}]
    assert Fix("Items.0.unit-price", "unit-price", "unit_price") in fixes
    assert Fix("Items.0.unit-price", "1,200", 1200) in fixes


def test_two_names_of_one_field_are_left() -> None:
    """Nobody can tell which of them was meant."""
    payload = STAY | {"roomNumber": "302"}
    assert fixed("checkin_checkout", payload, TOKYO) == (payload, [])
    without = {"reservation_id": "R1", "roomNumber": "302", "RoomNumber": "303", "payment_status": "completed"}
    assert fixed("checkin_checkout", without, TOKYO) == (without, [])


def test_only_what_changed_may_be_there() -> None:
    """An UPDATE need not be whole: what is missing is no matter of form."""
    assert mend("reservation", {"totalAmount": "1,000"}) == {"total_amount": 1000}
    assert mend("reservation", {}) == {}


def test_an_older_schema_is_held_against_its_own_fields() -> None:
    """Version 1 of an order has one item."""
    sent = {"order_id": "O1", "room_number": "301", "item": "tea", "quantity": "2", "unitPrice": 600}
    found = fixed("order", sent, TOKYO, 1)[0]
    assert (found["quantity"], found["unit_price"]) == (2, 600)
    assert fixed("order", sent, TOKYO, 99) == (sent, [])
    assert fixed("nothing", sent, TOKYO) == (sent, [])


def test_what_is_no_json_is_left() -> None:
    """Numbers beyond 64 bits, lone surrogates: the schema's own check tells of them."""
    for odd in (10**30, "\ud800"):
        payload = RESERVATION | {"special_requests": odd, "adults": "2"}
        assert fixed("reservation", payload, TOKYO) == (payload, [])


# -- properties -------------------------------------------------------------------------------------------------------

_TEXTS = st.sampled_from(
    [
        *("R1", " R1 ", "３０１", "16,800", "16.800", "true", "FALSE", "2026/07/15", "2026-07-15", "07/08/2026", ""),
        *("2026-07-15T10:00", "2026-07-15 10:00Z", "confirmed", " occupied", "ＪＰＹ", "a@b.jp", "\ud800", "二"),
    ]
)
_VALUES = st.one_of(_TEXTS, st.text(max_size=8), st.integers(-5, 10**17), st.floats(), st.booleans(), st.none())


def _spellings(name: str) -> list[str]:
    first, *rest = name.split("_")
    camel = first + "".join(part.title() for part in rest)
    return [name, camel, camel[0].upper() + camel[1:], name.replace("_", "-"), f" {name}"]


@st.composite
def payloads(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A sample with some fields under other names, and some with other values."""
    type = draw(st.sampled_from(sorted(SYNCED_TYPES)))
    fields = list(EVENT_TYPES[type].versions[EVENT_TYPES[type].newest].model_fields)
    payload = dict(SAMPLES[type])
    for name in draw(st.lists(st.sampled_from(fields), max_size=4)):
        payload[draw(st.sampled_from(_spellings(name)))] = draw(_VALUES)
    for name in draw(st.lists(st.sampled_from(sorted(payload)), max_size=2)):
        payload[draw(st.sampled_from(_spellings(name)))] = payload.pop(name, None)
    if type == "order" and isinstance(payload.get("items"), list):
        payload["items"] = [
            {
                draw(st.sampled_from(_spellings(name))): draw(st.one_of(st.just(one), _VALUES))
                for name, one in row.items()
            }
            for row in payload["items"]
        ]
    return type, payload


@given(payloads(), st.sampled_from([TOKYO, LISBON]))
def test_fixing_twice_changes_nothing_more(made: tuple[str, dict[str, Any]], zone: ZoneInfo) -> None:
    """Whatever was sent; and what was sent is not touched."""
    type, payload = made
    copy = {name: [dict(row) for row in one] if isinstance(one, list) else one for name, one in payload.items()}
    once, fixes = fixed(type, payload, zone)

    again, more = fixed(type, once, zone)
    assert more == []
    assert again is once
    assert repr(payload) == repr(copy)
    assert (once is payload) == (fixes == [])


@given(payloads())
def test_a_valid_payload_is_never_changed(made: tuple[str, dict[str, Any]]) -> None:
    """Whatever the schema takes stands, white space and full width included."""
    type, payload = made
    kind = EVENT_TYPES[type]
    try:
        valid = registry.validate_data(kind, kind.newest, payload) == []
    except orjson.JSONEncodeError:
        valid = False
    if not valid:
        payload = dict(SAMPLES[type])
    assert fixed(type, payload, TOKYO) == (payload, [])


@given(payloads())
def test_nothing_gets_worse(made: tuple[str, dict[str, Any]]) -> None:
    """What the schema took of it, it takes of the mended one, under the same name and with the same value."""
    type, payload = made
    kind = EVENT_TYPES[type]
    wrong = {
        error.path.split(".")[1] for error in registry.validate_data(kind, kind.newest, payload) if "." in error.path
    }
    found = fixed(type, payload, TOKYO)[0]
    for name, value in payload.items():
        if name in kind.versions[kind.newest].model_fields and name not in wrong:
            assert repr(found[name]) == repr(value)


@given(st.dates(date(1990, 1, 1), date(2090, 1, 1)), st.sampled_from(["{0:%Y/%m/%d}", "{0.year}.{0.month}.{0.day}"]))
def test_dates_mean_the_same_day(day: date, form: str) -> None:
    """Any date, year first."""
    assert (
        mend("room", SAMPLES["room"] | {"availability_date": form.format(day)})["availability_date"] == day.isoformat()
    )


@given(st.integers(0, 10**15 - 1))
def test_sums_mean_the_same_number(amount: int) -> None:
    """With commas at every thousand, and without."""
    for text in (f"{amount:,}", str(amount)):
        assert mend("reservation", RESERVATION | {"total_amount": text})["total_amount"] == amount
