"""Access to the store's database: one writer at a time on SQLite, a pool on PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import URL, Executable, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from hub.errors import HubError, StartError

CONNECT_TIMEOUT_S: Final = 5.0
COMMAND_TIMEOUT_S: Final = 60.0
BUSY_TIMEOUT_MS: Final = 10_000
CACHE_KIB: Final = 64 * 1024
PAGE_BYTES: Final = 8192
CHECKPOINT_PAGES: Final = 4000
READERS: Final = 4
SQLITE_FILE: Final = "store.db"


class StoreUnavailable(HubError):
    """The store did not do it now: not reached, full, too slow. Nothing of the transaction was kept, unless the
    connection broke while it was committed; its writers can tell by their position."""


class StoreVersionError(HubError):
    """The store was written by a newer release."""


def store_url(configured: str | None, data_dir: Path) -> URL:
    """The database's URL with its driver: HUB_STORE_URL, or SQLite in the data directory.

    Raises:
        StartError: the URL is not one of a database that the hub knows.
    """
    if configured is None:
        return URL.create("sqlite+aiosqlite", database=str(data_dir / SQLITE_FILE))
    fix = "Write it like postgresql://user:password@host/database or sqlite:////path/to/store.db"
    try:
        url = make_url(configured)
    except (ArgumentError, ValueError) as error:
        raise StartError("HUB_STORE_URL cannot be read", fix) from error
    kind = url.drivername.partition("+")[0]
    if kind in ("postgresql", "postgres"):
        try:
            import asyncpg  # noqa: F401
        except ImportError as error:
            raise StartError("HUB_STORE_URL needs asyncpg", "Install hotel-event-hub[hub,postgres]") from error
        return url.set(drivername="postgresql+asyncpg")
    if kind == "sqlite" and url.database:
        return url.set(drivername="sqlite+aiosqlite")
    raise StartError(f"HUB_STORE_URL has the unknown scheme {kind!r}", fix)


class Database:
    """One database. The composition root owns it and awaits `aclose`."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self.sqlite = url.get_backend_name() == "sqlite"
        self.shown = url.set(query={}).render_as_string(hide_password=True).replace("+aiosqlite", "")
        self.shown = self.shown.replace("+asyncpg", "")
        self._turn = asyncio.Lock()
        if self.sqlite:
            self._writer = _sqlite(url, 1, "BEGIN IMMEDIATE")
            self._reader = _sqlite(url, READERS, "BEGIN")
        else:
            self._writer = self._reader = create_async_engine(
                url,
                pool_size=8,
                max_overflow=4,
                pool_timeout=CONNECT_TIMEOUT_S,
                pool_pre_ping=True,
                connect_args={"timeout": CONNECT_TIMEOUT_S, "command_timeout": COMMAND_TIMEOUT_S},
            )

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: committed when the block ends, rolled back when it raises.

        Raises:
            StoreUnavailable: the database refused or was not reached.
        """
        if not self.sqlite:
            async with _translated(), self._writer.begin() as connection:
                yield connection
            return
        # SQLite has one writer at a time; waiting here is fair, waiting there is polling.
        async with self._turn, _translated(), self._writer.begin() as connection:
            yield connection

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that reads; on SQLite, all its statements see one state.

        Raises:
            StoreUnavailable: the database refused or was not reached.
        """
        async with _translated(), self._reader.connect() as connection:
            yield connection

    def compiled(self, statement: Executable) -> str:
        """A statement in this database's own SQL, its parameters by position: for rows by the thousand."""
        return str(statement.compile(dialect=self._writer.dialect))  # type: ignore[attr-defined]

    async def aclose(self) -> None:
        """Close every connection."""
        await self._writer.dispose()
        if self._reader is not self._writer:
            await self._reader.dispose()


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except DBAPIError as error:
        raise StoreUnavailable(_first_line(error.orig)) from error
    except (SQLAlchemyError, PoolTimeoutError, OSError, TimeoutError) as error:
        raise StoreUnavailable(_first_line(error)) from error


def _first_line(error: Any) -> str:
    text = str(error).strip().partition("\n")[0]
    return text.removeprefix("<class 'asyncpg.exceptions.").strip() or type(error).__name__


def _sqlite(url: URL, connections: int, begin: str) -> AsyncEngine:
    engine = create_async_engine(
        url, pool_size=connections, max_overflow=0, pool_timeout=CONNECT_TIMEOUT_S * 6, connect_args={"timeout": 0}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _connected(connection: Any, _: Any) -> None:
        # The driver's own transactions begin late and commit early; the engine's "begin" below begins them.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            f"page_size={PAGE_BYTES}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"cache_size=-{CACHE_KIB if begin != 'BEGIN' else CACHE_KIB // 4}",
            f"wal_autocheckpoint={CHECKPOINT_PAGES}",
            "temp_store=MEMORY",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
