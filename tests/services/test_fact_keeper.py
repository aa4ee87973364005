"""Keeping the facts: in order, once each, from wherever the last keeper came to, by the calendar of the property."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from sqlalchemy import text

from hub.core.calendar import number_of
from hub.core.entry import Entry
from hub.core.said import UNITS
from hub.core.stays import Stay
from hub.services import fact_keeper
from hub.services.fact_keeper import FactKeeper
from hub.store.archive import Batch, Place
from hub.store.database import Database, StoreUnavailable, store_url
from hub.store.facts import FactPlace
from hub.store.places import START, Fenced, Mark
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId

TENANT, EPOCH = "naha", 7
JULY_1 = datetime(2026, 7, 1, 3, tzinfo=UTC)
"""Noon in Tokyo."""
T0 = int(JULY_1.timestamp() * 1000)
DAY0 = number_of(JULY_1.date())
DAY = 86_400_000
TOKYO = ("Asia/Tokyo", 5)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store on SQLite."""
    made = Store(Database(store_url(None, tmp_path)))
    await made.open()
    yield made
    await made.aclose()


def booked(sequence: int, *, id: str = "R1", place: int | None = None, **changes: Any) -> Entry:
    """The `sequence`th event: a booking for as much as that; a minute after the one before, or at another place."""
    data: dict[str, Any] = {
        "room_type": "twin",
        "checkin_date": "2026-07-03",
        "checkout_date": "2026-07-04",
        "status": "confirmed",
    }
    data |= {"total_amount": sequence, "origin": "ota"}
    return entry(sequence, "reservation", "updated", f"reservation:{id}", data | changes, place=place)


def entry(
    sequence: int,
    type: str,
    action: str,
    entity: str,
    data: Any,
    *,
    place: int | None = None,
    event_id: int | None = None,
) -> Entry:
    """An event."""
    ms = T0 + 60_000 * (sequence if place is None else place)
    key = str(UUID(int=event_id or sequence))
    envelope = {"event_id": key, "schema_version": 1, "tenant_id": TENANT, "type": type, "action": action}
    envelope |= {"occurred_at": datetime.fromtimestamp(ms / 1000, UTC).isoformat(), "entity": entity, "data": data}
    raw = data if isinstance(data, bytes) else orjson.dumps(envelope)
    return Entry(StreamId(ms, 0), EPOCH, TENANT, sequence, sequence, type, action, entity, key, ms, raw)


async def archive(store: Store, *entries: Entry, at: Entry | None = None) -> None:
    """Archive what follows on `at`."""
    place = Place(0, ZERO) if at is None else Place(EPOCH, at.id)
    await store.archive.write([Batch(0, place, entries, EPOCH, entries[-1].id)])


async def stays(store: Store, *ids: str) -> dict[str, Stay]:
    """What the facts have of them."""
    number = await store.archive.number(TENANT)
    assert number is not None
    return await store.facts.stays(number, ids or ("R1",))


def keeper(store: Store, calendar: tuple[str, int] = TOKYO) -> FactKeeper:
    """One for a property in Tokyo."""
    return FactKeeper(store, lambda _: calendar)


async def test_facts_are_true_up_to_the_archives_end(store: Store) -> None:
    """It says where that is; what was archived since then is folded the next time, and nothing twice."""
    first, second, third = (booked(number) for number in (1, 2, 3))
    await archive(store, first, second)
    keep = keeper(store)
    assert await keep.catch_up(TENANT) == Mark(EPOCH, 2, second.id)
    assert (await stays(store))["R1"].amount == 2 * UNITS
    assert await keep.catch_up(TENANT) == Mark(EPOCH, 2, second.id)
    await archive(store, third, at=second)
    assert await keeper(store).catch_up(TENANT) == Mark(EPOCH, 3, third.id)
    assert (await stays(store))["R1"].amount == 3 * UNITS


