"""The queue: what the desk did and the hub has yet to take. Nothing leaves it but what the hub has.

Works inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from consumers.offline.acceptance import Accepted, event_type
from consumers.offline.errors import NoSuchItem, NotFailed
from consumers.offline.items import Counts, LocalChange, QueueItem, Settled, Status
from consumers.offline.local_schema import QUEUE_COLUMNS
from consumers.offline.lost import lacks
from consumers.offline.order import FIRST, Waiting, next_up, settles
from consumers.offline.records import Key, Records
from schemas.canonical import checksum
from schemas.errors import FieldError
from schemas.sync import TYPES, ItemResult, Outcome, SyncRecord, entity_of

OPEN: Final = "('queued', 'syncing', 'failed', 'conflict')"
"""Statuses of items that are not settled."""
BACKOFF_MS: Final = 1000
PERSON_MS: Final = 30_000
"""When an item whose entity waits for a person is sent again: in case the desk did not hear of the decision."""

_COLUMNS: Final = ", ".join(QUEUE_COLUMNS)
_INSERT: Final = f"INSERT INTO queue ({_COLUMNS}) VALUES ({', '.join('?' * len(QUEUE_COLUMNS))})"
_SELECT: Final = f"SELECT {_COLUMNS} FROM queue "
_HELD: Final = "status = 'queued' AND not_before > 0 AND json_extract(errors, '$[0][0]') = 'conflict'"
"""Items whose entity waits for a person, as the hub said."""
_SYNCED: Final = frozenset({"applied", "duplicate", "resolved"})


def milliseconds(moment: datetime) -> int:
    """An aware moment in ms of Unix time."""
    if moment.tzinfo is None:
        raise ValueError("a moment without an offset from UTC")
    return round(moment.timestamp() * 1000)


def moment(ms: int) -> datetime:
    """The moment of so many ms of Unix time, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC)


