"""Copies of the store, taken while hubs write, and put back: SQLite by its online backup, PostgreSQL by its own tools.

A copy is one file of guests' data: readable by its owner alone, and there whole or not at all.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import URL, func, select, text

from hub.errors import HubError
from hub.store.archive import Archive
from hub.store.database import APPLICATION, Database
from hub.store.migrate import version, versions
from hub.store.tables import metadata, tenants

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""

STEP_PAGES: Final = 2000
_SQLITE: Final = b"SQLite format 3\0"
_POSTGRES: Final = b"PGDMP"
_ASIDE: Final = "hub_replaced"
"""PostgreSQL's schema for the store that is being replaced, until the copy is found good."""


class BackupError(HubError):
    """It was not done, and nothing was replaced: why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restored store holds; every tenant's chain was checked."""

    version: str
    tenants: int
    events: int


def _nobody(done: int, total: int) -> None:
    pass


async def back_up(url: URL, file: Path, *, force: bool = False, progress: Progress = _nobody) -> int:
    """Copy the store into a file; its bytes. Hubs go on meanwhile; the copy is of the moment when it began.

    Raises:
        BackupError: it was not done; no file was made, and none replaced.
    """
    part = file.with_name(f"{file.name}.part")
    try:
        _not_itself(url, file)
        _begin(part, file, force)
        if url.get_backend_name() == "sqlite":
            source = _sqlite_file(url)
            if not source.exists():
                raise BackupError(f"there is no store at {source}; set HUB_DATA_DIR or HUB_STORE_URL to the hub's")
            await asyncio.to_thread(_copy, source, part, progress)
        else:
            await _dump(url, part)
        return _put(part, file)
    except OSError as error:
        raise BackupError(f"{error.filename or file}: {error.strerror}; name a place that can be written") from error
    finally:
        _remove(part)


