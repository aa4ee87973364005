"""The local database's file and the journal beside it, as one: what is in a transaction is in both, or in neither."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from consumers.offline.errors import LocalDamaged, LocalFull, LocalUnusable
from consumers.offline.journal import Journal, JournalRead, journal_path, read_journal
from consumers.offline.local_schema import Lock, connect, damage, unwritten
from consumers.offline.queue import Queue, spoiled


class LocalFile:
    """An open file. Not to be used from two threads at once."""

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: Lock, read: JournalRead | None) -> None:
        """Use `open`."""
        self.path = path
        self.sql = connection
        self.fresh: list[tuple[str, bytes]] = []
        """New items of the open transaction, as uuid and JSON."""
        self.out: list[str] = []
        """Items that the open transaction settles, as far as the hub has them."""
        self.discarded: list[str] = []
        """Items that the open transaction gives up."""
        self._lock = lock
        self._read = read
        self._journal: Journal | None = None
        self._broken: str | None = None
        """Why nothing can be done any more before the file is opened again."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or make the file, and see whether it is sound. `begin_journal` comes next.

        Raises:
            LocalDamaged, LocalFull, LocalInUse, LocalUnusable
        """
        lock = Lock(path)
        connection: sqlite3.Connection | None = None
        try:
            try:
                read = read_journal(journal_path(path))
            except OSError as error:
                raise unwritten(journal_path(path), error) from error
            if read is not None and read.lines and not _there(path):
                raise LocalDamaged(str(path), ["the file is gone or empty, but its journal is there"])
            connection = connect(path)
            try:
                found = damage(connection) or list(spoiled(connection))
            except sqlite3.Error as error:
                raise unwritten(path, error) from error
            if found:
                raise LocalDamaged(str(path), found)
        except BaseException:
            if connection is not None:
                connection.close()
            lock.release()
            raise
        return cls(path, connection, lock, read)

    def begin_journal(self, desk: dict[str, Any], queue: Queue) -> None:
        """Compare the journal with the queue, write what a crash kept from being written, and go on with it.

        `desk` says whose it is, and the last sequence number.

        Raises:
            LocalDamaged: the journal has items that were kept, and the queue does not.
            LocalFull, LocalUnusable
        """
        read, self._read = self._read, None
        if read is not None:
            lost = read.kept - queue.statuses(read.kept).keys()
            if lost:
                raise LocalDamaged(str(self.path), [f"{len(lost)} items are in its journal, but not in it"])
        path = journal_path(self.path)
        try:
            journal = self._journal = Journal(path, desk, 0 if read is None else read.lines)
        except OSError as error:
            raise unwritten(path, error) from error
        known = JournalRead() if read is None else read
        here = queue.statuses(known.items)
        journal.mark("done", [uuid for uuid in here if uuid not in known.done])
        synced = {uuid for uuid, status in here.items() if status == "synced"}
        discarded = {uuid for uuid, status in here.items() if status == "discarded"}
        journal.mark("out", sorted(synced - known.out))
        journal.mark("discarded", sorted(discarded - known.discarded))
        journal.mark("void", sorted(known.items.keys() - here.keys() - known.done - known.out - known.void))
        # Those that are out there and wait here are sent once more.
        lacking = known.bad > 0 or (known.desk or desk).get("device_id") != desk.get("device_id")
        lacking = lacking or any(uuid not in known.items or uuid in known.out for uuid, _ in queue.unsettled())
        self.shorten(desk["sequence"], queue, always=lacking)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read; errors of SQLite become the desk's."""
        self._check()
        try:
            yield
        except sqlite3.Error as error:
            raise unwritten(self.path, error) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction. Its new items are in the journal, on disk, before it commits.

        Raises:
            LocalFull: no room; nothing was kept.
            LocalUnusable: the disk failed; where that was during the commit, nothing more is done with this file.
        """
        self._check()
        self.fresh, self.out, self.discarded = [], [], []
        place: int | None = None
        committing = False
        try:
            self.sql.execute("BEGIN IMMEDIATE")
            yield
            if self.fresh and self._journal is not None:
                place = self._journal.begin([text for _, text in self.fresh])
            committing = True
            self.sql.execute("COMMIT")
        except BaseException as error:
            told = unwritten(self.path, error) if isinstance(error, sqlite3.Error | OSError) else None
            # Not in a transaction any more: SQLite has rolled back by itself, or the commit is done after all.
            undone = self.sql.in_transaction or isinstance(told, LocalFull)
            try:
                self.sql.rollback()
            except sqlite3.Error as second:
                self._broken = f"a transaction could not be taken back: {second}"
                undone = False
            if committing and not undone:
                self._broken = self._broken or "whether the last operation was kept is known once it is opened again"
            elif place is not None and self._journal is not None:
                self._journal.undo(place)
            if told is not None:
                raise told from error
            raise
        if self._journal is not None:
            self._journal.mark("done", [uuid for uuid, _ in self.fresh])
            self._journal.mark("out", self.out)
            self._journal.mark("discarded", self.discarded)

    def belongs_to(self, device_id: str) -> None:
        """The journal that is written next says so."""
        if self._journal is not None:
            self._journal.desk["device_id"] = device_id

    def shorten(self, sequence: int, queue: Queue, *, always: bool = False) -> None:
        """Write the journal anew when most of it is of no use any more, or `always` when it lacks something."""
        if self._journal is None:
            return
        with self.reading():
            if not always and not self._journal.outgrown(queue.counts().unsettled):
                return
            unsettled = queue.unsettled()
        # Where there is no room for it, it goes on growing until there is.
        with suppress(OSError):
            self._journal.rewrite(sequence, unsettled)

    def close(self) -> None:
        """Release the file. May be called twice."""
        if self._journal is not None:
            self._journal.close()
        self.sql.close()
        self._lock.release()

    def _check(self) -> None:
        if self._broken is not None:
            raise LocalUnusable(str(self.path), f"{self._broken}; close it and open it again")


def _there(path: Path) -> bool:
    """Whether there is anything in the file: the tables are in it from the first moment on."""
    return path.exists() and path.stat().st_size > 0
