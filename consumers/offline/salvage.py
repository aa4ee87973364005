"""What can be read of a damaged local database, in a new one.

Two sources make up for each other: the SQLite file with its `-wal`, read by SQLite as far as it goes and page by page
where it does not, and the journal beside it. Queue, operation log, vault, device identity and sequence are taken over;
records come anew from the hub.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from consumers.offline.carving import Pages, Row
from consumers.offline.errors import LocalDamaged, LocalUnusable
from consumers.offline.items import QueueItem
from consumers.offline.journal import JournalRead, journal_path, read_journal, sync_directory
from consumers.offline.local_file import LocalFile
from consumers.offline.local_schema import LOG_COLUMNS, QUEUE_COLUMNS, VAULT_COLUMNS, Lock, unwritten
from consumers.offline.operation_log import Notes
from consumers.offline.queue import Queue, item_of, row_of, sound, spoiled
from consumers.offline.records import Records, unsound

SKIPPED: Final = 1000
"""Sequence numbers that a salvage leaves out: the last ones used may have been lost with the damage."""
_OPEN: Final = ("queued", "syncing", "failed", "conflict")
_STATUSES: Final = (*_OPEN, "synced", "discarded")
_IDENTITY: Final = ("device_id", "tenant_id", "system")
_STATUS: Final = QUEUE_COLUMNS.index("status")
_LAID: Final = QUEUE_COLUMNS.index("laid")
_ITEM: Final = QUEUE_COLUMNS.index("item")
_CRC: Final = QUEUE_COLUMNS.index("crc")


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What a salvage found.

    `uncertain` items were begun, but there is no sign that they were ever kept: they are listed for a person (also in
    an alert of the new file), and not sent. `holes` says in words what could not be read.
    """

    device_id: str | None
    tenant_id: str | None
    system: str | None
    sequence: int
    items: int
    waiting: int
    log_entries: int
    uncertain: tuple[QueueItem, ...]
    holes: tuple[str, ...]


@dataclass(slots=True)
class _Found:
    """What was read so far. Of a row it is the first version that counts."""

    queue: dict[str, Row] = field(default_factory=dict)
    log: dict[int, Row] = field(default_factory=dict)
    vault: dict[str, bytes] = field(default_factory=dict)
    identity: dict[str, str] = field(default_factory=dict)
    sequence: int = 0
    uncertain: list[QueueItem] = field(default_factory=list)
    holes: list[str] = field(default_factory=list)

    def take(self, table: str, rowid: int, row: Row) -> bool:
        """Take a row; False when it is not what was written there."""
        if table == "queue":
            if row[_STATUS] not in _STATUSES or not sound(row[_ITEM], row[_CRC]):
                return False
            self.queue.setdefault(str(row[1]), (rowid, *row[1:]))
            self.sequence = max(self.sequence, rowid)
        elif table == "operation_log":
            if not isinstance(row[1], int) or not isinstance(row[4], str) or not isinstance(row[8], str):
                return False
            self.log.setdefault(rowid, (rowid, *row[1:]))
        elif table == "vault":
            if not isinstance(row[1], str) or not isinstance(row[2], bytes):
                return False
            self.vault.setdefault(row[1], row[2])
        elif isinstance(row[1], str):
            if row[0] in _IDENTITY:
                self.identity.setdefault(str(row[0]), row[1])
            elif row[0] == "sequence" and row[1].isdecimal():
                self.sequence = max(self.sequence, int(row[1]))
        return True


_TABLES: Final = {
    "queue": len(QUEUE_COLUMNS),
    "operation_log": len(LOG_COLUMNS),
    "vault": len(VAULT_COLUMNS),
    "meta": 2,
}


def check(connection: sqlite3.Connection) -> list[str]:
    """What is wrong with the content of a file that could be opened: queue items and states that are not as written."""
    return [*spoiled(connection, all=True), *unsound(connection)]


