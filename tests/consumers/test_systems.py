"""The three systems: their rules, their tables, and one as a whole program."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from fake_hub import FakeHub
from stream_server import envelope, typed

from consumers.inbox import SQLiteInbox
from consumers.systems import hotel_member, hotel_pms, hotel_saas
from consumers.systems.hotel_member import ContactChanged, Ignored, NewProfile, PointsMoved, customer_change
from consumers.systems.hotel_pms import desk_entry
from consumers.systems.hotel_saas import open_rooms_after
from consumers.systems.program import Projection, handle, main
from schemas.envelope import Event

T = "default"


def customer(action: str, **data: Any) -> Event[Any]:
    data = {"customer_id": "C1", "updated_by_system": "hotel-pms"} | data
    return typed("customer", action, data, tenant_id=T)


def stay(action: str, reservation: str = "R1", room: str = "301", revision: int = 1, **data: Any) -> Event[Any]:
    data = {"reservation_id": reservation, "room_number": room, "payment_status": "pending"} | data
    return typed("checkin_checkout", action, data, tenant_id=T, revision=revision)


def booking(action: str = "updated", revision: int = 1, **data: Any) -> Event[Any]:
    known = {"reservation_id": "R1", "room_type": "twin", "checkin_date": "2026-07-15", "checkout_date": "2026-07-17"}
    known |= {"total_amount": 32000, "status": "confirmed", "origin": "phone"}
    return typed("reservation", action, known | data, tenant_id=T, revision=revision)


def room(action: str, revision: int, **data: Any) -> Event[Any]:
    known = {"room_id": "301", "room_number": "301", "room_type": "twin", "status": "vacant_clean"}
    return typed("room", action, known | {"availability_date": "2026-07-15"} | data, tenant_id=T, revision=revision)


class Kept:
    """A projection on a fresh file."""

    def __init__(self, projection: Projection, inbox: SQLiteInbox) -> None:
        self.projection, self.inbox = projection, inbox

    async def take(self, *events: Event[Any]) -> list[str]:
        """Handle events; the lines printed."""
        return [await handle(self.projection, self.inbox, event) for event in events]

    async def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What a query sees."""
        async with self.inbox.transaction(stay("no_show")) as tx:
            assert tx is not None
            return await tx.fetch(sql)


@pytest.fixture(params=[])
async def kept(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Kept]:
    """The projection named by the parameter."""
    projection: Projection = request.param
    async with await SQLiteInbox.open(tmp_path / "view.db", projection.system, tables=projection.tables) as inbox:
        yield Kept(projection, inbox)


member = pytest.mark.parametrize("kept", [hotel_member.PROJECTION], indirect=True, ids=["hotel-member"])
pms = pytest.mark.parametrize("kept", [hotel_pms.PROJECTION], indirect=True, ids=["hotel-pms"])
saas = pytest.mark.parametrize("kept", [hotel_saas.PROJECTION], indirect=True, ids=["hotel-saas"])


@pytest.mark.parametrize("action", ["created", "updated", "rank_changed", "points_changed"])
def test_the_master_ignores_its_own_echo(action: str) -> None:
    """What hotel-member published itself is nothing new to it (R29), whatever it says."""
    event = customer(action, updated_by_system="hotel-member", name="A", updatable_by_pms=True)
    assert customer_change(event) == Ignored("own echo")


@pytest.mark.parametrize(
    ("data", "change"),
    [
        ({"name": "Sato", "updated_fields": ["name"]}, Ignored("not updatable by others")),
        (
            {"name": "Sato", "email": "a@b", "updated_fields": ["email"], "updatable_by_pms": True},
            ContactChanged({"email": "a@b"}),
        ),
        (
            {"name": "Sato", "updatable_by_pms": True},
            ContactChanged({"name": "Sato"}),
        ),
        ({"updated_fields": ["phone"], "updatable_by_pms": True}, ContactChanged({"phone": None})),
        ({"updated_fields": ["name"], "updatable_by_pms": True}, Ignored("no contact data in it")),
        (
            {"rank_id": "gold", "total_points": 9, "updated_fields": ["rank_id"], "updatable_by_pms": True},
            Ignored("no contact data in it"),
        ),
    ],
)
def test_the_master_takes_limited_updates(data: dict[str, Any], change: object) -> None:
    """Contact data alone, where `updatable_by_pms` says so, and only the fields that carry news (R29)."""
    assert customer_change(customer("updated", **data)) == change


