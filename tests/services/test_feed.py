"""Backlog, live, and the seams between them."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import pytest
from feed_rig import ENTITIES, KINDS, SYSTEM, TENANTS, Connection, LogServer, Rig, append, claims, turns, until

from hub.services import dispatcher, feed
from schemas.errors import Problem

pytestmark = pytest.mark.server

PATTERNS: list[list[str]] = [["*"], ["room.*"], ["order.*"], ["room.price_updated", "order.placed"]]


# The seams, at random


class Storm:
    """A random life of one connection, the same for the same seed."""

    def __init__(self, rig: Rig, seed: int) -> None:
        self.random = random.Random(seed)
        self.rig = rig
        pick = self.random
        self.tenants = ["*"] if pick.random() < 0.4 else list(TENANTS)
        system = pick.choice(["hub", SYSTEM])
        self.connection = rig.connection(claims(self.tenants, system), window=pick.choice([7, 30, 1000]))
        self.tasks: list[asyncio.Task[Any]] = []
        self.next_id = 0
        self.durable = pick.random() < 0.5

    def event(self) -> Any:
        pick = self.random
        targets = pick.choice([(SYSTEM,), (SYSTEM, "hotel-saas"), ("hotel-saas",)])
        return append(pick.choice(TENANTS), pick.choice(KINDS), pick.choice(ENTITIES), targets)

    def after(self) -> Any:
        pick, published = self.random, list(self.rig.published.values())
        choice = pick.choice(["latest", "earliest", "cursor", "cursors", None])
        if not published or choice in ("latest", "earliest", None):
            return {} if choice not in ("latest", "earliest") else {"after": choice}
        if choice == "cursor":
            return {"after": pick.choice(published).cursor}
        chosen = {}
        for tenant in pick.sample(TENANTS, pick.randint(1, len(TENANTS))):
            theirs = [event.cursor for event in published if event.tenant == tenant]
            if theirs:
                chosen[tenant] = pick.choice(theirs)
        return {"after": chosen} if chosen else {}

    async def subscribe(self) -> None:
        pick = self.random
        self.next_id += 1
        fields: dict[str, Any] = self.after()
        if pick.random() < 0.4:
            fields["tenants"] = pick.sample(TENANTS, pick.randint(1, len(TENANTS)))
            after = fields.get("after")
            if isinstance(after, dict):
                fields["after"] = {tenant: one for tenant, one in after.items() if tenant in fields["tenants"]}
            if not fields.get("after"):
                fields.pop("after", None)
        if pick.random() < 0.2:
            fields["entities"] = pick.sample(ENTITIES, pick.randint(1, 2))
        if pick.random() < 0.2:
            fields["batch_ms"] = pick.choice([1, 5, 1000])
        if self.durable and pick.random() < 0.5:
            fields["name"] = f"name-{self.next_id}"
        with suppress(Problem):  # a cursor of a tenant that it does not ask for
            await self.connection.subscribe(self.next_id, pick.choice(PATTERNS), **fields)

    def ack(self) -> None:
        waiting = [(tenant, number) for tenant, held in self.connection.unacked.items() for number in held]
        if waiting:
            with suppress(Problem):  # its receipt came before the dispatcher
                self.connection.ack(*self.random.choice(sorted(waiting)))

    async def run(self, steps: int) -> None:
        pick, connection = self.random, self.connection
        for _ in range(steps):
            step = pick.random()
            if step < 0.35:
                events = [self.event() for _ in range(pick.choice([1, 1, 3, 20]))]
                self.tasks.append(asyncio.create_task(self.rig.publish(*events)))
            elif step < 0.5:
                self.tasks.append(asyncio.create_task(self.subscribe()))
            elif step < 0.58 and connection.open:
                self.tasks.append(asyncio.create_task(connection.unsubscribe(pick.choice(list(connection.open)))))
            elif step < 0.7:
                connection.block(connection.writable)
            elif step < 0.85:
                self.ack()
            else:
                await turns(pick.choice([1, 3, 10, 40]))
                if pick.random() < 0.3:
                    await asyncio.gather(*self.tasks)
        await asyncio.gather(*self.tasks)
        await connection.quiet()
        connection.complete()
        assert connection.gaps == []


SEEDS = range(60)


@pytest.mark.parametrize("small", [True, False], ids=["from-the-log", "from-memory"])
async def test_nothing_is_missed_or_doubled(
    log_server: LogServer, monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    """Whatever a connection does, each subscription gets its events once, in order, with none missing."""
    if small:
        monkeypatch.setattr(dispatcher, "RING_ENTRIES", 4)
        monkeypatch.setattr(dispatcher, "READ_COUNT", 6)
        monkeypatch.setattr(feed, "CHUNK", 5)
    for seed in SEEDS:
        rig = await Rig(log_server).start()
        try:
            await Storm(rig, seed).run(60)
        except BaseException as error:
            error.add_note(f"seed {seed}, {'small' if small else 'large'} ring")
            raise
        finally:
            await rig.stop()
