"""The consumer groups in the ledger: what was given up, or may have been, never counts as handled."""

from __future__ import annotations

from typing import Any

import pytest
from feed_rig import PARTITIONS, TENANTS, Rig, append

from hub.core import delivery
from hub.core.delivery import Row
from hub.log.dead_letters import DeadLetters
from hub.log.keys import partition_of
from hub.log.setup import make_groups
from hub.services.group_watch import PATIENCE, GroupWatch
from hub.services.ledger import Recorder
from hub.store.database import StoreUnavailable
from hub.store.ledger import Moved
from schemas.cursor import ZERO, StreamId

GROUP = "hotel-pms"
HOME = partition_of(TENANTS[0], PARTITIONS)
ELSEWHERE = next(tenant for tenant in TENANTS if partition_of(tenant, PARTITIONS) != HOME)


class Watched:
    """A rig with a watch on its groups, and the hub's hand in the dead letters."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ledger = rig.store.ledger
        self.dead_letters = DeadLetters(rig.log, [GROUP])
        self.recorder = Recorder(rig.metrics, rig.log.partition)
        self.recorder._ledger, self.recorder._on = self.ledger, True
        self.watch = self.another()

    def another(self) -> GroupWatch:
        """A watch as another process would have it."""
        return GroupWatch(self.rig.log, self.dead_letters, self.ledger, [GROUP], "h", ledger_days=90)

    async def come(self, tenant: str = TENANTS[0]) -> dict[int, str]:
        """How far each of a tenant's events has come with the group."""
        return {number: delivery.with_system(rows, GROUP).status for number, rows in (await self.rows(tenant)).items()}

    async def rows(self, tenant: str = TENANTS[0]) -> dict[int, list[Row]]:
        """The rows about each of a tenant's events."""
        place = self.rig.log.partition(tenant)
        rows = await self.ledger.covering(place, ZERO, StreamId(1 << 60, 0))
        entries = [one for one in await self.rig.log.read(place, ZERO, 1000) if one.tenant_id == tenant]
        found = delivery.by_event(rows, place, entries)
        return {one.sequence: about for one, about in zip(entries, found, strict=True)}

    async def read(self, count: int, tenant: str = TENANTS[0], consumer: str = "c") -> list[bytes]:
        """Give the group's consumer its next entries."""
        stream = self.rig.log.keys.events(self.rig.log.partition(tenant))
        client = self.rig.log.source.client
        reply = await client.execute_command(
            "XREADGROUP", "GROUP", GROUP, consumer, "COUNT", count, "STREAMS", stream, ">"
        )
        pairs = reply.items() if isinstance(reply, dict) else reply
        return [id for _, entries in pairs for id, _ in entries]

    async def ack(self, *ids: bytes, tenant: str = TENANTS[0]) -> None:
        """Acknowledge entries."""
        place = self.rig.log.partition(tenant)
        await self.rig.log.source.client.xack(self.rig.log.keys.events(place), GROUP, *ids)

    async def bury(self, id: bytes, tenant: str = TENANTS[0], **fields: Any) -> bytes:
        """Give an entry up, as a consumer does."""
        place, client = self.rig.log.partition(tenant), self.rig.log.source.client
        letter = {"tenant_id": tenant, "reason": "no", "attempts": 5, "failed_at": "now", "source_id": id} | fields
        buried: bytes = await client.xadd(self.rig.log.keys.dead(place, GROUP), letter)
        await self.ack(id, tenant=tenant)
        return buried


@pytest.fixture
async def watched(rig: Rig) -> Watched:
    """A rig with a watched group."""
    await make_groups(rig.log.source, rig.log, [GROUP])
    return Watched(rig)


async def test_what_a_group_finishes_is_handled(watched: Watched) -> None:
    """Up to the oldest unfinished entry and no further; of each partition by itself."""
    await watched.rig.publish(*[append() for _ in range(5)], append(ELSEWHERE))
    await watched.watch.look()
    assert set((await watched.come()).values()) == {"waiting"}
    ids = await watched.read(4)
    await watched.ack(ids[0], ids[1], ids[3])
    await watched.watch.look()
    assert await watched.come() == {1: "handled", 2: "handled", 3: "waiting", 4: "waiting", 5: "waiting"}
    await watched.ack(ids[2])
    await watched.watch.look()
    await watched.watch.look()
    assert list((await watched.come()).values()) == ["handled"] * 4 + ["waiting"]
    assert await watched.come(ELSEWHERE) == {1: "waiting"}
    assert {number: len(rows) for number, rows in (await watched.rows()).items()} == {1: 1, 2: 1, 3: 1, 4: 1, 5: 0}


async def test_another_watch_goes_on_where_one_ended(watched: Watched) -> None:
    """After a restart nothing is told twice; of two at once, one gets on."""
    await watched.rig.publish(*[append() for _ in range(4)])
    await watched.ack(*await watched.read(2))
    await watched.watch.look()
    late = watched.another()
    await late.look()
    await watched.ack(*await watched.read(1))
    await watched.watch.look()
    with pytest.raises(Moved):
        await late.look()
    await late.look()
    assert [len(rows) for rows in (await watched.rows()).values()] == [1, 1, 1, 0]


async def test_the_given_up_is_not_handled(watched: Watched) -> None:
    """A dead letter is known with the range that it lies in."""
    await watched.rig.publish(*[append() for _ in range(3)])
    ids = await watched.read(3)
    await watched.ack(ids[0], ids[2])
    await watched.bury(ids[1])
    await watched.watch.look()
    assert await watched.come() == {1: "handled", 2: "failed", 3: "handled"}
    (letter,) = [said for said in (await watched.rows())[2] if said.kind == "dead_lettered"]
    assert (letter.attempts, letter.error, letter.tenant_id) == (5, "no", TENANTS[0])


