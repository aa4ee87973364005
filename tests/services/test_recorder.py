"""What the hot paths say, as rows: never more than was written, and in the end all of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest
from feed_rig import KINDS, SYSTEM, TENANTS, Rig, append, until
from feed_rig import claims as token
from prometheus_client import CollectorRegistry

from hub.core import delivery
from hub.core.delivery import Row, Subscriber
from hub.core.entry import Entry
from hub.core.fanout import FanOut
from hub.core.routing import Audience, Interest
from hub.services import live_ranges
from hub.services.ledger import Recorder
from hub.services.live_ranges import Trail
from hub.store.database import Database, StoreUnavailable, store_url
from hub.store.ledger import Ledger
from hub.store.migrate import migrate
from hub.telemetry import Metrics
from schemas.cursor import ZERO, StreamId

PARTITIONS = 2
BASE = 1_790_000_000_000


class Kept:
    """A ledger in memory; `away` is a store that does not answer."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.durable: list[Subscriber] = []
        self.writes: list[int] = []
        self.away = False

    async def write(self, rows: Sequence[Row], durable: Sequence[Subscriber] = ()) -> None:
        """As the ledger's."""
        if self.away:
            raise StoreUnavailable("away")
        self.writes.append(len(rows))
        self.rows |= {one.id: one for one in rows}
        self.durable += durable


class Clock:
    """A clock that is moved by hand."""

    now = BASE / 1000

    def __call__(self) -> float:
        return self.now


def partition(tenant: str) -> int:
    """Where a tenant lies."""
    return int(tenant[-1]) % PARTITIONS


def recorder(kept: Kept, clock: Clock, **options: Any) -> Recorder:
    """A recorder that is written by hand."""
    made = Recorder(Metrics(CollectorRegistry()), partition, clock=clock, **options)
    made._ledger, made._on = kept, True  # type: ignore[assignment]
    return made


def event(ms: int, tenant: str = "t1", kind: str = "room") -> Entry:
    """An event at a place."""
    raw = {"targets": [SYSTEM, "hotel-member"], "schema_version": 1, "data": {}}
    return Entry(
        StreamId(BASE + ms, 0), 1, tenant, ms, 1, kind, "changed", "room:1", f"e{ms}", BASE + ms, orjson.dumps(raw)
    )


class Member:
    """A connection that remembers what it was written, and now and then refuses."""

    def __init__(self, session: str, system: str, made: Recorder, chance: random.Random) -> None:
        self.trail = Trail(session, system)
        self.written: set[StreamId] = set()
        self.live = False
        self._recorder = made
        self._chance = chance

    def deliver(self, buffer: bytes, events: Sequence[Entry], before: object) -> bool:
        """As the feed's."""
        if self._chance.random() < 0.15:
            self.live = False
            self._recorder.left(self.trail)
            return False
        self.written |= {one.id for one in events}
        return True


