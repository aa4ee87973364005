"""When replayed events are due, by a clock that the test moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.core.pace import NEVER, Pace

START = 1_784_077_441_000
HOUR = 3_600_000

speeds = st.floats(min_value=0.01, max_value=100_000, allow_nan=False)
spans = st.integers(min_value=0, max_value=30 * 24 * HOUR)


def test_an_hour_at_ten_times_takes_six_minutes() -> None:
    """Each event is due a tenth of its distance after the start."""
    pace = Pace(10.0, 0, START)

    assert [pace.due_ms(ms) - START for ms in (0, 60_000, HOUR)] == [0, 6_000, 360_000]
    assert pace.takes_ms(HOUR) == 360_000


def test_recorded_speed_is_the_distance_itself_and_full_speed_is_at_once() -> None:
    """Speed one, and none."""
    assert Pace(1.0, 1_000, START).due_ms(61_000) == START + 60_000
    assert Pace(None, 1_000, START).due_ms(61_000) == START
    assert Pace(None, 1_000, START).takes_ms(61_000) is None


def test_nothing_is_due_before_it_begins_or_while_it_is_paused() -> None:
    """At full speed neither."""
    assert Pace(None, 0).due_ms(0) == NEVER
    assert Pace(1.0, 0, START).paused(START + 5).due_ms(0) == NEVER


def test_beginning_pausing_and_resuming_twice_is_doing_it_once() -> None:
    """The first time counts."""
    pace = Pace(1.0, 0).paused(1).resumed(2).started(START).started(START + 9)
    assert pace == Pace(1.0, 0, START)

    paused = pace.paused(START + 10).paused(START + 20)
    assert paused.paused_since_ms == START + 10
    assert paused.resumed(START + 40).resumed(START + 50).paused_ms == 30


@given(speeds, spans, st.lists(st.tuples(st.integers(0, HOUR), st.integers(0, HOUR)), max_size=5))
def test_pauses_move_what_follows_by_their_length(speed: float, at: int, pauses: list[tuple[int, int]]) -> None:
    """Whatever the speed, and however often it was paused."""
    pace = begun = Pace(speed, 0, START)
    now, paused = START, 0
    for run, length in pauses:
        pace = pace.paused(now + run)
        now += run + length
        pace = pace.resumed(now)
        paused += length

    assert abs(pace.due_ms(at) - begun.due_ms(at) - paused) < 0.01
    assert pace.active_ms(now + 7) == now + 7 - START - paused


@given(speeds, st.lists(spans, min_size=2, max_size=20).map(sorted))
def test_a_clock_that_moves_from_due_to_due_keeps_the_pace_within_two_percent(speed: float, times: list[int]) -> None:
    """What is sent when it is due, by a clock in whole milliseconds, takes as long as it says."""
    pace = Pace(speed, times[0], START)
    now = START
    for recorded in times:
        while pace.due_ms(recorded) > now:
            now = int(pace.due_ms(recorded)) + 1
    takes = pace.takes_ms(times[-1])

    assert takes is not None
    assert abs((now - START) - takes) <= max(2, 0.02 * takes)
    assert pace.due_ms(times[-1]) <= now


@given(speeds, spans, st.integers(0, HOUR))
def test_what_is_left_and_what_was_spent_make_up_the_whole(speed: float, span: int, spent: int) -> None:
    """Until it is over time; a replay that has sent everything has nothing left."""
    pace = Pace(speed, 0, START)
    left, takes = pace.left_ms(START + spent, span, 1, 2), pace.takes_ms(span)

    assert takes is not None
    assert left == max(0, takes - spent)
    assert pace.left_ms(START + spent, span, 2, 2) == 0


def test_at_full_speed_what_is_left_is_told_by_what_was_done() -> None:
    """A quarter in ten seconds leaves thirty; nothing done tells nothing."""
    pace = Pace(None, 0, START).paused(START + 10_000)

    assert pace.left_ms(START + 99_000, HOUR, 25, 100) == 30_000
    assert pace.left_ms(START + 99_000, HOUR, 0, 100) is None
