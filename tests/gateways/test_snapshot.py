"""The state of the hotel through a whole hub: `GET /snapshot`, and a subscription that begins with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from house import House, Socket

from hub.services import snapshot_frames, snapshots
from hub.store.database import StoreUnavailable

pytestmark = pytest.mark.server

State = dict[tuple[str, str], tuple[int, dict[str, Any]]]


def member(house: House) -> dict[str, str]:
    """The header of a token that may see everything of the tenant."""
    return house.headers("hotel-pms")


async def projected(house: House, sequence: int) -> None:
    """Until the states have come to a sequence."""

    async def done() -> bool:
        marks = await house.hub.store.entities.marks(["default"])
        return "default" in marks and marks["default"][1].sequence >= sequence

    async with asyncio.timeout(20):
        while not await done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def customer(id: str, **data: Any) -> dict[str, Any]:
    """A change of a customer."""
    return {"type": "customer", "action": "updated", "data": {"customer_id": id, "updatable_by_pms": True} | data}


def stayed(number: int, **data: Any) -> dict[str, Any]:
    """What the desk says of a stay."""
    told = {"reservation_id": f"R{number}", "room_number": "301", "payment_status": "pending"} | data
    return {"type": "checkin_checkout", "action": "checked_in", "data": told}


def own(state: dict[str, Any]) -> dict[str, Any]:
    """Its data without the hub's tracking."""
    tracking = ("origin_system", "updated_by_system", "synced_at")
    return {name: value for name, value in state["data"].items() if name not in tracking}


async def test_states_by_page(house: House) -> None:
    """Each entity once, by type; merged from its events, transient fields left out, at one cursor."""
    await house.publish(
        house.reservation("R1"),
        house.reservation("R1", action="updated", data_room_number="301", data_guest_name="Yamada"),
        stayed(1),
        house.reservation("R2"),
    )
    await house.publish(
        customer("C1", name="Yamada", rank_id="gold", updated_fields=["name", "rank_id"]),
        customer("C1", rank_id="silver", points_delta=5, points_ledger_id="L1"),
        system="hotel-member",
    )
    await projected(house, 6)
    found: list[dict[str, Any]] = []
    cursors, after = set(), None
    while True:
        parameters = {"limit": "2"} | ({} if after is None else {"after": after})
        body = (await house.http.get("/snapshot", params=parameters, headers=member(house))).json()
        found += body["entities"]
        cursors.add(body["cursor"])
        assert body["more"] is (body["next"] is not None)
        if not body["more"]:
            break
        after = body["next"]
    assert [(one["type"], one["entity"], one["revision"]) for one in found] == [
        ("checkin_checkout", "reservation:R1", 3),
        ("customer", "customer:C1", 2),
        ("reservation", "reservation:R1", 2),
        ("reservation", "reservation:R2", 1),
    ]
    assert own(found[1]) == {"customer_id": "C1", "updatable_by_pms": True, "name": "Yamada", "rank_id": "silver"}
    assert found[2]["data"]["room_number"] == "301"
    assert {one["tenant_id"] for one in found} == {"default"}
    (cursor,) = cursors
    await house.publish(house.reservation("R3"))
    later = (await house.http.get("/events", params={"after": cursor}, headers=member(house))).json()["events"]
    assert [one["event"]["entity"] for one in later] == ["reservation:R3"]

    before = {"entity": "reservation:R1", "type": "reservation", "revision": "1"}
    body = (await house.http.get("/snapshot", params=before, headers=member(house))).json()
    assert [(one["revision"], "guest_name" in one["data"]) for one in body["entities"]] == [(1, False)]
    assert (body["more"], body["next"]) == (False, None)


async def test_each_token_sees_its_own(house: House) -> None:
    """Nothing of a pms-only event for hotel-saas, no guest's name for a masked token, no other hotel's at all."""
    await house.publish(
        house.reservation("R1", targets=["hotel-pms"], data_guest_name="Yamada"),
        house.reservation("R2", data_guest_name="Sato"),
        house.reservation("R2", action="updated", targets=["hotel-pms"], data_guest_name="Suzuki"),
    )
    await house.publish(house.reservation("R9", tenant_id="naha"), tenants=("naha",))
    await projected(house, 3)

    async def names(*token: Any, **more: Any) -> dict[str, str]:
        response = await house.http.get("/snapshot", headers=house.headers(*token, **more))
        assert response.status_code == 200, response.text
        return {one["entity"]: one["data"]["guest_name"] for one in response.json()["entities"]}

    assert await names("hotel-pms") == {"reservation:R1": "Yamada", "reservation:R2": "Suzuki"}
    assert await names("hotel-saas") == {"reservation:R2": "Sato"}
    assert await names("hotel-pms", view="masked") == {"reservation:R1": "***", "reservation:R2": "***"}
    async with house.socket(token=house.token("hotel-saas")) as socket:
        first = await socket.ask("subscribe", id=1, patterns=["*"], snapshot=True)
        assert [(one["entity"], one["data"]["guest_name"]) for one in first["entities"]] == [("reservation:R2", "Sato")]
    async with house.socket(token=house.token(view="masked")) as socket:
        first = await socket.ask("subscribe", id=1, patterns=["reservation.*"], snapshot=True)
        assert [one["data"]["guest_name"] for one in first["entities"]] == ["***", "***"]


