"""Fan-out against a naive model: every member gets what was routed while it was a member, in order, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hub.core import fanout
from hub.core.fanout import FanOut
from hub.core.routing import Audience, Codec, Interest, View, may_see


@dataclass(frozen=True)
class Event:
    """As much of an event as routing looks at."""

    number: int
    tenant_id: str
    type: str
    action: str
    entity: str
    targets: tuple[str, ...]


def encode(event: Event, view: View, codec: Codec) -> bytes:
    """A frame that tells what it was made for."""
    return f"{event.number}/{view}/{codec};".encode()


@dataclass(eq=False)
class Member:
    """A member that keeps what it gets and refuses when told to; `due` is what a naive model says it must get."""

    audience: Audience
    refusing: bool = False
    inside: bool = True
    got: list[int] = field(default_factory=list)
    due: list[int] = field(default_factory=list)
    frames: bytes = b""
    left_at: list[int] = field(default_factory=list)

    def deliver(self, buffer: bytes, events: Sequence[Event], before: int) -> bool:
        """Take the events, or leave at the position before them."""
        assert self.inside
        if self.refusing:
            self.inside = False
            self.left_at.append(before)
            return False
        assert events
        self.got += [event.number for event in events]
        self.frames += buffer
        return True


def expected(audience: Audience, event: Event) -> bool:
    """Whether the audience is to get the event, spelled out."""
    return may_see(audience.system, event.targets) and any(
        one.wants(event.tenant_id, event.type, event.action, event.entity) for one in audience.interests
    )


names = st.sampled_from(["a", "b"])
entities = st.sampled_from(["x:1", "x:2", "y:1"])
interests = st.builds(
    Interest,
    st.none() | st.frozensets(names, min_size=1),
    st.frozensets(st.sampled_from(["*", "x.*", "y.*", "x.one", "y.two"]), min_size=1, max_size=2),
    st.none() | st.frozensets(entities, min_size=1),
)
audiences = st.builds(
    Audience,
    st.frozensets(interests, min_size=1, max_size=3),
    st.sampled_from(["pms", "saas", "hub"]),
    st.sampled_from(["full", "masked"]),
    st.sampled_from(["plain", "deflate"]),
    st.sampled_from([0, 50]),
)
events = st.tuples(
    names,
    st.sampled_from(["x", "y"]),
    st.sampled_from(["one", "two"]),
    entities,
    st.sampled_from([("pms",), ("pms", "saas"), ()]),
)
few = st.lists(audiences, min_size=1, max_size=4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), events),
        st.tuples(st.just("join"), st.integers(0, 3)),
        st.tuples(st.just("leave"), st.integers(0, 9)),
        st.tuples(st.just("refuse"), st.integers(0, 9)),
        st.tuples(st.just("flush"), st.booleans()),
    ),
    max_size=60,
)


class Run:
    """A fan-out and its model, side by side."""

    def __init__(self, audiences: list[Audience]) -> None:
        self.audiences = audiences
        self.fan: FanOut[Event, int] = FanOut(encode)
        self.members: list[Member] = []
        self.count = 0

    def step(self, step: tuple[str, Any]) -> None:
        """Do one thing to both."""
        name, value = step
        if name == "add":
            event = Event(self.count, *value)
            self.count += 1
            self.fan.add(event, event.number)
            for member in self.members:
                if member.inside and expected(member.audience, event):
                    member.due.append(event.number)
        elif name == "join":
            member = Member(self.audiences[value % len(self.audiences)])
            self.members.append(member)
            self.fan.join(member, member.audience)
        elif name == "flush":
            self.fan.flush(self.fan.waiting() if value else self.fan.due())
        elif self.members:
            member = self.members[value % len(self.members)]
            if name == "refuse":
                member.refusing = True
            elif member.inside:
                self.fan.leave(member, member.audience)
                member.inside = False

    def check(self) -> None:
        """Compare, at a moment when everything was flushed."""
        for member in self.members:
            if member.refusing and member.left_at:
                (left_at,) = member.left_at
                assert member.got == [number for number in member.due if number < left_at]
            else:
                assert member.got == member.due
            view, codec = member.audience.view, member.audience.codec
            assert member.frames == b"".join(f"{number}/{view}/{codec};".encode() for number in member.got)


@given(few, steps)
@settings(deadline=None, max_examples=300)
def test_every_member_gets_its_events_once_and_in_order(audiences: list[Audience], steps: list[Any]) -> None:
    """Whatever joins, leaves, refusals and flushes lie between, nothing is missed, doubled or out of order."""
    run = Run(audiences)
    for step in steps:
        run.step(step)
    run.fan.flush(run.fan.waiting())
    run.check()
    for member in run.members:
        if member.inside:
            run.fan.leave(member, member.audience)
    assert len(run.fan) == 0
    assert run.fan.waiting() == []


@given(few, st.lists(events, max_size=30))
@settings(deadline=None, max_examples=50)
def test_forgotten_routes_are_worked_out_again(audiences: list[Audience], sent: list[Any]) -> None:
    """A full memory of routes changes nothing about who gets what."""
    run = Run(audiences)
    held, fanout.MAX_ROUTES = fanout.MAX_ROUTES, 1  # type: ignore[misc]
    try:
        for index in range(len(audiences)):
            run.step(("join", index))
        for event in sent:
            run.step(("add", event))
        run.fan.flush(run.fan.waiting())
        run.check()
    finally:
        fanout.MAX_ROUTES = held  # type: ignore[misc]


def test_joining_a_group_that_everybody_leaves() -> None:
    """Who joins just as the flush makes the last member leave is in the group that routes lead to."""
    run = Run([Audience(frozenset({Interest(None, frozenset({"*"}))}), "hub", batch_ms=50)])
    event = ("a", "x", "one", "x:1", ())
    for step in (("join", 0), ("refuse", 0), ("add", event), ("join", 0), ("add", event)):
        run.step(step)
    run.fan.flush(run.fan.waiting())
    run.check()
    assert run.members[1].got == [1]


def test_a_frame_is_made_once_a_view_and_codec() -> None:
    """Groups that differ only in what they ask for share the encoded bytes."""
    made: list[tuple[int, str, str]] = []

    def counted(event: Event, view: View, codec: Codec) -> bytes:
        made.append((event.number, view, codec))
        return b"."

    fan: FanOut[Event, int] = FanOut(counted)
    for tenant in ("a", "b", "c"):
        for view in ("full", "masked"):
            asked = frozenset({Interest(frozenset({"a", tenant}), frozenset({"*"}))})
            audience = Audience(asked, "hub", view)
            fan.join(Member(audience), audience)
    fan.add(Event(1, "a", "x", "one", "x:1", ()), 0)
    assert sorted(made) == [(1, "full", "plain"), (1, "masked", "plain")]


def test_gathering_groups_are_not_due() -> None:
    """A group that gathers by time is left to its timer; `add` says when one has become non-empty."""
    fan: FanOut[Event, int] = FanOut(encode)
    everything = frozenset({Interest(None, frozenset({"*"}))})
    at_once, gathers = Audience(everything, "hub"), Audience(everything, "hub", batch_ms=100)
    for audience in (at_once, gathers):
        fan.join(Member(audience), audience)
    event = Event(1, "a", "x", "one", "x:1", ())
    assert {group.audience for group in fan.add(event, 0)} == {at_once, gathers}
    assert [group.audience for group in fan.due()] == [at_once]
    assert fan.flush(fan.due()) == 1
    assert [group.audience for group in fan.add(event, 1)] == [at_once]
    assert fan.flush(fan.waiting()) == 3
