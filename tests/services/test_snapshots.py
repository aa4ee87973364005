"""States at one cursor: over pages, for each reader what it may see, before a subscription and right up to it."""

from __future__ import annotations

import asyncio
import random
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from feed_rig import SYSTEM, TENANTS, Connection, Rig, append, claims, turns, until
from sqlalchemy import text

from hub.core.routing import may_see
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services import projector, snapshot_frames, snapshots
from hub.services.snapshots import Scope, SnapshotPage, Snapshots
from hub.store.database import StoreUnavailable
from schemas.cursor import ZERO, Cursor, split
from schemas.errors import Problem
from schemas.frames import MAX_MESSAGE_BYTES
from schemas.types import HUB

pytestmark = pytest.mark.server

ONE = TENANTS[0]
ROOM, PRICE, CUSTOMER = ("room", "status_changed"), ("room", "price_updated"), ("customer", "updated")
State = dict[tuple[str, str, str], tuple[int, dict[str, Any]]]
"""Revision and data by tenant, type and entity."""


async def life(rig: Rig, draw: random.Random, count: int, tenants: Iterable[str] = TENANTS) -> None:
    """Some events of few entities: fields come, change and go."""
    made = []
    for _ in range(count):
        kind = draw.choice((ROOM, PRICE, CUSTOMER))
        entity = f"{kind[0]}:{draw.randrange(5)}"
        data: dict[str, Any] = {
            name: draw.choice((None, 1, 2, "満室")) for name in ("a", "b", "c") if draw.random() < 0.7
        }
        targets = draw.choice(((SYSTEM,), (SYSTEM, "hotel-saas"), ("hotel-saas",)))
        made.append(append(draw.choice(list(tenants)), kind, entity, targets, **data))
    await rig.publish(*made)


async def expected(
    rig: Rig,
    cursors: dict[str, Cursor],
    system: str = HUB,
    actions: Iterable[tuple[str, str]] = (ROOM, PRICE, CUSTOMER),
) -> State:
    """What all events up to the cursors lead to for a system, spelled out."""
    found: State = {}
    for tenant, cursor in cursors.items():
        entries = await rig.history.read(rig.log.partition(tenant), ZERO, 10_000)
        for entry in entries:
            if entry.tenant_id != tenant or entry.sequence > cursor.sequence or not may_see(system, entry.targets):
                continue
            if (entry.type, entry.action) not in actions:
                continue
            key = (tenant, entry.type, entry.entity)
            data = found.get(key, (0, {}))[1] | entry.event["data"]
            found[key] = (entry.revision, {name: value for name, value in data.items() if value is not None})
    return found


def states(page: SnapshotPage) -> State:
    """What a page says."""
    found: State = {}
    for one in orjson.loads(page.body())["entities"]:
        key = (one["tenant_id"], one["type"], one["entity"])
        assert key not in found
        found[key] = (one["revision"], one["data"])
    return found


def scope(who: Claims | None = None, **more: Any) -> Scope:
    """What a token may see."""
    return Scope.of(who or claims(), **more)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("system", [HUB, SYSTEM, "hotel-saas"])
async def test_all_pages_are_true_at_one_cursor(rig: Rig, seed: int, system: str) -> None:
    """While events go on between the pages: what moved on is shown as it was, what came is left out."""
    draw = random.Random(seed)
    await life(rig, draw, 80)
    await rig.project()
    reader, who = Snapshots(rig.history), scope(claims(system=system))
    found: State = {}
    token, cursors = None, set()
    while True:
        page = await reader.page(who, TENANTS, draw.choice((1, 3, 7)), token)
        cursors.add(page.cursor)
        keys = list(states(page))
        assert keys == sorted(keys)
        assert not found.keys() & set(keys)
        found |= states(page)
        if page.next is None:
            break
        token = page.next
        await life(rig, draw, 10)
        if draw.random() < 0.7:
            await rig.project()
    (cursor,) = cursors
    assert found == await expected(rig, split(cursor, list(TENANTS)), system)
    assert found


