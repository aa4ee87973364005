"""The runner: order, batches, pace, and what is said of the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.simulated import SimulatedEvent
from hub.services.simulator import TICK, Report, SimulationError, run
from schemas.errors import Problem

START = datetime(2026, 7, 15, 6, tzinfo=UTC)


def event(number: int, *, system: str = "hotel-pms", tenant: str = "default", seconds: float = 0) -> SimulatedEvent:
    """An event some seconds after six."""
    draft = {"event_id": str(number), "type": "room", "action": "status_changed", "data": {}}
    return SimulatedEvent(system, tenant, START + timedelta(seconds=seconds), draft)


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        """Seconds."""
        return self.time

    async def sleep(self, seconds: float) -> None:
        """Move on at once."""
        self.slept.append(seconds)
        self.time += seconds


class Hub:
    """Takes publications and answers as the hub does: an id seen before is a duplicate."""

    def __init__(self, clock: Clock | None = None, takes: float = 0) -> None:
        self.batches: list[tuple[str, str, list[str]]] = []
        self.at: list[float] = []
        self.seen: set[str] = set()
        self.problems: dict[str, dict[str, Any]] = {}
        self._clock, self._takes = clock, takes

    async def publish(self, system: str, tenant: str, batch: Sequence[dict[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """One publication."""
        if self._clock is not None:
            self.at.append(self._clock.time)
            self._clock.time += self._takes
        ids = [draft["event_id"] for draft in batch]
        self.batches.append((system, tenant, ids))
        outcomes: list[dict[str, Any]] = []
        for one in ids:
            if one in self.problems:
                outcomes.append({"event_id": one, "problem": self.problems[one]})
            else:
                outcomes.append({"event_id": one, "duplicate": one in self.seen})
                self.seen.add(one)
        return outcomes


async def play(
    events: Iterable[SimulatedEvent],
    hub: Hub,
    *,
    speed: float | None = None,
    clock: Clock | None = None,
    progress: Callable[[Report], None] | None = None,
    batch: int = 200,
) -> Report:
    """Run against a hub on a clock of its own."""
    clock = clock or Clock()
    return await run(events, hub.publish, speed=speed, now=clock.now, sleep=clock.sleep, progress=progress, batch=batch)


async def test_consecutive_events_of_a_system_travel_together() -> None:
    """A change of system or a full batch ends a publication, and nothing else."""
    hub = Hub()

    await play([event(n) for n in range(5)] + [event(5, system="hotel-saas")] + [event(6), event(7)], hub, batch=3)

    assert hub.batches == [
        ("hotel-pms", "default", ["0", "1", "2"]),
        ("hotel-pms", "default", ["3", "4"]),
        ("hotel-saas", "default", ["5"]),
        ("hotel-pms", "default", ["6", "7"]),
    ]


@given(
    sources=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["hotel-pms", "hotel-saas"])), max_size=60),
    batch=st.integers(1, 7),
)
async def test_a_tenants_order_is_kept_and_nothing_is_lost(sources: list[tuple[str, str]], batch: int) -> None:
    """However tenants and systems mix, each tenant's events arrive once, in order, as their own system."""
    hub = Hub()
    events = [event(n, tenant=tenant, system=system) for n, (tenant, system) in enumerate(sources)]

    report = await play(events, hub, batch=batch)

    for tenant in "ab":
        sent = [(system, one) for system, whose, ids in hub.batches if whose == tenant for one in ids]
        assert sent == [(one.system, one.draft["event_id"]) for one in events if one.tenant == tenant]
    assert all(0 < len(ids) <= batch for _, _, ids in hub.batches)
    assert report.added == len(events)


async def test_tenants_that_alternate_still_fill_their_batches() -> None:
    """At full speed two tenants' events are published in two publications, not in a hundred."""
    hub = Hub()

    await play([event(n, tenant="ab"[n % 2]) for n in range(100)], hub)

    assert [(tenant, len(ids)) for _, tenant, ids in hub.batches] == [("a", 50), ("b", 50)]


@pytest.mark.parametrize("speed", [None, 0])
async def test_full_speed_never_waits(speed: float | None) -> None:
    """Without a speed, a day is published as fast as it is taken."""
    clock = Clock()

    await play([event(n, seconds=n * 3600) for n in range(10)], Hub(), speed=speed, clock=clock)

    assert clock.slept == []


async def test_a_speed_keeps_the_distances_between_events() -> None:
    """At 60 times real time, ten minutes are ten seconds."""
    clock = Clock()
    hub = Hub(clock)

    report = await play([event(0), event(1, seconds=600), event(2, seconds=1800)], hub, speed=60, clock=clock)

    assert hub.at == pytest.approx([100, 110, 130])
    assert report.seconds == pytest.approx(30)


