"""What calls for a recovery of a desk, and what its staff is told meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from desk_rig import DeskRig, booked, do
from hand_clock import HandClock, until
from recovery_stage import HubInMemory, Stage
from sync_hub_server import SyncHubServer

from consumers.clock import SystemClock
from consumers.credential import Credential
from consumers.errors import AccessRefused, ConsumerError
from consumers.offline.database import LocalDatabase
from consumers.offline.desk import Desk
from consumers.offline.desk_recovery import AGAIN_S, DeskParts, DeskRecovery
from consumers.offline.engine import SyncOutcome
from consumers.offline.errors import LocalDamaged, LocalFull, LocalUnusable
from consumers.offline.guidance import DAY_S, LONG_S, Guidance
from consumers.offline.items import Counts
from consumers.offline.recovery import Report
from consumers.offline.settings import DeskSettings
from consumers.offline.status import StatusStream
from schemas.cursor import Cursor
from schemas.sync import (
    BucketEntry,
    ComparisonReport,
    StateDigest,
    bucket_hash,
    bucket_of,
    root_hash,
    state_hash,
)

T = TypeVar("T")


class Parts(Stage):
    """A desk's parts, as the recovery of one sees them: the stage's, with a line and a status."""

    def __init__(self, path: Path) -> None:
        hub = HubInMemory()
        hub.publish("101", "vacant_clean")
        # It moves by hand: what runs beside the recovery must not make the time fly.
        super().__init__(path, hub, clock=HandClock())  # type: ignore[arg-type]
        self.status = StatusStream()
        self.credential = Credential(self._fetch)
        self.fetches: list[ConsumerError | None] = []
        self.good = True
        self.signed: list[None] = []
        self.local_failures: list[ConsumerError] = []

    # Each part is this one.
    @property
    def local(self) -> Parts:
        return self

    @property
    def hub(self) -> Parts:
        return self

    @property
    def line(self) -> Parts:
        return self

    def set_online(self, online: bool) -> None:
        self.good = online
        self.status.update(online=online)

    async def call(self, work: Callable[[LocalDatabase], T]) -> T:
        if self.local_failures:
            raise self.local_failures.pop(0)
        return await super().call(work)

    async def exchange(self, work: Callable[[], T]) -> T:
        self.calls.append("exchange")
        self.database.close()
        try:
            return work()
        finally:
            self.database = self.open()

    async def check(self) -> bool:
        self.calls.append("check")
        return self.good

    def set_interval(self, seconds: float | None) -> None:
        self.intervals.append(seconds)

    async def authenticated(self, after: str | None = None) -> bool:
        await self.authenticate()
        return False

    async def schemas(self) -> dict[str, int]:
        return dict(await super().schemas())

    async def sync_now(self) -> SyncOutcome:
        try:
            await self.sync()
        except ConsumerError as error:
            return SyncOutcome("manual", "failed", error=error)
        return SyncOutcome("manual", "done")

    def signed_in(self) -> None:
        self.signed.append(None)
        self.status.update(session_expired=False)

    async def _fetch(self) -> str:
        failure = self.fetches.pop(0) if self.fetches else None
        if failure is not None:
            raise failure
        return "token"


class Cared:
    """A desk that is looked after, and what was said."""

    def __init__(self, parts: Parts, recovery: DeskRecovery, told: list[str]) -> None:
        self.parts, self.recovery, self.told = parts, recovery, told

    async def until_told(self, *situations: str) -> None:
        """Wait until just this was said since the last time."""
        await until(lambda: len(self.told) >= len(situations))
        assert self.told == [*situations]
        self.told.clear()


@asynccontextmanager
async def cared(parts: Parts) -> AsyncIterator[Cared]:
    """Look after the desk; its daily comparison is not due."""
    told: list[str] = []

    def tell(said: Sequence[Guidance]) -> None:
        told.extend(one.situation for one in said)

    recovery = DeskRecovery(parts, parts.path, clock=parts.clock, now=parts.now, random=lambda: 0.5, tell=tell)
    parts.database.put_vault("comparison", orjson.dumps({"at": parts.now().isoformat(), "state": "equal"}))
    task = asyncio.create_task(recovery.run())
    try:
        await until(lambda: parts.clock.asleep(600.0))
        yield Cared(parts, recovery, told)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        parts.database.close()


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """A desk that nobody looks after yet."""
    return Parts(tmp_path / "desk.db")


async def test_an_outage_and_the_way_back(parts: Parts) -> None:
    """Told at once, after an hour and after a day; then recovered, watched closely, and told so (R83, R84)."""
    parts.set_online(True)
    async with cared(parts) as desk:
        parts.work("201")
        parts.set_online(False)
        await desk.until_told("outage")
        await parts.clock.pass_sleep(LONG_S)
        await desk.until_told("outage_long")
        parts.status.update(counts=Counts(queued=1000))
        await parts.clock.pass_sleep(DAY_S - LONG_S)
        await desk.until_told("outage_day", "queue_full")
        parts.set_online(True)
        await desk.until_told("recovering", "recovered", "monitoring")
        assert parts.database.counts().waiting == 0
        await until(lambda: parts.intervals == [1.0])
        parts.status.update(counts=Counts())
        parts.set_online(False)
        await until(lambda: parts.clock.asleep(LONG_S))
        parts.set_online(True)
        await desk.until_told("outage", "recovering", "recovered", "monitoring")
        assert not parts.clock.asleep(LONG_S), "a short outage is not called a long one later"


async def test_a_start_without_a_reason_is_no_recovery(parts: Parts) -> None:
    """A desk that starts with nothing in its queue just goes online."""
    async with cared(parts) as desk:
        parts.set_online(True)
        parts.set_online(False)
        await desk.until_told("outage")
        assert parts.calls == []


async def test_what_was_done_after_a_start_with_the_line_down_is_recovered(parts: Parts) -> None:
    """Nothing waited at the start; what was done since then comes back as after any outage."""
    async with cared(parts) as desk:
        parts.work("201")
        parts.status.update(counts=Counts(queued=1))
        parts.set_online(True)
        await desk.until_told("recovering", "recovered", "monitoring")
        assert parts.database.counts().waiting == 0


@pytest.mark.parametrize("online_first", [False, True])
async def test_what_was_done_before_the_start_is_recovered(parts: Parts, online_first: bool) -> None:
    """The computer was turned off in an outage: the queue is a reason, as soon as the line holds."""
    parts.work("201")
    parts.set_online(online_first)
    async with cared(parts) as desk:
        assert online_first or not desk.told
        parts.set_online(True)
        await desk.until_told("recovering", "recovered", "monitoring")


async def test_the_pin_and_then_the_rest(parts: Parts) -> None:
    """The source wants a person; once there is a token again the recovery goes on by itself, and once (R85)."""
    expired = AccessRefused(401, "token_expired")
    parts.work("201")
    parts.failing["authenticate"] = [expired]
    parts.fetches = [AccessRefused(401, "PIN")]
    async with cared(parts) as desk:
        parts.status.update(online=True, session_expired=True)
        await desk.until_told("recovering", "pin_needed")
        parts.failing["authenticate"] = [expired]
        parts.calls.clear()
        parts.signed_in()
        await desk.until_told("recovering", "recovered", "monitoring")
        assert parts.calls[0] == "authenticate", "not from the beginning"
        assert len(parts.signed) == 2


async def test_signing_in_silently_is_no_reason_for_another_recovery(parts: Parts) -> None:
    """The source has a token without a person: the recovery that asked for it goes on, and is the only one."""
    parts.work("201")
    parts.failing["authenticate"] = [AccessRefused(401, "token_expired")]
    async with cared(parts) as desk:
        parts.status.update(online=True, session_expired=True)
        await desk.until_told("recovering", "recovered", "monitoring")
        assert len(parts.signed) == 1
        await until(lambda: parts.clock.asleep(60.0))
        assert desk.told == []
        assert parts.calls.count("schemas") == 1


async def test_a_failed_recovery_is_tried_again(parts: Parts) -> None:
    """After some minutes, without anybody's doing (R107)."""
    parts.work("201")
    parts.failing["authenticate"] = [AccessRefused(403, "forbidden")]
    async with cared(parts) as desk:
        parts.set_online(True)
        await desk.until_told("recovering", "failed")
        await until(lambda: parts.clock.timed(AGAIN_S))
        parts.clock.advance(AGAIN_S)
        await desk.until_told("recovering", "recovered", "monitoring")


