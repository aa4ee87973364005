"""What every server must make of the log: order, duplicates, revisions, cursors, trimming, positions, dead letters."""

from __future__ import annotations

import asyncio
import random
from typing import Any
from zlib import crc32

import orjson
import pytest
from log_servers import GROUPS, NEIGHBOUR, T0, T1, Bench, append_all, event, stored, until

from hub.errors import StartError
from hub.log import groups
from hub.log.dead_letters import DeadLetters
from hub.log.keys import partition_of
from hub.log.positions import Positions
from hub.log.setup import Durability, durability, make_groups, new_epoch
from hub.log.stream_log import Append, Appended, Conflict, Head, Outcome, StreamLog
from schemas.cursor import ZERO, Cursor, StreamId
from schemas.errors import Problem

pytestmark = pytest.mark.server

FIELDS = [
    b"event_type",
    b"event_data",
    b"timestamp",
    b"event_id",
    b"tenant_id",
    b"action",
    b"entity",
    b"revision",
    b"sequence",
]


async def one(log: StreamLog, append: Append) -> Outcome:
    """Append one event; its outcome."""
    return await log.submit(append)


def cursor_of(outcome: Outcome) -> Cursor:
    """The cursor of an append that was stored."""
    assert isinstance(outcome, Appended)
    return Cursor.decode(outcome.cursor)


async def start(log: StreamLog, cursor: Cursor, tenant: str = T0) -> tuple[Head, str | None]:
    """Where reading after a cursor begins, and the gap before it."""
    (found,) = await log.resolve({tenant: cursor})
    return found.head, found.gap


# Appending


async def test_an_entry_is_laid_out_as_published(bench: Bench) -> None:
    """Fields stand in the contract's order, with the type and action apart and the revision last in the envelope."""
    log = await bench.open()
    append = event(n=7)
    await append_all(log, [event(T0, "room:9"), append])
    key = log.keys.events(log.partition(T0))
    ((_, first), (_, fields)) = await log.source.client.execute_command("XRANGE", key, "-", "+")
    assert fields[::2] == first[::2] == FIELDS
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    assert values[b"event_type"] == b"room"
    assert values[b"event_id"] == append.event_id.encode()
    assert values[b"tenant_id"] == T0.encode()
    assert values[b"action"] == b"status_changed"
    assert values[b"entity"] == b"room:1"
    assert values[b"revision"] == b"1"
    assert values[b"sequence"] == b"2"
    assert values[b"timestamp"] == str(append.timestamp_ms).encode()
    envelope = orjson.loads(values[b"event_data"])
    assert list(envelope)[-1] == "revision"
    assert envelope["revision"] == 1
    assert envelope["data"] == {"n": 7}


def test_the_partition_is_the_crc32_of_the_tenant() -> None:
    """Whoever knows the tenant finds the stream: crc32 modulo the number of partitions."""
    for tenant in ("naha", "default", "ホテル", "a" * 64):
        for partitions in (1, 2, 8, 100):
            assert partition_of(tenant, partitions) == crc32(tenant.encode()) % partitions


async def test_the_keys_are_named_as_published(bench: Bench) -> None:
    """The stream of a partition is `prefix:{pNN}:events`, and its groups begin at its beginning."""
    log = await bench.open()
    assert log.keys.events(1) == f"{log.keys.prefix}:{{p01}}:events"
    for partition in range(2):
        found = await log.source.client.xinfo_groups(log.keys.events(partition))
        assert sorted(group["name"].decode() for group in found) == sorted(GROUPS)
        assert {group["last-delivered-id"] for group in found} == {b"0-0"}


