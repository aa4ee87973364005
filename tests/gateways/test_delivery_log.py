"""The delivery log of a whole hub: who was sent what, who answered, what was given up, and who may know."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from house import WAIT_S, House

from consumers.stream_consumer import StreamConsumer

OPS: dict[str, Any] = {"system": "hub", "tenants": ("*",), "scopes": ("subscribe:*", "ops")}
MEMBER, PMS, SAAS = "hotel-member", "hotel-pms", "hotel-saas"


class Asked:
    """A hub's delivery log over HTTP."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def get(self, path: str, code: int = 200, as_: dict[str, Any] = OPS, **params: Any) -> Any:
        """An answer."""
        response = await self.house.http.get(path, params=params, headers=self.house.headers(**as_))
        assert response.status_code == code, response.text
        return response.json()

    async def trace(self, event_id: str, **more: Any) -> Any:
        """An event's story."""
        return await self.get(f"/events/{event_id}/trace", **more)

    async def until(self, event_id: str, condition: Callable[[Any], Any], **more: Any) -> Any:
        """Its story, once it is so: what is noted comes to the ledger within seconds."""
        found = None
        try:
            async with asyncio.timeout(WAIT_S * 2):
                # The ledger is written by itself, which sends no signal.
                while not condition(found := await self.trace(event_id, **more)):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(found) from None
        return found

    async def all(self, **params: Any) -> list[str]:
        """The ids of all pages."""
        found: list[str] = []
        page: Any = {"next": None}
        while True:
            page = await self.get("/deliveries", **params, **({"after": page["next"]} if page["next"] else {}))
            found += [one["event_id"] for one in page["deliveries"]]
            if page["next"] is None:
                return found


@pytest.fixture
async def asked(house: House) -> Asked:
    """A hub with default settings."""
    return Asked(house)


def steps(trace: Any, *of: str) -> list[tuple[str, str | None]]:
    """Its steps with who did them."""
    return [
        (one["step"], one["system"] or one["group"])
        for one in trace["timeline"]
        if one["step"] in of or (not of and one["step"] != "routed")
    ]


@asynccontextmanager
async def consuming(house: House, failing: Callable[[Any], bool]) -> AsyncIterator[StreamConsumer]:
    """The PMS next to the log."""
    consumer = StreamConsumer(
        house.hub.url, group=PMS, consumer="pms-1", attempts=2, retry_base_s=0.001, retry_cap_s=0.001, lease_s=5.0
    )

    @consumer.on("reservation.*")
    async def reserved(event: Any) -> None:
        if failing(event):
            raise ValueError("no such room: Taro Yamada")

    async with consumer:
        yield consumer


