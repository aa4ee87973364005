"""The digest tree: at every place of the projection what the events up to there lead to, however it came about."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection
from typing import Any

import pytest
from feed_rig import Rig
from sqlalchemy import text
from sync_life import MEMBER, ONE, PMS, SAAS, entries, event, life, states

from hub.services import sync_digest, sync_view
from hub.services.projector import rebuild
from hub.services.sync_digest import SyncDigests
from hub.services.sync_snapshot import Asked, SyncSnapshots
from hub.services.sync_view import SyncView
from hub.store.database import StoreUnavailable
from schemas.cursor import Cursor
from schemas.errors import Problem
from schemas.sync import (
    DigestResponse,
    SnapshotResponse,
    StateDigest,
    bucket_hash,
    bucket_of,
    root_hash,
    state_hash,
)

pytestmark = pytest.mark.server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody brings the states up to date while these tests wait for it."""
    monkeypatch.setattr(sync_view, "FRESH_POLLS", 0)


def maker(rig: Rig) -> SyncDigests:
    """One that has made no tree yet."""
    return SyncDigests(SyncView(rig.history))


async def expected(rig: Rig, cursor: str, system: str, wanted: Collection[int] = ()) -> DigestResponse:
    """The tree over what all events up to a cursor lead to, spelled out."""
    upto = Cursor.decode(cursor).sequence
    found: dict[int, list[StateDigest]] = {}
    held = states([one for one in await entries(rig) if one.sequence <= upto], system)
    for (type, entity), (revision, data) in held.items():
        digest = StateDigest(type, entity, revision, state_hash(type, entity, revision, data))
        found.setdefault(bucket_of(type, entity), []).append(digest)
    buckets = {number: bucket_hash(some) for number, some in found.items()}
    return DigestResponse(
        cursor=cursor,
        root=root_hash(buckets),
        count=sum(map(len, found.values())),
        buckets={f"{number:02x}": hash for number, hash in sorted(buckets.items())},
        states=[one._asdict() for number in sorted(wanted) for one in sorted(found.get(number, []))] or None,
    )


async def true(rig: Rig, digests: SyncDigests, system: str = PMS) -> DigestResponse:
    """The tree, which is what it must be."""
    found = await digests.digest(system, ONE)
    assert found == await expected(rig, found.cursor, system)
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("system", [PMS, SAAS, MEMBER])
async def test_it_is_what_the_events_lead_to(rig: Rig, seed: int, system: str) -> None:
    """Made anew or brought up to date, also after a rebuild; where it stands is where the projection does."""
    draw = random.Random(seed)
    digests = maker(rig)
    for _ in range(12):
        await rig.publish(*life(draw, draw.randrange(20)))
        if draw.random() < 0.7:
            await rig.project()
        if draw.random() < 0.1:
            await rebuild(rig.store)
            rig.projector._projection = None
        found = await true(rig, digests, system)
        view = SyncView(rig.history)
        assert found.cursor == view.cursor(ONE, (await view.mark(ONE))[2])
    await rig.project()
    assert await true(rig, digests, system) == await true(rig, maker(rig), system)


async def test_a_device_with_the_snapshot_has_the_same(rig: Rig) -> None:
    """Its records lead to the hub's root, and the states of a bucket are those."""
    await rig.publish(*life(random.Random(2), 80))
    await rig.project()
    page = await SyncSnapshots(SyncView(rig.history)).page(Asked(SAAS, ONE), 1000)
    records = SnapshotResponse.model_validate_json(page.body()).records
    wanted = {bucket_of(one.type, one.entity) for one in records[:4]}
    found = await maker(rig).digest(SAAS, ONE, wanted)
    buckets: dict[int, list[StateDigest]] = {}
    for one in records:
        digest = StateDigest(
            one.type, one.entity, one.revision, state_hash(one.type, one.entity, one.revision, one.data)
        )
        buckets.setdefault(bucket_of(one.type, one.entity), []).append(digest)
    assert found.cursor == page.cursor
    assert found.count == len(records)
    assert found.root == root_hash({number: bucket_hash(some) for number, some in buckets.items()})
    assert found.states is not None
    told = [StateDigest(one.type, one.entity, one.revision, one.hash) for one in found.states]
    assert told == [one for number in sorted(wanted) for one in sorted(buckets[number])]


async def test_only_what_changed_is_read_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One state of many, and none at all where nothing did; trees are each system's own."""
    await rig.publish(*(event(entity=f"room:{number}", a=number) for number in range(50)))
    await rig.project()
    digests = maker(rig)
    hashed: list[str] = []

    def hash(type: str, entity: str, *rest: Any) -> str:
        hashed.append(entity)
        return state_hash(type, entity, *rest)

    monkeypatch.setattr(sync_digest, "state_hash", hash)
    await true(rig, digests)
    assert len(hashed) == 50
    await true(rig, digests)
    await rig.publish(event(entity="room:7", a=0), event(("system", "notice"), "system:1"), event(entity="room:7", a=1))
    await rig.project()
    await true(rig, digests)
    assert hashed[50:] == ["room:7"]
    await true(rig, digests, MEMBER)
    assert len(hashed) == 101


