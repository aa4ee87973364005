"""Backlog, live, and the seams between them."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest
from feed_rig import ENTITIES, KINDS, SYSTEM, TENANTS, Connection, LogServer, Rig, append, claims, turns, until

from hub.services import dispatcher, feed, pages
from schemas.cursor import Cursor
from schemas.errors import Problem

pytestmark = pytest.mark.server

PATTERNS: list[list[str]] = [["*"], ["room.*"], ["order.*"], ["room.price_updated", "order.placed"]]


# The seams, at random


class Storm:
    """A random life of one connection, the same for the same seed."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.random = random.Random(seed)
        self.rig = rig
        pick = self.random
        self.tenants = ["*"] if pick.random() < 0.4 else list(TENANTS)
        system = pick.choice(["hub", SYSTEM])
        self.connection = rig.connection(claims(self.tenants, system), window=pick.choice([7, 30, 1000]))
        self.tasks: list[asyncio.Task[Any]] = []
        self.next_id = 0
        self.durable = pick.random() < 0.5

    def event(self) -> Any:
        pick = self.random
        targets = pick.choice([(SYSTEM,), (SYSTEM, "hotel-saas"), ("hotel-saas",)])
        return append(pick.choice(TENANTS), pick.choice(KINDS), pick.choice(ENTITIES), targets)

    def after(self) -> Any:
        pick, published = self.random, list(self.rig.published.values())
        choice = pick.choice(["latest", "earliest", "cursor", "cursors", None])
        if not published or choice in ("latest", "earliest", None):
            return {} if choice not in ("latest", "earliest") else {"after": choice}
        if choice == "cursor":
            return {"after": pick.choice(published).cursor}
        chosen = {}
        for tenant in pick.sample(TENANTS, pick.randint(1, len(TENANTS))):
            theirs = [event.cursor for event in published if event.tenant == tenant]
            if theirs:
                chosen[tenant] = pick.choice(theirs)
        return {"after": chosen} if chosen else {}

    async def subscribe(self) -> None:
        pick = self.random
        self.next_id += 1
        fields: dict[str, Any] = self.after()
        if pick.random() < 0.4:
            fields["tenants"] = pick.sample(TENANTS, pick.randint(1, len(TENANTS)))
            after = fields.get("after")
            if isinstance(after, dict):
                fields["after"] = {tenant: one for tenant, one in after.items() if tenant in fields["tenants"]}
            if not fields.get("after"):
                fields.pop("after", None)
        if pick.random() < 0.2:
            fields["entities"] = pick.sample(ENTITIES, pick.randint(1, 2))
        if pick.random() < 0.2:
            fields["batch_ms"] = pick.choice([1, 5, 1000])
        if self.durable and pick.random() < 0.5:
            fields["name"] = f"name-{self.next_id}"
        with suppress(Problem):  # a cursor of a tenant that it does not ask for
            await self.connection.subscribe(self.next_id, pick.choice(PATTERNS), **fields)

    def ack(self) -> None:
        waiting = [(tenant, number) for tenant, held in self.connection.unacked.items() for number in held]
        if waiting:
            with suppress(Problem):  # its receipt came before the dispatcher
                self.connection.ack(*self.random.choice(sorted(waiting)))

    async def run(self, steps: int) -> None:
        pick, connection = self.random, self.connection
        for _ in range(steps):
            step = pick.random()
            if step < 0.35:
                events = [self.event() for _ in range(pick.choice([1, 1, 3, 20]))]
                self.tasks.append(asyncio.create_task(self.rig.publish(*events)))
            elif step < 0.5:
                self.tasks.append(asyncio.create_task(self.subscribe()))
            elif step < 0.58 and connection.open:
                self.tasks.append(asyncio.create_task(connection.unsubscribe(pick.choice(list(connection.open)))))
            elif step < 0.7:
                connection.block(connection.writable)
            elif step < 0.85:
                self.ack()
            else:
                await turns(pick.choice([1, 3, 10, 40]))
                if pick.random() < 0.3:
                    await asyncio.gather(*self.tasks)
        await asyncio.gather(*self.tasks)
        await connection.quiet()
        connection.complete()
        assert connection.gaps == []


