"""The store's tables come about step by step, on SQLite and PostgreSQL, and never go back."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from archive_bench import A, Open, alike, batch, change, dump, events_of, place, verified
from sqlalchemy import Connection, inspect

from hub.store.archive import Archive
from hub.store.database import Database, StoreVersionError
from hub.store.migrate import check, migrate, newest, version, versions
from hub.store.tables import metadata
from schemas.cursor import ZERO


async def differences(database: Database) -> list[Any]:
    """How the database differs from the tables that the code knows."""

    def compare(connection: Connection) -> list[Any]:
        known = set(metadata.tables)
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "compare_server_default": True,
                # PostgreSQL's months are parts of `events`.
                "include_name": lambda name, kind, _: kind != "table" or name in known,
            },
        )
        return list(compare_metadata(context, metadata))

    async with database.reading() as connection:
        return await connection.run_sync(compare)


@pytest.mark.parametrize("start", [None, *versions()])
async def test_every_earlier_version_is_brought_here_with_its_events(open_bare: Open, start: str | None) -> None:
    """The events are what they were, their chain holds, and the tables are those that the code knows."""
    database = await open_bare()
    archive = Archive(database)
    entries = events_of(A, range(20))
    before = None
    if start is not None:
        assert await migrate(database, start) == start
        await archive.write([batch(entries)])
        before = await dump(database)

    assert await migrate(database) == newest()

    assert await version(database) == newest() == versions()[-1]
    assert await differences(database) == []
    if before is not None:
        assert await dump(database) == before
        assert alike(await archive.read(0, ZERO, 100), entries)
        assert await verified(archive) == (20, None)
        await archive.write([batch(events_of(A, range(20, 30)), place(entries[-1]))])


async def test_a_table_or_column_that_differs_shows(open_database: Open) -> None:
    """The comparison above is one."""
    database = await open_database()
    await change(database, "ALTER TABLE tenants ADD COLUMN more INTEGER")
    assert len(await differences(database)) == 1
    await change(database, "DROP TABLE replays")
    assert len(await differences(database)) > 1


async def test_a_newer_version_is_refused_and_left_alone(open_database: Open) -> None:
    """The message names both versions; reading what it is changes nothing either."""
    database = await open_database()
    await Archive(database).write([batch(events_of(A, range(5)))])
    await change(database, "UPDATE alembic_version SET version_num = '9999'")
    before, tables = await dump(database), await _tables(database)

    for attempt in (migrate, check):
        with pytest.raises(StoreVersionError, match=f"version 9999.*{newest()}"):
            await attempt(database)

    assert await version(database) == "9999"
    assert (await dump(database), await _tables(database)) == (before, tables)


async def test_it_is_never_taken_back(open_database: Open) -> None:
    """An older version is no place to go to."""
    database = await open_database()
    with pytest.raises(StoreVersionError, match=f"{newest()}.*never taken back to {versions()[0]}"):
        await migrate(database, versions()[0])
    assert await version(database) == newest()


async def test_an_empty_database_has_no_version(open_bare: Open) -> None:
    """And asking makes no table."""
    database = await open_bare()
    assert await version(database) is None
    assert await check(database) is None
    assert await _tables(database) == []


async def test_hubs_that_migrate_at_once_take_turns(open_bare: Open) -> None:
    """Each of five finds the newest version made, by itself or by another."""
    databases = [await open_bare() for _ in range(5)]
    assert await asyncio.gather(*map(migrate, databases)) == [newest()] * 5
    assert await differences(databases[0]) == []


async def test_processes_that_migrate_at_once_take_turns(open_bare: Open) -> None:
    """On one SQLite file too, where no lock of a process helps."""
    database = await open_bare()
    script = (
        "import asyncio, sys\n"
        "from sqlalchemy import make_url\n"
        "from hub.store.database import Database\n"
        "from hub.store.migrate import migrate\n"
        "async def main():\n"
        "    database = Database(make_url(sys.argv[1]))\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
        "    await migrate(database)\n"
        "    await database.aclose()\n"
        "asyncio.run(main())\n"
    )
    url = database.url.render_as_string(hide_password=False)
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", script, url, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        for _ in range(3)
    ]
    for process in started:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    ended = await asyncio.gather(*(process.communicate(b"") for process in started))
    assert [process.returncode for process in started] == [0, 0, 0], ended
    assert await differences(database) == []


async def test_a_step_that_fails_leaves_the_version_before(open_bare: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is one transaction: no table of the step, nor of those before it, is left."""
    database = await open_bare()
    await migrate(database, versions()[0])
    tables = await _tables(database)
    real = command.upgrade

    def break_off(*arguments: Any) -> None:
        real(*arguments)
        raise RuntimeError("in the middle")

    monkeypatch.setattr(command, "upgrade", break_off)
    with pytest.raises(RuntimeError):
        await migrate(database)
    monkeypatch.undo()
    assert (await version(database), await _tables(database)) == (versions()[0], tables)
    assert await migrate(database) == newest()


async def _tables(database: Database) -> list[str]:
    async with database.reading() as connection:
        return sorted(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
