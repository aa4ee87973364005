"""Merge patches: the examples of RFC 7396, and that what a patch says is what happened."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.merge_patch import apply, change, difference
from schemas.state import merged

SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([1.0, 0.5]) | st.text("ab", max_size=2)
NAMES = st.sampled_from(["a", "b", "c", "d"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3), max_leaves=8
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=4)
FLAT = st.dictionaries(NAMES, SCALARS.filter(lambda value: value is not None), max_size=4)
KEPT = {"id", "delta"}
TRANSIENT = {"delta"}


def typed(value: Any) -> Any:
    """A value that differs wherever JSON does: in Python `1 == 1.0 == True`."""
    if isinstance(value, dict):
        return {name: typed(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [typed(inner) for inner in value]
    return (type(value), value)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_patches_are_applied_as_the_rfc_says(target: Any, patch: Any, result: Any) -> None:
    """The examples of RFC 7396, appendix A, that have objects on both sides."""
    before = repr(target)
    assert apply(target, patch) == result
    assert repr(target) == before


@given(OBJECTS, OBJECTS)
def test_a_difference_leads_from_one_to_the_other(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Applied to the one it gives the other, types and all; where there is none, a new `null` is the reason."""
    patch = difference(before, after)
    if patch is None:
        assert "None" in repr(after)
    else:
        assert typed(apply(before, patch)) == typed(after)
        if typed(before) == typed(after):
            assert patch == {}


@given(FLAT, FLAT)
def test_there_is_a_difference_wherever_there_is_no_null(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Only a `null` cannot be said."""
    assert difference({"x": before}, {"x": after, "y": {"z": after}}) is not None


@given(OBJECTS, OBJECTS, OBJECTS, VALUES)
def test_a_change_says_what_the_whole_data_says(
    older: dict[str, Any], before: dict[str, Any], data: dict[str, Any], delta: Any
) -> None:
    """On whatever state the earlier data was merged into, the patch does what merging the data does."""
    before, data = before | {"id": "R1"}, data | {"id": "R1", "delta": delta}
    state = merged(merged({}, older, TRANSIENT), before, TRANSIENT)
    patch = change(before, data, KEPT)
    if patch is None:
        return
    assert patch["delta"] == delta
    assert patch["id"] == "R1"
    lasting = {name: value for name, value in patch.items() if name not in TRANSIENT}
    assert typed(apply(state, lasting)) == typed(merged(state, data, TRANSIENT))
    assert set(patch) <= set(data)


@given(FLAT, FLAT)
def test_plain_fields_always_have_a_change(before: dict[str, Any], data: dict[str, Any]) -> None:
    """Only what differs is in it."""
    patch = change(before, data, ())
    assert patch is not None
    assert all(name not in before or typed(before[name]) != typed(value) for name, value in patch.items())


def test_a_change_that_would_be_merged_into_the_unknown_is_none() -> None:
    """An object in a field that the earlier event did not have might meet an older object there."""
    assert change({}, {"detail": {"a": 1}}, ()) is None
    assert change({"detail": None}, {"detail": {"a": 1}}, ()) == {"detail": {"a": 1}}
    assert change({"detail": None}, {"detail": {"a": None}}, ()) is None
    assert change({"detail": {"a": 1}}, {"detail": {"b": 2}}, ()) == {"detail": {"a": None, "b": 2}}
    assert change({"detail": {"a": 1}}, {"detail": {"a": None}}, ()) is None
    assert change({"a": 1, "b": 2}, {"a": 1, "b": None}, ()) == {"b": None}
