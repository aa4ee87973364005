"""An endpoint's deliveries, worked off in every order that their outcomes can take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from test_webhook_decisions import endpoint

from hub.core import webhook_lane
from hub.core.webhook_lane import MAX_PARALLEL, Lane
from hub.core.webhooks import TRIP, Delivery, Key
from schemas.cursor import ZERO, StreamId


def delivery(number: int, entity: str = "a", due_ms: int = 0, attempts: int = 0) -> Delivery:
    """The delivery of the event at this place."""
    key = Key("e1", "", StreamId(number, 0), 1)
    return Delivery(key, 0, "default", f"event-{number}", entity, due_ms, attempts)


def lane(*deliveries: Delivery, rate: int | None = None) -> Lane:
    """A lane that has looked into an empty store, and was then given these."""
    made = Lane(endpoint(rate_per_s=rate))
    made.scan_ended(made.scanning(), ZERO, more=False)
    for one in deliveries:
        made.offer_new(one, 0)
    return made


def taken(of: Lane, now: int = 0) -> list[int]:
    """All that may be attempted now."""
    found = []
    while (one := of.take(now)) is not None:
        found.append(one.key.id.ms)
    return found


def test_an_entity_has_one_attempt_at_a_time() -> None:
    """Others go on beside it."""
    first, second, other = delivery(1), delivery(2), delivery(3, "b")
    it = lane(first, second, other)
    assert taken(it) == [1, 3]
    assert not it.settled(first)
    assert taken(it) == [2]


def test_a_failing_delivery_holds_back_its_entity_alone() -> None:
    """Until it is due again; then it goes first."""
    first, second = delivery(1), delivery(2)
    it = lane(first, second, *(delivery(number, f"b{number}") for number in range(3, 6)))
    assert taken(it) == [1, 3, 4, 5]
    first.attempts = 1
    it.again(first, 500, 0)
    assert taken(it) == []
    assert it.wait_ms(100) == 400
    assert taken(it, 500) == [1]


def test_a_dead_endpoint_is_probed_once() -> None:
    """With one delivery, whatever is due; the rest of them spend nothing."""
    ones = [delivery(number, f"e{number}") for number in range(1, 20)]
    it = lane(*ones)
    assert len(taken(it)) == MAX_PARALLEL
    for one in ones[:TRIP]:
        it.breaker.failed(0)
        it.again(one, 1, 0)
    assert taken(it, 1) == []
    assert it.wait_ms(1) == 9_999
    assert len(taken(it, 10_000)) == 1
    assert it.wait_ms(10_000) is None


def test_a_rate_is_kept() -> None:
    """Two at once, and two a second."""
    it = lane(*(delivery(number, f"e{number}") for number in range(1, 20)), rate=2)
    assert len(taken(it)) == 2
    assert it.wait_ms(0) == 500
    assert len(taken(it, 1000)) == 2


def test_an_event_for_a_batch_waits_unless_another_comes_after_it() -> None:
    """A later event of the same entity that is due at once lets it go: the order counts more."""
    held, other = delivery(1, due_ms=1000), delivery(2, "b", due_ms=1000)
    it = lane(held, other)
    assert taken(it) == []
    it.offer_new(delivery(3), 0)
    assert taken(it) == [1]
    it.settled(held)
    assert taken(it) == [3]
    assert taken(it, 1000) == [2]


def test_what_was_settled_while_the_store_was_read_does_not_come_back() -> None:
    """The page that was read before still has it."""
    one = delivery(1)
    it = lane(one)
    assert taken(it) == [1]
    it.more = True
    scan = it.scanning()
    it.settled(one)
    assert it.scanned_in(scan, delivery(1), 0)
    it.scan_ended(scan, StreamId(1, 0), more=False)
    assert taken(it) == []


def test_what_came_while_the_rest_of_an_entity_was_read_is_read_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The store was asked before it was written down."""
    monkeypatch.setattr(webhook_lane, "MAX_EACH", 1)
    first, second, third = delivery(1), delivery(2), delivery(3)
    it = lane(first, second)
    taken(it)
    assert it.settled(first)
    it.offer_new(third, 0)
    assert not it.refill("a", [second], whole=True)
    taken(it)
    assert it.settled(second), "the third is in the store"
    it.offer_new(delivery(4), 0)
    assert it.refill("a", [], whole=True), "the fourth was written down meanwhile"
    assert not it.refill("a", [delivery(4)], whole=True)
    assert taken(it) == [4]


def test_what_is_due_far_off_takes_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many entities fail for hours, another one's event goes out; they come back when due, in order."""
    monkeypatch.setattr(webhook_lane, "MAX_ENTITIES", 5)
    it = lane()
    for number in range(1, 40):
        it.offer_new(delivery(number, f"e{number}"), 0)
        (one,) = taken_all(it, 0)
        one.attempts = 1
        it.again(one, 3_600_000 + number, 0)
        it.breaker.succeeded()
    assert len(it) == 0
    it.offer_new(delivery(50, "e1"), 0)
    it.offer_new(delivery(51, "other"), 0)
    assert taken(it) == [51]
    it.settled(delivery(51, "other"))
    assert it.wait_ms(0) == 3_600_001
    assert it.due_again(3_600_000) is None
    assert it.due_again(3_600_001) == "e1"
    assert it.due_again(3_600_001) is None
    first = delivery(1, "e1", 3_600_001, attempts=1)
    assert not it.refill("e1", [first, delivery(50, "e1")], whole=True)
    assert taken(it, 3_600_001) == [1]


