"""Access to the store's database: one writer at a time on SQLite, a pool on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiosqlite
from aiosqlite.core import _STOP_RUNNING_SENTINEL
from sqlalchemy import URL, Executable, Table, event, insert, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from hub.errors import HubError, StartError

CONNECT_TIMEOUT_S: Final = 5.0
COMMAND_TIMEOUT_S: Final = 60.0
BUSY_TIMEOUT_MS: Final = 10_000
WAL_RETRY_S: Final = 0.01
CACHE_KIB: Final = 64 * 1024
PAGE_BYTES: Final = 8192
CHECKPOINT_PAGES: Final = 4000
READERS: Final = 4
LEISURELY: Final = 19
"""The niceness of who reads in no hurry."""
SQLITE_FILE: Final = "store.db"
APPLICATION: Final = "hotel-event-hub"
"""What PostgreSQL knows the hub's connections by."""


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
            self._writer = self._patient = _sqlite(url, 1, "BEGIN IMMEDIATE")
            self._reader = _sqlite(url, READERS, "BEGIN")
            self._leisurely = _sqlite(url, 1, "BEGIN", niceness=LEISURELY)
        else:
            self._writer = _postgres(url, COMMAND_TIMEOUT_S, pool_size=8, max_overflow=4, pool_pre_ping=True)
            self._patient = _postgres(url, None, pool_size=1, max_overflow=1, pool_pre_ping=True)
            # All statements of a reader see one state, as they do on SQLite.
            self._reader = self._writer.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._leisurely = self._reader

    @asynccontextmanager
    async def writing(self, *, patient: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: committed when the block ends, rolled back when it raises or is cancelled.

        A statement may take a minute, or, where `patient`, as long as it takes.

        Raises:
            StoreUnavailable: the database refused or was not reached.
        """
        engine = self._patient if patient else self._writer
        if not self.sqlite:
            async with self._translated(), engine.begin() as connection:
                yield connection
            return
        # SQLite has one writer at a time; waiting here is fair, waiting there is polling.
        async with self._turn, self._translated(), engine.begin() as connection:
            yield connection

    @asynccontextmanager
    async def reading(self, *, leisurely: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that reads; all its statements see one state.

        `leisurely`: for what takes seconds of a processor and is in no hurry. SQLite works for it one at a time, and
        only where nobody else wants the processor.

        Raises:
            StoreUnavailable: the database refused or was not reached.
        """
        async with self._translated(), (self._leisurely if leisurely else self._reader).connect() as connection:
            yield connection

    def compiled(self, statement: Executable) -> str:
        """A statement in this database's own SQL, its parameters by position: for rows by the thousand."""
        return str(statement.compile(dialect=self._writer.dialect))  # type: ignore[attr-defined]

    async def add_rows(self, connection: AsyncConnection, table: Table, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert rows by the thousand, their values in the order of the table's columns.

        PostgreSQL takes them by COPY, in the connection's transaction, which must have begun. Elsewhere the statement
        is compiled once: binding a dict a row would cost as much as storing it.
        """
        if self.sqlite:
            await connection.exec_driver_sql(self.compiled(insert(table)), list(rows))
            return
        raw = await connection.get_raw_connection()
        try:
            await raw.driver_connection.copy_records_to_table(  # type: ignore[union-attr]
                table.name, records=rows, columns=[column.name for column in table.columns]
            )
        except Exception as error:
            # The driver's own errors, which SQLAlchemy has not seen.
            raise self._unavailable(error) from error

    async def answers(self) -> None:
        """Ask it something small.

        Raises:
            StoreUnavailable: it does not answer.
        """
        async with self.reading() as connection:
            await connection.execute(text("SELECT 1"))

    async def bytes(self) -> int:
        """How much room the database takes: all of it, whoever else keeps things there."""
        query = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        if not self.sqlite:
            query = "SELECT pg_database_size(current_database())"
        async with self.reading() as connection:
            return int(await connection.scalar(text(query)) or 0)

    async def aclose(self) -> None:
        """Close every connection."""
        for engine in (self._writer, self._reader, self._patient, self._leisurely):
            await engine.dispose()

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise self._unavailable(error.orig) from error
        except (SQLAlchemyError, PoolTimeoutError, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error

    def _unavailable(self, error: object) -> StoreUnavailable:
        return StoreUnavailable(f"{self.shown}: {_reason(error)}")


def _reason(error: object) -> str:
    """What a driver says, and what to do about it where that is plain."""
    said = _CLASS.sub("", str(error).strip().partition("\n")[0]) or type(error).__name__
    return said + next((f"; {fix}" for part, fix in _FIXES if part in said), "")


_CLASS: Final = re.compile(r"^<class '[\w.]+'>: ")
_FIXES: Final = (
    ("unable to open database file", "see that its directory is there and that this user may write it"),
    ("readonly database", "see that this user may write it and its directory"),
    ("disk is full", "free some space: what is not stored waits in the log"),
    ("file is not a database", "name another file, or restore a backup"),
    ("malformed", "restore a backup with `hub store restore`"),
    ("database is locked", "another process writes for long"),
    ("password authentication failed", "correct user and password in HUB_STORE_URL"),
    ("does not exist", "create it, or correct HUB_STORE_URL"),
    ("Connect call failed", "see that PostgreSQL runs there"),
    ("No space left on device", "free some space: what is not stored waits in the log"),
)


def _postgres(url: URL, timeout_s: float | None, **pool: Any) -> AsyncEngine:
    import asyncpg

    # The driver reads the address itself, with the options that libpq knows too, like sslmode.
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)

    async def connect() -> Any:
        try:
            return await asyncpg.connect(
                address,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=timeout_s,
                server_settings={
                    "application_name": APPLICATION,
                    # A hub that was stopped in the middle holds up the others for no longer.
                    "idle_in_transaction_session_timeout": str(int(COMMAND_TIMEOUT_S * 1000)),
                },
            )
        except (asyncpg.PostgresError, asyncpg.InterfaceError, ValueError) as error:
            raise ConnectionError(_reason(error)) from error

    return create_async_engine("postgresql+asyncpg://", async_creator=connect, pool_timeout=CONNECT_TIMEOUT_S, **pool)


class _Connection(aiosqlite.Connection):
    """Ends its transaction when it is closed.

    By itself SQLite does so only when the last cursor is gone too; and one that was cancelled lives as long as the
    exception that tells of it, with the right to write in its hand.
    """

    def __init__(self, file: str, cache_kib: int, niceness: int) -> None:
        super().__init__(lambda: _opened(file, cache_kib, niceness), 64)
        # Nothing waits for it when the interpreter ends.
        self._thread.daemon = True

    def stop(self) -> asyncio.Future[Any] | None:
        if self._connection is None:
            # It could not be opened. Nobody awaits that its thread ends, and the loop may be closed by then.
            self._running = False
            self._tx.put_nowait((None, lambda: _STOP_RUNNING_SENTINEL))
            return None
        self._end_transaction()
        return super().stop()

    async def close(self) -> None:
        self._end_transaction()
        await super().close()

    def _end_transaction(self) -> None:
        if self._connection is not None:
            self._tx.put_nowait((None, self._connection.rollback))


def _opened(file: str, cache_kib: int, niceness: int) -> sqlite3.Connection:
    """A connection with the settings that the store relies on. Runs in the connection's own thread."""
    if niceness and sys.platform == "linux":
        # There a thread has a priority of its own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
    # The driver's own transactions begin late and commit early; the engine's "begin" begins them.
    connection = sqlite3.connect(file, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        _write_ahead(connection)
        for pragma in (
            "synchronous=FULL",
            "foreign_keys=ON",
            f"cache_size=-{cache_kib}",
            f"wal_autocheckpoint={CHECKPOINT_PAGES}",
            "temp_store=MEMORY",
        ):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Bring a new file to WAL, beside others that do the same at the same moment.

    Who changes the mode reads first and writes then; of two that both have read, SQLite refuses one at once instead of
    letting them wait for each other, whatever `busy_timeout` says. That one is to try again.
    """
    patience = time.monotonic() + BUSY_TIMEOUT_MS / 1000
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > patience:
                raise
            time.sleep(WAL_RETRY_S)


def _sqlite(url: URL, connections: int, begin: str, *, niceness: int = 0) -> AsyncEngine:
    file = url.database or ""
    cache_kib = CACHE_KIB if begin != "BEGIN" else CACHE_KIB // 4

    def connect() -> _Connection:
        return _Connection(file, cache_kib, niceness)

    engine = create_async_engine(
        "sqlite+aiosqlite://",
        async_creator=connect,
        poolclass=AsyncAdaptedQueuePool,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=CONNECT_TIMEOUT_S * 6,
    )

    @event.listens_for(engine.sync_engine, "begin")
    def _begun(connection: Any) -> None:
        connection.exec_driver_sql(begin)

    return engine
