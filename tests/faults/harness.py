"""Publishes, subscribes and consumes while it kills (SIGKILL) the hub, its embedded server and the consumers at random.

`python -m tests.faults.harness --kills 500 --seed 1 --fsync always`: prints a table, and one JSON line on the last
line of standard output. The exit code is 0 when nothing was lost, doubled, out of order or unexpected. The seed fixes
who is killed and after how much; what that meets is the machine's doing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TextIO, cast

import httpx
from redis.asyncio import Redis

from hub.security.tokens import Tokens, own_key

from .ledger import Ledger, Observation, Report, Seen, Stored, check
from .memory import NAME, PostgresUnderTest, Remembered, judge
from .processes import HubUnderTest, Keeper
from .publishers import HttpPublisher, Publisher, SocketPublisher
from .slow_disk import slow_disk
from .subscribers import Subscriber

Entries = list[tuple[bytes, dict[bytes, bytes]]]

TENANTS: Final = ("default", "naha", "ginza", "kobe")
GROUP: Final = "hotel-saas"
PARTITIONS: Final = 8
_PROGRESS_S: Final = 60.0
_SETTLE_S: Final = 30.0
_WORK_S: Final = 10.0
_POLL_S: Final = 0.05
_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `rate`: events a second of all publishers together; None is as fast as they go.

    `watchers`: with subscribers and consumers, else publishers alone. `until_lost`: end early once the log has lost
    something (asked after every kill). `slow_disk_ms`: how much longer every flush to disk takes.
    """

    kills: int = 20
    seed: int = 1
    fsync: Literal["always", "everysec"] = "always"
    rate: float | None = 300.0
    watchers: bool = True
    only: Literal["hub", "server", "consumers", "store"] | None = None
    until_lost: bool = False
    slow_disk_ms: int = 0
    store: Literal["sqlite", "postgres"] = "sqlite"


@dataclass(slots=True)
class Outcome:
    """What happened: the kills, and the comparison of ledger, log and observers."""

    plan: Plan
    report: Report
    kills: dict[str, int]
    seconds: float
    events_per_s: float
    open_answers: int
    unexpected_exits: dict[str, int]
    dead_letters: int
    alarms: int
    warned_not_durable: bool
    memory: Remembered | None
    trouble: dict[str, str] = field(default_factory=dict)

    @property
    def clean(self) -> bool:
        """Every promise was kept."""
        remembered = self.memory is None or self.memory.clean
        return self.report.clean and remembered and not any(self.unexpected_exits.values()) and not self.dead_letters

    def line(self) -> dict[str, Any]:
        """All numbers, flat enough for one line."""
        rest = {name: value for name, value in asdict(self).items() if name not in ("report", "trouble", "plan")}
        return {"clean": self.clean} | asdict(self.plan) | {"kills_by": rest.pop("kills")} | rest | asdict(self.report)


class NoProgress(Exception):
    """Nothing was acknowledged for a minute."""


