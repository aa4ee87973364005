"""Pushes that meet each other, a hub that dies in between, or a log that was lost: every operation stays one event, and
what is written down about it is what the log says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import orjson
import pytest
from conflict_house import ANNA, ARRIVED, BOOKED, TENANT, ConflictHouse
from feed_rig import Rig, claims, turns
from replay_desk import T0
from sqlalchemy import func, select

from hub.core.entry import Entry
from hub.log import turns as log_turns
from hub.services.occupied_rooms import OccupiedRooms
from hub.services.sync_records import SyncRecords
from hub.services.sync_settling import SyncSettling
from hub.services.syncer import Syncer
from hub.store.database import StoreUnavailable
from hub.store.sync_conflicts import ConflictFilter, SyncConflicts
from hub.store.sync_items import Stored
from hub.store.sync_tables import sync_conflicts
from schemas import strict_json
from schemas.canonical import checksum
from schemas.errors import Problem
from schemas.sync import ItemResult, batch_crc32

DESK = "desk-1"
ROOM = {"room_id": "301", "room_number": "301", "room_type": "twin", "status": "vacant_clean"} | {
    "availability_date": "2026-07-15"
}


class NoDevices:
    """Nobody keeps an eye on the devices."""

    async def pushed(self, *_: Any, **__: Any) -> bool:
        """Nobody asked it."""
        return False

    async def system_of(self, *_: Any) -> str | None:
        """Never seen."""
        return None


class Seams(ConflictHouse):
    """Hubs over one log and one store, and desks that push to them."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig)
        self.now = T0
        self.hub = self.hub_of()
        self._numbers = itertools.count(1)

    def hub_of(self) -> Syncer:
        """What takes pushes at one hub."""
        history, records = self.rig.history, SyncRecords(self.rig.history)
        settling = SyncSettling(history, self.publisher, records, self.items, OccupiedRooms(history))
        return Syncer(
            history,
            settling,
            records,
            self.items,
            NoDevices(),
            self.announcer,
            self.rig.metrics,
            finish=self.desk.finish,
            zone=lambda _: UTC,
            clock=lambda: datetime.fromtimestamp(self.now / 1000, UTC),
        )

    def item(
        self,
        model: str,
        payload: Mapping[str, Any],
        operation: str = "UPDATE",
        base: Mapping[str, int] | None = None,
        *,
        of: str = "R1",
        ago_s: int = 3600,
        **more: Any,
    ) -> dict[str, Any]:
        """An operation at a desk."""
        made = datetime.fromtimestamp(T0 / 1000 - ago_s, UTC).isoformat()
        return {
            "uuid": str(uuid4()),
            "model": model,
            "operation": operation,
            "entity_id": of,
            "payload": dict(payload),
            "createdAt": made,
            "device_sequence": next(self._numbers),
            "base_version": dict(base or {}),
            "checksum": checksum(dict(payload)),
        } | more

    async def push(
        self,
        *items: dict[str, Any],
        hub: Syncer | None = None,
        device: str = DESK,
        system: str = "hotel-pms",
        **more: Any,
    ) -> list[ItemResult]:
        """Send a batch."""
        crc = batch_crc32([one["checksum"] for one in items])
        body = {"device_id": device, "batch_crc32": crc, "items": list(items)} | more
        parsed = strict_json.parse(orjson.dumps(body))
        token = claims([TENANT], system, ("sync",))
        return (await (hub or self.hub).push(token, parsed)).results

    async def by(self, uuid: str) -> list[Entry]:
        """The events of an item."""
        return [entry for entry in await self.events() if entry.event_id == uuid]

    async def row(self, item: Mapping[str, Any]) -> Stored:
        """An item as it is written down."""
        return (await self.items.known(TENANT, [item["uuid"]]))[item["uuid"]]

    async def conflict_states(self) -> list[tuple[str, str]]:
        """The conflicts: item and state."""
        async with self.rig.store.database.reading() as connection:
            found = await connection.execute(select(sync_conflicts.c.uuid, sync_conflicts.c.state))
            return [(row[0], row[1]) for row in found]

    async def notices(self, topic: str) -> int:
        """How often people were told."""
        return sum(entry.type == "system" and entry.event["data"]["topic"] == topic for entry in await self.events())

    async def dies_after_publishing(self, *items: dict[str, Any], **more: Any) -> None:
        """A push whose events are stored, and of which nothing else is written down."""
        with (
            patch.object(self.items, "settle", side_effect=asyncio.CancelledError),
            pytest.raises(asyncio.CancelledError),
        ):
            await self.push(*items, **more)

    async def project(self) -> None:
        """Archive everything, and bring the states up with it."""
        await self.archive()
        while await self.rig.projector.round():
            pass

    def forget_receipts(self) -> None:
        """As if so much time had passed that the log remembers no ids."""
        self.rig.log._wall = lambda: 1e12


