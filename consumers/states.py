"""Events put together from changes: what a client that asked for `changes_only` knows of each entity.

A state is known as of one revision. A patch is applied to the revision it was made from, a whole event is merged into
the state before it. Whatever is missing for that is asked of the hub; no event is passed on with a guessed state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import orjson
import structlog

from consumers.clock import Clock
from consumers.errors import AccessRefused, Disconnected, HubRefused
from consumers.http_api import HubHttp
from schemas.envelope import EventType
from schemas.frames import SnapshotEntity
from schemas.merge_patch import apply
from schemas.registry import EVENT_TYPES
from schemas.state import completed, following, merged, standing

log = structlog.get_logger(__name__)

MEMORY_BYTES: Final = 64 * 1024 * 1024
_OVERHEAD: Final = 512
"""What one held state takes beside its text."""
_ANSWER_S: Final = 10.0


class Key(NamedTuple):
    """Whose state."""

    tenant: str
    type: str
    entity: str


@dataclass(frozen=True, slots=True)
class _Held:
    revision: int
    version: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """An event with the whole state after it, and that state, to be held once the event is passed on."""

    raw: bytes
    key: Key
    held: _Held | None
    """None where the hub could not be asked: the next event asks again."""
    first: bool
    """It is the first event of its tenant's history: from here on nothing is unknown."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What an event says of an entity."""

    key: Key
    revision: int
    version: int
    action: str
    data: dict[str, Any]
    kind: EventType | None

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> _Told:
        key = Key(event["tenant_id"], event["type"], event["entity"])
        kind = EVENT_TYPES.get(key.type)
        return cls(key, event["revision"], event["schema_version"], event["action"], event["data"], kind)

    @property
    def transient(self) -> frozenset[str]:
        """The fields that speak of the event alone."""
        return frozenset() if self.kind is None else self.kind.transient

    def saying(self, data: dict[str, Any]) -> _Told:
        return replace(self, data=data)


def _after(held: Mapping[str, Any], told: _Told, base_revision: int | None) -> dict[str, Any]:
    earlier = standing(held, told.revision)
    if base_revision is None:
        return following(told.kind, earlier, told.action, told.data)
    data = told.data if told.kind is None else completed(told.kind, earlier, told.action, told.data)
    return apply(held, {name: value for name, value in data.items() if name not in told.transient})


