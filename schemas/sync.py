"""What devices that work offline and the hub say to each other: items pushed, changes pulled, digests compared.

An item is one operation at a desk (R47); its `uuid` becomes the `event_id`, so it happens once however often it is
sent. Versions are vectors, actor → how many events of an entity it made (R75): an actor is a device for what came by
push, else the publishing system. Digests are a tree over a tenant's states, so that a difference is found in two
questions: the root with its buckets, then the states in the buckets that differ.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from schemas.canonical import checksum
from schemas.envelope import InstantText, Reference, UuidText
from schemas.frames import CursorText
from schemas.registry import EVENT_TYPES
from schemas.types import DEVICE_FORM, SHA256_FORM, EntityId, Model, SystemName

ModelName = Literal[
    "CheckIn",
    "CheckOut",
    "NoShow",
    "RoomStatus",
    "Reservation",
    "Customer",
    "Order",
    "Billing",
    "DailyReport",
    "AlertLog",
    "OperationLog",
]
Operation = Literal["CREATE", "UPDATE", "DELETE"]
Priority = Literal["high", "medium", "low"]
Outcome = Literal["applied", "duplicate", "resolved", "conflict", "rejected", "retry"]

MAX_ITEMS: Final = 500
MAX_SYNC_BYTES: Final = 2 * 1024 * 1024
"""What a compressed body may unfold to."""
MAX_ACTORS: Final = 200
BUCKETS: Final = 256

Vector = Annotated[dict[str, Annotated[int, Field(ge=0, le=2**53)]], Field(max_length=MAX_ACTORS)]
"""A version: actor → how many events of the entity it made."""

TYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CheckIn": "checkin_checkout",
        "CheckOut": "checkin_checkout",
        "NoShow": "checkin_checkout",
        "RoomStatus": "room",
        "Reservation": "reservation",
        "Customer": "customer",
        "Order": "order",
        "Billing": "billing",
        "DailyReport": "daily_report",
        "AlertLog": "alert",
        "OperationLog": "operation_log",
    }
)
"""The type of event that each model becomes."""
SYNCED_TYPES: Final = frozenset(TYPES.values())

_STAYS: Final = MappingProxyType({"checked_in": "CheckIn", "checked_out": "CheckOut", "no_show": "NoShow"})
_MODELS: Final = MappingProxyType({type: model for model, type in TYPES.items() if type != "checkin_checkout"})
_CREATES: Final = frozenset({"created", "placed", "submitted", "raised", "recorded", "charged", "checked_in"})
_DELETES: Final = frozenset({"cancelled", "cleared"})


def model_of(type: str, action: str) -> str | None:
    """The model of an event; None when devices do not hold it."""
    return _STAYS.get(action) if type == "checkin_checkout" else _MODELS.get(type)


def operation_of(action: str) -> Operation:
    """What an event did to its record."""
    return "CREATE" if action in _CREATES else "DELETE" if action in _DELETES else "UPDATE"


def entity_of(model: str, entity_id: str) -> str:
    """The entity that a model's record belongs to: a check-in's is its reservation."""
    kind = EVENT_TYPES[TYPES[model]]
    return f"{kind.entity_type or kind.name}:{entity_id}"


class SyncItem(BaseModel):
    """One operation at a desk. `status` and `retries` of its queue (R47) may stand there and are not read."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)

    uuid: UuidText
    model: ModelName
    operation: Operation
    entity_id: EntityId
    payload: Annotated[
        dict[str, Any],
        Field(description="The event's `data`; of an UPDATE what changed, or all of it; of a DELETE it may be empty"),
    ]
    createdAt: InstantText
    device_sequence: Annotated[int, Field(ge=1, le=2**53)]
    base_version: Annotated[Vector, Field(description="The version that the operation was made on")] = {}
    priority: Priority = "medium"
    checksum: Annotated[str, Field(pattern=SHA256_FORM, description="SHA-256 of the payload's RFC 8785 JSON")]
    schema_version: Annotated[int, Field(ge=1, le=2**31)] | None = None
    action: Annotated[
        str | None,
        Field(pattern=r"^[a-z_]{1,32}$", description="Where an operation may mean several, like `settled`"),
    ] = None
    temp_id: Reference | None = None
    correlation_id: Reference | None = None
    causation_id: Reference | None = None


class PushRequest(Model):
    """`POST /sync/push`. Items are taken one by one: a bad one does not keep the others."""

    device_id: Annotated[str, Field(min_length=1, max_length=100, pattern=DEVICE_FORM)]
    tenant_id: Annotated[str | None, Field(description="Needed where the token holds several")] = None
    batch_crc32: Annotated[int, Field(ge=0, lt=2**32)]
    items: Annotated[list[Any], Field(min_length=0, max_length=MAX_ITEMS)]
    sent_at: Annotated[
        InstantText | None, Field(description="The device's clock as it sends: its skew is told by it")
    ] = None
    backlog: Annotated[
        int | None, Field(ge=0, le=2**53, description="Items that wait at the device, these included")
    ] = None
    cursor: Annotated[CursorText | None, Field(description="How far the device had pulled when it made these")] = None


