"""The store's contract is held against both databases."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from archive_bench import Open, emptied, postgres_server

from hub.store.archive import Archive
from hub.store.database import Database
from hub.store.migrate import migrate


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL for all tests here; each empties it."""
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
async def open_bare(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens databases on one place, which is empty at first: each as another process would."""
    url = await emptied(request.getfixturevalue("postgres_url")) if request.param == "postgres" else None
    open = Open(url, tmp_path)
    yield open
    await open.close()


@pytest.fixture
async def open_database(open_bare: Open) -> Open:
    """The same, with the tables."""
    await migrate(await open_bare())
    return open_bare


@pytest.fixture
async def database(open_database: Open) -> Database:
    """A database with the tables."""
    return await open_database()


@pytest.fixture
def archive(database: Database) -> Archive:
    """An archive with nothing in it."""
    return Archive(database)
