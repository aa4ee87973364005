"""Routing against an oracle that spells the rules out."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.routing import Interest, may_see
from schemas import patterns
from schemas.types import HUB

TYPES = ("room", "order", "roo")
ACTIONS = ("placed", "changed", "p")
TENANTS = ("a", "b")
ENTITIES = ("room:1", "room:2", "order:1")

a_pattern = st.one_of(
    st.just("*"),
    st.sampled_from(TYPES).map(lambda name: f"{name}.*"),
    st.tuples(st.sampled_from(TYPES), st.sampled_from(ACTIONS)).map(".".join),
)
interests = st.builds(
    Interest,
    st.none() | st.frozensets(st.sampled_from(TENANTS)),
    st.frozensets(a_pattern, max_size=3),
    st.none() | st.frozensets(st.sampled_from(ENTITIES)),
)


def under(pattern: str, type: str, action: str) -> bool:
    """Whether an event falls under a pattern, by listing all that do."""
    if pattern == "*":
        return True
    wanted_type, wanted_action = pattern.split(".")
    actions = ACTIONS if wanted_action == "*" else (wanted_action,)
    return (type, action) in itertools.product((wanted_type,), actions)


@given(
    interests,
    st.sampled_from(TENANTS),
    st.sampled_from(TYPES),
    st.sampled_from(ACTIONS),
    st.sampled_from(ENTITIES),
)
def test_an_interest_wants_what_it_names(interest: Interest, tenant: str, type: str, action: str, entity: str) -> None:
    """All four of tenant, pattern and entity have to fit; an absent list fits everything, an empty one nothing."""
    kind = (interest.tenants is None or tenant in interest.tenants) and any(
        under(pattern, type, action) for pattern in interest.patterns
    )
    assert interest.wants_kind(tenant, type, action) == kind
    assert interest.wants(tenant, type, action, entity) == (
        kind and (interest.entities is None or entity in interest.entities)
    )


@given(a_pattern, a_pattern)
def test_a_pattern_covers_what_it_contains(wide: str, narrow: str) -> None:
    """`covers` says what comparing the events under both patterns says."""
    contained = all(under(wide, *event) for event in itertools.product(TYPES, ACTIONS) if under(narrow, *event))
    if narrow != "*" or wide == "*":
        assert patterns.covers(wide, narrow) == contained
    else:
        assert not patterns.covers(wide, narrow), "there are more types than these"


@pytest.mark.parametrize("system", ["hotel-pms", "hotel-saas", HUB, "other"])
def test_targets_decide_who_sees(system: str) -> None:
    """A system sees what it is a target of; the hub's own tools see everything."""
    assert may_see(system, ("hotel-pms",)) == (system in ("hotel-pms", HUB))
    assert may_see(system, ()) == (system == HUB)
