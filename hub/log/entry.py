"""One event as it lies in the log."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import orjson

from hub.core.routing import may_see
from schemas import registry
from schemas.cursor import Cursor, StreamId
from schemas.stream import FIELDS

MASKED: Final = "masked"

# Positions of the values in an entry's flat field list; the names are written in this order by append.lua.
_TYPE, _DATA, _TIMESTAMP, _EVENT_ID, _TENANT, _ACTION, _ENTITY, _REVISION, _SEQUENCE = range(1, 18, 2)


class Entry:
    """An event with its place in the log. `raw` is the envelope as stored."""

    __slots__ = (
        "_cursor",
        "_epoch",
        "_event",
        "_rendered",
        "action",
        "entity",
        "event_id",
        "frames",
        "id",
        "raw",
        "sequence",
        "tenant_id",
        "timestamp_ms",
        "type",
    )

    def __init__(self, id: StreamId, fields: Sequence[bytes], epoch: int) -> None:
        self.id = id
        self.type = fields[_TYPE].decode()
        self.raw = fields[_DATA]
        self.event_id = fields[_EVENT_ID].decode()
        self.tenant_id = fields[_TENANT].decode()
        self.action = fields[_ACTION].decode()
        self.entity = fields[_ENTITY].decode()
        self.sequence = int(fields[_SEQUENCE])
        self.timestamp_ms = int(fields[_TIMESTAMP])
        self._epoch = epoch
        self._cursor: str | None = None
        self._event: dict[str, Any] | None = None
        self._rendered: dict[str, bytes] = {}
        self.frames: dict[Any, bytes] = {}
        """The entry as its readers were sent it, for the next of them."""

    @property
    def cursor(self) -> str:
        """The cursor just after this event. Made when asked for: most entries a process reads, nobody here wants."""
        if self._cursor is None:
            self._cursor = Cursor.of(self._epoch, self.tenant_id, self.sequence, self.id).encode()
        return self._cursor

    @property
    def event(self) -> dict[str, Any]:
        """The envelope as a dict; do not change it, it is shared."""
        if self._event is None:
            event = orjson.loads(self.raw)
            if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
                raise ValueError("not an envelope")
            self._event = event
        return self._event

    @property
    def readable(self) -> bool:
        """Whether it is an event; what others wrote into the stream may only look like one."""
        try:
            return isinstance(self.event["targets"], list) and isinstance(self.event["schema_version"], int)
        except (KeyError, ValueError):
            return False

    @property
    def targets(self) -> tuple[str, ...]:
        """The systems the event is for."""
        return tuple(self.event["targets"])

    def readable_by(self, system: str) -> bool:
        """Whether a system may see the event: a target may, and its publisher."""
        return may_see(system, self.targets) or self.published_by(system)

    def published_by(self, system: str) -> bool:
        """Whether the event is a system's own."""
        return bool(self.event["data"].get("updated_by_system") == system)

    def json(self, view: str) -> bytes:
        """The envelope as a reader with this view gets it: at the newest schema version, guests masked if need be."""
        found = self._rendered.get(view)
        if found is None:
            event = registry.current(self.event)
            if view == MASKED:
                event = registry.mask(event)
            found = self._rendered[view] = self.raw if event is self.event else orjson.dumps(event)
        return found


def parse(reply: Sequence[Any], epoch: int) -> list[Entry]:
    """Entries from a RESP2 XRANGE reply. Entries that append.lua did not write are left out."""
    entries = []
    for id, fields in reply:
        if fields is not None and len(fields) >= 18 and fields[0] == FIELDS[0] and fields[16] == FIELDS[8]:
            with suppress(ValueError):
                entries.append(Entry(StreamId.parse(id), fields, epoch))
    return entries
