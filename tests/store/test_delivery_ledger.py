"""The ledger's contract, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from archive_bench import Open

from hub.core.delivery import WIDTHS_MS, Row, Subscriber, row
from hub.store.database import Database
from hub.store.ledger import Ledger, Moved, Watched
from schemas.cursor import StreamId

T = 1_790_000_000_000
DAY = 86_400_000


@pytest.fixture
def ledger(database: Database) -> Ledger:
    """A ledger with nothing in it."""
    return Ledger(database)


def made(
    id: int | str, first: int, last: int | None = None, kind: str = "sent", partition: int = 0, **more: Any
) -> Row:
    """A row over places `T + first` to `T + last`."""
    fields: dict[str, Any] = {"hub": "h", "first_ms": T + first} | more
    end = first if last is None else last
    return row(str(id).encode(), kind, partition, StreamId(T + first, 0), StreamId(T + end, 0), **fields)


async def covering(ledger: Ledger, ms: int, partition: int = 0, **more: Any) -> set[bytes]:
    """The ids of the rows that cover a place."""
    place = StreamId(T + ms, 0)
    rows = await ledger.covering(partition, place, place, **more)
    return {one.id for one in rows if one.first <= place <= one.last}


async def test_a_row_comes_back_as_it_was_written(ledger: Ledger) -> None:
    """Every column, also those that are null."""
    whole = made(
        1,
        5,
        9,
        last_ms=T + 20,
        tenant_id="t",
        event_id="e",
        system="s",
        channel="c",
        session="x",
        name="n",
        ref="r",
        interest="[]",
        events=2,
        attempts=3,
        error="é\x01",
    )
    bare = made(2, 7)
    await ledger.write([whole, bare])
    assert sorted(await ledger.covering(0, StreamId(T + 7, 0), StreamId(T + 7, 0))) == [whole, bare]
    assert await ledger.count() == 2


async def test_a_growing_row_is_one(ledger: Ledger) -> None:
    """Written again it has the new end, and no second one stands beside it; in one write, too."""
    await ledger.write([made(1, 0, 5), made(1, 0, 10, events=3)])
    await ledger.write([made(1, 0, 90_000, last_ms=T + 99, attempts=1)])
    (found,) = await ledger.covering(0, StreamId(T + 80_000, 0), StreamId(T + 80_000, 0))
    assert (found.last, found.width, found.last_ms, found.attempts) == (StreamId(T + 90_000, 0), 1, T + 99, 1)


async def test_ranges_are_found_by_any_place_in_them(ledger: Ledger) -> None:
    """However long they are; those of other places and partitions are not."""
    lengths = [0, 1, *(step + off for step in WIDTHS_MS for off in (-1, 0, 1)), 400 * DAY]
    await ledger.write([made(length, 0, length) for length in lengths])
    await ledger.write([made("other", 0, 10, partition=1), made("before", -50, -1), made("later", 1, 9)])
    for place in (0, *lengths):
        expected = {str(length).encode() for length in lengths if length >= place} | (
            {b"later"} if 1 <= place <= 9 else set()
        )
        assert await covering(ledger, place) == expected, place
    assert await covering(ledger, 5, partition=1) == {b"other"}


async def test_a_stretch_finds_what_touches_it(ledger: Ledger) -> None:
    """Ranges that end or begin within two places, and those around both; kinds may be left out."""
    await ledger.write(
        [made("a", 0, 10), made("b", 5, 50), made("c", 20, 22), made("d", 31, 40), made("e", 0, 100_000)]
    )
    await ledger.write([made("r", 20, kind="routed")])
    rows = await ledger.covering(0, StreamId(T + 11, 0), StreamId(T + 30, 0), without=["routed"])
    assert {one.id for one in rows} == {b"b", b"c", b"e"}
    assert b"r" in await covering(ledger, 20)


async def test_failures_are_paged_by_time(ledger: Ledger) -> None:
    """In the order they came, every one once, also where several came in one millisecond."""
    rows = [made(number, 0, kind="dead_lettered", first_ms=T + number // 3) for number in range(10)]
    await ledger.write([*rows, made("no", 0, kind="handled", first_ms=T + 1)])
    found: list[Row] = []
    after = (0, b"")
    while page := await ledger.page(["dead_lettered", "discarded"], T, T + 3, after, 2):
        found += page
        after = (page[-1].last_ms, page[-1].id)
    assert [one.id for one in found] == [str(number).encode() for number in range(9)]
    assert await ledger.page(["dead_lettered"], T + 4, T + 9, (0, b""), 2) == []


async def test_open_redriven_letters_are_told(ledger: Ledger) -> None:
    """Until it is written what became of them."""
    one = made(1, 0, kind="redriven", ref="9-0")
    await ledger.write([one, made(2, 0, kind="redriven", first_ms=T - DAY)])
    assert await ledger.redriven(T - 1) == [one]
    await ledger.write([one._replace(attempts=1)])
    assert await ledger.redriven(T - 1) == []


async def test_letters_are_told_by_their_group(ledger: Ledger) -> None:
    """Of one group and partition, later than a place."""
    for id, group, partition in (("a", "g", 0), ("b", "g", 1), ("c", "h", 0)):
        await ledger.write([made(id, 0, kind="dead_lettered", partition=partition, name=group, ref=id, first_ms=T)])
    assert await ledger.letters("g", 0, StreamId(T - 1, 0)) == {"a"}
    assert await ledger.letters("g", 0, StreamId(T + 1, 0)) == set()


async def test_one_of_two_followers_gets_on(open_database: Open) -> None:
    """Rows and a group's place are stored together, and only from where the writer believed it to be."""
    one, other = Ledger(await open_database()), Ledger(await open_database())
    begun = Watched("g", 0, StreamId(T, 1), StreamId(0, 0), 0, T)
    moved = Watched("g", 0, StreamId(T, 9), StreamId(T, 2), 1, T + 5)
    await one.advance([(None, begun)], [made(1, 0)])
    for before in (None, moved):
        with pytest.raises(Moved):
            await other.advance([(before, moved)], [made(2, 0)])
    assert await other.watched() == {("g", 0): begun}
    assert await other.count() == 1
    await other.advance([(begun, moved)], [made(2, 0)])
    assert await one.watched() == {("g", 0): moved}
    assert await one.count() == 2


