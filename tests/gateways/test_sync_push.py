"""`POST /sync/push` through a whole hub: each operation of a desk once, whatever comes twice, late, or damaged."""

from __future__ import annotations

import asyncio
import gzip
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import orjson
import pytest
import pytest_asyncio
import zstandard
from desk import BOOKING, CREATED, Desk, Property
from house import House

from hub.app import Hub
from hub.services.syncer import MAX_PUSHES
from hub.settings import load
from hub.store.database import StoreUnavailable
from schemas.canonical import checksum

pytestmark = pytest.mark.asyncio(loop_scope="module")

ARRIVAL = {"room_number": "301", "actual_checkin_time": CREATED, "payment_status": "pending"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hub]:
    """One hub for all of these tests."""
    async with Hub(load(data_dir=tmp_path_factory.mktemp("hub"), port=0)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def house(hub: Hub) -> AsyncIterator[Property]:
    """A property that no other test knows."""
    found = Property(hub, f"t-{uuid.uuid4().hex[:12]}")
    yield found
    await found.http.aclose()


def paths(result: dict[str, Any]) -> list[str]:
    """The fields that a result names."""
    return [one["path"] for one in result["errors"]]


async def test_an_operation_becomes_one_event(house: House) -> None:
    """An item is an event with its uuid, its device and the time it was made, and is told where that lies."""
    desk = Desk(house)
    item = desk.item("Reservation", "R1", BOOKING, temp_id="T-1")
    (result,) = await desk.push(item)
    assert (result["outcome"], result["revision"], result["version"]) == ("applied", 1, {"desk-1": 1})
    (event,) = await desk.events()
    assert (event["event_id"], event["device_id"], event["temp_id"]) == (item["uuid"], "desk-1", "T-1")
    assert (event["type"], event["action"], event["entity"]) == ("reservation", "created", "reservation:R1")
    assert event["created_offline"] is True
    assert event["occurred_at"] == "2026-07-15T06:04:00.000Z"
    assert event["data"]["updated_by_system"] == "hotel-pms"


async def test_what_comes_again_is_a_duplicate(house: House) -> None:
    """An item that was taken is answered with the place of its event, as often as it comes, alone or in one batch."""
    desk = Desk(house)
    item = desk.item("Reservation", "R1", BOOKING)
    first, twin = await desk.push(item, item)
    assert (first["outcome"], twin["outcome"]) == ("applied", "duplicate")
    (again,) = await desk.push(item)
    assert (again["outcome"], again["cursor"], again["revision"]) == ("duplicate", first["cursor"], 1)
    assert len(await desk.events()) == 1


async def test_what_was_published_before_a_crash_is_found(house: House) -> None:
    """A hub that dies after the event is stored, and before it wrote down so, finds it when the item comes again."""
    desk = Desk(house)
    item = desk.item("Reservation", "R1", BOOKING)
    with patch.object(house.hub.store.sync_items, "settle", side_effect=StoreUnavailable("away")):
        (first,) = await desk.push(item)
    assert first["outcome"] == "applied"
    (again,) = await desk.push(item)
    assert (again["outcome"], again["cursor"]) == ("duplicate", first["cursor"])
    assert len(await desk.events()) == 1


async def test_what_was_published_before_a_crash_waits_for_nobody(house: House) -> None:
    """When others have gone on from events whose hub died, their items are taken as they are, and nobody decides."""
    desk, other = Desk(house), Desk(house, "desk-2")
    arrived = desk.item("CheckIn", "R1", ARRIVAL)
    moved = desk.item("CheckIn", "R1", {"room_number": "302", "payment_status": "pending"}, "UPDATE", {"desk-1": 1})
    with patch.object(house.hub.store.sync_items, "settle", side_effect=StoreUnavailable("away")):
        first, second = await desk.push(arrived, moved)
    await other.one("CheckIn", "R1", {"room_number": "303", "payment_status": "pending"}, "UPDATE", second["version"])
    # Who has seen that the guest of R1 left the room gives it to another.
    (given,) = await other.push(other.item("CheckIn", "R2", ARRIVAL), cursor=second["cursor"])
    assert given["outcome"] == "applied"
    results = await desk.push(arrived, moved)
    assert [(one["outcome"], one["cursor"]) for one in results] == [
        ("duplicate", first["cursor"]),
        ("duplicate", second["cursor"]),
    ]
    assert len(await desk.events()) == 4


async def test_pushes_of_one_device_come_one_after_another(house: House) -> None:
    """What comes again while it is still at work waits for that, and does not have the hub do it twice at once; what is
    more than a few is refused for now."""
    desk = Desk(house)
    body = desk.batch(desk.item("Reservation", "R1", BOOKING))
    items = house.hub.store.sync_items
    write, begun, gate = items.write, asyncio.Event(), asyncio.Event()
    at_work: list[int] = [0]

    async def writing(*args: Any) -> None:
        at_work.append(at_work[-1] + 1)
        begun.set()
        await gate.wait()
        await write(*args)
        at_work.append(at_work[-1] - 1)

    with patch.object(items, "write", writing):
        pushes = [asyncio.create_task(desk.send(body)) for _ in range(MAX_PUSHES + 1)]
        (refused,), waiting = await asyncio.wait(pushes, return_when=asyncio.FIRST_COMPLETED)
        response = refused.result()
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")
        await begun.wait()
        gate.set()
        answers = [response.json() for response in await asyncio.gather(*waiting)]
    assert sorted(answer["results"][0]["outcome"] for answer in answers) == ["applied", *["duplicate"] * 3]
    assert max(at_work) == 1
    assert len(await desk.events()) == 1


async def test_nothing_is_taken_without_the_store(house: House) -> None:
    """While items cannot be written down the whole batch is to be sent again, and no event is made."""
    desk = Desk(house)
    item = desk.item("Reservation", "R1", BOOKING)
    with patch.object(house.hub.store.sync_items, "write", side_effect=StoreUnavailable("away")):
        response = await desk.send(desk.batch(item))
    assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
    assert await desk.events() == []
    assert (await desk.push(item))[0]["outcome"] == "applied"


async def test_a_batch_that_was_damaged_on_its_way_is_not_looked_at(house: House) -> None:
    """A batch whose CRC does not fit is refused as a whole, naming the field."""
    desk = Desk(house)
    body = desk.batch(desk.item("Reservation", "R1", BOOKING))
    response = await desk.send(body | {"batch_crc32": (body["batch_crc32"] + 1) % 2**32})
    assert response.status_code == 422
    assert response.json()["errors"][0]["path"] == "batch_crc32"
    assert await desk.events() == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"checksum": "0" * 64}, "checksum"),
        ({"payload": BOOKING | {"total_amount": 1}}, "checksum"),
        ({"model": "Minibar"}, "model"),
        ({"operation": "UPSERT"}, "operation"),
        ({"schema_version": 99}, "schema_version"),
        ({"createdAt": "yesterday"}, "createdAt"),
        ({"base_version": {"desk-1": -1}}, "base_version.desk-1"),
        ({"device_sequence": 0}, "device_sequence"),
        ({"uuid": "offline-1752541440000"}, "uuid"),
        ({"entity_id": "with space"}, "entity_id"),
    ],
)
async def test_a_bad_item_is_named_and_keeps_no_other(house: House, change: dict[str, Any], path: str) -> None:
    """An item that cannot be taken says which field is wrong; the others of its batch are taken."""
    desk = Desk(house)
    bad = desk.item("Reservation", "R1", BOOKING) | change
    good = desk.item("Reservation", "R2", BOOKING)
    refused, taken = await desk.push(bad, good)
    assert (refused["outcome"], taken["outcome"]) == ("rejected", "applied")
    assert path in paths(refused)
    assert [event["entity"] for event in await desk.events()] == ["reservation:R2"]


