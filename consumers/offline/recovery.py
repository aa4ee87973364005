"""The way back after an outage: five steps, each with its timeout and retries (R82), resumable after a crash in any.

`connectivity_check` → `auth_validation` → `schema_sync` → `data_differential_sync` → `integrity_verification`. Where it
stands is kept in the desk's database after every step and every failed attempt; what the steps do can be done twice. A
failure is answered by its class (`consumers.offline.failures`): a line that broke again is looked at from the first
step, a token that expired from the second. What the whole came to is told as it is: a recovery whose comparison could
not be made is not a verified one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import random as random_
from typing import Any, Final, Literal, NamedTuple, Protocol

import orjson
import structlog

from consumers.backoff import Random, full_jitter
from consumers.clock import Clock
from consumers.errors import AccessRefused, ConsumerError
from consumers.offline.comparison import Compared, Comparison, Local, sendable
from consumers.offline.failures import Action, Kind, action_of, kind_of
from consumers.offline.heightened import Heightened
from schemas.frames import Close
from schemas.registry import EVENT_TYPES
from schemas.sync import SYNCED_TYPES

log = structlog.get_logger(__name__)

StepName = Literal[
    "connectivity_check", "auth_validation", "schema_sync", "data_differential_sync", "integrity_verification"
]
State = Literal[
    "running",
    "recovered",
    "unverified",
    "offline",
    "pin_needed",
    "rebuild_proposed",
    "make_room",
    "failed",
]
"""recovered: synced and compared. unverified: synced, but no comparison could be made. offline: the line is down again.
pin_needed: waits for the operator's PIN, then `run` goes on. rebuild_proposed: the local database does not write; ask
a person. make_room: the disk is full. failed: a person must look, `step` and `detail` tell at what."""


class Step(NamedTuple):
    """One step; `retries` are attempts after the first."""

    name: StepName
    timeout_s: float
    retries: int


STEPS: Final = (
    Step("connectivity_check", 30.0, 3),
    Step("auth_validation", 15.0, 2),
    Step("schema_sync", 60.0, 1),
    Step("data_differential_sync", 300.0, 5),
    Step("integrity_verification", 120.0, 1),
)
CONNECTIVITY, AUTH, SCHEMA, DATA, INTEGRITY = range(5)
NORMAL_S: Final = 30.0
"""What a whole recovery takes in the normal case (R82)."""
RETRY_BASE_S: Final = 1.0
RETRY_CAP_S: Final = 10.0

_VAULT: Final = "recovery"


class Surroundings(Protocol):
    """What a recovery does at the desk and with the hub. All of it may be done twice, and cancelled.

    Raises what `consumers.offline.failures` knows.
    """

    async def probe(self) -> None:
        """Ask the hub for a sign of life. Returns when it gave one."""
        ...

    async def authenticate(self) -> None:
        """Ask the hub for something cheap that needs the token. Returns when the hub accepted it."""
        ...

    async def renew(self) -> bool:
        """Get a fresh token without asking anybody. False: that takes the operator's PIN first."""
        ...

    async def schemas(self) -> Mapping[str, int]:
        """The newest schema version that the hub knows, by type of event."""
        ...

    async def sync(self) -> None:
        """Begin with a snapshot where there is no cursor; send what may be sent; pull what is new."""
        ...

    async def rebuild(self, *, even_if_sound: bool) -> bool:
        """Put what can be salvaged of the local database in its place (`consumers.offline.rebuild`).

        False: it is sound and was left as it is.
        """
        ...


class PinNeeded(ConsumerError):
    """The token has expired, and a new one takes the operator's PIN."""

    def __init__(self) -> None:
        super().__init__("the token has expired: the operator's PIN is needed to sign in again")


class HubBehind(ConsumerError):
    """The hub does not know the schemas this desk writes; what it sent would be refused."""

    def __init__(self, types: Mapping[str, int]) -> None:
        named = ", ".join(f"{type} v{version}" for type, version in types.items())
        super().__init__(f"the hub is older than this desk (it does not know {named}): bring the hub up to date first")
        self.types = dict(types)


