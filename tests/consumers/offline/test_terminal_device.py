"""Another device id for a desk, at its terminal program."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pin_desk import CLERK, CLERK_PIN, jwt
from sync_hub_server import SyncHubServer
from terminal_seat import DEAD_URL, Seat

from consumers.offline.terminal_setup import DeskSetup
from schemas.sync import ItemError, ItemResult

TAKEN = [ItemError(path="device_sequence", message="1 of desk-1 was another: does another device use this device_id?")]
ROOM = {"room_number": "301", "room_type": "twin", "status": "vacant_clean", "availability_date": "2026-07-15"}


@pytest.fixture
async def hub() -> AsyncIterator[SyncHubServer]:
    """A hub with a room, which has other items of the desk's numbers."""
    async with SyncHubServer() as hub:
        hub.sync.happen("RoomStatus", "room-301", ROOM)
        hub.sync.answers["room:room-301"] = ItemResult(outcome="rejected", errors=TAKEN)
        yield hub


async def test_a_desk_gets_another_id_and_sends_what_was_refused(tmp_path: Path, hub: SyncHubServer) -> None:
    """At once, and works on as that device, also after the next start; the option of the old one is refused."""
    seat = Seat(tmp_path / "desk", hub.url)
    assert (await seat.run("room", "301", "cleaning")).code == 0
    assert len((await seat.run("failed")).rows()) == 1
    hub.sync.answers.clear()
    done = await seat.run(lines=["new-device-id desk-2", "room 301 inspected", "queue", "quit"])
    assert (done.code, done.err) == (0, "")
    assert "this desk is desk-2 now: 1 items are sent" in done.out
    assert [item["payload"]["status"] for item in hub.sync.taken if item["model"] == "RoomStatus"] == [
        "cleaning",
        "inspected",
    ]
    setup = DeskSetup.load(seat.directory)
    assert setup is not None
    assert setup.device_id == "desk-2"
    assert "leave --device out or give --device desk-2" in (await seat.run("rooms")).err
    seat.device = None
    status = json.loads((await seat.run("status", "--json")).out)
    assert (status["device_id"], status["failed"], status["waiting"]) == ("desk-2", 0, 0)


async def test_an_id_that_was_given_and_not_kept_beside_is_the_desks(tmp_path: Path, hub: SyncHubServer) -> None:
    """Where the program was cut off in between: the next one finds it."""
    seat = Seat(tmp_path / "desk", hub.url)
    assert (await seat.run("new-device-id", "desk-2")).code == 0
    setup = DeskSetup.load(seat.directory)
    assert setup is not None
    seat.device = None
    for old in ("desk-1", "desk-9"):
        stale = json.loads((seat.directory / "desk.json").read_text()) | {"device_id": old}
        (seat.directory / "desk.json").write_text(json.dumps(stale))
        done = await seat.run("status", "--json")
        if old == "desk-1":
            assert json.loads(done.out)["device_id"] == "desk-2"
            assert DeskSetup.load(seat.directory) == setup
    # Never its own: what to say once is told.
    assert "give --device desk-2" in done.err
    seat.device = "desk-2"
    assert (await seat.run("rooms")).code == 0
    assert DeskSetup.load(seat.directory) == setup


async def test_only_a_manager_with_the_hub_at_hand_gives_another_id(tmp_path: Path, hub: SyncHubServer) -> None:
    """Without the hub it is not known what has arrived there; what the desk cannot be called is refused."""
    seat = Seat(tmp_path / "desk", hub.url)
    assert (await seat.run(lines=[f"operators add {CLERK}", CLERK_PIN, CLERK_PIN, "quit"])).code == 0
    own = await seat.run("new-device-id", "desk-1")
    assert (own.code, "is 'desk-1' already: choose another one" in own.err) == (1, True)
    seat.url = DEAD_URL
    away = await seat.run("new-device-id", "desk-2")
    assert (away.code, "a sync with the hub first" in away.err) == (1, True)
    seat.environment |= {"HOTEL_DESK_OPERATOR": CLERK, "HOTEL_DESK_PIN": CLERK_PIN}
    clerk = await seat.run("new-device-id", "desk-2")
    assert (clerk.code, "a manager has to" in clerk.err) == (1, True)
    assert json.loads((await seat.run("status", "--json")).out)["device_id"] == "desk-1"


async def test_a_token_of_the_old_device_is_told(tmp_path: Path, hub: SyncHubServer) -> None:
    """The hub will not take it from the new one."""
    seat = Seat(tmp_path / "desk", hub.url)
    seat.environment["HUB_TOKEN"] = jwt(seat.day.now().replace(hour=20), tenants=["default"], device_id="desk-1")
    done = await seat.run("new-device-id", "desk-2")
    assert "the token is for desk-1: give the desk one for desk-2" in done.err
