"""A database that does not answer, or cannot take more: what is said, and that it works again afterwards."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from archive_bench import A, alike, batch, event, events_of, place, verified
from sqlalchemy import event as engine_events
from sqlalchemy import make_url

from hub.errors import StartError
from hub.store.archive import Archive
from hub.store.database import Database, StoreUnavailable, store_url
from hub.store.migrate import migrate, version
from schemas.cursor import ZERO


async def refused(database: Database) -> str:
    """What is said when it is asked for anything."""
    try:
        with pytest.raises(StoreUnavailable) as caught:
            await version(database)
        with pytest.raises(StoreUnavailable):
            await migrate(database)
        with pytest.raises(StoreUnavailable):
            await Archive(database).places()
    finally:
        await database.aclose()
    return str(caught.value)


async def test_a_postgres_that_is_away_is_told(tmp_path: Path) -> None:
    """With its address and without its password."""
    said = await refused(Database(store_url("postgresql://hub:secret@127.0.0.1:1/events", tmp_path)))
    assert "postgresql://hub:***@127.0.0.1:1/events" in said
    assert "see that PostgreSQL runs there" in said
    assert "secret" not in said


async def test_a_name_that_leads_nowhere_is_told(tmp_path: Path) -> None:
    """A host that no name server knows."""
    said = await refused(Database(store_url("postgresql://hub:secret@no-such-host.invalid/events", tmp_path)))
    assert "no-such-host.invalid" in said


def rewrite(path: Path, before: str, after: str) -> None:
    """Put something else at the beginning of a file."""
    held = path.read_text()
    assert held.startswith(before)
    path.write_text(after + held.removeprefix(before))


async def test_a_wrong_password_is_told(postgres_url: str, tmp_path: Path) -> None:
    """And a user or database that is not there, and an option that is none."""
    import asyncpg

    connection = await asyncpg.connect(postgres_url)
    access = Path(await connection.fetchval("SHOW hba_file"))
    guard = "local all guarded scram-sha-256\n"
    await connection.execute("DROP ROLE IF EXISTS guarded; CREATE ROLE guarded LOGIN PASSWORD 'right'")
    url = make_url(postgres_url)
    rewrite(access, "", guard)
    try:
        await connection.execute("SELECT pg_reload_conf()")
        # A session that begins now may have been let in by the rules before: the server reads them when it can.
        async with asyncio.timeout(20):
            while not await connection.fetchval(
                "SELECT count(*) FROM pg_hba_file_rules WHERE 'guarded' = ANY(user_name)"
            ):
                pass
        wrong = url.set(username="guarded", password="amiss").render_as_string(hide_password=False)
        said = await refused(Database(store_url(wrong, tmp_path)))
        assert "password authentication failed" in said
        assert "correct user and password in HUB_STORE_URL" in said
        assert "amiss" not in said
    finally:
        rewrite(access, guard, "")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()
    nowhere = url.set(database="nowhere").render_as_string(hide_password=False)
    assert 'database "nowhere" does not exist; create it' in await refused(Database(store_url(nowhere, tmp_path)))
    odd = url.update_query_dict({"sslmode": "sometimes"}).render_as_string(hide_password=False)
    assert "sslmode" in await refused(Database(store_url(odd, tmp_path)))


async def test_options_of_libpq_are_understood(postgres_url: str, tmp_path: Path) -> None:
    """A URL that psql takes is taken."""
    url = make_url(postgres_url).update_query_dict({"sslmode": "prefer", "application_name": "x"})
    database = Database(store_url(url.render_as_string(hide_password=False), tmp_path))
    await version(database)
    await database.aclose()


@pytest.mark.parametrize("url", ["mysql://localhost/x", "nonsense", "sqlite://", "redis://127.0.0.1", ""])
def test_a_wrong_url_is_told_at_start(url: str, tmp_path: Path) -> None:
    """With how it is written."""
    with pytest.raises(StartError, match=r"HUB_STORE_URL.*postgresql://user:password@host/database"):
        store_url(url, tmp_path)


async def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Or that may not be written, or a file that is no database."""
    said = await refused(Database(store_url(None, tmp_path / "none")))
    assert str(tmp_path / "none" / "store.db") in said
    assert "see that its directory is there" in said

    (tmp_path / "store.db").write_bytes(os.urandom(10_000))
    assert "file is not a database" in await refused(Database(store_url(None, tmp_path)))


async def test_a_new_file_is_opened_by_several_at_once(tmp_path: Path) -> None:
    """SQLite refuses one of two that bring it to write-ahead logging at the same moment; that one tries again."""
    for attempt in range(20):
        databases = [Database(store_url(None, tmp_path / str(attempt))) for _ in range(8)]
        (tmp_path / str(attempt)).mkdir()
        try:
            assert await asyncio.gather(*map(version, databases)) == [None] * 8
        finally:
            await asyncio.gather(*(database.aclose() for database in databases))


