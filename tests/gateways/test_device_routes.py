"""`/devices`, the notice that a device is asked to sync, and `/conflicts`, through a whole hub."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from desk import BOOKING, CREATED, Desk, Property

from hub.app import Hub
from hub.gateways import sockets
from hub.settings import load

pytestmark = pytest.mark.asyncio(loop_scope="module")

ARRIVAL = {"room_number": "301", "actual_checkin_time": CREATED, "payment_status": "pending"}
OPS: dict[str, Any] = {"system": "hotel-saas", "scopes": ("ops",)}
SYNC: dict[str, Any] = {"system": "hotel-pms", "scopes": ("sync",)}


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


async def ask(house: Property, method: str, path: str, as_: dict[str, Any] = SYNC, **given: Any) -> httpx.Response:
    """A request with a token."""
    return await house.http.request(method, path, headers=house.headers(**as_), **given)


async def got(house: Property, path: str, as_: dict[str, Any] = SYNC, code: int = 200, **query: Any) -> Any:
    """What GET answers."""
    answer = await ask(house, "GET", path, as_, params=query)
    assert answer.status_code == code, answer.text
    return answer.json()


async def posted(house: Property, path: str, body: Any = None, as_: dict[str, Any] = SYNC, code: int = 200) -> Any:
    """What POST answers."""
    answer = await ask(house, "POST", path, as_, json={} if body is None else body)
    assert answer.status_code == code, answer.text
    return answer.json()


async def conflicting(house: Property) -> tuple[Desk, str]:
    """A desk that gives a room which another one gave to somebody else; and the conflict's id."""
    first, second = Desk(house), Desk(house, "desk-2")
    await first.push(first.item("Reservation", "R1", BOOKING), first.item("CheckIn", "R1", ARRIVAL))
    booked, held = await second.push(second.item("Reservation", "R2", BOOKING), second.item("CheckIn", "R2", ARRIVAL))
    assert (booked["outcome"], held["outcome"]) == ("applied", "conflict")
    return second, held["conflict_id"]


# -- devices --------------------------------------------------------------------------------------------------------


async def test_a_device_is_there_once_it_pushed(house: Property) -> None:
    """With what the push said of it, and the push in its history."""
    assert (await got(house, "/devices"))["devices"] == []
    desk = Desk(house, "front/desk-1")
    await desk.push(desk.item("Reservation", "R1", BOOKING), backlog=5)

    [listed] = (await got(house, "/devices"))["devices"]
    assert (listed["device_id"], listed["system"], listed["state"]) == ("front/desk-1", "hotel-pms", "online")
    assert (listed["backlog"], listed["device_sequence"], listed["warnings"]) == (4, 1, [])
    found = await got(house, "/devices/front/desk-1")
    assert found | {"last_seen_at": None} == listed | {
        "last_seen_at": None,
        "history": found["history"],
        "comparisons": [],
    }
    [push] = found["history"]
    assert (push["kind"], push["items"], push["outcomes"]) == ("push", 1, {"applied": 1})
    assert await got(house, "/devices/front%2Fdesk-1") == found


async def test_who_may_ask_about_devices(house: Property) -> None:
    """By scope, system and tenant; what is wrong is named."""
    desk = Desk(house)
    await desk.push(desk.item("Reservation", "R1", BOOKING))

    assert len((await got(house, "/devices", OPS, tenant=house.tenant, system="hotel-pms"))["devices"]) == 1
    assert (await got(house, "/devices", {"system": "hotel-saas", "scopes": ("sync",)}))["devices"] == []
    assert (await got(house, "/devices", {"system": "hotel-pms", "scopes": ()}, 403))["code"] == "forbidden"
    assert (await got(house, "/devices", SYNC, 403, tenant="another"))["code"] == "forbidden"
    assert (await got(house, "/devices/desk-1", SYNC, 404, tenant="another"))["code"] == "not_found"
    for query in (
        {"limit": "0"},
        {"limit": "ten"},
        {"limit": "1001"},
        {"after": "x"},
        {"system": "PMS"},
        {"tenant": "../x"},
    ):
        [name] = query
        assert (await got(house, "/devices", SYNC, 422, **query))["errors"][0]["path"] == name
    for name in ("nobody", "desk%00", "d%C3%A9sk"):
        assert (await got(house, f"/devices/{name}", SYNC, 404))["code"] == "not_found"
        assert (await posted(house, f"/devices/{name}/sync", code=404))["code"] == "not_found"


