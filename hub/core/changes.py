"""Events as changes: what an audience that asked for `changes_only` is sent (R40).

An event's data is held against that of the entity's previous revision, which has to be of the same type and still in
memory. Everything else goes out whole, and so does what a merge patch cannot say or does not make smaller.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

import orjson

from hub.core import wire
from hub.core.entry import Entry, shown
from hub.core.routing import Audience, Codec, View, may_see
from schemas import merge_patch
from schemas.registry import EVENT_TYPES

MEMORY_BYTES: Final = 32 * 1024 * 1024
_OVERHEAD: Final = 512
"""What one remembered event takes beside its text."""

Key = tuple[str, str, str]


class _Earlier:
    """As much of an event as the next one of its entity is held against."""

    __slots__ = ("action", "raw", "revision", "targets")

    def __init__(self, entry: Entry) -> None:
        self.revision = entry.revision
        self.action = entry.action
        self.targets = entry.targets
        self.raw = entry.raw


class Changes:
    """Remembers the last event of each entity and type that changes were sent of.

    A revision is only ever held against the one right before it: a memory with holes sends more, never something wrong.
    """

    def __init__(self, encode: Callable[[Entry, View, Codec], bytes], memory_bytes: int = MEMORY_BYTES) -> None:
        self._encode = encode
        self._memory_bytes = memory_bytes
        self._earlier: OrderedDict[Key, _Earlier] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._earlier)

    def frame(self, entry: Entry, audience: Audience) -> bytes:
        """The `event` frame of an entry for one audience: a patch with `base_revision`, or the whole event."""
        view, codec = audience.view, audience.codec
        base = self._earlier.get((entry.tenant_id, entry.type, entry.entity))
        if base is None or base.revision != entry.revision - 1 or not _was_sent(base, entry, audience):
            return self._encode(entry, view, codec)
        kind = (view, codec, "changes")
        frame = entry.frames.get(kind)
        if frame is None:
            event = _patched(entry, base, view)
            if event is None:
                frame = self._encode(entry, view, codec)
            else:
                frame = wire.framed(wire.event_message(entry.cursor, entry.sequence, event, base.revision), codec)
            entry.frames[kind] = frame
        return frame

    def keep(self, entry: Entry) -> None:
        """Remember an event for the next one of its entity."""
        key = (entry.tenant_id, entry.type, entry.entity)
        self._forget(key)
        self._earlier[key] = _Earlier(entry)
        self._bytes += len(entry.raw) + _OVERHEAD
        while self._bytes > self._memory_bytes:
            self._forget(next(iter(self._earlier)))

    def clear(self) -> None:
        """Forget everything: revisions to come may not continue those that were seen."""
        self._earlier.clear()
        self._bytes = 0

    def _forget(self, key: Key) -> None:
        gone = self._earlier.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.raw) + _OVERHEAD


def _was_sent(base: _Earlier, entry: Entry, audience: Audience) -> bool:
    """Whether the audience is one that the earlier event was for, too."""
    return may_see(audience.system, base.targets) and any(
        one.wants(entry.tenant_id, entry.type, base.action, entry.entity) for one in audience.interests
    )


def _patched(entry: Entry, base: _Earlier, view: View) -> bytes | None:
    """The envelope with a patch for its data; None when it has to go out whole."""
    kind = EVENT_TYPES.get(entry.type)
    if kind is None:
        return None
    event = shown(entry.event, view)
    before: dict[str, Any] = shown(orjson.loads(base.raw), view)
    if before["schema_version"] != event["schema_version"]:
        return None
    keep = kind.transient | kind.reckoned | frozenset(kind.entity_fields)
    patch = merge_patch.change(before["data"], event["data"], keep)
    if patch is None:
        return None
    patched = orjson.dumps(event | {"data": patch})
    return patched if len(patched) + wire.BASE_BYTES < len(entry.json(view)) else None
