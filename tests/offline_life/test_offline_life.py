"""A hotel's 60 days with desks that work offline: nothing lost, nothing doubled, every amount right, all of one mind.

Here every 28th of these bookings is lived through, with desks that sync some times a day, so that five lives take a
minute or two; `python -m tests.offline_life --seeds 200` takes all of them, and syncs every 5 to 30 minutes.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from functools import cache

import pytest

from .checks import AUTOMATIC, Figures, automatic
from .faults import NONE
from .hotel import REAL_FILE
from .run import life
from .rush import DEVICES, MINUTES, ORDERS, rush
from .world import Violation, World

EVERY, PACE = 28, 12.0
SEEDS = range(1, 6)

needs_bookings = pytest.mark.skipif(
    not REAL_FILE.exists(), reason="hotel_bookings.zip is not there; HOTEL_BOOKINGS may name it"
)


@cache
def lived(seed: int) -> Figures:
    """A life of sixty days."""
    return life(seed, every=EVERY, pace=PACE)


@needs_bookings
@pytest.mark.faults
@pytest.mark.parametrize("seed", SEEDS)
def test_sixty_days_of_breaking_lines_lose_nothing(seed: int) -> None:
    """Every accepted operation is at the hub once, and all devices and the hub agree."""
    figures = lived(seed)
    assert figures.operations > 500
    # It was a hard life.
    for fault in ("cut", "lost", "answer_lost", "doubled", "late", "raced", "hub_died", "device_died"):
        assert figures.faults[fault] >= 3, fault
    assert sum(figures.policies.values()) > 50


@needs_bookings
@pytest.mark.faults
def test_people_are_hardly_asked() -> None:
    """More than 95 of 100 concurrent edits are settled by policy (R106)."""
    policies: Counter[str] = Counter()
    for seed in SEEDS:
        policies.update(lived(seed).policies)
    assert automatic(policies) > AUTOMATIC


@needs_bookings
def test_a_lost_charge_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that forgets one charge is found out: by its uuid, and by the folio's sum."""
    live = World.live

    async def forgetful(world: World) -> None:
        await live(world)
        archived = world.hub.store.archive.read
        charges: list[str] = []

        async def read(*args: object, **kwargs: object) -> object:
            page = await archived(*args, **kwargs)  # type: ignore[arg-type]
            charges.extend(one.event_id for one in page if one.type == "billing")
            return [one for one in page if one.event_id not in charges[:1]]

        monkeypatch.setattr(world.hub.store.archive, "read", read)

    monkeypatch.setattr(World, "live", forgetful)
    with pytest.raises(Violation, match=r"is not in the archive[\s\S]*the charges of"):
        life(1, days=3, every=EVERY, rates=NONE)


async def test_fifty_orders_a_minute_are_charged_once() -> None:
    """Fifty devices order at once, minute by minute, while the hub dies again and again: every charge is right."""
    came = await rush(seed=1)
    assert came.operations == DEVICES * MINUTES * ORDERS
    assert came.deaths > 3
    assert came.charged == came.accepted
    assert came.charged > Decimal(0)
    assert came.wrong == []
