"""One device: its real database on a file, its real engine, a clock that is wrong, and a line that breaks.

A device that is killed leaves its files as they were in that moment: they are copied aside right there, before anything
that cleans up can run, and put back when it is started again.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

import orjson

from consumers.errors import ConsumerError, Disconnected, HubRefused
from consumers.offline.database import LocalDatabase
from consumers.offline.engine import SyncEngine
from consumers.offline.hub_link import Batch
from consumers.offline.items import LocalChange, QueueItem
from consumers.offline.pushing import Tally
from schemas.errors import Problem
from schemas.sync import DigestResponse, PullResponse, PushResponse, SnapshotResponse, batch_crc32

from .clock import SimulatedClock
from .hotel import TENANT
from .hub_side import claims

T = TypeVar("T")
_FILES: Final = ("", "-wal", ".journal", ".journal.new")


class DeviceDied(BaseException):
    """The device's process is gone. Nothing in it can catch it."""


class Line(Protocol):
    """What lies between a device and the hub: carries a request, and perhaps its answer."""

    async def __call__(self, desk: DeskSide, kind: str, request: Callable[[], Awaitable[bytes]]) -> bytes:
        """The hub's answer.

        Raises:
            Disconnected: there is none. The request may arrive all the same, now or later, or twice.
        """
        ...


@dataclass(slots=True)
class _Mortality:
    """Counts down to the device's death."""

    left: int | None = None
    taken: bool = False

    def step(self, copy: Callable[[], None]) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            if not self.taken:
                self.taken = True
                copy()
            raise DeviceDied


class _Transport:
    """`consumers.offline.hub_link.SyncHub` over a line."""

    def __init__(self, desk: DeskSide) -> None:
        self._desk = desk

    async def push(self, batch: Batch) -> PushResponse:
        head = {
            "device_id": self._desk.name,
            "tenant_id": TENANT,
            "batch_crc32": batch_crc32(batch.sums),
            "sent_at": batch.sent_at,
            "backlog": batch.backlog,
            "cursor": batch.cursor,
        }
        given = orjson.dumps({name: value for name, value in head.items() if value is not None})
        body = given[:-1] + b',"items":[' + b",".join(batch.items) + b"]}"
        hub, token = self._desk.hub, self._desk.token
        answer = PushResponse.model_validate_json(await self._asked("push", lambda: hub().push(token, body)))
        self._desk.told.update((one.uuid or "", one.outcome) for one in answer.results)
        return answer

    async def pull(self, after: str | None, limit: int) -> PullResponse:
        hub, token = self._desk.hub, self._desk.token
        return PullResponse.model_validate_json(await self._asked("pull", lambda: hub().pull(token, after, limit)))

    async def snapshot(self, after: str | None, limit: int) -> SnapshotResponse:
        hub, token = self._desk.hub, self._desk.token
        return SnapshotResponse.model_validate_json(
            await self._asked("snapshot", lambda: hub().snapshot(token, after, limit))
        )

    async def digest(self) -> DigestResponse:
        hub, token = self._desk.hub, self._desk.token
        return DigestResponse.model_validate_json(await self._asked("digest", lambda: hub().digest(token)))

    async def _asked(self, kind: str, request: Callable[[], Awaitable[bytes]]) -> bytes:
        self._desk.breathe()
        try:
            answer = await self._desk.line(self._desk, kind, request)
        except Problem as problem:
            retryable = problem.status >= 500
            raise HubRefused(problem.code, problem.detail, retryable=retryable, errors=problem.errors) from None
        self._desk.breathe()
        return answer


class _Direct:
    """`consumers.offline.comparison.Local`, in this thread."""

    def __init__(self, desk: DeskSide) -> None:
        self._desk = desk

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        return work(self._desk.database)


@dataclass(slots=True)
class Accepted:
    """What a desk was told to be kept, or perhaps kept."""

    device: str
    items: list[QueueItem] = field(default_factory=list)
    maybe: list[str] = field(default_factory=list)
    """The uuids that were made in an operation that the device died in."""


