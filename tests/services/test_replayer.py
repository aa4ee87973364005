"""Replays to a consumer group: once each, at their pace, whoever runs them and whatever ends them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from feed_rig import KINDS, TENANTS, LogServer, Rig
from replay_desk import GROUP, OPS, T0, Clock, Desk, events

from hub.core.entry import Entry
from hub.log import redrive
from hub.log.dead_letters import DeadLetters
from hub.log.redrive import Handed
from hub.services import replay_watch, replayer
from schemas.cursor import StreamId

pytestmark = pytest.mark.server

ONE, TWO = TENANTS[0], TENANTS[1]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that little is much."""
    monkeypatch.setattr(replay_watch, "POLL_S", 0.02)
    monkeypatch.setattr(replayer, "BATCH", 4)
    monkeypatch.setattr(replayer, "PAGE", 7)


def sequences(entries: Sequence[dict[str, str]], tenant: str = ONE) -> list[int]:
    """Of a tenant's entries, in their order."""
    return [int(entry["sequence"]) for entry in entries if entry["tenant_id"] == tenant]


async def test_what_is_selected_goes_to_the_groups_stream_and_nothing_else(rig: Rig) -> None:
    """In order, with the fields of its first way, where it lies, and which replay it is."""
    await events(rig, ONE, 30)
    await events(rig, ONE, 5, kind=KINDS[2])
    await events(rig, TWO, 9)

    async with Desk(rig) as desk:
        made = await desk.create(tenants=[ONE], patterns=["room.*"])
        done = await desk.ended(made["replay_id"])
        entries = await desk.handed()

    assert sequences(entries) == list(range(1, 31))
    assert len(entries) == 30
    assert (done["events"], done["progress"]["events"], done["progress"]["share"]) == (30, 30, 1.0)
    found = (await rig.log.read(rig.log.partition(ONE), StreamId(0, 0), 1))[0]
    first = entries[0]
    assert (first["event_id"], first["source_id"], first["event_data"]) == (
        found.event_id,
        str(found.id),
        found.raw.decode(),
    )
    assert (first["attempts"], first["replay"]) == ("0", made["replay_id"])