async def test_sequences_are_contiguous_under_concurrency(bench: Bench) -> None:
    """Several hubs append at once; each tenant's sequence has no hole and every submitter's order is kept."""
    logs = [await bench.open() for _ in range(3)]
    tenants = [T0, T1, NEIGHBOUR, "t-1"]
    rng = random.Random(1)
    sent: dict[tuple[int, str], list[str]] = {}
    futures = []
    for _ in range(400):
        hub, tenant = rng.randrange(3), rng.choice(tenants)
        append = event(tenant, f"room:{rng.randrange(5)}")
        sent.setdefault((hub, tenant), []).append(append.event_id)
        futures.append(logs[hub].submit(append))
        if rng.random() < 0.05:
            await asyncio.sleep(0)
    await asyncio.gather(*futures)
    revisions: dict[tuple[str, str], list[int]] = {}
    for tenant in tenants:
        found = await stored(logs[0], tenant)
        assert [sequence for sequence, _ in found] == list(range(1, len(found) + 1))
        order = {event_id: sequence for sequence, event_id in found}
        for hub in range(3):
            mine = [order[event_id] for event_id in sent.get((hub, tenant), [])]
            assert mine == sorted(mine)
        for entry in await logs[0].read(logs[0].partition(tenant), ZERO, 1000):
            if entry.tenant_id == tenant:
                revisions.setdefault((tenant, entry.entity), []).append(entry.event["revision"])
    assert sum(len(found) for found in revisions.values()) == 400
    for found_revisions in revisions.values():
        assert found_revisions == list(range(1, len(found_revisions) + 1))


async def test_the_receipt_is_where_the_event_lies(bench: Bench) -> None:
    """Cursor, sequence and id of a receipt lead to the event."""
    log = await bench.open()
    append = event(n=3)
    await append_all(log, [event(), event(T1)])
    (receipt,) = await append_all(log, [append])
    entry = await log.at(T0, receipt.id)
    assert entry is not None
    assert (entry.event_id, entry.sequence, entry.cursor) == (append.event_id, 2, receipt.cursor)
    assert receipt.revision == entry.event["revision"] == 2
    found = await log.find(T0, append.event_id)
    assert found is not None
    assert found.id == receipt.id
    assert await log.at(NEIGHBOUR, receipt.id) is None, "another tenant's entry is not told"
    assert await log.find(T1, append.event_id) is None


async def test_a_duplicate_returns_the_first_receipt(bench: Bench) -> None:
    """Another hub, and the same hub started anew, answer a known event_id with the first receipt and store nothing."""
    log = await bench.open()
    (first,) = await append_all(log, [event(id="e-1", n=1)])
    await append_all(log, [event()])
    (again,) = await append_all(log, [event(id="e-1", n=2)])
    assert again == first._replace(duplicate=True)
    await log.aclose()
    other = await bench.open()
    (later,) = await append_all(other, [event(id="e-1", n=3)])
    assert later == again
    assert [event_id for _, event_id in await stored(other, T0)].count("e-1") == 1
    kept = await other.at(T0, first.id)
    assert kept is not None
    assert kept.event["data"] == {"n": 1}


async def test_a_duplicate_within_one_call_is_known(bench: Bench) -> None:
    """The same event_id twice among appends that share a call is stored once; the second hears of the first."""
    log = await bench.open()
    outcomes = await append_all(log, [event(id="e-1"), event(id="e-2"), event(id="e-1"), event(id="e-1")])
    assert [outcome.duplicate for outcome in outcomes] == [False, False, True, True]
    assert outcomes[2] == outcomes[3] == outcomes[0]._replace(duplicate=True)
    assert await stored(log, T0) == [(1, "e-1"), (2, "e-2")]


async def test_event_ids_belong_to_their_tenant(bench: Bench) -> None:
    """The same event_id of another tenant is another event, also where the names run together."""
    log = await bench.open(1)
    outcomes = await append_all(log, [event("a", id="b:c"), event("a:b", id="c"), event("x", id="b:c")])
    assert [outcome.duplicate for outcome in outcomes[::2]] == [False, False]
    outcome = await append_all(log, [event("a", "room:1 x"), event("a room:1", "x")])
    assert [one.sequence for one in outcome] == [2, 1]


async def test_receipts_last_their_time_and_go(bench: Bench) -> None:
    """An event_id is known for at least the time that was set, across generations; each generation has its end."""
    now = [600.0 * 7]
    log = await bench.open(idempotency_s=600, wall=lambda: now[0])
    partition = log.partition(T0)
    (first,) = await append_all(log, [event(id="e-1")])
    keys = [log.keys.receipts(partition, generation) for generation in (7, 8)]
    assert 1200 < await log.source.client.ttl(keys[0]) <= 1200 + 3600
    now[0] = 600.0 * 9 - 1
    (again,) = await append_all(log, [event(id="e-1")])
    assert again == first._replace(duplicate=True)
    assert await log.find(T0, "e-1") is not None
    now[0] = 600.0 * 9
    assert await log.find(T0, "e-1") is None
    (forgotten,) = await append_all(log, [event(id="e-1")])
    assert (forgotten.sequence, forgotten.duplicate) == (2, False)
    assert await log.source.client.exists(keys[1]) == 0