async def restore(url: URL, file: Path, *, force: bool = False, progress: Progress = _nobody) -> Restored:
    """Make the store what a copy says, and check every chain in it.

    `force` replaces a store that holds events. One that a hub has open is never replaced.

    Raises:
        BackupError: the copy cannot be used, or the store must not be replaced; it is as it was.
        StoreUnavailable: the database does not answer.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(len(_SQLITE))
    except OSError as error:
        raise BackupError(f"{file}: {error.strerror}") from error
    sqlite = url.get_backend_name() == "sqlite"
    if not start.startswith((_SQLITE, _POSTGRES)):
        raise BackupError(f"{file} is no copy of a store; `hub store backup` makes them")
    if start.startswith(_SQLITE) != sqlite:
        of, to = ("SQLite", "PostgreSQL") if not sqlite else ("PostgreSQL", "SQLite")
        raise BackupError(f"{file} is a copy of a {of} store, and the store to restore is {to}; see HUB_STORE_URL")
    if sqlite:
        return await _restore_sqlite(url, file, force, progress)
    return await _restore_postgres(url, file, force, progress)


async def _checked(database: Database, progress: Progress) -> Restored:
    held = await version(database)
    _must_know(held)
    assert held is not None
    archive = Archive(database)
    there = await archive.tenants()
    total = sum(one.position - one.base_position for one in there.values())
    done = 0
    for tenant in sorted(there):
        last = None
        async for last in archive.verify(tenant):
            progress(done + last.events, total)
        if last is not None:
            done += last.events
            if last.broken is not None:
                raise BackupError(f"the copy is damaged: {last.broken}; take another one")
    return Restored(held, len(there), done)


def _must_know(held: str | None) -> None:
    if held is None:
        raise BackupError("the copy holds no store; `hub store backup` makes copies that do")
    if held not in versions():
        raise BackupError(
            f"the copy has version {held}, and this release knows none after {versions()[-1]}; "
            "use the release that made it"
        )


def _not_itself(url: URL, file: Path) -> None:
    source = _sqlite_file(url).resolve()
    if url.get_backend_name() == "sqlite" and file.resolve() in {
        source.with_name(f"{source.name}{end}") for end in ("", "-wal", "-shm", "-journal")
    }:
        raise BackupError(f"{file} is the store itself; name another file")


def _begin(part: Path, file: Path, force: bool) -> None:
    """An empty file that this user alone may read."""
    if file.exists() and not force:
        raise BackupError(f"{file} is there already; take another name, or --force")
    _remove(part)
    os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _put(part: Path, file: Path) -> int:
    """Give what is written and on disk its name; its bytes."""
    _sync(part)
    part.replace(file)
    _sync(file.parent)
    return file.stat().st_size


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- SQLite ---------------------------------------------------------------------------------------------------------


def _sqlite_file(url: URL) -> Path:
    return Path(url.database or "")


def _copy(source: Path, target: Path, progress: Progress) -> None:
    try:
        with (
            closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)) as old,
            closing(sqlite3.connect(target, isolation_level=None)) as new,
        ):
            # A transaction holds the moment: else every write of a hub would begin the copy anew.
            old.execute("BEGIN")
            old.execute("SELECT count(*) FROM sqlite_master").fetchone()
            old.backup(new, pages=STEP_PAGES, progress=lambda _, left, total: progress(total - left, total), sleep=0)
            # One file, without a write-ahead log beside it.
            new.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.Error as error:
        raise BackupError(f"{source} was not copied: {error}") from error


async def _restore_sqlite(url: URL, file: Path, force: bool, progress: Progress) -> Restored:
    target = _sqlite_file(url)
    _may_replace(target, force)
    part = target.with_name(f"{target.name}.restoring")
    try:
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _begin(part, part, force=True)
        await asyncio.to_thread(_copy, file, part, progress)
        database = Database(url.set(database=str(part)))
        try:
            restored = await _checked(database, progress)
        finally:
            await database.aclose()
        # Looked at again: checking took its time. From here on it is quick.
        _may_replace(target, force)
        _remove(target, ("-wal", "-shm"))
        _put(part, target)
    except OSError as error:
        raise BackupError(f"{error.filename or target}: {error.strerror}") from error
    finally:
        _remove(part)
    return restored


def _remove(path: Path, parts: Sequence[str] = ("", "-wal", "-shm", "-journal")) -> None:
    for beside in parts:
        with suppress(OSError):
            Path(f"{path}{beside}").unlink(missing_ok=True)


def _may_replace(target: Path, force: bool) -> None:
    """Nobody has the store open, and it is empty or may go; what it had in its write-ahead log is in the file then."""
    if not target.exists():
        return
    try:
        with closing(sqlite3.connect(target, isolation_level=None, timeout=0)) as connection:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            named = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tenants'").fetchone()
            events = bool(named) and connection.execute("SELECT 1 FROM tenants LIMIT 1").fetchone() is not None
            connection.execute("COMMIT")
            connection.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.OperationalError as error:
        raise BackupError(f"{target} is in use ({error}); stop the hub that has it open") from error
    except sqlite3.DatabaseError as error:
        if not force:
            raise BackupError(f"{target} is there and cannot be read ({error}); --force replaces it") from error
        return
    if events and not force:
        raise BackupError(f"{target} holds events; --force replaces them by those of the copy")


# -- PostgreSQL -----------------------------------------------------------------------------------------------------


async def _dump(url: URL, target: Path) -> None:
    database = Database(url)
    try:
        if await version(database) is None:
            raise BackupError(f"there is no store in {database.shown}; correct HUB_STORE_URL")
    finally:
        await database.aclose()
    names = [name for name in metadata.tables if name != "events"]
    wanted = [f"--table={name}" for name in (*names, "alembic_version")]
    # `events` with its months.
    await _run(url, "pg_dump", "--format=custom", "--table-and-children=events", *wanted, f"--file={target}")


async def _restore_postgres(url: URL, file: Path, force: bool, progress: Progress) -> Restored:
    lines = (await _run(None, "pg_restore", "--data-only", "--table=alembic_version", "--file=-", str(file))).split(
        "\n"
    )
    at = next((number for number, line in enumerate(lines) if line.startswith("COPY ")), None)
    _must_know(None if at is None else lines[at + 1].strip())
    database = Database(url)
    try:
        await _may_replace_tables(database, force)
        # pg_restore cannot replace tables that have parts, and should not before the copy is known to be good.
        await _move(database, "current_schema()", _ASIDE)
        try:
            options = ("--single-transaction", "--no-owner", "--no-privileges", "--exit-on-error")
            await _run(url, "pg_restore", *options, str(file))
            restored = await _checked(database, progress)
        except BaseException:
            await _move(database, f"'{_ASIDE}'", None)
            raise
        async with database.writing() as connection:
            await connection.execute(text(f"DROP SCHEMA {_ASIDE} CASCADE"))
        return restored
    finally:
        await database.aclose()


async def _move(database: Database, source: str, target: str | None) -> None:
    """Put the store's tables aside, or (no target) back, in the place of those that are there."""
    names = [*metadata.tables, "alembic_version"]
    query = (
        "SELECT quote_ident(nspname), quote_ident(relname), current_schema() FROM pg_class "
        "JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE relkind IN ('r', 'p') "
        "AND nspname = {} AND (relname = ANY(:names) OR relname ~ '^events_[0-9]{{6}}$')"
    )
    async with database.writing(patient=True) as connection:
        if target is None:
            for schema, name, _ in await connection.execute(text(query.format("current_schema()")), {"names": names}):
                await connection.execute(text(f"DROP TABLE IF EXISTS {schema}.{name} CASCADE"))
        else:
            await connection.execute(text(f"CREATE SCHEMA {target}"))
        found = (await connection.execute(text(query.format(source)), {"names": names})).all()
        for schema, name, current in found:
            await connection.execute(text(f"ALTER TABLE {schema}.{name} SET SCHEMA {target or current}"))
        if target is None:
            await connection.execute(text(f"DROP SCHEMA {_ASIDE}"))