@pytest.mark.skipif(os.getuid() == 0 and not Path("/usr/bin/setpriv").exists(), reason="root may write everywhere")
def test_a_directory_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    """By who is not root."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from hub.store.database import Database, StoreUnavailable, store_url\n"
        "from hub.store.migrate import migrate\n"
        "async def main():\n"
        "    database = Database(store_url(None, Path(sys.argv[1])))\n"
        "    try:\n"
        "        await migrate(database)\n"
        "    except StoreUnavailable as error:\n"
        "        print(error)\n"
        "    await database.aclose()\n"
        "asyncio.run(main())\n"
    )
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    command = [sys.executable, "-c", script, str(locked)]
    if os.getuid() == 0:
        # Without the right that root has to pass over permissions.
        command = ["/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert "unable to open database file; see that its directory is there" in done.stdout, done


async def test_a_full_disk_stores_nothing_half(tmp_path: Path) -> None:
    """Every batch is refused while it is full, with what to do; once there is room all of it goes on."""
    database = Database(store_url(None, tmp_path))
    await migrate(database)
    archive = Archive(database)
    entries = events_of(A, range(3000))
    await archive.write([batch(entries[:100])])
    pages = 0

    @engine_events.listens_for(database._writer.sync_engine, "begin")
    def limit(connection: object) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count={pages or 1 << 30}")  # type: ignore[attr-defined]

    pages = 30
    for _ in range(3):
        with pytest.raises(StoreUnavailable, match="disk is full; free some space"):
            await archive.write([batch(entries[100:], place(entries[99]))])
        assert alike(await archive.read(0, ZERO, 5000), entries[:100])
        assert (await archive.places())[0] == place(entries[99])
    pages = 0
    await archive.write([batch(entries[100:], place(entries[99]))])
    assert await verified(archive) == (3000, None)
    await database.aclose()


async def test_another_process_writes_the_same_file(tmp_path: Path) -> None:
    """Two processes take turns on one SQLite file: all is stored, neither is refused."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from archive_bench import events_of, batch, place\n"
        "from hub.store.archive import Archive\n"
        "from hub.store.database import Database, store_url\n"
        "async def main():\n"
        "    database = Database(store_url(None, Path(sys.argv[1])))\n"
        "    archive, entries, held = Archive(database), events_of('other', range(600)), None\n"
        "    print('ready', flush=True)\n"
        "    for at in range(0, 600, 3):\n"
        "        await archive.write([batch(entries[at : at + 3], held, partition=1)])\n"
        "        held = place(entries[at + 2])\n"
        "    await database.aclose()\n"
        "asyncio.run(main())\n"
    )
    database = Database(store_url(None, tmp_path))
    await migrate(database)
    archive = Archive(database)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    entries, held = events_of(A, range(600)), None
    for at in range(0, 600, 3):
        await archive.write([batch(entries[at : at + 3], held)])
        held = place(entries[at + 2])
    await process.communicate()
    assert process.returncode == 0
    assert await verified(archive) == (600, None)
    assert await verified(archive, "other") == (600, None)
    await database.aclose()


async def test_a_process_that_is_killed_loses_no_more_than_its_transaction(tmp_path: Path) -> None:
    """SIGKILL in the middle of writing: what it was told is stored is there, each batch whole, and the chain holds."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from archive_bench import events_of, batch, place\n"
        "from hub.store.archive import Archive\n"
        "from hub.store.database import Database, store_url\n"
        "async def main():\n"
        "    archive = Archive(Database(store_url(None, Path(sys.argv[1]))))\n"
        "    entries, held = events_of('naha', range(100_000)), None\n"
        "    for at in range(0, 100_000, 50):\n"
        "        await archive.write([batch(entries[at : at + 50], held)])\n"
        "        held = place(entries[at + 49])\n"
        "        print(at + 50, flush=True)\n"
        "asyncio.run(main())\n"
    )
    database = Database(store_url(None, tmp_path))
    await migrate(database)
    await database.aclose()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parent), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    for _ in range(20):
        last = await process.stdout.readline()
    process.kill()
    rest = (await process.communicate())[0].split()
    told = int(rest[-1]) if rest else int(last)

    archive = Archive(database)
    stored, broken = await verified(archive)
    assert broken is None
    assert stored in (told, told + 50)
    assert (await archive.places())[0] == place(event(stored - 1))
    await archive.write([batch([event(stored)], place(event(stored - 1)))])
    await database.aclose()
