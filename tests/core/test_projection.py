"""States folded from events: what a merge leaves, who may see it, old versions read as the newest."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.core.projection import Folding, State, newest, spoken_of
from schemas.cursor import StreamId
from schemas.registry import EVENT_TYPES
from schemas.state import merged

SYSTEMS = ("hotel-member", "hotel-pms", "hotel-saas")
ORDER_V1 = {"order_id": "O1", "room_number": "301", "item": "tea", "quantity": 2, "unit_price": 500}

fields = st.sampled_from(["customer_id", "name", "rank_id", "points_delta", "updated_fields", "extra"])
values = st.none() | st.integers() | st.text(max_size=3) | st.dictionaries(st.text(max_size=2), st.none(), max_size=2)
envelopes = st.builds(
    lambda data, targets: {"schema_version": 1, "targets": targets, "data": data},
    st.dictionaries(fields, values),
    st.lists(st.sampled_from(SYSTEMS), min_size=1, unique=True),
)


def folded(type: str, *events: dict[str, Any], state: State | None = None) -> State | None:
    """The state after events with revisions and places of their own."""
    folding = Folding(type, state)
    for number, event in enumerate(events, 1 if state is None else state.revision + 1):
        folding.add({"revision": number, **event}, number * 10, StreamId(number, 0))
    return folding.state


def said(data: Any, version: int = 1, targets: Any = SYSTEMS) -> dict[str, Any]:
    """An envelope, as far as it matters here."""
    return {"schema_version": version, "targets": list(targets), "data": data}


@given(st.lists(envelopes, min_size=1, max_size=8))
def test_the_last_word_on_each_field_counts(events: list[dict[str, Any]]) -> None:
    """Field by field: the last event that speaks of it says what it is, and null that it is not."""
    state = folded("customer", *events)
    assert state is not None
    expected: dict[str, Any] = {}
    for name in {name for event in events for name in event["data"]}:
        last = [event["data"][name] for event in events if name in event["data"]][-1]
        if last is not None and name not in EVENT_TYPES["customer"].transient:
            expected[name] = last
    assert state.data == expected
    assert (state.revision, state.sequence, state.id) == (len(events), len(events) * 10, StreamId(len(events), 0))


@given(st.lists(envelopes, min_size=1, max_size=8))
def test_who_sees_all_and_who_some(events: list[dict[str, Any]]) -> None:
    """Every event must be for a system that sees all of the state, and one of them for a system that sees some."""
    state = folded("customer", *events)
    assert state is not None
    for system in SYSTEMS:
        assert (system in state.seen_by_all) is all(system in event["targets"] for event in events)
        assert (system in state.seen_by_some) is any(system in event["targets"] for event in events)


@given(st.lists(envelopes, min_size=2, max_size=8), st.data())
def test_stopping_between_two_events_changes_nothing(events: list[dict[str, Any]], data: st.DataObject) -> None:
    """A state that was stored and taken up again ends where an unbroken fold does, also where some come twice."""
    cut = data.draw(st.integers(1, len(events) - 1))
    whole = folded("customer", *events)
    first = folded("customer", *events[:cut])
    assert first is not None
    before = dict(first.data)
    assert folded("customer", *events[cut:], state=first) == whole
    assert first.data == before
    assert whole is not None
    again = folded("customer", *events[cut:], state=whole)
    assert again is not None
    assert again.data == whole.data


@given(st.dictionaries(fields, values), st.dictionaries(fields, values))
def test_what_an_event_speaks_of(held: dict[str, Any], data: dict[str, Any]) -> None:
    """Only fields that it speaks of may differ after it."""
    after = merged(held, data, EVENT_TYPES["customer"].transient)
    untouched = held.keys() - set(spoken_of("customer", said(data))) - EVENT_TYPES["customer"].transient
    assert {name: after[name] for name in untouched} == {name: held[name] for name in untouched}


def test_nested_values_are_replaced_whole() -> None:
    """The merge is of the top level alone."""
    state = folded("system", said({"topic": "t", "detail": {"a": 1, "b": 2}}), said({"detail": {"b": None}}))
    assert state is not None
    assert state.data == {"topic": "t", "detail": {"b": None}}


def test_an_old_event_is_read_as_the_newest_version() -> None:
    """Its data is brought up before it is merged, and the state is of the newest version."""
    state = folded("order", said(ORDER_V1), said({"notes": "no milk"}, 2))
    assert state is not None
    assert state.schema_version == 2
    assert state.data["items"] == [{"name": "tea", "quantity": 2, "unit_price": 500}]
    assert (state.data["total_amount"], state.data["notes"]) == (1000, "no milk")


def test_an_old_state_is_brought_up_before_the_next_event() -> None:
    """A release that knows a newer version goes on from what an older one stored."""
    old = State(1, 10, StreamId(1, 0), 1, frozenset(SYSTEMS), frozenset(SYSTEMS), dict(ORDER_V1), {})
    assert newest("order", old).data["total_amount"] == 1000
    state = folded("order", said({"estimated": True}, 2), state=old)
    assert state is not None
    assert (state.schema_version, state.data["estimated"], "item" in state.data) == (2, True, False)
    assert newest("order", state) is state


def test_what_no_version_can_read_is_kept() -> None:
    """One event that should never have been stored stops no projection."""
    state = folded("order", said({"order_id": "O1", "item": None}), said({"room_number": "301"}, 2))
    assert state is not None
    assert state.data == {"order_id": "O1", "room_number": "301"}


def test_a_newer_hubs_types_and_versions_are_merged_as_they_are() -> None:
    """A hub that is not upgraded yet folds what it does not know."""
    state = folded("minibar", said({"a": 1}, 3), said({"b": None}, 2))
    assert state is not None
    assert (state.data, state.schema_version) == ({"a": 1}, 3)
    newer = folded("room", said({"robot": True}, 9))
    assert newer is not None
    assert newer.schema_version == 9


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"data": {}, "schema_version": 1},
        said(None),
        said([1]),
        said({}, targets=[["x"]]),
        said({}) | {"schema_version": "1"},
        said({}) | {"revision": None},
    ],
)
def test_what_is_no_envelope_changes_nothing(event: dict[str, Any]) -> None:
    """Others may write into the stream."""
    assert folded("room", event) is None
    state = folded("room", said({"room_id": "1"}))
    assert folded("room", event, state=state) == state


def test_transient_fields_are_fields() -> None:
    """A type names as transient only fields that some version of it has, and never what its entity is made of."""
    for kind in EVENT_TYPES.values():
        assert kind.transient <= {name for model in kind.versions.values() for name in model.model_fields}
        assert not kind.transient & set(kind.entity_fields)
