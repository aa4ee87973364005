"""How entries become rows: what a row can hold, and where it hangs in its tenant's chain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import structlog

from hub.core.entry import Entry
from hub.store.chain import chained
from hub.store.places import Archived, Mark

log = structlog.get_logger("hub.store")


def storable(entry: Entry) -> bool:
    """What others wrote into the stream may look like an event, and be none that the tables could hold."""
    fits = (
        len(entry.tenant_id) <= 100
        and len(entry.type) <= 40
        and len(entry.action) <= 40
        and len(entry.entity) <= 1000
        and "\0" not in entry.entity
        and "\0" not in entry.type
        and "\0" not in entry.action
        and "\0" not in entry.tenant_id
        and -_BIG < entry.sequence < _BIG
        and -_BIG < entry.revision < _BIG
        and -_BIG < entry.timestamp_ms < _BIG
    )
    if not fits:
        log.warning("entry_not_archived", reason="no event of a hub", id=str(entry.id))
    return fits


_BIG: Final = 1 << 63


def chained_rows(
    found: Sequence[tuple[int, Entry]],
    keys: Sequence[bytes],
    heads: Mapping[str, Archived],
    there: set[tuple[int, bytes]],
) -> tuple[list[tuple[Any, ...]], dict[str, Archived]]:
    """The entries as rows, and where they leave their tenants' chains."""
    rows = []
    ends: dict[str, tuple[int, bytes, Entry]] = {}
    for (partition, entry), key in zip(found, keys, strict=True):
        tenant = entry.tenant_id
        head = heads[tenant]
        end = ends.get(tenant)
        position, previous = (head.position, head.hash) if end is None else end[:2]
        number = head.tenant_no
        same = (number, key)
        body = b"" if same in there else entry.raw
        there.add(same)
        position += 1
        hash = chained(
            previous,
            partition,
            entry.epoch,
            entry.sequence,
            entry.id,
            entry.revision,
            entry.timestamp_ms,
            entry.type,
            entry.action,
            entry.entity,
            key,
            body,
        )
        ends[tenant] = (position, hash, entry)
        rows.append(
            (
                partition,
                entry.id.ms,
                entry.id.n,
                entry.epoch,
                number,
                position,
                entry.sequence,
                entry.revision,
                entry.type,
                entry.action,
                entry.entity,
                key,
                entry.timestamp_ms,
                body,
                hash,
            )
        )
    return rows, {
        tenant: replace(heads[tenant], position=position, hash=hash, head=Mark(last.epoch, last.sequence, last.id))
        for tenant, (position, hash, last) in ends.items()
    }