SEEDS = range(60)


@pytest.mark.parametrize("small", [True, False], ids=["from-the-log", "from-memory"])
async def test_nothing_is_missed_or_doubled(
    log_server: LogServer, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    """Whatever a connection does, each subscription gets its events once, in order, with none missing."""
    if small:
        monkeypatch.setattr(dispatcher, "RING_ENTRIES", 4)
        monkeypatch.setattr(dispatcher, "READ_COUNT", 6)
        monkeypatch.setattr(feed, "CHUNK", 5)
        monkeypatch.setattr(pages, "PAGE", 5)
        monkeypatch.setattr(pages, "SLICE", 3)
    for seed in SEEDS:
        rig = await Rig(log_server).start()
        try:
            await Storm(rig, seed).run(60)
        except BaseException as error:
            error.add_note(f"seed {seed}, {'small' if small else 'large'} ring")
            raise
        finally:
            await rig.stop()


# Beginnings


async def test_latest_is_what_comes_after(rig: Rig) -> None:
    """Without `after` only later events come; the position told is the last event before."""
    before = (await rig.publish(append(), append(TENANTS[1])))[0]
    one = rig.connection(claims([TENANTS[0], TENANTS[2]]))
    told = await one.subscribe()
    assert told["position"][TENANTS[0]] == before.cursor
    assert told["tenants"] == sorted([TENANTS[0], TENANTS[2]])
    assert told["recovered"] is True
    await rig.publish(append(), append(TENANTS[1]), append(TENANTS[2]))
    await one.quiet()
    one.complete()
    assert [(frame["event"]["tenant_id"], frame["sequence"]) for frame in one.events] == [
        (TENANTS[0], 2),
        (TENANTS[2], 1),
    ]


async def test_every_beginning(rig: Rig) -> None:
    """`earliest`, a cursor, and a cursor a tenant begin where they say; `subscribed` comes before every event."""
    published = await rig.publish(*[append(tenant) for _ in range(5) for tenant in TENANTS[:2]])
    for after, first in (
        ("earliest", {TENANTS[0]: 1, TENANTS[1]: 1}),
        (published[4].cursor, {TENANTS[0]: 4}),
        ({TENANTS[0]: published[2].cursor, TENANTS[1]: published[7].cursor}, {TENANTS[0]: 3, TENANTS[1]: 5}),
    ):
        one = rig.connection(claims(TENANTS[:2]))
        await one.subscribe(after=after)
        await one.quiet()
        one.complete()
        assert one.frames[0]["op"] == "subscribed"
        for tenant in TENANTS[:2]:
            assert one.sequences(tenant) == (list(range(first[tenant], 6)) if tenant in first else [])


async def test_a_new_tenant_comes_by_itself(rig: Rig) -> None:
    """A token of all tenants gets a tenant's very first event."""
    one = rig.connection(claims())
    await one.subscribe()
    await rig.publish(append("brand-new"))
    await one.quiet()
    assert one.sequences("brand-new") == [1]


async def test_entities_and_targets_narrow(rig: Rig) -> None:
    """Only events of the entities asked for, and only those the system is a target of."""
    one = rig.connection(claims(TENANTS, SYSTEM))
    await one.subscribe(entities=["room:1"], after="earliest")
    await rig.publish(append(entity="room:2"), append(entity="room:1"), append(entity="room:1", targets=["hotel-saas"]))
    await one.quiet()
    assert one.sequences() == [2]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"patterns": ["order.*"]}, "forbidden"),
        ({"patterns": ["room.*", "*"]}, "forbidden"),
        ({"tenants": ["t-9"]}, "forbidden"),
        ({"after": "1abc"}, "invalid_cursor"),
        ({"after": {"t-9": "1abc"}}, "forbidden"),
        ({"snapshot": True, "after": "latest"}, "invalid_request"),
        ({"id": 1}, "invalid_request"),
    ],
)
async def test_what_is_not_allowed_is_refused(rig: Rig, fields: dict[str, Any], code: str) -> None:
    """A refused subscription opens nothing, and the others of the connection go on."""
    one = rig.connection(claims(TENANTS, scopes=["subscribe:room.*"]))
    await one.subscribe(1, ["room.*"])
    wanted: dict[str, Any] = {"id": 2, "patterns": ["room.*"]}
    with pytest.raises(Problem) as refused:
        await one.subscribe(**(wanted | fields))
    assert refused.value.code == code
    await rig.publish(append())
    await one.quiet()
    assert one.sequences() == [1]


