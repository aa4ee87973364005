"""Publishes and kills (SIGKILL) the hub, its embedded server and its database while webhooks go out; and the judge of
what the endpoints got.

`python -m tests.faults.webhooks --kills 50 --seed 3` prints what was found; the exit code is 0 when nothing was lost,
out of order, miscounted or badly signed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, NamedTuple

import httpx
import orjson
from standardwebhooks import Webhook, WebhookVerificationError

from hub.bench.webhook_receivers import Peer, Reply, Request
from hub.security.tokens import Tokens, own_key

from .ledger import Attempt, Ledger
from .memory import PostgresUnderTest
from .processes import HubUnderTest
from .publishers import HttpPublisher

TENANTS: Final = ("default", "naha")
ASKED: Final = {"steady": "reservation.*", "flaky": "reservation.*", "slow": "*", "picky": "reservation.created"}
"""The kinds of endpoints, and what each asks for. Every tenant has one of each."""
_SLOW_S: Final = 0.05
_FAILS_EVERY: Final = 3
_SCHEDULE: Final = ",".join(["0.1"] * 100)
"""Long enough that nothing is given up, which would be neither lost nor delivered."""
_PROGRESS_S: Final = 40.0

Victim = Literal["hub", "store"]


@dataclass(frozen=True, slots=True)
class Plan:
    """Who is killed, one after another, and how fast events are published (events a second)."""

    victims: Sequence[Victim] = ("hub",) * 10
    seed: int = 1
    rate: float = 30.0
    store: Literal["sqlite", "postgres"] = "sqlite"


class Got(NamedTuple):
    """A request as an endpoint got it. `took`: it was answered with 200; `verified`: its signature is good."""

    endpoint: str
    event_id: str
    tenant: str
    reservation: str
    number: int
    attempt: int
    took: bool
    verified: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the endpoints got; everything from `lost` on is zero when the hub kept its word."""

    acknowledged: int
    requests: int
    repeated: int
    lost: int
    out_of_order: int
    miscounted: int
    unverified: int
    unexpected: int

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not any((self.lost, self.out_of_order, self.miscounted, self.unverified, self.unexpected))


def endpoint_of(kind: str, tenant: str) -> str:
    """The path of an endpoint."""
    return f"/{kind}/{tenant}"


def owed(endpoint: str, attempt: Attempt) -> bool:
    """Whether an event goes to an endpoint."""
    _, kind, tenant = endpoint.split("/")
    return attempt.tenant == tenant and (kind != "picky" or attempt.number == 1)


def missing(ledger: Ledger, got: Iterable[Got], endpoints: Sequence[str]) -> set[tuple[str, str]]:
    """Acknowledged events that an endpoint asks for and never took: endpoint and event_id."""
    taken = {(one.endpoint, one.event_id) for one in got if one.took}
    wanted = {
        (endpoint, event_id)
        for event_id in ledger.receipts
        for endpoint in endpoints
        if owed(endpoint, ledger.attempts[event_id])
    }
    return wanted - taken


def judge(ledger: Ledger, got: Sequence[Got], endpoints: Sequence[str]) -> Verdict:
    """Hold what came, in its order, against what was published.

    out_of_order: of each reservation an endpoint gets the first event, as often as need be until it takes it, then the
    second, and so on. miscounted: a request whose `hub-attempt` is no greater than that of an earlier one for the same
    event. unexpected: never published, not as it was published, or not asked for. repeated, which may be: an event that
    was taken already, because the hub died before it knew.
    """
    last: dict[tuple[str, str], Got] = {}
    attempts: dict[tuple[str, str], int] = {}
    taken: set[tuple[str, str]] = set()
    repeated = out_of_order = miscounted = unexpected = 0
    for one in got:
        known = ledger.attempts.get(one.event_id)
        unexpected += known != (one.tenant, one.reservation, one.number) or not owed(one.endpoint, known)
        delivery = (one.endpoint, one.event_id)
        repeated += delivery in taken
        miscounted += one.attempt <= attempts.get(delivery, 0)
        attempts[delivery] = one.attempt
        before = last.get((one.endpoint, one.reservation))
        if before is None:
            out_of_order += one.number != 1
        elif one.number != before.number:
            out_of_order += one.number != before.number + 1 or (one.endpoint, before.event_id) not in taken
        last[one.endpoint, one.reservation] = one
        if one.took:
            taken.add(delivery)
    return Verdict(
        acknowledged=len(ledger.receipts),
        requests=len(got),
        repeated=repeated,
        lost=len(missing(ledger, got, endpoints)),
        out_of_order=out_of_order,
        miscounted=miscounted,
        unverified=sum(not one.verified for one in got),
        unexpected=unexpected,
    )