async def test_a_system_sees_what_its_events_said(rig: Rig) -> None:
    """Fields and revisions of events that were not for it are not there, and entities of none at all neither."""
    await rig.publish(
        append(entity="room:1", targets=[SYSTEM, "hotel-saas"], a=1, b=1),
        append(entity="room:1", targets=[SYSTEM], b=2, secret="s"),
        append(entity="room:2", targets=[SYSTEM], a=1),
    )
    await rig.project()
    page = await Snapshots(rig.history).page(scope(claims(system="hotel-saas")), [ONE], 10)
    assert states(page) == {(ONE, "room", "room:1"): (1, {"a": 1, "b": 1})}
    page = await Snapshots(rig.history).page(scope(claims(system=SYSTEM)), [ONE], 10)
    assert states(page) == {
        (ONE, "room", "room:1"): (2, {"a": 1, "b": 2, "secret": "s"}),
        (ONE, "room", "room:2"): (1, {"a": 1}),
    }


async def test_a_scope_of_some_actions_sees_what_those_said(rig: Rig) -> None:
    """A token for prices alone is shown prices alone; one that names every action of a type, the whole."""
    await rig.publish(append(kind=ROOM, status="dirty"), append(kind=PRICE, base_price=9), append(kind=CUSTOMER, a=1))
    await rig.project()
    prices = scope(claims(scopes=["subscribe:room.price_updated"]))
    page = await Snapshots(rig.history).page(prices, [ONE], 10)
    assert states(page) == {(ONE, "room", "room:1"): (2, {"base_price": 9})}
    every = [f"subscribe:room.{action}" for action in ("status_changed", "price_updated", "maintenance_updated")]
    page = await Snapshots(rig.history).page(scope(claims(scopes=every)), [ONE], 10)
    assert states(page) == {(ONE, "room", "room:1"): (2, {"status": "dirty", "base_price": 9})}
    with pytest.raises(Problem) as refused:
        scope(claims(scopes=every), types=["customer"])
    assert (refused.value.code, refused.value.errors[0].path) == ("forbidden", "type")
    with pytest.raises(Problem):
        scope(claims(scopes=["publish:*"]))


async def test_guests_are_masked(rig: Rig) -> None:
    """A masked token sees no guest's name, whether the state comes from the store or is folded for it."""
    await rig.publish(
        append(kind=CUSTOMER, entity="customer:1", customer_id="1", name="Yamada", rank_id="gold", novel="Yamada?"),
        append(kind=CUSTOMER, entity="customer:2", targets=["hotel-saas"], customer_id="2", email="a@b.c"),
        append(kind=CUSTOMER, entity="customer:2", customer_id="2", name="Sato"),
    )
    await rig.project()
    page = await Snapshots(rig.history).page(scope(claims(system=SYSTEM, view="masked")), [ONE], 10)
    assert states(page) == {
        (ONE, "customer", "customer:1"): (1, {"customer_id": "1", "name": "***", "rank_id": "gold"}),
        (ONE, "customer", "customer:2"): (2, {"customer_id": "2", "name": "***"}),
    }
    assert b"Yamada" not in page.body()


async def test_types_and_entities_narrow(rig: Rig) -> None:
    """Either or both; what is not there is not an error."""
    await life(rig, random.Random(5), 100, [ONE])
    await rig.project()
    reader = Snapshots(rig.history)
    whole = states(await reader.page(scope(), [ONE], 100))
    rooms = states(await reader.page(scope(types=["room"]), [ONE], 100))
    assert rooms == {key: state for key, state in whole.items() if key[1] == "room"}
    two = states(await reader.page(scope(entities=["room:1", "customer:2", "room:99"]), [ONE], 100))
    assert two == {key: state for key, state in whole.items() if key[2] in ("room:1", "customer:2")}
    assert states(await reader.page(scope(types=["order"]), [ONE], 100)) == {}
    assert len(rooms) == 5


async def test_tenants_without_events_have_a_cursor(rig: Rig) -> None:
    """Their page is empty, and events after its cursor begin with the first."""
    await rig.publish(append(TENANTS[1]))
    await rig.project()
    page = await Snapshots(rig.history).page(scope(), TENANTS[:2], 10)
    assert list(states(page)) == [(TENANTS[1], "room", "room:1")]
    cursors = split(page.cursor, list(TENANTS))
    assert (cursors[TENANTS[0]].sequence, cursors[TENANTS[1]].sequence) == (0, 1)


@pytest.mark.parametrize(
    "token", ["", "x", "!!!!", "満室", "bnVsbA", "W10", "WzEsMiwzLDQsNSw2XQ", "A" * 20_000, "eyJhIjoxfQ"]
)
async def test_a_bad_token_is_refused(rig: Rig, token: str) -> None:
    """It names the parameter, and never fails otherwise."""
    with pytest.raises(Problem) as refused:
        await Snapshots(rig.history).page(scope(), [ONE], 10, token)
    assert refused.value.code == "invalid_request"
    assert refused.value.errors[0].path == "after"


