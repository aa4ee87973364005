"""One event with its place in the history, as the log and the archive give it."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

from hub.core.routing import may_see
from schemas import registry
from schemas.cursor import Cursor, StreamId

MASKED: Final = "masked"
FULL: Final = "full"

_HEAD: Final = re.compile(
    rb'\{"event_id":"[^"\\]+","schema_version":(\d{1,4}),"tenant_id":"[^"\\]+","type":"\w+","action":"\w+",'
    rb'"priority":"\w+","sync_mode":"\w+","targets":\[("[^\]\\]*")\],'
)
"""How the publisher writes an envelope, up to its targets: what most readers need to know of it stands there."""
_TAIL: Final = re.compile(rb'\},"revision":\d+\}')


@lru_cache(maxsize=1024)
def _listed(text: bytes) -> tuple[str, ...]:
    return tuple(orjson.loads(b"[%b]" % text))


class _Head(NamedTuple):
    version: int
    targets: tuple[str, ...]


NOT_AN_EVENT: Final = (AttributeError, KeyError, TypeError, ValueError)
"""What reading a damaged envelope ends with."""
_OTHER: Final = _Head(-1, ())
"""Of an envelope that the publisher did not write, or not this release's."""


class Entry:
    """An event with its place. `raw` is the envelope as stored; empty where the archive holds the event elsewhere."""

    __slots__ = (
        "_cursor",
        "_event",
        "_head",
        "_rendered",
        "action",
        "entity",
        "epoch",
        "event_id",
        "frames",
        "id",
        "raw",
        "revision",
        "sequence",
        "tenant_id",
        "timestamp_ms",
        "type",
    )

    def __init__(
        self,
        id: StreamId,
        epoch: int,
        tenant_id: str,
        sequence: int,
        revision: int,
        type: str,
        action: str,
        entity: str,
        event_id: str,
        timestamp_ms: int,
        raw: bytes,
    ) -> None:
        self.id = id
        self.epoch = epoch
        self.tenant_id = tenant_id
        self.sequence = sequence
        self.revision = revision
        self.type = type
        self.action = action
        self.entity = entity
        self.event_id = event_id
        self.timestamp_ms = timestamp_ms
        self.raw = raw
        self._cursor: str | None = None
        self._event: dict[str, Any] | None = None
        self._head: _Head | None = None
        self._rendered: dict[str, bytes] = {}
        self.frames: dict[Any, bytes] = {}
        """The entry as its readers were sent it, for the next of them."""

    @property
    def cursor(self) -> str:
        """The cursor just after this event. Made when asked for: most entries a process reads, nobody here wants."""
        if self._cursor is None:
            self._cursor = Cursor.of(self.epoch, self.tenant_id, self.sequence, self.id).encode()
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
    def head(self) -> _Head:
        """Version and targets, read off the envelope's beginning: parsing all of it costs as much as sending it."""
        found = self._head
        if found is None:
            head = _HEAD.match(self.raw)
            known = head is not None and _TAIL.fullmatch(self.raw, self.raw.rfind(b"}", 0, -1)) is not None
            found = self._head = _Head(int(head[1]), _listed(head[2])) if head is not None and known else _OTHER
        return found

    @property
    def readable(self) -> bool:
        """Whether it is an event; what others wrote into the stream may only look like one."""
        try:
            if self.head is not _OTHER:
                return True
            event = self.event
            targets = event["targets"]
            return (
                isinstance(targets, list)
                and all(isinstance(target, str) for target in targets)
                and isinstance(event["type"], str)
                and isinstance(event["schema_version"], int)
            )
        except NOT_AN_EVENT:
            return False

    @property
    def targets(self) -> tuple[str, ...]:
        """The systems the event is for."""
        if self.head is not _OTHER:
            return self.head.targets
        return tuple(self.event["targets"])

    def readable_by(self, system: str) -> bool:
        """Whether a system may see the event: a target may, and its publisher."""
        return may_see(system, self.targets) or self.published_by(system)

    def published_by(self, system: str) -> bool:
        """Whether the event is a system's own."""
        return self.source == system

    @property
    def source(self) -> str | None:
        """The system that published it; None where it does not say."""
        try:
            source = self.event["data"].get("updated_by_system")
        except NOT_AN_EVENT:
            return None
        return source if isinstance(source, str) else None

    def json(self, view: str) -> bytes:
        """The envelope as a reader with this view gets it: at the newest schema version, guests masked if need be."""
        found = self._rendered.get(view)
        if found is None and view == FULL and self.head.version >= registry.newest(self.type):
            found = self._rendered[view] = self.raw
        if found is None:
            event = shown(self.event, view)
            found = self._rendered[view] = self.raw if event is self.event else orjson.dumps(event)
        return found


def shown(event: dict[str, Any], view: str) -> dict[str, Any]:
    """An envelope as a reader with this view gets it; the same object when nothing of it has to change."""
    event = registry.current(event)
    return registry.mask(event) if view == MASKED else event