class Receiver:
    """The endpoints, in this process. `news` is set when something comes."""

    def __init__(self) -> None:
        self.got: list[Got] = []
        self.secrets: dict[str, str] = {}
        """Of each endpoint, by its path."""
        self.news = asyncio.Event()
        self._counts: dict[str, int] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Listen; the address."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Peer(self._take), "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.close()

    def _take(self, request: Request) -> Reply:
        kind = request.path.split("/")[1]
        # Of each by itself: two that shared a count could have one of them fail every time, and be spared for it.
        count = self._counts[request.path] = self._counts.get(request.path, 0) + 1
        took = kind != "flaky" or count % _FAILS_EVERY != 0
        event = orjson.loads(request.body)
        data = event["data"]
        place = event["tenant_id"], data["reservation_id"], int(data["total_amount"])
        same = event["event_id"] == request.headers["webhook-id"]
        verified = same and self._verified(request)
        attempt = int(request.headers["hub-attempt"])
        self.got.append(Got(request.path, event["event_id"], *place, attempt, took, verified))
        self.news.set()
        return Reply(200 if took else 500, _SLOW_S if kind == "slow" else 0.0)

    def _verified(self, request: Request) -> bool:
        try:
            Webhook(self.secrets[request.path]).verify(request.body, dict(request.headers))
        except WebhookVerificationError:
            return False
        return True