class ItemError(BaseModel):
    """One wrong field of an item, and the fix."""

    path: str
    message: str


class ItemResult(BaseModel):
    """What became of one item.

    applied: an event of its own. duplicate: it was there. resolved: others had changed the entity meanwhile, `policy`
    settled it and `winner` says for whom. conflict: a person decides (`conflict_id`). rejected: it will never fit as it
    stands. retry: not now; send it again as it is.
    """

    uuid: str | None = None
    outcome: Outcome
    cursor: CursorText | None = None
    revision: int | None = None
    version: dict[str, int] | None = None
    policy: str | None = None
    winner: str | None = None
    conflict_id: str | None = None
    errors: list[ItemError] | None = None


class PushResponse(BaseModel):
    """The results, in the order of the items, and the hub's clock."""

    results: list[ItemResult]
    server_time: InstantText
    clock_skew_ms: int | None = None
    """How far the device's clock is ahead of the hub's, as far as it can be told."""
    sync_requested: bool = False


class Change(BaseModel):
    """One event as devices pull it. `version` is the entity's after it."""

    model_config = ConfigDict(extra="ignore")

    cursor: CursorText
    sequence: int
    uuid: str
    model: ModelName
    operation: Operation
    type: str
    action: str
    entity: str
    revision: int
    version: dict[str, int]
    data: dict[str, Any]
    schema_version: int
    system: SystemName | None = None
    device_id: str | None = None
    occurred_at: str


class PullResponse(BaseModel):
    """Changes after a cursor, oldest first. `next` is good even when there are none."""

    changes: list[Change]
    next: CursorText
    more: bool
    gap: dict[str, str] | None = None
    """What cannot be pulled any more: begin again with a snapshot."""


class SyncRecord(BaseModel):
    """One state as an empty device begins with it: of one entity, by the events of one type."""

    model_config = ConfigDict(extra="ignore")

    type: str
    entity: str
    revision: int
    sequence: int
    version: dict[str, int]
    """The entity's, over the events of all its types."""
    data: dict[str, Any]
    schema_version: int


class SnapshotResponse(BaseModel):
    """A page of states. `cursor`, the same on every page, is where to pull from: changes up to a record's own revision
    are in it already."""

    records: list[SyncRecord]
    cursor: CursorText
    next: str | None = None
    more: bool


def batch_crc32(checksums: Iterable[str]) -> int:
    """CRC-32 (zlib) of the items' checksums joined by line feeds (R79)."""
    return zlib.crc32("\n".join(checksums).encode())


# -- digests ----------------------------------------------------------------------------------------------------------


class StateDigest(NamedTuple):
    """One state in the tree."""

    type: str
    entity: str
    revision: int
    hash: str


def bucket_of(type: str, entity: str) -> int:
    """Which of the buckets a state hangs in: the first byte of SHA-256 of `type entity`."""
    return sha256(f"{type} {entity}".encode()).digest()[0]


def state_hash(type: str, entity: str, revision: int, data: Mapping[str, Any]) -> str:
    """The digest of one state, SHA-256 in hex."""
    return checksum([type, entity, revision, dict(data)])


def bucket_hash(states: Iterable[StateDigest]) -> str:
    """The digest of a bucket: SHA-256 over its states' digests by type and entity; empty of an empty one."""
    lines = [f"{one.type} {one.entity} {one.hash}" for one in sorted(states)]
    return sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def root_hash(buckets: Mapping[int, str]) -> str:
    """The digest of all: SHA-256 over the buckets that are not empty, by number."""
    lines = [f"{number:02x} {hash}" for number, hash in sorted(buckets.items()) if hash]
    return sha256("\n".join(lines).encode()).hexdigest()


class BucketEntry(BaseModel):
    """One state of a bucket that was asked for."""

    type: str
    entity: str
    revision: int
    hash: str


class DigestResponse(BaseModel):
    """`GET /sync/digest`: the whole tree's root and buckets; with `bucket` the states in those."""

    cursor: CursorText
    """Where the digests are true: only a device that has pulled up to here can compare."""
    root: str
    count: int
    buckets: dict[str, str]
    """Two hex digits → digest; empty buckets are left out."""
    states: list[BucketEntry] | None = None


class ComparisonReport(Model):
    """`POST /sync/digest`: how a device's comparison ended (R80)."""

    device_id: Annotated[str, Field(min_length=1, max_length=100, pattern=DEVICE_FORM)]
    tenant_id: str | None = None
    cursor: CursorText
    root: Annotated[str, Field(pattern=SHA256_FORM)]
    count: Annotated[int, Field(ge=0)]
    equal: bool
    differing: Annotated[
        list[str], Field(max_length=1000, default_factory=list, description="`type entity` of what differed")
    ]
    repaired: Annotated[int, Field(ge=0)] = 0
