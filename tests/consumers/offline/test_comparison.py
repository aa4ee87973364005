"""The daily comparison with the hub: what differs is found in two questions, repaired and reported (R80)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hand_clock import until
from hypothesis import given, settings
from hypothesis import strategies as st
from recovery_stage import HubInMemory, Stage, cursor, room

from consumers.errors import Disconnected
from consumers.offline import comparison as module
from schemas.sync import DigestResponse, ItemError, ItemResult, SnapshotResponse, SyncRecord, bucket_of


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """A desk that holds what its hub holds: forty rooms."""
    desk = asyncio.run(synced(tmp_path / "desk.db"))
    yield desk
    desk.database.close()


async def synced(path: Path) -> Stage:
    """A desk after its first sync."""
    hub = HubInMemory()
    for number in range(100, 140):
        hub.publish(str(number), "vacant_clean")
    desk = Stage(path, hub)
    await desk.sync()
    desk.calls.clear()
    return desk


def key(number: str) -> tuple[str, str]:
    """The record of a room."""
    return "room", f"room:{number}"


def spoil(desk: Stage, number: str, status: str = "out_of_order", revision: int = 1) -> None:
    """Put something else in the place of the desk's confirmed record."""
    record = SyncRecord(
        type="room",
        entity=f"room:{number}",
        revision=revision,
        sequence=1,
        version={"hotel-pms": revision},
        data=room(number, status),
        schema_version=1,
    )
    desk.database.repair([record])


def alike(desk: Stage) -> bool:
    """Whether desk and hub hold the same."""
    return desk.database.digest().root == desk.memory.digest(()).root


async def test_equal_states_take_one_question(stage: Stage) -> None:
    """Nothing differs: the roots are compared, and it is reported."""
    compared = await stage.comparison.compare()
    assert (compared.state, compared.count) == ("equal", 40)
    assert stage.calls == ["digest", "report"]
    report = stage.memory.reports[0]
    assert (report.equal, report.count, report.device_id, report.cursor) == (True, 40, "desk-1", stage.memory.cursor)
    assert (report.root, report.tenant_id) == (stage.memory.digest(()).root, "default")


async def test_differences_are_found_repaired_and_reported(stage: Stage) -> None:
    """Changed, missing and extra records: two questions, one fetch a record, and a look whether it helped."""
    spoil(stage, "101")
    spoil(stage, "102", revision=9)
    stage.database.repair([], [key("103")])
    spoil(stage, "999")
    compared = await stage.comparison.compare()
    differing = {key("101"), key("102"), key("103"), key("999")}
    assert (compared.state, compared.repaired, {*compared.differing}) == ("repaired", 4, differing)
    assert stage.calls == ["digest", "digest", *["entity"] * 4, "report", "digest", "report"]
    first, second = stage.memory.reports
    assert (first.equal, first.repaired, first.differing) == (
        False,
        4,
        [f"room room:{n}" for n in (101, 102, 103, 999)],
    )
    assert (second.equal, second.differing) == (True, [])
    assert alike(stage)
    assert stage.database.record(*key("999")) is None


@settings(max_examples=15, deadline=None)
@given(
    changed=st.sets(st.integers(100, 139), max_size=8),
    lost=st.sets(st.integers(100, 139), max_size=8),
    extra=st.sets(st.integers(900, 910), max_size=4),
)
def test_whatever_differs_is_repaired(changed: set[int], lost: set[int], extra: set[int]) -> None:
    """Any mixture of damage: afterwards both hold the same, and just what differed is named."""

    async def run(path: Path) -> None:
        desk = await synced(path)
        for number in changed | extra:
            spoil(desk, str(number))
        desk.database.repair([], [key(str(number)) for number in lost])
        compared = await desk.comparison.compare()
        assert {*compared.differing} == {key(str(number)) for number in changed | lost | extra}
        assert compared.state == ("repaired" if compared.differing else "equal")
        assert alike(desk)
        desk.database.close()

    with TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory) / "desk.db"))


async def test_a_record_with_changes_of_the_desk_is_left_alone(stage: Stage) -> None:
    """It is held in conflict, and its confirmed state differs: named as kept, the other one is repaired."""
    uuid = stage.work("101", "occupied")
    stage.memory.outcomes[uuid] = ItemResult(uuid=uuid, outcome="conflict", conflict_id="c1")
    await stage.sync()
    spoil(stage, "101")
    spoil(stage, "102")
    before = stage.database.record(*key("101"))
    compared = await stage.comparison.compare()
    assert (compared.state, compared.repaired, compared.kept) == ("differs", 1, (key("101"),))
    assert stage.database.record(*key("101")) == before
    assert before is not None
    assert before.data["status"] == "occupied"
    assert not stage.memory.reports[-1].equal


