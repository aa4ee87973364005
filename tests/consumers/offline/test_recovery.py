"""The five steps of a recovery: their failures, their timeouts, and being cut off anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hand_clock import until
from recovery_stage import Cut, HubInMemory, Stage

from consumers.errors import AccessRefused, Disconnected, HubRefused
from consumers.offline.errors import LocalFull, LocalUnusable
from consumers.offline.recovery import STEPS, Progress
from schemas.sync import ItemError, ItemResult

NAMES = [step.name for step in STEPS]
METHODS = ("probe", "authenticate", "schemas", "sync", "digest")
EXPIRED = AccessRefused(401, "token_expired")


def hub() -> HubInMemory:
    """A hub with a few rooms."""
    found = HubInMemory()
    for number in ("101", "102", "103"):
        found.publish(number, "vacant_clean")
    return found


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A desk that was offline and has done something."""
    desk = worked(tmp_path / "desk.db")
    yield desk
    desk.database.close()


def worked(path: Path) -> Stage:
    """A desk with four items in its queue, beside what the hub has meanwhile."""
    desk = Stage(path, hub())
    for number in ("201", "202", "203"):
        desk.work(number)
    return desk


def held(desk: Stage) -> dict[str, str]:
    """What the desk shows."""
    return {record.entity: record.data["status"] for record in desk.database.records("room")}


async def test_the_five_steps_in_order(stage: Stage) -> None:
    """Each step is told of once; all is pushed, pulled and compared; nothing was waited for; a close watch begins."""
    outcome = await stage.run()
    assert outcome.state == "recovered"
    assert [told.step for told in stage.told] == [*NAMES, NAMES[-1]]
    assert outcome.elapsed_s == 0.0
    assert stage.clock.slept == []
    assert stage.database.counts().waiting == 0
    assert set(held(stage)) == {f"room:{number}" for number in (101, 102, 103, 201, 202, 203)}
    assert stage.memory.reports[-1].equal
    assert await stage.heightened.left_s() == 600
    assert await stage.manager.unfinished() is None


def test_the_steps_are_those_of_the_requirement() -> None:
    """R82: timeout and retries of each."""
    assert [(step.timeout_s, step.retries) for step in STEPS] == [(30, 3), (15, 2), (60, 1), (300, 5), (120, 1)]


async def test_cut_off_anywhere_it_goes_on(tmp_path: Path) -> None:
    """Whichever await the power goes off at, before or after it: a new process ends as if nothing had happened."""
    whole = worked(tmp_path / "whole.db")
    whole.cutter.arm(None, after=False)
    await whole.run()
    awaits = whole.cutter.count
    assert awaits > 25
    wanted = held(whole), whole.database.counts()
    whole.database.close()
    # Cut off before one is cut off after the one before it.
    for at, after in [*((at, False) for at in range(1, awaits + 1)), (awaits, True)]:
        desk = worked(tmp_path / f"cut-{at}-{after}.db")
        desk.cutter.arm(at, after=after)
        with pytest.raises(Cut):
            await desk.run()
        step = Progress.decode(desk.database.vault("recovery"))
        desk.restart()
        before = len(desk.calls)
        assert (await desk.run()).state == "recovered"
        assert (held(desk), desk.database.counts()) == wanted, (at, after)
        assert desk.database.digest().root == desk.memory.digest(()).root
        uuids = [change.uuid for change in desk.memory.changes]
        assert len(uuids) == len(set(uuids)) == len(whole.memory.changes)
        if step is not None and step.resumable and step.at > 0:
            assert "probe" not in desk.calls[before:], "a step that was done is not done again"
        desk.database.close()


async def test_cut_off_again_and_again(stage: Stage) -> None:
    """A desk whose power goes off every few moments still arrives: being cut off is no failed attempt."""
    cuts = 0
    while True:
        stage.cutter.arm(14, after=True)
        try:
            outcome = await stage.run()
            break
        except Cut:
            cuts += 1
            stage.restart()
            assert cuts < 50
    assert outcome.state == "recovered"
    assert cuts >= 3


