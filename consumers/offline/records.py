"""The states of entities: what the hub confirmed, and the desk's own changes laid over it.

Works inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Final, NamedTuple

import orjson

from consumers.offline.acceptance import event_type, laid_over, newest_data
from consumers.offline.items import Applied, LocalDigest, Record
from schemas.registry import EVENT_TYPES, newest, validate_data
from schemas.state import following, standing
from schemas.sync import Change, StateDigest, SyncRecord, bucket_hash, bucket_of, root_hash, state_hash

Key = tuple[str, str]
"""Type and entity."""

_PAGE: Final = 500
_FEW: Final = 50
_RECORD: Final = (
    "SELECT r.type, r.entity, r.revision, r.schema_version, r.pending, r.deleted, r.base, r.data, e.version "
    "FROM records r LEFT JOIN entities e ON e.entity = r.entity "
)
_UPSERT: Final = (
    "INSERT INTO records (type, entity, revision, schema_version, pending, base_deleted, deleted, bucket, hash, "
    "generation, base) VALUES (?1, ?2, ?3, ?4, 0, ?5, ?5, ?6, ?7, COALESCE(?8, 0), ?9) ON CONFLICT (type, entity) "
    "DO UPDATE SET revision = ?3, schema_version = ?4, pending = 0, base_deleted = ?5, deleted = ?5, hash = ?7, "
    "generation = COALESCE(?8, generation), "
    "base = ?9, data = NULL"
)


@dataclass(slots=True)
class _Base:
    """A confirmed state while a page is applied."""

    revision: int = 0
    schema_version: int = 0
    data: dict[str, Any] | None = None
    deleted: bool = False
    changed: bool = False


class Snapshot(NamedTuple):
    """A snapshot that is being read: `next` is where to go on, `cursor` its first page's."""

    generation: int
    next: str | None = None
    cursor: str | None = None