async def test_a_token_is_for_its_listing(rig: Rig) -> None:
    """Other filters, another view, other tenants: not with this token."""
    await life(rig, random.Random(1), 50)
    await rig.project()
    reader = Snapshots(rig.history)
    token = (await reader.page(scope(), TENANTS, 2)).next
    assert token is not None
    for other in (scope(types=["room"]), scope(entities=["room:1"]), scope(claims(view="masked"))):
        with pytest.raises(Problem) as refused:
            await reader.page(other, TENANTS, 2, token)
        assert refused.value.code == "invalid_request"
    with pytest.raises(Problem) as refused:
        await reader.page(scope(), TENANTS[:1], 2, token)
    assert refused.value.code == "invalid_cursor"


async def test_a_token_of_a_place_that_does_not_come(rig: Rig) -> None:
    """Past all that was published it is refused at once; published and not projected yet, it is waited for."""
    await life(rig, random.Random(1), 50, [ONE])
    await rig.project()
    reader = Snapshots(rig.history)
    token = (await reader.page(scope(), [ONE], 2)).next
    assert token is not None
    version, digest, cursor, *rest = orjson.loads(b64decode(token + "=" * (-len(token) % 4), altchars=b"-_"))
    there = Cursor.decode(cursor)
    ahead = there._replace(sequence=there.sequence + 1, id=there.id.next)

    def forged(place: Cursor) -> str:
        return urlsafe_b64encode(orjson.dumps([version, digest, place.encode(), *rest])).decode().rstrip("=")

    with pytest.raises(Problem) as refused:
        await reader.page(scope(), [ONE], 2, forged(ahead))
    assert refused.value.code == "invalid_cursor"
    (later,) = await rig.publish(append(ONE, ROOM, "room:1", a=1))
    page = asyncio.create_task(reader.page(scope(), [ONE], 2, forged(Cursor.decode(later.cursor))))
    await turns(20)
    assert not page.done()
    await rig.project()
    assert (await page).cursor == later.cursor


async def test_each_revision_of_an_entity(rig: Rig) -> None:
    """Its state right after every one of them, with the cursor of that event; other types of the entity beside it."""
    published = []
    for number in range(6):
        kind = CUSTOMER if number in (2, 4) else ROOM
        data: dict[str, Any] = {f"f{number}": number, "last": number}
        published += await rig.publish(append(kind=kind, entity="room:7", **data))
    await rig.project()
    reader = Snapshots(rig.history)
    for number in range(1, 7):
        page = await reader.at_revision(scope(), ONE, "room:7", number)
        cursor = Cursor.decode(published[number - 1].cursor)
        assert states(page) == await expected(rig, {ONE: cursor})
        assert page.cursor == published[number - 1].cursor
    rooms = await reader.at_revision(scope(types=["room"]), ONE, "room:7", 5)
    assert list(states(rooms)) == [(ONE, "room", "room:7")]


async def test_what_only_expired_events_said_is_kept(rig: Rig) -> None:
    """Folded back to the cursor, a state still has the fields that no event speaks of that is left."""
    await rig.publish(append(entity="room:0", z=0))
    said: list[dict[str, Any]] = [{"a": 1, "b": 1}, {"b": 2}, {"b": 3, "c": 3}]
    await rig.publish(*[append(entity="room:1", **data) for data in said])
    await rig.project()
    reader = Snapshots(rig.history)
    first = await reader.page(scope(), [ONE], 1)
    await rig.publish(append(entity="room:1", c=4))
    await rig.project()
    async with rig.store.database.writing() as connection:
        await connection.execute(text("DELETE FROM events WHERE position <= 2"))
    page = await reader.page(scope(), [ONE], 10, first.next)
    assert states(page) == {(ONE, "room", "room:1"): (3, {"a": 1, "b": 3, "c": 3})}
    assert states(await reader.at_revision(scope(), ONE, "room:1", 2)) == {
        (ONE, "room", "room:1"): (2, {"a": 1, "b": 2})
    }
    with pytest.raises(Problem) as refused:
        await reader.at_revision(scope(), ONE, "room:1", 1)
    assert refused.value.code == "not_found"
    some = scope(claims(scopes=["subscribe:room.price_updated"]))
    assert states(await reader.page(some, [ONE], 10)) == {}


