"""Desks that work on the same bookings, rooms and folios while they, the hub and its embedded server are killed
(SIGKILL) at random, and the line to the hub is cut; and the judge of what the hub has then.

`python -m tests.faults.desks --kills 100 --seed 1` prints what was found; the exit code is 0 when nothing was lost,
doubled, out of order or unequal. The seed fixes who is killed and after how much; what that meets is the machine's
doing.
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
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

import httpx

from hub.security.tokens import Tokens, own_key
from schemas.cursor import Cursor

from .cutting_proxy import CuttingProxy
from .desk_child import SYSTEM
from .desk_ledger import Said, Verdict, judge
from .processes import HubUnderTest, Keeper

TENANT: Final = "default"
DESKS: Final = ("desk-1", "desk-2", "desk-3")
_PROGRESS_S: Final = 60.0
_POLL_S: Final = 0.02
_PAGE: Final = 1000
_SUSPECT_S: Final = 10.0
_WORDS: Final = 600
_SERVER_KILLED: Final = ("did not get ready: killed by SIGKILL", "cannot be reached: Error 111")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do. `pause_s`: the mean time between two operations at a desk.

    `cuts`: the line to the hub is one that breaks, until so many pushes were cut on their way, and so many answers.
    """

    kills: int = 12
    seed: int = 1
    desks: int = 3
    pause_s: float = 0.08
    cuts: int = 0


