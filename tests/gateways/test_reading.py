"""GET /events, long poll, Server-Sent Events, and what operators read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import orjson
import pytest
from house import House
from sqlalchemy import text


async def get(house: House, path: str = "/events", **params: Any) -> httpx.Response:
    """A GET with a token that may read everything of `default`."""
    token = params.pop("token", None) or house.token()
    return await house.http.get(path, params=params, headers={"Authorization": f"Bearer {token}"})


async def test_pages_follow_each_other_exactly(house: House) -> None:
    """`next` continues where a page ended, also when a pattern let nothing through."""
    await house.publish(*(house.reservation() for _ in range(250)))
    seen: list[int] = []
    after = "earliest"
    while True:
        page = (await get(house, after=after, limit=100)).json()
        seen += [one["sequence"] for one in page["events"]]
        if not page["events"]:
            break
        after = page["next"]
    assert seen == list(range(1, 251))
    empty = (await get(house, patterns="room.*")).json()
    assert empty["events"] == []
    await house.publish(house.reservation())
    assert [one["sequence"] for one in (await get(house, after=empty["next"])).json()["events"]] == [251]


async def test_several_tenants_share_a_cursor(house: House) -> None:
    """A listing over several tenants gives one `next` that continues each of them."""
    tenants = ["a", "b", "c"]
    for round_ in range(3):
        await house.publish(*(house.reservation(tenant_id=t) for t in tenants for _ in range(4)), tenants=tenants)
        assert round_ < 3
    token = house.token(tenants=tenants)
    seen: dict[str, list[int]] = {tenant: [] for tenant in tenants}
    after = None
    for _ in range(8):
        page = (await get(house, token=token, limit=5, **({"after": after} if after else {}))).json()
        for one in page["events"]:
            seen[one["event"]["tenant_id"]].append(one["sequence"])
        after = page["next"]
    assert seen == {tenant: list(range(1, 13)) for tenant in tenants}
    only = (await get(house, token=token, tenant="b", limit=1000)).json()
    assert {one["event"]["tenant_id"] for one in only["events"]} == {"b"}


@pytest.mark.parametrize(
    ("params", "path"),
    [
        ({"after": "nonsense"}, None),
        ({"patterns": "reservation"}, "patterns"),
        ({"limit": "0"}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"wait": "31"}, "wait"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2026-01-01T00:00:00"}, "to"),
    ],
)
async def test_bad_parameters_are_named(standing: House, params: dict[str, str], path: str | None) -> None:
    """422 with the parameter's name."""
    response = await get(standing, **params)
    assert response.status_code == 422
    if path is not None:
        assert response.json()["errors"][0]["path"] == path


async def test_a_long_poll_wakes_at_once(house: House) -> None:
    """It waits for an event and returns it; without one it returns an empty page with a good `next`."""
    polling = asyncio.create_task(get(house, after="latest", wait=30))
    await house.until(lambda: bool(house.hub.dispatcher._waiters))
    await house.publish(house.reservation("R1"))
    page = (await polling).json()
    assert [one["event"]["entity"] for one in page["events"]] == ["reservation:R1"]
    empty = (await get(house, after=page["next"], wait=0.01)).json()
    assert empty["events"] == []
    assert empty["next"] == page["next"]


async def test_a_long_poll_ends_with_the_hub(start: Callable[..., Any]) -> None:
    """A hub that stops does not wait for its pollers."""
    async with start() as house:
        polling = asyncio.create_task(get(house, after="latest", wait=30))
        await house.until(lambda: bool(house.hub.dispatcher._waiters))
        house.hub._services.stopping.set()
        assert (await polling).status_code == 200


async def test_time_limits_are_of_recorded_at(house: House) -> None:
    """`from` and `to` select by the hub's clock, with offsets."""
    await house.publish(house.reservation("R1"))
    (one,) = (await get(house)).json()["events"]
    stamp = one["event"]["recorded_at"]
    assert len((await get(house, **{"from": stamp})).json()["events"]) == 1
    assert (await get(house, to=stamp)).json()["events"] == []
    assert (await get(house, **{"from": "2999-01-01T00:00:00+09:00"})).json()["events"] == []


async def test_one_event_by_id(house: House) -> None:
    """An event is shown to its targets and its publisher, and to nobody else."""
    (receipt,) = await house.publish(house.reservation("R1", targets=["hotel-member"]))
    path = f"/events/{receipt['event_id']}"
    assert (await get(house, path)).json()["event"]["event_id"] == receipt["event_id"]
    assert (await get(house, path, token=house.token("hotel-member"))).status_code == 200
    assert (await get(house, path, token=house.token("hotel-saas"))).status_code == 404
    assert (await get(house, path, token=house.token("hotel-member", ["other"]))).status_code == 404
    assert (await get(house, "/events/nothing")).status_code == 404


