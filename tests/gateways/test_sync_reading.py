"""What devices read, through a whole hub: pulls, snapshots, digests, and their reports."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from house import House

from hub.store.database import StoreUnavailable
from schemas.sync import (
    DigestResponse,
    PullResponse,
    SnapshotResponse,
    StateDigest,
    bucket_hash,
    bucket_of,
    root_hash,
    state_hash,
)

pytestmark = pytest.mark.server


def desk(house: House, device_id: str | None = "desk-1", **more: Any) -> dict[str, str]:
    """The header of a device's token."""
    given: dict[str, Any] = {"scopes": ("sync",), "device_id": device_id}
    return house.headers(**(given | more))


async def ask(house: House, path: str, headers: dict[str, str] | None = None, **query: Any) -> Any:
    """A question that is answered."""
    response = await house.http.get(f"/sync/{path}", params=query, headers=headers or desk(house))
    assert response.status_code == 200, response.text
    return response.json()


async def refused(house: House, path: str, headers: dict[str, str] | None = None, **query: Any) -> tuple[int, str, str]:
    """A question that is not: status, code, and the field it names or the detail."""
    response = await house.http.get(f"/sync/{path}", params=query, headers=headers or desk(house))
    problem = response.json()
    return response.status_code, problem["code"], (problem.get("errors") or [{"path": problem["detail"]}])[0]["path"]


async def test_a_device_begins_follows_and_compares(house: House) -> None:
    """Its snapshot, with the changes after it, leads to the hub's own digest at the same cursor."""
    await house.publish(house.reservation("R1"), house.reservation("R2"), house.reservation("R3"))
    page = SnapshotResponse.model_validate(await ask(house, "snapshot", limit=2))
    assert (len(page.records), page.more) == (2, True)
    rest = SnapshotResponse.model_validate(await ask(house, "snapshot", limit=2, after=page.next))
    assert (rest.more, rest.cursor) == (False, page.cursor)
    held = {(one.type, one.entity): (one.revision, one.data) for one in (*page.records, *rest.records)}
    assert {one.entity: one.version for one in page.records} == {
        f"reservation:R{number}": {"hotel-pms": 1} for number in (1, 2)
    }
    await house.publish(house.reservation("R2", action="updated", data_room_number="301", device_id="desk-9"))
    changes = PullResponse.model_validate(await ask(house, "pull", after=page.cursor))
    (change,) = changes.changes
    assert (change.model, change.operation, change.entity) == ("Reservation", "UPDATE", "reservation:R2")
    assert (change.revision, change.version, changes.more) == (2, {"hotel-pms": 2}, False)
    held[(change.type, change.entity)] = (2, held[(change.type, change.entity)][1] | change.data)

    buckets: dict[int, list[StateDigest]] = {}
    for (type, entity), (revision, data) in held.items():
        one = StateDigest(type, entity, revision, state_hash(type, entity, revision, data))
        buckets.setdefault(bucket_of(type, entity), []).append(one)
    root = root_hash({number: bucket_hash(states) for number, states in buckets.items()})
    tree = DigestResponse.model_validate(await ask(house, "digest"))
    assert (tree.cursor, tree.root, tree.count, tree.states) == (changes.next, root, 3, None)
    number = min(buckets)
    asked = DigestResponse.model_validate(await ask(house, "digest", bucket=f"{number:02x}"))
    assert asked.states is not None
    assert [tuple(one.model_dump().values()) for one in asked.states] == sorted(map(tuple, buckets[number]))

    whole = PullResponse.model_validate(await ask(house, "pull", limit=3))
    assert ([one.sequence for one in whole.changes], whole.more) == ([1, 2, 3], True)
    (repaired,) = (await ask(house, "snapshot", entity="reservation:R2"))["records"]
    assert repaired["revision"] == 2
    assert (await ask(house, "snapshot", type="room,customer"))["records"] == []

    report = {"device_id": "desk-1", "cursor": tree.cursor, "root": root, "count": 3, "equal": True}
    response = await house.http.post("/sync/digest", content=orjson.dumps(report), headers=desk(house))
    assert (response.status_code, response.json()) == (
        201,
        {"tenant_id": "default", "device_id": "desk-1", "equal": True},
    )
    response = await house.http.post(
        "/sync/digest", content=orjson.dumps(report | {"root": "0" * 64}), headers=desk(house)
    )
    assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "root")
    known = (await house.http.get("/devices/desk-1", headers=house.headers(scopes=("ops",)))).json()
    assert known["compared_equal"] is True


