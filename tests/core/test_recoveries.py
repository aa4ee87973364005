"""How long a device took to come back."""

from __future__ import annotations

from hub.core.recoveries import AWAY_MS, REMEMBERED, Recoveries

DESK = ("t-1", "desk-1")


def test_a_recovery_lasts_until_nothing_is_left() -> None:
    """It counts from the beginning of the first push after an absence to the end of the one that leaves nothing."""
    found = Recoveries()
    found.heard(DESK, 0)
    back = AWAY_MS + 500
    assert found.pushed(DESK, back, back + 200, 500, 300) is None
    assert found.pushed(DESK, back + 300, back + 900, 300, 0) == 0.9
    assert found.pushed(DESK, back + 1000, back + 1100, 1, 0) is None


def test_who_was_never_away_does_not_recover() -> None:
    """A device that is heard of all the time, that brings nothing, or that nobody heard of before, is not measured."""
    found = Recoveries()
    assert found.pushed(DESK, 10 * AWAY_MS, 10 * AWAY_MS + 1, 5, 0) is None
    assert found.pushed(DESK, 10 * AWAY_MS + 50, 10 * AWAY_MS + 60, 5, 0) is None
    found.heard(DESK, 11 * AWAY_MS)
    assert found.pushed(DESK, 20 * AWAY_MS, 20 * AWAY_MS + 1, 0, 0) is None


def test_only_so_many_are_remembered() -> None:
    """The oldest is forgotten for a new one."""
    found = Recoveries()
    for number in range(REMEMBERED + 1):
        found.heard(("t", f"desk-{number}"), number)
    assert found.pushed(("t", "desk-0"), AWAY_MS * 9, AWAY_MS * 9, 1, 0) is None
    assert found.pushed(("t", "desk-2"), AWAY_MS * 9, AWAY_MS * 9, 1, 0) is not None