@pytest.mark.parametrize(
    ("parameters", "status", "path"),
    [
        ({"limit": "0"}, 422, "limit"),
        ({"limit": "1001"}, 422, "limit"),
        ({"limit": "-1"}, 422, "limit"),
        ({"limit": "1e2"}, 422, "limit"),
        ({"limit": "٣"}, 422, "limit"),
        ({"after": "nonsense"}, 422, "after"),
        ({"revision": "1"}, 422, "revision"),
        ({"revision": "0", "entity": "room:1"}, 422, "revision"),
        ({"revision": "1", "entity": "room:1,room:2"}, 422, "revision"),
        ({"revision": "1", "entity": "room:1", "after": "x"}, 422, "after"),
        ({"revision": "1", "entity": "room:1"}, 404, None),
        ({"tenant": "naha"}, 403, None),
        ({"type": "customer"}, 403, "type"),
    ],
)
async def test_what_cannot_be_answered(
    standing: House, parameters: dict[str, str], status: int, path: str | None
) -> None:
    """A problem that names the parameter."""
    headers = standing.headers(scopes=("subscribe:reservation.*",))
    response = await standing.http.get("/snapshot", params=parameters, headers=headers)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in response.json().get("errors", [])] == ([] if path is None else [path])


async def test_without_a_token_or_the_store(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """401 and 503; over the WebSocket an error that may be retried, after which the connection goes on."""
    assert (await house.http.get("/snapshot")).status_code == 401

    async def away(*_: Any) -> Any:
        raise StoreUnavailable("away")

    async with house.socket() as socket:
        with monkeypatch.context() as patch:
            patch.setattr(house.hub.store.entities, "marks", away)
            response = await house.http.get("/snapshot", headers=member(house))
            assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
            assert response.json()["retryable"] is True
            assert response.headers["retry-after"] == "1"
            refused = await socket.ask("subscribe", id=1, patterns=["*"], snapshot=True)
            assert (refused["op"], refused["id"], refused["code"]) == ("error", 1, "store_unavailable")
            assert refused["retryable"] is True
        refused = await socket.ask("subscribe", id=1, patterns=["*"], snapshot=True, after="earliest")
        assert (refused["code"], refused["errors"][0]["path"]) == ("invalid_request", "after")
        assert (await socket.ask("subscribe", id=1, patterns=["*"], snapshot=True))["op"] == "snapshot"


async def test_the_route_is_documented(house: House) -> None:
    """With its parameters, in the OpenAPI document."""
    document = (await house.http.get(f"http://127.0.0.1:{house.hub.port}/openapi.json")).json()
    asked = document["paths"]["/api/v1/snapshot"]["get"]
    assert {one["name"] for one in asked["parameters"]} == {
        "tenant",
        "type",
        "entity",
        "limit",
        "after",
        "revision",
    }


async def follow(socket: Socket, until: Callable[[State], bool], begun: asyncio.Event) -> tuple[State, list[int]]:
    """Subscribe with a snapshot and keep the states up; what they are when the condition holds, and the sequences."""
    await socket.send("subscribe", id=1, patterns=["reservation.*"], snapshot=True)
    held: State = {}
    sequences: list[int] = []
    subscribed = False
    while not (subscribed and until(held)):
        frame = await socket.next()
        if frame["op"] == "snapshot":
            assert not subscribed
            for one in frame["entities"]:
                assert (one["type"], one["entity"]) not in held
                held[(one["type"], one["entity"])] = (one["revision"], one["data"])
        elif frame["op"] == "subscribed":
            assert frame["recovered"] is True
            subscribed = True
            begun.set()
        else:
            assert frame["op"] == "event", frame
            event = frame["event"]
            revision, data = held.get((event["type"], event["entity"]), (0, {}))
            assert event["revision"] == revision + 1, "missed or doubled"
            held[(event["type"], event["entity"])] = (event["revision"], data | event["data"])
            sequences.append(frame["sequence"])
    return held, sequences


async def test_snapshot_then_live_while_events_come(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients come while a publisher goes on: each one's state is in the end the hub's, revision by revision."""
    monkeypatch.setattr(snapshots, "CHUNK", 4)
    monkeypatch.setattr(snapshot_frames, "FRAME_BYTES", 2000)
    rooms = 25

    def round_of(number: int) -> list[dict[str, Any]]:
        action = "created" if number == 0 else "updated"
        return [
            house.reservation(f"R{room}", action=action, data_total_amount=number, data_adults=room)
            for room in range(rooms)
        ]

    await house.publish(*round_of(0))
    await projected(house, rooms)
    rounds = 12

    begun = asyncio.Event()

    async def publishing() -> None:
        for number in range(1, rounds):
            if number == rounds // 2:
                await begun.wait()
            await house.publish(*round_of(number))

    def complete(held: State) -> bool:
        return len(held) == rooms and all(revision == rounds for revision, _ in held.values())

    async def client() -> tuple[State, list[int]]:
        async with house.socket() as socket:
            return await follow(socket, complete, begun)

    *followed, _ = await asyncio.gather(client(), client(), client(), publishing())
    await projected(house, rooms * rounds)
    now: State = {}
    body = (await house.http.get("/snapshot", params={"limit": "1000"}, headers=member(house))).json()
    for one in body["entities"]:
        now[(one["type"], one["entity"])] = (one["revision"], one["data"])
    assert complete(now)
    for held, sequences in followed:
        assert held == now
        assert sequences == sorted(set(sequences))
    assert any(len(sequences) >= rooms for _, sequences in followed)