async def test_a_line_that_is_not_there_after_all(parts: Parts) -> None:
    """The probes of the recovery itself decide: offline again, and nothing but that is told."""
    parts.work("201")
    async with cared(parts) as desk:
        parts.status.update(online=True)
        parts.good = False
        for failure in range(4):
            await until(lambda failure=failure: parts.calls.count("check") == failure + 1)  # type: ignore[misc]
            if failure < 3:
                await parts.clock.pass_sleep(0.5 * 2**failure)
        await desk.until_told("recovering", "outage")


async def test_a_database_that_writes_again(parts: Parts) -> None:
    """A write that failed once is no reason to stop working."""
    async with cared(parts) as desk:
        parts.local_failures = [LocalUnusable("desk.db", "disk I/O error")] * 2
        parts.status.update(local_error="desk.db: disk I/O error")
        await parts.clock.pass_sleep(0.5)
        await parts.clock.pass_sleep(1.0)
        await until(lambda: parts.status.current.state != "local_error")
        assert desk.told == []


@pytest.mark.parametrize(
    ("error", "told"),
    [(LocalUnusable("desk.db", "disk I/O error"), "rebuild_proposed"), (LocalFull("desk.db", "full"), "make_room")],
)
async def test_a_database_that_does_not_write(parts: Parts, error: ConsumerError, told: str) -> None:
    """Also in an outage: retries, then a person is asked; agreed, it is rebuilt and nothing is lost (R85)."""
    uuid = parts.work("201")
    async with cared(parts) as desk:
        parts.local_failures = [error] * 9
        parts.status.update(local_error=str(error))
        if told == "rebuild_proposed":
            for seconds in (0.5, 1.0, 2.0):
                await parts.clock.pass_sleep(seconds)
        await desk.until_told(told)
        assert "exchange" not in parts.calls
        parts.local_failures = []
        outcome = await desk.recovery.approve_rebuild()
        assert outcome.state == "recovered"
        assert uuid in [change.uuid for change in parts.memory.changes]
        await desk.until_told("rebuilding", "recovering", "rebuilt", "recovered", "monitoring")
        assert parts.status.current.state != "local_error"