async def test_what_changes_while_it_is_made_is_in_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """States before and behind what is being read, and ones that are new."""
    monkeypatch.setattr(sync_digest, "CHUNK", 3)
    await rig.publish(*(event(entity=f"room:{number}", a=0) for number in range(10, 20)))
    await rig.project()
    digests = maker(rig)
    page, asked = digests._view.states.page, 0

    async def busy(*arguments: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        found = await page(*arguments, **more)
        await rig.publish(
            event(entity="room:10", a=asked), event(entity="room:18", a=asked), event(entity=f"room:0{asked}")
        )
        await rig.project()
        return found

    monkeypatch.setattr(digests._view.states, "page", busy)
    found = await true(rig, digests)
    assert asked == 4
    assert found.count == 14


async def test_what_events_do_not_tell_is_read_anew(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """More changes than are looked at one by one; and events that came at places that were passed already."""
    await rig.publish(*(event(entity=f"room:{number}", a=0) for number in range(5)))
    await rig.project()
    digests = maker(rig)
    await true(rig, digests)
    monkeypatch.setattr(sync_digest, "MAX_CHANGED", 3)
    await rig.publish(*(event(entity="room:1", a=number) for number in range(9)))
    await rig.project()
    await true(rig, digests)
    await rig.publish(event(entity="room:2", a=5))
    await rig.project()
    # As if the last event lay before what the tree has, where it is not looked for.
    async with rig.store.database.writing() as connection:
        await connection.execute(text("UPDATE events SET id_ms = id_ms - 3600000 WHERE position = 15"))
    monkeypatch.setattr(sync_digest, "MAX_CHANGED", 100)
    await true(rig, digests)


async def test_a_state_without_canonical_json_counts(rig: Rig) -> None:
    """Neither hub nor device can take its digest: its place says that it is there, and holds nothing up."""
    await rig.publish(event(entity="room:1", a=2**60), event(entity="room:2", a=1))
    await rig.project()
    number = bucket_of("room", "room:1")
    found = await maker(rig).digest(PMS, ONE, [number])
    assert found.count == 2
    assert found.states is not None
    assert [one.hash for one in found.states if one.entity == "room:1"] == [""]


async def test_a_tree_that_was_cut_short_is_made_up_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store went away while it was brought up to date, or made at all: the next one is whole."""
    await rig.publish(*(event(entity=f"room:{number}") for number in range(5)))
    await rig.project()
    digests = maker(rig)
    await true(rig, digests)
    await rig.publish(*(event(entity=f"room:{number}", a=1) for number in range(3)))
    await rig.project()
    seen, asked = digests._view.seen, 0

    async def once(*arguments: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise StoreUnavailable("away")
        return await seen(*arguments)

    monkeypatch.setattr(digests._view, "seen", once)
    for system in (PMS, MEMBER):
        asked = 0
        with pytest.raises(Problem) as refused:
            await digests.digest(system, ONE)
        assert refused.value.code == "store_unavailable"
    await rig.publish(event(entity="room:0", a=2))
    await rig.project()
    await true(rig, digests)
    await true(rig, digests, MEMBER)


async def test_many_who_ask_share_one_reading(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And of many trees, those that were used last are kept."""
    await rig.publish(*(event(entity=f"room:{number}") for number in range(5)))
    await rig.project()
    digests = maker(rig)
    scan, scans = digests._scan, list[str]()

    async def counted(key: tuple[str, str], number: int) -> Any:
        scans.append(key[1])
        return await scan(key, number)

    monkeypatch.setattr(digests, "_scan", counted)
    found = await asyncio.gather(*(digests.digest(PMS, ONE) for _ in range(8)))
    assert (scans, len({one.root for one in found})) == ([PMS], 1)
    monkeypatch.setattr(sync_digest, "MAX_HELD", 12)
    for system in (SAAS, MEMBER, PMS, MEMBER):
        await digests.digest(system, ONE)
    assert scans == [PMS, SAAS, MEMBER, PMS]


async def test_an_empty_tenant_has_an_empty_tree(rig: Rig) -> None:
    """With the cursor before its first event."""
    found = await maker(rig).digest(PMS, ONE, [0])
    assert (found.count, found.buckets, found.states) == (0, {}, [])
    assert found.root == root_hash({})
    assert Cursor.decode(found.cursor, ONE).sequence == 0