class StillWaiting(ConsumerError):
    """A sync ended with items that the hub could have been told of."""

    def __init__(self, items: int) -> None:
        super().__init__(f"{items} items are still waiting to be sent")
        self.items = items


class StillDiffers(ConsumerError):
    """Records differ from the hub's, and could not be repaired."""

    def __init__(self, compared: Compared) -> None:
        named = ", ".join(f"{type} {entity}" for type, entity in (compared.kept or compared.differing)[:5])
        super().__init__(f"{len(compared.kept) or len(compared.differing)} records differ from the hub's: {named}")


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a recovery stands. `failures` are the failed attempts of each step, `notes` what each step found."""

    cause: str
    started_at: datetime
    at: int = 0
    state: State = "running"
    failures: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    rebuilt: bool = False
    kind: Kind | None = None
    detail: str | None = None

    @property
    def step(self) -> Step:
        """The step it is at."""
        return STEPS[self.at]

    @property
    def resumable(self) -> bool:
        """Whether the next run goes on with it: it was cut off, or waits for a PIN."""
        return self.state in ("running", "pin_needed")

    def encode(self) -> bytes:
        """As it is kept."""
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, kept: bytes | None) -> Progress | None:
        """What was kept; None when nothing was, or nothing that can be read."""
        try:
            tree: dict[str, Any] = orjson.loads(kept or b"null")
            found = cls(**tree | {"started_at": datetime.fromisoformat(tree["started_at"])})
            return found if 0 <= found.at < len(STEPS) else None
        except (ValueError, TypeError, KeyError):
            return None


class Report(NamedTuple):
    """Told to the desk as a recovery moves on. `attempt` of `step`: 1 the first; `number` of `total` steps."""

    state: State
    step: StepName
    number: int
    total: int
    attempt: int
    detail: str | None = None


class Outcome(NamedTuple):
    """How a recovery ended, or why it rests. `notes`: what each step found, by its name."""

    state: State
    step: StepName
    kind: Kind | None
    detail: str | None
    elapsed_s: float
    notes: Mapping[str, str]


class RecoveryManager:
    """Brings one desk back. `run` may be called at any time; recoveries do not overlap."""

    def __init__(
        self,
        local: Local,
        surroundings: Surroundings,
        comparison: Comparison,
        heightened: Heightened,
        *,
        clock: Clock,
        now: Callable[[], datetime],
        report: Callable[[Report], None] = lambda report: None,
        random: Random = random_,
    ) -> None:
        """`report` is called with every attempt begun and failed, and at the end. `now` gives aware datetimes."""
        self._local = local
        self._surroundings = surroundings
        self._comparison = comparison
        self._heightened = heightened
        self._clock = clock
        self._now = now
        self._report = report
        self._random = random
        self._one = asyncio.Lock()

    async def unfinished(self) -> Progress | None:
        """The recovery that a crash or a missing PIN left in the middle, if there is one: `run` goes on with it."""
        progress = Progress.decode(await self._local.call(lambda database: database.vault(_VAULT)))
        return progress if progress is not None and progress.resumable else None

    async def run(self, cause: str, *, rebuild: bool = False) -> Outcome:
        """Recover, going on with what was left unfinished. Cancelled: a later run goes on.

        `rebuild`: a person agreed to rebuild the local database, so do that first. Afterwards the desk is watched more
        closely for a while: await `Heightened.run`.
        """
        async with self._one:
            progress = await self._begin(cause)
            if rebuild:
                progress = await self._rebuild(progress, even_if_sound=True)
            while progress.state == "running":
                progress = await self._attempt(progress)
            return self._outcome(progress)

    async def _begin(self, cause: str) -> Progress:
        fresh = Progress(cause, self._now())
        try:
            progress = await self.unfinished()
        except ConsumerError as error:
            # The desk cannot work without its database: it does not wait for the hub.
            return await self._rebuild(fresh, even_if_sound=False) if kind_of(error) == "damaged" else fresh
        if progress is None:
            await self._try_to_keep(fresh)
            return fresh
        log.info("recovery_resumed", step=progress.step.name, cause=progress.cause)
        return replace(progress, state="running", kind=None, detail=None)

    async def _attempt(self, progress: Progress) -> Progress:
        step = progress.step
        attempt = progress.failures.get(step.name, 0) + 1
        self._tell(progress, attempt)
        before = await self._mark() if progress.at == DATA else None
        try:
            async with self._clock.timeout(step.timeout_s):
                note, state = await self._do(progress)
            after = replace(
                progress,
                at=min(progress.at + 1, INTEGRITY),
                state=state,
                notes={**progress.notes, step.name: note},
            )
            if state != "running":
                await self._heightened.begin()
            await self._keep(after)
        except Exception as error:
            return await self._failed(progress, error, before)
        log.info("recovery_step_done", step=step.name, note=note)
        return after

    async def _do(self, progress: Progress) -> tuple[str, State]:
        surroundings = self._surroundings
        match progress.at:
            case 0:
                await surroundings.probe()
                return "the hub answers", "running"
            case 1:
                return await self._authenticate(), "running"
            case 2:
                return await self._compare_schemas(), "running"
            case 3:
                await surroundings.sync()
                if left := await self._local.call(sendable):
                    raise StillWaiting(left)
                return await self._local.call(_what_is_left), "running"
            case _:
                compared = await self._comparison.compare()
                if compared.state == "differs":
                    raise StillDiffers(compared)
                if compared.state == "postponed":
                    return f"not compared: {compared.reason}", "unverified"
                return f"{compared.count} records compared, {compared.repaired} repaired", "recovered"

    async def _authenticate(self) -> str:
        try:
            await self._surroundings.authenticate()
            return "the token is valid"
        except ConsumerError as error:
            if kind_of(error) != "token_expired":
                raise
        if not await self._surroundings.renew():
            raise PinNeeded
        try:
            await self._surroundings.authenticate()
        except ConsumerError as error:
            if kind_of(error) != "token_expired":
                raise
            raise AccessRefused(Close.FORBIDDEN, "a fresh token was refused too") from error
        return "signed in again"

    async def _compare_schemas(self) -> str:
        there = await self._surroundings.schemas()
        held = await self._local.call(lambda database: database.held())
        ours = {type: EVENT_TYPES[type].newest for type in sorted(SYNCED_TYPES)}
        # A hub that tells of no such type at all says nothing about its versions.
        behind = {type: version for type, version in ours.items() if there.get(type, version) < version}
        if behind:
            raise HubBehind(behind)
        newer = [type for type, version in ours.items() if there.get(type, version) > version]
        if newer or held:
            return f"newer at the hub: {', '.join(newer) or 'none'}; {held} changes kept for a newer release"
        return "the schemas are the same"

    async def _mark(self) -> object:
        """Something that is another as soon as a sync has moved on."""
        try:
            return await self._local.call(lambda database: (database.counts(), database.cursor))
        except ConsumerError:
            return None

    async def _failed(self, progress: Progress, error: Exception, before: object) -> Progress:
        step = progress.step
        kind = _kind(error)
        detail = str(error) or type(error).__name__
        failures = progress.failures.get(step.name, 0) + 1
        if kind == "unexpected":
            log.error("recovery_step_broke", step=step.name, exc_info=error)
        if isinstance(error, TimeoutError):
            detail = f"no answer within {step.timeout_s:g} s"
            if before is not None and await self._mark() != before:
                # A long backlog took its time, and some of it is done: no failure.
                log.info("recovery_step_goes_on", step=step.name)
                return progress
        counted = replace(progress, failures={**progress.failures, step.name: failures}, kind=kind, detail=detail)
        action = _action(kind, progress.at, failures)
        log.warning("recovery_step_failed", step=step.name, kind=kind, action=action, attempt=failures, detail=detail)
        self._tell(counted, failures, detail)
        after = counted
        match action:
            case "retry":
                pass
            case "go_offline" if progress.at > CONNECTIVITY and failures <= step.retries:
                # The line is looked at before the desk is called offline.
                after = replace(counted, at=CONNECTIVITY)
            case "go_offline":
                after = replace(counted, state="offline")
            case "ask_pin" if progress.at == AUTH:
                after = replace(counted, state="pin_needed", failures=progress.failures)
            case "ask_pin" if failures <= step.retries:
                after = replace(counted, at=AUTH)
            case "propose_rebuild":
                after = replace(counted, state="rebuild_proposed")
            case "make_room":
                after = replace(counted, state="make_room")
            case "rebuild" if not progress.rebuilt:
                return await self._rebuild(counted, even_if_sound=False)
            case _:
                after = replace(counted, state="failed")
        if after.state != "running" and progress.at == INTEGRITY:
            # The data is there and the desk at work: all the more reason to look closely.
            await self._watch()
        await self._try_to_keep(after)
        if after.state == "running" and action != "ask_pin":
            await self._clock.sleep(full_jitter(failures - 1, self._random, base=RETRY_BASE_S, cap=RETRY_CAP_S))
        return after

    async def _rebuild(self, progress: Progress, *, even_if_sound: bool) -> Progress:
        try:
            rebuilt = await self._surroundings.rebuild(even_if_sound=even_if_sound)
        except Exception as error:
            kind = _kind(error)
            log.exception("rebuild_failed", kind=kind)
            state: State = "make_room" if kind == "disk_full" else "failed"
            after = replace(progress, state=state, kind=kind, detail=str(error) or type(error).__name__)
        else:
            # The records are gone with the old file: they come anew with the data.
            note = "rebuilt from what could be salvaged" if rebuilt else "checked and found sound"
            after = replace(
                progress,
                at=min(progress.at, DATA),
                rebuilt=True,
                notes={**progress.notes, "local_database": note},
            )
        await self._try_to_keep(after)
        return after

    async def _watch(self) -> None:
        try:
            await self._heightened.begin()
        except ConsumerError as error:
            log.warning("no_heightened_monitoring", reason=str(error))

    async def _keep(self, progress: Progress) -> None:
        kept = progress.encode()
        await self._local.call(lambda database: database.put_vault(_VAULT, kept))

    async def _try_to_keep(self, progress: Progress) -> None:
        try:
            await self._keep(progress)
        except ConsumerError as error:
            # Not kept, a crash repeats more than it must; nothing else is lost.
            log.warning("recovery_progress_not_kept", reason=str(error))

    def _tell(self, progress: Progress, attempt: int, detail: str | None = None) -> None:
        step = progress.step
        self._report(Report(progress.state, step.name, progress.at + 1, len(STEPS), attempt, detail))

    def _outcome(self, progress: Progress) -> Outcome:
        elapsed = max(self._now() - progress.started_at, timedelta(0)).total_seconds()
        attempt = max(progress.failures.get(progress.step.name, 0), 1)
        recovered = progress.state in ("recovered", "unverified")
        detail = progress.notes.get("integrity_verification") if recovered else progress.detail
        self._tell(progress, attempt, detail)
        level = log.info if recovered and elapsed < NORMAL_S else log.warning
        level("recovery_ended", state=progress.state, step=progress.step.name, elapsed_s=elapsed, detail=detail)
        kind = None if recovered else progress.kind
        return Outcome(progress.state, progress.step.name, kind, detail, elapsed, progress.notes)


def _kind(error: BaseException) -> Kind:
    match error:
        case PinNeeded():
            return "token_expired"
        case HubBehind():
            return "refused"
        case StillWaiting() | StillDiffers():
            return "unsettled"
        case _:
            return kind_of(error)


def _action(kind: Kind, at: int, failures: int) -> Action:
    """What to do after a failed attempt. At the first step the line is what is looked at."""
    retries = STEPS[at].retries
    if at == CONNECTIVITY and kind in ("link_down", "hub_failed", "refused"):
        return "retry" if failures <= retries else "go_offline"
    return action_of(kind, failures, retries)


def _what_is_left(database: Any) -> str:
    counts = database.counts()
    if counts.conflict or counts.failed or counts.waiting:
        return (
            f"synced; {counts.conflict} conflicts wait for a person, {counts.failed} items failed, "
            f"{counts.waiting} wait behind them"
        )
    return "synced"
