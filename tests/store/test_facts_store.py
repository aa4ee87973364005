"""The facts in the store: figures out of SQL as counted by hand, late days, and one writer at a time."""

from __future__ import annotations

import random
from datetime import date, timedelta
from decimal import Decimal

import pytest
from archive_bench import Open, change
from fact_house import CALENDAR, FIRST, ROLLOVER, TENANT, ZONE, House, counted, live, ms, said_by

from hub.core.calendar import Period, day_of
from hub.core.facts import Folding
from hub.core.figures import Figures
from hub.services.fact_keeper import FactKeeper
from hub.store.database import Database
from hub.store.facts import FactPlace, LateDay
from hub.store.places import START, Fenced, Mark
from hub.store.store import Store
from schemas.cursor import StreamId

JULY = Period(FIRST, date(2026, 7, 31))


@pytest.fixture
def store(database: Database) -> Store:
    """A store with the tables."""
    return Store(database)


def keeper(store: Store) -> FactKeeper:
    """One that knows the property's calendar."""
    return FactKeeper(store, lambda _: (ZONE, ROLLOVER))


async def figures(store: Store, period: Period = JULY, *, rooms: int | None = None, tenant: str = TENANT) -> Figures:
    """What the store says."""
    return await store.facts.figures(
        tenant, period, currency="JPY", rooms=rooms, zone=CALENDAR.zone, rollover_hour=ROLLOVER
    )


@pytest.mark.parametrize("seed", range(4))
async def test_figures_are_those_that_are_counted_by_hand(store: Store, seed: int) -> None:
    """A hotel's life at random, folded in several goes beside another hotel's: every figure of every kind of period."""
    chance = random.Random(seed)
    other = House("other")
    keep = keeper(store)
    live(other, 50, random.Random(99))
    await other.archive(store)
    house = House(place=other.place)
    for _ in range(3):
        live(house, 150, chance)
        await house.archive(store)
        await keep.catch_up(TENANT)
    await keep.catch_up("other")
    folding = house.folded()
    assert len(folding.stays) > 20
    starts = [FIRST + timedelta(days=chance.randrange(0, 40)) for _ in range(4)]
    periods = [JULY, *(Period(day, day) for day in starts), *(Period(day, day + timedelta(days=6)) for day in starts)]
    for period in periods:
        for rooms in (None, 4):
            found = await figures(store, period, rooms=rooms)
            assert said_by(found) == counted(folding, period, "JPY", rooms)
    assert (await figures(store)).other_currencies == ("EUR", "USD")
    assert {one.day: (one.events, one.sequence) for one in await store.facts.late(TENANT)} == {
        day_of(day): (events, sequence) for day, events, sequence in folding.late
    }


async def test_a_tenant_without_facts_sold_nothing(store: Store) -> None:
    """Nobody that the store knows has zeros everywhere, but for the rooms that it says it has."""
    found = await figures(store, tenant="nobody")
    assert said_by(found) == {"totals": {}, "origins": {}, "kinds": {}, "days": {}}
    assert (found.rooms, found.occupancy_rate, found.room_revenue) == (0, 0.0, Decimal(0))
    assert (await figures(store, rooms=3, tenant="nobody")).available_room_nights == 93
    assert await store.facts.late("nobody") == []
    assert await keeper(store).catch_up("nobody") == START


async def test_late_days_are_forgotten_unless_they_changed_again(store: Store) -> None:
    """What changed between looking at the reports and saying so is not lost."""
    house, keep = House(), keeper(store)
    house.book("R1", ms(0))
    house.desk("R1", ms(5), "checked_in", recorded=ms(7))
    await house.archive(store)
    await keep.catch_up(TENANT)
    days = [FIRST + timedelta(days=number) for number in (5, 6)]
    seen = await store.facts.late(TENANT)
    assert seen == [LateDay(day, 1, 2) for day in days]

    house.tell("billing", "charged", "F1", ms(5), {"amount": 5}, recorded=ms(7, 13))
    await house.archive(store)
    await keep.catch_up(TENANT)
    await store.facts.forget_late(TENANT, seen)
    left = await store.facts.late(TENANT)
    assert left == [LateDay(days[0], 2, 3)]
    await store.facts.forget_late("nobody", left)
    assert await store.facts.late(TENANT) == left
    await store.facts.forget_late(TENANT, left)
    await store.facts.forget_late(TENANT, [])
    assert await store.facts.late(TENANT) == []


async def test_one_writer_gets_on(open_database: Open) -> None:
    """Of two that begin at one place the second stores nothing, the first time and later."""
    first, second = Store(await open_database()), Store(await open_database())
    house = House()
    house.book("R1", ms(0))
    folding = house.folded()
    places = [FactPlace(n, Mark(7, n, StreamId(ms(0), n)), ZONE, ROLLOVER) for n in range(3)]
    await first.facts.write(1, None, places[1], folding)
    with pytest.raises(Fenced):
        await second.facts.write(1, None, places[2], folding)
    await first.facts.write(1, places[1], places[2], Folding(CALENDAR, {}, {}, {}))
    charged = House()
    charged.tell("billing", "charged", "F1", ms(5), {"amount": 5})
    with pytest.raises(Fenced):
        await second.facts.write(1, places[1], places[2], charged.folded())
    assert await second.facts.reached(1) == places[2]
    assert await second.facts.stays(1, ["R1", "R2"]) == folding.stays
    with pytest.raises(Fenced):
        await second.facts.remove(1, places[1])
    # One that was removing what another has removed and made anew in the meantime.
    with pytest.raises(Fenced):
        await second.facts.remove(1, places[2]._replace(timezone=""))
    assert await second.facts.stays(1, ["R1"]) == folding.stays
    await second.facts.remove(1, places[2])
    assert await first.facts.reached(1) is None
    assert await first.facts.stays(1, ["R1"]) == {}


async def test_removal_that_was_interrupted_is_finished(store: Store) -> None:
    """Facts of which some are gone already take nothing in; whoever finds them removes the rest and begins anew."""
    house, keep = House(), keeper(store)
    live(house, 200, random.Random(5))
    await house.archive(store)
    await keep.catch_up(TENANT)
    before = await figures(store)
    number = await store.archive.number(TENANT)
    assert number is not None
    place = await store.facts.reached(number)
    assert place is not None
    await change(store.database, "UPDATE fact_places SET timezone = ''")
    await change(store.database, "DELETE FROM stays WHERE reservation_id < 'R2'")
    with pytest.raises(Fenced):
        await store.facts.write(number, place, place, house.folded())
    await keep.catch_up(TENANT)
    assert await figures(store) == before
    assert await store.facts.reached(number) == place