async def test_nothing_is_compared_while_something_waits_to_be_sent(stage: Stage) -> None:
    """A first try sends it, and then they are compared; where it cannot be sent, the comparison is put off."""
    stage.work("101")
    assert (await stage.comparison.compare()).state == "equal"
    stage.work("102")

    async def stuck() -> None:
        return None

    stuck_comparison = module.Comparison(stage, stage, stuck, clock=stage.clock, now=stage.now)
    reports = len(stage.memory.reports)
    compared = await stuck_comparison.compare()
    assert (compared.state, compared.reason) == ("postponed", "2 items wait to be sent")
    assert len(stage.memory.reports) == reports


async def test_what_waits_behind_a_person_does_not_put_it_off(stage: Stage) -> None:
    """A conflict may stand for days: its lane is not waited for, others are."""
    held, told = stage.work("101"), stage.work("101", "inspected")
    stage.memory.outcomes[held] = ItemResult(uuid=held, outcome="conflict", conflict_id="c1")
    stage.memory.outcomes[told] = ItemResult(
        uuid=told, outcome="retry", errors=[ItemError(path="conflict", message="an earlier item waits for a person")]
    )
    await stage.sync()
    unsent = stage.work("101", "vacant_dirty")
    stage.database.settle(
        [ItemResult(uuid=item, outcome="applied") for item in waiting(stage) - {told, unsent}], now=stage.now()
    )
    assert waiting(stage) == {told, unsent}
    assert (await stage.comparison.compare()).state == "equal"
    stage.work("102")
    assert stage.database.counts().waiting > 2
    assert await stage.call(module.sendable) == 2, "the operation and its log"


def waiting(desk: Stage) -> set[str]:
    """The uuids of what the hub has yet to say something about."""
    return {item.uuid for item in desk.database.pending() if item.status == "queued"}


async def test_the_desk_catches_up_before_it_compares(stage: Stage) -> None:
    """Events it has not pulled are no difference."""
    stage.memory.publish("101", "occupied")
    compared = await stage.comparison.compare()
    assert compared.state == "equal"
    assert stage.calls == ["digest", "sync", "digest", "report"]


async def test_a_hub_that_moves_on_between_the_questions(stage: Stage) -> None:
    """The states of one cursor are not held against those of another: a neighbour's new event is no difference."""
    buckets = [bucket_of(*key(str(number))) for number in range(100, 140)]
    one = next(place for place, number in enumerate(buckets) if buckets.count(number) > 1)
    other = buckets.index(buckets[one], one + 1)
    spoil(stage, str(100 + one))
    digest = stage.digest
    moved = False

    async def moving(buckets: Sequence[int] = ()) -> DigestResponse:
        nonlocal moved
        if buckets and not moved:
            moved = True
            stage.memory.publish(str(100 + other), "occupied")
        return await digest(buckets)

    stage.digest = moving  # type: ignore[method-assign]
    compared = await stage.comparison.compare()
    assert (compared.state, compared.differing) == ("repaired", (key(str(100 + one)),))


async def test_a_hub_that_never_stands_still_is_not_waited_for(stage: Stage) -> None:
    """After a few tries it is put off, in seconds, and not called equal."""
    digest = stage.digest

    async def moving(buckets: Sequence[int] = ()) -> DigestResponse:
        stage.memory.publish("102", "occupied")
        return await digest(buckets)

    stage.digest = moving  # type: ignore[method-assign]
    compared = await stage.comparison.compare()
    assert compared.state == "postponed"
    assert sum(stage.clock.slept) < 5
    assert stage.memory.reports == []


async def test_a_record_that_changed_since_is_not_overwritten(stage: Stage) -> None:
    """Between comparing and repairing a newer event was pulled: the older answer is not put over it."""
    spoil(stage, "101")
    asked = stage.entity

    async def meanwhile(entity: str) -> SnapshotResponse:
        answer = await asked(entity)
        if answer.records[0].revision == 1:
            stage.memory.publish("101", "occupied")
            await stage.sync()
        return answer

    stage.entity = meanwhile  # type: ignore[method-assign]
    compared = await stage.comparison.compare()
    assert (compared.state, compared.repaired, compared.kept) == ("repaired", 0, ())
    record = stage.database.record(*key("101"))
    assert record is not None
    assert (record.data["status"], record.revision) == ("occupied", 2)
    assert alike(stage)


