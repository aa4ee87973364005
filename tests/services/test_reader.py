"""Pages against an oracle, and long polls that sleep through nothing."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from feed_rig import ENTITIES, KINDS, SYSTEM, TENANTS, Published, Rig, append, claims, turns, until

from hub.core.routing import Interest
from hub.log.stream_log import Head
from hub.security.tokens import Claims
from hub.services import reader
from hub.services.dispatcher import NOWHERE
from hub.services.reader import Page, Query, Reader
from schemas.cursor import Cursor, join
from schemas.errors import Problem

pytestmark = pytest.mark.server

BASE_MS = 1_784_077_441_000
EVERYTHING = frozenset({"*"})


def reader_of(rig: Rig) -> Reader:
    """A reader on the rig's log."""
    return Reader(rig.history, rig.dispatcher, rig.metrics)


def query(tenants: tuple[str, ...] = TENANTS, **fields: Any) -> Query:
    """What to read, everything by default."""
    patterns = frozenset(fields.pop("patterns", EVERYTHING))
    return Query(Interest(frozenset(tenants), patterns, fields.pop("entities", None)), tenants, **fields)


def place(entry: Any) -> tuple[str, int]:
    """An entry, in short."""
    return (entry.tenant_id, entry.sequence)


async def read_all(rig: Rig, who: Claims, asked: Query) -> list[tuple[str, int]]:
    """Every page after another, each with the `next` of the one before, until one is empty."""
    found: list[tuple[str, int]] = []
    for _ in range(10_000):
        page = await reader_of(rig).page(who, asked)
        assert len(page.entries) <= asked.limit
        assert page.gaps == []
        found += map(place, page.entries)
        if not page.entries and not page.more:
            return found
        asked = Query(asked.interest, asked.tenants, page.next, asked.from_ms, asked.to_ms, asked.limit)
    raise AssertionError("it does not end")