async def test_a_form_that_does_not_fit_is_told_in_words(house: House) -> None:
    """Whoever has to mend it need not read patterns."""
    desk = Desk(house)
    bad = desk.item("Reservation", "R1", BOOKING) | {"uuid": "7", "entity_id": "R 1", "checksum": "none"}
    (refused,) = await desk.push(bad)
    told = {one["path"]: one["message"] for one in refused["errors"]}
    assert set(told) == {"uuid", "entity_id", "checksum"}
    assert all(message.startswith("must be ") and "pattern" not in message for message in told.values()), told


async def test_what_does_not_fit_its_schema_is_named_and_taken_when_mended(house: House) -> None:
    """A payload without a required field is rejected by that field; as a new item with it, it is taken."""
    desk = Desk(house)
    short = {name: value for name, value in BOOKING.items() if name != "room_type"}
    refused = await desk.one("Reservation", "R1", short)
    assert (refused["outcome"], paths(refused)) == ("rejected", ["payload.room_type"])
    assert (await desk.one("Reservation", "R1", BOOKING))["outcome"] == "applied"


@pytest.mark.parametrize("amount", ["many", [], {}, True])
async def test_a_charge_that_is_no_amount_is_refused(house: House, amount: Any) -> None:
    """Also on a folio that has a balance, which it cannot be reckoned to."""
    desk = Desk(house)
    await desk.one("Billing", "F-1", {"amount": 5})
    refused = await desk.one("Billing", "F-1", {"amount": amount})
    assert (refused["outcome"], paths(refused)) == ("rejected", ["payload.amount"])


