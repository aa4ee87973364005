"""Changes as devices pull them: each once, in order, with the version after it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from feed_rig import TENANTS, Rig, append
from sqlalchemy import text
from sync_life import MEMBER, ONE, PMS, SAAS, entries, event, life, versions, visible

from hub.log.stream_log import Append
from hub.services import sync_pull, sync_view
from hub.services.projector import rebuild
from hub.services.sync_pull import PullPage, SyncPull
from hub.services.sync_view import SyncView
from hub.store.database import StoreUnavailable
from schemas.errors import Problem
from schemas.sync import Change, PullResponse

pytestmark = pytest.mark.server

STAY = ("checkin_checkout", "checked_in")
BOOKING = ("reservation", "updated")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody brings the states up to date while these tests wait for it."""
    monkeypatch.setattr(sync_view, "FRESH_POLLS", 0)
    monkeypatch.setattr(sync_pull, "FRESH_POLLS", 0)


def reader(rig: Rig) -> SyncPull:
    """A reader that remembers nothing yet."""
    return SyncPull(SyncView(rig.history), rig.metrics)


def read(page: PullPage) -> PullResponse:
    """The page as a device reads it."""
    return PullResponse.model_validate_json(page.body(), strict=True)


async def pulled(pull: SyncPull, system: str = PMS, after: str | None = None, limit: int = 1000) -> list[Change]:
    """Everything after a cursor that is there."""
    found: list[Change] = []
    while True:
        answer = read(await pull.page(system, ONE, after, limit))
        assert answer.gap is None
        found += answer.changes
        after = answer.next
        if not answer.more:
            return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("system", [PMS, SAAS, MEMBER])
async def test_each_visible_event_comes_once_in_order_with_its_version(rig: Rig, seed: int, system: str) -> None:
    """In pages of any size, by readers that remember what they gave and by new ones, while the hotel goes on."""
    draw = random.Random(seed)
    pull, after, found = reader(rig), None, list[Change]()
    for _ in range(25):
        await rig.publish(*life(draw, draw.randrange(12)))
        if draw.random() < 0.6:
            await rig.project()
        if draw.random() < 0.3:
            pull = reader(rig)
        answer = read(await pull.page(system, ONE, after, draw.choice((1, 2, 7, 50))))
        assert answer.gap is None
        found += answer.changes
        after = answer.next
    await rig.project()
    found += await pulled(pull, system, after, 5)
    all = await entries(rig)
    expected = [entry for entry in all if visible(entry, system)]
    assert [change.sequence for change in found] == [entry.sequence for entry in expected]
    assert [change.cursor for change in found] == [entry.cursor for entry in expected]
    counted = versions(all)
    assert [change.version for change in found] == [counted[entry.sequence] for entry in expected]
    assert [change.data for change in found] == [entry.event["data"] for entry in expected]
    assert await pulled(reader(rig), system) == found
    # What it remembers is of use, and does no harm, wherever it begins.
    assert await pulled(pull, system, limit=7) == found
    assert await pulled(pull, system, found[5].cursor, 3) == found[6:]


async def test_the_next_page_begins_where_the_last_one_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions are looked up for the first page of an entity alone, also where others' events lie in between."""
    hidden = event(BOOKING, "reservation:R1", SAAS, targets=[SAAS])
    booked = [event(BOOKING, "reservation:R1") for _ in range(8)]
    await rig.publish(*booked[:3], hidden, *booked[3:])
    await rig.project()
    pull = reader(rig)
    first = read(await pull.page(PMS, ONE, None, 2))
    versions, asked = pull._view.states.versions, list[Any]()

    async def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return await versions(*arguments)

    monkeypatch.setattr(pull._view.states, "versions", counted)
    rest = await pulled(pull, after=first.next, limit=2)
    assert [change.version for change in rest[:2]] == [{PMS: 3}, {PMS: 4, SAAS: 1}]
    assert (len(rest), asked) == (6, [])
    assert await pulled(reader(rig)) == first.changes + rest