def integrity(path: str | Path) -> list[str]:
    """What is wrong with the file, in words; empty when it is sound. Nobody may have it open.

    SQLite's own integrity check, the checksum of every queue item and the digest of every confirmed state.

    Raises:
        LocalInUse: somebody has it open.
        LocalUnusable: it cannot be opened.
    """
    path = Path(path)
    if not path.exists():
        return ["the file is gone"]
    try:
        file = LocalFile.open(path)
    except LocalDamaged as error:
        return list(error.reasons)
    try:
        with file.reading():
            return check(file.sql)
    except LocalDamaged as error:
        return list(error.reasons)
    finally:
        file.close()


def salvage(path: str | Path, into: str | Path, *, now: Callable[[], datetime]) -> Salvaged:
    """Read what can be read of `path` and its journal, and make a new database `into` of it. `path` is only read.

    Items that were on their way are queued again once it is opened: the hub knows what it has.

    Raises:
        LocalInUse: somebody has one of them open.
        LocalUnusable: `into` exists: `put_in_place` it, or remove it; or the disk fails.
        LocalFull: there is no room for `into`; nothing of it stays.
    """
    path, into = Path(path), Path(into)
    if into.exists():
        raise LocalUnusable(str(into), "it exists: put it in place, or remove it")
    lock = Lock(path)
    try:
        found = _Found()
        _from_sqlite(path, into, found)
        read = read_journal(journal_path(path))
        _from_pages(path, found)
        _from_journal(read, found)
        return _write(into, found, now)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        lock.release()


def put_in_place(path: str | Path, into: str | Path) -> Path:
    """Move the damaged files of `path` aside (`<path>.damaged-1`, …) and those of `into` to `path`; where aside.

    After a crash in between `LocalDatabase.open` says that the file is damaged; then call this again.

    Raises:
        LocalInUse: somebody has one of them open.
        LocalUnusable: there is no `into`, or the disk fails.
    """
    path, into = Path(path), Path(into)
    if not into.exists():
        raise LocalUnusable(str(into), "there is no such file to put in place")
    lock = Lock(path)
    try:
        aside = next(
            one
            for number in range(1, 10**6)
            if not any(map(Path.exists, ((one := _beside(path, f".damaged-{number}")), journal_path(one))))
        )
        new, old = journal_path(into), journal_path(path)
        if new.exists():
            if old.exists():
                shutil.copyfile(old, journal_path(aside))
            # First: with this journal beside it, neither the damaged file nor none is taken for a sound one.
            new.replace(old)
        _beside(path, "-shm").unlink(missing_ok=True)
        for one, place in ((_beside(path, "-wal"), _beside(aside, "-wal")), (path, aside)):
            if one.exists():
                one.replace(place)
        into.replace(path)
        _beside(into, ".lock").unlink(missing_ok=True)
        sync_directory(path.parent)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        lock.release()
    return aside


# -- reading ----------------------------------------------------------------------------------------------------------


def _from_sqlite(path: Path, into: Path, found: _Found) -> None:
    """What SQLite reads, in a copy: it repairs what it opens."""
    copy = _beside(into, ".reading")
    try:
        for ending in ("", "-wal"):
            if _beside(path, ending).exists():
                shutil.copyfile(_beside(path, ending), _beside(copy, ending))
        with closing(sqlite3.connect(copy, isolation_level=None)) as connection:
            for table in _TABLES:
                for rowid, row in _readable(connection, table, found.holes):
                    if not found.take(table, rowid, row):
                        found.holes.append(f"{table}: row {rowid} is not what was written")
    finally:
        for ending in ("", "-wal", "-shm", "-journal"):
            with suppress(OSError):
                _beside(copy, ending).unlink(missing_ok=True)


def _readable(connection: sqlite3.Connection, table: str, holes: list[str]) -> Iterator[tuple[int, Row]]:
    """The rows up to the first that cannot be read, from either end."""
    for direction in ("", " DESC"):
        try:
            for rowid, *row in connection.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid{direction}"):
                yield rowid, tuple(row)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if (hole := f"{table}: {error}") not in holes:
                holes.append(hole)
        else:
            return