async def test_an_own_retry_is_not_a_duplicate(bench: Bench) -> None:
    """A call that was carried out but whose answer was lost is repeated, and reports its own event as new."""
    log = await bench.open()
    whole, calls = log.source, 0

    class Lossy:
        client = whole.client

        async def call(self, *command: Any) -> Any:
            nonlocal calls
            calls += 1
            answer = await whole.call(*command)
            if calls == 2:  # the first one finds that the script is unknown
                raise ConnectionResetError("the answer was lost")
            return answer

        aclose = whole.aclose

    log.source = Lossy()  # type: ignore[assignment]
    mine, known = await append_all(log, [event(id="e-1"), event(id="e-2", expected=1)])
    assert calls == 3
    assert (mine.sequence, mine.duplicate, known.duplicate, known.revision) == (1, False, False, 2)
    log.source = whole
    assert await stored(log, T0) == [(1, "e-1"), (2, "e-2")]


async def test_expected_revision_guards_an_entity(bench: Bench) -> None:
    """0 means that the entity must not exist, n that it is at n; anything else is a conflict and stores nothing."""
    log = await bench.open()
    assert await one(log, event(expected=1)) == Conflict(0, None)
    created = await one(log, event(expected=0, id="e-1"))
    assert isinstance(created, Appended)
    assert await one(log, event(expected=0)) == Conflict(1, created.id)
    assert await one(log, event(expected=2)) == Conflict(1, created.id)
    changed = await one(log, event(expected=1))
    assert isinstance(changed, Appended)
    assert (changed.sequence, changed.revision) == (2, 2)
    assert await one(log, event(expected=1)) == Conflict(2, changed.id)
    assert isinstance(await one(log, event(T0, "room:2", expected=0)), Appended)
    assert isinstance(await one(log, event(T1, expected=0)), Appended)
    again = await one(log, event(expected=0, id="e-1"))
    assert again == created._replace(duplicate=True), "a duplicate comes before the check"


async def test_one_of_many_rivals_wins(bench: Bench) -> None:
    """Of concurrent appends that expect the same revision, one is stored; also within one call."""
    logs = [await bench.open() for _ in range(2)]
    outcomes = await asyncio.gather(*[log.submit(event(expected=0)) for log in logs for _ in range(10)])
    winners = [outcome for outcome in outcomes if isinstance(outcome, Appended)]
    assert len(winners) == 1
    assert {outcome for outcome in outcomes if isinstance(outcome, Conflict)} == {Conflict(1, winners[0].id)}
    assert len(await stored(logs[0], T0)) == 1


async def test_a_withdrawn_caller_does_not_withdraw_the_event(bench: Bench) -> None:
    """Cancelling a future leaves the event to be stored and the others of the call undisturbed."""
    log = await bench.open()
    left, kept = log.submit(event(id="e-1")), log.submit(event(id="e-2"))
    left.cancel()
    assert isinstance(await kept, Appended)
    assert await stored(log, T0) == [(1, "e-1"), (2, "e-2")]


async def test_more_than_one_call_holds_is_stored_in_order(bench: Bench) -> None:
    """Many more events than a call takes keep their order."""
    log = await bench.open()
    appends = [event(n=n) for n in range(700)]
    outcomes = await append_all(log, appends)
    assert [outcome.sequence for outcome in outcomes] == list(range(1, 701))
    assert [event_id for _, event_id in await stored(log, T0)] == [append.event_id for append in appends]


async def test_a_full_queue_refuses(bench: Bench) -> None:
    """Past `max_waiting` a submit is refused at once, and room comes back when the queue is written."""
    log = await bench.open(max_waiting=5)
    waiting = [log.submit(event()) for _ in range(5)]
    with pytest.raises(Problem) as refused:
        log.submit(event(T1))
    assert refused.value.code == "overloaded"
    await asyncio.gather(*waiting)
    await append_all(log, [event(T1)])
    assert len(await stored(log, T0)) == 5