async def test_a_change_says_what_happened(rig: Rig) -> None:
    """Model, operation and maker by the event; data as the newest schema says it."""
    old: dict[str, Any] = {"order_id": "1", "room_number": "301", "item": "tea", "quantity": 2, "unit_price": 500}
    made = event(("order", "placed"), "order:1", SAAS, device="tablet", **old)
    whole = orjson.loads(made.head + b"0}") | {"schema_version": 1, "occurred_at": "2026-07-15T15:04:00+09:00"}
    del whole["revision"]
    await rig.publish(replace(made, head=orjson.dumps(whole)[:-1] + b',"revision":'))
    await rig.publish(event(STAY, "reservation:R1"), event(("checkin_checkout", "no_show"), "reservation:R2"))
    await rig.project()
    order, arrived, missed = await pulled(reader(rig))
    assert (order.model, order.operation, order.type, order.action) == ("Order", "CREATE", "order", "placed")
    assert (order.system, order.device_id, order.uuid) == (SAAS, "tablet", made.event_id)
    assert (order.schema_version, order.data["total_amount"]) == (2, 1000)
    assert order.occurred_at == "2026-07-15T15:04:00+09:00"
    assert (order.revision, order.version) == (1, {"tablet": 1})
    assert (arrived.model, arrived.operation, arrived.device_id) == ("CheckIn", "CREATE", None)
    assert (missed.model, missed.operation) == ("NoShow", "UPDATE")


async def test_what_lies_before_and_after_a_page_is_told_apart(rig: Rig) -> None:
    """A new reader that begins in the middle takes off the version what came later, of both types of the entity."""
    await rig.publish(
        event(BOOKING, "reservation:R1", SAAS),
        event(BOOKING, "reservation:R1", PMS, device="desk-1"),
        event(STAY, "reservation:R1", PMS),
        event(BOOKING, "reservation:R1", PMS, targets=[MEMBER]),
        event(STAY, "reservation:R1", PMS, device="desk-2"),
    )
    await rig.project()
    whole = await pulled(reader(rig), SAAS)
    page = read(await reader(rig).page(SAAS, ONE, whole[0].cursor, 2))
    assert page.more
    assert [change.version for change in page.changes] == [
        {SAAS: 1, "desk-1": 1},
        {SAAS: 1, "desk-1": 1, PMS: 1},
    ]
    assert whole[-1].version == {SAAS: 1, "desk-1": 1, PMS: 2, "desk-2": 1}


async def test_states_from_before_versions_were_kept(rig: Rig) -> None:
    """What the states do not count by name stays unnamed, however it is read; what came since is counted on top."""
    await rig.publish(*(event(entity="room:1") for _ in range(3)))
    await rig.project()
    async with rig.store.database.writing() as connection:
        await connection.execute(text("UPDATE entities SET writers = NULL"))
    rig.projector._projection = None
    whole = [{"earlier": 1}, {"earlier": 2}, {"earlier": 3}]
    assert [change.version for change in await pulled(reader(rig))] == whole
    await rig.publish(event(entity="room:1"), event(entity="room:1", device="desk-1"))
    await rig.project()
    whole += [{"earlier": 3, PMS: 1}, {"earlier": 3, PMS: 1, "desk-1": 1}]
    assert [change.version for change in await pulled(reader(rig))] == whole
    assert [change.version for change in await pulled(reader(rig), limit=2)] == whole
    assert await rebuild(rig.store) == 5
    assert (await pulled(reader(rig)))[-1].version == {PMS: 4, "desk-1": 1}


