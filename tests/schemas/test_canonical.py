"""Canonical JSON: one spelling, the library's, whichever way it is made."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.canonical import canonical, checksum

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53) + 1, 2**53 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=6), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=500)
@given(VALUES)
def test_it_is_what_the_standards_library_says(value: Any) -> None:
    """The quick way and the library's give the same bytes, and they read back as the same value."""
    assert canonical(value) == rfc8785.dumps(value)
    assert json.loads(canonical(value), parse_int=float) == value


def test_the_standards_own_example() -> None:
    """Section 3.2.2 of RFC 8785: numbers, escapes, and keys in the order of UTF-16."""
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f",
        "literals": [None, True, False],
    }
    expected = (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )
    assert canonical(value).decode() == expected


@pytest.mark.parametrize("value", [{"n": 2**53}, {"n": float("nan")}, {"n": float("inf")}, {"s": "\ud800"}])
def test_what_has_no_canonical_form_is_refused(value: Any) -> None:
    """A number that a double does not hold, and a lone surrogate, have no checksum."""
    with pytest.raises(ValueError, match=r".+"):
        checksum(value)
