"""`hub trace` and `hub deliveries`, and what a killed hub may claim."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from hub_process import PATIENCE_S, HubProcess, eventually, room_event, running_hub
from websockets.asyncio.client import ClientConnection, connect

from hub.security.tokens import Tokens, own_key

SYSTEM = "hotel-member"


def token(hub: HubProcess) -> str:
    """A token of the member system."""
    tokens = Tokens([own_key(hub.directory / "data")])
    return tokens.issue(SYSTEM, ["*"], ["publish:*", "subscribe:*"])


def publish(hub: HubProcess, *events: dict[str, Any]) -> list[dict[str, Any]]:
    """Publish; the receipts."""
    answer = httpx.post(
        f"{hub.url}/api/v1/events",
        headers={"Authorization": f"Bearer {hub.token()}"},
        json={"events": list(events)},
        timeout=PATIENCE_S,
        trust_env=False,
    )
    assert answer.status_code == 201, answer.text
    receipts: list[dict[str, Any]] = answer.json()["receipts"]
    return receipts


def to(system: str, number: int, tenant: str) -> dict[str, Any]:
    """A room's event for one system."""
    return room_event(number, tenant) | {"targets": [system]}


class Reader:
    """A durable subscription by hand."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def subscribe(self, tenant: str) -> None:
        """Open it."""
        await self.send(op="subscribe", id=1, patterns=["*"], tenants=[tenant], name="sub")
        while (await self.next())["op"] != "subscribed":
            pass

    async def send(self, **frame: Any) -> None:
        """Send a frame."""
        await self.connection.send(orjson.dumps(frame).decode())

    async def next(self) -> dict[str, Any]:
        """The next frame."""
        frame: dict[str, Any] = orjson.loads(await asyncio.wait_for(self.connection.recv(), PATIENCE_S))
        return frame

    async def acknowledge(self, tenant: str, cursor: str) -> None:
        """Acknowledge, and wait until the hub has it."""
        await self.send(op="ack", cursors={tenant: cursor})
        await self.send(op="ping")
        assert (await self.next())["op"] == "pong"


def reading(hub: HubProcess) -> connect:
    """A connection, for `async with`."""
    headers = {"Authorization": f"Bearer {token(hub)}"}
    return connect(hub.url.replace("http", "ws") + "/ws", additional_headers=headers, proxy=None)


def test_the_story_is_readable(hub: HubProcess) -> None:
    """One line a step with local time and what passed in between, then each system's verdict and the whole."""
    (receipt,) = publish(hub, to(SYSTEM, 1, "trace-told"))

    async def handle() -> None:
        async with reading(hub) as connection:
            reader = Reader(connection)
            await reader.send(
                op="subscribe", id=1, patterns=["*"], tenants=["trace-told"], name="sub", after="earliest"
            )
            while (frame := await reader.next())["op"] != "event":
                pass
            await reader.acknowledge("trace-told", frame["cursor"])

    asyncio.run(handle())
    eventually(lambda: hub.json("trace", receipt["event_id"])["delivery_status"] == "success")
    told = hub.call("trace", receipt["event_id"], "--tenant", "trace-told")
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].startswith("room.status_changed  room:r1  trace-told #1")
    steps = [line.split("  ") for line in lines[1:-2]]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", step[0]) for step in steps)
    named = [next(part for part in "  ".join(step[1:]).split() if part[0].isalpha() and part != "ms") for step in steps]
    assert (named[0], named[-1]) == ("appended", "acknowledged")
    assert set(named) <= {"appended", "routed", "caught_up", "acknowledged"}
    assert all(re.search(r"\+\d+(\.\d+)? (ms|s|min|h) ", line) for line in lines[2:-2])
    assert re.fullmatch(r"hotel-member: acknowledged after \d+(\.\d)? (ms|s)", lines[-2])
    assert re.fullmatch(r"delivery: success in \d+(\.\d)? (ms|s)", lines[-1])


def test_an_event_that_is_not_there(hub: HubProcess) -> None:
    """An error and exit code 1."""
    told = hub.call("trace", "00000000-0000-7000-8000-000000000000")
    assert told.returncode == 1
    assert "there is no event" in told.stderr


def test_listings(hub: HubProcess) -> None:
    """A table, JSON a line, filters, and a hint where there is more."""
    receipts = publish(hub, *(to(SYSTEM, number, "told") for number in range(12)))
    ids = [one["event_id"] for one in receipts]
    told = hub.call("deliveries", "--tenant", "told")
    header, *rows = told.stdout.splitlines()
    assert header.split("\t")[:5] == ["stored", "tenant", "event", "entity", "status"]
    assert [row.split("\t")[7] for row in rows] == ids
    assert {row.split("\t")[4] for row in rows} == {"pending"}
    some = hub.call("deliveries", "--tenant", "told", "--limit", "5", "--json", "--since", "1h")
    assert [json.loads(line)["event_id"] for line in some.stdout.splitlines()] == ids[:5]
    assert "there are more" in some.stderr
    for none in ("--failed", "--outstanding"):
        assert hub.call("deliveries", "--tenant", "told", none, "--json").stdout == ""
    assert hub.call("deliveries", "--tenant", "told", "--system", "hotel-saas", "--json").stdout == ""
    wrong = hub.call("deliveries", "--failed", "--outstanding")
    assert wrong.returncode == 2
    assert hub.call("deliveries", "--since", "then").returncode == 1


@pytest.mark.process
def test_a_killed_hub_claims_no_acknowledgement(tmp_path: Path) -> None:
    """Killed between delivery and acknowledgement, again and again: the story shows the delivery at most, until the
    acknowledgement is given."""
    with running_hub(tmp_path) as hub:
        given: list[str] = []
        open_: list[str] = []

        def told(event_id: str) -> set[str]:
            return {step["step"] for step in hub.json("trace", event_id)["timeline"]}

        async def once(number: int) -> None:
            async with reading(hub) as connection:
                reader = Reader(connection)
                await reader.subscribe("t")
                cursors = {}
                first, second = publish(hub, to(SYSTEM, 2 * number, "t"), to(SYSTEM, 2 * number + 1, "t"))
                while second["event_id"] not in cursors:
                    frame = await reader.next()
                    if frame["op"] == "event":
                        cursors[frame["event"]["event_id"]] = frame["cursor"]
                await reader.acknowledge("t", cursors[first["event_id"]])
                given[:] = [*given, *open_, first["event_id"]]
                open_[:] = [second["event_id"]]
                if number % 2:
                    # Time for the ledger to write down what it may.
                    await asyncio.to_thread(eventually, lambda: "acknowledged" in told(first["event_id"]))
                await asyncio.to_thread(hub.kill)

        for number in range(4):
            asyncio.run(once(number))
            hub.start()
            assert "acknowledged" not in told(open_[0])
            for one in given[-1:] if number % 2 else ():
                assert "acknowledged" in told(one)

        async def last() -> None:
            async with reading(hub) as connection:
                reader = Reader(connection)
                await reader.subscribe("t")
                while (frame := await reader.next())["op"] != "event" or frame["event"]["event_id"] != open_[0]:
                    pass
                await reader.acknowledge("t", frame["cursor"])

        asyncio.run(last())
        eventually(lambda: "acknowledged" in told(open_[0]))
