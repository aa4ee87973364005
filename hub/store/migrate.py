"""Brings a database to this release's version, one hub at a time, and never backwards."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from hub.store import (  # the tables that the newest version has beside `tables`
    outward_tables,  # noqa: F401
    sync_tables,  # noqa: F401
)
from hub.store.database import Database, StoreVersionError

_LOCK: Final = 0x48_55_42_53
"""PostgreSQL's advisory lock of all hubs that migrate; SQLite's write transaction is one by itself."""

log = structlog.get_logger("hub.store")


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("hub.store").joinpath("migrations")))
    config.set_main_option("path_separator", "os")
    return config


def newest() -> str:
    """The version this release works with."""
    head = ScriptDirectory.from_config(_config()).get_current_head()
    assert head is not None
    return head


def versions() -> list[str]:
    """Every version there was, oldest first."""
    return [step.revision for step in reversed(list(ScriptDirectory.from_config(_config()).walk_revisions()))]


async def version(database: Database) -> str | None:
    """The version of a database; None for an empty one."""
    async with database.reading() as connection:
        return await connection.run_sync(lambda sync: MigrationContext.configure(sync).get_current_revision())


async def check(database: Database) -> str | None:
    """The version of a database that this release can work with or migrate; None for an empty one.

    Raises:
        StoreVersionError: it was written by a newer release.
    """
    held = await version(database)
    _must_know(held)
    return held


async def migrate(database: Database, to: str = "head") -> str:
    """Bring the database to a version; the version it has then.

    Raises:
        StoreVersionError: it was written by a newer release; nothing was changed.
        StoreUnavailable: it cannot be reached; nothing was changed.
    """
    async with database.writing(patient=True) as connection:
        if not database.sqlite:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        return await connection.run_sync(_upgrade, to)


def _upgrade(connection: Connection, to: str) -> str:
    config = _config()
    held = MigrationContext.configure(connection).get_current_revision()
    _must_know(held)
    known = versions()
    wanted = known[-1] if to == "head" else to
    if held is not None and known.index(held) > known.index(wanted):
        raise StoreVersionError(f"the store has version {held}; it is never taken back to {wanted}")
    if held != wanted:
        config.attributes["connection"] = connection
        command.upgrade(config, wanted)
        log.info("store_migrated", was=held, now=wanted)
    return wanted


def _must_know(held: str | None) -> None:
    known = versions()
    if held is not None and held not in known:
        raise StoreVersionError(
            f"the store has version {held}, which this release does not know (its newest is {known[-1]}); "
            "use the release that wrote it, or restore a backup"
        )