class Records:
    """The records, entities and held changes of one database."""

    def __init__(self, connection: sqlite3.Connection, device_id: str) -> None:
        self._sql = connection
        self._device_id = device_id

    # -- reading ------------------------------------------------------------------------------------------------------

    def one(self, type: str, entity: str) -> Record | None:
        """One record."""
        row = self._sql.execute(_RECORD + "WHERE r.type = ? AND r.entity = ?", (type, entity)).fetchone()
        return None if row is None else _record(row)

    def page(self, type: str, after: str, limit: int) -> list[Record]:
        """The records of a type behind `after`."""
        query = _RECORD + "WHERE r.type = ? AND r.entity > ? ORDER BY r.entity LIMIT ?"
        return [_record(row) for row in self._sql.execute(query, (type, after, limit))]

    def entity_seen(self, entity: str) -> bool:
        """Whether there is any record of an entity."""
        return self._sql.execute("SELECT 1 FROM records WHERE entity = ? LIMIT 1", (entity,)).fetchone() is not None

    def revision(self, type: str, entity: str) -> int:
        """The revision that is confirmed of a record; 0 of none."""
        row = self._sql.execute("SELECT revision FROM records WHERE type = ? AND entity = ?", (type, entity)).fetchone()
        return 0 if row is None else int(row[0])

    def version(self, entity: str) -> dict[str, int]:
        """What was seen of an entity."""
        row = self._sql.execute("SELECT version FROM entities WHERE entity = ?", (entity,)).fetchone()
        found: dict[str, int] = {} if row is None else orjson.loads(row[0])
        return found

    # -- own changes --------------------------------------------------------------------------------------------------

    def lay(self, keys: Iterable[Key]) -> None:
        """Put the records together anew: base, and over it the desk's own changes in their order."""
        for type, entity in keys:
            items = self._sql.execute(
                "SELECT item FROM queue WHERE type = ? AND entity = ? AND laid = 1 ORDER BY sequence", (type, entity)
            ).fetchall()
            row = self._sql.execute("SELECT base FROM records WHERE type = ? AND entity = ?", (type, entity)).fetchone()
            base = None if row is None or row[0] is None else orjson.loads(row[0])
            data, deleted = _laid_over_all(base, type, [orjson.loads(text) for (text,) in items])
            if data is None:
                self._sql.execute("DELETE FROM records WHERE type = ? AND entity = ?", (type, entity))
                continue
            if not items:
                self._sql.execute(
                    "UPDATE records SET pending = 0, data = NULL, deleted = base_deleted WHERE type = ? AND entity = ?",
                    (type, entity),
                )
                continue
            self._sql.execute(
                "INSERT INTO records (type, entity, revision, schema_version, pending, base_deleted, deleted, bucket, "
                "generation, data) VALUES (?1, ?2, 0, 0, ?3, 0, ?4, ?5, 0, ?6) ON CONFLICT (type, entity) "
                "DO UPDATE SET pending = ?3, deleted = ?4, data = ?6",
                (type, entity, len(items), deleted, bucket_of(type, entity), orjson.dumps(data).decode()),
            )

    def count_own(self, entity: str, count: int) -> None:
        """The hub's count of this device's events of an entity: the only ones it has seen before it pulls them."""
        version = self.version(entity)
        if count > version.get(self._device_id, 0):
            self._put_version(entity, version | {self._device_id: count})

    def uncount_own(self, entity: str) -> None:
        """One of them is gone."""
        version = self.version(entity)
        if count := version.get(self._device_id, 0):
            self._put_version(entity, version | {self._device_id: count - 1})

    def confirm_covered(self, keys: Iterable[Key] | None = None) -> None:
        """Do not lay synced items any more whose event is in the confirmed state already: it will not be pulled.

        `keys` None: all of them, after a snapshot. Where the hub told no revision, the snapshot is taken to have it:
        otherwise it is pulled next.
        """
        query = "SELECT sequence, type, entity, item, result FROM queue WHERE status = 'synced' AND laid = 1"
        wanted = None if keys is None else set(keys)
        covered: set[Key] = set()
        for sequence, type, entity, text, result in self._sql.execute(query).fetchall():
            item = orjson.loads(text)
            revision = (orjson.loads(result) if result else {}).get("revision")
            kind = event_type(item["model"], item["operation"])
            if wanted is not None and wanted.isdisjoint(((kind, entity), (type, entity))):
                continue
            if self.revision(kind, entity) < revision if revision is not None else keys is not None:
                continue
            self._sql.execute("UPDATE queue SET laid = 0 WHERE sequence = ?", (sequence,))
            covered.add((type, entity))
        self.lay(covered)

    # -- what comes from the hub --------------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> Applied:
        """Fold pulled changes into the confirmed states."""
        bases: dict[Key, _Base] = {}
        confirmed: list[str] = []
        touched: set[Key] = set()
        known = applied = held = 0
        any_held = self.held() > 0
        for change in changes:
            key = (change.type, change.entity)
            base = bases.get(key)
            if base is None:
                base = bases[key] = self._base(key)
            unreadable = change.schema_version > newest(change.type) or change.type not in EVENT_TYPES
            own = self._own(change.uuid)
            if change.revision <= base.revision:
                known += 1
            elif unreadable or (any_held and self._holds(key)):
                self._hold("change", change, change.model_dump_json())
                self.count_own(change.entity, change.version.get(self._device_id, 0))
                held += 1
                any_held = True
                if own is not None:
                    self._sql.execute("UPDATE queue SET status = 'synced' WHERE sequence = ?", (own[0],))
                continue
            else:
                _fold(base, change)
                self._see(change.entity, change.version, any_held)
                applied += 1
            if own is not None:
                sequence, own_key, settled = own
                if not settled:
                    self._sql.execute("UPDATE queue SET status = 'synced', laid = 0 WHERE sequence = ?", (sequence,))
                    confirmed.append(change.uuid)
                touched.add(own_key)
        moved = {key: base for key, base in bases.items() if base.changed}
        self._write(moved, generation=None)
        self.lay(touched | self._laid(moved))
        return Applied(applied, known, held, tuple(confirmed))

    def put(self, records: Sequence[SyncRecord], generation: int) -> None:
        """Put the hub's states in the place of the confirmed ones."""
        bases: dict[Key, _Base] = {}
        any_held = self.held() > 0
        for one in records:
            key = (one.type, one.entity)
            if any_held:
                self._sql.execute(
                    "DELETE FROM held WHERE type = ? AND entity = ? AND revision <= ? AND kind != 'version'",
                    (*key, one.revision),
                )
            if one.schema_version > newest(one.type) or one.type not in EVENT_TYPES:
                self._hold("record", one, one.model_dump_json())
                self.count_own(one.entity, one.version.get(self._device_id, 0))
                self._sql.execute("UPDATE records SET generation = ? WHERE type = ? AND entity = ?", (generation, *key))
                any_held = True
                continue
            bases[key] = _read(one)
        self._write(bases, generation)
        self._put_versions(records, generation, any_held)
        self.lay(self._laid(bases))

    def remove(self, keys: Iterable[Key]) -> int:
        """Take away confirmed states that the hub does not have; the desk's own changes stay, laid over nothing."""
        gone = list(keys)
        self._sql.executemany(
            "UPDATE records SET base = NULL, hash = NULL, revision = 0, schema_version = 0, base_deleted = 0 "
            "WHERE type = ? AND entity = ?",
            gone,
        )
        self._sql.executemany("DELETE FROM records WHERE type = ? AND entity = ? AND pending = 0", gone)
        self._sql.executemany("DELETE FROM held WHERE type = ? AND entity = ? AND kind != 'version'", gone)
        self.lay(self._laid(gone))
        return len(gone)

    def remove_unseen(self, generation: int) -> int:
        """Take away what a complete snapshot did not have."""
        query = "SELECT type, entity FROM records WHERE hash IS NOT NULL AND generation != ?"
        gone = self.remove(self._sql.execute(query, (generation,)).fetchall())
        self._sql.execute(
            "DELETE FROM entities WHERE generation != ? AND entity NOT IN (SELECT entity FROM records)", (generation,)
        )
        return gone

    def upgrade(self) -> None:
        """Bring states up to the schema versions of this release, and apply what was held for it (R45)."""
        for kind in EVENT_TYPES.values():
            query = (
                "SELECT type, entity, revision, schema_version, base, base_deleted FROM records "
                "WHERE type = ? AND schema_version < ? AND base IS NOT NULL LIMIT ?"
            )
            while rows := self._sql.execute(query, (kind.name, kind.newest, _PAGE)).fetchall():
                bases = {
                    (type, entity): _Base(
                        revision, kind.newest, newest_data(kind, version, orjson.loads(text)), bool(deleted)
                    )
                    for type, entity, revision, version, text, deleted in rows
                }
                self._write(bases, generation=None)
                self.lay(self._laid(bases))
        if self.held():
            self._release_held()

    def held(self) -> int:
        """How much waits for a newer release."""
        return int(self._sql.execute("SELECT COUNT(*) FROM held WHERE kind != 'version'").fetchone()[0])

    # -- digests ------------------------------------------------------------------------------------------------------

    def digest(self) -> LocalDigest:
        """The tree over all confirmed states."""
        count = 0
        buckets: dict[int, str] = {}
        rows = self._sql.execute(
            "SELECT bucket, type, entity, revision, hash FROM records INDEXED BY records_digest "
            "WHERE hash IS NOT NULL ORDER BY bucket"
        )
        for number, states in groupby(rows, key=lambda row: row[0]):
            digests = [StateDigest(*row[1:]) for row in states]
            count += len(digests)
            buckets[number] = bucket_hash(digests)
        return LocalDigest(root_hash(buckets), count, buckets)

    def bucket(self, number: int) -> list[StateDigest]:
        """The states of one bucket."""
        query = (
            "SELECT type, entity, revision, hash FROM records WHERE bucket = ? AND hash IS NOT NULL "
            "ORDER BY type, entity"
        )
        return [StateDigest(*row) for row in self._sql.execute(query, (number,))]

    # -- within -------------------------------------------------------------------------------------------------------

    def _base(self, key: Key) -> _Base:
        row = self._sql.execute(
            "SELECT revision, schema_version, base, base_deleted FROM records WHERE type = ? AND entity = ?", key
        ).fetchone()
        if row is None or row[2] is None:
            return _Base()
        return _Base(row[0], row[1], orjson.loads(row[2]), bool(row[3]))

    def _own(self, uuid: str) -> tuple[int, Key, bool] | None:
        """An own item: sequence, record, and whether it is confirmed."""
        row = self._sql.execute(
            "SELECT sequence, type, entity, status, laid FROM queue WHERE uuid = ?", (uuid,)
        ).fetchone()
        return None if row is None else (row[0], (row[1], row[2]), row[3] == "synced" and not row[4])

    def _write(self, bases: Mapping[Key, _Base], generation: int | None) -> None:
        rows = [
            (
                *key,
                base.revision,
                base.schema_version,
                base.deleted,
                bucket_of(*key),
                _hash(key, base.revision, base.data or {}),
                generation,
                orjson.dumps(base.data or {}).decode(),
            )
            for key, base in bases.items()
        ]
        self._sql.executemany(_UPSERT, rows)

    def _laid(self, keys: Iterable[Key]) -> set[Key]:
        """Those that something is laid over."""
        keys = set(keys)
        if len(keys) <= _FEW:
            query = "SELECT 1 FROM queue WHERE type = ? AND entity = ? AND laid = 1 LIMIT 1"
            return {key for key in keys if self._sql.execute(query, key).fetchone() is not None}
        laid = set(self._sql.execute("SELECT DISTINCT type, entity FROM queue WHERE laid = 1").fetchall())
        return laid.intersection(keys)

    def _see(self, entity: str, version: Mapping[str, int], any_held: bool) -> None:
        if any_held and self._holds_any(entity):
            self._hold_version(entity, version)
            self.count_own(entity, version.get(self._device_id, 0))
            return
        seen = self.version(entity)
        moved = {**seen, **{name: count for name, count in version.items() if count > seen.get(name, 0)}}
        if moved != seen:
            self._put_version(entity, moved)

    def _put_version(self, entity: str, version: Mapping[str, int]) -> None:
        self._sql.execute(
            "INSERT INTO entities VALUES (?1, ?2, 0) ON CONFLICT (entity) DO UPDATE SET version = ?2",
            (entity, orjson.dumps(version).decode()),
        )

    def _put_versions(self, records: Sequence[SyncRecord], generation: int, any_held: bool) -> None:
        rows = []
        for entity, ones in groupby(sorted(records, key=attrgetter("entity")), key=attrgetter("entity")):
            row = self._sql.execute("SELECT version, generation FROM entities WHERE entity = ?", (entity,)).fetchone()
            before: dict[str, int] = {} if row is None else orjson.loads(row[0])
            # Another page of the same snapshot may have told more; of itself the desk knows best.
            version = before if row is not None and row[1] == generation else _only(before, self._device_id)
            for one in ones:
                for name, count in one.version.items():
                    version[name] = max(count, version.get(name, 0))
            if any_held and self._holds_any(entity):
                self._hold_version(entity, version)
                version = before
            elif any_held:
                self._sql.execute("DELETE FROM held WHERE entity = ?", (entity,))
            rows.append((entity, orjson.dumps(version).decode(), generation))
        self._sql.executemany(
            "INSERT INTO entities VALUES (?1, ?2, ?3) ON CONFLICT (entity) DO UPDATE SET version = ?2, generation = ?3",
            rows,
        )

    # -- held ---------------------------------------------------------------------------------------------------------

    def _holds(self, key: Key) -> bool:
        query = "SELECT 1 FROM held WHERE entity = ?2 AND type = ?1 AND kind != 'version' LIMIT 1"
        return self._sql.execute(query, key).fetchone() is not None

    def _holds_any(self, entity: str) -> bool:
        query = "SELECT 1 FROM held WHERE entity = ? AND kind != 'version' LIMIT 1"
        return self._sql.execute(query, (entity,)).fetchone() is not None

    def _hold(self, kind: str, one: Change | SyncRecord, body: str) -> None:
        self._sql.execute(
            "INSERT INTO held (kind, type, entity, revision, schema_version, body) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET schema_version = excluded.schema_version, body = excluded.body",
            (kind, one.type, one.entity, one.revision, one.schema_version, body),
        )

    def _hold_version(self, entity: str, version: Mapping[str, int]) -> None:
        self._sql.execute(
            "INSERT INTO held (kind, type, entity, revision, schema_version, body) VALUES ('version', '', ?, ?, 0, ?) "
            "ON CONFLICT DO NOTHING",
            (entity, sum(version.values()), orjson.dumps(version).decode()),
        )

    def _release_held(self) -> None:
        rows = self._sql.execute(
            "SELECT number, kind, type, entity, schema_version, body FROM held WHERE kind != 'version' "
            "ORDER BY type, entity, revision, kind DESC"
        ).fetchall()
        released: set[str] = set()
        for (type, entity), ones in groupby(rows, key=lambda row: (row[2], row[3])):
            for number, kind, _, _, version, body in ones:
                if version > newest(type) or type not in EVENT_TYPES:
                    break
                self._sql.execute("DELETE FROM held WHERE number = ?", (number,))
                released.add(entity)
                self._release_one((type, entity), kind, body)
        for entity in released:
            if self._holds_any(entity):
                continue
            versions = self._sql.execute("SELECT body FROM held WHERE entity = ?", (entity,)).fetchall()
            self._sql.execute("DELETE FROM held WHERE entity = ?", (entity,))
            for (text,) in versions:
                self._see(entity, orjson.loads(text), any_held=False)

    def _release_one(self, key: Key, kind: str, body: str) -> None:
        base = self._base(key)
        if kind == "record":
            record = SyncRecord.model_validate_json(body)
            base, version = _read(record), record.version
        else:
            change = Change.model_validate_json(body)
            version = change.version
            if change.revision > base.revision:
                _fold(base, change)
            self._sql.execute("UPDATE queue SET laid = 0 WHERE uuid = ? AND status = 'synced'", (change.uuid,))
        self._write({key: base}, generation=None)
        self._hold_version(key[1], version)
        self.confirm_covered([key])
        self.lay([key])


