"""Which entries are events."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from hub.core.entry import Entry
from schemas.cursor import StreamId

GOOD: dict[str, Any] = {
    "type": "room",
    "schema_version": 1,
    "targets": ["hotel-pms"],
    "data": {"updated_by_system": "hotel-pms"},
}


def entry(raw: Any) -> Entry:
    """An entry with this body."""
    return Entry(StreamId(1, 0), 1, "t", 1, 1, "room", "changed", "room:1", "e", 1, raw)


def test_an_envelope_is_readable() -> None:
    """Also one that another release wrote in another order."""
    assert entry(orjson.dumps(GOOD)).readable
    assert entry(orjson.dumps(GOOD)).published_by("hotel-pms")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\x00",
        b"null",
        b"7",
        b'"text"',
        b"[]",
        b"{}",
        None,
        "text",
        7,
        orjson.dumps(GOOD)[:-3],
        *(
            orjson.dumps(GOOD | {name: value})
            for name in GOOD
            for value in (None, "xxx", 1.5, [1], [[]], {})
            if not (name == "type" and isinstance(value, str)) and not (name == "data" and value == {})
        ),
        *(orjson.dumps({key: value for key, value in GOOD.items() if key != name}) for name in GOOD),
    ],
)
def test_what_is_damaged_is_not_readable(raw: Any) -> None:
    """Whatever stands where an envelope should: nothing is raised, and it is nobody's."""
    found = entry(raw)
    assert not found.readable
