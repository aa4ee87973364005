"""The engine: when the desk syncs, and that nothing is lost or doubled however the line and the hub behave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from desk_rig import DeskRig, booked, changed, checked_in, reservation
from engine_rig import INTERVAL_S, EngineRig, engine_of
from fake_sync_hub import FakeSyncHub, uuids
from hand_clock import until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from consumers.errors import Disconnected, HubRefused
from consumers.offline.engine import COALESCE_S, NEWS_GAP_S, Trigger
from consumers.offline.items import LocalChange, QueueItem
from consumers.offline.pulling import PAGE_CHANGES, PAGE_STATES
from consumers.offline.pushing import RESENDS, chunks
from schemas.errors import FieldError
from schemas.sync import MAX_ITEMS, ItemError, ItemResult


@pytest.fixture
def hub() -> FakeSyncHub:
    return FakeSyncHub()


@pytest.fixture
async def synced(rig: DeskRig, hub: FakeSyncHub) -> AsyncIterator[EngineRig]:
    """A desk that has begun, beside a hub with one reservation."""
    hub.happen("Reservation", "R0", reservation("R0"))
    async with engine_of(rig, hub) as one:
        yield one


def fronts(hub: FakeSyncHub) -> list[str]:
    """The uuids of what had an effect, without the operation log's."""
    return [item["uuid"] for item in hub.taken if item["model"] != "OperationLog"]


# -- what a sync is ---------------------------------------------------------------------------------------------------