async def _may_replace_tables(database: Database, force: bool) -> None:
    others = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND application_name = :name AND pid <> pg_backend_pid()"
    )
    async with database.reading() as connection:
        if await connection.scalar(others, {"name": APPLICATION}):
            raise BackupError(f"{database.shown} is in use; stop the hubs that have it open")
        if await connection.scalar(text("SELECT to_regnamespace(:name) IS NOT NULL"), {"name": _ASIDE}):
            raise BackupError(
                f"an earlier restore was cut short: the store as it was before lies in the schema {_ASIDE} of "
                f"{database.shown}; move its tables back, or give it up with DROP SCHEMA {_ASIDE} CASCADE"
            )
        there = await connection.scalar(text("SELECT to_regclass('tenants') IS NOT NULL"))
        if there and not force and await connection.scalar(select(func.count()).select_from(tenants)):
            raise BackupError(f"{database.shown} holds events; --force replaces them by those of the copy")


async def _run(url: URL | None, program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise BackupError(
            f"{program} is not on PATH; install PostgreSQL's client programs (Debian: apt install postgresql-client), "
            "of the server's version or newer"
        )
    environment = dict(os.environ)
    if url is not None:
        # The password goes another way than the command line, which everybody on the machine may read.
        if url.password is not None:
            environment["PGPASSWORD"] = str(url.password)
        shown = url.set(drivername="postgresql", password=None).render_as_string()
        arguments = (f"--dbname={shown}", *arguments)
    process = await asyncio.create_subprocess_exec(
        path, *arguments, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        said = next(
            (line for line in err.decode(errors="replace").splitlines() if "error" in line), "it did not say why"
        )
        raise BackupError(f"{program} failed: {said}")
    return out.decode(errors="replace")