def _record(row: Sequence[Any]) -> Record:
    type, entity, revision, schema_version, pending, deleted, base, data, version = row
    confirmed = None if base is None else orjson.loads(base)
    return Record(
        type,
        entity,
        orjson.loads(data) if data is not None else dict(confirmed or {}),
        confirmed,
        revision,
        {} if version is None else orjson.loads(version),
        schema_version,
        pending,
        bool(deleted),
    )


def _laid_over_all(
    base: dict[str, Any] | None, type: str, items: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any] | None, bool]:
    """The state with items laid over it, and whether the last one deletes it; None when there is nothing to show.

    Where nothing is confirmed, the first must be a whole state: a change of what was refused shows nothing by itself.
    """
    data, deleted = base, False
    for item in items:
        version, payload = item["schema_version"], item["payload"]
        if data is None and validate_data(EVENT_TYPES[type], version, payload):
            continue
        data = laid_over(data or {}, type, item["operation"], item.get("action"), payload, version)
        deleted = item["operation"] == "DELETE"
    return data, deleted


def _fold(base: _Base, change: Change) -> None:
    kind = EVENT_TYPES[change.type]
    data = newest_data(kind, change.schema_version, change.data)
    base.data = following(kind, standing(base.data, change.revision), change.action, data)
    base.revision = change.revision
    base.schema_version = kind.newest
    base.deleted = change.operation == "DELETE"
    base.changed = True


def _read(one: SyncRecord) -> _Base:
    kind = EVENT_TYPES[one.type]
    return _Base(one.revision, kind.newest, newest_data(kind, one.schema_version, one.data), False, True)


def _only(version: Mapping[str, int], name: str) -> dict[str, int]:
    return {name: version[name]} if name in version else {}


def _hash(key: Key, revision: int, data: Mapping[str, Any]) -> str:
    try:
        return state_hash(*key, revision, data)
    except ValueError:
        # The hub cannot take its digest either.
        return ""


def unsound(connection: sqlite3.Connection) -> Iterator[str]:
    """The confirmed states whose content is not what their digest was taken of."""
    for type, entity, revision, base, hash in connection.execute(
        "SELECT type, entity, revision, base, hash FROM records WHERE hash IS NOT NULL"
    ):
        try:
            sound = _hash((type, entity), revision, orjson.loads(base)) == hash
        except (orjson.JSONDecodeError, TypeError):
            sound = False
        if not sound:
            yield f"record {type} {entity}: its content is not what its digest was taken of"
