"""What publishers hand in, what is stored of it, and every refusal by its field."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from feed_rig import Rig, claims

from hub.log.topology import RedisConnectionError
from hub.security.tokens import Claims
from hub.services.publisher import MAX_EVENT_BYTES, Publisher, Systems
from schemas import strict_json
from schemas.errors import Problem
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS

pytestmark = pytest.mark.server

NOW = datetime(2026, 7, 15, 1, 4, 1, 512_000, tzinfo=UTC)
PMS = claims(["naha"], HOTEL_PMS, ["publish:*", "subscribe:*"])


def room(**changes: Any) -> dict[str, Any]:
    """A `room.status_changed` as a publisher writes it; `data` is merged, ... takes a field out."""
    data: dict[str, Any] = {"room_id": "r-1", "room_number": "301", "room_type": "twin", "status": "occupied"}
    data |= {"availability_date": "2026-07-17"} | changes.pop("data", {})
    event: dict[str, Any] = {"type": "room", "action": "status_changed"} | changes
    event["data"] = {name: value for name, value in data.items() if value is not ...}
    return {name: value for name, value in event.items() if value is not ...}


def publisher(rig: Rig, systems: Systems | None = None, currency: Callable[[str], str] = lambda _: "JPY") -> Publisher:
    """A publisher at a fixed time."""
    return Publisher(rig.history, systems or Systems(), rig.metrics, currency=currency, clock=lambda: NOW)


async def publish(rig: Rig, event: Any, who: Claims = PMS, made: Publisher | None = None) -> dict[str, Any]:
    """Publish one event; its receipt."""
    parsed = strict_json.parse(orjson.dumps(event))
    return await (made or publisher(rig)).submit(parsed, parsed.tree, who)


async def stored(rig: Rig, receipt: dict[str, Any], tenant: str = "naha") -> dict[str, Any]:
    """The envelope as it lies in the log."""
    entry = await rig.log.find(tenant, receipt["event_id"])
    assert entry is not None
    return entry.event


async def test_a_short_event_becomes_a_whole_envelope(rig: Rig) -> None:
    """Type, action and data are enough; the rest comes from type, credential and clock, in the published order."""
    receipt = await publish(rig, room())
    assert (receipt["sequence"], receipt["revision"], receipt["duplicate"]) == (1, 1, False)
    assert UUID(receipt["event_id"]).version == 7
    event = await stored(rig, receipt)
    stamp = "2026-07-15T01:04:01.512Z"
    assert list(event) == [
        "event_id", "schema_version", "tenant_id", "type", "action", "priority", "sync_mode", "targets",
        "delivery_guarantee", "occurred_at", "recorded_at", "entity", "data", "revision",
    ]  # fmt: skip
    assert event | {"event_id": "", "data": {}} == {
        "event_id": "",
        "schema_version": 1,
        "tenant_id": "naha",
        "type": "room",
        "action": "status_changed",
        "priority": "HIGH",
        "sync_mode": "realtime",
        "targets": [HOTEL_MEMBER, HOTEL_PMS],
        "delivery_guarantee": "at_least_once",
        "occurred_at": stamp,
        "recorded_at": stamp,
        "entity": "room:r-1",
        "data": {},
        "revision": 1,
    }
    tracked = {name: event["data"][name] for name in ("origin_system", "updated_by_system", "synced_at")}
    assert tracked == {"origin_system": HOTEL_PMS, "updated_by_system": HOTEL_PMS, "synced_at": stamp}


async def test_what_the_publisher_may_say_is_kept(rig: Rig) -> None:
    """Optional fields are carried through; what the hub decides is set anew."""
    event_id = str(uuid4())
    sent = {
        "event_id": event_id.upper(),
        "tenant_id": "naha",
        "schema_version": 1,
        "priority": "CRITICAL",
        "sync_mode": "batch",
        "delivery_guarantee": "exactly_once",
        "targets": [HOTEL_PMS, HOTEL_PMS],
        "occurred_at": "2026-07-15T10:04:00+09:00",
        "device_id": "tablet-1",
        "created_offline": True,
        "temp_id": "t-1",
        "correlation_id": "c-1",
        "causation_id": "c-0",
        "traceparent": "00-1-2-01",
        "expected_revision": 0,
        "entity": "room:r-1",
    }
    receipt = await publish(rig, room(**sent, recorded_at="never", revision=99))
    event = await stored(rig, receipt)
    assert {name: event[name] for name in sent} == sent | {"event_id": event_id, "targets": [HOTEL_PMS]}
    assert event["revision"] == 1
    assert event["recorded_at"] == "2026-07-15T01:04:01.512Z"


async def test_source_tracking_comes_from_the_credential(rig: Rig) -> None:
    """Nobody publishes in another system's name; only where the data first came from may be said."""
    lie = {"origin_system": "hotel-saas", "updated_by_system": "hotel-member", "synced_at": "2020-01-01T00:00:00Z"}
    data = (await stored(rig, await publish(rig, room(data=lie))))["data"]
    assert (data["origin_system"], data["updated_by_system"]) == ("hotel-saas", HOTEL_PMS)
    assert data["synced_at"] == "2026-07-15T01:04:01.512Z"
    data = (await stored(rig, await publish(rig, room(data={"origin_system": None}))))["data"]
    assert data["origin_system"] == HOTEL_PMS


