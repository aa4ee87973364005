"""StreamConsumer against real servers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from stream_server import (
    GROUP,
    PARTITIONS,
    TENANTS,
    StreamServer,
    customer,
    entry,
    envelope,
    partition_of,
    typed,
    until,
)

from consumers.errors import ClientClosed
from consumers.in_hand import Alarm
from consumers.inbox import SQLiteInbox
from consumers.lease import Lease, fair_share
from consumers.stream_consumer import LogNotFound, StreamConsumer
from consumers.stream_keys import PartitionKeys, Script

pytestmark = pytest.mark.server

Seen = list[tuple[str, int | None]]


def make(server: StreamServer, name: str = "member-1", **options: Any) -> StreamConsumer:
    settings = {"retry_base_s": 0.01, "retry_cap_s": 0.02, "lease_s": 5.0} | options
    return StreamConsumer(server.url, group=GROUP, consumer=name, **settings)


def recording(consumer: StreamConsumer) -> Seen:
    seen: Seen = []

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        seen.append((event.data.customer_id, event.data.total_points))

    return seen


def numbers(seen: Seen, id: str) -> list[int | None]:
    return [number for customer_id, number in seen if customer_id == id]


async def dead_letters(server: StreamServer) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in await server.redis.xrange(server.key("dead"))]


async def test_a_server_without_a_hub_is_named(stream_server: StreamServer) -> None:
    """Without `hub:meta` there is a clear error instead of a consumer that waits for ever."""
    await stream_server.redis.delete("hub:meta")
    with pytest.raises(LogNotFound, match="hub:meta"):
        await make(stream_server).run()
    with pytest.raises(LogNotFound):
        async with make(stream_server):
            pass


async def test_a_consumer_runs_once(stream_server: StreamServer) -> None:
    """A second `run` is the caller's error."""
    consumer = make(stream_server)
    async with consumer:
        with pytest.raises(ClientClosed):
            await consumer.run()
    with pytest.raises(ClientClosed):
        await consumer.run()


async def test_events_come_in_order_and_are_acknowledged(stream_server: StreamServer) -> None:
    """What was there before and what comes later arrives once, in the order of its tenant's stream."""
    first = [customer(f"c{n % 7}", n, tenant) for n in range(700) for tenant in TENANTS]
    later = [customer(f"c{n % 7}", n, tenant) for n in range(700, 720) for tenant in TENANTS]
    await stream_server.append(*first)
    consumer = make(stream_server)
    seen: dict[str, list[int]] = {tenant: [] for tenant in TENANTS}

    @consumer.on("customer.updated")
    async def changed(event: Any) -> None:
        seen[event.tenant_id].append(event.data.total_points)

    async with consumer:
        await until(lambda: consumer.stats.handled == len(first))
        await stream_server.append(*later)
        await until(lambda: consumer.stats.handled == len(first) + len(later))
        await until(stream_server.all_done)
    assert seen == {tenant: list(range(720)) for tenant in TENANTS}


async def test_an_idle_consumer_waits_on_the_server(stream_server: StreamServer) -> None:
    """With nothing to read, each partition blocks on one connection instead of asking again and again."""
    async with make(stream_server):

        async def all_blocked() -> bool:
            return int((await stream_server.redis.info("clients"))["blocked_clients"]) == PARTITIONS

        await until(all_blocked)


async def test_what_is_not_for_the_system_or_not_handled_is_acknowledged(stream_server: StreamServer) -> None:
    """Targets are kept, and events without a handler do not pile up."""
    await stream_server.append(
        customer("c1", 1, targets=["hotel-pms"]),
        envelope("system", "notice", {"topic": "x", "message": "y"}),
        customer("c1", 2),
    )
    consumer = make(stream_server)
    seen = recording(consumer)
    async with consumer:
        await until(stream_server.all_done)
    assert seen == [("c1", 2)]
    assert consumer.stats.handled == 1