async def test_the_whole_story(asked: Asked) -> None:
    """A live reader, a durable one that acknowledges, one that goes before it does, a consumer that handles one event
    and gives up another, which is then redriven: the trace shows exactly that."""
    house = asked.house
    cured = False
    async with (
        house.socket(token=house.token(SAAS)) as live,
        house.socket(token=house.token(MEMBER)) as durable,
        house.socket(token=house.token(MEMBER)) as leaving,
        consuming(house, lambda event: not cured and event.data.reservation_id == "BAD") as consumer,
    ):
        await live.ask("subscribe", id=1, patterns=["*"])
        await durable.ask("subscribe", id=1, patterns=["reservation.*"], name="member-sync")
        await leaving.ask("subscribe", id=1, patterns=["*"], name="tablet")
        good, bad = await house.publish(house.reservation("GOOD"), house.reservation("BAD"))
        for socket in (live, durable, leaving):
            assert [one["op"] for one in await socket.take(2)] == ["event", "event"]
        await leaving.connection.close()
        await durable.send("ack", cursors={"default": good["cursor"]})
        await durable.quiet()
        await house.until(lambda: consumer.stats.dead == 1 and consumer.stats.handled == 1)

        trace = await asked.until(
            good["event_id"], lambda found: {one["status"] for one in found["systems"].values()} >= {"handled", "sent"}
        )
        assert {system: one["status"] for system, one in trace["systems"].items()} == {
            MEMBER: "acknowledged",
            PMS: "handled",
            SAAS: "sent",
        }
        assert sorted(steps(trace)) == [
            ("acknowledged", MEMBER),
            ("appended", PMS),
            ("handled", PMS),
            ("sent", MEMBER),
            ("sent", MEMBER),
            ("sent", SAAS),
        ]
        assert [one["name"] for one in trace["timeline"] if one["step"] == "acknowledged"] == ["member-sync"]
        assert trace["delivery_status"] == "pending"
        assert trace["source_system"] == PMS

        trace = await asked.until(bad["event_id"], lambda found: found["delivery_status"] == "failed")
        assert {system: one["status"] for system, one in trace["systems"].items()} == {
            MEMBER: "sent",
            PMS: "failed",
            SAAS: "sent",
        }
        assert sorted(trace["systems"][MEMBER]["waiting_for"]) == ["member-sync", "tablet"]
        assert ("acknowledged", MEMBER) not in steps(trace)
        assert (trace["retry_count"], trace["error_message"]) == (1, "ValueError: no such room: Taro Yamada")
        assert await asked.all(status="failed") == await asked.all(status="failed", since="1h") == [bad["event_id"]]
        assert await asked.all(status="failed", until="1h") == []

        cured = True
        answer = await house.http.post("/dead-letters/redrive", json={"group": PMS}, headers=house.headers(**OPS))
        assert answer.json() == {"redriven": 1}
        trace = await asked.until(bad["event_id"], lambda found: found["systems"][PMS]["status"] == "handled")
        assert steps(trace, "dead_lettered", "redriven", "handled") == [
            ("dead_lettered", PMS),
            ("redriven", PMS),
            ("handled", PMS),
        ] or steps(trace, "dead_lettered", "redriven", "handled") == [
            ("dead_lettered", PMS),
            ("handled", PMS),
            ("redriven", PMS),
            ("handled", PMS),
        ]
        assert await asked.all(status="failed") == []


async def test_success_and_pages(asked: Asked) -> None:
    """Every target answered: success, with its time; listings filter by status, system, pattern, tenant and event."""
    house = asked.house
    async with house.socket(token=house.token(MEMBER)) as member:
        await member.ask("subscribe", id=1, patterns=["*"], name="sub")
        to_one = [house.reservation(targets=[MEMBER]) for _ in range(70)]
        receipts = await house.publish(*to_one)
        (other,) = await house.publish(house.reservation(targets=[SAAS]), tenants=("elsewhere",))
        events = await member.take(70)
        await member.send("ack", cursors={"default": events[29]["cursor"]})
        await member.quiet()
        ids = [receipt["event_id"] for receipt in receipts]
        found = await asked.until(ids[29], lambda found: found["delivery_status"] == "success")
        assert 0 <= found["delivery_time"] < WAIT_S * 1000
    assert not found["outstanding"]
    assert await asked.all(status="success", limit=7) == ids[:30]
    assert sorted(await asked.all(status="pending")) == sorted([*ids[30:], other["event_id"]])
    assert sorted(await asked.all(limit=9)) == sorted([*ids, other["event_id"]])
    assert await asked.all(tenant="elsewhere") == await asked.all(system=SAAS) == [other["event_id"]]
    assert await asked.all(status="pending", system=MEMBER, tenant="default", limit=500) == ids[30:]
    assert await asked.all(patterns="room.*") == []
    assert len(await asked.all(patterns="room.*,reservation.created")) == 71
    assert await asked.all(event_id=ids[3]) == [ids[3]]
    assert await asked.all(event_id=ids[3], status="pending") == []
    assert await asked.all(status="outstanding") == []
    assert await asked.all(until="1h") == []


async def test_what_waits_too_long_is_outstanding(start: Callable[..., Any]) -> None:
    """Past HUB_OUTSTANDING_S without an answer; one that answered is not listed."""
    async with start(outstanding_s=0.001) as house:
        asked = Asked(house)
        async with house.socket(token=house.token(MEMBER)) as member:
            await member.ask("subscribe", id=1, patterns=["*"], name="sub")
            first, second = await house.publish(
                house.reservation(targets=[MEMBER]), house.reservation(targets=[MEMBER])
            )
            await member.take(2)
            await member.send("ack", cursors={"default": first["cursor"]})
            await asked.until(first["event_id"], lambda found: found["delivery_status"] == "success")
        assert await asked.all(status="outstanding") == [second["event_id"]]
        trace = await asked.trace(second["event_id"])
        assert trace["outstanding"]
        assert trace["systems"][MEMBER]["waiting_for"] == ["sub"]