def _from_pages(path: Path, found: _Found) -> None:
    if not found.holes:
        return
    contents = [one.read_bytes() if one.exists() else b"" for one in (path, _beside(path, "-wal"))]
    pages = Pages(*contents)
    for table, columns in _TABLES.items():
        for rowid, row in pages.rows(columns):
            found.take(table, rowid, row)


def _from_journal(read: JournalRead | None, found: _Found) -> None:
    """What the journal knows: items that were lost, and what became of those whose row is an old one."""
    if read is None:
        found.holes.append("there is no journal")
        return
    if read.bad:
        found.holes.append(f"{read.bad} lines of the journal cannot be read")
    for name in _IDENTITY:
        if isinstance(told := (read.desk or {}).get(name), str):
            found.identity.setdefault(name, told)
    found.sequence = max(found.sequence, (read.desk or {}).get("sequence", 0))
    taken = {row[0] for row in found.queue.values()}
    for uuid, item in read.items.items():
        sequence = item["device_sequence"]
        found.sequence = max(found.sequence, sequence)
        found.identity.setdefault("device_id", item["device_id"])
        gone = "discarded" if uuid in read.discarded else "synced" if uuid in read.out else None
        if uuid in found.queue:
            row = list(found.queue[uuid])
            if gone is not None and row[_STATUS] in _OPEN:
                row[_STATUS], row[_LAID] = gone, False
                found.queue[uuid] = tuple(row)
            continue
        if uuid in read.void:
            continue
        row = list(row_of(item, orjson.dumps(item), "queued", laid=True))
        if gone is not None:
            row[_STATUS], row[_LAID] = gone, False
        if sequence in taken or (gone is None and uuid not in read.done):
            found.uncertain.append(item_of(row))
            continue
        taken.add(sequence)
        found.queue[uuid] = tuple(row)


# -- writing ----------------------------------------------------------------------------------------------------------


def _write(into: Path, found: _Found, now: Callable[[], datetime]) -> Salvaged:
    found.sequence += SKIPPED
    file: LocalFile | None = None
    try:
        file = LocalFile.open(into)
        notes = Notes(file.sql)
        records = Records(file.sql, found.identity.get("device_id", ""))
        queue = Queue(file.sql, records, found.identity.get("device_id", ""), 0)
        with file.writing():
            for name, value in (*found.identity.items(), ("sequence", str(found.sequence))):
                notes.put_meta(name, value)
            _fill(file.sql, "queue", list(found.queue.values()))
            _fill(file.sql, "operation_log", list(found.log.values()))
            for name, opaque in found.vault.items():
                notes.put_vault(name, opaque)
            records.lay(set(file.sql.execute("SELECT type, entity FROM queue WHERE laid = 1").fetchall()))
            _tell(notes, found, now())
            waiting = queue.counts().waiting
        desk: dict[str, Any] = dict(found.identity)
        file.begin_journal(desk | {"sequence": found.sequence}, queue)
    except BaseException:
        if file is not None:
            file.close()
        for ending in ("", "-wal", "-shm", ".journal", ".lock"):
            _beside(into, ending).unlink(missing_ok=True)
        raise
    file.close()
    return Salvaged(
        found.identity.get("device_id"),
        found.identity.get("tenant_id"),
        found.identity.get("system"),
        found.sequence,
        len(found.queue),
        waiting,
        len(found.log),
        tuple(found.uncertain),
        tuple(found.holes),
    )


def _fill(connection: sqlite3.Connection, table: str, rows: list[Row]) -> None:
    connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * _TABLES[table])})", rows)


def _tell(notes: Notes, found: _Found, now: datetime) -> None:
    notes.raise_alert(
        "salvaged",
        f"the database was damaged; {len(found.queue)} operations were read, records come anew from the hub",
        {"holes": found.holes},
        now,
    )
    if found.uncertain:
        notes.raise_alert(
            "uncertain_items",
            f"{len(found.uncertain)} operations were begun and never confirmed at the desk: do them again if needed",
            {"items": [item.wire() for item in found.uncertain]},
            now,
        )


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