@pytest.mark.parametrize(("entity", "revision"), [("room:7", 2), ("room:8", 1), ("order:1", 1)])
async def test_a_revision_that_is_not_there(rig: Rig, entity: str, revision: int) -> None:
    """Not yet published, of no such entity, or not for this system: all the same."""
    await rig.publish(
        append(entity="room:7"), append(kind=("order", "placed"), targets=["hotel-saas"], entity="order:1")
    )
    await rig.project()
    with pytest.raises(Problem) as refused:
        await Snapshots(rig.history).at_revision(scope(claims(system=SYSTEM)), ONE, entity, revision)
    assert refused.value.code == "not_found"


async def test_a_revision_on_its_way_to_the_archive_is_waited_for(rig: Rig) -> None:
    """A client that was sent a change an instant ago may ask for what it is based on."""
    await rig.publish(append(a=1))
    asked = asyncio.create_task(Snapshots(rig.history).at_revision(scope(), ONE, "room:1", 1))
    await turns(50)
    assert not asked.done()
    await rig.project()
    assert states(await asked) == {(ONE, "room", "room:1"): (1, {"a": 1})}


async def test_a_revision_that_is_archived_while_it_is_asked_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question for it and the one whether all is archived: it is looked for once more."""
    await rig.publish(append(a=1))
    reader = Snapshots(rig.history)
    ask = rig.store.entities.revision

    async def overtaken(*asked: Any) -> Any:
        monkeypatch.setattr(rig.store.entities, "revision", ask)
        found = await ask(*asked)
        await rig.project()
        return found

    monkeypatch.setattr(rig.store.entities, "revision", overtaken)
    page = await reader.at_revision(scope(), ONE, "room:1", 1)
    assert states(page) == {(ONE, "room", "room:1"): (1, {"a": 1})}


async def test_without_the_store_the_client_is_told_to_come_back(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages, revisions and subscriptions alike; nothing of the connection breaks. The same without the log."""
    await rig.publish(append())
    await rig.project()
    reader, one = Snapshots(rig.history), rig.connection(claims())

    async def store_away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    async def log_away(*_: Any) -> Any:
        raise RedisError("away")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store.entities, "marks", store_away)
        for asking in (
            reader.page(scope(), [ONE], 10),
            reader.at_revision(scope(), ONE, "room:1", 1),
            one.subscribe(snapshot=True),
        ):
            with pytest.raises(Problem) as refused:
                await asking
            assert (refused.value.code, refused.value.retryable) == ("store_unavailable", True)
    with monkeypatch.context() as patch:
        patch.setattr(rig.history, "tenants", log_away)
        with pytest.raises(Problem) as refused:
            await one.subscribe(snapshot=True)
        assert refused.value.code == "log_unavailable"
    await one.subscribe(snapshot=True)
    await one.quiet()