class Queue:
    """The queue of one database."""

    def __init__(self, connection: sqlite3.Connection, records: Records, device_id: str, max_retries: int) -> None:
        self._sql = connection
        self._records = records
        self._device_id = device_id
        self._max_retries = max_retries

    # -- new items ----------------------------------------------------------------------------------------------------

    def add(self, change: LocalChange, accepted: Accepted, uuid: str, sequence: int, now: datetime) -> bytes:
        """Queue a change. Its JSON, for the journal; the record is not put together anew yet."""
        base = self._records.version(accepted.entity)
        # What of its own is still on its way will be in the entity's version before this comes.
        ahead = self._sql.execute(
            "SELECT COUNT(*) FROM queue WHERE entity = ? AND status IN ('queued', 'syncing', 'conflict')",
            (accepted.entity,),
        ).fetchone()[0]
        if ahead:
            base = base | {self._device_id: base.get(self._device_id, 0) + ahead}
        item = {
            "uuid": uuid,
            "model": change.model,
            "operation": change.operation,
            "entity_id": change.entity_id,
            "payload": accepted.payload,
            "createdAt": now.isoformat(timespec="milliseconds"),
            "device_id": self._device_id,
            "device_sequence": sequence,
            "base_version": base,
            "priority": change.priority,
            "amount": accepted.amount,
            "checksum": accepted.checksum,
            "schema_version": accepted.schema_version,
            "action": change.action,
        }
        text = orjson.dumps(item)
        self._sql.execute(_INSERT, row_of(item, text, "queued", laid=True))
        return text

    # -- pushing ------------------------------------------------------------------------------------------------------

    def batch(self, limit: int, now: datetime) -> list[QueueItem]:
        """The next to push, marked `syncing`."""
        query = (
            f"SELECT sequence, entity, status, first, priority, amount, not_before FROM queue WHERE status IN {OPEN}"
        )
        waiting = [Waiting._make(row) for row in self._sql.execute(query)]
        chosen = next_up(waiting, limit, milliseconds(now))
        self._sql.executemany("UPDATE queue SET status = 'syncing' WHERE sequence = ?", ((one,) for one in chosen))
        return [self.at(sequence) for sequence in chosen]

    def release(self) -> int:
        """What is `syncing` is queued again."""
        return self._sql.execute("UPDATE queue SET status = 'queued' WHERE status = 'syncing'").rowcount

    def settle(self, results: Sequence[ItemResult], now: datetime, jitter: float) -> Settled:
        """Take in the hub's results; see `LocalDatabase.settle`."""
        outcomes: dict[Outcome, int] = {}
        failed: list[int] = []
        conflicts: list[int] = []
        unknown: list[str] = []
        synced = retrying = 0
        moved: set[Key] = set()
        for result in results:
            outcomes[result.outcome] = outcomes.get(result.outcome, 0) + 1
            item = None if result.uuid is None else self.find(result.uuid)
            if item is None or item.status == "synced":
                if result.uuid is not None and item is None:
                    unknown.append(result.uuid)
                continue
            if result.outcome in _SYNCED:
                if self._synced(item, result) == item.laid:
                    moved.add((item.type, item.entity))
                synced += 1
            elif item.status not in ("queued", "syncing"):
                continue
            elif result.outcome == "conflict":
                self._move(item, "conflict", result, laid=True)
                moved.add((item.type, item.entity))
                conflicts.append(item.device_sequence)
            elif result.outcome == "rejected":
                self._move(item, "failed", result, laid=False)
                moved.add((item.type, item.entity))
                failed.append(item.device_sequence)
            elif self._retry(item, result, milliseconds(now), jitter):
                retrying += 1
            else:
                failed.append(item.device_sequence)
        self._records.lay(moved)
        return Settled(
            outcomes,
            synced,
            retrying,
            tuple(self.at(sequence) for sequence in failed),
            tuple(self.at(sequence) for sequence in conflicts),
            tuple(unknown),
        )

    def _synced(self, item: QueueItem, result: ItemResult) -> bool:
        """Whether it need not be laid over its record any more: its event is in the confirmed state already."""
        if result.version is not None:
            self._records.count_own(item.entity, result.version.get(self._device_id, 0))
        elif result.outcome != "duplicate":
            own = self._records.version(item.entity).get(self._device_id, 0)
            self._records.count_own(item.entity, own + 1)
        pulled = self._records.revision(event_type(item.model, item.operation), item.entity)
        covered = result.revision is not None and result.revision <= pulled
        self._move(item, "synced", result, laid=not covered)
        return covered

    def _move(self, item: QueueItem, status: Status, result: ItemResult, *, laid: bool, not_before: int = 0) -> None:
        errors = [[error.path, error.message] for error in result.errors or ()]
        wrong = _reasons(result)
        # By the receipt of before it is known whether a state has the item (`weigh`).
        told = (
            item.result if result.outcome == "retry" and _taken(item.result) else result.model_dump(exclude_none=True)
        )
        if status == "failed" and not wrong:
            wrong = "the hub refused it and said no reason"
        self._sql.execute(
            "UPDATE queue SET status = ?, laid = ?, not_before = ?, last_error = ?, errors = ?, "
            "conflict_id = COALESCE(?, conflict_id), result = ? WHERE sequence = ?",
            (
                status,
                laid,
                not_before,
                None if status == "synced" else wrong or None,
                orjson.dumps(errors).decode() if errors else None,
                result.conflict_id,
                orjson.dumps(told).decode(),
                item.device_sequence,
            ),
        )

    def _retry(self, item: QueueItem, result: ItemResult, now_ms: int, jitter: float) -> bool:
        """Whether it will be sent again."""
        if any(error.path == "conflict" for error in result.errors or ()):
            self._move(item, "queued", result, laid=item.laid, not_before=now_ms + PERSON_MS)
            return True
        tries = item.retries + 1
        again = tries <= self._max_retries
        wait = round(BACKOFF_MS * 2**item.retries * (1 + jitter))
        self._move(
            item, "queued" if again else "failed", result, laid=item.laid, not_before=now_ms + wait if again else 0
        )
        self._sql.execute(
            "UPDATE queue SET retries = ? WHERE sequence = ?", (min(tries, self._max_retries), item.device_sequence)
        )
        if not again:
            # It may be at the hub all the same: nobody refused it, so it stays laid over its record.
            text = ": ".join(filter(None, [f"gave up after {tries} tries", _reasons(result)]))
            self._sql.execute("UPDATE queue SET last_error = ? WHERE sequence = ?", (text, item.device_sequence))
        return again

    def hasten(self) -> int:
        """Have items that wait for a person's word sent at once: they may have spoken. How many."""
        return self._sql.execute(f"UPDATE queue SET not_before = 0 WHERE {_HELD}").rowcount

    def undecided(self) -> set[str]:
        """The items that wait for a person."""
        return {uuid for (uuid,) in self._sql.execute("SELECT uuid FROM queue WHERE status = 'conflict'")}

    def free(self, decided: Iterable[str]) -> int:
        """A person decided on these items: those behind them wait for nobody any more, where no other one is open. How
        many may be sent now."""
        freed = 0
        for uuid in decided:
            behind = (
                "entity = (SELECT entity FROM queue WHERE uuid = ?) AND NOT EXISTS "
                "(SELECT 1 FROM queue AS other WHERE other.entity = queue.entity AND other.status = 'conflict')"
            )
            self._sql.execute(
                f"UPDATE queue SET not_before = 0, last_error = NULL, errors = NULL WHERE {_HELD} AND {behind}", (uuid,)
            )
            query = f"SELECT COUNT(*) FROM queue WHERE status = 'queued' AND not_before = 0 AND {behind}"
            freed += self._sql.execute(query, (uuid,)).fetchone()[0]
        return freed

    # -- what the hub lost --------------------------------------------------------------------------------------------

    def unpulled(self, lost: Callable[[Mapping[str, Any]], bool]) -> list[tuple[int, str]]:
        """The synced items whose event has not come and whose receipt tells that it is `lost`: sequence and entity."""
        query = "SELECT sequence, entity, result FROM queue WHERE status = 'synced' AND laid = 1 AND result IS NOT NULL"
        rows = self._sql.execute(query).fetchall()
        return [(sequence, entity) for sequence, entity, result in rows if lost(orjson.loads(result))]

    def again(self, lost: Callable[[Mapping[str, Any]], bool]) -> int:
        """Queue those once more, in their places, as if they had not been sent; how many. Their receipts stay."""
        found = self.unpulled(lost)
        for sequence, entity in found:
            self._sql.execute(
                "UPDATE queue SET status = 'queued', retries = 0, not_before = 0 WHERE sequence = ?", (sequence,)
            )
            # Until it is taken, it is ahead of what comes after it (`add`), and not counted.
            self._records.uncount_own(entity)
        return len(found)

    def weigh(self, states: Sequence[SyncRecord]) -> None:
        """Lay items that are on their way once more over these states of the hub, if and only if they lack them."""
        versions = {(one.type, one.entity): one.version for one in states}
        moved: set[Key] = set()
        query = (
            "SELECT sequence, type, entity, laid, item, result FROM queue "
            "WHERE status IN ('queued', 'syncing') AND result IS NOT NULL"
        )
        for sequence, type, entity, laid, text, result in self._sql.execute(query).fetchall():
            item, receipt = orjson.loads(text), orjson.loads(result)
            version = versions.get((event_type(item["model"], item["operation"]), entity))
            if version is None or not _taken(receipt):
                continue
            if (lacking := lacks(version, receipt, self._device_id)) != bool(laid):
                self._sql.execute("UPDATE queue SET laid = ? WHERE sequence = ?", (lacking, sequence))
                moved.add((type, entity))
        self._records.lay(moved)

    # -- by hand ------------------------------------------------------------------------------------------------------

    def resend(self, uuid: str) -> QueueItem:
        """Queue a failed item again."""
        item = self._failed(uuid)
        self._sql.execute(
            "UPDATE queue SET status = 'queued', laid = 1, retries = 0, not_before = 0 WHERE uuid = ?", (uuid,)
        )
        self._records.lay([(item.type, item.entity)])
        return self.at(item.device_sequence)

    def discard(self, uuid: str) -> QueueItem:
        """Give a failed item up."""
        item = self._failed(uuid)
        self._sql.execute("UPDATE queue SET status = 'discarded', laid = 0 WHERE uuid = ?", (uuid,))
        self._records.lay([(item.type, item.entity)])
        return self.at(item.device_sequence)

    def _failed(self, uuid: str) -> QueueItem:
        item = self.find(uuid)
        if item is None:
            raise NoSuchItem(uuid)
        if item.status != "failed":
            raise NotFailed(uuid, item.status)
        return item

    def forget(self, before: datetime) -> int:
        """Remove what the hub has and was pulled back, made before a time."""
        return self._sql.execute(
            "DELETE FROM queue WHERE status = 'synced' AND laid = 0 "
            "AND julianday(json_extract(item, '$.createdAt')) < julianday(?)",
            (before.isoformat(),),
        ).rowcount

    # -- reading ------------------------------------------------------------------------------------------------------

    def counts(self) -> Counts:
        """How many are in which state."""
        found: dict[str, int] = {}
        query = (
            f"SELECT status, COUNT(*) FROM queue INDEXED BY queue_status WHERE status IN {OPEN} GROUP BY status "
            "UNION ALL SELECT 'unconfirmed', COUNT(*) FROM queue WHERE status = 'synced' AND laid = 1"
        )
        found.update(self._sql.execute(query).fetchall())
        return Counts(**found)

    def find(self, uuid: str) -> QueueItem | None:
        """One item."""
        row = self._sql.execute(_SELECT + "WHERE uuid = ?", (uuid,)).fetchone()
        return None if row is None else item_of(row)

    def pending(self, after: int, limit: int) -> list[QueueItem]:
        """Items not settled, by sequence."""
        query = _SELECT + f"WHERE status IN {OPEN} AND sequence > ? ORDER BY sequence LIMIT ?"
        return [item_of(row) for row in self._sql.execute(query, (after, limit))]

    def of_status(self, status: Status, limit: int) -> list[QueueItem]:
        """Items of a status, by sequence."""
        query = _SELECT + "WHERE status = ? ORDER BY sequence LIMIT ?"
        return [item_of(row) for row in self._sql.execute(query, (status, limit))]

    def unsettled(self) -> list[tuple[str, bytes]]:
        """The uuid and JSON of every item that is not settled."""
        query = f"SELECT uuid, item FROM queue WHERE status IN {OPEN} ORDER BY sequence"
        return [(uuid, text.encode()) for uuid, text in self._sql.execute(query)]

    def statuses(self, uuids: Iterable[str]) -> dict[str, Status]:
        """The statuses of those that are in the queue."""
        found: dict[str, Status] = {}
        for uuid in uuids:
            row = self._sql.execute("SELECT status FROM queue WHERE uuid = ?", (uuid,)).fetchone()
            if row is not None:
                found[uuid] = row[0]
        return found

    def at(self, sequence: int) -> QueueItem:
        """The item of a sequence number that is there."""
        return item_of(self._sql.execute(_SELECT + "WHERE sequence = ?", (sequence,)).fetchone())


