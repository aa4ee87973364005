"""A damaged local database is rebuilt: nothing of the queue is lost, and a crash in between is gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from recovery_stage import Cut, HubInMemory, Stage

from consumers.errors import Disconnected
from consumers.offline import rebuild as module
from consumers.offline.database import LocalDatabase
from consumers.offline.desk import Desk
from consumers.offline.errors import LocalDamaged, LocalFull, LocalInUse, LocalUnusable
from consumers.offline.rebuild import Rebuilt, open_sound, rebuild

NAME = "desk.db"


def now() -> datetime:
    """A fixed time."""
    return datetime(2026, 7, 15, 6, 0, 1, tzinfo=UTC)


def worked(path: Path, items: int = 30) -> list[str]:
    """Make a database in which somebody worked, and close it: the uuids of all its items."""
    desk = Stage(path)
    for number in range(items):
        desk.work(str(100 + number))
    uuids = [item.uuid for item in desk.database.pending()]
    desk.database.close()
    return uuids


def damage(path: Path) -> bytes:
    """Zero the middle of the file: its bytes as they are then."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = bytes(third)
    path.write_bytes(content)
    return bytes(content)


def opened(path: Path) -> tuple[LocalDatabase, Rebuilt | None]:
    """Open it, whatever it takes."""
    return open_sound(path, tenant_id="default", system="hotel-pms", now=now)


def pending(database: LocalDatabase) -> list[str]:
    """The uuids of what is to be sent; closes the database."""
    found = [item.uuid for item in database.pending()]
    database.close()
    return found


def test_a_damaged_database_is_replaced_and_kept_aside(tmp_path: Path) -> None:
    """All items are in the new file; the damaged one is as it was, under the day's name; nothing else is left over."""
    path = tmp_path / NAME
    uuids = worked(path)
    content = damage(path)
    rebuilt = rebuild(path, now=now)
    assert rebuilt is not None
    assert rebuilt.reasons
    assert rebuilt.waiting == rebuilt.items == len(uuids)
    assert rebuilt.aside.name == "desk.db.damaged-20260715T060001Z"
    assert rebuilt.aside.read_bytes() == content
    assert rebuild(path, now=now) is None, "what was rebuilt is sound"
    database, again = opened(path)
    assert again is None
    assert (database.device_id, database.cursor) == ("desk-1", None)
    assert pending(database) == uuids
    left = {entry.name for entry in tmp_path.iterdir() if "damaged" not in entry.name}
    assert left <= {NAME, f"{NAME}-wal", f"{NAME}-shm", f"{NAME}.journal", f"{NAME}.lock"}


def test_a_sound_database_stays_unless_a_person_wants_it(tmp_path: Path) -> None:
    """Without damage nothing is touched; on a person's word it is rebuilt all the same, and nothing is lost."""
    path = tmp_path / NAME
    uuids = worked(path)
    assert rebuild(path, now=now) is None
    assert [entry.name for entry in tmp_path.iterdir() if "damaged" in entry.name] == []
    first = rebuild(path, now=now, even_if_sound=True)
    second = rebuild(path, now=now, even_if_sound=True)
    assert first is not None
    assert second is not None
    assert second.aside.name == first.aside.name + "-2", "the first one is not overwritten"
    assert pending(opened(path)[0]) == uuids


def test_opening_a_damaged_database_rebuilds_it(tmp_path: Path) -> None:
    """The desk starts with all its items, and is told that it was rebuilt."""
    path = tmp_path / NAME
    uuids = worked(path)
    damage(path)
    database, rebuilt = opened(path)
    assert rebuilt is not None
    assert pending(database) == uuids


def test_a_database_that_is_gone_comes_back_from_its_journal(tmp_path: Path) -> None:
    """Somebody deleted the file: an empty one in its place would have lost the queue."""
    path = tmp_path / NAME
    uuids = worked(path)
    path.unlink()
    database, rebuilt = opened(path)
    assert rebuilt is not None
    assert pending(database) == uuids


