"""Subscriptions to changes only, over a real log: patches live, whole events on the way there."""

from __future__ import annotations

from typing import Any

import pytest
from feed_rig import SYSTEM, TENANTS, Connection, Rig, append, claims, until

from schemas.merge_patch import apply
from schemas.registry import EVENT_TYPES
from schemas.state import merged

pytestmark = pytest.mark.server

T = TENANTS[0]
ROOM = "room:1"
LONG = "a long note that makes an event worth shortening " * 3


def room(**data: Any) -> Any:
    """An event of one room."""
    return append(T, ("room", "status_changed"), ROOM, [SYSTEM], room_id="1", maintenance_notes=LONG, **data)


def bases(connection: Connection) -> list[int | None]:
    """The base of each event that came."""
    connection.check()
    return [one.get("base_revision") for one in connection.events]


def states(connection: Connection) -> list[dict[str, Any]]:
    """The states after each event, put together by hand."""
    held: dict[tuple[str, str, str], dict[str, Any]] = {}
    found = []
    for frame in connection.events:
        event = frame["event"]
        key = (event["tenant_id"], event["type"], event["entity"])
        transient = EVENT_TYPES[event["type"]].transient
        if "base_revision" in frame:
            held[key] = apply(held[key], event["data"])
        else:
            held[key] = merged(held.get(key, {}), event["data"], transient)
        found.append(dict(held[key]))
    return found


async def test_changes_come_live_and_whole_events_before(rig: Rig) -> None:
    """The backlog is whole, what follows it is patches; both readers know the same after each event."""
    changes, plain = rig.connection(claims()), rig.connection(claims())
    await rig.publish(room(status="a"), room(status="b"))
    assert (await changes.subscribe(changes_only=True, after="earliest"))["changes_only"] is True
    assert (await plain.subscribe(after="earliest"))["changes_only"] is False
    await changes.quiet()
    await rig.publish(room(status="c"), room(status="c", base_price=5), room(status="d", base_price=None))
    await changes.quiet()
    await plain.quiet()
    assert bases(plain) == [None] * 5
    assert bases(changes) == [None, None, None, 3, 4]
    assert changes.events[3]["event"]["data"] == {"room_id": "1", "base_price": 5}
    assert states(changes) == states(plain)


async def test_a_patch_is_smaller(rig: Rig) -> None:
    """The patch leaves out the note that stayed the same; ids and envelope stand."""
    connection = rig.connection(claims())
    await connection.subscribe(changes_only=True)
    await connection.quiet()
    await rig.publish(room(status="a"), room(status="b"))
    await connection.quiet()
    assert bases(connection) == [None, 1]
    event = connection.events[1]["event"]
    assert event["data"] == {"room_id": "1", "status": "b"}
    assert (event["entity"], event["revision"], event["targets"]) == (ROOM, 2, [SYSTEM])


async def test_patches_only_when_every_subscription_asks(rig: Rig) -> None:
    """One subscription to whole events makes all of the connection whole, until it is closed."""
    connection = rig.connection(claims())
    await connection.subscribe(1, ["room.*"], changes_only=True)
    await connection.subscribe(2, ["order.*"])
    await connection.quiet()
    await rig.publish(room(status="a"), room(status="b"))
    await connection.quiet()
    assert bases(connection) == [None, None]
    await connection.unsubscribe(2)
    await connection.quiet()
    await rig.publish(room(status="c"), room(status="d"))
    await connection.quiet()
    assert bases(connection) == [None, None, None, 3]


async def test_a_slow_reader_catches_up_whole(rig: Rig) -> None:
    """What it missed comes whole; the next patch builds on the last of it, which others were sent."""
    slow, other = rig.connection(claims()), rig.connection(claims())
    for connection in (slow, other):
        await connection.subscribe(changes_only=True)
        await connection.quiet()
    await rig.publish(room(status="a"), room(status="b"))
    await slow.quiet()
    slow.block(True)
    await rig.publish(room(status="c"), room(status="d"))
    await other.quiet()
    await slow.quiet()
    await rig.publish(room(status="e"))
    await slow.quiet()
    await other.quiet()
    assert bases(other) == [None, 1, 2, 3, 4]
    assert bases(slow)[:2] == [None, 1]
    assert bases(slow)[-1] == 4
    assert states(slow) == states(other)


async def test_after_a_new_history_nothing_is_built_on(rig: Rig) -> None:
    """Nothing of the old history is remembered; the new one begins whole and goes on in patches."""
    connection = rig.connection(claims())
    await connection.subscribe(changes_only=True)
    await connection.quiet()
    await rig.publish(room(status="a"), room(status="b"))
    await connection.quiet()
    remembered = rig.dispatcher._changes
    assert len(remembered) == 1
    forgotten: list[int] = []
    rig.dispatcher.on_gap = lambda *gap: (forgotten.append(len(remembered)), rig._gap(*gap))
    await rig.log.source.client.flushall()
    rig.published.clear()
    connection.open.clear()
    await rig.publish(room(status="c"), room(status="d"))
    await until(lambda: len(connection.events) == 4, "the events")
    assert [one.get("base_revision") for one in connection.events] == [None, 1, None, 1]
    assert forgotten == [0]