async def test_subscriptions_are_kept_by_name(ledger: Ledger) -> None:
    """The last that was written of each, by system and tenant."""
    first = Subscriber("s", "n", "t", "[]", 1, StreamId(T, 0), T)
    later = Subscriber("s", "n", "t", "[{}]", 5, StreamId(T + 5, 2), T + 9)
    other = Subscriber("s2", "n", "u", "[]", 1, StreamId(T, 0), T)
    await ledger.write([], [first, other])
    await ledger.write([], [later])
    assert await ledger.subscribers(["t"], ["s", "s2"]) == [later]
    assert await ledger.subscribers(None, ["s2"]) == [other]
    assert sorted(one.name for one in await ledger.subscribers(None, None)) == ["n", "n"]


async def test_old_rows_expire(ledger: Ledger) -> None:
    """By when they were last written, of every kind; subscriptions that acknowledge nothing any more, too."""
    await ledger.write(
        [made("old", 0), made("grown", 0, last_ms=T + 10), made("letter", 0, kind="dead_lettered"), made("new", 20)],
        [
            Subscriber("s", "old", "t", "[]", 1, StreamId(T, 0), T),
            Subscriber("s", "n", "t", "[]", 1, StreamId(T, 0), T + 10),
        ],
    )
    assert await ledger.expire(T + 10) == 2
    assert await covering(ledger, 0) == {b"grown"}
    assert [one.name for one in await ledger.subscribers(None, None)] == ["n"]
    assert await ledger.expire(T + 10) == 0