class Harness:
    """One run. `directory` is made and removed."""

    def __init__(self, plan: Plan, say: Callable[[str], None] = lambda _: None) -> None:
        self._plan = plan
        self._say = say
        self._random = random.Random(plan.seed)
        # Not under the system's test directories: the server's socket needs a short path.
        self._directory = Path(tempfile.mkdtemp(prefix="hub-faults-"))
        slowness = slow_disk(self._directory, plan.slow_disk_ms) if plan.slow_disk_ms else {}
        self._postgres = PostgresUnderTest(self._directory) if plan.store == "postgres" else None
        if self._postgres is not None:
            slowness = slowness | {"HUB_STORE_URL": self._postgres.url}
        self._hub = HubUnderTest(self._directory, plan.fsync, slowness)
        self._ledger = Ledger()
        self._publishers: list[Publisher] = []
        self._subscribers: list[Subscriber] = []
        self._workers: dict[str, Keeper] = {}
        self._kinds: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> Outcome:
        """Do what the plan says.

        Raises:
            NoProgress: the hub does not come back.
            AssertionError: a publisher or subscriber was refused.
        """
        started = time.monotonic()
        try:
            self._set_up()
            self._hub.keeper.start()
            await self._hub.ready()
            for worker in self._workers.values():
                worker.start()
            publishing = [asyncio.create_task(publisher.run()) for publisher in self._publishers]
            self._tasks = [asyncio.create_task(subscriber.run()) for subscriber in self._subscribers]
            self._tasks += publishing
            await self._kill_at_random()
            for publisher in self._publishers:
                publisher.stop()
            await self._hub.ready()
            await asyncio.wait_for(asyncio.gather(*publishing), _PROGRESS_S)
            published_for = time.monotonic() - started
            return await self._judge(started, published_for)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await asyncio.gather(*(worker.stop() for worker in self._workers.values()))
            await self._hub.keeper.stop()
            if self._postgres is not None:
                await asyncio.to_thread(self._postgres.stop)
            shutil.rmtree(self._directory, ignore_errors=True)

    def _set_up(self) -> None:
        plan, hub = self._plan, self._hub
        hub.data_dir.mkdir(mode=0o700)
        issue = Tokens([own_key(hub.data_dir)]).issue
        member = issue("hotel-member", TENANTS, ["publish:*", "subscribe:*"])
        pms = issue("hotel-pms", TENANTS, ["publish:*", "subscribe:*"])
        self._reading = issue("hub", TENANTS, ["subscribe:*"])
        several = {"seed": plan.seed, "reservations": 40}
        shares = (0.45, 0.3, 0.1, 0.15)
        rates = [None if plan.rate is None else plan.rate * share for share in shares]
        ledger = self._ledger
        self._publishers = [
            HttpPublisher(hub.url, pms, 20, "batch-a", TENANTS, ledger, rate=rates[0], **several),
            HttpPublisher(hub.url, member, 7, "batch-b", TENANTS, ledger, rate=rates[1], **several),
            HttpPublisher(hub.url, member, 1, "single", TENANTS, ledger, rate=rates[2], **several),
            SocketPublisher(hub.socket_url, pms, "socket", TENANTS, ledger, rate=rates[3], **several),
        ]
        if not plan.watchers:
            return
        self._subscribers = [
            Subscriber("socket by cursor", hub.socket_url, pms, TENANTS),
            Subscriber("socket by name", hub.socket_url, pms, TENANTS, NAME),
        ]
        inbox = {"database": str(self._database("stream")), "url": hub.redis_url, "group": GROUP}
        for number in (1, 2):
            self._work(f"stream consumer {number}", "stream", inbox | {"consumer": f"faults-{number}"})
        client = {"url": hub.socket_url, "token": member, "name": "faults-client"}
        self._work("client", "client", {"database": str(self._database("client"))} | client)

    def _database(self, kind: str) -> Path:
        return self._directory / f"{kind}.sqlite"

    def _work(self, name: str, kind: str, specification: dict[str, str]) -> None:
        command = [sys.executable, "-m", "tests.faults.worker", kind, json.dumps(specification)]
        self._kinds[name] = kind
        self._workers[name] = Keeper(name, command, self._directory / f"{name.replace(' ', '-')}.log", dict(os.environ))

    # -- killing --------------------------------------------------------------------------------------------------

    async def _kill_at_random(self) -> None:
        killed = 0
        while killed < self._plan.kills:
            # Mostly after some progress; now and then while the last death is still being mended.
            if killed == 0 or self._random.random() < 0.8:
                await self._progress(self._random.randint(1, 150))
            else:
                await asyncio.sleep(self._random.random() * 0.5)
            victims = {"hub": 4, "server": 4, "consumers": 3} | ({"store": 3} if self._postgres else {})
            victim = self._plan.only or self._random.choices(list(victims), list(victims.values()))[0]
            if await self._kill(victim):
                killed += 1
                if killed % 20 == 0:
                    self._say(f"{killed} kills, {len(self._ledger.receipts)} acknowledged")
            if self._plan.until_lost and await self._lost_already():
                return

    async def _kill(self, victim: str) -> bool:
        if victim == "store":
            return self._postgres is not None and await self._postgres.kill()
        if victim == "hub":
            strike = self._hub.keeper.kill
        elif victim == "server":
            strike = self._hub.kill_server
        else:
            name = self._random.choice(sorted(self._workers)) if self._workers else None
            if name is None:
                return False
            await self._worked(self._kinds[name], self._random.randint(1, 80))
            strike = self._workers[name].kill
        async with asyncio.timeout(_PROGRESS_S):
            while not strike():  # noqa: ASYNC110 - a process has no event to tell that it has started
                await asyncio.sleep(_POLL_S)
        return True

    async def _worked(self, kind: str, events: int) -> None:
        """Wait until the workers of a kind have handled so many further events, to meet them at it; not for ever."""
        wanted, deadline = self._handled(kind) + events, time.monotonic() + _WORK_S
        while self._handled(kind) < wanted and time.monotonic() < deadline:  # noqa: ASYNC110 - it is in another process
            await asyncio.sleep(0.01)

    async def _progress(self, events: int) -> None:
        """Wait for so many further receipts."""
        wanted = len(self._ledger.receipts) + events
        deadline = time.monotonic() + _PROGRESS_S
        while len(self._ledger.receipts) < wanted:
            self._raise_failures()
            if time.monotonic() > deadline:
                raise NoProgress(self._hub.keeper.last_words())
            await asyncio.sleep(0.01)

    def _raise_failures(self) -> None:
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.result()

    async def _lost_already(self) -> bool:
        await self._hub.ready()
        known = set(self._ledger.receipts)
        return bool(known - {entry.event_id for entry in await self._read_log()})

    # -- judging --------------------------------------------------------------------------------------------------

    async def _judge(self, started: float, published_for: float) -> Outcome:
        log = await self._read_log()
        if not self._plan.until_lost:
            await self._settle({entry.event_id for entry in log})
        log = await self._read_log()
        listing = await self._read_listing()
        seen = [subscriber.observation() for subscriber in self._subscribers]
        seen += self._read_workers()
        report = check(self._ledger, log, listing, seen)
        keepers = {"hub": self._hub.keeper} | self._workers
        trouble = {name: keeper.words[0] for name, keeper in keepers.items() if keeper.words}
        return Outcome(
            plan=self._plan,
            report=report,
            kills={"server": self._hub.server_kills, "store": self._postgres.kills if self._postgres else 0}
            | {name: keeper.kills for name, keeper in keepers.items()},
            seconds=round(time.monotonic() - started, 1),
            events_per_s=round(len(log) / published_for, 1),
            open_answers=self._ledger.open_answers,
            unexpected_exits={name: keeper.unexpected_exits for name, keeper in keepers.items()},
            dead_letters=await self._dead_letters(),
            alarms=sum(
                keeper.output.read_text(errors="replace").count("alarm ")
                for keeper in self._workers.values()
                if keeper.output.exists()
            ),
            warned_not_durable=self._hub.warned(),
            memory=await self._remembered(),
            trouble=trouble,
        )

    async def _remembered(self) -> Remembered | None:
        """The store against the log, once the archiver has caught up; None where the log lost what the store kept."""
        if self._plan.until_lost:
            return None
        log = await self._raw_log()
        deadline = time.monotonic() + _SETTLE_S
        async with httpx.AsyncClient(base_url=self._hub.url, timeout=30) as client:
            while time.monotonic() < deadline:
                page = (await client.get("/metrics")).text
                lag = [line for line in page.splitlines() if line.startswith("hub_store_lag_events ")]
                ready = (await client.get("/readyz")).json()["checks"]["store"]["ok"]
                if ready and lag and float(lag[0].split()[1]) == 0:
                    break
                await asyncio.sleep(_POLL_S * 4)
        named = [one for one in self._subscribers if one.acknowledged]
        acknowledged = named[0].acknowledged if named else {}
        url = None if self._postgres is None else self._postgres.url
        while True:
            found = await judge(url, self._hub.data_dir, log, PARTITIONS, acknowledged)
            # The lag is as of the last transaction, which takes long on a slow disk.
            if not found.missing or time.monotonic() > deadline + _SETTLE_S:
                return found
            await asyncio.sleep(_POLL_S * 10)

    async def _raw_log(self) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        async with Redis.from_url(self._hub.redis_url, protocol=2) as redis:
            for partition in range(PARTITIONS):
                for _, fields in cast(Entries, await redis.xrange(f"hub:{{p{partition:02d}}}:events")):
                    found[fields[b"event_id"].decode()] = fields[b"event_data"]
        return found

    async def _settle(self, wanted: set[str]) -> None:
        """Wait until every observer has everything, or until none of them gets on any more."""
        deadline, best = time.monotonic() + _SETTLE_S, -1
        while time.monotonic() < deadline:
            self._raise_failures()
            having = [len(wanted & subscriber.ids) for subscriber in self._subscribers]
            having += [len({event.event_id for event in one.seen}) for one in self._read_workers()]
            if all(count >= len(wanted) for count in having):
                return
            if sum(having) > best:
                deadline, best = time.monotonic() + _SETTLE_S, sum(having)
            await asyncio.sleep(_POLL_S * 4)

    async def _read_log(self) -> list[Stored]:
        """Every stream, from end to end, as it lies on the server."""
        found = []
        async with Redis.from_url(self._hub.redis_url, protocol=2) as redis:
            for partition in range(PARTITIONS):
                after = "-"
                key = f"hub:{{p{partition:02d}}}:events"
                while entries := cast(Entries, await redis.xrange(key, after, "+", _PAGE)):
                    found += [_stored(fields) for _, fields in entries]
                    after = f"({entries[-1][0].decode()}"
        return found

    async def _dead_letters(self) -> int:
        async with Redis.from_url(self._hub.redis_url, protocol=2) as redis:
            keys = [f"hub:{{p{partition:02d}}}:dead:{GROUP}" for partition in range(PARTITIONS)]
            return sum([await redis.xlen(key) for key in keys])

    async def _read_listing(self) -> list[Stored]:
        """Everything over `GET /events`, a tenant at a time."""
        found = []
        headers = {"Authorization": f"Bearer {self._reading}"}
        async with httpx.AsyncClient(base_url=self._hub.url, headers=headers, timeout=30) as client:
            for tenant in TENANTS:
                after, page = "earliest", [dict[str, Any]()]
                while page:
                    answer = await client.get(
                        "/api/v1/events", params={"tenant": tenant, "after": after, "limit": _PAGE}
                    )
                    body = answer.raise_for_status().json()
                    page, after = body["events"], body["next"]
                    found += [_listed(item) for item in page]
        return found

    def _read_workers(self) -> list[Observation]:
        if not self._workers:
            return []
        stream, _ = self._rows("stream")
        client, notes = self._rows("client")
        return [Observation("stream consumers", True, stream), Observation("client", False, client, gaps=len(notes))]

    def _handled(self, kind: str) -> int:
        try:
            with closing(sqlite3.connect(f"file:{self._database(kind)}?mode=ro", uri=True, timeout=30)) as connection:
                return int(connection.execute("SELECT coalesce(max(place), 0) FROM effects").fetchone()[0])
        except sqlite3.OperationalError:  # not made yet
            return 0

    def _rows(self, kind: str) -> tuple[list[Seen], list[str]]:
        path = self._database(kind)
        if not path.exists():
            return [], []
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if not {"effects", "notes"} <= tables:
                return [], []
            effects = connection.execute("SELECT event_id, tenant, reservation, number FROM effects ORDER BY place")
            return [Seen(*row) for row in effects], [text for (text,) in connection.execute("SELECT text FROM notes")]


