"""What the local database takes and gives: changes, queue items, records, counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple

from schemas.errors import FieldError
from schemas.sync import ModelName, Operation, Outcome, Priority

Status = Literal["queued", "syncing", "synced", "failed", "conflict", "discarded"]

WAITING: Final = ("queued", "syncing")
"""The hub has yet to say what becomes of these."""


@dataclass(frozen=True, slots=True)
class LocalChange:
    """One change of an operation at the desk.

    `payload` is the event's `data`; of an UPDATE what changed, or all of it; of a DELETE it may be empty. `action`
    overrides where an operation may mean several. `amount` puts the more valuable first; by default it is read from the
    payload.
    """

    model: ModelName
    operation: Operation
    entity_id: str
    payload: Mapping[str, Any]
    priority: Priority = "medium"
    action: str | None = None
    amount: float | None = None


@dataclass(frozen=True, slots=True)
class QueueItem:
    """One change on its way to the hub (R47).

    `laid` tells whether it is laid over its record: from when it is made until its event is pulled, or until it is
    refused or discarded. `not_before` is when it may be sent again. `result` is what the hub said last; of one
    that it took and lost, the receipt stays while it says `retry`.
    """

    uuid: str
    model: ModelName
    operation: Operation
    entity_id: str
    type: str
    entity: str
    payload: dict[str, Any]
    createdAt: str
    status: Status
    retries: int
    priority: Priority
    device_id: str
    device_sequence: int
    base_version: dict[str, int]
    checksum: str
    schema_version: int
    action: str | None = None
    amount: float = 0.0
    not_before: datetime | None = None
    last_error: str | None = None
    errors: tuple[FieldError, ...] = ()
    conflict_id: str | None = None
    result: dict[str, Any] | None = None
    laid: bool = True

    def wire(self) -> dict[str, Any]:
        """The item as `POST /sync/push` takes it."""
        item = {
            "uuid": self.uuid,
            "model": self.model,
            "operation": self.operation,
            "entity_id": self.entity_id,
            "payload": self.payload,
            "createdAt": self.createdAt,
            "device_sequence": self.device_sequence,
            "base_version": self.base_version,
            "priority": self.priority,
            "checksum": self.checksum,
            "schema_version": self.schema_version,
        }
        return item if self.action is None else item | {"action": self.action}


@dataclass(frozen=True, slots=True)
class Record:
    """The state of one entity by the events of one type, as the desk shows it.

    `data` is `base`, what the hub has confirmed (None before it has), with the desk's own changes laid over it;
    `pending` tells how many those are. `revision` and `schema_version` are the base's, `version` is the entity's.
    `deleted`: the last change was a DELETE, like a cancelled order; not known of what came by a snapshot.
    """

    type: str
    entity: str
    data: dict[str, Any]
    base: dict[str, Any] | None
    revision: int
    version: dict[str, int]
    schema_version: int
    pending: int
    deleted: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """How many items are in which state. `unconfirmed` ones are synced, but their event has not been pulled yet."""

    queued: int = 0
    syncing: int = 0
    failed: int = 0
    conflict: int = 0
    unconfirmed: int = 0

    @property
    def waiting(self) -> int:
        """Items that the hub has yet to say something about: the backlog."""
        return self.queued + self.syncing

    @property
    def unsettled(self) -> int:
        """Items of which nothing is decided for good."""
        return self.waiting + self.failed + self.conflict


@dataclass(frozen=True, slots=True)
class Settled:
    """What the hub's results did to the queue.

    `outcomes` counts the results as they came. `failed` are the items that were refused or given up, `conflicts` those
    that wait for a person; `unknown` are uuids that the queue does not wait for.
    """

    outcomes: Mapping[Outcome, int] = field(default_factory=dict)
    synced: int = 0
    retrying: int = 0
    failed: tuple[QueueItem, ...] = ()
    conflicts: tuple[QueueItem, ...] = ()
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """What pulled changes did: `applied` to records, `known` before, `held` for a newer release.

    `confirmed` are own items whose event this was; `again` is how many others were queued again, because the hub's
    history is another one now; `freed` how many of the confirmed items' entities may be sent.
    """

    applied: int = 0
    known: int = 0
    held: int = 0
    confirmed: tuple[str, ...] = ()
    again: int = 0
    freed: int = 0


@dataclass(frozen=True, slots=True)
class SyncNote:
    """One sync, for the desk's history. `trigger` and `outcome` are the engine's words; `counts`: outcome → items."""

    at: datetime
    trigger: str
    outcome: str
    duration_ms: int = 0
    pushed: int = 0
    pulled: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Alert:
    """Something the desk's staff should know. `cleared_at` None: it still stands."""

    number: int
    kind: str
    message: str
    raised_at: datetime
    cleared_at: datetime | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of the operation log: who did what, or what failed. `items` are the uuids it speaks of."""

    number: int
    at: datetime
    operator: str | None
    role: str | None
    operation: str
    target: str | None
    result: Literal["success", "failed"]
    detail: str | None
    items: tuple[str, ...]


class LocalDigest(NamedTuple):
    """The tree over the confirmed states, as `schemas.sync` makes it. Empty buckets are left out."""

    root: str
    count: int  # type: ignore[assignment]  # the word of `schemas.sync`; nobody counts in it
    buckets: dict[int, str]