def test_a_batch_that_was_left_to_the_store_is_let_go_too() -> None:
    """By a later event of its entity."""
    it = lane()
    it.offer_new(delivery(1, due_ms=9_000_000), 0)
    assert (it.due_again(0), it.wait_ms(0)) == (None, 9_000_000)
    it.offer_new(delivery(2), 0)
    assert it.due_again(0) == "a"
    assert not it.refill("a", [delivery(1, due_ms=9_000_000), delivery(2)], whole=True)
    assert taken(it) == [1]


def taken_all(of: Lane, now: int) -> list[Delivery]:
    """The same deliveries themselves."""
    found = []
    while (one := of.take(now)) is not None:
        found.append(one)
    return found


def test_an_endpoint_that_is_changed_starts_afresh() -> None:
    """Another URL is not spared for what the old one did; another rate counts at once."""
    it = lane(*(delivery(number, f"e{number}") for number in range(1, 5)))
    for _ in range(TRIP):
        it.breaker.failed(0)
    it.change(endpoint(url="https://example.com/other", rate_per_s=1))
    assert len(taken(it)) == 1


class Working(RuleBasedStateMachine):
    """A lane over a store: what the store holds is what was not settled."""

    deliveries = Bundle("deliveries")

    @initialize()
    def begin(self) -> None:
        """Small bounds, so that they are met."""
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(webhook_lane, "MAX_ENTITIES", 4)
        self.patch.setattr(webhook_lane, "MAX_EACH", 2)
        self.patch.setattr(webhook_lane, "PARK_MS", 3)
        self.store: dict[int, Delivery] = {}
        self.sent: dict[str, list[int]] = defaultdict(list)
        self.under_way: list[Delivery] = []
        self.number = 0
        self.now = 0
        self.page: list[Delivery] | None = None
        self.scan_number = 0
        self.asked: list[str] = []
        self.lane = Lane(endpoint())

    def teardown(self) -> None:
        """Bounds as they were."""
        if hasattr(self, "patch"):
            self.drain()
            self.patch.undo()

    def copy(self, numbers: Iterable[int]) -> list[Delivery]:
        """As the store gives them."""
        held = [self.store[number] for number in numbers]
        return [delivery(one.key.id.ms, one.entity, one.due_ms, one.attempts) for one in held]

    @rule(entity=st.sampled_from("abcdefgh"), wait=st.integers(0, 6))
    def owed(self, entity: str, wait: int) -> None:
        """Something is written down, and offered."""
        self.number += 1
        one = delivery(self.number, entity, self.now + wait)
        self.store[self.number] = one
        self.lane.offer_new(*self.copy([self.number]), self.now)

    @rule()
    def scan(self) -> None:
        """The store is read."""
        if self.page is None and self.lane.wants_more:
            self.scan_number = self.lane.scanning()
            self.page = self.copy([number for number in sorted(self.store) if number > self.lane.scanned.ms][:3])

    @rule()
    def scanned(self) -> None:
        """What was read is offered, later."""
        if self.page is None:
            return
        reached, more = self.lane.scanned, len(self.page) == 3
        for one in self.page:
            if not self.lane.scanned_in(self.scan_number, one, self.now):
                more = True
                break
            reached = one.key.id
        self.lane.scan_ended(self.scan_number, reached, more=more)
        self.page = None

    @rule(step=st.integers(0, 4))
    def later(self, step: int) -> None:
        """Time goes by, and everything that may be is attempted."""
        self.now += step
        while (entity := self.lane.due_again(self.now)) is not None:
            self.asked.append(entity)
        while (one := self.lane.take(self.now)) is not None:
            self.under_way.append(one)

    @rule(which=st.integers(0, 100), works=st.booleans(), wait=st.integers(1, 8))
    def answered(self, which: int, works: bool, wait: int) -> None:
        """An attempt comes to its end."""
        if not self.under_way:
            return
        one = self.under_way.pop(which % len(self.under_way))
        if not works:
            one.attempts += 1
            self.store[one.key.id.ms].due_ms = self.now + wait
            self.lane.again(one, self.now + wait, self.now)
            return
        self.settle(one)

    def settle(self, one: Delivery) -> None:
        """It is delivered."""
        assert one.key.id.ms in self.store, "delivered twice"
        del self.store[one.key.id.ms]
        self.sent[one.entity].append(one.key.id.ms)
        if self.lane.settled(one):
            self.asked.append(one.entity)

    @rule(early=st.booleans())
    def refilled(self, early: bool) -> None:
        """The store is asked for the rest of an entity; something may be written down meanwhile."""
        if not self.asked:
            return
        entity = self.asked.pop(0)
        mine = [number for number in sorted(self.store) if self.store[number].entity == entity]
        found = self.copy(mine[:2])
        if early:
            self.owed(entity, 0)
        if self.lane.refill(entity, found, whole=len(found) < 2):
            self.asked.append(entity)

    @rule()
    def reloaded(self) -> None:
        """Something was written down behind its back."""
        self.lane.reload()

    @invariant()
    def in_order(self) -> None:
        """No entity ever got an event after a later one."""
        for sent in getattr(self, "sent", {}).values():
            assert sent == sorted(sent)

    def drain(self) -> None:
        """In the end everything is delivered."""
        for _ in range(200 + 4 * self.number):
            if not self.store:
                break
            self.scanned()
            self.scan()
            self.scanned()
            while self.asked:
                self.refilled(False)
            self.later(5)
            while self.under_way:
                self.settle(self.under_way.pop())
        assert not self.store, "held back for ever"
        self.in_order()


Working.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestWorking = Working.TestCase