async def test_another_tenants_cursor_is_refused(rig: Rig) -> None:
    """A cursor is held against the tenant it is used for."""
    (event,) = await rig.publish(append(TENANTS[1]))
    one = rig.connection(claims(TENANTS[:1]))
    for after in (event.cursor, {TENANTS[0]: event.cursor}):
        with pytest.raises(Problem) as refused:
            await one.subscribe(after=after)
        assert refused.value.code == "invalid_cursor"


async def test_the_number_of_subscriptions_is_bounded(rig: Rig) -> None:
    """A connection has at most 64; closing one makes room."""
    one = rig.connection(claims())
    for id in range(feed.MAX_SUBSCRIPTIONS):
        await one.subscribe(id)
    with pytest.raises(Problem):
        await one.subscribe("more")
    await one.unsubscribe(0)
    await one.subscribe("more")
    with pytest.raises(Problem) as refused:
        one.feed.unsubscribe(0)
    assert refused.value.code == "not_found"


async def test_a_closed_subscription_is_silent(rig: Rig) -> None:
    """After `unsubscribe` nothing of it comes any more, while others go on."""
    one = rig.connection(claims())
    await one.subscribe("rooms", ["room.*"])
    await one.subscribe("orders", ["order.*"])
    await one.unsubscribe("rooms")
    await rig.publish(append(kind=KINDS[0]), append(kind=KINDS[2]))
    await one.quiet()
    assert one.sequences() == [2]


async def test_a_new_token_must_cover_what_is_open(rig: Rig) -> None:
    """A token of another system, view, or with fewer tenants or patterns may not take over."""
    one = rig.connection(claims(TENANTS[:2], SYSTEM, ["subscribe:room.*", "subscribe:order.placed"]))
    await one.subscribe(1, ["room.price_updated"], tenants=[TENANTS[0]])
    may = one.feed.may_continue
    assert may(claims(TENANTS[:1], SYSTEM, ["subscribe:room.*"]))
    assert may(claims(["*"], SYSTEM, ["subscribe:*"]))
    assert not may(claims(TENANTS[:2], "hotel-saas", ["subscribe:*"]))
    assert not may(claims(TENANTS[:2], SYSTEM, ["subscribe:*"], view="masked"))
    assert not may(claims(TENANTS[1:], SYSTEM, ["subscribe:*"]))
    assert not may(claims(TENANTS[:2], SYSTEM, ["subscribe:order.*", "subscribe:room.placed"]))


# Slow and gathering connections


async def test_a_slow_connection_falls_back_and_is_told(rig: Rig) -> None:
    """While the socket is full nothing is written; `lagging` is told once, and all of it comes when there is room."""
    one = rig.connection(claims())
    await one.subscribe()
    await rig.publish(append())
    await one.quiet()
    one.block(True)
    for _ in range(5):
        await rig.publish(append(), append())
        await rig.routed()
    assert one.sequences() == [1]
    assert [notice["code"] for notice in one.notices] == ["lagging"]
    await one.quiet()
    one.complete()
    assert one.sequences() == list(range(1, 12))
    one.block(True)
    await rig.publish(append())
    await rig.routed()
    await one.quiet()
    assert [notice["code"] for notice in one.notices] == ["lagging", "lagging"]


