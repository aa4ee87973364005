"""The devices' rows and history, on both databases."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from hub.core.device_states import Device
from hub.store import sync_devices
from hub.store.database import Database
from hub.store.sync_devices import Comparison, Place, Sight, Sync, SyncDevices

NOW = 1_784_077_441_000
TENANT = "t-1"


def sight(at: int = 0, device: str = "desk-1", tenant: str = TENANT, system: str = "hotel-pms", **told: Any) -> Sight:
    return Sight(tenant, device, system, NOW + at, **told)


def push(at: int = 0, device: str = "desk-1", **told: Any) -> Sight:
    return sight(at, device, pushed_ms=NOW + at, **told)


def pull(at: int = 0, sequence: int = 1, **told: Any) -> Sight:
    return sight(at, pulled_ms=NOW + at, cursor=f"c{sequence}", sequence=sequence, **told)


async def found(devices: SyncDevices, device: str = "desk-1") -> Device:
    one = await devices.get(TENANT, device)
    assert one is not None
    return one


async def test_a_device_is_what_was_heard_of_it(database: Database) -> None:
    """Each part by what told it; nothing that was not told changes."""
    devices = SyncDevices(database)
    assert await devices.get(TENANT, "desk-1") is None
    await devices.note([push(device_sequence=17, backlog=3, clock_skew_ms=-250)])
    await devices.note([pull(10, 5)])
    await devices.note([sight(20, compared_ms=NOW + 20, compared_equal=False)])

    assert await found(devices) == Device(
        TENANT, "desk-1", "hotel-pms", NOW, NOW + 20, NOW, NOW + 10, 17, 3, -250, "c5", 5, None, NOW + 20, False
    )


async def test_what_is_told_late_undoes_nothing(database: Database) -> None:
    """Hubs write when they come to it: what is later or higher stays, each part by its own time."""
    devices = SyncDevices(database)
    await devices.note([push(100, device_sequence=20, backlog=0, clock_skew_ms=7), pull(90, 9)])
    await devices.note([push(50, device_sequence=10, backlog=8, clock_skew_ms=9999), pull(40, 3)])
    held = await found(devices)
    assert (held.first_seen_ms, held.last_seen_ms, held.pushed_ms, held.pulled_ms) == (
        NOW + 90,
        NOW + 100,
        NOW + 100,
        NOW + 90,
    )
    assert (held.device_sequence, held.backlog, held.clock_skew_ms, held.cursor, held.sequence) == (20, 0, 7, "c9", 9)

    # Later than the last pull, though not than the last push.
    await devices.note([pull(95, 11)])
    assert (await found(devices)).sequence == 11
    # A place may lie before the last one: its data was lost, and it began again.
    await devices.note([pull(200, 2)])
    assert (await found(devices)).sequence == 2


async def test_a_device_belongs_to_who_pushes_for_it(database: Database) -> None:
    """Not to who reads under its name, before or after."""
    devices = SyncDevices(database)
    await devices.note([replace(pull(), system="hotel-saas")])
    assert (await found(devices)).system == "hotel-saas"
    await devices.note([push(5)])
    assert (await found(devices)).system == "hotel-pms"
    await devices.note([replace(push(9), system="hotel-saas"), replace(pull(10, 2), system="hotel-saas")])
    assert (await found(devices)).system == "hotel-pms"


async def test_a_request_stands_until_everything_was_pulled_since(database: Database) -> None:
    """A pull that began before it does not answer it."""
    devices = SyncDevices(database)
    await devices.note([push(), push(device="desk-2"), sight(device="tablet", system="hotel-saas")])
    assert await devices.request(TENANT, NOW + 50, device_id="desk-1") == ["desk-1"]

    await devices.note([pull(60, whole_ms=NOW + 49)])
    assert (await found(devices)).requested_ms == NOW + 50
    await devices.note([push(70)])
    assert (await found(devices)).requested_ms == NOW + 50
    await devices.note([pull(80, whole_ms=NOW + 50)])
    assert (await found(devices)).requested_ms is None

    assert await devices.request(TENANT, NOW + 90, device_id="nobody") == []
    assert await devices.request("t-2", NOW + 90) == []
    assert await devices.request(TENANT, NOW + 90, system="hotel-pms") == ["desk-1", "desk-2"]
    assert (await found(devices, "tablet")).requested_ms is None
    assert await devices.request(TENANT, NOW + 95) == ["desk-1", "desk-2", "tablet"]


async def test_devices_are_listed_by_tenant_and_name(database: Database) -> None:
    """Page by page without a hole or a double; by tenant, system and name."""
    devices = SyncDevices(database)
    names = [(tenant, device) for tenant in ("t-1", "t-2") for device in ("a", "b/c", "d")]
    await devices.note([sight(device=device, tenant=tenant) for tenant, device in reversed(names)])
    await devices.note([sight(device="e", tenant="t-1", system="hotel-saas")])
    names.insert(3, ("t-1", "e"))

    seen: list[tuple[str, str]] = []
    after = None
    while page := await devices.listed(2, after=after):
        seen += [(one.tenant_id, one.device_id) for one in page]
        after = Place(*seen[-1])
    assert seen == names
    assert [one.device_id for one in await devices.listed(9, tenants=["t-2"])] == ["a", "b/c", "d"]
    assert [one.device_id for one in await devices.listed(9, tenants=["t-1"], system="hotel-saas")] == ["e"]
    assert [one.tenant_id for one in await devices.listed(9, device_id="a")] == ["t-1", "t-2"]
    assert await devices.listed(9, tenants=[]) == []


async def test_the_history_is_newest_first_and_goes_with_age(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In parts, so that others have their turn; comparisons too."""
    monkeypatch.setattr(sync_devices, "PRUNE_ROWS", 2)
    devices = SyncDevices(database)
    syncs = [
        Sync(TENANT, "desk-1", "push", NOW + at, 2**40, 3, {"applied": 2, "conflict": 1}, 4, -9) for at in range(5)
    ]
    compared = [Comparison(TENANT, "desk-1", NOW + at, "c1", "ab", 7, at > 0, ("room room:1",), 1) for at in range(2)]
    await devices.note([], [*syncs, replace(syncs[0], device_id="desk-2")], compared)

    history = await devices.history(TENANT, "desk-1", 3)
    assert [one.at_ms - NOW for one in history] == [4, 3, 2]
    assert history[0] == replace(syncs[4], duration_ms=2**31 - 1)
    assert await devices.comparisons(TENANT, "desk-1", 9) == compared[::-1]

    assert await devices.prune(NOW + 3) == 3 + 1 + 2
    assert [one.at_ms - NOW for one in await devices.history(TENANT, "desk-1", 9)] == [4, 3]
    assert await devices.history(TENANT, "desk-2", 9) == []
    assert await devices.comparisons(TENANT, "desk-1", 9) == []


async def test_hubs_that_note_the_same_devices_at_once(open_database: Any) -> None:
    """Do not wait for each other, and leave the last word."""
    hubs = [SyncDevices(await open_database()) for _ in range(2)]
    names = [f"desk-{number}" for number in range(8)]

    async def work(number: int) -> None:
        for at in range(number, 40, 2):
            order = names if at % 4 < 2 else names[::-1]
            await hubs[number].note([push(at, device, device_sequence=at + 1, backlog=at) for device in order])

    await asyncio.gather(work(0), work(1))
    held = await hubs[0].listed(99)
    assert [(one.device_id, one.device_sequence, one.backlog) for one in held] == [(name, 40, 39) for name in names]
