"""Which connections share which bytes.

Connections are grouped by audience. An event is held against each group once, encoded once a view and codec, and put
into the group's buffer; a flush joins the buffer and hands every member the same bytes.

Members stay consistent by one rule: whoever joins or leaves a group finds its buffer flushed, so a member in a group
has everything up to the position of the last flush and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from hub.core.routing import Audience, Codec, View, may_see

MAX_ROUTES: Final = 50_000
"""Remembered routes; past that they are worked out anew."""


class Routable(Protocol):
    """What routing needs to know of an event."""

    @property
    def tenant_id(self) -> str: ...
    @property
    def type(self) -> str: ...
    @property
    def action(self) -> str: ...
    @property
    def entity(self) -> str: ...
    @property
    def targets(self) -> tuple[str, ...]: ...


EventT = TypeVar("EventT", bound=Routable)
PositionT = TypeVar("PositionT")
EventC = TypeVar("EventC", bound=Routable, contravariant=True)
PositionC = TypeVar("PositionC", contravariant=True)


class Member(Protocol[EventC, PositionC]):
    """A connection's side of a group."""

    def deliver(self, buffer: bytes, events: Sequence[EventC], before: PositionC) -> bool:
        """Take the buffer; False refuses it and leaves the group, at the position `before`."""


class Changes(Protocol[EventC]):
    """Frames for audiences that asked for changes only."""

    def frame(self, entry: EventC, audience: Audience) -> bytes:
        """The event as the audience is sent it."""

    def keep(self, entry: EventC) -> None:
        """Remember it for the next one of its entity; called after its frames were made."""

    def clear(self) -> None:
        """Forget what is remembered."""


class Group(Generic[EventT, PositionT]):
    """The members of one audience and what waits for them."""

    __slots__ = ("audience", "before", "events", "frames", "kind", "members")

    def __init__(self, audience: Audience, *, changes: bool = False) -> None:
        self.audience = audience
        self.kind = None if changes else (audience.view, audience.codec)
        """What its frames are made for; None where they are changes."""
        self.members: set[Member[EventT, PositionT]] = set()
        self.frames: list[bytes] = []
        self.events: list[EventT] = []
        self.before: PositionT | None = None


class FanOut(Generic[EventT, PositionT]):
    """All groups of one process."""

    def __init__(self, encode: Callable[[EventT, View, Codec], bytes], changes: Changes[EventT] | None = None) -> None:
        self._encode = encode
        self._changes = changes
        self._asking = 0
        """Groups that asked for changes only."""
        self._groups: dict[Audience, Group[EventT, PositionT]] = {}
        self._routes: dict[
            tuple[str, str, str, tuple[str, ...]],
            tuple[list[Group[EventT, PositionT]], dict[str, list[Group[EventT, PositionT]]]],
        ] = {}
        self._waiting: dict[Audience, Group[EventT, PositionT]] = {}
        self.on_flush: Callable[[Audience, Sequence[EventT]], object] = lambda *_: None
        """Called once a flush and group, when its members took the events; those that refused have left by then."""

    def __len__(self) -> int:
        return len(self._groups)

    def join(self, member: Member[EventT, PositionT], audience: Audience) -> None:
        """Add a member that has everything up to now."""
        if (group := self._groups.get(audience)) is not None:
            self.flush([group])
        # Asked again: when all its members refused what waited, the group is no more.
        if (group := self._groups.get(audience)) is None:
            changes = audience.changes_only and self._changes is not None
            group = self._groups[audience] = Group(audience, changes=changes)
            self._asking += audience.changes_only
            self._routes.clear()
        group.members.add(member)

    def leave(self, member: Member[EventT, PositionT], audience: Audience) -> None:
        """Remove a member; what waited for its group is written first."""
        group = self._groups.get(audience)
        if group is None or member not in group.members:
            return
        self.flush([group])
        self._remove(group, member)

    def _remove(self, group: Group[EventT, PositionT], member: Member[EventT, PositionT]) -> None:
        group.members.discard(member)
        if not group.members and self._groups.get(group.audience) is group:
            del self._groups[group.audience]
            self._waiting.pop(group.audience, None)
            self._asking -= group.audience.changes_only
            if self._changes is not None and not self._asking:
                self._changes.clear()
            self._routes.clear()

    def add(self, event: EventT, before: PositionT) -> list[Group[EventT, PositionT]]:
        """Put an event into the buffers of its groups; those that had been empty come back.

        `before` is the position of everything that was added earlier.
        """
        if not self._groups:
            return []
        woken = []
        changed: Changes[EventT] | None = None
        frames: dict[tuple[View, Codec], bytes] = {}
        for group in self._route(event):
            kind = group.kind
            if kind is None:
                assert self._changes is not None, "nobody was given patches to make"
                changed = self._changes
                frame = changed.frame(event, group.audience)
            else:
                made = frames.get(kind)
                if made is None:
                    made = frames[kind] = self._encode(event, *kind)
                frame = made
            if not group.frames:
                group.before = before
                self._waiting[group.audience] = group
                woken.append(group)
            group.frames.append(frame)
            group.events.append(event)
        if changed is not None:
            changed.keep(event)
        return woken

    def _route(self, event: EventT) -> Iterable[Group[EventT, PositionT]]:
        key = (event.tenant_id, event.type, event.action, event.targets)
        found = self._routes.get(key)
        if found is None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            found = self._routes[key] = self._work_out(*key)
        every, by_entity = found
        some = by_entity.get(event.entity) if by_entity else None
        return every if some is None else every + some

    def _work_out(
        self, tenant_id: str, type: str, action: str, targets: tuple[str, ...]
    ) -> tuple[list[Group[EventT, PositionT]], dict[str, list[Group[EventT, PositionT]]]]:
        every: list[Group[EventT, PositionT]] = []
        by_entity: dict[str, list[Group[EventT, PositionT]]] = {}
        for audience, group in self._groups.items():
            if not may_see(audience.system, targets):
                continue
            asking = [one for one in audience.interests if one.wants_kind(tenant_id, type, action)]
            if any(one.entities is None for one in asking):
                every.append(group)
                continue
            for entity in {entity for one in asking for entity in one.entities or ()}:
                by_entity.setdefault(entity, []).append(group)
        return every, by_entity

    def due(self) -> list[Group[EventT, PositionT]]:
        """The groups with something to write now; those that gather by time are flushed by their own timers."""
        return [group for group in self._waiting.values() if not group.audience.batch_ms]

    def waiting(self) -> list[Group[EventT, PositionT]]:
        """Every group with something to write."""
        return list(self._waiting.values())

    def flush(self, groups: Iterable[Group[EventT, PositionT]]) -> int:
        """Hand each group's buffer to its members; how many deliveries were made."""
        deliveries = 0
        for group in groups:
            if not group.frames:
                continue
            buffer, events, before = b"".join(group.frames), group.events, group.before
            group.frames, group.events, group.before = [], [], None
            self._waiting.pop(group.audience, None)
            assert before is not None
            refused = [member for member in group.members if not member.deliver(buffer, events, before)]
            deliveries += (len(group.members) - len(refused)) * len(events)
            self.on_flush(group.audience, events)
            for member in refused:
                self._remove(group, member)
        return deliveries