async def test_who_may_ask(house: House) -> None:
    """The scope `sync` with the whole view, for the token's own device and tenants."""
    for path in ("pull", "snapshot", "digest"):
        assert (await refused(house, path, house.headers()))[:2] == (403, "forbidden")
        assert (await refused(house, path, desk(house, view="masked")))[:2] == (403, "forbidden")
        assert (await refused(house, path, tenant="naha"))[:2] == (403, "forbidden")
        several = desk(house, tenants=("default", "naha"))
        assert await refused(house, path, several) == (422, "invalid_request", "tenant")
        assert await ask(house, path, several, tenant="naha")
        every = desk(house, tenants=("*",))
        assert await refused(house, path, every) == (422, "invalid_request", "tenant")
    for path in ("pull", "snapshot"):
        assert (await refused(house, path, device_id="desk-2"))[:2] == (403, "forbidden")
        assert await ask(house, path, desk(house, None), device_id="desk-2")


async def test_what_cannot_be_asked(house: House) -> None:
    """The problem names the parameter."""
    wrong: list[tuple[str, str, Any]] = [
        ("pull", "limit", 1001),
        ("pull", "limit", "x"),
        ("pull", "device_id", "a b"),
        ("snapshot", "limit", 5001),
        ("snapshot", "after", "x"),
        ("snapshot", "type", "system"),
        ("snapshot", "entity", [f"room:{number}" for number in range(501)]),
        ("digest", "bucket", "7F"),
        ("digest", "bucket", "100"),
        ("digest", "bucket", ",".join(f"{number:02x}" for number in range(65))),
    ]
    for path, field, value in wrong:
        assert await refused(house, path, **{field: value}) == (422, "invalid_request", field)


async def test_a_cursor_of_another_tenant_is_none(house: House) -> None:
    """Nor is a malformed one."""
    (receipt,) = await house.publish(house.reservation(), tenants=("naha",))
    for after in (receipt["cursor"], "latest"):
        assert (await refused(house, "pull", after=after))[:2] == (422, "invalid_cursor")


async def test_a_report_that_cannot_be_kept(house: House) -> None:
    """Is refused, and says what is wrong with it."""
    cursor = (await ask(house, "pull"))["next"]
    for wrong, code, field in (
        ({"root": "x"}, "invalid_request", "root"),
        ({"device_id": "desk-2"}, "forbidden", None),
        ({"tenant_id": "naha"}, "forbidden", None),
        ({"cursor": "x"}, "invalid_cursor", None),
        ({"cursor": "1" + "0" * 50}, "invalid_cursor", None),
        ({"differing": ["room room:1"]}, "invalid_request", "equal"),
    ):
        report = {"device_id": "desk-1", "cursor": cursor, "root": "0" * 64, "count": 0, "equal": True} | wrong
        response = await house.http.post("/sync/digest", content=orjson.dumps(report), headers=desk(house))
        problem = response.json()
        assert problem["code"] == code, problem
        if field is not None:
            assert problem["errors"][0]["path"] == field


async def test_a_report_is_said_to_be_kept_only_when_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away makes it a failure that may be tried again."""
    cursor = (await ask(house, "pull"))["next"]

    async def away(*_: Any, **__: Any) -> None:
        raise StoreUnavailable("away")

    monkeypatch.setattr("hub.services.devices.DeviceDesk.compared", away)
    report = {"device_id": "desk-1", "cursor": cursor, "root": "0" * 64, "count": 0, "equal": False}
    response = await house.http.post("/sync/digest", content=orjson.dumps(report), headers=desk(house))
    assert (response.status_code, response.json()["code"]) == (503, "store_unavailable")
    assert response.json()["retryable"] is True
    response = await house.http.post("/sync/digest", content=b"[]", headers=desk(house))
    assert response.json()["code"] == "invalid_request"