async def test_pages_and_streams_are_noted(asked: Asked) -> None:
    """A poll and Server-Sent Events: given to the system that asked, and to no other."""
    house = asked.house
    (receipt,) = await house.publish(house.reservation())
    await asked.get("/events", as_={"system": MEMBER})
    headers = house.headers(SAAS) | {"Last-Event-ID": "earliest"}
    async with house.http.stream("GET", "/stream", headers=headers) as response:
        lines = response.aiter_lines()
        async for line in lines:
            if line.startswith(": at"):
                break
        (later,) = await house.publish(house.reservation())
        async for line in lines:
            if line.startswith(": at"):
                break
    trace = await asked.until(receipt["event_id"], lambda found: len(steps(found, "polled")) == 2)
    assert sorted((one["channel"], one["system"]) for one in trace["timeline"] if one["step"] == "polled") == [
        ("poll", MEMBER),
        ("sse", SAAS),
    ]
    assert {system: one["status"] for system, one in trace["systems"].items()} == {
        MEMBER: "sent",
        PMS: "waiting",
        SAAS: "sent",
    }
    assert steps(await asked.trace(later["event_id"]), "polled") in ([], [("polled", SAAS)])


async def test_who_may_know(asked: Asked) -> None:
    """The listing is for `ops` and the token's tenants; a story is for those that may see the event, without the
    sessions of others."""
    house = asked.house
    async with (
        house.socket(token=house.token(MEMBER)) as member,
        house.socket(token=house.token(SAAS)) as saas,
    ):
        for socket in (member, saas):
            await socket.ask("subscribe", id=1, patterns=["*"])
        (receipt,) = await house.publish(house.reservation(targets=[MEMBER, SAAS]))
        await member.take(1)
        await saas.take(1)
        await asked.until(receipt["event_id"], lambda found: len(steps(found, "sent")) == 2)
        trace = await asked.trace(receipt["event_id"], as_={"system": MEMBER})
        sessions = {one["system"]: one["session"] for one in trace["timeline"] if one["step"] == "sent"}
        assert sessions[MEMBER] is not None
        assert sessions[SAAS] is None
        assert trace["systems"][SAAS]["waiting_for"] == []
    await asked.trace(receipt["event_id"], code=404, as_={"system": "housekeeping"})
    await asked.trace(receipt["event_id"], code=404, as_={"system": MEMBER, "tenants": ("other",)})
    await asked.trace("0" * 36, code=404)
    await asked.get("/deliveries", code=403, as_={"system": MEMBER})
    ops = {"system": MEMBER, "tenants": ("other",), "scopes": ("ops",)}
    assert (await asked.get("/deliveries", as_=ops))["deliveries"] == []
    assert (await asked.get("/deliveries", as_=ops, event_id=receipt["event_id"]))["deliveries"] == []
    await asked.get("/deliveries", code=403, as_=ops, tenant="default")


@pytest.mark.parametrize(
    "params",
    [
        {"status": "done"},
        {"limit": "0"},
        {"limit": "501"},
        {"limit": "ten"},
        {"limit": "9" * 5000},
        {"limit": "²"},
        {"since": "9" * 5000 + "s"},
        {"since": "0" * 5000 + "s"},
        {"until": "9" * 5000},
        {"status": "failed", "after": "r" + "9" * 30 + "-aa"},
        {"status": "failed", "after": "r9-" + "a" * 3000},
        {"status": "failed", "after": "r-5-aa"},
        {"after": "p" + "9" * 5000 + "-1-1"},
        {"after": "p1-" + "9" * 19 + "-1"},
        {"after": "p1-1-" + "9" * 30},
        {"since": "yesterday"},
        {"since": "99999999999999999h"},
        {"since": "2026-07-15T10:04:00"},
        {"since": "1969-07-15T10:04:00Z"},
        {"patterns": "Room"},
        {"after": "x"},
        {"after": "r1-00"},
        {"after": "p1"},
        {"after": "p1-2-x"},
        {"status": "failed", "after": "p1-1-1"},
        {"status": "failed", "after": "r1-xyz"},
    ],
)
async def test_bad_parameters_are_named(standing: House, params: dict[str, Any]) -> None:
    """A problem with the parameter, not an empty page."""
    problem = await Asked(standing).get("/deliveries", code=422, **params)
    assert problem["errors"][0]["path"] in params