async def test_gathered_events_come_in_one_write(rig: Rig) -> None:
    """With `batch_ms` events wait for each other; nothing is lost when another subscription joins meanwhile."""
    one = rig.connection(claims())
    await one.subscribe(1, batch_ms=1000)
    await until(lambda: one.feed._task is None)
    for _ in range(3):
        await rig.publish(append())
        await rig.routed()
    assert one.sequences() == []
    await one.subscribe(2, ["order.*"])
    assert one.sequences() == [1, 2, 3]
    await one.unsubscribe(2)
    await until(lambda: one.feed._task is None)
    await rig.publish(append())
    await rig.routed()
    await until(lambda: one.sequences() == [1, 2, 3, 4])
    one.complete()


async def test_a_full_window_and_a_gathered_buffer(rig: Rig) -> None:
    """A buffer that does not fit the window when another subscription joins is not lost."""
    one = rig.connection(claims(), window=5)
    await one.subscribe(1, batch_ms=1000, name="n")
    await until(lambda: one.feed._task is None)
    await rig.publish(*[append() for _ in range(8)])
    await rig.routed()
    await one.subscribe(2, ["order.*"])
    await one.quiet()
    one.complete()
    assert one.sequences() == list(range(1, 9))


# Durable subscriptions


async def test_a_name_resumes_where_it_was_acknowledged(rig: Rig) -> None:
    """What was acknowledged does not come again, what was not does; another name and system begin for themselves."""
    one = rig.connection(claims(TENANTS, SYSTEM))
    await one.subscribe(name="sync", after="earliest")
    await rig.publish(*[append() for _ in range(6)])
    await rig.routed()
    await until(lambda: one.sequences() == list(range(1, 7)))
    one.ack(TENANTS[0], 4)
    await one.feed.close()
    two = rig.connection(claims(TENANTS, SYSTEM))
    await two.subscribe(name="sync")
    await two.quiet()
    assert two.sequences() == [5, 6]
    for system, name in ((SYSTEM, "other"), ("hotel-saas", "sync")):
        three = rig.connection(claims(TENANTS, system))
        await three.subscribe(name=name)
        await three.quiet()
        assert three.sequences() == []


async def test_a_name_that_never_acknowledged_comes_back_to_its_beginning(rig: Rig) -> None:
    """Where a name begins is kept, be it `latest`, `earliest` or a cursor: nothing after it is lost by going away."""
    published = await rig.publish(*[append() for _ in range(4)])
    for after, expected in (({}, []), ({"after": "earliest"}, [1, 2, 3, 4]), ({"after": published[1].cursor}, [3, 4])):
        name = f"n-{len(expected)}"
        one = rig.connection(claims(TENANTS))
        await one.subscribe(name=name, **after)
        await one.feed.close()
        two = rig.connection(claims(TENANTS))
        await two.subscribe(name=name)
        await two.quiet()
        assert two.sequences() == expected


async def test_the_window_bounds_what_is_unacknowledged(rig: Rig) -> None:
    """The hub waits at the window, live and in a backlog, and goes on with each acknowledgement."""
    one = rig.connection(claims(), window=3)
    await rig.publish(*[append() for _ in range(5)])
    await one.subscribe(name="n", after="earliest")
    await until(lambda: one.sequences() == [1, 2, 3])
    assert one.feed.outstanding == 3
    one.ack(TENANTS[0], 2)
    await until(lambda: one.sequences() == [1, 2, 3, 4, 5])
    await rig.publish(append())
    await rig.publish(*[append(TENANTS[1]) for _ in range(3)])
    await rig.routed()
    await turns(50)
    assert one.feed.outstanding == 3
    await one.quiet()
    one.complete()


async def test_acknowledging_what_was_not_sent_moves_nothing(rig: Rig) -> None:
    """A cursor known from elsewhere does not move a name past events it has yet to be sent."""
    one = rig.connection(claims(), window=3)
    published = await rig.publish(*[append() for _ in range(10)])
    await one.subscribe(name="n", after="earliest")
    await until(lambda: one.sequences() == [1, 2, 3])
    one.feed.ack({TENANTS[0]: published[9].cursor})
    await one.feed.close()
    two = rig.connection(claims())
    await two.subscribe(name="n")
    await two.quiet()
    assert set(range(4, 11)) <= set(two.sequences())


