"""States for an empty device: with what it pulls then it holds what the events say, and no version claims more."""

from __future__ import annotations

import asyncio
import random
from base64 import urlsafe_b64encode
from typing import Any

import orjson
import pytest
from feed_rig import TENANTS, Rig
from sqlalchemy import text
from sync_life import MEMBER, ONE, PMS, SAAS, entries, event, life, states, visible

from hub.core.entry import Entry
from hub.services import sync_pull, sync_snapshot, sync_view
from hub.services.projector import rebuild
from hub.services.sync_pull import SyncPull
from hub.services.sync_snapshot import Asked, SyncSnapshotPage, SyncSnapshots
from hub.services.sync_view import SyncView
from hub.store.database import StoreUnavailable
from hub.store.entities import NOTHING
from schemas.cursor import Cursor
from schemas.errors import Problem
from schemas.registry import EVENT_TYPES
from schemas.state import merged
from schemas.sync import PullResponse, SnapshotResponse, SyncRecord

pytestmark = pytest.mark.server

STAY = ("checkin_checkout", "checked_in")
BOOKING = ("reservation", "updated")
Held = dict[tuple[str, str], tuple[int, dict[str, Any]]]
"""What a device holds: revision and data by type and entity."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody brings the states up to date while these tests wait for it."""
    for module in (sync_pull, sync_view, sync_snapshot):
        monkeypatch.setattr(module, "FRESH_POLLS", 0)


def reader(rig: Rig) -> SyncSnapshots:
    """A reader of states."""
    return SyncSnapshots(SyncView(rig.history))


def read(page: SyncSnapshotPage) -> SnapshotResponse:
    """The page as a device reads it."""
    return SnapshotResponse.model_validate_json(page.body(), strict=True)


async def whole(rig: Rig, asked: Asked, limit: int = 1000) -> list[SyncRecord]:
    """All pages."""
    found, after = list[SyncRecord](), None
    while True:
        page = read(await reader(rig).page(asked, limit, after))
        assert len(page.records) <= limit
        found += page.records
        after = page.next
        assert page.more is (after is not None)
        if after is None:
            return found


async def caught_up(rig: Rig, system: str, held: Held, after: str) -> Held:
    """What a device holds that pulls all that follows."""
    pull = SyncPull(SyncView(rig.history), rig.metrics)
    while True:
        page = PullResponse.model_validate_json((await pull.page(system, ONE, after, 100)).body())
        assert page.gap is None
        for change in page.changes:
            revision, data = held.get((change.type, change.entity), (0, {}))
            if change.revision > revision:
                data = merged(data, change.data, EVENT_TYPES[change.type].transient)
                held[(change.type, change.entity)] = (change.revision, data)
        after = page.next
        if not page.more:
            return held