async def test_a_replay_claims_what_it_sent(asked: Asked) -> None:
    """Between two times, also where what was recorded outside them lies in the midst: nothing of that; on a channel
    nothing for other systems, while a group is handed everything selected."""
    house = asked.house
    start = datetime.now(UTC)
    stored = []
    for targets, seconds in (([PMS], 1), ([PMS], 100), ([SAAS], 2), ([PMS], 3)):
        house.hub.publisher._clock = partial(datetime.fromtimestamp, start.timestamp() + seconds, UTC)
        stored += await house.publish(house.reservation(targets=targets))
    asks = {"speed": "full", "from": start.isoformat(), "to": (start + timedelta(seconds=50)).isoformat()}
    async with house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], replay="x")
        for target in ({"system": PMS, "channel": "x"}, {"group": SAAS}):
            answer = await house.http.post("/replays", json=asks | {"target": target}, headers=house.headers(**OPS))
            assert answer.status_code == 201, answer.text
        assert [one["op"] for one in await socket.take(3)] == ["event", "event", "notice"]

    def told(trace: Any) -> list[tuple[str, str | None]]:
        return sorted(steps(trace, "replayed"))

    both = [("replayed", PMS), ("replayed", SAAS)]
    for one in (stored[0], stored[3]):
        await asked.until(one["event_id"], lambda found: told(found) == both)
    assert told(await asked.trace(stored[1]["event_id"])) == []
    assert told(await asked.trace(stored[2]["event_id"])) == [("replayed", SAAS)]


async def test_a_span_without_room_has_no_deliveries(asked: Asked) -> None:
    """An end before the beginning, or at the beginning of time, is an empty page."""
    await asked.house.publish(asked.house.reservation())
    for params in ({"until": "1970-01-01T00:00:00Z"}, {"since": "1h", "until": "2h"}):
        assert await asked.all(**params) == []
        assert await asked.all(status="failed", **params) == []


async def test_a_publisher_reads_its_own_event(asked: Asked) -> None:
    """With nothing but the scope to publish: its event and what became of it, and no other system's."""
    house = asked.house
    (own,) = await house.publish(house.reservation(targets=[MEMBER]))
    (other,) = await house.publish(house.reservation(targets=[PMS]), system=SAAS)
    publisher = {"system": PMS, "scopes": ("publish:*",)}
    assert (await asked.get(f"/events/{own['event_id']}", as_=publisher))["sequence"] == own["sequence"]
    assert (await asked.trace(own["event_id"], as_=publisher))["source_system"] == PMS
    for path in (f"/events/{other['event_id']}", f"/events/{other['event_id']}/trace"):
        await asked.get(path, code=404, as_=publisher)
        await asked.get(path, code=403, as_=publisher, tenant="elsewhere")
    await asked.get("/events", code=403, as_=publisher)


async def test_a_masked_reader_gets_no_words(asked: Asked) -> None:
    """What a handler's exception says may quote a guest."""
    house = asked.house
    async with consuming(house, lambda _: True) as consumer:
        (receipt,) = await house.publish(house.reservation())
        await house.until(lambda: consumer.stats.dead == 1)
    await asked.until(receipt["event_id"], lambda found: found["delivery_status"] == "failed")
    trace = await asked.trace(receipt["event_id"], as_=OPS | {"view": "masked"})
    assert trace["error_message"] == "ValueError"
    assert "Yamada" not in str(trace)
    trace = await asked.trace(receipt["event_id"], as_={"system": MEMBER})
    assert trace["systems"][PMS]["status"] == "failed"
    assert trace["error_message"] is None
    assert "Yamada" not in str(trace)


async def test_the_routes_are_documented(asked: Asked) -> None:
    """With their models, in OpenAPI."""
    document = (await asked.house.http.get(f"http://127.0.0.1:{asked.house.hub.port}/openapi.json")).json()
    for path, model in (("/api/v1/deliveries", "DeliveryPage"), ("/api/v1/events/{event_id}/trace", "EventTrace")):
        answer = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        assert answer["schema"]["$ref"].endswith(model)
        assert model in document["components"]["schemas"]
