"""POST /events from outside."""

from __future__ import annotations

import asyncio
import gzip
import logging
import uuid
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from house import House


async def test_a_receipt_tells_where_the_event_lies(house: House) -> None:
    """One event is answered by 201 and its receipt."""
    response = await house.post(house.reservation("R1"))
    receipt = response.json()
    assert response.status_code == 201
    assert set(receipt) == {"event_id", "cursor", "sequence", "revision", "duplicate"}
    assert (receipt["sequence"], receipt["revision"], receipt["duplicate"]) == (1, 1, False)
    assert uuid.UUID(receipt["event_id"]).version == 7


async def test_a_body_that_is_cut_off_is_no_failure_of_the_hub(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """It is noted as a bad request; nothing is stored of it, and no traceback fills the log."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.hub.port)
    lines = ["POST /api/v1/events HTTP/1.1", "Host: hub", "Content-Length: 1000"]
    lines.append(f"Authorization: {house.headers()['Authorization']}")
    writer.write("\r\n".join([*lines, "", '{"type":']).encode())
    await writer.drain()
    writer.write_eof()
    # What it says is for nobody; that it is over is awaited.
    await reader.read()
    writer.close()
    await writer.wait_closed()
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_a_compressed_event_is_refused_for_what_it_is(house: House) -> None:
    """Only pushes of devices may be compressed; the answer names the header, and not the text that cannot be read."""
    content, headers = gzip.compress(orjson.dumps(house.reservation("R1"))), house.headers()
    response = await house.http.post("/events", content=content, headers=headers | {"Content-Encoding": "gzip"})
    assert (response.status_code, response.json()["errors"][0]["path"]) == (422, "Content-Encoding")
    headers["Content-Encoding"] = "identity"
    response = await house.http.post("/events", content=gzip.decompress(content), headers=headers)
    assert response.status_code == 201


async def test_a_duplicate_gets_the_first_receipt(house: House) -> None:
    """Publishing an event_id again stores nothing and says so, also within one batch."""
    event = house.reservation("R1", event_id="0190B6A2-0000-7000-8000-000000000001")
    first, again = await house.publish(event, event)
    (later,) = await house.publish(event)
    assert again == later == first | {"duplicate": True}
    assert first["event_id"] == "0190b6a2-0000-7000-8000-000000000001"


async def test_a_batch_fails_item_by_item(house: House) -> None:
    """A bad event in a batch is answered in its place; the others are stored."""
    good, bad = house.reservation("R1"), house.reservation("R2", data_total_amount="12")
    response = await house.post({"events": [good, bad, 7, good]})
    receipts = response.json()["receipts"]
    assert response.status_code == 207
    assert [receipts[0]["sequence"], receipts[3]["sequence"]] == [1, 2]
    assert receipts[1]["problem"]["errors"][0]["path"] == "data.total_amount"
    assert receipts[2]["problem"]["code"] == "invalid_event"


@pytest.mark.parametrize(
    ("body", "status", "path"),
    [
        (b"", 400, None),
        (b"\xff\xfe", 400, None),
        (b"[1]", 422, ""),
        (b'{"type":"reservation"}', 422, "action"),
        (b'{"type":"reservation","action":"created","action":"updated","data":{}}', 422, "action"),
        (b'{"type":"nothing","action":"created","data":{}}', 422, "type"),
        (b'{"type":"reservation","action":"eaten","data":{}}', 422, "action"),
        (b'{"type":"room","action":"status_changed","data":{"room_id":NaN}}', 422, "data.room_id"),
        (b'{"type":"room","action":"status_changed","data":{"x":1e999}}', 422, "data.x"),
        (b'{"type":"room","action":"status_changed","data":{"x":"\\ud800"}}', 422, "data.x"),
        (b'{"type":"room","action":"status_changed","data":{"x":"a\\u0000"}}', 422, "data.x"),
        (b'{"type":"room","action":"status_changed","data":{"x":1234567890123456}}', 422, "data.x"),
        (b'{"events":[]}', 422, "events"),
        (b'{"events":{}}', 422, "events"),
        (b"[" * 100_000, 400, None),
    ],
)
async def test_bad_bodies_are_named(standing: House, body: bytes, status: int, path: str | None) -> None:
    """What cannot be accepted is refused with the field's path, and nothing is stored."""
    response = await standing.post(body)
    problem = response.json()
    assert response.status_code == status, problem
    assert response.headers["content-type"] == "application/problem+json"
    if path is not None:
        assert problem.get("errors", [{"path": ""}])[0]["path"] == path
    page = await standing.http.get("/events", headers=standing.headers())
    assert page.json()["events"] == []


async def test_limits(house: House) -> None:
    """A body over 1 MiB, a batch over 500 and an event that fits no frame are 413."""
    many = [house.reservation() for _ in range(501)]
    assert (await house.post({"events": many})).status_code == 413
    assert (await house.post(b'{"x":"' + b"x" * (1 << 20) + b'"}')).status_code == 413

    async def pieces() -> Any:
        for _ in range(20):
            yield b" " * 100_000

    streamed = await house.http.post("/events", content=pieces(), headers=house.headers())
    assert streamed.status_code == 413
    wide = house.reservation(data_special_requests="ホ" * 4000)
    assert (await house.post(wide)).status_code == 201
    report = {
        "type": "analytics",
        "action": "daily_report",
        "data": {
            "report_type": "daily_report",
            "period_start": "2026-01-01",
            "period_end": "2026-01-01",
            "total_revenue": 1,
            "occupancy_rate": 0.5,
            "customer_count": 1,
            "average_stay_duration": 1.5,
            "generated_at": "2026-01-01T23:00:00+09:00",
            "detailed_data": {"x": "y" * 70_000},
        },
    }
    refused = await house.post(report)
    assert (refused.status_code, refused.json()["code"]) == (413, "too_large")


async def test_who_may_publish(house: House) -> None:
    """No token 401; another tenant, scope or authority 403; the source is always the credential's system."""
    event = house.reservation("R1")
    bare = await house.http.post("/events", content=orjson.dumps(event))
    assert (bare.status_code, bare.headers["www-authenticate"][:6]) == (401, "Bearer")
    assert (await house.post(event | {"tenant_id": "other"})).status_code == 403
    assert (await house.post(event, scopes=["publish:room.*"])).status_code == 403
    desk = house.reservation("R1", action="checked_in")
    assert (await house.post(desk, system="hotel-saas")).json()["code"] == "not_authority"
    assert (await house.post(event, tenants=["a", "b"])).json()["errors"][0]["path"] == "tenant_id"
    claimed = house.reservation("R2", data_updated_by_system="hotel-pms", data_origin_system="hotel-member")
    await house.publish(claimed, system="hotel-saas")
    page = await house.http.get("/events", headers=house.headers())
    data = page.json()["events"][0]["event"]["data"]
    assert (data["origin_system"], data["updated_by_system"], data["currency"]) == ("hotel-member", "hotel-saas", "JPY")


async def test_a_conflict_brings_the_latest(house: House) -> None:
    """expected_revision that no longer holds is 409 with the latest state, and stores nothing."""
    await house.publish(house.reservation("R1", data_total_amount=1), house.reservation("R1", data_total_amount=2))
    response = await house.post(house.reservation("R1", action="updated", expected_revision=1))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (409, "conflict")
    assert problem["latest"]["revision"] == 2
    assert problem["latest"]["data"]["total_amount"] == 2
    assert (await house.post(house.reservation("R1", action="updated", expected_revision=2))).json()["revision"] == 3
    assert (await house.post(house.reservation("R9", expected_revision=0))).json()["revision"] == 1


async def test_publishers_share_round_trips(house: House) -> None:
    """Many publishers at once: every event stored once, sequences without a hole."""
    responses = await asyncio.gather(*(house.post(house.reservation(f"R{i % 7}")) for i in range(200)))
    assert sorted(response.json()["sequence"] for response in responses) == list(range(1, 201))


async def test_out_of_memory_is_said_and_passes(house: House) -> None:
    """A log that is full refuses with 503 and takes events again once there is room; nothing is half stored."""
    client = house.hub.log.source.client
    await house.publish(house.reservation("R1"))
    await client.config_set("maxmemory", "1mb")
    refused = await house.post(house.reservation("R2"))
    assert (refused.status_code, refused.json()["code"]) == (503, "log_unavailable")
    assert refused.headers["retry-after"] == "1"
    ready = await house.http.get(f"http://127.0.0.1:{house.hub.port}/readyz")
    assert ready.status_code == 503
    await client.config_set("maxmemory", "0")
    assert (await house.post(house.reservation("R2"))).json()["sequence"] == 2
    ready = await house.http.get(f"http://127.0.0.1:{house.hub.port}/readyz")
    assert ready.status_code == 200


@pytest.mark.parametrize("archived", [True, False])
async def test_a_flushed_server_is_begun_anew(start: Callable[..., Any], archived: bool) -> None:
    """After FLUSHALL publishing goes on in a new epoch, with groups made again. What was archived is still there, and
    the numbers go on; what was not is gone, and old cursors get a gap."""
    async with start(roles=("gateway", "archiver") if archived else ("gateway",)) as house:
        (before,) = await house.publish(house.reservation("R1"))
        if archived:
            await house.archived(before)
        await house.hub.log.source.client.flushall()
        (after,) = await house.publish(house.reservation("R2"))
        again = (await house.post(house.reservation("R1", event_id=before["event_id"]))).json()
        assert (after["sequence"], again["duplicate"]) == ((2, True) if archived else (1, False))
        page = (await house.http.get("/events", params={"after": before["cursor"]}, headers=house.headers())).json()
        assert page.get("gap", {}).get("reason") == (None if archived else "epoch")
        assert page["events"][0]["cursor"] == after["cursor"]
        await check_groups(house)


async def check_groups(house: House) -> None:
    """Every configured group is there."""
    groups = (await house.http.get("/groups", headers=house.headers(scopes=["ops"]))).json()["groups"]
    assert {group["group"] for group in groups} >= {"archiver", "webhooks", "hotel-pms", "hotel-saas", "hotel-member"}


async def test_a_conflict_shows_no_more_than_the_token_may_read(house: House) -> None:
    """The latest state in a conflict is masked, and left out where scope or targets forbid it."""
    await house.publish(house.reservation("R1", data_guest_name="山田 花子", targets=["hotel-pms"]))
    late = house.reservation("R1", expected_revision=7)
    whole = (await house.post(late)).json()["latest"]
    assert whole["data"]["guest_name"] == "山田 花子"
    masked = (await house.post(late, view="masked")).json()["latest"]
    assert masked["data"]["guest_name"] == "***"
    for less in ({"scopes": ["publish:*"]}, {"system": "hotel-member"}):
        latest = (await house.post(late, **less)).json()["latest"]
        assert latest == {"revision": 1, "data": None}


async def test_thousands_of_unknown_fields_are_one_error(house: House) -> None:
    """An event stuffed with fields is refused before each of them costs anything."""
    stuffed = house.reservation(**{f"data_x{number}": 1 for number in range(5000)})
    response = await house.post(stuffed)
    assert response.status_code == 422
    assert [error["path"] for error in response.json()["errors"]] == ["data"]


async def test_endless_headers_are_cut_off(house: House) -> None:
    """A header block that does not end is answered by 431, and the connection closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.hub.port)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    for _ in range(40):
        writer.write(b"X-Filler: " + b"x" * 1000 + b"\r\n")
    try:
        async with asyncio.timeout(10):
            answer = await reader.read()
    except ConnectionResetError:
        answer = b""  # what was still on its way when the hub closed may overtake the answer
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431")
    writer.close()


async def test_one_connection_serves_many_requests(house: House) -> None:
    """The limits on headers are of each request, not of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", house.hub.port)
    for _ in range(50):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"x" * 2000 + b"\r\n\r\n")
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            await reader.readexactly(len(b'{"status":"ok"}'))
    writer.close()