@pytest.mark.parametrize(("at", "method"), [*enumerate(METHODS)])
async def test_a_hub_that_fails_is_asked_as_often_as_the_step_says(stage: Stage, at: int, method: str) -> None:
    """5xx: the step's retries, with growing pauses, and no more; then offline (step 1) or failed."""
    busy = HubRefused("store_unavailable", "", retryable=True)
    retries = STEPS[at].retries
    stage.failing[method] = [busy] * retries
    assert (await stage.run()).state == "recovered"
    assert len(stage.clock.slept) == retries
    assert stage.clock.slept == sorted(stage.clock.slept)
    stage.failing[method] = [busy] * (retries + 1)
    outcome = await stage.run()
    assert (outcome.state, outcome.step) == ("offline" if at == 0 else "failed", NAMES[at])
    assert stage.failing[method] == []
    assert await stage.manager.unfinished() is None


@pytest.mark.parametrize("at", range(5))
async def test_a_step_ends_at_its_timeout(stage: Stage, at: int) -> None:
    """Where the hub never answers, the attempt is over after the step's seconds, and another one succeeds."""
    method = METHODS[at]
    answered = getattr(stage, method)
    hung = 0

    async def hangs(*args: object) -> object:
        nonlocal hung
        hung += 1
        if hung == 1:
            await asyncio.get_running_loop().create_future()
        return await answered(*args)

    setattr(stage, method, hangs)
    running = asyncio.create_task(stage.run())
    await until(lambda: hung == 1)
    assert stage.clock.timed(STEPS[at].timeout_s)
    stage.clock.advance(STEPS[at].timeout_s)
    outcome = await running
    assert outcome.state == "recovered"
    assert next(told.detail for told in stage.told if told.detail) == f"no answer within {STEPS[at].timeout_s:g} s"


async def test_a_long_backlog_is_no_failure(stage: Stage) -> None:
    """A sync that is cut by its timeout again and again, but moves on each time, goes on past its retries."""
    for number in range(300, 320):
        stage.work(str(number))
    answered = stage.sync
    rounds = 0

    async def slow() -> None:
        nonlocal rounds
        rounds += 1
        if await stage.call(lambda database: database.cursor) is None:
            await answered()
            stage.database.release()
        if rounds < 12:
            stage.memory.publish("101", "cleaning" if rounds % 2 else "inspected")
            await stage.call(lambda database: database.apply_changes(stage.memory.changes[-1:], stage.memory.cursor))
            stage.clock.advance(300)
            await asyncio.get_running_loop().create_future()
        await answered()

    stage.sync = slow  # type: ignore[method-assign]
    outcome = await stage.run()
    assert (outcome.state, rounds) == ("recovered", 12)


async def test_a_token_that_expired_takes_a_pin(stage: Stage) -> None:
    """Without the PIN the recovery rests, as often as it is tried; with it, it goes on by itself from there (R85)."""
    stage.can_renew = False
    stage.failing["authenticate"] = [EXPIRED] * 4
    for _ in range(4):
        outcome = await stage.run()
        assert (outcome.state, outcome.step, outcome.kind) == ("pin_needed", "auth_validation", "token_expired")
        stage.restart()
    stage.can_renew = True
    # Having waited for a PIN is no failed attempt: all retries are left.
    stage.failing["authenticate"] = [Disconnected("timed out", sent=True)] * 2 + [EXPIRED]
    stage.calls.clear()
    outcome = await stage.run()
    assert outcome.state == "recovered"
    assert stage.calls[:6] == [*["authenticate"] * 3, "renew", "authenticate", "schemas"]
    assert outcome.notes["auth_validation"] == "signed in again"
    assert stage.database.counts().waiting == 0


