"""The local database's file: its tables, how it is opened, and which errors mean what.

What a salvage must be able to tell apart page by page (`consumers.offline.carving`) are ordinary tables with a number
of columns of their own: queue 17, operation log 9, vault 3. Instants are milliseconds of Unix time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import sqlite3
from pathlib import Path
from typing import Final

from consumers.offline.errors import LocalDamaged, LocalError, LocalFull, LocalInUse, LocalUnusable

QUEUE_COLUMNS: Final = (
    "sequence",
    "uuid",
    "type",
    "entity",
    "status",
    "laid",
    "retries",
    "not_before",
    "first",
    "priority",
    "amount",
    "item",
    "crc",
    "last_error",
    "errors",
    "conflict_id",
    "result",
)
LOG_COLUMNS: Final = ("number", "at", "operator", "role", "operation", "target", "result", "detail", "items")
VAULT_COLUMNS: Final = ("number", "name", "value")

_FIRST: Final = (
    # `item` is what was said, whole (JSON, never changed; `crc` is its CRC-32). The rest moves, or is for the order.
    """
    CREATE TABLE queue (
        sequence INTEGER PRIMARY KEY,
        uuid TEXT NOT NULL UNIQUE,
        type TEXT NOT NULL,
        entity TEXT NOT NULL,
        status TEXT NOT NULL,
        laid INTEGER NOT NULL,
        retries INTEGER NOT NULL,
        not_before INTEGER NOT NULL,
        first INTEGER NOT NULL,
        priority TEXT NOT NULL,
        amount REAL NOT NULL,
        item TEXT NOT NULL,
        crc INTEGER NOT NULL,
        last_error TEXT,
        errors TEXT,
        conflict_id TEXT,
        result TEXT
    )
    """,
    "CREATE INDEX queue_open ON queue (entity) WHERE status IN ('queued', 'syncing', 'failed', 'conflict')",
    "CREATE INDEX queue_status ON queue (status, laid)",
    "CREATE INDEX queue_laid ON queue (type, entity, sequence) WHERE laid = 1",
    """
    CREATE TABLE operation_log (
        number INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        operator TEXT,
        role TEXT,
        operation TEXT NOT NULL,
        target TEXT,
        result TEXT NOT NULL,
        detail TEXT,
        items TEXT NOT NULL
    )
    """,
    "CREATE TABLE vault (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, value BLOB NOT NULL)",
    # `base` null: the hub has confirmed nothing yet. `data` null: nothing is laid over the base. `generation`: the
    # snapshot it was last seen in.
    """
    CREATE TABLE records (
        number INTEGER PRIMARY KEY,
        type TEXT NOT NULL,
        entity TEXT NOT NULL,
        revision INTEGER NOT NULL,
        schema_version INTEGER NOT NULL,
        pending INTEGER NOT NULL,
        base_deleted INTEGER NOT NULL,
        deleted INTEGER NOT NULL,
        bucket INTEGER NOT NULL,
        hash TEXT,
        generation INTEGER NOT NULL,
        base TEXT,
        data TEXT,
        UNIQUE (type, entity)
    )
    """,
    # All that a digest is made of, without the states themselves.
    "CREATE INDEX records_digest ON records (bucket, type, entity, revision, hash) WHERE hash IS NOT NULL",
    "CREATE INDEX records_entity ON records (entity)",
    "CREATE TABLE entities (entity TEXT PRIMARY KEY, version TEXT NOT NULL, generation INTEGER NOT NULL) WITHOUT ROWID",
    # `kind`: a pulled `change` or a snapshot's `record` that this release cannot read yet; or the `version` of an
    # entity, which has not been seen while something of it is held.
    """
    CREATE TABLE held (
        number INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        type TEXT NOT NULL,
        entity TEXT NOT NULL,
        revision INTEGER NOT NULL,
        schema_version INTEGER NOT NULL,
        body TEXT NOT NULL,
        UNIQUE (entity, kind, type, revision)
    )
    """,
    """
    CREATE TABLE sync_history (
        number INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        body TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE alerts (
        number INTEGER PRIMARY KEY,
        kind TEXT NOT NULL,
        message TEXT NOT NULL,
        detail TEXT NOT NULL,
        raised_at INTEGER NOT NULL,
        cleared_at INTEGER
    )
    """,
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)
MIGRATIONS: Final = (_FIRST,)
"""From file version n to n + 1. A file of a higher version than these lead to is a newer release's."""


MAY_NOT_GROW: Final = "the file may not grow: a limit on the size of files (ulimit -f), or a full disk"


class Lock:
    """The one process that may work on a file. The kernel lets go when the process ends, however it ends."""

    def __init__(self, path: Path) -> None:
        """Take the lock.

        Raises:
            LocalInUse: another process, or another `Lock` of this one, has it.
            LocalUnusable: the lock file cannot be made.
        """
        try:
            self._file = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unwritten(path, error) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._file)
            raise LocalInUse(str(path), "another process works on this database; close it first") from error

    def release(self) -> None:
        """Let go. May be called twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def connect(path: Path) -> sqlite3.Connection:
    """A connection that has every commit on disk before it returns; the tables are there.

    Raises:
        LocalDamaged, LocalFull, LocalUnusable
    """
    try:
        # Guests' data: for the desk's own user alone.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise unwritten(path, error) from error
    try:
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(MIGRATIONS):
            raise LocalUnusable(
                str(path), f"it is of version {version}, this release knows {len(MIGRATIONS)}: install a newer release"
            )
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA cache_size=-16000")
        for number in range(version, len(MIGRATIONS)):
            connection.execute("BEGIN IMMEDIATE")
            for statement in MIGRATIONS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version={number + 1}")
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.close()
        raise unwritten(path, error) from error
    except LocalError:
        connection.close()
        raise
    return connection


def unwritten(path: Path | str, error: OSError | sqlite3.Error) -> LocalError:
    """What an error of the disk or of SQLite means to the desk."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return LocalFull(str(path), error.strerror or "disk full")
        if error.errno == errno.EFBIG:
            return LocalFull(str(path), MAY_NOT_GROW)
        return LocalUnusable(str(path), error.strerror or str(error))
    full_code = getattr(error, "sqlite_errorcode", None) or 0
    code = full_code & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return LocalFull(str(path), str(error))
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return LocalDamaged(str(path), [str(error)])
    if full_code == sqlite3.SQLITE_IOERR_SHMSIZE:
        # The index of the write-ahead log did not find room; within a commit, what it speaks of may be written.
        return LocalUnusable(str(path), f"{error}: the disk has no room")
    if (
        full_code == sqlite3.SQLITE_IOERR_WRITE
        and resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    ):
        # SQLite does not say why. Whether it was kept is not known, so it is not as a full disk.
        return LocalUnusable(str(path), f"{error}: {MAY_NOT_GROW}")
    return LocalUnusable(str(path), str(error))


def damage(connection: sqlite3.Connection) -> list[str]:
    """What SQLite's integrity check finds, in its words; empty when it finds nothing."""
    try:
        found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)")]
    except sqlite3.Error as error:
        return [str(error)]
    return [] if found == ["ok"] else found