async def test_an_events_entity_waits_behind_its_retry_and_others_go_on(stream_server: StreamServer) -> None:
    """A failing event holds back its own entity alone; it is tried again until it succeeds."""
    await stream_server.append(*(customer(id, n) for n in (1, 2, 3) for id in ("a", "b")))
    consumer = make(stream_server, attempts=1000)
    seen: Seen = []

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        if event.data.customer_id == "a" and ("b", 3) not in seen:
            raise RuntimeError("not yet")
        seen.append((event.data.customer_id, event.data.total_points))

    async with consumer:
        await until(lambda: len(seen) == 6)
        await until(stream_server.all_done)
    assert seen == [("b", 1), ("b", 2), ("b", 3), ("a", 1), ("a", 2), ("a", 3)]
    assert consumer.stats.retried >= 1
    assert consumer.stats.dead == 0


async def test_an_event_that_fails_every_time_becomes_a_dead_letter(stream_server: StreamServer) -> None:
    """The letter holds the event's nine fields and its story; the entity goes on behind it."""
    bad, good = customer("a", 1), customer("a", 2)
    ids = await stream_server.append(bad, good)
    consumer = make(stream_server, attempts=3)
    tried: Seen = []

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        tried.append((event.data.customer_id, event.data.total_points))
        if event.data.total_points == 1:
            raise RuntimeError("no such member")

    async with consumer:
        await until(stream_server.all_done)
    assert tried == [("a", 1)] * 3 + [("a", 2)]
    assert (consumer.stats.handled, consumer.stats.retried, consumer.stats.dead) == (1, 2, 1)
    [letter] = await dead_letters(stream_server)
    expected = {name.encode(): str(value).encode() for name, value in entry(bad).items()}
    expected |= {
        b"event_data": orjson.dumps(bad),
        b"reason": b"RuntimeError: no such member",
        b"attempts": b"3",
        b"failed_at": letter[b"failed_at"],
        b"source_id": ids[0],
    }
    assert letter == expected
    assert list(letter) == list(expected)
    assert letter[b"failed_at"].endswith(b"+00:00")


async def test_undecodable_entries_become_dead_letters_at_once(stream_server: StreamServer) -> None:
    """A torn envelope, one that does not fit its schema, and a foreign entry neither block nor vanish."""
    torn = entry(customer("a", 1)) | {"event_data": b'{"event_id":'}
    misfit = entry(customer("a", 2) | {"data": {"customer_id": 7}})
    for fields in (torn, misfit, {"hello": "world"}):
        await stream_server.redis.xadd(stream_server.events(), fields)
    await stream_server.append(customer("a", 3))
    consumer = make(stream_server)
    seen = recording(consumer)
    async with consumer:
        await until(stream_server.all_done)
    assert seen == [("a", 3)]
    letters = await dead_letters(stream_server)
    assert [letter[b"attempts"] for letter in letters] == [b"0"] * 3
    assert all(letter[b"reason"].startswith(b"undecodable: ") for letter in letters)
    assert b"data.customer_id" in letters[1][b"reason"]
    assert b"event_type" in letters[2][b"reason"]
    assert (letters[2][b"event_type"], letters[2][b"hello"]) == (b"", b"world")


async def test_fields_in_another_order_are_read(stream_server: StreamServer) -> None:
    """An entry is known by its fields' names; more fields may follow."""
    fields = dict(reversed(entry(customer("a", 1)).items())) | {"later": "field"}
    await stream_server.redis.xadd(stream_server.events(), fields)
    consumer = make(stream_server)
    seen = recording(consumer)
    async with consumer:
        await until(stream_server.all_done)
    assert seen == [("a", 1)]