def honest(record: SyncRecord, all: list[Entry], system: str, begun: int) -> bool:
    """Whether a version counts what is in the record, of the other types what was there when the snapshot began, and
    beyond that only what the device will never see."""
    mine = [entry for entry in all if entry.entity == record.entity and entry.type == record.type]
    theirs = [
        entry
        for entry in all
        if entry.entity == record.entity and entry.type != record.type and entry.sequence <= begun
    ]
    got = [entry for entry in mine if entry.revision <= record.revision]
    while True:
        counts: dict[str, int] = {}
        for entry in (*got, *theirs):
            actor = entry.event.get("device_id") or entry.event["data"]["updated_by_system"]
            counts[actor] = counts.get(actor, 0) + 1
        if counts == record.version:
            return True
        if len(got) == len(mine) or visible(mine[len(got)], system):
            return False
        got = mine[: len(got) + 1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("system", [PMS, SAAS, MEMBER])
async def test_with_what_follows_it_is_what_the_events_say(rig: Rig, seed: int, system: str) -> None:
    """While the hotel goes on between the pages, and another projection takes over."""
    draw = random.Random(seed)
    await rig.publish(*life(draw, 60))
    await rig.project()
    held: Held = {}
    records: list[SyncRecord] = []
    cursors, after = set(), None
    while True:
        page = read(await reader(rig).page(Asked(system, ONE), draw.choice((1, 3, 7, 40)), after))
        records += page.records
        cursors.add(page.cursor)
        if page.next is None:
            break
        after = page.next
        await rig.publish(*life(draw, 8))
        if draw.random() < 0.8:
            await rig.project()
        if draw.random() < 0.1:
            await rebuild(rig.store)
            rig.projector._projection = None
    all = await entries(rig)
    begun = Cursor.decode(page.cursor).sequence
    assert len(cursors) == 1
    assert [record for record in records if not honest(record, all, system, begun)] == []
    for record in records:
        assert (record.type, record.entity) not in held
        held[(record.type, record.entity)] = (record.revision, record.data)
    await rig.project()
    assert await caught_up(rig, system, held, page.cursor) == states(all, system)


async def test_a_version_claims_nothing_of_other_types_that_moved_on(rig: Rig) -> None:
    """A stay that came between two pages is not in the version of its reservation: the device has not got it yet."""
    await rig.publish(event(("customer", "updated"), "customer:1"), event(BOOKING, "reservation:1"))
    await rig.publish(event(STAY, "reservation:1", device="desk-1"))
    await rig.project()
    first = read(await reader(rig).page(Asked(PMS, ONE), 1))
    assert [(one.type, one.version) for one in first.records] == [("checkin_checkout", {PMS: 1, "desk-1": 1})]
    await rig.publish(event(STAY, "reservation:1", device="desk-1"), event(BOOKING, "reservation:1", SAAS))
    await rig.project()
    second = read(await reader(rig).page(Asked(PMS, ONE), 10, first.next))
    (booking,) = [one for one in second.records if one.type == "reservation"]
    assert (booking.revision, booking.version) == (4, {PMS: 1, SAAS: 1, "desk-1": 1})
    (again,) = [one for one in await whole(rig, Asked(PMS, ONE)) if one.type == "reservation"]
    assert again.version == {PMS: 1, SAAS: 1, "desk-1": 2}


async def test_what_a_system_made_itself_is_its_own(rig: Rig) -> None:
    """Also where it is not for it: whole where all events are its own, else what those said; never the others'."""
    log, alert = ("operation_log", "recorded"), ("alert", "raised")
    await rig.publish(
        event(log, "operation_log:1", SAAS, device="tablet", targets=[PMS], a=1),
        event(log, "operation_log:2", PMS, device="desk-1", targets=[PMS], a=2),
        event(alert, "alert:1", MEMBER, targets=[PMS, SAAS], a=1, b=1),
        event(alert, "alert:1", PMS, targets=[PMS, SAAS], a=2, secret="s"),
        event(alert, "alert:2", MEMBER, targets=[PMS], a=1),
        event(alert, "alert:2", MEMBER, targets=[PMS], a=2),
        event(("room", "status_changed"), "room:1", PMS, device="desk-1", targets=[PMS], a=1),
        event(("room", "status_changed"), "room:1", PMS, device="desk-1", targets=[PMS], a=2),
    )
    await rig.project()

    async def seen(system: str) -> list[tuple[str, int, Any]]:
        return [(one.entity, one.revision, one.data.get("a")) for one in await whole(rig, Asked(system, ONE))]

    assert await seen(SAAS) == [("alert:1", 2, 2), ("operation_log:1", 1, 1)]
    assert await seen(MEMBER) == [("alert:1", 1, 1), ("alert:2", 2, 2)]
    assert len(await seen(PMS)) == len(await seen("hub")) == 5
    (alert_1, _) = await whole(rig, Asked(MEMBER, ONE))
    # The others' events count, though they are not shown: nobody is told that they were missed.
    assert "secret" not in alert_1.data
    assert alert_1.version == {MEMBER: 1, PMS: 1}


async def test_types_and_entities_narrow(rig: Rig) -> None:
    """Either or both; an entity comes with all its types; what is no type of sync's never does."""
    await rig.publish(*life(random.Random(4), 60))
    await rig.project()
    all = await whole(rig, Asked(PMS, ONE))
    assert {one.type for one in all} == {
        "reservation",
        "checkin_checkout",
        "customer",
        "room",
        "alert",
        "operation_log",
    }
    narrowed = await whole(rig, Asked(PMS, ONE, ("customer", "room")))
    assert narrowed == [one for one in all if one.type in ("customer", "room")]
    some = frozenset(["reservation:1", "room:2", "room:99"])
    found = await whole(rig, Asked(PMS, ONE, entities=some), 1)
    assert found == [one for one in all if one.entity in some]
    assert len(found) == 3


async def test_an_old_schema_comes_as_the_newest(rig: Rig) -> None:
    """What an earlier release stored is brought up as it is read."""
    data: dict[str, Any] = {"order_id": "1", "room_number": "301", "item": "tea", "quantity": 2, "unit_price": 500}
    await rig.publish(event(("order", "placed"), "order:1", **data))
    await rig.project()
    async with rig.store.database.writing() as connection:
        old = {"data": orjson.dumps(data | {"updated_by_system": PMS})}
        await connection.execute(text("UPDATE entities SET schema_version = 1, data = :data, writers = NULL"), old)
    (order,) = await whole(rig, Asked(PMS, ONE))
    assert (order.schema_version, order.data["total_amount"], order.version) == (2, 1000, {"earlier": 1})


async def test_an_empty_tenant_has_a_cursor(rig: Rig) -> None:
    """Of one that nothing is known of, too: events after it begin with the first."""
    page = read(await reader(rig).page(Asked(PMS, ONE), 10))
    assert (page.records, page.more) == ([], False)
    await rig.publish(event(a=1))
    await rig.project()
    assert await caught_up(rig, PMS, {}, page.cursor) == {("room", "room:1"): (1, {"a": 1, "updated_by_system": PMS})}


async def test_pages_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes, by what is looked at and by what is folded; all pages together hold everything once."""
    await rig.publish(*(event(entity=f"room:{number}", a="x" * 500) for number in range(8)))
    await rig.publish(
        *(event(("alert", "raised"), f"alert:{n % 4}", MEMBER if n < 4 else PMS, targets=[PMS]) for n in range(8))
    )
    await rig.project()
    everything = await whole(rig, Asked(MEMBER, ONE))
    assert len(everything) == 12
    for name, value in (("MAX_PAGE_BYTES", 1200), ("MAX_SCANNED", 3), ("MAX_FOLDED", 2), ("CHUNK", 2)):
        with monkeypatch.context() as patch:
            patch.setattr(sync_snapshot, name, value)
            if name != "CHUNK":
                page = read(await reader(rig).page(Asked(MEMBER, ONE, ("alert", "room")), 100))
                assert page.more
                assert len(page.records) <= 8
            assert await whole(rig, Asked(MEMBER, ONE)) == everything


@pytest.mark.parametrize("token", ["", "x", "!!!!", "満室", "bnVsbA", "W10", "WzEsMiwzLDQsNV0", "A" * 20_000])
async def test_a_bad_token_is_refused(rig: Rig, token: str) -> None:
    """It names the parameter, and never fails otherwise."""
    with pytest.raises(Problem) as refused:
        await reader(rig).page(Asked(PMS, ONE), 10, token)
    assert (refused.value.code, refused.value.errors[0].path) == ("invalid_request", "after")


async def test_a_token_is_for_its_listing(rig: Rig) -> None:
    """Another system's, tenant's, type's or entity's page it is not; a cursor put into it by hand neither."""
    await rig.publish(*life(random.Random(1), 30))
    await rig.project()
    asked = Asked(PMS, ONE)
    token = (await reader(rig).page(asked, 1)).next
    assert token is not None
    for other in (
        Asked(SAAS, ONE),
        Asked(PMS, TENANTS[1]),
        Asked(PMS, ONE, ("room",)),
        Asked(PMS, ONE, entities=frozenset(["room:1"])),
    ):
        with pytest.raises(Problem, match="another listing"):
            await reader(rig).page(other, 1, token)
    forged = urlsafe_b64encode(orjson.dumps([1, asked.digest(), "x", "", ""])).decode().rstrip("=")
    with pytest.raises(Problem):
        await reader(rig).page(asked, 1, forged)


async def test_a_projection_that_is_behind_the_cursor_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """States from before the cursor are never shown: they come, or the store is said to be behind."""
    await rig.publish(event(entity="room:1"), event(entity="room:2"))
    await rig.project()
    reading = reader(rig)
    token = (await reading.page(Asked(PMS, ONE), 1)).next
    page, asked = reading._view.states.page, 0

    async def behind(*arguments: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        found = await page(*arguments, **more)
        return found if asked > 2 else found._replace(reached=NOTHING)

    monkeypatch.setattr(reading._view.states, "page", behind)
    with pytest.raises(Problem) as refused:
        await reading.page(Asked(PMS, ONE), 1, token)
    assert refused.value.code == "store_unavailable"
    monkeypatch.setattr(sync_snapshot, "FRESH_POLLS", 5)
    monkeypatch.setattr(sync_snapshot, "POLL_S", 0)
    asked = 0
    assert [one.entity for one in read(await reading.page(Asked(PMS, ONE), 1, token)).records] == ["room:2"]


async def test_a_store_that_is_away_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a failure that may be tried again, never as an empty hotel."""
    await rig.publish(event())
    await rig.project()
    reading = reader(rig)

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(reading._view.states, "page", away)
    with pytest.raises(Problem) as refused:
        await reading.page(Asked(PMS, ONE), 10)
    assert refused.value.code == "store_unavailable"


async def test_others_have_their_turn(rig: Rig) -> None:
    """A long page does not hold the loop from its first state to its last."""
    await rig.publish(*(event(entity=f"room:{number}") for number in range(1200)))
    await rig.project()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    page = await reader(rig).page(Asked(PMS, ONE), 5000)
    counting.cancel()
    assert len(page.records) == 1200
    assert turns > 3