async def test_amounts_get_the_tenants_currency(rig: Rig) -> None:
    """Where the type has a currency and the publisher names none, or null, it is the property's."""
    made = publisher(rig, currency={"naha": "USD"}.__getitem__)
    for sent, expected in ({}, "USD"), ({"currency": None}, "USD"), ({"currency": "EUR"}, "EUR"):
        data = (await stored(rig, await publish(rig, room(data=sent), made=made)))["data"]
        assert data["currency"] == expected
    alert = {"type": "operation_log", "action": "recorded"}
    from schemas.registry import EVENT_TYPES

    assert "currency" not in EVENT_TYPES[alert["type"]].versions[1].model_fields


async def test_added_systems_become_targets(rig: Rig) -> None:
    """HUB_SYSTEMS adds targets by pattern, which a publisher may narrow to, and no others."""
    systems = Systems({"housekeeping-app": ("room.*",), "bar": ("order.placed",), HOTEL_PMS: ("*",)})
    made = publisher(rig, systems)
    event = await stored(rig, await publish(rig, room(), made=made))
    assert event["targets"] == [HOTEL_MEMBER, HOTEL_PMS, "housekeeping-app"]
    event = await stored(rig, await publish(rig, room(targets=["housekeeping-app"]), made=made))
    assert event["targets"] == ["housekeeping-app"]
    with pytest.raises(Problem) as refused:
        await publish(rig, room(targets=[HOTEL_PMS, "bar"]), made=made)
    assert [error.path for error in refused.value.errors] == ["targets.1"]


async def test_the_devices_own_id_is_its_tokens(rig: Rig) -> None:
    """An event without `device_id` gets the token's."""
    who = claims(["naha"], HOTEL_PMS, ["publish:*"], device_id="tablet-9")
    assert (await stored(rig, await publish(rig, room(), who)))["device_id"] == "tablet-9"


async def test_the_same_parsed_event_can_be_published_twice(rig: Rig) -> None:
    """Enriching does not write into the parsed body: each event of a batch stands for itself."""
    raw = orjson.dumps({"events": [room(), room()]})
    parsed = strict_json.parse(raw)
    made = publisher(rig)
    receipts = [await made.submit(parsed, one, PMS) for one in (*parsed.tree["events"], parsed.tree["events"][0])]
    assert [receipt["revision"] for receipt in receipts] == [1, 2, 3]
    assert parsed.tree == orjson.loads(raw)