async def test_entities_run_side_by_side_each_in_order(stream_server: StreamServer) -> None:
    """With concurrency, a slow entity does not stop another, and never overtakes itself."""
    await stream_server.append(*(customer(id, n) for n in range(20) for id in ("a", "b", "c")))
    consumer = make(stream_server, concurrency=2)
    seen: Seen = []
    running: set[str] = set()
    most = 0
    b_done = asyncio.Event()

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        nonlocal most
        id = event.data.customer_id
        assert id not in running
        running.add(id)
        most = max(most, len(running))
        if id == "a" and event.data.total_points == 0:
            await b_done.wait()
        await asyncio.sleep(0)
        running.remove(id)
        seen.append((id, event.data.total_points))
        if id == "b" and event.data.total_points == 19:
            b_done.set()

    async with consumer:
        await until(lambda: len(seen) == 60)
        await until(stream_server.all_done)
    assert all(numbers(seen, id) == list(range(20)) for id in "abc")
    assert most == 2
    assert consumer.stats.retried == 0


async def test_a_hanging_handler_is_cancelled_and_counts_as_failed(stream_server: StreamServer) -> None:
    """The time limit ends an attempt; after the last the letter says so."""
    await stream_server.append(customer("a", 1))
    consumer = make(stream_server, handler_timeout_s=0.01, attempts=2)
    cancelled = 0

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        nonlocal cancelled
        try:
            await asyncio.Event().wait()
        finally:
            cancelled += 1

    async with consumer:
        await until(stream_server.all_done)
    assert cancelled == 2
    [letter] = await dead_letters(stream_server)
    assert letter[b"reason"] == b"TimeoutError: took longer than 0.01 s"


async def test_a_handler_that_raises_cancelled_error_failed(stream_server: StreamServer) -> None:
    """A CancelledError of the handler's own making is a failure like any other, not the end of the consumer."""
    await stream_server.append(customer("a", 1), customer("a", 2))
    consumer = make(stream_server, attempts=2)
    seen: Seen = []

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        if event.data.total_points == 1:
            raise asyncio.CancelledError
        seen.append((event.data.customer_id, event.data.total_points))

    async with consumer:
        await until(stream_server.all_done)
    assert seen == [("a", 2)]
    assert (consumer.stats.retried, consumer.stats.dead) == (1, 1)
    [letter] = await dead_letters(stream_server)
    assert letter[b"reason"] == b"CancelledError: "


async def test_what_is_in_hand_is_bounded(stream_server: StreamServer) -> None:
    """While handlers hang, no more than `max_in_flight` entries are taken from the stream."""
    await stream_server.append(*(customer(f"c{n}", n) for n in range(50)))
    consumer = make(stream_server, concurrency=50, max_in_flight=8)
    release = asyncio.Event()
    started = 0

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        nonlocal started
        started += 1
        await release.wait()

    async with consumer:
        await until(lambda: started == 8)
        [group] = await stream_server.redis.xinfo_groups(stream_server.events())
        assert group["pending"] == 8
        release.set()
        await until(stream_server.all_done)
    assert started == 50


async def test_stopping_in_a_batch_leaves_the_rest_pending(stream_server: StreamServer) -> None:
    """`stop` lets the handler under way finish; the next consumer goes on with the following event."""
    await stream_server.append(*(customer("a", n) for n in range(10)))
    consumer = make(stream_server)
    entered, release = asyncio.Event(), asyncio.Event()
    seen: Seen = []

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        if event.data.total_points == 4:
            entered.set()
            await release.wait()
        seen.append((event.data.customer_id, event.data.total_points))

    running = asyncio.create_task(consumer.run())
    await entered.wait()
    stopping = asyncio.create_task(consumer.stop())
    await until(consumer._stopping.is_set)
    release.set()
    await stopping
    await running
    assert numbers(seen, "a") == [0, 1, 2, 3, 4]
    assert await stream_server.pending() == 5

    following = make(stream_server, "member-2")
    rest = recording(following)
    async with following:
        await until(stream_server.all_done)
    assert numbers(rest, "a") == [5, 6, 7, 8, 9]