async def test_an_empty_desk_begins_with_a_snapshot(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The first sync reads the states and pulls from where they are true; the next only pulls."""
    assert (synced.outcomes[0].state, hub.snapshots, hub.pulls) == ("done", [None], [hub.head()])
    record = await synced.call(lambda database: database.record("reservation", "reservation:R0"))
    assert record is not None
    assert record.data == reservation("R0")
    assert (await synced.sync()).snapshots == 0


async def test_a_snapshot_that_was_broken_off_goes_on(rig: DeskRig, hub: FakeSyncHub) -> None:
    """The second page fails; the next sync asks for that page, not for the first."""
    for number in range(PAGE_STATES + 1):
        hub.happen("RoomStatus", str(number), {"room_id": str(number), "status": "clean"})
    hub.problems = [None, Disconnected("gone")]
    async with engine_of(rig, hub) as one:
        assert one.outcomes[0].state == "interrupted"
        assert (await one.sync()).state == "done"
        assert hub.snapshots == [None, str(PAGE_STATES)]
        assert await one.call(lambda database: database.digest().count) == PAGE_STATES + 1


async def test_what_waits_is_pushed_once_and_pulled_back(synced: EngineRig, hub: FakeSyncHub) -> None:
    """Pushes go before the pull, so that the sync ends with the desk's own events confirmed."""
    items = await synced.do(booked("R1"), checked_in("R1"))
    outcome = await synced.sync()
    assert outcome.synced
    assert sorted(fronts(hub)) == sorted(uuids(items))
    assert outcome.outcomes == {"applied": 3}
    assert outcome.skew_ms == 12
    assert await synced.call(lambda database: database.counts().unconfirmed) == 0


async def test_batches_are_bounded_by_items(synced: EngineRig, hub: FakeSyncHub) -> None:
    """A day's backlog goes out in pushes of at most 500 items."""
    await synced.do(*(booked(f"B{number}") for number in range(MAX_ITEMS + 100)))
    outcome = await synced.sync()
    assert [len(push) for push in hub.pushes] == [MAX_ITEMS, 101]
    assert outcome.synced
    assert [told.done for told in synced.told if told.phase == "push"] == [0, MAX_ITEMS, MAX_ITEMS + 101]


@given(st.lists(st.integers(0, 3000), max_size=40), st.integers(500, 8000))
def test_chunks_keep_the_order_and_the_bound(sizes: list[int], bound: int) -> None:
    """Pieces are in order, whole, not empty, and below the bound unless one item alone is above it."""
    items = [
        QueueItem(
            "u",
            "Order",
            "CREATE",
            "O",
            "order",
            "order:O",
            {"note": "x" * size},
            "",
            "queued",
            0,
            "low",
            "d",
            1,
            {},
            "",
            1,
        )
        for size in sizes
    ]
    pieces = chunks(items, bound)
    assert [one.item for piece in pieces for one in piece] == items
    for piece in pieces:
        assert piece
        assert len(piece) == 1 or sum(len(one.wire) + 1 for one in piece) <= bound


async def test_an_operation_of_the_meantime_does_not_wait_for_the_last_page(rig: DeskRig, hub: FakeSyncHub) -> None:
    """In the middle of a long pull the desk pushes what was done just now, and then pulls on."""
    hub.happen("Reservation", "R0", reservation("R0"))
    async with engine_of(rig, hub) as one:
        for _ in range(PAGE_CHANGES + 1):
            hub.happen("RoomStatus", "302", {"room_id": "302", "status": "clean"})
        pull, before = hub.pull, len(hub.pulls)

        async def meanwhile(after: str | None, limit: int) -> Any:
            if len(hub.pulls) == before:
                await one.do(checked_in("R0"))
                one.engine.request("operation")
            else:
                assert hub.pushes
            return await pull(after, limit)

        hub.pull = meanwhile  # type: ignore[method-assign]
        outcome = await one.next("live")
        assert (outcome.pushed, len(hub.pulls) - before) == (2, 2)


# -- a bad line -------------------------------------------------------------------------------------------------------


async def test_a_lost_answer_neither_loses_nor_doubles(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The hub took the push and nobody heard of it: it goes out again, is known, and counts for no retry."""
    (item,) = await synced.do(checked_in("R0"))
    hub.lose_answers = 1
    assert (await synced.sync()).state == "interrupted"
    assert await synced.status(item) == ("queued", 0)
    outcome = await synced.sync()
    assert (outcome.outcomes, fronts(hub)) == ({"duplicate": 2}, [item.uuid])
    assert await synced.status(item) == ("synced", 0)


async def test_a_push_that_arrives_twice_has_one_effect(synced: EngineRig, hub: FakeSyncHub) -> None:
    """A doubled request is answered as a duplicate, which is as good as applied."""
    hub.double = True
    (item,) = await synced.do(checked_in("R0"))
    assert (await synced.sync()).synced
    assert fronts(hub) == [item.uuid]


async def test_a_line_that_breaks_in_a_push_puts_the_items_back(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The line is cut before the answer: the items wait again, no retry counted, and the caller is told."""
    (item,) = await synced.do(checked_in("R0"))
    hub.silent = True
    hub.arrived.clear()
    waiting = asyncio.create_task(synced.engine.sync())
    await hub.arrived.wait()
    await until(lambda: hub._hanging)
    assert await synced.status(item) == ("syncing", 0)
    synced.engine.line(False)
    hub.cut()
    assert (await waiting).state == "interrupted"
    assert await synced.status(item) == ("queued", 0)
    assert (await synced.sync()).state == "offline"
    hub.silent = False
    synced.engine.line(True)
    assert (await synced.next()).trigger == "recovery"
    assert fronts(hub) == [item.uuid]


async def test_what_is_wanted_while_the_line_is_down_waits(synced: EngineRig, hub: FakeSyncHub) -> None:
    """No request leaves the desk then; one sync follows for all of it when the line is back."""
    synced.engine.line(False)
    await synced.do(checked_in("R0"))
    synced.engine.request("operation")
    synced.engine.news(None)
    await until(lambda: not synced.engine._wake.is_set())
    assert hub.pushes == []
    synced.engine.line(True)
    assert (await synced.next()).trigger == "recovery"
    assert (len(hub.pushes), len(synced.outcomes)) == (1, 2)


async def test_a_damaged_batch_is_sent_again(synced: EngineRig, hub: FakeSyncHub) -> None:
    """A CRC-32 that does not fit makes the same batch go out up to three times more, uncompressed the last time."""
    (item,) = await synced.do(checked_in("R0"))
    hub.damage = RESENDS
    outcome = await synced.sync()
    assert (outcome.synced, outcome.resent, len(hub.pushes)) == (True, RESENDS, 1 + RESENDS)
    assert [batch.plain for batch in hub.batches] == [False, False, False, True]
    assert await synced.status(item) == ("synced", 0)


async def test_a_line_that_damages_all_is_a_failure(synced: EngineRig, hub: FakeSyncHub) -> None:
    """After the third time the sync is told to have failed; the items wait, no retry counted."""
    (item,) = await synced.do(checked_in("R0"))
    hub.damage = 100
    outcome = await synced.sync()
    assert (outcome.state, outcome.retry_in_s, len(hub.pushes)) == ("failed", None, 1 + RESENDS)
    assert "damaged" in (outcome.detail or "")
    assert await synced.status(item) == ("queued", 0)


# -- what the hub says ------------------------------------------------------------------------------------------------


async def test_a_token_that_is_not_taken_loses_nothing(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The outcome says that the session is over; it is not tried again by itself, and the items wait."""
    (item,) = await synced.do(checked_in("R0"))
    hub.token_expired = True
    outcome = await synced.sync()
    assert (outcome.state, outcome.retry_in_s) == ("session_expired", None)
    assert await synced.status(item) == ("queued", 0)
    hub.token_expired = False
    assert (await synced.sync()).synced


async def test_an_item_that_is_put_off_comes_back_by_itself(synced: EngineRig, hub: FakeSyncHub) -> None:
    """`retry` counts, and the item goes out again when its time has come."""
    (item,) = await synced.do(checked_in("R0"))
    hub.waiting = 1
    outcome = await synced.sync()
    assert outcome.outcomes == {"retry": 1, "applied": 1}
    assert (outcome.state, outcome.sendable, outcome.synced) == ("done", 1, False)
    assert await synced.status(item) == ("queued", 1)
    found = await synced.call(lambda database: database.item(item.uuid))
    assert found is not None
    assert found.not_before is not None
    left = (found.not_before - synced.desk.clock.now()).total_seconds()
    await until(lambda: synced.clock.timed(left))
    synced.pass_by(left)
    assert (await synced.next()).trigger == "retry"
    assert fronts(hub) == [item.uuid]


async def test_a_rejected_item_is_undone_and_holds_up_only_its_entity(synced: EngineRig, hub: FakeSyncHub) -> None:
    """What the hub refuses is failed and out of the record; others go on, those behind it wait (R57)."""
    hub.answers["reservation:R1"] = ItemResult(outcome="rejected", errors=[ItemError(path="payload", message="no")])
    refused, other = await synced.do(booked("R1"), booked("R2"))
    (behind,) = await synced.do(changed("R1", total_amount=1))
    outcome = await synced.sync()
    assert (outcome.state, outcome.counts.failed, outcome.sendable) == ("done", 1, 0)
    assert [await synced.status(one) for one in (refused, other, behind)] == [
        ("failed", 0),
        ("synced", 0),
        ("queued", 0),
    ]


async def test_a_conflict_is_over_when_its_event_is_pulled(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The item waits for a person at the hub; the settled event comes by pull and makes it synced."""
    hub.answers["reservation:R0"] = ItemResult(outcome="conflict", conflict_id="c1")
    (item,) = await synced.do(checked_in("R0"))
    outcome = await synced.sync()
    assert (outcome.counts.conflict, await synced.status(item)) == (1, ("conflict", 0))
    hub.happen("CheckIn", "R0", dict(item.payload), uuid=item.uuid, device_id="desk-1")
    assert (await synced.sync()).synced
    assert await synced.status(item) == ("synced", 0)


async def test_what_a_decision_sets_free_goes_with_the_same_sync(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The pull that brings it, not the next interval; nobody is told any more that it waits."""
    hub.answers["reservation:R0"] = ItemResult(outcome="conflict", conflict_id="c1")
    first, behind = await synced.do(checked_in("R0"), booked("R0"))
    assert (await synced.sync()).counts.queued == 1
    hub.answers.clear()
    hub.happen("CheckIn", "R0", dict(first.payload), uuid=first.uuid, device_id="desk-1")
    assert (await synced.next("interval")).synced
    assert await synced.status(behind) == ("synced", 0)


@pytest.mark.parametrize(("trigger", "sent"), [("manual", True), ("requested", True), ("interval", False)])
async def test_who_asks_for_a_sync_waits_for_nobody(
    synced: EngineRig, hub: FakeSyncHub, trigger: Trigger, sent: bool
) -> None:
    """By hand, or because the hub asks, what waits for a person is sent at once: they may have spoken."""
    hub.answers["reservation:R7"] = ItemResult(outcome="retry", errors=[ItemError(path="conflict", message="waits")])
    (item,) = await synced.do(booked("R7"))
    assert (await synced.sync()).counts.queued == 1
    del hub.answers["reservation:R7"]
    assert (await synced.next(trigger)).synced is sent
    assert await synced.status(item) == ("synced" if sent else "queued", 0)


async def test_results_without_uuids_are_told_by_their_place(synced: EngineRig, hub: FakeSyncHub) -> None:
    """An item that could not even be read is answered in its place."""
    hub.nameless = True
    (item,) = await synced.do(checked_in("R0"))
    assert (await synced.sync()).synced
    assert await synced.status(item) == ("synced", 0)


async def test_one_item_that_is_too_large_is_found_and_fails_alone(synced: EngineRig, hub: FakeSyncHub) -> None:
    """A batch that is refused whole is halved until the one to blame is alone."""
    good = await synced.do(*(booked(f"R{number}") for number in range(1, 6)))
    (bad,) = await synced.do(LocalChange("OperationLog", "CREATE", "L1", {"operation": "note", "detail": "too large"}))
    more = await synced.do(booked("R9"))
    outcome = await synced.sync()
    assert await synced.status(bad) == ("failed", 0)
    assert {one[0] for one in [await synced.status(item) for item in (*good, *more)]} == {"synced"}
    assert (outcome.state, outcome.counts.failed) == ("done", 1)
    assert [] in hub.pushes


async def test_no_item_is_blamed_for_what_meets_every_push(synced: EngineRig, hub: FakeSyncHub) -> None:
    """Where even a push without items is refused, something between desk and hub is at fault, and the items wait."""
    items = await synced.do(booked("R1"), booked("R2"))
    hub.problems.extend(HubRefused("http_413", "a proxy", retryable=False) for _ in range(10))
    outcome = await synced.sync()
    assert outcome.state == "failed"
    assert {await synced.status(item) for item in items} == {("queued", 0)}


async def test_a_hub_that_fails_is_tried_again_three_times(synced: EngineRig, hub: FakeSyncHub) -> None:
    """Ever later (R85); then the next interval tries, once, and success begins the count anew."""
    hub.problems.extend(HubRefused("internal", "", retryable=True) for _ in range(5))
    outcome = await synced.sync()
    for seconds in (1.0, 2.0, 4.0):
        assert (outcome.state, outcome.retry_in_s) == ("failed", seconds)
        await until(lambda seconds=seconds: synced.clock.timed(seconds))  # type: ignore[misc]
        synced.clock.advance(seconds)
        outcome = await synced.next()
        assert outcome.trigger == "retry"
    assert (outcome.state, outcome.retry_in_s) == ("failed", None)
    await until(lambda: synced.clock.timed(INTERVAL_S))
    synced.clock.advance(INTERVAL_S)
    outcome = await synced.next()
    assert (outcome.trigger, outcome.state, outcome.retry_in_s) == ("interval", "failed", None)
    assert (await synced.sync()).state == "done"
    notes = await synced.call(lambda database: [note.outcome for note in database.sync_history()])
    assert notes[:2] == ["done", "failed"]


@pytest.mark.parametrize("refused", [False, True])
async def test_a_lost_history_begins_again_and_keeps_the_queue(
    synced: EngineRig, hub: FakeSyncHub, refused: bool
) -> None:
    """When the hub's history does not reach back to the cursor, a snapshot follows; what waits is pushed anyway."""
    hub.answers["reservation:R7"] = ItemResult(outcome="retry", errors=[ItemError(path="conflict", message="waits")])
    (item,) = await synced.do(booked("R7"))
    assert (await synced.sync()).counts.queued == 1
    hub.happen("Reservation", "R8", reservation("R8"))
    hub.lose_history()
    if refused:
        hub.problems = [HubRefused("invalid_cursor", "of another history", retryable=False)]
    outcome = await synced.sync()
    assert (outcome.state, outcome.snapshots) == ("done", 1)
    assert await synced.call(lambda database: database.cursor) == hub.head()
    assert await synced.call(lambda database: database.record("reservation", "reservation:R8")) is not None
    assert await synced.status(item) == ("queued", 0)
    del hub.answers["reservation:R7"]
    assert (await synced.sync()).synced
    assert fronts(hub) == [item.uuid]


async def test_the_hub_is_told_what_the_desk_knew(synced: EngineRig, hub: FakeSyncHub) -> None:
    """A push says how far the desk had pulled when it did what waits, not how far it has pulled since."""
    knew = hub.head()
    hub.waiting = 2
    await synced.do(checked_in("R0"))
    hub.happen("Reservation", "R8", reservation("R8"))
    assert (await synced.sync()).counts.queued == 2
    assert synced.engine.cursor == hub.head() != knew
    synced.desk.clock.pass_by(60)
    assert (await synced.sync()).synced
    await synced.do(booked("R9"))
    now = synced.engine.cursor
    assert (await synced.sync()).synced
    assert [batch.cursor for batch in hub.batches] == [knew, knew, now]


async def test_a_cursor_that_the_hub_does_not_know_does_not_hold_up_a_push(synced: EngineRig, hub: FakeSyncHub) -> None:
    """It is left out then; the pull finds out for itself."""
    said = [FieldError("cursor", "is of another hub")]
    hub.problems = [HubRefused("invalid_cursor", "", retryable=False, errors=said)]
    (item,) = await synced.do(checked_in("R0"))
    assert (await synced.sync()).synced
    assert [batch.cursor for batch in hub.batches] == [None]
    assert fronts(hub) == [item.uuid]


# -- when it syncs ----------------------------------------------------------------------------------------------------


async def test_operations_gather_for_a_moment(synced: EngineRig, hub: FakeSyncHub) -> None:
    """Those that are not urgent go out together, at the latest a moment after the first of them."""
    for number in range(3):
        await synced.do(booked(f"R{number + 1}"))
        synced.engine.request("operation", COALESCE_S)
    await until(lambda: synced.clock.timed(COALESCE_S))
    assert hub.pushes == []
    synced.clock.advance(COALESCE_S)
    assert (await synced.next()).trigger == "operation"
    assert [len(push) for push in hub.pushes] == [6]


async def test_an_urgent_operation_does_not_wait(synced: EngineRig, hub: FakeSyncHub) -> None:
    """It takes those along that had a moment left."""
    await synced.do(booked("R1"))
    synced.engine.request("operation", COALESCE_S)
    await synced.do(checked_in("R0"))
    outcome = await synced.next("operation")
    assert (outcome.pushed, len(hub.pushes)) == (4, 1)


async def test_the_interval_finds_what_others_missed(synced: EngineRig, hub: FakeSyncHub) -> None:
    """Every five minutes after the last sync, without any other reason."""
    hub.happen("Reservation", "R8", reservation("R8"))
    for _ in range(2):
        await until(lambda: synced.clock.timed(INTERVAL_S))
        synced.clock.advance(INTERVAL_S)
        assert (await synced.next()).trigger == "interval"
    assert await synced.call(lambda database: database.record("reservation", "reservation:R8")) is not None


async def test_one_sync_at_a_time_and_one_more_for_all_that_asked_meanwhile(
    synced: EngineRig, hub: FakeSyncHub
) -> None:
    """Whoever asks during a sync gets the outcome of the next one, together."""
    hub.silent = True
    first = asyncio.create_task(synced.engine.sync())
    await until(lambda: hub._hanging)
    others = [asyncio.create_task(synced.engine.sync()) for _ in range(5)]
    synced.engine.request("requested")
    await until(lambda: len(synced.engine._waiters) == 5)
    hub.silent = False
    for one in hub._hanging:
        one.set_result(None)
    await asyncio.gather(first, *others)
    assert len(synced.outcomes) == 3
    assert all(other.result() is synced.outcomes[-1] for other in others)


async def test_others_events_are_pulled_at_once_and_the_desks_own_are_not(synced: EngineRig, hub: FakeSyncHub) -> None:
    """News beyond the cursor makes a pull without a push; the echo of what was pulled already makes none."""
    synced.clock.advance(1.0)
    hub.happen("Reservation", "R8", reservation("R8"))
    before = len(hub.pulls)
    synced.engine.news(hub.head())
    assert (await synced.next()).trigger == "live"
    assert (len(hub.pulls) - before, synced.engine.cursor) == (1, hub.head())
    synced.engine.news(hub.head())
    assert "live" not in synced.engine._wants
    hub.happen("Reservation", "R8", {"total_amount": 1})
    synced.engine.news(hub.head())
    # A busy hub does not make the desk ask for each event.
    await until(lambda: synced.clock.timed(NEWS_GAP_S))
    synced.clock.advance(NEWS_GAP_S)
    await synced.next()
    assert synced.engine.cursor == hub.head()


async def test_news_that_a_sync_has_pulled_meanwhile_is_none(synced: EngineRig, hub: FakeSyncHub) -> None:
    """The echo of a push comes before its pull is done: when its turn comes, there is nothing left to pull."""
    hub.happen("Reservation", "R8", reservation("R8"))
    await synced.sync()
    hub.happen("Reservation", "R9", reservation("R9"))
    synced.engine.news(hub.head())
    assert (await synced.sync()).pulled == 1
    pulls = len(hub.pulls)
    synced.clock.advance(NEWS_GAP_S)
    await until(lambda: "live" not in synced.engine._wants)
    await until(lambda: synced.clock.timed(INTERVAL_S - NEWS_GAP_S))
    assert len(hub.pulls) == pulls


async def test_stopping_sends_what_was_done_just_now(rig: DeskRig, hub: FakeSyncHub) -> None:
    """An operation that was gathering when the engine was stopped goes out before it ends."""
    async with engine_of(rig, hub) as one:
        items = await one.do(booked("R1"))
        one.engine.request("operation", COALESCE_S)
    assert fronts(hub) == uuids(items)
    assert (await one.engine.sync()).state == "stopped"


async def test_a_failing_database_is_told_and_tried_again(synced: EngineRig, hub: FakeSyncHub) -> None:
    """A sync that cannot write ends as a local error with the reason, and comes back by itself (R85)."""
    hub.happen("Reservation", "R8", reservation("R8"))
    full = await synced.call(lambda database: database.apply_changes)
    reason = "no space left"

    def fails(*_: Any) -> Any:
        from consumers.offline.errors import LocalFull

        raise LocalFull("desk.db", reason)

    await synced.call(lambda database: setattr(database, "apply_changes", fails))
    outcome = await synced.sync()
    assert (outcome.state, outcome.retry_in_s) == ("local_error", 1.0)
    assert reason in (outcome.detail or "")
    await synced.call(lambda database: setattr(database, "apply_changes", full))
    await until(lambda: synced.clock.timed(1.0))
    synced.clock.advance(1.0)
    assert (await synced.next()).state == "done"


# -- everything at once -----------------------------------------------------------------------------------------------

FAULTS = ("lose", "down", "damage", "busy", "double", "later", "history", "others", "expired")


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(("book", "check in", *FAULTS)), min_size=1, max_size=12))
def test_whatever_happens_each_operation_has_one_effect(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """After any faults, once the line is good, the hub has each item exactly once and the desk what the hub has."""
    asyncio.run(_live_through(tmp_path_factory.mktemp("desk"), steps))


async def _live_through(directory: Path, steps: list[str]) -> None:
    hub = FakeSyncHub()
    hub.happen("Reservation", "R0", reservation("R0"))
    done: list[str] = []
    async with engine_of(DeskRig(directory / "desk.db"), hub, max_retries=20) as one:
        for number, step in enumerate(steps):
            match step:
                case "book":
                    done += uuids(await one.do(booked(f"B{number}")))
                case "check in":
                    done += uuids(await one.do(checked_in("R0", str(number))))
                case "lose":
                    hub.lose_answers += 1
                case "damage":
                    hub.damage += 2
                case "busy":
                    hub.problems.append(HubRefused("overloaded", "", retryable=True))
                case "later":
                    hub.waiting += 1
                case "history":
                    hub.lose_history()
                case "others":
                    hub.happen("RoomStatus", "301", {"room_id": "301", "status": "clean" if number % 2 else "dirty"})
                case "double":
                    hub.double = True
                case "down" | "expired":
                    hub.down, hub.token_expired = step == "down", step == "expired"
            await one.sync()
            hub.down = hub.token_expired = False
        hub.lose_answers = hub.damage = hub.waiting = 0
        hub.problems.clear()
        one.desk.clock.pass_by(3600)
        assert (await one.sync()).synced
        assert sorted(fronts(hub)) == sorted(done)
        held = await one.call(
            lambda database: {
                (type, entity): found.data for type, entity in hub.states if (found := database.record(type, entity))
            }
        )
        assert held == {key: state["data"] for key, state in hub.states.items()}
        assert await one.call(lambda database: database.counts().unconfirmed) == 0