@pytest.fixture
async def seams(rig: Rig) -> AsyncIterator[Seams]:
    """A log without events."""
    made = Seams(rig)
    wall = rig.log._wall
    yield made
    rig.log._wall = wall


# -- dying in between -----------------------------------------------------------------------------------------------


async def test_an_item_that_comes_after_the_log_forgot_its_id_is_no_second_event(seams: Seams) -> None:
    """The hub died after the event was stored, and the desk came back weeks later: the archive knows the event."""
    item = seams.item("Reservation", BOOKED, "CREATE")
    await seams.dies_after_publishing(item)
    await seams.archive()
    seams.forget_receipts()
    (again,) = await seams.push(item, hub=seams.hub_of())
    assert again.outcome == "duplicate"
    assert len(await seams.by(item["uuid"])) == 1
    assert (await seams.row(item)).outcome == "applied"


async def test_what_is_in_the_log_is_not_decided_again(seams: Seams) -> None:
    """Others moved on after the hub died: nothing waits for a person that is done already."""
    await seams.publish("reservation", "created", BOOKED)
    item = seams.item("CheckIn", ARRIVED, "CREATE", {"hotel-pms": 1})
    await seams.dies_after_publishing(item)
    await seams.publish("checkin_checkout", "no_show", ARRIVED)
    (again,) = await seams.push(item, hub=seams.hub_of())
    assert again.outcome == "duplicate"
    assert await seams.conflict_states() == []
    assert (await seams.row(item)).outcome == "applied"


async def test_a_room_that_was_given_away_after_the_hub_died_holds_nobody_back(seams: Seams) -> None:
    """The guest's own check-in is in the log; that another one followed is not this item's conflict."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("reservation", "created", BOOKED | {"reservation_id": "R2"})
    item = seams.item("CheckIn", ARRIVED, "CREATE", {"hotel-pms": 1})
    await seams.dies_after_publishing(item)
    await seams.publish("checkin_checkout", "checked_in", ARRIVED | {"reservation_id": "R2"})
    (again,) = await seams.push(item, hub=seams.hub_of())
    assert (again.outcome, await seams.conflict_states()) == ("duplicate", [])


async def test_what_a_deletion_overruled_is_told_though_the_hub_died(seams: Seams) -> None:
    """How the item was settled is told by the log, and written down when it comes again, with the notice."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("reservation", "updated", BOOKED | {"special_requests": "late"})
    item = seams.item("Reservation", {}, "DELETE", {"hotel-pms": 1})
    await seams.dies_after_publishing(item)
    await seams.publish("reservation", "updated", BOOKED | {"special_requests": "very late"})
    assert await seams.notices("sync-deletion") == 0
    for _ in range(2):
        (again,) = await seams.push(item, hub=seams.hub_of())
        assert (again.outcome, again.policy, again.winner) == ("duplicate", "delete_wins", DESK)
    row = await seams.row(item)
    assert (row.outcome, row.policy, row.winner, row.revision) == ("resolved", "delete_wins", DESK, 3)
    assert await seams.conflict_states() == [(item["uuid"], "resolved")]
    assert await seams.notices("sync-deletion") == 1


async def test_who_is_to_decide_is_told_though_the_hub_died(seams: Seams) -> None:
    """The conflict was written down, and the hub died before it told anybody."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("checkin_checkout", "checked_in", ARRIVED)
    item = seams.item("CheckIn", ARRIVED | {"room_number": "302"}, "CREATE", {"hotel-pms": 1})
    with (
        patch.object(seams.announcer, "announce", side_effect=asyncio.CancelledError),
        pytest.raises(asyncio.CancelledError),
    ):
        await seams.push(item)
    assert await seams.notices("sync-conflict") == 0
    for _ in range(2):
        assert [one.outcome for one in await seams.push(item)] == ["conflict"]
    assert await seams.notices("sync-conflict") == 1


async def test_who_waits_for_a_decision_that_was_published_waits_no_longer(seams: Seams) -> None:
    """The hub died between the event of a person's decision and the conflict's row."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("checkin_checkout", "checked_in", ARRIVED)
    held = seams.item("CheckIn", ARRIVED | {"room_number": "302"}, "CREATE", {"hotel-pms": 1})
    behind = seams.item("CheckOut", ARRIVED | {"room_number": "302"}, "CREATE", {"hotel-pms": 1})
    conflict, waits = await seams.push(held, behind)
    assert (conflict.outcome, waits.outcome) == ("conflict", "retry")
    assert conflict.conflict_id is not None
    with (
        patch.object(SyncConflicts, "resolve", side_effect=asyncio.CancelledError),
        pytest.raises(asyncio.CancelledError),
    ):
        await seams.resolve(conflict.conflict_id, "incoming")
    assert await seams.conflict_states() == [(held["uuid"], "open")]
    (goes_on,) = await seams.push(behind)
    assert (goes_on.outcome, await seams.conflict_states()) == ("resolved", [(held["uuid"], "resolved")])


