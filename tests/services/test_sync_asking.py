"""What is noted of devices that ask: pages that they were given, and nothing that they were not."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from feed_rig import Rig, claims
from sqlalchemy import text
from sync_life import ONE, PMS, event

from hub.services import sync_pull, sync_snapshot, sync_view
from hub.services.sync_reading import SyncReading
from schemas.errors import Problem
from schemas.sync import ComparisonReport

pytestmark = pytest.mark.server


class Notes:
    """Devices that are only remembered."""

    def __init__(self) -> None:
        self.pulls: list[tuple[Any, ...]] = []

    def pulled(self, tenant_id: str, device_id: str, system: str, **told: Any) -> None:
        """Remember a page."""
        names = ("kind", "items", "cursor", "sequence", "more", "duration_ms")
        self.pulls.append((tenant_id, device_id, system, *(told.get(name) for name in names)))

    async def compared(self, tenant_id: str, system: str, report: ComparisonReport) -> None:
        """No matter here."""

    async def system_of(self, tenant_id: str, device_id: str) -> str | None:
        """One device of another system is known."""
        return "hotel-saas" if device_id == "desk-9" else None


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody brings the states up to date while these tests wait for it."""
    for module in (sync_pull, sync_view, sync_snapshot):
        monkeypatch.setattr(module, "FRESH_POLLS", 0)


async def test_each_page_is_noted_with_its_device(rig: Rig) -> None:
    """Named or by the token; how far it came, how long it took; a page for nobody, a repair and a gap are not."""
    notes, clock = Notes(), iter(range(100))
    reading = SyncReading(rig.history, notes, rig.metrics, now=lambda: float(next(clock)))
    who = claims([ONE], PMS, ["sync"])
    mine = claims([ONE], PMS, ["sync"], device_id="desk-1")
    published = await rig.publish(*(event(entity=f"room:{number}") for number in range(3)))
    await rig.project()

    await reading.pull(who, None, None, 10)
    await reading.snapshot(mine, ONE, None, 10, types=["room"])
    await reading.snapshot(mine, ONE, None, 10, entities=["room:1"])
    await reading.digest(mine, None)
    assert notes.pulls == []

    await reading.pull(who, None, None, 2, "desk-2")
    last = published[2].cursor
    page = orjson.loads(await reading.pull(mine, None, published[1].cursor, 2))
    assert (page["next"], len(page["changes"])) == (last, 1)
    first = orjson.loads(await reading.snapshot(mine, None, None, 2))
    await reading.snapshot(mine, None, first["next"], 2)
    assert notes.pulls == [
        (ONE, "desk-2", PMS, "pull", 2, published[1].cursor, 2, True, 1000),
        (ONE, "desk-1", PMS, "pull", 1, last, 3, False, 1000),
        (ONE, "desk-1", PMS, "snapshot", 2, last, 3, True, 1000),
        (ONE, "desk-1", PMS, "snapshot", 1, last, 3, False, 1000),
    ]

    await rig.trim()
    async with rig.store.database.writing() as connection:
        await connection.execute(text("DELETE FROM events"))
        await connection.execute(text("UPDATE tenants SET base_sequence = 3, base_position = 3"))
    assert orjson.loads(await reading.pull(mine, None, None, 2))["gap"] is not None
    assert len(notes.pulls) == 4


async def test_nobody_reads_as_another_systems_device(rig: Rig) -> None:
    """How far a device has come is told by itself alone: the device of another system is refused, and nothing noted."""
    notes = Notes()
    reading = SyncReading(rig.history, notes, rig.metrics)
    who = claims([ONE], PMS, ["sync"])
    for ask in (reading.pull(who, None, None, 10, "desk-9"), reading.snapshot(who, None, None, 10, "desk-9")):
        with pytest.raises(Problem) as refused:
            await ask
        assert (refused.value.code, refused.value.detail) == (
            "forbidden",
            "device_id: desk-9 is a device of hotel-saas; use another id",
        )
    assert notes.pulls == []


@pytest.mark.parametrize("name", ["*", "hotel-pms", "hotel-member", "hub", "earlier", "d" * 101, "a b"])
async def test_a_device_needs_a_name_of_its_own(rig: Rig, name: str) -> None:
    """What means something else, or cannot be kept, is no device: not even where the token says so."""
    reading = SyncReading(rig.history, Notes(), rig.metrics)
    with pytest.raises(Problem) as refused:
        await reading.pull(claims([ONE], PMS, ["sync"], device_id=name), None, None, 10)
    assert (refused.value.code, refused.value.errors[0].path) == ("invalid_request", "device_id")


@pytest.mark.parametrize("name", ["no\0such", "t" * 65, ""])
async def test_a_token_for_all_tenants_names_a_tenant(rig: Rig, name: str) -> None:
    """What no tenant can be called is refused before the store is asked for it."""
    reading = SyncReading(rig.history, Notes(), rig.metrics)
    with pytest.raises(Problem) as refused:
        await reading.pull(claims(["*"], PMS, ["sync"]), name, None, 10)
    assert (refused.value.code, refused.value.errors[0].path) == ("invalid_request", "tenant")