async def test_a_handler_that_does_not_end_is_cancelled_when_draining_is_over(stream_server: StreamServer) -> None:
    """`stop` does not wait for ever."""
    await stream_server.append(customer("a", 1))
    consumer = make(stream_server, drain_s=0.01, handler_timeout_s=None)
    entered = asyncio.Event()

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with consumer:
        await entered.wait()
        async with asyncio.timeout(15):
            await consumer.stop()
    assert await stream_server.pending() == 1
    assert await stream_server.redis.keys("hub:*:lease:*") == []


async def test_two_consumers_share_the_partitions_and_keep_order(stream_server: StreamServer) -> None:
    """The first gives one partition up to the second, and takes it back when the second leaves; order holds."""
    one, two = make(stream_server, "member-1", lease_s=0.6), make(stream_server, "member-2", lease_s=0.6)
    seen: dict[str, list[int]] = {tenant: [] for tenant in TENANTS}

    for consumer in (one, two):

        @consumer.on("customer.*")
        async def changed(event: Any) -> None:
            seen[event.tenant_id].append(event.data.total_points)

    async def append(low: int, high: int) -> None:
        await stream_server.append(*(customer("a", n, tenant) for n in range(low, high) for tenant in TENANTS))

    async with one:
        await until(lambda: len(one.partitions) == PARTITIONS)
        await append(0, 100)
        async with two:
            await until(lambda: len(one.partitions) == len(two.partitions) == 1)
            assert not one.partitions & two.partitions
            await append(100, 200)
            await until(lambda: one.stats.handled + two.stats.handled == 400)
        assert two.stats.handled >= 100
        await until(lambda: len(one.partitions) == PARTITIONS)
        await append(200, 300)
        await until(stream_server.all_done)
    assert seen == {tenant: list(range(300)) for tenant in TENANTS}


@pytest.mark.parametrize(("partitions", "live", "share"), [(8, 1, 8), (8, 2, 4), (8, 3, 3), (8, 9, 1), (8, 0, 8)])
def test_the_fair_share(partitions: int, live: int, share: int) -> None:
    """Rounded up, so that the shares cover all partitions."""
    assert fair_share(partitions, live) == share


async def test_a_consumer_that_lost_its_lease_stops_and_cannot_acknowledge(stream_server: StreamServer) -> None:
    """The handler under way is cancelled, and the entry stays for the new owner."""
    await stream_server.append(customer("a", 1))
    consumer = make(stream_server, lease_s=0.6)
    entered, cancelled = asyncio.Event(), asyncio.Event()

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with consumer:
        await entered.wait()
        await stream_server.redis.set(stream_server.key("lease"), "another 99")
        await cancelled.wait()
        await until(lambda: partition_of(TENANTS[0]) not in consumer.partitions)
        assert await stream_server.pending() == 1
    assert await stream_server.redis.get(stream_server.key("lease")) == b"another 99"
    assert consumer.stats.handled == 0


async def test_scripts_refuse_a_former_owner(stream_server: StreamServer) -> None:
    """Late reads, acknowledgements and burials of a lost lease change nothing."""
    redis = stream_server.redis
    keys = PartitionKeys("hub", 0, GROUP)
    [id] = await stream_server.append(customer("a", 1))
    await Script(redis, "stream_ensure")([keys.redrive], GROUP, "")
    late, holder = Lease(keys, "old 1", 0).value, "new 2"
    await redis.set(keys.lease, holder)

    read = Script(redis, "stream_read")
    assert await read([keys.lease, keys.events, keys.redrive], late, GROUP, "c", 10) is None
    _, [[taken, _]], _ = await read([keys.lease, keys.events, keys.redrive], holder, GROUP, "c", 10)
    assert taken == id
    assert await Script(redis, "stream_ack")([keys.lease, keys.events], late, GROUP, 0, id) == -1
    bury = Script(redis, "stream_bury")
    assert await bury([keys.lease, keys.events, keys.dead], late, GROUP, 0, id, "reason", "x") == -1
    assert await Script(redis, "stream_take_over")([keys.lease, keys.events], late, GROUP, "c", "0-0", 10) is None
    assert await Script(redis, "stream_attempt")([keys.lease, keys.events], late, GROUP, "c", id) == -1
    assert await Script(redis, "lease_renew")([keys.lease, keys.events], late, 1000, GROUP, "c", 0) == 0
    assert await Script(redis, "lease_release")([keys.lease], late) == 0
    assert await stream_server.pending() == 1
    assert await redis.exists(keys.dead) == 0

    assert await bury([keys.lease, keys.events, keys.dead], holder, GROUP, 0, id, "reason", "x") == 1
    assert await bury([keys.lease, keys.events, keys.dead], holder, GROUP, 0, id, "reason", "x") == 0
    assert await redis.xlen(keys.dead) == 1
    assert await stream_server.pending() == 0