@pytest.mark.parametrize("chunk", [3, 500])
async def test_pages_are_what_an_oracle_says(rig: Rig, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Over tenants and partitions, every filter and limit: all events that fit, each tenant's in order, once."""
    monkeypatch.setattr(reader, "CHUNK", chunk)
    monkeypatch.setattr(reader, "MAX_SCANNED", chunk * 4)
    pick = random.Random(chunk)
    times: dict[tuple[str, int], int] = {}
    for n in range(120):
        targets = pick.choice([(SYSTEM,), (SYSTEM, "hotel-saas"), ("hotel-saas",)])
        at_ms = BASE_MS + n * 1000
        (event,) = await rig.publish(
            append(pick.choice(TENANTS), pick.choice(KINDS), pick.choice(ENTITIES), targets, at_ms=at_ms)
        )
        times[(event.tenant, event.sequence)] = at_ms
    for _ in range(60):
        who = claims(TENANTS, pick.choice(["hub", SYSTEM]))
        tenants = tuple(pick.sample(TENANTS, pick.randint(1, 4)))
        patterns = pick.choice([["*"], ["room.*"], ["order.placed", "room.price_updated"]])
        entities = pick.choice([None, frozenset({"room:1"}), frozenset({"room:2", "order:1"})])
        from_ms = pick.choice([None, None, BASE_MS + pick.randrange(120) * 1000])
        to_ms = pick.choice([None, None, BASE_MS + pick.randrange(120) * 1000])
        begin: dict[str, int] = {}
        after = None
        if pick.random() < 0.5:
            cursors = []
            for tenant in pick.sample(tenants, pick.randint(1, len(tenants))):
                theirs = [event for event in rig.published.values() if event.tenant == tenant]
                chosen = pick.choice(theirs)
                begin[tenant] = chosen.sequence
                cursors.append(chosen.cursor)
            after = join(cursors)
        asked = query(
            tenants,
            patterns=patterns,
            entities=entities,
            after=after,
            from_ms=from_ms,
            to_ms=to_ms,
            limit=pick.choice([1, 2, 7, 1000]),
        )
        interest = asked.interest

        def fits(
            event: Published,
            who: Claims = who,
            interest: Interest = interest,
            begin: dict[str, int] = begin,
            from_ms: int | None = from_ms,
            to_ms: int | None = to_ms,
        ) -> bool:
            at = times[(event.tenant, event.sequence)]
            return (
                interest.wants(event.tenant, *event.kind, event.entity)
                and (who.system == "hub" or who.system in event.targets)
                and event.sequence > begin.get(event.tenant, 0)
                and (from_ms is None or at >= from_ms)
                and (to_ms is None or at < to_ms)
            )

        expected = [spot for spot, event in rig.published.items() if fits(event)]
        found = await read_all(rig, who, asked)
        assert sorted(found) == sorted(expected)
        for tenant in tenants:
            mine = [number for name, number in found if name == tenant]
            assert mine == sorted(mine)


async def test_next_is_good_on_an_empty_page(rig: Rig) -> None:
    """An empty page's `next` continues exactly: from the end, and from the beginning of tenants without events."""
    read = reader_of(rig)
    page = await read.page(claims(), query())
    assert (page.entries, page.more) == ([], False)
    await rig.publish(append(), append(TENANTS[1]))
    page = await read.page(claims(), query(after=page.next))
    assert sorted(map(place, page.entries)) == [(TENANTS[0], 1), (TENANTS[1], 1)]
    page = await read.page(claims(), query(after=page.next))
    assert page.entries == []
    await rig.publish(append())
    page = await read.page(claims(), query(after=page.next))
    assert list(map(place, page.entries)) == [(TENANTS[0], 2)]


async def test_latest_begins_at_the_end(rig: Rig) -> None:
    """`latest` gives an empty page whose `next` has only what comes later."""
    await rig.publish(append())
    page = await reader_of(rig).page(claims(), query(after="latest"))
    assert page.entries == []
    await rig.publish(append())
    page = await reader_of(rig).page(claims(), query(after=page.next))
    assert list(map(place, page.entries)) == [(TENANTS[0], 2)]


async def test_a_rare_pattern_moves_on(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that looked at its limit of entries without a find is empty, has moved on, and says there is more."""
    monkeypatch.setattr(reader, "MAX_SCANNED", 10)
    await rig.publish(*[append() for _ in range(15)], append(kind=KINDS[2]))
    read = reader_of(rig)
    first = await read.page(claims(), query(patterns=["order.*"]))
    assert (first.entries, first.more) == ([], True)
    second = await read.page(claims(), query(patterns=["order.*"], after=first.next))
    assert list(map(place, second.entries)) == [(TENANTS[0], 16)]


async def test_a_tenant_far_behind_holds_nobody_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events of others were read already since a tenant's own place, each page moves on."""
    monkeypatch.setattr(reader, "MAX_SCANNED", 10)
    neighbour = TENANTS[1]
    assert rig.log.partition(neighbour) == rig.log.partition(TENANTS[0])
    await rig.publish(append(neighbour), *[append() for _ in range(45)], append(neighbour, KINDS[2]), append())
    start = query(
        (TENANTS[0], neighbour),
        patterns=["order.*"],
        after=join([rig.published[(TENANTS[0], 45)].cursor, rig.published[(neighbour, 1)].cursor]),
    )
    assert await read_all(rig, claims(), start) == [(neighbour, 2)]


async def test_a_hole_is_told_with_the_page(rig: Rig) -> None:
    """What was trimmed by hand is a gap of the page, whose `resume_from` continues without another."""
    await rig.publish(*[append() for _ in range(10)])
    seventh = Cursor.decode(rig.published[(TENANTS[0], 7)].cursor)
    key = rig.log.keys.events(rig.log.partition(TENANTS[0]))
    await rig.log.source.client.execute_command("XTRIM", key, "MINID", "=", str(seventh.id))
    read, mine = reader_of(rig), (TENANTS[0],)
    zero = rig.log.cursor(TENANTS[0], NOWHERE)
    for after in (zero, rig.published[(TENANTS[0], 3)].cursor):
        page = await read.page(claims(), query(mine, after=after))
        assert [entry.sequence for entry in page.entries] == [7, 8, 9, 10]
        assert {gap["tenant_id"] for gap in page.gaps} == {TENANTS[0]}
        again = await read.page(claims(), query(mine, after=page.gaps[-1]["resume_from"]))
        assert ([entry.sequence for entry in again.entries], again.gaps) == ([7, 8, 9, 10], [])
    future = rig.log.cursor(TENANTS[0], Head(99, seventh.id))
    page = await read.page(claims(), query(mine, after=future))
    assert [gap["reason"] for gap in page.gaps] == ["future"]


@pytest.mark.parametrize("after", ["x", "1" * 51, "latest.latest"])
async def test_a_broken_cursor_is_refused(rig: Rig, after: str) -> None:
    """A cursor that is none, or another tenant's, is refused."""
    (event,) = await rig.publish(append(TENANTS[1]))
    for one in (after, event.cursor):
        with pytest.raises(Problem) as refused:
            await reader_of(rig).page(claims(), query((TENANTS[0],), after=one))
        assert refused.value.code == "invalid_cursor"


async def test_interests_stay_within_the_token(rig: Rig) -> None:
    """By default all that the token allows; what it does not allow is refused, as are too many tenants."""
    read, few = reader_of(rig), claims(TENANTS[:2], SYSTEM, ["subscribe:room.*", "publish:order.*"])
    interest, tenants = await read.interest(few)
    assert (interest.patterns, tenants) == (frozenset({"room.*"}), tuple(sorted(TENANTS[:2])))
    interest, tenants = await read.interest(few, wanted=["room.placed"], tenants=[TENANTS[1]], entities=["room:1"])
    assert interest == Interest(frozenset({TENANTS[1]}), frozenset({"room.placed"}), frozenset({"room:1"}))
    await rig.publish(append(TENANTS[3]))
    assert (await read.interest(claims()))[1] == (TENANTS[3],)
    for asked in ({"wanted": ["order.*"]}, {"wanted": ["*"]}, {"tenants": [TENANTS[2]]}):
        with pytest.raises(Problem) as refused:
            await read.interest(few, **asked)
        assert refused.value.code == "forbidden"
    with pytest.raises(Problem):
        await read.interest(claims(TENANTS, SYSTEM, ["publish:*"]))
    with pytest.raises(Problem) as refused:
        await read.interest(claims([f"t-{n}" for n in range(65)]))
    assert refused.value.code == "invalid_request"


async def test_one_event_is_found_by_those_it_is_for(rig: Rig) -> None:
    """Its targets with the scope, and the system that published it; nobody else, nor under another tenant."""
    one = append(targets=["hotel-saas"], updated_by_system=SYSTEM)
    await rig.publish(one)
    read = reader_of(rig)

    async def finds(who: Claims, tenants: tuple[str, ...] = TENANTS) -> bool:
        return await read.find(who, one.event_id, tenants) is not None

    assert await finds(claims(TENANTS, "hotel-saas"))
    assert await finds(claims(TENANTS, SYSTEM, []))
    assert await finds(claims())
    assert not await finds(claims(TENANTS, "hotel-member"))
    assert not await finds(claims(TENANTS, "hotel-saas", ["subscribe:order.*"]))
    assert not await finds(claims(TENANTS, "hotel-saas"), TENANTS[1:])


# Long polls


async def test_a_long_poll_wakes_on_an_event(rig: Rig) -> None:
    """It waits for an event that fits, through others that do not, and returns it."""
    read = reader_of(rig)
    polling = asyncio.create_task(read.wait(claims(), query(patterns=["order.*"]), 15, asyncio.Event()))
    await turns(20)
    await rig.publish(append())
    await rig.routed()
    await turns(20)
    assert not polling.done()
    await rig.publish(append(kind=KINDS[2]))
    async with asyncio.timeout(10):
        page = await polling
    assert list(map(place, page.entries)) == [(TENANTS[0], 2)]
    assert rig.dispatcher._waiters == {}


async def test_nothing_is_slept_through(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is stored after the page was read and before the wait begins ends the wait."""
    read = reader_of(rig)
    real = read.page

    async def late(who: Claims, asked: Query) -> Any:
        page = await real(who, asked)
        if not page.entries:
            await rig.publish(append())
            await rig.routed()
        return page

    monkeypatch.setattr(read, "page", late)
    async with asyncio.timeout(10):
        page = await read.wait(claims(), query(), 15, asyncio.Event())
    assert list(map(place, page.entries)) == [(TENANTS[0], 1)]


async def test_many_polls_see_every_event(rig: Rig) -> None:
    """Pollers that go on with `next` while events are stored see each of them once and in order."""
    read, total = reader_of(rig), 200

    async def poll() -> list[int]:
        asked = query((TENANTS[0],), limit=7)
        found: list[int] = []
        while len(found) < total:
            page = await read.wait(claims(), asked, 15, asyncio.Event())
            assert page.gaps == []
            found += [entry.sequence for entry in page.entries]
            asked = query((TENANTS[0],), limit=7, after=page.next)
        return found

    async with asyncio.timeout(20):
        pollers = [asyncio.create_task(poll()) for _ in range(5)]
        for _ in range(total // 4):
            await rig.publish(*[append() for _ in range(4)])
        for found in await asyncio.gather(*pollers):
            assert found == list(range(1, total + 1))


async def test_a_poll_ends_with_its_time_and_with_the_hub(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an event it returns an empty page with a good `next`, at once when the hub stops."""
    read, stopping = reader_of(rig), asyncio.Event()
    page = await read.wait(claims(), query(), 0, stopping)
    assert page.entries == []
    polling = asyncio.create_task(read.wait(claims(), query(), 30, stopping))
    await turns(10)
    stopping.set()
    async with asyncio.timeout(10):
        page = await polling
    assert page.entries == []
    assert Cursor.decode(page.next.split(".")[0]).sequence == 0
    # Python 3.11 loses a cancellation that comes amid a command to the log: this one comes when its page is read.
    waits, page_of = asyncio.Event(), read.page

    async def told(*asked: Any) -> Page:
        try:
            return await page_of(*asked)
        finally:
            waits.set()

    monkeypatch.setattr(read, "page", told)
    cancelled = asyncio.create_task(read.wait(claims(), query(), 30, asyncio.Event()))
    await waits.wait()
    cancelled.cancel()
    async with asyncio.timeout(10):
        await asyncio.gather(cancelled, return_exceptions=True)
    assert cancelled.cancelled()
    await until(lambda: rig.dispatcher._waiters == {})
