"""The desk's terminal program, from the first start on: with the line down, and with a hub behind a port."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import threading
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from desk_rig import reservation
from fake_hub import Session
from hand_clock import until
from pin_desk import BOSS, BOSS_PIN, CLERK, CLERK_PIN, jwt
from sync_hub_server import SyncHubServer
from terminal_seat import BOOK, DEAD_URL, TOKEN, Seat

from consumers.offline.recovery import Report
from consumers.offline.terminal_setup import DeskSetup, SetupError, hub_url
from consumers.offline.terminal_views import skew_text
from schemas.sync import ItemError, ItemResult


@pytest.fixture
async def seat(tmp_path: Path) -> Seat:
    """A desk whose hub is away, with two rooms and a reservation."""
    return await Seat(tmp_path / "desk").ready()


@pytest.fixture
async def hub() -> AsyncIterator[SyncHubServer]:
    """A hub with rooms and a reservation."""
    async with SyncHubServer() as hub:
        room = {"room_number": "301", "room_type": "twin", "status": "vacant_clean", "availability_date": "2026-07-15"}
        hub.sync.happen("RoomStatus", "room-301", room)
        hub.sync.happen("Reservation", "R1", reservation())
        hub.sync.happen("Customer", "C1", {"total_points": 100})
        await hub.told()
        yield hub


def models(hub: SyncHubServer) -> list[str]:
    """What the hub took from the desk, but for the operation log."""
    return [item["model"] for item in hub.sync.taken if item["model"] != "OperationLog"]


# -- the first start --------------------------------------------------------------------------------------------------


async def test_the_first_start_asks_for_what_it_needs(tmp_path: Path) -> None:
    """Token, tenant, first operator and PIN, by lines of a script; what is secret is in none of its files."""
    bare = {"HUB_TOKEN": "", "HOTEL_DESK_PIN": "", "HOTEL_DESK_OPERATOR": ""}
    seat = Seat(tmp_path / "desk", environment=bare)
    token = jwt(seat.day.now(), system="hotel-pms", tenants=["*"])
    done = await seat.run("setup", lines=[token, "hotel-a", BOSS, BOSS_PIN, BOSS_PIN, BOSS_PIN])

    assert (done.code, done.err) == (0, "")
    setup = DeskSetup.load(seat.directory)
    assert setup is not None
    assert (setup.url, setup.tenant_id, setup.system, setup.device_id) == (DEAD_URL, "hotel-a", "hotel-pms", "desk-1")
    files = [path for path in seat.directory.iterdir() if path.is_file()]
    assert files
    assert all(token.encode() not in path.read_bytes() for path in files)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)

    again = await seat.run("rooms", lines=[BOSS_PIN])
    assert (again.code, again.err) == (0, "")


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], "Token: nobody answers; give --token or HUB_TOKEN"),
        ([TOKEN, BOSS, "1111", "1111"], "the same digits over and over are too easy to guess"),
        ([TOKEN, BOSS, BOSS_PIN, CLERK_PIN], "the two PINs are not the same"),
        (["no-jwt", "default", BOSS, BOSS_PIN, BOSS_PIN, BOSS_PIN], "must be a JWT"),
    ],
)
async def test_a_first_start_that_cannot_be_says_why(lines: list[str], said: str, tmp_path: Path) -> None:
    """And what would do."""
    bare = {"HUB_TOKEN": "", "HOTEL_DESK_PIN": "", "HOTEL_DESK_OPERATOR": ""}
    done = await Seat(tmp_path / "desk", environment=bare).run("setup", lines=lines)

    assert done.code == 1
    assert said in done.err


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("http://hub:3400", "ws://hub:3400/ws"),
        ("https://hub/hotel/ws", "wss://hub/hotel/ws"),
        (" localhost:3400 ", "ws://localhost:3400/ws"),
        ("ftp://hub", None),
        ("ws://", None),
        ("ws://[::1", None),
        ("ws://hub:99999", None),
        ("hub:0", None),
        ("hub:port", None),
    ],
)
def test_the_hubs_address_is_taken_as_people_write_it(typed: str, url: str | None) -> None:
    """As long as it is one."""
    if url is None:
        with pytest.raises(SetupError, match="url"):
            hub_url(typed)
    else:
        assert hub_url(typed) == url


async def test_a_setup_that_cannot_be_read_is_told(seat: Seat) -> None:
    """It is not taken for a new desk's."""
    (seat.directory / "desk.json").write_text("{")
    done = await seat.run("rooms")
    assert done.code == 1
    assert "cannot be read" in done.err


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--currency", "yen"),
        ("--zone", "Mars/X"),
        ("--rollover-hour", "25"),
        ("--tenant", "x y"),
        ("--url", "ws://[::1"),
    ],
)
async def test_a_setup_that_cannot_be_is_refused_and_not_kept(option: str, value: str, seat: Seat) -> None:
    """Every booking would be refused for it later on."""
    before = DeskSetup.load(seat.directory)
    done = await seat.run(option, value, "rooms")
    assert (done.code, option.strip("-").replace("-", " ") in done.err) == (1, True)
    assert DeskSetup.load(seat.directory) == before