# -- one guest, two rooms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "data", "room"),
    [("current", None, "301"), ("incoming", None, "302"), ("edited", {"room_number": "303"}, "303")],
)
@pytest.mark.parametrize("later", ["desk-1", "desk-2"])
async def test_a_decision_on_a_room_holds_wherever_the_room_is_told(
    seams: Seams, choice: str, data: dict[str, Any] | None, room: str, later: str
) -> None:
    """Whose clock is ahead moves nobody any more: reservation and check-out follow it; the other room is named."""
    await seams.publish("reservation", "created", BOOKED)
    ago = {desk: 60 if desk == later else 600 for desk in ("desk-1", "desk-2")}

    def arrival(desk: str, number: str) -> list[dict[str, Any]]:
        seen = {"hotel-pms": 1}
        stay, booking = ARRIVED | {"room_number": number}, {"room_number": number, "status": "checked_in"}
        return [
            seams.item("CheckIn", stay, "CREATE", seen, ago_s=ago[desk]),
            seams.item("Reservation", booking, base=seen | {desk: 1}, ago_s=ago[desk]),
        ]

    await seams.push(*arrival("desk-1", "301"))
    first, behind = arrival("desk-2", "302")
    left = seams.item("CheckOut", ARRIVED | {"room_number": "302"}, base={"hotel-pms": 1, "desk-2": 2}, ago_s=30)
    conflict, *_ = await seams.push(first, behind, device="desk-2")
    assert conflict.conflict_id is not None
    await seams.resolve(conflict.conflict_id, choice, **({} if data is None else {"data": data}))
    (goes_on,) = await seams.push(behind, device="desk-2")
    assert goes_on.outcome in ("applied", "resolved")
    for type in ("reservation", "checkin_checkout"):
        assert (await seams.state(type))["room_number"] == room
    others = {"301", "302"} - {room}
    told = [entry.event["data"] for entry in await seams.events() if entry.type == "system"]
    assert {one["detail"]["other"] for one in told if one["topic"] == "sync-room"} == others
    (gone,) = await seams.push(left, device="desk-2")
    assert gone.outcome in ("applied", "resolved")
    assert (await seams.by(left["uuid"]))[0].event["data"]["room_number"] == room
    shown = (await seams.desk.listed(ANNA, ConflictFilter(state="resolved"), 10, None)).conflicts
    lost = {one["uuid"]: one for one in shown}
    # What was said otherwise is kept and shown.
    assert (behind["uuid"] in lost) == (room != "302")


async def test_a_room_that_is_booked_apart_from_an_unseen_arrival_moves_nobody(seams: Seams) -> None:
    """The guest has arrived meanwhile, and has a room; one who saw that may move them."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("checkin_checkout", "checked_in", ARRIVED)
    unaware = seams.item("Reservation", {"room_number": "305"}, base={"hotel-pms": 1}, ago_s=1)
    (done,) = await seams.push(unaware)
    assert (done.outcome, done.winner) == ("resolved", "hotel-pms")
    assert (await seams.state("reservation"))["room_number"] == "301"
    aware = seams.item("Reservation", {"room_number": "305"}, base={"hotel-pms": 2}, ago_s=1)
    (moved,) = await seams.push(aware)
    assert (moved.outcome, (await seams.state("reservation"))["room_number"]) == ("applied", "305")


async def _given_away(seams: Seams) -> tuple[dict[str, Any], str]:
    """A desk checks a guest into a room that somebody else was given meanwhile: the reservation's item behind the
    check-in, and the conflict."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("reservation", "created", BOOKED | {"reservation_id": "R2"})
    await seams.publish("checkin_checkout", "checked_in", ARRIVED | {"reservation_id": "R2"})
    seen = {"hotel-pms": 1}
    stay = seams.item("CheckIn", ARRIVED, "CREATE", seen)
    booking = seams.item("Reservation", {"room_number": "301", "status": "checked_in"}, base=seen | {DESK: 1})
    conflict, waits = await seams.push(stay, booking)
    assert (conflict.outcome, waits.outcome) == ("conflict", "retry")
    assert conflict.conflict_id is not None
    return booking, conflict.conflict_id