async def test_a_page_ends_where_the_states_are(rig: Rig) -> None:
    """What is on its way is said to follow; at the head nothing more is, and the cursor is the projection's."""
    pull = reader(rig)
    nothing = read(await pull.page(PMS, ONE, None, 10))
    assert (nothing.changes, nothing.more) == ([], False)
    await rig.publish(event(a=1))
    await rig.project()
    await rig.publish(event(a=2), event(("system", "notice"), "system:1"))
    first = read(await pull.page(PMS, ONE, nothing.next, 10))
    assert ([change.data["a"] for change in first.changes], first.more) == ([1], True)
    still = read(await pull.page(PMS, ONE, first.next, 10))
    assert (still.changes, still.next, still.more) == ([], first.next, True)
    await rig.project()
    second = read(await pull.page(PMS, ONE, first.next, 10))
    assert ([change.data["a"] for change in second.changes], second.more) == ([2], False)
    assert read(await pull.page(PMS, ONE, first.next, 1)).more
    await rig.publish(event(a=3))
    await rig.project()
    second = read(await pull.page(PMS, ONE, second.next, 1))
    assert ([change.data["a"] for change in second.changes], second.more) == ([3], False)
    view = SyncView(rig.history)
    assert second.next == view.cursor(ONE, (await view.mark(ONE))[2])


@pytest.mark.parametrize("limit", [1, 10])
@pytest.mark.parametrize("there", [0, 1])
async def test_a_device_waits_for_its_own_events(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, there: int, limit: int
) -> None:
    """What was published before the question and is not in the states yet is waited for, also behind what is: unless
    the page has enough."""
    monkeypatch.setattr(sync_pull, "FRESH_POLLS", 3)
    monkeypatch.setattr(sync_pull, "POLL_S", 0)
    before = [event(a=number) for number in range(there)]
    if before:
        await rig.publish(*before)
        await rig.project()
    await rig.publish(event(a=7))
    pull = reader(rig)
    asked: list[int] = []
    mark = pull._view.mark

    async def marked(tenant_id: str) -> Any:
        asked.append(1)
        if len(asked) == 3:
            await rig.project()
        return await mark(tenant_id)

    monkeypatch.setattr(pull._view, "mark", marked)
    page = read(await pull.page(PMS, ONE, None, limit))
    full = there == limit
    assert [change.data["a"] for change in page.changes] == ([0] if full else [*range(there), 7])
    assert (page.more, len(asked)) == (full, 1 if full else 3)


async def test_an_event_that_was_stored_twice_comes_once(rig: Rig) -> None:
    """Sent again when its receipt is forgotten: the archive knows it, and so do the states; revisions go on."""
    again = event(a=1)
    await rig.publish(again)
    await rig.project()
    await rig.log.source.client.delete(*await rig.log.source.client.keys(f"{rig.prefix}*receipts*"))
    await rig.publish(again)
    await rig.publish(event(a=2))
    await rig.project()
    found = await pulled(reader(rig), limit=1)
    assert [(change.data["a"], change.revision, change.version) for change in found] == [
        (1, 1, {PMS: 1}),
        (2, 3, {PMS: 2}),
    ]
    assert await pulled(reader(rig), after=found[0].cursor) == found[1:]


async def test_what_is_gone_is_told(rig: Rig) -> None:
    """From the beginning, and from a cursor before what is left: a gap, and where to go on; never a silent hole."""
    cursors = [(await rig.publish(event(a=number)))[0].cursor for number in range(6)]
    await rig.project()
    await rig.trim()
    pull = reader(rig)
    assert len(await pulled(pull)) == 6
    async with rig.store.database.writing() as connection:
        await connection.execute(text("DELETE FROM events WHERE position <= 3"))
        await connection.execute(text("UPDATE tenants SET base_position = 3, base_sequence = 3"))
        for name, column in (("base_epoch", "epoch"), ("base_ms", "id_ms"), ("base_n", "id_n")):
            where = "position = 4"
            await connection.execute(text(f"UPDATE tenants SET {name} = (SELECT {column} FROM events WHERE {where})"))
        await connection.execute(text("UPDATE tenants SET base_ms = base_ms - 1"))
    for after in (None, cursors[0]):
        answer = read(await pull.page(PMS, ONE, after, 10))
        assert answer.gap is not None
        assert (answer.gap["reason"], answer.changes, answer.more) == ("expired", [], True)
        assert [change.data["a"] for change in await pulled(pull, after=answer.next)] == [3, 4, 5]
    assert [change.data["a"] for change in await pulled(pull, after=cursors[4])] == [5]