# -- with the line down -----------------------------------------------------------------------------------------------


async def test_an_arrival_with_the_line_down_is_kept_and_waits(seat: Seat) -> None:
    """In one operation, marked 「同期待ち」 wherever it is shown."""
    done = await seat.run("check-in", "R1", "--room", "301")

    assert (done.code, done.err) == (0, "")
    assert "checked in R1, room 301  「同期待ち」" in done.out
    assert "オフライン中 / Offline" in done.out
    listed = [json.loads(line) for line in (await seat.run("queue", "--json")).out.splitlines()]
    assert [(row["model"], row["operation"]) for row in listed[-4:]] == [
        ("CheckIn", "CREATE"),
        ("Reservation", "UPDATE"),
        ("RoomStatus", "UPDATE"),
        ("OperationLog", "CREATE"),
    ]
    assert {row["status"] for row in listed} == {"queued"}
    [guest] = (await seat.run("reservations", "in-house")).rows()
    assert (guest[0], guest[2], guest[6], guest[8]) == ("R1", "301", "checked_in", "同期待ち")
    rooms = (await seat.run("rooms")).rows()
    assert [(row[0], row[2], row[4], row[6]) for row in rooms] == [
        ("301", "occupied", "R1", "同期待ち"),
        ("302", "vacant_clean", "", "同期待ち"),
    ]
    status = json.loads((await seat.run("status", "--json")).out)
    assert (status["state"], status["online"], status["banner"], status["waiting"]) == (
        "offline",
        False,
        "オフライン中",
        len(listed),
    )


async def test_a_stay_in_one_script(seat: Seat) -> None:
    """From arrival to receipt and the day's report, by lines of a script; the exit code tells that none failed."""
    done = await seat.run(
        lines=[
            "check-in R1 --room 301   # the guest is early",
            "order 301 コーヒー:2:800",
            "charge R1 500 --category service",
            "check-out R1 --pay cash --anyway",
            "undo check-out R1",
            "check-out R1 --anyway",
            "report --submit --cash-difference 0",
            "operations --limit 2 --json",
            "quit",
            "rooms",
        ]
    )
    assert (done.code, done.err.splitlines()) == (0, [])
    assert "合計 / Total  17,300" in done.out
    assert "checked out R1, room 301" in done.out
    assert "revenue: 17300" in done.out
    [last, _] = [json.loads(line) for line in done.out.splitlines() if line.startswith("{")]
    assert (last["operation"], last["operator"], last["role"]) == ("daily_report", BOSS, "manager")


async def test_a_list_tells_that_it_is_as_of_the_last_sync(seat: Seat) -> None:
    """What others did since then is not in it; JSON stays JSON."""
    for words in (("rooms",), ("check-in", "R9")):
        done = await seat.run(*words)
        assert "オフライン中 / Offline" in done.out
        assert "[offline] 6 waiting" in done.out
    assert "Offline" not in (await seat.run("rooms", "--json")).out


