"""Whether the desk holds what the hub holds (R80): digests compared, differing records found and repaired, reported.

The two trees are true at a cursor each, so they are compared only where these are the same and nothing waits to be
sent. A difference is found in two questions: the buckets, then the states of those that differ. A repair fetches the
records anew and puts the hub's state in their place, unless the desk has changes of its own on them, or has moved on
since they were compared.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

import orjson
import structlog

from consumers.clock import Clock
from consumers.errors import ConsumerError
from consumers.offline.database import LocalDatabase
from consumers.offline.items import WAITING, LocalDigest
from schemas.registry import EVENT_TYPES
from schemas.sync import ComparisonReport, DigestResponse, SnapshotResponse, StateDigest, SyncRecord, bucket_of

log = structlog.get_logger(__name__)

T = TypeVar("T")
Key = tuple[str, str]
"""A record: type and entity."""

INTERVAL: Final = timedelta(days=1)
AGAIN: Final = timedelta(hours=1)
LOOK_S: Final = 600.0
"""How often it is looked whether a comparison is due; after one that could not be made, how long until the next try."""
TRIES: Final = 4
"""How often the desk catches up with the hub to meet it at one cursor."""
PAUSE_S: Final = 0.25
"""The pause before the second try; each next one is twice as long."""
MAX_REPAIRS: Final = 500
"""Records repaired in one pass; what is left, the next pass finds again."""
MAX_BUCKETS: Final = 64
"""Buckets whose states are asked for in one pass."""
PASSES: Final = 4
MAX_NAMED: Final = 1000

PAGE: Final = 500
HELD: Final = "conflict"
"""The path of the error by which the hub says that an item waits for a person."""

_VAULT: Final = "comparison"

Mending = Literal["mended", "moved", "kept"]
"""What became of a record that differed: repaired; changed since, to be compared again; or not to be touched."""
State = Literal["equal", "repaired", "differs", "postponed"]


class Local(Protocol):
    """The desk's database on its own thread. What `work` does there nothing else comes in between."""

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        """Run `work` on the database and return what it returns. Cancelled: `work` may still be carried out."""
        ...


class DigestHub(Protocol):
    """What a comparison asks of the hub. Raises `Disconnected`, `HubRefused` and `AccessRefused`."""

    async def digest(self, buckets: Sequence[int] = ()) -> DigestResponse:
        """`GET /sync/digest`: with `buckets` also the states in those."""
        ...

    async def entity(self, entity: str) -> SnapshotResponse:
        """`GET /sync/snapshot?entity=`: the states of one entity, by all types of its events."""
        ...

    async def report_digest(self, report: ComparisonReport) -> None:
        """`POST /sync/digest`."""
        ...


@dataclass(frozen=True, slots=True)
class Compared:
    """How a comparison ended.

    equal: the desk holds what the hub holds. repaired: it does now; `differing` names what did not. differs: something
    still does: `kept` are records that the desk has changes of its own on, or that this release cannot read.
    postponed: it is not known, for the reason in words.
    """

    state: State
    count: int = 0
    differing: tuple[Key, ...] = ()
    repaired: int = 0
    kept: tuple[Key, ...] = ()
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Here:
    """The desk as it was in one moment."""

    cursor: str | None
    waiting: int
    digest: LocalDigest


class _Pass(NamedTuple):
    cursor: str
    here: LocalDigest
    differing: dict[Key, str | None]
    """What differs, and the desk's digest of it (None: the desk does not have it)."""