async def test_a_hole_ends_the_page_before_it(rig: Rig) -> None:
    """What is before it is given, then the gap is told: nothing passes it in silence."""
    await rig.publish(*(event(a=number) for number in range(5)))
    await rig.project()
    await rig.trim()
    async with rig.store.database.writing() as connection:
        await connection.execute(text("DELETE FROM events WHERE position = 3"))
    pull = reader(rig)
    first = read(await pull.page(PMS, ONE, None, 10))
    assert ([change.data["a"] for change in first.changes], first.more, first.gap) == ([0, 1], True, None)
    second = read(await pull.page(PMS, ONE, first.next, 10))
    assert second.gap is not None
    assert (second.changes, second.more) == ([], True)


async def test_pages_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """By bytes, and by what is looked at: then the page is empty, and its cursor has moved on."""
    hidden = [event(("system", "notice"), f"system:{number}") for number in range(6)]
    await rig.publish(*hidden, *(event(a="x" * 1000) for _ in range(4)))
    await rig.project()
    whole = await pulled(reader(rig))
    monkeypatch.setattr(sync_pull, "MAX_SCANNED", 4)
    page = read(await reader(rig).page(PMS, ONE, None, 10))
    assert (page.changes, page.more) == ([], True)
    assert await pulled(reader(rig)) == whole
    monkeypatch.setattr(sync_pull, "MAX_PAGE_BYTES", 2000)
    monkeypatch.setattr(sync_pull, "MAX_SCANNED", 100)
    assert len(read(await reader(rig).page(PMS, ONE, None, 10)).changes) == 2
    assert await pulled(reader(rig)) == whole


async def test_what_others_wrote_holds_nothing_up(rig: Rig) -> None:
    """What only looks like an event is passed, and data that no version can read comes as it is."""
    broken = append(ONE, ("room", "status_changed"), "room:9", [PMS])
    odd = event(("order", "placed"), "order:1", order_id="1", item=None)
    whole = orjson.loads(odd.head + b"0}") | {"schema_version": 1}
    del whole["revision"]
    bad: list[Append] = [
        replace(broken, head=b'{"data":[],"revision":'),
        replace(odd, head=orjson.dumps(whole)[:-1] + b',"revision":'),
        event(("checkin_checkout", "fled"), "reservation:R1"),
    ]
    for one in bad:
        await rig.log.submit(one)
    await rig.publish(event(entity="room:9", a=1))
    await rig.project()
    found = await pulled(reader(rig))
    assert [(change.entity, change.revision) for change in found] == [("order:1", 1), ("room:9", 2)]
    assert (found[0].data["order_id"], found[0].schema_version) == ("1", 2)
    assert found[1].version == {PMS: 1}


async def test_a_bad_cursor_is_refused(rig: Rig) -> None:
    """One that is none, and one of another tenant."""
    other = (await rig.publish(event(tenant=TENANTS[1])))[0].cursor
    for after in ("", "latest", "x" * 51, other):
        with pytest.raises(Problem) as refused:
            await reader(rig).page(PMS, ONE, after, 10)
        assert refused.value.code == "invalid_cursor"


async def test_a_store_that_is_away_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a failure that may be tried again, never as the end."""
    await rig.publish(event())
    await rig.project()
    pull = reader(rig)

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    monkeypatch.setattr(pull._view.archive, "read", away)
    with pytest.raises(Problem) as refused:
        await pull.page(PMS, ONE, None, 10)
    assert refused.value.code == "store_unavailable"