async def test_a_page_waits_for_a_projection_that_is_behind(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rebuilt states that are not where the listing began are waited for, not shown; but not for ever."""
    await life(rig, random.Random(2), 40, [ONE])
    await rig.project()
    reader = Snapshots(rig.history)
    first = await reader.page(scope(), [ONE], 2)
    found = states(first)
    await rig.store.entities.switch(await rig.store.entities.begin(1))
    asked = asyncio.create_task(reader.page(scope(), [ONE], 100, first.next))
    await turns(50)
    assert not asked.done()
    await projector.rebuild(rig.store)
    found |= states(await asked)
    assert found == await expected(rig, split(first.cursor, [ONE]))

    await rig.store.entities.switch(await rig.store.entities.begin(1))
    monkeypatch.setattr(snapshots, "CATCH_UP_S", 0)
    with pytest.raises(Problem) as refused:
        await reader.page(scope(), [ONE], 100, first.next)
    assert refused.value.code == "store_unavailable"


async def test_a_page_looks_at_so_many_states_and_no_more(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where few may be seen, or they are large, a page is short, even empty, and the next goes on behind it."""
    await rig.publish(*[append(entity=f"room:{number}", targets=[SYSTEM], a="x" * 100) for number in range(30)])
    await rig.publish(append(entity="room:99", targets=["hotel-saas"], a=1))
    await rig.project()
    reader = Snapshots(rig.history)
    monkeypatch.setattr(snapshots, "MAX_SCANNED", 10)
    pages = [await reader.page(who := scope(claims(system="hotel-saas")), [ONE], 100)]
    while (token := pages[-1].next) is not None:
        pages.append(await reader.page(who, [ONE], 100, token))
    assert [len(page.entities) for page in pages] == [0, 0, 0, 1]
    monkeypatch.setattr(snapshots, "MAX_SCANNED", 1000)
    monkeypatch.setattr(snapshots, "MAX_PAGE_BYTES", 500)
    page = await reader.page(scope(), [ONE], 100)
    assert 4 <= len(page.entities) <= 5
    assert page.next is not None


# -- before a subscription ----------------------------------------------------------------------------------------


def held_by(one: Connection, patterns: Iterable[str] = ("*",)) -> State:
    """What a client holds that took the snapshot and merged every event into it."""
    found: State = {}
    for frame in one.frames:
        if frame["op"] == "snapshot":
            for state in orjson.loads(orjson.dumps(frame))["entities"]:
                key = (frame["tenant_id"], state["type"], state["entity"])
                assert key not in found
                found[key] = (state["revision"], state["data"])
        elif frame["op"] == "event":
            event = frame["event"]
            key = (event["tenant_id"], event["type"], event["entity"])
            revision, data = found.get(key, (0, {}))
            assert event["revision"] > revision
            merged = {name: value for name, value in (data | event["data"]).items() if value is not None}
            found[key] = (event["revision"], merged)
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("system", "tenants"), [(HUB, ("*",)), (HUB, TENANTS), (SYSTEM, TENANTS[:2]), ("hotel-saas", ("*",))]
)
async def test_snapshot_then_events_without_a_seam(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, seed: int, system: str, tenants: tuple[str, ...]
) -> None:
    """With publishing, archiving and projecting all the while: snapshot and events make up the present state."""
    monkeypatch.setattr(snapshots, "CHUNK", 3)
    monkeypatch.setattr(snapshot_frames, "FRAME_BYTES", 300)
    draw = random.Random(seed)
    await life(rig, draw, 60, TENANTS[:3])
    await rig.project()
    await life(rig, draw, draw.randrange(20), TENANTS[:3])
    stop = asyncio.Event()

    async def going_on() -> None:
        while not stop.is_set():
            await life(rig, draw, 3)
            if draw.random() < 0.5:
                await rig.project()

    publishing = asyncio.create_task(going_on())
    one = rig.connection(claims(tenants, system))
    try:
        told = await one.subscribe(snapshot=True)
        events = len(one.events)
        await until(lambda: len(one.events) > events + 5)
    finally:
        stop.set()
        await publishing
    await one.quiet()
    assert (told["recovered"], one.gaps) == (True, [])
    names = TENANTS if tenants == ("*",) else tenants
    present = {tenant: Cursor.of(0, tenant, 1 << 40, ZERO) for tenant in names}
    assert held_by(one) == await expected(rig, present, system)
    order = [frame["op"] for frame in one.frames]
    assert order.index("subscribed") == len(one.snapshots)
    for tenant in {frame["tenant_id"] for frame in one.snapshots}:
        pages = [frame for frame in one.snapshots if frame["tenant_id"] == tenant]
        assert [frame["more"] for frame in pages] == [True] * (len(pages) - 1) + [False]
        assert ["cursor" in frame for frame in pages] == [False] * (len(pages) - 1) + [True]
        assert told["position"][tenant] == pages[-1]["cursor"]
    assert len(one.snapshots) > len(names)


async def test_only_what_is_subscribed_to_is_in_the_snapshot(rig: Rig) -> None:
    """Types that its patterns ask for, entities that it names; the pattern's action narrows the events alone."""
    await rig.publish(append(kind=ROOM, entity="room:1", a=1), append(kind=PRICE, entity="room:2", a=2))
    await rig.publish(append(kind=CUSTOMER, entity="customer:1", a=3))
    await rig.project()
    one = rig.connection(claims([ONE]))
    await one.subscribe(1, ["room.price_updated"], snapshot=True)
    assert held_by(one) == {(ONE, "room", "room:1"): (1, {"a": 1}), (ONE, "room", "room:2"): (1, {"a": 2})}
    two = rig.connection(claims([ONE]))
    await two.subscribe(1, ["room.*", "customer.*"], entities=["room:2", "customer:1"], snapshot=True)
    assert held_by(two) == {(ONE, "room", "room:2"): (1, {"a": 2}), (ONE, "customer", "customer:1"): (1, {"a": 3})}