async def test_closing_finishes_what_waits(bench: Bench) -> None:
    """`aclose` stores every event it had taken and takes no more."""
    log = await bench.open()
    waiting = [log.submit(event(tenant)) for tenant in (T0, T1) for _ in range(300)]
    await log.aclose()
    assert all(isinstance(future.result(), Appended) for future in waiting)
    with pytest.raises(Problem) as refused:
        log.submit(event())
    assert refused.value.code == "draining"
    assert len(await stored(await bench.open(), T0)) == 300


# Opening


async def test_another_partition_count_is_refused(bench: Bench) -> None:
    """The number of partitions is fixed at first start; the error names both and the fix."""
    await bench.open(2)
    with pytest.raises(StartError) as refused:
        await bench.open(3)
    assert "has 2 partitions" in refused.value.message
    assert "HUB_PARTITIONS=2" in refused.value.fix


async def test_another_layout_is_refused(bench: Bench) -> None:
    """A log written by a release with another layout is not touched."""
    log = await bench.open()
    await log.source.client.hset(log.keys.meta, "layout", "2")
    with pytest.raises(StartError, match="layout 2"):
        await bench.open()


async def test_opening_twice_changes_nothing(bench: Bench) -> None:
    """A second hub, and a restart, find the epochs and groups of the first."""
    one, two = await bench.open(), await bench.open()
    assert one.epochs == two.epochs
    assert 0 not in one.epochs
    assert await make_groups(one.source, one, GROUPS) == []


async def test_groups_are_made_again_from_the_beginning(bench: Bench) -> None:
    """A group that was removed is made at the start of the stream, not at its end."""
    log = await bench.open()
    await append_all(log, [event()])
    key = log.keys.events(log.partition(T0))
    await log.source.client.xgroup_destroy(key, GROUPS[0])
    assert await make_groups(log.source, log, GROUPS) == [(log.partition(T0), GROUPS[0])]
    found = await log.source.client.xreadgroup(GROUPS[0], "c", {key: ">"}, count=10)
    assert len(found[0][1]) == 1


async def test_emptied_server_begins_a_new_history(bench: Bench) -> None:
    """After FLUSHALL appends go on by themselves: a new epoch, groups at 0, sequences from 1, old cursors told."""
    log = await bench.open()
    old = cursor_of((await append_all(log, [event() for _ in range(3)]))[-1])
    epoch = log.epochs[log.partition(T0)]
    await log.source.client.flushall()
    (receipt,) = await append_all(log, [event(id="e-1")])
    assert log.epochs[log.partition(T0)] != epoch
    assert Cursor.decode(receipt.cursor).epoch == log.epochs[log.partition(T0)]
    assert (receipt.sequence, receipt.revision) == (1, 1)
    key = log.keys.events(log.partition(T0))
    found = await log.source.client.xinfo_groups(key)
    assert {group["name"].decode(): group["last-delivered-id"] for group in found} == dict.fromkeys(GROUPS, b"0-0")
    assert await start(log, old) == (Head(0, ZERO), "epoch")


async def test_another_hub_sees_the_new_epoch(bench: Bench) -> None:
    """A hub that knew the old history appends to the new one under the epoch that another hub began."""
    one, two = await bench.open(), await bench.open()
    await append_all(two, [event()])
    await one.source.client.flushall()
    await append_all(one, [event()])
    (receipt,) = await append_all(two, [event()])
    assert receipt.sequence == 2
    assert two.epochs[two.partition(T0)] == one.epochs[one.partition(T0)]


async def test_rivals_agree_on_a_new_epoch(bench: Bench) -> None:
    """Of two hubs that begin a new epoch at once, one decides."""
    one, two = await bench.open(), await bench.open()
    before = one.epochs[0]
    await asyncio.gather(new_epoch(one.source, one, 0), new_epoch(two.source, two, 0))
    assert one.epochs[0] == two.epochs[0] != before


