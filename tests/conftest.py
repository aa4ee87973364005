"""What tests of several floors share."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from hub.store.database import SQLITE_FILE, Database, store_url
from hub.store.migrate import migrate


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's SQLite file with the tables of this release and nothing in them: copied sooner than migrated anew."""
    directory = tmp_path_factory.mktemp("empty")

    async def make() -> None:
        database = Database(store_url(None, directory))
        await migrate(database)
        await database.aclose()

    asyncio.run(make())
    return directory / SQLITE_FILE