async def test_guests_who_share_a_room_by_decision_are_not_asked_about_twice(seams: Seams) -> None:
    """What the desk did on top of the check-in that a person took in is no second question."""
    booking, conflict_id = await _given_away(seams)
    await seams.resolve(conflict_id, "incoming")
    assert [one.outcome for one in await seams.push(booking)] == ["resolved"]


@pytest.mark.parametrize(
    ("choice", "data", "room", "status"),
    [("edited", {"room_number": "302"}, "302", "checked_in"), ("current", None, None, "confirmed")],
)
async def test_a_guest_who_is_given_another_room_than_somebody_elses_is_asked_about_once(
    seams: Seams, choice: str, data: dict[str, Any] | None, room: str | None, status: str
) -> None:
    """Everybody is told by the reservation that the guest is in, and where, before the desk has heard of it; or that
    they are not. What the desk did on top follows."""
    booking, conflict_id = await _given_away(seams)
    await seams.resolve(conflict_id, choice, **({} if data is None else {"data": data}))
    decided = await seams.state("reservation")
    assert (decided["status"], decided.get("room_number")) == (status, room)
    assert [one.outcome for one in await seams.push(booking)] == ["resolved"]
    after = await seams.state("reservation")
    assert (after["status"], after.get("room_number")) == (status, room)
    assert {state for _, state in await seams.conflict_states()} == {"resolved"}
    told = [entry.event["data"] for entry in await seams.events() if entry.type == "system"]
    others = {"301"} if room else set()
    assert {one["detail"]["other"] for one in told if one["topic"] == "sync-room"} == others


# -- what is not for everybody --------------------------------------------------------------------------------------


async def test_what_was_kept_from_a_system_is_not_told_by_a_push(seams: Seams) -> None:
    """An event that says a state again goes to nobody whom that state was kept from; its maker and who publishes it are
    told as ever."""
    await seams.publish("reservation", "created", BOOKED, targets=["hotel-saas"])
    (peeked,) = await seams.push(
        seams.item("Reservation", {"adults": 2}, base={"hotel-pms": 1}), system="hotel-member", device="member-1"
    )
    assert (peeked.outcome, [one.path for one in peeked.errors or ()]) == ("rejected", ["entity_id"])
    first = seams.item("Reservation", {"adults": 2}, base={"hotel-pms": 1})
    second = seams.item("Reservation", {"children": 1}, base={"hotel-pms": 1, DESK: 1})
    stay = seams.item("CheckIn", ARRIVED, "CREATE", base={"hotel-pms": 1, DESK: 2})
    results = await seams.push(first, second, stay, system="hotel-pms")
    assert {one.outcome for one in results} == {"applied"}
    for item in (first, second, stay):
        assert (await seams.by(item["uuid"]))[0].targets == ("hotel-pms", "hotel-saas")
    # As another hub reads it, before and after it is in the states.
    third = seams.item("Reservation", {"adults": 3}, base={"hotel-pms": 1, DESK: 3})
    await seams.push(third, hub=seams.hub_of())
    await seams.project()
    fourth = seams.item("Reservation", {"adults": 4}, base={"hotel-pms": 1, DESK: 4})
    await seams.push(fourth, hub=seams.hub_of())
    for item in (third, fourth):
        assert (await seams.by(item["uuid"]))[0].targets == ("hotel-pms", "hotel-saas")


async def test_who_sends_nothing_to_itself_is_told_what_others_add(seams: Seams) -> None:
    """The front desk's system leaves itself out of what it publishes: what room service adds it is still sent."""
    charge = {"folio_id": "F1", "amount": 100, "currency": "JPY"}
    await seams.publish("billing", "charged", charge, targets=["hotel-saas"])
    item = seams.item("Billing", {"charge_id": "c2", "amount": 5}, "CREATE", {"hotel-pms": 1}, of="F1")
    (done,) = await seams.push(item, system="hotel-saas", device="saas-1")
    assert done.outcome == "applied"
    assert (await seams.by(item["uuid"]))[0].targets == ("hotel-pms", "hotel-saas")


@pytest.mark.parametrize("choice", ["current", "incoming", "edited"])
async def test_a_decision_tells_nobody_what_was_kept_from_them(seams: Seams, choice: str) -> None:
    """Neither the event of a person's decision nor the reservation that follows it goes to more systems."""
    narrow = {"targets": ["hotel-pms", "hotel-saas"]}
    await seams.publish("reservation", "created", BOOKED, **narrow)
    await seams.publish("checkin_checkout", "checked_in", ARRIVED, **narrow)
    (conflict,) = await seams.push(seams.item("CheckIn", ARRIVED | {"room_number": "302"}, "CREATE", {"hotel-pms": 1}))
    assert conflict.conflict_id is not None
    await seams.resolve(
        conflict.conflict_id, choice, **({"data": {"room_number": "303"}} if choice == "edited" else {})
    )
    told = [entry.targets for entry in await seams.events() if entry.type != "system"]
    assert len(told) == 4
    assert set(told) == {("hotel-pms", "hotel-saas")}


