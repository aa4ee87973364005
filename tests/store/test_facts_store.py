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
from hub.store.fact_figures import MOST_CHARGED
from hub.store.facts import FactPlace, FactsMoved, LateDay
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


async def figures(
    store: Store, period: Period = JULY, *, rooms: int | None = None, tenant: str = TENANT, upto: Mark | None = None
) -> Figures:
    """What the store says."""
    return await store.facts.figures(
        tenant, period, currency="JPY", rooms=rooms, zone=CALENDAR.zone, rollover_hour=ROLLOVER, upto=upto
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


async def test_facts_that_are_made_anew_have_no_figures(store: Store) -> None:
    """Neither while they are removed, nor when they are gone, nor before they are as far again, nor by another
    calendar; whoever does not say how far they must be gets what there is."""
    house, keep = House(), keeper(store)
    house.book("R1", ms(0))
    house.desk("R1", ms(5), "checked_in")
    await house.archive(store)
    mark = await keep.catch_up(TENANT)
    before = await figures(store, upto=mark)
    assert before.sold_room_nights == 3
    for change_ in (
        "UPDATE fact_places SET timezone = ''",
        "UPDATE fact_places SET timezone = 'Asia/Seoul'",
        f"UPDATE fact_places SET timezone = '{ZONE}', rollover_hour = {ROLLOVER + 1}",
        f"UPDATE fact_places SET rollover_hour = {ROLLOVER}, id_n = id_n - 1",
        "DELETE FROM fact_places",
    ):
        await change(store.database, change_)
        with pytest.raises(FactsMoved):
            await figures(store, upto=mark)
        assert await figures(store) == await figures(store, upto=START) == before
    with pytest.raises(FactsMoved):
        await figures(store, tenant="nobody", upto=mark)
    await change(store.database, "DELETE FROM stays")
    assert await keep.catch_up(TENANT) == mark
    assert await figures(store, upto=mark) == before


async def test_what_the_retention_removed_is_not_waited_for(store: Store) -> None:
    """Of a tenant whose events are all gone nothing can be folded any more, and it has its figures all the same."""
    house, keep = House(), keeper(store)
    house.book("R1", ms(0))
    await house.archive(store)
    await change(store.database, "UPDATE tenants SET base_position = position, base_epoch = epoch")
    await change(store.database, "UPDATE tenants SET base_sequence = sequence, base_ms = id_ms, base_n = id_n")
    mark = await keep.catch_up(TENANT)
    assert mark.sequence == 1
    assert (await figures(store, upto=mark)).sold_room_nights == 0


async def test_sums_beyond_64_bits(store: Store) -> None:
    """Of nights and of what was booked they are exact, down to the last ten-thousandth."""
    house, keep = House(), keeper(store)
    house.book("R0", ms(0))
    await house.archive(store)
    await keep.catch_up(TENANT)
    number = await store.archive.number(TENANT)
    count, most = 30_000, 10**15 - 1
    await change(
        store.database,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < "
        f"{count}) INSERT INTO stays SELECT {number}, 'S' || i, 'checked_in', 'twin', 'ota', NULL, NULL, {most}, 2, 0, "
        "created_day, checkin_day, checkout_day, checkin_day, NULL, NULL, NULL, first_day, checkout_day "
        "FROM n CROSS JOIN stays",
    )
    found = await figures(store)
    whole = Decimal(count * most).scaleb(-4)
    # Also of one day.
    assert count * most // 3 > 2**63
    assert (found.room_revenue, found.pickup.revenue) == (whole, whole + 300)
    assert [part.revenue for part in found.by_room_type] == [whole]


@pytest.mark.parametrize("sign", [1, -1])
async def test_charges_are_summed_within_bounds(store: Store, sign: int) -> None:
    """What a day's charges come to stays within 64 bits, however much comes at once and again, and it is said so; less
    of it is counted again."""
    house = House()
    house.tell("billing", "corrected", "F1", ms(5), {"amount": sign * 10**11, "category": "food"})
    await house.archive(store)
    assert not (await figures(store)).bounded
    number = await store.archive.number(TENANT)
    assert number is not None
    before = None
    for n, amount in enumerate((2**70, 2**70, MOST_CHARGED)):
        folding = house.folded()
        next(iter(folding._charges.values())).amount = sign * amount
        after = FactPlace(n, Mark(7, n, StreamId(ms(0), n)), ZONE, ROLLOVER)
        await store.facts.write(number, before, after, folding)
        before = after
    found = await figures(store)
    assert found.other_revenue == sign * Decimal(MOST_CHARGED).scaleb(-4)
    assert found.bounded

    folding = house.folded()
    next(iter(folding._charges.values())).amount = -sign * 10_000
    await store.facts.write(number, before, after._replace(position=9), folding)
    found = await figures(store)
    assert found.other_revenue == sign * (Decimal(MOST_CHARGED).scaleb(-4) - 1)
    assert not found.bounded
