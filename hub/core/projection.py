"""The state of an entity, folded from its events.

An event's data is a merge patch on the state at the top level: a field that is there replaces, `null` removes, an
absent one leaves as it was. Fields that speak of the event alone (`EventType.transient`) are no state. What an event
leaves out and its kind knows how to reckon (`EventType.reckon`) is in the state all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from hub.core.versions import Vector, actor
from schemas import registry
from schemas.cursor import ZERO, StreamId
from schemas.envelope import EventType
from schemas.registry import EVENT_TYPES
from schemas.state import following, standing

_UNFIT: Final = (KeyError, TypeError, ValueError, ArithmeticError)
"""What an upcast may raise on data that never went through validation."""
_NONE: Final[frozenset[str]] = frozenset()


class State(NamedTuple):
    """An entity after an event, by the events of one type."""

    revision: int
    sequence: int
    id: StreamId
    """Where its last event lies."""
    schema_version: int
    seen_by_all: frozenset[str]
    """The systems that may see every event in `data`."""
    seen_by_some: frozenset[str]
    """The systems that may see at least one."""
    data: dict[str, Any]
    writers: Vector
    """Who made how many of these events (`hub.core.versions`)."""


class Folding:
    """A state that events are folded into, one after the other."""

    __slots__ = ("_all", "_data", "_id", "_kind", "_some", "_targets", "_version", "_writers", "revision", "sequence")

    def __init__(self, type: str, state: State | None = None) -> None:
        self._kind = EVENT_TYPES.get(type)
        self.revision = self.sequence = self._version = 0
        self._id = ZERO
        self._all = self._some = _NONE
        self._targets: Any = None
        self._data: dict[str, Any] | None = None
        self._writers: Vector = {}
        if state is not None:
            self.revision, self.sequence, self._id = state.revision, state.sequence, state.id
            self._all, self._some = state.seen_by_all, state.seen_by_some
            self._version, self._data = _newest(self._kind, state.schema_version, state.data)
            self._writers = dict(state.writers)

    def add(self, event: Mapping[str, Any], sequence: int, id: StreamId) -> None:
        """Fold in an envelope and its place. What is not an envelope leaves everything as it was."""
        try:
            data, version, revision, targets = (
                event["data"],
                event["schema_version"],
                event["revision"],
                event["targets"],
            )
            if type(data) is not dict or type(version) is not int or type(revision) is not int:
                return
            if targets != self._targets:
                self._see(targets)
        except (KeyError, TypeError):
            return
        kind = self._kind
        if kind is not None:
            version, data = _newest(kind, version, data)
        self._data = following(kind, standing(self._data, revision), event.get("action", ""), data)
        self.revision, self.sequence, self._id = revision, sequence, id
        writer = actor(event)
        self._writers[writer] = self._writers.get(writer, 0) + 1
        if version > self._version:
            self._version = version

    def _see(self, targets: list[str]) -> None:
        systems = frozenset(targets)
        self._all = systems if self._data is None else self._all & systems
        self._some |= systems
        self._targets = targets

    @property
    def state(self) -> State | None:
        """The state; None while no event was folded in."""
        if self._data is None:
            return None
        return State(
            self.revision, self.sequence, self._id, self._version, self._all, self._some, self._data, self._writers
        )


def newest(type: str, state: State) -> State:
    """The state as the newest schema version says it; the same object when it says it so already."""
    version, data = _newest(EVENT_TYPES.get(type), state.schema_version, state.data)
    return state if version == state.schema_version else state._replace(schema_version=version, data=data)


def _newest(kind: EventType | None, version: int, data: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    if kind is None or version >= kind.newest:
        return version, data
    try:
        return kind.newest, registry.upcast(kind, version, dict(data))
    except _UNFIT:
        # Not data of that version, whoever wrote it: it is kept as it is, or one event would stop them all.
        return kind.newest, data


def spoken_of(type: str, event: Mapping[str, Any]) -> Iterable[str]:
    """The fields that an envelope sets or removes."""
    return _newest(EVENT_TYPES.get(type), event["schema_version"], event["data"])[1]