async def test_a_letter_that_nobody_wrote_down_holds_the_claim(watched: Watched) -> None:
    """Removed before it was seen: for some rounds it may still be written down, then the range is left unclaimed."""
    await watched.rig.publish(*[append() for _ in range(3)])
    await watched.watch.look()
    ids = await watched.read(2)
    letter = await watched.bury(ids[0])
    await watched.ack(ids[1])
    await watched.rig.log.source.client.xdel(watched.rig.log.keys.dead(HOME, GROUP), letter)
    for _ in range(PATIENCE + 2):
        await watched.watch.look()
        assert set((await watched.come()).values()) == {"waiting"}
    await watched.ack(*await watched.read(1))
    await watched.watch.look()
    assert await watched.come() == {1: "waiting", 2: "waiting", 3: "handled"}


async def test_a_letter_that_another_wrote_down_is_enough(watched: Watched) -> None:
    """Redriven or discarded by a worker between two looks: its row comes a moment later."""
    await watched.rig.publish(*[append() for _ in range(3)])
    ids = await watched.read(3)
    await watched.ack(ids[2])
    for id in ids[:2]:
        await watched.bury(id)
    letters = await watched.dead_letters.listed(GROUP, 10)
    watched.recorder.redriven(letters[:1], await watched.dead_letters.redrive(GROUP, [letters[0].id]))
    await watched.dead_letters.discard(GROUP, [letters[1].id])
    watched.recorder.discarded(letters[1:])
    await watched.watch.look()
    assert set((await watched.come()).values()) == {"waiting"}
    await watched.recorder.write()
    await watched.watch.look()
    assert await watched.come() == {1: "retrying", 2: "failed", 3: "handled"}


async def test_letters_whose_stream_is_gone_hold_the_claim(watched: Watched) -> None:
    """Somebody removed the whole stream of letters."""
    await watched.rig.publish(append(), append())
    ids = await watched.read(2)
    await watched.bury(ids[0])
    await watched.watch.look()
    await watched.bury(ids[1])
    await watched.rig.log.source.client.delete(watched.rig.log.keys.dead(HOME, GROUP))
    for _ in range(PATIENCE + 2):
        await watched.watch.look()
    assert await watched.come() == {1: "failed", 2: "waiting"}


async def test_a_letter_without_its_event_holds_the_claim(watched: Watched) -> None:
    """It may be about any of them."""
    await watched.rig.publish(append(), append())
    ids = await watched.read(1)
    await watched.bury(ids[0], source_id="what?")
    for _ in range(PATIENCE + 2):
        await watched.watch.look()
    assert set((await watched.come()).values()) == {"waiting"}


async def test_what_is_given_out_again_is_retrying(watched: Watched) -> None:
    """Told once for each time, until it is finished."""
    await watched.rig.publish(append(), append())
    ids = await watched.read(2)
    client, stream = watched.rig.log.source.client, watched.rig.log.keys.events(HOME)
    for times in (2, 3):
        await client.execute_command("XCLAIM", stream, GROUP, "d", 0, ids[0])
        await watched.watch.look()
        await watched.watch.look()
        (said,) = (await watched.rows())[1]
        assert (said.kind, said.attempts) == ("retried", times)
    assert await watched.come() == {1: "retrying", 2: "waiting"}
    await watched.ack(*ids)
    await watched.watch.look()
    assert await watched.come() == {1: "handled", 2: "handled"}


async def test_a_store_that_is_away_loses_nothing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next round begins where the last that was stored ended."""
    await watched.rig.publish(append(), append())
    await watched.watch.look()
    ids = await watched.read(2)
    await watched.bury(ids[0])
    await watched.ack(ids[1])
    with monkeypatch.context() as patch:

        async def away(*_: Any) -> None:
            raise StoreUnavailable("away")

        patch.setattr(watched.ledger, "advance", away)
        with pytest.raises(StoreUnavailable):
            await watched.watch.look()
    await watched.watch.look()
    assert await watched.come() == {1: "failed", 2: "handled"}


async def test_the_way_through_failure(watched: Watched) -> None:
    """Given up, redriven to failure again, redriven and handled: a letter is open until the group has finished it where
    it went."""
    await watched.rig.publish(append(), append())
    client, again = watched.rig.log.source.client, watched.rig.log.keys.redrive(HOME, GROUP)
    await client.xgroup_create(again, GROUP, "0", mkstream=True)
    ids = await watched.read(2)
    await watched.bury(ids[0])
    await watched.ack(ids[1])
    await watched.watch.look()

    async def redrive() -> bytes:
        (letter,) = await watched.dead_letters.listed(GROUP, 10)
        watched.recorder.redriven([letter], await watched.dead_letters.redrive(GROUP, [letter.id]))
        await watched.recorder.write()
        await watched.watch.look()
        assert await watched.come() == {1: "retrying", 2: "handled"}
        reply = await client.execute_command("XREADGROUP", "GROUP", GROUP, "c", "COUNT", 9, "STREAMS", again, ">")
        pairs = list(reply.items()) if isinstance(reply, dict) else reply
        await watched.watch.look()
        assert await watched.come() == {1: "retrying", 2: "handled"}
        id: bytes = pairs[0][1][0][0]
        return id

    async def finish(id: bytes) -> None:
        await client.xack(again, GROUP, id)
        await client.xdel(again, id)
        await watched.watch.look()

    id = await redrive()
    await watched.bury(ids[0])
    await finish(id)
    assert await watched.come() == {1: "failed", 2: "handled"}
    assert await watched.ledger.redriven(0) == []
    await finish(await redrive())
    assert await watched.come() == {1: "handled", 2: "handled"}
    assert await watched.ledger.redriven(0) == []