async def test_the_servers_durability_is_told(bench: Bench) -> None:
    """Servers that sync every write are durable; what else they are set to is named."""
    log = await bench.open()
    if bench.fake:
        assert (await durability(log.source)).durable is None
        return
    assert (await durability(log.source)).durable is True
    for name, value, told in (
        ("appendfsync", "everysec", "everysec"),
        ("appendonly", "no", "appendonly is off"),
    ):
        held = (await log.source.client.config_get(name))[name]
        await log.source.client.config_set(name, value)
        try:
            found = await durability(log.source)
        finally:
            await log.source.client.config_set(name, held)
        assert found == Durability(False, found.detail)
        assert told in found.detail


# Cursors


async def test_a_cursor_resumes_after_its_event(bench: Bench) -> None:
    """Every receipt's cursor, the zero cursor and the last one resume without a gap, right after their event."""
    log = await bench.open()
    receipts = await append_all(log, [event(tenant) for _ in range(4) for tenant in (T0, NEIGHBOUR)])
    for receipt in receipts[::2]:
        assert await start(log, Cursor.decode(receipt.cursor)) == (Head(receipt.sequence, receipt.id), None)
    zero = Cursor.decode(log.cursor(T0, Head(0, ZERO)))
    assert await start(log, zero) == (Head(0, ZERO), None)
    assert await start(log, Cursor.decode(log.cursor("t-9", Head(0, ZERO))), "t-9") == (Head(0, ZERO), None)


async def test_a_cursor_from_the_future_is_told(bench: Bench) -> None:
    """A cursor beyond the last event resumes at the last event, with a gap."""
    log = await bench.open()
    receipts = await append_all(log, [event() for _ in range(3)])
    last = Head(3, receipts[-1].id)
    ahead = Cursor.of(log.epochs[log.partition(T0)], T0, 4, StreamId(receipts[-1].id.ms + 9, 0))
    assert await start(log, ahead) == (last, "future")


async def test_a_cursor_of_another_epoch_is_told(bench: Bench) -> None:
    """A cursor of a replaced history resumes at the earliest there is, with a gap."""
    log = await bench.open()
    receipts = await append_all(log, [event() for _ in range(3)])
    await new_epoch(log.source, log, log.partition(T0))
    assert await start(log, Cursor.decode(receipts[1].cursor)) == (Head(0, ZERO), "epoch")


async def test_a_lost_tail_is_told(bench: Bench) -> None:
    """After a failover that lost the tail, its cursors are told, before and after others took the events' place."""
    log = await bench.open()
    receipts = await append_all(log, [event(n=n) for n in range(5)])
    await lose_tail(log, keep=3, receipts=receipts)
    third = Head(3, receipts[2].id)
    assert await start(log, Cursor.decode(receipts[2].cursor)) == (third, None)
    assert await start(log, Cursor.decode(receipts[3].cursor)) == (third, "future")
    assert await start(log, Cursor.decode(receipts[4].cursor)) == (third, "future")
    again = await append_all(log, [event() for _ in range(4)])
    assert [receipt.sequence for receipt in again] == [4, 5, 6, 7]
    for lost in receipts[3:]:
        head, gap = await start(log, Cursor.decode(lost.cursor))
        assert (head, gap) == (Head(0, ZERO), "epoch")
    for kept in (*receipts[:3], *again):
        assert (await start(log, Cursor.decode(kept.cursor)))[1] is None


async def lose_tail(log: StreamLog, keep: int, receipts: list[Appended]) -> None:
    """Take a tenant back to its event number `keep`, as a replica that had not heard the rest."""
    client, partition = log.source.client, log.partition(T0)
    for receipt in receipts[keep:]:
        await client.xdel(log.keys.events(partition), str(receipt.id))
    last = receipts[keep - 1]
    await client.hset(log.keys.sequences(partition), T0, f"{last.sequence} {last.id}")
    await client.hset(log.keys.revisions(partition), f"{T0} room:1", f"{last.revision} {last.id}")


# Trimming


async def finish(log: StreamLog, group: str, count: int, ack: int | None = None) -> list[bytes]:
    """Deliver `count` entries of T0's partition to a group and acknowledge the first `ack` (all)."""
    key = log.keys.events(log.partition(T0))
    reply = await log.source.client.execute_command(
        "XREADGROUP", "GROUP", group, "c", "COUNT", count, "STREAMS", key, ">"
    )
    pairs = list(reply.items()) if isinstance(reply, dict) else reply
    ids = [id for id, _ in pairs[0][1]]
    await log.source.client.xack(key, group, *ids[:ack])
    return ids


