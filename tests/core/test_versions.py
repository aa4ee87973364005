"""Version vectors: what they count, and how an event is taken off again."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from hub.core.projection import Folding
from hub.core.versions import actor, author, earlier, exact, includes, least, tally, total, without
from schemas.cursor import StreamId

NAMES = ("hotel-pms", "hotel-saas", "desk-1", "desk-2")

names = st.sampled_from(NAMES)
vectors = st.dictionaries(names, st.integers(1, 5))


def event(by: Any = "hotel-pms", device: str | None = None, offline: bool = True, **more: Any) -> dict[str, Any]:
    """An envelope, as far as it matters here."""
    data = {} if by is None else {"updated_by_system": by}
    made = {"schema_version": 1, "revision": 1, "targets": ["hotel-pms"], "data": data} | more
    return made if device is None else made | {"device_id": device, "created_offline": offline}


def counted(makers: list[str]) -> dict[str, int]:
    """How often each is in a list."""
    return {name: makers.count(name) for name in makers}


def test_who_made_an_event() -> None:
    """A device what came by push, else the system that published; a device that was online is none."""
    assert actor(event("hotel-saas")) == "hotel-saas"
    assert actor(event(device="desk-1")) == "desk-1"
    assert actor(event(device="desk-1", offline=False)) == "hotel-pms"
    assert actor(event(None)) == "unknown"


@given(st.lists(names, max_size=12), st.integers(0, 12))
def test_a_state_counts_each_of_its_events_once(makers: list[str], cut: int) -> None:
    """Whether folded in one go, taken up again or tallied: the same, and their sum is how many there are."""
    events = [event(name) if name.startswith("hotel") else event(device=name) for name in makers]
    folding = Folding("room")
    for number, one in enumerate(events[:cut], 1):
        folding.add(one | {"revision": number}, number, StreamId(number, 0))
    before = None if folding.state is None else dict(folding.state.writers)
    held = folding.state
    again = Folding("room", held)
    for number, one in enumerate(events[cut:], cut + 1):
        again.add(one | {"revision": number}, number, StreamId(number, 0))
    assert (again.state.writers if again.state is not None else {}) == counted(makers)
    assert before is None or (held is not None and held.writers == before)
    assert tally(orjson.dumps(one) for one in events) == counted(makers)
    assert sum(counted(makers).values()) == len(makers)


@given(st.sampled_from([{}, {"data": []}, {"schema_version": "1"}, {"revision": None}, {"targets": [["x"]]}]), names)
def test_what_a_state_does_not_count_nobody_does(wrong: dict[str, Any], name: str) -> None:
    """The two judge alike, or a version would lose or gain an event."""
    one = event(name) | wrong
    folding = Folding("room")
    folding.add(one, 1, StreamId(1, 0))
    assert (author(one) is None) is (folding.state is None)
    assert tally([orjson.dumps(one), b"", b"no json", b"[]"]) == ({name: 1} if folding.state else {})


@given(st.lists(names), st.lists(names))
def test_events_are_taken_off_again(before: list[str], after: list[str]) -> None:
    """What is left is what there was before them."""
    assert without(counted(before + after), counted(after)) == counted(before)


@given(st.integers(1, 20), st.lists(names, max_size=20), st.data())
def test_events_from_before_versions_were_kept_are_taken_off_last(
    unnamed: int, since: list[str], data: st.DataObject
) -> None:
    """However many are taken, the newest first: names as far as they are counted, then those that nobody counted."""
    whole = earlier(unnamed) | counted(since)
    taken = data.draw(st.integers(0, unnamed + len(since)))
    makers = (["hotel-pms"] * unnamed + since)[unnamed + len(since) - taken :]
    left = without(whole, counted(makers))
    assert sum(left.values()) == sum(whole.values()) - taken
    if taken <= len(since):
        assert left == earlier(unnamed) | counted(since[: len(since) - taken])
    else:
        assert left in (earlier(unnamed + len(since) - taken), {})
    assert exact(left) is ("earlier" not in left)
    assert without({}, counted(makers)) == {}


@given(vectors, vectors)
def test_what_both_have_seen(one: dict[str, int], other: dict[str, int]) -> None:
    """Each includes it, and nothing greater is in both; who includes the other has seen all that it says."""
    both = least(one, other)
    assert includes(one, both)
    assert includes(other, both)
    assert includes(one, other) is (least(other, one) == other)
    assert includes(total([one, other]), one)
    assert total([one, {}]) == one