async def test_a_device_that_is_asked_to_sync_hears_it_on_its_connections(house: Property) -> None:
    """On each of them, by token or by its auth frame, and nobody else does; and with its next push, until it pulled."""
    desk, other = Desk(house), Desk(house, "desk-2")
    await desk.push(desk.item("Reservation", "R1", BOOKING))
    await other.push(other.item("Reservation", "R2", BOOKING))
    bound, elsewhere = house.token(device_id="desk-1"), house.token(tenants=("another",), device_id="desk-1")
    saas = house.token("hotel-saas", device_id="desk-1")
    async with (
        house.socket(token=bound) as by_token,
        house.socket(raw=True) as by_frame,
        house.socket(token=house.token(device_id="desk-2")) as second,
        house.socket() as nobody,
        house.socket(token=elsewhere) as stranger,
        house.socket(token=saas) as namesake,
    ):
        assert (await by_frame.ask("auth", token=house.token(), device_id="desk-1"))["op"] == "welcome"
        asked = await posted(house, "/devices/desk-1/sync", code=202)
        assert asked == {"tenant_id": house.tenant, "devices": 1, "requested": ["desk-1"], "notified": True}
        notice = {
            "op": "notice",
            "code": "sync_requested",
            "detail": {"device_id": "desk-1", "tenant_id": house.tenant},
        }
        assert await by_token.next() == await by_frame.next() == notice

        asked = await posted(house, "/devices/*/sync", as_=OPS, code=202)
        assert (asked["devices"], asked["requested"]) == (2, ["desk-1", "desk-2"])
        assert await by_token.next() == await by_frame.next() == await namesake.next() == notice
        assert (await second.next())["detail"]["device_id"] == "desk-2"
        for quiet in (by_token, by_frame, second, nobody, stranger, namesake):
            await quiet.quiet()

    answer = await desk.send(desk.batch(desk.item("Reservation", "R3", BOOKING)))
    assert answer.json()["sync_requested"] is True
    while (await got(house, "/sync/pull", device_id="desk-1"))["more"]:
        pass
    answer = await desk.send(desk.batch(desk.item("Reservation", "R4", BOOKING)))
    assert answer.json()["sync_requested"] is False


async def test_a_connection_that_ended_is_not_asked(house: Property) -> None:
    """Nor remembered: devices come and go for years."""
    token = house.token(device_id="desk-7")
    async with house.socket(token=token), house.socket(token=token):
        assert len(house.hub.sockets._devices["desk-7"]) == 2
    await house.until(lambda: "desk-7" not in house.hub.sockets._devices)


async def test_a_token_for_a_device_comes_later(house: Property) -> None:
    """With a refresh; another device's is refused."""
    desk = Desk(house)
    await desk.push(desk.item("Reservation", "R1", BOOKING))
    async with house.socket() as socket:
        await socket.send("refresh", token=house.token(device_id="desk-1"))
        answer = await socket.ask("refresh", token=house.token(device_id="desk-2"))
        assert (answer["op"], answer["code"]) == ("error", "forbidden")
        await socket.send("refresh", token=house.token())
        await socket.quiet()
        await posted(house, "/devices/desk-1/sync", code=202)
        assert (await socket.next())["detail"]["device_id"] == "desk-1"