# -- two at once ----------------------------------------------------------------------------------------------------


def _together(calls: int) -> Callable[[Any], Any]:
    """Makes the first so many that come to a method wait for each other."""
    barrier = asyncio.Barrier(calls)
    came = count(1)

    def wrap(method: Any) -> Any:
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            found = await method(*args, **kwargs)
            if next(came) <= calls:
                await barrier.wait()
            return found

        return wrapped

    return wrap


async def test_one_batch_twice_at_once_meets_one_conflict(seams: Seams) -> None:
    """The line was slow and the desk sent again, to another hub: both answer the same, and all of it is kept."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("checkin_checkout", "checked_in", ARRIVED)
    moved = seams.item("CheckIn", ARRIVED | {"room_number": "302"}, "CREATE", {"hotel-pms": 1})
    booked = seams.item("Reservation", BOOKED | {"reservation_id": "R2"}, "CREATE", of="R2")
    later = seams.item("Reservation", BOOKED | {"reservation_id": "R3"}, "CREATE", of="R3")
    with patch.object(seams.items, "known", _together(2)(seams.items.known)):
        first, second = await asyncio.gather(
            seams.push(moved, booked), seams.push(later, moved, booked, hub=seams.hub_of())
        )
    assert (first[0].outcome, second[1].outcome) == ("conflict", "conflict")
    assert first[0].conflict_id == second[1].conflict_id
    assert sorted((first[1].outcome, second[2].outcome)) == ["applied", "duplicate"]
    assert await seams.conflict_states() == [(moved["uuid"], "open")]
    assert [(await seams.row(one)).outcome for one in (moved, booked, later)] == ["conflict", "applied", "applied"]
    assert await seams.notices("sync-conflict") == 1


async def test_who_comes_second_leaves_what_the_first_wrote_down(seams: Seams) -> None:
    """A copy of a batch that finds the event there takes nothing away from how it was settled."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("reservation", "updated", BOOKED | {"guest_name": "Sato"})
    item = seams.item("Reservation", {"special_requests": "late"}, base={"hotel-pms": 1})
    with patch.object(seams.items, "known", _together(2)(seams.items.known)):
        results = await asyncio.gather(seams.push(item), seams.push(item, hub=seams.hub_of()))
    assert sorted(one.outcome for (one,) in results) == ["duplicate", "resolved"]
    row = await seams.row(item)
    assert (row.outcome, row.policy, row.touched) == ("resolved", "merge", frozenset({"special_requests"}))


@pytest.mark.parametrize("moves", [False, True], ids=["arrival", "move"])
async def test_two_hubs_give_one_room_away_once(seams: Seams, moves: bool) -> None:
    """Two desks come back at the same instant, each to another hub: the second guest is a person's to look at, who
    arrives, or is moved by the reservation."""
    ours, theirs = seams.hub_of(), seams.hub_of()
    other = seams.item("CheckIn", ARRIVED | {"reservation_id": "R2"}, "CREATE", of="R2")
    if moves:
        await seams.publish("reservation", "created", BOOKED | {"reservation_id": "R2"})
        await seams.publish("checkin_checkout", "checked_in", ARRIVED | {"reservation_id": "R2", "room_number": "305"})
        other = seams.item("Reservation", {"room_number": "301"}, of="R2", base={"hotel-pms": 2})
    look, looked, goes_on = ours._settling._rooms.of, asyncio.Event(), asyncio.Event()
    turn, asks = theirs._settling._rooms.turn, asyncio.Event()

    async def slow(*args: Any) -> Any:
        found = await look(*args)
        looked.set()
        await goes_on.wait()
        return found

    def asking(*args: Any) -> Any:
        asks.set()
        return turn(*args)

    with patch.object(ours._settling._rooms, "of", slow), patch.object(theirs._settling._rooms, "turn", asking):
        first = asyncio.create_task(seams.push(seams.item("CheckIn", ARRIVED, "CREATE"), hub=ours))
        await looked.wait()
        second = asyncio.create_task(seams.push(other, hub=theirs, device="desk-2"))
        asked = asyncio.create_task(asks.wait())
        await asyncio.wait([second, asked], return_when=asyncio.FIRST_COMPLETED)
        await turns(200)
        assert asked.done()
        assert not second.done()
        goes_on.set()
        outcomes = [one.outcome for one in [*await first, *await second]]
    assert outcomes == ["applied", "conflict"]


