"""The store's contract is held against both databases."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from archive_bench import Open, Prepared, emptied, postgres_server

from hub.store.archive import Archive
from hub.store.database import SQLITE_FILE, Database


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL for all tests here; each empties it."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def prepared(postgres_url: str) -> Prepared:
    """The same, for tests that want the tables."""
    return Prepared(postgres_url)


@pytest.fixture(params=["sqlite", "postgres"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens databases on one place, which is as the test before left it."""
    url: str | None = request.getfixturevalue("postgres_url") if request.param == "postgres" else None
    open = Open(url, tmp_path)
    yield open
    await open.close()


@pytest.fixture
async def open_bare(place: Open) -> Open:
    """Opens databases on one place, which is empty at first: each as another process would."""
    if place.url is not None:
        await emptied(place.url)
    return place


@pytest.fixture
async def open_database(request: pytest.FixtureRequest, place: Open, empty_store: Path, tmp_path: Path) -> Open:
    """The same, with the tables."""
    if place.url is None:
        shutil.copyfile(empty_store, tmp_path / SQLITE_FILE)
    else:
        await request.getfixturevalue("prepared").prepare()
    return place


@pytest.fixture
async def database(open_database: Open) -> Database:
    """A database with the tables."""
    return await open_database()


@pytest.fixture
def archive(database: Database) -> Archive:
    """An archive with nothing in it."""
    return Archive(database)