@pytest.mark.parametrize("seed", range(30))
async def test_ranges_say_what_was_written(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections come, go, refuse and live on through ranges' ends: at every write the rows claim only events that
    were written to that connection, and at the end each of them."""
    monkeypatch.setattr(live_ranges, "FOLD_EVENTS", 7)
    monkeypatch.setattr(live_ranges, "MAX_SEGMENTS", 3)
    monkeypatch.setattr(live_ranges, "ROWS_A_TICK", 4)
    chance, clock, kept = random.Random(seed), Clock(), Kept()
    made = recorder(kept, clock)
    fanout: FanOut[Entry, int] = FanOut(lambda *_: b"")
    fanout.on_flush = made.flushed
    interests = [Interest(None, frozenset({"*"})), Interest(frozenset({"t1"}), frozenset({"room.*"}))]
    audiences = [
        Audience(frozenset({one}), system) for one in interests for system in (SYSTEM, "hotel-member", "hotel-saas")
    ]
    members = {
        Member(f"s{number}", audience.system, made, chance): audience for number, audience in enumerate(audiences * 3)
    }
    places = count(1)
    entries: list[Entry] = []

    def claimed(session: str) -> set[StreamId]:
        return {
            one.id
            for one in entries
            for said in kept.rows.values()
            if said.session == session and delivery.is_about(said, partition(one.tenant_id), one)
        }

    for _ in range(120):
        act = chance.random()
        member = chance.choice(list(members))
        if act < 0.5:
            for _ in range(chance.randint(1, 5)):
                one = event(next(places), chance.choice(("t1", "t2", "t3")), chance.choice(("room", "order")))
                entries.append(one)
                fanout.add(one, 0)
            if chance.random() < 0.7:
                fanout.flush(fanout.due())
        elif act < 0.7 and not member.live:
            member.live = True
            fanout.join(member, members[member])
            made.joined(member.trail, members[member])
        elif act < 0.8 and member.live:
            member.live = False
            fanout.leave(member, members[member])
            made.left(member.trail)
        elif act < 0.9:
            clock.now += chance.choice((1, 20, 60))
        else:
            await made.write()
            for each in members:
                assert claimed(each.trail.session) <= each.written
    fanout.flush(fanout.waiting())
    await made.write(everything=True)
    for each in members:
        assert claimed(each.trail.session) == each.written
    assert {said.width for said in kept.rows.values()} <= {0, 1}


async def test_a_range_ends_after_a_while() -> None:
    """A connection that stays gets a new row, so that none becomes long; one that gets nothing gets none."""
    clock, kept = Clock(), Kept()
    made = recorder(kept, clock)
    audience = Audience(frozenset({Interest(None, frozenset({"*"}))}), SYSTEM)
    made.joined(Trail("s", SYSTEM), audience)
    await made.write()
    assert kept.rows == {}
    for second in range(0, 120, 10):
        clock.now = BASE / 1000 + second
        made.flushed(audience, [event(second * 1000)])
        await made.write()
    assert [(said.first.ms - BASE, said.last.ms - BASE, said.events) for said in kept.rows.values()] == [
        (0, 50_000, 6),
        (60_000, 110_000, 6),
    ]


async def test_a_history_that_begins_again_begins_new_ranges() -> None:
    """Places that go back do not make a range from the future to the past."""
    kept = Kept()
    made = recorder(kept, Clock())
    audience = Audience(frozenset({Interest(None, frozenset({"*"}))}), SYSTEM)
    made.joined(Trail("s", SYSTEM), audience)
    made.flushed(audience, [event(100), event(200)])
    made.flushed(audience, [event(50), event(60)])
    await made.write()
    assert [(said.first.ms - BASE, said.last.ms - BASE) for said in kept.rows.values()] == [(100, 200), (50, 60)]


async def test_routed_is_known_to_a_fifth_of_a_second() -> None:
    """What was routed in one moment is one row; later events are another."""
    clock, kept = Clock(), Kept()
    made = recorder(kept, clock)
    for ms in (0, 100, 200, 201, 1000):
        clock.now = (BASE + ms) / 1000
        made.routed(0, [event(ms * 10), event(ms * 10 + 1)])
    made.routed(1, [event(1)])
    await made.write()
    found = sorted(
        (said.partition, said.first_ms - BASE, said.last_ms - BASE, said.events) for said in kept.rows.values()
    )
    assert found == [(0, 0, 200, 6), (0, 201, 201, 2), (0, 1000, 1000, 2), (1, 1000, 1000, 1)]


async def test_what_the_store_does_not_take_waits_to_a_bound() -> None:
    """The oldest goes first and is counted; the rest is stored when the store is back, what grew once and at its
    newest."""
    clock, kept = Clock(), Kept()
    made = recorder(kept, clock, max_waiting=10)
    audience = Audience(frozenset({Interest(None, frozenset({"*"}))}), SYSTEM)
    trail = Trail("s", SYSTEM)
    kept.away = True
    for number in range(12):
        made.polled(SYSTEM, "poll", Interest(None, frozenset({"*"})), [event(number)])
    await made.write()
    made.joined(trail, audience)
    made.flushed(audience, [event(100)])
    await made.write()
    made.flushed(audience, [event(101)])
    assert made._metrics.ledger_dropped._value.get() == 3
    assert made._metrics.ledger_waiting._value.get() == 10
    kept.away = False
    await made.write()
    assert [said.first.ms - BASE for said in kept.rows.values() if said.kind == "polled"] == list(range(3, 12))
    (sent,) = [said for said in kept.rows.values() if said.kind == "sent"]
    assert sent.last.ms - BASE == 101
    assert made._metrics.ledger_waiting._value.get() == 0


async def test_nothing_is_kept_before_it_begins() -> None:
    """A recorder without a store gathers nothing."""
    made = Recorder(Metrics(CollectorRegistry()), partition)
    audience = Audience(frozenset({Interest(None, frozenset({"*"}))}), SYSTEM)
    trail = Trail("s", SYSTEM)
    made.joined(trail, audience)
    made.flushed(audience, [event(1)])
    made.left(trail)
    made.routed(0, [event(1)])
    made.polled(SYSTEM, "poll", Interest(None, frozenset({"*"})), [event(1)])
    await made.write(everything=True)
    assert not made._rows
    assert not made._routed
    await made.stop()


async def test_closing_writes_what_is_there(tmp_path: Path) -> None:
    """Through the real store."""
    database = Database(store_url(None, tmp_path))
    await migrate(database)
    made = Recorder(Metrics(CollectorRegistry()), partition)
    made.start(Ledger(database))
    made.polled(SYSTEM, "sse", Interest(None, frozenset({"*"})), [event(1), event(5), event(3, "t2")])
    made.replayed("r1", "hotel-pms:audit", 0, event(1).id, event(5).id, events=2, system=SYSTEM)
    await made.stop()
    rows = await Ledger(database).covering(1, event(4).id, event(4).id)
    assert [(said.kind, said.tenant_id, said.events, said.channel) for said in rows] == [("polled", "t1", 2, "sse")]
    assert await Ledger(database).count() == 3
    await database.aclose()


async def test_a_replay_between_two_times_claims_no_other() -> None:
    """A row of a tenant's share of a replay: within its range, what was recorded between the times, of that tenant."""
    kept = Kept()
    made = recorder(kept, Clock())
    interest = Interest(None, frozenset({"room.*"}))
    made.replayed(
        "r1",
        f"channel {SYSTEM} x",
        partition("t1"),
        event(1).id,
        event(500).id,
        events=2,
        system=SYSTEM,
        interests=[interest],
        tenant_id="t1",
        times=(BASE + 100, BASE + 200),
    )
    await made.write()
    (said,) = kept.rows.values()
    told = [ms for ms in (1, 99, 100, 199, 200, 500) if delivery.is_about(said, partition("t1"), event(ms))]
    assert told == [100, 199]
    assert not delivery.is_about(said, partition("t1"), event(150, kind="order"))
    assert not delivery.is_about(said, partition("t1"), event(150, "t3"))


# -- through the feed ---------------------------------------------------------------------------------------------


async def told(rig: Rig, tenant: str) -> dict[int, list[Row]]:
    """By sequence, the rows about each of a tenant's events."""
    await rig.dispatcher.recorder.write(everything=True)
    place = rig.log.partition(tenant)
    rows = await rig.store.ledger.covering(place, ZERO, StreamId(1 << 60, 0))
    entries = [one for one in await rig.log.read(place, ZERO, 1000) if one.tenant_id == tenant]
    return {one.sequence: about for one, about in zip(entries, delivery.by_event(rows, place, entries), strict=True)}


def kinds(rows: list[Row], *of: str) -> list[str]:
    """The kinds of rows, those of interest."""
    return sorted(said.kind for said in rows if said.kind in of)


SAID = ("sent", "caught_up", "acked")


@pytest.fixture
async def noted(rig: Rig) -> Rig:
    """A rig whose ledger is written by hand."""
    rig.dispatcher.recorder._ledger, rig.dispatcher.recorder._on = rig.store.ledger, True
    return rig


async def test_backlog_then_live_then_acknowledged(noted: Rig) -> None:
    """Each event of a durable connection: by which way it came, and that it was acknowledged, up to the cursor only."""
    await noted.publish(append(), append(), append())
    connection = noted.connection(token(system=SYSTEM))
    await connection.subscribe(after="earliest", name="sub")
    await noted.routed()
    await until(lambda: connection.feed._task is None, "going live")
    await noted.publish(append(), append())
    await noted.routed()
    noted.dispatcher.flush_all()
    connection.ack(TENANTS[0], 4)
    found = await told(noted, TENANTS[0])
    assert {number: kinds(rows, *SAID) for number, rows in found.items()} == {
        1: ["acked", "caught_up"],
        2: ["acked", "caught_up"],
        3: ["acked", "caught_up"],
        4: ["acked", "sent"],
        5: ["sent"],
    }


async def test_two_acknowledgements_do_not_overlap(noted: Rig) -> None:
    """The second speaks of what came after the first; one that was given before says nothing."""
    connection = noted.connection(token(system=SYSTEM))
    await connection.subscribe(name="sub")
    await noted.publish(*[append() for _ in range(4)])
    await connection_quiet(noted, 4, connection)
    for upto in (2, 2, 1, 3):
        connection.ack(TENANTS[0], upto)
        await noted.dispatcher.recorder.write()
    found = await told(noted, TENANTS[0])
    assert [kinds(rows, "acked") for rows in found.values()] == [["acked"], ["acked"], ["acked"], []]


async def connection_quiet(rig: Rig, events: int, connection: Any) -> None:
    """Until a connection has so many events."""
    await rig.routed()
    rig.dispatcher.flush_all()
    await until(lambda: len(connection.events) >= events, "events")


async def test_a_full_socket_is_not_written(noted: Rig) -> None:
    """What a connection refused is not said to have been sent to it, until it is sent."""
    connection = noted.connection(token(system=SYSTEM))
    await connection.subscribe()
    await noted.publish(append())
    await connection_quiet(noted, 1, connection)
    connection.block(True)
    await noted.publish(append(), append())
    await noted.routed()
    noted.dispatcher.flush_all()
    assert [kinds(rows, *SAID) for rows in (await told(noted, TENANTS[0])).values()] == [["sent"], [], []]
    connection.block(False)
    await connection_quiet(noted, 3, connection)
    assert [kinds(rows, *SAID) for rows in (await told(noted, TENANTS[0])).values()] == [
        ["sent"],
        ["caught_up"],
        ["caught_up"],
    ]


async def test_what_a_subscription_did_not_ask_for_is_not_its(noted: Rig) -> None:
    """A late `latest` subscription beside one that catches up: only what each asked for, from where it began."""
    await noted.publish(append(kind=KINDS[0]), append(kind=KINDS[2], entity="order:1"))
    await noted.routed()
    connection = noted.connection(token(system=SYSTEM))
    await connection.subscribe(1, ["order.*"], after="earliest")
    await connection.subscribe(2, ["room.*"])
    await connection_quiet(noted, 1, connection)
    await noted.publish(append(kind=KINDS[0]))
    await connection_quiet(noted, 2, connection)
    found = await told(noted, TENANTS[0])
    assert [kinds(rows, *SAID) for rows in found.values()] == [[], ["caught_up"], ["sent"]]


@pytest.mark.parametrize("seed", range(6))
async def test_a_connection_is_never_said_to_have_more_than_it_has(noted: Rig, seed: int) -> None:
    """Subscribing, unsubscribing, blocking and acknowledging by chance: the ledger claims no event that did not come,
    no acknowledgement that was not given."""
    chance = random.Random(seed)
    everyone = [noted.connection(token(system=SYSTEM), window=20) for _ in range(3)]
    open_: list[set[int]] = [set() for _ in everyone]
    for connection, session in zip(everyone, "abc", strict=True):
        connection.feed._trail.session = session
    for step in range(60):
        index = chance.randrange(len(everyone))
        connection = everyone[index]
        act = chance.random()
        if act < 0.45:
            await noted.publish(
                *[append(chance.choice(TENANTS), chance.choice(KINDS)) for _ in range(chance.randint(1, 6))]
            )
        elif act < 0.6 and len(open_[index]) < 3:
            open_[index].add(step)
            await connection.subscribe(
                step,
                [chance.choice(("*", "room.*", "order.placed"))],
                after=chance.choice(("earliest", "latest")),
                **({"name": f"n{step}"} if chance.random() < 0.5 else {}),
            )
        elif act < 0.7 and open_[index]:
            await connection.unsubscribe(open_[index].pop())
        elif act < 0.8:
            connection.block(connection.writable)
        elif act < 0.95:
            connection.ack_all()
        else:
            await noted.routed()
        if chance.random() < 0.3:
            await noted.dispatcher.recorder.write()
    for connection in everyone:
        await connection.quiet()
    for tenant in TENANTS:
        for sequence, rows in (await told(noted, tenant)).items():
            for connection, session in zip(everyone, "abc", strict=True):
                mine = [said for said in rows if said.session == session]
                if kinds(mine, "sent", "caught_up"):
                    assert sequence in connection.sequences(tenant)
                if kinds(mine, "acked"):
                    # Acknowledgements are cumulative: also of what came to another subscription of the connection.
                    assert sequence <= max(number for of, number in connection.acked if of == tenant)
                    assert sequence in connection.sequences(tenant)
    assert await noted.store.ledger.count() > 20