async def test_a_damaged_database_is_rebuilt_in_an_outage(parts: Parts) -> None:
    """Nobody is asked and the hub is not waited for: the desk goes on working."""
    uuid = parts.work("201")
    async with cared(parts) as desk:
        parts.good = False
        damaged = LocalDamaged("desk.db", ["malformed"])
        parts.local_failures = [damaged] * 2
        parts.database.close()
        content = bytearray(parts.path.read_bytes())
        content[4096 : 3 * 4096] = bytes(2 * 4096)
        parts.path.write_bytes(content)
        parts.status.update(local_error=str(damaged))
        await until(lambda: "exchange" in parts.calls)
        for seconds in (0.5, 1.0, 2.0):
            await parts.clock.pass_sleep(seconds)
        await desk.until_told("rebuilding", "recovering", "outage")
        assert uuid in [item.uuid for item in parts.database.pending()]
        assert parts.status.current.state != "local_error"


class ComparedHub(SyncHubServer):
    """A hub behind a port that can be compared with."""

    reports: list[ComparisonReport]

    async def _sync(self, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Any:
        if path == "digest" and body:
            self.reports.append(ComparisonReport.model_validate_json(body))
            return {}
        if path == "digest":
            return self._digest(query)
        return await super()._sync(path, query, headers, body)

    def _digest(self, query: dict[str, str]) -> dict[str, Any]:
        tree: dict[int, list[StateDigest]] = {}
        for (type, entity), held in self.sync.states.items():
            hash = state_hash(type, entity, held["revision"], held["data"])
            tree.setdefault(bucket_of(type, entity), []).append(StateDigest(type, entity, held["revision"], hash))
        hashes = {number: bucket_hash(states) for number, states in tree.items()}
        wanted = [int(number, 16) for number in query.get("bucket", "").split(",") if number]
        return {
            "cursor": self.sync.head(),
            "root": root_hash(hashes),
            "count": len(self.sync.states),
            "buckets": {f"{number:02x}": hash for number, hash in hashes.items()},
            "states": [BucketEntry(**one._asdict()).model_dump() for n in wanted for one in tree.get(n, ())],
        }


async def test_a_real_desk_over_http(rig: DeskRig) -> None:
    """What was done offline is pushed, compared and reported by a whole desk, in far less than 30 seconds (R82)."""
    database = rig.open()
    for number in range(50):
        do(database, booked(f"R{number}"))
    database.close()
    told: list[str] = []
    reports: list[Report] = []
    server = ComparedHub()
    server.reports = []
    async with server:
        server.sync.happen("RoomStatus", "301", {"room_number": "301"})
        async with await Desk.open(
            rig.path,
            url=server.url,
            token="good",
            tenant_id="default",
            system="hotel-pms",
            now=rig.clock.now,
            settings=DeskSettings(local_db_path=rig.path),
        ) as desk:
            parts: DeskParts = desk
            recovery = DeskRecovery(
                parts,
                rig.path,
                clock=SystemClock(),
                now=rig.clock.now,
                report=reports.append,
                tell=lambda said: told.extend(one.situation for one in said),
            )
            task = asyncio.create_task(recovery.run())
            await until(lambda: "recovered" in told)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert {report.step for report in reports} >= {"connectivity_check", "integrity_verification"}
            assert len(server.sync.taken) == 100
            assert all(report.equal for report in server.reports)
            assert Cursor.decode(server.reports[-1].cursor).sequence == 101
            assert desk.line.online