async def test_two_hubs_that_decide_otherwise(seams: Seams) -> None:
    """One found the room empty and published; the other found it taken: the event in the log is what counts."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("reservation", "created", BOOKED | {"reservation_id": "R2"})
    item = seams.item("CheckIn", ARRIVED, "CREATE", {"hotel-pms": 1})
    looked, goes_on = asyncio.Event(), asyncio.Event()
    slow = seams.hub_of()
    submit = seams.publisher.submit

    def held(*args: Any) -> Any:
        async def later() -> Any:
            looked.set()
            await goes_on.wait()
            return await submit(*args)

        return later()

    # So slow that its turn at the room is over.
    with patch.object(slow._settling._publisher, "submit", held), patch.object(log_turns, "HELD_MS", 1):
        first = asyncio.create_task(seams.push(item, hub=slow))
        await looked.wait()
    await seams.publish("checkin_checkout", "checked_in", ARRIVED | {"reservation_id": "R2"})
    (waits,) = await seams.push(item)
    assert waits.outcome == "conflict"
    goes_on.set()
    (done,) = await first
    assert done.outcome == "applied"
    assert (await seams.row(item)).outcome == "applied"
    assert await seams.conflict_states() == [(item["uuid"], "resolved")]
    assert [one.outcome for one in await seams.push(item)] == ["duplicate"]


async def test_one_that_decides_late_what_is_done(seams: Seams) -> None:
    """The item's event came and was written down while another hub held it for a conflict: it answers so."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("checkin_checkout", "checked_in", ARRIVED)
    item = seams.item("CheckIn", ARRIVED | {"room_number": "302"}, "CREATE", {"hotel-pms": 1})
    settle, decided, goes_on = seams.items.settle, asyncio.Event(), asyncio.Event()

    async def late(*args: Any) -> Any:
        decided.set()
        await goes_on.wait()
        return await settle(*args)

    with patch.object(seams.items, "settle", late):
        first = asyncio.create_task(seams.push(item))
        await decided.wait()
    # The desk has heard of the other check-in meanwhile.
    token = claims([TENANT], "hotel-pms", ("publish:*",))
    event = {"type": "checkin_checkout", "action": "checked_in", "event_id": item["uuid"], "device_id": DESK}
    event |= {"created_offline": True, "data": ARRIVED | {"room_number": "302"}}
    parsed = strict_json.parse(orjson.dumps(event))
    await seams.publisher.submit(parsed, parsed.tree, token)
    (done,) = await seams.push(item, hub=seams.hub_of())
    assert done.outcome == "duplicate"
    goes_on.set()
    (answer,) = await first
    assert (answer.outcome, answer.revision) == ("duplicate", 3)
    assert (await seams.row(item)).outcome in ("applied", "resolved")
    assert await seams.conflict_states() == []
    assert await seams.notices("sync-conflict") == 0


# -- one that fails -------------------------------------------------------------------------------------------------


async def test_an_item_that_the_hub_fails_at_keeps_no_other(seams: Seams) -> None:
    """It is to be sent again; what else is in its batch is settled and written down."""
    bad = seams.item("Reservation", BOOKED, "CREATE")
    good = seams.item("Reservation", BOOKED | {"reservation_id": "R2"}, "CREATE", of="R2")
    settle = SyncSettling.settle

    async def failing(self: SyncSettling, tenant_id: str, intent: Any, *rest: Any, **named: Any) -> Any:
        if intent.uuid == bad["uuid"]:
            raise ValueError("a defect")
        return await settle(self, tenant_id, intent, *rest, **named)

    with patch.object(SyncSettling, "settle", failing):
        refused, taken = await seams.push(bad, good)
    assert (refused.outcome, taken.outcome) == ("retry", "applied")
    assert ((await seams.row(good)).outcome, (await seams.row(bad)).outcome) == ("applied", "retry")


async def test_nothing_overtakes_an_item_that_could_not_be_read(seams: Seams) -> None:
    """What a desk did on top of an operation that is refused waits for it; other entities go on."""
    broken = seams.item("Reservation", BOOKED, "CREATE", checksum="0" * 64)
    on_top = seams.item("Reservation", BOOKED | {"guest_name": "Sato"}, "CREATE")
    other = seams.item("Reservation", BOOKED | {"reservation_id": "R2"}, "CREATE", of="R2")
    results = await seams.push(broken, on_top, other)
    assert [one.outcome for one in results] == ["rejected", "retry", "applied"]
    assert results[1].errors is not None
    assert results[1].errors[0].path == "conflict"