def _taken(receipt: Mapping[str, Any] | None) -> bool:
    return receipt is not None and receipt["outcome"] in _SYNCED


def _reasons(result: ItemResult) -> str:
    return "; ".join(": ".join(filter(None, [error.path, error.message])) for error in result.errors or ())


def row_of(item: dict[str, Any], text: bytes, status: Status, *, laid: bool) -> tuple[Any, ...]:
    """The row of an item that nothing has happened to yet. `text`: its JSON."""
    pays = item["payload"].get("payment_method") is not None
    first = item["model"] in FIRST or settles(item["model"], item["operation"], item["action"], pays)
    return (
        item["device_sequence"],
        item["uuid"],
        TYPES[item["model"]],
        entity_of(item["model"], item["entity_id"]),
        status,
        laid,
        0,
        0,
        first,
        item["priority"],
        item["amount"],
        text.decode(),
        zlib.crc32(text),
        None,
        None,
        None,
        None,
    )


def item_of(row: Sequence[Any]) -> QueueItem:
    """The item of a row."""
    told = orjson.loads(row[11])
    return QueueItem(
        uuid=row[1],
        model=told["model"],
        operation=told["operation"],
        entity_id=told["entity_id"],
        type=row[2],
        entity=row[3],
        payload=told["payload"],
        createdAt=told["createdAt"],
        status=row[4],
        retries=row[6],
        priority=row[9],
        device_id=told["device_id"],
        device_sequence=row[0],
        base_version=told["base_version"],
        checksum=told["checksum"],
        schema_version=told["schema_version"],
        action=told["action"],
        amount=row[10],
        not_before=moment(row[7]) if row[7] else None,
        last_error=row[13],
        errors=tuple(FieldError(*error) for error in orjson.loads(row[14])) if row[14] else (),
        conflict_id=row[15],
        result=orjson.loads(row[16]) if row[16] else None,
        laid=bool(row[5]),
    )


def spoiled(connection: sqlite3.Connection, *, all: bool = False) -> Iterator[str]:
    """The items whose content is not what was queued: those not settled, or `all`."""
    where = "" if all else f"WHERE status IN {OPEN}"
    for sequence, text, crc in connection.execute(f"SELECT sequence, item, crc FROM queue {where}"):
        if not sound(text, crc):
            yield f"queue item {sequence}: its content is not what was queued"


def sound(text: Any, crc: Any) -> bool:
    """Whether an item's JSON is what was queued: its CRC-32, and its payload's checksum."""
    try:
        if zlib.crc32(text.encode()) != crc:
            return False
        item = orjson.loads(text)
        return bool(checksum(item["payload"]) == item["checksum"])
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