async def test_several_transactions_make_one_history(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many events a transaction takes, charges are counted once and stays as they were said last."""
    monkeypatch.setattr(fact_keeper, "MAX_BATCH", 3)
    events = [booked(number, id=f"R{number % 2}") for number in range(1, 11)]
    events += [entry(number, "billing", "charged", "billing:F", {"amount": 1}) for number in range(11, 22)]
    await archive(store, *events)
    await keeper(store).catch_up(TENANT)
    found = await stays(store, "R0", "R1")
    assert {id: stay.amount for id, stay in found.items()} == {"R0": 10 * UNITS, "R1": 9 * UNITS}
    assert await charged(store) == 11 * UNITS


async def charged(store: Store) -> int:
    """The sum of all charges."""
    async with store.database.reading() as connection:
        return int((await connection.execute(text("SELECT SUM(amount) FROM charges"))).scalar_one())


async def test_any_number_of_keepers_count_an_event_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several tasks of several hubs catch up at once: all come to the end, and every charge is there once."""
    monkeypatch.setattr(fact_keeper, "MAX_BATCH", 5)
    events = [entry(number, "billing", "charged", "billing:F", {"amount": 1}) for number in range(1, 61)]
    await archive(store, *events)
    keepers = [keeper(store) for _ in range(3)]
    ends = await asyncio.gather(*(keep.catch_up(TENANT) for keep in keepers for _ in range(2)))
    assert set(ends) == {Mark(EPOCH, 60, events[-1].id)}
    assert await charged(store) == 60 * UNITS


async def test_a_keeper_that_was_overtaken_begins_where_the_other_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another hub stores the same events between reading and writing: nothing is lost, nothing counted twice."""
    event = entry(1, "billing", "charged", "billing:F", {"amount": 1})
    await archive(store, event)
    write, raised = store.facts.write, []

    async def overtaken(*args: Any) -> None:
        monkeypatch.setattr(store.facts, "write", write)
        await keeper(store).catch_up(TENANT)
        with pytest.raises(Fenced) as refused:
            await write(*args)
        raised.append(refused)
        raise refused.value

    monkeypatch.setattr(store.facts, "write", overtaken)
    assert await keeper(store).catch_up(TENANT) == Mark(EPOCH, 1, event.id)
    assert len(raised) == 1
    assert await charged(store) == UNITS


async def test_events_at_passed_places_are_folded_in_their_turn(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with its clock behind took over: later events lie before earlier ones, and still are the last word."""
    monkeypatch.setattr(fact_keeper, "MAX_BATCH", 2)
    ahead = [booked(number, place=number + 1000) for number in (1, 2, 3)]
    behind = [booked(number, place=number) for number in (4, 5, 6)]
    keep = keeper(store)
    await archive(store, *ahead)
    await keep.catch_up(TENANT)
    place = Place(EPOCH, ahead[-1].id)
    await store.archive.write([Batch(0, place, behind, EPOCH, ahead[-1].id)])
    assert await keep.catch_up(TENANT) == Mark(EPOCH, 6, behind[-1].id)
    assert (await stays(store))["R1"].amount == 6 * UNITS
    assert await keep.catch_up(TENANT) == Mark(EPOCH, 6, behind[-1].id)

    more = booked(7, place=2000)
    await store.archive.write([Batch(0, place, [more], EPOCH, more.id)])
    assert await keep.catch_up(TENANT) == Mark(EPOCH, 7, more.id)
    assert (await stays(store))["R1"].amount == 7 * UNITS


async def test_what_cannot_be_read_stops_nothing(store: Store) -> None:
    """Damaged bodies, events that are stored already and types that do not matter move the place alone."""
    again = entry(4, "billing", "charged", "billing:F", {"amount": 1}, event_id=3)
    events = [
        entry(1, "reservation", "created", "reservation:R1", b"{no json"),
        entry(2, "customer", "updated", "customer:C1", {"customer_id": "C1"}),
        entry(3, "billing", "charged", "billing:F", {"amount": 1}),
        again,
        booked(5, total_amount="five"),
        booked(6),
    ]
    await archive(store, *events)
    assert await keeper(store).catch_up(TENANT) == Mark(EPOCH, 6, events[-1].id)
    assert (await stays(store))["R1"].amount == 6 * UNITS
    assert await charged(store) == UNITS


async def test_another_calendar_makes_the_facts_anew(store: Store) -> None:
    """The days of a property that moved, or whose day turns at another hour, are those of its new calendar."""
    events = [
        booked(1),
        entry(2, "checkin_checkout", "checked_in", "reservation:R1", {}, place=16 * 60),
        entry(3, "billing", "charged", "billing:F", {"amount": 1}, place=16 * 60 + 1),
    ]
    await archive(store, *events)
    calendars = [TOKYO]
    keep = FactKeeper(store, lambda _: calendars[-1])
    await keep.catch_up(TENANT)
    assert (await stays(store))["R1"].arrived_day == DAY0
    calendars.append(("Asia/Tokyo", 3))
    await keep.catch_up(TENANT)
    assert (await stays(store))["R1"].arrived_day == DAY0 + 1
    calendars.append(("America/Los_Angeles", 3))
    assert await keep.catch_up(TENANT) == Mark(EPOCH, 3, events[-1].id)
    assert (await stays(store))["R1"].arrived_day == DAY0
    assert await charged(store) == UNITS


async def test_it_begins_after_what_the_retention_removed(store: Store) -> None:
    """Events that expired before they were folded are passed over."""
    old, new = booked(1), booked(2, place=40 * 24 * 60)
    await archive(store, old, new)
    await store.archive.expire(new.id.ms - DAY)
    assert await keeper(store).catch_up(TENANT) == Mark(EPOCH, 2, new.id)
    found = (await stays(store))["R1"]
    assert (found.amount, found.created_day) == (2 * UNITS, DAY0 + 40)


async def test_of_a_tenant_whose_events_all_expired_nothing_is_known(store: Store) -> None:
    """The facts are true up to its end all the same."""
    last = booked(2)
    await archive(store, booked(1), last)
    await store.archive.expire(last.id.ms + 40 * DAY)
    assert await keeper(store).catch_up(TENANT) == Mark(EPOCH, 2, last.id)
    assert await stays(store) == {}


async def test_a_store_that_is_away_is_told_of_and_caught_up_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not stored is folded again."""
    await archive(store, booked(1))
    keep = keeper(store)

    async def away(*_: Any) -> None:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(store.facts, "write", away)
        with pytest.raises(StoreUnavailable):
            await keep.catch_up(TENANT)
    await keep.catch_up(TENANT)
    assert (await stays(store))["R1"].amount == UNITS


async def test_nobody_is_at_the_beginning(store: Store) -> None:
    """A tenant without archived events has no facts, and no number is made for it."""
    assert await keeper(store).catch_up("nobody") == START
    await archive(store, booked(1))
    number = await store.archive.number(TENANT)
    assert number is not None
    assert await store.facts.reached(number) is None
    await keeper(store).catch_up(TENANT)
    assert await store.facts.reached(number) == FactPlace(1, Mark(EPOCH, 1, booked(1).id), *TOKYO)