FAR = 1 << 45
"""A time after every entry."""


async def test_nothing_unfinished_is_trimmed(bench: Bench) -> None:
    """Trimming stops below the oldest entry that any group has not got or not acknowledged."""
    log = await bench.open()
    receipts = await append_all(log, [event() for _ in range(10)])
    assert await groups.trim(log, FAR, FAR, GROUPS) == 0
    await finish(log, GROUPS[0], 8)
    assert await groups.trim(log, FAR, FAR, GROUPS) == 0
    pending = await finish(log, GROUPS[1], 6, ack=4)
    assert await groups.trim(log, FAR, FAR, GROUPS) == 4
    assert [sequence for sequence, _ in await stored(log, T0)] == [5, 6, 7, 8, 9, 10]
    key = log.keys.events(log.partition(T0))
    await log.source.client.xack(key, GROUPS[1], pending[5])
    assert await groups.trim(log, FAR, FAR, GROUPS) == 0, "the fifth is still pending"
    await log.source.client.xack(key, GROUPS[1], pending[4])
    assert await groups.trim(log, FAR, FAR, GROUPS) == 2
    await finish(log, GROUPS[1], 10)
    assert await groups.trim(log, FAR, FAR, GROUPS) == 2, "the other group has got eight"
    assert [sequence for sequence, _ in await stored(log, T0)] == [9, 10]
    assert (await log.floors([T0]))[T0] == Head(8, receipts[7].id)


async def test_what_is_young_is_kept(bench: Bench) -> None:
    """Only entries older than the retention go, however finished they are."""
    log = await bench.open()
    receipts = await append_all(log, [event() for _ in range(4)])
    for group in GROUPS:
        await finish(log, group, 4)
    assert await groups.trim(log, receipts[0].id.ms, FAR, GROUPS) == 0
    assert await groups.trim(log, receipts[-1].id.ms + 1, FAR, GROUPS) == 4


async def test_a_log_whose_groups_are_gone_is_left_alone(bench: Bench) -> None:
    """While a group that should be there is not, nobody can say that events are finished, and none are removed."""
    log = await bench.open()
    await append_all(log, [event()])
    for group in GROUPS:
        await log.source.client.xgroup_destroy(log.keys.events(log.partition(T0)), group)
    assert await groups.trim(log, FAR, FAR, GROUPS) == 0
    assert len(await stored(log, T0)) == 1


async def test_a_group_that_nobody_asked_for_or_used_holds_nothing(bench: Bench) -> None:
    """Groups left over from former settings do not keep the log for ever; one that was read with does."""
    log = await bench.open()
    await append_all(log, [event() for _ in range(3)])
    await finish(log, GROUPS[0], 1)
    assert await groups.trim(log, FAR, FAR, [GROUPS[0]]) == 1
    assert await groups.trim(log, FAR, FAR, []) == 0
    await finish(log, GROUPS[0], 2)
    assert await groups.trim(log, FAR, FAR, []) == 2


async def test_a_log_trimmed_to_nothing_goes_on(bench: Bench) -> None:
    """After everything was trimmed, cursors below are told as expired, the last resumes, and sequences go on."""
    log = await bench.open()
    receipts = await append_all(log, [event() for _ in range(1200)] + [event(NEIGHBOUR)])
    for group in GROUPS:
        await finish(log, group, 2000)
    assert await groups.trim(log, FAR, FAR, GROUPS) == 1201
    assert await stored(log, T0) == []
    last = Head(1200, receipts[1199].id)
    assert (await log.floors([T0, NEIGHBOUR, "t-9"])) == {
        T0: last,
        NEIGHBOUR: Head(1, receipts[1200].id),
        "t-9": Head(0, ZERO),
    }
    assert await start(log, Cursor.decode(receipts[1199].cursor)) == (last, None)
    assert await start(log, Cursor.decode(receipts[700].cursor)) == (last, "expired")
    assert await start(log, Cursor.decode(log.cursor(T0, Head(0, ZERO)))) == (last, "expired")
    (after,) = await append_all(await bench.open(), [event()])
    assert (after.sequence, after.revision) == (1201, 1201)
    assert after.id > receipts[-1].id


