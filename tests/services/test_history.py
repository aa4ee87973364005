"""Reading from archive and stream as one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from feed_rig import ENTITIES, KINDS, SYSTEM, TENANTS, LogServer, Rig, append, claims, until

from hub.core.delivery import Subscriber
from hub.core.routing import Interest
from hub.log import groups
from hub.log.restoration import put_heads
from hub.log.stream_log import Head
from hub.log.tenants import Tenants
from hub.services import dispatcher, history, pages, reader, restoration
from hub.services.reader import Query, Reader
from hub.services.restoration import Restoration
from hub.store.archive import Batch, Fenced
from hub.store.database import StoreUnavailable
from schemas.cursor import Cursor, StreamId
from schemas.errors import Problem

pytestmark = pytest.mark.server

ONE = TENANTS[0]


async def archived_and_trimmed(rig: Rig, log_server: LogServer, archived: int = 20, hot: int = 10) -> Rig:
    """A log whose first events lie in the archive alone, and a hub on it that has nothing in memory."""
    for _ in range(archived):
        await rig.publish(*[append(tenant) for tenant in TENANTS])
    await rig.archive()
    await rig.trim()
    assert await rig.log.first(rig.log.partition(ONE)) is None
    for _ in range(hot):
        await rig.publish(*[append(tenant) for tenant in TENANTS])
    await rig.routed()
    return await Rig(log_server, rig.prefix).start()


@pytest.mark.parametrize("after", ["earliest", 0, 1, 19, 20, 21, 29])
@pytest.mark.parametrize("tenants", [TENANTS[:1], ("*",)])
async def test_a_subscriber_does_not_notice_where_the_stream_begins(
    rig: Rig, log_server: LogServer, monkeypatch: pytest.MonkeyPatch, after: Any, tenants: tuple[str, ...]
) -> None:
    """From the archive into the stream and live: every event once, in order, without a gap, from any cursor."""
    monkeypatch.setattr(pages, "PAGE", 7)
    monkeypatch.setattr(pages, "SLICE", 3)
    hub = await archived_and_trimmed(rig, log_server)
    try:
        one = hub.connection(claims(tenants))
        start = after
        if after != "earliest":
            names = TENANTS if tenants == ("*",) else tenants
            zero = {name: hub.log.cursor(name, dispatcher.NOWHERE) for name in names}
            start = {name: rig.published[(name, after)].cursor if after else zero[name] for name in names}
        told = await one.subscribe(after=start)
        live = await rig.publish(*[append(tenant) for tenant in TENANTS])
        await until(lambda: any(frame["cursor"] == live[-1].cursor for frame in one.events) or len(tenants) == 1)
        await one.quiet()
        assert (told["recovered"], one.gaps) == (True, [])
        first = 1 if after == "earliest" else after + 1
        for tenant in TENANTS if tenants == ("*",) else tenants:
            got = [frame["sequence"] for frame in one.events if frame["event"]["tenant_id"] == tenant]
            assert got == list(range(first, 32))
    finally:
        await hub.stop()


async def test_pages_go_from_archive_to_stream(
    rig: Rig, log_server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GET /events after any cursor: the same events in the same order as before the trim."""
    monkeypatch.setattr(reader, "CHUNK", 5)
    hub = await archived_and_trimmed(rig, log_server)
    try:
        asked = Query(Interest(frozenset(TENANTS), frozenset({"*"})), TENANTS, None, limit=13)
        found: list[tuple[str, int]] = []
        while True:
            page = await Reader(hub.history, hub.dispatcher, hub.metrics).page(claims(TENANTS), asked)
            assert page.gaps == []
            found += [(entry.tenant_id, entry.sequence) for entry in page.entries]
            if not page.more and not page.entries:
                break
            asked = Query(asked.interest, asked.tenants, page.next, limit=13)
        assert sorted(found) == sorted(rig.published)
        for tenant in TENANTS:
            assert [number for name, number in found if name == tenant] == list(range(1, 31))
    finally:
        await hub.stop()