async def test_nothing_is_taken_with_a_cursor_that_is_none(seams: Seams) -> None:
    """It is refused before anything is written down."""
    item = seams.item("Reservation", BOOKED, "CREATE")
    with pytest.raises(Problem) as caught:
        await seams.push(item, cursor="nonsense")
    assert caught.value.code == "invalid_cursor"
    assert await seams.items.known(TENANT, [item["uuid"]]) == {}


async def test_a_clock_that_is_set_between_two_comings_changes_nothing(seams: Seams) -> None:
    """An item that comes again was made when its first coming said, by which others may be decided already."""
    item = seams.item("RoomStatus", ROOM, "CREATE", of="301")
    with patch.object(seams.publisher, "submit", side_effect=StoreUnavailable("away")):
        assert (await seams.push(item))[0].outcome == "retry"
    before = await seams.row(item)
    await seams.push(item, sent_at=datetime.fromtimestamp(T0 / 1000 + 900, UTC).isoformat())
    (entry,) = await seams.by(item["uuid"])
    assert datetime.fromisoformat(entry.event["occurred_at"]).timestamp() * 1000 == before.created_ms


# -- what was seen --------------------------------------------------------------------------------------------------


async def test_a_desk_knows_what_it_did_itself(seams: Seams) -> None:
    """Though its clock was set back in between: what another one does next brings no older value back."""
    await seams.publish("room", "status_changed", ROOM)
    seen = {"hotel-pms": 1}
    noon = seams.item("RoomStatus", {"maintenance_notes": "noon"}, of="301", base=seen, ago_s=100)
    again = seams.item("RoomStatus", {"maintenance_notes": "eleven"}, of="301", base=seen, ago_s=3700)
    results = await seams.push(noon, again)
    assert [one.outcome for one in results] == ["applied", "applied"]
    other = seams.item("RoomStatus", {"maintenance_notes": "early"}, of="301", base=seen, ago_s=7200)
    (settled,) = await seams.push(other, device="desk-2")
    assert (settled.outcome, settled.policy) == ("resolved", "timestamp")
    assert (await seams.state("room", "room:301"))["maintenance_notes"] == "eleven"


async def test_a_movement_stays_in_the_folios_currency(seams: Seams) -> None:
    """A charge that names no currency is one in that of its folio, not in the property's."""
    await seams.publish("billing", "charged", {"folio_id": "F1", "amount": 10, "currency": "USD", "balance": 10})
    item = seams.item("Billing", {"amount": 5, "balance": 15}, "CREATE", {"hotel-pms": 1}, of="F1")
    await seams.push(item)
    (entry,) = await seams.by(item["uuid"])
    assert entry.event["data"]["currency"] == "USD"


async def test_what_is_archived_while_events_are_read_is_among_them(seams: Seams) -> None:
    """The archive may take events between the look at its entity and the look at its end: none falls in between."""
    history = seams.rig.history
    records = SyncRecords(history)
    for status in ("vacant_clean", "vacant_dirty"):
        await seams.publish("room", "status_changed", ROOM | {"status": status})
    entity = history.entity

    async def overtaken(*args: Any, **kwargs: Any) -> Any:
        page = await entity(*args, **kwargs)
        await seams.archive()
        return page

    with patch.object(history, "entity", side_effect=overtaken):
        assert [entry.revision for entry in await records.events(TENANT, "room:301")] == [1, 2]


async def test_many_unseen_edits_of_one_entity_read_its_history_once(seams: Seams) -> None:
    """However long that is; each is held against what the ones before it came to all the same."""
    for number in range(40):
        await seams.publish("room", "status_changed", ROOM | {"maintenance_notes": str(number)})
    await seams.archive()
    edits = [
        seams.item("RoomStatus", {"housekeeping": state}, of="301", base={"hotel-pms": 1}, ago_s=ago_s)
        for state, ago_s in (("dirty", 10), ("clean", 7200), ("inspected", 5000))
    ]
    read = 0
    known = seams.items.known

    async def counted(tenant_id: str, uuids: Collection[str]) -> Any:
        nonlocal read
        read += len(uuids)
        return await known(tenant_id, uuids)

    with patch.object(seams.items, "known", counted):
        results = await seams.push(*edits)
    assert [one.outcome for one in results] == ["resolved"] * 3
    assert (await seams.state("room", "room:301"))["housekeeping"] == "inspected"
    # The items themselves, the events, and one more for each item that was settled after another.
    assert read == 3 + 40 + 2


# -- a log that was lost --------------------------------------------------------------------------------------------


