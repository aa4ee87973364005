"""A history as lines: whole, in order, as the reader may see it, and cut where it cannot go on."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import orjson
import pytest
from feed_rig import KINDS, TENANTS, Rig, append, claims
from replay_desk import T0, Clock, Desk, events
from sqlalchemy import func, update

from hub.security.tokens import Claims
from hub.services import replay_export, replay_reading
from hub.services.replay_export import Export
from hub.services.replay_reading import Row
from hub.store import tables
from hub.store.database import StoreUnavailable
from schemas.cursor import ZERO, Cursor, StreamId, tenant_mark
from schemas.errors import Problem
from schemas.registry import EVENT_TYPES
from schemas.replay import Selection

pytestmark = pytest.mark.server

ONE, TWO, THREE, FOUR = TENANTS
HUB = claims(scopes=("ops", "subscribe:*"))


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the seams show."""
    monkeypatch.setattr(replay_reading, "PAGE", 7)


async def export(rig: Rig, token: Claims = HUB, **asked: Any) -> Export:
    desk = Desk(rig)
    chosen = await desk.jobs.plan(token, Selection.model_validate({"speed": "full"} | asked))
    return Export(desk.reading, chosen, token)


async def lines(made: Export) -> list[dict[str, Any]]:
    async with aclosing(made.lines()) as chunks:  # type: ignore[type-var]
        text = b"".join([chunk async for chunk in chunks])
    return [orjson.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("archived", ["none", "some", "all"])
@pytest.mark.parametrize("tenants", [None, [ONE], list(TENANTS[:3])])
async def test_every_event_once_in_the_order_of_the_log(rig: Rig, archived: str, tenants: list[str] | None) -> None:
    """From archive and stream over all partitions, with its own cursor, exactly as it is stored; then the end."""
    for _ in range(25):
        await rig.publish(*[append(tenant) for tenant in TENANTS])
    if archived != "none":
        await rig.archive()
        await rig.trim()
    if archived == "some":
        for _ in range(9):
            await rig.publish(*[append(tenant) for tenant in TENANTS])
    asked: dict[str, Any] = {"tenants": tenants} if tenants else {}
    found = await lines(await export(rig, **asked))

    *given, end = found
    wanted = {place: one for place, one in rig.published.items() if tenants is None or place[0] in tenants}
    assert end["end"]
    assert end["events"] == len(given) == len(wanted)
    for tenant in TENANTS:
        own = [line for line in given if line["event"]["tenant_id"] == tenant]
        assert [line["sequence"] for line in own] == sorted(number for name, number in wanted if name == tenant)
        assert [line["cursor"] for line in own] == [wanted[(tenant, line["sequence"])].cursor for line in own]
    assert all(line["replay"] is True for line in given)
    places = [line["cursor"][29:49] for line in given]
    assert places == sorted(places)

    assert (await lines(await export(rig, after=end["cursor"], tenants=tenants or list(TENANTS))))[-1]["events"] == 0


async def test_one_that_was_cut_goes_on_behind_its_last_lines(rig: Rig) -> None:
    """By the last cursor of each tenant, nothing is missing and nothing comes twice."""
    for _ in range(10):
        await rig.publish(*[append(tenant) for tenant in (ONE, TWO, THREE)])
    whole = (await lines(await export(rig)))[:-1]
    for cut in (1, 2, 5, 17, 29):
        last = {line["event"]["tenant_id"]: line["cursor"] for line in whole[:cut]}
        rest = (await lines(await export(rig, after=".".join(last.values()))))[:-1]
        assert [line["cursor"] for line in whole[:cut] + rest] == [line["cursor"] for line in whole]


async def test_what_the_reader_may_not_see_is_not_there(rig: Rig) -> None:
    """Events for other systems, and the names of guests."""
    await events(rig, ONE, 4, targets=("hotel-pms",), kind=("customer", "updated"), name="山田太郎", customer_id="c1")
    await events(rig, ONE, 3, targets=("hotel-saas",))

    assert (await lines(await export(rig, claims(system="hotel-saas", scopes=("ops", "subscribe:*")))))[-1][
        "events"
    ] == 3
    masked = await lines(await export(rig, claims(scopes=("ops", "subscribe:*"), view="masked")))
    assert masked[-1]["events"] == 7
    assert "山田" not in orjson.dumps(masked).decode()
    assert "山田" in orjson.dumps(await lines(await export(rig))).decode()


async def test_what_others_wrote_into_the_stream_breaks_no_line(rig: Rig) -> None:
    """Bodies that are no events are left out, one that spans lines becomes one."""
    await events(rig, ONE, 1)
    good = orjson.loads((await rig.log.read(rig.log.partition(ONE), ZERO, 1))[0].raw)
    bodies = (b"{", b"[]", b'{"data":{}}', b"not json\n{}", orjson.dumps(good, option=orjson.OPT_INDENT_2))
    for number, body in enumerate(bodies, 2):
        fields = {
            "event_type": "room",
            "event_data": body,
            "timestamp": T0,
            "event_id": f"e{number}",
            "tenant_id": ONE,
            "action": "status_changed",
            "entity": "room:1",
            "revision": number,
            "sequence": number,
        }
        await rig.log.source.client.xadd(rig.log.keys.events(rig.log.partition(ONE)), fields)
    await rig.publish(append(ONE))
    found = await lines(await export(rig))

    assert found[-1]["events"] == len(found) - 1 == 3
    assert found[-1]["skipped"] == 4


async def test_what_is_damaged_is_counted(rig: Rig) -> None:
    """Events of the archive whose bytes are not what they were: the others come, the end says how many did not."""
    await events(rig, ONE, 12)
    await rig.archive()
    await rig.trim()
    stored = tables.events
    for sequence, body in ((4, b"{broken"), (9, func.substr(stored.c.body, 1, func.length(stored.c.body) - 1))):
        async with rig.store.database.writing() as connection:
            await connection.execute(update(stored).where(stored.c.sequence == sequence).values(body=body))
    *given, end = await lines(await export(rig, tenants=[ONE]))

    assert [line["sequence"] for line in given] == [1, 2, 3, 5, 6, 7, 8, 10, 11, 12]
    assert (end["events"], end["skipped"]) == (10, 2)


async def test_the_last_cursor_is_the_furthest_of_each_tenant(rig: Rig) -> None:
    """Where its history lies in archive and stream, and where it ends before others of its partition."""
    await events(rig, ONE, 10)
    await rig.archive()
    await rig.trim()
    await events(rig, ONE, 9)
    assert (await lines(await export(rig)))[-1]["cursor"] == rig.published[(ONE, 19)].cursor
    for last in (5, 10, 12):
        until = rig.published[(ONE, last)].cursor
        assert (await lines(await export(rig, tenants=[ONE], until=until)))[-1]["cursor"] == until

    beside = next(f"{ONE}{n}" for n in range(1000) if rig.log.partition(f"{ONE}{n}") == rig.log.partition(ONE))
    await events(rig, beside, 3)
    ends = [rig.published[(ONE, 12)].cursor, rig.published[(beside, 3)].cursor]
    found = await lines(await export(rig, tenants=[ONE, beside], until=".".join(ends)))
    assert sorted(found[-1]["cursor"].split(".")) == sorted(ends)


async def test_scopes_hold_whatever_the_plan_says(rig: Rig) -> None:
    """An event of a type that the token may not subscribe to is in no line, also where bytes go as they are stored."""
    await events(rig, ONE, 4)
    await events(rig, ONE, 3, kind=KINDS[2])
    desk = Desk(rig)
    narrow = claims(scopes=("ops", "subscribe:order.*"))
    wide = await desk.jobs.plan(HUB, Selection.model_validate({"speed": "full"}))

    for found in (await lines(Export(desk.reading, wide, narrow)), await lines(await export(rig, narrow))):
        assert [line["event"]["type"] for line in found[:-1]] == ["order"] * 3
        assert (found[-1]["events"], found[-1]["skipped"]) == (3, 0)


async def test_an_older_version_is_exported_as_the_newest(rig: Rig) -> None:
    """Also among events that go out as they are stored."""
    one = append(ONE, ("order", "placed"), item="beer", quantity=2, unit_price=500)
    kind = EVENT_TYPES["order"]
    one.head = one.head.replace(b'"schema_version":%d' % kind.newest, b'"schema_version":1')
    await rig.publish(one)

    assert (await lines(await export(rig)))[0]["event"]["schema_version"] == kind.newest


async def test_a_paced_export_takes_as_long_as_it_says(rig: Rig) -> None:
    """Ten times the recorded speed, by a clock that jumps."""
    seconds = [0, 30, 31, 600]
    for at in seconds:
        await events(rig, ONE, 1, start_ms=T0 + at * 1000)
    desk, clock = Desk(rig), Clock(jumps=True)
    chosen = await desk.jobs.plan(HUB, Selection.model_validate({"speed": 10}))
    made = Export(desk.reading, chosen, HUB, wall=clock.wall, sleep=clock.sleep)
    start, came = clock.now, []
    async for chunk in made.lines():
        came += [clock.now - start] * chunk.count(b"\n")

    for at, when in zip(seconds, came, strict=False):
        assert abs(when - at / 10) <= max(0.02 * at / 10, 0.02)
    assert len(came) == 5


@pytest.mark.parametrize("speed", ["full", 1000])
async def test_one_that_may_not_go_on_ends_without_its_last_line(rig: Rig, speed: Any) -> None:
    """A token that expired, a hub that stops: the reader can tell."""
    await events(rig, ONE, 30)
    desk, left, clock = Desk(rig), iter([True, True]), Clock(jumps=True)
    chosen = await desk.jobs.plan(HUB, Selection.model_validate({"speed": speed}))
    made = Export(desk.reading, chosen, HUB, wall=clock.wall, sleep=clock.sleep, may_go_on=lambda: next(left, False))
    found = await lines(made)

    assert 0 < len(found) < 30
    assert not any("end" in line for line in found)


async def test_a_store_that_goes_away_cuts_it(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle it ends without its last line; before the first line it is a problem."""
    await events(rig, ONE, 40)
    await rig.archive()
    await rig.trim()
    await events(rig, ONE, 1)
    made = await export(rig, tenants=[ONE])
    whole = made._reading._rows
    pages = iter(range(3))

    async def failing(*args: Any) -> list[Row]:
        if next(pages, None) is None:
            raise StoreUnavailable("gone")
        return await whole(*args)

    monkeypatch.setattr(made._reading, "_rows", failing)
    found = await lines(made)
    assert [line["sequence"] for line in found] == list(range(1, 22))

    again = await export(rig, tenants=[ONE])
    monkeypatch.setattr(again._reading, "_rows", failing)
    with pytest.raises(Problem) as refused:
        await lines(again)
    assert refused.value.code == "store_unavailable"


def test_the_line_is_put_together_as_the_cursor_is() -> None:
    """The parts that are written without it are the cursor's own."""
    mark = tenant_mark("naha")
    row = (0x1_2345_6789, 3, 7, 1, 42, 1, "room", "status_changed", "room:1", b"", 0, b"{}")
    check = (7 + mark * 3 + 42 * 31 + row[0] * 7 + 3 * 13) % 251
    head = b'{"cursor":"1%08x%08x' % (7, mark)
    line = replay_export._LINE % (head, 42, row[0], 3, check, 42, b"{}")

    assert orjson.loads(line)["cursor"] == Cursor.of(7, "naha", 42, StreamId(row[0], 3)).encode()