class Comparison:
    """Compares one desk with its hub. One at a time."""

    def __init__(
        self,
        local: Local,
        hub: DigestHub,
        catch_up: Callable[[], Awaitable[object]],
        *,
        clock: Clock,
        now: Callable[[], datetime],
    ) -> None:
        """`catch_up` sends what waits and pulls what is new. `now` gives aware datetimes."""
        self._local = local
        self._hub = hub
        self._catch_up = catch_up
        self._clock = clock
        self._now = now

    async def compare(self) -> Compared:
        """Compare, repair what differs, and report each pass to the hub. Cancelled: what was repaired stays so.

        Raises:
            Disconnected, HubRefused, AccessRefused, LocalError: it could not be carried through.
        """
        differed: dict[Key, None] = {}
        kept: list[Key] = []
        repaired = count = 0
        for _ in range(PASSES):
            found = await self._meet()
            if isinstance(found, str):
                # Also after a repair: whether that was enough is not known.
                return Compared("postponed", count, tuple(differed), repaired, tuple(kept), found)
            count = found.here.count
            if not found.differing:
                await self._report(found, 0)
                state: State = "repaired" if differed else "equal"
                await self._note(state)
                return Compared(state, count, tuple(differed), repaired)
            differed |= dict.fromkeys(found.differing)
            done = await self._repair(found)
            kept = [key for key, mending in done.items() if mending == "kept"]
            mended = sum(mending == "mended" for mending in done.values())
            repaired += mended
            await self._report(found, mended)
            log.warning("records_differed", differing=len(found.differing), repaired=mended, kept=len(kept))
            if len(kept) == len(done):
                break
        await self._note("differs")
        return Compared("differs", count, tuple(differed), repaired, tuple(kept))

    async def due(self) -> bool:
        """Whether a day has passed since the last comparison that came to an end; an hour, where something differed."""
        kept = await self._local.call(lambda database: database.vault(_VAULT))
        try:
            note = orjson.loads(kept or b"")
            last, state = datetime.fromisoformat(note["at"]), note["state"]
        except (ValueError, KeyError, TypeError):
            return True
        # A clock that was set back must not put it off.
        return not timedelta(0) <= self._now() - last < (AGAIN if state == "differs" else INTERVAL)

    async def daily(self, told: Callable[[Compared], None] | None = None) -> None:
        """Compare once a day, until cancelled. A comparison that fails is tried again."""
        while True:
            try:
                if await self.due():
                    compared = await self.compare()
                    log.info("states_compared", state=compared.state, count=compared.count, reason=compared.reason)
                    if told is not None:
                        told(compared)
            except ConsumerError as error:
                log.info("comparison_failed", reason=str(error))
            await self._clock.sleep(LOOK_S)

    async def _meet(self) -> _Pass | str:
        """What differs, seen where desk and hub are at the same cursor; else why not, in words."""
        reason = ""
        for attempt in range(TRIES):
            if attempt:
                await self._clock.sleep(PAUSE_S * 2 ** (attempt - 1))
                await self._catch_up()
            answer = await self._hub.digest()
            here = await self._local.call(_here)
            reason = _apart(here, answer)
            if reason:
                continue
            if here.digest.root == answer.root:
                return _Pass(answer.cursor, here.digest, {})
            numbers = _differing_buckets(here.digest, answer)[:MAX_BUCKETS]
            asked = await self._hub.digest(numbers)
            states, again = await self._local.call(_states_of(numbers))
            reason = _apart(again, asked)
            if reason:
                continue
            differing = _differing(states, asked)
            if differing or again.digest.root == asked.root:
                return _Pass(asked.cursor, again.digest, differing)
            # Both moved on together and differ elsewhere now; or one of them does not add up.
            reason = "the digests differ, and none of the states under them"
        return reason

    async def _repair(self, found: _Pass) -> dict[Key, Mending]:
        """Repair what may be; what became of each."""
        wanted = dict(list(found.differing.items())[:MAX_REPAIRS])
        entities: dict[str, list[Key]] = {}
        for key in wanted:
            entities.setdefault(key[1], []).append(key)
        done: dict[Key, Mending] = {}
        for entity, keys in entities.items():
            answer = await self._hub.entity(entity)
            # States of before the comparison are no better than what is here.
            fresh = answer.cursor >= found.cursor
            records = {(record.type, record.entity): record for record in answer.records}
            for key in keys:
                record = records.get(key)
                usable = fresh and _readable(record)
                done[key] = await self._local.call(_mend(key, wanted[key], record)) if usable else "kept"
        return done

    async def _report(self, found: _Pass, repaired: int) -> None:
        device_id, tenant_id = await self._local.call(lambda database: (database.device_id, database.tenant_id))
        named = [f"{type} {entity}" for type, entity in found.differing][:MAX_NAMED]
        await self._hub.report_digest(
            ComparisonReport(
                device_id=device_id,
                tenant_id=tenant_id,
                cursor=found.cursor,
                root=found.here.root,
                count=found.here.count,
                equal=not found.differing,
                differing=named,
                repaired=repaired,
            )
        )

    async def _note(self, state: State) -> None:
        note = orjson.dumps({"at": self._now().isoformat(), "state": state})
        await self._local.call(lambda database: database.put_vault(_VAULT, note))


# -- on the database's thread -----------------------------------------------------------------------------------------


def sendable(database: LocalDatabase) -> int:
    """How many items wait to be sent. Those that are held, or behind one that is, wait for a person: not counted."""
    if not database.counts().waiting:
        return 0
    found, after, stopped = 0, 0, set[str]()
    while page := database.pending(after=after, limit=PAGE):
        for item in page:
            if item.status not in WAITING or any(error.path == HELD for error in item.errors):
                stopped.add(item.entity)
            found += item.entity not in stopped
        after = page[-1].device_sequence
    return found


def _here(database: LocalDatabase) -> _Here:
    return _Here(database.cursor, sendable(database), database.digest())


def _states_of(numbers: Iterable[int]) -> Callable[[LocalDatabase], tuple[list[StateDigest], _Here]]:
    def work(database: LocalDatabase) -> tuple[list[StateDigest], _Here]:
        return [state for number in numbers for state in database.bucket(number)], _here(database)

    return work


def _mend(key: Key, compared: str | None, record: SyncRecord | None) -> Callable[[LocalDatabase], Mending]:
    """Put the hub's record in the place of one that is still as it was compared, and has no changes of the desk's."""

    def work(database: LocalDatabase) -> Mending:
        held = database.record(*key)
        if held is not None and held.pending:
            return "kept"
        state = next((one for one in database.bucket(bucket_of(*key)) if (one.type, one.entity) == key), None)
        if (None if state is None else state.hash) != compared:
            return "moved"
        if record is None:
            database.repair([], [key])
        else:
            database.repair([record])
        return "mended"

    return work


# -- decisions --------------------------------------------------------------------------------------------------------


def _apart(here: _Here, answer: DigestResponse) -> str:
    """Why the two cannot be compared now; empty when they can."""
    if here.waiting:
        return f"{here.waiting} items wait to be sent"
    if here.cursor != answer.cursor:
        return "the hub's state moves on, and the desk has not met it yet"
    return ""


def _readable(record: SyncRecord | None) -> bool:
    """Whether this release knows the record's schema: those of a newer one wait for it (R45)."""
    if record is None:
        return True
    kind = EVENT_TYPES.get(record.type)
    return kind is not None and record.schema_version in kind.versions


def _differing_buckets(here: LocalDigest, answer: DigestResponse) -> list[int]:
    there = {int(number, 16): hash for number, hash in answer.buckets.items()}
    return sorted(number for number in {*here.buckets, *there} if here.buckets.get(number) != there.get(number))


def _differing(states: Iterable[StateDigest], answer: DigestResponse) -> dict[Key, str | None]:
    here = {(state.type, state.entity): state.hash for state in states}
    there = {(state.type, state.entity): state.hash for state in answer.states or ()}
    return {key: here.get(key) for key in sorted({*here, *there}) if here.get(key) != there.get(key)}
