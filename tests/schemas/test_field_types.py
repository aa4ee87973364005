"""The types that fields share: money, dates, instants, references."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas.envelope import Draft
from schemas.types import Day, Instant, Model, Money, Price, json_number


class Sample(Model):
    """One field of each type."""

    money: Money | None = None
    price: Price | None = None
    day: Day | None = None
    instant: Instant | None = None


def read(**fields: Any) -> Sample:
    """The sample that these JSON values make."""
    return Sample.model_validate_json(json.dumps(fields))


def draft(**fields: Any) -> Draft:
    """A draft with these fields."""
    return Draft.model_validate({"type": "room", "action": "price_updated", "data": {}} | fields)


@given(st.integers(1 - 10**15, 10**15 - 1), st.integers(0, 4))
def test_money_is_exact(units: int, places: int) -> None:
    """Any amount of at most 15 digits and 4 decimals is the decimal that was written, and is written again so."""
    wanted = Decimal(units).scaleb(-places)
    text = format(wanted, "f")
    sample = Sample.model_validate_json(f'{{"money": {text}}}')
    assert sample.money == wanted
    again = json.loads(sample.model_dump_json())["money"]
    assert Decimal(repr(again)) == wanted
    assert read(money=again) == sample


@given(st.integers(1 - 10**15, 10**15 - 1), st.integers(0, 4))
def test_the_number_on_the_wire_says_the_decimal(units: int, places: int) -> None:
    """Whole amounts are written without a fraction, others as the shortest number that is the amount."""
    value = Decimal(units).scaleb(-places)
    number = json_number(value)
    assert Decimal(repr(number)) == value
    assert isinstance(number, int) is (value % 1 == 0)


@given(st.floats() | st.integers())
def test_money_takes_what_can_be_written_in_15_digits_and_4_decimals(number: float) -> None:
    """Any other number is refused rather than rounded."""
    try:
        sample: Sample | None = Sample.model_validate({"money": number})
    except ValidationError:
        sample = None
    finite = isinstance(number, int) or (number == number and abs(number) != float("inf"))
    fits = finite and abs(number) < 10**15 and float(f"{number:.4f}") == number and len(_digits(number)) <= 15
    assert (sample is not None) is fits


def _digits(number: float) -> str:
    whole, _, decimals = format(Decimal(repr(number)), "f").lstrip("-").partition(".")
    return whole.lstrip("0") + decimals.rstrip("0")


@pytest.mark.parametrize(
    "text",
    ['"100"', "true", "[1]", "{}", "1e15", "1000000000000000", "0.00001", "123456789012.1234", "1e999", "NaN"],
)
def test_other_money_is_refused(text: str) -> None:
    """Texts, booleans, more than 15 digits, more than 4 decimals, no numbers."""
    with pytest.raises(ValidationError) as raised:
        Sample.model_validate_json(f'{{"money": {text}}}')
    assert raised.value.errors()[0]["loc"] in (("money",), ())


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("999999999999999", "999999999999999"),
        ("99999999999.9999", "99999999999.9999"),
        ("1e14", "100000000000000"),
        ("1.50", "1.5"),
        ("-0.0", "0"),
    ],
)
def test_money_at_the_edge_is_accepted(text: str, wanted: str) -> None:
    """Digits count, not the way they are written."""
    assert Sample.model_validate_json(f'{{"money": {text}}}').money == Decimal(wanted)


def test_a_price_is_not_negative() -> None:
    """Zero is a price."""
    assert read(price=0).price == 0
    with pytest.raises(ValidationError):
        read(price=-0.01)


@given(st.dates())
def test_days_are_plain_dates(day: date) -> None:
    """A date is written as ISO 8601 says, and comes back; objects are taken as they are."""
    assert read(day=day.isoformat()).day == day
    assert Sample(day=day).day == day


@pytest.mark.parametrize(
    "value",
    [
        "1735689600",
        1735689600,
        "20260715",
        "2026-7-5",
        "2026-07-15T00:00:00",
        "2026-02-30",
        "2026-07-15 ",
        "",
        "٢٠٢٦-٠٧-١٥",
    ],
)
def test_other_days_are_refused(value: Any) -> None:
    """One date has one spelling: it names entities."""
    with pytest.raises(ValidationError):
        read(day=value)


INSTANTS = st.builds(
    lambda moment, minutes: moment.replace(tzinfo=timezone(timedelta(minutes=minutes))),
    st.datetimes().filter(lambda moment: 2 <= moment.year <= 9998),
    st.integers(-1439, 1439),
)


@given(INSTANTS)
def test_instants_are_read_alike_by_all(moment: datetime) -> None:
    """What a draft takes for `occurred_at` any reader reads as the same moment, which UTC can say too."""
    text = moment.isoformat()
    assert draft(occurred_at=text).occurred_at == text
    found = read(instant=text).instant
    assert found == datetime.fromisoformat(text)
    assert found is not None
    assert found.astimezone(UTC) == found


@pytest.mark.parametrize(
    "text", ["2026-07-15T10:04Z", "2026-07-15T10:04:00.123456789+09:00", "2026-07-15T10:04:00-00:00"]
)
def test_common_spellings_of_instants_are_accepted(text: str) -> None:
    """Seconds may be left out, and nanoseconds given."""
    assert draft(occurred_at=text).occurred_at == text
    assert read(instant=text).instant == datetime.fromisoformat(text)


@pytest.mark.parametrize(
    "value",
    [
        "2026-07-15T10:04:00",
        "2026-07-15",
        "1735689600",
        1735689600,
        "2026-07-15 10:04:00Z",
        "2026-07-15T10:04:00,5Z",
        "20260715T100400Z",
        "2026-W29-3T10:04:00Z",
        "2026-07-15T10Z",
        "2026-07-15T10:04:00+09",
        "2026-07-15T10:04:00+0900",
        "2026-07-15T10:04:00+24:00",
        "2026-07-15T24:00:00Z",
        "2026-02-30T10:04:00Z",
        "2026-07-15T10:04:00Z\n",
        "0001-01-01T00:00:00+09:00",
        "9999-12-31T23:59:59-09:00",
        "",
    ],
)
def test_other_instants_are_refused_everywhere_alike(value: Any) -> None:
    """What one parser takes and another does not must not be stored: its reader would stop there."""
    with pytest.raises(ValidationError):
        read(instant=value)
    with pytest.raises(ValidationError):
        draft(occurred_at=value)


def test_an_instant_object_needs_a_zone() -> None:
    """The same rule for code as for text."""
    with pytest.raises(ValidationError):
        Sample(instant=datetime(2026, 7, 15))  # noqa: DTZ001


@pytest.mark.parametrize(
    "fields",
    [
        {"event_id": "not-a-uuid"},
        {"event_id": "019f6c1e5c3b7a409d2e000000000001"},
        {"event_id": "019f6c1e-5c3b-7a40-9d2e-000000000001\n"},
        {"schema_version": "1"},
        {"schema_version": True},
        {"tenant_id": "a b"},
        {"tenant_id": "-a"},
        {"tenant_id": "ホテル"},
        {"targets": "hotel-pms"},
        {"targets": ["Hotel PMS"]},
        {"expected_revision": -1},
        {"entity": "room"},
        {"entity": "room:3 1"},
        {"device_id": ""},
        {"temp_id": "x" * 201},
        {"traceparent": "00-a\r\nX-Evil: 1"},
        {"priority": "LOW"},
        {"sync_mode": "later"},
        {"delivery_guarantee": "maybe"},
        {"created_offline": "yes"},
        {"surprise": 1},
        {"data": []},
        {"data": None},
        {"type": None},
    ],
)
def test_a_draft_is_strict(fields: dict[str, Any]) -> None:
    """Each field says one thing in one way, and there are no others."""
    with pytest.raises(ValidationError) as raised:
        draft(**fields)
    assert raised.value.errors()[0]["loc"][0] == next(iter(fields))


def test_event_ids_are_lower_case() -> None:
    """One id has one spelling: it is the de-duplication key."""
    assert draft(event_id="019F6C1E-5C3B-7A40-9D2E-00000000000A").event_id == "019f6c1e-5c3b-7a40-9d2e-00000000000a"
