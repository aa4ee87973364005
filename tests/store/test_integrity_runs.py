"""The runs of comparisons, and what they are made of, on both databases."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from archive_bench import T0
from projected import History, opened, projected, said
from sqlalchemy import insert

from hub.services.projecting import Projection
from hub.store.database import Database
from hub.store.integrity import Integrity, IntegrityRun, Lateness, Made
from hub.store.leases import Fence, LeaseLost
from hub.store.store import Store
from hub.store.sync_tables import sync_conflicts, sync_devices, sync_items

MONDAY = date(2026, 7, 13)
HOUR = 3_600_000


@pytest.fixture
def integrity(database: Database) -> Integrity:
    """With nothing in it."""
    return Integrity(database)


def run(day: int = 13, tenant: str = "naha", kind: Any = "daily", made_ms: int = 1, ok: bool = True) -> IntegrityRun:
    """A run of a day in July."""
    return IntegrityRun(tenant, kind, date(2026, 7, day), made_ms, ok, {"findings": [], "满": "室"})


async def test_a_run_takes_the_place_of_one_of_the_same_day(integrity: Integrity) -> None:
    """Not of another tenant's, kind's or day's."""
    for one in (run(), run(14), run(tenant="t-4"), run(kind="weekly"), run(made_ms=5, ok=False)):
        await integrity.put(one, None)

    assert await integrity.listed("daily", 10) == [run(14), run(made_ms=5, ok=False), run(tenant="t-4")]
    assert await integrity.listed("daily", 1, tenants=["naha"]) == [run(14)]
    assert await integrity.listed("daily", 10, tenants=["t-4", "t-9"]) == [run(tenant="t-4")]
    assert await integrity.listed("weekly", 10) == [run(kind="weekly")]
    assert await integrity.newest() == {
        ("naha", "daily"): Made(date(2026, 7, 14), 1),
        ("t-4", "daily"): Made(MONDAY, 1),
        ("naha", "weekly"): Made(MONDAY, 1),
    }
    assert await integrity.before("naha", "daily", date(2026, 7, 14)) == Made(MONDAY, 5)
    assert await integrity.before("naha", "daily", MONDAY) is None


async def test_who_lost_the_lease_writes_nothing(integrity: Integrity, database: Database) -> None:
    """Neither keeps a run nor removes some."""
    store = Store(database)
    held = await store.leases.take("integrity", "hub-1", None)
    assert held is not None
    await integrity.put(run(), Fence("integrity", held.fence))
    for act in (
        integrity.put(run(14), Fence("integrity", held.fence + 1)),
        integrity.expire(date(2027, 1, 1), Fence("integrity", 0)),
    ):
        with pytest.raises(LeaseLost):
            await act
    assert await integrity.listed("daily", 10) == [run()]

    await integrity.put(run(20), None)
    assert await integrity.expire(date(2026, 7, 14), Fence("integrity", held.fence)) == 1
    assert await integrity.listed("daily", 10) == [run(20)]


async def test_events_and_states_are_counted_by_type(integrity: Integrity, database: Database) -> None:
    """Those of the time that is asked for, and of the tenant."""
    store = Store(database)
    history = History(0, ["naha"])
    entries = [said(at, "naha", at + 1, at + 1, "room:1", {"a": at}) for at in range(5)]
    entries.append(said(5, "naha", 6, 1, "order:1", {}, type="order", action="placed", version=2))
    await history.archive(store, entries)
    await projected(Projection(store, await opened(store.entities), current=True))
    number = await store.archive.number("naha")
    assert number is not None

    assert await integrity.volume(number, T0, T0 + 6) == {"room": 5, "order": 1}
    assert await integrity.volume(number, T0 + 2, T0 + 5) == {"room": 3}
    assert await integrity.volume(number + 1, T0, T0 + 6) == {}
    assert await integrity.states(number) == {"room": 1, "order": 1}
    assert await integrity.first_ms(number) == T0
    assert await integrity.first_ms(number + 1) is None


def item(number: int, received_ms: int, late_ms: int, outcome: str | None = "applied", tenant: str = "naha") -> Any:
    """A row of an item that was pushed so late."""
    return {
        "tenant_id": tenant,
        "uuid": str(number),
        "device_id": "desk-1",
        "device_sequence": number,
        "system": "hotel-pms",
        "model": "CheckIn",
        "operation": "CREATE",
        "type": "checkin_checkout",
        "entity": "reservation:R1",
        "checksum": "0" * 64,
        "base_version": "{}",
        "payload": "{}",
        "created_at": "",
        "created_ms": received_ms - late_ms,
        "received_ms": received_ms,
        "outcome": outcome,
    }


async def test_how_late_items_were(integrity: Integrity, database: Database) -> None:
    """The median and the worst five in a hundred, of those that were accepted within the time."""
    rows = [item(at, 1000 + at, at * 1000) for at in range(100)]
    rows += [item(200, 999, 10**9), item(201, 1100, 10**9), item(202, 1050, 10**9, tenant="t-4")]
    rows += [item(203, 1050, 10**9, "rejected"), item(204, 1050, 10**9, None)]
    async with database.writing() as connection:
        await connection.execute(insert(sync_items), rows)

    assert await integrity.lateness("naha", 1000, 1100) == Lateness(100, 50.0, 95.0)
    assert await integrity.lateness("naha", 5000, 6000) == Lateness(0, None, None)
    assert await integrity.lateness("naha", 1000, 1001) == Lateness(1, 0.0, 0.0)


async def test_a_clock_that_is_ahead_makes_no_item_early(integrity: Integrity, database: Database) -> None:
    """It is not late."""
    async with database.writing() as connection:
        await connection.execute(insert(sync_items), [item(1, 1000, -5000)])
    assert await integrity.lateness("naha", 0, 2000) == Lateness(1, 0.0, 0.0)


async def test_what_waits_is_counted(integrity: Integrity, database: Database) -> None:
    """Devices by how long they were silent, what they have left, and open conflicts."""
    assert await integrity.waiting(T0) == ({}, 0, 0)

    def device(name: str, silent_h: float, backlog: int | None, pushed: int | None = 1) -> dict[str, Any]:
        seen = T0 - int(silent_h * HOUR)
        row = {"tenant_id": "naha", "device_id": name, "system": "hotel-pms", "first_seen_ms": 0, "last_seen_ms": seen}
        return row | {"pushed_ms": pushed, "device_sequence": 1, "backlog": backlog}

    devices = [device("a", 0, 3), device("b", 1, 1200), device("c", 30, 40), device("d", 24 * 40, 9999)]
    devices += [device("e", 0, None, None), device("f", 0.1, None)]
    names = ("tenant_id", "uuid", "device_id", "system", "model", "type", "entity", "policy")
    conflict: dict[str, Any] = dict.fromkeys(names, "x")
    conflict |= {"fields": "{}", "current": "{}", "incoming": "{}", "current_revision": 1, "opened_ms": 1}
    async with database.writing() as connection:
        await connection.execute(insert(sync_devices), devices)
        states = ("open", "open", "resolved")
        rows = [conflict | {"conflict_id": str(at), "state": state} for at, state in enumerate(states)]
        await connection.execute(insert(sync_conflicts), rows)

    found = await integrity.waiting(T0)
    assert found.devices == {"online": 2, "late": 1, "offline": 1, "gone": 1, "never": 1}
    assert (found.backlog, found.conflicts) == (1243, 2)