async def test_what_is_due_is_sent_before_a_wait() -> None:
    """No event of any tenant waits for a later one."""
    clock = Clock()
    hub = Hub(clock)

    await play([event(0, tenant="a"), event(1, tenant="b"), event(2, tenant="a", seconds=5)], hub, speed=1, clock=clock)

    assert hub.at == pytest.approx([100, 100, 105])


async def test_events_within_a_tick_travel_together() -> None:
    """Events closer than can be told apart are one publication."""
    clock = Clock()
    hub = Hub()

    await play([event(n, seconds=n * TICK * 10) for n in range(10)], hub, speed=1000, clock=clock)

    assert len(hub.batches) == 1
    assert clock.slept == []


async def test_a_slow_hub_is_caught_up_with() -> None:
    """Time spent publishing is not waited for again."""
    clock = Clock()
    hub = Hub(clock, takes=7)

    await play([event(n, seconds=10 * n) for n in range(4)], hub, speed=1, clock=clock)

    assert hub.at == pytest.approx([100, 110, 120, 130])
    assert clock.slept == pytest.approx([3, 3, 3])


async def test_a_second_run_adds_nothing() -> None:
    """The same events again are all duplicates."""
    hub, events = Hub(), [event(n) for n in range(7)]

    first, second = await play(events, hub), await play(events, hub)

    assert (first.added, first.duplicates, first.refused) == (7, 0, 0)
    assert (second.added, second.duplicates, second.refused) == (0, 7, 0)


async def test_refusals_are_counted_by_code_and_the_first_shown() -> None:
    """A refused event does not end the run; its code is counted and the first few are told in full."""
    hub = Hub()
    hub.problems = {str(n): Problem("not_authority", f"no {n}").body() for n in range(8)}

    report = await play([event(n) for n in range(10)], hub)

    assert (report.added, report.refused, report.sent) == (2, 8, 10)
    assert report.refusals == Counter({"not_authority": 8})
    assert [one["event_id"] for one in report.examples] == ["0", "1", "2", "3", "4"]
    assert report.to_dict()["refusals"] == {"not_authority": 8}
    assert "room.status_changed 0: not_authority: no 0" in report.lines()
    assert report.lines()[0].endswith("2 added, 0 there already, 8 refused")


async def test_progress_is_told_after_every_publication() -> None:
    """The report grows as the run goes on."""
    sent: list[int] = []

    await play([event(n) for n in range(5)], Hub(), batch=2, progress=lambda report: sent.append(report.sent))

    assert sent == [2, 4, 5]


async def test_a_report_says_when_and_what() -> None:
    """The simulated time that passed and the count of each type are in the report."""
    report = await play([event(0), event(1, seconds=90)], Hub())

    assert report.to_dict() == {
        "sent": 2,
        "added": 2,
        "duplicates": 0,
        "refused": 0,
        "batches": 1,
        "types": {"room.status_changed": 2},
        "refusals": {},
        "examples": [],
        "first": "2026-07-15T06:00:00+00:00",
        "last": "2026-07-15T06:01:30+00:00",
        "seconds": 0.0,
    }


async def test_nothing_to_publish_is_a_report_of_nothing() -> None:
    """An empty simulation publishes nothing and says so."""
    hub = Hub()

    report = await play([], hub)

    assert hub.batches == []
    assert report.lines() == ["0 events in 0.0 s: 0 added, 0 there already, 0 refused"]


async def test_a_failing_publisher_ends_the_run() -> None:
    """What the publisher raises is the caller's to see, and no later event goes out."""
    calls = 0

    async def failing(*_: Any) -> Sequence[Mapping[str, Any]]:
        nonlocal calls
        calls += 1
        raise Problem("log_unavailable")

    clock = Clock()
    with pytest.raises(Problem, match="log_unavailable"):
        await run([event(n) for n in range(9)], failing, speed=None, now=clock.now, sleep=clock.sleep, batch=2)

    assert calls == 1


async def test_an_answer_for_each_event_is_asked_for() -> None:
    """A publisher that answers for fewer events than it was given is not believed."""

    async def forgetful(_: str, __: str, batch: Sequence[dict[str, Any]]) -> Sequence[Mapping[str, Any]]:
        return [{} for _ in batch[1:]]

    clock = Clock()
    with pytest.raises(SimulationError, match="2 events were published, 1 outcomes"):
        await run([event(0), event(1)], forgetful, speed=None, now=clock.now, sleep=clock.sleep)


@pytest.mark.parametrize("wrong", [{"speed": -1}, {"speed": float("nan")}, {"batch": 0}])
async def test_a_speed_or_batch_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """A speed is not negative and a batch is not empty."""
    with pytest.raises(ValueError):
        await play([], Hub(), **wrong)