def test_the_master_takes_profiles_and_points_but_no_rank() -> None:
    """A walk-in's profile is new, points come as a delta, and rank and totals are hotel-member's own to say."""
    profile = customer_change(customer("created", name="Sato"))
    assert profile == NewProfile({"name": "Sato", "email": None, "phone": None})
    points = customer("points_changed", points_delta=-5, points_ledger_id="L1")
    assert customer_change(points) == PointsMoved("L1", -5)
    assert isinstance(customer_change(customer("points_changed", total_points=9)), Ignored)
    assert isinstance(customer_change(customer("rank_changed", rank_id="gold")), Ignored)


@member
async def test_points_are_counted_once_by_ledger_id(kept: Kept) -> None:
    """The same event again, and another event with the same ledger id, add nothing."""
    first = customer("points_changed", points_delta=10, points_ledger_id="L1")
    again = customer("points_changed", points_delta=10, points_ledger_id="L1")
    spent = customer("points_changed", points_delta=-4, points_ledger_id="L2")
    lines = await kept.take(first, first, again, spent)
    assert lines == ["points +10", "known already", "points of L1 counted already", "points -4"]
    assert await kept.rows("SELECT customer_id, points FROM customers") == [("C1", 6)]


@member
async def test_stays_are_counted_from_check_outs(kept: Kept) -> None:
    """Once a reservation, for members; a check-in is no stay yet."""
    out = {"customer_id": "C1"}
    await kept.take(
        stay("checked_in", **out),
        stay("checked_out", **out),
        stay("checked_out", **out),
        stay("checked_out", "R2", **out),
        stay("checked_out", "R3"),
    )
    assert await kept.rows("SELECT customer_id, stays FROM customers") == [("C1", 2)]


@member
async def test_contact_data_is_kept(kept: Kept) -> None:
    """A profile is made once; allowed updates change it, an emptied field is emptied."""
    lines = await kept.take(
        customer("created", name="Sato", phone="1"),
        customer("created", name="Other"),
        customer("updated", name="Evil", updated_fields=["name"]),
        customer("updated", updatable_by_pms=True, email="a@b", updated_fields=["email", "phone"]),
    )
    assert lines[1:] == ["profile known already", "ignored: not updatable by others", "took email, phone"]
    assert await kept.rows("SELECT name, email, phone FROM customers") == [("Sato", "a@b", None)]
    assert not any("Sato" in line or "a@b" in line for line in lines)


def test_the_desk_counts_by_the_local_day() -> None:
    """The time of the deed, on its own clock, tells the day; without one, the time the event occurred."""
    late = desk_entry(stay("checked_in", actual_checkin_time="2026-07-15T23:50:00+09:00"))
    assert (late.day.isoformat(), late.guest) == ("2026-07-15", "enters")
    assert desk_entry(stay("checked_out", actual_checkout_time="2026-07-16T00:10:00+09:00")).day.day == 16
    never = desk_entry(stay("no_show"))
    assert (never.day.isoformat(), never.status) == ("2026-07-15", "no_show")


@pms
async def test_the_desk_knows_who_is_in_house(kept: Kept) -> None:
    """Check-ins count exactly once by event_id; the list follows arrivals and departures, the booking its status."""
    first = stay("checked_in", revision=2)
    lines = await kept.take(
        booking("created", room_number="301"),
        first,
        first,
        stay("checked_in", "R2", "302"),
        stay("no_show", "R3", "303"),
        stay("checked_out", revision=3),
    )
    assert lines[1:3] == ["checked_in, room 301; in house: 1", "known already"]
    assert lines[-1] == "checked_out, room 301; in house: 1"
    assert await kept.rows("SELECT reservation_id, room_number FROM in_house") == [("R2", "302")]
    assert await kept.rows("SELECT day, arrivals, departures, no_shows FROM desk_days") == [("2026-07-15", 2, 1, 1)]
    assert await kept.rows("SELECT status, revision FROM reservations") == [("checked_out", 3)]