async def test_a_retry_gets_the_first_receipt(rig: Rig) -> None:
    """The same event_id again, in capitals too, is a duplicate with the first cursor, and is counted."""
    event_id = str(uuid4())
    first = await publish(rig, room(event_id=event_id))
    again = await publish(rig, room(event_id=event_id.upper(), data={"status": "cleaning"}))
    assert again == first | {"duplicate": True}
    counts = {
        (sample.labels["type"], sample.labels["outcome"]): sample.value
        for metric in rig.metrics.published.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert counts[("room", "stored")] == 1
    assert counts[("room", "duplicate")] == 1


async def test_a_conflict_comes_with_the_latest(rig: Rig) -> None:
    """An entity that moved on answers with its revision and data; one that does not exist with neither."""
    await publish(rig, room())
    await publish(rig, room(data={"status": "cleaning"}))
    with pytest.raises(Problem) as refused:
        await publish(rig, room(expected_revision=1))
    problem = refused.value
    assert (problem.code, problem.status) == ("conflict", 409)
    assert problem.extra["latest"]["revision"] == 2
    assert problem.extra["latest"]["data"]["status"] == "cleaning"
    with pytest.raises(Problem) as refused:
        await publish(rig, room(expected_revision=3, data={"room_id": "r-9"}))
    assert refused.value.extra["latest"] == {"revision": 0, "data": None}


async def test_a_conflict_survives_a_log_that_cannot_be_read(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The refusal stands though the latest data cannot be had."""
    await publish(rig, room())

    async def away(*_: Any) -> Any:
        raise RedisConnectionError("gone")

    monkeypatch.setattr(rig.log, "at", away)
    with pytest.raises(Problem) as refused:
        await publish(rig, room(expected_revision=5))
    assert refused.value.extra["latest"] == {"revision": 1, "data": None}


async def test_an_old_version_is_taken_and_told_new(rig: Rig) -> None:
    """An order of version 1 is stored as it came; a conflict tells the newest version's data."""
    order = {"type": "order", "action": "placed", "schema_version": 1}
    order["data"] = {"order_id": "o-1", "room_number": "1", "item": "tea", "quantity": 2, "unit_price": 500}
    who = claims(["naha"], HOTEL_SAAS, ["publish:*", "subscribe:*"])
    event = await stored(rig, await publish(rig, order, who))
    assert event["schema_version"] == 1
    assert event["data"]["item"] == "tea"
    with pytest.raises(Problem) as refused:
        await publish(rig, order | {"expected_revision": 0}, who)
    assert refused.value.extra["latest"]["data"]["items"][0]["name"] == "tea"


@pytest.mark.parametrize(
    ("event", "code", "path"),
    [
        (None, "invalid_event", ""),
        ([], "invalid_event", ""),
        ("x", "invalid_event", ""),
        ({}, "invalid_event", "type"),
        (room(action=...), "invalid_event", "action"),
        (room(type="rooms"), "invalid_event", "type"),
        (room(action="exploded"), "invalid_event", "action"),
        (room(type=7), "invalid_event", "type"),
        (room(more=1), "invalid_event", "more"),
        (room(schema_version=9), "invalid_event", "schema_version"),
        (room(schema_version="1"), "invalid_event", "schema_version"),
        (room(event_id="1"), "invalid_event", "event_id"),
        (room(tenant_id="na ha"), "invalid_event", "tenant_id"),
        (room(tenant_id="other"), "forbidden", None),
        (room(priority="LOW"), "invalid_event", "priority"),
        (room(sync_mode="later"), "invalid_event", "sync_mode"),
        (room(delivery_guarantee="maybe"), "invalid_event", "delivery_guarantee"),
        (room(targets=[HOTEL_SAAS]), "invalid_event", "targets.0"),
        (room(targets=[HOTEL_PMS, "hub"]), "invalid_event", "targets.1"),
        (room(targets="hotel-pms"), "invalid_event", "targets"),
        (room(occurred_at="yesterday"), "invalid_event", "occurred_at"),
        (room(occurred_at="2026-07-15T10:04:00"), "invalid_event", "occurred_at"),
        (room(entity="room:r-2"), "invalid_event", "entity"),
        (room(expected_revision=-1), "invalid_event", "expected_revision"),
        (room(expected_revision=True), "invalid_event", "expected_revision"),
        (room(expected_revision=1.0), "invalid_event", "expected_revision"),
        (room(device_id=""), "invalid_event", "device_id"),
        (room(traceparent="a\nb"), "invalid_event", "traceparent"),
        (room(data={"room_id": ...}), "invalid_event", "data.room_id"),
        (room(data={"room_id": "a b"}), "invalid_event", "data.room_id"),
        (room(data={"status": "haunted"}), "invalid_event", "data.status"),
        (room(data={"base_price": "5"}), "invalid_event", "data.base_price"),
        (room(data={"base_price": -5}), "invalid_event", "data.base_price"),
        (room(data={"ghost": 1}), "invalid_event", "data.ghost"),
        (room(data={"updated_by_system": 7}), "invalid_event", "data.updated_by_system"),
        (room(data={"maintenance_notes": "x" * 4001}), "invalid_event", "data.maintenance_notes"),
    ],
)
async def test_every_refusal_names_its_field(rig: Rig, event: Any, code: str, path: str | None) -> None:
    """A refused event says where it is wrong, and leaves nothing in the log."""
    with pytest.raises(Problem) as refused:
        await publish(rig, event)
    assert refused.value.code == code
    if path is not None:
        assert path in [error.path for error in refused.value.errors]
    assert await rig.log.tenants() == {}


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"type":"room","type":"room","action":"status_changed","data":{}}', "type"),
        (b'{"type":"room","action":"status_changed","data":{"base_price":NaN}}', "data.base_price"),
        (b'{"type":"room","action":"status_changed","data":{"base_price":12345678901234567}}', "data.base_price"),
        (b'{"type":"room","action":"status_changed","data":{"room_id":"\\ud800"}}', "data.room_id"),
        (b'{"type":"room","action":"status_changed","data":{"room_id":"\\u0000"}}', "data.room_id"),
    ],
)
async def test_ambiguous_json_is_refused_by_field(rig: Rig, raw: bytes, path: str) -> None:
    """What parsers read differently is not stored."""
    parsed = strict_json.parse(raw)
    with pytest.raises(Problem) as refused:
        publisher(rig).submit(parsed, parsed.tree, PMS)
    assert [error.path for error in refused.value.errors] == [path]


