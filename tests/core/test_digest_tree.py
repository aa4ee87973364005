"""The tree against the words of `schemas.sync`, after any changes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.core.digest_tree import DigestTree
from schemas.sync import BUCKETS, StateDigest, bucket_hash, bucket_of, root_hash, state_hash

TYPES = ("room", "reservation", "checkin_checkout")
NAMES = ("room:1", "room:10", "room:2", "reservation:満室", "reservation:a b")

changes = st.lists(st.tuples(st.sampled_from(TYPES), st.sampled_from(NAMES), st.none() | st.integers(1, 3)))


@given(changes, st.sets(st.integers(0, 30)))
def test_it_is_what_it_holds(told: list[tuple[str, str, int | None]], asked: set[int]) -> None:
    """States put, put again and removed, with questions in between."""
    tree, held = DigestTree(), dict[tuple[str, str], StateDigest]()
    for number, (type, entity, revision) in enumerate(told):
        if revision is None:
            tree.remove(type, entity)
            held.pop((type, entity), None)
        else:
            hash = state_hash(type, entity, revision, {"a": number})
            tree.put(type, entity, revision, hash)
            held[(type, entity)] = StateDigest(type, entity, revision, hash)
        if number in asked:
            _ = tree.root
    found: dict[int, list[StateDigest]] = {number: [] for number in range(BUCKETS)}
    for state in held.values():
        found[bucket_of(state.type, state.entity)].append(state)
    assert tree.count == len(held)
    for number, states in found.items():
        assert tree.states(number) == sorted(states)
        assert tree.hash(number) == bucket_hash(states)
    assert tree.buckets == {f"{number:02x}": bucket_hash(states) for number, states in found.items() if states}
    assert tree.root == root_hash({number: bucket_hash(states) for number, states in found.items()})


def test_a_state_without_a_digest_has_its_place() -> None:
    """It is listed, and makes another bucket than none at all."""
    tree = DigestTree()
    tree.put("room", "room:1", 3, "")
    number = bucket_of("room", "room:1")
    assert tree.states(number) == [StateDigest("room", "room:1", 3, "")]
    assert tree.hash(number) == bucket_hash([StateDigest("room", "room:1", 3, "")]) != ""