async def test_one_subscriptions_events_do_not_move_another(rig: Rig) -> None:
    """Acknowledging a later event of one subscription leaves one that is behind at its own place."""
    published = await rig.publish(*[append(kind=KINDS[2 * (n % 2)]) for n in range(20)])
    one = rig.connection(claims(), window=4)
    await one.subscribe("rooms", ["room.*"], name="rooms", after=published[17].cursor)
    await until(lambda: one.sequences() == [19])
    await one.subscribe("orders", ["order.*"], name="orders", after="earliest")
    one.ack(TENANTS[0], 19)
    await until(lambda: len(one.sequences()) >= 4)
    await one.feed.close()
    two = rig.connection(claims())
    await two.subscribe("orders", ["order.*"], name="orders")
    await two.quiet()
    assert two.sequences() == list(range(2, 21, 2))


async def test_acknowledgements_of_a_second_reading_count(rig: Rig) -> None:
    """Reading again from the beginning, next to what is still unacknowledged, does not exhaust the window."""
    await rig.publish(*[append() for _ in range(30)])
    one = rig.connection(claims(), window=10)
    await one.subscribe("a", ["order.*"], name="a")
    await one.subscribe("b", name="b", after=rig.published[(TENANTS[0], 25)].cursor)
    await until(lambda: one.sequences() == [26, 27, 28, 29, 30])
    await one.unsubscribe("b")
    await one.subscribe("c", after="earliest")
    await until(lambda: len(one.sequences()) == 10)

    def read_on() -> bool:
        one.feed.ack({TENANTS[0]: one.events[-1]["cursor"]})
        return one.sequences()[5:] == list(range(1, 31))

    await until(read_on)


async def test_wrong_acknowledgements_are_refused(rig: Rig) -> None:
    """Nothing to acknowledge, a tenant not held, a cursor that is none or of another tenant: refused."""
    (event,) = await rig.publish(append())
    one = rig.connection(claims(TENANTS[:2]))
    await one.subscribe(1)
    with pytest.raises(Problem) as refused:
        one.feed.ack({TENANTS[0]: event.cursor})
    assert refused.value.code == "invalid_request"
    await one.subscribe(2, name="n")
    (later,) = [event.cursor for event in await rig.publish(append())]
    for cursors, code in (
        ({"t-9": later}, "forbidden"),
        ({TENANTS[1]: later}, "invalid_cursor"),
        ({TENANTS[0]: later[:-2] + "00"}, "invalid_cursor"),
        ({TENANTS[0]: "x"}, "invalid_cursor"),
    ):
        with pytest.raises(Problem) as refused:
            one.feed.ack(cursors)
        assert refused.value.code == code


async def test_a_name_moves_past_what_is_not_for_it(rig: Rig) -> None:
    """A subscription to something rare does not stand still: closing settles it at the end."""
    one = rig.connection(claims())
    await one.subscribe(1, ["order.*"], name="rare", after="earliest")
    await rig.publish(*[append() for _ in range(5)])
    await one.quiet()
    one.feed.settle()
    assert (await rig.positions.get("hub", "rare", [TENANTS[0]]))[TENANTS[0]].sequence == 5
    await rig.publish(append(kind=KINDS[2]), append())
    await until(lambda: one.sequences() == [6])
    await rig.routed()
    await one.feed.close()
    assert (await rig.positions.get("hub", "rare", [TENANTS[0]]))[TENANTS[0]].sequence == 5, "6 is unacknowledged"


# History that is gone


async def trim_by_hand(rig: Rig, keep: int) -> None:
    """Remove a tenant's events below number `keep` without telling anybody."""
    (event,) = [one for one in rig.published.values() if (one.tenant, one.sequence) == (TENANTS[0], keep)]
    key = rig.log.keys.events(rig.log.partition(TENANTS[0]))
    await rig.log.source.client.execute_command("XTRIM", key, "MINID", "=", str(Cursor.decode(event.cursor).id))


