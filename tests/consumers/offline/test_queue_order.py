"""In which order waiting items go to the hub."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.offline.order import Waiting, next_up, settles


@dataclass
class Line:
    """Items of one queue, in the order they were made."""

    made: int = 0

    def __call__(self, entity: str, *, first: bool = False, priority: str = "medium", **said: float | str) -> Waiting:
        self.made += 1
        return Waiting(
            self.made,
            entity,
            str(said.get("status", "queued")),
            first,
            priority,
            float(said.get("amount", 0)),
            int(said.get("not_before", 0)),
        )


def test_check_ins_go_before_everything_then_priority_then_value() -> None:
    """The most urgent kind, then priority, then the more valuable, then the older."""
    line = Line()
    items = [
        line("order:1", priority="low"),
        line("order:2", amount=100),
        line("order:3", amount=900),
        line("room:1", priority="high"),
        line("reservation:1", first=True, priority="low"),
        line("order:4", amount=900),
    ]
    assert next_up(items, 10, 0) == [5, 4, 3, 6, 2, 1]


def test_an_urgent_item_pulls_what_is_before_it_in_its_lane() -> None:
    """A booking made before its check-in goes right before it, and what follows waits for its own turn."""
    line = Line()
    items = [
        line("order:1", priority="high"),
        line("reservation:1", priority="low"),
        line("reservation:1", first=True),
        line("reservation:1", priority="low"),
    ]
    assert next_up(items, 10, 0) == [2, 3, 1, 4]


@pytest.mark.parametrize("status", ["failed", "conflict", "syncing"])
def test_what_cannot_be_sent_stops_its_own_lane_only(status: str) -> None:
    """Later items of its entity wait, those of others go; what is behind the stop hurries nobody."""
    line = Line()
    items = [
        line("reservation:1", priority="low"),
        line("reservation:1", status=status),
        line("reservation:1", first=True),
        line("order:1"),
    ]
    assert next_up(items, 10, 0) == [4, 1]


def test_an_item_that_may_not_be_sent_yet_stops_its_lane_until_then() -> None:
    """The time itself counts as come."""
    line = Line()
    items = [line("order:1", not_before=1000), line("order:1"), line("order:2")]
    assert next_up(items, 10, 999) == [3]
    assert next_up(items, 10, 1000) == [1, 2, 3]


def test_the_limit_takes_the_most_urgent() -> None:
    """No more than asked for, from the front."""
    line = Line()
    assert next_up([line("order:1"), line("order:2"), line("order:3", first=True)], 2, 0) == [3, 1]


@pytest.mark.parametrize(
    ("said", "settled"),
    [
        (("Billing", "CREATE", None, True), True),
        (("Billing", "UPDATE", "settled", False), True),
        (("Billing", "CREATE", "refunded", True), False),
        (("Billing", "CREATE", None, False), False),
        (("Order", "CREATE", None, True), False),
    ],
)
def test_what_is_a_settled_bill(said: tuple[str, str, str | None, bool], settled: bool) -> None:
    """A bill with a way of payment, or one whose action says so."""
    assert settles(*said) is settled


waiting = st.builds(
    Waiting,
    st.just(0),
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from(["queued"] * 6 + ["failed", "conflict", "syncing"]),
    st.booleans(),
    st.sampled_from(["high", "medium", "low"]),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.sampled_from([0, 0, 0, 500, 1500]),
)


@given(st.lists(waiting, max_size=25), st.integers(1, 30), st.randoms(use_true_random=False))
def test_the_order_holds_whatever_waits(items: list[Waiting], limit: int, random: object) -> None:
    """No entity's items change places or are left out, none passes a stop, and no lane starves another's head."""
    queue = [item._replace(sequence=number) for number, item in enumerate(items, 1)]
    shuffled = list(queue)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    order = next_up(shuffled, limit, 1000)
    everything = next_up(queue, 100, 1000)
    assert order == everything[:limit]
    by_sequence = {item.sequence: item for item in queue}
    for entity in "abcd":
        lane = [item for item in queue if item.entity == entity]
        free = []
        for item in lane:
            if item.status != "queued" or item.not_before > 1000:
                break
            free.append(item.sequence)
        assert [one for one in everything if by_sequence[one].entity == entity] == free
    # Urgency: whoever goes earlier has, at or behind itself in its lane, something at least as urgent.
    ranks = {}
    for place, sequence in enumerate(everything):
        entity = by_sequence[sequence].entity
        behind = [by_sequence[one] for one in everything[place:] if by_sequence[one].entity == entity]
        ranks[sequence] = min((not one.first, "hml".index(one.priority[0]), -one.amount) for one in behind)
    assert [ranks[one] for one in everything] == sorted(ranks[one] for one in everything)