@pms
async def test_an_older_revision_does_not_undo_a_newer_one(kept: Kept) -> None:
    """Replayed history leaves rooms and reservations as they are; a price left out stands."""
    lines = await kept.take(
        room("price_updated", 1, base_price=12000.5),
        room("status_changed", 3, status="occupied"),
        room("status_changed", 2, status="vacant_dirty"),
        booking(revision=2, status="cancelled"),
        booking(revision=1),
    )
    assert lines == [
        "room 301: vacant_clean",
        "room 301: occupied",
        "an older revision",
        "cancelled, room to be assigned",
        "an older revision",
    ]
    assert await kept.rows("SELECT status, base_price, revision FROM rooms") == [("occupied", "12000.5", 3)]
    assert await kept.rows("SELECT status, total_amount FROM reservations") == [("cancelled", "32000")]


def test_room_service_follows_the_guest() -> None:
    """Open from check-in to check-out; a late check-out leaves the next guest's service open; a move takes it along."""
    one = open_rooms_after(stay("checked_in", "R1", "301"), {})
    assert one == {"301": "R1"}
    assert open_rooms_after(stay("checked_out", "R1", "301"), one) == {}
    next_guest = open_rooms_after(stay("checked_in", "R2", "301"), one)
    assert next_guest == {"301": "R2"}
    assert open_rooms_after(stay("checked_out", "R1", "301"), next_guest) == next_guest
    moved = booking(room_number="405", status="checked_in")
    assert open_rooms_after(moved, one) == {"405": "R1"}
    assert open_rooms_after(moved, {}) == {}
    assert open_rooms_after(booking(room_number="405"), one) == one
    assert open_rooms_after(stay("no_show", "R9", "301"), one) == one


@saas
async def test_room_service_knows_the_occupied_rooms(kept: Kept) -> None:
    """The table holds the open rooms with their reservation."""
    lines = await kept.take(
        stay("checked_in", "R1", "301"),
        stay("checked_in", "R2", "302"),
        booking(room_number="305", status="checked_in"),
        stay("checked_out", "R2", "302"),
    )
    assert lines[2] == "room service closed for 301, room service open for 305; occupied: 2"
    assert await kept.rows("SELECT room_number, reservation_id FROM open_rooms") == [("305", "R1")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_program_follows_the_hub_until_it_is_told_to_stop(number: signal.Signals, tmp_path: Path) -> None:
    """It prints one line an event, goes on where it was after a restart, and ends cleanly on a signal."""
    data = {"reservation_id": "R1", "room_number": "301", "payment_status": "pending"}
    entered = envelope("checkin_checkout", "checked_in", data, tenant_id=T)
    left = envelope("checkin_checkout", "checked_out", data, tenant_id=T, revision=2)

    async def follow(hub: FakeHub) -> str:
        program = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "consumers.systems.hotel_saas", "--url", hub.url, "--db", str(tmp_path / "s.db")),
            env={"HUB_TOKEN": "secret", "PATH": ""},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert program.stdout is not None
        assert program.stderr is not None
        async with asyncio.timeout(30):
            line = (await program.stdout.readline()).decode()
            program.send_signal(number)
            assert await program.wait() == 0, (await program.stderr.read()).decode()
            assert await program.stdout.read() == b""
        return line

    async with FakeHub() as hub:
        await hub.append(entered)
        assert "checkin_checkout.checked_in  reservation:R1  room service open for 301" in await follow(hub)
        assert hub.tokens == ["secret"]
        await hub.append(left)
        assert "checkin_checkout.checked_out  reservation:R1  room service closed for 301" in await follow(hub)


def test_a_program_needs_a_token(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Usage errors end with 2 and say what is missing."""
    monkeypatch.delenv("HUB_TOKEN", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(hotel_member.PROJECTION, [])
    assert ended.value.code == 2
    assert "HUB_TOKEN" in capsys.readouterr().err


def test_a_program_that_cannot_open_its_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors end with 1 and one line on stderr."""
    try:
        assert main(hotel_pms.PROJECTION, ["--token", "t", "--db", str(tmp_path / "no" / "such.db")]) == 1
    finally:
        structlog.reset_defaults()
    assert capsys.readouterr().err.startswith("hotel-pms: unable to open")
