"""How much of a state a system may see, against its events spelled out."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from hub.core.sight import publishes, sight
from schemas.types import HUB, SYSTEMS

TYPES = ("room", "alert", "operation_log", "reservation", "minibar")


class Made(NamedTuple):
    """An event: by whom, whether a device made it, for whom."""

    by: str
    device: bool
    targets: frozenset[str]


events = st.lists(
    st.builds(Made, st.sampled_from(SYSTEMS), st.booleans(), st.frozensets(st.sampled_from(SYSTEMS), min_size=1)),
    min_size=1,
    max_size=4,
)


@given(st.sampled_from((*SYSTEMS, HUB)), st.sampled_from(TYPES), events, st.booleans())
def test_it_is_what_the_events_say(system: str, type: str, made: list[Made], known: bool) -> None:
    """All of them or none only where that is so; where it is not told, the events are looked at."""
    made = [one._replace(by=one.by if publishes(one.by, type) else "hotel-pms") for one in made]
    seen = [system == HUB or system in one.targets or one.by == system for one in made]
    writers: dict[str, int] = {}
    for one in made:
        name = f"desk of {one.by}" if one.device else one.by
        writers[name] = writers.get(name, 0) + 1
    all_ = frozenset.intersection(*(one.targets for one in made))
    some = frozenset.union(*(one.targets for one in made))
    how = sight(system, type, all_, some, writers if known else None, made[-1].by)
    if how == "whole":
        assert all(seen)
    elif how == "none":
        assert not any(seen)
    else:
        assert not all(system in one.targets for one in made)
        assert publishes(system, type) or any(seen)


def test_few_states_are_folded() -> None:
    """A log of one event is told by who published it; rooms, which only one system publishes, by whom they are for."""
    mine = ("operation_log", ["hotel-pms"], ["hotel-pms"], {"desk-1": 1})
    assert sight("hotel-saas", *mine, "hotel-saas") == "whole"
    assert sight("hotel-saas", *mine, "hotel-pms") == "none"
    assert sight("hotel-saas", "room", ["hotel-pms"], ["hotel-pms"], {"desk-1": 900}, "hotel-pms") == "none"
    assert sight("hotel-member", "alert", ["hotel-pms"], ["hotel-pms"], {"desk-1": 2}, "hotel-pms") == "some"
    assert sight("hotel-member", "alert", ["hotel-pms"], ["hotel-pms"], {"hotel-pms": 2}, "hotel-pms") == "none"
    assert sight("hotel-member", "alert", ["hotel-pms"], ["hotel-pms"], {"hotel-member": 2}, "hotel-member") == "whole"