class Cutting:
    """Cuts the power at the n-th file that is moved or removed, before or after it is."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int | None, *, after: bool) -> None:
        self.count = 0
        self.at, self.after = at, after
        for name in ("replace", "unlink"):
            monkeypatch.setattr(os, name, self._cut(getattr(os, name)))

    def _cut(self, real: Callable[..., None]) -> Callable[..., None]:
        def moved(*args: object, **kwargs: object) -> None:
            self.count += 1
            if self.count == self.at and not self.after:
                raise Cut
            try:
                real(*args, **kwargs)
            finally:
                if self.count == self.at:
                    raise Cut

        return moved


def test_cut_off_at_any_file_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file the power goes off at: the next start has all items, and the damaged file is kept."""
    source = tmp_path / "source"
    source.mkdir()
    uuids = worked(source / NAME)
    content = damage(source / NAME)
    files = [(entry.name, entry.read_bytes()) for entry in source.iterdir()]

    def run(directory: Path, at: int | None, *, after: bool) -> int:
        directory.mkdir()
        for name, body in files:
            (directory / name).write_bytes(body)
        with monkeypatch.context() as patch:
            cutting = Cutting(patch, at, after=after)
            if at is None:
                rebuild(directory / NAME, now=now)
            else:
                with pytest.raises(Cut):
                    rebuild(directory / NAME, now=now)
        database, _ = opened(directory / NAME)
        assert (database.device_id, pending(database)) == ("desk-1", uuids), (at, after)
        kept = [entry for entry in directory.iterdir() if entry.name.endswith("Z")]
        assert [entry.read_bytes() for entry in kept] == [content], (at, after)
        assert not (directory / f"{NAME}.salvaged").exists()
        assert not (directory / f"{NAME}.rebuild").exists()
        return cutting.count

    moves = run(tmp_path / "whole", None, after=False)
    assert moves > 8
    # Cut off before one is cut off after the one before it.
    for at, after in [*((at, False) for at in range(1, moves + 1)), (moves, True)]:
        run(tmp_path / f"cut-{at}-{after}", at, after=after)


