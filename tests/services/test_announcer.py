"""The hub's own notices: whom they are for, and that one told twice is told once."""

from __future__ import annotations

from uuid import uuid4

import pytest
from feed_rig import Rig

from hub.services.announcer import Announcer
from hub.services.publisher import Publisher, Systems
from schemas.errors import Problem


@pytest.fixture
def announcer(rig: Rig) -> Announcer:
    """Publishes into the rig's log."""
    return Announcer(Publisher(rig.history, Systems(), rig.metrics))


async def test_a_notice_is_an_event_of_the_hubs_own(rig: Rig, announcer: Announcer) -> None:
    """For the tenant's systems, or the one that is named; an added system's goes to all, for the type's own targets are
    never widened."""
    for system, targets in (
        (None, {"hotel-member", "hotel-pms", "hotel-saas"}),
        ("hotel-saas", {"hotel-saas"}),
        ("housekeeping-app", {"hotel-member", "hotel-pms", "hotel-saas"}),
    ):
        event_id = str(uuid4())
        await announcer.announce("t-1", "alarm", "webhook:1", "It is gone", event_id=event_id, system=system)
        entry = await rig.log.find("t-1", event_id)
        assert entry is not None
        assert (entry.type, entry.action, entry.entity) == ("system", "alarm", "system:webhook:1")
        assert (set(entry.targets), entry.source) == (targets, "hub")


async def test_told_twice_is_told_once(announcer: Announcer) -> None:
    """By its id."""
    event_id = str(uuid4())
    first = await announcer.announce("t-1", "notice", "x", "once", event_id=event_id)
    second = await announcer.announce("t-1", "notice", "x", "again", event_id=event_id)
    assert (first["duplicate"], second["duplicate"]) == (False, True)
    assert first["sequence"] == second["sequence"]


async def test_what_is_no_notice_is_refused(announcer: Announcer) -> None:
    """As every publisher's is."""
    with pytest.raises(Problem) as caught:
        await announcer.announce("t-1", "notice", "no topic", "x", event_id="none")
    assert {error.path for error in caught.value.errors} >= {"event_id"}
