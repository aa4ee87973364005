"""`hub tail`: events as they come, over everything that can happen to the hub meanwhile."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

from hub_process import HubProcess, line_with, next_line, running_hub


async def numbers(tail: Any, count: int) -> list[str]:
    """The entities of the next events a `tail --json` prints."""
    return [json.loads(await next_line(tail))["event"]["entity"] for _ in range(count)]


def rooms(numbers: range) -> list[str]:
    """The entities of published events."""
    return [f"room:r{number}" for number in numbers]


async def subscribed(tail: Any, hub: HubProcess, tenant: str) -> None:
    """Wait until a tail that begins at `latest` sees what is published."""
    probe = 1_000_000
    while True:
        hub.publish(range(probe, probe + 1), tenant)
        try:
            async with asyncio.timeout(0.5):
                assert tail.stdout is not None
                await tail.stdout.readline()
                return
        except TimeoutError:
            probe += 1


async def sequences(tail: Any, count: int) -> dict[str, list[int]]:
    """By tenant, the sequences of the next events a `tail --json` prints."""
    found: dict[str, list[int]] = {}
    for _ in range(count):
        printed = json.loads(await next_line(tail))
        found.setdefault(printed["event"]["tenant_id"], []).append(printed["sequence"])
    return found


async def test_a_tail_goes_on_after_the_hub_was_killed(tmp_path: Path) -> None:
    """Over SIGKILL of the hub and its start every event is printed once and in order, new tenants included."""
    with running_hub(tmp_path) as hub:
        hub.publish(range(100))
        async with hub.command("tail", "--after", "earliest", "--json") as tail:
            assert await sequences(tail, 100) == {"default": list(range(1, 101))}
            for after in (100, 200):
                hub.kill()
                assert "connection lost" in await next_line(tail, "stderr")
                hub.start()
                # Some of this is published before the tail is back, and some after.
                hub.publish(range(30), f"new-{after}")
                hub.publish(range(40))
                assert "connected again" in await next_line(tail, "stderr")
                hub.publish(range(60))

                assert await sequences(tail, 130) == {
                    "default": list(range(after + 1, after + 101)),
                    f"new-{after}": list(range(1, 31)),
                }


async def test_a_tail_tells_of_a_history_that_is_gone(tmp_path: Path) -> None:
    """A hub that comes back without its data is a gap on stderr, and the events after it are printed."""
    with running_hub(tmp_path) as hub:
        hub.publish(range(5))
        async with hub.command("tail", "--after", "earliest", "--json") as tail:
            assert await numbers(tail, 5) == rooms(range(5))
            hub.kill()
            shutil.rmtree(tmp_path / "data" / "log")
            # What the store has, a new log would be given back.
            (tmp_path / "data" / "store.db").unlink()
            hub.start()
            hub.publish(range(7, 9))

            assert "default: epoch" in await line_with(tail, "gap: ", "stderr")
            assert await numbers(tail, 2) == rooms(range(7, 9))


async def test_a_tail_resumes_from_a_cursor(hub: HubProcess) -> None:
    """A cursor from `hub events` is where a tail goes on."""
    hub.publish(range(6), "cursors")
    listed = hub.run("events", "--tenant", "cursors", "--limit", "3", "--json").stdout.splitlines()
    cursor = json.loads(listed[-1])["cursor"]

    async with hub.command("tail", "--tenant", "cursors", "--after", cursor, "--json") as tail:
        assert await numbers(tail, 3) == rooms(range(3, 6))


async def test_a_tail_begins_with_what_is_to_come(hub: HubProcess) -> None:
    """Without --after, what is there already is not printed; patterns choose among what comes."""
    hub.publish(range(3), "latest")
    async with hub.command("tail", "room.*", "--tenant", "latest") as tail:
        await subscribed(tail, hub, "latest")
        hub.publish(range(7, 8), "latest")

        fields = (await line_with(tail, "room:r7")).split("\t")

    assert fields[1:6:2] == ["latest", "room.status_changed", "1"]
    assert fields[4] == "room:r7"
    assert json.loads(fields[8])["room_number"] == "7"


async def test_a_tail_as_a_system_sees_what_the_system_gets(hub: HubProcess) -> None:
    """Room events are for hotel-member and hotel-pms: a tail as hotel-saas passes over them."""
    hub.publish(range(1), "targets")
    guest = {"reservation_id": "R1", "room_number": "101", "payment_status": "pending"}
    sent = hub.run("publish", "checkin_checkout.checked_in", "--data", json.dumps(guest), "--tenant", "targets")
    assert sent.returncode == 0, sent.stderr

    arguments = ("tail", "--tenant", "targets", "--after", "earliest", "--json", "--system")
    async with hub.command(*arguments, "hotel-saas") as saas, hub.command(*arguments, "hotel-pms") as pms:
        assert await numbers(saas, 1) == ["reservation:R1"]
        assert await numbers(pms, 2) == ["room:r0", "reservation:R1"]


async def test_text_from_events_cannot_steer_a_terminal(hub: HubProcess) -> None:
    """Control characters in an event's data are printed escaped or replaced."""
    note = "\x1b[2J\x9b31m\u202egone"
    data = {
        "operation_id": "O1",
        "operation": "note",
        "operator": note,
        "target": "x",
    }
    sent = hub.run("publish", "operation_log.recorded", "--data", json.dumps(data), "--tenant", "escapes")
    assert sent.returncode == 0, sent.stderr

    async with hub.command("tail", "--tenant", "escapes", "--after", "earliest") as tail:
        line = await next_line(tail)

    assert "gone" in line
    assert not {"\x1b", "\x9b", "\u202e"} & set(line)