async def test_a_desk_finishes_a_rebuild_that_was_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A desk that is opened where the old file is gone and the new one not yet there has the queue all the same."""
    for at in range(1, 20):
        path = tmp_path / str(at) / NAME
        path.parent.mkdir()
        uuids = worked(path)
        damage(path)
        with monkeypatch.context() as patch:
            Cutting(patch, at, after=True)
            with pytest.raises(Cut):
                rebuild(path, now=now)
        if not path.exists():
            break
    async with await Desk.open(
        path, url="ws://127.0.0.1:1/ws", token="none", tenant_id="default", system="hotel-pms", now=now
    ) as desk:
        items = await desk.local.call(lambda database: database.pending())
    assert [item.uuid for item in items] == uuids


def test_the_rest_of_a_salvage_that_was_cut_off_is_no_salvage(tmp_path: Path) -> None:
    """Half a salvaged file from before a power cut is made anew."""
    path = tmp_path / NAME
    uuids = worked(path)
    damage(path)
    (tmp_path / f"{NAME}.salvaged").write_bytes(path.read_bytes()[:5000])
    (tmp_path / f"{NAME}.salvaged.journal").write_bytes(b"rest")
    rebuild(path, now=now)
    assert pending(opened(path)[0]) == uuids


def test_an_unreadable_note_is_for_a_person(tmp_path: Path) -> None:
    """Nothing is opened or made where it is not known which file counts."""
    path = tmp_path / NAME
    worked(path, 1)
    for body in (b"", b"[]", b'{"moved": true}'):
        (tmp_path / f"{NAME}.rebuild").write_bytes(body)
        with pytest.raises(LocalUnusable, match="look at the files"):
            opened(path)


def test_nobody_may_have_it_open(tmp_path: Path) -> None:
    """A database in use is not rebuilt under its user."""
    desk = Stage(tmp_path / NAME)
    with pytest.raises(LocalInUse):
        rebuild(desk.path, now=now, even_if_sound=True)
    desk.database.close()


async def test_damage_during_a_recovery(tmp_path: Path) -> None:
    """Salvaged, bootstrapped from the hub, pushed: the hub has every item once, the desk every record (R85)."""
    hub = HubInMemory()
    for number in range(100, 120):
        hub.publish(str(number), "vacant_clean")
    desk = Stage(tmp_path / NAME, hub)
    assert (await desk.run()).state == "recovered"
    uuids = [desk.work(str(number)) for number in range(110, 140)]
    desk.database.close()
    damage(desk.path)
    # It is found out while the desk has it open.
    desk.database = _Closed()  # type: ignore[assignment]
    outcome = await desk.run()
    assert outcome.state == "recovered", outcome
    assert outcome.notes["local_database"].startswith("rebuilt")
    assert {*uuids} <= {change.uuid for change in hub.changes}
    assert len({change.uuid for change in hub.changes}) == len(hub.changes)
    assert desk.database.digest().root == hub.digest(()).root
    fresh = desk.work("150")
    item = desk.database.item(fresh)
    assert item is not None
    assert item.device_sequence > len(uuids), "no sequence number is used twice"
    desk.database.close()


async def test_damage_found_by_the_comparison(tmp_path: Path) -> None:
    """The records went with the old file: the data is synced anew before it is compared."""
    desk = Stage(tmp_path / NAME)
    desk.memory.publish("101", "occupied")
    desk.failing["digest"] = [LocalDamaged(NAME, ["malformed"])]
    assert (await desk.run()).state == "recovered"
    steps = [told.step for told in desk.told]
    assert steps.count("data_differential_sync") == steps.count("schema_sync") + 1
    desk.database.close()


async def test_damage_while_the_hub_is_away(tmp_path: Path) -> None:
    """The desk cannot work without its database: it is rebuilt at once, and the queue waits in it for the hub."""
    uuids = worked(tmp_path / NAME)
    desk = Stage(tmp_path / NAME)
    desk.database.close()
    damage(desk.path)
    desk.database = _Closed()  # type: ignore[assignment]
    desk.failing["probe"] = [Disconnected("no answer")] * 4
    outcome = await desk.run("local database damaged")
    assert (outcome.state, outcome.notes["local_database"]) == ("offline", "rebuilt from what could be salvaged")
    assert [item.uuid for item in desk.database.pending()] == uuids
    desk.database.close()


class _Closed:
    """A database that can only be closed."""

    def close(self) -> None:
        """Nothing to release."""

    def __getattr__(self, name: str) -> object:
        raise LocalDamaged(NAME, ["database disk image is malformed"])


async def test_a_rebuild_that_does_not_help_is_not_repeated(tmp_path: Path) -> None:
    """A disk that damages what was just rebuilt needs a person."""
    desk = Stage(tmp_path / NAME)
    desk.failing["sync"] = [LocalDamaged(NAME, ["malformed"])] * 2
    outcome = await desk.run()
    assert (outcome.state, outcome.kind) == ("failed", "damaged")
    assert desk.calls.count("rebuild") == 1
    desk.database.close()


async def test_a_person_agrees_to_a_rebuild(tmp_path: Path) -> None:
    """What does not write is rebuilt first, then all five steps are taken."""
    desk = Stage(tmp_path / NAME)
    uuid = desk.work("101")
    desk.failing["sync"] = [LocalUnusable(NAME, "disk I/O error")] * 6
    assert (await desk.run()).state == "rebuild_proposed"
    desk.calls.clear()
    outcome = await desk.manager.run("rebuild approved", rebuild=True)
    assert outcome.state == "recovered"
    assert desk.calls[:2] == ["rebuild", "probe"]
    assert uuid in [change.uuid for change in desk.memory.changes]
    desk.database.close()


async def test_no_room_for_a_rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk: nothing was changed, and room is asked for."""
    desk = Stage(tmp_path / NAME)
    desk.work("101")

    def full(*args: object, **kwargs: object) -> None:
        raise LocalFull(NAME, "no space left on device")

    monkeypatch.setattr(module, "salvage", full)
    outcome = await desk.manager.run("rebuild approved", rebuild=True)
    assert (outcome.state, outcome.kind) == ("make_room", "disk_full")
    assert desk.database.counts().waiting > 0
    desk.database.close()