async def test_a_token_that_expires_during_the_sync(stage: Stage) -> None:
    """The recovery goes back to signing in, and then syncs what is left."""
    stage.failing["push"] = [EXPIRED]
    stage.failing["authenticate"] = [EXPIRED]
    stage.calls.clear()
    # The first authentication finds it valid still.
    stage.failing["authenticate"] = []
    outcome = await stage.run()
    assert outcome.state == "recovered"
    assert stage.calls.count("authenticate") == 2
    assert stage.calls.count("probe") == 1


async def test_a_fresh_token_that_is_refused_too_is_for_a_person(stage: Stage) -> None:
    """No loop of signing in and being refused."""
    stage.failing["authenticate"] = [EXPIRED] * 2
    outcome = await stage.run()
    assert (outcome.state, outcome.kind) == ("failed", "forbidden")
    stage.failing["push"] = [EXPIRED] * 20
    outcome = await stage.run()
    assert (outcome.state, outcome.step) == ("failed", "data_differential_sync")
    assert stage.calls.count("push") == STEPS[3].retries + 1


async def test_a_line_that_breaks_during_the_sync(stage: Stage) -> None:
    """The line is looked at again: where it holds, the sync goes on; where it does not, the desk is offline."""
    stage.failing["push"] = [Disconnected("no answer")]
    outcome = await stage.run()
    assert outcome.state == "recovered"
    assert stage.calls.count("probe") == 2
    stage.work("301")
    stage.failing["push"] = [Disconnected("no answer")]
    probes = stage.calls.count("probe")

    async def line_down() -> None:
        stage.calls.append("probe")
        if stage.calls.count("probe") > probes + 1:
            raise Disconnected("no answer")

    stage.probe = line_down  # type: ignore[method-assign]
    outcome = await stage.run()
    assert (outcome.state, outcome.kind) == ("offline", "link_down")
    assert stage.calls.count("probe") == probes + 1 + 4
    assert stage.database.counts().waiting > 0, "and nothing was lost"


async def test_an_outage_begins_anew(stage: Stage) -> None:
    """After going offline again the next recovery looks at everything from the first step."""
    stage.failing["probe"] = [Disconnected("no answer")] * 4
    assert (await stage.run()).state == "offline"
    stage.calls.clear()
    assert (await stage.run()).state == "recovered"
    assert stage.calls[:3] == ["probe", "authenticate", "schemas"]


async def test_items_that_wait_for_a_person_do_not_hold_it_up(stage: Stage) -> None:
    """A conflict and what waits behind it: the recovery is done, says so, and compares all the same."""
    first = stage.work("401")
    behind = stage.work("401", "inspected")
    stage.memory.outcomes[first] = ItemResult(uuid=first, outcome="conflict", conflict_id="c1")
    stage.memory.outcomes[behind] = ItemResult(
        uuid=behind, outcome="retry", errors=[ItemError(path="conflict", message="waits")]
    )
    outcome = await stage.run()
    assert outcome.state == "recovered"
    assert "1 conflicts wait for a person" in outcome.notes["data_differential_sync"]
    assert stage.memory.reports[-1].equal


async def test_what_cannot_be_sent_is_not_called_synced(stage: Stage) -> None:
    """Items that the hub does not take for now: the step fails, and the outcome with it."""
    uuid = stage.work("401")
    stage.memory.outcomes[uuid] = ItemResult(uuid=uuid, outcome="retry")
    stage.database.settle = lambda results, **_: None  # type: ignore[method-assign, assignment]
    stage.cutter.arm(None, after=False)
    stage.database.batch = lambda limit, **_: []  # type: ignore[method-assign]
    outcome = await stage.run()
    assert (outcome.state, outcome.step, outcome.kind) == ("failed", "data_differential_sync", "unsettled")


