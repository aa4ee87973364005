"""Whether the hub is reached: the state machine, and the prober on a clock moved by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hand_clock import HandClock, until
from hypothesis import given
from hypothesis import strategies as st

from consumers.offline.connectivity import (
    AGAIN_S,
    CONFIRM_S,
    INTERVAL_S,
    PROBE_S,
    UNHEARD_S,
    Connectivity,
    Line,
    after_failure,
    after_probe,
    pause,
)
from consumers.offline.live import PONG_S, PULSE_S

ONLINE = Line(True, 3)
OFFLINE = Line(False, 0, 4)


@given(st.lists(st.tuples(st.sampled_from(["good", "bad", "failure"]), st.booleans())))
def test_the_line_comes_back_by_two_good_probes_and_goes_by_bad_ones_only(steps: list[tuple[str, bool]]) -> None:
    """However probes and failures follow each other, only those reasons change what the line counts as."""
    line, good, bad, suspected = Line(), 0, 0, False
    for step, heard in steps:
        before = line
        if step == "failure":
            line, suspected = after_failure(line), True
            assert line.online == before.online
            continue
        reached = step == "good"
        line = after_probe(line, reached, heard=heard)
        good, bad = (good + 1, 0) if reached else (0, bad + 1)
        if before.online is None:
            assert line.online is reached
        elif reached:
            assert line.online is (before.online or good >= 2)
            suspected = False
        else:
            assert line.online is (before.online and bad < 2 and heard and not suspected)
        suspected = suspected and not reached


def test_a_silent_break_is_noticed_within_three_seconds() -> None:
    """With a WebSocket: pulse, its answer's time and a probe; without: the shorter interval and a probe (R101)."""
    assert after_probe(after_failure(ONLINE), False, heard=True).online is False
    assert PULSE_S + PONG_S + PROBE_S < 3.0
    assert after_probe(ONLINE, False, heard=False).online is False
    assert pause(ONLINE, heard=False) + PROBE_S < 3.0


@pytest.mark.parametrize(
    ("line", "heard", "seconds"),
    [
        (ONLINE, True, INTERVAL_S),
        (ONLINE, False, UNHEARD_S),
        (Line(True, 0, 1), True, CONFIRM_S),
        (OFFLINE, False, INTERVAL_S),
        (Line(False, 1), False, AGAIN_S),
    ],
)
def test_the_pause_between_probes(line: Line, heard: bool, seconds: float) -> None:
    """Five seconds when nothing is the matter; sooner where a second look decides, or nothing else would tell."""
    assert pause(line, heard=heard) == seconds


class Probed:
    """A line, as far as probes see it."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.good = True
        self.hangs = False
        self.probes = 0
        self.changes: list[bool] = []
        self.line = Connectivity(self.probe, clock=self.clock, on_change=self.changes.append)
        self.line.heard = True

    async def probe(self) -> bool:
        self.probes += 1
        if self.hangs:
            await asyncio.Event().wait()
        return self.good


@pytest.fixture
async def probed() -> AsyncIterator[Probed]:
    """Online, the first probe over."""
    one = Probed()
    task = asyncio.create_task(one.line.run())
    await until(lambda: one.clock.timed(INTERVAL_S))
    assert one.changes == [True]
    yield one
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_suspicion_probes_at_once_and_one_bad_probe_is_enough(probed: Probed) -> None:
    """After a failed request the desk is offline as soon as one probe has run out of time."""
    probed.hangs = True
    probed.line.suspect()
    await until(lambda: probed.clock.timed(PROBE_S))
    assert probed.changes == [True]
    probed.clock.advance(PROBE_S)
    await until(lambda: probed.changes == [True, False])
    assert probed.probes == 2


async def test_a_suspicion_that_a_probe_does_not_confirm_changes_nothing(probed: Probed) -> None:
    """A slow request over a line that holds does not make the desk go offline, nor count against it later."""
    probed.line.suspect()
    await until(lambda: probed.probes == 2 and probed.clock.timed(INTERVAL_S))
    assert probed.line.line.suspected is False
    probed.good = False
    probed.clock.advance(INTERVAL_S)
    await until(lambda: probed.clock.timed(CONFIRM_S))
    assert probed.changes == [True]
    probed.clock.advance(CONFIRM_S)
    await until(lambda: probed.changes == [True, False])


async def test_a_line_that_comes_and_goes_stays_offline(probed: Probed) -> None:
    """One good probe between bad ones does not bring the desk back; two in a row do, and tell since when."""
    probed.good = False
    probed.line.suspect()
    await until(lambda: probed.changes == [True, False] and probed.clock.timed(INTERVAL_S))
    probed.good = True
    probed.clock.advance(INTERVAL_S)
    await until(lambda: probed.clock.timed(AGAIN_S))
    probed.good = False
    probed.clock.advance(AGAIN_S)
    await until(lambda: probed.clock.timed(INTERVAL_S))
    probed.good = True
    probed.clock.advance(INTERVAL_S)
    await until(lambda: probed.clock.timed(AGAIN_S))
    back_at = probed.clock.now
    assert probed.changes == [True, False]
    probed.clock.advance(AGAIN_S)
    await until(lambda: probed.changes == [True, False, True])
    assert probed.line.back_at == back_at
    await probed.line.until_online()


async def test_a_look_by_hand_takes_two_probes_at_once(probed: Probed) -> None:
    """Who presses the button does not wait for the hysteresis."""
    probed.good = False
    probed.line.suspect()
    await until(lambda: probed.changes == [True, False] and probed.clock.timed(INTERVAL_S))
    assert await probed.line.check() is False
    probed.good = True
    assert await probed.line.check() is True
    assert probed.changes == [True, False, True]


async def test_heightened_monitoring_probes_more_often(probed: Probed) -> None:
    """Another interval counts at once, and is taken back with None."""
    probed.line.set_interval(1.0)
    await until(lambda: probed.clock.timed(1.0))
    probed.line.set_interval(None)
    await until(lambda: probed.clock.timed(INTERVAL_S))