class States:
    """The states of one client's subscription, the least used ones forgotten first."""

    def __init__(self, http: HubHttp, clock: Clock, patterns: Sequence[str], memory_bytes: int = MEMORY_BYTES) -> None:
        self._http = http
        self._clock = clock
        self._patterns = frozenset(patterns)
        self._memory_bytes = memory_bytes
        self._held: OrderedDict[Key, _Held] = OrderedDict()
        self._bytes = 0
        self._known: set[str] = set()
        """Tenants of which every entity that was ever heard of is held."""
        self._outgrown: set[str] = set()
        """Tenants of which something was forgotten for want of room."""
        self._mute = False
        """The hub does not answer questions about states: they are not asked."""

    def __len__(self) -> int:
        return len(self._held)

    def at_hand(self, event: Mapping[str, Any], sequence: int, base_revision: int | None) -> Whole | None:
        """The event with the state after it, when all that it needs is held; else it takes `asked`.

        Raises:
            KeyError: there is no envelope.
        """
        told = _Told.of(event)
        before = self._before(told, base_revision)
        if before is None:
            return None
        return self._whole(event, told, sequence, _after(before, told, base_revision))

    async def asked(self, event: Mapping[str, Any], sequence: int, base_revision: int | None) -> Whole:
        """The event with the state after it, or else as it would come without `changes_only`.

        Raises:
            Disconnected: neither can be had now; over a new connection the event comes whole.
        """
        told = _Told.of(event)
        if base_revision is None:
            return self._whole(event, told, sequence, await self._ask(told.key, told.revision))
        before = await self._ask(told.key, base_revision)
        if before is not None:
            return self._whole(event, told, sequence, _after(before, told, base_revision))
        return self._whole(event, told.saying(await self._fetch(told.key, event["event_id"])), sequence, None)

    def hold(self, whole: Whole) -> None:
        """The event was passed on: hold the state after it."""
        if whole.first:
            self.known(whole.key.tenant)
        self._forget(whole.key)
        if whole.held is None:
            self._known.discard(whole.key.tenant)
        else:
            self._put(whole.key, whole.held)

    def fill(self, tenant: str, entities: Iterable[SnapshotEntity]) -> None:
        """Hold what a page of a snapshot says."""
        for one in entities:
            key = Key(tenant, one.type, one.entity)
            kind = EVENT_TYPES.get(one.type)
            self._forget(key)
            self._put(key, _Held(one.revision, 1 if kind is None else kind.newest, orjson.dumps(one.data)))

    def known(self, tenant: str) -> None:
        """A snapshot of the tenant is complete: what is not held does not exist."""
        if tenant not in self._outgrown:
            self._known.add(tenant)

    def drop(self, tenant: str) -> None:
        """Events of the tenant are missing: nothing that is held of it can be built on."""
        self._known.discard(tenant)
        for key in [key for key in self._held if key.tenant == tenant]:
            self._forget(key)

    def connected(self) -> None:
        """A new connection: a hub that would not be asked may be another one now."""
        self._mute = False

    def _whole(self, event: Mapping[str, Any], told: _Told, sequence: int, state: dict[str, Any] | None) -> Whole:
        alone = {name: told.data[name] for name in told.transient if name in told.data}
        # Without what came before it, an event speaks for itself, as it does to everybody else.
        shown = merged({}, told.data, told.transient) if state is None else state
        unsure = state is None and not self._mute
        held = None if unsure else _Held(told.revision, told.version, orjson.dumps(shown))
        return Whole(orjson.dumps({**event, "data": shown | alone}), told.key, held, sequence == 1)

    def _before(self, told: _Told, base_revision: int | None) -> dict[str, Any] | None:
        """The state right before an event, if it is known here."""
        key = told.key
        held = self._held.get(key)
        if held is None:
            new = told.revision == 1 or (key.tenant in self._known and self._follows(key.type))
            return {} if base_revision is None and new else None
        if held.version != told.version or held.revision >= told.revision:
            return None
        if base_revision is None:
            # Revisions between the two were of another type, unless the patterns leave some of this one out.
            fits = held.revision == told.revision - 1 or self._follows(key.type)
        else:
            fits = held.revision == base_revision
        if not fits:
            return None
        self._held.move_to_end(key)
        state: dict[str, Any] = orjson.loads(held.data)
        return state

    def _follows(self, type: str) -> bool:
        """Whether every event of the type comes in."""
        return not self._patterns.isdisjoint(("*", f"{type}.*"))

    async def _ask(self, key: Key, revision: int) -> dict[str, Any] | None:
        """The state right after a revision; None when the hub cannot or will not tell."""
        if self._mute:
            return None
        query = {"tenant": key.tenant, "type": key.type, "entity": key.entity, "revision": str(revision)}
        try:
            async with self._clock.timeout(_ANSWER_S):
                page = await self._http.snapshot(query)
        except (AccessRefused, Disconnected, HubRefused, TimeoutError) as error:
            refused = isinstance(error, AccessRefused) or (isinstance(error, HubRefused) and not error.retryable)
            # That one state is not there says nothing of the others.
            if refused and getattr(error, "code", None) != "not_found":
                self._mute = True
            log.info("state_not_told", type=key.type, revision=revision, reason=type(error).__name__)
            return None
        for one in page.entities:
            if (one.tenant_id, one.type, one.entity, one.revision) == (*key, revision):
                return one.data
        return None

    async def _fetch(self, key: Key, event_id: str) -> dict[str, Any]:
        """The data of an event of which only the patch came."""
        try:
            async with self._clock.timeout(_ANSWER_S):
                event = (await self._http.event(event_id, key.tenant)).event
            data = event["data"]
            if not isinstance(data, dict):
                raise TypeError("not an envelope")
        except (AccessRefused, Disconnected, HubRefused, TimeoutError, KeyError, TypeError) as error:
            raise Disconnected(f"event {event_id} cannot be put together") from error
        return data

    def _put(self, key: Key, held: _Held) -> None:
        self._held[key] = held
        self._bytes += len(held.data) + _OVERHEAD
        while self._bytes > self._memory_bytes:
            oldest = next(iter(self._held))
            self._outgrown.add(oldest.tenant)
            self._known.discard(oldest.tenant)
            self._forget(oldest)

    def _forget(self, key: Key) -> None:
        gone = self._held.pop(key, None)
        if gone is not None:
            self._bytes -= len(gone.data) + _OVERHEAD
