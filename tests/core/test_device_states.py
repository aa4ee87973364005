"""How a device is, by what is known of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.device_states import BACKLOG, OFFLINE_MS, ONLINE_MS, SKEW_MS, Device, presence, warnings

NOW = 1_784_077_441_000
DEVICE = Device("t-1", "desk-1", "hotel-pms", NOW - 10 * OFFLINE_MS, NOW, pushed_ms=NOW)


@pytest.mark.parametrize(
    ("silent", "state"),
    [
        (0, "online"),
        (ONLINE_MS - 1, "online"),
        (ONLINE_MS, "late"),
        (OFFLINE_MS, "late"),
        (OFFLINE_MS + 1, "offline"),
        # A hub whose clock is behind wrote it.
        (-5000, "online"),
    ],
)
def test_who_is_silent_is_late_and_then_offline(silent: int, state: str) -> None:
    """After ten minutes and after a day; the latter is a warning."""
    device = replace(DEVICE, last_seen_ms=NOW - silent)

    assert presence(device, NOW) == state
    assert warnings(device, NOW) == (("offline",) if state == "offline" else ())


def test_a_device_that_never_synced() -> None:
    """However long it is silent, it is no device that went away."""
    device = replace(DEVICE, pushed_ms=None, last_seen_ms=NOW - 2 * OFFLINE_MS)

    assert presence(device, NOW) == "never"
    assert warnings(device, NOW) == ()
    assert presence(replace(device, pulled_ms=device.last_seen_ms), NOW) == "offline"


@pytest.mark.parametrize(
    ("known", "warned"),
    [
        ({"clock_skew_ms": SKEW_MS}, ()),
        ({"clock_skew_ms": SKEW_MS + 1}, ("skewed",)),
        ({"clock_skew_ms": -SKEW_MS - 1}, ("skewed",)),
        ({"backlog": BACKLOG}, ()),
        ({"backlog": BACKLOG + 1}, ("backlog",)),
        ({"compared_equal": True}, ()),
        ({"compared_equal": False}, ("unequal",)),
        ({"compared_equal": False, "clock_skew_ms": 10 * SKEW_MS}, ("skewed", "unequal")),
    ],
)
def test_what_a_person_should_look_at(known: dict[str, int], warned: tuple[str, ...]) -> None:
    """A clock that is off, more waiting items than are usual, states that differ from the hub's."""
    assert warnings(replace(DEVICE, **known), NOW) == warned


@given(st.integers(0, 3 * OFFLINE_MS), st.integers(0, 3 * OFFLINE_MS))
def test_silence_makes_nothing_better(one: int, more: int) -> None:
    """Who is silent for longer is never nearer."""
    order = ["online", "late", "offline"]
    first, then = (order.index(presence(DEVICE, NOW + silent)) for silent in (one, one + more))
    assert first <= then