async def test_what_cannot_be_is_told_and_nothing_is_kept(seat: Seat) -> None:
    """On stderr, with exit code 1; a line that is written wrong has 2."""
    before = len((await seat.run("queue", "--json")).out.splitlines())
    for words, code, said in (
        (("check-in", "R9"), 1, "there is no reservation R9"),
        (("check-in", "R1", "--room", "999"), 1, "there is no room 999"),
        (("check-out", "R1"), 1, "R1 is confirmed, it cannot be checked out"),
        (BOOK, 1, "there is a reservation R1 already"),
        (("book", *BOOK[3:], "--room", ""), 1, "room_number"),
        (("points", "C1", "10"), 1, "there is no member C1"),
        (("new-member", "--name", "x"), 1, "New members: Not available while offline"),
        (("report", "--date", "2026-07-16", "--submit"), 1, "the business day is 2026-07-15"),
        (("resend", "abcd"), 1, "0 failed items begin so"),
        (("verify",), 1, "the hub is not reached"),
        (("sync",), 1, ""),
        (("operators", "disable", BOSS), 1, "the only manager"),
    ):
        done = await seat.run(*words)
        assert (done.code, said in done.err) == (code, True), (words, done)
    script = await seat.run(lines=["check-in", "frob", 'room "', "cancel R1 --room 3", "quit"])
    assert script.code == 2
    assert "the following arguments are required: reservation" in script.err
    assert "invalid choice: 'frob'" in script.err
    assert len((await seat.run("queue", "--json")).out.splitlines()) == before


async def test_a_card_cannot_be_charged_with_the_line_down(seat: Seat) -> None:
    """External payment needs the line (R67); the guest is still in house, and pays in cash."""
    assert (await seat.run("check-in", "R1", "--room", "301")).code == 0
    done = await seat.run("check-out", "R1", "--pay", "credit_card")
    assert (done.code, done.err) == (1, "External payment: Not available while offline\n")
    assert (await seat.run("check-out", "R1", "--pay", "cash")).code == 0


async def test_a_role_does_what_it_may(seat: Seat) -> None:
    """A new operator signs in with a PIN of their own and is held to the role; who was disabled is not let in."""
    added = await seat.run(lines=["operators add maid --role housekeeping", CLERK_PIN, CLERK_PIN, "quit"])
    assert (added.code, added.err) == (0, "")
    seat.environment |= {"HOTEL_DESK_OPERATOR": "maid", "HOTEL_DESK_PIN": CLERK_PIN}

    assert (await seat.run("room", "302", "cleaning")).code == 0
    for words in (
        ("check-in", "R1", "--room", "301"),
        ("reservations",),
        ("report",),
        ("operators", "add", "x"),
        ("repair", "--force", "--yes"),
    ):
        done = await seat.run(*words)
        assert done.code == 1, words
        assert "role" in done.err or "manager" in done.err, done
    grey = [row for row in (await seat.run("capabilities")).rows() if row[3] == "check_in"]
    assert grey == [["×", "Check-in", "Not allowed for your role", "check_in"]]

    seat.environment |= {"HOTEL_DESK_OPERATOR": BOSS, "HOTEL_DESK_PIN": BOSS_PIN}
    assert (await seat.run("operators", "disable", "maid")).code == 0
    seat.environment |= {"HOTEL_DESK_OPERATOR": "maid", "HOTEL_DESK_PIN": CLERK_PIN}
    assert "disabled" in (await seat.run("rooms")).err


async def test_a_wrong_pin_opens_nothing_and_is_counted(seat: Seat) -> None:
    """Over all runs of the program; then even the right one has to wait."""
    seat.environment["HOTEL_DESK_PIN"] = "9051"
    for _ in range(5):
        done = await seat.run("rooms")
        assert (done.code, done.out) == (1, "")
    seat.environment["HOTEL_DESK_PIN"] = BOSS_PIN
    assert "wait 30 s" in (await seat.run("rooms")).err
    seat.machine.pass_by(31)
    assert (await seat.run("rooms")).code == 0


async def test_a_second_program_on_the_same_files_is_told_who_has_them(seat: Seat) -> None:
    """It does nothing, and the first one goes on."""
    async with seat.at_prompt() as first:
        await first.shows(f"| {BOSS}")
        second = await seat.run("rooms")
        assert second.code == 1
        assert f"in use by hub-terminal (process {os.getpid()}, {BOSS}, since" in second.err
        first.type("room 302 cleaning", "quit")
        await first.shows("room 302: status cleaning")
    assert (await seat.run("rooms")).code == 0


