"""The desk's local database: what is done at the desk is here, durably, before anybody is told that it is done.

One SQLite file and a journal beside it (`consumers.offline.journal`), one process and one writer. Everything here is
synchronous and belongs to one thread at a time; the caller keeps it off the event loop.

Kept in one transaction each: an operation with its records, queue items and log; the results of a push; a page of
pulled changes with the cursor. A record's state is what the hub confirmed with the desk's own pending changes laid over
it, so a refused change is undone by not laying it any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import orjson

from consumers.offline.errors import LocalUnusable, OtherDesk
from consumers.offline.items import (
    Alert,
    Applied,
    Counts,
    LocalChange,
    LocalDigest,
    LogEntry,
    QueueItem,
    Record,
    Settled,
    SyncNote,
)
from consumers.offline.local_file import LocalFile
from consumers.offline.local_schema import damage
from consumers.offline.lost import beyond, of_another, turned
from consumers.offline.new_device import move
from consumers.offline.operation_log import Notes
from consumers.offline.operations import Operations
from consumers.offline.queue import Queue, milliseconds
from consumers.offline.records import Records, Snapshot
from consumers.offline.salvage import check
from schemas.sync import Change, ItemResult, StateDigest, SyncRecord

MAX_RETRIES: Final = 3
"""How often an item that the hub would not take just then is sent again by itself (R51)."""

_DEVICE: Final = re.compile(r"[!-~]{1,100}")
SEEN_BY_WAITING: Final = "seen_by_waiting"
"""In the vault: what was pulled when the waiting items were made (`consumers.offline.seen`)."""
_SYNCED: Final = frozenset({"applied", "duplicate", "resolved"})


def _uuid() -> str:
    return str(uuid4())


class LocalDatabase:
    """One desk's database. Not to be called from two threads at once.

    Every method may raise `LocalFull` (when it writes), `LocalDamaged` or `LocalUnusable`.
    """

    device_id: str
    tenant_id: str
    system: str
    path: Path

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        tenant_id: str,
        system: str,
        now: Callable[[], datetime],
        device_id: str | None = None,
        new_uuid: Callable[[], str] = _uuid,
        max_retries: int = MAX_RETRIES,
    ) -> Self:
        """Open or make the file. `now` gives aware datetimes.

        `device_id` None: the file's own, or a new random one. The one that it had before its own will do, too.

        What was `syncing` when the last process ended is queued again.

        Raises:
            LocalDamaged: the integrity check failed.
            LocalInUse: another process has it open.
            LocalUnusable: it is another desk's, or a newer release's, or cannot be opened.
        """
        file = LocalFile.open(Path(path))
        try:
            return cls(file, tenant_id, system, device_id, now, new_uuid, max_retries)
        except BaseException:
            file.close()
            raise

    def __init__(
        self,
        file: LocalFile,
        tenant_id: str,
        system: str,
        device_id: str | None,
        now: Callable[[], datetime],
        new_uuid: Callable[[], str],
        max_retries: int,
    ) -> None:
        """Use `open`."""
        self.path = file.path
        self._file = file
        self._now = now
        self._new_uuid = new_uuid
        self._max_retries = max_retries
        self._notes = Notes(file.sql)
        with file.writing():
            self._be(self._identify(tenant_id, system, device_id))
            self._queue.release()
            self._records.upgrade()
        desk = {"device_id": self.device_id, "tenant_id": tenant_id, "system": system}
        file.begin_journal(desk | {"sequence": self._operations.sequence()}, self._queue)

    def _be(self, device_id: str) -> None:
        """Work as this device."""
        sql = self._file.sql
        self.device_id = device_id
        self._records = Records(sql, device_id)
        self._queue = Queue(sql, self._records, device_id, self._max_retries)
        self._operations = Operations(
            self._file, self._notes, self._records, self._queue, device_id, self._now, self._new_uuid
        )

    def _identify(self, tenant_id: str, system: str, device_id: str | None) -> str:
        """Which device it is. The id that it had before its last one is known as its own: `new_device_id` may have
        been cut off before whoever opens it had heard of it."""
        fits = self._device(device_id)
        own = self._notes.meta("device_id") or fits
        if device_id is None or device_id == self._notes.meta("device_id_before"):
            device_id = own
        wanted = {"tenant_id": tenant_id, "system": system, "device_id": device_id}
        for name, value in wanted.items():
            if (of_file := self._notes.meta(name)) is None:
                self._notes.put_meta(name, value)
            elif of_file != value:
                raise OtherDesk(str(self.path), name, of_file, value)
        self.tenant_id, self.system = tenant_id, system
        return own

    def _device(self, wanted: str | None) -> str:
        """This id, or a new one."""
        if wanted is not None and not _DEVICE.fullmatch(wanted):
            raise LocalUnusable(str(self.path), f"device_id {wanted!r} must be 1 to 100 visible ASCII characters")
        return wanted or f"desk-{uuid4().hex[:16]}"

    def new_device_id(self, device_id: str | None = None, *, operator: str, role: str | None = None) -> int:
        """Be another device from now on, a new one by default (`consumers.offline.new_device`). Logged.

        Everything that the hub has must have been pulled: what was sent and has no answer would be sent twice. How many
        items are sent as that device.

        Raises:
            LocalUnusable: the id cannot be one, or is its own already.
        """
        before, after = self.device_id, self._device(device_id)
        if after == before:
            raise LocalUnusable(str(self.path), f"its device_id is {before!r} already: choose another one")
        try:
            with self._file.writing():
                self._be(after)
                moved = move(self._file.sql, self._records, before, after, self._operations.sequence(), self._new_uuid)
                self._notes.put_meta("device_id", after)
                self._notes.put_meta("device_id_before", before)
                self._operations.moved(moved, before, operator, role)
        except BaseException:
            self._be(before)
            raise
        self._file.belongs_to(after)
        self._note_again(len(moved))
        return sum(one.item.status == "queued" for one in moved)

    def close(self) -> None:
        """Release the file. May be called twice."""
        self._file.close()

    # -- operations and records ---------------------------------------------------------------------------------------

    def operate(
        self, changes: Sequence[LocalChange], *, operator: str, operation: str, role: str | None = None
    ) -> list[QueueItem]:
        """Keep an operation: all of it or nothing. Returns the changes' queue items, in their order.

        An `OperationLog` item is queued behind them (R56).

        Raises:
            InvalidChange: a change does not fit its schema, or changes what was never seen here.
            LocalFull: there is no room; nothing was kept.
        """
        with self._file.writing():
            return self._operations.operate(changes, operator, operation, role)

    def record(self, type: str, entity: str) -> Record | None:
        """The state of an entity (`reservation:R1`) by one type of event, as the desk shows it."""
        with self._file.reading():
            return self._records.one(type, entity)

    def records(self, type: str, *, after: str = "", limit: int = 500) -> list[Record]:
        """The records of a type whose entity sorts behind `after`, by entity."""
        with self._file.reading():
            return self._records.page(type, after, limit)

    # -- queue --------------------------------------------------------------------------------------------------------

    def batch(self, limit: int, *, now: datetime) -> list[QueueItem]:
        """The next items to push, in order (`consumers.offline.order`), marked `syncing`.

        They stay so until `settle` or `release`; meanwhile later items of their entities are not given out.
        """
        with self._file.writing():
            return self._queue.batch(limit, now)

    def settle(self, results: Sequence[ItemResult], *, now: datetime, jitter: float = 0.0) -> Settled:
        """Take in what the hub said. Items that no result names stay `syncing`: `release` them.

        applied, duplicate, resolved: `synced`, and laid over the record until its event is pulled. rejected: `failed`,
        and out of the record (R57). conflict: `conflict`, still laid. retry: `queued` for 1 s · 2ⁿ · (1 + `jitter`)
        later, `failed` after `max_retries` of them (but still laid: nobody refused it); where it waits for a person
        (an error with path `conflict`) queued for 30 s later without counting.
        """
        with self._file.writing():
            settled = self._queue.settle(results, now, jitter)
            self._operations.failed(settled)
            self._file.out += [result.uuid for result in results if result.uuid and result.outcome in _SYNCED]
            self._operations.watch_length()
        self._file.shorten(self._operations.sequence(), self._queue)
        return settled

    def release(self) -> int:
        """The line broke: what is `syncing` is queued again, without counting a retry. How many those were."""
        with self._file.writing():
            return self._queue.release()

    def counts(self) -> Counts:
        """How many items are in which state."""
        with self._file.reading():
            return self._queue.counts()

    def item(self, uuid: str) -> QueueItem | None:
        """One item, whatever its status."""
        with self._file.reading():
            return self._queue.find(uuid)

    def pending(self, *, after: int = 0, limit: int = 500) -> list[QueueItem]:
        """Items not settled (queued, syncing, failed, conflict) with a device_sequence behind `after`."""
        with self._file.reading():
            return self._queue.pending(after, limit)

    def failed(self, *, limit: int = 500) -> list[QueueItem]:
        """The failed items, oldest first (R53)."""
        with self._file.reading():
            return self._queue.of_status("failed", limit)

    def conflicts(self, *, limit: int = 500) -> list[QueueItem]:
        """The items that wait for a person, oldest first."""
        with self._file.reading():
            return self._queue.of_status("conflict", limit)

    def resend(self, uuid: str, *, operator: str) -> QueueItem:
        """Queue a failed item again, as it is, its retries counted anew (R53). Logged.

        Raises:
            NoSuchItem, NotFailed
        """
        with self._file.writing():
            return self._operations.resend(uuid, operator)

    def resend_all(self, *, operator: str) -> int:
        """Queue all failed items again, as one operation: how many. Logged."""
        with self._file.writing():
            return self._operations.resend_all(operator)

    def discard(self, uuid: str, *, operator: str, reason: str) -> QueueItem:
        """Give a failed item up: it stays in the queue as `discarded` and is not sent or laid any more. Logged.

        Raises:
            NoSuchItem, NotFailed
        """
        with self._file.writing():
            return self._operations.discard(uuid, operator, reason)

    # -- what comes from the hub --------------------------------------------------------------------------------------

    @property
    def cursor(self) -> str | None:
        """How far changes have been pulled; None: begin with a snapshot."""
        with self._file.reading():
            return self._notes.meta("cursor")

    @property
    def snapshotting(self) -> bool:
        """Whether a snapshot was begun and not ended."""
        with self._file.reading():
            return self._notes.meta("snapshot") is not None

    def apply_changes(self, changes: Sequence[Change], cursor: str) -> Applied:
        """Apply a page of pulled changes and move the cursor, in one transaction. Applying it twice does nothing.

        A change of a newer schema version is kept aside until this release knows it (R45), and so are later ones of its
        record. A change that is an own item's event confirms that. Where the cursor is of another epoch than the one
        before, items that this one may have lost are queued again.
        """
        with self._file.writing():
            undecided = self._queue.undecided()
            applied = self._records.apply(changes)
            self._file.out += applied.confirmed
            again = self._again_where_turned(cursor)
            self._notes.put_meta("cursor", cursor)
            freed = self._queue.free(sorted(undecided.intersection(applied.confirmed)))
            if applied.confirmed:
                self._operations.watch_length()
        self._note_again(again)
        return replace(applied, again=again, freed=freed)

    def hasten(self) -> int:
        """Have what waits for a person's word sent at once: they may have spoken. How many items that were."""
        with self._file.writing():
            return self._queue.hasten()

    def begin_snapshot(self, *, afresh: bool = False) -> str | None:
        """Begin a snapshot, or go on with one that was broken off: where to ask from (`after`), None from the start.

        `afresh`: from the start in any case, as when the hub does not know that place any more.
        """
        with self._file.writing():
            going = self._snapshot()
            if going is None or afresh:
                generation = int(self._notes.meta("generation") or 0) + 1
                self._notes.put_meta("generation", str(generation))
                going = Snapshot(generation)
                self._put_snapshot(going)
        return going.next

    def _snapshot(self) -> Snapshot | None:
        text = self._notes.meta("snapshot")
        return None if text is None else Snapshot(*orjson.loads(text))

    def _put_snapshot(self, snapshot: Snapshot | None) -> None:
        self._notes.put_meta("snapshot", None if snapshot is None else orjson.dumps(list(snapshot)).decode())

    def _going_snapshot(self) -> Snapshot:
        if (going := self._snapshot()) is None:
            raise RuntimeError("no snapshot was begun")
        return going

    def add_snapshot(self, records: Iterable[SyncRecord], next: str | None, cursor: str | None = None) -> int:
        """Take in one page, in one transaction. `next`: where to go on; `cursor`: the page's (the first one counts).

        Where that is of another epoch than what was pulled before, items that this one may have lost are queued again:
        how many.
        """
        with self._file.writing():
            going, found = self._going_snapshot(), list(records)
            # First: in another epoch, others' events may have the revisions of those that are lost.
            again = self._again_where_turned(cursor) if going.cursor is None else 0
            self._records.put(found, going.generation)
            self._queue.weigh(found)
            self._records.confirm_covered([(one.type, one.entity) for one in found])
            self._put_snapshot(Snapshot(going.generation, next, going.cursor or cursor))
        self._note_again(again)
        return again

    def end_snapshot(self, cursor: str) -> int:
        """All pages are in: records that were in none are removed, and pulling goes on from `cursor`.

        Where pages were added with their cursor, that of the first one is taken instead: what changed while pages were
        read is pulled again. Own pending changes stay. How many records were removed.
        """
        with self._file.writing():
            going = self._going_snapshot()
            gone = self._records.remove_unseen(going.generation)
            self._records.confirm_covered()
            self._put_snapshot(None)
            self._notes.put_meta("cursor", going.cursor or cursor)
        return gone

    @property
    def unpulled(self) -> int:
        """How many items were answered for by events behind the cursor, which have not been pulled."""
        with self._file.reading():
            return len(self._queue.unpulled(partial(beyond, now=self._notes.meta("cursor"))))

    def queue_lost(self) -> int:
        """All that the hub has was pulled: queue the `unpulled` items again, for their events are lost. How many."""
        with self._file.writing():
            again = self._again(partial(beyond, now=self._notes.meta("cursor")))
        self._note_again(again)
        return again

    def _again_where_turned(self, cursor: str | None) -> int:
        """In the transaction that moves the cursor: once it is moved, nothing tells that the epoch was another."""
        if not turned(self._notes.meta("cursor"), cursor):
            return 0
        return self._again(partial(of_another, now=cursor))

    def _again(self, lost: Callable[[Mapping[str, Any]], bool]) -> int:
        again = self._queue.again(lost)
        if again:
            # What was pulled when they were made is known no more, and less than now: tell the hub of nothing.
            self._notes.put_vault(SEEN_BY_WAITING, b"")
            self._operations.watch_length()
        return again

    def _note_again(self, again: int) -> None:
        if again:
            # There they are done with; this begins it anew with all that waits.
            self._file.shorten(self._operations.sequence(), self._queue, always=True)

    def repair(self, records: Iterable[SyncRecord], gone: Iterable[tuple[str, str]] = ()) -> None:
        """Put the hub's state in the place of some records, and remove those the hub does not have ((type, entity)).

        For what a comparison at one cursor found to differ: here the hub's word counts, whatever the revisions say.
        """
        with self._file.writing():
            found = list(records)
            # Of the generation of the last complete snapshot: the next one finds them, or they are gone.
            self._records.put(found, int(self._notes.meta("generation") or 0))
            self._records.remove(gone)
            self._records.confirm_covered([(one.type, one.entity) for one in found])

    def held(self) -> int:
        """How many pulled changes wait for a newer release."""
        with self._file.reading():
            return self._records.held()

    # -- comparison ---------------------------------------------------------------------------------------------------

    def digest(self) -> LocalDigest:
        """The digest tree over the confirmed states."""
        with self._file.reading():
            return self._records.digest()

    def bucket(self, number: int) -> list[StateDigest]:
        """The confirmed states of one bucket, by type and entity."""
        with self._file.reading():
            return self._records.bucket(number)

    # -- bookkeeping --------------------------------------------------------------------------------------------------

    def operation_log(self, *, limit: int = 100, before: int | None = None, failed: bool = False) -> list[LogEntry]:
        """The operation log, newest first, from below entry number `before`; `failed`: only what failed (R52)."""
        with self._file.reading():
            return self._notes.entries(limit, before, failed)

    def note_sync(self, note: SyncNote) -> None:
        """Add to the sync history; the newest 1000 are kept."""
        with self._file.writing():
            self._notes.note_sync(note)

    def sync_history(self, limit: int = 100) -> list[SyncNote]:
        """The sync history, newest first."""
        with self._file.reading():
            return self._notes.history(limit)

    def alerts(self, *, standing: bool = False, limit: int = 100) -> list[Alert]:
        """The alerts, newest first; `standing`: only those not cleared."""
        with self._file.reading():
            return self._notes.alerts(standing, limit)

    def raise_alert(self, kind: str, message: str, detail: dict[str, object] | None = None) -> None:
        """Raise an alert, once while it stands."""
        with self._file.writing():
            self._notes.raise_alert(kind, message, detail or {}, self._now())

    def clear_alert(self, kind: str) -> None:
        """Clear the standing alert of a kind, if there is one."""
        with self._file.writing():
            self._notes.clear_alert(kind, self._now())

    def vault(self, name: str) -> bytes | None:
        """A small opaque value, as it was put."""
        with self._file.reading():
            return self._notes.vault(name)

    def put_vault(self, name: str, value: bytes | None) -> None:
        """Keep a small opaque value; None removes it."""
        with self._file.writing():
            self._notes.put_vault(name, value)

    def check(self) -> list[str]:
        """What is wrong with the content, in words: SQLite's check, every queue item, every confirmed state.

        It reads all of the file: a second for 50,000 records.
        """
        with self._file.reading():
            return damage(self._file.sql) or check(self._file.sql)

    def forget(self, before: datetime) -> int:
        """Remove items that the hub has and that were pulled back, made before a time, and log lines of before it.

        Everything else stays. How many items were removed.
        """
        with self._file.writing():
            gone = self._queue.forget(before)
            self._file.sql.execute("DELETE FROM operation_log WHERE at < ?", (milliseconds(before),))
        return gone
