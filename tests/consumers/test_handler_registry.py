"""`Handlers`: patterns and who is found for an event; and the backoff."""

from __future__ import annotations

from typing import Any

import pytest

from consumers import Handlers
from consumers.backoff import full_jitter


async def handler(event: Any) -> None: ...


async def other(event: Any) -> None: ...


def test_every_matching_handler_is_found_in_order() -> None:
    """Exact, wildcard and catch-all patterns match; the order is that of registration."""
    handlers = Handlers()
    handlers.on("*")(handler)
    handlers.on("reservation.created")(other)
    assert handlers.find("reservation", "created") == (handler, other)
    assert handlers.find("room", "status_changed") == (handler,)
    handlers.on("room.*")(other)
    assert handlers.find("room", "status_changed") == (handler, other)
    assert Handlers().find("room", "status_changed") == ()


def test_the_decorator_returns_its_function_and_patterns_stand_once() -> None:
    """A decorated function stays itself and may stand under several patterns."""
    handlers = Handlers()
    assert handlers.on("room.*")(handler) is handler
    handlers.on("customer.created")(handler)
    handlers.on("room.*")(other)
    assert handlers.patterns == ["room.*", "customer.created"]


@pytest.mark.parametrize("pattern", ["", "reservation", "reservation.", ".created", "a.b.c", "*.created", "Room .x", 3])
def test_a_malformed_pattern_is_refused(pattern: Any) -> None:
    """At registration, not when the hub answers."""
    with pytest.raises(ValueError):
        Handlers().on(pattern)


def test_a_pattern_no_release_knows_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt type or action gets a warning: such a handler would never be called."""
    handlers = Handlers()
    handlers.on("reservation.created")
    handlers.on("room.*")
    assert capsys.readouterr().out == ""
    handlers.on("reservaton.created")
    handlers.on("room.exploded")
    assert capsys.readouterr().out.count("handler_pattern_unknown") == 2


def test_full_jitter_stays_below_a_doubling_ceiling() -> None:
    """Uniform from 0 to 0.5, 1, 2 … 30 s, also for absurd attempt numbers."""
    assert [full_jitter(attempt, lambda: 1.0) for attempt in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert full_jitter(10**6, lambda: 1.0) == 30
    assert full_jitter(3, lambda: 0.25) == 1.0
    assert full_jitter(0, lambda: 0.0) == 0.0