async def test_an_entitys_history_is_found_by_the_archives_index(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages of one entity, over archive and stream, are what filtering everything gives, and read nothing else."""
    published = []
    for number in range(60):
        published += await rig.publish(append(entity=ENTITIES[number % 2]))
        if number == 40:
            await rig.archive()
    await rig.routed()
    read = rig.history.read
    places = []

    async def noted(partition: int, after: Any, *args: Any, **more: Any) -> Any:
        places.append(after)
        return await read(partition, after, *args, **more)

    monkeypatch.setattr(rig.history, "read", noted)
    interest = Interest(frozenset({ONE}), frozenset({"*"}), frozenset({ENTITIES[1]}))
    asked, found = Query(interest, (ONE,), None, limit=7), []
    while True:
        page = await Reader(rig.history, rig.dispatcher, rig.metrics).page(claims((ONE,)), asked)
        assert len(page.entries) <= 7
        found += [entry.sequence for entry in page.entries]
        if not page.more and not page.entries:
            break
        asked = Query(interest, (ONE,), page.next, limit=7)
    assert found == [one.sequence for one in published if one.entity == ENTITIES[1]]
    archived = Cursor.decode(published[40].cursor).id
    assert min(places) >= archived


async def test_a_quiet_tenants_events_are_read_without_its_neighbours(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its partition only what is not archived yet; of one without news nothing at all."""
    near = next(name for name in (f"hotel-{n}" for n in range(99)) if rig.log.partition(name) == rig.log.partition(ONE))
    monkeypatch.setattr(history, "CHUNK", 3)
    [first] = await rig.publish(append(ONE))
    await rig.publish(*[append(near) for _ in range(20)], *[append(ONE) for _ in range(4)])
    await rig.archive()
    await rig.publish(append(near), append(ONE), append(near))
    asked: list[tuple[str, int]] = []

    def told(name: str, read: Any) -> Any:
        async def reading(*args: Any, **kwargs: Any) -> Any:
            page = await read(*args, **kwargs)
            asked.append((name, len(page)))
            return page

        return reading

    monkeypatch.setattr(rig.log, "read", told("log", rig.log.read))
    monkeypatch.setattr(rig.store.archive, "read", told("archive", rig.store.archive.read))
    start = Cursor.decode(first.cursor).id
    found = [entry async for entry in rig.history.of_tenant(ONE, start)]
    assert [(entry.tenant_id, entry.sequence) for entry in found] == [(ONE, number) for number in range(2, 7)]
    assert asked == [("archive", 3), ("archive", 1), ("log", 3), ("log", 0)]
    asked.clear()
    assert [entry async for entry in rig.history.of_tenant(ONE, found[-1].id)] == []
    assert asked == []


async def test_a_tenants_events_are_read_without_the_archive(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the log has them all; and of a history that the archive does not follow yet, by the log alone."""
    places = await rig.publish(*[append(ONE) for _ in range(3)])
    await rig.archive()
    start = Cursor.decode(places[0].cursor).id

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(rig.store.archive, "places", away)
        assert [entry.sequence async for entry in rig.history.of_tenant(ONE, start)] == [2, 3]
    rig.log.epochs[rig.log.partition(ONE)] += 1
    with monkeypatch.context() as patch:
        patch.setattr(rig.store.archive, "read", away)
        assert [entry.sequence async for entry in rig.history.of_tenant(ONE, start)] == [2, 3]


async def test_one_event_is_found_after_the_trim(rig: Rig, log_server: LogServer) -> None:
    """An event is read by its id for as long as the archive has it."""
    hub = await archived_and_trimmed(rig, log_server)
    try:
        page = await hub.history.read(hub.log.partition(ONE), dispatcher.NOWHERE.id, 1, tenants=[ONE])
        read = Reader(hub.history, hub.dispatcher, hub.metrics)
        found = await read.find(claims((ONE,), system=SYSTEM), page[0].event_id, [ONE])
        assert found is not None
        assert (found.cursor, found.raw) == (page[0].cursor, page[0].raw)
    finally:
        await hub.stop()


async def test_without_the_archive_a_trimmed_beginning_is_refused_and_not_skipped(
    rig: Rig, log_server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away: what lies in the archive alone is `store_unavailable`; what is in the stream is read."""
    hub = await archived_and_trimmed(rig, log_server)

    async def away(*_: Any, **__: Any) -> Any:
        raise StoreUnavailable("away")

    for name in ("read", "tenants", "holds"):
        monkeypatch.setattr(hub.store.archive, name, away)
    try:
        read = Reader(hub.history, hub.dispatcher, hub.metrics)
        interest = Interest(frozenset({ONE}), frozenset({"*"}))
        with pytest.raises(Problem) as refused:
            await read.page(claims((ONE,)), Query(interest, (ONE,), rig.published[(ONE, 5)].cursor))
        assert (refused.value.code, refused.value.retryable) == ("store_unavailable", True)
        page = await read.page(claims((ONE,)), Query(interest, (ONE,), rig.published[(ONE, 20)].cursor))
        assert [entry.sequence for entry in page.entries] == list(range(21, 31))
        one = hub.connection(claims((ONE,)))
        with pytest.raises(Problem, match="store_unavailable"):
            await one.subscribe(after=rig.published[(ONE, 5)].cursor)
    finally:
        await hub.stop()


async def test_what_the_retention_removed_is_a_gap(rig: Rig, log_server: LogServer) -> None:
    """Past HUB_ARCHIVE_DAYS a cursor meets `expired`, and its `resume_from` goes on without another."""
    hub = await archived_and_trimmed(rig, log_server)
    try:
        limit = Cursor.decode(rig.published[(ONE, 11)].cursor).id.ms
        old = [one for one in rig.published.values() if Cursor.decode(one.cursor).id.ms < limit]
        assert await hub.store.archive.expire(limit) == len(old)
        left = [n for t, n in rig.published if t == ONE and Cursor.decode(rig.published[(t, n)].cursor).id.ms >= limit]
        one = hub.connection(claims((ONE,)))
        told = await one.subscribe(after=rig.published[(ONE, 2)].cursor)
        await one.quiet()
        assert (told["recovered"], [gap["reason"] for gap in one.gaps]) == (False, ["expired"])
        assert one.sequences() == left
        again = hub.connection(claims((ONE,)))
        await again.subscribe(after=one.gaps[0]["resume_from"])
        await again.quiet()
        assert (again.sequences(), again.gaps) == (left, [])
    finally:
        await hub.stop()


async def test_a_trim_in_the_middle_of_reading_hides_nothing(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries that are trimmed right after a page was asked for come from the archive."""
    await rig.publish(*[append() for _ in range(20)])
    await rig.archive()
    partition, log_read = rig.log.partition(ONE), rig.log.read

    async def trimmed_first(*args: Any) -> Any:
        await groups.trim(rig.log, 1 << 60, 1 << 60, ("archiver",))
        return await log_read(*args)

    await rig.log.source.client.xgroup_destroy(rig.log.keys.events(partition), "webhooks")
    monkeypatch.setattr(rig.log, "read", trimmed_first)
    read = await rig.history.read(partition, Cursor.decode(rig.published[(ONE, 3)].cursor).id, 100, tenants=[ONE])
    assert [entry.sequence for entry in read] == list(range(4, 21))


# A log that was emptied


async def restored(rig: Rig, log_server: LogServer) -> Rig:
    """Empty the server, and open a hub that puts back what the archive knows."""
    await rig.dispatcher.stop()
    await rig.log.source.client.flushall()
    hub = Rig(log_server, rig.prefix)
    hub.log.on_empty = Restoration(hub.log, hub.store, idempotency_s=600).partition
    return await hub.start()


async def test_a_flush_under_a_full_archive_loses_nothing(rig: Rig, log_server: LogServer) -> None:
    """Numbering, revisions and receipts go on; a cursor from before resumes without a gap over the old and the new."""
    events = [append(ONE) for _ in range(12)]
    published = await rig.publish(*events)
    await rig.archive()
    hub = await restored(rig, log_server)
    try:
        again = await hub.log.submit(events[4])
        assert (again.duplicate, again.sequence) == (True, 5)  # type: ignore[union-attr]
        stored = await hub.log.submit(append(ONE))
        assert (stored.sequence, stored.revision, stored.duplicate) == (13, 13, False)  # type: ignore[union-attr]
        one = hub.connection(claims((ONE,)))
        told = await one.subscribe(after=published[2].cursor)
        await until(lambda: len(one.events) == 10)
        assert (told["recovered"], one.gaps) == (True, [])
        assert one.sequences() == list(range(4, 14))
    finally:
        await hub.stop()


async def test_a_live_subscriber_that_had_everything_is_not_told_of_a_gap(rig: Rig) -> None:
    """After a flush under a full archive, who was at its head goes on without one; the next number follows."""
    rig.log.on_empty = Restoration(rig.log, rig.store, idempotency_s=600).partition
    one = rig.connection(claims((ONE,)))
    await one.subscribe()
    await rig.publish(*[append(ONE) for _ in range(5)])
    await one.quiet()
    await rig.archive()
    await rig.log.source.client.flushall()
    await rig.publish(append(ONE))
    await until(lambda: len(one.events) == 6)
    assert (one.sequences(), one.gaps) == ([1, 2, 3, 4, 5, 6], [])


async def test_what_the_archive_did_not_have_yet_is_a_gap(rig: Rig, log_server: LogServer) -> None:
    """Events that were lost with the log are told by `epoch`; those after are read."""
    published = await rig.publish(*[append(ONE) for _ in range(6)])
    await rig.archive()
    lost = await rig.publish(*[append(ONE) for _ in range(2)])
    await rig.routed()
    hub = await restored(rig, log_server)
    try:
        await hub.publish(*[append(ONE, KINDS[1]) for _ in range(3)])
        one = hub.connection(claims((ONE,)))
        told = await one.subscribe(after=lost[-1].cursor)
        await one.quiet()
        assert (told["recovered"], [gap["reason"] for gap in one.gaps]) == (False, ["epoch"])
        assert one.sequences() == [7, 8, 9]
        two = hub.connection(claims((ONE,)))
        await two.subscribe(after=published[3].cursor)
        await two.quiet()
        assert (two.sequences(), two.gaps) == ([5, 6, 7, 8, 9], [])
    finally:
        await hub.stop()


async def test_nothing_is_put_back_where_a_new_history_began(rig: Rig) -> None:
    """Two hubs that find the log empty: the one that comes later does not turn the numbers back."""
    await rig.publish(*[append(ONE) for _ in range(3)])
    await rig.archive()
    put_back = Restoration(rig.log, rig.store, idempotency_s=600)
    await put_back.partition(rig.log.partition(ONE))
    (stored,) = await asyncio.gather(rig.log.submit(append(ONE)))
    assert stored.sequence == 4  # type: ignore[union-attr]


async def test_what_comes_from_before_a_flush_is_acknowledged_with_its_own_cursors(
    rig: Rig, log_server: LogServer
) -> None:
    """A durable subscriber reads archived events of an older epoch and acknowledges them; its position moves there."""
    await rig.publish(*[append(ONE) for _ in range(8)])
    await rig.archive()
    hub = await restored(rig, log_server)
    try:
        one = hub.connection(claims((ONE,)))
        await one.subscribe(after="earliest", name="n")
        await until(lambda: len(one.events) == 8)
        one.feed.ack({ONE: one.events[4]["cursor"]})
        await one.feed.close()
        await hub.positions.aclose()
        again = hub.connection(claims((ONE,)))
        await again.subscribe(name="n")
        await until(lambda: len(again.events) == 3)
        assert (again.sequences(), again.gaps) == ([6, 7, 8], [])
    finally:
        await hub.stop()


async def test_a_durable_subscription_goes_on_over_a_flush(rig: Rig, log_server: LogServer) -> None:
    """A name resumes where the ledger last saw it; one that had more than the archive is told of a gap."""
    await rig.publish(*[append(ONE) for _ in range(9)])
    await rig.archive()
    ends = [Cursor.decode(rig.published[(ONE, number)].cursor) for number in (4, 9)]
    ledger = rig.store.ledger
    await ledger.write((), [Subscriber("hotel-pms", "desk", ONE, "[]", 4, ends[0].id, 1)])
    await ledger.write((), [Subscriber("hotel-pms", "ahead", ONE, "[]", 12, ends[1].id.next, 1)])
    hub = await restored(rig, log_server)
    try:
        await hub.publish(append(ONE))
        one = hub.connection(claims((ONE,), system="hotel-pms"))
        await one.subscribe(name="desk")
        await one.quiet()
        assert (one.sequences(), one.gaps) == ([5, 6, 7, 8, 9, 10], [])
        two = hub.connection(claims((ONE,), system="hotel-pms"))
        told = await two.subscribe(name="ahead")
        assert (told["recovered"], len(two.gaps)) == (False, 1)
    finally:
        await hub.stop()


async def test_settings_and_expired_entities_are_put_back(rig: Rig, log_server: LogServer) -> None:
    """A property's currency and zone, and the revision of an entity whose events have all left the archive."""
    await rig.store.properties.put({ONE: '{"tenant_id":"t-1","currency":"USD","timezone":"America/New_York"}'})
    await rig.publish(*[append(ONE) for _ in range(5)])
    await rig.archive()
    await rig.project()
    assert await rig.store.archive.expire(1 << 61) == 5
    hub = await restored(rig, log_server)
    try:
        tenants = Tenants(hub.log)
        await tenants.load()
        assert (tenants.get(ONE).currency, tenants.get(ONE).timezone) == ("USD", "America/New_York")
        (stored,) = await asyncio.gather(hub.log.submit(append(ONE)))
        assert (stored.sequence, stored.revision) == (6, 6)  # type: ignore[union-attr]
    finally:
        await hub.stop()


async def test_many_properties_are_put_back(rig: Rig) -> None:
    """More tenants of a partition than a script's stack would hold."""
    await rig.log.source.client.delete(rig.log.keys.epoch(0))
    heads = {f"many-{number}": Head(number + 1, StreamId(number + 1, 0)) for number in range(9000)}
    assert await put_heads(rig.log, 0, heads)
    assert await rig.log.source.client.hlen(rig.log.keys.sequences(0)) >= 9000


async def test_what_is_remembered_of_an_emptied_log_is_not_stored_behind_what_was_put_back(
    rig: Rig, log_server: LogServer
) -> None:
    """An archiver with old events still in memory, and a write under way, while another hub puts the archive's memory
    back: no number is given twice, and the chain holds."""
    await rig.publish(*[append(ONE) for _ in range(6)])
    await rig.archive()
    await rig.publish(*[append(ONE) for _ in range(3)])
    await rig.routed()
    partition = rig.log.partition(ONE)
    place = (await rig.store.archive.places())[partition]
    held = rig.dispatcher.recent(partition, place.id, 100)
    assert held is not None
    assert len(held) == 3
    await rig.dispatcher.stop()
    await rig.log.source.client.flushall()
    hub = Rig(log_server, rig.prefix)
    hub.log.on_empty = Restoration(hub.log, hub.store, idempotency_s=600).partition
    await hub.start()
    try:
        with pytest.raises(Fenced):
            await rig.store.archive.write([Batch(partition, place, held, place.epoch, held[-1].id)])
        rig.archiver._forget()
        await rig.archiver.round()
        await hub.publish(*[append(ONE) for _ in range(2)])
        await hub.archive()
        archived = await hub.store.archive.read(partition, dispatcher.NOWHERE.id, 100, tenants=[ONE])
        assert [entry.sequence for entry in archived] == list(range(1, 9))
        found = [one async for one in hub.store.archive.verify(ONE)]
        assert (found[-1].events, found[-1].broken) == (8, None)
    finally:
        await hub.stop()


async def test_a_store_that_comes_late_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """An emptied log and a store that starts at the same time: the memory is put back all the same; a store that does
    not come is given up."""
    await rig.publish(*[append(ONE) for _ in range(4)])
    await rig.archive()
    partition, moments, asked = rig.log.partition(ONE), iter(range(100)), 0
    await rig.log.source.client.delete(rig.log.keys.epoch(partition), rig.log.keys.sequences(partition))
    places = rig.store.archive.places

    async def late() -> Any:
        nonlocal asked
        asked += 1
        if asked < 3:
            raise StoreUnavailable("starting")
        return await places()

    monkeypatch.setattr(restoration, "RETRY_S", 0.0)
    monkeypatch.setattr(rig.store.archive, "places", late)
    made = Restoration(rig.log, rig.store, idempotency_s=600, now=lambda: next(moments))
    await made.partition(partition)
    assert (await rig.log.heads([ONE]))[ONE].sequence == 4
    asked = -100
    await made.partition(partition)
    assert next(moments) < 20