async def test_an_answer_of_before_the_comparison_is_no_repair(stage: Stage) -> None:
    """A hub that is behind another one says an older state: nothing is repaired from it."""
    stage.memory.publish("101", "occupied")
    await stage.sync()
    stage.database.repair([], [key("101")])

    async def behind(entity: str) -> SnapshotResponse:
        return SnapshotResponse(records=[], cursor=cursor(1), more=False)

    stage.entity = behind  # type: ignore[method-assign]
    compared = await stage.comparison.compare()
    assert (compared.state, compared.repaired) == ("differs", 0)


async def test_a_record_of_a_newer_release_waits_for_it(stage: Stage) -> None:
    """A state that this release cannot read is not written in the place of one that it can (R45)."""
    stage.memory.publish("101", "occupied")
    await stage.sync()
    spoil(stage, "101")
    asked = stage.entity

    async def newer(entity: str) -> SnapshotResponse:
        answer = await asked(entity)
        records = [record.model_copy(update={"schema_version": 99}) for record in answer.records]
        return answer.model_copy(update={"records": records})

    stage.entity = newer  # type: ignore[method-assign]
    compared = await stage.comparison.compare()
    assert (compared.state, compared.kept) == ("differs", (key("101"),))


async def test_digests_that_do_not_add_up_are_not_called_equal(stage: Stage) -> None:
    """Another root over the same buckets, or another bucket over the same states: unknown."""
    digest = stage.digest
    for change in ({"root": "0" * 64}, {"root": "0" * 64, "buckets": {"00": "1" * 64}}):

        async def wrong(buckets: Sequence[int] = (), change: dict[str, Any] = change) -> DigestResponse:
            answer = await digest(buckets)
            known = answer.buckets
            update = change | ({"buckets": known | change["buckets"]} if "buckets" in change else {})
            return answer.model_copy(update=update | {"states": answer.states or []})

        stage.digest = wrong  # type: ignore[method-assign]
        # Without the states of the differing buckets nothing shows what differs.
        if "buckets" in change:
            assert not [number for number in range(100, 140) if bucket_of(*key(str(number))) == 0]
        assert (await stage.comparison.compare()).state == "postponed"


async def test_many_differences_are_repaired_a_part_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pass has its bounds; the next one finds what is left."""
    monkeypatch.setattr(module, "MAX_REPAIRS", 5)
    monkeypatch.setattr(module, "MAX_BUCKETS", 8)
    for number in range(100, 112):
        spoil(stage, str(number))
    compared = await stage.comparison.compare()
    assert (compared.state, compared.repaired) == ("repaired", 12)
    assert max(report.repaired for report in stage.memory.reports) == 5
    for number in range(100, 130):
        spoil(stage, str(number))
    compared = await stage.comparison.compare()
    assert compared.state == "differs"
    assert (await stage.comparison.compare()).state == "repaired"


async def test_once_a_day(stage: Stage) -> None:
    """Due at first, and a day after the last one; a clock that was set back delays nothing."""
    assert await stage.comparison.due()
    await stage.comparison.compare()
    assert not await stage.comparison.due()
    stage.restart()
    stage.clock.advance(24 * 3600 - 1)
    assert not await stage.comparison.due()
    stage.clock.advance(1)
    assert await stage.comparison.due()
    await stage.comparison.compare()
    stage.clock.advance(-60)
    assert await stage.comparison.due()
    stage.clock.advance(60)
    assert not await stage.comparison.due()
    stage.database.put_vault("comparison", b"rubbish")
    assert await stage.comparison.due()


async def test_an_hour_after_what_still_differed(stage: Stage) -> None:
    """What could not be repaired is looked at again sooner; a comparison that failed or was put off is due at once."""
    spoil(stage, "101")
    stage.failing["entity"] = [Disconnected("no answer")]
    with pytest.raises(Disconnected):
        await stage.comparison.compare()
    assert await stage.comparison.due()

    async def behind(entity: str) -> SnapshotResponse:
        return SnapshotResponse(records=[], cursor=cursor(1), more=False)

    stage.entity = behind  # type: ignore[method-assign]
    assert (await stage.comparison.compare()).state == "differs"
    assert not await stage.comparison.due()
    stage.clock.advance(3600)
    assert await stage.comparison.due()


async def test_the_daily_run(stage: Stage) -> None:
    """It compares when it is due, tries again soon after a failure, and tells of each result."""
    told: list[tuple[str, float]] = []
    stage.failing["digest"] = [Disconnected("no answer")]
    began = stage.clock.now

    def hear(compared: module.Compared) -> None:
        told.append((compared.state, stage.clock.now - began))

    daily = asyncio.create_task(stage.comparison.daily(hear))
    await until(lambda: len(told) >= 3)
    daily.cancel()
    await asyncio.gather(daily, return_exceptions=True)
    assert told[:3] == [("equal", 600), ("equal", 600 + 86400), ("equal", 600 + 2 * 86400)]
