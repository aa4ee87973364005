"""What the archive's readers and writers say to each other: places, marks, batches, and what is kept of a tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from hub.core.entry import Entry
from hub.store.tables import tenants
from schemas.cursor import ZERO, StreamId

GENESIS: Final = bytes(32)
"""What a tenant's chain begins with."""


class Fenced(Exception):
    """Another archiver was faster: nothing was stored, and the places must be read again."""


class Place(NamedTuple):
    """How far a partition's stream is archived."""

    epoch: int
    id: StreamId


class Mark(NamedTuple):
    """A place in a tenant's history; sequence 0 is before its first event."""

    epoch: int
    sequence: int
    id: StreamId


START: Final = Mark(0, 0, ZERO)


@dataclass(frozen=True, slots=True)
class Batch:
    """What follows in one partition: its entries, and how far the stream was read for them."""

    partition: int
    place: Place
    entries: Sequence[Entry]
    epoch: int
    reached: StreamId


@dataclass(frozen=True, slots=True)
class Archived:
    """One tenant's archive: its number, its chain's head, and the two ends of its history."""

    tenant_no: int
    partition: int
    position: int
    hash: bytes
    head: Mark
    base_position: int
    base_hash: bytes
    base: Mark
    """The last event that the retention removed."""


def event_key(event_id: str) -> bytes:
    """An event's id as it is stored: the UUID's bytes; what is no UUID, by its hash."""
    try:
        key = bytes.fromhex(event_id.replace("-", ""))
    except ValueError:
        key = b""
    return key if len(key) == 16 else hashlib.sha256(event_id.encode()).digest()[:16]


def event_id_of(key: bytes) -> str:
    """The UUID of an `event_key`."""
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


async def archived(connection: AsyncConnection, names: Iterable[str] | None = None) -> dict[str, Archived]:
    """The tenants there are, or those of `names` that are."""
    query = select(tenants)
    if names is not None:
        query = query.where(tenants.c.tenant_id.in_(list(names)))
    return {
        row.tenant_id: Archived(
            row.tenant_no,
            row.partition,
            row.position,
            bytes(row.hash),
            Mark(row.epoch, row.sequence, StreamId(row.id_ms, row.id_n)),
            row.base_position,
            bytes(row.base_hash),
            Mark(row.base_epoch, row.base_sequence, StreamId(row.base_ms, row.base_n)),
        )
        for row in await connection.execute(query)
    }
