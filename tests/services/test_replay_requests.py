"""What may be replayed, what is counted, and what is refused by name."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from feed_rig import KINDS, TENANTS, Rig, claims
from pydantic import ValidationError
from replay_desk import GROUP, OPS, T0, Clock, Desk, events, request

from hub.services import replay_reading, replay_watch
from schemas.cursor import Cursor, StreamId
from schemas.errors import Problem
from schemas.replay import Selection, read_speed

pytestmark = pytest.mark.server

ONE, TWO, THREE = TENANTS[:3]


async def refused(desk: Desk, **asked: Any) -> Problem:
    with pytest.raises(Problem) as found:
        await desk.jobs.create(OPS, request(**asked))
    return found.value


async def counted(desk: Desk, **asked: Any) -> dict[str, Any]:
    return await desk.jobs.look(OPS, request(**asked))


@pytest.mark.parametrize("archived", [False, True])
async def test_a_dry_run_counts_by_type_and_makes_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, archived: bool
) -> None:
    """With the first and the last time, and how long it would take; the same from log and archive."""
    monkeypatch.setattr(replay_reading, "PAGE", 7)
    await events(rig, ONE, 20)
    await events(rig, TWO, 10, kind=KINDS[2], start_ms=T0 + 60_000)
    if archived:
        await rig.archive()
        await rig.trim()
        await events(rig, ONE, 1)
    desk = Desk(rig)
    found = await counted(desk, speed=2)

    assert found["by_type"] == {"order.placed": 10, "room.status_changed": 20 + archived}
    assert found["events"] == 30 + archived
    assert (found["first"], found["last"]) == ("2026-07-15T01:04:01.000Z", "2026-07-15T01:05:10.000Z")
    assert (found["span_seconds"], found["takes_seconds"]) == (69, 34.5)
    assert await desk.jobs.listed(OPS) == []


async def test_a_channel_counts_what_its_system_may_see(rig: Rig) -> None:
    """An event that is not for it would not come."""
    await events(rig, ONE, 3, targets=("hotel-pms",))
    await events(rig, ONE, 4, targets=("hotel-saas",))
    desk = Desk(rig)

    for system, count in (("hotel-pms", 3), ("hotel-saas", 4), ("hotel-spa", 0)):
        assert (await counted(desk, target={"system": system, "channel": "c"}))["events"] == count


async def test_tenants_patterns_entities_and_cursors_narrow_it(rig: Rig) -> None:
    """Each alone and together; `until` is included, `after` is not."""
    await events(rig, ONE, 10)
    await events(rig, ONE, 5, entity="room:2")
    await events(rig, ONE, 5, kind=KINDS[2], entity="order:1")
    await events(rig, TWO, 8)
    desk = Desk(rig)
    cursor = {number: rig.published[(ONE, number)].cursor for number in range(1, 21)}

    for asked, count in (
        ({"tenants": [TWO]}, 8),
        ({"patterns": ["order.*"]}, 5),
        ({"patterns": ["order.placed", "room.*"], "entities": ["room:2", "order:1"]}, 10),
        ({"tenants": [ONE], "after": cursor[4]}, 16),
        ({"tenants": [ONE], "until": cursor[4]}, 4),
        ({"tenants": [ONE], "after": cursor[4], "until": cursor[7]}, 3),
        ({"after": f"{cursor[4]}.{rig.published[(TWO, 7)].cursor}"}, 17),
        ({"tenants": [THREE]}, 0),
    ):
        assert (await counted(desk, **asked))["events"] == count, asked


async def test_dates_are_days_of_the_property_where_it_is(rig: Rig) -> None:
    """From its midnight to the next one, both dates included; instants are themselves, the last one excluded."""
    now = int(time.time() * 1000)
    desk = Desk(rig)
    await desk.tenants.put({"tenant_id": ONE, "timezone": "Asia/Tokyo"})
    await desk.tenants.put({"tenant_id": TWO, "timezone": "America/New_York"})
    await events(rig, ONE, 1, start_ms=now)
    await events(rig, TWO, 1, start_ms=now)
    for tenant in (ONE, TWO):
        zone = desk.tenants.get(tenant).zone
        today = datetime.fromtimestamp(now / 1000, zone).date()
        yesterday, tomorrow = today - timedelta(days=1), today + timedelta(days=1)
        for asked, count in (
            ((today, today), 1),
            ((yesterday, today), 1),
            ((yesterday, yesterday), 0),
            ((tomorrow, tomorrow), 0),
        ):
            span = {"from": str(asked[0]), "to": str(asked[1])}
            assert (await counted(desk, tenants=[tenant], **span))["events"] == count, span
        midnight = datetime(today.year, today.month, today.day, tzinfo=zone).isoformat()
        assert (await counted(desk, tenants=[tenant], **{"from": midnight}))["events"] == 1
        assert (await counted(desk, tenants=[tenant], to=midnight))["events"] == 0


async def test_every_refusal_names_its_field(rig: Rig) -> None:
    """Ranges without room, speeds that would take years, targets that are not there."""
    await events(rig, ONE, 3)
    await events(rig, ONE, 1, start_ms=T0 + 40 * 86_400_000)
    desk = Desk(rig)
    cursor = {number: rig.published[(ONE, number)].cursor for number in range(1, 5)}
    future = Cursor.of(rig.log.epochs[rig.log.partition(ONE)], ONE, 99, StreamId(1 << 41, 0)).encode()
    old = Cursor.of(5, ONE, 2, StreamId(7, 0)).encode()
    noon = "2026-07-15T12:00:00Z"
    for asked, field, code in (
        ({"from": "2026-07-16", "to": "2026-07-15"}, "from", "invalid_request"),
        ({"from": noon, "to": noon}, "from", "invalid_request"),
        ({"from": "2031-01-01"}, "from", "invalid_request"),
        ({"to": "2020-01-01"}, "to", "invalid_request"),
        ({"to": "9999-12-31"}, "to", "invalid_request"),
        ({"tenants": [ONE], "after": cursor[3], "until": cursor[3]}, "until", "invalid_request"),
        ({"tenants": [ONE], "after": cursor[4]}, "after", "invalid_request"),
        ({"tenants": [TWO]}, "tenants", "invalid_request"),
        ({"patterns": ["billing.*"]}, "patterns", "invalid_request"),
        ({"entities": ["room:9"]}, "entities", "invalid_request"),
        ({"speed": "recorded"}, "speed", "invalid_request"),
        ({"tenants": [TWO], "after": cursor[1]}, "after", "invalid_cursor"),
        ({"tenants": [ONE], "after": future}, "after", "invalid_cursor"),
        ({"tenants": [ONE], "until": old}, "until", "invalid_cursor"),
        ({"after": "nonsense"}, "after", "invalid_cursor"),
        ({"target": {"group": "nobody"}}, "target.group", "invalid_request"),
        ({"target": {"group": "archiver"}}, "target.group", "invalid_request"),
        ({"target": {"system": "hotel-x", "channel": "c"}}, "target.system", "invalid_request"),
        ({"target": {"webhook": "w-1"}}, "target.webhook", "invalid_request"),
        ({"target": None}, "target", "invalid_request"),
    ):
        problem = await refused(desk, **asked)
        assert (problem.code, [error.path for error in problem.errors]) == (code, [field]), (asked, problem)
    assert await desk.jobs.listed(OPS) == []


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"speed": 0}, "speed"),
        ({"speed": -1}, "speed"),
        ({"speed": 1e9}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"speed": True}, "speed"),
        ({"from": "2026-13-01"}, "from"),
        ({"to": "yesterday"}, "to"),
        ({"to": "2026-07-15T10:00:00"}, "to"),
        ({"patterns": ["Room"]}, "patterns.0"),
        ({"tenants": []}, "tenants"),
        ({"target": {"system": "hotel-pms"}}, "target"),
        ({"target": {"group": "g", "webhook": "w"}}, "target"),
        ({"target": {}}, "target"),
        ({"replay_id": "1"}, "replay_id"),
        ({"wanted": 1}, "wanted"),
    ],
)
def test_what_makes_no_sense_at_all_is_refused_before_anything_is_read(asked: dict[str, Any], field: str) -> None:
    """By the schema, naming the field."""
    with pytest.raises(ValidationError) as found:
        request(**asked)
    assert ".".join(map(str, found.value.errors()[0]["loc"])) == field


def test_speeds_are_read_as_people_write_them() -> None:
    """Words, numbers, and numbers with an x."""
    assert [read_speed(value) for value in ("recorded", "full", 2, "2.5", "x10", "X10")] == [
        "recorded",
        "full",
        2.0,
        2.5,
        10.0,
        10.0,
    ]
    assert Selection().speed == "recorded"


async def test_asking_twice_makes_one_and_asking_otherwise_is_a_conflict(rig: Rig) -> None:
    """By the id that the client gave; a target that is taken names who has it."""
    await events(rig, ONE, 3)
    desk, replay_id = Desk(rig), str(uuid4())
    made, new = await desk.jobs.create(OPS, request(replay_id=replay_id))
    again, not_new = await desk.jobs.create(OPS, request(replay_id=replay_id.upper()))

    assert (new, not_new, made["replay_id"], again["replay_id"]) == (True, False, replay_id, replay_id)
    other = await refused(desk, replay_id=replay_id, speed=3)
    assert (other.code, other.errors[0].path) == ("invalid_request", "replay_id")
    taken = await refused(desk)
    assert (taken.code, taken.extra) == ("replay_active", {"replay_id": replay_id})
    assert (taken.status, taken.retryable, taken.body()["title"]) == (
        409,
        False,
        "The target has a replay that is not over",
    )


async def test_a_replay_is_for_tokens_that_hold_all_its_tenants(rig: Rig) -> None:
    """For others it is not there; a tenant that the token does not hold cannot be asked for."""
    await events(rig, ONE, 3)
    await events(rig, TWO, 3)
    desk = Desk(rig)
    both = await desk.create()
    mine = claims((ONE,), scopes=("ops", "subscribe:*"))

    assert await desk.jobs.listed(mine) == []
    for attempt in (
        desk.jobs.get(mine, both["replay_id"]),
        desk.jobs.move(mine, both["replay_id"], "cancel"),
        desk.jobs.get(OPS, str(uuid4())),
    ):
        with pytest.raises(Problem) as hidden:
            await attempt
        assert hidden.value.code == "not_found"
    with pytest.raises(Problem) as forbidden:
        await desk.jobs.look(mine, request(tenants=[TWO]))
    assert forbidden.value.code == "forbidden"
    assert (await desk.jobs.look(mine, request()))["events"] == 3


@pytest.mark.parametrize("target", [{"group": GROUP}, {"system": "hotel-pms", "channel": "c"}])
async def test_tenants_share_a_targets_name_without_knowing(rig: Rig, target: dict[str, str]) -> None:
    """Each may have its replay there at the same time; a second one of the same tenant waits for the first."""
    await events(rig, ONE, 3)
    await events(rig, TWO, 3)
    desk = Desk(rig)
    tokens = [claims((tenant,), scopes=("ops", "subscribe:*")) for tenant in (ONE, TWO)]
    made = [(await desk.jobs.create(token, request(target=target)))[0]["replay_id"] for token in tokens]

    for token, own in zip(tokens, made, strict=True):
        assert [one["replay_id"] for one in await desk.jobs.listed(token)] == [own]
        with pytest.raises(Problem) as taken:
            await desk.jobs.create(token, request(target=target))
        assert (taken.value.code, taken.value.extra) == ("replay_active", {"replay_id": own})


async def test_only_what_the_scopes_cover_is_replayed(rig: Rig) -> None:
    """What is asked for beyond them is left out; without any of it the refusal names the scope."""
    await events(rig, ONE, 4)
    await events(rig, ONE, 3, kind=KINDS[2])
    desk = Desk(rig)
    narrow = claims(scopes=("ops", "subscribe:order.placed", "subscribe:billing.*"))

    for asked in ({}, {"patterns": ["*"]}, {"patterns": ["order.*", "room.*"]}):
        assert (await desk.jobs.look(narrow, request(**asked)))["by_type"] == {"order.placed": 3}
    for token, asked, scope in (
        (narrow, {"patterns": ["room.*"]}, "subscribe:room.*"),
        (claims(scopes=("ops",)), {}, "subscribe:*"),
        (claims(scopes=("admin",)), {"patterns": ["order.placed"]}, "subscribe:order.placed"),
    ):
        with pytest.raises(Problem) as refusal:
            await desk.jobs.create(token, request(**asked))
        assert (refusal.value.code, scope in refusal.value.detail) == ("forbidden", True)


async def test_a_replay_to_a_channel_that_nobody_receives_fails(rig: Rig) -> None:
    """After a day without anyone, and not while somebody waits for what is due next; groups have their own pace."""
    await events(rig, ONE, 3)
    desk = Desk(rig, Clock())
    left = (await desk.create(target={"system": "hotel-pms", "channel": "left"}))["replay_id"]
    held = (await desk.create(target={"system": "hotel-pms", "channel": "held"}))["replay_id"]
    group = (await desk.create())["replay_id"]
    for _ in range(3):
        desk.clock.move(replay_watch.IDLE_S / 3)
        await desk.watch.look()
        seen = desk.watch.seen(held)
        assert seen is not None
        await desk.watch.touch(seen)
    assert (await desk.show(left))["state"] == "running"
    desk.clock.move(1)
    await desk.watch.look()

    given_up = await desk.show(left)
    assert (given_up["state"], given_up["detail"]) == ("failed", "nobody received it for 24 h")
    assert desk.watch.seen(left) is None
    assert [(await desk.show(one))["state"] for one in (held, group)] == ["running", "running"]


async def test_a_paused_replay_that_is_over_cannot_go_on(rig: Rig) -> None:
    """And a pause before it began costs it no time."""
    await events(rig, ONE, 3)
    desk = Desk(rig)
    replay_id = (await desk.create())["replay_id"]
    for action, state in (("pause", "paused"), ("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")):
        assert (await desk.jobs.move(OPS, replay_id, action))["state"] == state  # type: ignore[arg-type]
    with pytest.raises(Problem) as over:
        await desk.jobs.move(OPS, replay_id, "resume")
    assert over.value.code == "replay_over"
    shown = await desk.show(replay_id)
    assert shown["started_at"] is None
    assert shown["finished_at"] is not None