async def server_sent(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """The fields of each event of a stream."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line:
            if fields:
                yield fields
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(": ")
            fields[name] = value


async def test_server_sent_events_resume(house: House) -> None:
    """The stream gives backlog and live events; Last-Event-ID continues after the last one seen."""
    await house.publish(house.reservation(), house.reservation())
    headers = house.headers()
    seen = []
    async with house.http.stream("GET", "/stream?after=earliest", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        async for fields in server_sent(response):
            if "data" not in fields:
                continue
            seen.append(orjson.loads(fields["data"])["sequence"])
            if seen == [1, 2]:
                await house.publish(house.reservation())
            if len(seen) == 3:
                break
    assert seen == [1, 2, 3]
    await house.publish(house.reservation(), house.reservation())
    again = headers | {"Last-Event-ID": fields["id"]}
    async with house.http.stream("GET", "/stream", headers=again) as response:
        async for fields in server_sent(response):
            if "data" in fields:
                assert orjson.loads(fields["data"])["sequence"] == 4
                break


async def test_a_damaged_row_is_passed_over(house: House) -> None:
    """An archived event whose body is no event any more is in no listing, and the others come with their cursors."""
    stored = await house.publish(*[house.reservation("R1", action="updated") for _ in range(5)])
    await house.archived(*stored)
    inner = "replace(CAST(body AS TEXT), '\"data\":{', '\"data\":{]')"
    damage = ("7", "'text'", "x'5b5d'", f"CAST({inner} AS BLOB)")
    async with house.hub.store.database.writing() as connection:
        for number, body in enumerate(damage, 1):
            await connection.execute(text(f"UPDATE events SET body = {body} WHERE sequence = {number}"))
    for view in ("full", "masked"):
        page = await get(house, entity="reservation:R1", token=house.token(view=view))
        assert page.status_code == 200, page.text
        assert page.json()["next"] == stored[4]["cursor"]
        assert [one["sequence"] for one in page.json()["events"]] == [5]
    # What the log does not find by its id any more is looked for in the archive.
    stream_log = house.hub.log
    receipts, _ = stream_log.receipts_key(stream_log.partition("default"))
    assert await stream_log.source.client.delete(receipts) == 1
    for number, one in enumerate(stored, 1):
        for path in (f"/events/{one['event_id']}", f"/events/{one['event_id']}/trace"):
            assert (await get(house, path)).status_code == (404 if number < 5 else 200)


async def test_operators_need_their_scope(house: House) -> None:
    """Groups and dead letters are for `ops`; the others hear which scope is missing."""
    for path in ("/groups", "/dead-letters"):
        assert (await get(house, path)).status_code == 403
        assert (await get(house, path, token=house.token(scopes=["ops"]))).status_code == 200
    assert (await house.http.post("/dead-letters/redrive", content=b"{}", headers=house.headers())).status_code == 403


async def test_dead_letters_are_listed_redriven_and_discarded(house: House) -> None:
    """A letter goes back to its group once, however often it is asked for; a discarded one is gone."""
    await house.publish(house.reservation("R1", data_guest_name="山田"), house.reservation("R2"))
    partition = house.hub.log.partition("default")
    client, keys = house.hub.log.source.client, house.hub.log.keys
    for id, fields in await client.execute_command("XRANGE", keys.events(partition), "-", "+"):
        extra = [
            b"reason",
            "山田 is there twice".encode(),
            b"attempts",
            b"5",
            b"failed_at",
            b"2026-01-01T00:00:00Z",
            b"source_id",
            id,
        ]
        await client.execute_command("XADD", keys.dead(partition, "hotel-pms"), "*", *fields, *extra)
    ops = house.token(scopes=["ops"])
    letters = (await get(house, "/dead-letters", token=ops, group="hotel-pms")).json()["dead_letters"]
    assert [letter["attempts"] for letter in letters] == [5, 5]
    assert letters[0]["event"]["entity"] == "reservation:R1"
    masked = await get(house, "/dead-letters", token=house.token(scopes=["ops"], view="masked"))
    assert "山田" not in masked.text
    assert [letter["reason"] for letter in masked.json()["dead_letters"]] == ["error", "error"]
    for limit in ("ten", "9" * 5000, "1e2"):
        assert (await get(house, "/dead-letters", token=ops, limit=limit)).status_code == 422
    assert (await get(house, "/dead-letters", token=ops, limit="9" * 30)).status_code == 200
    elsewhere = await get(house, "/dead-letters", token=house.token(tenants=["other"], scopes=["ops"]))
    assert elsewhere.json()["dead_letters"] == []
    headers = {"Authorization": f"Bearer {ops}"}
    chosen = orjson.dumps({"group": "hotel-pms", "ids": [letters[0]["id"]]})
    for expected in (1, 0):
        response = await house.http.post("/dead-letters/redrive", content=chosen, headers=headers)
        assert response.json() == {"redriven": expected}
    assert await client.xlen(keys.redrive(partition, "hotel-pms")) == 1
    gone = await house.http.post("/dead-letters/discard", content=b'{"group":"hotel-pms"}', headers=headers)
    assert gone.json() == {"discarded": 1}
    bad = await house.http.post("/dead-letters/discard", content=b'{"group":"g","ids":["x"]}', headers=headers)
    assert bad.status_code == 422


async def test_the_hub_describes_itself(house: House) -> None:
    """OpenAPI, AsyncAPI, schemas, docs, health and metrics are served without a token."""
    root = f"http://127.0.0.1:{house.hub.port}"
    await house.publish(house.reservation())
    openapi = (await house.http.get(f"{root}/openapi.json")).json()
    assert {"/api/v1/events", "/api/v1/stream", "/api/v1/groups", "/readyz"} <= set(openapi["paths"])
    assert (await house.http.get(f"{root}/asyncapi.json")).json()["asyncapi"].startswith("3.")
    listed = (await house.http.get(f"{root}/schemas")).json()["schemas"]
    assert "/schemas/order.v1.json" in listed
    schema = (await house.http.get(f"{root}/schemas/reservation.v1.json")).json()
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert (await house.http.get(f"{root}/schemas/reservation.v9.json")).status_code == 404
    assert "<script" not in (await house.http.get(f"{root}/docs")).text
    assert (await house.http.get(f"{root}/healthz")).json() == {"status": "ok"}
    ready = (await house.http.get(f"{root}/readyz")).json()
    assert (ready["ready"], ready["checks"]["durability"]["durable"]) == (True, True)
    metrics = (await house.http.get(f"{root}/metrics")).text
    assert 'hub_events_published_total{outcome="stored",type="reservation"} 1.0' in metrics
    assert "hub_log_durable 1.0" in metrics
    assert "default" not in metrics
    assert (await house.http.get(f"{root}/nowhere")).json()["code"] == "not_found"
    refused = await house.http.put(f"{root}/healthz")
    assert (refused.status_code, refused.json()["status"], refused.headers["Allow"]) == (405, 405, "GET")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/events?entity=R1", "entity"),
        ("/events?entity=reservation:%00", "entity"),
        ("/stream?entity=%00", "entity"),
        ("/snapshot?entity=room%00", "entity"),
        ("/snapshot?type=rooms", "type"),
        ("/snapshot?type=%00", "type"),
        ("/sync/snapshot?entity=%00", "entity"),
        ("/deliveries?system=%00", "system"),
        ("/replays/export?entity=R1", "entity"),
    ],
)
async def test_a_filter_that_can_match_nothing_is_named(house: House, path: str, name: str) -> None:
    """It never comes to the store: some know no NUL, and would seem to be away."""
    response = await house.http.get(path, headers=house.headers(scopes=("subscribe:*", "ops", "sync")))
    assert (response.status_code, [one["path"] for one in response.json()["errors"]]) == (422, [name])


async def test_entities_may_have_commas_in_their_ids(house: House) -> None:
    """One is found by its whole name; several are still several."""
    await house.publish(house.reservation("R1,2"), house.reservation("R1"), house.reservation("R3"))
    for asked, there in (("reservation:R1,2", ["R1,2"]), ("reservation:R1,2, reservation:R3", ["R1,2", "R3"])):
        events = await get(house, entity=asked)
        found = [one["event"]["data"]["reservation_id"] for one in events.json()["events"]]
        assert found == there


async def test_a_stream_of_all_tenants_takes_in_new_ones(house: House) -> None:
    """A `*` token's stream and long poll get the events of a hotel whose first event comes later."""
    await house.publish(house.reservation())
    token = house.token("hub", ["*"])
    # A poll that is still to find out what is the latest would take the new event for it.
    latest = (await get(house, token=token, after="latest")).json()["next"]
    polling = asyncio.create_task(get(house, token=token, after=latest, wait=30))
    await house.until(lambda: bool(house.hub.dispatcher._waiters))
    await house.publish(house.reservation(tenant_id="new"), tenants=["new"])
    page = (await polling).json()
    assert [one["event"]["tenant_id"] for one in page["events"]] == ["new"]
    again = (await get(house, token=token, after=page["next"])).json()
    assert again["events"] == []