async def test_a_killed_consumer_is_taken_over_and_each_effect_happens_once(
    stream_server: StreamServer, tmp_path: Path
) -> None:
    """SIGKILL in mid-batch, effects committed and not acknowledged: the inbox tells them from those to come."""
    total, hang_at = 40, 25
    await stream_server.append(*(customer(f"c{n % 5}", n) for n in range(total)))
    database = tmp_path / "member.db"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("stream_child.py"))),
        *(stream_server.url, str(database), str(hang_at)),
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdout is not None
    async with asyncio.timeout(30):
        while b"hanging" not in await child.stdout.readline():
            assert child.returncode is None
    child.kill()
    await child.wait()
    assert await stream_server.pending() == total

    async with await SQLiteInbox.open(database, GROUP) as inbox:
        consumer = make(stream_server, inbox=inbox, lease_s=0.6)

        @consumer.on("customer.*")
        async def changed(event: Any, tx: Any) -> None:
            await tx.execute("INSERT INTO effects VALUES ($1, $2)", (event.data.customer_id, event.data.total_points))

        async with consumer:
            await until(stream_server.all_done)
        async with inbox.transaction(typed("customer", "updated", {"customer_id": "probe"})) as tx:
            assert tx is not None
            effects = await tx.fetch("SELECT number FROM effects ORDER BY rowid")
    assert [number for (number,) in effects] == list(range(total))
    assert (consumer.stats.duplicates, consumer.stats.handled) == (hang_at, total - hang_at)


async def test_an_entry_that_ends_its_consumer_each_time_becomes_a_dead_letter(stream_server: StreamServer) -> None:
    """A poison entry is known by its delivery count; its neighbours of the same batch are handled."""
    ids = await stream_server.append(*(customer("a", n) for n in range(3)))
    redis, events = stream_server.redis, stream_server.events()
    await redis.xreadgroup(GROUP, "dead-one", {events: ">"})
    await redis.execute_command("XCLAIM", events, GROUP, "dead-one", 0, ids[1], "RETRYCOUNT", 4)
    consumer = make(stream_server, attempts=3)
    seen = recording(consumer)
    async with consumer:
        await until(stream_server.all_done)
    assert numbers(seen, "a") == [0, 2]
    [letter] = await dead_letters(stream_server)
    assert (letter[b"source_id"], letter[b"attempts"]) == (ids[1], b"4")


async def test_taking_over_counts_one_attempt_at_a_time(stream_server: StreamServer) -> None:
    """Only the entry being handled gets a higher delivery count; those before it are acknowledged one by one."""
    _, *ids = await stream_server.append(*(customer("a", n) for n in range(4)))
    redis, events = stream_server.redis, stream_server.events()
    await redis.xreadgroup(GROUP, "dead-one", {events: ">"})
    consumer = make(stream_server)
    entered, release = asyncio.Event(), asyncio.Event()

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        if event.data.total_points == 1:
            entered.set()
            await release.wait()

    async with consumer:
        await entered.wait()
        pending = await redis.xpending_range(events, GROUP, "-", "+", 10)
        release.set()
        await until(stream_server.all_done)
    assert [(one["message_id"], one["consumer"], one["times_delivered"]) for one in pending] == [
        (id, b"member-1", count) for id, count in zip(ids, (2, 1, 1), strict=True)
    ]