async def test_a_durable_name_goes_on_from_the_snapshot(rig: Rig) -> None:
    """The snapshot's cursor is its new position, wherever it stood; events after it come again until acknowledged."""
    await rig.publish(append(a=1), append(a=2))
    old = rig.connection(claims([ONE]))
    await old.subscribe(name="desk", after="earliest")
    await old.quiet()
    await old.feed.close()
    await rig.publish(append(a=3))
    await rig.project()
    await rig.publish(append(a=4))
    one = rig.connection(claims([ONE]))
    await one.subscribe(name="desk", snapshot=True)
    assert held_by(one) == {(ONE, "room", "room:1"): (3, {"a": 3})}
    await until(lambda: [frame["sequence"] for frame in one.events] == [4])
    await one.feed.close()
    again = rig.connection(claims([ONE]))
    await again.subscribe(name="desk")
    await until(lambda: [frame["sequence"] for frame in again.events] == [4])


async def test_events_before_the_archive_caught_up_follow_the_snapshot(rig: Rig) -> None:
    """A snapshot of a projection that is behind, or never began, is followed by everything since."""
    await rig.publish(append(a=1), append(a=2))
    one = rig.connection(claims([ONE]))
    await one.subscribe(snapshot=True)
    await one.quiet()
    assert one.snapshots[0]["entities"] == []
    assert held_by(one) == {(ONE, "room", "room:1"): (2, {"a": 2})}


@pytest.mark.parametrize("beside", [{"after": "latest"}, {"after": {ONE: "x"}}])
async def test_after_does_not_go_with_a_snapshot(rig: Rig, beside: dict[str, Any]) -> None:
    """The snapshot says where events follow from; the refusal names the field and sends nothing else."""
    one = rig.connection(claims([ONE]))
    with pytest.raises(Problem) as refused:
        await one.subscribe(snapshot=True, **beside)
    assert (refused.value.code, refused.value.errors[0].path) == ("invalid_request", "after")
    assert one.frames == []


async def test_frames_are_small_and_wait_for_the_socket(rig: Rig) -> None:
    """No frame over 64 KiB; with a full socket nothing is read ahead, and it goes on where it was."""
    big = "x" * 20_000
    await rig.publish(*[append(entity=f"room:{number:02d}", a=big) for number in range(30)])
    await rig.project()
    one = rig.connection(claims([ONE]))
    sent = one.send

    def full(op: str, **fields: Any) -> None:
        sent(op, **fields)
        one.writable = op != "snapshot"

    one.send = full  # type: ignore[method-assign]
    asked = asyncio.create_task(one.subscribe(snapshot=True))
    for number in range(1, 11):
        await until(lambda number=number: len(one.snapshots) == number)  # type: ignore[misc]
        await turns(20)
        assert len(one.snapshots) == number
        one.block(True)
        one.block(False)
    await asked
    assert sum(len(frame["entities"]) for frame in one.snapshots) == 30
    assert len(one.snapshots) == 10
    assert max(len(orjson.dumps(frame)) for frame in one.snapshots) < MAX_MESSAGE_BYTES


async def test_a_connection_that_closes_in_the_middle_leaves_nothing(rig: Rig) -> None:
    """Cancelled while it waits for the socket: no subscription, nobody in the fan-out, other connections go on."""
    await rig.publish(append(a=1))
    await rig.project()
    one, other = rig.connection(claims([ONE])), rig.connection(claims([ONE]))
    await other.subscribe()
    one.writable = False
    asked = asyncio.create_task(one.subscribe(snapshot=True, name="desk"))
    await turns(100)
    assert not asked.done()
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    await one.feed.close()
    assert one.frames == []
    await rig.publish(append(a=2))
    await other.quiet()
    assert other.sequences() == [2]
    assert await rig.positions.get(HUB, "desk", [ONE]) == {}


async def test_another_subscription_goes_on_meanwhile(rig: Rig) -> None:
    """A snapshot that waits for its socket's connection holds up nothing that is live, and no event comes twice."""
    await rig.publish(append(a=1))
    await rig.project()
    one = rig.connection(claims([ONE]))
    await one.subscribe(1, ["room.*"])
    asked = asyncio.create_task(one.subscribe(2, ["*"], snapshot=True))
    await rig.publish(append(a=2), append(kind=CUSTOMER, entity="customer:1", a=3))
    await asked
    await one.quiet()
    assert sorted(one.sequences()) == [2, 3]
