"""`hub store`: the archive's state, its copies, and what is made from it anew."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub.cli.access import DataDir, Json, load_settings
from hub.cli.failure import CommandError
from hub.cli.output import Bar, json_document, line, note, table
from hub.settings import Settings

# The database is brought along where it is used: other commands do without it.
if TYPE_CHECKING:
    from sqlalchemy import URL

    from hub.store.database import Database

app = typer.Typer()
group = typer.Typer(help="Look after the store: every event, in SQLite or PostgreSQL.", no_args_is_help=True)
app.add_typer(group, name="store")

File = Annotated[Path, typer.Argument(help="The copy, one file", dir_okay=False)]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there")]


@asynccontextmanager
async def opened(settings: Settings, *, any_version: bool = False) -> AsyncIterator[Database]:
    """The store's database, which must be there and, unless `any_version`, of this release's version.

    Raises:
        CommandError: it is not.
        StoreUnavailable: it does not answer.
        StoreVersionError: a newer release wrote it.
    """
    from hub.store.database import Database, store_url
    from hub.store.migrate import check, newest

    url = store_url(settings.store_url, settings.data_dir)
    if not is_there(url):
        raise CommandError(
            f"there is no store at {url.database}", "It is made when the hub first starts; see HUB_DATA_DIR"
        )
    database = Database(url)
    try:
        held = await check(database)
        if held != newest() and not any_version:
            raise CommandError(
                f"the store has version {held}, and this release works with {newest()}",
                "`hub store migrate` brings it there, and so does starting the hub",
            )
        yield database
    finally:
        await database.aclose()


def is_there(url: URL) -> bool:
    """Whether looking will not make the store: SQLite makes what it opens."""
    return url.get_backend_name() != "sqlite" or Path(url.database or "").exists()


@group.command("status")
def status(json: Json = False, data_dir: DataDir = None) -> None:
    """Where the store is, its version, and what it holds of every tenant."""
    found = asyncio.run(_status(load_settings(data_dir)))
    if json:
        json_document(found)
        return
    line(f"store\t{found['url']}")
    line(f"version\t{found['version']}")
    if found["bytes"] is not None:
        line(f"size\t{found['bytes'] / (1 << 20):.1f} MiB")
    line(f"events\t{found['events']}")
    columns = ("tenant", "events", "from sequence", "to sequence", "last stored")
    rows = [
        (one["tenant_id"], one["events"], one["from_sequence"], one["to_sequence"], one["last"])
        for one in found["tenants"]
    ]
    table(columns, rows, right=columns[1:4])


async def _status(settings: Settings) -> dict[str, Any]:
    from hub.store.archive import Archive
    from hub.store.migrate import version

    async with opened(settings) as database:
        held = await version(database)
        there = await Archive(database).tenants()
        shown = [
            {
                "tenant_id": tenant,
                "events": one.position - one.base_position,
                "from_sequence": one.base.sequence + 1,
                "to_sequence": one.head.sequence,
                "last": str(one.head.id),
            }
            for tenant, one in sorted(there.items())
        ]
        return {
            "url": database.shown,
            "version": held,
            "bytes": await database.bytes(),
            "events": sum(one.position - one.base_position for one in there.values()),
            "tenants": shown,
        }


@group.command("migrate")
def migrate_command(data_dir: DataDir = None) -> None:
    """Bring the store to this release's version, as the hub does when it starts. Never backwards."""
    settings = load_settings(data_dir)

    async def run() -> str:
        from hub.store.migrate import migrate

        async with opened(settings, any_version=True) as database:
            return await migrate(database)

    line(f"the store has version {asyncio.run(run())}")


@group.command("backup")
def backup(file: File, force: Force = False, data_dir: DataDir = None) -> None:
    """Copy the store into FILE, while hubs write or not. PostgreSQL needs pg_dump on PATH."""
    settings = load_settings(data_dir)

    async def run() -> int:
        from hub.store.backup import back_up
        from hub.store.database import store_url

        with Bar("copying", None) as bar:
            return await back_up(
                store_url(settings.store_url, settings.data_dir), file, force=force, progress=_shown_by(bar)
            )

    size = asyncio.run(run())
    note(f"{file}: {size / (1 << 20):.1f} MiB; keep it away from this machine. `hub store restore` puts it back")


@group.command("restore")
def restore_command(file: File, force: Force = False, data_dir: DataDir = None) -> None:
    """Make the store what FILE says, and check every chain in it. The hub must not run. PostgreSQL needs pg_restore."""
    settings = load_settings(data_dir)

    async def run() -> Any:
        from hub.store.backup import restore
        from hub.store.database import store_url

        with Bar("restoring", None) as bar:
            return await restore(
                store_url(settings.store_url, settings.data_dir), file, force=force, progress=_shown_by(bar)
            )

    restored = asyncio.run(run())
    note(f"restored: {restored.events} events of {restored.tenants} tenants, every chain holds")


@group.command("rebuild")
def rebuild(data_dir: DataDir = None) -> None:
    """Make the latest state of every entity anew from the events. Readers see the old one until it is done."""
    settings = load_settings(data_dir)

    async def run() -> int:
        from hub.services.projector import rebuild as project
        from hub.store.store import Store

        async with opened(settings) as database:
            store = Store(database)
            with Bar("events projected", None) as bar:
                return await project(store, _shown_by(bar))

    note(f"{asyncio.run(run())} events projected")


def _shown_by(bar: Bar) -> Any:
    return lambda done, total: bar.at(done, time.monotonic(), total)