class WebhookHarness:
    """One run. Its directory is made and removed."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._random = random.Random(plan.seed)
        # Not under the system's test directories: the server's socket needs a short path.
        self._directory = Path(tempfile.mkdtemp(prefix="hub-webhooks-"))
        self._postgres = PostgresUnderTest(self._directory) if plan.store == "postgres" else None
        settings = {"HUB_WEBHOOK_ALLOW_HOSTS": "127.0.0.1", "HUB_WEBHOOK_SCHEDULE": _SCHEDULE}
        if self._postgres is not None:
            settings["HUB_STORE_URL"] = self._postgres.url
        self.hub = HubUnderTest(self._directory, "always", settings, module="tests.faults.webhook_hub")
        self._receiver = Receiver()
        self._endpoints = [endpoint_of(kind, tenant) for kind in ASKED for tenant in TENANTS]
        self._ledger = Ledger()
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> Verdict:
        """Do what the plan says.

        Raises:
            TimeoutError: nothing moves any more; it names what is missing.
            AssertionError: a publisher was refused.
        """
        try:
            await self._set_up()
            for victim in self._plan.victims:
                await self._some_progress()
                await self._kill(victim)
            await self._some_progress()
            await self._settle()
            return judge(self._ledger, self._receiver.got, self._endpoints)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self.hub.keeper.stop()
            self._receiver.stop()
            if self._postgres is not None:
                await asyncio.to_thread(self._postgres.stop)
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _set_up(self) -> None:
        self.hub.data_dir.mkdir(mode=0o700)
        issue = Tokens([own_key(self.hub.data_dir)]).issue
        publishing = issue("hotel-pms", TENANTS, ["publish:*"])
        managing = issue("hotel-member", TENANTS, ["subscribe:*"])
        address = await self._receiver.start()
        self.hub.keeper.start()
        await self.hub.ready()
        headers = {"Authorization": f"Bearer {managing}"}
        async with httpx.AsyncClient(base_url=self.hub.url, headers=headers, timeout=30) as client:
            for endpoint in self._endpoints:
                _, kind, tenant = endpoint.split("/")
                asked = {"url": address + endpoint, "tenant_id": tenant, "patterns": [ASKED[kind]]}
                made = (await client.post("/api/v1/webhooks", json=asked)).raise_for_status().json()
                self._receiver.secrets[endpoint] = made["secret"]
        rates = (self._plan.rate * 0.6, self._plan.rate * 0.4)
        several = {"seed": self._plan.seed, "reservations": 8}
        self._publishers = [
            HttpPublisher(self.hub.url, publishing, 3, "several", TENANTS, self._ledger, rate=rates[0], **several),
            HttpPublisher(self.hub.url, publishing, 1, "single", TENANTS, self._ledger, rate=rates[1], **several),
        ]
        self._tasks = [asyncio.create_task(publisher.run()) for publisher in self._publishers]

    async def _some_progress(self) -> None:
        """Wait for some webhooks, or for some receipts, which come sooner after a death."""
        if self._random.random() < 0.7:
            wanted = len(self._receiver.got) + self._random.randint(1, 120)
            await self._until(lambda: len(self._receiver.got) >= wanted)
        else:
            receipts = len(self._ledger.receipts) + self._random.randint(1, 15)
            await self._until(lambda: len(self._ledger.receipts) >= receipts)

    async def _until(self, reached: Callable[[], bool]) -> None:
        """Wait, as long as anything moves."""
        deadline, before = time.monotonic() + _PROGRESS_S, -1
        while not reached():
            for task in self._tasks:
                if task.done():
                    task.result()
            now = len(self._receiver.got) + len(self._ledger.receipts)
            if now != before:
                deadline, before = time.monotonic() + _PROGRESS_S, now
            if time.monotonic() > deadline:
                left = sorted(missing(self._ledger, self._receiver.got, self._endpoints))
                words = self.hub.keeper.last_words()
                raise TimeoutError(f"nothing moves; {len(left)} missing, like {left[:3]}; the hub says:\n{words}")
            self._receiver.news.clear()
            try:
                await asyncio.wait_for(self._receiver.news.wait(), 0.05)
            except TimeoutError:
                continue

    async def _kill(self, victim: Victim) -> None:
        if victim == "store":
            assert self._postgres is not None
            await self._postgres.kill()
            return
        # Both at once: what neither of them had written down is gone.
        self.hub.kill_server()
        async with asyncio.timeout(_PROGRESS_S):
            while not self.hub.keeper.kill():  # noqa: ASYNC110 - a process has no event to tell that it has started
                await asyncio.sleep(0.05)

    async def _settle(self) -> None:
        """Publish no more, and wait until every endpoint has what it is owed."""
        for publisher in self._publishers:
            publisher.stop()
        await asyncio.wait_for(asyncio.gather(*self._tasks), _PROGRESS_S)
        self._tasks = []
        await self._until(lambda: not missing(self._ledger, self._receiver.got, self._endpoints))


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=30.0, help="events a second")
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite", help="where the events are kept")
    asked = parser.parse_args(arguments)
    chance = random.Random(f"{asked.seed}/victims")
    whom: tuple[Victim, ...] = ("hub",) if asked.store == "sqlite" else ("hub", "store")
    victims = [chance.choice(whom) for _ in range(asked.kills)]
    harness = WebhookHarness(Plan(victims, asked.seed, asked.rate, asked.store))
    verdict = asyncio.run(harness.run())
    for name in fields(verdict):
        print(f"{name.name.replace('_', ' '):<14} {getattr(verdict, name.name)}")
    print(f"{'ended alone':<14} {harness.hub.keeper.unexpected_exits}", *harness.hub.keeper.words)
    return 0 if verdict.clean and not harness.hub.keeper.unexpected_exits else 1


if __name__ == "__main__":
    sys.exit(main())
