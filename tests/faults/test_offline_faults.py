"""Desks and hub while they die at random, the line between them breaks, or a desk's disk does: no operation is lost or
done twice."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from consumers.offline.database import LocalDatabase
from consumers.offline.errors import LocalDamaged
from consumers.offline.rebuild import Rebuilt, open_sound

from .desk_child import SYSTEM
from .desk_ledger import Verdict
from .desks import TENANT, Desks, DeskUnderTest, Plan
from .processes import free_port

pytestmark = [pytest.mark.faults, pytest.mark.process]

WAIT_S = 60.0


def kept(verdict: Verdict) -> None:
    """Nothing is wrong, and there was something that could have been."""
    assert verdict.clean, verdict
    assert verdict.archived > verdict.printed > 100, verdict


async def test_deaths_of_desks_and_hub_lose_and_double_nothing() -> None:
    """Whoever dies, each operation that a desk was told is kept is one event, in order, and all states are the same."""
    verdict = await Desks(Plan(kills=12, seed=1)).run()
    kept(verdict)
    assert sum(verdict.kills.values()) >= 12
    assert verdict.kills["hub"] > 0


async def test_a_line_that_breaks_in_the_middle_of_pushes_loses_and_doubles_nothing() -> None:
    """Cut after any number of bytes of a push or of its answer, each operation is one event."""
    verdict = await Desks(Plan(kills=0, seed=2, cuts=8)).run()
    kept(verdict)
    assert min(verdict.cut_pushing, verdict.cut_answering) >= 8


# -- damaged files ----------------------------------------------------------------------------------------------------


def cut(path: Path) -> None:
    """The end of a file is gone."""
    os.truncate(path, path.stat().st_size * 2 // 3 + 17)


def zero(path: Path) -> None:
    """In the middle of a file there are zeros."""
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 4)
        file.write(bytes(size // 2))


def beside(path: Path, ending: str) -> Path:
    """A file that belongs to a database."""
    return path.with_name(path.name + ending)


def gone(path: Path) -> None:
    """The file is cut to nothing, and what was to be written to it is gone."""
    os.truncate(path, 0)
    beside(path, "-wal").unlink()


REFUSED: dict[str, Callable[[Path], None]] = {"cut": cut, "zeroed": zero, "gone": gone}
"""What of the database itself is damaged."""
PERHAPS: dict[str, Callable[[Path], None]] = {
    "wal-cut": lambda path: cut(beside(path, "-wal")),
    "wal-zeroed": lambda path: zero(beside(path, "-wal")),
    "journal-zeroed": lambda path: zero(beside(path, ".journal")),
}
"""What may be hit where nothing is that counts: the log has parts of before, and the journal has all a second time."""


def opened(path: Path) -> Rebuilt | None:
    """Open a desk's database, mended where it is damaged."""
    database, rebuilt = open_sound(path, tenant_id=TENANT, system=SYSTEM, now=lambda: datetime.now(UTC))
    database.close()
    return rebuilt


async def worked(desk: DeskUnderTest) -> None:
    """Have a desk work without a hub until some hundred items wait, and kill it at that."""
    desk.keeper.start()
    deadline = time.monotonic() + WAIT_S
    while desk.read() < 150 or desk.path.stat().st_size < 400_000:
        assert time.monotonic() < deadline, desk.keeper.last_words()
        await asyncio.sleep(0.01)
    assert desk.keeper.kill()
    await desk.keeper.stop()


async def test_a_desk_whose_file_was_damaged_while_it_was_dead_loses_nothing() -> None:
    """A database that was cut short or zeroed is refused, and what is salvaged of it is at the hub once, all of it."""
    harness = Desks(Plan(kills=0, seed=3, pause_s=0))
    try:
        harness.hub.keeper.start()
        nowhere = f"ws://127.0.0.1:{free_port()}/ws"
        offline = [harness.add(name, url=nowhere, own=f"{name}-") for name in (*REFUSED, *PERHAPS)]
        harness.desks.clear()
        await asyncio.gather(*map(worked, offline))
        for desk in offline:
            (REFUSED | PERHAPS)[desk.device](desk.path)
            if desk.device in REFUSED:
                with pytest.raises(LocalDamaged):
                    LocalDatabase.open(desk.path, tenant_id=TENANT, system=SYSTEM, now=lambda: datetime.now(UTC))
            rebuilt = await asyncio.to_thread(opened, desk.path)
            assert rebuilt is None or rebuilt.waiting >= 300, (desk.device, rebuilt)
            harness.add(desk.device, url=harness.hub.socket_url, own=f"{desk.device}-")
        harness.quiet()
        for desk in harness.desks:
            desk.keeper.start()
        verdict = await harness.settled()
    finally:
        await harness.stop()
    kept(verdict)
    assert verdict.printed >= 150 * len(offline)