async def test_nobody_is_asked_to_decide_what_cannot_be(house: House) -> None:
    """An item that fits no event is refused, though others changed the same and a person would be asked."""
    first, second = Desk(house), Desk(house, "desk-2")
    await first.push(first.item("Reservation", "R1", BOOKING), first.item("CheckIn", "R1", ARRIVAL))
    refused = await second.one("CheckIn", "R2", ARRIVAL | {"payment_status": "soon", "actual_checkin_time": "noon"})
    assert refused["outcome"] == "rejected"
    assert sorted(paths(refused)) == ["payload.actual_checkin_time", "payload.payment_status"]


async def test_every_answer_is_counted(house: House) -> None:
    """Also of what could not be read."""
    desk, counted = Desk(house), house.hub.metrics.sync_items

    def so_far() -> list[float]:
        return [counted.labels(model, "rejected")._value.get() for model in ("Reservation", "unknown")]

    before = so_far()
    wrong = desk.item("Reservation", "R1", BOOKING, checksum="0" * 64)
    strange = desk.item("Reservation", "R1", BOOKING) | {"model": "Spa"}
    await desk.push(wrong, desk.item("Reservation", "R2", {}), strange)
    assert [now - was for now, was in zip(so_far(), before, strict=True)] == [2, 1]


async def test_a_uuid_with_another_payload_is_refused(house: House) -> None:
    """The same uuid cannot say something else later; what it said first stays."""
    desk = Desk(house)
    item = desk.item("Reservation", "R1", BOOKING)
    await desk.push(item)
    other = BOOKING | {"total_amount": 1}
    (refused,) = await desk.push(item | {"payload": other, "checksum": checksum(other)})
    assert (refused["outcome"], paths(refused)) == ("rejected", ["uuid"])
    assert [event["data"]["total_amount"] for event in await desk.events()] == [24000]


async def test_two_items_of_a_batch_with_one_uuid_are_not_taken_for_one(house: House) -> None:
    """Of two that say the same of different rooms, the second is refused: it is no duplicate of the first."""
    desk = Desk(house)
    await desk.push(*(desk.item("RoomStatus", number, _room("occupied")) for number in ("301", "302")))
    one, other = (desk.item("RoomStatus", number, {"status": "vacant_dirty"}, "UPDATE") for number in ("301", "302"))
    taken, refused, again = await desk.push(one, other | {"uuid": one["uuid"]}, one)
    assert (taken["outcome"], again["outcome"]) == ("applied", "duplicate")
    assert (refused["outcome"], paths(refused)) == ("rejected", ["uuid"])
    assert "entity_id" in refused["errors"][0]["message"]
    assert len(await desk.events(entity="room:302")) == 1


async def test_a_uuid_of_somebody_elses_event_is_refused(house: House) -> None:
    """An item that has the id of an event which did not come from its device is no duplicate of it."""
    desk = Desk(house)
    item = desk.item("Reservation", "R1", BOOKING)
    await house.publish(house.reservation("R9", event_id=item["uuid"]))
    (refused,) = await desk.push(item)
    assert (refused["outcome"], paths(refused)) == ("rejected", ["uuid"])


async def test_two_machines_with_one_device_id_are_told_apart(house: House) -> None:
    """A number that another item of this device had is refused, with the fix; nothing of either is lost or mixed."""
    desk, twin = Desk(house), Desk(house)
    await desk.one("Reservation", "R1", BOOKING)
    refused = await twin.one("Reservation", "R2", BOOKING)
    assert (refused["outcome"], paths(refused)) == ("rejected", ["device_sequence"])
    assert "another device" in refused["errors"][0]["message"]
    foreign = Desk(house, system="hotel-saas")
    response = await foreign.send(foreign.batch())
    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