class DeskUnderTest:
    """One desk: its process, its files, and what it printed."""

    def __init__(self, directory: Path, device: str, specification: dict[str, Any]) -> None:
        self.device = device
        self.path = directory / device / "desk.db"
        self.path.parent.mkdir(exist_ok=True)
        told = {"database": str(self.path), "device": device, "tenant": TENANT, **specification}
        command = [sys.executable, "-m", "tests.faults.desk_child", json.dumps(told)]
        self.keeper = Keeper(device, command, directory / f"{device}.log", dict(os.environ))
        self._read = 0
        self._rest = b""
        self.operations: list[list[str]] = []
        """The uuids of each operation's changes, as printed."""
        self.resent = 0
        self.stands: dict[str, Any] = {}
        """How it said that it stands, the last time."""

    def read(self) -> int:
        """Read on in what it prints; how many operations it has printed."""
        if self.keeper.output.exists():
            with self.keeper.output.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            self._read += len(new)
            *lines, self._rest = (self._rest + new).split(b"\n")
            for line in lines:
                word, _, said = line.decode(errors="replace").partition(" ")
                if word == "done":
                    self.operations.append(said.split())
                elif word == "resent":
                    self.resent += 1
                elif word == "stands":
                    self.stands = json.loads(said)
        return len(self.operations)

    @property
    def printed(self) -> set[str]:
        """The uuids that it printed."""
        return {uuid for operation in self.operations for uuid in operation}

    def items(self) -> list[dict[str, Any]]:
        """Everything that is in its queue, by sequence. It must have ended, or be at rest."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=30)) as connection:
            rows = connection.execute("SELECT item, entity, status FROM queue ORDER BY sequence").fetchall()
        return [json.loads(text) | {"entity": entity, "status": status} for text, entity, status in rows]


class Desks:
    """One run. Its directory is made and removed."""

    def __init__(self, plan: Plan, say: Callable[[str], None] = lambda _: None) -> None:
        self._plan = plan
        self._say = say
        self._chance = random.Random(plan.seed)
        # Not under the system's test directories: the server's socket needs a short path.
        self.directory = Path(tempfile.mkdtemp(prefix="hub-desks-"))
        self.hub = HubUnderTest(self.directory, "always", {}, module="tests.faults.webhook_hub")
        self.hub.data_dir.mkdir(mode=0o700)
        scopes = ["sync", "subscribe:*", "publish:*", "ops"]
        self.token = Tokens([own_key(self.hub.data_dir)]).issue(SYSTEM, [TENANT], scopes)
        self.desks: list[DeskUnderTest] = []
        self._quiet = self.directory / "quiet"
        self._proxy = CuttingProxy(self.hub.port, str(plan.seed)) if plan.cuts else None
        self._client = httpx.AsyncClient(
            base_url=f"{self.hub.url}/api/v1/", headers={"Authorization": f"Bearer {self.token}"}, timeout=10
        )
        self._head = 0
        self._met: set[str] = set()
        """The conflicts that somebody had to decide."""
        self._decided: set[str] = set()
        """Those of them that somebody began to decide."""
        self._suspects: dict[str, float] = {}
        self._undecided: set[str] = set()

    async def run(self) -> Verdict:
        """Do what the plan says.

        Raises:
            TimeoutError: nothing moves any more; it says how everybody stands.
        """
        try:
            self.hub.keeper.start()
            port = self.hub.port if self._proxy is None else await self._proxy.start()
            for device in DESKS[: self._plan.desks]:
                self.add(device, url=f"ws://127.0.0.1:{port}/ws").keeper.start()
            deciding = asyncio.create_task(self._decide())
            try:
                await self._kill_at_random()
                if self._proxy is not None:
                    await self._until(self._cut_enough, lambda: str(self._proxy))
                    self._proxy.whole = True
                return await self.settled()
            finally:
                deciding.cancel()
                await asyncio.gather(deciding, return_exceptions=True)
        finally:
            await self.stop()

    def add(self, device: str, *, url: str, **more: Any) -> DeskUnderTest:
        """One more desk, not started yet."""
        told = {
            "url": url,
            "token": self.token,
            "seed": str(self._plan.seed),
            "quiet": str(self._quiet),
            "pause_s": self._plan.pause_s,
        }
        desk = DeskUnderTest(self.directory, device, told | more)
        self.desks.append(desk)
        return desk

    def quiet(self) -> None:
        """Let no desk do anything new."""
        self._quiet.touch()

    async def stop(self) -> None:
        """End every process and remove the directory."""
        await asyncio.gather(*(desk.keeper.stop() for desk in self.desks))
        if self._proxy is not None:
            await self._proxy.stop()
        await self._client.aclose()
        await self.hub.keeper.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- chaos ----------------------------------------------------------------------------------------------------

    async def _kill_at_random(self) -> None:
        for number in range(self._plan.kills):
            # Mostly after some progress; now and then while the last death is still being mended.
            if number == 0 or self._chance.random() < 0.75:
                await self._some_progress()
            else:
                await asyncio.sleep(self._chance.random() * 0.5)
            victims = ["hub", "server", "both", *(desk.device for desk in self.desks)]
            victim = self._chance.choices(victims, [2, 2, 1, *[6 / len(self.desks)] * len(self.desks)])[0]
            async with asyncio.timeout(_PROGRESS_S):
                while not self._strike(victim):  # noqa: ASYNC110 - a process has no event to tell that it has started
                    await asyncio.sleep(_POLL_S)
            if number % 10 == 9:
                self._say(f"{number + 1} kills, {sum(desk.read() for desk in self.desks)} operations")

    def _strike(self, victim: str) -> bool:
        if victim == "server":
            return self.hub.kill_server()
        if victim == "hub":
            return self.hub.keeper.kill()
        if victim == "both":
            # What neither of them had written down is gone.
            return self.hub.kill_server() and self.hub.keeper.kill()
        return next(desk for desk in self.desks if desk.device == victim).keeper.kill()

    async def _some_progress(self) -> None:
        """Wait for further operations, and half of the time also for further events at the hub."""
        operations = self._done() + self._chance.randint(1, 30)
        await self._until(lambda: self._done() >= operations)
        if self._chance.random() < 0.5:
            wanted = await self._at_hub() + self._chance.randint(1, 60)
            deadline = time.monotonic() + _PROGRESS_S
            while await self._at_hub() < wanted:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"nothing comes to the hub any more; {self._words()}")
                await asyncio.sleep(_POLL_S)

    def _done(self) -> int:
        return sum(desk.read() for desk in self.desks)

    async def _at_hub(self) -> int:
        """How many events the hub has, as far as it has told."""
        page = await self._get("events", tenant=TENANT, after="latest", limit=1)
        if page is not None:
            self._head = max(self._head, Cursor.decode(page["next"], TENANT).sequence)
        return self._head

    async def _until(self, reached: Callable[[], bool], moving: Callable[[], Any] = lambda: None) -> None:
        """Wait; for a minute, or for as long as `moving` gives something else."""
        deadline, before = time.monotonic() + _PROGRESS_S, moving()
        while not reached():
            if (now := moving()) != before:
                deadline, before = time.monotonic() + _PROGRESS_S, now
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing moves any more; {self._proxy}; {self._words()}")
            await asyncio.sleep(_POLL_S)

    def _cut_enough(self) -> bool:
        assert self._proxy is not None
        return min(self._proxy.cut_pushing, self._proxy.cut_answering) >= self._plan.cuts

    def _words(self) -> str:
        said = [f"{desk.device}: {desk.stands} {desk.keeper.last_words(800)}" for desk in self.desks]
        return "\n".join([*said, f"hub: {self.hub.keeper.last_words(1500)}"])

    # -- people ---------------------------------------------------------------------------------------------------

    async def _decide(self) -> None:
        """Somebody decides conflicts meanwhile, and again where it is not known whether that was taken."""
        while True:
            await self._decide_all(self._chance_of)
            await asyncio.sleep(0.3)

    def _chance_of(self, conflict_id: str) -> bool:
        """Some are left for the evening."""
        return int(conflict_id[1], 16) < 8

    async def _decide_all(self, wanted: Callable[[str], bool]) -> int:
        """Decide the open conflicts that are wanted; how many there are of all."""
        page = await self._get("conflicts", tenant=TENANT, limit=500)
        if page is None:
            return 1
        for conflict in page["conflicts"]:
            name, uuid = conflict["conflict_id"], conflict["uuid"]
            self._met.add(name)
            if not wanted(name):
                continue
            if name not in self._decided and not await self._open_to_all(uuid, name):
                continue
            self._decided.add(name)
            # The same by whoever comes, however often.
            choice = "incoming" if int(name[0], 16) < 8 else "current"
            try:
                await self._client.post(f"conflicts/{name}/resolve", json={"choice": choice})
            except httpx.TransportError:
                continue
        return len(page["conflicts"])

    async def _open_to_all(self, uuid: str, name: str) -> bool:
        """Whether a conflict is to be decided; not at once where its item's event is in the log.

        Of a push whose line was cut there are two for a moment, and the second may find what the first did not.
        """
        there = await self._get(f"events/{uuid}", tenant=TENANT) is not None
        if not there or name in self._decided:
            return True
        if time.monotonic() < self._suspects.setdefault(uuid, time.monotonic() + _SUSPECT_S):
            return False
        self._undecided.add(uuid)
        return True

    async def _get(self, path: str, **query: Any) -> Any:
        """What the hub says; None while it is away."""
        try:
            answer = await self._client.get(path, params=query)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code == 200 else None

    # -- judging --------------------------------------------------------------------------------------------------

    async def settled(self) -> Verdict:
        """Let everybody come to rest, and judge.

        Raises:
            TimeoutError: they do not.
        """
        self.quiet()
        await self.hub.ready()
        deadline, last = time.monotonic() + _PROGRESS_S, ""
        while True:
            open_conflicts = await self._decide_all(lambda _: True)
            digest = await self._get("sync/digest", tenant=TENANT)
            for desk in self.desks:
                desk.read()
            stands = [desk.stands for desk in self.desks]
            rest = all(
                one.get("state") == "done" and not any(one[name] for name in ("waiting", "conflict", "unconfirmed"))
                for one in stands
            )
            root = None if digest is None else digest["root"]
            unequal = sum(one.get("root") != root for one in stands)
            if rest and not open_conflicts and not unequal:
                break
            now = json.dumps([stands, open_conflicts, root])
            if now != last:
                self._say(f"{sum(one.get('waiting', 0) for one in stands)} items wait, {open_conflicts} conflicts")
                deadline, last = time.monotonic() + _PROGRESS_S / 2, now
            if time.monotonic() > deadline:
                if rest and not open_conflicts and root is not None:
                    break
                raise TimeoutError(f"they do not come to rest: {open_conflicts} open conflicts; {self._words()}")
            await asyncio.sleep(_POLL_S * 5)
        said = [Said(desk.device, desk.printed, desk.items()) for desk in self.desks]
        verdict = judge(await self.archive(), await self.states("billing"), said)
        return self._counted(verdict, unequal)

    def _counted(self, verdict: Verdict, unequal: int) -> Verdict:
        """The verdict with what is counted while it happens."""
        verdict.unequal = unequal
        verdict.conflicts = len(self._met)
        verdict.undecided = len(self._undecided)
        verdict.resent = sum(desk.resent for desk in self.desks)
        verdict.kills = {"server": self.hub.server_kills, "hub": self.hub.keeper.kills}
        verdict.kills |= {desk.device: desk.keeper.kills for desk in self.desks}
        if self._proxy is not None:
            verdict.cut_pushing, verdict.cut_answering = self._proxy.cut_pushing, self._proxy.cut_answering
        # A hub whose server is killed as it begins ends, and says so.
        alone = [
            f"{one.name} ended: {words[-_WORDS:]}"
            for one in (self.hub.keeper, *(desk.keeper for desk in self.desks))
            for words in one.words
            if not any(known in words for known in _SERVER_KILLED)
        ]
        verdict.ended_alone = len(alone)
        verdict.trouble += [*(f"{uuid} is in the log, and waits" for uuid in sorted(self._undecided)[:5]), *alone]
        return verdict

    async def archive(self) -> list[dict[str, Any]]:
        """Every event of the tenant, by `GET /events`, as {sequence, event}."""
        found: list[dict[str, Any]] = []
        after = "earliest"
        while True:
            query: dict[str, str | int] = {"tenant": TENANT, "after": after, "limit": _PAGE}
            answer = (await self._client.get("events", params=query)).raise_for_status().json()
            if not answer["events"]:
                return found
            found += answer["events"]
            after = answer["next"]

    async def states(self, type: str) -> dict[str, dict[str, Any]]:
        """The states of a type, by entity."""
        query: dict[str, str | int] = {"tenant": TENANT, "type": type, "limit": 5000}
        answer = (await self._client.get("sync/snapshot", params=query)).raise_for_status().json()
        return {one["entity"]: one["data"] for one in answer["records"]}


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.08, help="mean seconds between two operations at a desk")
    parser.add_argument("--cuts", type=int, default=0, help="cut the line, too: so many pushes and so many answers")
    asked = parser.parse_args(arguments)
    began = time.monotonic()
    run = Desks(
        Plan(asked.kills, asked.seed, pause_s=asked.pause, cuts=asked.cuts),
        lambda text: print(text, file=sys.stderr, flush=True),
    )
    verdict = asyncio.run(run.run())
    for one in fields(verdict):
        print(f"{one.name.replace('_', ' '):<14} {getattr(verdict, one.name)}")
    print(f"{'seconds':<14} {time.monotonic() - began:.1f}")
    return 0 if verdict.clean else 1


if __name__ == "__main__":
    sys.exit(main())