async def test_group_states_tell_lag_and_pending(bench: Bench) -> None:
    """Per group and partition: lag, pending, age of the oldest pending, consumers."""
    log = await bench.open()
    receipts = await append_all(log, [event() for _ in range(5)])
    await finish(log, GROUPS[0], 3, ack=1)
    now = receipts[1].id.ms + 7000
    found = {(one.group, one.partition): one for one in await groups.group_states(log, now)}
    assert set(found) == {(group, partition) for group in GROUPS for partition in range(2)}
    mine = found[(GROUPS[0], log.partition(T0))]
    assert (mine.pending, mine.consumers, mine.last_delivered) == (2, 1, receipts[2].id)
    if not bench.fake:
        assert mine.lag == 2
    assert mine.oldest_pending_s == pytest.approx(7.0)
    assert mine.finished < receipts[1].id
    assert mine.finished >= receipts[0].id
    assert found[(GROUPS[1], log.partition(T0))].finished == ZERO


async def test_a_noted_hole_only_moves_forward(bench: Bench) -> None:
    """A hole is written down once, and a smaller one does not hide it."""
    log = await bench.open()
    receipts = await append_all(log, [event() for _ in range(5)])
    await log.note_hole(T0, Head(3, receipts[2].id))
    await log.note_hole(T0, Head(2, receipts[1].id))
    assert (await log.floors([T0]))[T0] == Head(3, receipts[2].id)
    assert await start(log, Cursor.decode(receipts[0].cursor)) == (Head(3, receipts[2].id), "expired")


# Positions


async def test_positions_are_kept(bench: Bench) -> None:
    """A position that was begun or moved is there for another hub; the newest move wins; others are unaffected."""
    log = await bench.open()
    receipts = await append_all(log, [event() for _ in range(3)])
    positions = Positions(log)
    assert await positions.get("pms", "sync", [T0, T1]) == {}
    await positions.begin("pms", "sync", {T0: receipts[0].cursor})
    for receipt in receipts:
        positions.move("pms", "sync", T0, receipt.cursor)
    expected = {T0: Cursor.decode(receipts[2].cursor)}
    assert await positions.get("pms", "sync", [T0, T1]) == expected, "seen before it is written"
    await positions.aclose()
    other = Positions(await bench.open())
    assert await other.get("pms", "sync", [T0, T1]) == expected
    assert await other.get("pms", "other", [T0]) == {}
    assert await other.get("saas", "sync", [T0]) == {}


async def test_unwritten_positions_are_written_when_the_server_is_back(bench: Bench) -> None:
    """A move that could not be written is tried again."""
    log = await bench.open()
    (receipt,) = await append_all(log, [event()])
    positions, broken = Positions(log), True
    real = log.source.client.hset

    async def hset(*args: Any, **kwargs: Any) -> Any:
        nonlocal broken
        if broken:
            broken = False
            raise ConnectionResetError("gone")
        return await real(*args, **kwargs)

    log.source.client.hset = hset
    positions.move("pms", "sync", T0, receipt.cursor)

    async def written() -> bool:
        return bool(await Positions(log).get("pms", "sync", [T0]))

    await until(written)
    await positions.aclose()


# Dead letters


async def letters(log: StreamLog, count: int) -> DeadLetters:
    """`count` dead letters of a group, as a consumer writes them."""
    receipts = await append_all(log, [event(T0 if n % 2 else T1, n=n) for n in range(count)])
    for n, receipt in enumerate(receipts):
        tenant = T0 if n % 2 else T1
        partition = log.partition(tenant)
        key = log.keys.events(partition)
        ((_, fields),) = await log.source.client.execute_command("XRANGE", key, str(receipt.id), str(receipt.id))
        more = [b"reason", b"boom", b"attempts", b"5", b"failed_at", b"2026-07-15T01:00:00Z", b"source_id"]
        await log.source.client.execute_command(
            "XADD", log.keys.dead(partition, GROUPS[1]), "*", *fields, *more, str(receipt.id)
        )
    return DeadLetters(log, GROUPS)