async def test_entries_deleted_before_they_were_handled_raise_an_alarm(stream_server: StreamServer) -> None:
    """Somebody trimmed the stream above what the group had finished: that is told, and does not block."""
    ids = await stream_server.append(*(customer("a", n) for n in range(3)))
    await stream_server.redis.xreadgroup(GROUP, "dead-one", {stream_server.events(): ">"})
    await stream_server.redis.xdel(stream_server.events(), ids[0])
    alarms: list[Alarm] = []
    consumer = make(stream_server, on_alarm=alarms.append)
    seen = recording(consumer)
    async with consumer:
        await until(stream_server.all_done)
    assert numbers(seen, "a") == [1, 2]
    assert [(alarm.code, alarm.stream) for alarm in alarms] == [("entries_lost", stream_server.events())]


async def test_a_long_handler_keeps_its_lease_and_its_entry_fresh(stream_server: StreamServer) -> None:
    """The heartbeat resets the idle time and leaves the delivery count alone."""
    [id] = await stream_server.append(customer("a", 1))
    consumer = make(stream_server, lease_s=0.3)
    entered, release = asyncio.Event(), asyncio.Event()

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        entered.set()
        await release.wait()

    async def pending() -> dict[str, Any]:
        [found] = await stream_server.redis.xpending_range(stream_server.events(), GROUP, "-", "+", 10)
        assert found["message_id"] == id
        return dict(found)

    async with consumer:
        await entered.wait()
        for _ in range(5):
            high = 0

            async def fell() -> bool:
                nonlocal high
                idle = (await pending())["time_since_delivered"]
                high, before = max(high, idle), high
                return bool(idle < before)

            await until(fell)
        assert (await pending())["times_delivered"] == 1
        release.set()
        await until(stream_server.all_done)
    assert consumer.stats.handled == 1


async def test_a_destroyed_group_goes_on_where_it_was(stream_server: StreamServer) -> None:
    """XGROUP DESTROY: the group is made anew after the last finished event, and an alarm is raised."""
    alarms: list[Alarm] = []
    consumer = make(stream_server, on_alarm=alarms.append)
    seen = recording(consumer)
    async with consumer:
        await stream_server.append(*(customer("a", n) for n in range(5)))
        await until(stream_server.all_done)
        await stream_server.redis.xgroup_destroy(stream_server.events(), GROUP)
        await stream_server.append(*(customer("a", n) for n in range(5, 10)))
        await until(lambda: len(seen) >= 10)
        await until(stream_server.all_done)
    assert numbers(seen, "a") == list(range(10))
    assert [(alarm.code, alarm.stream) for alarm in alarms] == [("group_lost", stream_server.events())]
    assert consumer.stats.alarms == 1


async def test_a_group_destroyed_under_a_handler_does_not_repeat_it(stream_server: StreamServer) -> None:
    """Entries in hand that come again with the new group are recognised."""
    await stream_server.append(*(customer("a", n) for n in range(3)))
    consumer = make(stream_server, concurrency=2)
    entered, release = asyncio.Event(), asyncio.Event()
    seen: Seen = []

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        entered.set()
        await release.wait()
        seen.append((event.data.customer_id, event.data.total_points))

    async with consumer:
        await entered.wait()
        await stream_server.redis.xgroup_destroy(stream_server.events(), GROUP)
        await stream_server.append(customer("a", 3))
        await until(lambda: consumer.stats.alarms == 1)
        release.set()
        await until(lambda: len(seen) >= 4)
        await until(stream_server.all_done)
    assert numbers(seen, "a") == [0, 1, 2, 3]