async def fresh(rig: Rig, log_server: LogServer) -> Rig:
    """Another hub on the same log, which has nothing in memory."""
    return await Rig(log_server, rig.prefix).start()


@pytest.mark.parametrize("seen", [0, 2])
async def test_what_was_trimmed_by_hand_is_told(rig: Rig, log_server: LogServer, seen: int) -> None:
    """Resuming before a hole tells a gap and goes on after it; its `resume_from` resumes without another."""
    await rig.publish(*[append() for _ in range(10)])
    zero = rig.log.cursor(TENANTS[0], dispatcher.NOWHERE)
    await trim_by_hand(rig, 7)
    other = await fresh(rig, log_server)
    try:
        one = other.connection(claims(TENANTS[:1]))
        await one.subscribe(after=rig.published[(TENANTS[0], seen)].cursor if seen else zero)
        await until(lambda: one.feed._task is None)
        assert one.sequences() == [7, 8, 9, 10]
        assert one.gaps
        again = other.connection(claims(TENANTS[:1]))
        await again.subscribe(after=one.gaps[-1]["resume_from"])
        await until(lambda: again.feed._task is None)
        assert (again.sequences(), again.gaps) == ([7, 8, 9, 10], [])
    finally:
        await other.stop()


async def test_earliest_is_the_earliest_there_is(rig: Rig, log_server: LogServer) -> None:
    """`earliest` after a trim begins at what is left, without a gap."""
    await rig.publish(*[append() for _ in range(10)])
    await trim_by_hand(rig, 7)
    other = await fresh(rig, log_server)
    try:
        one = other.connection(claims(TENANTS[:1]))
        told = await one.subscribe(after="earliest")
        await until(lambda: one.feed._task is None)
        assert one.sequences() == [7, 8, 9, 10]
        assert (told["recovered"], one.gaps) == (True, [])
    finally:
        await other.stop()


@pytest.mark.parametrize("who", ["this hub", "another hub"])
async def test_an_emptied_server_is_told_to_live_connections(rig: Rig, log_server: LogServer, who: str) -> None:
    """After FLUSHALL a tenant's subscribers get one `epoch` gap and then the new history, whole, with its cursors."""
    one = rig.connection(claims(TENANTS[:1]))
    await one.subscribe(name="n")
    await rig.publish(*[append() for _ in range(5)])
    await one.quiet()
    await rig.positions.aclose()
    await rig.log.source.client.flushall()
    other = await fresh(rig, log_server) if who == "another hub" else rig
    try:
        rig.published.clear()
        one.open.clear()
        await asyncio.gather(*[other.log.submit(append()) for _ in range(4)])
        await until(lambda: len(one.events) == 9)
    finally:
        if other is not rig:
            await other.stop()
    assert [frame.get("sequence", frame["op"]) for frame in one.frames] == [
        "subscribed", 1, 2, 3, 4, 5, "gap", 1, 2, 3, 4,
    ]  # fmt: skip
    assert one.gaps[0]["reason"] == "epoch"
    two = rig.connection(claims(TENANTS[:1]))
    await two.subscribe(after=one.events[-2]["cursor"])
    await until(lambda: two.feed._task is None)
    assert (two.sequences(), two.gaps) == ([4], [])
    one.feed.ack({TENANTS[0]: one.events[-2]["cursor"]})
    assert (await rig.positions.get("hub", "n", TENANTS[:1]))[TENANTS[0]].sequence == 3
    await one.feed.close()
    three = rig.connection(claims(TENANTS[:1]))
    await three.subscribe(name="n")
    await until(lambda: three.feed._task is None)
    assert (three.sequences(), three.gaps) == ([4], [])