async def test_credentials_bound_what_is_published(rig: Rig) -> None:
    """Scope, authority and tenant: each refusal has its code; a token of several tenants must name one."""
    for who, event, code in (
        (claims(["naha"], HOTEL_PMS, ["publish:order.*", "subscribe:*"]), room(), "forbidden"),
        (claims(["naha"], HOTEL_PMS, ["publish:room.price_updated"]), room(), "forbidden"),
        (claims(["naha"], HOTEL_SAAS, ["publish:*"]), room(), "not_authority"),
        (claims(["naha", "other"], HOTEL_PMS, ["publish:*"]), room(), "invalid_event"),
        (claims(["*"], HOTEL_PMS, ["publish:*"]), room(), "invalid_event"),
        (claims([], HOTEL_PMS, ["publish:*"]), room(), "invalid_event"),
    ):
        with pytest.raises(Problem) as refused:
            await publish(rig, event, who)
        assert refused.value.code == code
    assert (await publish(rig, room(tenant_id="anywhere"), claims(["*"], "hub", ["publish:room.*"])))["sequence"] == 1


async def test_an_event_fits_a_websocket_message(rig: Rig) -> None:
    """What readers could not be sent in one message is not taken."""
    system = claims(["naha"], "hub", ["publish:*"])
    notice = {"type": "system", "action": "notice", "data": {"topic": "t", "message": "m", "detail": {}}}
    notice["data"]["detail"] = {"pad": "x" * MAX_EVENT_BYTES}  # type: ignore[index]
    with pytest.raises(Problem) as refused:
        await publish(rig, notice, system)
    assert (refused.value.code, refused.value.status) == ("too_large", 413)
    notice["data"]["detail"] = {"pad": "x" * (MAX_EVENT_BYTES - 1000)}  # type: ignore[index]
    assert (await publish(rig, notice, system))["sequence"] == 1


async def test_events_are_stored_in_the_order_of_submission(rig: Rig) -> None:
    """Receipts of events submitted without waiting come back in the same order of sequences."""
    made = publisher(rig)
    parsed = strict_json.parse(orjson.dumps([room(data={"room_id": f"r-{n % 3}"}) for n in range(50)]))
    receipts = [await one for one in [made.submit(parsed, event, PMS) for event in parsed.tree]]
    assert [receipt["sequence"] for receipt in receipts] == list(range(1, 51))


async def test_a_withdrawn_publisher_is_no_failure(rig: Rig) -> None:
    """Cancelling the receipt leaves the event stored and nothing unobserved, also for a conflict."""
    made, parsed = publisher(rig), strict_json.parse(orjson.dumps([room(), room(expected_revision=7)]))
    for event in parsed.tree:
        made.submit(parsed, event, PMS).cancel()
    await publish(rig, room(), made=made)
    await made.aclose()
    assert (await rig.log.tenants())["naha"].sequence == 2