async def test_a_flushed_server_is_read_from_the_beginning(stream_server: StreamServer) -> None:
    """FLUSHALL replaces history: nothing of the new one is skipped, and an alarm is raised."""
    alarms: list[Alarm] = []
    consumer = make(stream_server, on_alarm=alarms.append)
    seen = recording(consumer)
    async with consumer:
        await stream_server.append(*(customer("a", n) for n in range(5)))
        await until(stream_server.all_done)
        await stream_server.redis.flushall()
        await stream_server.append(*(customer("a", n) for n in range(5, 10)))
        await until(lambda: len(seen) >= 10)
        await until(stream_server.all_done)
    assert numbers(seen, "a") == list(range(10))
    assert ("group_lost", stream_server.events()) in [(alarm.code, alarm.stream) for alarm in alarms]


async def test_a_killed_server_is_waited_for(stream_server: StreamServer) -> None:
    """The server dies under a handler and comes back: what was in hand is acknowledged, what follows is read."""
    await stream_server.append(*(customer("a", n) for n in range(3)))
    consumer = make(stream_server)
    entered, release = asyncio.Event(), asyncio.Event()
    seen: Seen = []

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        seen.append((event.data.customer_id, event.data.total_points))
        if event.data.total_points == 1:
            entered.set()
            await release.wait()

    async with consumer:
        await entered.wait()
        await stream_server.kill()
        release.set()
        await until(lambda: len(seen) == 3)
        await stream_server.start()
        await stream_server.append(*(customer("a", n) for n in range(3, 6)))
        await until(lambda: len(seen) >= 6)
        await until(stream_server.all_done)
    assert numbers(seen, "a") == list(range(6))


async def test_a_consumer_may_start_before_the_server(stream_server: StreamServer) -> None:
    """It waits for the server, and reads what was there."""
    await stream_server.append(customer("a", 1))
    await stream_server.kill()
    consumer = make(stream_server)
    seen = recording(consumer)
    running = asyncio.create_task(consumer.run())
    await stream_server.start()
    await until(lambda: seen == [("a", 1)])
    await consumer.stop()
    await running


async def test_stopping_while_the_server_is_away(stream_server: StreamServer) -> None:
    """`stop` returns without the server."""
    consumer = make(stream_server, lease_s=0.6)
    async with consumer:
        await until(lambda: len(consumer.partitions) == PARTITIONS)
        await stream_server.kill()
    await stream_server.start()


async def test_redriven_letters_are_handled_again(stream_server: StreamServer) -> None:
    """The redrive stream is read beside the events; a handled letter is removed from it."""
    redrive = stream_server.key("redrive")
    event = customer("a", 1)
    await stream_server.redis.xadd(redrive, entry(event) | {"source_id": "17-0", "attempts": "0"})
    consumer = make(stream_server)
    seen = recording(consumer)
    async with consumer:
        await until(lambda: seen == [("a", 1)])
        event = customer("a", 2)
        await stream_server.redis.xadd(redrive, entry(event) | {"source_id": "18-0", "attempts": "0"})
        await until(lambda: seen == [("a", 1), ("a", 2)])

        async def empty() -> bool:
            return await stream_server.redis.xlen(redrive) == 0

        await until(empty)
    summary = await stream_server.redis.xpending(redrive, GROUP)
    assert summary["pending"] == 0


async def test_a_redriven_letter_that_fails_again_keeps_its_first_id(stream_server: StreamServer) -> None:
    """It goes back to the dead letters with the id it had in the events stream, and leaves the redrive stream."""
    redrive = stream_server.key("redrive")
    consumer = make(stream_server, attempts=2)

    @consumer.on("customer.*")
    async def changed(event: Any) -> None:
        raise ValueError("still no such member")

    async with consumer:
        await stream_server.redis.xadd(redrive, entry(customer("a", 1)) | {"source_id": "17-0", "attempts": "0"})
        await until(lambda: consumer.stats.dead == 1)
    [letter] = await dead_letters(stream_server)
    assert (letter[b"source_id"], letter[b"attempts"]) == (b"17-0", b"2")
    assert len(letter) == 13
    assert await stream_server.redis.xlen(redrive) == 0