@pytest.mark.parametrize(
    ("option", "other", "own"),
    [("--tenant", "other", "default"), ("--system", "hotel-saas", "hotel-pms"), ("--device", "desk-2", "desk-1")],
)
async def test_another_devices_or_tenants_files_are_refused(seat: Seat, option: str, other: str, own: str) -> None:
    """Work of one must not go out under another one's name; what was refused changes nothing."""
    done = await seat.run(option, other, "rooms")
    assert done.code == 1
    assert f"this desk's is {own}: leave {option} out" in done.err
    assert (await seat.run("--zone", "Europe/Lisbon", "rooms")).code == 0
    setup = DeskSetup.load(seat.directory)
    assert setup is not None
    assert (setup.tenant_id, setup.system, setup.device_id) == ("default", "hotel-pms", "desk-1")
    assert setup.zone == "Europe/Lisbon"


async def test_damaged_files_are_repaired_when_somebody_agrees(seat: Seat) -> None:
    """Nothing that waited is lost; until then each command says what to do."""
    assert (await seat.run("check-in", "R1", "--room", "301")).code == 0
    waited = len((await seat.run("queue", "--json")).out.splitlines())
    path = seat.directory / "desk.db"
    content = bytearray(path.read_bytes())
    content[4096:8192] = bytes(4096)
    path.write_bytes(content)

    refused = await seat.run("rooms")
    assert refused.code == 1
    assert "hub-terminal repair --yes" in refused.err
    repaired = await seat.run("repair", "--yes")
    assert repaired.code == 0, repaired
    assert f"{waited} waiting, 0 uncertain" in repaired.out
    assert len((await seat.run("queue", "--json")).out.splitlines()) == waited
    assert "sound" in (await seat.run("repair")).out


async def test_a_file_that_is_gone_is_made_anew_of_its_journal(seat: Seat) -> None:
    """And nobody is sent to look for a damaged one."""
    for name in ("desk.db", "desk.db-wal", "desk.db-shm"):
        (seat.directory / name).unlink(missing_ok=True)
    repaired = await seat.run("repair", "--yes")
    assert repaired.code == 0, repaired
    assert "there was no file: it is made of its journal" in repaired.out
    assert "is kept as" not in repaired.out


@pytest.mark.parametrize(
    ("skew_ms", "said"),
    [
        (None, None),
        (-1, None),
        (999, None),
        (1500, "this clock is 2 s ahead of the hub's"),
        (-61_000, "this clock is 61 s behind the hub's"),
    ],
)
def test_a_clock_that_is_off_is_told_by_how_much(skew_ms: int | None, said: str | None) -> None:
    """From a second on, and which way."""
    told = skew_text(skew_ms)
    assert (None if told is None else told.en) == said


async def test_what_does_not_fit_is_told_by_its_field(seat: Seat) -> None:
    """Not by where it stands in what the program made of it."""
    done = await seat.run("change", "R1", "--amount", "-5")
    assert done.code == 1
    assert done.err.startswith("total_amount: ")


# -- with a hub -------------------------------------------------------------------------------------------------------


async def test_what_was_done_offline_goes_out_once_the_hub_is_there(tmp_path: Path, hub: SyncHubServer) -> None:
    """In order, once; what others did is there before a command is carried out."""
    seat = Seat(tmp_path / "desk", hub.url)
    done = await seat.run("check-in", "R1", "--room", "301")
    assert (done.code, done.err) == (0, "")
    assert "同期待ち" not in done.out
    assert models(hub) == ["CheckIn", "Reservation", "RoomStatus"]

    seat.url = DEAD_URL
    assert "「同期待ち」" in (await seat.run("charge", "R1", "700")).out
    seat.url = hub.url
    synced = await seat.run("sync")
    assert (synced.code, synced.out) == (0, "synced: 2 sent, 2 received, 0 waiting, 0 failed, 0 in conflict\n")
    assert models(hub) == ["CheckIn", "Reservation", "RoomStatus", "Billing"]
    [history] = [row for row in (await seat.run("history")).rows() if row[3] == "2"]
    assert history[2] == "done"


