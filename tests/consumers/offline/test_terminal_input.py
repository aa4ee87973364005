"""What is typed at the desk's terminal program, or piped into it, however odd."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest
from terminal_seat import BOOK, Seat


@pytest.fixture
async def seat(tmp_path: Path) -> Seat:
    """A desk whose hub is away, with two rooms and a reservation."""
    return await Seat(tmp_path / "desk").ready()


@pytest.mark.parametrize("amount", ["NaN", "sNaN", "Infinity", "1e400", "1e999999999", "12.34567"])
async def test_an_amount_that_is_none_is_refused_where_it_was_typed(amount: str, seat: Seat) -> None:
    """The lines after it are carried out."""
    booking = " ".join(("book", "--id", "R2", *BOOK[3:-1], amount))
    done = await seat.run(lines=[booking, f"charge R1 {amount}", f"room 301 --price={amount}", "reservations"])

    assert done.code == 2
    assert done.err.count("is not an amount like 1200") == 3
    assert "R1" in done.out
    assert "R2" not in done.out


async def test_how_a_command_is_written_is_told_in_lines(seat: Seat) -> None:
    """As it would be anywhere else, without a mark for what no terminal shows."""
    script = await seat.run(lines=["check-in"])
    assert script.err.splitlines()[-1].split() == [
        "usage:",
        "check-in",
        "[-h]",
        "[--room",
        "ROOM]",
        "[--anyway]",
        "reservation",
    ]
    assert "\ufffd" not in script.err


async def test_a_line_that_is_too_long_is_passed_over(seat: Seat) -> None:
    """Once, and the next one is read; it counts as written wrong."""
    async with seat.at_prompt() as running:
        # Longer than the pipe holds.
        typing = asyncio.create_task(asyncio.to_thread(running.type, "x" * 200_000))
        await running.shows("the line is too long")
        await typing
        running.type("reservations", "quit")
        await running.shows("16800")
    assert running.err.getvalue().count("the line is too long") == 1


async def test_a_pin_that_is_too_long_is_told(tmp_path: Path) -> None:
    """A first start ends with it, instead of with a trace."""
    seat = Seat(tmp_path / "desk", environment={"HOTEL_DESK_PIN": ""})
    async with seat.at_prompt("setup") as running:
        await asyncio.to_thread(running.type, "1" * 200_000)
    assert "the line is too long" in running.err.getvalue()


async def test_a_script_that_ends_with_a_line_written_wrong_has_failed(seat: Seat) -> None:
    """A quote that is not closed is as wrong as a command that is none."""
    assert (await seat.run(lines=['room "301'])).code == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
async def test_a_stream_that_was_closed_is_not_given_to_the_desks_files(closed: str, seat: Seat) -> None:
    """What would be written to it is lost, and nothing else."""
    environment = {**os.environ, **seat.environment, "HOTEL_DESK_DIR": str(seat.directory)}
    command = f'exec "$0" -m consumers.offline.terminal room 301 vacant_dirty {closed}'
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", command, sys.executable, env=environment, stdin=PIPE, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()

    assert (process.returncode, b"Traceback" in out + err) == (0, False)
    rooms = (await seat.run("rooms")).rows()
    assert [row[2] for row in rooms if row[0] == "301"] == ["vacant_dirty"]