def _stored(fields: dict[bytes, bytes]) -> Stored:
    data = json.loads(fields[b"event_data"])["data"]
    return Stored(
        fields[b"event_id"].decode(),
        fields[b"tenant_id"].decode(),
        data["reservation_id"],
        data["total_amount"],
        int(fields[b"sequence"]),
        int(fields[b"revision"]),
    )


def _listed(item: dict[str, Any]) -> Stored:
    event = item["event"]
    data = event["data"]
    return Stored(
        event["event_id"],
        event["tenant_id"],
        data["reservation_id"],
        data["total_amount"],
        item["sequence"],
        event["revision"],
    )


def table(outcome: Outcome) -> str:
    """The outcome for people."""
    rows = []
    for name, value in outcome.line().items():
        shown = ", ".join(f"{key} {number}" for key, number in value.items()) if isinstance(value, dict) else value
        rows.append(f"{name.replace('_', ' '):<20} {shown}")
    rows += [f"\n{name} ended by itself; its last words:\n{words}" for name, words in outcome.trouble.items()]
    return "\n".join(rows)


def main(arguments: list[str] | None = None, out: TextIO = sys.stdout) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fsync", choices=("always", "everysec"), default="always")
    parser.add_argument("--rate", type=float, default=300.0, help="events a second; 0: as fast as it goes")
    parser.add_argument("--only", choices=("hub", "server", "consumers", "store"), help="kill nothing else")
    parser.add_argument("--no-watchers", action="store_true", help="publish and kill; nobody subscribes or consumes")
    parser.add_argument("--until-lost", action="store_true", help="stop at the first loss")
    parser.add_argument("--slow-disk", type=int, default=0, metavar="MS", help="what a flush takes longer; needs cc")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite", help="where the events are kept")
    asked = parser.parse_args(arguments)
    plan = Plan(
        kills=asked.kills,
        seed=asked.seed,
        fsync=asked.fsync,
        rate=asked.rate or None,
        watchers=not asked.no_watchers,
        only=asked.only,
        until_lost=asked.until_lost,
        slow_disk_ms=asked.slow_disk,
        store=asked.store,
    )
    outcome = asyncio.run(Harness(plan, lambda text: print(text, file=sys.stderr, flush=True)).run())
    print(table(outcome), file=out)
    print(json.dumps(outcome.line()), file=out, flush=True)
    return 0 if outcome.clean else 1


if __name__ == "__main__":
    sys.exit(main())