async def test_dead_letters_are_listed(bench: Bench) -> None:
    """A listing tells what failed and why, within the tenants asked for and the limit, across partitions."""
    log = await bench.open()
    dead = await letters(log, 5)
    assert await dead.count(GROUPS[1]) == 5
    assert await dead.count(GROUPS[0]) == 0
    found = await dead.listed(GROUPS[1], 100)
    assert sorted(letter.event()["data"]["n"] for letter in found) == [0, 1, 2, 3, 4]
    assert {letter.reason for letter in found} == {"boom"}
    assert [letter.tenant_id for letter in await dead.listed(GROUPS[1], 100, frozenset({T0}))] == [T0, T0]
    assert len(await dead.listed(GROUPS[1], 2)) == 2
    assert set(await dead.groups()) == set(GROUPS)
    one = await dead.get(GROUPS[1], found[0].id)
    assert one == found[0]
    assert one.summary()["attempts"] == 5
    assert one.source_id


async def test_more_than_a_page_is_listed(bench: Bench) -> None:
    """A listing goes on past the first page of a stream, also when the tenant asked for is at its end."""
    log = await bench.open(1)
    dead = await letters(log, 3)
    key, again = log.keys.dead(0, GROUPS[1]), log.keys.dead(0, "busy")
    ((_, fields), *_) = await log.source.client.execute_command("XRANGE", key, "-", "+")
    for _ in range(450):
        await log.source.client.execute_command("XADD", again, "*", *fields)
    fields[fields.index(b"tenant_id") + 1] = b"last"
    await log.source.client.execute_command("XADD", again, "*", *fields)
    assert len(await dead.listed("busy", 1000)) == 451
    assert len(await dead.listed("busy", 1000, frozenset({"last"}))) == 1
    assert len(await dead.listed("busy", 300)) == 300


async def test_redriving_twice_sends_once(bench: Bench) -> None:
    """A letter moves to the group's redrive stream whole, its attempts at 0; sending it again does nothing."""
    log = await bench.open()
    dead = await letters(log, 2)
    found = await dead.listed(GROUPS[1], 10)
    ids = [letter.id for letter in found]
    assert len(await dead.redrive(GROUPS[1], ids)) == 2
    assert len(await dead.redrive(GROUPS[1], ids)) == 0
    assert await dead.count(GROUPS[1]) == 0
    for letter in found:
        partition = log.partition(letter.tenant_id)
        key = log.keys.redrive(partition, GROUPS[1])
        ((_, fields),) = await log.source.client.execute_command("XRANGE", key, "-", "+")
        assert fields[:18:2] == FIELDS
        rest = dict(zip(fields[18::2], fields[19::2], strict=True))
        assert rest == {b"source_id": letter.source_id.encode(), b"attempts": b"0"}
        assert fields[3] == letter.raw


async def test_discarding_twice_removes_once(bench: Bench) -> None:
    """A discarded letter is gone, cannot be redriven, and discarding it again counts none."""
    log = await bench.open()
    dead = await letters(log, 2)
    ids = [letter.id for letter in await dead.listed(GROUPS[1], 10)]
    assert await dead.discard(GROUPS[1], [ids[0], ids[0]]) == 1
    assert await dead.discard(GROUPS[1], [ids[0]]) == 0
    assert len(await dead.redrive(GROUPS[1], ids)) == 1
    assert await dead.get(GROUPS[1], ids[0]) is None


@pytest.mark.parametrize("id", ["", "p00", "p02:1-1", "p99:1-1", "p00:1", "p00:x-1", "p00:1-1\n", "p00:-", "p0:1-1"])
async def test_a_wrong_letter_id_moves_nothing(bench: Bench, id: str) -> None:
    """One malformed id refuses the whole request."""
    log = await bench.open()
    dead = await letters(log, 1)
    (letter,) = await dead.listed(GROUPS[1], 10)
    for act in (dead.redrive, dead.discard):
        with pytest.raises(Problem) as refused:
            await act(GROUPS[1], [letter.id, id])
        assert refused.value.code == "invalid_request"
    assert await dead.count(GROUPS[1]) == 1