async def test_a_hub_that_is_older_is_not_sent_what_it_cannot_read(stage: Stage) -> None:
    """It would refuse the items; the way out is named."""

    async def older() -> dict[str, int]:
        return {"room": 0, "reservation": 99}

    stage.schemas = older  # type: ignore[method-assign]
    outcome = await stage.run()
    assert (outcome.state, outcome.step) == ("failed", "schema_sync")
    assert outcome.detail is not None
    assert "room v1" in outcome.detail
    assert stage.memory.pushed == []


@pytest.mark.parametrize(
    ("error", "state"),
    [(LocalUnusable("desk.db", "disk I/O error"), "rebuild_proposed"), (LocalFull("desk.db", "full"), "make_room")],
)
async def test_a_local_database_that_does_not_write(stage: Stage, error: Exception, state: str) -> None:
    """It is tried again, then a rebuild is proposed; a full disk needs room, and no rebuild."""
    stage.failing["push"] = [error] * 9
    outcome = await stage.run()
    assert (outcome.state, outcome.step) == (state, "data_differential_sync")
    assert stage.calls.count("push") == (1 if state == "make_room" else STEPS[3].retries + 1)
    assert "rebuild" not in stage.calls


async def test_a_comparison_that_was_not_possible_is_not_called_recovered(stage: Stage) -> None:
    """The hub's state moves on with every look: synced, but unverified; and it is watched closely all the same."""
    digest = stage.digest

    async def moving(buckets: object = ()) -> object:
        stage.memory.publish("101", "cleaning")
        return await digest()

    stage.digest = moving  # type: ignore[method-assign, assignment]
    outcome = await stage.run()
    assert outcome.state == "unverified"
    assert outcome.detail is not None
    assert "not compared" in outcome.detail
    assert outcome.elapsed_s < 30
    assert await stage.heightened.left_s() > 590


async def test_heightened_monitoring_ends_by_itself(stage: Stage) -> None:
    """Ten minutes of probes each second and a comparison each minute, then as before (R84)."""
    await stage.run()
    began = stage.clock.now
    stage.compared.clear()
    await stage.heightened.run()
    assert stage.intervals == [1.0, None]
    assert [one.state for one in stage.compared] == ["equal"] * 10
    assert stage.clock.now - began == 600
    stage.clock.advance(-60)
    await stage.heightened.run()
    assert stage.intervals == [1.0, None]


async def test_heightened_monitoring_survives_a_restart_and_failures(stage: Stage) -> None:
    """A new process goes on with what is left of it; a comparison that fails is no end; cancelled, all is as usual."""
    await stage.run()
    stage.failing["digest"] = [Disconnected("no answer")]
    sleep, hung = stage.clock.sleep, asyncio.Event()

    async def three_times(seconds: float) -> None:
        if len(stage.clock.slept) == 3:
            hung.set()
            await asyncio.get_running_loop().create_future()
        await sleep(seconds)

    stage.clock.sleep = three_times  # type: ignore[method-assign]
    watch = asyncio.create_task(stage.heightened.run())
    await hung.wait()
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    assert [one.state for one in stage.compared] == ["equal"] * 2
    assert stage.intervals == [1.0, None]
    stage.restart()
    assert await stage.heightened.left_s() == 600 - 180
    stage.clock.advance(-3600)
    assert await stage.heightened.left_s() == 600, "a clock that was set back does not prolong it"


async def test_two_recoveries_do_not_overlap(stage: Stage) -> None:
    """Asked twice at once, the second begins when the first is done."""
    first, second = await asyncio.gather(stage.run("one"), stage.run("two"))
    assert first.state == second.state == "recovered"
    assert [told.step for told in stage.told] == [*NAMES, NAMES[-1]] * 2


async def test_unreadable_progress_is_a_new_recovery(stage: Stage) -> None:
    """Whatever stands in the vault, the desk recovers."""
    for kept in (b"", b"\xff", b"[]", b'{"at": 9}', b'{"cause":"x","started_at":"never"}'):
        stage.database.put_vault("recovery", kept)
        assert (await stage.run()).state == "recovered"