async def test_of_two_hubs_that_run_it_at_once_each_event_comes_once(
    rig: Rig, log_server: LogServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They get into each other's way all the time, and nothing is doubled or left out."""
    monkeypatch.setattr(replayer, "STANDBY_S", 0.001)
    await events(rig, ONE, 200)
    await events(rig, TWO, 100)
    other = await Rig(log_server, rig.prefix).start()
    try:
        async with Desk(rig) as desk, Desk(other):
            made = await desk.create()
            await desk.ended(made["replay_id"])
            entries = await desk.handed()
    finally:
        await other.stop()

    assert sequences(entries) == list(range(1, 201))
    assert sequences(entries, TWO) == list(range(1, 101))


async def test_a_hub_that_is_stopped_anywhere_leaves_it_to_the_next(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after every few events: all come, once."""
    monkeypatch.setattr(redrive, "WAITING", 5)
    await events(rig, ONE, 50)
    made: dict[str, Any] | None = None
    seen: list[int] = []
    for _ in range(20):
        async with Desk(rig) as desk:
            made = made or await desk.create()
            before = len(seen)
            state = (await desk.show(made["replay_id"]))["state"]
            if state == "running":
                await desk.took(lambda entries: len(entries) >= min(5, 50 - before))  # noqa: B023
        seen += sequences(await desk.handed())
        await desk.empty()
        if len(seen) >= 50:
            break

    assert made is not None
    async with Desk(rig) as desk:
        await desk.ended(made["replay_id"])
        assert await desk.handed() == []
    assert seen == list(range(1, 51))


async def test_it_waits_while_much_waits_for_the_group(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than the bound and a batch lie there; when they are handled it goes on."""
    monkeypatch.setattr(redrive, "WAITING", 10)
    await events(rig, ONE, 40)

    async with Desk(rig) as desk:
        made = await desk.create()
        await desk.took(lambda entries: len(entries) >= 10)
        assert len(await desk.handed()) < 10 + replayer.BATCH
        found = await desk.ended(made["replay_id"], "running")
        assert found["progress"]["events"] < 40

        handled = 0
        while handled < 40:
            handled += await desk.empty()
            await asyncio.sleep(0)
        await desk.ended(made["replay_id"])
        assert handled == 40


async def test_ten_times_the_recorded_speed_is_kept_within_two_percent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour with its gaps, by a clock that jumps from one sleep's end to the next."""
    monkeypatch.setattr(replayer, "PAGE", 500)
    gaps = [0, 5, 5, 250, 900, 905, 1800, 1801, 3600]
    for seconds in gaps:
        await events(rig, ONE, 1, start_ms=T0 + seconds * 1000)
    desk = Desk(rig)
    times: dict[int, float] = {}
    whole = desk.redrive.replay

    async def timed(
        partition: int, group: str, id: str, expected: StreamId | None, at: StreamId, entries: Sequence[Entry]
    ) -> Handed:
        handed = await whole(partition, group, id, expected, at, entries)
        for entry in entries:
            times.setdefault(entry.sequence, desk.clock.now)
        return handed

    monkeypatch.setattr(desk.redrive, "replay", timed)
    async with desk:
        made = await desk.create(speed=10)
        assert made["takes_seconds"] == 360
        await desk.ended(made["replay_id"])

    start = times[1]
    for sequence, seconds in enumerate(gaps, 1):
        assert abs(times[sequence] - start - seconds / 10) <= max(0.02 * seconds / 10, 0.02), sequence


async def test_pause_resume_and_cancel_are_heard_from_another_hub(rig: Rig, log_server: LogServer) -> None:
    """Paused, nothing comes however late it gets; resumed, it goes on where it was; cancelled, it ends."""
    clock = Clock()
    await events(rig, ONE, 10)
    other = await Rig(log_server, rig.prefix).start()
    asking = Desk(other, clock)
    try:
        async with Desk(rig, clock) as desk:
            replay_id = (await desk.create(speed="recorded"))["replay_id"]
            await desk.took(lambda entries: len(entries) == 1)
            for count in (2, 3):
                clock.move(1)
                await desk.took(lambda entries, count=count: len(entries) == count)  # type: ignore[misc]

            assert (await asking.jobs.move(OPS, replay_id, "pause"))["state"] == "paused"
            await _until(lambda: _state(desk, replay_id) == "paused")
            clock.move(3600)
            await asyncio.sleep(0.1)
            assert len(await desk.handed()) == 3

            assert (await asking.jobs.move(OPS, replay_id, "resume"))["state"] == "running"
            await _until(lambda: _state(desk, replay_id) == "running")
            clock.move(1)
            await desk.took(lambda entries: len(entries) == 4)
            shown = await desk.show(replay_id)
            assert 5 <= shown["progress"]["eta_seconds"] <= 7

            assert (await asking.jobs.move(OPS, replay_id, "cancel"))["state"] == "cancelled"
            await _until(lambda: _state(desk, replay_id) is None)
            clock.move(3600)
            await asyncio.sleep(0.1)
            assert len(await desk.handed()) == 4
            assert (await desk.show(replay_id))["state"] == "cancelled"
    finally:
        await other.stop()


def _state(desk: Desk, replay_id: str) -> str | None:
    seen = desk.watch.seen(replay_id)
    return None if seen is None else seen.state


async def _until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_log_that_lost_its_place_fails_it_instead_of_doubling(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job says why."""
    # So few at once that the group's stream is full before the replay is over.
    monkeypatch.setattr(replayer, "BATCH", 4)
    monkeypatch.setattr(redrive, "WAITING", 4)
    monkeypatch.setattr(replayer, "TELL_S", 0.01)
    await events(rig, ONE, 20)
    async with Desk(rig) as desk:
        replay_id = (await desk.create())["replay_id"]
        await desk.took(lambda entries: len(entries) >= 4)
        while (await desk.show(replay_id))["progress"]["events"] == 0:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    await rig.log.source.client.delete(rig.log.keys.replay(rig.log.partition(ONE), replay_id))
    await desk.empty()

    async with Desk(rig) as desk:
        failed = await desk.ended(replay_id, "failed")
        assert "lost" in failed["detail"]
        assert await desk.handed() == []


async def test_what_only_the_archive_has_is_replayed_too(rig: Rig) -> None:
    """The seam between archive and stream does not show."""
    await events(rig, ONE, 25)
    await rig.archive()
    await rig.trim()
    await events(rig, ONE, 10)

    async with Desk(rig) as desk:
        await desk.ended((await desk.create(tenants=[ONE]))["replay_id"])
        assert sequences(await desk.handed()) == list(range(1, 36))


async def test_dead_letters_go_back_by_the_same_script_once(rig: Rig) -> None:
    """Two at once and again afterwards move each letter once, and tell where it lies."""
    letters = DeadLetters(rig.log, (GROUP,))
    key = rig.log.keys.dead(0, GROUP)
    ids = []
    for number in range(5):
        fields = {"event_id": f"e{number}", "reason": "x", "attempts": 5, "failed_at": "now", "replay": "r-1"}
        ids.append(f"p00:{(await rig.log.source.client.xadd(key, fields)).decode()}")
    moved = await asyncio.gather(*[letters.redrive(GROUP, ids) for _ in range(3)])

    assert sum(len(one) for one in moved) == 5
    assert await letters.redrive(GROUP, ids) == {}
    found = await Desk(rig).handed()
    assert [entry["event_id"] for entry in found] == [f"e{n}" for n in range(5)]
    assert {(entry["attempts"], entry["replay"]) for entry in found} == {("0", "r-1")}
    assert not any("reason" in entry for entry in found)
