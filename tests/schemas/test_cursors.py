"""Cursors: positions that survive the journey through a client."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.cursor import ZERO, Cursor, StreamId, join, split, tenant_mark
from schemas.errors import Problem

TENANTS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
IDS = st.builds(StreamId, st.integers(0, 2**48 - 1), st.integers(0, 2**32 - 1))
EPOCHS = st.integers(0, 2**32 - 1)
SEQUENCES = st.integers(0, 2**48 - 1)
CURSORS = st.builds(Cursor.of, EPOCHS, TENANTS, SEQUENCES, IDS)


def refused(text: object, tenant: str | None = None) -> Problem:
    """The problem `text` is refused with."""
    with pytest.raises(Problem) as raised:
        Cursor.decode(text, tenant)  # type: ignore[arg-type]
    assert raised.value.code == "invalid_cursor"
    assert raised.value.status == 422
    return raised.value


@given(EPOCHS, TENANTS, SEQUENCES, IDS)
def test_a_cursor_comes_back_as_it_went(epoch: int, tenant: str, sequence: int, id: StreamId) -> None:
    """Encoding loses nothing and needs no escaping in a URL."""
    cursor = Cursor.of(epoch, tenant, sequence, id)
    text = cursor.encode()
    assert re.fullmatch(r"[0-9a-z]+", text)
    assert Cursor.decode(text) == cursor
    assert Cursor.decode(text, tenant) == cursor
    assert cursor == (epoch, tenant_mark(tenant), sequence, id)


@given(EPOCHS, TENANTS, st.lists(st.tuples(SEQUENCES, IDS), min_size=2, max_size=8))
def test_cursors_sort_as_text_in_the_order_of_events(
    epoch: int, tenant: str, positions: list[tuple[int, StreamId]]
) -> None:
    """Within a tenant and an epoch the opaque form can be compared."""
    ordered = sorted(positions)
    texts = [Cursor.of(epoch, tenant, sequence, id).encode() for sequence, id in ordered]
    assert texts == sorted(texts)


@given(CURSORS, st.data())
def test_a_damaged_cursor_is_refused(cursor: Cursor, data: st.DataObject) -> None:
    """No single character can be changed, left out or doubled unnoticed."""
    text = cursor.encode()
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("0123456789abcdefABCDEF.-~ \n"))
    assume(other != text[place])
    refused(text[:place] + other + text[place + 1 :])
    refused(text[:place] + text[place + 1 :])
    refused(text[:place] + text[place] + text[place:])


@given(CURSORS, TENANTS)
def test_a_cursor_is_its_tenants_alone(cursor: Cursor, tenant: str) -> None:
    """Used for another tenant a cursor is refused: its sequence would mean something else there."""
    assume(tenant_mark(tenant) != cursor.tenant)
    assert tenant in refused(cursor.encode(), tenant).detail


@pytest.mark.parametrize("text", ["", "latest", "0-0", "1" * 51, "2" + "0" * 50, " " * 51, "１" * 51, None, 7, b"1"])
def test_what_is_no_cursor_is_refused(text: object) -> None:
    """Nothing but a cursor is read as one."""
    refused(text)


@given(st.dictionaries(TENANTS, st.tuples(EPOCHS, SEQUENCES, IDS), min_size=1, max_size=5))
def test_a_joined_cursor_comes_apart(positions: dict[str, tuple[int, int, StreamId]]) -> None:
    """A cursor over several tenants gives each its own, whatever the order; one tenant's is its plain cursor."""
    assume(len({tenant_mark(tenant) for tenant in positions}) == len(positions))
    cursors = {tenant: Cursor.of(epoch, tenant, sequence, id) for tenant, (epoch, sequence, id) in positions.items()}
    text = join([cursor.encode() for cursor in cursors.values()])
    assert split(text, [*reversed(positions), "nobody.at.all"]) == cursors
    assert re.fullmatch(r"[0-9a-z.]+", text)


@pytest.mark.parametrize("tail", [".", ".x", "..", ".latest"])
def test_a_joined_cursor_with_a_bad_part_is_refused(tail: str) -> None:
    """One bad part is not passed over: its tenant would resume in the wrong place."""
    good = Cursor.of(1, "a", 5, StreamId(9, 0)).encode()
    with pytest.raises(Problem):
        split(good + tail, ["a"])
    with pytest.raises(Problem):
        split("", ["a"])


def test_a_joined_cursor_of_a_stranger_is_refused() -> None:
    """A cursor of a tenant that was not asked for is a mistake of the client's."""
    texts = [Cursor.of(1, tenant, 5, StreamId(9, 0)).encode() for tenant in ("a", "b")]
    with pytest.raises(Problem, match="another tenant"):
        split(join(texts), ["a"])


@pytest.mark.parametrize(("text", "id"), [("5-7", (5, 7)), (b"1784077440123-0", (1784077440123, 0)), ("5", (5, 0))])
def test_stream_ids_are_read_as_redis_writes_them(text: str | bytes, id: tuple[int, int]) -> None:
    """As text and as bytes; a bare time is its first id."""
    assert StreamId.parse(text) == id


def test_stream_ids_order_by_time_then_number() -> None:
    """Ids compare as numbers, not as text."""
    assert ZERO < StreamId(9, 5) < StreamId(9, 10) < StreamId(10, 0)
    assert str(StreamId(9, 10)) == "9-10"