async def test_a_token_speaks_for_its_own_device_and_scope(house: House) -> None:
    """Without `sync`, for another device, with masked eyes, or for another tenant, nothing is taken."""
    for desk in (
        Desk(house, scopes=("publish:*", "subscribe:*")),
        _of_device(house, "desk-2"),
        Desk(house, view="masked"),
    ):
        response = await desk.send(desk.batch(desk.item("Reservation", "R1", BOOKING)))
        assert (response.status_code, response.json()["code"]) == (403, "forbidden"), response.text
    desk = Desk(house)
    response = await desk.send(desk.batch(desk.item("Reservation", "R1", BOOKING), tenant_id="other"))
    assert response.status_code == 403
    assert await desk.events() == []


def _of_device(house: House, token_device: str) -> Desk:
    desk = Desk(house, device_id="desk-1")
    desk.token["device_id"] = token_device
    return desk


async def test_authority_binds_devices_too(house: House) -> None:
    """Room service's tablet cannot check a guest in, however it asks."""
    tablet = Desk(house, "tablet-1", "hotel-saas")
    refused = await tablet.one("CheckIn", "R1", ARRIVAL)
    assert refused["outcome"] == "rejected"
    assert await tablet.events() == []


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_bodies_may_be_compressed(house: House, encoding: str) -> None:
    """A folded body is read; one cut short, one that unfolds without end, and an unknown one are refused in words."""
    desk = Desk(house)
    fold: Callable[[bytes], bytes] = gzip.compress if encoding == "gzip" else zstandard.ZstdCompressor().compress
    body = fold(orjson.dumps(desk.batch(desk.item("Reservation", "R1", BOOKING))))
    assert (await desk.send(body[: len(body) // 2], **{"Content-Encoding": encoding})).status_code == 422
    assert (await desk.send(fold(b" " * 50_000_000), **{"Content-Encoding": encoding})).status_code == 413
    assert (await desk.send(body, **{"Content-Encoding": "br"})).status_code == 422
    response = await desk.send(body, **{"Content-Encoding": encoding})
    assert response.json()["results"][0]["outcome"] == "applied"


async def test_operations_on_one_entity_keep_their_order(house: House) -> None:
    """The items of one entity are settled one after the other; behind one that is refused, the rest waits."""
    desk = Desk(house)
    items = [desk.item("Reservation", "R1", BOOKING)]
    items += [
        desk.item("Reservation", "R1", {"adults": number}, "UPDATE", {"desk-1": number}) for number in range(1, 6)
    ]
    assert [one["revision"] for one in await desk.push(*items)] == [1, 2, 3, 4, 5, 6]
    bad = desk.item("Reservation", "R1", {"adults": -1}, "UPDATE", {"desk-1": 6})
    behind = desk.item("Reservation", "R1", {"adults": 3}, "UPDATE", {"desk-1": 7})
    refused, waits = await desk.push(bad, behind)
    assert (refused["outcome"], waits["outcome"]) == ("rejected", "retry")
    assert bad["uuid"] in waits["errors"][0]["message"]


async def test_a_batch_in_another_order_is_settled_in_the_devices(house: House) -> None:
    """The device's numbers tell what it did first; the answers stand as the items do."""
    desk = Desk(house)
    booked = desk.item("Reservation", "R1", BOOKING)
    first, second = (desk.item("Reservation", "R1", {"adults": adults}, "UPDATE") for adults in (1, 2))
    results = await desk.push(second, first, booked)
    assert [one["revision"] for one in results] == [3, 2, 1]
    assert [event["data"].get("adults") for event in await desk.events()] == [None, 1, 2]


async def test_what_was_done_before_a_damaged_item_does_not_wait_for_it(house: House) -> None:
    """Wherever it stands in the batch, a damaged item holds back what its device did after it, and that alone."""
    desk = Desk(house)
    booked = desk.item("Reservation", "R1", BOOKING)
    damaged = desk.item("Reservation", "R1", {"adults": 1}, "UPDATE", checksum="0" * 64)
    after = desk.item("Reservation", "R1", {"adults": 2}, "UPDATE")
    assert [one["outcome"] for one in await desk.push(after, damaged, booked)] == ["retry", "rejected", "applied"]


async def test_an_update_may_carry_what_changed_alone(house: House) -> None:
    """The event of a partial update carries the whole state, as consumers expect of it."""
    desk = Desk(house)
    await desk.one("Reservation", "R1", BOOKING)
    await desk.one("Reservation", "R1", {"status": "cancelled"}, "UPDATE", {"desk-1": 1})
    event = (await desk.events())[-1]
    assert (event["action"], event["data"]["status"], event["data"]["room_type"]) == ("cancelled", "cancelled", "twin")


async def test_concurrent_edits_are_settled_and_the_loser_is_kept(house: House) -> None:
    """The item that loses is in the log once with the winner's values, and what it said is kept and shown."""
    desk, other = Desk(house), Desk(house, "desk-2")
    await desk.one("RoomStatus", "301", _room("occupied"))
    late = desk.item("RoomStatus", "301", {"status": "vacant_dirty"}, "UPDATE", {"desk-1": 1})
    early = other.item("RoomStatus", "301", {"status": "cleaning", "housekeeping": "dirty"}, "UPDATE", {"desk-1": 1})
    await desk.push(late | {"createdAt": "2026-07-15T16:00:00+09:00"})
    (result,) = await other.push(early | {"createdAt": "2026-07-15T15:30:00+09:00"})
    assert (result["outcome"], result["policy"], result["winner"]) == ("resolved", "timestamp", "desk-1")
    event = (await desk.events())[-1]
    assert event["event_id"] == early["uuid"]
    assert (event["data"]["status"], event["data"]["housekeeping"]) == ("vacant_dirty", "dirty")
    headers = house.headers(scopes=("sync",))
    (row,) = (await house.http.get("/conflicts?state=resolved", headers=headers)).json()["conflicts"]
    assert row["conflict_id"] == result["conflict_id"]
    (field,) = row["fields"]
    assert (field["field"], field["current"], field["incoming"]) == ("status", "vacant_dirty", "cleaning")


def _room(status: str) -> dict[str, Any]:
    return {"room_number": "301", "room_type": "twin", "status": status, "availability_date": "2026-07-15"}


async def test_an_edit_against_the_log_as_it_is_now(house: House) -> None:
    """What was published a moment ago, and is in no projection yet, is seen by the decision."""
    desk = Desk(house)
    await desk.one("Reservation", "R1", BOOKING)
    with patch.object(house.hub.projector, "wake"):
        await house.publish(
            {"type": "reservation", "action": "updated", "data": BOOKING | {"reservation_id": "R1", "adults": 4}}
        )
        house.hub._services.syncer._records._memory.clear()
        result = await desk.one("Reservation", "R1", {"adults": 2}, "UPDATE", {"desk-1": 1})
    assert (result["outcome"], result["version"]) == ("resolved", {"desk-1": 2, "hotel-pms": 1})


async def test_charges_that_tell_no_balance_are_owed(house: House) -> None:
    """Room service does not know the folio's balance: what it charges is in it all the same, published or pushed."""
    desk, kitchen = Desk(house), Desk(house, "kitchen-1", system="hotel-saas")
    charged = desk.item("Billing", "F-1", {"amount": 1000, "balance": 1000, "category": "room"})
    await desk.push(charged)
    tea = {"folio_id": "F-1", "charge_id": "s1", "amount": 500, "category": "food"}
    published = {"type": "billing", "action": "charged", "data": tea}
    response = await house.post(published, system="hotel-saas")
    assert response.status_code == 201, response.text
    await kitchen.one("Billing", "F-1", {"amount": 700, "charge_id": "s2"})
    states = await house.http.get("/sync/snapshot", headers=house.headers(scopes=("sync",)))
    (folio,) = (one for one in states.json()["records"] if one["type"] == "billing")
    assert folio["data"]["balance"] == 2200


async def test_two_guests_in_one_room_are_shown_to_a_person(house: House) -> None:
    """Two desks that gave away the same room do not overwrite each other; the second waits, and what follows it too."""
    first, second = Desk(house), Desk(house, "desk-2")
    await first.push(first.item("Reservation", "R1", BOOKING), first.item("CheckIn", "R1", ARRIVAL))
    booking = second.item("Reservation", "R2", BOOKING)
    held = second.item("CheckIn", "R2", ARRIVAL, base={"desk-2": 1})
    booked, conflict = await second.push(booking, held)
    assert (booked["outcome"], conflict["outcome"]) == ("applied", "conflict")
    assert "301" in conflict["errors"][0]["message"]
    assert (await second.push(held))[0]["conflict_id"] == conflict["conflict_id"]
    behind = second.item("CheckOut", "R2", ARRIVAL, base={"desk-2": 2})
    assert (await second.push(behind))[0]["outcome"] == "retry"
    notices = [event for event in await second.events() if event["type"] == "system"]
    assert [one["data"]["detail"]["conflict_id"] for one in notices] == [conflict["conflict_id"]]
    headers = house.headers(scopes=("sync",))
    body = orjson.dumps({"choice": "edited", "data": {"room_number": "302"}})
    url = f"/conflicts/{conflict['conflict_id']}/resolve"
    assert (await house.http.post(url, content=body, headers=headers)).status_code == 200
    arrivals = [event for event in await second.events() if event["type"] == "checkin_checkout"]
    assert [event["data"]["room_number"] for event in arrivals] == ["301", "302"]
    assert arrivals[1]["event_id"] == held["uuid"]
    assert (await second.push(held))[0]["outcome"] == "duplicate"
    left = (await second.push(behind))[0]
    assert (left["outcome"], left["winner"]) == ("resolved", "hub")
    departure = (await second.events())[-1]
    assert (departure["action"], departure["data"]["room_number"]) == ("checked_out", "302")


async def test_a_guest_is_not_moved_into_a_room_that_was_given_away_meanwhile(house: House) -> None:
    """One who is in house; whose stay is to come, or over, may be booked into any room."""
    first, second = Desk(house), Desk(house, "desk-2")
    await first.push(first.item("Reservation", "R1", BOOKING), first.item("CheckIn", "R1", ARRIVAL))
    other = ARRIVAL | {"room_number": "305"}
    await second.push(second.item("Reservation", "R2", BOOKING), second.item("Reservation", "R3", BOOKING))
    booked = await second.one("Reservation", "R3", {"room_number": "301"}, "UPDATE", {"desk-2": 1})
    await second.one("CheckIn", "R2", other, base={"desk-2": 1})
    moved = await second.one("Reservation", "R2", {"room_number": "301"}, "UPDATE", {"desk-2": 2})
    assert (booked["outcome"], moved["outcome"]) == ("applied", "conflict")
    assert "room 301 was given to reservation:R1 meanwhile" in moved["errors"][0]["message"]


async def test_who_knew_of_the_other_guest_may_share_the_room(house: House) -> None:
    """A desk that had pulled the first check-in puts a second guest into the room on purpose."""
    first, second = Desk(house), Desk(house, "desk-2")
    results = await first.push(first.item("Reservation", "R1", BOOKING), first.item("CheckIn", "R1", ARRIVAL))
    shared = second.item("CheckIn", "R2", ARRIVAL, base={"desk-2": 1})
    outcomes = await second.push(second.item("Reservation", "R2", BOOKING), shared, cursor=results[1]["cursor"])
    assert [one["outcome"] for one in outcomes] == ["applied", "applied"]


async def test_clocks_are_measured_and_corrected(house: House) -> None:
    """A clock a year ahead does not make its operations the newest: the time is corrected, and people are told."""
    desk = Desk(house)
    now = datetime.now(UTC)
    ahead = now + timedelta(days=365)
    item = desk.item("Reservation", "R1", BOOKING, createdAt=(ahead - timedelta(hours=1)).isoformat())
    response = await desk.send(desk.batch(item, sent_at=ahead.isoformat(), backlog=1))
    assert response.json()["clock_skew_ms"] == pytest.approx(365 * 86_400_000, abs=5000)
    event = next(event for event in await desk.events() if event["type"] == "reservation")
    occurred = datetime.fromisoformat(event["occurred_at"])
    assert abs((occurred - (now - timedelta(hours=1))).total_seconds()) < 5
    assert any(event["data"].get("topic") == "device-clock" for event in await desk.events())
    blind = Desk(house, "desk-2")
    late = blind.item("Reservation", "R2", BOOKING, createdAt=ahead.isoformat())
    await blind.push(late)
    event = (await blind.events(entity="reservation:R2"))[0]
    assert datetime.fromisoformat(event["occurred_at"]) < now + timedelta(minutes=1)


async def test_forms_are_mended_and_meanings_are_not(house: House) -> None:
    """The source documents' own spelling is understood; a number that says something else is not guessed at (R79)."""
    desk = Desk(house)
    await desk.one("Reservation", "R1", BOOKING)
    payload = {"roomNumber": "301", "checkOutTime": "2025-07-15T10:04:00+09:00", "payment_status": "completed"}
    result = await desk.one("CheckOut", "R1", payload, base={"desk-1": 1})
    assert result["outcome"] == "applied", result
    event = (await desk.events())[-1]
    assert event["data"]["room_number"] == "301"
    assert event["data"]["actual_checkout_time"] == "2025-07-15T10:04:00+09:00"


@pytest.mark.parametrize(
    ("model", "says"),
    [("Reservation", "nothing is known"), ("RoomStatus", "out_of_service"), ("Billing", "correct it")],
)
async def test_a_deletion_of_what_was_never_seen_is_refused_in_words(house: House, model: str, says: str) -> None:
    """There is nothing to delete, or it is not deleted: the item says why, and is lost to nobody."""
    refused = await Desk(house).one(model, "X1", {}, "DELETE")
    assert refused["outcome"] == "rejected"
    assert says in refused["errors"][0]["message"]


async def test_a_deletion_stands_and_the_admin_is_told(house: House) -> None:
    """A cancellation beside an edit stands, in whatever order they come, and a notice names both (R72)."""
    desk, other = Desk(house), Desk(house, "desk-2")
    await desk.one("Reservation", "R1", BOOKING)
    await desk.one("Reservation", "R1", {}, "DELETE", {"desk-1": 1})
    result = await other.one("Reservation", "R1", {"adults": 3}, "UPDATE", {"desk-1": 1})
    assert (result["outcome"], result["policy"], result["winner"]) == ("resolved", "delete_wins", "desk-1")
    events = await desk.events()
    last = [event for event in events if event["type"] == "reservation"][-1]
    assert (last["action"], last["data"]["status"], last["data"]["adults"]) == ("cancelled", "cancelled", 3)
    assert [event["data"]["topic"] for event in events if event["type"] == "system"] == ["sync-deletion"]


async def test_an_undone_check_in_deletes_nothing(house: House) -> None:
    """Who edits a reservation, not knowing that its check-in was undone, edits it: it is not cancelled by that."""
    desk, other = Desk(house), Desk(house, "desk-2")
    await desk.push(
        desk.item("Reservation", "R1", BOOKING),
        desk.item("CheckIn", "R1", ARRIVAL, base={"desk-1": 1}),
        desk.item("CheckIn", "R1", {}, "DELETE", base={"desk-1": 2}),
    )
    result = await other.one("Reservation", "R1", {"adults": 2}, "UPDATE", base={"desk-1": 1})
    assert (result["outcome"], result["policy"]) == ("resolved", "merge")
    event = (await desk.events())[-1]
    assert (event["action"], event["data"]["status"], event["data"]["adults"]) == ("updated", "confirmed", 2)


async def test_what_never_happened_is_not_undone(house: House) -> None:
    """Undoing a check-out of a guest who never came would make him a guest."""
    desk = Desk(house)
    await desk.one("Reservation", "R1", BOOKING)
    result = await desk.one("CheckOut", "R1", {}, "DELETE", base={"desk-1": 1})
    assert (result["outcome"], paths(result)) == ("rejected", ["entity_id"])


@pytest.mark.parametrize("name", ["*", "hotel-pms", "hotel-member", "hub", "unknown"])
async def test_a_device_is_called_like_nothing_else(house: House, name: str) -> None:
    """A device of a system's name would count as having seen, and made, what that system did."""
    desk = Desk(house, name)
    response = await desk.send(desk.batch(desk.item("Reservation", "R1", BOOKING)))
    assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "device_id")


async def test_no_tenant_is_called_so(house: House) -> None:
    """A token for all tenants names one that can be: others are refused before the store is asked for them."""
    desk = Desk(house, tenants=("*",))
    response = await desk.send(desk.batch(tenant_id="t" * 101))
    assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "tenant_id")


async def test_a_payload_that_no_event_holds_is_not_summed(house: House) -> None:
    """What is too large is refused by its size, before its checksum is taken."""
    desk = Desk(house)
    payload = {"operation": "x", "detail": "y" * 62_000}
    result = await desk.one("OperationLog", "O1", payload, checksum="0" * 64)
    assert (result["outcome"], paths(result)) == ("rejected", ["payload"])
    assert "the limit is 61440" in result["errors"][0]["message"]