async def test_many_devices_are_told_in_turns(house: Property, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have theirs in between."""
    monkeypatch.setattr(sockets, "NOTICES", 1)
    desk = Desk(house)
    await desk.push(desk.item("Reservation", "R1", BOOKING))
    token = house.token(device_id="desk-1")
    async with house.socket(token=token) as one, house.socket(token=token) as two:
        await posted(house, "/devices/desk-1/sync", code=202)
        assert (await one.next())["code"] == (await two.next())["code"] == "sync_requested"


async def test_other_notices_of_the_hub_ask_nobody(house: Property) -> None:
    """Whatever they say of devices."""
    async with house.socket(token=house.token(device_id="desk-1")) as socket:
        for detail in ({}, {"code": "sync_requested"}, {"code": "other", "device_id": "desk-1"}):
            data = {"topic": "device:desk-1", "message": "x", "detail": detail}
            await house.publish({"type": "system", "action": "notice", "data": data}, system="hub")
        await house.until(lambda: house.hub.dispatcher.head(house.tenant).sequence == 3)
        await socket.quiet()


# -- conflicts ------------------------------------------------------------------------------------------------------


async def test_a_conflict_is_listed_shown_and_resolved(house: Property) -> None:
    """The event is in the log once, the device is asked to fetch it, and its later items go on."""
    desk, conflict_id = await conflicting(house)
    [listed] = (await got(house, "/conflicts", entity="reservation:R2", device="desk-2"))["conflicts"]
    assert (listed["conflict_id"], listed["state"], listed["policy"]) == (conflict_id, "open", "manual")
    assert "301" in listed["reason"]
    found = await got(house, f"/conflicts/{conflict_id}")
    room = next(one for one in found["fields"] if one["field"] == "room_number")
    assert (room["incoming"], room["current"], room["present"]) == ("301", None, None)

    async with house.socket(token=house.token(device_id="desk-2")) as socket:
        done = await posted(
            house, f"/conflicts/{conflict_id}/resolve", {"choice": "edited", "data": {"room_number": "302"}}
        )
        assert (await socket.next())["code"] == "sync_requested"
    assert (done["state"], done["resolved"]["choice"]) == ("resolved", "edited")
    events = [one for one in await desk.events() if one["event_id"] == listed["uuid"]]
    [event] = events
    assert (event["action"], event["data"]["room_number"]) == ("checked_in", "302")

    again = await posted(house, f"/conflicts/{conflict_id}/resolve", {"choice": "incoming"}, OPS, 409)
    assert (again["code"], again["resolved_by"], again["choice"]) == ("conflict", "hotel-pms", "edited")
    later = await desk.one("CheckOut", "R2", {"room_number": "302", "payment_status": "completed"})
    # The desk did not know of the decision when it made this; what it had said itself contests nothing.
    assert (later["outcome"], later["policy"]) == ("resolved", "merge")
    assert (await desk.events())[-1]["data"]["payment_status"] == "completed"
    assert (await got(house, "/conflicts"))["conflicts"] == []
    assert len((await got(house, "/conflicts", state="all"))["conflicts"]) == 1


async def test_an_item_that_was_decided_against_is_over_for_its_device(house: Property) -> None:
    """Sent again it is a duplicate; what it wanted did not happen."""
    first, second = Desk(house), Desk(house, "desk-2")
    await first.push(first.item("Reservation", "R1", BOOKING), first.item("CheckIn", "R1", ARRIVAL))
    booking, item = second.item("Reservation", "R2", BOOKING), second.item("CheckIn", "R2", ARRIVAL)
    booked, held = await second.push(booking, item)
    assert booked["outcome"] == "applied"
    await posted(house, f"/conflicts/{held['conflict_id']}/resolve", {"choice": "current"})

    [again] = await second.push(item)
    assert again["outcome"] == "duplicate"
    events = [one for one in await second.events() if one["entity"] == "reservation:R2"]
    assert [(one["type"], one["action"]) for one in events] == [("reservation", "created"), ("reservation", "updated")]


async def test_two_people_at_once(house: Property) -> None:
    """One decides; the other is told who."""
    _, conflict_id = await conflicting(house)
    path = f"/conflicts/{conflict_id}/resolve"
    people = ({**SYNC, "subject": "anna"}, {**SYNC, "subject": "ben"})
    answers = await asyncio.gather(*[ask(house, "POST", path, one, json={"choice": "incoming"}) for one in people])
    assert sorted(one.status_code for one in answers) == [200, 409]
    won, lost = sorted(answers, key=lambda one: one.status_code)
    assert lost.json()["resolved_by"] == won.json()["resolved"]["by"]


async def test_what_is_wrong_with_a_question_about_conflicts(house: Property) -> None:
    """Is named; others' conflicts are not there."""
    _, conflict_id = await conflicting(house)
    for query in (
        {"state": "closed"},
        {"entity": "R1"},
        {"device": "d\0"},
        {"tenant": "../x"},
        {"limit": "501"},
        {"after": "c1"},
    ):
        [name] = query
        assert (await got(house, "/conflicts", SYNC, 422, **query))["errors"][0]["path"] == name
    assert (await got(house, "/conflicts", {**SYNC, "scopes": ()}, 403))["code"] == "forbidden"
    assert (await got(house, "/conflicts", {**SYNC, "view": "masked"}, 403))["code"] == "forbidden"
    stranger = {**SYNC, "tenants": ("another",)}
    for path in (f"/conflicts/{conflict_id}", f"/conflicts/{uuid.uuid4()}", "/conflicts/x%00"):
        assert (await got(house, path, stranger, 404))["code"] == "not_found"
    for body, path in (
        ({"choice": "mine"}, "choice"),
        ({"choice": "edited"}, ""),
        ({"choice": "incoming", "why": "x"}, "why"),
        ([], "body"),
    ):
        answer = await posted(house, f"/conflicts/{conflict_id}/resolve", body, code=422)
        assert answer["errors"][0]["path"] == path
        assert answer["detail"]
    answer = await posted(
        house, f"/conflicts/{conflict_id}/resolve", {"choice": "edited", "data": {"colour": "red"}}, code=422
    )
    assert (answer["code"], answer["errors"][0]["path"]) == ("invalid_event", "data.colour")
    assert (await got(house, "/conflicts", limit=1))["conflicts"][0]["resolving"] is None