async def test_a_refused_item_is_explained_sent_again_and_given_up(tmp_path: Path, hub: SyncHubServer) -> None:
    """The failed list (R52, R53)."""
    wrong = [ItemError(path="payload.status", message="the hub does not like it")]
    hub.sync.answers["room:room-301"] = ItemResult(outcome="rejected", errors=wrong)
    seat = Seat(tmp_path / "desk", hub.url)
    await seat.run("room", "301", "cleaning")

    [failed] = [json.loads(line) for line in (await seat.run("failed", "--json")).out.splitlines()]
    assert (failed["model"], failed["status"]) == ("RoomStatus", "failed")
    told = (await seat.run("failed", failed["uuid"][:8])).out
    assert "payload.status: the hub does not like it" in told
    assert "it is undone at this desk" in told
    assert (await seat.run("rooms")).rows()[0][2] == "vacant_clean"

    del hub.sync.answers["room:room-301"]
    assert (await seat.run(lines=["resend all", "sync", "quit"])).code == 0
    assert models(hub) == ["RoomStatus"]
    hub.sync.answers["room:room-301"] = ItemResult(outcome="rejected", errors=wrong)
    await seat.run("room", "301", "inspected")
    [failed] = [json.loads(line) for line in (await seat.run("failed", "--json")).out.splitlines()]
    assert (await seat.run("discard", failed["uuid"], "--reason", "a mistake")).code == 0
    assert (await seat.run("failed", "--json")).out == ""


async def test_a_conflict_is_shown_with_what_the_hub_says(tmp_path: Path, hub: SyncHubServer) -> None:
    """And where it is decided."""
    said = [ItemError(path="room_number", message="room 301 was given to reservation:R7")]
    hub.sync.answers["reservation:R1"] = ItemResult(outcome="conflict", conflict_id="c-1", errors=said)
    seat = Seat(tmp_path / "desk", hub.url)
    await seat.run("check-in", "R1", "--room", "301")

    shown = await seat.run("conflicts")
    assert ["c-1", "CheckIn", "CREATE", "reservation:R1"] in [row[:4] for row in shown.rows()]
    assert "room 301 was given to reservation:R7" in shown.out
    assert "hub conflicts show c-1" in shown.out


async def test_a_check_out_in_conflict_is_not_done_by_the_way(tmp_path: Path, hub: SyncHubServer) -> None:
    """The guest may have paid at the other desk; with `--anyway` it is meant."""
    said = [ItemError(path="payment_status", message='is "completed" by desk-2')]
    hub.sync.answers["reservation:R1"] = ItemResult(outcome="conflict", conflict_id="c-1", errors=said)
    seat = Seat(tmp_path / "desk", hub.url)
    await seat.run("check-in", "R1", "--room", "301")

    done = await seat.run("check-out", "R1", "--pay", "cash")
    assert (done.code, "領収書" in done.out) == (1, False)
    assert 'a conflict waits for a manager: payment_status: is "completed" by desk-2' in done.err
    meant = await seat.run("check-out", "R1", "--pay", "cash", "--anyway")
    assert (meant.code, "領収書" in meant.out) == (0, True)


async def test_one_command_tells_that_its_operation_was_refused(tmp_path: Path, hub: SyncHubServer) -> None:
    """That it was kept is not all there is to it."""
    wrong = [ItemError(path="payload.status", message="the hub does not like it")]
    hub.sync.answers["room:room-301"] = ItemResult(outcome="rejected", errors=wrong)
    done = await Seat(tmp_path / "desk", hub.url).run("room", "301", "cleaning")
    assert "同期失敗" in done.out


async def test_a_guest_who_came_by_a_check_in_alone_has_the_room(tmp_path: Path, hub: SyncHubServer) -> None:
    """Though neither the reservation nor the room says so: nobody else gets it, and the guest leaves as all do."""
    hub.sync.happen("Reservation", "R2", reservation("R2"))
    hub.sync.happen("CheckIn", "R1", {"room_number": "301", "payment_status": "pending"})
    seat = Seat(tmp_path / "desk", hub.url)
    assert (await seat.run("setup")).code == 0
    [room] = (await seat.run("rooms")).rows()
    assert (room[0], room[2], room[4]) == ("301", "occupied", "R1")
    assert (await seat.run("rooms", "--status", "vacant_clean")).rows() == []
    [guest] = (await seat.run("reservations", "in-house")).rows()
    assert (guest[0], guest[2], guest[6]) == ("R1", "301", "checked_in")
    for words in (("R2", "--room", "301"), ("R2", "--room", "301", "--anyway")):
        assert "room 301 is taken by R1" in (await seat.run("check-in", *words)).err
    assert (await seat.run("check-out", "R1", "--pay", "cash")).code == 0
    assert [row[4] for row in (await seat.run("rooms")).rows()] == [""]


