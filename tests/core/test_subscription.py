"""`due` against an oracle, and the beginnings of a subscription."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hub.core.routing import Interest
from hub.core.subscription import Subscription, due
from schemas.cursor import StreamId

ids = st.builds(StreamId, st.integers(0, 3), st.integers(0, 1))
tenants = st.sampled_from(["a", "b"])


@st.composite
def subscriptions(draw: st.DrawFn) -> Subscription:
    """One somewhere on its way."""
    interest = Interest(
        draw(st.none() | st.frozensets(tenants, min_size=1)),
        draw(st.frozensets(st.sampled_from(["*", "x.one", "y.*"]), min_size=1)),
        draw(st.none() | st.just(frozenset({"x:1"}))),
    )
    begin = [draw(ids), draw(ids)]
    at = [draw(ids), draw(ids)]
    return Subscription(1, interest, begin, draw(st.dictionaries(tenants, ids)), at, begin, live=draw(st.booleans()))


def asked_for(one: Subscription, partition: int, id: StreamId, tenant: str, entity: str) -> bool:
    """Whether an event `x.one` is one of its own, spelled out."""
    begin = one.begin_of[tenant] if tenant in one.begin_of else one.begin[partition]
    fits = one.interest.tenants is None or tenant in one.interest.tenants
    fits = fits and (one.interest.entities is None or entity in one.interest.entities)
    return fits and not one.interest.patterns.isdisjoint({"*", "x.one"}) and id > begin


@given(st.lists(subscriptions(), max_size=4), st.integers(0, 1), ids, tenants, st.sampled_from(["x:1", "x:2"]))
def test_an_event_is_due_once(
    everyone: list[Subscription], partition: int, id: StreamId, tenant: str, entity: str
) -> None:
    """It is due when somebody asks for it, has not had it, and nobody else who asks for it has."""
    asking = [one for one in everyone if asked_for(one, partition, id, tenant, entity)]
    served = [one for one in asking if one.live or id <= one.at[partition]]
    behind = [one for one in everyone if not one.live]
    expected = bool(asking) and not served
    assert due(behind, everyone, partition, id, tenant, "x", "one", entity) == expected


def test_nothing_up_to_the_beginning_is_wanted() -> None:
    """The event at the beginning was seen before; a tenant's own beginning goes before the partition's."""
    everything = Interest(None, frozenset({"*"}))
    one = Subscription(1, everything, [StreamId(5, 0)], {"a": StreamId(2, 0)}, [StreamId(2, 0)], [StreamId(5, 0)])
    wanted = [
        (tenant, ms) for tenant in "ab" for ms in range(8) if one.wants(0, StreamId(ms, 0), tenant, "x", "one", "x:1")
    ]
    assert wanted == [("a", 3), ("a", 4), ("a", 5), ("a", 6), ("a", 7), ("b", 6), ("b", 7)]