async def test_what_is_remembered_is_of_this_history(seams: Seams) -> None:
    """A log that lost its last events and had others since has the same revisions, and another state."""
    await seams.publish("room", "status_changed", ROOM)
    records = SyncRecords(seams.rig.history)
    assert (await records.load(TENANT, ["room:301"]))["room:301"].data("room") is not None
    partition = seams.rig.log.partition(TENANT)
    keys = seams.rig.log.keys
    await seams.rig.log.source.client.delete(
        keys.events(partition), keys.sequences(partition), keys.revisions(partition)
    )
    await seams.rig.log.source.client.incr(keys.epoch(partition))
    await seams.rig.reopen()
    await seams.publish("room", "status_changed", ROOM | {"status": "vacant_dirty"})
    known = (await records.load(TENANT, ["room:301"]))["room:301"]
    assert (known.data("room") or {})["status"] == "vacant_dirty"


async def test_an_operation_that_the_log_lost_is_done_when_it_comes_again(seams: Seams) -> None:
    """It was called done, and the log lost it before it was archived: the desk that sends it again is believed."""
    item = seams.item("Reservation", BOOKED, "CREATE")
    assert (await seams.push(item))[0].outcome == "applied"
    partition, keys = seams.rig.log.partition(TENANT), seams.rig.log.keys
    await seams.rig.log.source.client.delete(
        keys.events(partition),
        keys.sequences(partition),
        keys.revisions(partition),
        seams.rig.log.receipts_key(partition)[0],
    )
    await seams.rig.log.source.client.incr(keys.epoch(partition))
    await seams.rig.reopen()
    (again,) = await seams.push(item)
    assert again.outcome == "applied"
    assert len(await seams.by(item["uuid"])) == 1
    row = await seams.row(item)
    assert (row.outcome, row.cursor) == ("applied", again.cursor)
    assert (await seams.push(item))[0].outcome == "duplicate"


async def test_rooms_that_could_not_be_read_whole_are_read_anew(seams: Seams) -> None:
    """Who left while the store was away is not in the room when it is back."""
    for number in ("R1", "R2"):
        await seams.publish("reservation", "created", BOOKED | {"reservation_id": number})
        await seams.publish("checkin_checkout", "checked_in", ARRIVED | {"reservation_id": number})
    await seams.project()
    rooms = OccupiedRooms(seams.rig.history)
    pages = iter([seams.rig.store.entities.page] * 2)

    async def fails(*args: Any, **kwargs: Any) -> Any:
        if (page := next(pages, None)) is None:
            raise StoreUnavailable("away")
        return await page(*args, **kwargs)

    with (
        patch.object(seams.rig.store.entities, "page", fails),
        patch("hub.services.occupied_rooms.CHUNK", 1),
        pytest.raises(StoreUnavailable),
    ):
        await rooms.of(TENANT, "301")
    left = {"actual_checkout_time": "2026-07-15T10:00:00+09:00"}
    await seams.publish("checkin_checkout", "checked_out", ARRIVED | left)
    await seams.project()
    assert [stay.reservation for stay in await rooms.of(TENANT, "301")] == ["reservation:R2"]


async def test_a_hub_that_begins_anew_knows_who_is_in_a_room(seams: Seams) -> None:
    """Who left without a word of when is not there, and who came is, with the desk that checked them in."""
    for number, room in (("R1", "301"), ("R2", "302"), ("R3", "303")):
        await seams.publish("reservation", "created", BOOKED | {"reservation_id": number})
        item = seams.item("CheckIn", ARRIVED | {"reservation_id": number, "room_number": room}, "CREATE", of=number)
        assert (await seams.push(item))[0].outcome in ("applied", "resolved")
    await seams.publish("checkin_checkout", "checked_out", ARRIVED)
    await seams.publish("checkin_checkout", "no_show", ARRIVED | {"reservation_id": "R3", "room_number": "303"})
    await seams.project()
    rooms = OccupiedRooms(seams.rig.history)
    assert [await rooms.of(TENANT, "301"), await rooms.of(TENANT, "303")] == [[], []]
    assert await rooms.of(TENANT, "302") == [("reservation:R2", "302", 4, DESK)]


async def test_counts_of_conflicts_are_of_one_each(seams: Seams) -> None:
    """However many hubs decide an item at once, it is one conflict."""
    await seams.publish("reservation", "created", BOOKED)
    await seams.publish("checkin_checkout", "checked_in", ARRIVED)
    item = seams.item("CheckIn", ARRIVED | {"room_number": "302"}, "CREATE", {"hotel-pms": 1})
    with patch.object(seams.items, "known", _together(2)(seams.items.known)):
        await asyncio.gather(seams.push(item), seams.push(item, hub=seams.hub_of()))
    assert seams.counted("open") == 1
    async with seams.rig.store.database.reading() as connection:
        assert await connection.scalar(select(func.count()).select_from(sync_conflicts)) == 1