async def test_points_that_wait_here_are_not_used_twice(tmp_path: Path, hub: SyncHubServer) -> None:
    """The balance is that of the last sync, less what this desk used since."""
    seat = Seat(tmp_path / "desk", hub.url)
    await seat.run("rooms")
    seat.url = DEAD_URL
    assert (await seat.run("points", "C1", "-60")).code == 0
    done = await seat.run("points", "C1", "-60")
    assert (done.code, "C1 has 40 points to use" in done.err) == (1, True)


async def test_a_token_that_expired_is_had_anew_by_its_command(tmp_path: Path, hub: SyncHubServer) -> None:
    """Without asking anybody, as long as a PIN has opened what it takes (R85)."""
    seat = Seat(tmp_path / "desk", hub.url)
    fresh = jwt(seat.day.now() + timedelta(hours=1), fresh="yes")
    kept = tmp_path / "token"
    kept.write_text(fresh)
    hub.bad_tokens.add(TOKEN)
    seat.environment["HUB_TOKEN"] = TOKEN

    refused = await seat.run("status", "--json")
    assert json.loads(refused.out)["state"] == "session_expired"
    done = await seat.run("--token-command", f"cat {kept}", "sync")
    assert (done.code, done.err) == (0, "")


async def test_a_token_is_used_to_its_end(tmp_path: Path, hub: SyncHubServer) -> None:
    """Which the hub tells, not the clock of a computer that may be a year ahead; then it takes another one."""
    seat = Seat(tmp_path / "desk", hub.url)
    token = seat.environment["HUB_TOKEN"] = jwt(seat.day.now() + timedelta(minutes=5))
    assert (await seat.run("--tenant", "default", "setup")).code == 0
    seat.environment["HUB_TOKEN"] = ""
    seat.day.pass_by(365 * 24 * 3600)
    assert (await seat.run("check-in", "R1", "--room", "301", "--anyway")).code == 0
    assert models(hub) == ["CheckIn", "Reservation", "RoomStatus"]

    hub.bad_tokens.add(token)
    assert json.loads((await seat.run("status", "--json")).out)["state"] == "session_expired"
    assert "give the desk a new token" in (await seat.run("sync")).out


# -- at the prompt ----------------------------------------------------------------------------------------------------


async def test_the_banner_comes_while_the_prompt_waits(tmp_path: Path, hub: SyncHubServer) -> None:
    """When the line breaks, and with what to do now."""
    seat = Seat(tmp_path / "desk", hub.url)
    async with seat.at_prompt() as terminal:
        await terminal.shows("全データ同期完了 / All data synced")
        hub.sick = True
        hub.cut()
        await terminal.shows("オフライン中 / Offline")
        await terminal.shows("Go on with check-in")
        terminal.type("check-in R1 --room 301")
        await terminal.shows("checked in R1, room 301  「同期待ち」")
        hub.sick = False
        terminal.type("sync", "quit")
        await terminal.shows("オンライン復旧・同期開始")
    assert models(hub) == ["CheckIn", "Reservation", "RoomStatus"]


