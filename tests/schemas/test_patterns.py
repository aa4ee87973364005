"""Patterns: what a subscription and a scope name."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from schemas.frames import Pattern
from schemas.patterns import covered, covers, matches
from schemas.registry import EVENT_TYPES

# Every type may get another action, and the hub another type: coverage must hold for those to come as well.
VOCABULARY = {kind.name: (*kind.actions, "to_come") for kind in EVENT_TYPES.values()} | {"spa": ("opened", "closed")}
EVENTS = [(name, action) for name, actions in VOCABULARY.items() for action in actions]
PATTERNS = ["*", *(f"{name}.*" for name in VOCABULARY), *(f"{name}.{action}" for name, action in EVENTS)]

patterns = st.sampled_from(PATTERNS)


def matched(pattern: str) -> set[tuple[str, str]]:
    """Every event of the vocabulary under the pattern."""
    return {event for event in EVENTS if matches(pattern, *event)}


@given(patterns, patterns)
def test_a_pattern_covers_what_it_matches_all_of(wide: str, narrow: str) -> None:
    """Coverage of patterns is coverage of the events under them, neither more nor less."""
    assert covers(wide, narrow) is (matched(narrow) <= matched(wide))


@given(patterns, patterns, patterns)
def test_coverage_is_transitive(first: str, second: str, third: str) -> None:
    """Nothing is gained by asking twice."""
    if covers(first, second) and covers(second, third):
        assert covers(first, third)


@given(st.lists(patterns, max_size=4), patterns)
def test_one_of_several_covers(wide: list[str], narrow: str) -> None:
    """A set of scopes allows what one of them allows."""
    assert covered(wide, narrow) is any(covers(pattern, narrow) for pattern in wide)


@pytest.mark.parametrize(
    ("pattern", "type", "action", "wanted"),
    [
        ("*", "room", "price_updated", True),
        ("room.*", "room", "price_updated", True),
        ("room.price_updated", "room", "price_updated", True),
        ("room.price_updated", "room", "status_changed", False),
        ("room.*", "rooms", "price_updated", False),
        ("rooms.*", "room", "price_updated", False),
        ("room.price_updated_twice", "room", "price_updated", False),
        ("room", "room", "price_updated", False),
        ("room.", "room", "price_updated", False),
        ("*.*", "room", "price_updated", False),
        ("*.price_updated", "room", "price_updated", False),
        ("room.price*", "room", "price_updated", False),
    ],
)
def test_only_the_three_forms_match(pattern: str, type: str, action: str, wanted: bool) -> None:
    """`*` stands for all events or all actions, and nowhere else."""
    assert matches(pattern, type, action) is wanted


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_pattern_of_the_vocabulary_may_be_subscribed_to(pattern: str) -> None:
    """The frame accepts the three forms."""
    assert TypeAdapter(Pattern).validate_python(pattern) == pattern


@pytest.mark.parametrize(
    "text",
    ["", ".", "room", "room.", ".created", "**", "*.*", "*.created", "room.*.x", "room.a.b", "Room.*", "room.* ",
     "room.*\n", "räume.*", "room.１", f"{'x' * 79}.*", 5, None],
)  # fmt: skip
def test_other_forms_may_not_be_subscribed_to(text: object) -> None:
    """A pattern that can never match is refused when it is sent, not when its events stay away."""
    with pytest.raises(ValidationError):
        TypeAdapter(Pattern).validate_python(text, strict=True)


def test_patterns_overlap_only_by_coverage() -> None:
    """Of two patterns that share an event one covers the other: intersections need no pattern of their own."""
    for first, second in itertools.combinations(PATTERNS, 2):
        if matched(first) & matched(second):
            assert covers(first, second) or covers(second, first)
