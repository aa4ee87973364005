"""The hub's own notices: whom they are for, and that one told twice is told once."""

from __future__ import annotations

from uuid import uuid4

import pytest
from feed_rig import Rig
from report_desk import squat

from hub.services.announcer import SALTS, Announcer
from hub.services.publisher import Publisher, Systems
from hub.store.database import StoreUnavailable
from schemas.errors import Problem


@pytest.fixture
def announcer(rig: Rig) -> Announcer:
    """Publishes into the rig's log."""
    return Announcer(Publisher(rig.history, Systems(), rig.metrics), rig.history)


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


async def test_an_id_that_another_took_keeps_no_notice_back(rig: Rig, announcer: Announcer) -> None:
    """It comes under an id derived from it, once; and where all of these are taken, too, it comes again rather than
    not at all."""
    event_id, ids, said = str(uuid4()), [], []
    for number in range(SALTS + 2):
        # In a tenant of its own each, where one more of the ids is taken.
        tenant = f"t-{number}"
        for one in ids:
            await squat(rig, one, tenant=tenant)
        first = await announcer.announce(tenant, "notice", "x", "y", event_id=event_id)
        again = await announcer.announce(tenant, "notice", "x", "y", event_id=event_id)
        entry = await rig.log.find(tenant, first["event_id"])
        assert entry is not None
        assert (entry.source, entry.type, entry.action) == ("hub", "system", "notice")
        ids.append(first["event_id"])
        said.append((first["duplicate"], again["duplicate"], first["event_id"] == again["event_id"]))
        found = await announcer.published(tenant, event_id, "system", "notice")
        assert (found and found.event_id) == (first["event_id"] if number <= SALTS else None)

    assert ids[0] == event_id
    assert len(set(ids)) == len(ids)
    assert said == [(False, True, True)] * (SALTS + 1) + [(False, False, False)]


async def test_the_hubs_own_event_of_another_kind_is_not_the_notice(announcer: Announcer) -> None:
    """Where an operator published something else by the id."""
    event_id = str(uuid4())
    assert await announcer.published("t-1", event_id, "system", "alarm") is None
    await announcer.announce("t-1", "notice", "x", "y", event_id=event_id)
    alarm = await announcer.announce("t-1", "alarm", "x", "y", event_id=event_id)
    assert alarm["event_id"] != event_id
    assert not alarm["duplicate"]


async def test_it_is_not_known_whose_a_taken_id_is(
    rig: Rig, announcer: Announcer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the store does not answer: it is to be tried again."""

    async def away(*_: str) -> None:
        raise StoreUnavailable("away")

    event_id = str(uuid4())
    await announcer.announce("t-1", "notice", "x", "y", event_id=event_id)
    monkeypatch.setattr(rig.history, "find", away)
    with pytest.raises(Problem) as caught:
        await announcer.announce("t-1", "notice", "x", "y", event_id=event_id)
    assert (caught.value.code, caught.value.retryable) == ("outcome_unknown", True)