async def test_a_token_that_hears_of_no_events_is_told(
    tmp_path: Path, hub: SyncHubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All works with it, and slower; nobody would look for the reason at the token."""

    async def denied(session: Session, frame: dict[str, Any]) -> None:
        said = {"code": "forbidden", "message": "the token lacks the scope subscribe:*", "retryable": False}
        await session.send(op="error", id=frame["id"], **said)

    monkeypatch.setattr(hub, "_on_subscribe", denied)
    async with Seat(tmp_path / "desk", hub.url).at_prompt() as running:
        await running.shows("全データ同期完了")
        terminal = running.program.terminal
        assert terminal is not None
        await until(lambda: terminal.desk.late is not None)
        running.type("status", "quit")
        await running.shows("others' changes come late: the token lacks the scope subscribe:*")


async def test_that_all_is_synced_is_told_when_the_recovery_has_ended(tmp_path: Path, hub: SyncHubServer) -> None:
    """Not between its steps, of which a later one may find otherwise."""
    seat = Seat(tmp_path / "desk", hub.url)
    synced = "All data synced"
    async with seat.at_prompt() as running:
        await running.shows(synced)
        terminal = running.program.terminal
        assert terminal is not None
        report, told = terminal.recovery.manager._report, running.out.getvalue().count(synced)
        report(Report("running", "data_differential_sync", 4, 5, 1))
        for problem in ("first", None, "second", None):
            terminal.desk.status.update(problem=problem)
        await running.shows("second")
        assert running.out.getvalue().count(synced) == told
        report(Report("recovered", "integrity_verification", 5, 5, 1))
        assert running.out.getvalue().count(synced) == told + 1
        running.type("quit")


async def test_an_operation_that_was_begun_is_kept_and_told_whatever_is_pressed(seat: Seat) -> None:
    """Ctrl-C while the database is busy with it; twice at the prompt it ends the program."""
    async with seat.at_prompt() as terminal:
        await terminal.shows(f"| {BOSS}")
        assert terminal.program.terminal is not None
        desk = terminal.program.terminal.desk
        busy, free = threading.Event(), threading.Event()
        operate = desk.operate

        def hold(_: object) -> None:
            busy.set()
            free.wait(10)

        async def behind_others(*given: Any, **named: Any) -> Any:
            holding = asyncio.ensure_future(desk.local.call(hold))
            await until(busy.is_set)
            done = await operate(*given, **named)
            await holding
            return done

        desk.operate = behind_others  # type: ignore[method-assign]
        terminal.type("room 302 cleaning")
        await until(busy.is_set)
        terminal.program.interrupt()
        await asyncio.sleep(0)
        free.set()
        await terminal.shows("room 302: status cleaning")
        await terminal.shows("interrupted")
        terminal.program.interrupt()
        await terminal.shows("quit ends it, or Ctrl-C once more")
        with pytest.raises(KeyboardInterrupt):
            terminal.program.interrupt()
        terminal.type("quit")
    rooms = (await seat.run("rooms", "--status", "cleaning")).rows()
    assert [row[0] for row in rooms] == ["302"]


async def test_a_person_types_pins_unseen_and_again_after_a_pause(seat: Seat) -> None:
    """On a terminal: a wrong PIN is asked for again, doubts are asked about, and a session that was idle has ended."""
    seat.environment |= {"HOTEL_DESK_PIN": "", "HUB_TOKEN": ""}
    ours, theirs = pty.openpty()
    async with seat.at_prompt(descriptors=(theirs, ours)) as terminal:
        await terminal.shows(f"PIN of {BOSS}")
        terminal.type("9051")
        await terminal.shows("wrong PIN")
        terminal.type(BOSS_PIN)
        await terminal.shows(f"{BOSS}> ")
        terminal.type("room 302 vacant_dirty")
        await terminal.shows("room 302: status vacant_dirty")
        terminal.type("check-in R1 --room 302")
        await terminal.shows("Do it all the same?")
        terminal.type("n")
        await terminal.shows("not done")
        seat.machine.pass_by(16 * 60)
        terminal.type("rooms")
        await terminal.shows("has ended")
        terminal.type(BOSS_PIN)
        await terminal.shows("guests")
        terminal.type("quit")


async def test_a_script_is_not_asked_for_a_pin_in_the_middle(seat: Seat) -> None:
    """Its lines are commands: none of them is taken for a PIN."""
    seat.idle_s = 60.0
    seat.environment["HOTEL_DESK_OPERATOR"] = ""
    added = await seat.run(
        lines=[f"operators add {CLERK}", CLERK_PIN, CLERK_PIN, "sign-out", "rooms", f"sign-in {CLERK}"]
    )
    assert added.code == 1
    assert added.err.count("a script gives the PIN by HOTEL_DESK_PIN") == 2


async def test_the_language_is_kept(seat: Seat) -> None:
    """Japanese or English; the banner has both."""
    done = await seat.run(lines=["language ja", "rooms", "help", "quit"])
    assert "客室\tタイプ" in done.out
    assert "チェックアウト・精算・領収書" in done.out
    setup = DeskSetup.load(seat.directory)
    assert setup is not None
    assert setup.language == "ja"
