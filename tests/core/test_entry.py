"""Which entries are events."""

from __future__ import annotations

from collections.abc import Iterator
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

BAD: tuple[Any, ...] = (None, 1.5, [1], [[]])


def entry(raw: Any) -> Entry:
    """An entry with this body."""
    return Entry(StreamId(1, 0), 1, "t", 1, 1, "room", "changed", "room:1", "e", 1, raw)


def test_an_envelope_is_readable() -> None:
    """Also one that another release wrote in another order."""
    assert entry(orjson.dumps(GOOD)).readable
    assert entry(orjson.dumps(GOOD)).published_by("hotel-pms")


def broken() -> Iterator[Any]:
    """Bodies that are no envelope."""
    yield from (b"", b"\xff\x00", b"null", b"7", b'"text"', b"[]", b"{}", None, "text", 7, orjson.dumps(GOOD)[:-3])
    for name in GOOD:
        yield orjson.dumps({key: value for key, value in GOOD.items() if key != name})
        for value in BAD:
            yield orjson.dumps(GOOD | {name: value})
    for name in ("schema_version", "targets", "data"):
        yield orjson.dumps(GOOD | {name: "text"})


@pytest.mark.parametrize("raw", list(broken()))
def test_what_is_damaged_is_not_readable(raw: Any) -> None:
    """Whatever stands where an envelope should: nothing is raised."""
    assert not entry(raw).readable
