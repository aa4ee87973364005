"""What a Redis stream holds, as entries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from hub.core.entry import Entry
from schemas.cursor import StreamId
from schemas.stream import FIELDS

# Positions of the values in an entry's flat field list; the names are written in this order by append.lua.
_TYPE, _DATA, _TIMESTAMP, _EVENT_ID, _TENANT, _ACTION, _ENTITY, _REVISION, _SEQUENCE = range(1, 18, 2)
_FIRST: Final = FIELDS[0]
_LAST: Final = FIELDS[8]


def parse(reply: Sequence[Any], epoch: int) -> list[Entry]:
    """Entries from a RESP2 XRANGE reply. Entries that append.lua did not write are left out."""
    entries = []
    for id, fields in reply:
        if fields is not None and len(fields) >= 18 and fields[0] == _FIRST and fields[16] == _LAST:
            with suppress(ValueError):
                entries.append(
                    Entry(
                        StreamId.parse(id),
                        epoch,
                        fields[_TENANT].decode(),
                        int(fields[_SEQUENCE]),
                        int(fields[_REVISION]),
                        fields[_TYPE].decode(),
                        fields[_ACTION].decode(),
                        fields[_ENTITY].decode(),
                        fields[_EVENT_ID].decode(),
                        int(fields[_TIMESTAMP]),
                        fields[_DATA],
                    )
                )
    return entries