async def lose_tail(rig: Rig, keep: int) -> None:
    """Take a tenant back to number `keep`, as a replica that had not heard the rest when it was promoted."""
    client, partition = rig.log.source.client, rig.log.partition(TENANTS[0])
    lost = [one for one in rig.published.values() if one.tenant == TENANTS[0] and one.sequence > keep]
    for one in lost:
        await client.xdel(rig.log.keys.events(partition), str(Cursor.decode(one.cursor).id))
        del rig.published[(one.tenant, one.sequence)]
    last = Cursor.decode(rig.published[(TENANTS[0], keep)].cursor)
    await client.hset(rig.log.keys.sequences(partition), TENANTS[0], f"{keep} {last.id}")


@pytest.mark.parametrize("reconnected", [False, True], ids=["unnoticed", "reconnected"])
async def test_a_lost_tail_is_told_to_live_connections(rig: Rig, reconnected: bool) -> None:
    """When a failover lost events that were delivered, a gap is told before others come under their numbers."""
    one = rig.connection(claims(TENANTS))
    await one.subscribe()
    await rig.publish(*[append() for _ in range(5)], append(TENANTS[2]))
    await one.quiet()
    lost = one.events[4]["cursor"] if one.events[4]["sequence"] == 5 else one.events[5]["cursor"]
    one.open.clear()
    await lose_tail(rig, 3)
    if reconnected:
        rig.dispatcher._away.update(range(2))
        await until(lambda: one.gaps)
    await asyncio.gather(*[rig.log.submit(append()) for _ in range(3)])
    await until(lambda: sum(1 for gap in one.gaps if gap["tenant_id"] == TENANTS[0]) == 1)
    await until(lambda: len(one.sequences(TENANTS[0])) == 8)
    mine = [
        frame.get("sequence", frame["op"])
        for frame in one.frames
        if frame.get("tenant_id", frame.get("event", {}).get("tenant_id")) == TENANTS[0]
    ]
    assert mine == [1, 2, 3, 4, 5, "gap", 4, 5, 6]
    assert all(gap["reason"] == "epoch" for gap in one.gaps)
    two = rig.connection(claims(TENANTS[:1]))
    await two.subscribe("old", after=lost)
    assert two.gaps
    await two.subscribe("new", ["order.*"], after=one.events[-2]["cursor"])
    assert two.subscribed["new"]["recovered"]
    (gap,) = [gap for gap in one.gaps if gap["tenant_id"] == TENANTS[0]]
    three = rig.connection(claims(TENANTS[:1]))
    await three.subscribe(after=gap["resume_from"])
    await until(lambda: three.feed._task is None)
    assert (three.sequences(), three.gaps) == ([4, 5, 6], [])


async def test_a_hole_among_the_new_is_told(rig: Rig) -> None:
    """Events that vanished before this hub read them are told as `expired` before the next one comes."""
    one = rig.connection(claims(TENANTS[:1]))
    await one.subscribe()
    await rig.publish(append())
    await one.quiet()
    key = rig.log.keys.sequences(rig.log.partition(TENANTS[0]))
    held = (await rig.log.source.client.hget(key, TENANTS[0])).decode().split()
    await rig.log.source.client.hset(key, TENANTS[0], f"6 {held[1]}")
    await rig.publish(append())
    await until(lambda: one.sequences() == [1, 7])
    assert [frame["op"] for frame in one.frames] == ["subscribed", "event", "gap", "event"]
    assert one.gaps[0]["reason"] == "expired"
    two = rig.connection(claims(TENANTS[:1]))
    told = await two.subscribe(after=one.gaps[0]["resume_from"])
    await until(lambda: two.feed._task is None)
    assert (two.sequences(), told["recovered"]) == ([7], True)


async def test_a_connection_that_fails_says_so(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """When catching up fails for the hub's own reasons the client is told to come again."""
    await rig.publish(append())
    one = Connection(rig, claims(), 1000)
    monkeypatch.setattr(feed, "encode", lambda *_: 1 / 0)
    await one.subscribe(after="earliest")
    await until(lambda: one.feed._task is None)
    assert "internal" in str(one.faults[0])