class DeskSide:
    """One device. `open` before anything. What it accepts goes to `accepted`."""

    def __init__(
        self,
        name: str,
        system: str,
        directory: Path,
        clock: SimulatedClock,
        hub: Callable[[], Any],
        line: Line,
        accepted: Callable[[Accepted], None],
        seed: str,
    ) -> None:
        self.name = name
        self.system = system
        self.token = claims(system, name)
        self.hub = hub
        self.line = line
        self.told: dict[str, str] = {}
        """What the hub said last of each item."""
        self._path = directory / f"{name}.db"
        self._clock = clock
        self._accepted = accepted
        self.random = random.Random(seed)
        self.skew_s = self.random.uniform(-1200, 1200)
        self._drift = self.random.uniform(-25, 25) / 86_400
        self._set_at = 0.0
        self._mortality = _Mortality()
        self._made: list[str] = []
        self.up = False
        self.syncing = False
        self.deaths = self.syncs = self.broken = 0
        self.tally = Tally()

    # -- life -----------------------------------------------------------------------------------------------------

    def now(self) -> datetime:
        """What its clock shows: wrong, and drifting, by up to 20 minutes."""
        off = self.skew_s + (self._clock.seconds - self._set_at) * self._drift
        return self._clock.now() + timedelta(seconds=max(-1200.0, min(1200.0, off)))

    def set_clock(self) -> None:
        """Somebody sets it, right or wrong: it jumps."""
        self.skew_s, self._set_at = self.random.uniform(-1200, 1200), self._clock.seconds

    def open(self) -> None:
        """Start."""
        self._mortality = _Mortality()
        self.database = LocalDatabase.open(
            self._path,
            tenant_id=TENANT,
            system=self.system,
            now=self.now,
            device_id=self.name,
            new_uuid=self._uuid,
        )
        journal: Any = self.database._file._journal
        for name in ("begin", "mark", "rewrite"):
            setattr(journal, name, self._mortal(getattr(journal, name)))
        self.engine = SyncEngine(
            _Direct(self),
            _Transport(self),
            clock=self._clock,
            now=self.now,
            random=self.random.random,
            interval_s=300,
            max_retries=3,
        )
        self.up = True

    def _uuid(self) -> str:
        made = str(UUID(int=self.random.getrandbits(128), version=4))
        self._made.append(made)
        return made

    def _mortal(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Before and after what goes to the disk; `mark` comes right after each commit."""

        def step(*args: Any) -> Any:
            self.breathe()
            result = call(*args)
            self.breathe()
            return result

        return step

    def breathe(self) -> None:
        """The device may die here."""
        self._mortality.step(self._copy)

    def doom(self, steps: int) -> None:
        """Die after so many more steps."""
        self._mortality.left = steps

    def _copy(self) -> None:
        for end in _FILES:
            held, kept = Path(f"{self._path}{end}"), Path(f"{self._path}{end}.dead")
            kept.unlink(missing_ok=True)
            if held.exists():
                shutil.copyfile(held, kept)

    def kill(self) -> None:
        """Gone, at once: as its files are, or were when it died within something."""
        if not self._mortality.taken:
            self._copy()
        self.database.close()
        for end in (*_FILES, "-shm"):
            held, kept = Path(f"{self._path}{end}"), Path(f"{self._path}{end}.dead")
            held.unlink(missing_ok=True)
            if kept.exists():
                kept.rename(held)
        self.up = False
        self.deaths += 1

    def close(self) -> None:
        """End."""
        if self.up:
            self.database.close()
            self.up = False

    # -- work -----------------------------------------------------------------------------------------------------

    def record(self, type: str, entity: str) -> dict[str, Any] | None:
        """What the desk shows of a record; None of nothing, or of what is deleted."""
        found = self.database.record(type, entity)
        return None if found is None or found.deleted else found.data

    def operate(self, changes: Sequence[LocalChange], operation: str) -> bool:
        """Do something here. Whether it was accepted; a device that dies in it did not accept it.

        Raises:
            DeviceDied
        """
        self._made = []
        before = self.database._operations.sequence()
        try:
            self.database.operate(changes, operator="Ana", operation=operation)
        except DeviceDied:
            self._accepted(Accepted(self.name, maybe=list(self._made)))
            raise
        items = self.database.pending(after=before, limit=100)
        self._accepted(Accepted(self.name, items))
        return True

    async def sync(self) -> bool:
        """Push what waits and pull what is new. False: it was broken off.

        Raises:
            DeviceDied
        """
        self.syncing = True
        self.syncs += 1
        try:
            await self.engine._carry_out("interval", self.tally)
        except Disconnected:
            self.broken += 1
            return False
        except HubRefused as refusal:
            if not refusal.retryable:
                raise AssertionError(f"{self.name}: {refusal} {refusal.errors}") from refusal
            self.broken += 1
            return False
        except ConsumerError as error:
            raise AssertionError(f"{self.name}: {error}") from error
        finally:
            self.syncing = False
        return True

    async def digest(self) -> DigestResponse:
        """The hub's."""
        return await _Transport(self).digest()
